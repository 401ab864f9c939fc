"""
Keep the newest archives of every series.

One rule decides: an archive is forgotten once *limit* newer complete archives exist in its series. So only complete
archives count, incomplete and damaged ones never displace one, and they go when a complete one of their age would.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence

import attrs

from ..errors import ConfigurationError
from ..model.plans import ArchiveInfo, ArchiveState, ForgetDecision, ForgetPlan
from .common import condition, counts, judge_unfinished, newest_first, pin, untouchable

__all__ = ["KeepLast"]


@attrs.frozen(kw_only=True)
class KeepLast:
    """
    Keep the newest *limit* complete archives of every series; 0 keeps everything.

    Pinned and quarantined archives stay. Unfinished archives go once they are older than a day, so that none still
    being written is touched, and a newer complete one exists. Files of other tools always stay. Pure: the same
    archives and moment give the same plan.
    """

    limit: int = attrs.field(default=7)
    series: str | None = None
    """The one series this is about; everything else stays. `None` for all."""

    @limit.validator
    def _check_limit(self, _field: attrs.Attribute[int], value: int) -> None:
        given: object = value
        if isinstance(given, bool) or not isinstance(given, int) or given < 0:
            hint = "it must be a whole number; 0 keeps everything"
            raise ConfigurationError(f"cannot keep {value!r:.80} archives", kind="bad_limit", hint=hint)

    @classmethod
    def km(cls, limit: int = 7) -> KeepLast:
        """
        Return the rule of the Duskmantle gateway for its state archives (``KM_BACKUP_RETENTION_LIMIT``).

        Only files it manages count and go (``km-backup-*.tgz`` and ``.tar.gz``), ordered by the stamp in their name,
        else by modification time; empty ones never count. As there, a limit below 0 is 0 and keeps everything. The
        gateway has no trash: plan with a grace of 0 to remove at once.
        """
        return cls(limit=max(limit, 0), series="km-backup")

    def plan(self, archives: Sequence[ArchiveInfo], *, now: dt.datetime) -> ForgetPlan:
        """
        Decide on every archive, newest first.

        Raises:
            ConfigurationError: A managed archive is dated more than a day after *now*: a wrong clock, here or where it
                was written, would make retention remove the wrong ones.
        """
        newer: defaultdict[str, int] = defaultdict(int)
        decisions: list[ForgetDecision] = []
        for info in newest_first(archives, now=now):
            decisions.append(untouchable(info) or self._decide(info, newer[info.series], now))
            if counts(info):
                newer[info.series] += 1
        return ForgetPlan(made_at=now, decisions=tuple(decisions))

    def _decide(self, info: ArchiveInfo, newer: int, now: dt.datetime) -> ForgetDecision:
        pinned = pin(info, now=now)
        if info.standing.quarantined:
            keep, rule, reason = True, "quarantine", f"{condition(info)}: quarantined, kept until it is released"
        else:
            keep, rule, reason = self._count(info, newer, now)
        if pinned:
            reason = f"{pinned}; {reason}" if keep else f"{condition(info)}: {pinned}"
            return ForgetDecision(archive=info, keep=True, reason=reason, rules=("pin", rule) if keep else ("pin",))
        return ForgetDecision(archive=info, keep=keep, reason=reason, rules=(rule,))

    def _count(self, info: ArchiveInfo, newer: int, now: dt.datetime) -> tuple[bool, str, str]:
        """Return whether an archive stays, the rule, and the reason, pins aside."""
        state = condition(info)
        if self.series not in {None, info.series}:
            decision = True, "series", f"of series {info.series}: this rule is for {self.series} only"
        elif self.limit == 0:
            decision = True, "everything", f"{info.state.value}: everything is kept"
        elif info.state is ArchiveState.UNFINISHED:
            decision = judge_unfinished(info, newer, now)
        elif newer >= self.limit:
            decision = False, "last", f"{state}: {newer} newer complete archives exist, {self.limit} are kept"
        elif counts(info):
            decision = True, "last", f"complete: number {newer + 1} of the {self.limit} kept"
        else:
            decision = True, "last", f"{state}: only {newer} newer complete archives exist"
        return decision
