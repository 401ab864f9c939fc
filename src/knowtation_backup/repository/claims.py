"""
What tables and manifests claim of packs: at this place of this frame lies the page, record or piece of this id.

Reading asks where a page lies. Verifying asks the other way round, so that each pack is gone through once, however many
archives share it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from ..model.sections import SectionKind
from .folding import table_runs
from .keys import ID_BYTES
from .manifest import ArchiveManifest, FileTable
from .reading import IndexReader
from .tables import NOWHERE, RECORD_KEY_BYTES, FrameRef, PageTable, RecordTable, frame_starts

__all__ = [
    "Claim",
    "ClaimRegister",
    "Claims",
    "PageClaim",
    "PieceClaim",
    "RecordClaim",
    "TableName",
    "page_claims",
    "piece_frames",
    "record_claims",
]

_OPEN_CLAIMS: Final = 100_000
"""Claims of tables in memory, about 20 MB; tables beyond that are read again when a later pack needs them."""


class TableName(NamedTuple):
    """A table of an index."""

    index_id: bytes
    frame: int
    kind: SectionKind


class PageClaim(NamedTuple):
    """Pages one after another, from a place of a frame on."""

    slot: int
    ids: bytes


class RecordClaim(NamedTuple):
    """One record."""

    slot: int
    key: bytes
    record_id: bytes


class PieceClaim(NamedTuple):
    """A piece of a file: all of its frame."""

    piece_id: bytes
    size_bytes: int


Claim: TypeAlias = PageClaim | RecordClaim | PieceClaim
Claims: TypeAlias = dict[FrameRef, list[Claim]]


def page_claims(table: PageTable) -> dict[bytes, Claims]:
    """Return what a table of pages claims, by pack."""
    found: dict[bytes, Claims] = {}
    at = 0
    for run in table_runs(table):
        frame = table.frames[run.frame]
        size = run.count * ID_BYTES
        claim = PageClaim(run.slot, table.ids[at : at + size])
        found.setdefault(frame.pack_id, {}).setdefault(frame, []).append(claim)
        at += size
    return found


def record_claims(table: RecordTable) -> dict[bytes, Claims]:
    """Return what a table of records claims, by pack."""
    found: dict[bytes, Claims] = {}
    starts = frame_starts(table.frames)
    for number, position in enumerate(table.positions):
        if position == NOWHERE:
            continue
        place = bisect_right(starts, position) - 1
        frame = table.frames[place]
        key = table.keys[RECORD_KEY_BYTES * number : RECORD_KEY_BYTES * (number + 1)]
        record_id = table.ids[ID_BYTES * number : ID_BYTES * (number + 1)]
        claim = RecordClaim(position - starts[place], key, record_id)
        found.setdefault(frame.pack_id, {}).setdefault(frame, []).append(claim)
    return found


def piece_frames(manifest: ArchiveManifest, table: FileTable) -> list[FrameRef]:
    """Return the frame of each piece of a file."""
    packs = manifest.packs
    return [FrameRef(packs[p.pack].object_id, p.frame, p.offset, p.length, 1) for p in table.pieces]


class ClaimRegister:
    """
    Takes note of who speaks of which pack, and says what is claimed of one.

    Memory: 100 bytes for every pack of every table, and the claims of tables that packs still to be asked for share.

    Args:
        reader: Reads tables again when the claims of a pack are wanted.
    """

    def __init__(self, reader: IndexReader) -> None:
        self._reader = reader
        self._tables: dict[TableName, None] = {}
        self._by_pack: dict[bytes, list[TableName]] = {}
        self._pieces: dict[bytes, dict[FrameRef, set[PieceClaim]]] = {}
        self._open: OrderedDict[TableName, dict[bytes, Claims]] = OrderedDict()

    @property
    def packs(self) -> list[bytes]:
        """Packs that something was claimed of; those of one table come together."""
        return list(dict.fromkeys([*self._by_pack, *self._pieces]))

    def note_table(self, name: TableName, packs: Iterable[bytes]) -> None:
        """Take note of a table and the packs it names; one that is known already costs nothing."""
        if name not in self._tables:
            self._tables[name] = None
            for pack_id in packs:
                self._by_pack.setdefault(pack_id, []).append(name)

    def note_file(self, manifest: ArchiveManifest, table: FileTable) -> None:
        """Take note of the pieces of a file."""
        for piece, frame in zip(table.pieces, piece_frames(manifest, table), strict=True):
            claims = self._pieces.setdefault(frame.pack_id, {}).setdefault(frame, set())
            claims.add(PieceClaim(piece.piece_id, piece.size_bytes))

    def claims(self, pack_id: bytes) -> Claims:
        """
        Return everything that is claimed of a pack; to be asked once for each.

        Raises:
            BackupError: An index that was read before cannot be read now.
        """
        found: Claims = {frame: list(claims) for frame, claims in self._pieces.get(pack_id, {}).items()}
        for name in self._by_pack.get(pack_id, ()):
            for frame, claims in self._take(name, pack_id).items():
                found.setdefault(frame, []).extend(claims)
        return found

    def _take(self, name: TableName, pack_id: bytes) -> Claims:
        waiting = self._open.pop(name, None)
        if waiting is None:
            if name.kind is SectionKind.IMAGE:
                waiting = page_claims(self._reader.page_table(name.index_id, name.frame))
            else:
                waiting = record_claims(self._reader.record_table(name.index_id, name.frame))
            self._reader.turn()
        taken = waiting.pop(pack_id, {})
        if waiting:
            self._open[name] = waiting
            while len(self._open) > 1 and sum(map(_size, self._open.values())) > _OPEN_CLAIMS:
                self._open.popitem(last=False)
        return taken


def _size(waiting: dict[bytes, Claims]) -> int:
    return sum(len(claims) for frames in waiting.values() for claims in frames.values())
