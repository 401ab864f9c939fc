"""
Give an archive other keys without sealing its payload again.

Published blobs are never changed, and the old keys must not open what stays. So a new archive is written beside the old
one: the same facts and the stored chunks as they are, under new headers. What an interruption leaves behind is what an
interrupted backup leaves: blobs without a manifest. The old archive is never touched; forgetting it is a plan of its
own, and until then its keys open it.

Re-wrapping cannot take back what somebody already has: who kept the old file, or its file key, reads on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from .._checks import member_of
from ..codecs import ktb2
from ..codecs.chain import CodecChain
from ..codecs.compression import compression_for
from ..codecs.ktb2 import Argon2Parameters, Ktb2Codec, OpeningKey, SealingKey
from ..codecs.signing import SigningKey
from ..contracts import ArchiveSink, Clock, Codec, Observer, ReadBlob, ignore_events, utc_now
from ..errors import (
    BackupError,
    ConfigurationError,
    DigestMismatchError,
    IntegrityError,
    InternalError,
    NoMatchingKeyError,
    UnsupportedFormatError,
)
from ..model.blobs import BlobRef
from ..model.manifest import DETAILS_NAME, REWRAPPED_FROM, CodecSpec, Manifest, side_key
from ..model.marks import Mark, MarkVerb, Standing
from ..model.moments import stamp
from ..model.reports import Outcome, TargetResult
from ..model.signatures import SignaturePolicy
from .backup import ReadBack
from .marks import needed_marks, put_mark, read_marks
from .metering import Meter
from .naming import ArtifactName
from .read import head_of, open_blob, read_details, read_manifest
from .signatures import read_signatures
from .writing import ArchiveWriter, Written, generator

__all__ = ["RewrapOptions", "RewrapReport", "rewrap"]

_FORMAT: Final = "ktb2"


@attrs.frozen(kw_only=True)
class RewrapOptions:
    """How one archive is re-wrapped."""

    read_back: ReadBack = attrs.field(default=ReadBack.SIZES, validator=member_of(ReadBack))
    """``content`` reads every new blob again and compares its digest, which needs no key."""
    unsigned: bool = False
    """Whether a signed archive may become one without signatures."""
    kdf: Argon2Parameters | None = None
    """What passphrases cost to try; `None` means the defaults."""


@attrs.frozen(kw_only=True)
class RewrapReport:
    """One re-wrapped archive: the new one, and the old one, which is still there."""

    manifest: Manifest
    previous: Manifest
    carried: tuple[str, ...]
    """What was noted of the old archive and holds for the new one: verbs such as ``pinned``."""
    stored_bytes: int
    duration_seconds: float
    targets: tuple[TargetResult, ...] = ()
    """One per target of a sink that has several; empty for a single one."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when a target failed."""
        return Outcome.OK if all(result.ok for result in self.targets) else Outcome.PARTIAL

    @property
    def archive_id(self) -> str:
        """Id of the new archive."""
        return self.manifest.archive_id

    @property
    def previous_id(self) -> str:
        """Id of the old archive: forget it, or its keys go on opening it."""
        return self.previous.archive_id

    @property
    def removed_key_ids(self) -> tuple[str, ...]:
        """Keys that open the old archive and not the new one. Passphrases have no ids and are not among them."""
        return tuple(key for key in _key_ids(self.previous) if key not in _key_ids(self.manifest))

    @property
    def added_key_ids(self) -> tuple[str, ...]:
        """Keys that open the new archive and not the old one."""
        return tuple(key for key in _key_ids(self.manifest) if key not in _key_ids(self.previous))

    def __str__(self) -> str:
        """Return what happened, and what is left to do."""
        lines = [f"{self.archive_id} holds what {self.previous_id} does"]
        lines += [f"key {key} was added" for key in self.added_key_ids]
        lines += [f"key {key} does not open it" for key in self.removed_key_ids]
        return "\n".join([*lines, f"forget {self.previous_id}: until then its keys open it"])


def rewrap(  # noqa: PLR0913 - the parts of a pipeline, most with a default
    sink: ArchiveSink,
    archive_id: str,
    *,
    open_with: OpeningKey | Iterable[OpeningKey],
    seal_to: SealingKey | Iterable[SealingKey],
    options: RewrapOptions | None = None,
    signing_keys: Iterable[SigningKey] = (),
    policy: SignaturePolicy | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> RewrapReport:
    """
    Write an archive beside another, with the same content and other keys.

    The payload is read and written once, in constant memory; its chunks are authenticated on the way and stored as
    they are. Details, which name the archive, are held in memory and sealed anew. Tags, pins, notes, quarantine and a
    failed verification hold for the new archive too; a good verification does not, since its bytes are others.

    Args:
        sink: Where the archive is; needs the rights to list, read and create.
        archive_id: As `list_archives` names it.
        open_with: Keys of which one opens it.
        seal_to: All keys that shall open the new one, not only those that are added.
        options: `None` means the defaults.
        signing_keys: Who signs the new manifest.
        policy: Whose archives are taken; `None` does not look at signatures.
        observer: Told what happens.
        clock: Dates the new manifest, and marks.

    Raises:
        ConfigurationError: Nobody to seal to (``no_recipient``), a key of the wrong kind (``bad_recipient``), the
            archive is signed and the new one would not be (``no_signing_key``), or it is in the trash (``in_trash``).
        UnsupportedFormatError: The archive is not sealed with KTB2 (``not_rewrappable``).
        NoMatchingKeyError: None of *open_with* opens it.
        BlobNotFoundError: There is no such archive.
        IntegrityError: Stored bytes are not those that were written, or manifest and details contradict one another
            (``manifest_contradicted``); there is no new archive.
        TamperedError: The sealed bytes were changed; there is no new archive.
        SinkError: Reading or storing failed; there is no new archive.
    """
    started = time.monotonic()
    options = options or RewrapOptions()
    keys = _Keys.of(open_with, seal_to, options.kdf)
    writer = ArchiveWriter(sink=sink, signing_keys=tuple(signing_keys), observer=observer)
    previous = read_manifest(sink, archive_id, policy)
    name = _rewrappable(previous)
    marks = _checked(writer, previous, keys, options)
    taken_at = previous.taken_at if stamp(previous.taken_at) == stamp(name.taken_at) else name.taken_at
    new_id = writer.reserve(
        name=name.name, suffix=name.suffix, taken_at=taken_at, kind=previous.kind, source_id=previous.source_id
    )
    writer.tell("rewrap.started", archive_id=new_id, previous_id=archive_id)
    try:
        manifest, carried = _write(writer, previous, new_id, keys, options, marks, clock)
    except BaseException as error:
        kind = error.kind if isinstance(error, BackupError) else type(error).__name__
        writer.tell("rewrap.failed", archive_id=new_id, error=kind)
        raise
    stored = manifest.artifact.size_bytes + sum(ref.size_bytes for ref in manifest.side)
    writer.tell("rewrap.finished", archive_id=new_id, previous_id=archive_id, stored_bytes=stored)
    return RewrapReport(
        manifest=manifest,
        previous=previous,
        carried=carried,
        stored_bytes=stored,
        duration_seconds=time.monotonic() - started,
        targets=sink.target_results(new_id),
    )


@attrs.frozen(kw_only=True)
class _Keys:
    """Both sides of a re-wrapping, checked."""

    open_with: tuple[OpeningKey, ...]
    seal_to: tuple[SealingKey, ...]
    kdf: Argon2Parameters | None

    @classmethod
    def of(cls, open_with: Any, seal_to: Any, kdf: Argon2Parameters | None) -> _Keys:
        """Refuse, before anything is read or written, what cannot be sealed to or opened with."""
        opening, sealing = _listed(open_with), _listed(seal_to)
        Ktb2Codec(seal_to=sealing, open_with=opening, kdf=kdf)
        if not sealing:
            message = "an archive without any key that opens it would be lost"
            raise ConfigurationError(message, kind="no_recipient", hint="pass seal_to=")
        return cls(open_with=opening, seal_to=sealing, kdf=kdf)

    @property
    def opener(self) -> Ktb2Codec:
        """Opens what is old."""
        return Ktb2Codec(open_with=self.open_with)

    @property
    def sealer(self) -> Ktb2Codec:
        """Seals what is new."""
        return Ktb2Codec(seal_to=self.seal_to, open_with=(), kdf=self.kdf)


def _listed(keys: Any) -> tuple[Any, ...]:
    return tuple(keys) if isinstance(keys, Iterable) else (keys,)


@attrs.frozen
class _Rewrapping(Codec):
    """Reads stored bytes under the old keys as stored bytes under the new ones."""

    keys: _Keys

    @property
    def specs(self) -> tuple[CodecSpec, ...]:
        """None: what comes out is sealed."""
        return ()

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Refuse: there is nothing to seal."""
        del chunks
        raise InternalError("re-wrapping seals nothing")

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """Yield the new header and the old chunks."""
        return ktb2.rewrap(read, open_with=self.keys.open_with, seal_to=self.keys.seal_to, kdf=self.keys.kdf)


def _rewrappable(manifest: Manifest) -> ArtifactName:
    """Return the parts of the archive's name if it is one that can be re-wrapped."""
    names = [spec.name for spec in manifest.codecs]
    name = ArtifactName.parse(manifest.archive_id)
    whole = names[-1:] == [_FORMAT] and all(compression_for(outer) for outer in names[:-1])
    if name is not None and whole:
        return name
    form = " and ".join(names) or "nothing"
    message = f"{manifest.archive_id} cannot be re-wrapped: it went through {form}"
    if name is None:
        message = f"{manifest.archive_id} cannot be re-wrapped: its name was given by another tool"
    hint = "archives sealed with KTB2 can be; of others, keep the key, or back up again"
    raise UnsupportedFormatError(message, kind="not_rewrappable", hint=hint, archive_id=manifest.archive_id)


def _checked(writer: ArchiveWriter, previous: Manifest, keys: _Keys, options: RewrapOptions) -> list[Mark]:
    """Return what was noted of the old archive, if nothing speaks against going on; nothing was written yet."""
    sink, archive_id = writer.sink, previous.archive_id
    if not writer.signing_keys and not options.unsigned and read_signatures(sink, archive_id) is not None:
        message = f"{archive_id} is signed, and nobody would sign the new archive"
        hint = "pass signing_keys=, or RewrapOptions(unsigned=True)"
        raise ConfigurationError(message, kind="no_signing_key", hint=hint, archive_id=archive_id)
    marks = read_marks(sink, archive_id)
    if Standing.of(marks).trashed_at is not None:
        message = f"{archive_id} is in the trash"
        raise ConfigurationError(message, kind="in_trash", hint="undelete it first", archive_id=archive_id)
    if not ktb2.key_check(head_of(sink, previous.artifact), keys.open_with):
        wanted = ", ".join(_key_ids(previous)) or "passphrases"
        message = f"none of the {len(keys.open_with)} keys opens {archive_id}, which is sealed to {wanted}"
        raise NoMatchingKeyError(message, hint="pass one of them in open_with=", wanted=_key_ids(previous))
    return marks


def _write(  # noqa: PLR0913, PLR0917 - one call, to keep `rewrap` readable
    writer: ArchiveWriter,
    previous: Manifest,
    new_id: str,
    keys: _Keys,
    options: RewrapOptions,
    marks: list[Mark],
    clock: Clock,
) -> tuple[Manifest, tuple[str, ...]]:
    def put(key: str, ref: BlobRef) -> Written:
        with contextlib.closing(open_blob(writer.sink, ref, _Rewrapping(keys))) as chunks:
            return writer.put(key, chunks)

    old_id = previous.archive_id
    details_key = side_key(old_id, DETAILS_NAME) + _suffix(previous)
    artifact = put(new_id, previous.artifact)
    side: list[Written] = []
    for ref in previous.side:
        key = side_key(new_id, ref.key.removeprefix(side_key(old_id, "")))
        side.append(_put_details(writer, previous, key, keys) if ref.key == details_key else put(key, ref))
    for written in (artifact, *side):
        writer.check_size(written.ref)
        if options.read_back is ReadBack.CONTENT:
            _check_stored(writer, written.ref)
    carried = _carry(writer.sink, marks, new_id, clock)
    manifest = attrs.evolve(
        previous,
        artifact=artifact.ref,
        side=tuple(written.ref for written in side),
        finished_at=clock(),
        codecs=(*previous.codecs[:-1], keys.sealer.spec),
        generator=generator(),
        extra={**previous.extra, REWRAPPED_FROM: old_id},
    )
    writer.finish(manifest)
    return manifest, carried


def _suffix(manifest: Manifest) -> str:
    """Return what the names of an archive's blobs end with."""
    return CodecChain(*_compressions(manifest), Ktb2Codec()).suffix


def _compressions(manifest: Manifest) -> list[Codec]:
    return [codec for spec in manifest.codecs[:-1] if (codec := compression_for(spec.name)) is not None]


def _put_details(writer: ArchiveWriter, previous: Manifest, key: str, keys: _Keys) -> Written:
    """Seal the details anew: they say which archive they belong to."""
    new_id = key.split("/")[1]
    details = read_details(writer.sink, previous, keys.opener)
    for finding in details.differences(previous):
        # The new archive would agree with itself, and nobody could see it any more.
        message = f"{previous.archive_id} contradicts itself: {finding.message}"
        hint = "verify it; use another copy"
        raise IntegrityError(message, kind="manifest_contradicted", hint=hint, archive_id=previous.archive_id)
    details = attrs.evolve(details, artifact=new_id)
    chain = CodecChain(*_compressions(previous), keys.sealer)
    return attrs.evolve(writer, codec=chain).put(key, [details.to_bytes()])


def _check_stored(writer: ArchiveWriter, ref: BlobRef) -> None:
    stored = Meter(writer.sink.read(ref.key))
    stored.drain()
    if (stored.size_bytes, stored.sha256) != (ref.size_bytes, ref.sha256):
        message = f"{ref.key} has {stored.size_bytes} bytes of sha256 {stored.sha256}, {ref.sha256} was written"
        raise DigestMismatchError(message, hint="check the store, then try again", key=ref.key)
    writer.tell("backup.read_back", key=ref.key, size_bytes=ref.size_bytes)


def _carry(sink: ArchiveSink, marks: list[Mark], new_id: str, clock: Clock) -> tuple[str, ...]:
    """Note of the new archive what holds of the old one, mark by mark: together they may be too large for one."""
    standing = Standing.of(marks)
    needed = set(needed_marks(mark.name for mark in marks))
    holding = [mark for mark in marks if mark.name in needed and (not mark.damage or mark.name.verb is MarkVerb.PINNED)]
    latest = {mark.name.verb: mark for mark in marks}
    if standing.quarantined:
        holding.append(latest[MarkVerb.QUARANTINED])
    if standing.failed_at is not None:
        holding.append(latest[MarkVerb.FAILED])
    for mark in holding:
        put_mark(sink, new_id, mark.name.verb, mark.values, clock=clock)
    return tuple(dict.fromkeys(mark.name.verb.value for mark in holding))


def _key_ids(manifest: Manifest) -> tuple[str, ...]:
    return manifest.codecs[-1].key_ids
