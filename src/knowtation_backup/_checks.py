"""
Validators of option values: what they refuse is a `ConfigurationError` that names field, value and bound.

Those of attrs raise a bare `ValueError`, which must not leave the library. The sandbox may use these too: they know
nothing of hubs, archives or the Internet Computer.
"""

from __future__ import annotations

import enum
import numbers
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from .errors import ConfigurationError

__all__ = ["above", "at_least", "between", "checked_member", "member_of", "one_of", "optional", "whole_number"]

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

_Member = TypeVar("_Member", bound=enum.Enum)

_SHOWN_CHARACTERS = 80


def at_least(low: float) -> Validator:
    """Accept numbers from *low* on."""
    return _number(lambda value: value >= low, f"a number of at least {low:,}")


def above(low: float) -> Validator:
    """Accept numbers greater than *low*."""
    return _number(lambda value: value > low, f"a number above {low:,}")


def between(low: float, high: float, *, below: bool = False) -> Validator:
    """Accept numbers from *low* to *high*, which itself is excluded when *below* is true."""
    if below:
        return _number(lambda value: low <= value < high, f"a number from {low:,} to below {high:,}")
    return _number(lambda value: low <= value <= high, f"a number from {low:,} to {high:,}")


def one_of(*choices: str) -> Validator:
    """Accept one of a few words."""
    wanted = "one of " + ", ".join(map(repr, choices))

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise _refusal(instance, attribute, value, wanted)

    return check


def member_of(kind: type[enum.Enum]) -> Validator:
    """Accept a member of an enumeration, and not its value: code that compares by identity would take it for none."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        checked_member(kind, value, f"{type(instance).__name__}.{attribute.name}")

    return check


def checked_member(kind: type[_Member], value: object, what: str) -> _Member:
    """Return *value* if it is a member of *kind*; *what* names it in the error."""
    if isinstance(value, kind):
        return value
    hint = "it must be one of " + ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
    raise ConfigurationError(f"{what} is {_shown(value)}", kind="bad_option", hint=hint, option=what)


def whole_number(low: int) -> Validator:
    """Accept whole numbers from *low* on."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise _refusal(instance, attribute, value, f"a whole number of at least {low:,}")

    return check


def optional(check: Validator) -> Validator:
    """Accept `None` beside what *check* accepts."""

    def check_or_none(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            check(instance, attribute, value)

    return check_or_none


def _number(accepts: Callable[[Any], bool], wanted: str) -> Validator:
    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        # True would pass for 1, and text would end in a TypeError far from its cause.
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not accepts(value):
            raise _refusal(instance, attribute, value, wanted)

    return check


def _refusal(instance: Any, attribute: attrs.Attribute[Any], value: Any, wanted: str) -> ConfigurationError:
    option = f"{type(instance).__name__}.{attribute.name}"
    message = f"{option} is {_shown(value)}"
    return ConfigurationError(message, kind="bad_option", hint=f"it must be {wanted}", option=option)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "…"
