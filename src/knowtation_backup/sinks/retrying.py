"""`RetryingSink`: a sink around a sink that repeats what failed for a passing reason."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import os
import random as randomness
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import attrs

from .._checks import at_least
from .._engine.retrying import Retrier, RetryBudget, RetryPolicy
from ..contracts import ArchiveSink, Observer, ignore_events
from ..errors import BackupError, BlobExistsError, BlobNotFoundError
from ..model.blobs import BlobInfo, BlobLock
from ..model.events import Event
from ._tape import Tape
from .wrappers import SinkWrapper

__all__ = ["RetryingSink"]

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class _Bounds:
    repeat_bytes: int = attrs.field(validator=at_least(0))


class RetryingSink(SinkWrapper):
    """
    Repeats what failed with an error whose class is ``retryable``; all other errors pass at once.

    A read goes on at the byte where it broke, a listing behind the last key; neither yields anything twice. A `put` is
    repeated when its stream can be played again, after looking whether the lost answer was our own success: a blob of
    exactly our bytes under the key counts as written. A repeated `delete` that finds nothing has succeeded.

    A stream longer than *repeat_bytes* cannot be repeated without *spool_directory*, since its beginning is gone. When
    all of it was sent, it is still found out whether it arrived.

    Args:
        inner: The sink inside.
        policy: How often and how long to wait; `None` means the defaults.
        repeat_bytes: How much of a stream is kept in memory so that it can be repeated; per `put` under way.
        spool_directory: Where longer streams are kept meanwhile, in a file without a name. It holds the bytes as they
            are stored: sealed, if a codec seals them.
        budget: Retries this sink may spend; `None` means 200, of which every success earns a quarter back.
        observer: Told ``sink.retry``.
        sleep: Waits; may raise `OperationCancelledError`.
        random: Returns a number in ``[0, 1)``.

    Raises:
        ConfigurationError: *repeat_bytes* is negative.
    """

    def __init__(  # noqa: PLR0913 - options, all with a default
        self,
        inner: ArchiveSink,
        policy: RetryPolicy | None = None,
        *,
        repeat_bytes: int = 8 << 20,
        spool_directory: str | os.PathLike[str] | None = None,
        budget: RetryBudget | None = None,
        observer: Observer = ignore_events,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        super().__init__(inner)
        self._bounds = _Bounds(repeat_bytes=repeat_bytes)
        self._spool_directory = spool_directory
        self._observer = observer
        self._retrier = Retrier(
            policy=policy or RetryPolicy(), budget=budget or RetryBudget(), sleep=sleep, random=random
        )

    def _call(self, attempt: Callable[[int], _T], operation: str, key: str) -> _T:
        def on_retry(number: int, delay: float, error: BackupError) -> None:
            fields = {
                "operation": operation,
                "key": key,
                "attempt": number,
                "delay_seconds": delay,
                "kind": error.kind,
            }
            self._observer(Event(name="sink.retry", fields=fields))

        return self._retrier.call(attempt, on_retry=on_retry)

    def is_free(self, key: str) -> bool:
        """Ask the sink inside, again if need be."""
        return self._call(lambda _number: self._inner.is_free(key), "stat", key)

    def _stat(self, key: str) -> BlobInfo:
        return self._call(lambda _number: self._inner.stat(key), "stat", key)

    def _lock_of(self, key: str) -> BlobLock:
        return self._call(lambda _number: self._inner.lock_of(key), "lock_of", key)

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        return self._call(lambda _number: self._inner.retain_until(key, until), "retain", key)

    def _delete(self, key: str) -> None:
        def attempt(number: int) -> None:
            try:
                self._inner.delete(key)
            except BlobNotFoundError:
                if number == 1:
                    raise

        self._call(attempt, "delete", key)

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        done = 0

        def resume() -> Iterator[bytes]:
            left = None if size_bytes is None else size_bytes - done
            if left == 0 and done:
                return iter(())  # it broke after the last byte
            return self._inner.read(key, start=start + done, size_bytes=left)

        for chunk in self._resumed(resume, "read", key):
            done += len(chunk)
            yield chunk

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        last = ""

        def resume() -> Iterator[BlobInfo]:
            return (info for info in self._inner.list(prefix) if info.key > last)

        for info in self._resumed(resume, "list", prefix):
            last = info.key
            yield info

    def _resumed(self, resume: Callable[[], Iterator[_T]], operation: str, key: str) -> Generator[_T]:
        """Yield items, from a new iterator whenever one broke; what was yielded counts as progress."""
        items: Iterator[_T] | None = None

        def step(_number: int) -> tuple[_T, ...]:
            nonlocal items
            if items is None:
                items = resume()
            try:
                return (next(items),)
            except StopIteration:
                return ()
            except BackupError:
                _close(items)
                items = None
                raise

        try:
            while found := self._call(step, operation, key):
                yield found[0]
        finally:
            _close(items)

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        tape = Tape(chunks, memory_bytes=self._bounds.repeat_bytes, spool_directory=self._spool_directory)
        with tape:
            try:
                return self._call(functools.partial(self._put_once, key, tape), "put", key)
            except _PassOnError as wrapped:
                failure = wrapped.failure
        raise failure

    def _put_once(self, key: str, tape: Tape, number: int) -> BlobInfo:
        if number > 1 and (found := self._our_own(key, tape)) is not None:
            return found
        try:
            return self._inner.put(key, tape.play())
        except BlobExistsError:
            # Without an earlier attempt of ours it cannot be ours; and until the stream has ended we cannot compare.
            if number == 1 or (found := self._our_own(key, tape)) is None:
                raise
            return found
        except BackupError as error:
            if tape.broken:
                raise _PassOnError(error) from error  # the stream's own failure, even if its class is retryable
            if not error.retryable or not tape.overflowed:
                raise
            if tape.exhausted and (found := self._found_after_all(key, tape)) is not None:
                return found
            error.hint = (
                f"this stream of more than {self._bounds.repeat_bytes} bytes cannot be repeated: run again, "
                "or give the retrying sink a spool_directory"
            )
            error.context["repeatable"] = False
            raise _PassOnError(error) from error

    def _found_after_all(self, key: str, tape: Tape) -> BlobInfo | None:
        """Look for a blob that was sent whole and cannot be sent again; what prevents looking means it is not known."""
        try:
            return self._our_own(key, tape)
        except BackupError:
            return None

    def _our_own(self, key: str, tape: Tape) -> BlobInfo | None:
        """
        Return the blob under *key* if an attempt of ours wrote it, `None` when there is none.

        Raises:
            BlobExistsError: Somebody else's is there.
        """
        try:
            info = self.stat(key)
        except BlobNotFoundError:
            return None
        if tape.exhausted and info.size_bytes == tape.size_bytes:
            digest = hashlib.sha256()
            for chunk in self.read(key):
                digest.update(chunk)
            if digest.hexdigest() == tape.sha256:
                return info
        message = f"there is another blob {key} in {self.location} already"
        raise BlobExistsError(message, hint="published blobs are never overwritten", key=key)


class _PassOnError(Exception):
    """Carries an error past the retrier, which would repeat it by its class."""

    def __init__(self, failure: BackupError) -> None:
        super().__init__()
        self.failure = failure


def _close(items: object) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()
