"""
Adopt files of other tools: check them once, and write beside them what makes them archives of ours.

The artifact's own bytes stay untouched. Details (sealed as the artifact is) and then the manifest are created beside
it, create-only, so an interruption leaves the file what it was, and the next try goes on. From then on every verb works
on it: it is listed with its kind, found as ``latest``, verified at every level, counted by retention.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence

import attrs

from ..codecs.chain import opener
from ..codecs.signing import SigningKey, sign_manifest
from ..contracts import ArchiveSink, Clock, Codec, Observer, ignore_events, utc_now
from ..errors import (
    BackupError,
    BlobExistsError,
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    InternalError,
    OperationCancelledError,
    UnsupportedFormatError,
)
from ..exports.exporter import vault_tag
from ..exports.reader import ReadLimits
from ..model.blobs import BlobInfo, BlobRef
from ..model.details import ArchiveDetails
from ..model.events import Event
from ..model.manifest import DETAILS_NAME, STARTED_NAME, CodecSpec, Manifest, check_tags, manifest_key, side_key
from ..model.moments import iso_ms, parse_iso
from ..model.plans import ArchiveInfo
from ..model.reports import Finding, Outcome
from ..model.selection import ArchiveFilter
from .catalog import list_archives
from .describing import UNKNOWN_SOURCE
from .examining import VAULT_EXPORT_KIND, Examined, examine
from .metering import Meter
from .naming import ArtifactName, ForeignName
from .read import MAX_DETAILS_BYTES, is_stored, read_manifest_bytes
from .recognising import KNOWTATION_KIND
from .signatures import put_signatures, read_signatures
from .unfolding import StoredFile, unfold
from .writing import ArchiveWriter, generator

__all__ = ["AdoptFailure", "AdoptOptions", "AdoptReport", "Adoption", "adopt", "adopt_all", "is_foreign"]

_UNLIKE = (IntegrityError, UnsupportedFormatError, DecryptionError, ConfigurationError)


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
        if value.startswith(KNOWTATION_KIND):
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
        BlobExistsError: Other details or signatures lie beside it from an earlier try, or somebody else adopted it
            meanwhile in another way (``adoption_conflict``).
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
        found = examine(archive_id, unfolded, kind=options.kind, user_id=options.user_id, limits=options.limits)
        artifact = stored.ref()
    if artifact.size_bytes != info.size_bytes:
        message = f"{archive_id} had {info.size_bytes} bytes, and {artifact.size_bytes} when it was read"
        raise IntegrityError(message, kind="changed_while_reading", hint="is it still being written?")
    now = clock()
    taken_at, dated_by = _moment(found, info, now)
    source_id = options.source_id
    if found.kind == VAULT_EXPORT_KIND and options.user_id and source_id != UNKNOWN_SOURCE:
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
        capture=found.capture(source_id) | {"adopted": {"at": iso_ms(now), "dated_by": dated_by}},
    )
    writer = ArchiveWriter(sink=sink, observer=observer)
    written, adopted_at = _put_details(writer, details, unfolded.codecs, codec)
    manifest = Manifest(
        artifact=artifact,
        side=(written,),
        kind=found.kind,
        source_id=source_id,
        taken_at=taken_at,
        finished_at=adopted_at,
        complete=True,
        codecs=unfolded.codecs,
        counts=dict(found.counts),
        tags=options.tags,
        generator=generator(),
        extra={"adopted": True},
    )
    _finish(writer, manifest, tuple(signing_keys))
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
        if not is_foreign(info):
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


def is_foreign(info: ArchiveInfo) -> bool:
    """Whether a listed file was written by another tool and is still there."""
    unclaimed = not info.has_manifest and side_key(info.archive_id, STARTED_NAME) not in info.keys
    return unclaimed and info.archive_id in info.keys


def _refuse_known(sink: ArchiveSink, archive_id: str) -> None:
    if is_stored(sink, manifest_key(archive_id)):
        message = f"{archive_id} is an archive already"
        raise ConfigurationError(message, kind="already_managed", hint="verify it", archive_id=archive_id)
    if is_stored(sink, side_key(archive_id, STARTED_NAME)):
        message = f"{archive_id} is a backup of ours that was never finished, or is still being written"
        hint = "rename the file to adopt what there is of it"
        raise ConfigurationError(message, kind="unfinished_backup", hint=hint, archive_id=archive_id)


def _moment(found: Examined, info: BlobInfo, now: dt.datetime) -> tuple[dt.datetime, str]:
    name = ArtifactName.parse(info.key) or ForeignName.parse(info.key)
    candidates: Iterator[tuple[dt.datetime | None, str]] = iter(
        [
            (found.exported_at, "exported_at"),
            (name.taken_at if name else None, "name"),
            (info.modified_at, "modified"),
        ]
    )
    return next(((moment, origin) for moment, origin in candidates if moment), (now, "now"))


def _put_details(
    writer: ArchiveWriter, details: ArchiveDetails, specs: Sequence[CodecSpec], codec: Codec | None
) -> tuple[BlobRef, dt.datetime]:
    """
    Publish the details, or take those that an interrupted try left behind if they say the same.

    Sealed as a manifest with these specs lets readers expect, and opened again before anything is written: a key that
    opens the artifact need not be one of those the codec seals to. Returns them and the moment they name.
    """
    archive_id, data = details.artifact, details.to_bytes()
    sealing = opener(specs, codec, what=archive_id)
    key = side_key(archive_id, DETAILS_NAME) + (sealing.suffix if sealing else "")
    sealed = list(sealing.seal([data])) if sealing else [data]
    if sealing and b"".join(sealing.open(lambda: iter(sealed))) != data:
        raise InternalError(f"the details of {archive_id} open to other bytes than were sealed")
    try:
        return writer.put(key, sealed).ref, _adopted_at(details)
    except BlobExistsError as error:
        left = StoredFile(writer.sink, key)
        with contextlib.closing(left), contextlib.suppress(*_UNLIKE, LookupError):
            there = ArchiveDetails.from_bytes(_opened(left, sealing))
            same = attrs.evolve(there, capture={**there.capture, "adopted": details.capture["adopted"]})
            if same == ArchiveDetails.from_bytes(data):
                return left.ref(), _adopted_at(there)
        raise _conflict(archive_id, "details") from error


def _opened(stored: StoredFile, codec: Codec | None) -> bytes:
    """Return the plaintext of details, nothing when there is too much of it."""
    parts: list[bytes] = []
    with contextlib.closing(Meter(codec.open(stored) if codec else stored())) as plain:
        for part in plain:
            parts.append(part)
            if plain.size_bytes > MAX_DETAILS_BYTES:
                return b""
    return b"".join(parts)


def _adopted_at(details: ArchiveDetails) -> dt.datetime:
    """Return when a file was adopted: the first try says it, so that a later one writes the same manifest."""
    return parse_iso(str(details.capture["adopted"]["at"]))


def _finish(writer: ArchiveWriter, manifest: Manifest, keys: tuple[SigningKey, ...]) -> None:
    """Publish signatures and manifest."""
    data = manifest.to_bytes()
    if keys:
        try:
            put_signatures(writer.sink, manifest.archive_id, data, keys)
        except BlobExistsError as error:
            if read_signatures(writer.sink, manifest.archive_id) != sign_manifest(data, keys):
                raise _conflict(manifest.archive_id, "signatures") from error
    try:
        writer.finish(manifest)
    except BlobExistsError as error:
        if read_manifest_bytes(writer.sink, manifest.archive_id) != data:
            message = f"{manifest.archive_id} was adopted by somebody else meanwhile, with other options or keys"
            hint = "it is an archive now: verify it"
            archive_id = manifest.archive_id
            raise BlobExistsError(message, kind="adoption_conflict", hint=hint, archive_id=archive_id) from error


def _conflict(archive_id: str, what: str) -> BlobExistsError:
    message = f"other {what} than would be written lie beside {archive_id} already"
    hint = "use the options and keys of the earlier try, or remove them"
    return BlobExistsError(message, kind="adoption_conflict", hint=hint, archive_id=archive_id)
