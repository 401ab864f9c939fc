"""What all tests share."""

from __future__ import annotations

_LONGEST = 40


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name cases of long or binary values by their parameter: they may hold keys or times, and differ by process."""
    text = val.decode("latin-1") if isinstance(val, bytes) else val
    if isinstance(text, str) and (len(text) > _LONGEST or (isinstance(val, bytes) and not text.isprintable())):
        return argname
    return None
