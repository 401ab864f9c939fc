"""
Writing Candid: the few types that arguments of the methods called here have.

The bytes are determined by type and value alone. The table of types is written in the order in which a walk from the
outermost type meets them, equal types once: what the Rust libraries behind ``icp`` and ``dfx`` write as well.

Source:
    Candid specification, "Binary format"; internet-computer reference, C.1 and J.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

from .candid_values import label
from .wire import Buffer, leb128, leb128_signed

__all__ = ["BLOB", "BOOL", "NAT", "NAT64", "NULL", "PRINCIPAL", "TEXT", "Opt", "Record", "Type", "Variant", "Vec"]
__all__ += ["FLOAT32", "FLOAT64", "INT32", "INT64", "Argument", "encode", "encode_arguments", "encode_parts"]


@attrs.frozen
class Primitive:
    """A type without parts."""

    opcode: int


@attrs.frozen
class Opt:
    """A value or `None`."""

    inner: Type


@attrs.frozen
class Vec:
    """Any number of values."""

    inner: Type


_Fields: TypeAlias = "tuple[tuple[int, str | int, Type], ...]"


def _sorted_by_number(fields: Mapping[Any, Type]) -> _Fields:
    return tuple(sorted((label(name), name, kind) for name, kind in fields.items()))


@attrs.frozen(cache_hash=True)
class Record:
    """Values by name, or by number as in tuples, given as a mapping."""

    fields: _Fields = attrs.field(converter=_sorted_by_number)


@attrs.frozen(cache_hash=True)
class Variant:
    """One case, given as its name and value."""

    cases: _Fields = attrs.field(converter=_sorted_by_number)


Type: TypeAlias = Primitive | Opt | Vec | Record | Variant
Argument: TypeAlias = tuple[Type, Any]

NULL: Final = Primitive(-1)
BOOL: Final = Primitive(-2)
NAT: Final = Primitive(-3)
INT32: Final = Primitive(-11)
INT64: Final = Primitive(-12)
NAT8: Final = Primitive(-5)
NAT64: Final = Primitive(-8)
FLOAT32: Final = Primitive(-13)
FLOAT64: Final = Primitive(-14)
TEXT: Final = Primitive(-15)
PRINCIPAL: Final = Primitive(-24)
BLOB: Final = Vec(NAT8)

_FIXED_BYTES: Final = {INT32.opcode: 4, INT64.opcode: 8, NAT64.opcode: 8, FLOAT32.opcode: 4, FLOAT64.opcode: 8}
"""Of numbers of fixed size, given as their bits without a sign."""


def encode(kind: Type, value: Any) -> bytes:
    """Return the message with one argument. Numbers of fixed size are given as their bits, without a sign."""
    return b"".join(encode_parts(kind, value))


def encode_arguments(*arguments: Argument) -> bytes:
    """Return the message with any number of arguments, each a type and a value."""
    return b"".join(_parts(arguments))


def encode_parts(kind: Type, value: Any) -> list[Buffer]:
    """Return the message in parts, the blobs as they were given: nothing of them is copied."""
    return _parts([(kind, value)])


def _parts(arguments: Sequence[Argument]) -> list[Buffer]:
    parts: list[Buffer] = [_types(tuple(kind for kind, _ in arguments))]
    for kind, value in arguments:
        _append(kind, value, parts)
    return parts


@functools.lru_cache(maxsize=64)  # a program asks the same few questions many times
def _types(kinds: tuple[Type, ...]) -> bytes:
    table: list[bytes] = []
    known: dict[Type, bytes] = {}
    references = b"".join(_reference(kind, table, known) for kind in kinds)
    return b"DIDL" + leb128(len(table)) + b"".join(table) + leb128(len(kinds)) + references


def _reference(kind: Type, table: list[bytes], known: dict[Type, bytes]) -> bytes:
    if isinstance(kind, Primitive):
        return leb128_signed(kind.opcode)
    if kind in known:
        return known[kind]
    position = len(table)
    known[kind] = reference = leb128_signed(position)
    table.append(b"")  # its place, before those of its parts
    match kind:
        case Opt(inner) | Vec(inner):
            entry = leb128_signed(-18 if isinstance(kind, Opt) else -19) + _reference(inner, table, known)
        case Record(fields) | Variant(fields):
            entry = leb128_signed(-20 if isinstance(kind, Record) else -21) + leb128(len(fields))
            for number, _, part in fields:
                entry += leb128(number) + _reference(part, table, known)
    table[position] = entry
    return reference


def _append(kind: Type, value: Any, parts: list[Buffer]) -> None:
    match kind:
        case Primitive(opcode):
            parts.append(_primitive(opcode, value))
        case Opt(inner):
            parts.append(b"\x00" if value is None else b"\x01")
            if value is not None:
                _append(inner, value, parts)
        case Vec(inner):
            parts.append(leb128(len(value)))
            if inner == NAT8:
                parts.append(value)
            else:
                for element in value:
                    _append(inner, element, parts)
        case Record(fields):
            for _, name, part in fields:
                _append(part, value[name], parts)
        case Variant(cases):
            chosen, content = value
            index = next(index for index, (_, name, _) in enumerate(cases) if name == chosen)
            parts.append(leb128(index))
            _append(cases[index][2], content, parts)


def _primitive(opcode: int, value: Any) -> bytes:
    if opcode in _FIXED_BYTES:
        return int(value).to_bytes(_FIXED_BYTES[opcode], "little")
    if opcode == NULL.opcode:
        return b""
    if opcode == NAT.opcode:
        return leb128(value)
    if opcode == TEXT.opcode:
        text = value.encode()
        return leb128(len(text)) + bytes(text)
    if opcode == PRINCIPAL.opcode:
        return b"\x01" + leb128(len(value.raw)) + bytes(value.raw)
    return b"\x01" if value else b"\x00"
