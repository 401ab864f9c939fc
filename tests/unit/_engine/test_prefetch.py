from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._engine.prefetch import Done, Step, prefetch, run_in_order
from knowtation_backup.errors import ConfigurationError, OperationCancelledError


def threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def run(steps: list[Step[str]], *, workers: int = 4, window: int = 16, budget_bytes: int = 1 << 20) -> list[str]:
    return list(
        run_in_order(steps, workers=workers, window=window, budget_bytes=budget_bytes, cancellation=Cancellation())
    )


def say(*values: str) -> Step[str]:
    return Step(lambda: Done(values))


def test_order_is_that_of_the_input_whatever_finishes_first() -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * (7 - number % 8))
        return number

    assert list(prefetch(work, range(40), workers=8, window=16)) == list(range(40))
    assert threads() == 0


def test_steps_open_into_steps_at_their_place() -> None:
    def tenant(name: str) -> Step[str]:
        return Step(
            lambda: Done((name,), [say(f"{name}1"), Step(lambda: Done((), [say(f"{name}2a")])), say(f"{name}3")])
        )

    assert run([tenant("a"), tenant("b")]) == ["a", "a1", "a2a", "a3", "b", "b1", "b2a", "b3"]


def test_a_step_waits_for_the_siblings_it_names() -> None:
    seen: list[str] = []

    def slow(name: str) -> Done[str]:
        time.sleep(0.02)
        seen.append(name)
        return Done((name,))

    first = [Step[str](functools.partial(slow, name)) for name in "abc"]
    join = Step[str](lambda: Done((",".join(sorted(seen)),)), first)
    assert run([Step(lambda: Done((), [*first, join]))]) == ["a", "b", "c", "a,b,c"]


@pytest.mark.parametrize("window", [1, 3, 10])
def test_window_bounds_what_is_started_but_not_consumed(window: int) -> None:
    started = 0
    consumed = 0
    most = 0

    def work(number: int) -> int:
        nonlocal started, most
        started += 1
        most = max(most, started - consumed)
        return number

    for _ in prefetch(work, range(60), workers=1, window=window):
        time.sleep(0.0005)
        consumed += 1
    # The value being consumed, and the step the consumer waits for, come on top.
    assert most <= window + 2


def test_byte_budget_bounds_what_is_held() -> None:
    held = 0
    most = 0
    lock = threading.Lock()

    def work() -> Done[int]:
        nonlocal held, most
        with lock:
            held += 100
            most = max(most, held)
        return Done((100,), size_bytes=100)

    steps = [Step(work) for _ in range(100)]
    for size in run_in_order(steps, workers=4, window=1000, budget_bytes=300, cancellation=Cancellation()):
        time.sleep(0.0005)
        with lock:
            held -= size
    assert most <= 300 + 4 * 100 + 100  # the budget, one for each thread, and the one being consumed


def test_input_is_taken_lazily() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(1000):
            taken += 1
            yield item

    generator = prefetch(lambda item: item, items(), workers=2, window=4)
    assert [next(generator) for _ in range(3)] == [0, 1, 2]
    assert taken < 20
    generator.close()
    assert threads() == 0


def test_failure_keeps_its_traceback_cancels_the_rest_and_leaves_no_thread() -> None:
    cancellation = Cancellation()

    def fails_at_seven(number: int) -> int:
        if number == 7:
            raise KeyError(number)
        cancellation.sleep(0.001)
        return number

    with pytest.raises(KeyError) as caught:
        list(prefetch(fails_at_seven, range(10_000), workers=4, window=8, cancellation=cancellation))
    assert "fails_at_seven" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert cancellation.cancelled
    assert threads() == 0


def test_failure_is_raised_although_it_cancels_before_the_consumer_looks() -> None:
    failed = threading.Event()

    def work(number: int) -> int:
        if number:
            time.sleep(0.02)
        if number == 5:
            failed.set()
            raise KeyError(number)
        return number

    results = prefetch(work, range(10), workers=1, window=10)
    assert next(results) == 0
    assert failed.wait(5)
    time.sleep(0.02)
    with pytest.raises(KeyError):
        next(results)


def test_failure_of_the_input_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        message = "no more"
        raise OSError(message)

    with pytest.raises(OSError, match="no more"):
        list(prefetch(lambda item: item, items(), workers=2, window=4))
    assert threads() == 0


def test_leaving_early_wakes_waiting_work() -> None:
    cancellation = Cancellation()

    def work(number: int) -> int:
        if number:
            cancellation.sleep(3600)
        return number

    generator = prefetch(work, range(100), workers=4, window=8, cancellation=cancellation)
    assert next(generator) == 0
    before = time.monotonic()
    generator.close()
    assert time.monotonic() - before < 5
    assert threads() == 0


def test_interrupt_in_the_consumer_ends_all_threads() -> None:
    cancellation = Cancellation()

    def consume() -> None:
        for _ in prefetch(lambda item: item, range(1000), workers=4, window=8, cancellation=cancellation):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert threads() == 0


def test_cancelled_from_outside() -> None:
    cancellation = Cancellation()
    numbers = prefetch(lambda item: item, range(1000), workers=2, window=4, cancellation=cancellation)
    assert next(numbers) == 0
    cancellation.cancel()
    with pytest.raises(OperationCancelledError):
        list(numbers)
    assert threads() == 0


def test_finished_run_is_not_cancelled() -> None:
    cancellation = Cancellation()
    assert list(prefetch(str, range(3), workers=2, window=2, cancellation=cancellation)) == ["0", "1", "2"]
    assert not cancellation.cancelled


@pytest.mark.parametrize(("workers", "window"), [(0, 1), (1, 0)])
def test_bad_bounds_are_refused(workers: int, window: int) -> None:
    with pytest.raises(ConfigurationError):
        list(prefetch(str, [1], workers=workers, window=window))
