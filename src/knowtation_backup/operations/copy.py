"""
Copy a finished archive to another sink, blob by blob as it is stored; no key is needed.

Every blob is compared with its digest in the manifest while it flows, and read again where it arrived. Nothing is
overwritten or deleted: blobs that are there already are compared and taken, so that a copy that was interrupted is
finished by repeating it, and the manifest comes last. Until then what is there is listed as unfinished.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import attrs

from .._checks import checked_member
from ..contracts import ArchiveSink, Observer, ignore_events
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    DigestMismatchError,
    SinkPermissionError,
    TruncatedError,
)
from ..model.blobs import BlobRef
from ..model.events import Event
from ..model.manifest import SIGNATURE_NAME, STARTED_NAME, Manifest, manifest_key, side_key
from ..model.marks import MAX_MARK_BYTES, MarkName, MarkVerb, Standing
from ..model.reports import Outcome, TargetResult
from ..model.signatures import SignaturePolicy
from .backup import ReadBack
from .marks import list_marks, read_standing
from .metering import Meter
from .read import open_blob, parse_manifest, read_manifest_bytes
from .signatures import read_signatures, require_signatures

__all__ = ["CopyReport", "carried_marks", "copy_archive"]

_MAX_STARTED_BYTES = 1 << 20
"""Far more than a marker has."""
_OF_THE_PLACE = frozenset(
    {
        MarkVerb.VERIFIED,
        MarkVerb.CHECKED,
        MarkVerb.FAILED,
        MarkVerb.TRASHED,
        MarkVerb.UNDELETED,
    }
)
"""What is said of the stored bytes in one place, and holds in no other."""


def carried_marks(names: Sequence[MarkName], standing: Standing) -> list[MarkName]:
    """Return the marks of an archive, oldest first, that hold of a copy of it in another place, too."""
    carried = [name for name in names if name.verb not in _OF_THE_PLACE]
    if standing.failed_at is not None:
        carried.append(next(name for name in reversed(names) if name.verb is MarkVerb.FAILED))
    return carried


@attrs.frozen(kw_only=True)
class CopyReport:
    """One archive that is complete in another place, too."""

    manifest: Manifest
    source: str
    """Location it was copied from."""
    target: str
    """Location it was copied to."""
    copied: tuple[str, ...]
    """Keys of the blobs that were written."""
    present: tuple[str, ...]
    """Keys of the blobs that were there already, with the same bytes."""
    copied_bytes: int
    duration_seconds: float
    targets: tuple[TargetResult, ...] = ()
    """One per target of a sink that has several; empty for a single one."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when a target failed."""
        return Outcome.OK if all(result.ok for result in self.targets) else Outcome.PARTIAL

    @property
    def archive_id(self) -> str:
        """Id of the archive, the same in both places."""
        return self.manifest.archive_id

    def __str__(self) -> str:
        """Return what was copied where, in one line."""
        there = f", {len(self.present)} were there" if self.present else ""
        return (
            f"{self.archive_id}: {len(self.copied)} blobs ({self.copied_bytes} bytes) copied "
            f"from {self.source} to {self.target}{there}"
        )


def copy_archive(  # noqa: PLR0913 - three say what, the others have defaults
    source: ArchiveSink,
    target: ArchiveSink,
    archive_id: str,
    *,
    read_back: ReadBack = ReadBack.CONTENT,
    policy: SignaturePolicy | None = None,
    observer: Observer = ignore_events,
) -> CopyReport:
    """
    Copy one archive as it is stored, under the same keys; repeat it to finish a copy that was interrupted.

    Constant memory. Signatures come along, and so do pins, tags, notes and quarantine. A good verification does not,
    since it speaks of the bytes in one place; a failed one does while it is the last word. A copy of an archive that
    was signed or marked since takes over what is new.

    Args:
        source: Where the archive is; needs the rights to list and read.
        target: Where it shall be, too; needs the rights to read and create. Of a sink with several targets, blobs that
            one target has count as there: copy to each by itself to make them equal.
        archive_id: As `list_archives` names it.
        read_back: ``content`` reads every new blob again and compares its digest, ``sizes`` only looks at its size.
        policy: Whose archives are copied; `None` does not look at signatures.
        observer: Told what happens.

    Raises:
        BlobNotFoundError: There is no such archive, it was never finished, or one of its blobs is gone.
        BlobExistsError: Other bytes are under the key of one of its blobs (``copy_differs``).
        ConfigurationError: It is in the trash of one of the two (``in_trash``).
        SignatureError: The policy refuses it.
        IntegrityError: Stored bytes are not those the manifest speaks of, here or there.
        SinkError: Reading or storing failed.
    """
    started = time.monotonic()
    read_back = checked_member(ReadBack, read_back, "read_back")
    data = read_manifest_bytes(source, archive_id)
    if policy is not None:
        require_signatures(source, archive_id, data, policy)
    manifest = parse_manifest(archive_id, data)
    copy = _Copy(source=source, target=target, archive_id=archive_id, read_back=read_back, observer=observer)
    marks = copy.marks()
    copy.tell("copy.started", archive_id=archive_id)
    try:
        copy.run(manifest, data, marks)
    except BaseException as error:
        kind = error.kind if isinstance(error, BackupError) else type(error).__name__
        copy.tell("copy.failed", archive_id=archive_id, error=kind)
        raise
    copied, present = tuple(copy.copied), tuple(copy.present)
    copy.tell(
        "copy.finished",
        archive_id=archive_id,
        copied=len(copied),
        present=len(present),
        copied_bytes=sum(copy.copied.values()),
    )
    return CopyReport(
        manifest=manifest,
        source=source.location,
        target=target.location,
        copied=copied,
        present=present,
        copied_bytes=sum(copy.copied.values()),
        duration_seconds=time.monotonic() - started,
        targets=target.target_results(archive_id),
    )


@attrs.frozen(kw_only=True)
class _Copy:
    """One run, and what it has done so far."""

    source: ArchiveSink
    target: ArchiveSink
    archive_id: str
    read_back: ReadBack
    observer: Observer
    copied: dict[str, int] = attrs.field(factory=dict, init=False)
    """Bytes by key."""
    present: list[str] = attrs.field(factory=list, init=False)

    def tell(self, name: str, **fields: object) -> None:
        """Tell the observer."""
        self.observer(Event(name=name, fields=fields))

    def marks(self) -> list[MarkName]:
        """Return the marks that are to be copied, unless the archive is in the trash, here or there."""
        names = self._marks_outside_the_trash(self.source)
        carried = carried_marks(names, read_standing(self.source, names))
        there: list[MarkName] = []
        with contextlib.suppress(SinkPermissionError):  # who may only create copies, too
            there = self._marks_outside_the_trash(self.target)
        return [name for name in carried if name not in there]

    def _marks_outside_the_trash(self, sink: ArchiveSink) -> list[MarkName]:
        names = list_marks(sink, self.archive_id)
        if read_standing(sink, names).trashed_at is not None:
            message = f"{self.archive_id} is in the trash of {sink.location}"
            raise ConfigurationError(message, kind="in_trash", hint="undelete it first", archive_id=self.archive_id)
        return names

    def run(self, manifest: Manifest, data: bytes, marks: list[MarkName]) -> None:
        """Put blob after blob, in the order in which a backup writes them."""
        marker = self._started()
        if marker is not None:
            # Holds a random number of its backup: another archive of the same name is found out before anything large.
            self._put_bytes(side_key(self.archive_id, STARTED_NAME), marker)
        for ref in (manifest.artifact, *manifest.side):
            self._put(ref, functools.partial(open_blob, self.source, ref, None, unchecked=True))
        signatures = read_signatures(self.source, self.archive_id)
        if signatures is not None:
            self._put_bytes(side_key(self.archive_id, SIGNATURE_NAME), signatures)
        for name in marks:
            self._put_mark(name.key)
        self._put_bytes(manifest_key(self.archive_id), data)

    def _started(self) -> bytes | None:
        with contextlib.suppress(BlobNotFoundError):
            return self.source.read_all(side_key(self.archive_id, STARTED_NAME), limit_bytes=_MAX_STARTED_BYTES)
        return None

    def _put_mark(self, key: str) -> None:
        # One that is too large to be genuine says as much when it is cut just above the limit.
        with contextlib.suppress(BlobNotFoundError):
            self._put_bytes(key, b"".join(self.source.read(key, size_bytes=MAX_MARK_BYTES + 1)))

    def _put_bytes(self, key: str, data: bytes) -> None:
        ref = BlobRef(key=key, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        self._put(ref, lambda: (chunk for chunk in (data,)))

    def _put(self, ref: BlobRef, read: Callable[[], Generator[bytes]]) -> None:
        """Publish a blob and look at it again, or make sure that the one that is there is the same."""
        if self._seems_free(ref.key):
            try:
                with contextlib.closing(read()) as chunks:
                    self._store(ref, chunks)
            except BlobExistsError:
                pass  # somebody else copies the same
            else:
                self.copied[ref.key] = ref.size_bytes
                self.tell("backup.stored", key=ref.key, size_bytes=ref.size_bytes, plain_bytes=ref.size_bytes)
                self._look_again(ref)
                return
        if self._found(ref) != (ref.size_bytes, ref.sha256):
            message = f"{ref.key} in {self.target.location} has other bytes than in {self.source.location}"
            hint = "verify both; nothing is ever overwritten: copy to another place"
            raise BlobExistsError(message, kind="copy_differs", hint=hint, key=ref.key)
        self.present.append(ref.key)
        self.tell("copy.present", key=ref.key, size_bytes=ref.size_bytes)

    def _seems_free(self, key: str) -> bool:
        try:
            return self.target.is_free(key)
        except SinkPermissionError:
            return True  # where looking is refused, creating may not be

    def _store(self, ref: BlobRef, chunks: Iterator[bytes]) -> None:
        info = self.target.put(ref.key, chunks)
        # Whoever stops after the last byte has not heard yet whether the digest fits.
        if next(chunks, None) is not None or info.size_bytes != ref.size_bytes:
            message = f"{ref.key} has {info.size_bytes} bytes in {self.target.location}, {ref.size_bytes} were sent"
            raise TruncatedError(message, key=ref.key)

    def _look_again(self, ref: BlobRef) -> None:
        if self.read_back is ReadBack.SIZES:
            size, digest = self.target.stat(ref.key).size_bytes, ref.sha256
        else:
            size, digest = self._found(ref)
        if (size, digest) != (ref.size_bytes, ref.sha256):
            message = f"{ref.key} was written to {self.target.location}, which has other bytes now"
            raise DigestMismatchError(message, hint="check the store, then copy to another place", key=ref.key)
        if self.read_back is ReadBack.CONTENT:
            self.tell("backup.read_back", key=ref.key, size_bytes=ref.size_bytes)

    def _found(self, ref: BlobRef) -> tuple[int, str]:
        # One byte more than there should be: enough to see that there is more, however much that is.
        stored = Meter(self.target.read(ref.key, size_bytes=ref.size_bytes + 1))
        with contextlib.closing(stored):
            stored.drain()
        return stored.size_bytes, stored.sha256
