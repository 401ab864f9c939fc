"""
One stream to several consumers at once, read once.

Every consumer has a thread and a bounded feed; the stream is read in the caller's thread. A slow consumer slows all,
one that ended is left out. The end of the stream is told last: first to one consumer alone, in the given order, and to
the others only when that one has succeeded. So of several writers that race for one name, the one that wins the first
place wins everywhere.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import attrs

__all__ = ["AbortedError", "FanOut", "fan_out"]

_T = TypeVar("_T")


class AbortedError(Exception):
    """Ends the stream of a consumer that must not finish; only consumers see it."""


@attrs.define
class FanOut(Generic[_T]):
    """How far it came: what consumers returned and raised, by name."""

    results: dict[str, _T] = attrs.field(factory=dict)
    failures: dict[str, BaseException] = attrs.field(factory=dict)
    size_bytes: int = 0
    """Length of the stream so far."""


def fan_out(
    chunks: Iterable[bytes],
    consumers: Mapping[str, Callable[[Iterator[bytes]], _T]],
    *,
    check: Callable[[FanOut[_T]], None],
    window_bytes: int,
) -> FanOut[_T]:
    """
    Give a stream to every consumer and return what became of it.

    Args:
        chunks: Read once, not before every consumer has asked for its first chunk or ended.
        consumers: Called with the stream, each in a thread of its own. The first is told the end of the stream first.
        check: Called whenever another consumer failed, with what is known; ends everything by raising.
        window_bytes: How much may wait for one consumer; a larger chunk waits alone.

    Raises:
        BaseException: What *chunks* or *check* raised; nobody was told the end of the stream who had not been before.
    """
    run = _Run([_Lane(name, consume, window_bytes) for name, consume in consumers.items()], check)
    try:
        run.begin()
        run.stream(chunks)
        run.publish()
    except BaseException:
        run.abort()
        raise
    return run.fan


class _Run(Generic[_T]):
    """One stream on its way, by phases."""

    def __init__(self, lanes: list[_Lane[_T]], check: Callable[[FanOut[_T]], None]) -> None:
        self._lanes = lanes
        self._check = check
        self.fan = FanOut[_T]()

    def _look(self) -> None:
        known = len(self.fan.failures)
        for lane in self._lanes:
            lane.report(self.fan)
        if len(self.fan.failures) != known:
            self._check(self.fan)

    def _settle(self) -> None:
        """Wait until all that was sent was taken, and look who failed with it."""
        for lane in self._lanes:
            lane.wait_hungry()
        self._look()

    def begin(self) -> None:
        for lane in self._lanes:
            lane.start()
        self._settle()

    def stream(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            if not chunk:
                continue
            self.fan.size_bytes += len(chunk)
            taken = [lane.send(chunk) for lane in self._lanes]
            if not all(taken):
                self._look()
        self._settle()

    def publish(self) -> None:
        for lane in self._lanes:
            lane.finish()
            lane.join()
            self._look()
            if lane.name in self.fan.results:
                break
        for lane in self._lanes:
            lane.finish()
        for lane in self._lanes:
            lane.join()
        self._look()

    def abort(self) -> None:
        for lane in self._lanes:
            lane.abort()
        for lane in self._lanes:
            lane.join()


class _Lane(Generic[_T]):
    """One consumer, its thread and its feed."""

    def __init__(self, name: str, consume: Callable[[Iterator[bytes]], _T], window_bytes: int) -> None:
        self.name = name
        self._consume = consume
        self._window_bytes = window_bytes
        self._changed = threading.Condition()
        self._queue: collections.deque[bytes] = collections.deque()
        self._queued_bytes = 0
        self._hungry = False
        self._finished = False
        self._aborted = False
        self._outcome: tuple[_T] | BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"fan-out-{name}", daemon=True)
        self._started = False

    # -- the consumer's side ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        outcome: tuple[_T] | BaseException
        try:
            outcome = (self._consume(self._stream()),)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller's thread decides
            outcome = error
        with self._changed:
            self._outcome = outcome
            self._queue.clear()
            self._changed.notify_all()

    def _stream(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not self._queue and not self._finished and not self._aborted:
                    self._hungry = True
                    self._changed.notify_all()
                    self._changed.wait()
                self._hungry = False
                if self._aborted:
                    message = "the stream to several targets was ended"
                    raise AbortedError(message)
                if not self._queue:
                    return
                chunk = self._queue.popleft()
                self._queued_bytes -= len(chunk)
                self._changed.notify_all()
            yield chunk

    # -- the caller's side --------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._started = True

    def join(self) -> None:
        if self._started:
            self._thread.join()

    def send(self, chunk: bytes) -> bool:
        """Queue a chunk as soon as there is room; `False` when the consumer has ended."""
        with self._changed:
            while self._outcome is None and self._queue and self._queued_bytes + len(chunk) > self._window_bytes:
                self._changed.wait()
            if self._outcome is not None:
                return False
            self._queue.append(chunk)
            self._queued_bytes += len(chunk)
            self._hungry = False
            self._changed.notify_all()
            return True

    def wait_hungry(self) -> None:
        """Wait until everything sent was taken and more is asked for, or the consumer has ended."""
        with self._changed:
            while self._outcome is None and not (self._hungry and not self._queue):
                self._changed.wait()

    def finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def report(self, fan: FanOut[_T]) -> None:
        """Add the outcome, if there is one."""
        with self._changed:
            outcome = self._outcome
        if isinstance(outcome, tuple):
            fan.results[self.name] = outcome[0]
        elif outcome is not None:
            fan.failures[self.name] = outcome
