"""Blobs as files in a local directory: create-only, durable, private."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .._engine.local_files import (
    NewFile,
    is_temporary,
    open_directory,
    os_errors_translated,
    read_range,
    sync_directory,
)
from ..errors import BlobExistsError, BlobNotFoundError, ConfigurationError
from ..model.blobs import BlobInfo, SinkCapabilities, check_key
from ._store import Leftover

__all__ = ["LocalStore"]

_ATTEMPTS = 10
"""How often a directory that `delete` tidied away under our feet is made again."""


class LocalStore:
    """
    Files below *root*; blobs 0600, directories 0700, made when first needed.

    Only regular files with valid keys are blobs: symbolic links, directories, devices and hidden files are not, and
    symbolic links are not followed below *root*.
    """

    def __init__(self, root: str) -> None:
        if os.link not in os.supports_dir_fd:
            raise ConfigurationError("local sinks need a POSIX system", kind="platform_unsupported")
        self._root = Path(root).absolute()

    @property
    def capabilities(self) -> SinkCapabilities:
        """Create-only by hard link; flushed to the disk before a blob is reported as written."""
        return SinkCapabilities(create_only=True, durable=True)

    @property
    def location(self) -> str:
        """The absolute path."""
        return str(self._root)

    def put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        """Write under a hidden name, flush, publish, flush the directory."""
        *parts, name = key.split("/")
        doing = f"writing {key} in {self._root}"
        with contextlib.ExitStack() as stack:
            with os_errors_translated(doing):
                directory_fd, file = self._new_file(parts, name)
            stack.callback(os.close, directory_fd)
            stack.enter_context(file)
            # Asked before streaming, so that hours of work are not thrown away at the end; publishing asks again.
            with os_errors_translated(doing):
                taken = _entry(directory_fd, name) is not None
            if taken:
                message = f"there is a blob {key} in {self._root} already"
                raise BlobExistsError(message, hint="published blobs are never overwritten", key=key)
            for chunk in chunks:
                with os_errors_translated(doing, file):
                    file.write(chunk)
            with os_errors_translated(doing, file):
                facts = file.publish()
        return _info(key, facts)

    def _new_file(self, parts: list[str], name: str) -> tuple[int, NewFile]:
        for attempt in range(_ATTEMPTS):
            directory_fd = open_directory(self._root, parts, create=True)
            try:
                return directory_fd, NewFile(directory_fd, name)
            except FileNotFoundError:
                os.close(directory_fd)
                if attempt == _ATTEMPTS - 1:
                    raise
            except BaseException:
                os.close(directory_fd)
                raise
        raise AssertionError  # pragma: no cover - the last attempt returned or raised

    def read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        """Yield a range of a regular file."""
        *parts, name = key.split("/")
        doing = f"reading {key} in {self._root}"
        # O_NONBLOCK: opening a named pipe must not wait for a writer; it has no effect on regular files.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os_errors_translated(doing):
            with _directory(self._root, parts) as directory_fd:
                _require_blob(_entry(directory_fd, name), key, self._root)
                file_fd = os.open(name, flags, dir_fd=directory_fd)
            try:
                yield from read_range(file_fd, start, size_bytes)
            finally:
                os.close(file_fd)

    def stat(self, key: str) -> BlobInfo:
        """Return the facts of a regular file."""
        *parts, name = key.split("/")
        with os_errors_translated(f"looking at {key} in {self._root}"), _directory(self._root, parts) as directory_fd:
            return _info(key, _require_blob(_entry(directory_fd, name), key, self._root))

    def walk(self, prefix: str) -> Iterator[BlobInfo]:
        """Walk only the directories that can hold keys with this prefix."""
        folder = prefix.rpartition("/")[0]
        try:
            base = check_key(folder).split("/") if folder else []
        except ConfigurationError:
            return  # no valid key starts with it
        for path, facts in self._walk(base):
            if path.startswith(prefix) and not is_temporary(path.rpartition("/")[2]):
                try:
                    yield _info(check_key(path), facts)
                except ConfigurationError:
                    continue  # a foreign file that no key can name

    def delete(self, key: str) -> None:
        """Unlink a regular file, and the directories it leaves empty."""
        *parts, name = key.split("/")
        with os_errors_translated(f"deleting {key} in {self._root}"):
            with _directory(self._root, parts) as directory_fd:
                _require_blob(_entry(directory_fd, name), key, self._root)
                os.unlink(name, dir_fd=directory_fd)
                sync_directory(directory_fd)
            self._remove_empty(parts)

    def _remove_empty(self, parts: list[str]) -> None:
        # A directory that is not empty, or gone, or not ours to remove simply stays.
        with contextlib.suppress(OSError):
            for depth in range(len(parts), 0, -1):
                with _directory(self._root, parts[: depth - 1]) as parent_fd:
                    os.rmdir(parts[depth - 1], dir_fd=parent_fd)

    def leftovers(self) -> Iterator[Leftover]:
        """Yield hidden files of interrupted writes."""
        for path, facts in self._walk([]):
            if is_temporary(path.rpartition("/")[2]):
                info = _info(path, facts)
                yield Leftover(path=path, size_bytes=info.size_bytes, modified_at=info.modified_at)

    def remove_leftover(self, leftover: Leftover) -> None:
        """Unlink a hidden file of an interrupted write."""
        *parts, name = leftover.path.split("/")
        if not is_temporary(name):
            raise ConfigurationError(f"{leftover.path!r} is not a temporary file", kind="bad_key")
        with (
            contextlib.suppress(BlobNotFoundError),
            os_errors_translated(f"deleting {leftover.path} in {self._root}"),
            _directory(self._root, parts) as directory_fd,
        ):
            os.unlink(name, dir_fd=directory_fd)

    def _walk(self, parts: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        """Yield path and facts of regular files, sorted by path; hidden directories are left out."""
        doing = f"listing {self._root}"
        entries: list[tuple[str, os.stat_result]] = []
        # Below the root, a file or a symbolic link in place of a directory means: no keys there.
        absent = (FileNotFoundError, NotADirectoryError) if parts else (FileNotFoundError,)
        with (
            os_errors_translated(doing),
            contextlib.suppress(*absent),
            _directory(self._root, parts) as directory_fd,
            os.scandir(directory_fd) as found,
        ):
            for item in found:
                facts = _entry(directory_fd, item.name)
                if facts is not None:
                    entries.append((item.name, facts))
        # With its slash a directory sorts exactly where the keys below it belong.
        entries.sort(key=lambda entry: entry[0] + "/" if stat.S_ISDIR(entry[1].st_mode) else entry[0])
        for name, facts in entries:
            if stat.S_ISREG(facts.st_mode):
                yield "/".join((*parts, name)), facts
            elif stat.S_ISDIR(facts.st_mode) and not name.startswith("."):
                yield from self._walk([*parts, name])


@contextlib.contextmanager
def _directory(root: Path, parts: list[str]) -> Iterator[int]:
    directory_fd = open_directory(root, parts)
    try:
        yield directory_fd
    finally:
        os.close(directory_fd)


def _entry(directory_fd: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _require_blob(facts: os.stat_result | None, key: str, root: Path) -> os.stat_result:
    if facts is not None and stat.S_ISREG(facts.st_mode):
        return facts
    what = "no blob" if facts is None else "no regular file, so no blob,"
    raise BlobNotFoundError(f"there is {what} {key} in {root}", key=key)


def _info(key: str, facts: os.stat_result) -> BlobInfo:
    # Whole microseconds: a float of nanoseconds since 1970 would round.
    modified_at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=facts.st_mtime_ns // 1000)
    return BlobInfo(key=key, size_bytes=facts.st_size, modified_at=modified_at)
