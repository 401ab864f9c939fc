"""
Folding: what the tables of one segment say together, each later one replacing what it names.

Folded pages know their ids; where they lie is worked out only for those who read them or write whole tables, since a
writer that compares needs ids alone.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from .keys import ID_BYTES
from .tables import NOWHERE, SEGMENT_PAGES, FrameRef, PageTable, RecordTable, frame_starts

__all__ = [
    "FoldedRecord",
    "Spots",
    "StoredRun",
    "find_record",
    "fold_ids",
    "fold_records",
    "fold_spots",
    "full_table",
    "table_runs",
]

_SLOT_BITS: Final = 16
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1


def fold_ids(tables: Iterable[PageTable]) -> bytearray:
    """Return the id of every page of a segment, 16 bytes each; those that no table names are `ZERO_ID`."""
    folded = bytearray(SEGMENT_PAGES * ID_BYTES)
    for table in tables:
        at = 0
        for first, count, position in zip(table.firsts, table.counts, table.positions, strict=True):
            size = count * ID_BYTES
            start = first * ID_BYTES
            if position == NOWHERE:
                folded[start : start + size] = bytes(size)
            else:
                folded[start : start + size] = table.ids[at : at + size]
                at += size
    return folded


@attrs.frozen(eq=False)
class Spots:
    """Where the pages of a segment lie: for each, a frame and the place in it, or nowhere."""

    frames: Sequence[FrameRef]
    spots: array[int] = attrs.field(repr=False)
    """Frame number plus 1 in the upper bits, place in the lower 16; 0: zeros."""

    def runs(self, pages: int) -> list[StoredRun]:
        """Return runs of the first *pages* pages that lie one after another in one frame; zeros are left out."""
        runs: list[StoredRun] = []
        spots = self.spots
        page = 0
        while page < pages:
            spot = spots[page]
            if not spot:
                page += 1
                continue
            start, expected = page, spot
            while page < pages and spots[page] == expected:
                page += 1
                expected += 1
            runs.append(StoredRun(start, page - start, (spot >> _SLOT_BITS) - 1, spot & _SLOT_MASK))
        return runs


@attrs.frozen
class StoredRun:
    """Pages of a segment that lie one after another in one frame."""

    first: int
    count: int
    frame: int
    """Place in `Spots.frames`."""
    slot: int


def table_runs(table: PageTable) -> Iterator[StoredRun]:
    """Yield the runs of pages that a table says are stored, in the order of its ids."""
    starts = frame_starts(table.frames)
    for first, count, begin in zip(table.firsts, table.counts, table.positions, strict=True):
        if begin == NOWHERE:
            continue
        position, number = begin, bisect_right(starts, begin) - 1
        page, end = first, first + count
        while page < end:
            here = min(end - page, starts[number + 1] - position)
            if here:
                yield StoredRun(page, here, number, position - starts[number])
            page += here
            position += here
            number += 1


def fold_spots(tables: Iterable[PageTable]) -> Spots:
    """Return where every page of a segment lies."""
    spots = array("Q", bytes(8 * SEGMENT_PAGES))
    frames: list[FrameRef] = []
    for table in tables:
        base = len(frames) + 1
        frames += table.frames
        for first, count, position in zip(table.firsts, table.counts, table.positions, strict=True):
            if position == NOWHERE:
                spots[first : first + count] = array("Q", bytes(8 * count))
        for run in table_runs(table):
            spot = (base + run.frame) << _SLOT_BITS | run.slot
            spots[run.first : run.first + run.count] = array("Q", range(spot, spot + run.count))
    return Spots(frames, spots)


def full_table(ids: bytes | bytearray, spots: Spots, pages: int) -> PageTable:
    """Return one table that says the same of the first *pages* pages, naming only frames that are still needed."""
    runs = spots.runs(pages)
    used = sorted({run.frame for run in runs})
    frames = [spots.frames[number] for number in used]
    starts = dict(zip(used, frame_starts(frames), strict=False))
    firsts = [run.first for run in runs]
    counts = [run.count for run in runs]
    positions = [starts[run.frame] + run.slot for run in runs]
    parts = [bytes(ids[run.first * ID_BYTES : (run.first + run.count) * ID_BYTES]) for run in runs]
    return PageTable(firsts, counts, positions, frames, b"".join(parts))


@attrs.frozen
class FoldedRecord:
    """Where a record lies."""

    record_id: bytes
    frame: FrameRef
    slot: int


def fold_records(tables: Iterable[RecordTable]) -> dict[bytes, FoldedRecord]:
    """Return the records of a segment by key."""
    folded: dict[bytes, FoldedRecord] = {}
    for table in tables:
        starts = frame_starts(table.frames)
        keys, ids = table.keys, table.ids
        for number, position in enumerate(table.positions):
            key = keys[24 * number : 24 * number + 24]
            if position == NOWHERE:
                folded.pop(key, None)
                continue
            frame = bisect_right(starts, position) - 1
            record_id = ids[ID_BYTES * number : ID_BYTES * (number + 1)]
            folded[key] = FoldedRecord(record_id, table.frames[frame], position - starts[frame])
    return folded


def find_record(table: RecordTable, key: bytes) -> tuple[bool, FoldedRecord | None]:
    """Return whether one table names a record, and if so where it lies; `None`: nowhere any more."""
    count = len(table.positions)
    number = bisect_left(range(count), key, key=lambda at: table.keys[24 * at : 24 * at + 24])
    if number == count or table.keys[24 * number : 24 * number + 24] != key:
        return False, None
    position = table.positions[number]
    if position == NOWHERE:
        return True, None
    starts = frame_starts(table.frames)
    frame = bisect_right(starts, position) - 1
    record_id = table.ids[ID_BYTES * number : ID_BYTES * (number + 1)]
    return True, FoldedRecord(record_id, table.frames[frame], position - starts[frame])
