"""
Candid bytes in both directions.

``DIDL``, type table, argument types, values; integers in LEB128, sized numbers little endian, text and blobs with their
length in front. A blob is sliced or joined once and never looked at byte by byte. Decoding arbitrary bytes ends in
values or in `CandidError`: the nesting is limited, and so is the work per input byte (a vector of a billion empty
records takes six bytes).

Source:
    Candid specification, "Binary format"; internet-computer reference, C.1 and J.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from .candid_types import (
    BLOB,
    BOOL,
    EMPTY,
    FLOAT32,
    FLOAT64,
    INT,
    INT8,
    INT16,
    INT32,
    INT64,
    MAX_DEPTH,
    NAT,
    NAT8,
    NAT16,
    NAT32,
    NAT64,
    NULL,
    PRINCIPAL,
    RESERVED,
    TEXT,
    CandidError,
    CandidType,
    Field,
    Func,
    Opt,
    Primitive,
    Record,
    Service,
    Some,
    Variant,
    Vec,
    field_id,
    is_ambiguous_inside_opt,
    is_subtype,
)

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
    "NAT",
    "NAT8",
    "NAT16",
    "NAT32",
    "NAT64",
    "NULL",
    "PRINCIPAL",
    "RESERVED",
    "TEXT",
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
    "decode",
    "decode_untyped",
    "encode",
    "field_id",
    "is_subtype",
]

_MAGIC: Final = b"DIDL"
_PRIMITIVES: Final = {
    item.code: item
    for item in (
        NULL, BOOL, NAT, INT, NAT8, NAT16, NAT32, NAT64, INT8, INT16, INT32, INT64, FLOAT32, FLOAT64, TEXT, RESERVED,
        EMPTY, PRINCIPAL,
    )
}  # fmt: skip
_OPT, _VEC, _RECORD, _VARIANT, _FUNC, _SERVICE = -18, -19, -20, -21, -22, -23
_UNSIGNED: Final = (NAT8, NAT16, NAT32, NAT64)
_SIGNED: Final = (INT8, INT16, INT32, INT64)

_MAX_NUMBER_BYTES: Final = 1024
_MAX_TYPES: Final = 10_000
_MAX_FREE_STEPS: Final = 100_000
_STEPS_PER_BYTE: Final = 8


def encode(types: Sequence[CandidType], values: Sequence[Any]) -> bytes:
    """
    Return *values* as a Candid argument sequence of *types*; see `candid_types` for the Python form of values.

    Fields of option type may be missing from a record's dict.

    Raises:
        CandidError: A value does not fit its type.
    """
    if len(types) != len(values):
        raise CandidError(f"{len(values)} values for {len(types)} Candid types")
    table = _TypeTable()
    references = [table.reference(type_) for type_ in types]
    parts = [_MAGIC, _unsigned(len(table.entries)), *table.entries, _unsigned(len(types)), *references]
    for type_, value in zip(types, values, strict=True):
        _write(parts, type_, value, 0)
    return b"".join(parts)


def decode(data: bytes, types: Sequence[CandidType]) -> tuple[Any, ...]:
    """
    Return the values of a Candid argument sequence, read as *types*.

    Missing trailing arguments and record fields of option, null or reserved type are `None`; additional ones are skipped.

    Raises:
        CandidError: *data* is not Candid, its types are not subtypes of *types*, or its nesting or size is excessive.
    """
    reader = _Reader(data)
    wire = reader.header()
    for index, type_ in enumerate(types):
        if index >= len(wire):
            if not (isinstance(type_, Opt) or type_ is NULL or type_ is RESERVED):
                raise CandidError(f"Candid argument {index} is missing")
        elif not is_subtype(wire[index], type_):
            raise CandidError(f"Candid argument {index} is not of the expected type")
    values: list[Any] = [
        reader.read(wire[index], type_, 0) if index < len(wire) else None for index, type_ in enumerate(types)
    ]
    for type_ in wire[len(types) :]:
        reader.skip(type_, 0)
    reader.finish()
    return tuple(values)


def decode_untyped(data: bytes) -> tuple[tuple[CandidType, ...], tuple[Any, ...]]:
    """
    Return types and values as they stand in *data*; record fields and variants are keyed by field number.

    `encode` with the same types and values says the same again.

    Raises:
        CandidError: *data* is not Candid, or its nesting or size is excessive.
    """
    reader = _Reader(data)
    wire = reader.header()
    values = tuple([reader.read(type_, type_, 0) for type_ in wire])
    reader.finish()
    return wire, values


# Writing


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
    """Collects the composite types of a message; recursive types refer to their own entry."""

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
            return _signed(_OPT) + self.reference(type_.inner)
        if isinstance(type_, Vec):
            return _signed(_VEC) + self.reference(type_.inner)
        if isinstance(type_, (Record, Variant)):
            parts = [_signed(_RECORD if isinstance(type_, Record) else _VARIANT), _unsigned(len(type_.fields))]
            for field in type_.fields:
                parts += (_unsigned(field.id), self.reference(field.type))
            return b"".join(parts)
        if isinstance(type_, Func):
            parts = [_signed(_FUNC)]
            for sequence in (type_.arguments, type_.results):
                parts += (_unsigned(len(sequence)), *(self.reference(item) for item in sequence))
            return b"".join((*parts, _unsigned(len(type_.modes)), bytes(type_.modes)))
        parts = [_signed(_SERVICE), _unsigned(len(type_.methods))]
        for name in sorted(type_.methods, key=str.encode):
            encoded = name.encode()
            parts += (_unsigned(len(encoded)), encoded, self.reference(type_.methods[name]))
        return b"".join(parts)


def _write(parts: list[bytes], type_: CandidType, value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CandidError(f"value is nested deeper than {MAX_DEPTH}")
    try:
        if isinstance(type_, Primitive):
            parts += _PRIMITIVE_WRITERS[type_](value)
        elif isinstance(type_, Opt):
            if value is None:
                parts.append(b"\x00")
            else:
                parts.append(b"\x01")
                wrapped = is_ambiguous_inside_opt(type_.inner)
                _write(parts, type_.inner, value.value if wrapped else value, depth + 1)
        elif isinstance(type_, Vec):
            parts.append(_unsigned(len(value)))
            if type_.inner is NAT8:
                parts.append(value if isinstance(value, (bytes, bytearray, memoryview)) else bytes(value))
            else:
                for item in value:
                    _write(parts, type_.inner, item, depth + 1)
        elif isinstance(type_, Record):
            for field in type_.fields:
                item = value.get(field.key) if isinstance(field.type, Opt) else value[field.key]
                _write(parts, field.type, item, depth + 1)
        elif isinstance(type_, Variant):
            name, item = value
            index = next(index for index, field in enumerate(type_.fields) if field.key == name)
            parts.append(_unsigned(index))
            _write(parts, type_.fields[index].type, item, depth + 1)
        elif isinstance(type_, Func):
            principal, method = value
            parts += (b"\x01", *_write_principal(principal), *_write_text(method))
        else:
            parts += _write_principal(value)
    except (TypeError, ValueError, AttributeError, LookupError, StopIteration, struct.error) as error:
        if isinstance(error, CandidError):
            raise
        raise CandidError(f"value of {type(value).__name__} does not fit its Candid type: {error}") from error


def _write_principal(value: bytes) -> tuple[bytes, ...]:
    if len(value) > 29:
        raise CandidError("a principal has at most 29 bytes")
    return b"\x01", _unsigned(len(value)), value


def _write_text(value: str) -> tuple[bytes, ...]:
    encoded = value.encode()
    return _unsigned(len(encoded)), encoded


def _write_nat(value: int) -> tuple[bytes, ...]:
    if value < 0:
        raise CandidError(f"{value} is not a natural number")
    return (_unsigned(value),)


def _sized_writer(type_: Primitive) -> Callable[[Any], tuple[bytes, ...]]:
    size, is_signed = type_.bits // 8, type_ in _SIGNED

    def write(value: int) -> tuple[bytes, ...]:
        try:
            return (value.to_bytes(size, "little", signed=is_signed),)
        except OverflowError as error:
            raise CandidError(f"{value} does not fit {type_.name}") from error

    return write


def _write_empty(value: Any) -> tuple[bytes, ...]:
    raise CandidError(f"type empty has no values, got {type(value).__name__}")


_PRIMITIVE_WRITERS: Final[dict[Primitive, Callable[[Any], tuple[bytes, ...]]]] = {
    NULL: lambda _: (),
    RESERVED: lambda _: (),
    BOOL: lambda value: (b"\x01" if value else b"\x00",),
    NAT: _write_nat,
    INT: lambda value: (_signed(value),),
    FLOAT32: lambda value: (struct.pack("<f", value),),
    FLOAT64: lambda value: (struct.pack("<d", value),),
    TEXT: _write_text,
    PRINCIPAL: _write_principal,
    EMPTY: _write_empty,
    **{item: _sized_writer(item) for item in (*_UNSIGNED, *_SIGNED)},
}


# Reading


class _Reader:
    """A position in a message, and how much work reading it may still cost."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._position = 0
        self._steps = _MAX_FREE_STEPS + _STEPS_PER_BYTE * len(data)

    def finish(self) -> None:
        if self._position != len(self._data):
            raise CandidError(f"{len(self._data) - self._position} bytes follow the Candid values")

    def take(self, size: int) -> bytes:
        start, end = self._position, self._position + size
        if end > len(self._data):
            raise CandidError(f"Candid message ends early: {size} bytes expected at offset {start}")
        self._position = end
        return self._data[start:end]

    def unsigned(self) -> int:
        data, position = self._data, self._position
        result = shift = 0
        limit = min(len(data), position + _MAX_NUMBER_BYTES)
        while position < limit:
            byte = data[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                self._position = position
                return result
            shift += 7
        raise CandidError(f"Candid number at offset {self._position} is cut or too long")

    def signed(self) -> int:
        start = self._position
        result = self.unsigned()
        if self._data[self._position - 1] & 0x40:
            result -= 1 << 7 * (self._position - start)
        return result

    def length(self) -> int:
        value = self.unsigned()
        if value >> 32:
            raise CandidError(f"Candid length {value} is out of range")
        return value

    def text(self) -> str:
        try:
            return self.take(self.length()).decode()
        except UnicodeDecodeError as error:
            raise CandidError("Candid text is not UTF-8") from error

    def principal(self) -> bytes:
        if self.take(1) != b"\x01":
            raise CandidError("opaque Candid references are not supported")
        size = self.length()
        if size > 29:
            raise CandidError(f"a principal has at most 29 bytes, not {size}")
        return self.take(size)

    # Types

    def header(self) -> tuple[CandidType, ...]:
        if self._data[:4] != _MAGIC:
            raise CandidError("not Candid: the magic bytes DIDL are missing")
        self._position = 4
        count = self.length()
        if count > min(_MAX_TYPES, len(self._data)):
            raise CandidError(f"Candid type table of {count} entries is too large")
        table = [self._raw_entry() for _ in range(count)]
        composites: list[CandidType] = [_blank(opcode) for opcode, _ in table]

        def resolve(index: int) -> CandidType:
            if index >= 0:
                if index >= count:
                    raise CandidError(f"Candid type {index} is not in the table")
                return composites[index]
            if index not in _PRIMITIVES:
                raise CandidError(f"unknown Candid type opcode {index}")
            return _PRIMITIVES[index]

        for type_, (_, content) in zip(composites, table, strict=True):
            _fill(type_, content, resolve)
        count_arguments = self.length()
        if count_arguments > len(self._data):
            raise CandidError(f"{count_arguments} Candid arguments in {len(self._data)} bytes")
        return tuple([resolve(self.signed()) for _ in range(count_arguments)])

    def _raw_entry(self) -> tuple[int, Any]:
        opcode = self.signed()
        if opcode in (_OPT, _VEC):
            return opcode, self.signed()
        if opcode in (_RECORD, _VARIANT):
            fields = [(self.length(), self.signed()) for _ in range(self._bounded_count())]
            if any(left[0] >= right[0] for left, right in zip(fields, fields[1:], strict=False)):
                raise CandidError("Candid fields are not in ascending order")
            return opcode, fields
        if opcode == _FUNC:
            arguments = [self.signed() for _ in range(self._bounded_count())]
            results = [self.signed() for _ in range(self._bounded_count())]
            modes = tuple(self.take(self._bounded_count()))
            if any(mode not in (1, 2, 3) for mode in modes):
                raise CandidError(f"unknown Candid function mode in {modes}")
            return opcode, (arguments, results, modes)
        if opcode == _SERVICE:
            names = [(self.text(), self.signed()) for _ in range(self._bounded_count())]
            encoded = [name.encode() for name, _ in names]
            if any(left >= right for left, right in zip(encoded, encoded[1:], strict=False)):
                raise CandidError("Candid service methods are not in ascending order")
            return opcode, names
        raise CandidError(f"unknown Candid type opcode {opcode} in the type table")

    def _bounded_count(self) -> int:
        count = self.length()
        if count > len(self._data) - self._position:
            raise CandidError(f"{count} Candid items announced in {len(self._data) - self._position} bytes")
        return count

    # Values

    def _step(self, depth: int, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise CandidError("Candid message describes too many values for its size")
        if depth > MAX_DEPTH:
            raise CandidError(f"Candid value is nested deeper than {MAX_DEPTH}")

    def read(self, wire: CandidType, expected: CandidType, depth: int) -> Any:
        """Read a value of type *wire*, which is a subtype of *expected*."""
        self._step(depth)
        if isinstance(expected, Primitive):
            if expected is RESERVED:
                self.skip(wire, depth)
                return None
            if expected is INT and wire is NAT:
                return self.unsigned()
            return self._primitive(wire)
        if isinstance(expected, Opt):
            return self._option(wire, expected.inner, depth)
        if wire is EMPTY:
            raise CandidError("a value of Candid type empty cannot exist")
        if isinstance(expected, Vec) and isinstance(wire, Vec):
            count = self.length()
            if wire.inner is NAT8:
                return self.take(count)
            return [self.read(wire.inner, expected.inner, depth + 1) for _ in range(count)]
        if isinstance(expected, Record) and isinstance(wire, Record):
            return self._record(wire, expected, depth)
        if isinstance(expected, Variant) and isinstance(wire, Variant):
            alternative = self._alternative(wire)
            target = next(field for field in expected.fields if field.id == alternative.id)
            return target.key, self.read(alternative.type, target.type, depth + 1)
        if isinstance(expected, Func):
            if self.take(1) != b"\x01":
                raise CandidError("opaque Candid references are not supported")
            return self.principal(), self.text()
        return self.principal()

    def _primitive(self, wire: CandidType) -> Any:
        if wire is NULL:
            return None
        if wire is TEXT:
            return self.text()
        if wire is PRINCIPAL:
            return self.principal()
        if wire is NAT:
            return self.unsigned()
        if wire is INT:
            return self.signed()
        if wire is BOOL:
            byte = self.take(1)[0]
            if byte > 1:
                raise CandidError(f"{byte} is not a Candid boolean")
            return byte == 1
        if wire in _UNSIGNED or wire in _SIGNED:
            assert isinstance(wire, Primitive)
            return int.from_bytes(self.take(wire.bits // 8), "little", signed=wire in _SIGNED)
        if wire is FLOAT32:
            return struct.unpack("<f", self.take(4))[0]
        if wire is FLOAT64:
            return struct.unpack("<d", self.take(8))[0]
        raise CandidError("a value of Candid type empty cannot exist")

    def _option(self, wire: CandidType, inner: CandidType, depth: int) -> Any:
        if wire is NULL or wire is RESERVED:
            return None
        if isinstance(wire, Opt):
            flag = self.take(1)[0]
            if flag > 1:
                raise CandidError(f"{flag} is not a Candid option tag")
            if flag == 0:
                return None
            source = wire.inner
        elif is_ambiguous_inside_opt(inner):
            self.skip(wire, depth)  # a plain value is not read as `opt opt t`
            return None
        else:
            source = wire
        if source is not inner and not is_subtype(source, inner):
            self.skip(source, depth + 1)
            return None
        value = self.read(source, inner, depth + 1)
        return Some(value) if is_ambiguous_inside_opt(inner) else value

    def _record(self, wire: Record, expected: Record, depth: int) -> dict[str | int, Any]:
        self._step(depth, len(expected.fields))
        result: dict[str | int, Any] = {}
        if wire is expected:
            for field in wire.fields:
                result[field.key] = self.read(field.type, field.type, depth + 1)
            return result
        targets = {field.id: field for field in expected.fields}
        for field in wire.fields:
            target = targets.pop(field.id, None)
            if target is None:
                self.skip(field.type, depth + 1)
            else:
                result[target.key] = self.read(field.type, target.type, depth + 1)
        for target in targets.values():
            result[target.key] = None
        return result

    def _alternative(self, wire: Variant) -> Field:
        index = self.length()
        if index >= len(wire.fields):
            raise CandidError(f"Candid variant has {len(wire.fields)} alternatives, not {index + 1}")
        return wire.fields[index]

    def skip(self, wire: CandidType, depth: int) -> None:
        """Pass over a value of type *wire*."""
        self._step(depth)
        if isinstance(wire, Primitive):
            self._skip_primitive(wire)
        elif isinstance(wire, Opt):
            if flag := self.take(1)[0]:
                if flag > 1:
                    raise CandidError(f"{flag} is not a Candid option tag")
                self.skip(wire.inner, depth + 1)
        elif isinstance(wire, Vec):
            count = self.length()
            size = wire.inner.size_bytes if isinstance(wire.inner, Primitive) else None
            if size is not None:
                self.take(count * size)
            else:
                for _ in range(count):
                    self.skip(wire.inner, depth + 1)
        elif isinstance(wire, Record):
            for field in wire.fields:
                self.skip(field.type, depth + 1)
        elif isinstance(wire, Variant):
            self.skip(self._alternative(wire).type, depth + 1)
        else:
            self.read(wire, wire, depth)

    def _skip_primitive(self, wire: Primitive) -> None:
        if wire.size_bytes is not None:
            self.take(wire.size_bytes)
        else:
            self._primitive(wire)


def _blank(opcode: int) -> CandidType:
    if opcode == _OPT:
        return Opt(NULL)
    if opcode == _VEC:
        return Vec(NULL)
    if opcode == _RECORD:
        return Record(())
    if opcode == _VARIANT:
        return Variant(())
    return Func() if opcode == _FUNC else Service()


def _fill(type_: CandidType, content: Any, resolve: Callable[[int], CandidType]) -> None:
    if isinstance(type_, (Opt, Vec)):
        type_.inner = resolve(content)
    elif isinstance(type_, (Record, Variant)):
        type_.fields = tuple(Field(number, number, resolve(reference)) for number, reference in content)
    elif isinstance(type_, Func):
        arguments, results, modes = content
        type_.arguments = tuple(resolve(item) for item in arguments)
        type_.results = tuple(resolve(item) for item in results)
        type_.modes = modes
    elif isinstance(type_, Service):
        type_.methods = {name: resolve(reference) for name, reference in content}
