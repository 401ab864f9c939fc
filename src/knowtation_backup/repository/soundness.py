"""
Whether the manifest and the tables of an archive agree: what a writer key can prove of an archive's structure.

Every table reads, what tables name the manifest names too, and all of them together give each section the root it had
when it was backed up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import attrs

from ..errors import BackupError, IntegrityError
from ..model.sections import PAGE_BYTES, SectionKind
from .claims import ClaimRegister, TableName
from .folding import fold_ids
from .keys import ID_BYTES, WriterKey
from .layout import archive_key, index_key
from .manifest import ArchiveManifest, FileTable, ImageTables, RecordTables, SegmentTables
from .proving import WRONG_BYTES
from .reading import IndexReader
from .tables import SEGMENT_PAGES, FrameRef, PageTable, RecordTable

__all__ = ["Unsound", "check_soundness"]

_Table = TypeVar("_Table", PageTable, RecordTable)


@attrs.frozen
class Unsound:
    """Something that does not add up."""

    where: str
    """Key of the object it was found in."""
    error: BackupError
    section: str
    """Of which nothing can be relied on; empty when the rest of it can."""


def check_soundness(
    archive_id: str, manifest: ArchiveManifest, reader: IndexReader, keys: WriterKey, register: ClaimRegister
) -> Iterator[Unsound]:
    """
    Yield what does not add up, and enter what tables claim of packs into *register*.

    Memory: a segment's ids, and 40 bytes for every record of a segment.

    Raises:
        SinkUnavailableError: The store could not be reached; `SinkPermissionError`: reading is refused.
    """
    check = _Check(archive_id, manifest, reader, keys, register)
    for section in manifest.sections:
        match section:
            case FileTable():
                yield from check.file(section)
            case ImageTables():
                yield from check.image(section)
            case RecordTables():
                yield from check.records(section)


class _Check:
    def __init__(
        self,
        archive_id: str,
        manifest: ArchiveManifest,
        reader: IndexReader,
        keys: WriterKey,
        register: ClaimRegister,
    ) -> None:
        self._where = archive_key(archive_id)
        self._manifest = manifest
        self._reader = reader
        self._keys = keys
        self._register = register
        self._sizes = {ref.object_id: ref.size_bytes for ref in manifest.packs}

    def _disagrees(self, section: str, message: str, kind: str) -> Unsound:
        return Unsound(self._where, IntegrityError(message, kind=kind, section=section), section)

    def file(self, table: FileTable) -> Iterator[Unsound]:
        self._register.note_file(self._manifest, table)
        found = sum(piece.size_bytes for piece in table.pieces)
        if found != table.size_bytes:
            message = f"{table.name} has {found} bytes in pieces, the manifest says {table.size_bytes}"
            yield self._disagrees(table.name, message, "root_changed")
        for piece in table.pieces:
            if piece.offset + piece.length > self._manifest.packs[piece.pack].size_bytes:
                message = f"a piece of {table.name} lies beyond the end of its pack"
                yield self._disagrees(table.name, message, "bad_table")
                return

    def image(self, tables: ImageTables) -> Iterator[Unsound]:
        pages_left = -(-tables.size_bytes // PAGE_BYTES)
        expected = -(-pages_left // SEGMENT_PAGES)
        if len(tables.segments) != expected:
            message = f"{tables.name} has {len(tables.segments)} segments instead of {expected}"
            yield self._disagrees(tables.name, message, "bad_table")
            return
        root = self._keys.digest(b"image")
        whole = True
        for segment in tables.segments:
            pages = min(SEGMENT_PAGES, pages_left)
            pages_left -= pages
            found, problems = self._tables(segment, SectionKind.IMAGE, self._reader.page_table)
            yield from problems
            whole = whole and not problems
            self._reader.turn()
            root.update(bytes(memoryview(fold_ids(found))[: pages * ID_BYTES]))
        root.update(tables.size_bytes.to_bytes(8, "big"))
        if whole and root.digest() != tables.root:
            message = f"the tables of {tables.name} give another image than was backed up"
            yield self._disagrees(tables.name, message, "root_changed")

    def records(self, tables: RecordTables) -> Iterator[Unsound]:
        if len(tables.segments) != 1 << tables.bits:
            message = f"{tables.name} has {len(tables.segments)} segments instead of {1 << tables.bits}"
            yield self._disagrees(tables.name, message, "bad_table")
            return
        yield from self._tenants(tables)
        root = self._keys.digest(b"records")
        count = 0
        whole = True
        for segment in tables.segments:
            found, problems = self._tables(segment, SectionKind.RECORDS, self._reader.record_table)
            yield from problems
            whole = whole and not problems
            known: dict[bytes, bytes] = {}
            for table in found:
                table.fold_ids(known)
            count += len(known)
            root.update(b"".join([key + known[key] for key in sorted(known)]))
        if whole and (count != tables.count or root.digest() != tables.root):
            message = f"the tables of {tables.name} give other records than were backed up"
            yield self._disagrees(tables.name, message, "root_changed")

    def _tenants(self, tables: RecordTables) -> Iterator[Unsound]:
        """Try the tables of public keys: those who write need them, those who read do not."""
        for ref in tables.tenants:
            index_id = self._manifest.indexes[ref.index].object_id
            try:
                self._reader.tenant_table(index_id, ref.frame)
            except WRONG_BYTES as error:
                yield Unsound(index_key(index_id), error, "")

    def _tables(
        self, segment: SegmentTables, kind: SectionKind, read: Callable[[bytes, int], _Table]
    ) -> tuple[list[_Table], list[Unsound]]:
        tables: list[_Table] = []
        problems: list[Unsound] = []
        for ref in segment.tables:
            name = TableName(self._manifest.indexes[ref.index].object_id, ref.frame, kind)
            try:
                table = read(name.index_id, name.frame)
                packs = {frame.pack_id for frame in table.frames}
                self._register.note_table(name, packs)
                self._check_frames(name, table.frames, segment)
            except WRONG_BYTES as error:
                problems.append(Unsound(index_key(name.index_id), error, ""))
            else:
                tables.append(table)
        return tables, problems

    def _check_frames(self, name: TableName, frames: Sequence[FrameRef], segment: SegmentTables) -> None:
        """Require that what a table names, the manifest names for this segment."""
        listed = {self._manifest.packs[place].object_id for place in segment.packs}
        for frame in frames:
            if frame.pack_id not in listed:
                message = f"a table of {index_key(name.index_id)} names a pack that the manifest does not"
                raise IntegrityError(message, kind="bad_table")
            if frame.offset + frame.length > self._sizes[frame.pack_id]:
                message = f"a table of {index_key(name.index_id)} names a frame beyond the end of its pack"
                raise IntegrityError(message, kind="bad_table")
