"""
A bounded, ordered map over threads, whose steps may open into further steps.

Work is a sequence of steps. A step runs in a worker thread and returns values, and possibly further steps that take
their place directly behind it in the sequence::

    tenant 1 ─> vault a, vault b, proposals ─> p1, p2
    tenant 2 ─> vault a, proposals
    ...

The consumer receives the values in sequence order, whatever order the steps finish in. Steps are started in sequence
order too, so the consumer waits as little as possible. Two bounds hold memory flat: the number of steps started but not
yet consumed, and the bytes their values hold. The step the consumer waits for is exempt from both; therefore there is
always progress.

The first failure, an abandoned generator or Ctrl-C cancels the run: nothing new is started, threads under way are told
through the `Cancellation`, and all threads have ended before the generator has.
"""

from __future__ import annotations

import collections
import functools
import heapq
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import attrs

from ..errors import ConfigurationError
from .cancellation import Cancellation

__all__ = ["Done", "Step", "prefetch", "run_in_order"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
A = TypeVar("A")


@attrs.frozen(eq=False)
class Step(Generic[T_co]):
    """
    One unit of work.

    ``after`` names sibling steps, earlier in the sequence, that must have finished before this one starts.
    """

    work: Callable[[], Done[T_co]]
    after: Sequence[Step[T_co]] = ()


@attrs.frozen
class Done(Generic[T_co]):
    """What a step leaves: values at its place, then further steps, and how much memory the values hold."""

    values: Sequence[T_co] = ()
    then: Sequence[Step[T_co]] = ()
    size_bytes: int = 0


class _Node(Generic[T]):
    """A step at its place. ``key`` orders nodes: the path of positions from the root."""

    __slots__ = ("children", "done", "finished", "key", "step", "waiters", "waits_for")

    def __init__(self, step: Step[T], key: tuple[int, ...]) -> None:
        self.step: Step[T] | None = step
        self.key = key
        self.done: Done[T] | None = None
        self.finished = False
        self.children: list[_Node[T]] = []
        self.waits_for = 0
        self.waiters: list[_Node[T]] = []

    def __lt__(self, other: _Node[T]) -> bool:
        return self.key < other.key


def run_in_order(
    steps: Iterable[Step[T]],
    *,
    workers: int,
    window: int,
    budget_bytes: int,
    cancellation: Cancellation,
) -> Generator[T, None, None]:
    """
    Run *steps* and everything they open into, and yield their values in sequence order.

    Args:
        steps: Taken lazily, as the window allows; its own exceptions end the run.
        workers: Most threads at once.
        window: Most steps that are started but whose values are not yet consumed.
        budget_bytes: No further step is started while unconsumed values hold more than this; up to *workers* steps
            already under way may come on top.
        cancellation: Raised when the run ends early; work that waits should look at it.

    Raises:
        BaseException: The first failure of any step, with the traceback of its thread.
    """
    if workers < 1 or window < 1 or budget_bytes < 1:
        message = f"workers, window and budget must be at least 1; got {workers}, {window} and {budget_bytes}"
        raise ConfigurationError(message, kind="bad_concurrency")
    run = _Run(iter(steps), workers=workers, window=window, budget_bytes=budget_bytes, cancellation=cancellation)
    early = True
    try:
        while (values := run.next_values()) is not None:
            yield from values
        early = False
    finally:
        if early:
            cancellation.cancel()
        run.close()


def prefetch(
    function: Callable[[A], T],
    items: Iterable[A],
    *,
    workers: int,
    window: int,
    cancellation: Cancellation | None = None,
) -> Generator[T, None, None]:
    """
    Yield ``function(item)`` for every item, in order, computed by threads; at most *window* results wait in memory.

    Raises:
        BaseException: The first failure of *function* or *items*, with its original traceback.
    """

    def work(item: A) -> Done[T]:
        return Done((function(item),))

    steps = (Step[T](functools.partial(work, item)) for item in items)
    return run_in_order(
        steps, workers=workers, window=window, budget_bytes=1, cancellation=cancellation or Cancellation()
    )


class _Run(Generic[T]):
    """State of one run; everything is guarded by one lock."""

    def __init__(
        self, steps: Iterator[Step[T]], *, workers: int, window: int, budget_bytes: int, cancellation: Cancellation
    ) -> None:
        self._steps = steps
        self._workers = workers
        self._window = window
        self._budget_bytes = budget_bytes
        self._cancellation = cancellation
        lock = threading.Lock()
        self._work = threading.Condition(lock)  # workers wait here
        self._progress = threading.Condition(lock)  # the consumer waits here
        self._ready: list[_Node[T]] = []  # a heap: first in sequence first
        self._roots: collections.deque[_Node[T]] = collections.deque()  # taken from steps, not yet consumed
        self._taken = 0
        self._exhausted = False
        self._stack: list[_Node[T]] = []  # what the consumer walks next, last first
        self._head: _Node[T] | None = None
        self._open = 0
        self._held_bytes = 0
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._closed = False

    # -- consumer ---------------------------------------------------------------------------------------------------

    def next_values(self) -> Sequence[T] | None:
        with self._progress:
            if self._failure is None:  # a failure cancels the run, too, and is the better news
                self._cancellation.check()
            node = self._next_node()
            if node is None:
                return None
            self._head = node
            self._wake()
            while not node.finished and self._failure is None:
                self._progress.wait()
            if self._failure is not None:
                raise self._failure
            self._head = None
            done = node.done
            node.done = None  # the values now belong to the consumer alone
            if done is None:  # pragma: no cover - finished nodes have a result
                return ()
            self._open -= 1
            self._held_bytes -= done.size_bytes
            self._stack.extend(reversed(node.children))
            node.children = []
            return done.values

    def _next_node(self) -> _Node[T] | None:
        if self._failure is None and not self._stack and not self._roots:
            self._take_root()
        if self._failure is not None:
            raise self._failure
        if self._stack:
            return self._stack.pop()
        return self._roots.popleft() if self._roots else None

    def close(self) -> None:
        with self._progress:
            self._closed = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join()
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()
        self._failure = None  # it holds frames that hold this run

    # -- scheduling, with the lock held -------------------------------------------------------------------------------

    def _take_root(self) -> None:
        if self._exhausted:
            return
        try:
            step = next(self._steps)
        except StopIteration:
            self._exhausted = True
        except BaseException as error:  # noqa: BLE001 - the caller's iterator may raise anything; the consumer re-raises
            self._exhausted = True
            self._fail(error)
        else:
            node = _Node(step, (self._taken,))
            self._taken += 1
            self._roots.append(node)
            heapq.heappush(self._ready, node)

    def _has_room(self) -> bool:
        return self._open < self._window and self._held_bytes < self._budget_bytes

    def _next_ready(self) -> _Node[T] | None:
        if self._closed or self._failure is not None:
            return None
        if not self._ready and self._has_room():
            self._take_root()
        # Everything before the head is consumed, so if the head is ready it is the first of the heap.
        if self._ready and (self._ready[0] is self._head or self._has_room()):
            return heapq.heappop(self._ready)
        return None

    def _wake(self) -> None:
        """Let one more thread look for work; it wakes the next one itself when there is more."""
        if self._idle:
            self._work.notify()
        elif len(self._threads) < self._workers and not self._closed:
            thread = threading.Thread(target=self._serve, name=f"prefetch-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._cancellation.cancel()
        self._progress.notify_all()
        self._work.notify_all()

    # -- workers ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            with self._work:
                while (node := self._next_ready()) is None:
                    if self._closed or self._failure is not None:
                        return
                    self._idle += 1
                    self._work.wait()
                    self._idle -= 1
                self._open += 1
                if (self._ready or not self._exhausted) and self._has_room():
                    self._wake()
                step = node.step
                node.step = None
            try:
                if step is None:  # pragma: no cover - a node is started once
                    return
                done = step.work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer raises it
                with self._progress:
                    self._fail(error)
                return
            with self._progress:
                self._finish(node, done)

    def _finish(self, node: _Node[T], done: Done[T]) -> None:
        node.done = done
        node.finished = True
        self._held_bytes += done.size_bytes
        nodes = {child: _Node(child, (*node.key, place)) for place, child in enumerate(done.then)}
        node.children = list(nodes.values())
        for child, opened in nodes.items():
            for earlier in child.after:
                nodes[earlier].waiters.append(opened)
                opened.waits_for += 1
            if not opened.waits_for:
                heapq.heappush(self._ready, opened)
        for waiter in node.waiters:
            waiter.waits_for -= 1
            if not waiter.waits_for:
                heapq.heappush(self._ready, waiter)
        node.waiters = []
        if node is self._head:
            self._progress.notify_all()
