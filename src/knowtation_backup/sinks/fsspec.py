"""`FsspecSink`: archives on a local directory, on S3, or on any file system fsspec reaches."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ..contracts import ArchiveSink, Clock, utc_now
from ..errors import ConfigurationError
from ..model.blobs import BlobInfo, BlobLock, SinkCapabilities
from ._filesystem import FilesystemStore, Publish
from ._local import LocalStore
from ._sftp import SFTP_URLS, SftpStore, sftp_connecting, sftp_settings
from ._store import Leftover, Store
from .s3_options import S3Options

if TYPE_CHECKING:
    from ._s3 import S3Store

__all__ = ["FsspecSink", "Leftover"]


class FsspecSink(ArchiveSink):
    """
    Blobs below a path of a file system.

    Local directories are create-only and durable: a hidden temporary file in the same directory, flushed, published by
    a hard link that fails when the name is taken; files 0600, directories 0700, made when first written to. On S3,
    blobs are written with conditional requests and checksums, in parts when they are large, see `S3Options`. Other file
    systems are written in the one way that never shows half a blob there; `capabilities` says what that guarantees.

    A sink made from a URL holds connections: `close` it, or use it in a ``with`` statement.

    Args:
        target: A path, a URL such as ``memory://backups`` or ``s3://bucket/backups``, or an fsspec file system, which
            should be made with ``skip_instance_cache=True, use_listings_cache=False``.
        path: Path below *target*.
        storage_options: For the file system of a URL; may hold credentials, is not kept.
        publish: For file systems this release does not know: ``close`` when an upload becomes visible only when it is
            closed, ``rename`` when renaming is atomic.
        s3: How blobs are written to S3.
        clock: Dates Object Lock.
        sleep: Waits before a request to S3 is repeated.

    Raises:
        ConfigurationError: No such protocol, its package is missing, or it is not known how it publishes whole.
    """

    def __init__(  # noqa: PLR0913 - one option per kind of place, and two for tests
        self,
        target: str | os.PathLike[str] | AbstractFileSystem,
        path: str = "",
        *,
        storage_options: Mapping[str, Any] | None = None,
        publish: Publish | None = None,
        s3: S3Options | None = None,
        clock: Clock = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        options = s3 or S3Options()
        if isinstance(target, AbstractFileSystem):
            filesystem, root = target, target._strip_protocol(path)  # noqa: SLF001 - fsspec has no public name for it
        else:
            text = os.fspath(target)
            settings = {"skip_instance_cache": True, "use_listings_cache": False, **(storage_options or {})}
            if text.startswith(_S3_URLS):
                settings = _s3_settings(options, settings)
            try:
                if text.startswith(SFTP_URLS):
                    settings = sftp_settings(settings)
                with sftp_connecting(text):
                    filesystem, root = url_to_fs(text, **settings)
            except ConfigurationError:
                raise  # ours already, and a ValueError only by inheritance
            except (ValueError, ImportError, TypeError) as error:
                protocol = text.partition("://")[0]
                message = f"no file system for {protocol}:// can be made: {type(error).__name__}"
                raise ConfigurationError(message, kind="no_such_filesystem", hint="check URL and options") from error
            root = "/".join(part for part in (root.rstrip("/"), path.strip("/")) if part) if path else root
        self._store: Store
        self._s3: S3Store | None = None
        if isinstance(filesystem, LocalFileSystem):
            self._store = LocalStore(root or "/")
        elif "sftp" in filesystem.protocol and hasattr(filesystem, "ftp"):
            self._store = SftpStore(filesystem, root, owned=filesystem is not target)
        elif _is_s3(filesystem):
            owned = filesystem is not target
            self._store = self._s3 = _s3_store(filesystem, root, options, owned=owned, clock=clock, sleep=sleep)
        else:
            self._store = FilesystemStore(filesystem, root, publish)

    def __repr__(self) -> str:
        """Return class and location."""
        return f"FsspecSink({self.location!r})"

    @property
    def capabilities(self) -> SinkCapabilities:
        """What this sink guarantees."""
        return self._store.capabilities

    @property
    def location(self) -> str:
        """A path, or protocol and path."""
        return self._store.location

    def close(self) -> None:
        """End the connections this sink opened; the file system you brought is yours to close."""
        if self._s3 is not None:
            self._s3.close()
        if isinstance(self._store, SftpStore):
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def probe(self) -> SinkCapabilities:
        """
        Find out what cannot be known without asking, and return `capabilities`.

        On S3: whether the store honours ``If-None-Match: *``, tried on an object of its own below the prefix that is
        never listed, has always the same content and stays. Other places need no asking.

        Raises:
            SinkPermissionError: Writing is refused.
            SinkUnavailableError: The store could not be reached.
        """
        if self._s3 is not None:
            self._s3.probe()
        return self.capabilities

    def leftovers(self) -> Iterator[Leftover]:
        """Yield temporary files and unfinished uploads of interrupted writes; `list` never shows them."""
        return self._store.leftovers()

    def remove_leftovers(
        self, *, now: dt.datetime, older_than: dt.timedelta = dt.timedelta(days=1)
    ) -> tuple[Leftover, ...]:
        """
        Remove temporary files and unfinished uploads of interrupted writes and return them.

        Args:
            now: The present moment.
            older_than: Younger ones, and those without a known time, stay: their writer may be alive.

        Raises:
            SinkPermissionError: Deleting is refused.
            SinkUnavailableError: The store could not be reached.
        """
        old = tuple(
            item for item in self.leftovers() if item.modified_at is not None and now - item.modified_at > older_than
        )
        for item in old:
            self._store.remove_leftover(item)
        return old

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        return self._store.put(key, chunks)

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        return self._store.read(key, start, size_bytes)

    def _stat(self, key: str) -> BlobInfo:
        return self._store.stat(key)

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        return self._store.walk(prefix)

    def _delete(self, key: str) -> None:
        self._store.delete(key)

    def _lock_of(self, key: str) -> BlobLock:
        return super()._lock_of(key) if self._s3 is None else self._s3.lock_of(key)

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        return super()._retain_until(key, until) if self._s3 is None else self._s3.retain_until(key, until)


_S3_URLS = ("s3://", "s3a://")


def _is_s3(filesystem: AbstractFileSystem) -> bool:
    names = filesystem.protocol
    if "s3" not in ((names,) if isinstance(names, str) else names):
        return False
    from s3fs import S3FileSystem  # noqa: PLC0415 - half a second that other places need not pay

    return isinstance(filesystem, S3FileSystem)


def _s3_settings(options: S3Options, given: Mapping[str, Any]) -> dict[str, Any]:
    from ._s3_client import client_settings  # noqa: PLC0415 - half a second that other places need not pay

    return client_settings(options, given)


def _s3_store(filesystem: AbstractFileSystem, root: str, options: S3Options, **facts: Any) -> S3Store:
    from ._s3 import S3Store  # noqa: PLC0415 - half a second that other places need not pay

    return S3Store(filesystem, root, options, **facts)
