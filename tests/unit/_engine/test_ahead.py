"""Work ahead of the consumer: in order, bounded, errors in their place, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup._engine.ahead import map_ahead, processors
from knowtation_backup._engine.chunking import even, stopping


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


class Items:
    """Counts what was taken, notes by whom, and knows whether it was closed."""

    def __init__(self, count: int, *, fail_at: int | None = None) -> None:
        self.taken = 0
        self.takers: set[int] = set()
        self.closed = False
        self._count = count
        self._fail_at = fail_at

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.takers.add(threading.get_ident())
        if self.taken == self._fail_at:
            raise OSError("the source failed")
        if self.taken == self._count:
            raise StopIteration
        self.taken += 1
        return self.taken - 1

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_results_come_in_order(workers: int, count: int) -> None:
    items = Items(count)
    assert list(map_ahead(lambda n: n * n, items, workers=workers)) == [n * n for n in range(count)]
    assert items.closed
    assert items.takers == {threading.get_ident()}


def test_the_first_to_finish_waits_for_its_turn() -> None:
    later = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert later.wait(10)
        if item == 1:
            later.set()
        return item

    assert list(map_ahead(work, range(5), workers=2)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_taken_than_promised(workers: int) -> None:
    items = Items(100)
    most = 0
    for done, _ in enumerate(map_ahead(lambda n: n, items, workers=workers)):
        most = max(most, items.taken - done)
    assert most == workers + 2


def test_one_item_needs_no_thread() -> None:
    seen = list(map_ahead(lambda _: threading.get_ident(), [0], workers=4))
    assert seen == [threading.get_ident()]


def test_several_items_leave_the_consumers_thread() -> None:
    assert threading.get_ident() not in set(map_ahead(lambda _: threading.get_ident(), range(6), workers=2))


@pytest.mark.parametrize("fail_at", [0, 1, 2, 7])
def test_an_error_of_the_items_comes_after_what_was_before_it(fail_at: int) -> None:
    items = Items(10, fail_at=fail_at)
    got: list[int] = []
    with pytest.raises(OSError, match="the source failed"):
        got.extend(map_ahead(lambda n: n, items, workers=2))
    assert got == list(range(fail_at))
    assert items.closed


@pytest.mark.parametrize("fail_at", [0, 1, 2, 7])
def test_an_error_of_the_work_comes_in_its_place(fail_at: int) -> None:
    def work(item: int) -> int:
        if item == fail_at:
            raise KeyError(item)
        return item

    items = Items(10)
    got: list[int] = []
    with pytest.raises(KeyError):
        got.extend(map_ahead(work, items, workers=3))
    assert got == list(range(fail_at))
    assert items.closed


def test_closing_ends_the_threads_and_the_items() -> None:
    items = Items(100)
    results = map_ahead(lambda n: n, items, workers=2)
    assert next(results) == 0
    assert threads()
    results.close()
    assert threads() == []
    assert items.closed
    assert items.taken < 10


def test_what_was_not_begun_is_not_done_after_closing() -> None:
    begun: list[int] = []
    go = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item:
            assert go.wait(10)
        return item

    results = map_ahead(work, range(100), workers=1)
    assert next(results) == 0
    threading.Timer(0.05, go.set).start()
    results.close()
    assert max(begun) <= 1


def test_processors_are_counted() -> None:
    assert processors() >= 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_even_pieces(parts: list[bytes], size: int) -> None:
    pieces = list(even(parts, size))
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(0 < len(piece) <= size for piece in pieces[-1:])


def test_stopping_closes_what_can_be_closed() -> None:
    class Chunks:
        closed = False

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            return b"x"

        def close(self) -> None:
            self.closed = True

    chunks = Chunks()
    with stopping(chunks) as stream:
        assert next(stream) == b"x"
    assert chunks.closed
    with stopping([b"a"]) as stream:
        assert list(stream) == [b"a"]
