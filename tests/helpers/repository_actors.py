"""
Actors: work on a repository that advances one operation of the store at a time, so that several really overlap.

An actor runs in a thread of its own and stops before each operation that this thread asks of the store; operations of
helping threads happen when they happen. It goes on when it is told to, or dies there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.model.blobs import BlobInfo, SinkCapabilities

__all__ = ["Actor", "KilledError"]

_SECONDS = 60
"""To notice an actor that hangs."""


class KilledError(BaseException):
    """The process is gone: nothing that it would have done still happens."""


class Actor:
    """
    One process.

    Args:
        inner: The store.
        work: Gets the sink to work with.
    """

    def __init__(self, inner: ArchiveSink, work: Callable[[ArchiveSink], Any]) -> None:
        self._inner = inner
        self._work = work
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._killed = False
        self.waits_for = ""
        """The operation it has stopped before."""
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._await()

    def _run(self) -> None:
        try:
            self.result = self._work(_Gate(self._inner, self))
        except BaseException as error:  # noqa: BLE001 - looked at by whoever steps
            self.error = error
        finally:
            self.done = True
            self._stopped.release()

    def _await(self) -> None:
        if not self._stopped.acquire(timeout=_SECONDS):
            message = f"an actor hangs after {self.waits_for}"
            raise AssertionError(message)
        if self.done:
            self._thread.join()
            if self.error is not None and not isinstance(self.error, KilledError):
                raise self.error

    def stop_before(self, operation: str) -> None:
        """Wait for the word, when it is the actor's own thread that asks; or die."""
        if threading.current_thread() is self._thread and not self._killed:
            self.waits_for = operation
            self._stopped.release()
            self._go.acquire()
        if self._killed:
            raise KilledError(operation)

    def step(self, count: int = 1) -> None:
        """Let it do so many operations; raises what ended it."""
        for _ in range(count):
            if self.done:
                return
            self._go.release()
            self._await()

    def finish(self) -> Any:
        """Let it come to its end, and return its result."""
        while not self.done:
            self.step()
        return self.result

    def kill(self) -> None:
        """End it before the operation it waits for."""
        self._killed = True
        if not self.done:
            self._go.release()
            self._await()


class _Gate(ArchiveSink):
    def __init__(self, inner: ArchiveSink, actor: Actor) -> None:
        self._inner = inner
        self._actor = actor

    @property
    def capabilities(self) -> SinkCapabilities:
        return self._inner.capabilities

    @property
    def location(self) -> str:
        return self._inner.location

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        self._actor.stop_before(f"put {key}")
        return self._inner.put(key, chunks)

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        self._actor.stop_before(f"read {key}")
        yield from self._inner.read(key, start=start, size_bytes=size_bytes)

    def _stat(self, key: str) -> BlobInfo:
        self._actor.stop_before(f"stat {key}")
        return self._inner.stat(key)

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        self._actor.stop_before(f"list {prefix}")
        yield from self._inner.list(prefix)

    def _delete(self, key: str) -> None:
        self._actor.stop_before(f"delete {key}")
        self._inner.delete(key)
