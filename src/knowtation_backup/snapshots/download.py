"""
Downloading a snapshot: into a directory that ``icp`` and ``dfx`` read, or as a stream into any consumer.

Events told to the observer:

=====================  ==============================================================================================
name                   fields
=====================  ==============================================================================================
``download.started``   ``canister_id``, ``snapshot_id``, ``size_bytes``, ``resumed_bytes``
``download.progress``  ``snapshot_id``, ``done_bytes``, ``size_bytes``, ``bytes_per_second``, ``eta_seconds``,
                       ``elapsed_seconds``
``download.finished``  ``canister_id``, ``snapshot_id``, ``size_bytes``, ``transferred_bytes``, ``elapsed_seconds``
=====================  ==============================================================================================
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import attrs

from .._engine.cancellation import Cancellation
from ..contracts import Observer, ignore_events
from ..errors import InternalError, RejectedError
from ..ic.management import CertifiedMetadata, ManagementCanister, SnapshotData
from ..model.canisters import Slice, SnapshotMetadata, SnapshotPart, StoredChunk, moment_of
from ..model.events import Event
from ..model.ids import Principal, SnapshotId
from .file_digests import FileDigests
from .guessing import Awaited, guessed_parts
from .layout import DIGESTS_FILE, METADATA_NAME, section_files
from .metadata import metadata_json
from .new_directory import NewSnapshotDirectory, is_unused
from .provenance_records import PROVENANCE_FILE, PartEvidence, ProvenanceHead, Recorder
from .reading import DownloadOptions, PartReader, snapshot_gone

__all__ = ["DIGESTS_FILE", "DownloadOptions", "DownloadReport", "SnapshotStream", "StreamedPart", "download", "stream"]

_STREAM_WINDOW: Final = 32
"""Parts of a stream in memory at most: 64 MB."""


@attrs.frozen(kw_only=True)
class DownloadReport:
    """What was downloaded."""

    canister_id: Principal
    snapshot_id: SnapshotId
    directory: Path
    taken_at: dt.datetime
    size_bytes: int
    """Of the data: sections and Wasm chunks."""
    transferred_bytes: int
    """Of the data, in this run; less when an earlier attempt was resumed."""
    resumed_bytes: int
    """Of the data, there already."""
    evidence_bytes: int
    digests: Mapping[str, str]
    """SHA-256 in hexadecimal by the path of each file below the directory, as in ``SHA256SUMS``; empty without
    ``DownloadOptions.file_digests``."""
    elapsed_seconds: float
    lowest_concurrency: int
    """Fewer than the option says when the network refused calls for their pace."""

    def __str__(self) -> str:
        """Return two lines for people."""
        rate = self.transferred_bytes / 1e6 / max(self.elapsed_seconds, 1e-9)
        resumed = f", {self.resumed_bytes:,} were there already" if self.resumed_bytes else ""
        return (
            f"snapshot {self.snapshot_id} of canister {self.canister_id}, {self.size_bytes:,} bytes{resumed}\n"
            f"in {self.directory}, {self.elapsed_seconds:.1f} s, {rate:.0f} MB/s, every byte certified"
        )


def download(  # noqa: PLR0913 - what, where, and how
    management: ManagementCanister,
    canister_id: Principal,
    snapshot_id: SnapshotId,
    directory: str | os.PathLike[str],
    *,
    options: DownloadOptions | None = None,
    restart: bool = False,
    observer: Observer = ignore_events,
    cancellation: Cancellation | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> DownloadReport:
    """
    Write a snapshot into a new directory, which appears complete or not at all.

    Until then it grows beside its place as ``<directory>.partial``. However it is interrupted, the next download of the
    same snapshot to the same place goes on: what is there is compared with its certified digests, and not read again.

    Beside the data lie ``provenance.cbor``, which proves offline where the data comes from, and ``SHA256SUMS``.
    Memory: about ``2 * options.answers_in_memory`` MB, and some 64 KB per call under way.

    Args:
        management: Whom to ask; its agent verifies every answer.
        canister_id: Whose snapshot it is.
        snapshot_id: Which one.
        directory: Where to; nothing may be there but an empty directory.
        options: How many calls at once, deadlines.
        restart: Throw away what an earlier attempt left there, whatever it is of.
        observer: Told about progress.
        cancellation: Ends the download early.
        monotonic: Seconds, for rates and deadlines.

    Raises:
        BlobExistsError: There is something in the directory.
        ConfigurationError: Kind ``other_snapshot``: the unfinished download at this place is of another snapshot. Kind
            ``snapshot_directory_busy``: it is still going on.
        RejectedError: Kind ``snapshot_not_found``: it does not exist, or not any more. Others: the caller may not read.
        IntegrityError: An answer is not genuine or not what was asked for; nothing of it was kept.
        SourceUnavailableError: The network could not be reached; run it again to go on.
        SinkError: The directory cannot be written.
        OperationCancelledError: It was cancelled; run it again to go on.
    """
    run = _Run(management, canister_id, snapshot_id, options or DownloadOptions(), observer, cancellation, monotonic)
    return run.into(directory, restart=restart)


@attrs.frozen(kw_only=True, eq=False)
class _Target:
    """Where the parts go, as soon as the metadata has said what they are."""

    new: NewSnapshotDirectory
    metadata: SnapshotMetadata
    done: frozenset[SnapshotPart]
    progress: _Progress
    digests: FileDigests | None

    def has(self, part: SnapshotPart) -> bool:
        """Whether *part*, a guess, is part of the snapshot."""
        return isinstance(part, Slice) and part.offset + part.size_bytes <= self.metadata.section_size(part.section)

    def hash(self, part: SnapshotPart, data: memoryview | None) -> None:
        """Take a part that is written into the digests of the files."""
        if self.digests is not None:
            self.digests.add(part, data)


def _resumable(_part: SnapshotPart, data: bytes, evidence: bytes) -> bool:
    return PartEvidence.from_cbor(evidence).holds(data)


class _Run:
    """One download or stream."""

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of `download`
        self,
        management: ManagementCanister,
        canister_id: Principal,
        snapshot_id: SnapshotId,
        options: DownloadOptions,
        observer: Observer,
        cancellation: Cancellation | None,
        monotonic: Callable[[], float],
    ) -> None:
        self.canister_id = canister_id
        self.snapshot_id = snapshot_id
        self._management = management
        self._observer = observer
        self.cancellation: Cancellation = cancellation or Cancellation()
        self.monotonic = monotonic
        self.began_at: float = monotonic()
        self.reader: PartReader = PartReader(
            management, canister_id, snapshot_id, options=options, cancellation=self.cancellation, monotonic=monotonic
        )
        self.options = options
        self.head: ProvenanceHead = ProvenanceHead(canister_id=canister_id, snapshot_id=snapshot_id)

    def certified_metadata(self) -> CertifiedMetadata:
        try:
            return self._management.read_snapshot_metadata(
                self.canister_id,
                self.snapshot_id,
                deadline_seconds=self.reader.left_seconds(),
                cancellation=self.cancellation,
            )
        except RejectedError as error:
            if error.kind == "snapshot_not_found":
                raise snapshot_gone(error, self.canister_id, self.snapshot_id) from error
            raise

    def tell(self, name: str, **fields: object) -> None:
        self._observer(Event(name=name, fields={"snapshot_id": str(self.snapshot_id), **fields}))

    def into(self, directory: str | os.PathLike[str], *, restart: bool) -> DownloadReport:
        target: Awaited[_Target] = Awaited(self.cancellation)
        # What is there already must not be read again, and which parts that are nobody knows yet.
        guesses = guessed_parts(self.options.concurrency) if restart or is_unused(directory) else ()

        def items() -> Iterator[SnapshotPart | None]:
            yield None
            yield from guesses
            asked = frozenset(guesses)
            yield from (part for part in target.get().metadata.parts() if part not in asked)

        def work(part: SnapshotPart | None) -> CertifiedMetadata | tuple[SnapshotPart, int] | None:
            if part is None:
                return self.certified_metadata()
            if part not in guesses:
                there = target.get()
                if part not in there.done:
                    return part, self._kept(part, target)
                there.hash(part, None)
                return part, 0
            try:
                return part, self._kept(part, target)
            except RejectedError:
                # Nothing is there, or it is but could not be had then.
                return (part, self._kept(part, target)) if target.get().has(part) else None

        results = self.reader.in_order(items(), work)
        try:
            metadata = next(results)
            if not isinstance(metadata, CertifiedMetadata):
                raise InternalError("the metadata of a snapshot did not come first")
            origin = b"".join((self.canister_id.raw, self.snapshot_id.raw, bytes(metadata.reply.reply)))
            facts = metadata.metadata
            with NewSnapshotDirectory(directory, facts, origin=origin, check=_resumable, restart=restart) as new:
                try:
                    return self._filled(new, metadata, target, (each for each in results if isinstance(each, tuple)))
                finally:
                    results.close()  # before the files are
        finally:
            results.close()

    def _kept(self, part: SnapshotPart, target: Awaited[_Target]) -> int:
        """Read one part and write it, unless it is there; returns how many bytes came."""

        def keep(part: SnapshotPart, data: SnapshotData) -> int:
            there = target.get()
            there.new.write(part, data.chunk, evidence=PartEvidence.of(part, data.reply, data.chunk).to_cbor())
            there.hash(part, data.chunk)
            return len(data.chunk)

        transferred = self.reader.fetch(part, keep)
        target.get().progress.add(transferred)
        return transferred

    def _filled(
        self,
        new: NewSnapshotDirectory,
        metadata: CertifiedMetadata,
        target: Awaited[_Target],
        results: Iterable[tuple[SnapshotPart, int]],
    ) -> DownloadReport:
        """Let the parts come in, publish the directory and report."""
        resumed = sum(_size(new, part) for part in new.done)
        size = metadata.metadata.size_bytes
        self.tell("download.started", canister_id=str(self.canister_id), size_bytes=size, resumed_bytes=resumed)
        progress = _Progress(self, size, resumed)
        digests = FileDigests(new.read_into)
        target.provide(
            _Target(
                new=new,
                metadata=metadata.metadata,
                done=new.done,
                progress=progress,
                digests=digests if self.options.file_digests else None,
            )
        )
        transferred = sum(size_bytes for _part, size_bytes in results)
        evidence_bytes = self._finish(new, metadata, digests)
        elapsed = self.monotonic() - self.began_at
        progress.finished()
        self.tell(
            "download.finished",
            canister_id=str(self.canister_id),
            size_bytes=transferred + resumed,
            transferred_bytes=transferred,
            elapsed_seconds=elapsed,
        )
        return DownloadReport(
            canister_id=self.canister_id,
            snapshot_id=self.snapshot_id,
            directory=new.path,
            taken_at=moment_of(metadata.metadata.taken_at_ns),
            size_bytes=transferred + resumed,
            transferred_bytes=transferred,
            resumed_bytes=resumed,
            evidence_bytes=evidence_bytes,
            digests=digests.hexdigests(),
            elapsed_seconds=elapsed,
            lowest_concurrency=self.reader.lowest_concurrency,
        )

    def _finish(self, new: NewSnapshotDirectory, metadata: CertifiedMetadata, digests: FileDigests) -> int:
        recorder = Recorder(self.head)
        proof = hashlib.sha256()
        size = 0

        def items() -> Iterator[bytes]:
            nonlocal size
            yield recorder.head()
            yield recorder.metadata(metadata.reply)
            for record in new.records():
                yield recorder.part(record.part, PartEvidence.from_cbor(record.evidence))

        def measured() -> Iterator[bytes]:
            nonlocal size
            for item in items():
                proof.update(item)
                size += len(item)
                yield item

        new.add_file(PROVENANCE_FILE, measured())
        if self.options.file_digests:
            digests.note(METADATA_NAME, hashlib.sha256(new.metadata_bytes).hexdigest())
            digests.note(PROVENANCE_FILE, proof.hexdigest())
            for _section, name, _size, written in section_files(metadata.metadata):
                if written:
                    digests.note_empty(name)
            new.add_file(DIGESTS_FILE, (digests.as_text().encode("ascii"),))
        new.publish()
        return size


def _size(new: NewSnapshotDirectory, part: SnapshotPart) -> int:
    return len(new.read(part)) if isinstance(part, StoredChunk) else part.size_bytes


class _Progress:
    """Tells how far it is, not more often than asked for. Thread-safe."""

    def __init__(self, run: _Run, size_bytes: int, resumed_bytes: int) -> None:
        self._run = run
        self._size_bytes = size_bytes
        self._resumed = self._done = resumed_bytes
        self._lock = threading.Lock()
        self._began_at = self._told_at = run.monotonic()

    def add(self, size_bytes: int) -> None:
        now = self._run.monotonic()
        with self._lock:
            self._done += size_bytes
            if now - self._told_at < self._run.options.progress_seconds:
                return
            self._told_at = now
            done = self._done
        self._tell(done, now)

    def finished(self) -> None:
        self._tell(self._done, self._run.monotonic())

    def _tell(self, done: int, now: float) -> None:
        elapsed = now - self._began_at
        rate = (done - self._resumed) / elapsed if elapsed > 0 else 0.0
        left = max(0, self._size_bytes - done)
        self._run.tell(
            "download.progress",
            done_bytes=done,
            size_bytes=max(self._size_bytes, done),
            bytes_per_second=rate,
            eta_seconds=left / rate if rate else None,
            elapsed_seconds=elapsed,
        )


# -- streams -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, eq=False)
class StreamedPart:
    """
    One verified part of a stream.

    ``data`` is a view into memory that is freed when nobody refers to it any more. ``record`` are the bytes this part
    adds to the file of provenance.
    """

    part: SnapshotPart
    data: memoryview = attrs.field(repr=False)
    record: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class StreamReport:
    """What a stream that was read to its end consisted of."""

    canister_id: Principal
    snapshot_id: SnapshotId
    taken_at: dt.datetime
    size_bytes: int
    evidence_bytes: int
    digests: Mapping[str, str]
    """SHA-256 in hexadecimal by the path each file has in a directory; empty without ``file_digests``."""
    elapsed_seconds: float


class SnapshotStream:
    """
    The verified parts of a snapshot, in order: module, heap, stable memory, Wasm chunks. Read it once.

    Use it as a context manager: leaving the block early ends all threads and calls under way.
    """

    def __init__(self, run: _Run, metadata: CertifiedMetadata) -> None:
        self.metadata: SnapshotMetadata = metadata.metadata
        self.metadata_json: bytes = metadata_json(metadata.metadata)
        """What ``metadata.json`` of a directory would be."""
        self._run = run
        self._recorder = Recorder(run.head)
        self.record: bytes = self._recorder.head() + self._recorder.metadata(metadata.reply)
        """How the file of provenance begins; the records of the parts follow, in order."""
        self._evidence_bytes = len(self.record)
        self._size_bytes = 0
        self._digests = FileDigests()
        self._report: StreamReport | None = None
        self._parts: Generator[StreamedPart, None, None] | None = None

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what is under way."""
        self.close()

    def close(self) -> None:
        """End what is under way; does nothing after the last part. Idempotent."""
        if self._parts is not None:
            self._parts.close()

    def __iter__(self) -> Iterator[StreamedPart]:
        """
        Return the iterator over the parts; may be called once.

        Raises:
            BackupError: As `download`; nothing that was yielded is wrong, but it is not all.
        """
        if self._parts is not None:
            raise InternalError("a snapshot stream can be read once")
        self._parts = self._read()
        return self._parts

    def _read(self) -> Generator[StreamedPart, None, None]:
        run = self._run

        def take(part: SnapshotPart, data: SnapshotData) -> tuple[SnapshotPart, memoryview, PartEvidence]:
            return part, data.chunk, PartEvidence.of(part, data.reply, data.chunk)

        run.tell(
            "download.started", canister_id=str(run.canister_id), size_bytes=self.metadata.size_bytes, resumed_bytes=0
        )
        progress = _Progress(run, self.metadata.size_bytes, 0)
        window = min(_STREAM_WINDOW, 3 * run.options.answers_in_memory)
        parts = run.reader.in_order(self.metadata.parts(), lambda part: run.reader.fetch(part, take), window=window)
        try:
            for part, data, proof in parts:
                if run.options.file_digests:
                    self._digests.add(part, data)
                record = self._recorder.part(part, proof)
                self._size_bytes += len(data)
                self._evidence_bytes += len(record)
                progress.add(len(data))
                streamed = StreamedPart(part=part, data=data, record=record)
                del data
                yield streamed
                del streamed
        finally:
            parts.close()
        progress.finished()
        elapsed = run.monotonic() - run.began_at
        self._report = StreamReport(
            canister_id=run.canister_id,
            snapshot_id=run.snapshot_id,
            taken_at=moment_of(self.metadata.taken_at_ns),
            size_bytes=self._size_bytes,
            evidence_bytes=self._evidence_bytes,
            digests=self._digests.hexdigests(),
            elapsed_seconds=elapsed,
        )
        run.tell(
            "download.finished",
            canister_id=str(run.canister_id),
            size_bytes=self._size_bytes,
            transferred_bytes=self._size_bytes,
            elapsed_seconds=elapsed,
        )

    def result(self) -> StreamReport:
        """Return what there was; valid once the parts are exhausted."""
        if self._report is None:
            raise InternalError("a snapshot stream has a result only when it was read to its end")
        return self._report


def stream(  # noqa: PLR0913 - what, and how
    management: ManagementCanister,
    canister_id: Principal,
    snapshot_id: SnapshotId,
    *,
    options: DownloadOptions | None = None,
    observer: Observer = ignore_events,
    cancellation: Cancellation | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> SnapshotStream:
    """
    Begin to read a snapshot without touching a disk; the metadata is there when this returns.

    At most 32 parts (64 MB) are in memory, so that no more calls are under way at once.

    Raises:
        BackupError: As `download`, of the source.
    """
    run = _Run(management, canister_id, snapshot_id, options or DownloadOptions(), observer, cancellation, monotonic)
    return SnapshotStream(run, run.certified_metadata())
