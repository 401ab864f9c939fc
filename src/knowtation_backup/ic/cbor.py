"""
The little CBOR that the Internet Computer's interface needs, read without copying and bounded in depth and number.

Read: definite lengths, integers that are not negative, byte strings (as views into the input), texts, arrays, maps
with text keys, booleans and null; tag 55799 in front is skipped. Anything else, keys that come twice and bytes behind
the end are refused. A general library copies byte strings, which here are megabytes long, and has no bounds.

Source:
    RFC 8949.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["SELF_DESCRIBED", "Buffer", "CborError", "CborReader", "append", "decode", "encode", "head", "listed"]

Buffer = bytes | bytearray | memoryview

SELF_DESCRIBED: Final = b"\xd9\xd9\xf7"
"""Tag 55799: what follows is CBOR."""

_DEEPEST: Final = 16
_MOST_ITEMS: Final = 65_536
_SIMPLE: Final = {0xF4: False, 0xF5: True, 0xF6: None}


class CborError(ValueError):
    """The bytes are not of the expected form. Does not leave this package: callers name what they were reading."""


class CborReader:
    """
    Reads values one after the other.

    Args:
        data: What to read; byte strings are returned as views into it.
        deepest: How many arrays and maps may lie inside one another.
        most_items: How many values are read at most.
    """

    __slots__ = ("_deepest", "_items_left", "position", "view")

    def __init__(self, data: Buffer, *, deepest: int = _DEEPEST, most_items: int = _MOST_ITEMS) -> None:
        self.view: memoryview = memoryview(data).cast("B")
        self.position: int = 3 if bytes(self.view[:3]) == SELF_DESCRIBED else 0
        self._deepest = deepest
        self._items_left = most_items

    def head(self) -> tuple[int, int]:
        """Read the start of a value: its major type and its number."""
        position = self.position
        try:
            first = self.view[position]
        except IndexError:
            raise CborError("it ends too early") from None
        low = first & 0x1F
        self.position = position + 1
        if low < 24:
            return first >> 5, low
        if low > 27:
            raise CborError("it holds a value of indefinite or reserved length")
        return first >> 5, int.from_bytes(self.take(1 << (low - 24)), "big")

    def take(self, length: int) -> memoryview:
        """Read *length* raw bytes."""
        end = self.position + length
        if end > len(self.view):
            raise CborError("it ends too early")
        part = self.view[self.position : end]
        self.position = end
        return part

    def byte_string(self) -> memoryview:
        """Read a byte string."""
        kind, length = self.head()
        if kind != 2:
            raise CborError("a byte string is missing")
        return self.take(length)

    def text(self) -> str:
        """Read a text."""
        kind, length = self.head()
        if kind != 3:
            raise CborError("a text is missing")
        return self._decoded(length)

    def map_size(self, most: int) -> int:
        """Read the start of a map of *most* fields at most."""
        kind, size = self.head()
        if kind != 5 or size > most:
            raise CborError("a map is missing or has too many fields")
        return size

    def item(self, depth: int = 0) -> Any:
        """Read any one value."""
        self._items_left -= 1
        if depth > self._deepest or self._items_left < 0:
            raise CborError("it is nested too deep or has too many parts")
        if self.position < len(self.view) and self.view[self.position] in _SIMPLE:
            self.position += 1
            return _SIMPLE[self.view[self.position - 1]]
        kind, number = self.head()
        match kind:
            case 0:
                return number
            case 2:
                return self.take(number)
            case 3:
                return self._decoded(number)
            case 4:
                return [self.item(depth + 1) for _ in range(self._counted(number))]
            case 5:
                return self._map(number, depth)
        raise CborError("it holds a value of an unexpected kind")

    def end(self) -> None:
        """Refuse bytes behind the last value."""
        if self.position != len(self.view):
            raise CborError("bytes follow its end")

    def _map(self, size: int, depth: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for _ in range(self._counted(size)):
            name = self.text()
            if name in fields:
                raise CborError("a name comes twice in a map")
            fields[name] = self.item(depth + 1)
        return fields

    def _counted(self, number: int) -> int:
        # A value takes a byte at least, so that a short input cannot ask for a long list.
        if number > len(self.view) - self.position:
            raise CborError("it ends too early")
        return number

    def _decoded(self, length: int) -> str:
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            raise CborError("a text in it is not UTF-8") from None


def decode(data: Buffer, *, deepest: int = _DEEPEST, most_items: int = _MOST_ITEMS) -> Any:
    """Return the one value that *data* holds; raises `CborError`."""
    reader = CborReader(data, deepest=deepest, most_items=most_items)
    value = reader.item()
    reader.end()
    return value


def listed(value: object) -> list[Any]:
    """Return *value* if it is an array; raises `CborError`."""
    if isinstance(value, list):
        return value
    raise CborError("an array is missing")


def head(kind: int, number: int) -> bytes:
    """Return the shortest start of a value of major type *kind*."""
    kind <<= 5
    if number < 0:
        raise CborError("a number is negative")
    if number < 24:
        return bytes((kind | number,))
    for low, length in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number >> (8 * length) == 0:
            return bytes((kind | low,)) + number.to_bytes(length, "big")
    raise CborError("a number is too large")


def append(value: object, parts: list[Buffer]) -> None:
    """Append the CBOR form of *value* to *parts*; byte strings are appended as they are, without a copy."""
    match value:
        case bool():
            parts.append(b"\xf5" if value else b"\xf4")
        case None:
            parts.append(b"\xf6")
        case int():
            parts.append(head(0, value))
        case bytes() | bytearray() | memoryview():
            parts += (head(2, memoryview(value).nbytes), value)
        case str():
            encoded = value.encode()
            parts += (head(3, len(encoded)), encoded)
        case Mapping():
            parts.append(head(5, len(value)))
            for name, field in value.items():
                append(name, parts)
                append(field, parts)
        case list() | tuple():
            parts.append(head(4, len(value)))
            for item in value:
                append(item, parts)
        case _:
            raise TypeError(f"a {type(value).__name__} has no form in CBOR here")


def encode(value: object) -> bytes:
    """Return the CBOR form of *value*, without a tag."""
    parts: list[Buffer] = []
    append(value, parts)
    return b"".join(parts)
