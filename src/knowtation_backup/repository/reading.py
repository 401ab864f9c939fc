"""Reading what a writer key may read: indexes with their tables, and manifests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from ..contracts import ArchiveSink
from ..errors import IntegrityError
from .frames import FileKind, open_file
from .keys import ReadKeys, WriterKey
from .layout import archive_key, index_key
from .manifest import ArchiveManifest, RecordTables, SegmentTables
from .storing import get_object
from .tables import PageTable, RecordTable, TenantTable

__all__ = ["IndexReader", "read_archive_manifest"]

_CACHED_BYTES: Final = 24 << 20
_IDLE_BYTES: Final = 2 << 20


def read_archive_manifest(sink: ArchiveSink, keys: ReadKeys | WriterKey, archive_id: str) -> ArchiveManifest:
    """
    Return the manifest of an archive.

    Raises:
        BlobNotFoundError: There is no such archive.
        ManifestError: It cannot be read; `IntegrityError`, `TamperedError`: it was changed.
    """
    stored = get_object(sink, archive_key(archive_id))
    return ArchiveManifest.from_bytes(b"".join(open_file(FileKind.MANIFEST, stored, keys)))


class IndexReader:
    """
    Tables of indexes, with the most recently used indexes in memory. Thread-safe.

    About 24 MB; or 2 MB and what is in use, where whoever goes through segments says when it turns to the next.

    Args:
        sink: Where they are.
        keys: What opens them.
    """

    def __init__(self, sink: ArchiveSink, keys: ReadKeys | WriterKey) -> None:
        self._sink = sink
        self._keys = keys
        self._lock = threading.Lock()
        self._cached: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._cached_bytes = 0
        self._used: set[bytes] = set()
        """Since the last turn."""

    def turn(self) -> None:
        """
        Drop what was not used since the last turn, beyond 2 MB: to be called between segments.

        Tables of the next segment lie in the indexes of this one, or in new ones. So what deep chains come back to for
        every segment stays, and indexes of large images that were gone through do not.
        """
        with self._lock:
            idle = [index_id for index_id in self._cached if index_id not in self._used]
            for index_id in idle:
                if self._cached_bytes <= _IDLE_BYTES:
                    break
                self._cached_bytes -= sum(map(len, self._cached.pop(index_id)))
            self._used.clear()

    def page_tables(self, manifest: ArchiveManifest, segment: SegmentTables) -> list[PageTable]:
        """Return the tables of a segment of an image, the full one first."""
        return [self.page_table(manifest.indexes[ref.index].object_id, ref.frame) for ref in segment.tables]

    def record_tables(self, manifest: ArchiveManifest, segment: SegmentTables) -> list[RecordTable]:
        """Return the tables of a segment of records, the full one first."""
        return [self.record_table(manifest.indexes[ref.index].object_id, ref.frame) for ref in segment.tables]

    def page_table(self, index_id: bytes, frame: int) -> PageTable:
        """Return the table of pages that begins with a frame of an index; its ids are in the next one."""
        frames = self._frames(index_id)
        return PageTable.from_bytes(_frame(frames, frame), _frame(frames, frame + 1))

    def record_table(self, index_id: bytes, frame: int) -> RecordTable:
        """Return the table of records in a frame of an index."""
        return RecordTable.from_bytes(_frame(self._frames(index_id), frame))

    def tenants(self, manifest: ArchiveManifest, tables: RecordTables) -> dict[bytes, bytes]:
        """Return the public key of every tenant that has one, by the id of the tenant."""
        found: dict[bytes, bytes] = {}
        for ref in tables.tenants:
            found.update(self.tenant_table(manifest.indexes[ref.index].object_id, ref.frame).keys)
        return found

    def tenant_table(self, index_id: bytes, frame: int) -> TenantTable:
        """Return the table of tenants in a frame of an index."""
        return TenantTable.from_bytes(_frame(self._frames(index_id), frame))

    def _frames(self, index_id: bytes) -> list[bytes]:
        with self._lock:
            self._used.add(index_id)
            found = self._cached.get(index_id)
            if found is not None:
                self._cached.move_to_end(index_id)
                return found
        frames = list(open_file(FileKind.INDEX, get_object(self._sink, index_key(index_id)), self._keys))
        with self._lock:
            if index_id not in self._cached:
                self._cached[index_id] = frames
                self._cached_bytes += sum(map(len, frames))
                while self._cached_bytes > _CACHED_BYTES and len(self._cached) > 1:
                    _, dropped = self._cached.popitem(last=False)
                    self._cached_bytes -= sum(map(len, dropped))
        return frames


def _frame(index: Sequence[bytes], number: int) -> bytes:
    if number >= len(index):
        raise IntegrityError("a manifest names a table that its index does not have", kind="bad_table")
    return index[number]
