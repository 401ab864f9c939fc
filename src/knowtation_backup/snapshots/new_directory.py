"""
Writing a snapshot directory: many threads, any order, interrupted at any moment, published complete or not at all.

While it grows it is called ``<name>.partial`` and lies beside its final place::

    <name>.partial/
      lock              held by the one process that writes
      progress          what is there already, see below
      data/             becomes <name> by a rename

The file ``progress`` begins with a magic number and the SHA-256 of what is being written; then follows one record for
each part that is on the disk, in the order they arrived: length and CRC-32 of a body (4 bytes each, little-endian),
and the body: kind of the part (1 byte), offset and size (8 bytes each) or hash (32 bytes), SHA-256 of the part's bytes,
and evidence the writer was given with it. A record that was cut off ends the file.

Nothing is flushed per part, which would cost more than the transfer. A killed process loses nothing, for what it wrote
is in the system's memory. After a power cut a record may be there and its bytes not. So whoever resumes reads every
recorded part once and takes its digest; that is also the answer to a disk that lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Self

import attrs

from .._engine.ahead import map_ahead, processors
from .._engine.local_files import open_directory, os_errors_translated, sync_directory
from ..errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    SinkFullError,
    TruncatedError,
)
from ..model.canisters import SectionName, Slice, SnapshotMetadata, SnapshotPart, StoredChunk
from .layout import (
    CHUNK_STORE,
    METADATA_NAME,
    chunk_name,
    open_read_only,
    part_file,
    pread_exactly,
    pwrite_all,
    section_file,
    section_files,
)
from .metadata import metadata_json

__all__ = ["NewSnapshotDirectory", "PartRecord", "Progress", "is_unused"]

_MAGIC: Final = b"KTSNAP1\n"
_HEAD_BYTES: Final = len(_MAGIC) + 32
_FRAME: Final = struct.Struct("<II")
_SLICE: Final = struct.Struct("<BQQ")
_CHUNK_KIND: Final = 255
_DIGEST_BYTES: Final = 32
_SECTIONS: Final = tuple(SectionName)
_MAX_RECORD: Final = 1 << 20
_SYNC_BYTES: Final = 64 << 20
"""After so many bytes whoever wrote them hands the file to the disk, so that little is left to do at the end."""
_PARTIAL: Final = ".partial"
_WRITE_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

Evidenced = Callable[[SnapshotPart, bytes, bytes], bool]


@attrs.frozen
class PartRecord:
    """A part that is on the disk."""

    part: SnapshotPart
    sha256: bytes
    """Of its bytes; 32 zeros when the writer relied on its evidence instead."""
    evidence: bytes = attrs.field(repr=False)

    def _body(self) -> bytes:
        part = self.part
        if isinstance(part, StoredChunk):
            head = bytes([_CHUNK_KIND]) + part.sha256
        else:
            head = _SLICE.pack(_SECTIONS.index(part.section), part.offset, part.size_bytes)
        return head + self.sha256 + self.evidence

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        part: SnapshotPart
        if body[0] == _CHUNK_KIND:
            end = 1 + _DIGEST_BYTES
            part = StoredChunk(body[1:end])
        else:
            end = _SLICE.size
            kind, offset, size = _SLICE.unpack_from(body)
            part = Slice(_SECTIONS[kind], offset, size)
        return cls(part, body[end : end + _DIGEST_BYTES], body[end + _DIGEST_BYTES :])


@attrs.define(eq=False)
class Progress:
    """The file of that name. Appending is safe from several threads."""

    _fd: int
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _end: int = 0

    def restore(self, origin: bytes) -> bool:
        """
        Find the end of the last whole record, and cut off what follows.

        Returns:
            Whether the file is about *origin*; a new file is.

        Raises:
            OSError: As the operating system says.
        """
        head = pread_exactly(self._fd, _HEAD_BYTES, 0)
        wanted = _MAGIC + hashlib.sha256(origin).digest()
        if len(head) < _HEAD_BYTES:  # new, or cut off while it was
            os.ftruncate(self._fd, 0)
            pwrite_all(self._fd, wanted, 0)
        elif head != wanted:
            return False
        self._end = _HEAD_BYTES
        for record, end in self._walk():
            del record
            self._end = end
        os.ftruncate(self._fd, self._end)
        return True

    def append(self, record: PartRecord) -> None:
        """Add a record. Raises `OSError` as the operating system says."""
        body = record._body()  # noqa: SLF001 - its own module
        frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
        with self._lock:
            pwrite_all(self._fd, frame, self._end)
            self._end += len(frame)

    def records(self) -> Iterator[PartRecord]:
        """Yield the records there are now, in the order they came."""
        end = self._end
        for record, place in self._walk():
            if place > end:
                return
            yield record

    def _walk(self) -> Iterator[tuple[PartRecord, int]]:
        place = _HEAD_BYTES
        while len(frame := pread_exactly(self._fd, _FRAME.size, place)) == _FRAME.size:
            size, checksum = _FRAME.unpack(frame)
            if not size <= _MAX_RECORD:
                return
            body = pread_exactly(self._fd, size, place + _FRAME.size)
            if len(body) != size or zlib.crc32(body) != checksum:
                return
            place += _FRAME.size + size
            try:
                record = PartRecord._parse(body)  # noqa: SLF001 - its own module
            except (struct.error, IndexError):
                return
            yield record, place


class NewSnapshotDirectory:
    """
    A snapshot directory that is being written. Use it as a context manager.

    Leaving the block without `publish`, for whatever reason, keeps what is there under ``<name>.partial``; the next
    one for the same place and the same snapshot goes on with it. Files get mode 0600, directories 0700.

    Args:
        path: Where it will be; nothing may be there but an empty directory.
        metadata: Says what belongs into it; its own file is written at once.
        origin: Whatever identifies the snapshot, for example canister and snapshot id: only the same one is resumed.
        metadata_bytes: What to write as ``metadata.json``, when it is not to be made from *metadata*.
        check: Judges a recorded part by its bytes and evidence when work is resumed; `None` compares digests, which
            then are taken of everything written.
        restart: Throw away what an earlier attempt left, whatever it is of.

    Raises:
        BlobExistsError: Something is at *path* already.
        ConfigurationError: Another process writes there (``snapshot_directory_busy``), or what an earlier attempt left
            is of another snapshot (``other_snapshot``).
        SinkFullError: There is less space than the snapshot needs.
        SinkError: Whatever else the operating system refuses.
    """

    def __init__(  # noqa: PLR0913 - what it is, and how it is resumed
        self,
        path: str | os.PathLike[str],
        metadata: SnapshotMetadata,
        *,
        origin: bytes = b"",
        metadata_bytes: bytes | None = None,
        check: Evidenced | None = None,
        restart: bool = False,
    ) -> None:
        self.path: Path = Path(path).absolute()
        self.metadata = metadata
        self.metadata_bytes: bytes = metadata_json(metadata) if metadata_bytes is None else metadata_bytes
        self.partial_path: Path = _partial(self.path)
        self._check = check
        self._open = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._unsynced: dict[SectionName, int] = dict.fromkeys(SectionName, 0)
        self._done: set[SnapshotPart] = set()
        self._published = False
        if not self.path.name:
            raise ConfigurationError(f"{self.path} cannot be written to", kind="bad_path", hint="name a new directory")
        try:
            with os_errors_translated(f"writing to {self.partial_path}"):
                self._begin(origin, restart=restart)
        except BaseException:
            self._open.close()
            raise

    def _begin(self, origin: bytes, *, restart: bool) -> None:
        partial_fd = open_directory(self.partial_path, create=True)
        self._open.callback(os.close, partial_fd)
        self._take_lock(partial_fd)
        if not _is_free(self.path):
            self._tidy_up_after_publishing(partial_fd)
            hint = "choose another place, or move away what is there"
            raise BlobExistsError(f"there is something at {self.path} already", hint=hint, path=str(self.path))
        progress_fd = self._file("progress", partial_fd)
        if restart or os.fstat(progress_fd).st_size < _HEAD_BYTES:
            os.ftruncate(progress_fd, 0)
            # Nobody knows what is there, and files that the new snapshot does not have would be published with it.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.partial_path / "data")
        self._progress = Progress(progress_fd)
        if not self._progress.restore(origin + b"\0" + self.metadata_bytes):
            raise ConfigurationError(
                f"{self.partial_path} holds part of another snapshot",
                kind="other_snapshot",
                hint="remove it, start again with restart=True, or choose another place",
                path=str(self.partial_path),
            )
        self._data_fd = open_directory(self.partial_path, ("data",), create=True)
        self._open.callback(os.close, self._data_fd)
        self._chunks_fd = open_directory(self.partial_path, ("data", CHUNK_STORE), create=True)
        self._open.callback(os.close, self._chunks_fd)
        self._fds: dict[SectionName, int] = {}
        for section, name, _size, written in section_files(self.metadata):
            if written:
                self._fds[section] = self._file(name, self._data_fd)
        self._require_space()
        for section, _name, size, written in section_files(self.metadata):
            if written:
                os.ftruncate(self._fds[section], size)
        self.add_file(METADATA_NAME, (self.metadata_bytes,))
        self._resume()

    def _file(self, name: str, directory_fd: int) -> int:
        file_fd = os.open(name, _WRITE_FLAGS, 0o600, dir_fd=directory_fd)
        self._open.callback(os.close, file_fd)
        if not stat.S_ISREG(os.fstat(file_fd).st_mode):
            raise ConfigurationError(
                f"{name} in {self.partial_path} is not a file",
                kind="bad_path",
                hint="remove it, or choose another place",
            )
        return file_fd

    def _take_lock(self, partial_fd: int) -> None:
        busy = ConfigurationError(
            f"another download writes to {self.path} now",
            kind="snapshot_directory_busy",
            hint="wait for it, or choose another place",
            path=str(self.path),
        )
        lock_fd = self._file("lock", partial_fd)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        # Whoever held it before may have finished and removed everything in between.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock_fd), os.stat("lock", dir_fd=partial_fd)) and self.partial_path.is_dir():
                return
        raise busy

    def _tidy_up_after_publishing(self, partial_fd: int) -> None:
        try:
            os.stat("data", dir_fd=partial_fd)
        except FileNotFoundError:
            shutil.rmtree(self.partial_path, ignore_errors=True)

    def _require_space(self) -> None:
        facts = os.fstatvfs(self._data_fd)
        free = facts.f_bavail * facts.f_frsize
        there = sum(os.fstat(file_fd).st_blocks * 512 for file_fd in self._fds.values())
        needed = self.metadata.size_bytes - there
        if needed > free:
            hint = f"{needed} bytes are needed; {free} bytes are free; free space, or use another place"
            message = f"the snapshot does not fit into {self.path.parent}"
            raise SinkFullError(message, hint=hint, needed_bytes=needed, free_bytes=free)

    def _resume(self) -> None:
        ours = set(self.metadata.parts())
        last = {record.part: record for record in self._progress.records() if record.part in ours}
        for part, good in map_ahead(self._still_good, last.values(), workers=processors()):
            if good:
                self._done.add(part)

    def _still_good(self, record: PartRecord) -> tuple[SnapshotPart, bool]:
        part = record.part
        try:
            data = self.read(part)
        except (IntegrityError, BlobNotFoundError):
            return part, False
        if self._check is not None:
            return part, self._check(part, data, record.evidence)
        return part, hashlib.sha256(data).digest() == record.sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files; what was written stays for the next attempt."""
        self._open.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    @property
    def done(self) -> frozenset[SnapshotPart]:
        """The parts that are on the disk and were found whole."""
        with self._lock:
            return frozenset(self._done)

    def missing(self) -> Iterator[SnapshotPart]:
        """Yield the parts that are not there yet, in the order of `SnapshotMetadata.parts`."""
        done = self.done
        return (part for part in self.metadata.parts() if part not in done)

    def write(self, part: SnapshotPart, data: bytes | memoryview, *, evidence: bytes = b"") -> None:
        """
        Keep a part and note that it is there. May be called by several threads at once.

        Args:
            part: Must be one of the snapshot's.
            data: As many bytes as the part has.
            evidence: Kept in the record; given to ``check`` when work is resumed.

        Raises:
            IntegrityError: *data* is not of the part's size, or a chunk does not hash to its name.
            SinkError: As the operating system says.
        """
        with memoryview(data) as view:
            needs_digest = self._check is None or isinstance(part, StoredChunk)
            digest = hashlib.sha256(view).digest() if needs_digest else bytes(_DIGEST_BYTES)
            self._require_fit(part, view, digest)
            with os_errors_translated(f"writing {part_file(part)} in {self.partial_path}"):
                if isinstance(part, StoredChunk):
                    self._write_chunk(part, view)
                else:
                    pwrite_all(self._fds[part.section], view, part.offset)
                self._progress.append(PartRecord(part, digest, evidence))
                self._written(part, len(view))

    def _require_fit(self, part: SnapshotPart, view: memoryview, digest: bytes) -> None:
        if isinstance(part, StoredChunk):
            if part.sha256 not in self.metadata.wasm_chunk_store or digest != part.sha256:
                raise IntegrityError(f"{part} does not hash to its name", kind="snapshot_chunk_hash")
        elif len(view) != part.size_bytes:
            message = f"{part} came with {len(view)} bytes"
            raise IntegrityError(message, kind="snapshot_part_size", offset=part.offset)
        elif not 0 <= part.offset <= self.metadata.section_size(part.section) - part.size_bytes:
            raise IntegrityError(f"{part} lies outside of the snapshot", kind="snapshot_part_size")

    def _write_chunk(self, part: StoredChunk, view: memoryview) -> None:
        file_fd = os.open(chunk_name(part.sha256), _WRITE_FLAGS | os.O_TRUNC, 0o600, dir_fd=self._chunks_fd)
        try:
            pwrite_all(file_fd, view, 0)
        finally:
            os.close(file_fd)

    def _written(self, part: SnapshotPart, size: int) -> None:
        due = False
        with self._lock:
            self._done.add(part)
            if isinstance(part, Slice):
                self._unsynced[part.section] += size
                due = self._unsynced[part.section] >= _SYNC_BYTES
                if due:
                    self._unsynced[part.section] = 0
        if due and isinstance(part, Slice):
            os.fdatasync(self._fds[part.section])

    def add_file(self, name: str, pieces: Iterable[bytes]) -> None:
        """
        Write a file of another name beside the data, replacing what an earlier attempt wrote.

        Raises:
            SinkError: As the operating system says.
        """
        if "/" in name or name in {"", ".", "..", CHUNK_STORE, *map(section_file, SectionName)}:
            raise ConfigurationError(f"{name!r} cannot be the name of a further file", kind="bad_path")
        with os_errors_translated(f"writing {name} in {self.partial_path}"):
            file_fd = os.open(name, _WRITE_FLAGS | os.O_TRUNC, 0o600, dir_fd=self._data_fd)
            try:
                offset = 0
                for piece in pieces:
                    pwrite_all(file_fd, piece, offset)
                    offset += len(piece)
                os.fsync(file_fd)
            finally:
                os.close(file_fd)

    # -- reading back -------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[PartRecord]:
        """Yield what is known of the parts that are there, in the order they came, each part once."""
        last = {record.part: place for place, record in enumerate(self._progress.records())}
        for place, record in enumerate(self._progress.records()):
            if record.part in self._done and last[record.part] == place:
                yield record

    def read(self, part: SnapshotPart) -> bytes:
        """Return the bytes of a part; raises `TruncatedError` or `SinkError` when there are none."""
        with os_errors_translated(f"reading {part_file(part)} in {self.partial_path}"):
            if isinstance(part, StoredChunk):
                file_fd = open_read_only(chunk_name(part.sha256), self._chunks_fd)
                try:
                    return pread_exactly(file_fd, os.fstat(file_fd).st_size, 0)
                finally:
                    os.close(file_fd)
            if part.section not in self._fds:
                raise IntegrityError(f"{part} lies outside of the snapshot", kind="snapshot_part_size")
            return pread_exactly(self._fds[part.section], part.size_bytes, part.offset)

    def read_into(self, part: Slice, room: memoryview) -> None:
        """Fill *room* with the bytes of a slice that was written; raises as `read`."""
        with os_errors_translated(f"reading {part_file(part)} in {self.partial_path}"):
            done = 0
            while count := os.preadv(self._fds[part.section], [room[done:]], part.offset + done):
                done += count
        if done != part.size_bytes:
            raise TruncatedError(f"{part} has only {done} bytes in {self.partial_path}", offset=part.offset)

    # -- the end ------------------------------------------------------------------------------------------------------

    def publish(self) -> Path:
        """
        Let the directory appear under its name, durably.

        Returns:
            Its path.

        Raises:
            IntegrityError: Parts are missing (``snapshot_incomplete``); nothing was changed.
            BlobExistsError: Something has come to be at its place; nothing was changed.
            SinkError: As the operating system says.
        """
        missing = sum(1 for _part in self.missing())
        if missing:
            raise IntegrityError(f"{missing} parts are missing", kind="snapshot_incomplete", missing=missing)
        with os_errors_translated(f"publishing {self.path}"):
            for file_fd in self._fds.values():
                os.fsync(file_fd)
            for sha256 in self.metadata.wasm_chunk_store:
                file_fd = open_read_only(chunk_name(sha256), self._chunks_fd)
                try:
                    os.fsync(file_fd)
                finally:
                    os.close(file_fd)
            sync_directory(self._chunks_fd)
            sync_directory(self._data_fd)
            parent_fd = open_directory(self.path.parent)
            try:
                self._rename(parent_fd)
                sync_directory(parent_fd)
            finally:
                os.close(parent_fd)
        self._published = True
        shutil.rmtree(self.partial_path, ignore_errors=True)  # holds nothing but lock and progress now
        return self.path

    def _rename(self, parent_fd: int) -> None:
        try:
            # For directories the system itself refuses to replace anything but an empty one.
            os.rename(f"{self.partial_path.name}/data", self.path.name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
        except OSError as error:
            if _is_free(self.path):
                raise
            message = f"there is something at {self.path} now"
            raise BlobExistsError(message, hint="what was written is kept beside it") from error

    def abandon(self) -> None:
        """Throw away what was written, unless it was published."""
        self.close()
        if not self._published:
            shutil.rmtree(self.partial_path, ignore_errors=True)


def is_unused(path: str | os.PathLike[str]) -> bool:
    """Whether nobody has begun to write a snapshot to *path*, and nothing is there. A glance: it may change."""
    place = Path(path).absolute()
    return _is_free(place) and _is_free(_partial(place))


def _partial(path: Path) -> Path:
    return path.with_name(path.name + _PARTIAL)


def _is_free(path: Path) -> bool:
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(facts.st_mode) and not any(path.iterdir())
