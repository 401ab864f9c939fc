"""The management canister's methods that install code, whole or from the chunk store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from .. import accounting, principal
from ..messages import Rejected
from ..state import Canister
from .context import Handler, ManagementContext, Reply, chunk_store_error

if TYPE_CHECKING:
    from ..execution.wasm_module import WasmModule
    from ..replica.replica import ManagementRequest

__all__ = ["MAX_CHUNKS", "MAX_CHUNK_BYTES", "Installer", "add_chunk"]

MAX_CHUNK_BYTES: Final = 1 << 20
MAX_CHUNKS: Final = 100


def add_chunk(store: dict[bytes, bytes], chunk: bytes) -> bytes:
    """
    Put *chunk* into a chunk store and return its SHA-256; one that is there already costs nothing.

    Raises:
        Rejected: IC0504; the chunk is too large or the store full.
    """
    digest = hashlib.sha256(chunk).digest()
    if digest in store:
        return digest
    if len(chunk) > MAX_CHUNK_BYTES:
        raise chunk_store_error(f"Wasm chunk size {len(chunk)} exceeds the maximum chunk size of {MAX_CHUNK_BYTES}")
    if len(store) >= MAX_CHUNKS:
        raise chunk_store_error(
            f"Wasm chunk store has already reached maximum capacity of {MAX_CHUNKS * MAX_CHUNK_BYTES} bytes "
            f"or the maximum number of entries, {MAX_CHUNKS}"
        )
    store[digest] = chunk
    return digest


class Installer:
    """Handlers."""

    def __init__(self, context: ManagementContext) -> None:
        self._context = context

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by method name."""
        return {
            "install_code": self.install_code,
            "install_chunked_code": self.install_chunked_code,
            "upload_chunk": self.upload_chunk,
            "clear_chunk_store": self.clear_chunk_store,
            "stored_chunks": self.stored_chunks,
        }

    def install_code(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Install, reinstall or upgrade."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        self._install(request, canister, argument["wasm_module"], argument)
        return Reply()

    def install_chunked_code(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Install, reinstall or upgrade with a module put together from a chunk store."""
        target = self._context.controlled(argument["target_canister"], request.caller)
        store_id = argument["store_canister"]
        store = target
        if store_id is not None and store_id != target.canister_id:
            store = self._context.controlled(store_id, request.caller, allow_self=True)
        chunks = []
        for item in argument["chunk_hashes_list"]:
            chunk = store.chunk_store.get(item["hash"])
            if chunk is None:
                raise chunk_store_error(f"Chunk hash {item['hash'].hex()} was not found")
            chunks.append(chunk)
        module = b"".join(chunks)
        digest, expected = hashlib.sha256(module).digest(), argument["wasm_module_hash"]
        if digest != expected:
            raise chunk_store_error(f"Wasm module hash {digest.hex()} does not match given hash {expected.hex()}")
        self._install(request, target, module, argument)
        return Reply()

    def _install(self, request: ManagementRequest, canister: Canister, data: bytes, argument: dict[str, Any]) -> None:
        accounting.require_cycles(canister, accounting.execution_cost(0, wasm64=False))
        mode, _ = argument["mode"]
        text = principal.to_text(canister.canister_id)
        if mode == "install" and canister.code is not None:
            raise Rejected(
                "IC0514",
                f"Canister {text} cannot be installed because the canister is not empty. "
                "Try installing with mode='reinstall' instead.",
            )
        if mode == "upgrade" and canister.code is None:
            raise Rejected(
                "IC0537",
                f"Error from Canister {text}: Attempted to execute a message, "
                "but the canister contains no Wasm module.",
            )
        module = self.parse(canister, data)
        self._context.require_growth(canister, module.memory_minimum_bytes + len(data))
        instructions = self._run(request, canister, module, argument)
        cost = accounting.execution_cost(instructions, wasm64=module.memory64)
        accounting.charge(canister, accounting.INSTRUCTIONS, cost)
        details = {"mode": (mode, None), "module_hash": module.hash}
        self._context.record(canister, request, ("code_deployment", details))

    def parse(self, canister: Canister, data: bytes) -> WasmModule:
        """
        Parse a module on behalf of *canister*.

        Raises:
            Rejected: IC0505, naming the canister.
        """
        try:
            return self._context.replica.engine.parse_module(data)
        except Rejected as rejected:
            prefix = f"Error from Canister {principal.to_text(canister.canister_id)}: "
            raise Rejected(rejected.error_code, prefix + rejected.message) from rejected

    def _run(self, request: ManagementRequest, canister: Canister, module: WasmModule, argument: dict[str, Any]) -> int:
        (mode, options), arg, caller = argument["mode"], argument["arg"], request.caller
        engine = self._context.replica.engine
        if mode == "install":
            return engine.install(canister, module, arg, caller)
        if mode == "reinstall":
            return engine.reinstall(canister, module, arg, caller)
        options = options or {}
        persistence = options.get("wasm_memory_persistence")
        return engine.upgrade(
            canister,
            module,
            arg,
            caller,
            skip_pre_upgrade=bool(options.get("skip_pre_upgrade")),
            wasm_memory_persistence=persistence[0] if persistence else None,
        )

    # Chunk store

    def upload_chunk(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Store one chunk."""
        canister = self._context.controlled(argument["canister_id"], request.caller, allow_self=True)
        self._context.require_chunk_heap_delta(canister)
        self._context.require_growth(canister, MAX_CHUNK_BYTES)
        digest = add_chunk(canister.chunk_store, argument["chunk"])
        canister.heap_delta_debit += len(argument["chunk"])
        return Reply(({"hash": digest},))

    def clear_chunk_store(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Remove all chunks."""
        self._context.controlled(argument["canister_id"], request.caller, allow_self=True).chunk_store.clear()
        return Reply()

    def stored_chunks(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """List the hashes of the chunks."""
        canister = self._context.controlled(argument["canister_id"], request.caller, allow_self=True)
        return Reply(([{"hash": digest} for digest in sorted(canister.chunk_store)],))
