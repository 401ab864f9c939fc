"""
A library that reads one file object and writes another, as a generator.

The library's loop runs in a thread of its own, but never at the same time as the caller: each side hands over and
waits. So chunks are taken, and errors raised, in the caller's thread, and one piece of each side is in memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import attrs

__all__ = ["Reader", "Writer", "in_turns"]

_PIECE_BYTES: Final = 1 << 20


class Reader(Protocol):
    """What the loop reads from."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to *size* bytes, none at the end."""
        ...


class Writer(Protocol):
    """What the loop writes to."""

    def write(self, data: bytes, /) -> int:
        """Take all of *data*."""
        ...

    def flush(self) -> None:
        """Do nothing."""


class _StoppedError(Exception):
    """Raised in the loop when the caller wants no more."""


@attrs.frozen
class _Wanted:
    """The loop wants input."""


@attrs.frozen
class _Made:
    """The loop made output."""

    data: bytes


@attrs.frozen
class _Ended:
    """The loop is over."""

    error: BaseException | None


def in_turns(chunks: Iterator[bytes], loop: Callable[[Reader, Writer], object]) -> Iterator[bytes]:
    """
    Yield what *loop* writes, in pieces of about 1 MiB, while it reads *chunks*.

    Args:
        chunks: Read in this thread; their errors pass through. Not closed.
        loop: Called once, in another thread. What it raises is raised here; what it wrote last may be left
            out then.
    """
    sides = _Sides()
    thread = threading.Thread(target=sides.run, args=(loop,), name="knowtation-backup-age", daemon=True)
    thread.start()
    try:
        while True:
            told = sides.to_caller.get()
            if isinstance(told, _Made):
                yield told.data
                sides.to_loop.put(b"")
            elif isinstance(told, _Wanted):
                sides.to_loop.put(next(filter(None, chunks), b""))
            else:
                if told.error is not None:
                    raise told.error
                return
    finally:
        sides.to_loop.put(None)
        thread.join()


class _Sides:
    """Both file objects, as the loop sees them."""

    def __init__(self) -> None:
        self.to_caller: queue.SimpleQueue[_Wanted | _Made | _Ended] = queue.SimpleQueue()
        self.to_loop: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._rest = memoryview(b"")
        self._made: list[bytes] = []
        self._made_bytes = 0
        self._stopped = False

    def run(self, loop: Callable[[Reader, Writer], object]) -> None:
        error: BaseException | None = None
        try:
            loop(self, self)
            self._hand_over()
        except BaseException as caught:  # noqa: BLE001 - raised again in the caller's thread
            error = caught
        self.to_caller.put(_Ended(error))

    def _tell(self, what: _Wanted | _Made) -> bytes:
        if self._stopped:  # libraries flush what they hold when they are told to stop
            raise _StoppedError
        self.to_caller.put(what)
        answer = self.to_loop.get()
        if answer is None:
            self._stopped = True
            raise _StoppedError
        return answer

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = memoryview(self._tell(_Wanted()))
        piece = bytes(self._rest[:size])
        self._rest = self._rest[size:]
        return piece

    def write(self, data: bytes, /) -> int:
        self._made.append(data)
        self._made_bytes += len(data)
        if self._made_bytes >= _PIECE_BYTES:
            self._hand_over()
        return len(data)

    def flush(self) -> None:
        """Do nothing: pieces are handed over when they are large enough, or at the end."""

    def _hand_over(self) -> None:
        data = b"".join(self._made)
        self._made, self._made_bytes = [], 0
        if data:
            self._tell(_Made(data))
