"""
Reading a downloaded snapshot directory, whoever wrote it, after checking what neither ``icp`` nor ``dfx`` checks.

Sizes, hashes of chunks, missing and surplus chunks, and that the module begins like one. What is inside the sections
only the network's evidence can prove, see `provenance`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from .._engine.cancellation import Cancellation
from .._engine.local_files import READ_SIZE, open_directory, os_errors_translated
from ..errors import DigestMismatchError, IntegrityError, TruncatedError
from ..model.canisters import SectionName, Slice, SnapshotMetadata, SnapshotPart, StoredChunk
from ..model.reports import Finding
from .layout import (
    CHUNK_STORE,
    DIGESTS_FILE,
    ICP_DOWNLOAD_PROGRESS,
    METADATA_NAME,
    chunk_name,
    open_read_only,
    part_file,
    pread_exactly,
    section_file,
    section_files,
)
from .metadata import MAX_METADATA_BYTES, parse_metadata
from .new_directory import NewSnapshotDirectory, PartRecord

__all__ = ["MAX_WASM_CHUNK_BYTES", "MODULE_STARTS", "NewSnapshotDirectory", "PartRecord", "SnapshotDirectory"]

MAX_WASM_CHUNK_BYTES: Final = 1 << 20
"""The network takes no larger ones."""
MODULE_STARTS: Final = (b"\0asm", b"\x1f\x8b\x08")
"""A canister keeps its module as it was installed, and many are installed compressed with gzip."""
_CHUNK_FILE: Final = re.compile(r"[0-9a-f]{64}\.bin")
_DIGEST_LINE: Final = re.compile(rb"([0-9a-f]{64})  (\S+)")
_MAX_DIGESTS_BYTES: Final = 16 << 20
_MAX_NAMED: Final = 20
_HINT: Final = "download the snapshot again, or restore the directory from a copy"


class SnapshotDirectory:
    """
    A snapshot directory that was found sound. Use it as a context manager, or `close` it.

    Get one from `open`. Reading is safe from several threads.
    """

    def __init__(self, path: Path, directory_fd: int, fds: dict[SectionName, int], metadata_bytes: bytes) -> None:
        self.path = path
        self.metadata_bytes = metadata_bytes
        """``metadata.json`` as it is, every byte."""
        self.metadata: SnapshotMetadata = parse_metadata(metadata_bytes)
        self._directory_fd = directory_fd
        self._fds = fds

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """
        Check a directory that ``icp``, ``dfx`` or we wrote, and return it.

        Raises:
            BlobNotFoundError: There is no such directory.
            IntegrityError: It is not whole. ``kind`` is the code of the first finding; ``context["findings"]`` has all
                of them as texts.
            SinkError: It cannot be read.
        """
        found, findings = cls._examine(path)
        if found is not None and not findings:
            return found
        if found is not None:
            found.close()
        first = findings[0]
        texts = [f"{finding.where}: {finding.message}" for finding in findings[:_MAX_NAMED]]
        more = f"; and {len(findings) - 1} findings more" if len(findings) > 1 else ""
        message = f"the snapshot directory {path} is not whole: {texts[0]}{more}"
        raise IntegrityError(message, kind=first.code, hint=_HINT, path=str(path), findings=texts)

    @classmethod
    def findings(cls, path: str | os.PathLike[str]) -> tuple[Finding, ...]:
        """
        Return everything that is wrong with a directory; empty when `open` would accept it.

        Raises:
            BlobNotFoundError: There is no such directory.
            SinkError: It cannot be read.
        """
        found, findings = cls._examine(path)
        if found is not None:
            found.close()
        return tuple(findings)

    @classmethod
    def _examine(cls, path: str | os.PathLike[str]) -> tuple[Self | None, list[Finding]]:
        place = Path(path).absolute()
        with os_errors_translated(f"reading the snapshot directory {place}"):
            directory_fd = open_directory(place)
            fds: dict[SectionName, int] = {}
            try:
                metadata_bytes = _read_metadata(directory_fd)
                found = cls(place, directory_fd, fds, metadata_bytes)
                findings = list(_sections(directory_fd, found.metadata, fds))
                findings += _chunks(directory_fd, found.metadata)
            except IntegrityError as error:
                os.close(directory_fd)
                return None, [Finding(code=error.kind, where=METADATA_NAME, message=error.message)]
            except BaseException:
                for file_fd in (*fds.values(), directory_fd):
                    os.close(file_fd)
                raise
            return found, findings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        fds = [*self._fds.values(), self._directory_fd] if self._directory_fd >= 0 else []
        self._fds, self._directory_fd = {}, -1
        for file_fd in fds:
            os.close(file_fd)

    def read(self, part: SnapshotPart) -> bytes:
        """
        Return the bytes of a part.

        Raises:
            TruncatedError: The file has become shorter since it was checked.
            IntegrityError: A chunk no longer hashes to its name (``snapshot_chunk_hash``).
            SinkError: As the operating system says.
        """
        with os_errors_translated(f"reading {part_file(part)} in {self.path}"):
            if isinstance(part, StoredChunk):
                data = _read_chunk(self._directory_fd, part.sha256)
                if hashlib.sha256(data).digest() != part.sha256:
                    raise IntegrityError(f"{part} does not hash to its name", kind="snapshot_chunk_hash", hint=_HINT)
                return data
            file_fd = self._fds.get(part.section)
            data = b"" if file_fd is None else pread_exactly(file_fd, part.size_bytes, part.offset)
        if len(data) != part.size_bytes:
            raise TruncatedError(f"{part} has only {len(data)} bytes in {self.path}", hint=_HINT, offset=part.offset)
        return data

    def read_into(self, part: Slice, room: memoryview) -> None:
        """
        Fill *room*, which has the size of the part, with the bytes of a slice; raises as `read`.

        For readers that use their memory again: new memory costs the system as much as reading.
        """
        done = 0
        file_fd = self._fds.get(part.section)
        with os_errors_translated(f"reading {part_file(part)} in {self.path}"):
            while file_fd is not None and (count := os.preadv(file_fd, [room[done:]], part.offset + done)):
                done += count
        if done != part.size_bytes:
            raise TruncatedError(f"{part} has only {done} bytes in {self.path}", hint=_HINT, offset=part.offset)

    def digests(self, *, cancellation: Cancellation | None = None) -> Mapping[SectionName, str]:
        """
        Return the SHA-256 of every section in lower-case hexadecimal; reads everything once.

        Raises:
            OperationCancelledError: *cancellation* was raised.
            SinkError: As the operating system says.
        """
        return {
            section: self._digest(section, self.metadata.section_size(section), cancellation or Cancellation())
            for section in SectionName
        }

    def check_digests(self, *, cancellation: Cancellation | None = None) -> bool:
        """
        Compare metadata and sections with the ``SHA256SUMS`` of our own downloads; reads everything once.

        This finds what a disk or a copy has changed by accident, on any network. Against changes on purpose there is
        `verify_provenance`.

        Returns:
            Whether there is such a file.

        Raises:
            DigestMismatchError: A file is not what was downloaded (``snapshot_file_digest``).
            OperationCancelledError: *cancellation* was raised.
            SinkError: As the operating system says.
        """
        with os_errors_translated(f"reading {DIGESTS_FILE} in {self.path}"):
            try:
                file_fd = open_read_only(DIGESTS_FILE, self._directory_fd)
            except FileNotFoundError:
                return False
            try:
                text = pread_exactly(file_fd, _MAX_DIGESTS_BYTES, 0)
            finally:
                os.close(file_fd)
        matches = filter(None, map(_DIGEST_LINE.fullmatch, text.splitlines()))
        recorded = {match[2].decode("utf-8", "replace"): match[1].decode() for match in matches}
        found = {METADATA_NAME: hashlib.sha256(self.metadata_bytes).hexdigest()}
        found |= {section_file(section): digest for section, digest in self.digests(cancellation=cancellation).items()}
        for name, digest in found.items():
            if recorded.get(name, digest) != digest:
                message = f"{name} in {self.path} is not what was downloaded: its SHA-256 is not that of {DIGESTS_FILE}"
                raise DigestMismatchError(message, kind="snapshot_file_digest", hint=_HINT, path=name)
        return True

    def _digest(self, section: SectionName, size: int, cancellation: Cancellation) -> str:
        digest = hashlib.sha256()
        with os_errors_translated(f"reading {section_file(section)} in {self.path}"):
            for offset in range(0, size, READ_SIZE):
                cancellation.check()
                piece = pread_exactly(self._fds[section], min(READ_SIZE, size - offset), offset)
                if not piece:
                    raise TruncatedError(f"{section_file(section)} ends at {offset}", hint=_HINT)
                digest.update(piece)
        return digest.hexdigest()


def _read_metadata(directory_fd: int) -> bytes:
    if _exists(ICP_DOWNLOAD_PROGRESS, directory_fd):
        message = "icp has not finished this download; the files have their full length and hold zeros"
        raise IntegrityError(message, kind="snapshot_unfinished")
    if _exists("progress", directory_fd) and _exists("data", directory_fd):
        raise IntegrityError("a download into this place is not finished", kind="snapshot_unfinished")
    try:
        file_fd = open_read_only(METADATA_NAME, directory_fd)
    except FileNotFoundError:
        raise IntegrityError("there is none", kind="snapshot_file_missing") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IntegrityError("it is a symbolic link", kind="snapshot_not_a_file") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(file_fd).st_mode):
            raise IntegrityError("it is not a file", kind="snapshot_not_a_file")
        return pread_exactly(file_fd, MAX_METADATA_BYTES + 1, 0)
    finally:
        os.close(file_fd)


def _exists(name: str, directory_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_sized(
    name: str, directory_fd: int, where: str, *, size: int | None = None, limit: int | None = None
) -> int | Finding:
    """Return a descriptor of a file of the right size, or what is wrong with it."""
    try:
        file_fd = open_read_only(name, directory_fd)
    except FileNotFoundError:
        return Finding(code="snapshot_file_missing", where=where, message="it is not there")
    except OSError as error:
        if error.errno == errno.ELOOP:
            return Finding(code="snapshot_not_a_file", where=where, message="it is a symbolic link")
        raise
    facts = os.fstat(file_fd)
    if stat.S_ISREG(facts.st_mode) and size in {None, facts.st_size} and (limit is None or facts.st_size <= limit):
        return file_fd
    os.close(file_fd)
    if not stat.S_ISREG(facts.st_mode):
        return Finding(code="snapshot_not_a_file", where=where, message="it is not a file")
    wanted = f"and may have {limit}" if size is None else f"instead of the {size} that the metadata says"
    return Finding(code="snapshot_file_size", where=where, message=f"it has {facts.st_size} bytes {wanted}")


def _sections(directory_fd: int, metadata: SnapshotMetadata, fds: dict[SectionName, int]) -> Iterator[Finding]:
    for section, name, size, _written in section_files(metadata):
        opened = _open_sized(name, directory_fd, name, size=size)
        if isinstance(opened, Finding):
            if size or opened.code != "snapshot_file_missing":
                yield opened
            continue
        fds[section] = opened
        if section is SectionName.WASM_MODULE and not pread_exactly(opened, 4, 0).startswith(MODULE_STARTS):
            message = "it begins neither like a Wasm module nor like a compressed one"
            yield Finding(code="snapshot_not_wasm", where=name, message=message)


def _chunks(directory_fd: int, metadata: SnapshotMetadata) -> Iterator[Finding]:
    wanted = {chunk_name(sha256): sha256 for sha256 in metadata.wasm_chunk_store}
    try:
        chunks_fd = os.open(
            CHUNK_STORE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd
        )
    except FileNotFoundError:
        for name in wanted:
            yield Finding(code="snapshot_file_missing", where=f"{CHUNK_STORE}/{name}", message="it is not there")
        return
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        yield Finding(code="snapshot_not_a_file", where=CHUNK_STORE, message="it is not a directory of its own")
        return
    try:
        for name, sha256 in wanted.items():
            where = f"{CHUNK_STORE}/{name}"
            opened = _open_sized(name, chunks_fd, where, limit=MAX_WASM_CHUNK_BYTES)
            if isinstance(opened, Finding):
                yield opened
                continue
            try:
                data = pread_exactly(opened, MAX_WASM_CHUNK_BYTES, 0)
            finally:
                os.close(opened)
            if hashlib.sha256(data).digest() != sha256:
                yield Finding(code="snapshot_chunk_hash", where=where, message="its content does not hash to its name")
        for name in sorted(set(os.listdir(chunks_fd)) - set(wanted)):  # noqa: PTH208 - by descriptor
            if _CHUNK_FILE.fullmatch(name):
                message = "the metadata does not name this chunk"
                yield Finding(code="snapshot_chunk_surplus", where=f"{CHUNK_STORE}/{name}", message=message)
    finally:
        os.close(chunks_fd)


def _read_chunk(directory_fd: int, sha256: bytes) -> bytes:
    path = f"{CHUNK_STORE}/{chunk_name(sha256)}"
    file_fd = open_read_only(path, directory_fd)
    try:
        return pread_exactly(file_fd, MAX_WASM_CHUNK_BYTES, 0)
    finally:
        os.close(file_fd)
