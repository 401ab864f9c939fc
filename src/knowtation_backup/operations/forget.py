"""Forget archives: a plan to look at, then exactly that plan or nothing."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable

from ..contracts import ArchiveSink, Observer, RetentionPolicy, ignore_events
from ..errors import BlobNotFoundError, ConfigurationError, PlanStaleError
from ..model.events import Event
from ..model.plans import ArchiveInfo, ArchiveState, ForgetPlan
from ..model.reports import ForgetReport
from .catalog import list_archives

__all__ = ["apply_forget", "plan_forget"]


def plan_forget(sink: ArchiveSink, policy: RetentionPolicy, *, now: dt.datetime) -> ForgetPlan:
    """
    Return what *policy* would keep and forget; nothing happens.

    Raises:
        ConfigurationError: The policy refuses, for example because archives are dated in the future.
        SinkUnavailableError: The store could not be reached.
    """
    return policy.plan(list_archives(sink), now=now)


def apply_forget(sink: ArchiveSink, plan: ForgetPlan, *, observer: Observer = ignore_events) -> ForgetReport:
    """
    Remove the archives a plan forgets, oldest first.

    The manifest of an archive is removed first, so that an interruption leaves an unfinished archive that the next
    plan finds, never one that looks whole.

    Raises:
        PlanStaleError: The sink no longer holds exactly the archives planned for; nothing was removed.
        ConfigurationError: The plan would remove the last complete archive of a series, or files of other tools;
            nothing was removed.
        SinkPermissionError: Deleting is refused.
        SinkUnavailableError: The store could not be reached; archives removed so far are gone, the plan is stale.
    """
    _check_safe(plan)
    _check_fresh(sink, plan)
    forgotten: list[str] = []
    freed = 0
    for archive in sorted(plan.forgotten, key=lambda info: info.age_key):
        for key in archive.keys:
            with contextlib.suppress(BlobNotFoundError):  # somebody else removed it meanwhile: that is what we want
                sink.delete(key)
        forgotten.append(archive.archive_id)
        freed += archive.size_bytes
        observer(Event(name="forget.removed", fields={"archive_id": archive.archive_id, "bytes": archive.size_bytes}))
    return ForgetReport(forgotten=tuple(forgotten), freed_bytes=freed)


def _check_safe(plan: ForgetPlan) -> None:
    foreign = [info.archive_id for info in plan.forgotten if not info.managed]
    if foreign:
        raise ConfigurationError(f"the plan removes files of other tools: {', '.join(foreign)}", kind="unsafe_plan")
    lost = _complete_series(plan.forgotten) - _complete_series(plan.kept)
    if lost:
        message = f"the plan removes every complete archive of {', '.join(sorted(lost))}"
        raise ConfigurationError(message, kind="unsafe_plan", hint="use a policy that keeps at least one")


def _complete_series(archives: Iterable[ArchiveInfo]) -> set[str]:
    return {info.series for info in archives if info.managed and info.state is ArchiveState.COMPLETE}


def _check_fresh(sink: ArchiveSink, plan: ForgetPlan) -> None:
    planned = {decision.archive.archive_id: decision.archive for decision in plan.decisions}
    present = {info.archive_id: info for info in list_archives(sink)}
    changed = sorted(
        archive_id for archive_id in planned.keys() | present if planned.get(archive_id) != present.get(archive_id)
    )
    if changed:
        message = f"{len(changed)} archive(s) came, went or changed since the plan was made: {', '.join(changed[:5])}"
        raise PlanStaleError(message, hint="plan again", archive_ids=changed[:20])
