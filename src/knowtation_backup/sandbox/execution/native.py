"""
A thin layer over wasmtime's C interface: instances whose calls cost a few microseconds.

`wasmtime.Func` builds type and value objects on every call (36 us) and keeps the exception of a host function in a
module global, which two engines in two threads would fight over. The C interface has unchecked variants: arguments and
results in one array of 16-byte slots. Types are checked here once, when a function is looked up. This is the only
module of the sandbox that touches private names of the wasmtime package (``_ffi``, its ctypes declarations).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import wasmtime
from wasmtime import _ffi

__all__ = ["HostCallback", "HostFunction", "NativeInstance", "WasmTrap", "make_callback"]

Slots = Any
"""A pointer to unsigned 64-bit numbers; slot *i* starts at ``[2 * i]``."""
HostCallback = Callable[[Slots], None]

ffi: Any = _ffi  # its annotations do not fit what ctypes returns
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t
)
_INSTANTIATION_FUEL = 1 << 40
_NO_FINALIZER = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
_TRAP_TEXT = b"host function failed"

_KINDS = {
    "i32": wasmtime.ValType.i32,
    "i64": wasmtime.ValType.i64,
    "f32": wasmtime.ValType.f32,
    "f64": wasmtime.ValType.f64,
}


class WasmTrap(Exception):  # noqa: N818 - a trap is what it is
    """Wasm stopped by itself; ``code`` is wasmtime's, `None` for host errors."""

    def __init__(self, code: wasmtime.TrapCode | None) -> None:
        super().__init__(code.name if code else "host")
        self.code = code


class HostFunction:
    """A function offered to Wasm: its type by value-type names and what runs."""

    __slots__ = ("callback", "parameters", "results")

    def __init__(self, parameters: Sequence[str], results: Sequence[str], callback: Any) -> None:
        self.parameters: tuple[str, ...] = tuple(parameters)
        self.results: tuple[str, ...] = tuple(results)
        self.callback: Any = callback


def make_callback(function: HostCallback, on_error: Callable[[BaseException], None]) -> Any:
    """
    Wrap *function* for `HostFunction`; it gets the slots and leaves its result in slot 0.

    An exception becomes a trap and goes to *on_error* first: it cannot travel through Wasm frames.
    """

    def callback(_environment: int, _caller: int, slots: Slots, _count: int) -> int:
        try:
            function(slots)
        except BaseException as error:  # noqa: BLE001 - handed over, raised again by the caller of the instance
            on_error(error)
            trap = ffi.wasmtime_trap_new(ctypes.create_string_buffer(_TRAP_TEXT), len(_TRAP_TEXT))
            return ctypes.cast(trap, ctypes.c_void_p).value or 0
        return 0

    return _CALLBACK(callback)


class NativeInstance:
    """
    A store with one instance, driven through the C interface. Not thread-safe; close it by hand.

    Args:
        engine: Where the module was compiled.
        module: Without start section.
        imports: One host function per import, in import order.

    Raises:
        wasmtime.WasmtimeError: Instantiation failed (types, memory reservation).
        WasmTrap: A segment lies outside its memory or table.
    """

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, imports: Sequence[HostFunction]) -> None:
        self._store = wasmtime.Store(engine)
        self._context = self._store._context()  # noqa: SLF001 - see the module documentation
        self._keep = list(imports)  # ctypes callbacks must outlive the store
        externs = (ffi.wasmtime_extern_t * len(imports))()
        for position, host in enumerate(imports):
            externs[position].kind = ffi.WASMTIME_EXTERN_FUNC.value
            externs[position].of.func = self._host_function(host, _function_type(engine, host))
        self._instance = ffi.wasmtime_instance_t()
        self._trap: Any = ctypes.POINTER(ffi.wasm_trap_t)()
        try:
            self.set_fuel(_INSTANTIATION_FUEL)  # active data segments cost fuel
            self._raise(
                ffi.wasmtime_instance_new(
                    self._context,
                    module.ptr(),
                    externs,
                    len(imports),
                    ctypes.byref(self._instance),
                    ctypes.byref(self._trap),
                )
            )
        except BaseException:
            self.close()
            raise
        self._functions: dict[str, Any] = {}
        self._checked: set[int] = set()
        self._memory: Any = None
        self._table: Any = None

    def close(self) -> None:
        """Free the store with its memories."""
        self._store.close()

    def set_fuel(self, fuel: int) -> None:
        """Set the instructions that may still run."""
        error = ffi.wasmtime_context_set_fuel(self._context, fuel)
        if error:
            raise _error(error)

    def fuel(self) -> int:
        """Return the instructions left."""
        remaining = ctypes.c_uint64()
        error = ffi.wasmtime_context_get_fuel(self._context, ctypes.byref(remaining))
        if error:
            raise _error(error)
        return remaining.value

    def open_memory(self, name: str) -> int:
        """Find the exported memory; returns its address, which never changes (memories do not move)."""
        self._memory = self._export(name, ffi.WASMTIME_EXTERN_MEMORY.value).memory
        pointer = ffi.wasmtime_memory_data(self._context, ctypes.byref(self._memory))
        return ctypes.cast(pointer, ctypes.c_void_p).value or 0

    def open_table(self, name: str) -> None:
        """Find the exported table."""
        self._table = self._export(name, ffi.WASMTIME_EXTERN_TABLE.value).table

    def memory_size(self) -> int:
        """Return the present size of the memory in bytes."""
        return int(ffi.wasmtime_memory_data_size(self._context, ctypes.byref(self._memory)))

    def grow_memory(self, pages: int) -> None:
        """Grow the memory by Wasm pages."""
        previous = ctypes.c_uint64()
        error = ffi.wasmtime_memory_grow(self._context, ctypes.byref(self._memory), pages, ctypes.byref(previous))
        if error:
            raise _error(error)

    def call(self, name: str, slots: ctypes.Array[Any] | None = None) -> None:
        """Call an exported function whose type the caller knows; results are left in *slots*."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._export(name, ffi.WASMTIME_EXTERN_FUNC.value).func
        self._call(function, slots, len(slots) // 2 if slots is not None else 0)

    def call_table(self, index: int, argument_kind: str, argument: int) -> bool:
        """
        Call the table's function *index* with one argument.

        Returns:
            Whether there is such a function, of type ``(argument_kind) -> ()``; `False`: nothing was called.
        """
        value = ffi.wasmtime_val_t()
        if self._table is None or not ffi.wasmtime_table_get(
            self._context, ctypes.byref(self._table), index, ctypes.byref(value)
        ):
            return False
        function = ffi.wasmtime_func_t.from_buffer_copy(value.of.funcref)
        if value.kind != ffi.WASMTIME_FUNCREF.value or function.store_id == 0:
            return False
        # The unchecked call below would corrupt memory on a wrong type, so look at it, once per function.
        identity = int.from_bytes(bytes(function), "little")
        if identity not in self._checked:
            kind = wasmtime.Func._from_raw(function).type(self._store)  # noqa: SLF001 - as above
            if kind.results or [str(parameter) for parameter in kind.params] != [argument_kind]:
                return False
            self._checked.add(identity)
        slots = (ctypes.c_uint64 * 2)(argument, 0)
        self._call(function, slots, 1)
        return True

    def _call(self, function: Any, slots: ctypes.Array[Any] | None, count: int) -> None:
        pointer = ctypes.cast(slots, ctypes.POINTER(ffi.wasmtime_val_raw_t)) if slots is not None else None
        error = ffi.wasmtime_func_call_unchecked(
            self._context, ctypes.byref(function), pointer, count, ctypes.byref(self._trap)
        )
        if error or self._trap:
            self._raise(error)

    def _raise(self, error: Any) -> None:
        if error:
            raise _error(error)
        if self._trap:
            trap, self._trap = self._trap, ctypes.POINTER(ffi.wasm_trap_t)()
            raise WasmTrap(wasmtime.Trap._from_ptr(trap).trap_code)  # noqa: SLF001 - as above

    def _export(self, name: str, kind: int) -> Any:
        raw = name.encode()
        item = ffi.wasmtime_extern_t()
        found = ffi.wasmtime_instance_export_get(
            self._context,
            ctypes.byref(self._instance),
            ctypes.create_string_buffer(raw),
            len(raw),
            ctypes.byref(item),
        )
        if not found or item.kind != kind:
            message = f"module has no export {name} of kind {kind}"
            raise LookupError(message)
        return item.of

    def _host_function(self, host: HostFunction, kind: wasmtime.FuncType) -> Any:
        function = ffi.wasmtime_func_t()
        ffi.wasmtime_func_new_unchecked(
            self._context,
            kind.ptr(),
            ctypes.cast(host.callback, ffi.wasmtime_func_unchecked_callback_t),
            None,
            _NO_FINALIZER,
            ctypes.byref(function),
        )
        return function


# Making a type takes a dozen calls, and an instance has some thirty. A type belongs to the first engine that uses it.
_TYPES: weakref.WeakKeyDictionary[wasmtime.Engine, dict[tuple[tuple[str, ...], tuple[str, ...]], wasmtime.FuncType]] = (
    weakref.WeakKeyDictionary()
)


def _function_type(engine: wasmtime.Engine, host: HostFunction) -> wasmtime.FuncType:
    known = _TYPES.setdefault(engine, {})
    form = host.parameters, host.results
    kind = known.get(form)
    if kind is None:
        parameters, results = ([_KINDS[name]() for name in names] for names in form)
        kind = known[form] = wasmtime.FuncType(parameters, results)
    return kind


def _error(pointer: Any) -> wasmtime.WasmtimeError:
    return wasmtime.WasmtimeError._from_ptr(pointer)  # noqa: SLF001 - as above
