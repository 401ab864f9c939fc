"""Compiles rewritten modules with wasmtime and keeps the results, in memory and optionally on disk."""

from __future__ import annotations

import collections
import hashlib
import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path

import wasmtime

from ..messages import Rejected
from .wasm_module import WasmModule, rewrite

__all__ = ["MAX_HEAP_BYTES", "Compiler"]

MAX_HEAP_BYTES = 6 << 30
"""Address space reserved for every memory; memories do not move and cannot grow beyond it."""
_STACK_BYTES = 2 << 20
"""The most wasmtime allows with its default settings; threads of Python have at least four times that."""
_KEPT_MODULES = 64
_REWRITE_VERSION = 1
"""To be raised when `rewrite` changes: compiled modules on disk depend on it."""


class Compiler:
    """
    Holds one wasmtime engine and an LRU of compiled modules by hash.

    Args:
        cache_directory: Compiled modules (machine code, trusted when read back) are kept here; `None` keeps none.
    """

    def __init__(self, cache_directory: Path | None) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        config.wasm_memory64 = True
        config.wasm_multi_memory = False
        config.wasm_threads = False
        config.wasm_exceptions = False
        config.max_wasm_stack = _STACK_BYTES
        # What the mapped heap isolation needs: a fixed address for the largest heap, and no mapping by wasmtime itself.
        config.memory_reservation = MAX_HEAP_BYTES
        config.memory_may_move = False
        config.memory_init_cow = False
        self.wasm: wasmtime.Engine = wasmtime.Engine(config)
        self._directory = cache_directory
        self._modules: collections.OrderedDict[bytes, wasmtime.Module] = collections.OrderedDict()

    def compile(self, module: WasmModule) -> wasmtime.Module:
        """
        Return the compiled form of a module.

        Raises:
            Rejected: IC0505, the instructions are not valid.
        """
        compiled = self._modules.get(module.hash)
        if compiled is None:
            compiled = self._load(module) or self._compile(module)
            self._modules[module.hash] = compiled
            while len(self._modules) > _KEPT_MODULES:
                self._modules.popitem(last=False)
        else:
            self._modules.move_to_end(module.hash)
        return compiled

    def _compile(self, module: WasmModule) -> wasmtime.Module:
        try:
            compiled = wasmtime.Module(self.wasm, rewrite(module))
        except wasmtime.WasmtimeError as error:
            text = f"Canister's Wasm module is not valid: Wasmtime failed to validate wasm module: {error}"
            raise Rejected("IC0505", text) from error
        if self._directory:
            self._store(self._path(module), bytes(compiled.serialize()))
        return compiled

    def _path(self, module: WasmModule) -> Path:
        version = (
            f"{importlib.metadata.version('wasmtime')} {platform.machine()} {platform.system()} {_REWRITE_VERSION}"
        )
        tag = hashlib.sha256(version.encode()).hexdigest()[:16]
        return Path(self._directory or "", f"{module.hash.hex()}-{tag}.cwasm")

    def _load(self, module: WasmModule) -> wasmtime.Module | None:
        if not self._directory:
            return None
        path = self._path(module)
        if not path.exists():
            return None
        try:
            return wasmtime.Module.deserialize_file(self.wasm, str(path))
        except wasmtime.WasmtimeError:
            # Made with other settings or for another processor: wasmtime checks both. Compiling replaces it.
            return None

    @staticmethod
    def _store(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".cwasm-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
