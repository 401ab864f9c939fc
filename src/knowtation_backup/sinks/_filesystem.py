"""
Blobs on any other fsspec file system, published in the one way that never shows half a blob there.

Three ways are known, and a file system nobody has vouched for is refused rather than trusted:

- ``memory``: fsspec's in-process file system; one dictionary operation, create-only.
- ``close``: object stores; an upload becomes visible when it is closed, and is discarded when anything goes wrong.
  (Leaving a ``with fs.open(...)`` block by an exception would *publish* the truncated object.)
- ``rename``: a temporary name, then a rename that is atomic on the server.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFile

from .._engine.local_files import is_temporary, temporary_name, translate_os_error
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkUnavailableError,
    TruncatedError,
)
from ..model.blobs import BlobInfo, SinkCapabilities, check_key
from ._store import Leftover

__all__ = ["FilesystemStore", "Publish"]

Publish = Literal["memory", "close", "rename"]

_KNOWN: Final[Mapping[str, Publish]] = {
    "memory": "memory",
    **dict.fromkeys(("gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss"), "close"),
    **dict.fromkeys(("sftp", "ssh", "smb", "hdfs", "arrow_hdfs", "webhdfs"), "rename"),
}

_READ_SIZE: Final = 8 << 20
_WRITE_SIZE: Final = 16 << 20
_TIME_FIELDS: Final = ("LastModified", "mtime", "modified", "last_modified", "updated", "created")


class FilesystemStore:
    """
    Keys below *root* on *filesystem*.

    Args:
        filesystem: Made without instance and listing caches.
        root: Path on it, without protocol and without a final slash.
        publish: How to publish whole; `None` chooses by protocol and refuses unknown ones.
    """

    def __init__(self, filesystem: AbstractFileSystem, root: str, publish: Publish | None) -> None:
        self._fs = filesystem
        self._root = root.rstrip("/")
        names = filesystem.protocol
        self._protocols = {names} if isinstance(names, str) else set(names)
        chosen = publish or next((way for name, way in _KNOWN.items() if name in self._protocols), None)
        if chosen is None:
            raise ConfigurationError(
                f"it is not known how {'/'.join(sorted(self._protocols))} publishes a blob whole",
                kind="publish_unknown",
                hint="pass publish='close' for an object store, publish='rename' where renaming is atomic",
            )
        self._publish: Publish = chosen
        # fsspec's own walk takes every error for an empty directory unless told otherwise.
        inherited = type(filesystem).find is AbstractFileSystem.find
        inherited |= getattr(type(filesystem), "_find", None) is AsyncFileSystem._find  # noqa: SLF001 - documented hook
        self._find_options = {"on_error": "raise"} if inherited else {}

    @property
    def capabilities(self) -> SinkCapabilities:
        """Create-only for sure in process only; durable wherever a server acknowledges a write."""
        in_process = self._publish == "memory"
        return SinkCapabilities(create_only=in_process, durable=not in_process)

    @property
    def location(self) -> str:
        """Protocol and path."""
        return f"{min(self._protocols, key=len)}://{self._root.lstrip('/')}"

    def put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        """Refuse a taken key, then publish in this file system's way."""
        doing = f"writing {key} in {self.location}"
        path = self._path(key)
        with _translated(doing):
            self._refuse_taken(path, key)
        if self._publish == "memory":
            size_bytes = self._put_memory(path, key, chunks)
        elif self._publish == "close":
            size_bytes = self._put_close(path, doing, chunks)
        else:
            size_bytes = self._put_rename(path, key, doing, chunks)
        info = self.stat(key)
        if info.size_bytes != size_bytes:
            message = f"{key} in {self.location} has {info.size_bytes} bytes after {size_bytes} were written"
            raise TruncatedError(message, key=key)
        return info

    def _refuse_taken(self, path: str, key: str) -> None:
        self._fs.invalidate_cache()
        try:
            self._fs.info(path)  # not `exists`, which takes every error for absence
        except FileNotFoundError:
            return
        message = f"there is a blob {key} in {self.location} already"
        raise BlobExistsError(message, hint="published blobs are never overwritten", key=key)

    def _put_memory(self, path: str, key: str, chunks: Iterable[bytes]) -> int:
        file = MemoryFile(self._fs, path)
        for chunk in chunks:
            file.write(chunk)
        file.modified = dt.datetime.now(dt.UTC)
        # One dictionary operation decides between two writers.
        if self._fs.store.setdefault(path, file) is not file:
            raise BlobExistsError(f"another writer took {key} in {self.location}", key=key)
        return int(file.size)

    def _put_close(self, path: str, doing: str, chunks: Iterable[bytes]) -> int:
        with _translated(doing):
            file = self._fs.open(path, "wb", block_size=_WRITE_SIZE)
        size_bytes = 0
        try:
            for chunk in chunks:
                with _translated(doing):
                    file.write(chunk)
                size_bytes += len(chunk)
            with _translated(doing):
                file.close()
        except BaseException:
            # Closed by name only: a real close, also the one of the garbage collector, would publish what is there.
            with contextlib.suppress(Exception):
                file.discard()
            file.closed = True
            raise
        return size_bytes

    def _put_rename(self, path: str, key: str, doing: str, chunks: Iterable[bytes]) -> int:
        folder = path.rpartition("/")[0]
        temporary = f"{folder}/{temporary_name()}"
        size_bytes = 0
        try:
            with _translated(doing):
                self._fs.makedirs(folder, exist_ok=True)
                file = self._fs.open(temporary, "wb")
            try:
                for chunk in chunks:
                    with _translated(doing):
                        file.write(chunk)
                    size_bytes += len(chunk)
            finally:
                with _translated(doing):
                    file.close()
            with _translated(doing):
                self._refuse_taken(path, key)
                self._fs.mv(temporary, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(temporary)
            raise
        return size_bytes

    def read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        """Yield a range, one request per few MB."""
        end = self.stat(key).size_bytes
        if size_bytes is not None:
            end = min(end, start + size_bytes)
        while start < end:
            stop = min(end, start + _READ_SIZE)
            with _translated(f"reading {key} in {self.location}"):
                part: bytes = self._fs.cat_file(self._path(key), start=start, end=stop)
            if len(part) != stop - start:
                message = f"{key} in {self.location} ended at byte {start + len(part)}, expected {end}"
                raise TruncatedError(message, key=key, offset=start + len(part))
            start = stop
            yield part

    def stat(self, key: str) -> BlobInfo:
        """Return size and time as the file system reports them."""
        with _translated(f"looking at {key} in {self.location}"):
            self._fs.invalidate_cache()
            facts = self._fs.info(self._path(key))
        if facts["type"] != "file":
            raise BlobNotFoundError(f"{key} in {self.location} is a {facts['type']}, not a blob", key=key)
        return self._info(key, facts)

    def walk(self, prefix: str) -> Iterator[BlobInfo]:
        """List the deepest folder of the prefix, then filter."""
        folder = prefix.rpartition("/")[0]
        for path, facts in self._find(folder):
            if path.startswith(prefix) and facts["type"] == "file":
                with contextlib.suppress(ConfigurationError):
                    yield self._info(check_key(path), facts)

    def delete(self, key: str) -> None:
        """Remove a blob that is there."""
        self.stat(key)
        with _translated(f"deleting {key} in {self.location}"):
            self._fs.rm_file(self._path(key))

    def leftovers(self) -> Iterator[Leftover]:
        """Yield temporary files of interrupted writes; object stores keep theirs invisible."""
        for path, facts in self._find(""):
            if is_temporary(path.rpartition("/")[2]):
                info = self._info(path, facts)
                yield Leftover(path=path, size_bytes=info.size_bytes, modified_at=info.modified_at)

    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove one of them."""
        if not is_temporary(leftover.path.rpartition("/")[2]):
            raise ConfigurationError(f"{leftover.path!r} is not a temporary file", kind="bad_key")
        with (
            contextlib.suppress(BlobNotFoundError),
            _translated(f"deleting {leftover.path} in {self.location}"),
        ):
            self._fs.rm_file(self._path(leftover.path))

    def _find(self, folder: str) -> list[tuple[str, Mapping[str, Any]]]:
        with _translated(f"listing {self.location}"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._path(folder) if folder else self._root, detail=True, **self._find_options)
            except FileNotFoundError:
                return []
        skip = len(self._root.strip("/")) + 1 if self._root.strip("/") else 0
        return sorted(((path.lstrip("/")[skip:], facts) for path, facts in found.items()), key=lambda item: item[0])

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    @staticmethod
    def _info(key: str, facts: Mapping[str, Any]) -> BlobInfo:
        moment = next((facts[name] for name in _TIME_FIELDS if facts.get(name) is not None), None)
        if isinstance(moment, int | float):
            moment = dt.datetime.fromtimestamp(moment, dt.UTC)
        if not isinstance(moment, dt.datetime) or moment.tzinfo is None:
            moment = None
        return BlobInfo(key=key, size_bytes=int(facts["size"]), modified_at=moment)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Translate what the file system raises; never wrapped around the caller's chunks."""
    try:
        yield
    except BackupError:
        raise
    except OSError as error:
        raise translate_os_error(error, doing) from error
    except Exception as error:  # vendors raise classes of their own, which we cannot import here
        message = f"{doing} failed: {type(error).__name__}: {str(error)[:200]}"
        raise SinkUnavailableError(message, hint="try again; check credentials and network") from error
