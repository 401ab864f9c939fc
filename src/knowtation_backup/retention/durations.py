"""Lengths of time as people write them: ``90d``, ``12h``, ``4w``, ``1y``, or a plain number of days."""

from __future__ import annotations

import datetime as dt
import re

from ..errors import ConfigurationError

__all__ = ["parse_duration", "show_duration"]

_PART = re.compile(r"([0-9]{1,7})([hdwy])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}


def parse_duration(value: dt.timedelta | str) -> dt.timedelta:
    """
    Return the length of time that *value* says.

    Args:
        value: A `datetime.timedelta`, or numbers with units, the largest first or not: ``h`` hours, ``d`` days, ``w``
            weeks, ``y`` years of 365 days, for example ``90d`` or ``1w12h``. A number alone counts days.

    Raises:
        ConfigurationError: Not such a text, or a negative length. There is no ``m``: it could be minutes or months.
    """
    if isinstance(value, dt.timedelta):
        found = value
    elif isinstance(value, str):
        found = _parse(value.strip().lower())
    else:
        raise _refusal(value)
    if found < dt.timedelta(0):
        raise _refusal(value)
    return found


def _parse(text: str) -> dt.timedelta:
    if re.fullmatch(r"[0-9]{1,7}", text):
        text += "d"
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise _refusal(text)
    try:
        return dt.timedelta(hours=sum(int(number) * _HOURS[unit] for number, unit in parts))
    except OverflowError as error:
        raise _refusal(text) from error


def _refusal(value: object) -> ConfigurationError:
    hint = "write it like 90d, 12h, 4w, 1y or 1w12h; a number alone counts days"
    return ConfigurationError(f"{value!r:.80} is no length of time", kind="bad_duration", hint=hint)


def show_duration(value: dt.timedelta) -> str:
    """Return *value* for people, for example ``90 days`` or ``1 day 12 hours``."""
    hours, seconds = divmod(value.seconds, 3600)
    parts = [(value.days, "day"), (hours, "hour"), (seconds, "second")]
    shown = [f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in parts if count]
    return " ".join(shown) or "0 days"
