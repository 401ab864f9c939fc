"""A live instance of a canister's module, bound to its committed state; runs messages, then commits or rolls back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import wasmtime

from ..messages import Rejected
from ..state import WASM_PAGE_SIZE, Canister, GlobalValue
from .effects import out_of_memory
from .heap import Heap, SavedPages
from .ic0 import trapped
from .images import MemoryImage
from .message import Message, TableEntry
from .native import NativeInstance, WasmTrap
from .stable import StableMemory
from .system_api import Environment, SystemApi
from .wasm_module import (
    GET_GLOBALS_EXPORT,
    MEMORY_EXPORT,
    SET_GLOBALS_EXPORT,
    TABLE_EXPORT,
    GlobalSlot,
    WasmModule,
)

__all__ = ["Instance"]

_HOUSEKEEPING_FUEL = 1 << 40
_SLOT_BYTES = 16
_WIDTHS = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}

_TRAP_TEXTS = {
    wasmtime.TrapCode.STACK_OVERFLOW: "stack overflow",
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: "heap out of bounds",
    wasmtime.TrapCode.TABLE_OUT_OF_BOUNDS: "table out of bounds",
    wasmtime.TrapCode.INDIRECT_CALL_TO_NULL: "uninitialized element",
    wasmtime.TrapCode.BAD_SIGNATURE: "indirect call type mismatch",
    wasmtime.TrapCode.INTEGER_OVERFLOW: "integer overflow",
    wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO: "integer division by 0",
    wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER: "invalid conversion to integer",
    wasmtime.TrapCode.UNREACHABLE: "unreachable",
}


class Instance:
    """
    One instance. Not thread-safe; `close` it.

    What is not rolled back: the table and dropped data or element segments. Canisters made by the usual compilers
    change neither after initialisation, and a fresh instance has both as the module declares them (as on the network,
    where they are not part of the canister's state either).

    Args:
        wasm: The wasmtime engine.
        compiled: The rewritten module.
        module: What is known about it.
        environment: The subnet.
        canister: For the System API.
        image: Committed heap; the memory is grown to its size.
        heap_factory: Makes the isolation for an image.
        globals_: Committed globals in slot order; `None` leaves the module's initial values.
        memory_bytes: Least size of the memory (an upgrade that keeps a memory grown by pre_upgrade).
    """

    def __init__(  # noqa: PLR0913 - wiring, called in one place
        self,
        *,
        wasm: wasmtime.Engine,
        compiled: wasmtime.Module,
        module: WasmModule,
        environment: Environment,
        canister: Canister,
        image: MemoryImage,
        heap_factory: Callable[[MemoryImage], Heap],
        globals_: Sequence[GlobalValue] | None = None,
        memory_bytes: int = 0,
    ) -> None:
        self.module = module
        self.api: SystemApi = SystemApi(environment, canister, memory64=module.memory64)
        self._heap = heap_factory(image)
        self._pointer_kind = "i64" if module.memory64 else "i32"
        self._native = NativeInstance(wasm, compiled, [self.api.host_function(item) for item in module.imports])
        try:
            self._address = self._open_memory(max(image.size_bytes, memory_bytes))
            if module.has_table:
                self._native.open_table(TABLE_EXPORT)
            self.api.bind(self._native, self._address)
            slots = module.global_slots
            self._mutable = [position for position, slot in enumerate(slots) if slot.mutable]
            self._get_buffer = (ctypes.c_uint64 * (2 * len(slots)))()
            self._set_buffer = (ctypes.c_uint64 * (2 * len(self._mutable)))()
            if globals_ is not None:
                self._set_globals(_encode_globals(slots, globals_))
            self._committed = self._read_globals()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the instance; its state in the image stays."""
        self._native.close()

    @property
    def memory_size(self) -> int:
        """Present size of the memory in bytes."""
        return self._native.memory_size() if self._address else 0

    def run(
        self,
        message: Message,
        *,
        stable: StableMemory,
        fuel_limit: int,
        certified_data: bytes | None = None,
        global_timer: int | None = None,
    ) -> tuple[Rejected | None, int]:
        """
        Execute one message without committing anything.

        Returns:
            Why it failed, without the canister's name (`None`: it succeeded), and the instructions used. Effects are in
            ``api``.
        """
        api, native = self.api, self._native
        api.begin(
            message, stable=stable, fuel_limit=fuel_limit, certified_data=certified_data, global_timer=global_timer
        )
        native.set_fuel(fuel_limit)
        failure: Rejected | None = None
        try:
            entry = message.entry
            if isinstance(entry, TableEntry):
                if not native.call_table(entry.function, self._pointer_kind, entry.environment):
                    failure = trapped("callback is not a function of the expected type in the table")
            else:
                native.call(entry)
        except (WasmTrap, wasmtime.WasmtimeError) as trap:
            # A failed host function arrives as WasmtimeError; what really happened is in api.error.
            if isinstance(api.error, Rejected):
                failure = api.error
            elif isinstance(api.error, OSError | MemoryError):
                failure = out_of_memory(api.error)
            elif api.error is not None:
                raise api.error from None
            elif isinstance(trap, WasmTrap):
                failure = self._trap_failure(trap, fuel_limit)
            else:
                raise
        return failure, fuel_limit - native.fuel()

    def changed_pages(self) -> SavedPages:
        """Return copies of the heap pages that differ from the committed image."""
        return self._heap.changed_pages(self.memory_size)

    def apply_pages(self, pages: SavedPages) -> None:
        """Write pages into the memory, uncommitted."""
        for offset, data in pages:
            ctypes.memmove(self._address + offset, data, len(data))

    def globals_now(self) -> bytes:
        """Return the raw globals; input of `restore`."""
        return self._read_globals()

    def restore(self, globals_raw: bytes, pages: SavedPages) -> bool:
        """Return to an uncommitted state saved with `globals_now` and `changed_pages`; `False` as in `rollback`."""
        if not self.rollback():
            return False
        self.apply_pages(pages)
        self._set_globals(globals_raw)
        return True

    def commit(self, values: list[GlobalValue]) -> int:
        """
        Make the memory and globals of now the committed ones.

        Args:
            values: The canister's globals, updated in place; empty or one per slot.

        Returns:
            Bytes of heap pages written.

        Raises:
            OSError: There is no room; the committed state is as before, and this one must be rolled back.
        """
        changed = self._heap.commit(self.memory_size) if self._address else 0
        raw = self._read_globals()
        if not values:
            values.extend(_decode_global(slot, raw, position) for position, slot in enumerate(self.module.global_slots))
        elif raw != self._committed:
            old = self._committed
            for position, slot in enumerate(self.module.global_slots):
                start = position * _SLOT_BYTES
                if raw[start : start + _SLOT_BYTES] != old[start : start + _SLOT_BYTES]:
                    values[position] = _decode_global(slot, raw, position)
        self._committed = raw
        return changed

    def rollback(self) -> bool:
        """Return to the committed state; `False` when the memory has grown: the instance must be thrown away."""
        if self._address and not self._heap.rollback(self.memory_size):
            return False
        self._set_globals(self._committed)
        return True

    def _open_memory(self, memory_bytes: int) -> int:
        if not self.module.has_memory:
            return 0
        address = self._native.open_memory(MEMORY_EXPORT)
        missing = memory_bytes - self._native.memory_size()
        if missing > 0:
            self._native.grow_memory(missing // WASM_PAGE_SIZE)
        self._heap.attach(address, self._native.memory_size())
        return address

    def _read_globals(self) -> bytes:
        if not self._get_buffer:
            return b""
        self._native.set_fuel(_HOUSEKEEPING_FUEL)
        self._native.call(GET_GLOBALS_EXPORT, self._get_buffer)
        return bytes(self._get_buffer)

    def _set_globals(self, raw: bytes) -> None:
        if not self._mutable:
            return
        if len(self._set_buffer) == len(self._get_buffer):
            ctypes.memmove(self._set_buffer, raw, len(raw))
        else:
            mutable = b"".join(raw[_SLOT_BYTES * i : _SLOT_BYTES * (i + 1)] for i in self._mutable)
            ctypes.memmove(self._set_buffer, mutable, len(mutable))
        self._native.set_fuel(_HOUSEKEEPING_FUEL)
        self._native.call(SET_GLOBALS_EXPORT, self._set_buffer)

    @staticmethod
    def _trap_failure(trap: WasmTrap, fuel_limit: int) -> Rejected:
        if trap.code is wasmtime.TrapCode.OUT_OF_FUEL:
            text = f"Canister exceeded the limit of {fuel_limit} instructions for single message execution."
            return Rejected("IC0522", text)
        return trapped(_TRAP_TEXTS.get(trap.code, "unknown") if trap.code else "unknown")


def _decode_global(slot: GlobalSlot, raw: bytes, position: int) -> GlobalValue:
    start = position * _SLOT_BYTES
    return GlobalValue(slot.kind, int.from_bytes(raw[start : start + _WIDTHS[slot.kind]], "little"))


def _encode_globals(slots: Sequence[GlobalSlot], values: Sequence[GlobalValue]) -> bytes:
    return b"".join(value.bits.to_bytes(_SLOT_BYTES, "little") for _, value in zip(slots, values, strict=True))
