"""
The Wasm binary format, as far as the sandbox reads and writes it.

Layout: magic ``00 61 73 6d``, version ``01 00 00 00``, then sections ``id (1) size (LEB128) content``. Numbers are
LEB128, names are length-prefixed UTF-8, vectors are a count and their items.
Source: WebAssembly core specification 3.0, section 5.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

__all__ = [
    "EMPTY_TYPE",
    "ExportKind",
    "FunctionType",
    "GlobalType",
    "Import",
    "MemoryLimits",
    "ParsedModule",
    "WasmFormatError",
    "append_to_section",
    "encode_name",
    "encode_u32",
    "parse",
    "serialize",
]

_MAGIC = b"\0asm\x01\0\0\0"
_SECTION_ORDER = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)
_VALUE_TYPES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
}
_VALUE_CODES = {name: code for code, name in _VALUE_TYPES.items()}


class WasmFormatError(ValueError):
    """The bytes are not a Wasm module the sandbox understands."""


class ExportKind(enum.IntEnum):
    """What an export refers to."""

    FUNCTION = 0
    TABLE = 1
    MEMORY = 2
    GLOBAL = 3


@attrs.frozen
class FunctionType:
    """Parameter and result types by name."""

    parameters: tuple[str, ...]
    results: tuple[str, ...]

    def encode(self) -> bytes:
        """Return the type-section entry."""
        return b"\x60" + _encode_types(self.parameters) + _encode_types(self.results)


EMPTY_TYPE = FunctionType((), ())


@attrs.frozen
class Import:
    """An imported function."""

    module: str
    name: str
    type: FunctionType


@attrs.frozen
class GlobalType:
    """Type of a module's own global."""

    kind: str
    mutable: bool


@attrs.frozen
class MemoryLimits:
    """Type of memory 0; pages of 64 KiB."""

    is_64: bool
    minimum_pages: int
    maximum_pages: int | None


@attrs.define(kw_only=True)
class ParsedModule:
    """Decoded sections; ``sections`` holds the raw content of all but custom ones."""

    sections: dict[int, bytes] = attrs.field(factory=dict, repr=False)
    custom: list[tuple[str, bytes]] = attrs.field(factory=list, repr=False)
    types: list[FunctionType] = attrs.field(factory=list)
    imports: list[Import] = attrs.field(factory=list)
    function_types: list[int] = attrs.field(factory=list)
    """Type index of every function, imported ones first."""
    table_count: int = 0
    memory: MemoryLimits | None = None
    globals: list[GlobalType] = attrs.field(factory=list)
    exports: list[tuple[str, int, int]] = attrs.field(factory=list)
    """Name, kind, index."""
    start: int = -1
    """Index of the start function, -1 when there is none."""

    @property
    def imported_functions(self) -> int:
        """Number of imported functions."""
        return len(self.imports)

    @property
    def function_count(self) -> int:
        """Number of functions, imported ones included."""
        return len(self.function_types)

    def function_type(self, index: int) -> FunctionType:
        """Return the type of function *index*."""
        if index >= len(self.function_types):
            message = f"unknown function {index}"
            raise WasmFormatError(message)
        return self._type(self.function_types[index])

    def _type(self, index: int) -> FunctionType:
        if index >= len(self.types):
            message = f"unknown type {index}"
            raise WasmFormatError(message)
        return self.types[index]


def parse(data: bytes) -> ParsedModule:
    """
    Decode the sections of a module; code, data and element sections stay raw.

    Raises:
        WasmFormatError: Cut, malformed, or using a feature canisters cannot have.
    """
    if data[:8] != _MAGIC:
        message = "magic header not detected: bad magic number"
        raise WasmFormatError(message)
    module = ParsedModule()
    reader = _Reader(data, 8, len(data))
    while not reader.at_end():
        section_id = reader.byte()
        content = reader.sub(reader.u32())
        if section_id == 0:
            name = content.name()
            module.custom.append((name, content.rest()))
            continue
        if section_id not in _SECTION_ORDER or section_id in module.sections:
            message = f"unexpected or repeated section {section_id}"
            raise WasmFormatError(message)
        module.sections[section_id] = content.peek()
        decode = _DECODERS.get(section_id)
        if decode:
            decode(content, module)
    return module


def serialize(sections: dict[int, bytes]) -> bytes:
    """Join sections to a module, in the order the format asks for."""
    parts = [_MAGIC]
    for section_id in _SECTION_ORDER:
        if section_id in sections:
            content = sections[section_id]
            parts += [bytes([section_id]), encode_u32(len(content)), content]
    return b"".join(parts)


def append_to_section(sections: dict[int, bytes], section_id: int, items: Iterable[bytes]) -> None:
    """Append encoded items to a section that is a vector; the section is made when it is missing."""
    added = list(items)
    if not added:
        return
    content = sections.get(section_id, b"\0")
    reader = _Reader(content, 0, len(content))
    count = reader.u32()
    sections[section_id] = encode_u32(count + len(added)) + reader.rest() + b"".join(added)


def encode_u32(value: int) -> bytes:
    """Return unsigned LEB128, shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_name(name: str) -> bytes:
    """Return a length-prefixed UTF-8 name."""
    raw = name.encode()
    return encode_u32(len(raw)) + raw


def _encode_types(types: tuple[str, ...]) -> bytes:
    return encode_u32(len(types)) + bytes(_VALUE_CODES[name] for name in types)


class _Reader:
    """A cursor over part of a binary; every overrun is a `WasmFormatError`."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self._data = data
        self._position = position
        self._end = end

    def at_end(self) -> bool:
        return self._position >= self._end

    def byte(self) -> int:
        if self._position >= self._end:
            message = "unexpected end of module"
            raise WasmFormatError(message)
        value = self._data[self._position]
        self._position += 1
        return value

    def take(self, size: int) -> bytes:
        if self._position + size > self._end:
            message = "unexpected end of module"
            raise WasmFormatError(message)
        piece = self._data[self._position : self._position + size]
        self._position += size
        return piece

    def rest(self) -> bytes:
        return self.take(self._end - self._position)

    def peek(self) -> bytes:
        return self._data[self._position : self._end]

    def sub(self, size: int) -> _Reader:
        start = self._position
        if start + size > self._end:
            message = "section runs past the end of the module"
            raise WasmFormatError(message)
        self._position += size
        return _Reader(self._data, start, start + size)

    def leb(self, bits: int) -> int:
        """Read LEB128 of at most *bits* bits, without sign extension (enough for sizes and for skipping)."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift >= bits + 6:
                message = "integer representation too long"
                raise WasmFormatError(message)

    def u32(self) -> int:
        return self.leb(32)

    def name(self) -> str:
        try:
            return self.take(self.u32()).decode()
        except UnicodeDecodeError as error:
            message = "malformed UTF-8 in a name"
            raise WasmFormatError(message) from error

    def value_type(self) -> str:
        code = self.byte()
        if code not in _VALUE_TYPES:
            message = f"unsupported value type 0x{code:02x}"
            raise WasmFormatError(message)
        return _VALUE_TYPES[code]

    def value_types(self) -> tuple[str, ...]:
        return tuple(self.value_type() for _ in range(self.u32()))

    def skip_constant_expression(self) -> None:
        """Move behind the ``end`` of an initialiser."""
        while True:
            code = self.byte()
            if code == 0x0B:
                return
            if code in {0x41, 0x42, 0x23, 0xD2, 0xD0}:  # i32.const i64.const global.get ref.func ref.null
                self.leb(64)
            elif code == 0x43:
                self.take(4)
            elif code == 0x44:
                self.take(8)
            elif code == 0xFD:
                self.u32()
                self.take(16)
            elif code not in {0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E}:  # extended constant arithmetic
                message = f"unsupported instruction 0x{code:02x} in a constant expression"
                raise WasmFormatError(message)


def _read_types(reader: _Reader, module: ParsedModule) -> None:
    for _ in range(reader.u32()):
        if reader.byte() != 0x60:
            message = "only function types are supported"
            raise WasmFormatError(message)
        module.types.append(FunctionType(reader.value_types(), reader.value_types()))


def _read_imports(reader: _Reader, module: ParsedModule) -> None:
    for _ in range(reader.u32()):
        namespace, name = reader.name(), reader.name()
        if reader.byte() != 0:
            message = f"import {namespace}.{name}: only functions can be imported"
            raise WasmFormatError(message)
        index = reader.u32()
        module.function_types.append(index)
        module.imports.append(Import(namespace, name, module._type(index)))  # noqa: SLF001 - one module


def _read_functions(reader: _Reader, module: ParsedModule) -> None:
    module.function_types.extend(reader.u32() for _ in range(reader.u32()))


def _read_tables(reader: _Reader, module: ParsedModule) -> None:
    module.table_count = reader.u32()


def _read_memories(reader: _Reader, module: ParsedModule) -> None:
    count = reader.u32()
    if count > 1:
        message = "multiple memories are not supported"
        raise WasmFormatError(message)
    if count:
        flags = reader.byte()
        minimum = reader.leb(64)
        module.memory = MemoryLimits(bool(flags & 4), minimum, reader.leb(64) if flags & 1 else None)


def _read_globals(reader: _Reader, module: ParsedModule) -> None:
    for _ in range(reader.u32()):
        module.globals.append(GlobalType(reader.value_type(), bool(reader.byte())))
        reader.skip_constant_expression()


def _read_exports(reader: _Reader, module: ParsedModule) -> None:
    module.exports = [(reader.name(), reader.byte(), reader.u32()) for _ in range(reader.u32())]


def _read_start(reader: _Reader, module: ParsedModule) -> None:
    module.start = reader.u32()


_DECODERS = {
    1: _read_types,
    2: _read_imports,
    3: _read_functions,
    4: _read_tables,
    5: _read_memories,
    6: _read_globals,
    7: _read_exports,
    8: _read_start,
}
