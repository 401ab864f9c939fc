"""
Forget archives of a repository: into the trash by marks, out of it by deleting manifests. No content is deleted.

An archive may go whatever was built on it: manifests name all objects they need. That it must stay in the trash for a
while makes pruning safe: a backup that took it for its parent is finished, or given up, by then (see the format page).
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable

from ...contracts import Clock, Observer, RetentionPolicy, ignore_events, utc_now
from ...errors import BlobNotFoundError, PlanStaleError
from ...model.events import Event
from ...model.marks import MarkVerb
from ...model.moments import iso_ms, utc_of
from ...model.plans import ArchiveInfo, ForgetAction, ForgetDecision, ForgetPlan
from ...model.reports import ForgetReport
from ...repository.layout import SIDE_PREFIX
from ...repository.repository import Repository
from ...retention.durations import show_duration
from ..forget import (
    TRASH_GRACE,
    check_fresh,
    check_safe,
    check_unmarked,
    hold_suspicious_series,
    move_to_trash,
    named_plan,
    policy_plan,
)
from ..marks import mark_names
from ..trash import emptying_plan
from .catalog import list_archives
from .store_clock import stored_at, time_of_store

__all__ = ["apply_forget", "plan_delete", "plan_empty_trash", "plan_forget"]


def plan_forget(
    repository: Repository, policy: RetentionPolicy, *, now: dt.datetime, hold_suspicious: bool = True
) -> ForgetPlan:
    """
    Return what *policy* would keep and put into the trash; nothing happens.

    Whatever the policy says, archives in the trash are left there, and pinned and quarantined ones stay.

    Args:
        repository: A writer key is enough.
        policy: Decides; pure.
        now: The present moment.
        hold_suspicious: Whether nothing of a series is forgotten while its newest archive is in quarantine, so that the
            last good one cannot age out before somebody has looked.

    Raises:
        ConfigurationError: The policy refuses, for example because archives are dated in the future.
        SinkUnavailableError: The store could not be reached.
    """
    plan = policy_plan(list_archives(repository), policy, now=utc_of(now), action=ForgetAction.TRASH)
    return hold_suspicious_series(plan) if hold_suspicious else plan


def plan_delete(
    repository: Repository, archive_ids: Iterable[str], *, now: dt.datetime, last_too: bool = False
) -> ForgetPlan:
    """
    Return a plan that puts exactly the archives named into the trash; nothing happens.

    Args:
        repository: A writer key is enough.
        archive_ids: Ids, or what `find` takes for one.
        now: The present moment.
        last_too: Whether the last complete archive of a series may go, or the last that is not known to be bad.

    Raises:
        BlobNotFoundError: There is no archive of such a name.
        ConfigurationError: An archive is pinned (``archive_pinned``), or the last complete one of its series and
            *last_too* was not given (``unsafe_plan``).
        SinkUnavailableError: The store could not be reached.
    """
    action = ForgetAction.TRASH
    plan = named_plan(list_archives(repository), archive_ids, now=utc_of(now), action=action, last_too=last_too)
    check_safe(plan)
    return plan


def plan_empty_trash(
    repository: Repository, *, now: dt.datetime, grace: dt.timedelta = TRASH_GRACE, last_too: bool = False
) -> ForgetPlan:
    """
    Return a plan whose application removes what has been in the trash long enough; nothing happens.

    Long enough is *grace* by the clock of this host, and by the clock of the store the grace period of the repository:
    backups may still build on what came into the trash later. Where anything would go, a small object is written and
    removed again, to learn what time the store has.

    Args:
        repository: A writer key is enough.
        now: The present moment.
        grace: How long an archive stays in the trash; a shorter time than the repository's is as good as that.
        last_too: Whether to remove the last complete archive of a series as well.

    Raises:
        ConfigurationError: *grace* is negative.
        SinkError: The store gives objects no times, kind ``no_store_times``.
        SinkPermissionError: Listing, or deleting, is refused.
        SinkUnavailableError: The store could not be reached.
    """
    listed = list_archives(repository)
    plan = emptying_plan(repository.sink, listed, now=now, grace=grace, last_too=last_too)
    young = _too_young(repository, plan.forgotten)
    decisions = tuple(
        ForgetDecision(archive=info, keep=True, reason=young[info.archive_id], rules=("trash",))
        if (info := decision.archive).archive_id in young
        else decision
        for decision in plan.decisions
    )
    return ForgetPlan(made_at=plan.made_at, decisions=decisions, action=plan.action, last_too=last_too)


def _too_young(repository: Repository, archives: Iterable[ArchiveInfo]) -> dict[str, str]:
    """Return why archives may not be removed yet, by id, as the clock of the store has it."""
    archives = list(archives)
    if not archives:
        return {}
    now = time_of_store(repository.sink)
    grace = repository.config.grace
    found: dict[str, str] = {}
    for info in archives:
        since = _trashed_at(repository, info)
        if since is None:
            found[info.archive_id] = "leaving the trash"
        elif now - since < grace:
            found[info.archive_id] = (
                f"in the trash since {iso_ms(since)} by the clock of the store, "
                f"less than the repository's {show_duration(grace)}"
            )
    return found


def _trashed_at(repository: Repository, info: ArchiveInfo) -> dt.datetime | None:
    """Return when the store was told that an archive is in the trash; `None` when it is not there."""
    noted = info.standing.trashed_at
    for name in mark_names(info.keys):
        if name.verb is MarkVerb.TRASHED and name.made_at == noted:
            with contextlib.suppress(BlobNotFoundError):
                return stored_at(repository.sink, repository.sink.stat(name.key))
    return None


def apply_forget(
    repository: Repository, plan: ForgetPlan, *, observer: Observer = ignore_events, clock: Clock = utc_now
) -> ForgetReport:
    """
    Do what a plan says, oldest archive first: move to the trash, or remove manifest and then marks.

    Moving needs the right to create only. Whoever is stopped while removing leaves marks that `prune` finds.

    Args:
        repository: A writer key is enough.
        plan: As it was made; printing it says what happens.
        observer: Told of every archive.
        clock: Dates the marks.

    Raises:
        PlanStaleError: The repository no longer holds exactly the archives planned for, or one that the plan removes is
            not long enough in the trash, and nothing happened; or something was noted of an archive while others were
            removed, and it and the rest stay.
        ConfigurationError: The plan would forget the last complete archive of a series, or a pinned one; nothing
            happened.
        SinkPermissionError: Creating, or deleting, is refused.
        SinkUnavailableError: The store could not be reached; archives forgotten so far are, the plan is stale.
    """
    check_safe(plan)
    check_fresh(plan, list_archives(repository))
    if plan.action is ForgetAction.TRASH:
        return move_to_trash(repository.sink, plan, observer=observer, clock=clock)
    young = _too_young(repository, plan.forgotten)
    for archive_id, why in young.items():
        raise PlanStaleError(f"{archive_id} may not be removed: {why}", hint="plan again", archive_ids=list(young)[:20])
    forgotten: list[str] = []
    freed = 0
    for info in sorted(plan.forgotten, key=lambda info: info.age_key):
        check_unmarked(repository.sink, info, before=len(forgotten))
        freed += _remove(repository, info)
        observer(Event(name="forget.removed", fields={"archive_id": info.archive_id, "bytes": info.size_bytes}))
        forgotten.append(info.archive_id)
    return ForgetReport(forgotten=tuple(forgotten), freed_bytes=freed, action=plan.action)


def _remove(repository: Repository, info: ArchiveInfo) -> int:
    """Delete the manifest, then what lies beside it; return the bytes that are gone."""
    sink = repository.sink
    blobs = [*sink.list(info.keys[0]), *sink.list(f"{SIDE_PREFIX}{info.archive_id}/")]
    freed = 0
    for blob in blobs:
        with contextlib.suppress(BlobNotFoundError):  # somebody else removed it meanwhile: that is what we want
            sink.delete(blob.key)
            freed += blob.size_bytes
    return freed
