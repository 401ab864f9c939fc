"""
Reading Candid: any message becomes plain values, decoded by the types it brings along.

No expected type is needed, so that replies of older and newer replicas read alike: fields are found by name, those that
nobody knows stay under their number, and what is left out is `None`. Blobs are views into the message, which makes the
general way as fast for a chunk of two megabytes as for a status::

    DIDL | table of types | types of the arguments | values

=======================  ==================================================================
Candid                   Python
=======================  ==================================================================
``nat`` … ``int64``      `int`
``float32``, ``float64`` `FloatBits`, since a conversion to `float` changes some NaNs
``bool``, ``text``       `bool`, `str`
``null``, ``reserved``   `None`
``opt``                  the value, or `None`; ``opt null`` cannot be told from nothing
``vec nat8``             `memoryview`
other ``vec``            `list`
``record``               `dict` by field number; see `field`
``variant``              `VariantValue`
``principal``            `Principal`; so is a ``service``
``func``                 `FuncValue`
=======================  ==================================================================

Fields that are only handed back, whatever their type, can be kept as they came: see `RawValue`.

Time and memory are bounded for any input: so many bytes, so many steps, so deep.

Source:
    Candid specification, "Binary format"; internet-computer reference, C.1.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, Final

import attrs

from ..errors import SourceError
from ..model.ids import Principal
from .wire import Buffer, leb128_signed

__all__ = ["MAX_MESSAGE_BYTES", "FloatBits", "FuncValue", "RawValue", "VariantValue"]
__all__ += ["bad_candid", "decode", "field", "label"]

MAX_MESSAGE_BYTES: Final = 4 << 20
"""Replies have 2 MiB at most, queries 3."""
_MAX_STEPS: Final = 1 << 20
"""Values read, those without bytes included: a few bytes can ask for billions of nulls."""
_MAX_DEPTH: Final = 64
_MAX_NUMBER_BYTES: Final = 64
"""Of ``nat`` and ``int``: 448 bits. Larger ones would take quadratic time, and count nothing here."""
_MAX_ARGUMENTS: Final = 16
_MAX_PRINCIPAL_BYTES: Final = 29

_NULL, _BOOL, _NAT, _INT, _NAT8 = -1, -2, -3, -4, -5
_FLOAT32, _FLOAT64, _TEXT, _RESERVED, _EMPTY = -13, -14, -15, -16, -17
_OPT, _VEC, _RECORD, _VARIANT, _FUNC, _SERVICE, _PRINCIPAL = -18, -19, -20, -21, -22, -23, -24
_FIXED: Final[Mapping[int, tuple[int, bool]]] = {
    **{-5 - power: (1 << power, False) for power in range(4)},
    **{-9 - power: (1 << power, True) for power in range(4)},
}
_PRIMITIVE: Final = frozenset((*range(_EMPTY, 0), _PRINCIPAL))


@attrs.frozen
class FloatBits:
    """A float as its bits."""

    bits: int
    width: int
    """32 or 64."""

    def __float__(self) -> float:
        """Return the number; a signalling NaN may become a quiet one."""
        layout = "<f" if self.width == 32 else "<d"
        return float(struct.unpack(layout, self.bits.to_bytes(self.width // 8, "little"))[0])


@attrs.frozen
class VariantValue:
    """The case a variant has, by number, and what it holds."""

    number: int
    value: Any = None


@attrs.frozen
class FuncValue:
    """A method of a service."""

    service: Principal
    method: str


@attrs.frozen(kw_only=True)
class RawValue:
    """A value that was read but not converted: its bytes, its type, and the table that the type refers to."""

    head: memoryview = attrs.field(repr=False)
    """All before the arguments of the message it came in."""
    type: int
    data: memoryview = attrs.field(repr=False)

    def message(self) -> bytes:
        """Return a message with this one value, under the type it came with."""
        return b"".join((self.head, b"\x01", leb128_signed(self.type), self.data))


@lru_cache(maxsize=512)
def label(name: str | int) -> int:
    """Return the number that stands for a field or case of this name; numbers, as in tuples, stand for themselves."""
    if isinstance(name, int):
        return name
    number = 0
    for byte in name.encode():
        number = (number * 223 + byte) & 0xFFFFFFFF
    return number


def field(record: object, name: str | int) -> Any:
    """Return a field of a decoded record by name, `None` when it is not there (or *record* is none)."""
    return record.get(label(name)) if isinstance(record, dict) else None


def bad_candid(what: str) -> SourceError:
    """Return the error for a reply that is not what its method gives."""
    message = f"a reply of the network cannot be read: {what}"
    hint = "the network may be newer than this release: look for a newer one"
    return SourceError(message, kind="bad_candid", hint=hint)


def decode(data: Buffer, *, raw: Collection[str] = ()) -> list[Any]:
    """
    Return the values of a message; blobs are views into it.

    Args:
        data: The message.
        raw: Names of fields that are kept as a `RawValue`, in any record; of an ``opt``, what is in it, or `None`.

    Raises:
        SourceError: Kind ``bad_candid``: it is malformed, longer than `MAX_MESSAGE_BYTES`, or asks for more than that
            many bytes could reasonably hold.
    """
    return _Reader(data, frozenset(map(label, raw))).message()


class _Reader:
    """One pass over a message."""

    def __init__(self, data: Buffer, raw: frozenset[int]) -> None:
        self._raw = raw
        self._view = memoryview(data).cast("B")
        self._end = len(self._view)
        self._head = self._view[:0]
        self._at = 0
        self._steps = _MAX_STEPS
        self._table: list[tuple[int, Any]] = []

    def message(self) -> list[Any]:
        if self._end > MAX_MESSAGE_BYTES:
            raise bad_candid(f"it has {self._end} bytes, more than {MAX_MESSAGE_BYTES}")
        if bytes(self._take(4)) != b"DIDL":
            raise bad_candid("it is not Candid")
        self._read_table()
        self._head = self._view[: self._at]
        arguments = [self._reference() for _ in range(self._count(_MAX_ARGUMENTS))]
        values = [self._value(kind, 0) for kind in arguments]
        if self._at != self._end:
            raise bad_candid("bytes follow its end")
        return values

    # --- types ------------------------------------------------------------------------------------------------------

    def _read_table(self) -> None:
        self._table = [self._type() for _ in range(self._count())]
        for opcode, inner in self._table:
            for reference in _references(opcode, inner):
                self._defined(reference)
            if opcode == _SERVICE and any(self._opcode(reference) != _FUNC for _, reference in inner):
                raise bad_candid("a method of a service is no function")

    def _type(self) -> tuple[int, Any]:
        self._step()
        opcode = self._signed()
        if opcode in (_OPT, _VEC):
            return opcode, self._signed()
        if opcode in (_RECORD, _VARIANT):
            return opcode, self._fields()
        if opcode == _FUNC:
            references = [self._counted_signed() for _ in range(2) for _ in range(self._count())]
            self._take(self._count())
            return opcode, references
        if opcode == _SERVICE:
            return opcode, [(self._text(), self._counted_signed()) for _ in range(self._count())]
        if opcode < _PRINCIPAL:  # a type of the future: its length makes it skippable
            self._take(self._count())
            return opcode, None
        raise bad_candid("its table of types is malformed")

    def _fields(self) -> list[tuple[int, int]]:
        fields: list[tuple[int, int]] = []
        last = -1
        for _ in range(self._count()):
            self._step()
            number = self._unsigned()
            if not last < number <= 0xFFFFFFFF:
                raise bad_candid("fields are not in order")
            last = number
            fields.append((number, self._signed()))
        return fields

    def _counted_signed(self) -> int:
        self._step()
        return self._signed()

    def _reference(self) -> int:
        return self._defined(self._signed())

    def _defined(self, reference: int) -> int:
        if reference >= len(self._table) or (reference < 0 and reference not in _PRIMITIVE):
            raise bad_candid("it uses a type that it does not define")
        return reference

    def _opcode(self, reference: int) -> int:
        return reference if reference < 0 else self._table[reference][0]

    # --- values -----------------------------------------------------------------------------------------------------

    def _value(self, reference: int, depth: int) -> Any:
        self._step()
        if depth > _MAX_DEPTH:
            raise bad_candid("it is nested too deep")
        if reference < 0:
            return _PRIMITIVES[reference](self)
        opcode, inner = self._table[reference]
        return _COMPOSITES.get(opcode, _Reader._future)(self, inner, depth)

    def _option(self, inner: int, depth: int) -> Any:
        return self._value(inner, depth + 1) if self._flag() else None

    def _record(self, fields: list[tuple[int, int]], depth: int) -> dict[int, Any]:
        return {
            number: (self._kept if number in self._raw else self._value)(kind, depth + 1) for number, kind in fields
        }

    def _kept(self, reference: int, depth: int) -> RawValue | None:
        if self._opcode(reference) == _OPT:
            if not self._flag():
                return None
            reference = self._table[reference][1]
        start = self._at
        self._value(reference, depth)  # for its end, and so that nothing malformed is handed on
        return RawValue(head=self._head, type=reference, data=self._view[start : self._at])

    def _vector(self, inner: int, depth: int) -> Any:
        if inner == _NAT8:
            return self._take(self._unsigned())
        # Elements may have no bytes at all (`null`), so the steps bound how many there are.
        return [self._value(inner, depth + 1) for _ in range(self._count(self._steps))]

    def _variant(self, cases: list[tuple[int, int]], depth: int) -> VariantValue:
        index = self._unsigned()
        if index >= len(cases):
            raise bad_candid("a variant has none of its cases")
        number, kind = cases[index]
        return VariantValue(number, self._value(kind, depth + 1))

    def _function(self, _inner: object, _depth: int) -> FuncValue:
        if not self._flag():
            raise bad_candid("a function is opaque")
        return FuncValue(self._principal(), self._text())

    def _service(self, _inner: object, _depth: int) -> Principal:
        return self._principal()

    def _principal(self) -> Principal:
        if not self._flag():
            raise bad_candid("a principal is opaque")
        return Principal(bytes(self._take(self._count(_MAX_PRINCIPAL_BYTES))))

    def _future(self, _inner: object, _depth: int) -> None:
        size, references = self._unsigned(), self._unsigned()
        if references:
            raise bad_candid("a type of the future holds references")
        self._take(size)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise bad_candid(f"it holds more than {_MAX_STEPS} values and types")

    def _take(self, size: int) -> memoryview:
        end = self._at + size
        if end > self._end:
            raise bad_candid("it ends too early")
        taken = self._view[self._at : end]
        self._at = end
        return taken

    def _flag(self) -> bool:
        byte = self._take(1)[0]
        if byte > 1:
            raise bad_candid("a flag is neither 0 nor 1")
        return byte == 1

    def _count(self, most: int | None = None) -> int:
        # Without a limit of its own, each thing counted takes a byte at least.
        number = self._unsigned()
        if number > (self._end - self._at if most is None else most):
            raise bad_candid("it announces more than it can hold")
        return number

    def _raw_number(self) -> tuple[int, int]:
        """Read a number in LEB128; return its bits and how many there are."""
        number = shift = 0
        while True:
            if self._at >= self._end:
                raise bad_candid("it ends too early")
            byte = self._view[self._at]
            self._at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return number, shift
            if shift >= 7 * _MAX_NUMBER_BYTES:
                raise bad_candid("a number is too large")

    def _unsigned(self) -> int:
        return self._raw_number()[0]

    def _signed(self) -> int:
        number, bits = self._raw_number()
        return number - (1 << bits) if number >> (bits - 1) else number

    def _fixed(self, size: int, *, signed: bool) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _text(self) -> str:
        try:
            return str(self._take(self._unsigned()), "utf-8")
        except UnicodeDecodeError:
            raise bad_candid("a text is not UTF-8") from None

    def _nothing(self) -> None:
        raise bad_candid("it holds a value of the type that has none")


def _fixed_reader(size: int, signed: bool) -> Callable[[_Reader], Any]:  # noqa: FBT001 - private
    return lambda reader: reader._fixed(size, signed=signed)  # noqa: SLF001 - its own


_PRIMITIVES: Final[dict[int, Callable[[_Reader], Any]]] = {
    _NULL: lambda _reader: None,
    _RESERVED: lambda _reader: None,
    _PRINCIPAL: _Reader._principal,  # noqa: SLF001
    _BOOL: _Reader._flag,  # noqa: SLF001
    _NAT: _Reader._unsigned,  # noqa: SLF001
    _INT: _Reader._signed,  # noqa: SLF001
    _TEXT: _Reader._text,  # noqa: SLF001
    _EMPTY: _Reader._nothing,  # noqa: SLF001
    _FLOAT32: lambda reader: FloatBits(reader._fixed(4, signed=False), 32),  # noqa: SLF001
    _FLOAT64: lambda reader: FloatBits(reader._fixed(8, signed=False), 64),  # noqa: SLF001
    **{opcode: _fixed_reader(*layout) for opcode, layout in _FIXED.items()},
}

_COMPOSITES: Final[dict[int, Callable[[_Reader, Any, int], Any]]] = {
    _OPT: _Reader._option,  # noqa: SLF001
    _VEC: _Reader._vector,  # noqa: SLF001
    _RECORD: _Reader._record,  # noqa: SLF001
    _VARIANT: _Reader._variant,  # noqa: SLF001
    _FUNC: _Reader._function,  # noqa: SLF001
    _SERVICE: _Reader._service,  # noqa: SLF001
}


def _references(opcode: int, inner: Any) -> list[int]:
    if opcode in (_OPT, _VEC):
        return [inner]
    if opcode in (_RECORD, _VARIANT, _SERVICE):
        return [reference for _, reference in inner]
    return inner if opcode == _FUNC else []
