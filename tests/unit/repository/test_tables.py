"""Tables: what is written is what is read, whatever it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import IntegrityError
from knowtation_backup.repository.keys import ID_BYTES
from knowtation_backup.repository.tables import (
    NOWHERE,
    RECORD_KEY_BYTES,
    SEGMENT_PAGES,
    FrameRef,
    PageTable,
    RecordTable,
    frame_starts,
)

frame_refs = st.builds(
    FrameRef,
    pack_id=st.sampled_from([bytes([n]) * 32 for n in range(1, 5)]),
    number=st.integers(0, 300),
    offset=st.integers(0, 0xFFFFFFFF),
    length=st.integers(0, 4 << 20),
    items=st.integers(1, 20),
)


@st.composite
def page_tables(draw: st.DrawFn) -> PageTable:
    frames = draw(st.lists(frame_refs, max_size=5))
    stored = sum(frame.items for frame in frames)
    firsts, counts, positions = [], [], []
    at = 0
    for gap, count in draw(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 30)), max_size=12)):
        if at + gap + count > SEGMENT_PAGES:
            break
        firsts.append(at + gap)
        counts.append(count)
        fits = count <= stored
        positions.append(draw(st.integers(0, stored - count)) if fits and draw(st.booleans()) else NOWHERE)
        at += gap + count
    pages = sum(count for count, position in zip(counts, positions, strict=True) if position != NOWHERE)
    ids = b"".join(number.to_bytes(ID_BYTES, "little") for number in range(1, pages + 1))
    return PageTable(firsts, counts, positions, frames, ids)


@st.composite
def record_tables(draw: st.DrawFn) -> RecordTable:
    frames = draw(st.lists(frame_refs, max_size=5))
    stored = sum(frame.items for frame in frames)
    keys = sorted(draw(st.sets(st.binary(min_size=RECORD_KEY_BYTES, max_size=RECORD_KEY_BYTES), max_size=12)))
    anywhere = st.just(NOWHERE) | st.integers(0, stored - 1) if stored else st.just(NOWHERE)
    positions = [draw(anywhere) for _ in keys]
    return RecordTable(b"".join(keys), bytes(range(16)) * len(keys), positions, frames)


@given(page_tables())
def test_tables_of_pages_come_back(table: PageTable) -> None:
    back = PageTable.from_bytes(table.to_bytes(), table.ids)
    assert list(back.firsts) == list(table.firsts)
    assert list(back.counts) == list(table.counts)
    assert list(back.positions) == list(table.positions)
    assert list(back.frames) == list(table.frames)
    assert back.ids == table.ids


@given(record_tables())
def test_tables_of_records_come_back(table: RecordTable) -> None:
    back = RecordTable.from_bytes(table.to_bytes())
    assert (back.keys, back.ids, list(back.positions)) == (table.keys, table.ids, list(table.positions))
    assert list(back.frames) == list(table.frames)


@given(page_tables(), st.data())
def test_tables_that_are_cut_or_longer_are_refused(table: PageTable, data: st.DataObject) -> None:
    stored = table.to_bytes()
    end = data.draw(st.integers(0, len(stored) - 1))
    for wrong in (stored[:end], stored + b"\0"):
        with pytest.raises(IntegrityError):
            PageTable.from_bytes(wrong, table.ids)
    with pytest.raises(IntegrityError):
        PageTable.from_bytes(stored, table.ids + bytes(ID_BYTES))


@given(record_tables(), st.data())
def test_tables_of_records_that_are_cut_are_refused(table: RecordTable, data: st.DataObject) -> None:
    stored = table.to_bytes()
    with pytest.raises(IntegrityError):
        RecordTable.from_bytes(stored[: data.draw(st.integers(0, len(stored) - 1))])


def test_a_record_that_lies_in_no_frame_is_refused() -> None:
    frame = FrameRef(bytes(32), 0, 0, 100, 3)
    table = RecordTable(bytes(RECORD_KEY_BYTES), bytes(ID_BYTES), [3], [frame])
    with pytest.raises(IntegrityError, match="no frame"):
        RecordTable.from_bytes(table.to_bytes())


def test_frames_begin_where_those_before_end() -> None:
    frames = [FrameRef(bytes(32), 0, 0, 100, items) for items in (3, 1, 5)]
    assert frame_starts(frames) == [0, 3, 4, 9]
    assert frame_starts([]) == [0]


@given(st.lists(record_tables(), max_size=3))
def test_later_tables_of_records_replace_and_remove(tables: list[RecordTable]) -> None:
    model: dict[bytes, bytes] = {}
    known: dict[bytes, bytes] = {}
    for table in tables:
        table.fold_ids(known)
        for number, position in enumerate(table.positions):
            key = table.keys[RECORD_KEY_BYTES * number :][:RECORD_KEY_BYTES]
            if position == NOWHERE:
                model.pop(key, None)
            else:
                model[key] = table.ids[ID_BYTES * number :][:ID_BYTES]
    assert known == model
