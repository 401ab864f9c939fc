"""
Writing records: each is compared with the parent's of the same owner and name, whatever the order they come in.

A record that goes back to a value it had before, or comes back, is not stored again as long as the parent's tables name
the place. Not so where tenants have keys of their own: that value may be sealed to one that is gone.

Memory: about 100 bytes for every record the parent has, for every one that is there now, and for every row of the
parent's tables that another one replaces.
"""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from typing import Final

import attrs

from ..errors import ExportError, InternalError
from ..model.sections import RecordSection
from .drafts import DraftRecords, DraftSegment, DraftTable, IndexWriter, inherited, inherited_tables
from .folding import FoldedRecord, find_record, fold_records
from .frames import MAX_CONTENT_BYTES
from .keys import ID_BYTES, WriterKey
from .manifest import ArchiveManifest, RecordTables
from .owners import SectionOwners
from .packing import Job
from .reading import IndexReader
from .tables import NOWHERE, FrameRef, RecordTable
from .tenants import TenantSealers

__all__ = ["ParentRecords", "RecordsWriter", "records_head"]

_FRAME_BYTES: Final = 1 << 20
_FRAME_RECORDS: Final = 1 << 16
_MAX_VALUE_BYTES: Final = MAX_CONTENT_BYTES - (512 << 10)
"""Of one record; the rest of a frame has room for the lengths of all."""
_SEGMENT_RECORDS: Final = 1 << 15
_MAX_BITS: Final = 8


@attrs.frozen(kw_only=True)
class ParentRecords:
    """The records to compare with."""

    manifest: ArchiveManifest
    tables: RecordTables
    reader: IndexReader

    def tenants(self) -> tuple[dict[bytes, bytes], tuple[DraftTable, ...]]:
        """Return the public keys of tenants, and the tables they are in."""
        return self.reader.tenants(self.manifest, self.tables), inherited_tables(self.manifest, self.tables.tenants)


_owner_of = operator.attrgetter("owner")


@attrs.frozen
class _Owner:
    """Whose records come, and what their ids are made with."""

    name: bytes
    key: bytes
    secret: bytes
    usable: bool
    """Whether what the parent has of this owner can be used."""

    @classmethod
    def of(cls, name: bytes, keys: WriterKey, *, usable: bool) -> _Owner:
        return cls(name, keys.owner_key(name), keys.owner_secret(name), usable)


def records_head(values: list[bytes]) -> bytes:
    """Return what a frame of records begins with: how many, and how long each is."""
    return b"".join(number.to_bytes(4, "little") for number in (len(values), *map(len, values)))


@attrs.frozen(eq=False)
class _New:
    """A record with another value than the parent's: the frame is known once it is stored."""

    record_id: bytes
    frame: _Waiting
    slot: int


class _Waiting:
    """A frame on its way."""

    __slots__ = ("ref",)

    def __init__(self, ref: FrameRef | None = None) -> None:
        self.ref = ref

    def stored(self, ref: FrameRef | None) -> None:
        self.ref = ref


class RecordsWriter:
    """
    Writes one section of records.

    Args:
        section: What to write.
        keys: Make ids.
        indexes: Takes the tables.
        parent: What to compare with; `None` stores every record.
        max_chain: Most tables of one segment.
        sealers: Keys of tenants; `None`: they have none.
        finished: Takes the result, once everything is stored.
    """

    def __init__(  # noqa: PLR0913 - keyword only
        self,
        section: RecordSection,
        *,
        keys: WriterKey,
        indexes: IndexWriter,
        parent: ParentRecords | None,
        max_chain: int,
        sealers: TenantSealers | None = None,
        finished: Callable[[DraftRecords], None],
    ) -> None:
        self._section = section
        self._keys = keys
        self._indexes = indexes
        self._parent = parent
        self._max_chain = max_chain
        self._finished = finished
        self._ids: dict[bytes, bytes] = {}
        self._new: dict[bytes, _New] = {}
        self._replaced: set[bytes] | None = set() if sealers is None else None
        """Keys with ids they had in older tables of the parent."""
        self._back: list[bytes] = []
        """Keys of records that have such an id again."""
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._frame = _Waiting()
        known, chain = parent.tenants() if parent is not None else ({}, ())
        self._owners = SectionOwners(keys, sealers, known, chain)
        self.changed_records: int = 0
        """Other than the parent's, new, or gone."""
        self.stored_records: int = 0
        self.stored_bytes: int = 0

    def jobs(self) -> Generator[Job, None, None]:
        """
        Yield the frames to store, and marks; tables are written as these are settled.

        Raises:
            ExportError: Two records have one owner and name, or one is larger than a frame, ``record_too_large``.
        """
        known = self._known_ids()
        owner: _Owner | None = None
        for batch in self._section.batches:
            for whose, records in itertools.groupby(batch, key=_owner_of):
                if owner is None or whose != owner.name:
                    if self._owners.apart and self._waiting:
                        yield self._job()
                    owner = _Owner.of(whose, self._keys, usable=self._owners.enter(whose))
                yield from self._compared(owner, [(name, value) for _, name, value in records], known)
        if self._waiting:
            yield self._job()
        self.stored_records = len(self._new)
        self.changed_records = len(self._new) + len(self._back) + len(known.keys() - self._ids.keys())
        yield Job(settled=lambda _frame: self._finish(known))

    def _compared(self, owner: _Owner, records: list[tuple[bytes, bytes]], known: dict[bytes, bytes]) -> Iterator[Job]:
        # In loops of their own, because there are many records and most have not changed.
        name_key, record_id = self._keys.name_key, self._keys.record_id
        keys = [owner.key + name_key(owner.secret, name) for name, _ in records]
        here = dict(zip(keys, [record_id(value) for _, value in records], strict=True))
        if len(here) != len(records) or not self._ids.keys().isdisjoint(here):
            message = f"{self._section.name} holds two records of one owner and name"
            raise ExportError(message, kind="duplicate_record")
        self._ids.update(here)
        for key, (_, value) in zip(keys, records, strict=True):
            if owner.usable and known.get(key) == here[key]:
                continue
            if self._replaced and key + here[key] in self._replaced:
                self._back.append(key)
                continue
            if self._waiting and self._waiting_bytes + len(value) > _MAX_VALUE_BYTES:
                yield self._job()
            self._take(key, here[key], value)
            if self._waiting_bytes >= _FRAME_BYTES or len(self._waiting) >= _FRAME_RECORDS:
                yield self._job()

    def _take(self, key: bytes, record_id: bytes, value: bytes) -> None:
        size = len(value)
        if size > _MAX_VALUE_BYTES:
            message = f"a record of {self._section.name} has {size} bytes; a repository takes {_MAX_VALUE_BYTES}"
            raise ExportError(message, kind="record_too_large", hint="store it as a file", size_bytes=size)
        self._new[key] = _New(record_id, self._frame, len(self._waiting))
        self._waiting.append(value)
        self._waiting_bytes += size

    def _job(self) -> Job:
        values = self._waiting
        self.stored_bytes += self._waiting_bytes
        job = Job(
            content=[records_head(values), *values],
            items=len(values),
            tenant=self._owners.sealer(),
            settled=self._frame.stored,
        )
        self._waiting, self._waiting_bytes, self._frame = [], 0, _Waiting()
        return job

    def _known_ids(self) -> dict[bytes, bytes]:
        parent = self._parent
        known: dict[bytes, bytes] = {}
        if parent is not None:
            for segment in parent.tables.segments:
                for number, table in enumerate(parent.reader.record_tables(parent.manifest, segment)):
                    table.fold_ids(known, self._replaced if number else None)
        return known

    def _found(self) -> Iterator[tuple[bytes, _New]]:
        """Yield where the records are that are back."""
        parent = self._parent
        if parent is None:
            return
        by_segment: defaultdict[int, list[bytes]] = defaultdict(list)
        for key in self._back:
            by_segment[_segment_of(key, parent.tables.bits)].append(key)
        for number, keys in by_segment.items():
            tables = list(parent.reader.record_tables(parent.manifest, parent.tables.segments[number]))
            for key in keys:
                place = _place(tables, key, self._ids[key])
                yield key, _New(place.record_id, _Waiting(place.frame), place.slot)

    def _finish(self, known: dict[bytes, bytes]) -> None:
        self._new.update(self._found())
        root = self._keys.digest(b"records")
        ordered = sorted(self._ids)
        root.update(b"".join([key + self._ids[key] for key in ordered]))
        gone = sorted(known.keys() - self._ids.keys())
        bits = self._bits(len(ordered))
        segments = self._inherited(bits)
        whole = segments is None
        if segments is None:
            segments = [DraftSegment()] * (1 << bits)
        new_by_segment: list[list[bytes]] = [[] for _ in segments]
        gone_by_segment: list[list[bytes]] = [[] for _ in segments]
        for key in sorted(self._new):
            new_by_segment[_segment_of(key, bits)].append(key)
        for key in gone:
            gone_by_segment[_segment_of(key, bits)].append(key)
        kept = self._kept(bits) if whole else None
        drafts = [
            self._segment(
                segment,
                new_by_segment[number],
                gone_by_segment[number],
                kept=None if kept is None else kept[number],
                number=number,
            )
            for number, segment in enumerate(segments)
        ]
        self._finished(
            DraftRecords(
                name=self._section.name,
                count=len(ordered),
                root=root.digest(),
                bits=bits,
                segments=drafts,
                tenants=self._owners.tables(self._indexes, self._max_chain),
            )
        )

    def _bits(self, count: int) -> int:
        """Return how many bits of the key tell segments apart: the parent's, while its segments have a fair size."""
        wanted = min(_MAX_BITS, max(0, (count - 1) // _SEGMENT_RECORDS).bit_length())
        if self._parent is not None and abs(self._parent.tables.bits - wanted) <= 1:
            return self._parent.tables.bits
        return wanted

    def _inherited(self, bits: int) -> list[DraftSegment] | None:
        parent = self._parent
        if parent is None or parent.tables.bits != bits:
            return None
        return [inherited(parent.manifest, segment) for segment in parent.tables.segments]

    def _kept(self, bits: int) -> list[dict[bytes, FoldedRecord]]:
        """Return all unchanged records by segment, to be written into whole tables."""
        found: list[dict[bytes, FoldedRecord]] = [{} for _ in range(1 << bits)]
        parent = self._parent
        if parent is not None:
            for segment in parent.tables.segments:
                for key, record in fold_records(parent.reader.record_tables(parent.manifest, segment)).items():
                    if key in self._ids and key not in self._new:
                        found[_segment_of(key, bits)][key] = record
        return found

    def _segment(
        self,
        known: DraftSegment,
        new: list[bytes],
        gone: list[bytes],
        *,
        kept: dict[bytes, FoldedRecord] | None,
        number: int,
    ) -> DraftSegment:
        if not new and not gone and kept is None:
            return known
        parent = self._parent
        if kept is None and parent is not None and len(known.tables) >= self._max_chain:
            tables = parent.reader.record_tables(parent.manifest, parent.tables.segments[number])
            kept = {
                key: record for key, record in fold_records(tables).items() if key in self._ids and key not in self._new
            }
        rows: list[tuple[bytes, bytes, FrameRef | None, int]] = []
        for key in new:
            record = self._new[key]
            rows.append((key, record.record_id, record.frame.ref, record.slot))
        if kept is None:
            rows += [(key, bytes(ID_BYTES), None, 0) for key in gone]
        else:
            known = DraftSegment()
            rows += [(key, record.record_id, record.frame, record.slot) for key, record in kept.items()]
        if not rows:
            return known
        rows.sort()
        table = _table(rows)
        added = self._indexes.add(table.to_bytes())
        return DraftSegment((*known.tables, added), known.packs | {frame.pack_id for frame in table.frames})


def _table(rows: list[tuple[bytes, bytes, FrameRef | None, int]]) -> RecordTable:
    frames: dict[FrameRef, int] = {}
    ordered: list[FrameRef] = []
    stored = 0
    positions: list[int] = []
    for _key, _record_id, frame, slot in rows:
        if frame is None:
            positions.append(NOWHERE)
            continue
        start = frames.get(frame)
        if start is None:
            start = frames[frame] = stored
            stored += frame.items
            ordered.append(frame)
        positions.append(start + slot)
    return RecordTable(b"".join(row[0] for row in rows), b"".join(row[1] for row in rows), positions, ordered)


def _place(tables: list[RecordTable], key: bytes, record_id: bytes) -> FoldedRecord:
    for table in reversed(tables):
        _, found = find_record(table, key)
        if found is not None and found.record_id == record_id:
            return found
    raise InternalError("tables of the parent do not have a record that they had a moment ago")


def _segment_of(key: bytes, bits: int) -> int:
    return key[0] >> (_MAX_BITS - bits)
