"""Laws of retention, for whatever archives and policies there may be."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.contracts import RetentionPolicy
from knowtation_backup.model.marks import Standing
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.retention.policy import KeepPolicy

NOW = dt.datetime(2026, 4, 8, 12, tzinfo=dt.UTC)
EARLIER = NOW - dt.timedelta(days=9)


def archive(hours: int, **facts: Any) -> ArchiveInfo:
    series, number = facts["series"], facts["number"]
    archive_id = f"{series}-{hours}-{number}"
    return ArchiveInfo(
        archive_id=archive_id, taken_at=NOW - dt.timedelta(hours=hours), size_bytes=1, keys=(archive_id,), **facts
    )


moments = st.none() | st.just(EARLIER)
standings = st.builds(
    Standing,
    verified_at=moments,
    failed_at=st.sampled_from([None, None, None, EARLIER]),
    pinned=st.sampled_from([False, False, False, True]),
    pinned_until=st.sampled_from([None, EARLIER, NOW, NOW + dt.timedelta(days=1)]),
    quarantined=st.sampled_from([False, False, False, True]),
    trashed_at=st.sampled_from([None, None, None, EARLIER]),
    tags=st.sampled_from([(), (), (), ("keep-me",), ("other",)]),
)
# Small numbers collide in one period, large ones reach over years.
ages = st.integers(0, 60) | st.integers(0, 24 * 100).map(lambda hours: hours * 7) | st.just(24 * 7)
archives_of_any_kind = st.builds(
    archive,
    ages,
    state=st.sampled_from([ArchiveState.COMPLETE, ArchiveState.COMPLETE, *ArchiveState]),
    series=st.sampled_from(["a", "a", "b"]),
    number=st.integers(0, 2),
    managed=st.sampled_from([True, True, True, False]),
    standing=standings,
)
listings = st.lists(archives_of_any_kind, max_size=15, unique_by=lambda info: info.archive_id)
counts = st.sampled_from([0, 0, 1, 2, 5, -1])
lengths = st.sampled_from([None, None, "12h", "2d", "4w", "1y"])


RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@st.composite
def policies(draw: st.DrawFn, rules: dict[str, int] | None = None) -> KeepPolicy:
    options: dict[str, Any] = {name: draw(counts) for name in RULES} | (rules or {})
    options |= {f"within_{name}": draw(lengths) for name in RULES[1:]} | {"within": draw(lengths)}
    if not any(options.values()):
        options["last"] = 1
    if rules is None:
        options["older_than"] = draw(lengths)
    least = 1 if options.get("older_than") else 0
    return KeepPolicy(**options, min_keep=draw(st.integers(least, 4)), tags=draw(st.sampled_from([(), ("keep-me",)])))


any_policy = policies() | st.builds(KeepLast, limit=st.integers(0, 4))


def good(info: ArchiveInfo) -> bool:
    """Whether an archive is one to rely on, said another way than the source says it."""
    standing = info.standing
    bad = [standing.quarantined, standing.trashed_at, standing.failed_at, not info.managed]
    return info.state is ArchiveState.COMPLETE and not any(bad)


@given(listings, any_policy, st.randoms(use_true_random=False))
def test_the_order_of_the_listing_does_not_matter(
    archives: list[ArchiveInfo], policy: RetentionPolicy, shuffle: random.Random
) -> None:
    plan = policy.plan(archives, now=NOW)
    shuffle.shuffle(archives)
    assert policy.plan(archives, now=NOW) == plan
    assert sorted(d.archive.archive_id for d in plan.decisions) == sorted(info.archive_id for info in archives)
    assert all(decision.reason and decision.rules for decision in plan.decisions)


@given(listings, any_policy)
def test_what_was_applied_leaves_nothing_to_forget(archives: list[ArchiveInfo], policy: RetentionPolicy) -> None:
    plan = policy.plan(archives, now=NOW)
    removed = [decision.archive for decision in plan.decisions if decision.keep]
    assert policy.plan(removed, now=NOW).forgotten == ()
    gone = set(plan.forgotten)
    trashed = [
        attrs.evolve(info, standing=attrs.evolve(info.standing, trashed_at=NOW)) if info in gone else info
        for info in archives
    ]
    again = policy.plan(trashed, now=NOW)
    assert again.forgotten == (), "what is in the trash is planned for once"
    assert again.kept == plan.kept, "what is in the trash has no influence"


@given(listings, any_policy, archives_of_any_kind)
def test_an_older_archive_never_makes_a_newer_one_go(
    archives: list[ArchiveInfo], policy: RetentionPolicy, more: ArchiveInfo
) -> None:
    archives = [info for info in archives if info.archive_id != more.archive_id]
    without = policy.plan(archives, now=NOW)
    with_it = policy.plan([*archives, more], now=NOW)
    newer = {info.archive_id for info in without.kept if info.age_key > more.age_key or info.series != more.series}
    assert newer <= {info.archive_id for info in with_it.kept}


@given(listings, any_policy)
def test_pins_quarantine_and_files_of_others_are_left_alone(
    archives: list[ArchiveInfo], policy: RetentionPolicy
) -> None:
    for info in policy.plan(archives, now=NOW).forgotten:
        assert info.managed
        assert not info.standing.is_pinned(NOW)
        assert not info.standing.quarantined
        assert info.standing.trashed_at is None


@given(listings, policies())
def test_tags_hold(archives: list[ArchiveInfo], policy: KeepPolicy) -> None:
    assert not any(set(info.tags) & set(policy.tags) for info in policy.plan(archives, now=NOW).forgotten)


@given(listings, policies())
def test_the_floor_holds(archives: list[ArchiveInfo], policy: KeepPolicy) -> None:
    plan = policy.plan(archives, now=NOW)
    for series in ("a", "b"):
        verified = [info for info in archives if good(info) and info.standing.verified_at and info.series == series]
        left = [info for info in verified if info in plan.kept]
        assert len(left) >= min(policy.min_keep, len(verified))
        for info in plan.forgotten:
            if good(info) and info.series == series:
                newer = [other for other in left if other.age_key > info.age_key]
                assert len(newer) >= policy.min_keep, (
                    "a complete archive goes only above a floor of newer verified ones"
                )


@given(listings, any_policy)
def test_something_good_and_newer_stays_for_everything_that_goes(
    archives: list[ArchiveInfo], policy: RetentionPolicy
) -> None:
    plan = policy.plan(archives, now=NOW)
    for gone in plan.forgotten:
        assert any(good(info) and info.series == gone.series and info.age_key > gone.age_key for info in plan.kept)


@given(listings, policies())
def test_a_worse_archive_harms_no_other(archives: list[ArchiveInfo], policy: KeepPolicy) -> None:
    kept = set(policy.plan(archives, now=NOW).kept)
    for index, info in enumerate(archives):
        worse = archives.copy()
        worse[index] = attrs.evolve(info, state=ArchiveState.INCOMPLETE)
        # Lengths of time count from the newest good archive: an older one keeps more, never less.
        assert kept - {info} <= set(policy.plan(worse, now=NOW).kept)


@given(listings, st.data(), st.sampled_from(RULES[1:]), st.sampled_from([1, 2, 5, -1]))
def test_a_calendar_rule_keeps_the_newest_good_archive_of_its_newest_periods(
    archives: list[ArchiveInfo], data: st.DataObject, rule: str, limit: int
) -> None:
    """The definition itself, without tallies: group by period, take the newest of the newest groups."""
    policy = data.draw(policies({rule: limit}))
    kept = policy.plan(archives, now=NOW).kept
    for series in ("a", "b"):
        groups: dict[str, list[ArchiveInfo]] = {}
        for info in archives:
            if good(info) and info.series == series:
                iso = info.taken_at.isocalendar()
                names = {
                    "hourly": info.taken_at.strftime("%Y%m%d%H"),
                    "daily": info.taken_at.strftime("%Y%m%d"),
                    "weekly": f"{iso.year}{iso.week:02d}",
                    "monthly": info.taken_at.strftime("%Y%m"),
                    "yearly": info.taken_at.strftime("%Y"),
                }
                groups.setdefault(names[rule], []).append(info)
        newest = sorted(groups, reverse=True)[: None if limit < 0 else limit]
        wanted = {max(groups[name], key=lambda info: info.age_key) for name in newest}
        assert wanted <= set(kept)
