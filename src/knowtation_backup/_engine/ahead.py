"""
Computing ahead of the consumer: an ordered map over threads for work that needs processor time.

Differs from `prefetch` in who reads the items: the consumer's own thread does, between two results. So a stream that
is transformed here is still read by one thread, in step with the consumer, and may be any iterator. Errors keep their
place, too: what comes before a failure is delivered first, whatever the threads' timing, so hostile and damaged data
give the same result in every run.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

__all__ = ["map_ahead", "processors"]

T = TypeVar("T")
A = TypeVar("A")

_EXTRA_ITEMS: Final = 2  # beyond one per thread: these keep the threads busy while the consumer has the turn


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover - other systems


def map_ahead(function: Callable[[A], T], items: Iterable[A], *, workers: int) -> Generator[T, None, None]:
    """
    Yield ``function(item)`` for every item, in order, computed by threads.

    At most *workers* + 2 items are taken from *items* and not yet yielded. For a single item no thread is started. All
    threads have ended, and *items* is closed, before the generator has.

    Args:
        function: Called by several threads at once; should release the interpreter lock.
        items: Read in the consumer's thread only.
        workers: Most threads at once.

    Raises:
        BaseException: What *function* or *items* raised, unchanged, after everything before it was yielded.
    """
    feed = _Feed(items)
    try:
        yield from _mapped(function, feed, workers)
        feed.raise_failure()
    finally:
        feed.close()


def _mapped(function: Callable[[A], T], feed: _Feed[A], workers: int) -> Generator[T, None, None]:
    begin = feed.take(2)
    if len(begin) == 1:
        yield function(begin[0])
    if len(begin) < 2:
        return
    executor = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        pending: collections.deque[Future[T]] = collections.deque(executor.submit(function, item) for item in begin)
        del begin
        while pending:
            for item in feed.take(workers + _EXTRA_ITEMS - len(pending)):
                pending.append(executor.submit(function, item))
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


class _Feed(Generic[A]):
    """Items on demand, and the error they ended with, if any, kept until its turn has come."""

    def __init__(self, items: Iterable[A]) -> None:
        self._items = iter(items)
        self._ended = False
        self._failure: Exception | None = None

    def take(self, count: int) -> list[A]:
        """Return up to *count* items, fewer only at the end."""
        taken: list[A] = []
        while len(taken) < count and not self._ended:
            try:
                taken.append(next(self._items))
            except StopIteration:
                self._ended = True
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised when it is its turn
                self._ended = True
                self._failure = error
        return taken

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._failure = None  # its frames hold this object
        close = getattr(self._items, "close", None)
        if close is not None:
            close()
