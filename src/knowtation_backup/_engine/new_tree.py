"""
A directory of local files that appears complete or not at all.

It is written under a hidden name beside its place, flushed to the disk, and renamed. The system refuses to rename a
directory over anything but an empty one, so nothing that was there is ever replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

import attrs

from ..errors import BlobExistsError, ConfigurationError
from .local_files import open_directory, os_errors_translated, sync_directory

__all__ = ["NewTree", "TreeFile", "is_free"]

_SYNC_BYTES: Final = 32 << 20
"""After so many bytes the disk is given what was written, while more is being made ready."""
_WRITE_BYTES: Final = 1 << 18
"""At most in one call: for more some kernels look for contiguous memory, at ten times the cost."""
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_CHARACTERS: Final = 40


@attrs.define(eq=False)
class TreeFile:
    """A file of a tree. What is skipped becomes a hole, which reads as zeros and takes no space."""

    _fd: int
    _flusher: ThreadPoolExecutor
    _flushing: Future[None] | None = attrs.field(default=None, init=False)
    _unsynced: int = attrs.field(default=0, init=False)
    size_bytes: int = attrs.field(default=0, init=False)
    """What was written and skipped so far."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Raises `OSError` as the operating system says."""
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self._fd, view[done : done + _WRITE_BYTES], self.size_bytes + done)
        self.size_bytes += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_BYTES and (self._flushing is None or self._flushing.done()):
            self._settle()
            self._flushing = self._flusher.submit(os.fdatasync, self._fd)
            self._unsynced = 0

    def skip(self, size_bytes: int) -> None:
        """Append zeros."""
        self.size_bytes += size_bytes

    def _settle(self) -> None:
        if self._flushing is not None:
            self._flushing.result()  # the system tells of a failed write once, to whoever asks first

    def finish(self) -> None:
        """Hand everything to the disk; same."""
        self._settle()
        os.ftruncate(self._fd, self.size_bytes)  # a hole at the end
        os.fsync(self._fd)


class NewTree:
    """
    A directory that is being written. Use it as a context manager: leaving it without `publish` removes every trace.

    Files get mode 0600, directories 0700.

    Args:
        path: Where it will be; nothing may be there but an empty directory. Missing parents are made.
        aside: Name that whatever is there gets when the new directory appears; `None`: nothing may be there.

    Raises:
        BlobExistsError: Something is at *path* already.
        SinkError: From every method: what the operating system refuses.
    """

    def __init__(self, path: str | os.PathLike[str], *, aside: str | None = None) -> None:
        self.path = Path(path).absolute()
        self.aside_path: Path | None = None if aside is None else self.path.with_name(aside)
        if not self.path.name:
            raise ConfigurationError(f"{self.path} cannot be written to", kind="bad_path", hint="name a new directory")
        hidden = f".{self.path.name[:_NAME_CHARACTERS]}.{secrets.token_hex(4)}.partial"
        self.hidden_path: Path = self.path.with_name(hidden)
        """Where it is until then."""
        self.moved_to: Path | None = None
        """Where that is now which was there before; known once it was published."""
        self._published = False
        with os_errors_translated(f"writing to {self.path}"):
            if not is_free(self.path) and (self.aside_path is None or not is_free(self.aside_path)):
                raise self._taken()
            os.close(open_directory(self.path.parent, create=True))
            self.hidden_path.mkdir(mode=0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if not self._published:
            shutil.rmtree(self.hidden_path, ignore_errors=True)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[TreeFile]:
        """Give a new file to be written, of a relative path; it is on the disk when the block ends."""
        *parts, last = name.split("/")
        with os_errors_translated(f"writing {name} of {self.path}"):
            directory_fd = open_directory(self.hidden_path, parts, create=True)
            try:
                file_fd = os.open(last, _FLAGS, 0o600, dir_fd=directory_fd)
            finally:
                os.close(directory_fd)
            try:
                with ThreadPoolExecutor(1, thread_name_prefix="flush") as flusher:
                    file = TreeFile(file_fd, flusher)
                    yield file
                    file.finish()
            finally:
                os.close(file_fd)

    def directory(self, name: str) -> None:
        """Make a directory of a relative path, unless it is there."""
        with os_errors_translated(f"writing {name} of {self.path}"):
            os.close(open_directory(self.hidden_path, name.split("/"), create=True))

    def publish(self) -> Path:
        """
        Let the directory appear under its name, durably; return its path.

        What was there, if it may be moved, has its other name right before; it gets its own back if that fails.

        Raises:
            BlobExistsError: Something came to be there meanwhile.
        """
        with os_errors_translated(f"publishing {self.path}"):
            for directory, _, _ in os.walk(self.hidden_path):
                _sync(Path(directory))
            moved = self._move_aside()
            try:
                self.hidden_path.rename(self.path)
            except OSError as error:
                if moved is not None:
                    moved.rename(self.path)
                    raise
                if not is_free(self.path):
                    raise self._taken() from error
                raise
            self.moved_to = moved
            self._published = True
            _sync(self.path.parent)
        return self.path

    def _move_aside(self) -> Path | None:
        """Give what is there its other name, and return that, if anything is there and may be moved."""
        if self.aside_path is None or is_free(self.path):
            return None
        if not is_free(self.aside_path):
            raise self._taken()
        self.path.rename(self.aside_path)
        return self.aside_path

    def _taken(self) -> BlobExistsError:
        hint = "choose another place, or move away what is there"
        return BlobExistsError(f"there is something at {self.path} already", hint=hint, path=str(self.path))


def is_free(path: Path) -> bool:
    """Whether nothing is at a path but at most an empty directory."""
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(facts.st_mode) and not any(path.iterdir())


def _sync(directory: Path) -> None:
    directory_fd = open_directory(directory)
    try:
        sync_directory(directory_fd)
    finally:
        os.close(directory_fd)
