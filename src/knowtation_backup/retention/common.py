"""What every policy of ours holds to, whatever it counts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from ..errors import ConfigurationError
from ..model.moments import iso_ms, utc_of
from ..model.plans import ArchiveInfo, ArchiveState, ForgetDecision

__all__ = [
    "MAX_AHEAD",
    "UNFINISHED_GRACE",
    "condition",
    "counts",
    "is_verified",
    "judge_unfinished",
    "newest_first",
    "pin",
    "untouchable",
]

MAX_AHEAD = dt.timedelta(days=1)
UNFINISHED_GRACE = dt.timedelta(days=1)


def newest_first(archives: Iterable[ArchiveInfo], *, now: dt.datetime) -> list[ArchiveInfo]:
    """
    Return *archives* from the newest to the oldest.

    Raises:
        ConfigurationError: A managed archive that is not in the trash is dated more than a day after *now*, or *now*
            has no time zone.
    """
    now = utc_of(now)
    ordered = sorted(archives, key=lambda info: info.age_key, reverse=True)
    for info in ordered:
        if info.managed and info.standing.trashed_at is None and info.taken_at - now > MAX_AHEAD:
            message = (
                f"archive {info.archive_id} is dated {info.taken_at:%Y-%m-%d %H:%M}Z, now is {now:%Y-%m-%d %H:%M}Z"
            )
            hint = "correct the clock, or put that archive into the trash if its date is wrong"
            raise ConfigurationError(message, kind="archive_from_the_future", hint=hint, archive_id=info.archive_id)
    return ordered


def counts(info: ArchiveInfo) -> bool:
    """Whether an archive may take the place of another: ours, complete, and nothing known that speaks against it."""
    usable = info.state is ArchiveState.COMPLETE and not info.standing.spoken_against
    return info.managed and usable and not info.superseded_by


def is_verified(info: ArchiveInfo) -> bool:
    """Whether an archive counts and its whole content proved good."""
    return counts(info) and info.standing.verified_at is not None


def condition(info: ArchiveInfo) -> str:
    """Return the state of an archive for a reason, and whether it counts."""
    if info.state is ArchiveState.COMPLETE and info.standing.failed_at is not None:
        return "failed verification, never counted"
    if info.superseded_by:
        return f"{info.state.value}, never counted since it was made anew as {info.superseded_by}"
    return info.state.value if counts(info) else f"{info.state.value}, never counted"


def untouchable(info: ArchiveInfo) -> ForgetDecision | None:
    """Return the decision on an archive that no rule applies to: of another tool, or in the trash already."""
    if not info.managed:
        return ForgetDecision(archive=info, keep=True, reason="of another tool: never removed", rules=("unmanaged",))
    if info.standing.trashed_at is not None:
        reason = f"since {iso_ms(info.standing.trashed_at)}, until the trash is emptied or it is undeleted"
        return ForgetDecision(archive=info, keep=True, reason=reason, rules=("trash",))
    return None


def pin(info: ArchiveInfo, *, now: dt.datetime) -> str:
    """Return the pin that holds an archive, for a reason; empty when none holds *now*."""
    if not info.standing.is_pinned(now):
        return ""
    until = info.standing.pinned_until
    return f"pinned until {iso_ms(until)}" if until else "pinned"


def judge_unfinished(info: ArchiveInfo, newer: int, now: dt.datetime) -> tuple[bool, str, str]:
    """Return whether an unfinished archive stays that *newer* complete ones follow, the rule, and the reason."""
    if now - info.taken_at <= UNFINISHED_GRACE:
        return True, "unfinished", "unfinished, but not a day old: it may still be written"
    if newer:
        return False, "unfinished", "unfinished, and a newer complete archive exists"
    return True, "unfinished", "unfinished: no newer complete archive exists"
