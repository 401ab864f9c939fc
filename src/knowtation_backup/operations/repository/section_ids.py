"""Ids of what a section holds: from the tables of an archive, or of what a source yields, which is not kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from ..._engine.chunking import even
from ...errors import ExportError, TruncatedError
from ...model.sections import PAGE_BYTES, FileSection, ImageSection, RecordSection
from ...repository.folding import fold_ids
from ...repository.keys import ID_BYTES, WriterKey
from ...repository.manifest import ArchiveManifest, FileTable, ImageTables, RecordTables
from ...repository.reading import IndexReader
from ...repository.tables import SEGMENT_PAGES
from ...repository.writer import PIECE_BYTES

__all__ = ["LiveRecords", "live_pages", "live_pieces", "page_count", "stored_pages", "stored_pieces", "stored_records"]

_LOOK_BYTES = 32 * PAGE_BYTES


def page_count(size_bytes: int) -> int:
    """Return how many pages an image has; the last one is filled up with zeros."""
    return -(-size_bytes // PAGE_BYTES)


def stored_pages(manifest: ArchiveManifest, tables: ImageTables, reader: IndexReader) -> Iterator[bytes]:
    """Yield the ids of the pages of an image, segment by segment."""
    left = page_count(tables.size_bytes)
    for segment in tables.segments:
        pages = min(left, SEGMENT_PAGES)
        left -= pages
        yield bytes(fold_ids(reader.page_tables(manifest, segment))[: pages * ID_BYTES])


def live_pages(section: ImageSection, keys: WriterKey) -> Iterator[bytes]:
    """Yield the ids of the pages of an image that is read now, segment by segment."""
    ids: list[bytes] = []
    size = 0
    for piece in even(section.chunks, _LOOK_BYTES):
        size += len(piece)
        padding = -len(piece) % PAGE_BYTES
        ids += keys.page_ids(memoryview(piece + bytes(padding) if padding else piece))
        if len(ids) == SEGMENT_PAGES:
            yield b"".join(ids)
            ids = []
    if ids:
        yield b"".join(ids)
    if size != section.size_bytes:
        message = f"{section.name} should have {section.size_bytes} bytes and has {size}"
        raise TruncatedError(message, kind="section_size", section=section.name)


def stored_pieces(table: FileTable) -> list[bytes]:
    """Return the ids of the pieces of a file: equal for equal content."""
    return [piece.piece_id for piece in table.pieces]


def live_pieces(section: FileSection, keys: WriterKey) -> tuple[list[bytes], int]:
    """Return the same of a file that is read now, and its size."""
    ids: list[bytes] = []
    size = 0
    for piece in even(section.chunks, PIECE_BYTES):
        size += len(piece)
        ids.append(keys.piece_id(piece))
    return ids, size


def stored_records(manifest: ArchiveManifest, tables: RecordTables, reader: IndexReader) -> dict[bytes, bytes]:
    """Return the ids of records by key."""
    found: dict[bytes, bytes] = {}
    for segment in tables.segments:
        for table in reader.record_tables(manifest, segment):
            table.fold_ids(found)
    return found


@attrs.define
class LiveRecords:
    """Records that are read now: their ids, and of those that are not as they were the values, if they are wanted."""

    keys: WriterKey
    known: Mapping[bytes, bytes]
    """Ids by key, as they were."""
    keep: bool
    ids: dict[bytes, bytes] = attrs.field(factory=dict, init=False)
    values: dict[bytes, bytes] = attrs.field(factory=dict, init=False, repr=False)

    def read(self, section: RecordSection) -> None:
        """Read a section."""
        owner: bytes | None = None
        head, secret = b"", b""
        for batch in section.batches:
            for record in batch:
                if record.owner != owner:
                    owner = record.owner
                    head, secret = self.keys.owner_key(owner), self.keys.owner_secret(owner)
                key = head + self.keys.name_key(secret, record.name)
                if key in self.ids:
                    message = f"{section.name} holds two records of one owner and name"
                    raise ExportError(message, kind="duplicate_record")
                record_id = self.ids[key] = self.keys.record_id(record.value)
                if self.keep and self.known.get(key) != record_id:
                    self.values[key] = record.value
