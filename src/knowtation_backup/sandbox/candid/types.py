"""
Candid types as values, and when one type may be read as another.

Python values: ``null`` and ``reserved`` are `None`; numbers, text and booleans are themselves; a principal and a
service are raw bytes; ``vec nat8`` is `bytes`, any other vector a list; a record is a dict by field name (or by number
for unnamed fields); a variant is ``(name, value)``; a function reference is ``(principal, method)``. An option is
`None` or the value itself; only where that would be ambiguous (``opt opt t``, ``opt null``, ``opt reserved``) is a
present value wrapped in `Some`.

Source:
    Candid specification, "Core grammar" and "Subtyping"; internet-computer reference, C.1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import attrs

from ...errors import IntegrityError

__all__ = [
    "BLOB",
    "BOOL",
    "EMPTY",
    "FLOAT32",
    "FLOAT64",
    "INT",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "MAX_DEPTH",
    "MAX_PRINCIPAL_BYTES",
    "NAT",
    "NAT8",
    "NAT16",
    "NAT32",
    "NAT64",
    "NULL",
    "OPCODE_FUNC",
    "OPCODE_OPT",
    "OPCODE_RECORD",
    "OPCODE_SERVICE",
    "OPCODE_VARIANT",
    "OPCODE_VEC",
    "PRIMITIVES",
    "PRINCIPAL",
    "RESERVED",
    "SIGNED",
    "TEXT",
    "UNSIGNED",
    "CandidError",
    "CandidType",
    "Field",
    "Func",
    "Opt",
    "Primitive",
    "Record",
    "Service",
    "Some",
    "Variant",
    "Vec",
    "field_id",
    "is_ambiguous_inside_opt",
    "is_subtype",
]

MAX_DEPTH: Final = 100
"""Nesting of types and values beyond which Candid is refused; real interfaces stay below ten."""


MAX_PRINCIPAL_BYTES: Final = 29


class CandidError(IntegrityError, ValueError):
    """Bytes are not Candid of the expected type, or a Python value does not fit its Candid type."""

    default_kind = "candid"


@attrs.frozen(eq=False)
class Primitive:
    """A type without parameters; ``code`` is its negative opcode."""

    code: int
    name: str
    size_bytes: int | None = None
    """Width of a value on the wire where that is fixed."""
    bits: int = 0
    """Width of a sized number, else 0."""


NULL: Final = Primitive(-1, "null", 0)
BOOL: Final = Primitive(-2, "bool")
NAT: Final = Primitive(-3, "nat")
INT: Final = Primitive(-4, "int")
NAT8: Final = Primitive(-5, "nat8", 1, 8)
NAT16: Final = Primitive(-6, "nat16", 2, 16)
NAT32: Final = Primitive(-7, "nat32", 4, 32)
NAT64: Final = Primitive(-8, "nat64", 8, 64)
INT8: Final = Primitive(-9, "int8", 1, 8)
INT16: Final = Primitive(-10, "int16", 2, 16)
INT32: Final = Primitive(-11, "int32", 4, 32)
INT64: Final = Primitive(-12, "int64", 8, 64)
FLOAT32: Final = Primitive(-13, "float32", 4, 32)
FLOAT64: Final = Primitive(-14, "float64", 8, 64)
TEXT: Final = Primitive(-15, "text")
RESERVED: Final = Primitive(-16, "reserved", 0)
EMPTY: Final = Primitive(-17, "empty")
PRINCIPAL: Final = Primitive(-24, "principal")


PRIMITIVES: Final = {
    item.code: item
    for item in (
        NULL, BOOL, NAT, INT, NAT8, NAT16, NAT32, NAT64, INT8, INT16, INT32, INT64, FLOAT32, FLOAT64, TEXT, RESERVED,
        EMPTY, PRINCIPAL,
    )
}  # fmt: skip
"""By opcode."""
UNSIGNED: Final = (NAT8, NAT16, NAT32, NAT64)
SIGNED: Final = (INT8, INT16, INT32, INT64)

OPCODE_OPT: Final = -18
OPCODE_VEC: Final = -19
OPCODE_RECORD: Final = -20
OPCODE_VARIANT: Final = -21
OPCODE_FUNC: Final = -22
OPCODE_SERVICE: Final = -23


@attrs.define(eq=False)
class Opt:
    """``opt inner``."""

    inner: CandidType


@attrs.define(eq=False)
class Vec:
    """``vec inner``; of `NAT8` its Python value is `bytes`."""

    inner: CandidType


BLOB: Final = Vec(NAT8)


@attrs.frozen(eq=False)
class Field:
    """One field of a record or alternative of a variant; ``key`` is its name, or its number when it has none."""

    id: int
    key: str | int
    type: CandidType


@functools.lru_cache(maxsize=4096)
def field_id(key: str | int) -> int:
    """Return the number of a field: the hash of its name, or the number itself."""
    if isinstance(key, int):
        return key
    result = 0
    for byte in key.encode():
        result = (result * 223 + byte) & 0xFFFF_FFFF
    return result


def _fields(fields: tuple[Field, ...] | Mapping[Any, CandidType]) -> tuple[Field, ...]:
    if isinstance(fields, tuple):
        return fields
    return tuple(sorted((Field(field_id(key), key, type_) for key, type_ in fields.items()), key=lambda item: item.id))


@attrs.define(eq=False)
class Record:
    """``record``; built from a mapping of names or numbers to types, kept in the order of field numbers."""

    fields: tuple[Field, ...] = attrs.field(converter=_fields)


@attrs.define(eq=False)
class Variant:
    """``variant``; built like `Record`."""

    fields: tuple[Field, ...] = attrs.field(converter=_fields)


@attrs.define(eq=False)
class Func:
    """``func (arguments) -> (results) modes``; modes are 1 query, 2 oneway, 3 composite_query."""

    arguments: tuple[CandidType, ...] = ()
    results: tuple[CandidType, ...] = ()
    modes: tuple[int, ...] = ()


@attrs.define(eq=False)
class Service:
    """``service``; methods by name, sorted on the wire."""

    methods: dict[str, CandidType] = attrs.field(factory=dict)


CandidType: TypeAlias = Primitive | Opt | Vec | Record | Variant | Func | Service


@attrs.frozen
class Some:
    """A present option whose value could be mistaken for an absent one."""

    value: Any


def is_ambiguous_inside_opt(inner: CandidType) -> bool:
    """Tell whether a present value of ``opt inner`` must be wrapped in `Some`."""
    return isinstance(inner, Opt) or inner is NULL or inner is RESERVED


class _Subtyping:
    """One question about two type graphs; pairs in progress count as true, which is how recursive types compare."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bool] = {}

    def holds(self, sub: CandidType, sup: CandidType, depth: int = 0) -> bool:
        if sub is sup or sub is EMPTY or sup is RESERVED or isinstance(sup, Opt) or (sub is NAT and sup is INT):
            return True
        if isinstance(sub, Primitive) or isinstance(sup, Primitive) or type(sub) is not type(sup):
            # A service or function never equals a bare principal; primitives are singletons, so identity decided.
            return False
        if depth > MAX_DEPTH:
            raise CandidError(f"Candid types are nested deeper than {MAX_DEPTH}")
        pair = (id(sub), id(sup))
        if (known := self._known.get(pair)) is not None:
            return known
        self._known[pair] = True
        result = self._structural(sub, sup, depth + 1)
        self._known[pair] = result
        return result

    def _structural(self, sub: CandidType, sup: CandidType, depth: int) -> bool:
        if isinstance(sub, Vec) and isinstance(sup, Vec):
            return self.holds(sub.inner, sup.inner, depth)
        if isinstance(sub, Record) and isinstance(sup, Record):
            present = {field.id: field.type for field in sub.fields}
            return all(self._field_holds(present.get(field.id), field.type, depth) for field in sup.fields)
        if isinstance(sub, Variant) and isinstance(sup, Variant):
            known = {field.id: field.type for field in sup.fields}
            return all(field.id in known and self.holds(field.type, known[field.id], depth) for field in sub.fields)
        if isinstance(sub, Func) and isinstance(sup, Func):
            return (
                sorted(sub.modes) == sorted(sup.modes)
                and self._sequence_holds(sup.arguments, sub.arguments, depth)
                and self._sequence_holds(sub.results, sup.results, depth)
            )
        if isinstance(sub, Service) and isinstance(sup, Service):
            return all(
                name in sub.methods and self.holds(sub.methods[name], type_, depth)
                for name, type_ in sup.methods.items()
            )
        return False

    def _field_holds(self, present: CandidType | None, expected: CandidType, depth: int) -> bool:
        if present is None:
            return isinstance(expected, Opt) or expected is NULL or expected is RESERVED
        return self.holds(present, expected, depth)

    def _sequence_holds(self, sub: tuple[CandidType, ...], sup: tuple[CandidType, ...], depth: int) -> bool:
        return all(
            self._field_holds(sub[index] if index < len(sub) else None, type_, depth) for index, type_ in enumerate(sup)
        )


def is_subtype(sub: CandidType, sup: CandidType) -> bool:
    """
    Tell whether every value of *sub* can be read as *sup*.

    Every type can be read as an option (as `None` when the inner types do not fit).

    Raises:
        CandidError: The types are nested too deeply.
    """
    return _Subtyping().holds(sub, sup)
