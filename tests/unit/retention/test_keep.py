"""Keep-last: one rule, a reason for everything, and never the last complete archive."""

import datetime as dt
import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.retention.keep import KeepLast

NOW = dt.datetime(2026, 4, 8, 12, tzinfo=dt.UTC)
STATES = {"C": ArchiveState.COMPLETE, "I": ArchiveState.INCOMPLETE, "D": ArchiveState.DAMAGED}
STATES["U"] = ArchiveState.UNFINISHED


def archive(days: float, state: str = "C", series: str = "s", *, managed: bool = True, number: int = 0) -> ArchiveInfo:
    archive_id = f"{series}-{days}-{number}"
    return ArchiveInfo(
        archive_id=archive_id,
        state=STATES[state],
        series=series,
        taken_at=NOW - dt.timedelta(days=days),
        size_bytes=1,
        keys=(archive_id,),
        managed=managed,
        number=number,
    )


def row(letters: str, series: str = "s") -> list[ArchiveInfo]:
    """Archives from new to old, one every two days, named by the letter of their state."""
    return [archive(2 * age + 2, letter, series) for age, letter in enumerate(letters)]


def decide(archives: list[ArchiveInfo], limit: int) -> str:
    """Return the decisions from new to old: ``k`` for keep, ``f`` for forget."""
    plan = KeepLast(limit=limit).plan(archives, now=NOW)
    return "".join("k" if decision.keep else "f" for decision in plan.decisions)


@pytest.mark.parametrize(
    ("letters", "limit", "decisions"),
    [
        ("", 7, ""),
        ("CCC", 7, "kkk"),
        ("CCC", 1, "kff"),
        ("CCCCC", 3, "kkkff"),
        ("CCCCC", 0, "kkkkk"),
        ("UIDC", 0, "kkkk"),
        ("ICC", 1, "kkf"),  # an incomplete archive displaces no complete one
        ("IIIIC", 1, "kkkkk"),
        ("CIC", 2, "kkk"),
        ("CCI", 2, "kkf"),
        ("DCIDC", 1, "kkfff"),
        ("III", 1, "kkk"),  # without a complete archive everything stays
        ("DDD", 1, "kkk"),
        ("UUU", 1, "kkk"),
        ("UCU", 7, "kkf"),
        ("CUIU", 7, "kfkf"),
    ],
)
def test_what_is_kept(letters: str, limit: int, decisions: str) -> None:
    assert decide(row(letters), limit) == decisions


def test_series_do_not_count_for_each_other() -> None:
    plan = KeepLast(limit=1).plan([*row("CC", "a"), *row("CC", "b"), *row("I", "c")], now=NOW)
    assert sorted(info.archive_id for info in plan.kept) == ["a-2-0", "b-2-0", "c-2-0"]


def test_an_unfinished_archive_may_still_be_written_for_a_day() -> None:
    archives = [archive(0.1, "C"), archive(0.9, "U"), archive(1.1, "U")]
    plan = KeepLast().plan(archives, now=NOW)
    assert [info.archive_id for info in plan.forgotten] == ["s-1.1-0"]


def test_files_of_other_tools_neither_go_nor_count() -> None:
    archives = [archive(1, managed=False), archive(2), archive(3), archive(4, "U", managed=False)]
    plan = KeepLast(limit=1).plan(archives, now=NOW)
    assert [info.archive_id for info in plan.forgotten] == ["s-3-0"]


def test_of_one_second_the_higher_number_is_newer() -> None:
    archives = [archive(1, number=number) for number in (0, 2, 10, 1)]
    plan = KeepLast(limit=2).plan(archives, now=NOW)
    assert [info.number for info in plan.kept] == [10, 2]
    assert [decision.archive.number for decision in plan.decisions] == [10, 2, 1, 0]


def test_every_decision_has_its_reason() -> None:
    archives = [archive(1), *row("UICDCU")[1:], archive(30, managed=False)]
    plan = KeepLast(limit=1).plan(archives, now=NOW)
    reasons = [decision.reason for decision in plan.decisions]
    assert reasons == [
        "complete: number 1 of the 1 kept",
        "incomplete, never counted: 1 newer complete archives exist, 1 are kept",
        "complete: 1 newer complete archives exist, 1 are kept",
        "damaged, never counted: 2 newer complete archives exist, 1 are kept",
        "complete: 2 newer complete archives exist, 1 are kept",
        "unfinished, and a newer complete archive exists",
        "of another tool: never removed",
    ]
    assert plan.made_at == NOW
    for reason in reasons:
        assert reason in str(plan)


def test_archives_from_the_future_stop_everything() -> None:
    assert decide([archive(-0.99), archive(1)], 1) == "kf"
    assert decide([archive(-1), archive(1)], 1) == "kf"
    with pytest.raises(ConfigurationError, match="is dated 2026-04-09 12:14Z, now is 2026-04-08 12:00Z") as caught:
        decide([archive(-1.01), archive(1)], 1)
    assert caught.value.kind == "archive_from_the_future"
    assert decide([archive(-300, managed=False), archive(1)], 1) == "kk"


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        KeepLast(limit=-1)


archives_strategy = st.lists(
    st.builds(
        archive,
        st.integers(0, 60).map(lambda days: days / 2),
        st.sampled_from("CIDU"),
        st.sampled_from(["a", "b"]),
        number=st.integers(0, 3),
        managed=st.booleans(),
    ),
    max_size=25,
    unique_by=lambda info: info.archive_id,
)


@given(archives_strategy, st.integers(0, 5), st.randoms(use_true_random=False))
def test_laws(archives: list[ArchiveInfo], limit: int, shuffle: random.Random) -> None:
    policy = KeepLast(limit=limit)
    plan = policy.plan(archives, now=NOW)
    shuffled = archives.copy()
    shuffle.shuffle(shuffled)
    assert policy.plan(shuffled, now=NOW) == plan, "the order of the listing does not matter"
    assert sorted(plan.kept + plan.forgotten, key=id) == sorted(archives, key=id), "every archive is decided on once"
    assert all(info.managed for info in plan.forgotten)
    for series in {info.series for info in archives}:
        complete = [info for info in archives if info.series == series and info.managed]
        complete = sorted((i for i in complete if i.state is ArchiveState.COMPLETE), key=lambda i: i.age_key)
        assert set(complete[-limit:] if limit else complete) <= set(plan.kept), "the newest complete ones stay"
        for info in plan.forgotten:
            if info.series == series:
                assert any(other.age_key > info.age_key for other in complete), "something newer and complete remains"
    again = policy.plan(plan.kept, now=NOW)
    assert not again.forgotten, "applying a plan leaves nothing to forget"


def test_a_worse_state_never_harms_the_others() -> None:
    archives = row("CCCC")
    for index, info in enumerate(archives):
        worse = archives.copy()
        worse[index] = attrs.evolve(info, state=ArchiveState.INCOMPLETE)
        kept = set(KeepLast(limit=2).plan(archives, now=NOW).kept) - {info}
        assert kept <= set(KeepLast(limit=2).plan(worse, now=NOW).kept)
