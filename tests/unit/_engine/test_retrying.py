from __future__ import annotations

import threading
import time

import pytest

from knowtation_backup._engine.adaptive import AdaptiveLimit
from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._engine.retrying import Retrier, RetryBudget, RetryPolicy
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    ExportError,
    OperationCancelledError,
    SourceUnavailableError,
)


def retrier(
    waits: list[float], *, budget: RetryBudget | None = None, random: float = 1.0, attempts: int = 5
) -> Retrier:
    policy = RetryPolicy(attempts=attempts)
    return Retrier(policy=policy, budget=budget or RetryBudget(), sleep=waits.append, random=lambda: random)


def ignore(_attempt: int, _delay: float, _error: BackupError) -> None:
    pass


def failing(times: int) -> list[int]:
    calls: list[int] = []

    def attempt(number: int) -> list[int]:
        calls.append(number)
        if number <= times:
            raise SourceUnavailableError("not now")
        return calls

    return retrier([]).call(attempt, on_retry=ignore)


def test_hub_14_delays_double_from_half_a_second_to_thirty() -> None:
    policy = RetryPolicy()
    ceilings = [policy.delay_seconds(number, random=lambda: 1.0) for number in range(1, 10)]
    assert ceilings == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert policy.delay_seconds(3, random=lambda: 0.0) == 0  # full jitter reaches down to nothing
    assert policy.delay_seconds(10_000, random=lambda: 1.0) == 30


def test_hub_14_retry_after_is_honoured_and_bounded() -> None:
    policy = RetryPolicy()
    assert policy.delay_seconds(1, random=lambda: 1.0, retry_after_seconds=7) == 7
    assert policy.delay_seconds(1, random=lambda: 1.0, retry_after_seconds=1e9) == 120


def test_hub_14_gives_up_after_five_attempts_and_says_so() -> None:
    waits: list[float] = []
    told: list[tuple[int, float]] = []

    def attempt(_number: int) -> None:
        raise SourceUnavailableError("not now")

    with pytest.raises(SourceUnavailableError) as caught:
        retrier(waits).call(attempt, on_retry=lambda number, delay, _error: told.append((number, delay)))
    assert waits == [0.5, 1, 2, 4]
    assert told == [(1, 0.5), (2, 1), (3, 2), (4, 4)]
    assert caught.value.context["attempts"] == 5


def test_succeeds_after_failures() -> None:
    assert failing(4) == [1, 2, 3, 4, 5]


def test_errors_that_do_not_pass_are_not_repeated() -> None:
    calls = 0

    def attempt(_number: int) -> None:
        nonlocal calls
        calls += 1
        raise ExportError("always")

    with pytest.raises(ExportError):
        retrier([]).call(attempt, on_retry=ignore)
    assert calls == 1


def test_hub_14_budget_of_the_run_ends_retries_for_all() -> None:
    budget = RetryBudget(2.0)
    waits: list[float] = []

    def attempt(_number: int) -> None:
        raise SourceUnavailableError("not now")

    with pytest.raises(SourceUnavailableError) as caught:
        retrier(waits, budget=budget).call(attempt, on_retry=ignore)
    assert len(waits) == 2
    assert caught.value.context["retry_budget_spent"] is True
    assert not budget.spend()
    for _ in range(4):
        budget.earn()
    assert budget.spend()
    assert not budget.spend()


def test_waiting_ends_when_cancelled() -> None:
    cancellation = Cancellation()
    threading.Timer(0.05, cancellation.cancel).start()
    before = time.monotonic()
    with pytest.raises(OperationCancelledError):
        cancellation.sleep(3600)
    assert time.monotonic() - before < 5


def test_adaptive_limit_halves_once_per_round_and_grows_back() -> None:
    limit = AdaptiveLimit(16)
    cancellation = Cancellation()
    with limit.admit(cancellation) as first, limit.admit(cancellation) as second:
        limit.overloaded(first)
        limit.overloaded(second)  # admitted before the cut
        assert limit.limit == 8
    with limit.admit(cancellation) as third:
        limit.overloaded(third)
    assert (limit.limit, limit.lowest) == (4, 4)
    for _ in range(1000):
        limit.succeeded()
    assert limit.limit == 16


def test_adaptive_limit_never_falls_below_one() -> None:
    limit = AdaptiveLimit(4)
    for _ in range(10):
        with limit.admit(Cancellation()) as current:
            limit.overloaded(current)
    assert limit.limit == 1


def test_adaptive_limit_admits_no_more_than_it_says() -> None:
    limit = AdaptiveLimit(3)
    running = most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        for _ in range(20):
            with limit.admit(Cancellation()):
                with lock:
                    running += 1
                    most = max(most, running)
                time.sleep(0.0005)
                with lock:
                    running -= 1

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == 3


def test_adaptive_limit_waiting_ends_when_cancelled() -> None:
    limit = AdaptiveLimit(1)
    cancellation = Cancellation()
    with limit.admit(cancellation):
        threading.Timer(0.05, cancellation.cancel).start()
        with pytest.raises(OperationCancelledError), limit.admit(cancellation):
            pass


def test_adaptive_limit_refuses_nonsense() -> None:
    with pytest.raises(ConfigurationError):
        AdaptiveLimit(0)
