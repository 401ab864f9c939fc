"""
Keep archives by calendar, age, tag and pin.

Per series, from the newest archive to the oldest, one tally per rule: the newest archive of each period takes the next
place. Only archives that count take places (complete, not in quarantine or the trash, verification did not fail).
Others are judged as if they were complete, without taking a place: so they go when a complete one of their age would.

A floor lies under the rules: a complete archive goes only once `KeepPolicy.min_keep` newer archives of its series are
verified. Nothing an older archive is or was changes what happens to a newer one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

import attrs

from ..errors import ConfigurationError
from ..model.manifest import check_tags
from ..model.plans import ArchiveInfo, ArchiveState, ForgetDecision, ForgetPlan
from .common import condition, counts, is_verified, judge_unfinished, newest_first, pin, untouchable
from .durations import parse_duration, show_duration
from .tally import ALL, PERIODS, Tally

__all__ = ["KeepPolicy"]


def _count(value: int | None) -> int:
    return ALL if value is None else value


def _length(value: dt.timedelta | str | None) -> dt.timedelta | None:
    return None if value is None else parse_duration(value)


def _words(value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ConfigurationError(
            f"KeepPolicy.tags is the one text {value!r:.80}", kind="bad_option", hint="pass a list"
        )
    return check_tags(value)


def _check_count(_policy: KeepPolicy, field: attrs.Attribute[int], value: int) -> None:
    given: object = value
    if isinstance(given, bool) or not isinstance(given, int) or given < ALL:
        hint = "it must be a whole number of at least 0, or -1 or None for all"
        raise ConfigurationError(f"KeepPolicy.{field.name} is {value!r:.80}", kind="bad_option", hint=hint)


def _check_length(_policy: KeepPolicy, field: attrs.Attribute[dt.timedelta | None], value: dt.timedelta | None) -> None:
    if value is not None and not value:
        hint = "it must be longer than nothing, or None for no such rule"
        raise ConfigurationError(f"KeepPolicy.{field.name} is 0", kind="bad_option", hint=hint)


@attrs.frozen(kw_only=True)
class KeepPolicy:
    """
    Keep what any rule keeps; the rest is forgotten. Each series is judged by itself, and the calendar is that of UTC.

    Counts are numbers of archives, 0 for no such rule, -1 or `None` for all. Lengths of time are
    `datetime.timedelta` or texts such as ``90d`` (see `parse_duration`). Pins win over every rule until they expire,
    quarantined archives stay until they are released, and files of other tools stay for ever. Unfinished archives go
    once they are older than a day and a newer complete one exists. Pure: the same archives and moment give the same
    plan.

    Raises:
        ConfigurationError: An option is out of its bounds, or the policy could remove every archive of a series
            (``keeps_nothing``).
    """

    last: int = attrs.field(default=0, converter=_count, validator=_check_count)
    """The newest archives."""
    hourly: int = attrs.field(default=0, converter=_count, validator=_check_count)
    """The newest archive of each of so many hours that have one."""
    daily: int = attrs.field(default=0, converter=_count, validator=_check_count)
    weekly: int = attrs.field(default=0, converter=_count, validator=_check_count)
    """Weeks are those of ISO 8601 and begin on Monday."""
    monthly: int = attrs.field(default=0, converter=_count, validator=_check_count)
    yearly: int = attrs.field(default=0, converter=_count, validator=_check_count)
    within: dt.timedelta | None = attrs.field(default=None, converter=_length, validator=_check_length)
    """Every archive younger than this when the newest of its series was taken: a pause in backups removes nothing."""
    within_hourly: dt.timedelta | None = attrs.field(default=None, converter=_length, validator=_check_length)
    """The newest archive of each hour within this time before the newest."""
    within_daily: dt.timedelta | None = attrs.field(default=None, converter=_length, validator=_check_length)
    within_weekly: dt.timedelta | None = attrs.field(default=None, converter=_length, validator=_check_length)
    within_monthly: dt.timedelta | None = attrs.field(default=None, converter=_length, validator=_check_length)
    within_yearly: dt.timedelta | None = attrs.field(default=None, converter=_length, validator=_check_length)
    older_than: dt.timedelta | None = attrs.field(default=None, converter=_length, validator=_check_length)
    """
    Archives strictly older than this go although the rules above would keep them; tags, pins and the floor still hold.
    Without any rule above, all younger ones stay.
    """
    tags: tuple[str, ...] = attrs.field(default=(), converter=_words)
    """Archives with any of these tags stay."""
    min_keep: int = attrs.field(default=3)
    """
    The floor: a complete archive goes only once so many newer archives of its series are verified. 0 trusts archives
    that nobody ever read.
    """

    @min_keep.validator
    def _check_floor(self, field: attrs.Attribute[int], value: int) -> None:
        _check_count(self, field, value)
        if value < 0:
            raise ConfigurationError("KeepPolicy.min_keep is -1", kind="bad_option", hint="it must be at least 0")

    def __attrs_post_init__(self) -> None:
        """Refuse what could remove everything."""
        rules = self._tallies()
        if not rules and self.older_than is None and not self.tags:
            message = "the policy has no rule that keeps anything"
            raise ConfigurationError(message, kind="keeps_nothing", hint="set at least one count or length of time")
        if not self.min_keep and (not rules or self.older_than is not None):
            message = "without a floor this policy removes every archive of a series once the last is old or untagged"
            hint = "set min_keep to at least 1, or keep by count instead of older_than"
            raise ConfigurationError(message, kind="keeps_nothing", hint=hint)

    @classmethod
    def quri(cls) -> KeepPolicy:
        """Return the schedule of QURI's runbook: 30 daily, weekly for 90 days, monthly for a year, upgrades forever."""
        return cls(daily=30, within_weekly="90d", within_monthly="1y", tags=["pre-upgrade"])

    def plan(self, archives: Sequence[ArchiveInfo], *, now: dt.datetime) -> ForgetPlan:
        """
        Decide on every archive, newest first.

        Raises:
            ConfigurationError: A managed archive is dated more than a day after *now*: a wrong clock, here or where it
                was written, would make retention remove the wrong ones.
        """
        series: dict[str, _Series] = {}
        decisions: list[ForgetDecision] = []
        for info in newest_first(archives, now=now):
            state = series.get(info.series)
            if state is None:
                state = series[info.series] = _Series(policy=self, now=now, tallies=self._tallies())
            decisions.append(untouchable(info) or state.decide(info))
            state.count(info)
        return ForgetPlan(made_at=now, decisions=tuple(decisions))

    def __str__(self) -> str:
        """Return the rules on one line."""
        rules = [str(tally) for tally in self._tallies()]
        rules += [f"none older than {show_duration(self.older_than)}"] if self.older_than else []
        rules += [f"tag {tag}" for tag in self.tags]
        return f"{', '.join(rules)}; floor of {self.min_keep} verified"

    def _tallies(self) -> list[Tally]:
        """Return a fresh tally for each rule that takes places."""
        found = [Tally(rule="last", limit=self.last)] if self.last else []
        for rule, period in PERIODS.items():
            limit: int = getattr(self, rule)
            found += [Tally(rule=rule, period=period, limit=limit)] if limit else []
        found += [Tally(rule="within", within=self.within)] if self.within else []
        for rule, period in PERIODS.items():
            within: dt.timedelta | None = getattr(self, f"within_{rule}")
            found += [Tally(rule=rule, period=period, within=within)] if within else []
        return found


@attrs.define(kw_only=True)
class _Series:
    """What was seen of one series so far, from its newest archive on."""

    policy: KeepPolicy
    now: dt.datetime
    tallies: list[Tally]
    newest: dt.datetime | None = None
    """When the newest archive that counts was taken."""
    complete: int = 0
    verified: int = 0

    def count(self, info: ArchiveInfo) -> None:
        """Let an archive take its places, if it counts; those after it are older."""
        if not counts(info):
            return
        self.newest = self.newest or info.taken_at
        for tally in self.tallies:
            if tally.place(info, self.newest):
                tally.take(info)
        self.complete += 1
        self.verified += is_verified(info)

    def decide(self, info: ArchiveInfo) -> ForgetDecision:
        """Decide on an archive, older than all that were counted."""
        holding = self._holds(info)
        if info.state is ArchiveState.UNFINISHED:
            keep, rule, reason = judge_unfinished(info, self.complete, self.now)
            if keep or not holding:
                rules = (*(name for name, _ in holding), rule)
                texts = "; ".join([*(text for _, text in holding), reason])
                return ForgetDecision(archive=info, keep=keep, reason=texts, rules=rules)
        elif not info.standing.quarantined:
            holding += self._places(info)
        if holding:
            reason = "; ".join(text for _, text in holding)
            rules = tuple(dict.fromkeys(name for name, _ in holding))
            return ForgetDecision(
                archive=info,
                keep=True,
                reason=f"{condition(info)}: {reason}",
                rules=rules,
                assured_until=self._assured(info, rules),
            )
        if self._too_old(info):
            rule, reason = "older_than", f"older than {show_duration(self.policy.older_than or dt.timedelta(0))}"
        else:
            rules_text = ", ".join(map(str, self.tallies)) or "its tags"
            rule, reason = "superseded", f"kept by none of {rules_text}"
        return ForgetDecision(archive=info, keep=False, reason=f"{condition(info)}: {reason}", rules=(rule,))

    def _assured(self, info: ArchiveInfo, rules: Sequence[str]) -> dt.datetime | None:
        """Return until when rules that name a length of time keep an archive, `None` when none of these is such."""
        lengths = [tally.within for tally in self.tallies if tally.within and tally.name in rules]
        longest = self.policy.older_than
        if longest is not None:
            lengths = [min(length, longest) for length in lengths] or [longest] * ("older_than" in rules)
        return info.taken_at + max(lengths) if lengths else None

    def _too_old(self, info: ArchiveInfo) -> bool:
        return self.policy.older_than is not None and self.now - info.taken_at > self.policy.older_than

    def _holds(self, info: ArchiveInfo) -> list[tuple[str, str]]:
        """Return what a person said, which no rule overrides."""
        pinned = pin(info, now=self.now)
        found = [("pin", pinned)] if pinned else []
        if info.standing.quarantined:
            found.append(("quarantine", "quarantined, kept until it is released"))
        found += [("tag", f"tag {tag}") for tag in info.tags if tag in self.policy.tags]
        return found

    def _places(self, info: ArchiveInfo) -> list[tuple[str, str]]:
        """Return every rule that keeps an archive, or would if it were complete."""
        found: list[tuple[str, str]] = []
        if not self._too_old(info):
            newest = self.newest or info.taken_at
            found += [(tally.name, text) for tally in self.tallies if (text := tally.place(info, newest))]
            if not self.tallies and self.policy.older_than is not None:
                found.append(("older_than", f"not older than {show_duration(self.policy.older_than)}"))
        if not counts(info):
            return found if found or self.complete else [("only", "no newer complete archive exists")]
        if self.verified < self.policy.min_keep:
            text = f"floor: {self.policy.min_keep} newer archives must be verified, {self.verified} are"
            found.append(("floor", text if found else f"{text}: verify newer ones to let this one go"))
        return found
