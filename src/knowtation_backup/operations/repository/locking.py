"""
Extend locks: what archives that are kept need cannot be deleted for as long as they are kept.

A lock that is set when an object is written runs out while newer archives still build on it. So this is repeated on a
schedule. Locks only ever get longer; nothing is written but locks.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable

from ..._engine.ahead import map_ahead
from ...contracts import Observer, RetentionPolicy, ignore_events
from ...errors import BackupError, BlobNotFoundError, ConfigurationError, SinkError, SinkPermissionError
from ...model.blobs import BlobLock
from ...model.events import Event
from ...model.moments import iso_ms, utc_of
from ...model.plans import ForgetDecision
from ...model.reports import Finding
from ...repository.layout import ACCESS_PREFIX, CONFIG_KEY, TENANT_PREFIX, archive_key
from ...repository.repository import Repository
from .catalog import list_archives
from .forgetting import plan_forget
from .lock_reports import ArchiveLock, LockPlan, LockReport, ObjectLock

__all__ = ["LOCK_AHEAD", "apply_extend_locks", "plan_extend_locks"]

LOCK_AHEAD = dt.timedelta(days=30)
_WORKERS = 8
"""Objects asked for their locks, or locked, at once."""


def plan_extend_locks(
    repository: Repository,
    policy: RetentionPolicy | None = None,
    *,
    now: dt.datetime,
    ahead: dt.timedelta = LOCK_AHEAD,
    until: dt.datetime | None = None,
) -> LockPlan:
    """
    Return whose locks end before they should; nothing happens.

    An archive that is kept today needs its objects for *ahead* at least, since nobody knows what comes; longer when it
    is pinned until a moment, or when the policy keeps it for a length of time (`ForgetDecision.assured_until`). An
    object needs the longest time of all archives that name it. Such objects are the manifest, packs, indexes and marks
    of an archive, and for as long as the longest of all ``repository.json``, access files, and keys of tenants unless
    these have a sink of their own, where they are meant to be deletable. Archives in the trash need nothing, nor do
    those that the policy would put there.

    Asks for the lock of every such object: one or two requests each. About 500 bytes of memory for each.

    Args:
        repository: A writer key is enough.
        policy: Says what is kept; `None` keeps everything that is not in the trash.
        now: The present moment.
        ahead: Choose it longer than twice the time between two runs, so that a missed one does no harm.
        until: A moment to take instead of *ahead* after *now*.

    Raises:
        ConfigurationError: The policy refuses, or *ahead* or *until* does not lie in the future.
        SinkError: The sink has no locks, kind ``no_object_lock``.
        SinkPermissionError: Listing, reading, or asking for locks is refused.
        SinkUnavailableError: The store could not be reached.
    """
    now = utc_of(now)
    least = now + ahead if until is None else utc_of(until)
    if least <= now:
        message = f"locks until {iso_ms(least)} have ended already, now is {iso_ms(now)}"
        raise ConfigurationError(message, kind="bad_duration", hint="choose a moment in the future")
    if not repository.sink.capabilities.locks:
        message = f"{repository.sink.location} has no locks"
        raise SinkError(message, kind="no_object_lock", hint="use a bucket with Object Lock")
    kept = [decision for decision in _decisions(repository, policy, now) if decision.keep]
    archives = tuple(_archive_lock(decision, least, now) for decision in kept)
    needed, findings = _needed(repository, kept, archives)
    objects: list[ObjectLock] = []
    held = 0
    for key, end, found in _ask(repository, needed):
        if isinstance(found, BackupError):
            findings.append(Finding(code=found.kind, where=key, message=str(found)))
        elif found.until is not None and found.until >= end:
            held += 1
        else:
            objects.append(ObjectLock(key, found.until, end))
    return LockPlan(
        location=repository.sink.location,
        made_at=now,
        archives=archives,
        objects=tuple(objects),
        held_objects=held,
        findings=tuple(findings),
    )


def _decisions(repository: Repository, policy: RetentionPolicy | None, now: dt.datetime) -> Iterable[ForgetDecision]:
    if policy is not None:
        decisions = plan_forget(repository, policy, now=now).decisions
    else:
        listed = list_archives(repository)
        decisions = tuple(ForgetDecision(archive=info, keep=True, reason="not in the trash") for info in listed)
    return (decision for decision in decisions if decision.archive.standing.trashed_at is None)


def _archive_lock(decision: ForgetDecision, least: dt.datetime, now: dt.datetime) -> ArchiveLock:
    standing = decision.archive.standing
    ends = [least, decision.assured_until or least]
    if standing.is_pinned(now) and standing.pinned_until is not None:
        ends.append(standing.pinned_until)
    return ArchiveLock(archive_id=decision.archive.archive_id, until=max(ends), reason=decision.reason)


def _needed(
    repository: Repository, kept: Iterable[ForgetDecision], archives: Iterable[ArchiveLock]
) -> tuple[dict[str, dt.datetime], list[Finding]]:
    """Return until when each object is needed, by key, and manifests that do not say what they need."""
    ends = {archive.archive_id: archive.until for archive in archives}
    needed: dict[str, dt.datetime] = {}
    findings: list[Finding] = []

    def need(keys: Iterable[str], until: dt.datetime) -> None:
        for key in keys:
            needed[key] = max(until, needed.get(key, until))

    for decision in kept:
        need(decision.archive.keys, ends[decision.archive.archive_id])
    with contextlib.closing(repository.archives(ends)) as listed:
        for found in listed:
            if found.manifest is not None:
                need((key for key, _ in found.manifest.objects()), ends[found.archive_id])
            elif found.error is not None:
                where = archive_key(found.archive_id)
                findings.append(Finding(code=found.error.kind, where=where, message=str(found.error)))
    if ends:
        prefixes = [ACCESS_PREFIX] if repository.tenants_at is not None else [ACCESS_PREFIX, TENANT_PREFIX]
        shared = [info.key for prefix in prefixes for info in repository.sink.list(prefix)]
        need([CONFIG_KEY, *shared], max(ends.values()))
    return needed, findings


def _ask(
    repository: Repository, needed: dict[str, dt.datetime]
) -> Iterable[tuple[str, dt.datetime, BlobLock | BlobNotFoundError]]:
    def ask(key: str) -> BlobLock | BlobNotFoundError:
        try:
            return repository.sink.lock_of(key)
        except BlobNotFoundError as error:
            return error

    keys = sorted(needed)
    with contextlib.closing(map_ahead(ask, keys, workers=_WORKERS)) as asked:
        for key, found in zip(keys, asked, strict=True):
            yield key, needed[key], found


def apply_extend_locks(repository: Repository, plan: LockPlan, *, observer: Observer = ignore_events) -> LockReport:
    """
    Extend the locks that a plan names; whoever is stopped repeats it.

    Needs the right to lock, not to create or delete. Locks that are longer by now stay as they are. Archives that came
    since the plan was made are for the next one.

    Args:
        repository: A writer key is enough.
        plan: As it was made; printing it says what happens.
        observer: Told of every object.

    Raises:
        SinkError: The bucket has no Object Lock, kind ``no_object_lock``.
        SinkUnavailableError: The store could not be reached; repeat it to go on.
    """

    def extend(wanted: ObjectLock) -> Finding | None:
        try:
            lock = repository.sink.retain_until(wanted.key, wanted.until)
        except (BlobNotFoundError, SinkPermissionError) as error:
            return Finding(code=error.kind, where=wanted.key, message=str(error))
        if lock.until is not None and lock.until >= wanted.until:
            return None
        message = f"not every copy is locked until {iso_ms(wanted.until)}"
        return Finding(code="not_locked", where=wanted.key, message=message)

    refused: list[Finding] = []
    with contextlib.closing(map_ahead(extend, plan.objects, workers=_WORKERS)) as extended:
        for wanted, finding in zip(plan.objects, extended, strict=True):
            fields = {"key": wanted.key, "until": iso_ms(wanted.until)}
            if finding is None:
                observer(Event(name="lock.extended", fields=fields))
            else:
                refused.append(finding)
                observer(Event(name="lock.refused", fields={**fields, "error": finding.code}))
    return LockReport(
        extended_objects=len(plan.objects) - len(refused),
        held_objects=plan.held_objects,
        refused=tuple(refused),
        findings=plan.findings,
    )
