"""Policies refuse what could remove everything, and say what they keep."""

import datetime as dt
from typing import Any

import attrs
import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.marks import Standing
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.retention.durations import parse_duration, show_duration
from knowtation_backup.retention.policy import KeepPolicy

NOW = dt.datetime(2026, 4, 8, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_keep": 9},
        {"last": 0, "daily": 0},
        {"tags": ["pre-upgrade"], "min_keep": 0},
        {"older_than": "90d", "min_keep": 0},
        {"last": 7, "older_than": "90d", "min_keep": 0},
    ],
)
def test_a_policy_that_could_remove_everything_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KeepPolicy(**options)
    assert caught.value.kind == "keeps_nothing"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": -2}, "KeepPolicy.last is -2"),
        ({"daily": 1.5}, "KeepPolicy.daily is 1.5"),
        ({"weekly": True}, "KeepPolicy.weekly is True"),
        ({"yearly": "7"}, "KeepPolicy.yearly is '7'"),
        ({"within": "0d"}, "KeepPolicy.within is 0"),
        ({"older_than": dt.timedelta(0)}, "KeepPolicy.older_than is 0"),
        ({"last": 1, "min_keep": -1}, "KeepPolicy.min_keep is -1"),
        ({"last": 1, "min_keep": None}, "KeepPolicy.min_keep is None"),
        ({"last": 1, "tags": "pre-upgrade"}, "KeepPolicy.tags is the one text 'pre-upgrade'"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KeepPolicy(**options)
    assert caught.value.kind == "bad_option"
    assert message in caught.value.message
    assert caught.value.hint


def test_tags_must_be_tags() -> None:
    with pytest.raises(ConfigurationError) as caught:
        KeepPolicy(last=1, tags=["not a tag"])
    assert caught.value.kind == "bad_tag"


@pytest.mark.parametrize(
    ("text", "hours"),
    [("90d", 90 * 24), ("12h", 12), ("4w", 4 * 168), ("1y", 365 * 24), ("90", 90 * 24), (" 1W12H ", 180), ("0d", 0)],
)
def test_lengths_of_time_are_read(text: str, hours: int) -> None:
    assert parse_duration(text) == dt.timedelta(hours=hours)


@pytest.mark.parametrize(
    "value", ["", "d", "3m", "-1d", "1.5d", "90 days", "1d 2h", "9999999y", 90, None, dt.timedelta(days=-1)]
)
def test_other_texts_are_no_length_of_time(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_duration(value)
    assert caught.value.kind == "bad_duration"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (dt.timedelta(days=90), "90 days"),
        (dt.timedelta(days=1, hours=12), "1 day 12 hours"),
        (dt.timedelta(hours=1), "1 hour"),
        (dt.timedelta(seconds=90), "90 seconds"),
        (dt.timedelta(0), "0 days"),
    ],
)
def test_lengths_of_time_are_shown(value: dt.timedelta, text: str) -> None:
    assert show_duration(value) == text


def test_none_and_minus_one_mean_all() -> None:
    assert KeepPolicy(daily=None) == KeepPolicy(daily=-1)


def test_a_policy_can_be_read() -> None:
    assert str(KeepPolicy.quri()) == (
        "daily 30, weekly within 90 days, monthly within 365 days, tag pre-upgrade; floor of 3 verified"
    )
    policy = KeepPolicy(last=3, yearly=None, within="36h", older_than="10y", min_keep=1)
    assert str(policy) == (
        "last 3, all yearly, within 1 day 12 hours of the newest, none older than 3650 days; floor of 1 verified"
    )


def archive(moment: dt.datetime, **facts: Any) -> ArchiveInfo:
    key = f"{moment:%Y%m%dT%H%M%S%z}"
    return ArchiveInfo(
        archive_id=key,
        **{"state": ArchiveState.COMPLETE, "series": "s", "size_bytes": 1, "keys": (key,), "taken_at": moment, **facts},
    )


def test_archives_from_the_future_stop_everything() -> None:
    policy = KeepPolicy(daily=7)
    policy.plan([archive(NOW + dt.timedelta(hours=23))], now=NOW)
    ahead = archive(NOW + dt.timedelta(hours=25))
    with pytest.raises(ConfigurationError, match="is dated 2026-04-09 13:00Z, now is 2026-04-08 12:00Z") as caught:
        policy.plan([ahead, archive(NOW)], now=NOW)
    assert caught.value.kind == "archive_from_the_future"
    trashed = attrs.evolve(ahead, standing=Standing(trashed_at=NOW))
    assert policy.plan([trashed, archive(NOW)], now=NOW).kept == (archive(NOW),), "putting it into the trash helps"


def test_periods_are_those_of_utc_whatever_the_zone_of_a_moment() -> None:
    # In +05:30 both are of 9 April, and in UTC of two days.
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    early = archive(dt.datetime(2026, 4, 9, 0, 30, tzinfo=zone))
    late = archive(dt.datetime(2026, 4, 9, 6, 0, tzinfo=zone))
    plan = KeepPolicy(daily=2, min_keep=0).plan([early, late], now=NOW + dt.timedelta(days=1))
    assert plan.forgotten == ()
    assert [decision.rules for decision in plan.decisions] == [("daily",), ("daily",)]
