"""`FaultSink`: a sink around a sink whose k-th operation fails."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..contracts import ArchiveSink
from ..errors import BackupError, SinkUnavailableError
from ..model.blobs import BlobInfo, BlobLock, SinkCapabilities
from ..model.reports import TargetResult

__all__ = ["FaultMoment", "FaultSink"]

_T = TypeVar("_T")


class FaultMoment(enum.Enum):
    """When an operation fails: before it does anything, in the middle, or after it was done (a lost answer)."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


def _unreachable(operation: str) -> Exception:
    return SinkUnavailableError(f"planned fault at {operation}")


class FaultSink(ArchiveSink):
    """
    Passes everything on, and fails once, or from one operation on.

    Args:
        inner: The sink that works.
        fail_at: Number of the operation to fail, from 0; `None` never fails and only counts.
        fail_from: Number of the first operation to fail together with all that follow: a store that is gone.
        moment: When it fails. Listing and reading fail after their first item, writing after the first chunk; looking
            and deleting have no middle and fail before.
        error: Makes what is raised from the operation's text, such as ``put a/b``.
    """

    def __init__(
        self,
        inner: ArchiveSink,
        *,
        fail_at: int | None = None,
        fail_from: int | None = None,
        moment: FaultMoment = FaultMoment.BEFORE,
        error: Callable[[str], BaseException] = _unreachable,
    ) -> None:
        self._inner = inner
        self._fail_at = fail_at
        self._fail_from = fail_from
        self._lock = threading.Lock()
        self._moment = moment
        self._error = error
        self.operations: list[str] = []
        """What was asked so far, such as ``put a/b``; the index is the operation's number."""

    def __repr__(self) -> str:
        """Return class and the sink inside."""
        return f"FaultSink({self._inner!r})"

    @property
    def capabilities(self) -> SinkCapabilities:
        """Those of the sink inside."""
        return self._inner.capabilities

    @property
    def location(self) -> str:
        """That of the sink inside."""
        return self._inner.location

    def target_results(self, archive_id: str) -> tuple[TargetResult, ...]:
        """Return those of the sink inside."""
        return self._inner.target_results(archive_id)

    def _count(self, operation: str) -> FaultMoment | None:
        with self._lock:
            number = len(self.operations)
            self.operations.append(operation)
        planned = number == self._fail_at or (self._fail_from is not None and number >= self._fail_from)
        return self._moment if planned else None

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        operation = f"put {key}"
        planned = self._count(operation)
        if planned is FaultMoment.BEFORE:
            raise self._error(operation)
        if planned is FaultMoment.DURING:
            chunks = self._break(iter(chunks), operation)
        info = self._inner.put(key, chunks)
        if planned is FaultMoment.AFTER:
            raise self._error(operation)
        return info

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        return self._stream(f"read {key}", lambda: self._inner.read(key, start=start, size_bytes=size_bytes))

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        return self._stream(f"list {prefix}", lambda: self._inner.list(prefix))

    def _stat(self, key: str) -> BlobInfo:
        return self._single(f"stat {key}", lambda: self._inner.stat(key))

    def _delete(self, key: str) -> None:
        self._single(f"delete {key}", lambda: self._inner.delete(key))

    def _lock_of(self, key: str) -> BlobLock:
        return self._single(f"lock_of {key}", lambda: self._inner.lock_of(key))

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        return self._single(f"retain {key}", lambda: self._inner.retain_until(key, until))

    def _single(self, operation: str, act: Callable[[], _T]) -> _T:
        planned = self._count(operation)
        if planned in {FaultMoment.BEFORE, FaultMoment.DURING}:
            raise self._error(operation)
        if planned is FaultMoment.AFTER:
            with contextlib.suppress(BackupError):  # a lost refusal is lost as well
                act()
            raise self._error(operation)
        return act()

    def _stream(self, operation: str, act: Callable[[], Iterator[_T]]) -> Iterator[_T]:
        planned = self._count(operation)
        if planned is FaultMoment.BEFORE:
            raise self._error(operation)
        if planned is FaultMoment.DURING:
            yield from self._break(act(), operation)
        yield from act()
        if planned is FaultMoment.AFTER:
            raise self._error(operation)

    def _break(self, items: Iterator[_T], operation: str) -> Iterator[_T]:
        for item in items:
            yield item
            break
        raise self._error(operation)
