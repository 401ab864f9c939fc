"""
Snapshot contents over the wire: reading slices, and building snapshots by upload.

A slice is taken straight from the image's own memory into the reply.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..candid.floats import float32_bytes
from ..execution.effects import heap_limit
from ..execution.images import MemoryImage
from ..execution.stable import MAX_STABLE_PAGES
from ..messages import Rejected
from ..state import WASM_PAGE_SIZE, Canister, GlobalValue, Snapshot
from .context import Handler, ManagementContext, Reply
from .install import MAX_CHUNK_BYTES, add_chunk
from .snapshots import SnapshotStore

if TYPE_CHECKING:
    from ..replica.replica import ManagementRequest

__all__ = ["MAX_SLICE_BYTES", "SnapshotData"]

MAX_SLICE_BYTES: Final = 2_000_000
_MAX_MODULE_BYTES: Final = 100 << 20
_MAX_GLOBALS: Final = 1000
_MAX_CERTIFIED_BYTES: Final = 32


class SnapshotData:
    """Handlers of reading data and of uploading metadata and data."""

    def __init__(self, context: ManagementContext, store: SnapshotStore) -> None:
        self._context = context
        self._store = store

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by method name."""
        return {
            "read_canister_snapshot_data": self.read_data,
            "upload_canister_snapshot_metadata": self.upload_metadata,
            "upload_canister_snapshot_data": self.upload_data,
        }

    def read_data(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Return at most `MAX_SLICE_BYTES` of one part, or one Wasm chunk."""
        canister = self._store.readable(argument, request.caller)
        snapshot = self._store.own(argument["snapshot_id"], canister)
        kind, where = argument["kind"]
        if kind == "wasm_chunk":
            self._context.charge_instructions(canister, MAX_CHUNK_BYTES)
            chunk = snapshot.chunk_store.get(where["hash"])
            if chunk is None:
                raise Rejected(
                    "IC0504", f"Error from Wasm chunk store: WasmChunkStore: chunk {where['hash'].hex()} not found."
                )
            return Reply(({"chunk": chunk},))
        offset, size = where["offset"], where["size"]
        if size > MAX_SLICE_BYTES:
            raise Rejected("IC0408", f"Requested slice too large: {size} > {MAX_SLICE_BYTES}")
        part = _part(snapshot, kind)
        _require_inside(part, offset, size)
        self._context.charge_instructions(canister, size)
        if isinstance(part, MemoryImage):
            return Reply(({"chunk": part.view(offset, size)},))  # copied once, into the reply
        return Reply(({"chunk": memoryview(part)[offset : offset + size]},))

    def upload_metadata(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Make a zero-filled snapshot of the given sizes."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        _validate_metadata(canister, argument)
        sizes = [argument[name] for name in ("wasm_module_size", "wasm_memory_size", "stable_memory_size")]
        replaced = self._store.prepare(canister, argument["replace_snapshot"], sum(sizes))
        timer, hook = argument["global_timer"], argument["on_low_wasm_memory_hook_status"]
        now = self._context.now_ns
        snapshot = Snapshot(
            snapshot_id=self._store.next_id(canister),
            taken_at=now,
            uploaded=True,
            module=bytearray(sizes[0]),
            heap=MemoryImage(sizes[1]),
            stable=MemoryImage(sizes[2]),
            global_values=tuple(value_to_global(item) for item in argument["globals"]),
            chunk_store={},
            canister_version=canister.version,
            certified_data=argument["certified_data"],
            global_timer=None if timer is None else timer[1] or 0,
            hook_status=hook[0] if hook else None,
        )
        self._store.put(canister, snapshot, replaced)
        return Reply(({"snapshot_id": snapshot.snapshot_id},))

    def upload_data(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Write one slice of an uploaded snapshot, or add a Wasm chunk to it."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        snapshot = self._store.own(argument["snapshot_id"], canister)
        if not snapshot.uploaded:
            raise Rejected("IC0409", "Only canister snapshots created by metadata upload can be mutated.")
        self._context.require_chunk_heap_delta(canister)
        (kind, where), chunk = argument["kind"], argument["chunk"]
        if kind == "wasm_chunk":
            self._context.require_growth(canister, MAX_CHUNK_BYTES)
            self._context.charge_instructions(canister, MAX_CHUNK_BYTES)
            add_chunk(snapshot.chunk_store, chunk)
        else:
            part = _part(snapshot, kind)
            _require_inside(part, where["offset"], len(chunk))
            self._context.charge_instructions(canister, len(chunk))
            if isinstance(part, MemoryImage):
                part.write(where["offset"], chunk)
            elif isinstance(part, bytearray):
                part[where["offset"] : where["offset"] + len(chunk)] = chunk
        canister.heap_delta_debit += len(chunk)
        if delay := self._context.options.checkpoint_delay_seconds:
            loadable_at = self._context.now_ns + round(delay * 1e9)
            canister.snapshots[snapshot.snapshot_id] = attrs.evolve(snapshot, loadable_at=loadable_at)
        return Reply()


def _part(snapshot: Snapshot, kind: str) -> MemoryImage | bytes | bytearray:
    if kind == "wasm_module":
        return snapshot.module
    return snapshot.heap if kind == "wasm_memory" else snapshot.stable


def _require_inside(part: MemoryImage | bytes | bytearray, offset: int, size: int) -> None:
    length = part.size_bytes if isinstance(part, MemoryImage) else len(part)
    if offset + size > length:
        raise Rejected(
            "IC0408",
            f"Invalid subslice into wasm module / main memory / stable memory: offset: {offset}, size: {size}",
        )


def value_to_global(value: tuple[str, int | float]) -> GlobalValue:
    """Return a global from its Candid form."""
    kind, number = value
    if kind in ("f32", "f64"):
        data = float32_bytes(number) if kind == "f32" else struct.pack("<d", number)
        return GlobalValue(kind, int.from_bytes(data, "little"))
    width = {"i32": 32, "i64": 64, "v128": 128}[kind]
    integer = int(number)
    if kind == "v128" and integer >> width:
        raise Rejected("IC0408", "Error decoding candid: a v128 global has at most 128 bits")
    return GlobalValue(kind, integer % (1 << width))


def _validate_metadata(canister: Canister, argument: dict[str, Any]) -> None:
    """Check what an upload announces; raises `Rejected` IC0408 with the network's name of the fault."""
    module, heap, stable = (argument[name] for name in ("wasm_module_size", "wasm_memory_size", "stable_memory_size"))
    # The limit follows the module installed now; an empty canister counts as 32-bit.
    memory64 = canister.code is not None and canister.code.module.memory64
    faults = {
        "WasmModuleEmpty": module == 0,
        "WasmModuleTooLarge": module > _MAX_MODULE_BYTES,
        "WasmMemoryNotPageAligned": heap % WASM_PAGE_SIZE != 0,
        "WasmMemoryTooLarge": heap > heap_limit(memory64=memory64),
        "StableMemoryNotPageAligned": stable % WASM_PAGE_SIZE != 0,
        "StableMemoryTooLarge": stable > MAX_STABLE_PAGES * WASM_PAGE_SIZE,
        "ExportedGlobalsTooLarge": len(argument["globals"]) > _MAX_GLOBALS,
        "CertifiedDataTooLarge": len(argument["certified_data"]) > _MAX_CERTIFIED_BYTES,
    }
    for name, found in faults.items():
        if found:
            raise Rejected("IC0408", f"Snapshot Metadata contains invalid data: {name}")
