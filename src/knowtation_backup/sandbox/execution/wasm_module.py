"""
Canister modules: reads what the sandbox must know from a Wasm binary and rewrites it so that its state can be saved.

A Wasm binary is ``00 61 73 6d 01 00 00 00`` and sections ``id: byte, size: LEB128, content``. The rewritten module

- has no start section; the start function is exported as ``canister_start`` (internet-computer reference, F.3);
- exports memory 0 and table 0 under private names, whatever the module called them;
- has two more functions, which return all globals that belong to the state in one call, and set the mutable ones.
  (The replica exports every hidden mutable global instead; one call for all is an order of magnitude cheaper here.)
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Mapping

import attrs

from ..messages import Rejected
from .wasm_binary import (
    EMPTY_TYPE,
    ExportKind,
    FunctionType,
    Import,
    ParsedModule,
    WasmFormatError,
    append_to_section,
    encode_name,
    encode_u32,
    parse,
    serialize,
)

__all__ = [
    "GET_GLOBALS_EXPORT",
    "HOOKS",
    "MEMORY_EXPORT",
    "SET_GLOBALS_EXPORT",
    "START_EXPORT",
    "TABLE_EXPORT",
    "CustomSection",
    "GlobalSlot",
    "WasmModule",
    "parse_wasm_module",
    "rewrite",
]

START_EXPORT = "canister_start"
MEMORY_EXPORT = "__sandbox_memory"
TABLE_EXPORT = "__sandbox_table"
GET_GLOBALS_EXPORT = "__sandbox_get_globals"
SET_GLOBALS_EXPORT = "__sandbox_set_globals"
EOP_SECTION = "enhanced-orthogonal-persistence"

HOOKS = frozenset(
    {
        "canister_init",
        "canister_pre_upgrade",
        "canister_post_upgrade",
        "canister_inspect_message",
        "canister_heartbeat",
        "canister_global_timer",
        "canister_on_low_wasm_memory",
    }
)
_METHOD_KINDS = {"canister_update": "update", "canister_query": "query", "canister_composite_query": "composite_query"}

# Limits of the network (internet-computer reference, D.2).
MAX_MODULE_BYTES = 100 << 20
MAX_CODE_SECTION_BYTES = 10 << 20
MAX_CUSTOM_SECTIONS_BYTES = 1 << 20
MAX_CUSTOM_SECTIONS = 16
MAX_FUNCTIONS = 50_000
MAX_GLOBALS = 1_000
MAX_METHODS = 1_000
MAX_METHOD_NAMES_BYTES = 20_000


@attrs.frozen(kw_only=True)
class CustomSection:
    """A section ``icp:public NAME`` or ``icp:private NAME``."""

    public: bool
    content: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class GlobalSlot:
    """One global of a canister's state: ``index`` in the module, ``kind`` as in `GlobalValue`."""

    index: int
    kind: str
    mutable: bool


@attrs.frozen(kw_only=True, eq=False)
class WasmModule:
    """A valid canister module and what its binary says about it."""

    data: bytes = attrs.field(repr=False)
    """The bytes as they were sent, maybe gzip: what is stored, snapshotted, and hashed."""
    hash: bytes
    """SHA-256 of ``data``."""
    has_memory: bool
    memory64: bool
    memory_minimum_bytes: int
    has_table: bool
    has_start: bool
    methods: Mapping[str, str]
    """Method name to ``update``, ``query`` or ``composite_query``."""
    hooks: frozenset[str]
    """Those of `HOOKS` the module exports."""
    custom_sections: Mapping[str, CustomSection]
    """By name without ``icp:public`` or ``icp:private``."""
    custom_sections_size_bytes: int
    global_slots: tuple[GlobalSlot, ...]
    """Snapshot order: exported globals in export order, then hidden mutable globals by index."""
    imports: tuple[Import, ...]

    @property
    def enhanced_orthogonal_persistence(self) -> bool:
        """Whether the module asks for its main memory to be kept on upgrade."""
        return EOP_SECTION in self.custom_sections


def parse_wasm_module(data: bytes) -> WasmModule:
    """
    Read a module, plain or gzip, and check it against the rules of the network.

    Instructions are not validated here: compiling does that.

    Raises:
        Rejected: IC0505 with the reason.
    """
    try:
        parsed = parse(_decompressed(data))
        return _describe(bytes(data), parsed)
    except WasmFormatError as error:
        raise _invalid(str(error)) from error


def rewrite(module: WasmModule) -> bytes:
    """Return the binary to execute; see the module documentation for the changes."""
    parsed = parse(_decompressed(module.data))
    sections = parsed.sections
    exports: list[bytes] = []
    if module.has_start:
        exports.append(_export(START_EXPORT, ExportKind.FUNCTION, parsed.start))
        sections.pop(8)
    if module.has_memory:
        exports.append(_export(MEMORY_EXPORT, ExportKind.MEMORY, 0))
    if module.has_table:
        exports.append(_export(TABLE_EXPORT, ExportKind.TABLE, 0))
    if module.global_slots:
        slots = module.global_slots
        mutable = [slot for slot in slots if slot.mutable]
        types = [
            FunctionType((), tuple(slot.kind for slot in slots)),
            FunctionType(tuple(slot.kind for slot in mutable), ()),
        ]
        first_type, first_function = len(parsed.types), parsed.function_count
        append_to_section(sections, 1, [item.encode() for item in types])
        append_to_section(sections, 3, [encode_u32(first_type), encode_u32(first_type + 1)])
        getter = b"".join(b"\x23" + encode_u32(slot.index) for slot in slots)
        setter = b"".join(
            b"\x20" + encode_u32(position) + b"\x24" + encode_u32(slot.index) for position, slot in enumerate(mutable)
        )
        append_to_section(sections, 10, [_body(getter), _body(setter)])
        exports.append(_export(GET_GLOBALS_EXPORT, ExportKind.FUNCTION, first_function))
        exports.append(_export(SET_GLOBALS_EXPORT, ExportKind.FUNCTION, first_function + 1))
    append_to_section(sections, 7, exports)
    return serialize(sections)


def _export(name: str, kind: ExportKind, index: int) -> bytes:
    return encode_name(name) + bytes([kind]) + encode_u32(index)


def _body(instructions: bytes) -> bytes:
    code = b"\x00" + instructions + b"\x0b"  # no locals, instructions, end
    return encode_u32(len(code)) + code


def _invalid(reason: str) -> Rejected:
    return Rejected("IC0505", f"Canister's Wasm module is not valid: {reason}")


def _decompressed(data: bytes) -> bytes:
    if len(data) > MAX_MODULE_BYTES:
        message = f"Wasm module of {len(data)} bytes is larger than the maximum of {MAX_MODULE_BYTES}"
        raise WasmFormatError(message)
    if data[:3] != b"\x1f\x8b\x08":
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            plain = file.read(MAX_MODULE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        message = f"failed to decompress the gzip module: {error}"
        raise WasmFormatError(message) from error
    if len(plain) > MAX_MODULE_BYTES:
        message = f"decompressed Wasm module is larger than the maximum of {MAX_MODULE_BYTES} bytes"
        raise WasmFormatError(message)
    return plain


def _describe(data: bytes, parsed: ParsedModule) -> WasmModule:
    methods: dict[str, str] = {}
    hooks: set[str] = set()
    for name, kind, index in parsed.exports:
        if name in {START_EXPORT, MEMORY_EXPORT, TABLE_EXPORT, GET_GLOBALS_EXPORT, SET_GLOBALS_EXPORT}:
            message = f"export {name} is reserved"
            raise WasmFormatError(message)
        prefix, space, method = name.partition(" ")
        if kind != ExportKind.FUNCTION or not (name in HOOKS or (space and prefix in _METHOD_KINDS)):
            continue
        if parsed.function_type(index) != EMPTY_TYPE:
            message = f"Expected return type [] and parameters [] for '{name}'"
            raise WasmFormatError(message)
        if name in HOOKS:
            hooks.add(name)
            continue
        if method in methods:
            message = f"Duplicate export '{method}': exported with kinds {methods[method]} and {_METHOD_KINDS[prefix]}"
            raise WasmFormatError(message)
        methods[method] = _METHOD_KINDS[prefix]
    _check_limits(parsed, methods)
    custom_sections, custom_bytes = _custom_sections(parsed)
    return WasmModule(
        data=data,
        hash=hashlib.sha256(data).digest(),
        has_memory=parsed.memory is not None,
        memory64=parsed.memory is not None and parsed.memory.is_64,
        memory_minimum_bytes=parsed.memory.minimum_pages << 16 if parsed.memory else 0,
        has_table=parsed.table_count > 0,
        has_start=parsed.start >= 0,
        methods=methods,
        hooks=frozenset(hooks),
        custom_sections=custom_sections,
        custom_sections_size_bytes=custom_bytes,
        global_slots=_global_slots(parsed),
        imports=tuple(parsed.imports),
    )


def _global_slots(parsed: ParsedModule) -> tuple[GlobalSlot, ...]:
    exported = [index for _, kind, index in parsed.exports if kind == ExportKind.GLOBAL]
    hidden = [index for index, item in enumerate(parsed.globals) if item.mutable and index not in set(exported)]
    slots = []
    for index in exported + hidden:
        if index >= len(parsed.globals):
            message = f"export of unknown global {index}"
            raise WasmFormatError(message)
        item = parsed.globals[index]
        if item.kind not in {"i32", "i64", "f32", "f64", "v128"}:
            message = f"global {index} of type {item.kind} cannot be part of a canister's state"
            raise WasmFormatError(message)
        slots.append(GlobalSlot(index=index, kind=item.kind, mutable=item.mutable))
    return tuple(slots)


def _custom_sections(parsed: ParsedModule) -> tuple[dict[str, CustomSection], int]:
    sections: dict[str, CustomSection] = {}
    size_bytes = 0
    for name, content in parsed.custom:
        visibility, space, short = name.partition(" ")
        if not space or visibility not in {"icp:public", "icp:private"}:
            continue
        if short in sections:
            message = f"duplicate custom section '{short}'"
            raise WasmFormatError(message)
        sections[short] = CustomSection(public=visibility == "icp:public", content=content)
        size_bytes += len(short.encode()) + len(content)
    if len(sections) > MAX_CUSTOM_SECTIONS:
        message = f"{len(sections)} custom sections, at most {MAX_CUSTOM_SECTIONS} are allowed"
        raise WasmFormatError(message)
    if size_bytes > MAX_CUSTOM_SECTIONS_BYTES:
        message = f"custom sections of {size_bytes} bytes, at most {MAX_CUSTOM_SECTIONS_BYTES} are allowed"
        raise WasmFormatError(message)
    return sections, size_bytes


def _check_limits(parsed: ParsedModule, methods: Mapping[str, str]) -> None:
    names_bytes = sum(len(name.encode()) for name in methods)
    code_bytes = len(parsed.sections.get(10, b""))
    defined = parsed.function_count - parsed.imported_functions
    for what, value, limit in (
        ("functions", defined, MAX_FUNCTIONS),
        ("globals", len(parsed.globals), MAX_GLOBALS),
        ("exported methods", len(methods), MAX_METHODS),
        ("bytes of exported method names", names_bytes, MAX_METHOD_NAMES_BYTES),
        ("bytes of code", code_bytes, MAX_CODE_SECTION_BYTES),
    ):
        if value > limit:
            message = f"module has {value} {what}, at most {limit} are allowed"
            raise WasmFormatError(message)
