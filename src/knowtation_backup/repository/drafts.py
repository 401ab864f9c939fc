"""Manifests and indexes while they are written: what is named by ids, before everything has its place in a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs

from ..contracts import ArchiveSink
from ..errors import InternalError
from .frames import Compressor, FileHead, FileKind
from .keys import WriterKey
from .layout import index_key, object_id
from .manifest import (
    ArchiveManifest,
    FilePiece,
    FileTable,
    ImageTables,
    ObjectRef,
    RecordTables,
    SectionTables,
    SegmentTables,
    TableRef,
)
from .storing import put_object

__all__ = [
    "DraftFile",
    "DraftImage",
    "DraftPiece",
    "DraftRecords",
    "DraftSection",
    "DraftSegment",
    "DraftTable",
    "IndexWriter",
    "inherited",
    "inherited_tables",
    "place_sections",
]

_INDEX_BYTES = 1 << 20


@attrs.define(eq=False)
class DraftTable:
    """A table that was or will be written: the index it lies in once that is stored, and its first frame there."""

    index_id: bytes | None
    frame: int


@attrs.frozen
class DraftSegment:
    """What one segment is made of."""

    tables: tuple[DraftTable, ...] = ()
    packs: frozenset[bytes] = frozenset()


@attrs.frozen(kw_only=True)
class DraftImage:
    """An image to be."""

    name: str
    size_bytes: int
    root: bytes
    segments: Sequence[DraftSegment]


@attrs.frozen(kw_only=True)
class DraftRecords:
    """Records to be."""

    name: str
    count: int
    root: bytes
    bits: int
    segments: Sequence[DraftSegment]
    tenants: Sequence[DraftTable] = ()
    """Public keys of tenants."""


@attrs.define(eq=False)
class DraftPiece:
    """A piece of a file, and the frame it lies in once that is stored."""

    piece_id: bytes
    size_bytes: int
    pack: ObjectRef | None = None
    frame: int = 0
    offset: int = 0
    length: int = 0


@attrs.frozen(kw_only=True)
class DraftFile:
    """A file to be."""

    name: str
    pieces: Sequence[DraftPiece]


DraftSection: TypeAlias = DraftImage | DraftRecords | DraftFile


def inherited(manifest: ArchiveManifest, segment: SegmentTables) -> DraftSegment:
    """Return a segment as its archive has it."""
    tables = inherited_tables(manifest, segment.tables)
    return DraftSegment(tables, frozenset(manifest.packs[place].object_id for place in segment.packs))


def inherited_tables(manifest: ArchiveManifest, tables: Iterable[TableRef]) -> tuple[DraftTable, ...]:
    """Return tables as their archive has them."""
    return tuple(DraftTable(manifest.indexes[ref.index].object_id, ref.frame) for ref in tables)


class IndexWriter:
    """
    Gathers tables and stores them in indexes of about 1 MB.

    To be used by one thread.
    """

    def __init__(self, sink: ArchiveSink, keys: WriterKey, compressor: Compressor, *, read_back: bool = False) -> None:
        self._read_back = read_back
        self._sink = sink
        self._keys = keys
        self._compressor = compressor
        self._bodies: list[bytes] = []
        self._waiting: list[DraftTable] = []
        self._bytes = 0
        self.indexes: list[ObjectRef] = []
        """What was stored."""

    def add(self, *contents: bytes) -> DraftTable:
        """Take a table of one or two frames; where it lies is known after `flush` at the latest."""
        table = DraftTable(None, len(self._bodies))
        self._bodies += [self._compressor.body(content) for content in contents]
        self._waiting.append(table)
        self._bytes += sum(map(len, self._bodies[table.frame :]))
        if self._bytes >= _INDEX_BYTES:
            self.flush()
        return table

    def flush(self) -> None:
        """Store what was gathered."""
        if not self._bodies:
            return
        head = FileHead.new(FileKind.INDEX, self._keys)
        last = len(self._bodies) - 1
        frames = [head.seal(number, body, last=number == last) for number, body in enumerate(self._bodies)]
        stored = b"".join((head.stored, *frames))
        reference = ObjectRef(object_id(stored), len(stored))
        put_object(self._sink, index_key(reference.object_id), stored, read_back=self._read_back)
        for table in self._waiting:
            table.index_id = reference.object_id
        self.indexes.append(reference)
        self._bodies, self._waiting, self._bytes = [], [], 0


class _Places:
    """Objects in the order they are first named."""

    def __init__(self, known: Iterable[ObjectRef]) -> None:
        self._known = {ref.object_id: ref for ref in known}
        self._places: dict[bytes, int] = {}

    def of(self, object_id: bytes | None) -> int:
        if object_id is None or object_id not in self._known:
            raise InternalError("a manifest would name an object that was not stored", kind="internal")
        return self._places.setdefault(object_id, len(self._places))

    def listed(self) -> tuple[ObjectRef, ...]:
        return tuple(self._known[object_id] for object_id in self._places)


def place_sections(
    sections: Iterable[DraftSection], *, packs: Iterable[ObjectRef], indexes: Iterable[ObjectRef]
) -> Mapping[str, tuple[SectionTables, ...] | tuple[ObjectRef, ...]]:
    """
    Give every object a place, and return the manifest's fields ``sections``, ``packs`` and ``indexes``.

    Args:
        sections: All of the archive.
        packs: At least all that are named.
        indexes: Same.
    """
    pack_places, index_places = _Places(packs), _Places(indexes)

    def tables(drafts: Iterable[DraftTable]) -> tuple[TableRef, ...]:
        return tuple(TableRef(index_places.of(table.index_id), table.frame) for table in drafts)

    def segments(drafts: Sequence[DraftSegment]) -> tuple[SegmentTables, ...]:
        return tuple(
            SegmentTables(
                tables(draft.tables),
                tuple(pack_places.of(pack) for pack in sorted(draft.packs)),
            )
            for draft in drafts
        )

    placed: list[SectionTables] = []
    for draft in sections:
        match draft:
            case DraftImage():
                found: SectionTables = ImageTables(
                    name=draft.name,
                    size_bytes=draft.size_bytes,
                    root=draft.root,
                    segments=segments(draft.segments),
                )
            case DraftRecords():
                found = RecordTables(
                    name=draft.name,
                    count=draft.count,
                    root=draft.root,
                    bits=draft.bits,
                    segments=segments(draft.segments),
                    tenants=tables(draft.tenants),
                )
            case DraftFile():
                pieces = tuple(
                    FilePiece(
                        piece.piece_id,
                        pack_places.of(piece.pack.object_id if piece.pack else None),
                        piece.frame,
                        piece.offset,
                        piece.length,
                        piece.size_bytes,
                    )
                    for piece in draft.pieces
                )
                size = sum(piece.size_bytes for piece in pieces)
                found = FileTable(name=draft.name, size_bytes=size, pieces=pieces)
        placed.append(found)
    return {"sections": tuple(placed), "packs": pack_places.listed(), "indexes": index_places.listed()}
