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

__all__ = ["KeepLast"]

_FUTURE = dt.timedelta(days=1)
_UNFINISHED_GRACE = dt.timedelta(days=1)


@attrs.frozen(kw_only=True)
class KeepLast:
    """
    Keep the newest *limit* complete archives of every series; 0 keeps everything.

    Unfinished archives go once they are older than a day, so that none still being written is touched, and a newer
    complete one exists. Files of other tools always stay. Pure: the same archives and moment give the same plan.
    """

    limit: int = attrs.field(default=7)

    @limit.validator
    def _check_limit(self, _field: attrs.Attribute[int], value: int) -> None:
        if value < 0:
            raise ConfigurationError(f"cannot keep {value} archives", kind="bad_limit", hint="0 keeps everything")

    def plan(self, archives: Sequence[ArchiveInfo], *, now: dt.datetime) -> ForgetPlan:
        """
        Decide on every archive, newest first.

        Raises:
            ConfigurationError: A managed archive is dated more than a day after *now*: a wrong clock, here or where it
                was written, would make retention remove the wrong ones.
        """
        newest_first = sorted(archives, key=lambda info: info.age_key, reverse=True)
        for info in newest_first:
            if info.managed and info.taken_at - now > _FUTURE:
                message = (
                    f"archive {info.archive_id} is dated {info.taken_at:%Y-%m-%d %H:%M}Z, now is {now:%Y-%m-%d %H:%M}Z"
                )
                hint = "correct the clock, or remove that archive by hand if its date is wrong"
                raise ConfigurationError(message, kind="archive_from_the_future", hint=hint, archive_id=info.archive_id)
        complete: defaultdict[str, int] = defaultdict(int)
        decisions: list[ForgetDecision] = []
        for info in newest_first:
            newer = complete[info.series]
            keep, reason = self._decide(info, newer, now)
            decisions.append(ForgetDecision(archive=info, keep=keep, reason=reason))
            if info.managed and info.state is ArchiveState.COMPLETE:
                complete[info.series] += 1
        return ForgetPlan(made_at=now, decisions=tuple(decisions))

    def _decide(self, info: ArchiveInfo, newer: int, now: dt.datetime) -> tuple[bool, str]:
        state = info.state.value
        if not info.managed:
            decision = True, "of another tool: never removed"
        elif self.limit == 0:
            decision = True, f"{state}: everything is kept"
        elif info.state is ArchiveState.UNFINISHED:
            if now - info.taken_at <= _UNFINISHED_GRACE:
                decision = True, "unfinished, but not a day old: it may still be written"
            elif newer:
                decision = False, "unfinished, and a newer complete archive exists"
            else:
                decision = True, "unfinished: no newer complete archive exists"
        elif newer >= self.limit:
            decision = False, f"{state}: {newer} newer complete archives exist, {self.limit} are kept"
        elif info.state is ArchiveState.COMPLETE:
            decision = True, f"complete: number {newer + 1} of the {self.limit} kept"
        else:
            decision = True, f"{state}, never counted: only {newer} newer complete archives exist"
        return decision
