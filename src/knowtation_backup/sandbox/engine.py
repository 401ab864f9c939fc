"""Runs one message on a canister and commits or rolls back (skeleton: signatures others code against)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .state import Canister, CodeState
    from .wasm_module import WasmModule


class Engine:
    """
    Executes Wasm. Engine operations are atomic: on `Rejected` the canister is exactly as before.

    Division of work: the engine sets ``code``, ``certified_data``, ``global_timer``, ``version`` (+1 for install, reinstall, upgrade,
    uninstall, load and every successful message), ``last_install_at`` and clears ``logs`` (reinstall, uninstall). Management does history,
    controllers, open call contexts (`Replica.reject_open_contexts`), cycles for instructions (the returned count) and
    ``version`` for settings, start and stop. Images in ``canister.code`` belong to the engine: it closes replaced ones.
    """

    def parse_module(self, data: bytes) -> WasmModule:
        """Parse, validate and compile; ``data`` may be gzip. Raises Rejected IC0505."""
        raise NotImplementedError

    def install(self, canister: Canister, module: WasmModule, arg: bytes, caller: bytes) -> int:
        """Return the instructions used. The caller has checked that the canister is empty (IC0514)."""
        raise NotImplementedError

    def reinstall(self, canister: Canister, module: WasmModule, arg: bytes, caller: bytes) -> int:
        """Return the instructions used."""
        raise NotImplementedError

    def upgrade(  # noqa: PLR0913 - fields of the interface
        self,
        canister: Canister,
        module: WasmModule,
        arg: bytes,
        caller: bytes,
        *,
        skip_pre_upgrade: bool = False,
        wasm_memory_persistence: str | None = None,
    ) -> int:
        """Return the instructions used; *wasm_memory_persistence* is ``keep``, ``replace`` or `None`."""
        raise NotImplementedError

    def uninstall(self, canister: Canister) -> None:
        """Remove code, memories, timer, certified data, logs."""
        raise NotImplementedError

    def load_code(self, canister: Canister, code: CodeState, *, certified_data: bytes) -> None:
        """Replace the code state by a snapshot's (takes ownership of the images); no Wasm runs; version + 1."""
        raise NotImplementedError
