"""
Prune: note what no manifest names, and delete it once the note is a grace period old and still no manifest names it.

What a store keeps locked is left alone until its lock has ended: where versions are kept, deleting it would only hide
it. Why pruning needs no locks of its own is on the format page, ``docs/reference/repository.md``. ``repository.json``,
access files, keys of tenants and manifests are never touched.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import attrs

from ..._engine.ahead import map_ahead
from ...contracts import Clock, Observer, ignore_events, utc_now
from ...errors import BlobNotFoundError, PlanStaleError, SinkPermissionError
from ...model.blobs import BlobLock
from ...model.events import Event
from ...model.moments import iso_ms
from ...model.reports import Finding
from ...repository.notes import MAX_NOTE_OBJECTS, NotedObject, PruneNote, list_notes, put_note, read_note
from ...repository.proving import WRONG_BYTES
from ...repository.repository import Repository
from .prune_reports import LockedObject, NoteState, PrunePlan, PruneReport
from .store_clock import stored_at, time_of_store
from .usage import Usage, read_usage

__all__ = ["apply_prune", "plan_prune"]

_WORKERS = 4
"""Objects deleted, or asked for their locks, at once."""


def plan_prune(repository: Repository) -> PrunePlan:
    """
    Return what a prune would note and delete; nothing happens.

    Reads all manifests and prune notes. Where there are notes, a small object is written and removed again, to learn
    what time the store has; of what is due the store is asked whether it is locked, if it has locks.

    Args:
        repository: A writer key is enough.

    Raises:
        RepositoryError: A manifest cannot be read, or names what is missing, kind ``prune_refused``; names these.
        SinkError: The store gives objects no times, kind ``no_store_times``.
        SinkPermissionError: Listing, reading or, where there are notes, deleting is refused.
        SinkUnavailableError: The store could not be reached.
    """
    return _look(repository)[0]


def _look(repository: Repository) -> tuple[PrunePlan, Usage]:
    # The time first, then the manifests: a note that is old enough now was so when they were read.
    notes = list_notes(repository.sink)
    now = time_of_store(repository.sink) if notes else None
    usage = read_usage(repository)
    noted: set[str] = set()
    due: list[NoteState] = []
    waiting: list[NoteState] = []
    findings: list[Finding] = []
    for info in notes:
        until = stored_at(repository.sink, info) + repository.config.grace
        try:
            named = read_note(repository.sink, repository.keys, info.key).objects
        except BlobNotFoundError:
            continue  # another prune was faster
        except WRONG_BYTES as error:
            findings.append(Finding(code=error.kind, where=info.key, message=str(error)))
            named = ()  # it says nothing, and goes when its time has come
        state = NoteState(key=info.key, until=until, objects=tuple(_left(named, usage)))
        (due if now is not None and now >= until else waiting).append(state)
        noted.update(left.key for left in state.objects)  # the locked ones too: they wait in this note
    if now is not None and due and repository.sink.capabilities.locks:
        locks, unknown = _ask_locks(repository, [left.key for state in due for left in state.objects])
        due = [_without_locked(state, locks, now) for state in due]
        findings += unknown
    fresh = [info for info in usage.unused if info.key not in noted]
    for info in fresh:
        stored_at(repository.sink, info)  # where no times are known, notes would never be old enough
    plan = PrunePlan(
        location=repository.sink.location,
        archives=len(usage.archives),
        used_objects=len(usage.named),
        used_bytes=sum(usage.named.values()),
        marking=tuple(NotedObject(info.key, info.size_bytes) for info in fresh),
        waiting=tuple(waiting),
        due=tuple(due),
        findings=tuple(findings),
    )
    return plan, usage


def _left(named: Sequence[NotedObject], usage: Usage) -> Iterator[NotedObject]:
    """Yield what of a note is still there, with the size it has there, and still unused."""
    for noted in named:
        info = usage.stored.get(noted.key)
        if info is not None and not usage.is_used(noted.key):
            yield NotedObject(info.key, info.size_bytes)


def _ask_locks(repository: Repository, keys: Sequence[str]) -> tuple[dict[str, BlobLock], list[Finding]]:
    """Return how objects are locked; where asking is refused, what that means instead."""

    def ask(key: str) -> BlobLock | None:
        try:
            return repository.sink.lock_of(key)
        except BlobNotFoundError:
            return None  # another prune was faster

    found: dict[str, BlobLock] = {}
    try:
        with contextlib.closing(map_ahead(ask, keys, workers=_WORKERS)) as asked:
            found.update((key, lock) for key, lock in zip(keys, asked, strict=True) if lock is not None)
    except SinkPermissionError as error:
        message = f"what is deleted may only be hidden: {error.message}"
        return found, [Finding(code="locks_unknown", where=repository.sink.location, message=message)]
    return found, []


def _without_locked(state: NoteState, locks: Mapping[str, BlobLock], now: dt.datetime) -> NoteState:
    locked = tuple(
        LockedObject(left.key, left.size_bytes, None if lock.legal_hold else lock.last_until)
        for left in state.objects
        if (lock := locks.get(left.key)) is not None and lock.holds(now)
    )
    held = {each.key for each in locked}
    objects = tuple(left for left in state.objects if left.key not in held)
    hidden = frozenset(left.key for left in objects if left.key in locks and locks[left.key].versioned)
    return attrs.evolve(state, objects=objects, locked=locked, hidden=hidden)


def apply_prune(
    repository: Repository, plan: PrunePlan, *, observer: Observer = ignore_events, clock: Clock = utc_now
) -> PruneReport:
    """
    Do what a plan says: delete what is due, then note what was found; everything is looked at again first.

    Needs the right to delete for what is due, and to create for notes. Whoever is stopped leaves a smaller store and
    the notes: repeat it to go on. Several prunes at once do no harm.

    Args:
        repository: A writer key is enough.
        plan: As it was made; printing it says what happens.
        observer: Told of every object that goes.
        clock: Dates notes, for people.

    Raises:
        PlanStaleError: What the plan deletes is in use by now, or a note is younger than it seemed; nothing happened.
        RepositoryError: As `plan_prune`.
        SinkUnavailableError: The store could not be reached; repeat it to go on.
    """
    again, usage = _look(repository)
    _check_fresh(plan, again, usage)
    report = PruneReport(
        deleted_objects=0,
        freed_bytes=0,
        marked_objects=0,
        marked_bytes=0,
        waiting=again.waiting,
        locked=again.locked,
        findings=tuple(finding for finding in again.findings if finding.code == "locks_unknown"),
    )
    planned = {note.key: {noted.key for noted in note.objects} for note in plan.due}
    for note in again.due:
        if note.key in planned:
            going = [noted for noted in note.objects if noted.key in planned[note.key]]
            report = _sweep(repository, note, going, report, observer)
    unused = {noted.key for noted in again.marking}
    marking = [noted for noted in plan.marking if noted.key in unused]
    for at in range(0, len(marking), MAX_NOTE_OBJECTS):
        objects = tuple(marking[at : at + MAX_NOTE_OBJECTS])
        report = _mark(repository, objects, report, observer, clock())
    return report


def _check_fresh(plan: PrunePlan, again: PrunePlan, usage: Usage) -> None:
    waiting = {note.key for note in again.waiting}
    young = [note.key for note in plan.due if note.key in waiting]
    if young:
        message = f"{young[0]} is not a grace period old by the clock of the store"
        raise PlanStaleError(message, hint="plan again", keys=young[:20])
    used = [noted.key for note in plan.due for noted in note.objects if usage.is_used(noted.key)]
    if used:
        message = f"{len(used)} object(s) came into use since the plan was made: {', '.join(used[:3])}"
        raise PlanStaleError(message, hint="plan again", keys=used[:20])


def _sweep(
    repository: Repository, note: NoteState, going: Sequence[NotedObject], report: PruneReport, observer: Observer
) -> PruneReport:
    """Delete what a note names and was planned for, then the note; that stays while something of it does."""

    def delete(noted: NotedObject) -> tuple[NotedObject, bool, SinkPermissionError | None]:
        try:
            repository.sink.delete(noted.key)
        except BlobNotFoundError:
            return noted, False, None  # another prune was faster
        except SinkPermissionError as error:
            return noted, False, error
        return noted, True, None

    refused: list[Finding] = []
    for noted, gone, error in map_ahead(delete, going, workers=_WORKERS):
        fields = {"key": noted.key, "bytes": noted.size_bytes}
        if gone:
            hides = noted.key in note.hidden
            report = attrs.evolve(
                report,
                deleted_objects=report.deleted_objects + 1,
                freed_bytes=report.freed_bytes + (0 if hides else noted.size_bytes),
                hidden_bytes=report.hidden_bytes + (noted.size_bytes if hides else 0),
            )
            observer(Event(name="prune.deleted", fields={**fields, "hidden": hides}))
        elif error is not None:
            refused.append(Finding(code=error.kind, where=noted.key, message=str(error)))
            observer(Event(name="prune.refused", fields={**fields, "error": error.kind}))
    for each in note.locked:
        told = {"key": each.key, "bytes": each.size_bytes, "until": iso_ms(each.until) if each.until else None}
        observer(Event(name="prune.locked", fields=told))
    if not refused and not note.locked and len(going) == len(note.objects):
        _delete_note(repository, note.key, refused)
    return attrs.evolve(report, refused=(*report.refused, *refused))


def _delete_note(repository: Repository, key: str, refused: list[Finding]) -> None:
    try:
        repository.sink.delete(key)
    except BlobNotFoundError:
        pass
    except SinkPermissionError as error:
        refused.append(Finding(code=error.kind, where=key, message=str(error)))


def _mark(
    repository: Repository,
    objects: tuple[NotedObject, ...],
    report: PruneReport,
    observer: Observer,
    now: dt.datetime,
) -> PruneReport:
    key = put_note(repository.sink, repository.writer_key, PruneNote(made_at=now, objects=objects))
    until = stored_at(repository.sink, repository.sink.stat(key)) + repository.config.grace
    state = NoteState(key=key, until=until, objects=objects)
    fields = {"key": key, "objects": len(objects), "bytes": state.size_bytes}
    observer(Event(name="prune.noted", fields=fields))
    return attrs.evolve(
        report,
        marked_objects=report.marked_objects + len(objects),
        marked_bytes=report.marked_bytes + state.size_bytes,
        waiting=(*report.waiting, state),
    )
