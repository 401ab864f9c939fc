import ctypes
import mmap
import random
from collections.abc import Iterator

import pytest

from knowtation_backup.sandbox.execution.heap import HeapStatistics, MappedHeap
from knowtation_backup.sandbox.execution.images import MemoryImage
from knowtation_backup.sandbox.execution.page_tables import PageTables, mapping_supported

pytestmark = pytest.mark.skipif(not mapping_supported(), reason="the mapped strategy is for Linux")
PAGE = mmap.PAGESIZE


@pytest.fixture(params=[True, False], ids=["scan", "pagemap"])
def tables(request: pytest.FixtureRequest) -> Iterator[PageTables]:
    tables = PageTables(scan=None if request.param else False)
    yield tables
    tables.close()


def address_of(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def test_written_pages_of_a_private_mapping_are_found(tables: PageTables) -> None:
    image = MemoryImage(64 * PAGE)
    image.write(0, b"file" * 16 * PAGE)
    area = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = address_of(area)
    tables.map(start, 64 * PAGE, image.fileno(), 0)
    assert tables.private_ranges(start, start + 64 * PAGE) == []
    assert area[5 * PAGE : 5 * PAGE + 4] == b"file"  # reading makes no private page

    for page in (3, 4, 9):
        area[page * PAGE] = 1

    found = tables.private_ranges(start, start + 64 * PAGE)
    assert [(low - start, high - start) for low, high in found] == [(3 * PAGE, 5 * PAGE), (9 * PAGE, 10 * PAGE)]
    assert tables.private_ranges(start, start) == []


def test_more_ranges_than_fit_into_one_answer_are_found_once(tables: PageTables) -> None:
    pages = 20_000
    image = MemoryImage(pages * PAGE)
    area = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = address_of(area)
    tables.map(start, pages * PAGE, image.fileno(), 0)
    for page in range(0, pages, 2):
        area[page * PAGE] = 1

    found = tables.private_ranges(start, start + pages * PAGE)

    assert found == [(start + page * PAGE, start + (page + 1) * PAGE) for page in range(0, pages, 2)]


def test_random_writes_commits_and_rollbacks_agree_with_a_model(tables: PageTables) -> None:
    chance = random.Random(7)  # noqa: S311 - a repeatable test
    size = 96 * PAGE
    image, statistics = MemoryImage(size), HeapStatistics()
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    heap = MappedHeap(image, statistics, tables)
    heap.attach(address_of(area), size)
    committed = bytearray(size)
    for _ in range(150):
        working = bytearray(committed)
        for _ in range(chance.randrange(80)):
            offset, data = chance.randrange(size - 10), chance.randbytes(10)
            area[offset : offset + 10] = data
            working[offset : offset + 10] = data
        if chance.random() < 0.5:
            heap.commit(size)
            committed = working
        else:
            assert heap.rollback(size)
        assert area[:] == committed
        assert image.read(0, size) == committed


def test_failed_calls_are_errors(tables: PageTables) -> None:
    with pytest.raises(OSError, match="mmap"):
        tables.map(PAGE + 1, PAGE, 0, 0)
    with pytest.raises(OSError, match="pwrite"):
        tables.write(-1, 0, 1, 0)
    with pytest.raises(OSError, match="madvise"):
        tables.advise(1, PAGE, 4)
