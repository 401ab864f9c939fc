"""Moments as text: aware UTC datetimes in, the two spellings of the Knowtation tools out."""

from __future__ import annotations

import datetime as dt
import re

from ..errors import ConfigurationError

__all__ = ["iso_ms", "parse_iso", "parse_stamp", "stamp", "utc_of"]

_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")


def utc_of(moment: dt.datetime) -> dt.datetime:
    """
    Return *moment* in UTC.

    Raises:
        ConfigurationError: It has no time zone or is no `datetime.datetime`, kind ``naive_datetime``; or its zone leads
            out of the calendar, ``bad_moment``.
    """
    given: object = moment
    if not isinstance(given, dt.datetime) or given.tzinfo is None:
        message = f"{given!s:.80} has no time zone; pass an aware datetime such as datetime.now(UTC)"
        raise ConfigurationError(message, kind="naive_datetime")
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:
        message = f"{given!s:.80} is outside the calendar in UTC"
        raise ConfigurationError(message, kind="bad_moment") from error


def stamp(moment: dt.datetime) -> str:
    """Return *moment* as ``YYYYMMDDTHHMMSSZ`` for file names (contracts 2.2)."""
    utc = utc_of(moment)
    return f"{utc.year:04}{utc:%m%dT%H%M%SZ}"  # %Y does not pad years below 1000 everywhere


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
    return f"{utc_of(moment).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def parse_iso(text: str) -> dt.datetime:
    """Return the aware UTC moment of an ISO text with zone; raises `ConfigurationError` for anything else."""
    try:
        return utc_of(dt.datetime.fromisoformat(text))
    except (ValueError, OverflowError) as error:  # the zone may lead out of the calendar
        message = f"{text!r} is not an ISO date and time with zone"
        raise ConfigurationError(message, kind="bad_moment") from error
