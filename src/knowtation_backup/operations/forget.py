"""
Forget archives: a plan to look at, then exactly that plan or nothing.

Unless asked otherwise, forgetting is moving to the trash: a mark that needs only the right to create blobs and can be
undone (see `operations.trash`). Nothing is removed until a plan that says so is applied.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ..contracts import ArchiveSink, Clock, Observer, RetentionPolicy, ignore_events, utc_now
from ..errors import BlobNotFoundError, ConfigurationError, PlanStaleError
from ..model.events import Event
from ..model.manifest import side_key
from ..model.marks import MarkVerb
from ..model.plans import ArchiveInfo, ArchiveState, ForgetAction, ForgetDecision, ForgetPlan
from ..model.reports import ForgetReport
from ..model.signatures import SignaturePolicy
from ..retention.common import pin, untouchable
from .catalog import find_archive, list_archives
from .marks import put_mark

__all__ = ["TRASH_GRACE", "apply_forget", "check_safe", "plan_delete", "plan_forget"]

TRASH_GRACE = dt.timedelta(days=7)
_REASON_CHARACTERS = 500


def plan_forget(
    sink: ArchiveSink,
    policy: RetentionPolicy,
    *,
    now: dt.datetime,
    trash_grace: dt.timedelta = TRASH_GRACE,
    signatures: SignaturePolicy | None = None,
) -> ForgetPlan:
    """
    Return what *policy* would keep and forget; nothing happens.

    Whatever the policy says, archives in the trash are left there and not shown to it, and pinned and quarantined ones
    stay.

    Args:
        sink: Where the archives are.
        policy: Decides; pure.
        now: The present moment.
        trash_grace: How long archives are to stay in the trash. 0 means that applying the plan removes them at once;
            any other length only that they go to the trash, see `plan_empty_trash`.
        signatures: Whose archives count; else whoever may create blobs has the genuine ones forgotten by making many.

    Raises:
        ConfigurationError: The policy refuses, for example because archives are dated in the future.
        SinkUnavailableError: The store could not be reached.
    """
    listed = list_archives(sink, signatures=signatures)
    return policy_plan(listed, policy, now=now, action=action_for(trash_grace))


def policy_plan(
    listed: Iterable[ArchiveInfo], policy: RetentionPolicy, *, now: dt.datetime, action: ForgetAction
) -> ForgetPlan:
    """Return what *policy* would keep and forget of the archives of a listing."""
    listed = list(listed)
    resting = [info for info in listed if info.standing.trashed_at is not None]
    plan = policy.plan([info for info in listed if info.standing.trashed_at is None], now=now)
    decisions = [_held(decision, now) for decision in plan.decisions]
    decisions += [decision for info in resting if (decision := untouchable(info))]
    decisions.sort(key=lambda decision: decision.archive.age_key, reverse=True)
    return attrs.evolve(plan, made_at=now, decisions=tuple(decisions), action=action, last_too=False)


def hold_suspicious_series(plan: ForgetPlan) -> ForgetPlan:
    """Return *plan* without forgetting anything of series whose newest archive, trash aside, is in quarantine."""
    by_age = sorted((*plan.kept, *plan.forgotten), key=lambda info: info.age_key)
    newest = {info.series: info for info in by_age}
    return attrs.evolve(plan, decisions=tuple(_unless_suspicious(decision, newest) for decision in plan.decisions))


def _unless_suspicious(decision: ForgetDecision, newest: Mapping[str, ArchiveInfo]) -> ForgetDecision:
    info = decision.archive
    if decision.keep or not newest[info.series].standing.quarantined:
        return decision
    suspicious = newest[info.series].archive_id
    reason = f"{info.state.value}: nothing of its series goes while {suspicious}, its newest, is in quarantine"
    return ForgetDecision(archive=info, keep=True, reason=reason, rules=("suspicious",))


def plan_delete(  # noqa: PLR0913 - the last three have defaults
    sink: ArchiveSink,
    archive_ids: Iterable[str],
    *,
    now: dt.datetime,
    trash_grace: dt.timedelta = TRASH_GRACE,
    last_too: bool = False,
    signatures: SignaturePolicy | None = None,
) -> ForgetPlan:
    """
    Return a plan that forgets exactly the archives named; nothing happens.

    Args:
        sink: Where the archives are.
        archive_ids: Ids, or what `find_archive` takes for one.
        now: The present moment.
        trash_grace: As for `plan_forget`. With 0, archives that are in the trash may be named too.
        last_too: Whether the last complete archive of a series may go, or the last that is not known to be bad.
        signatures: Whose archives count.

    Raises:
        BlobNotFoundError: There is no archive of such a name.
        ConfigurationError: An archive is pinned (``archive_pinned``), or it is of another tool, or the last complete
            one of its series and *last_too* was not given (``unsafe_plan``).
        SinkUnavailableError: The store could not be reached.
    """
    listed = list_archives(sink, signatures=signatures)
    return named_plan(listed, archive_ids, now=now, action=action_for(trash_grace), last_too=last_too)


def named_plan(
    listed: Sequence[ArchiveInfo],
    archive_ids: Iterable[str],
    *,
    now: dt.datetime,
    action: ForgetAction,
    last_too: bool = False,
) -> ForgetPlan:
    """Return a plan that forgets exactly the archives named, of those of a listing."""
    texts = [archive_ids] if isinstance(archive_ids, str) else archive_ids
    named = {find_archive(listed, text).archive_id for text in texts}
    decisions = tuple(_named(info, named, action) for info in listed)
    plan = ForgetPlan(made_at=now, decisions=decisions, action=action, last_too=last_too)
    check_safe(plan)
    return plan


def action_for(trash_grace: dt.timedelta) -> ForgetAction:
    """Return what forgetting means when archives are to stay in the trash for so long."""
    given: object = trash_grace
    if not isinstance(given, dt.timedelta):
        message = f"{given!r:.80} is no length of time for the trash"
        raise ConfigurationError(message, kind="bad_duration", hint="pass a datetime.timedelta; 0 removes at once")
    if trash_grace < dt.timedelta(0):
        message = f"the trash cannot hold archives for {trash_grace}"
        raise ConfigurationError(message, kind="bad_duration", hint="0 removes at once")
    return ForgetAction.TRASH if trash_grace else ForgetAction.DELETE


def _held(decision: ForgetDecision, now: dt.datetime) -> ForgetDecision:
    """Keep what a person said is to be kept, whatever a policy of somebody else's says."""
    info = decision.archive
    pinned = pin(info, now=now)
    if decision.keep or not (pinned or info.standing.quarantined):
        return decision
    rule, reason = ("pin", pinned) if pinned else ("quarantine", "quarantined, kept until it is released")
    return ForgetDecision(archive=info, keep=True, reason=f"{info.state.value}: {reason}", rules=(rule,))


def _named(info: ArchiveInfo, named: set[str], action: ForgetAction) -> ForgetDecision:
    if info.archive_id not in named:
        return untouchable(info) or ForgetDecision(archive=info, keep=True, reason="not named", rules=("named",))
    if info.standing.trashed_at is not None and action is ForgetAction.TRASH:
        return ForgetDecision(archive=info, keep=True, reason="named, and in the trash already", rules=("trash",))
    return ForgetDecision(archive=info, keep=False, reason=f"{info.state.value}: named", rules=("named",))


def apply_forget(
    sink: ArchiveSink,
    plan: ForgetPlan,
    *,
    signatures: SignaturePolicy | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> ForgetReport:
    """
    Do what a plan says, oldest archive first: move to the trash, or remove.

    Moving writes one mark per archive and needs no right to delete. When removing, the manifest of an archive goes
    first, so that an interruption leaves an unfinished archive that the next plan finds, never one that looks whole;
    what was noted of an archive goes with it.

    Args:
        sink: Where the archives are.
        plan: As it was made; printing it says what happens.
        signatures: The policy it was made with.
        observer: Told of every archive.
        clock: Dates the marks.

    Raises:
        PlanStaleError: The sink no longer holds exactly the archives planned for, and nothing happened; or something
            was noted of an archive while others were removed, and it and the rest stay.
        ConfigurationError: The plan would forget the last complete archive of a series, a pinned one, or files of
            other tools; nothing happened.
        SinkPermissionError: Creating, or deleting, is refused.
        SinkUnavailableError: The store could not be reached; archives forgotten so far are, the plan is stale.
    """
    check_safe(plan)
    check_fresh(plan, list_archives(sink, signatures=signatures))
    if plan.action is ForgetAction.TRASH:
        return move_to_trash(sink, plan, observer=observer, clock=clock)
    forgotten: list[str] = []
    freed = 0
    for info in sorted(plan.forgotten, key=lambda info: info.age_key):
        check_unmarked(sink, info, before=len(forgotten))
        for key in info.keys:
            with contextlib.suppress(BlobNotFoundError):  # somebody else removed it meanwhile: that is what we want
                sink.delete(key)
        freed += info.size_bytes
        observer(Event(name="forget.removed", fields={"archive_id": info.archive_id, "bytes": info.size_bytes}))
        forgotten.append(info.archive_id)
    return ForgetReport(forgotten=tuple(forgotten), freed_bytes=freed, action=plan.action)


def move_to_trash(sink: ArchiveSink, plan: ForgetPlan, *, observer: Observer, clock: Clock) -> ForgetReport:
    """Mark the archives that a plan forgets, oldest first; nothing is removed."""
    forgotten: list[str] = []
    reasons = {decision.archive.archive_id: decision.reason for decision in plan.decisions}
    for info in sorted(plan.forgotten, key=lambda info: info.age_key):
        values = {"reason": reasons[info.archive_id][:_REASON_CHARACTERS]}
        put_mark(sink, info.archive_id, MarkVerb.TRASHED, values, clock=clock)
        observer(Event(name="forget.trashed", fields={"archive_id": info.archive_id, "bytes": info.size_bytes}))
        forgotten.append(info.archive_id)
    return ForgetReport(forgotten=tuple(forgotten), freed_bytes=0, action=plan.action)


def check_unmarked(sink: ArchiveSink, info: ArchiveInfo, *, before: int) -> None:
    """
    Raise `PlanStaleError` when something was noted of an archive since it was listed.

    Removing may take long, and what is gone is gone: a pin or undelete made meanwhile is seen here.
    """
    noted = sorted({blob.key for blob in sink.list(side_key(info.archive_id, ""))} - set(info.keys))
    if noted:
        message = f"{noted[0]} was written since the plan was made; {before} archive(s) were removed before"
        raise PlanStaleError(message, hint="plan again", archive_ids=[info.archive_id])


def check_safe(plan: ForgetPlan) -> None:
    """
    Refuse a plan that no policy and no person may make.

    Raises:
        ConfigurationError: It would forget files of other tools, a pinned archive, or, without `ForgetPlan.last_too`,
            the last complete archive of a series, or the last that nothing speaks against: neither a verification nor
            a quarantine.
    """
    foreign = [info.archive_id for info in plan.forgotten if not info.managed]
    if foreign:
        message = f"the plan removes files of other tools: {', '.join(foreign)}"
        raise ConfigurationError(message, kind="unsafe_plan", hint="remove them with the tool that made them")
    pinned = [info for info in plan.forgotten if info.standing.is_pinned(plan.made_at)]
    if pinned:
        shown = ", ".join(f"{info.archive_id} ({pin(info, now=plan.made_at)})" for info in pinned)
        hint = "unpin it first, if it is to go"
        raise ConfigurationError(f"the plan removes pinned archives: {shown}", kind="archive_pinned", hint=hint)
    lost = complete_series(plan.forgotten) - complete_series(plan.kept)
    lost |= good_series(plan.forgotten) - good_series(plan.kept)
    if lost and not plan.last_too:
        message = f"the plan removes every complete archive of {', '.join(sorted(lost))} that can be relied on"
        hint = "use a policy that keeps at least one, or name the archives and ask for the last too"
        raise ConfigurationError(message, kind="unsafe_plan", hint=hint)


def complete_series(archives: Iterable[ArchiveInfo]) -> set[str]:
    """Return the series of which there is a complete archive of ours."""
    return {info.series for info in archives if info.managed and info.state is ArchiveState.COMPLETE}


def good_series(archives: Iterable[ArchiveInfo]) -> set[str]:
    """Return those of which one neither failed verification nor is in quarantine."""
    return complete_series(
        info for info in archives if info.standing.failed_at is None and not info.standing.quarantined
    )


def check_fresh(plan: ForgetPlan, listed: Iterable[ArchiveInfo]) -> None:
    """Raise `PlanStaleError` unless a listing shows exactly the archives planned for."""
    planned = {decision.archive.archive_id: decision.archive for decision in plan.decisions}
    present = {info.archive_id: info for info in listed}
    changed = sorted(
        archive_id for archive_id in planned.keys() | present if planned.get(archive_id) != present.get(archive_id)
    )
    if changed:
        message = f"{len(changed)} archive(s) came, went or changed since the plan was made: {', '.join(changed[:5])}"
        raise PlanStaleError(message, hint="plan again", archive_ids=changed[:20])
