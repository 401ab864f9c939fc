"""The ordered map over many threads."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup.errors import OperationCancelledError
from knowtation_backup.snapshots.workers import in_order


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_results_come_in_the_order_of_the_items() -> None:
    gates = [threading.Event() for _ in range(6)]

    def work(number: int) -> int:
        if number + 1 < len(gates):
            assert gates[number + 1].wait(10)  # each one waits for its successor
        gates[number].set()
        return number

    found = list(in_order(work, range(6), workers=6, window=6, cancellation=Cancellation()))
    assert found == [0, 1, 2, 3, 4, 5]


def test_no_more_than_the_window_is_begun_ahead_of_the_consumer() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return number

    results = in_order(work, itertools.count(), workers=8, window=3, cancellation=Cancellation())
    for number in range(50):
        assert next(results) == number
        assert len(begun) <= number + 1 + 3
    results.close()


def test_the_first_failure_ends_the_run() -> None:
    cancellation = Cancellation()

    def work(number: int) -> int:
        if number == 5:
            message = "five"
            raise ValueError(message)
        return number

    with pytest.raises(ValueError, match="five"):
        list(in_order(work, itertools.count(), workers=4, window=8, cancellation=cancellation))
    assert cancellation.cancelled


def test_a_failing_sequence_ends_the_run() -> None:
    def items() -> Iterator[int]:
        yield 1
        message = "no more"
        raise ValueError(message)

    with pytest.raises(ValueError, match="no more"):
        list(in_order(lambda n: n, items(), workers=4, window=8, cancellation=Cancellation()))


def test_an_abandoned_run_tells_its_threads() -> None:
    cancellation = Cancellation()

    def work(number: int) -> int:
        if number:
            cancellation.sleep(60)
        return number

    results = in_order(work, range(9), workers=4, window=8, cancellation=cancellation)
    assert next(results) == 0
    results.close()
    assert cancellation.cancelled


def test_a_cancelled_run_raises() -> None:
    cancellation = Cancellation()
    cancellation.cancel()

    def work(number: int) -> int:
        cancellation.check()
        return number

    with pytest.raises(OperationCancelledError):
        list(in_order(work, range(9), workers=4, window=8, cancellation=cancellation))


def test_nothing_to_do_is_done_at_once() -> None:
    assert list(in_order(lambda n: n, [], workers=4, window=8, cancellation=Cancellation())) == []
