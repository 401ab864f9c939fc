"""The places of one rule: the newest archive of each period takes the next one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import attrs

from ..model.plans import ArchiveInfo
from .durations import show_duration

__all__ = ["ALL", "PERIODS", "Tally"]

ALL = -1

PERIODS: dict[str, Callable[[dt.datetime], str]] = {
    "hourly": lambda moment: f"{moment:%Y-%m-%d %H}h",
    "daily": lambda moment: f"{moment:%Y-%m-%d}",
    "weekly": lambda moment: "{}-W{:02d}".format(*moment.isocalendar()),
    "monthly": lambda moment: f"{moment:%Y-%m}",
    "yearly": lambda moment: f"{moment:%Y}",
}
"""Name the period of a moment in UTC; weeks are those of ISO 8601."""


@attrs.define(kw_only=True)
class Tally:
    """How many places of one rule are taken, from the newest archive of a series on."""

    rule: str
    period: Callable[[dt.datetime], str] | None = None
    """`None` when every archive is a period of its own."""
    limit: int = ALL
    within: dt.timedelta | None = None
    """Half-open: an archive exactly this much older than the newest gets no place."""
    taken: int = 0
    latest: str | None = None
    """The period of the last place that was taken."""

    @property
    def name(self) -> str:
        """The name of the policy's field."""
        return f"within_{self.rule}" if self.within and self.period else self.rule

    def __str__(self) -> str:
        """Return the rule for people."""
        if self.within:
            return f"{self.rule} within {show_duration(self.within)}" if self.period else self._span
        return f"all {self.rule}" if self.limit == ALL else f"{self.rule} {self.limit}"

    @property
    def _span(self) -> str:
        return f"within {show_duration(self.within)} of the newest" if self.within else ""

    def place(self, info: ArchiveInfo, newest: dt.datetime) -> str:
        """Return the place an archive would take, for a reason; empty when it gets none."""
        period = self._period(info)
        if (period is not None and period == self.latest) or 0 <= self.limit <= self.taken:
            return ""
        if self.within and newest - info.taken_at >= self.within:
            return ""
        shown = str(self)
        if not self.within:
            shown = f"{self.rule} {self.taken + 1}" + ("" if self.limit == ALL else f" of {self.limit}")
        return f"{shown} ({period})" if period else shown

    def take(self, info: ArchiveInfo) -> None:
        """Give the next place to an archive."""
        self.taken += 1
        self.latest = self._period(info)

    def _period(self, info: ArchiveInfo) -> str | None:
        return self.period(info.taken_at.astimezone(dt.UTC)) if self.period else None
