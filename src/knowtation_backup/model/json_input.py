"""Reading JSON that somebody else wrote: nesting that would exhaust the C stack, fields of the wrong type."""

from __future__ import annotations

import re
import sys
from typing import Any, TypeVar

__all__ = ["MAX_DEPTH", "MAX_VALUES", "check_nesting", "check_values", "typed"]

T = TypeVar("T")

MAX_DEPTH = 200
"""How deep arrays and objects may nest; far above anything stored, far below the interpreter's limit."""

MAX_VALUES = 20_000_000
"""How many values one text that is decoded whole may hold; each takes about 100 bytes, however short it is written."""

_SAFE_RECURSION_LIMIT = 10_000
"""A C stack holds this many levels of a decoder in any thread; programs may raise the interpreter's limit beyond."""

_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def check_nesting(data: bytes, max_depth: int = MAX_DEPTH) -> None:
    """
    Refuse a text whose nesting could crash the process while it is decoded.

    Decoders stop at the interpreter's recursion limit by themselves. Only where the program has raised that limit
    beyond what a stack holds (some packages do when imported) the text is scanned first.

    Raises:
        ValueError: Nested deeper than *max_depth*.
    """
    if sys.getrecursionlimit() <= _SAFE_RECURSION_LIMIT:
        return
    depth = 0
    for token in _STRUCTURE.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            if depth > max_depth:
                message = f"the JSON text is nested deeper than {max_depth} levels"
                raise ValueError(message)
        elif first in b"]}":
            depth -= 1


def check_values(data: bytes) -> None:
    """
    Refuse a text that would need many times its own size once it is decoded.

    Counts what begins or separates values, also inside strings, so that it costs next to nothing.

    Raises:
        ValueError: It may hold more than `MAX_VALUES`.
    """
    if len(data) > MAX_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        message = f"the JSON text holds more than {MAX_VALUES} values"
        raise ValueError(message)


def typed(value: Any, expected: type[T]) -> T:
    """Return *value* if it is exactly of the type *expected* (a bool is no int); raises `TypeError` otherwise."""
    if type(value) is not expected:
        message = f"expected {expected.__name__}, found {type(value).__name__}"
        raise TypeError(message)
    return value
