"""`MemorySink`: blobs in a dictionary, with the permissions a writer is meant to have."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterable, Iterator

from ..contracts import ArchiveSink, Clock, utc_now
from ..errors import BlobExistsError, BlobNotFoundError, ConfigurationError, SinkPermissionError
from ..model.blobs import BlobInfo, BlobLock, SinkCapabilities
from ..model.moments import iso_ms

__all__ = ["MemorySink"]

_PERMISSIONS = "lrwd"
_READ_SIZE = 1 << 20


class MemorySink(ArchiveSink):
    """
    Blobs in this process, gone with it.

    Args:
        permissions: Any of ``l`` (list, and look at one blob), ``r`` (read), ``w`` (create new blobs), ``d`` (delete).
            Nothing ever overwrites. ``lrw`` is all a backup may need.
        clock: Dates new blobs.
        locks: Whether blobs can be locked: what is locked is not deleted before its time.
    """

    def __init__(self, *, permissions: str = _PERMISSIONS, clock: Clock = utc_now, locks: bool = False) -> None:
        if not set(permissions) <= set(_PERMISSIONS):
            raise ConfigurationError(f"permissions are letters of {_PERMISSIONS!r}, not {permissions!r}")
        self._permissions = permissions
        self._clock = clock
        self._locks = locks
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[bytes, BlobInfo]] = {}
        self._retained: dict[str, dt.datetime] = {}

    def __repr__(self) -> str:
        """Return class, number of blobs and permissions."""
        return f"MemorySink({len(self._blobs)} blobs, permissions={self._permissions!r})"

    @property
    def capabilities(self) -> SinkCapabilities:
        """Create-only, not durable."""
        return SinkCapabilities(create_only=True, durable=False, deletable="d" in self._permissions, locks=self._locks)

    @property
    def location(self) -> str:
        """``memory``."""
        return "memory"

    def contents(self) -> dict[str, bytes]:
        """Return a copy of everything stored, whatever the permissions."""
        with self._lock:
            return {key: data for key, (data, _) in sorted(self._blobs.items())}

    def _require(self, permission: str, doing: str) -> None:
        if permission not in self._permissions:
            message = f"{doing} needs permission {permission!r}; this sink allows {self._permissions!r}"
            raise SinkPermissionError(message, permission=permission)

    def _get(self, key: str) -> tuple[bytes, BlobInfo]:
        with self._lock:
            found = self._blobs.get(key)
        if found is None:
            raise BlobNotFoundError(f"there is no blob {key} in memory", key=key)
        return found

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        self._require("w", f"writing {key}")
        if key in self._blobs:
            raise BlobExistsError(f"there is a blob {key} in memory already", key=key)
        data = b"".join(chunks)
        info = BlobInfo(key=key, size_bytes=len(data), modified_at=self._clock())
        with self._lock:
            if self._blobs.setdefault(key, (data, info))[1] is not info:
                raise BlobExistsError(f"another writer took {key} in memory", key=key)
        return info

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        self._require("r", f"reading {key}")
        data = self._get(key)[0]
        end = len(data) if size_bytes is None else min(len(data), start + size_bytes)
        for offset in range(start, end, _READ_SIZE):
            yield data[offset : min(end, offset + _READ_SIZE)]

    def _stat(self, key: str) -> BlobInfo:
        self._require("l", f"looking at {key}")
        return self._get(key)[1]

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        self._require("l", "listing")
        with self._lock:
            found = sorted((key, info) for key, (_, info) in self._blobs.items() if key.startswith(prefix))
        for _, info in found:
            yield info

    def _delete(self, key: str) -> None:
        self._require("d", f"deleting {key}")
        with self._lock:
            until = self._retained.get(key)
            if until is not None and until > self._clock():
                raise SinkPermissionError(f"{key} is locked until {iso_ms(until)}", key=key)
            if self._blobs.pop(key, None) is None:
                raise BlobNotFoundError(f"there is no blob {key} in memory", key=key)

    def _lock_of(self, key: str) -> BlobLock:
        self._require("l", f"looking at {key}")
        self._get(key)
        return BlobLock(until=self._retained.get(key))

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        if not self._locks:
            return super()._retain_until(key, until)
        self._require("w", f"locking {key}")
        self._get(key)
        with self._lock:
            self._retained[key] = max(until, self._retained.get(key, until))
            return BlobLock(until=self._retained[key])
