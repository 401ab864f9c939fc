"""Python values to Candid bytes: a type table, then the values, collected as parts and joined once."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from .floats import float32_bytes
from .types import (
    BOOL,
    EMPTY,
    FLOAT32,
    FLOAT64,
    INT,
    MAX_DEPTH,
    MAX_PRINCIPAL_BYTES,
    NAT,
    NAT8,
    NULL,
    OPCODE_FUNC,
    OPCODE_OPT,
    OPCODE_RECORD,
    OPCODE_SERVICE,
    OPCODE_VARIANT,
    OPCODE_VEC,
    PRINCIPAL,
    RESERVED,
    SIGNED,
    TEXT,
    UNSIGNED,
    CandidError,
    CandidType,
    Func,
    Opt,
    Primitive,
    Record,
    Service,
    Variant,
    Vec,
    is_ambiguous_inside_opt,
)

__all__ = ["write_message"]

_Parts = list["bytes | bytearray | memoryview"]
_MISFITS: Final = (TypeError, ValueError, AttributeError, LookupError, OverflowError, struct.error)


def write_message(types: Sequence[CandidType], values: Sequence[Any]) -> bytes:
    """
    Return a whole message; see `candid.encode`.

    Raises:
        CandidError: A value does not fit its type.
    """
    if len(types) != len(values):
        raise CandidError(f"{len(values)} values for {len(types)} Candid types")
    parts: _Parts = [_header(tuple(types))]
    for type_, value in zip(types, values, strict=True):
        _write(parts, type_, value, 0)
    return b"".join(parts)


# Types are compared by identity; they do not change once messages of them are written.
@functools.lru_cache(maxsize=256)
def _header(types: tuple[CandidType, ...]) -> bytes:
    table = _TypeTable()
    references = [table.reference(type_) for type_ in types]
    return b"".join((b"DIDL", _unsigned(len(table.entries)), *table.entries, _unsigned(len(types)), *references))


def _unsigned(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _signed(value: int) -> bytes:
    result = bytearray()
    while not -0x40 <= value < 0x40:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value & 0x7F)
    return bytes(result)


class _TypeTable:
    """Collects the composite types of a message; a recursive type refers to its own entry."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self._index: dict[int, int] = {}

    def reference(self, type_: CandidType) -> bytes:
        if isinstance(type_, Primitive):
            return _signed(type_.code)
        if (index := self._index.get(id(type_))) is None:
            index = self._index[id(type_)] = len(self.entries)
            self.entries.append(b"")
            self.entries[index] = self._entry(type_)
        return _signed(index)

    def _entry(self, type_: Opt | Vec | Record | Variant | Func | Service) -> bytes:
        if isinstance(type_, Opt):
            return _signed(OPCODE_OPT) + self.reference(type_.inner)
        if isinstance(type_, Vec):
            return _signed(OPCODE_VEC) + self.reference(type_.inner)
        if isinstance(type_, Func):
            parts = [_signed(OPCODE_FUNC)]
            for sequence in (type_.arguments, type_.results):
                parts += (_unsigned(len(sequence)), *(self.reference(item) for item in sequence))
            return b"".join((*parts, _unsigned(len(type_.modes)), bytes(type_.modes)))
        if isinstance(type_, Service):
            parts = [_signed(OPCODE_SERVICE), _unsigned(len(type_.methods))]
            for name in sorted(type_.methods, key=str.encode):
                parts += (*_text(name), self.reference(type_.methods[name]))
            return b"".join(parts)
        parts = [_signed(OPCODE_RECORD if isinstance(type_, Record) else OPCODE_VARIANT), _unsigned(len(type_.fields))]
        for field in type_.fields:
            parts += (_unsigned(field.id), self.reference(field.type))
        return b"".join(parts)


def _write(parts: _Parts, type_: CandidType, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CandidError(f"value is nested deeper than {MAX_DEPTH}")
    try:
        if isinstance(type_, Primitive):
            parts += _PRIMITIVE_WRITERS[type_](value)
        else:
            _COMPOSITE_WRITERS[type(type_)](parts, type_, value, depth + 1)
    except CandidError:
        raise
    except _MISFITS as error:
        raise CandidError(f"value of {type(value).__name__} does not fit its Candid type: {error!r}") from error


def _write_opt(parts: _Parts, type_: Opt, value: Any, depth: int) -> None:
    if value is None:
        parts.append(b"\x00")
        return
    parts.append(b"\x01")
    _write(parts, type_.inner, value.value if is_ambiguous_inside_opt(type_.inner) else value, depth)


def _write_vec(parts: _Parts, type_: Vec, value: Any, depth: int) -> None:
    parts.append(_unsigned(len(value)))
    if type_.inner is NAT8:
        parts.append(value if isinstance(value, bytes | bytearray | memoryview) else bytes(value))
        return
    for item in value:
        _write(parts, type_.inner, item, depth)


def _write_record(parts: _Parts, type_: Record, value: Any, depth: int) -> None:
    for field in type_.fields:
        item = value.get(field.key) if isinstance(field.type, Opt) else value[field.key]
        _write(parts, field.type, item, depth)


def _write_variant(parts: _Parts, type_: Variant, value: Any, depth: int) -> None:
    key, item = value
    for index, field in enumerate(type_.fields):
        if field.key == key:
            parts.append(_unsigned(index))
            _write(parts, field.type, item, depth)
            return
    raise CandidError(f"variant has no alternative {key!r}")


def _write_func(parts: _Parts, _type: Func, value: Any, _depth: int) -> None:
    service, method = value
    parts += (b"\x01", *_principal(service), *_text(method))


def _write_service(parts: _Parts, _type: Service, value: Any, _depth: int) -> None:
    parts += _principal(value)


_COMPOSITE_WRITERS: Final[dict[type, Callable[[_Parts, Any, Any, int], None]]] = {
    Opt: _write_opt,
    Vec: _write_vec,
    Record: _write_record,
    Variant: _write_variant,
    Func: _write_func,
    Service: _write_service,
}


def _principal(value: bytes) -> tuple[bytes, ...]:
    if len(value) > MAX_PRINCIPAL_BYTES:
        raise CandidError(f"a principal has at most {MAX_PRINCIPAL_BYTES} bytes")
    return b"\x01", _unsigned(len(value)), value


def _text(value: str) -> tuple[bytes, ...]:
    encoded = value.encode()
    return _unsigned(len(encoded)), encoded


def _natural(value: int) -> tuple[bytes, ...]:
    if value < 0:
        raise CandidError(f"{value} is not a natural number")
    return (_unsigned(value),)


def _sized(type_: Primitive, *, signed: bool) -> Callable[[int], tuple[bytes, ...]]:
    size = type_.bits // 8
    return lambda value: (value.to_bytes(size, "little", signed=signed),)


def _empty(_value: Any) -> tuple[bytes, ...]:
    raise CandidError("Candid type empty has no values")


_PRIMITIVE_WRITERS: Final[dict[Primitive, Callable[[Any], tuple[bytes, ...]]]] = {
    NULL: lambda _: (),
    RESERVED: lambda _: (),
    BOOL: lambda value: (b"\x01" if value else b"\x00",),
    NAT: _natural,
    INT: lambda value: (_signed(value),),
    FLOAT32: lambda value: (float32_bytes(value),),
    FLOAT64: lambda value: (struct.pack("<d", value),),
    TEXT: _text,
    PRINCIPAL: _principal,
    EMPTY: _empty,
    **{item: _sized(item, signed=False) for item in UNSIGNED},
    **{item: _sized(item, signed=True) for item in SIGNED},
}
