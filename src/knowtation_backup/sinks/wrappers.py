"""
A sink around a sink: one that refuses writing or deleting, one that is slower on purpose, one that is watched.

Each passes on what it does not change, and says in `capabilities` what the pair of them guarantees.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

import attrs

from .._checks import above, at_least, optional
from ..contracts import ArchiveSink, Observer
from ..errors import BackupError, SinkPermissionError
from ..model.blobs import BlobInfo, BlobLock, SinkCapabilities
from ..model.events import Event
from ..model.moments import iso_ms
from ..model.reports import TargetResult

__all__ = ["AppendOnlySink", "ObservedSink", "ReadOnlySink", "SinkWrapper", "ThrottledSink"]

_T = TypeVar("_T")


class SinkWrapper(ArchiveSink):
    """
    Passes everything on; the base of wrappers that change one thing.

    Args:
        inner: The sink inside.
    """

    def __init__(self, inner: ArchiveSink) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        """Return class and the sink inside."""
        return f"{type(self).__name__}({self._inner!r})"

    @property
    def inner(self) -> ArchiveSink:
        """The sink inside."""
        return self._inner

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

    def is_free(self, key: str) -> bool:
        """Ask the sink inside."""
        return self._inner.is_free(key)

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        return self._inner.put(key, chunks)

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        return self._inner.read(key, start=start, size_bytes=size_bytes)

    def _stat(self, key: str) -> BlobInfo:
        return self._inner.stat(key)

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        return self._inner.list(prefix)

    def _delete(self, key: str) -> None:
        self._inner.delete(key)

    def _lock_of(self, key: str) -> BlobLock:
        return self._inner.lock_of(key)

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        return self._inner.retain_until(key, until)


class AppendOnlySink(SinkWrapper):
    """
    Refuses to delete; writing new blobs works, and so does locking what is there for longer.

    A seat belt for the process that uses it. Against somebody who took the host over only credentials that the store
    itself refuses to delete with help.

    Args:
        inner: The sink inside.
    """

    @property
    def capabilities(self) -> SinkCapabilities:
        """Those of the sink inside, without deleting."""
        return attrs.evolve(self._inner.capabilities, deletable=False)

    def _delete(self, key: str) -> None:
        self._refuse("deleting", key)

    def _refuse(self, doing: str, key: str) -> NoReturn:
        message = f"{doing} {key} in {self.location} is refused by {type(self).__name__}"
        raise SinkPermissionError(message, hint="use the sink without this wrapper where this is meant", key=key)


class ReadOnlySink(AppendOnlySink):
    """
    Refuses to write, to lock and to delete: for restoring and verifying without any chance of changing something.

    Args:
        inner: The sink inside.
    """

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:  # noqa: ARG002 - the stream is not touched
        self._refuse("writing", key)

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:  # noqa: ARG002 - whatever the moment
        self._refuse("locking", key)


@attrs.frozen(kw_only=True)
class _Rates:
    upload_bytes_per_second: float | None = attrs.field(validator=optional(above(0)))
    download_bytes_per_second: float | None = attrs.field(validator=optional(above(0)))
    burst_seconds: float = attrs.field(validator=at_least(0))


class _TokenBucket:
    """
    Bytes flow at *rate* per second; what was not used in the last *burst_seconds* may be used at once.

    A piece may be larger than what is there: it goes into debt, and whoever comes next waits longer. Thread-safe.
    """

    def __init__(
        self, rate: float, burst_seconds: float, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._rate = rate
        self._burst = rate * burst_seconds
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = self._burst
        self._filled_at = clock()
        self.piece_bytes = max(1, min(1 << 20, int(rate / 4)))
        """Larger chunks are cut, so that bytes flow evenly and not once in a while."""

    def take(self, count: int) -> None:
        """Wait until *count* bytes may have flowed."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
            self._tokens -= count
            wait = -self._tokens / self._rate
        if wait > 0:
            self._sleep(wait)


class ThrottledSink(SinkWrapper):
    """
    Sends and receives no faster than told, over all its streams together, so that a backup leaves the line usable.

    Args:
        inner: The sink inside.
        upload_bytes_per_second: For `put`; `None` is no limit.
        download_bytes_per_second: For `read`; `None` is no limit.
        burst_seconds: How much unused time may be caught up.
        clock: Seconds that never go back.
        sleep: Waits; may raise `OperationCancelledError`.

    Raises:
        ConfigurationError: A rate is not above 0.
    """

    def __init__(  # noqa: PLR0913 - options, all with a default
        self,
        inner: ArchiveSink,
        *,
        upload_bytes_per_second: float | None = None,
        download_bytes_per_second: float | None = None,
        burst_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(inner)
        rates = _Rates(
            upload_bytes_per_second=upload_bytes_per_second,
            download_bytes_per_second=download_bytes_per_second,
            burst_seconds=burst_seconds,
        )

        def bucket(rate: float | None) -> _TokenBucket | None:
            return None if rate is None else _TokenBucket(rate, rates.burst_seconds, clock, sleep)

        self._up = bucket(rates.upload_bytes_per_second)
        self._down = bucket(rates.download_bytes_per_second)

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        return self._inner.put(key, chunks if self._up is None else _paced(chunks, self._up))

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        chunks = self._inner.read(key, start=start, size_bytes=size_bytes)
        return chunks if self._down is None else _paced(chunks, self._down)


def _paced(chunks: Iterable[bytes], bucket: _TokenBucket) -> Iterator[bytes]:
    for chunk in chunks:
        for offset in range(0, len(chunk), bucket.piece_bytes):
            piece = chunk[offset : offset + bucket.piece_bytes]
            bucket.take(len(piece))
            yield piece


class ObservedSink(SinkWrapper):
    """
    Tells an observer of every operation once it has ended: what, how many bytes, how long, and why it failed.

    ``seconds`` is time spent in the sink inside; waiting for whoever makes or takes the stream is not counted. Events
    are told from the thread that called; a read that was given up is told when it is closed.

    Args:
        inner: The sink inside.
        observer: Told ``sink.put``, ``sink.read``, ``sink.stat``, ``sink.list``, ``sink.delete``, ``sink.lock_of`` and
            ``sink.retain``.
        clock: Seconds that never go back.
    """

    def __init__(
        self, inner: ArchiveSink, observer: Observer, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(inner)
        self._observer = observer
        self._clock = clock

    def _tell(self, name: str, **fields: object) -> None:
        self._observer(Event(name=name, fields=fields))

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        watch = _Stopwatch(self._clock)
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            stream = iter(chunks)
            while True:
                watch.stop()
                try:
                    chunk = next(stream, None)
                finally:
                    watch.start()
                if chunk is None:
                    return
                sent += len(chunk)
                yield chunk

        error: str | None = None
        watch.start()
        try:
            return self._inner.put(key, counted())
        except BaseException as failure:
            error = _kind(failure)
            raise
        finally:
            watch.stop()
            self._tell("sink.put", key=key, size_bytes=sent, seconds=watch.seconds, error=error)

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        received = 0
        watch = _Stopwatch(self._clock)
        error: str | None = None
        try:
            for chunk in watch.around(self._inner.read(key, start=start, size_bytes=size_bytes)):
                received += len(chunk)
                yield chunk
        except Exception as failure:
            error = _kind(failure)
            raise
        finally:
            self._tell("sink.read", key=key, start=start, size_bytes=received, seconds=watch.seconds, error=error)

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        blobs = 0
        watch = _Stopwatch(self._clock)
        error: str | None = None
        try:
            for info in watch.around(self._inner.list(prefix)):
                blobs += 1
                yield info
        except Exception as failure:
            error = _kind(failure)
            raise
        finally:
            self._tell("sink.list", prefix=prefix, blobs=blobs, seconds=watch.seconds, error=error)

    def _stat(self, key: str) -> BlobInfo:
        def tell(seconds: float, error: str | None) -> None:
            self._tell("sink.stat", key=key, seconds=seconds, error=error)

        return self._timed(lambda: self._inner.stat(key), tell)

    def _delete(self, key: str) -> None:
        def tell(seconds: float, error: str | None) -> None:
            self._tell("sink.delete", key=key, seconds=seconds, error=error)

        self._timed(lambda: self._inner.delete(key), tell)

    def _lock_of(self, key: str) -> BlobLock:
        def tell(seconds: float, error: str | None) -> None:
            self._tell("sink.lock_of", key=key, seconds=seconds, error=error)

        return self._timed(lambda: self._inner.lock_of(key), tell)

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        def tell(seconds: float, error: str | None) -> None:
            self._tell("sink.retain", key=key, until=iso_ms(until), seconds=seconds, error=error)

        return self._timed(lambda: self._inner.retain_until(key, until), tell)

    def _timed(self, act: Callable[[], _T], tell: Callable[[float, str | None], None]) -> _T:
        watch = _Stopwatch(self._clock)
        error: str | None = None
        watch.start()
        try:
            return act()
        except BaseException as failure:
            error = _kind(failure)
            raise
        finally:
            watch.stop()
            tell(watch.seconds, error)


class _Stopwatch:
    """Adds up time between `start` and `stop`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: float | None = None
        self.seconds = 0.0

    def start(self) -> None:
        self._since = self._clock()

    def stop(self) -> None:
        if self._since is not None:
            self.seconds += self._clock() - self._since
            self._since = None

    def around(self, items: Iterator[_T]) -> Iterator[_T]:
        """Pass items on, counting only the time it takes to get them."""
        while True:
            self.start()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.stop()
            yield item


def _kind(failure: BaseException) -> str:
    return failure.kind if isinstance(failure, BackupError) else type(failure).__name__
