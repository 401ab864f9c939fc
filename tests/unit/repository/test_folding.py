"""Folding: what several tables say together, compared with a plain model; and whole chains of images."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repository_stage import MOMENT, StagedSource, contents, new_repository

from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository import content, folding, images, losses, soundness, tables
from knowtation_backup.repository.folding import find_record, fold_ids, fold_records, fold_spots, full_table, table_runs
from knowtation_backup.repository.keys import ID_BYTES, ZERO_ID
from knowtation_backup.repository.manifest import ImageTables
from knowtation_backup.repository.tables import NOWHERE, FrameRef, PageTable, RecordTable
from knowtation_backup.sinks.memory import MemorySink

PAGES = 40
"""Of the segment that the tables below speak of; the rest of it stays empty."""


def a_table(number: int, says: list[tuple[int, int, bool]]) -> PageTable:
    """Make a table of extents (gap, count, zeros), whose pages lie one after another in frames of 3."""
    firsts, counts, positions, ids = [], [], [], []
    at = stored = 0
    for gap, wanted, zeros in says:
        first = at + gap
        count = min(wanted, PAGES - first)
        if count <= 0:
            break
        firsts.append(first)
        counts.append(count)
        positions.append(NOWHERE if zeros else stored)
        if not zeros:
            ids += [bytes([number, stored + n + 1]).ljust(ID_BYTES, b"i") for n in range(count)]
            stored += count
        at = first + count
    frames = [FrameRef(bytes([number]) * 32, n, 100 * n, 90, 3) for n in range(-(-stored // 3))]
    return PageTable(firsts, counts, positions, frames, b"".join(ids))


extents = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.booleans()), max_size=8)
chains = st.lists(extents, max_size=5).map(lambda all_says: [a_table(n + 1, says) for n, says in enumerate(all_says)])
Place = tuple[FrameRef, int]


def modelled(chain: list[PageTable]) -> dict[int, tuple[bytes, Place]]:
    """Page by page, table by table: id and place of what is not zeros."""
    model: dict[int, tuple[bytes, Place]] = {}
    for table in chain:
        where = [(frame, slot) for frame in table.frames for slot in range(frame.items)]
        ids = iter([table.ids[at : at + ID_BYTES] for at in range(0, len(table.ids), ID_BYTES)])
        for first, count, position in zip(table.firsts, table.counts, table.positions, strict=True):
            for page in range(count):
                model.pop(first + page, None)
                if position != NOWHERE:
                    model[first + page] = (next(ids), where[position + page])
    return model


def said(chain: list[PageTable]) -> dict[int, tuple[bytes, Place]]:
    ids, spots = fold_ids(chain), fold_spots(chain)
    found = {}
    for run in spots.runs(PAGES):
        for page in range(run.count):
            at = (run.first + page) * ID_BYTES
            found[run.first + page] = (bytes(ids[at : at + ID_BYTES]), (spots.frames[run.frame], run.slot + page))
    empty = [page for page in range(PAGES) if ids[page * ID_BYTES : (page + 1) * ID_BYTES] == ZERO_ID]
    assert sorted([*found, *empty]) == list(range(PAGES))
    return found


@given(chains)
def test_tables_together_say_what_a_plain_model_says(chain: list[PageTable]) -> None:
    assert said(chain) == modelled(chain)


@given(chains)
def test_a_whole_table_says_the_same_as_its_chain(chain: list[PageTable]) -> None:
    whole = full_table(fold_ids(chain), fold_spots(chain), PAGES)
    assert said([whole]) == modelled(chain)
    back = PageTable.from_bytes(whole.to_bytes(), whole.ids)
    assert said([back]) == modelled(chain)
    used = {place[0] for _, place in modelled(chain).values()}
    assert set(whole.frames) == used


@given(chains)
def test_runs_of_a_table_follow_its_ids(chain: list[PageTable]) -> None:
    for table in chain:
        at = 0
        for run in table_runs(table):
            for page in range(run.count):
                expected = modelled([table])[run.first + page]
                assert table.ids[at : at + ID_BYTES] == expected[0]
                assert (table.frames[run.frame], run.slot + page) == expected[1]
                at += ID_BYTES
        assert at == len(table.ids)


def test_a_segment_without_tables_is_zeros() -> None:
    assert fold_ids([]) == bytes(tables.SEGMENT_PAGES * ID_BYTES)
    assert fold_spots([]).runs(tables.SEGMENT_PAGES) == []


def test_records_lie_where_the_last_table_says() -> None:
    frames = [FrameRef(b"a" * 32, 0, 0, 90, 2), FrameRef(b"b" * 32, 4, 0, 90, 1)]
    keys = [bytes([n]) * 24 for n in range(3)]
    first = RecordTable(b"".join(keys), b"1" * 16 + b"2" * 16 + b"3" * 16, [0, 1, 2], frames)
    second = RecordTable(keys[0] + keys[2], b"-" * 16 + b"4" * 16, [NOWHERE, 0], frames[1:])
    folded = fold_records([first, second])
    assert {key: (r.record_id, r.frame, r.slot) for key, r in folded.items()} == {
        keys[1]: (b"2" * 16, frames[0], 1),
        keys[2]: (b"4" * 16, frames[1], 0),
    }


@given(st.dictionaries(st.integers(0, 30), st.booleans(), max_size=20))
def test_one_record_is_found_as_all_are(there: dict[int, bool]) -> None:
    frames = [FrameRef(b"a" * 32, 0, 0, 90, 7), FrameRef(b"b" * 32, 4, 0, 90, 60)]
    keys = {number: bytes([number]) * 24 for number in sorted(there)}
    positions = [2 * number if there[number] else NOWHERE for number in keys]
    ids = b"".join(bytes([255 - number]) * 16 for number in keys)
    table = RecordTable(b"".join(keys.values()), ids, positions, frames if any(there.values()) else [])
    folded = fold_records([table])
    for number in range(32):
        key = bytes([number]) * 24
        assert find_record(table, key) == (number in there, folded.get(key))


# -- chains of images, written and read by the real parts, in segments of eight pages --------------------------------


@pytest.fixture(scope="module", autouse=True)
def small_segments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        modules: list[ModuleType] = [content, folding, images, losses, soundness, tables]
        for module in modules:
            if hasattr(module, "SEGMENT_PAGES"):
                patch.setattr(module, "SEGMENT_PAGES", 64)
        patch.setattr(images, "FRAME_PAGES", 5)
        yield


contents_of_pages = st.sampled_from([b"\0", b"a", b"b", b"c", b"d"])
changes = st.lists(st.tuples(st.integers(0, 150), contents_of_pages, st.integers(1, 40)), max_size=4)
days = st.lists(st.tuples(st.integers(0, 150 * PAGE_BYTES), changes), min_size=1, max_size=7)


@settings(max_examples=40, deadline=None)
@given(days, st.integers(1, 3))
def test_images_that_grow_shrink_and_change_come_back(
    days: list[tuple[int, list[tuple[int, bytes, int]]]], depth: int
) -> None:
    repository = new_repository(MemorySink(), max_chain=depth)
    image = b""
    expected: dict[str, bytes] = {}
    for day, (size, changed) in enumerate(days):
        image = image[:size] + bytes(max(0, size - len(image)))
        for page, content_byte, count in changed:
            start = page * PAGE_BYTES
            new = (content_byte * (count * PAGE_BYTES))[: max(0, len(image) - start)]
            image = image[:start] + new + image[start + len(new) :]
        source = StagedSource(images={"heap.bin": image}, taken_at=MOMENT + dt.timedelta(days=day))
        report = back_up(repository, source)
        expected[report.archive_id] = image
        section = report.manifest.section("heap.bin")
        assert isinstance(section, ImageTables)
        assert all(len(segment.tables) <= depth for segment in section.segments)
    for archive_id, stored in expected.items():
        assert contents(repository, archive_id)["heap.bin"] == stored
    assert verify_all(repository, record=False).ok
