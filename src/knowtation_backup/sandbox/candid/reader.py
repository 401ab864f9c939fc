"""
Candid bytes to Python values.

Arbitrary bytes end in values or in `CandidError`: nesting is limited, and so is the work per input byte, because a
vector of a billion empty records takes six bytes. A blob is sliced once and never looked at byte by byte.

A canister's replies all start with the same type table. Tables read before are recognised by their bytes, and what was
found out about their types is kept with them; both memories are bounded and change no result.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from typing import Any, Final

from .floats import float32_value
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
    PRIMITIVES,
    PRINCIPAL,
    RESERVED,
    SIGNED,
    TEXT,
    UNSIGNED,
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
    is_ambiguous_inside_opt,
    is_subtype,
)

__all__ = ["CandidReader"]

_MAX_NUMBER_BYTES: Final = 1024
_MAX_TYPES: Final = 10_000
_MAX_FREE_STEPS: Final = 100_000
_STEPS_PER_BYTE: Final = 8

_KEY_BYTES: Final = 24
"""Tables are looked up by their beginning; shorter ones are read in no time."""
_MAX_KEPT_BYTES: Final = 2048
_MAX_KEPT_TABLES: Final = 256
_MAX_KEPT_ANSWERS: Final = 1024


class _KnownTables:
    """
    Headers read before, with their argument types.

    A header says where it ends, so a message that starts with the bytes of a known one has its types.
    """

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[bytes, tuple[CandidType, ...]]] = {}

    def get(self, data: bytes) -> tuple[int, tuple[CandidType, ...]] | None:
        """Return length and types of the header *data* starts with."""
        found = self._found.get(data[:_KEY_BYTES])
        if found is None or not data.startswith(found[0]):
            return None
        return len(found[0]), found[1]

    def keep(self, header: bytes, types: tuple[CandidType, ...]) -> None:
        """Remember a header; of those with the same beginning the last one."""
        if _KEY_BYTES <= len(header) <= _MAX_KEPT_BYTES:
            if len(self._found) >= _MAX_KEPT_TABLES:
                self._found.clear()
            self._found[header[:_KEY_BYTES]] = header, types


class _KnownSubtypes:
    """Answers of `is_subtype` by the identity of the types, which are kept so that identities stay taken."""

    def __init__(self) -> None:
        self._answers: dict[tuple[CandidType, CandidType], bool] = {}

    def holds(self, sub: CandidType, sup: CandidType) -> bool:
        """Tell what `is_subtype` tells."""
        if sub is sup:
            return True
        answer = self._answers.get((sub, sup))
        if answer is None:
            answer = is_subtype(sub, sup)
            if len(self._answers) >= _MAX_KEPT_ANSWERS:
                self._answers.clear()
            self._answers[sub, sup] = answer
        return answer


_TABLES: Final = _KnownTables()
_SUBTYPES: Final = _KnownSubtypes()


class CandidReader:
    """A position in a message, and how much work reading it may still cost."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._position = 0
        self._steps = _MAX_FREE_STEPS + _STEPS_PER_BYTE * len(data)
        self._subtypes = _SUBTYPES

    def finish(self) -> None:
        """Check that nothing follows; raises `CandidError`."""
        if self._position != len(self._data):
            raise CandidError(f"{len(self._data) - self._position} bytes follow the Candid values")

    def header(self) -> tuple[CandidType, ...]:
        """Read magic, type table and argument types; raises `CandidError`."""
        known = _TABLES.get(self._data)
        if known is not None:
            self._position, types = known
            return types
        types = self._header()
        _TABLES.keep(self._data[: self._position], types)
        if self._position > _MAX_KEPT_BYTES:
            self._subtypes = _KnownSubtypes()  # types that many are not to be kept
        return types

    def is_subtype(self, wire: CandidType, expected: CandidType) -> bool:
        """Tell whether a value of type *wire* can be read as *expected*; raises `CandidError`."""
        return self._subtypes.holds(wire, expected)

    def _header(self) -> tuple[CandidType, ...]:
        if self._data[:4] != b"DIDL":
            raise CandidError("not Candid: the magic bytes DIDL are missing")
        self._position = 4
        count = self._length()
        if count > min(_MAX_TYPES, len(self._data)):
            raise CandidError(f"Candid type table of {count} entries is too large")
        table = [self._entry() for _ in range(count)]
        composites = [_BLANKS[opcode]() for opcode, _ in table]

        def resolve(reference: int) -> CandidType:
            if 0 <= reference < count:
                return composites[reference]
            if reference not in PRIMITIVES:
                raise CandidError(f"Candid type {reference} is unknown")
            return PRIMITIVES[reference]

        for type_, (_, content) in zip(composites, table, strict=True):
            _fill(type_, content, resolve)
        return tuple([resolve(self._signed()) for _ in range(self._count())])

    def read(self, wire: CandidType, expected: CandidType, depth: int = 0) -> Any:
        """Read a value of type *wire*, which is a subtype of *expected*; raises `CandidError`."""
        self._step(depth)
        if isinstance(expected, Primitive):
            if expected is RESERVED:
                self.skip(wire, depth)
                return None
            return self._primitive(wire)
        if isinstance(expected, Opt):
            return self._option(wire, expected.inner, depth)
        if wire is EMPTY:
            raise CandidError("a value of Candid type empty cannot exist")
        return self._composite(wire, expected, depth)

    def skip(self, wire: CandidType, depth: int = 0) -> None:
        """Pass over a value of type *wire*; raises `CandidError`."""
        self._step(depth)
        if isinstance(wire, Primitive):
            if wire.size_bytes is None:
                self._primitive(wire)
            else:
                self._advance(wire.size_bytes)
        elif isinstance(wire, Opt):
            if self._flag():
                self.skip(wire.inner, depth + 1)
        elif isinstance(wire, Vec):
            self._skip_vector(wire, depth)
        elif isinstance(wire, Record):
            for field in wire.fields:
                self.skip(field.type, depth + 1)
        elif isinstance(wire, Variant):
            self.skip(self._alternative(wire).type, depth + 1)
        else:
            self.read(wire, wire, depth)

    # Bytes and numbers

    def _advance(self, size: int) -> int:
        """Pass over *size* bytes and return where they started."""
        start = self._position
        if start + size > len(self._data):
            raise CandidError(f"Candid message ends early: {size} bytes expected at offset {start}")
        self._position = start + size
        return start

    def _take(self, size: int) -> bytes:
        start = self._advance(size)
        return self._data[start : start + size]

    def _unsigned(self) -> int:
        data, position = self._data, self._position
        if position < len(data) and (byte := data[position]) < 0x80:
            self._position = position + 1
            return byte
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

    def _signed(self) -> int:
        start = self._position
        result = self._unsigned()
        if self._data[self._position - 1] & 0x40:
            result -= 1 << 7 * (self._position - start)
        return result

    def _length(self) -> int:
        value = self._unsigned()
        if value >> 32:
            raise CandidError(f"Candid length {value} is out of range")
        return value

    def _count(self) -> int:
        """Read a number of items that take at least one byte each."""
        count = self._length()
        if count > len(self._data) - self._position:
            raise CandidError(f"{count} Candid items announced in {len(self._data) - self._position} bytes")
        return count

    def _flag(self) -> bool:
        byte = self._take(1)[0]
        if byte > 1:
            raise CandidError(f"{byte} is not a Candid boolean or option tag")
        return byte == 1

    def _text(self) -> str:
        try:
            return self._take(self._length()).decode()
        except UnicodeDecodeError as error:
            raise CandidError("Candid text is not UTF-8") from error

    def _principal(self) -> bytes:
        if not self._flag():
            raise CandidError("opaque Candid references are not supported")
        size = self._length()
        if size > MAX_PRINCIPAL_BYTES:
            raise CandidError(f"a principal has at most {MAX_PRINCIPAL_BYTES} bytes, not {size}")
        return self._take(size)

    # Types

    def _entry(self) -> tuple[int, Any]:
        opcode = self._signed()
        if opcode in (OPCODE_OPT, OPCODE_VEC):
            return opcode, self._signed()
        if opcode in (OPCODE_RECORD, OPCODE_VARIANT):
            fields = [(self._length(), self._signed()) for _ in range(self._count())]
            if any(left[0] >= right[0] for left, right in itertools.pairwise(fields)):
                raise CandidError("Candid fields are not in ascending order")
            return opcode, fields
        if opcode == OPCODE_FUNC:
            arguments = [self._signed() for _ in range(self._count())]
            results = [self._signed() for _ in range(self._count())]
            modes = tuple(self._take(self._count()))
            if any(mode not in (1, 2, 3) for mode in modes):
                raise CandidError(f"unknown Candid function mode in {modes}")
            return opcode, (arguments, results, modes)
        if opcode == OPCODE_SERVICE:
            methods = [(self._text(), self._signed()) for _ in range(self._count())]
            if any(left[0].encode() >= right[0].encode() for left, right in itertools.pairwise(methods)):
                raise CandidError("Candid service methods are not in ascending order")
            return opcode, methods
        raise CandidError(f"unknown Candid type opcode {opcode} in the type table")

    # Values

    def _step(self, depth: int, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise CandidError("Candid message describes too many values for its size")
        if depth > MAX_DEPTH:
            raise CandidError(f"Candid value is nested deeper than {MAX_DEPTH}")

    def _primitive(self, wire: CandidType) -> Any:
        if wire in _SIZED:
            size, signed = _SIZED[wire]
            return int.from_bytes(self._take(size), "little", signed=signed)
        if wire in _READERS:
            return _READERS[wire](self)
        raise CandidError("a value of Candid type empty cannot exist")

    def _option(self, wire: CandidType, inner: CandidType, depth: int) -> Any:
        if wire is NULL or wire is RESERVED:
            return None
        ambiguous = is_ambiguous_inside_opt(inner)
        if isinstance(wire, Opt):
            if not self._flag():
                return None
            wire = wire.inner
        elif ambiguous:
            self.skip(wire, depth)  # a plain value is not read as `opt opt t`
            return None
        if not self._subtypes.holds(wire, inner):
            self.skip(wire, depth + 1)
            return None
        value = self.read(wire, inner, depth + 1)
        return Some(value) if ambiguous else value

    def _composite(self, wire: CandidType, expected: CandidType, depth: int) -> Any:
        if isinstance(expected, Vec) and isinstance(wire, Vec):
            count = self._length()
            if wire.inner is NAT8 and expected.inner is NAT8:
                return self._take(count)
            return [self.read(wire.inner, expected.inner, depth + 1) for _ in range(count)]
        if isinstance(expected, Record) and isinstance(wire, Record):
            return self._record(wire, expected, depth)
        if isinstance(expected, Variant) and isinstance(wire, Variant):
            alternative = self._alternative(wire)
            target = next(field for field in expected.fields if field.id == alternative.id)
            return target.key, self.read(alternative.type, target.type, depth + 1)
        if isinstance(expected, Func):
            if not self._flag():
                raise CandidError("opaque Candid references are not supported")
            return self._principal(), self._text()
        return self._principal()

    def _record(self, wire: Record, expected: Record, depth: int) -> dict[str | int, Any]:
        self._step(depth, len(expected.fields))
        targets = {field.id: field for field in expected.fields}
        result: dict[str | int, Any] = {}
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
        index = self._length()
        if index >= len(wire.fields):
            raise CandidError(f"alternative {index} of a Candid variant with {len(wire.fields)} alternatives")
        return wire.fields[index]

    def _skip_vector(self, wire: Vec, depth: int) -> None:
        count = self._length()
        if isinstance(wire.inner, Primitive) and wire.inner.size_bytes is not None:
            self._advance(count * wire.inner.size_bytes)
            return
        for _ in range(count):
            self.skip(wire.inner, depth + 1)

    def _float32(self) -> float:
        return float32_value(bytes(self._take(4)))

    def _float64(self) -> float:
        value: float = struct.unpack("<d", self._take(8))[0]
        return value

    PRIMITIVE_READERS: Final[dict[CandidType, Callable[[CandidReader], Any]]] = {
        NULL: lambda _: None,
        RESERVED: lambda _: None,
        BOOL: _flag,
        NAT: _unsigned,
        INT: _signed,
        FLOAT32: _float32,
        FLOAT64: _float64,
        TEXT: _text,
        PRINCIPAL: _principal,
    }


_READERS: Final = CandidReader.PRIMITIVE_READERS
_SIZED: Final[dict[CandidType, tuple[int, bool]]] = {
    **{item: (item.bits // 8, False) for item in UNSIGNED},
    **{item: (item.bits // 8, True) for item in SIGNED},
}
_BLANKS: Final[dict[int, Callable[[], CandidType]]] = {
    OPCODE_OPT: lambda: Opt(NULL),
    OPCODE_VEC: lambda: Vec(NULL),
    OPCODE_RECORD: lambda: Record(()),
    OPCODE_VARIANT: lambda: Variant(()),
    OPCODE_FUNC: Func,
    OPCODE_SERVICE: Service,
}


def _fill(type_: CandidType, content: Any, resolve: Callable[[int], CandidType]) -> None:
    if isinstance(type_, Opt | Vec):
        type_.inner = resolve(content)
    elif isinstance(type_, Record | Variant):
        type_.fields = tuple(Field(number, number, resolve(reference)) for number, reference in content)
    elif isinstance(type_, Func):
        arguments, results, modes = content
        type_.arguments = tuple(resolve(item) for item in arguments)
        type_.results = tuple(resolve(item) for item in results)
        type_.modes = modes
    elif isinstance(type_, Service):
        type_.methods = {name: resolve(reference) for name, reference in content}
