"""`MirrorSink`: the same blobs in several places at once."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import functools
import heapq
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..contracts import ArchiveSink, Observer, ignore_events
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkError,
    SinkUnavailableError,
    TruncatedError,
)
from ..model.blobs import BlobInfo, BlobLock, SinkCapabilities
from ..model.events import Event
from ..model.manifest import archive_of
from ..model.reports import TargetResult
from ._fanout import FanOut, fan_out

__all__ = ["MirrorSink"]

_WINDOW_BYTES = 16 << 20
_REMEMBERED_ARCHIVES = 1000


class MirrorSink(ArchiveSink):
    """
    Writes every blob to several named targets at once, and reads it from the first that has it.

    **Writing.** One pass over the stream feeds all targets; the slowest sets the pace, one that fails is left out. A
    target that failed with any blob of an archive gets no further blob of it, so no target ever holds a manifest whose
    blobs it lacks; `target_results` says how each fared. With fewer than *quorum* targets left, writing ends with
    ``quorum_not_met``. A key that is taken on one target is taken: `BlobExistsError`, whatever the quorum. Blobs
    become visible on the first target first, and on the others only after that, so that of two writers with the
    same targets one wins everywhere.

    **Reading** asks the targets in order, and goes on with the next at the same byte when one cannot be reached or has
    no such blob. **Listing** is the union: a blob that only some targets have is listed. Where targets cannot be
    reached, nothing is said to be absent, and nothing is listed, unless *tolerate_unreachable* allows it: the missing
    target may be the only one that has an archive. **Deleting** tries all targets, and fails if one could not be asked.
    **Locks** are those of the targets that have some: all of them that have the blob are locked, and none may fail.

    Memory: 16 MiB per target beside what each needs itself. Every `put` runs one thread per target.

    Args:
        targets: By name, in the order in which they are asked.
        quorum: How many must have a blob for `put` to succeed; `None` means all. Above half of the targets is needed
            for `capabilities.create_only` when writers on several hosts share the targets.
        tolerate_unreachable: How many targets may be unreachable when blobs are listed, or said not to be there.
        fail_over: For which errors reading goes on with the next target.
        observer: Told ``mirror.target_failed``.

    Raises:
        ConfigurationError: There are no targets, or not as many as *quorum* and *tolerate_unreachable* need.
    """

    def __init__(
        self,
        targets: Mapping[str, ArchiveSink],
        *,
        quorum: int | None = None,
        tolerate_unreachable: int = 0,
        fail_over: tuple[type[BackupError], ...] = (SinkUnavailableError, BlobNotFoundError),
        observer: Observer = ignore_events,
    ) -> None:
        self._targets = dict(targets)
        total = len(self._targets)
        self._quorum = _number("quorum", total if quorum is None else quorum, low=1, high=total)
        self._tolerated = _number("tolerate_unreachable", tolerate_unreachable, low=0, high=total - 1)
        self._fail_over = fail_over
        self._observer = observer
        self._lock = threading.Lock()
        self._fates: collections.OrderedDict[str, dict[str, BackupError]] = collections.OrderedDict()

    def __repr__(self) -> str:
        """Return class, targets and quorum."""
        return f"MirrorSink({self._targets!r}, quorum={self._quorum})"

    @property
    def targets(self) -> Mapping[str, ArchiveSink]:
        """The targets by name: to verify, list or repair one of them alone."""
        return dict(self._targets)

    @property
    def capabilities(self) -> SinkCapabilities:
        """
        What the targets guarantee together.

        Create-only when all are, and a quorum is more than half: then two writers cannot both reach it. Durable when
        any quorum includes a durable target. Deletable when all are. Locks when any has some.
        """
        each = [sink.capabilities for sink in self._targets.values()]
        return SinkCapabilities(
            create_only=all(one.create_only for one in each) and 2 * self._quorum > len(each),
            durable=sum(not one.durable for one in each) < self._quorum,
            deletable=all(one.deletable for one in each),
            locks=any(one.locks for one in each),
        )

    @property
    def location(self) -> str:
        """Every target with its location."""
        return "mirror of " + ", ".join(f"{name} ({sink.location})" for name, sink in self._targets.items())

    def target_results(self, archive_id: str) -> tuple[TargetResult, ...]:
        """Return how each target fared with an archive this object wrote to; of the last 1,000, others are unknown."""
        with self._lock:
            if archive_id not in self._fates:
                return ()
            fates = dict(self._fates[archive_id])
        return tuple(
            TargetResult(target=name, location=sink.location, error=fates.get(name))
            for name, sink in self._targets.items()
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        archive_id = archive_of(key)
        with self._lock:
            before = dict(self._fates.setdefault(archive_id, {}))
            self._fates.move_to_end(archive_id)
            while len(self._fates) > _REMEMBERED_ARCHIVES:
                self._fates.popitem(last=False)
        alive = {name: sink for name, sink in self._targets.items() if name not in before}
        if len(alive) < self._quorum:
            raise self._too_few(key, before, stored=())

        def check(fan: FanOut[BlobInfo]) -> None:
            for name, error in fan.failures.items():
                if not isinstance(error, BackupError):
                    raise error  # a bug in a target, or an interruption: not for us to judge
                if not isinstance(error, BlobExistsError):
                    self._note_failure(archive_id, key, name, error)
            taken = [name for name, error in fan.failures.items() if isinstance(error, BlobExistsError)]
            if taken:
                raise self._taken(key, taken, stored=tuple(fan.results))
            self._require_quorum(key, alive, {**before, **_backup_errors(fan)}, stored=tuple(fan.results))

        consumers: dict[str, Callable[[Iterator[bytes]], BlobInfo]] = {
            name: functools.partial(sink.put, key) for name, sink in alive.items()
        }
        fan = fan_out(chunks, consumers, check=check, window_bytes=_WINDOW_BYTES)
        return self._check_sizes(key, archive_id, {**before, **_backup_errors(fan)}, fan)

    def _check_sizes(
        self, key: str, archive_id: str, reasons: dict[str, BackupError], fan: FanOut[BlobInfo]
    ) -> BlobInfo:
        whole: dict[str, BlobInfo] = {}
        for name, info in fan.results.items():
            if info.size_bytes == fan.size_bytes:
                whole[name] = info
            else:
                message = f"{key} has {info.size_bytes} bytes on {name}, {fan.size_bytes} were sent"
                reasons[name] = TruncatedError(message, key=key, target=name)
                self._note_failure(archive_id, key, name, reasons[name])
        self._require_quorum(key, whole, reasons, stored=tuple(whole))
        return next(whole[name] for name in self._targets if name in whole)

    def _require_quorum(
        self,
        key: str,
        candidates: Iterable[str],
        reasons: Mapping[str, BackupError],
        *,
        stored: tuple[str, ...],
    ) -> None:
        if sum(name not in reasons for name in candidates) < self._quorum:
            raise self._too_few(key, reasons, stored=stored)

    def _note_failure(self, archive_id: str, key: str, name: str, error: BackupError) -> None:
        with self._lock:
            fates = self._fates.setdefault(archive_id, {})
            if name in fates:
                return
            fates[name] = error
        self._tell_failure(name, key, error)

    def _tell_failure(self, name: str, key: str, error: BackupError) -> None:
        self._observer(Event(name="mirror.target_failed", fields={"target": name, "key": key, "error": error.kind}))

    def _too_few(self, key: str, reasons: Mapping[str, BackupError], *, stored: tuple[str, ...]) -> SinkError:
        why = "; ".join(f"{name}: {error.message}" for name, error in reasons.items())
        where = f"{_named(stored)} stored it" if stored else "none reported it as stored"
        message = (
            f"{len(self._targets) - len(reasons)} of {len(self._targets)} targets are left for {key}, "
            f"{self._quorum} must have it; {where}; {why}"
        )
        return SinkError(
            message,
            kind="quorum_not_met",
            hint="repair the targets, or lower the quorum",
            key=key,
            quorum=self._quorum,
            stored=list(stored),
            targets={name: error.kind for name, error in reasons.items()},
        )

    def _taken(self, key: str, taken: list[str], *, stored: tuple[str, ...]) -> BlobExistsError:
        ours = f"; another one was just written to {_named(stored)}" if stored else ""
        message = f"there is a blob {key} on {_named(taken)} already{ours}"
        hint = "published blobs are never overwritten"
        return BlobExistsError(message, hint=hint, key=key, taken=taken, stored=list(stored))

    # -- reading ------------------------------------------------------------------------------------------------------

    def is_free(self, key: str) -> bool:
        """Return whether no target that can be asked has such a blob, and a quorum can be asked."""
        absent = 0
        failures: list[BackupError] = []
        for sink in self._targets.values():
            try:
                if not sink.is_free(key):
                    return False
                absent += 1
            except SinkUnavailableError as error:
                failures.append(error)
        if absent < self._quorum and failures:
            raise failures[0]
        return True

    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        done = 0
        failures: list[BackupError] = []
        for sink in self._targets.values():
            left = None if size_bytes is None else size_bytes - done
            if left == 0 and done:
                return  # it broke after the last byte
            try:
                for chunk in sink.read(key, start=start + done, size_bytes=left):
                    done += len(chunk)
                    yield chunk
            except self._fail_over as error:
                failures.append(error)
            else:
                return
        raise self._nobody_has_it(failures, begun=done > 0)

    def _stat(self, key: str) -> BlobInfo:
        failures: list[BackupError] = []
        for sink in self._targets.values():
            try:
                return sink.stat(key)
            except self._fail_over as error:
                failures.append(error)
        raise self._nobody_has_it(failures)

    def _nobody_has_it(self, failures: list[BackupError], *, begun: bool = False) -> BackupError:
        """Return what to report when no target gave a blob: that it is absent only if it is known."""
        absent = [error for error in failures if isinstance(error, BlobNotFoundError)]
        others = [error for error in failures if not isinstance(error, BlobNotFoundError)]
        if absent and len(others) <= self._tolerated and not begun:
            return absent[0]
        return others[0] if others else absent[0]

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        unreachable: list[SinkUnavailableError] = []

        def listed(number: int, name: str, sink: ArchiveSink) -> Iterator[tuple[str, int, BlobInfo]]:
            try:
                for info in sink.list(prefix):
                    yield info.key, number, info
            except SinkUnavailableError as error:
                unreachable.append(error)
                if len(unreachable) > self._tolerated:
                    message = f"{name} cannot be listed: {error.message}"
                    hint = "try again later, list mirror.targets one by one, or use tolerate_unreachable"
                    raise SinkUnavailableError(message, hint=hint, target=name) from error
                self._tell_failure(name, prefix, error)

        streams = [listed(number, name, sink) for number, (name, sink) in enumerate(self._targets.items())]
        last: str | None = None
        for key, _, info in heapq.merge(*streams, key=lambda item: item[:2]):
            if key != last:
                last = key
                yield info

    def _delete(self, key: str) -> None:
        absent: list[BackupError] = []
        failed: dict[str, BackupError] = {}
        for name, sink in self._targets.items():
            try:
                sink.delete(key)
            except BlobNotFoundError as error:
                absent.append(error)
            except BackupError as error:
                failed[name] = error
        if failed:
            first = next(iter(failed.values()))
            first.context["targets"] = {name: error.kind for name, error in failed.items()}
            raise first
        if len(absent) == len(self._targets):
            raise absent[0]

    # -- locks --------------------------------------------------------------------------------------------------------

    def _lock_of(self, key: str) -> BlobLock:
        return self._locked(key, lambda sink: sink.lock_of(key))

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        if not self.capabilities.locks:
            return super()._retain_until(key, until)
        return self._locked(key, lambda sink: sink.retain_until(key, until))

    def _locked(self, key: str, act: Callable[[ArchiveSink], BlobLock]) -> BlobLock:
        """Ask every target that has locks, and return what holds of all the copies there."""
        found: list[BlobLock] = []
        for sink in self._targets.values():
            if sink.capabilities.locks:
                with contextlib.suppress(BlobNotFoundError):
                    found.append(act(sink))
        if not found:
            self.stat(key)  # a blob that no target with locks has
            return BlobLock()
        first = [lock.until for lock in found]
        return BlobLock(
            until=None if None in first else min(moment for moment in first if moment is not None),
            last_until=max((lock.last_until for lock in found if lock.last_until is not None), default=None),
            legal_hold=any(lock.legal_hold for lock in found),
            versioned=any(lock.versioned for lock in found),
        )


def _backup_errors(fan: FanOut[BlobInfo]) -> dict[str, BackupError]:
    return {name: error for name, error in fan.failures.items() if isinstance(error, BackupError)}


def _number(option: str, value: Any, *, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"MirrorSink.{option} is {value!r}, with {high + (not low)} target(s)"
        hint = f"it must be a number from {low} to {high}" if high >= low else "name at least one target"
        raise ConfigurationError(message, kind="bad_option", hint=hint, option=f"MirrorSink.{option}")
    return int(value)


def _named(names: Iterable[str]) -> str:
    return ", ".join(names)
