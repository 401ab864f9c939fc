"""
An ordered map over very many threads that mostly wait.

`prefetch` starts threads as steps open further steps, under the lock that all of them need; with a hundred threads and
an interpreter that lets one of them run at a time that costs more than the work. Here the items are a plain sequence,
all threads start at once, and a thread holds the lock only to take a number and to leave a result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

from .._engine.cancellation import Cancellation

__all__ = ["in_order"]

A = TypeVar("A")
T = TypeVar("T")


def in_order(
    function: Callable[[A], T], items: Iterable[A], *, workers: int, window: int, cancellation: Cancellation
) -> Generator[T, None, None]:
    """
    Yield ``function(item)`` for every item, in order, computed by threads.

    The first failure, an abandoned generator or Ctrl-C cancels the run; all threads end before the generator does.

    Args:
        function: Called by many threads at once.
        items: Taken lazily, one at a time.
        workers: Threads.
        window: Most items taken whose result was not yet consumed.
        cancellation: Raised when the run ends early; *function* should look at it where it waits.

    Raises:
        BaseException: The first failure of *function* or *items*.
    """
    run = _Run(function, iter(items), window=window, cancellation=cancellation)
    threads = [
        threading.Thread(target=run.serve, name=f"snapshot-{number}", daemon=True)
        for number in range(min(workers, window))
    ]
    early = True
    try:
        for thread in threads:
            thread.start()
        yield from run.results()
        early = False
    finally:
        if early:
            cancellation.cancel()
        run.close(len(threads))
        for thread in threads:
            if thread.ident is not None:
                thread.join()


class _Run(Generic[A, T]):
    def __init__(
        self, function: Callable[[A], T], items: Iterator[A], *, window: int, cancellation: Cancellation
    ) -> None:
        self._function = function
        self._items = items
        self._cancellation = cancellation
        self._room = threading.Semaphore(window)
        self._taking = threading.Lock()
        self._taken = 0
        self._exhausted = False
        self._lock = threading.Lock()
        self._head_done = threading.Condition(self._lock)
        self._head = 0
        self._results: dict[int, T] = {}
        self._failure: BaseException | None = None

    def results(self) -> Generator[T, None, None]:
        while True:
            with self._lock:
                while self._head not in self._results:
                    if self._failure is not None:
                        raise self._failure
                    self._cancellation.check()
                    if self._exhausted and self._head == self._taken:
                        return
                    self._head_done.wait()
                result = self._results.pop(self._head)
                self._head += 1
            self._room.release()
            yield result
            del result

    def close(self, workers: int) -> None:
        with self._taking:
            self._exhausted = True
            self._items = iter(())
        self._room.release(max(workers, 1))
        self._failure = None  # it holds frames that hold this run

    def serve(self) -> None:
        try:
            while True:
                self._room.acquire()
                with self._taking:
                    if self._exhausted:
                        return
                    try:
                        item = next(self._items)
                    except StopIteration:
                        self._finish()
                        return
                    number = self._taken
                    self._taken += 1
                result = self._function(item)
                with self._lock:
                    self._results[number] = result
                    if number == self._head:
                        self._head_done.notify()
                del result, item
        except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer raises it
            with self._lock:
                if self._failure is None:
                    self._failure = error
                self._cancellation.cancel()
                self._exhausted = True
                self._head_done.notify()

    def _finish(self) -> None:
        with self._lock:
            self._exhausted = True
            self._head_done.notify()
        self._room.release(1 << 16)  # the others need not wait for room any more
