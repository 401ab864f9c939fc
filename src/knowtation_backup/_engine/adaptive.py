"""How many requests may be under way at once: fewer when the other side complains, more while it is content."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ..errors import ConfigurationError
from .cancellation import Cancellation

__all__ = ["AdaptiveLimit"]

_GROWTH = 0.5
"""Added per success: a limit that was halved is back after about one round of requests."""


class AdaptiveLimit:
    """
    A semaphore whose size follows the outcome of what it admits.

    Starts at *maximum*. An overload (429, 5xx) halves the limit, at most once per round: requests admitted before the
    last cut do not cut again, or one bad moment with 32 requests under way would cut it to 1. Successes grow it.
    """

    def __init__(self, maximum: int, *, minimum: int = 1) -> None:
        if not 1 <= minimum <= maximum:
            message = f"a concurrency limit must lie between 1 and its maximum; got {minimum} and {maximum}"
            raise ConfigurationError(message, kind="bad_concurrency")
        self._maximum = float(maximum)
        self._minimum = float(minimum)
        self._limit = float(maximum)
        self._running = 0
        self._round = 0
        self._lowest = maximum
        self._changed = threading.Condition(threading.Lock())

    @property
    def limit(self) -> int:
        """How many may run now."""
        return int(self._limit)

    @property
    def lowest(self) -> int:
        """The smallest limit there ever was, for reports."""
        return self._lowest

    @contextlib.contextmanager
    def admit(self, cancellation: Cancellation) -> Iterator[int]:
        """
        Wait for a place and hold it; yields the round to hand back to `overloaded`.

        Raises:
            OperationCancelledError: The run was cancelled while waiting; noticed within a quarter of a second.
        """
        with self._changed:
            while self._running >= int(self._limit):
                cancellation.check()
                self._changed.wait(0.25)
            self._running += 1
            current = self._round
        try:
            yield current
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify()

    def succeeded(self) -> None:
        """Note that an admitted request went well."""
        if self._limit >= self._maximum:  # the usual case, without the lock; a race only delays growth by one success
            return
        with self._changed:
            before = int(self._limit)
            self._limit = min(self._maximum, self._limit + _GROWTH)
            if int(self._limit) > before:
                self._changed.notify()

    def overloaded(self, admitted_in: int) -> None:
        """Note that a request admitted in round *admitted_in* met an overloaded server."""
        with self._changed:
            if admitted_in != self._round:
                return
            self._round += 1
            self._limit = max(self._minimum, self._limit / 2)
            self._lowest = min(self._lowest, int(self._limit))
