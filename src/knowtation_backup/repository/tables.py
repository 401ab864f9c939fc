"""
Tables of one segment: which page or record lies in which frame. Bytes to values and back, within bounds.

Numbers are little-endian, see the format page. What is handed in here was sealed by a holder of the index key, which a
compromised writer has: everything is checked before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

import attrs

from ..errors import IntegrityError
from ..model.sections import PAGE_BYTES
from .frames import MAX_CONTENT_BYTES, MAX_FRAME_BYTES
from .keys import ID_BYTES, ZERO_ID

__all__ = [
    "NOWHERE",
    "RECORD_KEY_BYTES",
    "SEGMENT_PAGES",
    "FrameRef",
    "PageTable",
    "RecordTable",
    "TenantTable",
]

SEGMENT_PAGES: Final = 1 << 16
"""Pages of a segment: 256 MiB."""
NOWHERE: Final = 0xFFFFFFFF
"""Position of a page that is all zeros, and of a record that is gone."""
RECORD_KEY_BYTES: Final = 24
_OBJECT_ID_BYTES: Final = 32
_PUBLIC_BYTES: Final = 32
_FRAME_COLUMNS: Final = 5
_MAX_PAGES: Final = MAX_CONTENT_BYTES // PAGE_BYTES
_MAX_RECORDS: Final = MAX_CONTENT_BYTES // 4
"""Of one frame, which has 4 bytes for the length of each."""


@attrs.frozen
class FrameRef:
    """Where a frame of content lies."""

    pack_id: bytes
    number: int
    """In its pack, from 0."""
    offset: int
    length: int
    """With the length field."""
    items: int
    """Pages or records in it."""


class _Reader:
    """Takes columns off the front of a table."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def number(self) -> int:
        return self.numbers(1)[0]

    def numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.octets(4 * count))

    def octets(self, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._data):
            raise IntegrityError("a table ends early", kind="bad_table")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def finish(self) -> None:
        if self._at != len(self._data):
            raise IntegrityError("a table has bytes after its end", kind="bad_table")


def _numbers(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def _frames_bytes(frames: Sequence[FrameRef]) -> bytes:
    packs = list(dict.fromkeys(frame.pack_id for frame in frames))
    places = {pack_id: place for place, pack_id in enumerate(packs)}
    columns = (
        [places[frame.pack_id] for frame in frames],
        [frame.number for frame in frames],
        [frame.offset for frame in frames],
        [frame.length for frame in frames],
        [frame.items for frame in frames],
    )
    head = (_numbers([len(packs)]), *packs, _numbers([len(frames)]))
    return b"".join((*head, *map(_numbers, columns)))


def _read_frames(reader: _Reader, max_items: int) -> list[FrameRef]:
    packs = [bytes(reader.octets(_OBJECT_ID_BYTES)) for _ in range(reader.number())]
    count = reader.number()
    places, *others = (reader.numbers(count) for _ in range(_FRAME_COLUMNS))
    if places and max(places) >= len(packs):
        raise IntegrityError("a table names a pack that it does not list", kind="bad_table")
    if count and (max(others[2]) > MAX_FRAME_BYTES or max(others[3]) > max_items):
        raise IntegrityError("a table names a frame that is larger than any can be", kind="bad_table")
    return [FrameRef(packs[place], *rest) for place, *rest in zip(places, *others, strict=True)]


@attrs.frozen(eq=False)
class PageTable:
    """Pages of one segment of an image: extents in ascending order, and the frames they lie in."""

    firsts: Sequence[int]
    """First page of each extent, relative to the segment."""
    counts: Sequence[int]
    positions: Sequence[int]
    """Number of the extent's first page among the stored pages of `frames`, or `NOWHERE`: all zeros."""
    frames: Sequence[FrameRef]
    ids: bytes = attrs.field(repr=False)
    """Of the pages that are not zeros, in order."""

    def to_bytes(self) -> bytes:
        """Return the extents; `ids` are a frame of their own."""
        columns = map(_numbers, (self.firsts, self.counts, self.positions))
        return b"".join((_numbers([len(self.firsts)]), *columns, _frames_bytes(self.frames)))

    @classmethod
    def from_bytes(cls, data: bytes, ids: bytes) -> PageTable:
        """
        Parse a table.

        Raises:
            IntegrityError: Kind ``bad_table``: it ends early, extents overlap or leave the segment, or it has another
                number of ids.
        """
        reader = _Reader(data)
        count = reader.number()
        firsts, counts, positions = (reader.numbers(count) for _ in range(3))
        frames = _read_frames(reader, _MAX_PAGES)
        reader.finish()
        stored = sum(frame.items for frame in frames)
        at = pages = 0
        for first, number, position in zip(firsts, counts, positions, strict=True):
            if first < at or number == 0 or (position != NOWHERE and position + number > stored):
                raise IntegrityError("extents of a table overlap or lead nowhere", kind="bad_table")
            at = first + number
            pages += number if position != NOWHERE else 0
        if at > SEGMENT_PAGES or len(ids) != pages * ID_BYTES:
            raise IntegrityError("a table has more pages than its segment, or another number of ids", kind="bad_table")
        if ZERO_ID in ids and ZERO_ID in {ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)}:
            raise IntegrityError("a table says that a page of zeros is stored", kind="bad_table")
        return cls(firsts, counts, positions, frames, ids)


@attrs.frozen(eq=False)
class RecordTable:
    """Records of one segment, sorted by key."""

    keys: bytes = attrs.field(repr=False)
    """24 bytes each."""
    ids: bytes = attrs.field(repr=False)
    """16 bytes each; those of records that are gone do not matter."""
    positions: Sequence[int]
    """Number of each among the stored records of `frames`, or `NOWHERE`: gone."""
    frames: Sequence[FrameRef]

    def to_bytes(self) -> bytes:
        """Return the table."""
        head = (_numbers([len(self.positions)]), self.keys, self.ids, _numbers(self.positions))
        return b"".join((*head, _frames_bytes(self.frames)))

    @classmethod
    def from_bytes(cls, data: bytes) -> RecordTable:
        """
        Parse a table.

        Raises:
            IntegrityError: Kind ``bad_table``: it ends early, or a record leads nowhere.
        """
        reader = _Reader(data)
        count = reader.number()
        keys = bytes(reader.octets(RECORD_KEY_BYTES * count))
        ids = bytes(reader.octets(ID_BYTES * count))
        positions = reader.numbers(count)
        frames = _read_frames(reader, _MAX_RECORDS)
        reader.finish()
        stored = sum(frame.items for frame in frames)
        if any(position >= stored for position in positions if position != NOWHERE):
            raise IntegrityError("a record of a table lies in no frame", kind="bad_table")
        return cls(keys, ids, positions, frames)

    def fold_ids(self, known: dict[bytes, bytes], replaced: set[bytes] | None = None) -> None:
        """Bring ids by key up to what this table says; *replaced* takes keys with the ids that they had until now."""
        keys, ids = self.keys, self.ids
        if replaced is not None:
            for number in range(len(self.positions)):
                key = keys[RECORD_KEY_BYTES * number : RECORD_KEY_BYTES * (number + 1)]
                if key in known:
                    replaced.add(key + known[key])
        for number, position in enumerate(self.positions):
            key = keys[RECORD_KEY_BYTES * number : RECORD_KEY_BYTES * (number + 1)]
            if position == NOWHERE:
                known.pop(key, None)
            else:
                known[key] = ids[ID_BYTES * number : ID_BYTES * (number + 1)]


@attrs.frozen(eq=False)
class TenantTable:
    """Public keys of tenants, sorted by their ids."""

    keys: Mapping[bytes, bytes]
    """32 bytes of X25519 by the id of the tenant."""

    def to_bytes(self) -> bytes:
        """Return the table."""
        ids = sorted(self.keys)
        return b"".join((_numbers([len(ids)]), *ids, *(self.keys[tenant_id] for tenant_id in ids)))

    @classmethod
    def from_bytes(cls, data: bytes) -> TenantTable:
        """
        Parse a table.

        Raises:
            IntegrityError: Kind ``bad_table``: it ends early, or names a tenant twice.
        """
        reader = _Reader(data)
        count = reader.number()
        ids = bytes(reader.octets(ID_BYTES * count))
        raw = bytes(reader.octets(_PUBLIC_BYTES * count))
        reader.finish()
        keys = {
            ids[ID_BYTES * n : ID_BYTES * (n + 1)]: raw[_PUBLIC_BYTES * n : _PUBLIC_BYTES * (n + 1)]
            for n in range(count)
        }
        if len(keys) != count:
            raise IntegrityError("a table names a tenant twice", kind="bad_table")
        return cls(keys)


def frame_starts(frames: Sequence[FrameRef]) -> list[int]:
    """Return the position of the first item of each frame, and the number of all as the last entry."""
    return [0, *accumulate(frame.items for frame in frames)]
