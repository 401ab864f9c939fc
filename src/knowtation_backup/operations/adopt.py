"""
Adopt files of other tools: check them once, and write beside them what makes them archives of ours.

The artifact's own bytes stay untouched. Details (sealed as the artifact is) and then the manifest are created beside
it, create-only, so an interruption leaves the file what it was, and the next try goes on. From then on every verb works
on it: it is listed with its kind, found as ``latest``, verified at every level, counted by retention.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from ..codecs.chain import opener
from ..codecs.signing import SigningKey
from ..contracts import ArchiveSink, Clock, Codec, Observer, ignore_events, utc_now
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    InternalError,
    OperationCancelledError,
    TruncatedError,
    UnsupportedFormatError,
)
from ..exports.book import CAPTURE_FORMAT, CAPTURE_VERSION
from ..exports.entries import KINDS
from ..exports.exporter import vault_tag
from ..exports.reader import ExportReader, ReadLimits
from ..model.blobs import BlobInfo, BlobRef
from ..model.details import ArchiveDetails
from ..model.events import Event
from ..model.manifest import DETAILS_NAME, STARTED_NAME, CodecSpec, Manifest, check_tags, manifest_key, side_key
from ..model.plans import ArchiveInfo
from ..model.reports import Finding, Outcome
from ..model.selection import ArchiveFilter
from .catalog import list_archives
from .describing import UNKNOWN_SOURCE
from .metering import Meter
from .naming import ArtifactName, ForeignName
from .read import MAX_DETAILS_BYTES
from .recognising import Form
from .unfolding import StoredFile, Unfolded, unfold
from .writing import ArchiveWriter, generator

__all__ = ["AdoptFailure", "AdoptOptions", "AdoptReport", "Adoption", "adopt", "adopt_all"]

_KNOWTATION = "knowtation-"
_VAULT_EXPORT = KINDS[2]
_SINGLE = frozenset({KINDS[1], KINDS[2]})
_RECORDS = "knowtation-backup-records"
_OPAQUE = frozenset({"knowtation-attestation-export"})
"""Payloads of Knowtation that no `ExportReader` reads."""
_UNLIKE = (IntegrityError, UnsupportedFormatError, DecryptionError)
_NAMED = {
    Form.TAR: frozenset({"duskmantle-state", "quri-backup"}),
    Form.ZIP: frozenset({"agentvault-encrypted-zip", "agentvault-full-backup"}),
    Form.JSON: frozenset({"agentvault-archive"}),
}
"""Kinds that a name may add to a form which says nothing more of itself."""


@attrs.frozen(kw_only=True)
class AdoptOptions:
    """What the files themselves do not say."""

    source_id: str = attrs.field(default=UNKNOWN_SOURCE)
    """What was read: with the canister id or host that backups of ours record, the files join their series."""
    user_id: str = ""
    """The tenant of payloads that name none (versions 1 and 2)."""
    kind: str = attrs.field(default="")
    """Adopt by digest alone, without looking inside, as a payload of this kind; not one of Knowtation's."""
    tags: tuple[str, ...] = attrs.field(default=(), converter=check_tags)
    limits: ReadLimits = attrs.field(factory=ReadLimits)
    """What a hostile file may cost."""

    @kind.validator
    def _check_kind(self, _field: attrs.Attribute[str], value: str) -> None:
        if value.startswith(_KNOWTATION):
            message = f"files cannot be adopted as {value!r:.80} without looking inside"
            raise ConfigurationError(message, kind="bad_option", hint="leave the kind out: it is recognised")


@attrs.frozen(kw_only=True)
class Adoption:
    """One file that is an archive now."""

    manifest: Manifest
    payload_bytes: int
    """Size of the payload after opening and unpacking."""
    dated_by: str
    """Where the moment comes from: ``exported_at`` in the payload, ``name``, ``modified`` (of the file), ``now``."""
    warnings: tuple[Finding, ...] = ()

    @property
    def archive_id(self) -> str:
        """Id of the archive: the file's name."""
        return self.manifest.archive_id

    def __str__(self) -> str:
        """Return a line for people."""
        counts = ", ".join(f"{count} {name}" for name, count in self.manifest.counts.items()) or "not looked inside"
        lines = [f"adopted {self.archive_id} ({self.manifest.kind}): {counts}"]
        return "\n".join(lines + [f"  warning {w.code} at {w.where}: {w.message}" for w in self.warnings])


@attrs.frozen(kw_only=True)
class AdoptFailure:
    """One file that stays what it was."""

    archive_id: str
    error: BackupError


@attrs.frozen(kw_only=True)
class AdoptReport:
    """What `adopt_all` did."""

    adopted: tuple[Adoption, ...]
    failed: tuple[AdoptFailure, ...]

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when a file could not be adopted."""
        return Outcome.PARTIAL if self.failed else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [str(adoption) for adoption in self.adopted]
        lines += [f"NOT adopted {failure.archive_id}: {failure.error}" for failure in self.failed]
        return "\n".join([*lines, f"{len(self.adopted)} adopted, {len(self.failed)} not"])


def adopt(  # noqa: PLR0913 - the parts of a pipeline, most with a default
    sink: ArchiveSink,
    archive_id: str,
    codec: Codec | None = None,
    *,
    options: AdoptOptions | None = None,
    signing_keys: Iterable[SigningKey] = (),
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> Adoption:
    """
    Make an archive of a file that another tool wrote.

    What it is is seen from its bytes: sealed (KTB1, KTB2, age, enc-v1), compressed (gzip, zstd, brotli, xz), a payload
    of Knowtation, which is read to its end and counted, or something else (state archives, files of AgentVault), which
    is kept by its digest; of compressed ones the compression is checked to its end. Reads the file once or twice, a
    KTB1 file up to three times. Needs the rights to list, read and create.

    Args:
        sink: Where the file is, at the top level.
        archive_id: Its name, from now on the archive's id.
        codec: Opens it if it is sealed, and then seals the details alike; so a host that holds private keys also needs
            the public ones.
        options: `None` means the defaults.
        signing_keys: Who signs the manifest; nobody by default.
        observer: Told what happens.
        clock: Says when it was adopted.

    Raises:
        BlobNotFoundError: There is no such file.
        ConfigurationError: It is an archive already (``already_managed``), an unfinished backup of ours
            (``unfinished_backup``), or in a folder (``bad_key``).
        NoMatchingKeyError: It is sealed, and no key for it was given.
        TamperedError: No key that was given opens it, or it was changed.
        UnsupportedFormatError: Its content is nothing we know (``unknown_content``), or of a newer version.
        IntegrityError: It is damaged or cut.
        BlobExistsError: Other details lie beside it from an earlier try (``adoption_conflict``).
        SinkError: Reading or storing failed. In all these cases the file stays what it was.
    """
    options = options or AdoptOptions()
    if "/" in archive_id:
        message = f"{archive_id!r:.200} lies in a folder"
        raise ConfigurationError(message, kind="bad_key", hint="open the sink at that folder")
    info = sink.stat(archive_id)
    _refuse_known(sink, archive_id)
    with contextlib.closing(StoredFile(sink, archive_id)) as stored:
        unfolded = unfold(stored, codec, name=archive_id)
        found = _examine(archive_id, unfolded, options)
        artifact = stored.ref()
    if artifact.size_bytes != info.size_bytes:
        message = f"{archive_id} had {info.size_bytes} bytes, and {artifact.size_bytes} when it was read"
        raise IntegrityError(message, kind="changed_while_reading", hint="is it still being written?")
    taken_at, dated_by = _moment(found, info, clock)
    source_id = options.source_id
    if found.kind == _VAULT_EXPORT and options.user_id and source_id != UNKNOWN_SOURCE:
        source_id += f"/{vault_tag(source_id, options.user_id, found.vault_id)}"
    details = ArchiveDetails(
        artifact=archive_id,
        kind=found.kind,
        source_id=source_id,
        taken_at=taken_at,
        complete=True,
        counts=found.counts,
        payload_bytes=found.payload_bytes,
        payload_sha256=found.payload_sha256,
        warnings=found.warnings,
        capture=found.capture(source_id, dated_by, options),
    )
    writer = ArchiveWriter(sink=sink, signing_keys=tuple(signing_keys), observer=observer)
    manifest = Manifest(
        artifact=artifact,
        side=(_put_details(writer, archive_id, details, unfolded.codecs, codec),),
        kind=found.kind,
        source_id=source_id,
        taken_at=taken_at,
        finished_at=clock(),
        complete=True,
        codecs=unfolded.codecs,
        counts=dict(found.counts),
        tags=options.tags,
        generator=generator(),
        extra={"adopted": True},
    )
    try:
        writer.finish(manifest)
    except BlobExistsError as error:
        raise _conflict(archive_id, "manifest or signatures") from error
    fields = {"archive_id": archive_id, "kind": found.kind, "size_bytes": artifact.size_bytes}
    observer(Event(name="adopt.finished", fields=fields))
    return Adoption(manifest=manifest, payload_bytes=found.payload_bytes, dated_by=dated_by, warnings=found.warnings)


def adopt_all(  # noqa: PLR0913 - the parts of a pipeline, most with a default
    sink: ArchiveSink,
    codec: Codec | None = None,
    *,
    wanted: ArchiveFilter | None = None,
    options: AdoptOptions | None = None,
    signing_keys: Iterable[SigningKey] = (),
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> AdoptReport:
    """
    Adopt every file of another tool that a listing shows, oldest first; one that cannot be is reported and left.

    Args:
        sink: Where the files are.
        codec: Opens those that are sealed.
        wanted: Which files; `None` means all but those in the trash.
        options: For all of them alike.
        signing_keys: Who signs the manifests.
        observer: Told what happens.
        clock: Says when they were adopted.

    Raises:
        SinkError: The sink could not be listed.
    """
    signers = tuple(signing_keys)
    adopted: list[Adoption] = []
    failed: list[AdoptFailure] = []
    for info in reversed(list_archives(sink, wanted or ArchiveFilter())):
        if not _is_foreign(info):
            continue
        try:
            adoption = adopt(
                sink, info.archive_id, codec, options=options, signing_keys=signers, observer=observer, clock=clock
            )
            adopted.append(adoption)
        except OperationCancelledError:
            raise
        except BackupError as error:
            failed.append(AdoptFailure(archive_id=info.archive_id, error=error))
            observer(Event(name="adopt.failed", fields={"archive_id": info.archive_id, "error": error.kind}))
    return AdoptReport(adopted=tuple(adopted), failed=tuple(failed))


def _is_foreign(info: ArchiveInfo) -> bool:
    """Whether a listed file was written by another tool and is still there."""
    unclaimed = not info.has_manifest and side_key(info.archive_id, STARTED_NAME) not in info.keys
    return unclaimed and info.archive_id in info.keys


def _refuse_known(sink: ArchiveSink, archive_id: str) -> None:
    if _exists(sink, manifest_key(archive_id)):
        message = f"{archive_id} is an archive already"
        raise ConfigurationError(message, kind="already_managed", hint="verify it", archive_id=archive_id)
    if _exists(sink, side_key(archive_id, STARTED_NAME)):
        message = f"{archive_id} is a backup of ours that was never finished, or is still being written"
        hint = "rename the file to adopt what there is of it"
        raise ConfigurationError(message, kind="unfinished_backup", hint=hint, archive_id=archive_id)


def _exists(sink: ArchiveSink, key: str) -> bool:
    try:
        sink.stat(key)
    except BlobNotFoundError:
        return False
    return True


@attrs.frozen(kw_only=True)
class _Found:
    """What reading a payload to its end told."""

    kind: str
    payload_bytes: int
    payload_sha256: str
    counts: Mapping[str, int] = attrs.field(factory=dict)
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """For the capture's details."""
    exported_at: dt.datetime | None = None
    vault_id: str = ""
    warnings: tuple[Finding, ...] = ()

    def capture(self, source_id: str, dated_by: str, options: AdoptOptions) -> dict[str, Any]:
        """Return what details record of the capture; the same for the same file and options."""
        value = {
            "format": CAPTURE_FORMAT,
            "format_version": CAPTURE_VERSION,
            "adopted": {"dated_by": dated_by},
            "source_id": source_id,
            "counts": dict(self.counts),
            **self.facts,
        }
        if options.user_id and self.kind in _SINGLE:
            value |= {"user_id": options.user_id, "vault_id": self.vault_id}
        return value


def _examine(archive_id: str, unfolded: Unfolded, options: AdoptOptions) -> _Found:
    """Read a payload to its end."""
    payload = Meter(unfolded.read())
    with contextlib.closing(payload):
        kind = options.kind or _opaque_kind(archive_id, unfolded)
        if not kind:
            return _examine_export(payload, unfolded.inside.kind, options)
        if options.kind:
            payload.drain()
        else:
            for _ in unfolded.expand(payload):
                pass
            payload.drain()
        return _Found(
            kind=kind,
            payload_bytes=payload.size_bytes,
            payload_sha256=payload.sha256,
            facts={"payload": {"kind": kind, "size_bytes": payload.size_bytes}},
        )


def _opaque_kind(archive_id: str, unfolded: Unfolded) -> str:
    """Return the kind of a payload that is kept by its digest; empty for what an `ExportReader` is to read."""
    inside = unfolded.inside
    if inside.form is Form.EMPTY:
        raise TruncatedError(f"{archive_id} holds nothing", hint="take another copy", key=archive_id)
    name = ForeignName.parse(archive_id)
    if name is not None and not inside.kind and name.kind in _NAMED.get(inside.form, ()):
        return name.kind
    if inside.form in {Form.JSON, Form.RECORDS}:
        read = inside.kind not in _OPAQUE and (not inside.kind or inside.kind.startswith(_KNOWTATION))
        return "" if read else inside.kind
    if inside.form in {Form.TAR, Form.ZIP}:
        return str(inside.form.value)
    message = f"{archive_id} holds nothing that this release knows"
    hint = "to keep it by its digest alone, say of which kind it is"
    raise UnsupportedFormatError(message, kind="unknown_content", hint=hint, key=archive_id)


def _examine_export(payload: Meter, expected_kind: str, options: AdoptOptions) -> _Found:
    reader = ExportReader(payload, user_id=options.user_id, limits=options.limits)
    vault_id = ""
    if expected_kind in {"", *_SINGLE}:
        for entry in reader:
            vault_id = vault_id or entry.vault_id
    else:
        reader.read_all()  # much faster than one entry at a time
    payload.drain()
    header = reader.header
    kind = _RECORDS if header.format_version is None else KINDS[header.format_version]
    return _Found(
        kind=kind,
        payload_bytes=payload.size_bytes,
        payload_sha256=payload.sha256,
        counts=reader.counts,
        facts={
            "payload": {
                "kind": kind,
                "format_version": header.format_version,
                "exported_at": header.exported_at,
                "size_bytes": payload.size_bytes,
            },
            "content_root": reader.content_root,
            "tenants": [{"status": "complete", **tenant.to_json()} for tenant in reader.tenants],
        },
        exported_at=header.exported_moment,
        vault_id=vault_id if kind in _SINGLE else "",
        warnings=reader.findings,
    )


def _moment(found: _Found, info: BlobInfo, clock: Clock) -> tuple[dt.datetime, str]:
    name = ArtifactName.parse(info.key) or ForeignName.parse(info.key)
    candidates: Iterator[tuple[dt.datetime | None, str]] = iter(
        [
            (found.exported_at, "exported_at"),
            (name.taken_at if name else None, "name"),
            (info.modified_at, "modified"),
        ]
    )
    return next(((moment, origin) for moment, origin in candidates if moment), (clock(), "now"))


def _put_details(
    writer: ArchiveWriter, archive_id: str, details: ArchiveDetails, specs: Sequence[CodecSpec], codec: Codec | None
) -> BlobRef:
    """
    Publish the details, or take those that an interrupted try left behind if they say the same.

    Sealed as a manifest with these specs lets readers expect, and opened again before anything is written: a key that
    opens the artifact need not be one of those the codec seals to.
    """
    data = details.to_bytes()
    sealing = opener(specs, codec, what=archive_id)
    key = side_key(archive_id, DETAILS_NAME) + (sealing.suffix if sealing else "")
    sealed = list(sealing.seal([data])) if sealing else [data]
    if sealing and b"".join(sealing.open(lambda: iter(sealed))) != data:
        raise InternalError(f"the details of {archive_id} open to other bytes than were sealed")
    try:
        return writer.put(key, sealed).ref
    except BlobExistsError as error:
        found = StoredFile(writer.sink, key)
        with contextlib.closing(found), contextlib.suppress(*_UNLIKE):
            plain = Meter(sealing.open(found) if sealing else found())
            with contextlib.closing(plain):
                if writer.sink.stat(key).size_bytes <= MAX_DETAILS_BYTES and b"".join(plain) == data:
                    return found.ref()
        raise _conflict(archive_id, "details") from error


def _conflict(archive_id: str, what: str) -> BlobExistsError:
    message = f"other {what} lie beside {archive_id} already"
    hint = "use the options and keys of the earlier try, or remove them"
    return BlobExistsError(message, kind="adoption_conflict", hint=hint, archive_id=archive_id)
