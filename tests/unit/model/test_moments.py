"""Moments as text: contracts 2.2 and the vector of section 8."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.moments import iso_ms, parse_iso, parse_stamp, stamp

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, 123_456, tzinfo=dt.UTC)


def test_vectors() -> None:
    assert stamp(MOMENT) == "20260408T153022Z"
    assert iso_ms(MOMENT) == "2026-04-08T15:30:22.123Z"


def test_other_zones_are_converted() -> None:
    tokyo = MOMENT.astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert stamp(tokyo) == "20260408T153022Z"
    assert iso_ms(tokyo) == "2026-04-08T15:30:22.123Z"


@given(st.datetimes(min_value=dt.datetime(1, 1, 1), max_value=dt.datetime(9999, 12, 31)))  # noqa: DTZ001 - given a zone below
def test_round_trips(moment: dt.datetime) -> None:
    aware = moment.replace(tzinfo=dt.UTC)
    assert parse_stamp(stamp(aware)) == aware.replace(microsecond=0)
    assert parse_iso(iso_ms(aware)) == aware.replace(microsecond=aware.microsecond // 1000 * 1000)


def test_years_have_four_digits_and_moments_stay_in_the_calendar() -> None:
    first = dt.datetime(1, 1, 1, 2, tzinfo=dt.UTC)
    assert (stamp(first), iso_ms(first)) == ("00010101T020000Z", "0001-01-01T02:00:00.000Z")
    with pytest.raises(ConfigurationError) as caught:
        stamp(first.replace(tzinfo=dt.timezone(dt.timedelta(hours=9))))
    assert caught.value.kind == "bad_moment"


def test_naive_moments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="time zone"):
        stamp(MOMENT.replace(tzinfo=None))


@pytest.mark.parametrize("text", ["", "20260408T153022", "20261308T153022Z", "20260408T153022Z ", "٢0260408T153022Z"])
def test_bad_stamps(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_stamp(text)


@pytest.mark.parametrize("text", ["", "now", "2026-04-08T15:30:22"])
def test_bad_iso(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_iso(text)
