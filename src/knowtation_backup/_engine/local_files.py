"""
Local files that appear complete or not at all, and operating system errors in our own words.

A new file is written under a hidden name in its final directory, flushed to the disk, and published by a hard link,
which fails when the name is taken; then the hidden name and finally the directory are settled. Whatever interrupts
this leaves the final name absent or complete. Directories are opened one by one without following symbolic links, so
that nothing below a root can lead outside it. POSIX only: needs ``dir_fd``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
)

__all__ = [
    "READ_SIZE",
    "NewFile",
    "is_temporary",
    "open_directory",
    "os_errors_translated",
    "read_range",
    "sync_directory",
    "temporary_name",
    "translate_os_error",
]

READ_SIZE: Final = 1 << 20
"""Bytes per read: large enough to hide the cost of a system call, small enough to stay in the cache."""

_WRITE_SIZE: Final = 1 << 18
"""Bytes per write at most: for larger ones some kernels look for contiguous memory, at ten times the cost."""
_TEMPORARY_PREFIX: Final = ".upload-"
_TEMPORARY_SUFFIX: Final = ".tmp"

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
_RENAME_NOREPLACE: Final = 1

_Translation = tuple[type[BackupError], str | None, str]
"""Class, kind (`None`: the class's own) and hint."""

_FULL: Final[_Translation] = (SinkFullError, None, "free space, or use another place")
_REFUSED: Final[_Translation] = (SinkPermissionError, None, "check owner, mode and credentials")
_MISSING: Final[_Translation] = (BlobNotFoundError, None, "")
_TAKEN: Final[_Translation] = (BlobExistsError, None, "published blobs are never overwritten")
_BAD_PATH: Final[_Translation] = (SinkError, "bad_path", "a part of the path is not a plain directory, or too long")
_EXHAUSTED: Final[_Translation] = (SinkError, "out_of_resources", "raise the limits of this process")
_OTHERWISE: Final[_Translation] = (SinkUnavailableError, None, "try again; check the device, the mount or the network")
_BY_CODE: Final[Mapping[int, _Translation]] = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: (SinkFullError, "file_too_large", "raise the limit on file sizes, or use another place"),
    errno.EROFS: (SinkPermissionError, None, "it is mounted read-only"),
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.ENOENT: _MISSING,
    errno.EEXIST: _TAKEN,
    errno.EINVAL: (SinkError, None, ""),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG), _BAD_PATH),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM), _EXHAUSTED),
}
_BY_CLASS: Final[Mapping[type[OSError], _Translation]] = {
    PermissionError: _REFUSED,
    FileNotFoundError: _MISSING,
    FileExistsError: _TAKEN,
}


def temporary_name() -> str:
    """Return a fresh hidden name for a file that is being written."""
    return f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Return whether *name* (without directories) is one of `temporary_name`."""
    return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX)


def translate_os_error(
    error: OSError, doing: str, *, written_bytes: int | None = None, free_bytes: int | None = None
) -> BackupError:
    """
    Return the `BackupError` for *error*; raise it ``from`` the original.

    Args:
        error: As raised by a file operation.
        doing: What was attempted on what, for example ``"writing a.json"``.
        written_bytes: How much had been written, when that helps.
        free_bytes: What the file system had left.
    """
    code = error.errno
    # File systems of fsspec put the server's own words into strerror.
    why = error.strerror or (os.strerror(code) if code is not None else f"{type(error).__name__}: {error}")
    facts: dict[str, Any] = {"errno": code, "written_bytes": written_bytes, "free_bytes": free_bytes}
    cls, kind, hint = _classify(error)
    if cls is SinkFullError:
        needed = "" if written_bytes is None else f"more than {written_bytes} bytes are needed"
        free = "" if free_bytes is None else f"{free_bytes} bytes are free"
        hint = "; ".join(part for part in (needed, free, hint) if part)
    context = {name: value for name, value in facts.items() if value is not None}
    return cls(f"{doing} failed: {why[:300]}", kind=kind, hint=hint, **context)


@contextlib.contextmanager
def os_errors_translated(doing: str, file: NewFile | None = None) -> Iterator[None]:
    """
    Raise what the operating system refuses as `BackupError`; what is ours already passes.

    Args:
        doing: What is attempted on what, for messages.
        file: The file being written, whose size and free space a message then names.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, BackupError):
            raise  # ours already, and an OSError only by inheritance
        facts: dict[str, Any] = {}
        if file is not None:
            facts["written_bytes"] = file.size_bytes
            with contextlib.suppress(OSError):
                facts["free_bytes"] = file.free_bytes()
        raise translate_os_error(error, doing, **facts) from error


def _classify(error: OSError) -> _Translation:
    if error.errno is None:  # file systems of fsspec often leave it out
        return next((found for cls, found in _BY_CLASS.items() if isinstance(error, cls)), _OTHERWISE)
    return _BY_CODE.get(error.errno, _OTHERWISE)


def sync_directory(directory_fd: int) -> None:
    """Make names in a directory survive a power cut; file systems that cannot are left to themselves."""
    try:
        os.fsync(directory_fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _make_private_directories(path: Path) -> None:
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for item in reversed(missing):
        with contextlib.suppress(FileExistsError):
            item.mkdir(mode=0o700)
        parent = os.open(item.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_directory(parent)
        finally:
            os.close(parent)


def open_directory(root: Path, parts: Sequence[str] = (), *, create: bool = False) -> int:
    """
    Return a descriptor of the directory *parts* below *root*; the caller closes it.

    Args:
        root: Absolute path; symbolic links in it are followed.
        parts: Names below it; symbolic links are refused.
        create: Whether missing directories are made, with mode 0700.

    Raises:
        OSError: As the operating system says.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if create:
        _make_private_directories(root)
    current = os.open(root, flags)
    try:
        for part in parts:
            try:
                child = os.open(part, flags | os.O_NOFOLLOW, dir_fd=current)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=current)
                sync_directory(current)
                child = os.open(part, flags | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = child
    except BaseException:
        os.close(current)
        raise
    return current


def read_range(file_fd: int, start: int, size_bytes: int | None) -> Iterator[bytes]:
    """Yield ``[start, start + size_bytes)`` of an open file, to its end when *size_bytes* is `None`."""
    offset, left = start, size_bytes
    while left is None or left > 0:
        part = os.pread(file_fd, READ_SIZE if left is None else min(READ_SIZE, left), offset)
        if not part:
            return
        offset += len(part)
        left = None if left is None else left - len(part)
        yield part


class NewFile:
    """
    A file being written that nobody sees before `publish`.

    Use it as a context manager: leaving the block without `publish`, for whatever reason, removes every trace.

    Args:
        directory_fd: Open directory the file will be in; stays the caller's.
        name: Its final name.

    Raises:
        OSError: From every method, as the operating system says.
    """

    def __init__(self, directory_fd: int, name: str) -> None:
        self._directory_fd = directory_fd
        self._name = name
        self._pending = bytearray()
        self._temporary = temporary_name()
        self.size_bytes = 0
        """Bytes given to `write` so far."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._temporary, flags, 0o600, dir_fd=directory_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        # What is published was flushed before, so closing can lose nothing. The hidden name is gone already after a
        # publish; where it cannot be removed, the leftover is found by that name later.
        with contextlib.suppress(OSError):
            os.close(self._fd)
        with contextlib.suppress(OSError):
            os.unlink(self._temporary, dir_fd=self._directory_fd)

    def write(self, data: bytes) -> None:
        """Append bytes; small pieces are gathered first."""
        self.size_bytes += len(data)
        if len(self._pending) + len(data) < _WRITE_SIZE:
            self._pending += data
            return
        self._flush()
        if len(data) < _WRITE_SIZE:
            self._pending += data
        else:
            self._write_out(data)

    def _flush(self) -> None:
        self._write_out(self._pending)
        self._pending = bytearray()

    def _write_out(self, data: bytes | bytearray) -> None:
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.write(self._fd, view[done : done + _WRITE_SIZE])

    def free_bytes(self) -> int:
        """Return what unprivileged writers have left on the file system."""
        facts = os.fstatvfs(self._directory_fd)
        return facts.f_bavail * facts.f_frsize

    def publish(self) -> os.stat_result:
        """
        Let the file appear under its name, durably; return its facts.

        Raises:
            FileExistsError: The name is taken; nothing was changed.
        """
        self._flush()
        os.fsync(self._fd)
        try:
            os.link(
                self._temporary,
                self._name,
                src_dir_fd=self._directory_fd,
                dst_dir_fd=self._directory_fd,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            _rename_new(self._directory_fd, self._temporary, self._name)
        else:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._directory_fd)
        sync_directory(self._directory_fd)
        return os.fstat(self._fd)


def _rename_new(directory_fd: int, old: str, new: str) -> None:
    """Rename unless *new* exists, for file systems without hard links: Linux ``renameat2(RENAME_NOREPLACE)``."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        if renameat2(directory_fd, os.fsencode(old), directory_fd, os.fsencode(new), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS}:
        raise SinkError(
            f"this file system can publish {new} neither by hard link nor by exclusive rename",
            kind="publish_unsupported",
            hint="existing files could be overwritten here; keep archives on another file system",
        )
    raise OSError(code, os.strerror(code), new)
