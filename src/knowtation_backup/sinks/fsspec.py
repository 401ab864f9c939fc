"""`FsspecSink`: archives on a local directory or on any file system fsspec reaches."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ..contracts import ArchiveSink
from ..errors import ConfigurationError
from ..model.blobs import BlobInfo, SinkCapabilities
from ._filesystem import FilesystemStore, Publish
from ._local import LocalStore
from ._store import Leftover, Store

__all__ = ["FsspecSink", "Leftover"]


class FsspecSink(ArchiveSink):
    """
    Blobs below a path of a file system.

    Local directories are create-only and durable: a hidden temporary file in the same directory, flushed, published by
    a hard link that fails when the name is taken; files 0600, directories 0700, made when first written to. Other file
    systems are written in the one way that never shows half a blob there; `capabilities` says what that guarantees.

    Args:
        target: A path, a URL such as ``memory://backups`` or ``s3://bucket/backups``, or an fsspec file system, which
            should be made with ``skip_instance_cache=True, use_listings_cache=False``.
        path: Path below *target*.
        storage_options: For the file system of a URL; may hold credentials, is not kept.
        publish: For file systems this release does not know: ``close`` when an upload becomes visible only when it is
            closed, ``rename`` when renaming is atomic.

    Raises:
        ConfigurationError: No such protocol, its package is missing, or it is not known how it publishes whole.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | AbstractFileSystem,
        path: str = "",
        *,
        storage_options: Mapping[str, Any] | None = None,
        publish: Publish | None = None,
    ) -> None:
        if isinstance(target, AbstractFileSystem):
            filesystem, root = target, target._strip_protocol(path)  # noqa: SLF001 - fsspec has no public name for it
        else:
            text = os.fspath(target)
            options = {"skip_instance_cache": True, "use_listings_cache": False, **(storage_options or {})}
            try:
                filesystem, root = url_to_fs(text, **options)
            except (ValueError, ImportError, TypeError) as error:
                protocol = text.partition("://")[0]
                message = f"no file system for {protocol}:// can be made: {type(error).__name__}"
                raise ConfigurationError(message, kind="no_such_filesystem", hint="check URL and options") from error
            root = "/".join(part for part in (root.rstrip("/"), path.strip("/")) if part) if path else root
        self._store: Store
        if isinstance(filesystem, LocalFileSystem):
            self._store = LocalStore(root or "/")
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

    def leftovers(self) -> Iterator[Leftover]:
        """Yield the temporary files that interrupted writes left behind; `list` never shows them."""
        return self._store.leftovers()

    def remove_leftovers(
        self, *, now: dt.datetime, older_than: dt.timedelta = dt.timedelta(days=1)
    ) -> tuple[Leftover, ...]:
        """
        Remove temporary files of interrupted writes and return them.

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
