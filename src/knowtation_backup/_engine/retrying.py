"""
Repeating a read that failed for a passing reason: how often, how long to wait, and when the whole run has had enough.

Only errors whose class is ``retryable`` are repeated. Clock, sleep and randomness are passed in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import attrs

from .._checks import at_least
from ..errors import BackupError

__all__ = ["Retrier", "RetryBudget", "RetryPolicy"]

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """
    Exponential back-off with full jitter.

    The wait before attempt n + 1 is uniform in ``[0, min(max_delay, first_delay * multiplier ** (n - 1))]``, or what
    the server asked for when that is longer, but never more than ``max_retry_after_seconds``.
    """

    attempts: int = attrs.field(default=5, validator=at_least(1))
    """Including the first one."""
    first_delay_seconds: float = attrs.field(default=0.5, validator=at_least(0))
    multiplier: float = attrs.field(default=2.0, validator=at_least(1))
    max_delay_seconds: float = attrs.field(default=30.0, validator=at_least(0))
    max_retry_after_seconds: float = attrs.field(default=120.0, validator=at_least(0))

    def delay_seconds(self, failed: int, *, random: Callable[[], float], retry_after_seconds: float = 0.0) -> float:
        """
        Return how long to wait after attempt number *failed* (from 1).

        Args:
            failed: How many attempts failed so far.
            random: Returns a number in ``[0, 1)``.
            retry_after_seconds: What the server asked for, 0 when it did not.
        """
        # The exponent is bounded: with thousands of attempts a float power would overflow, not saturate.
        ceiling = min(self.max_delay_seconds, self.first_delay_seconds * self.multiplier ** min(failed - 1, 64))
        return max(random() * ceiling, min(retry_after_seconds, self.max_retry_after_seconds))


class RetryBudget:
    """
    Retries one whole run may spend, so that a hub that is mostly down fails soon instead of stalling the night.

    Starts with *initial* retries; every success earns *per_success* of one, up to *initial* again. Thread-safe.
    """

    def __init__(self, initial: float = 200.0, *, per_success: float = 0.25) -> None:
        self._left = float(initial)
        self._maximum = float(initial)
        self._per_success = per_success
        self._lock = threading.Lock()

    def spend(self) -> bool:
        """Take one retry; `False` when there is none left."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def earn(self) -> None:
        """Note a success."""
        if self._left < self._maximum:
            with self._lock:
                self._left = min(self._maximum, self._left + self._per_success)


@attrs.frozen(kw_only=True)
class Retrier:
    """Repeats attempts under one policy; all calls that share a *budget* draw from it together."""

    policy: RetryPolicy
    budget: RetryBudget
    sleep: Callable[[float], None]
    """Waits; may raise `OperationCancelledError`."""
    random: Callable[[], float]
    """Returns a number in ``[0, 1)``."""

    def call(self, attempt: Callable[[int], T], *, on_retry: Callable[[int, float, BackupError], None]) -> T:
        """
        Call *attempt* with 1, 2, ... until it returns, fails for good, or attempts or budget are used up.

        Args:
            attempt: The work; gets the number of the attempt.
            on_retry: Told the number of the failed attempt, the wait in seconds, and why, before each wait.

        Raises:
            BackupError: The last failure, with ``attempts`` (and ``retry_budget_spent``) added to its context. A
                failure that asks for a wait names it as ``retry_after_seconds`` in its context.
        """
        number = 0
        while True:
            number += 1
            try:
                result = attempt(number)
            except BackupError as error:
                error.context["attempts"] = number
                if not error.retryable or number >= self.policy.attempts:
                    raise
                if not self.budget.spend():
                    error.context["retry_budget_spent"] = True
                    raise
                asked = float(error.context.get("retry_after_seconds", 0.0))
                delay = self.policy.delay_seconds(number, random=self.random, retry_after_seconds=asked)
                on_retry(number, delay, error)
            else:
                self.budget.earn()
                return result
            self.sleep(delay)
