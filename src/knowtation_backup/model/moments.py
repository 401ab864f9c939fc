"""Moments as text: aware UTC datetimes in, the two spellings of the Knowtation tools out."""

from __future__ import annotations

import datetime as dt
import re

from ..errors import ConfigurationError

__all__ = ["iso_ms", "parse_iso", "parse_stamp", "stamp", "utc_of"]

_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")


def utc_of(moment: dt.datetime) -> dt.datetime:
    """Return *moment* in UTC; raises `ConfigurationError` when it has no time zone, or is no `datetime.datetime`."""
    given: object = moment
    if not isinstance(given, dt.datetime) or given.tzinfo is None:
        message = f"{given!s:.80} has no time zone; pass an aware datetime such as datetime.now(UTC)"
        raise ConfigurationError(message, kind="naive_datetime")
    return moment.astimezone(dt.UTC)


def stamp(moment: dt.datetime) -> str:
    """Return *moment* as ``YYYYMMDDTHHMMSSZ`` for file names (contracts 2.2)."""
    return utc_of(moment).strftime("%Y%m%dT%H%M%SZ")


def parse_stamp(text: str) -> dt.datetime:
    """Return the UTC moment of a ``YYYYMMDDTHHMMSSZ`` stamp; raises `ConfigurationError` for anything else."""
    try:
        if _STAMP.fullmatch(text):
            return dt.datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        pass
    message = f"{text!r} is not a stamp of the form YYYYMMDDTHHMMSSZ"
    raise ConfigurationError(message, kind="bad_stamp")


def iso_ms(moment: dt.datetime) -> str:
    """Return *moment* as ISO with exactly three fractional digits and ``Z``, as JavaScript's ``toISOString`` does."""
    utc = utc_of(moment)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def parse_iso(text: str) -> dt.datetime:
    """Return the aware UTC moment of an ISO text with zone; raises `ConfigurationError` for anything else."""
    try:
        return utc_of(dt.datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:  # the zone may lead out of the calendar
        message = f"{text!r} is not an ISO date and time with zone"
        raise ConfigurationError(message, kind="bad_moment") from error
