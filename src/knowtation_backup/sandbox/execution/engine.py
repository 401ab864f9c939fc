"""Runs one message on a canister and commits it or rolls it back; installs, upgrades and loads code."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import attrs
import wasmtime

from ..messages import Rejected
from ..state import Canister, CodeState, GlobalValue
from .compiler import Compiler
from .effects import (
    apply_effects,
    code_of,
    from_canister,
    heap_limit,
    keep_logs,
    out_of_memory,
    read_outcome,
    torn,
    update_hook_status,
)
from .heap import CopiedHeap, Heap, HeapStatistics, MappedHeap, SavedPages, TornImageError
from .images import MemoryImage
from .instance import Instance
from .message import UNREPLICATED, InstructionLimits, Message, Mode, Outcome
from .native import WasmTrap
from .page_tables import PageTables, mapping_supported
from .sessions import LiveCanister, QuerySession
from .stable import StableMemory
from .system_api import Environment, SystemApi, check_imports
from .wasm_module import START_EXPORT, WasmModule, parse_wasm_module

if TYPE_CHECKING:
    from ..clock import SandboxClock

__all__ = ["Engine", "Isolation"]

Isolation = Literal["auto", "mapped", "copy"]

_LIMITED_MODES: Final = frozenset({Mode.UPDATE, Mode.INIT, Mode.SYSTEM})
"""Modes in which ``wasm_memory_limit`` is enforced; callbacks and upgrades must be able to finish."""


class Engine:
    """
    Executes Wasm. Every operation is atomic: when it fails, the canister is exactly as before, its log apart.

    Where the machine has no room for what a message has written, the message fails with IC0507. Room is reserved before
    anything is written; should a write fail after that, neither the old nor the new memory exists, and the canister
    loses its code (IC0521): snapshots can still be loaded.

    Division of work: the engine sets ``code``, ``certified_data``, ``global_timer``, ``version`` (+1 for install,
    reinstall, upgrade, uninstall, load and every successful message), ``last_install_at``, ``hook_status`` and the
    ``logs`` (cleared by reinstall and uninstall). Management does history, controllers, open call contexts
    (`Replica.reject_open_contexts`), cycles for instructions (the returned count) and ``version`` for settings, start
    and stop. Images in ``canister.code`` belong to the engine: it closes replaced ones. One instance per canister is
    kept alive; a changed ``canister.code`` is noticed.

    Not synchronised: callers hold the replica's execution lock.

    Args:
        clock: Time canisters see.
        subnet_id: Raw principal of the subnet.
        root_key_der: DER of the root key.
        limits: Instructions per message.
        isolation: ``mapped`` (Linux), ``copy``, or the first that works here; see `heap`.
        cache_directory: Where compiled modules are kept between processes; created when missing. Compiled modules are
            machine code: nobody else may write there.
        max_instances: Live instances kept; the least recently used ones beyond are dropped and made again on demand.
    """

    def __init__(  # noqa: PLR0913 - configuration by keyword
        self,
        clock: SandboxClock,
        *,
        subnet_id: bytes,
        root_key_der: bytes,
        limits: InstructionLimits | None = None,
        isolation: Isolation = "auto",
        cache_directory: Path | None = None,
        max_instances: int = 64,
    ) -> None:
        self.limits: InstructionLimits = limits or InstructionLimits()
        self.isolation = isolation if isolation != "auto" else "mapped" if mapping_supported() else "copy"
        self.statistics: HeapStatistics = HeapStatistics()
        self._clock = clock
        self._environment = Environment(clock=clock, subnet_id=subnet_id, root_key_der=root_key_der)
        self._compiler = Compiler(cache_directory)
        self._tables = PageTables() if self.isolation == "mapped" else None
        self._live: collections.OrderedDict[bytes, LiveCanister] = collections.OrderedDict()
        self._max_instances = max_instances

    def close(self) -> None:
        """Drop all instances; images of canisters stay open."""
        while self._live:
            self._live.popitem()[1].instance.close()
        if self._tables:
            self._tables.close()

    def parse_module(self, data: bytes) -> WasmModule:
        """
        Parse, validate and compile a module, plain or gzip.

        Raises:
            Rejected: IC0505.
        """
        module = parse_wasm_module(data)
        check_imports(module)
        self._compiler.compile(module)
        return module

    def execute(self, canister: Canister, message: Message) -> Outcome:
        """
        Run one message and commit its effects on the canister, or undo them if it failed or its mode keeps none.

        Cycles for instructions are not charged here; they are counted in the outcome, also for failures.

        Raises:
            Rejected: IC0537, the canister has no code; nothing ran.
        """
        outcome = Outcome()
        code_of(canister)
        try:
            live = self._check_out(canister)
        except Rejected as refusal:
            outcome.failure = refusal.with_traceback(None)
            return outcome
        committed = False
        try:
            failure, outcome.instructions = live.instance.run(
                message, stable=live.stable, fuel_limit=self.limits.of(message.mode)
            )
            failure = failure or self._memory_failure(canister, live, message.mode)
            keeps = message.mode not in UNREPLICATED and message.mode is not Mode.REPLICATED_QUERY
            if failure is None and keeps:
                outcome.bytes_written = live.commit()
                committed = True
        except OSError as error:
            failure = out_of_memory(error)
        except TornImageError as error:
            failure = torn(error)
            self._drop_code(canister)
        finally:
            # Also when the error is ours, or Ctrl-C inside a host function: nothing half-done may stay.
            intact = committed or live.rollback()
            if intact:
                self._check_in(canister, live)
            else:
                live.instance.close()
        api = live.instance.api
        if failure is not None:
            outcome.failure = from_canister(canister, failure)
        else:
            read_outcome(api, outcome)
        if api.replicated:
            keep_logs(canister, api, failure)
            if failure is None:
                apply_effects(canister, api)
                canister.version += 1
        return outcome

    def query_session(self, canister: Canister) -> QuerySession:
        """
        Open an instance of its own over the committed state, for the messages of one composite query.

        Raises:
            Rejected: IC0537, the canister has no code; IC0507, no room for an instance.
        """
        code = code_of(canister)
        instance = self._instance(canister, code.module, code.heap, code.global_values)
        return QuerySession(
            canister, LiveCanister(instance, code, StableMemory(code.stable, private=True)), self.limits
        )

    def install(self, canister: Canister, module: WasmModule, arg: bytes, caller: bytes) -> int:
        """
        Install code on an empty canister (the caller checks that: IC0514 or IC0538).

        Returns:
            Instructions used.

        Raises:
            Rejected: The module trapped; nothing changed.
        """
        return self._replace_code(canister, module, arg, caller, hook="canister_init")

    def reinstall(self, canister: Canister, module: WasmModule, arg: bytes, caller: bytes) -> int:
        """Like `install`, over existing code; heap, stable memory and log are lost."""
        return self._replace_code(canister, module, arg, caller, hook="canister_init")

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
        """
        Upgrade: pre_upgrade, new instance, main memory put back (when kept), start, post_upgrade.

        Args:
            canister: With code.
            module: The new code.
            arg: For post_upgrade.
            caller: Raw principal.
            skip_pre_upgrade: Do not run pre_upgrade.
            wasm_memory_persistence: ``keep``, ``replace`` or `None`.

        Returns:
            Instructions used.

        Raises:
            Rejected: A hook trapped, or the option does not fit enhanced orthogonal persistence (IC0504, the replica's
                code for it as far as we know); nothing changed.
        """
        keep = _keep_memory(code_of(canister).module, module, wasm_memory_persistence)
        live = self._check_out(canister)
        done = False
        try:
            used, api = 0, None
            if "canister_pre_upgrade" in live.instance.module.hooks and not skip_pre_upgrade:
                message = Message(mode=Mode.PRE_UPGRADE, entry="canister_pre_upgrade", caller=caller)
                failure, used = live.instance.run(message, stable=live.stable, fuel_limit=self.limits.install)
                api = live.instance.api
                keep_logs(canister, api, failure)
                if failure is not None:
                    raise from_canister(canister, failure)
            used = self._replace_code(
                canister,
                module,
                arg,
                caller,
                hook="canister_post_upgrade",
                old=_Predecessor(live=live, api=api, keep_memory=keep, instructions=used),
            )
            done = True
        finally:
            if done:
                live.instance.close()
            elif live.rollback():
                self._check_in(canister, live)
            else:
                live.instance.close()
        return used

    def uninstall(self, canister: Canister) -> None:
        """Remove code and memories, certified data, timer and log."""
        self._forget(canister)
        if canister.code:
            canister.code.heap.close()
            canister.code.stable.close()
        self._drop_code(canister)
        canister.logs.clear()

    @staticmethod
    def _drop_code(canister: Canister) -> None:
        canister.code = None
        canister.certified_data = b""
        canister.global_timer = 0
        canister.hook_status = "condition_not_satisfied"
        canister.version += 1

    def load_code(self, canister: Canister, code: CodeState, *, certified_data: bytes) -> None:
        """
        Replace code, memories, globals and certified data by those of a snapshot; no Wasm runs.

        Takes ownership of the images on success. Global timer and hook status are the caller's business.

        Raises:
            Rejected: IC0408, globals or heap do not fit the module; IC0505, it cannot run; IC0507, no room for it.
                Nothing changed.
        """
        module = code.module
        if [value.kind for value in code.global_values] != [slot.kind for slot in module.global_slots]:
            text = "Wasm exported globals of canister module and snapshot metadata do not match."
            raise Rejected("IC0408", text)
        limit = heap_limit(memory64=module.memory64)
        if not module.memory_minimum_bytes <= code.heap.size_bytes <= (limit if module.has_memory else 0):
            text = (
                f"Wasm memory of {code.heap.size_bytes} bytes does not fit the canister module "
                f"(minimum {module.memory_minimum_bytes})."
            )
            raise Rejected("IC0408", text)
        # Proves that module and memory go together before the old state is given up.
        instance = self._instance(canister, module, code.heap, code.global_values)
        self._forget(canister)
        if canister.code:
            canister.code.heap.close()
            canister.code.stable.close()
        canister.code = code
        canister.certified_data = certified_data
        canister.last_install_at = self._clock.now_ns()
        canister.version += 1
        self._check_in(canister, LiveCanister(instance, code, StableMemory(code.stable)))

    def _replace_code(  # noqa: PLR0913 - one operation, three callers
        self,
        canister: Canister,
        module: WasmModule,
        arg: bytes,
        caller: bytes,
        *,
        hook: str,
        old: _Predecessor | None = None,
    ) -> int:
        """Make an instance of *module*, run start and *hook*, and make it the canister's code."""
        keep = old is not None and old.keep_memory
        heap = old.live.code.heap if old and keep else MemoryImage()
        stable = old.live.stable if old else StableMemory(MemoryImage())
        used = old.instructions if old else 0
        instance: Instance | None = None
        try:
            pages: SavedPages = []
            memory_bytes = 0
            if old and keep:
                pages, memory_bytes = old.live.instance.changed_pages(), old.live.instance.memory_size
            instance = self._instance(canister, module, heap, None, memory_bytes=memory_bytes)
            instance.apply_pages(pages)
            api = old.api if old else None
            for mode, entry in ((Mode.START, START_EXPORT), (Mode.INIT, hook)):
                if not (module.has_start if mode is Mode.START else hook in module.hooks):
                    continue
                message = Message(mode=mode, entry=entry, caller=caller, arg=arg, version=canister.version + 1)
                failure, instructions = instance.run(
                    message,
                    stable=stable,
                    fuel_limit=self.limits.install - used,
                    certified_data=api.certified_data if api else None,
                    global_timer=api.global_timer if api else None,
                )
                used += instructions
                api = instance.api
                failure = failure or self._size_failure(canister, instance, 0, mode)
                keep_logs(canister, api, failure)
                if failure is not None:
                    raise from_canister(canister, failure)  # noqa: TRY301 - the handler frees what was made
            values: list[GlobalValue] = []
            written = self._commit_new(canister, instance, values) + stable.commit()
        except BaseException:
            if instance:
                instance.close()
            if not keep:
                heap.close()
            if not old:
                stable.image.close()
            raise
        self._adopt(canister, CodeState(module=module, heap=heap, stable=stable.image, global_values=values), hook)
        if api is not None:
            apply_effects(canister, api)
        canister.heap_delta_debit += written
        self._check_in(canister, LiveCanister(instance, code_of(canister), stable))
        return used

    def _commit_new(self, canister: Canister, instance: Instance, values: list[GlobalValue]) -> int:
        try:
            return instance.commit(values)
        except OSError as error:
            raise from_canister(canister, out_of_memory(error)) from error
        except TornImageError as error:
            self._drop_code(canister)
            raise from_canister(canister, torn(error)) from error

    def _adopt(self, canister: Canister, code: CodeState, hook: str) -> None:
        """Make *code* the canister's and reset what belongs to the old code."""
        old = canister.code
        if old and old.heap is not code.heap:
            old.heap.close()
        if old and old.stable is not code.stable:
            old.stable.close()
        if hook == "canister_init":
            self._forget(canister)
            canister.certified_data = b""
            if old:
                canister.logs.clear()
        canister.code = code
        canister.global_timer = 0
        canister.version += 1
        canister.last_install_at = self._clock.now_ns()
        update_hook_status(canister)

    def _instance(
        self,
        canister: Canister,
        module: WasmModule,
        image: MemoryImage,
        values: list[GlobalValue] | None,
        *,
        memory_bytes: int = 0,
    ) -> Instance:
        """Make an instance; raises `Rejected` IC0505 or IC0507."""
        try:
            return Instance(
                wasm=self._compiler.wasm,
                compiled=self._compiler.compile(module),
                module=module,
                environment=self._environment,
                canister=canister,
                image=image,
                heap_factory=self._heap,
                globals_=values,
                memory_bytes=memory_bytes,
            )
        except WasmTrap as trap:
            text = f"Canister's Wasm module is not valid: a segment lies outside its memory or table ({trap})"
            raise from_canister(canister, Rejected("IC0505", text)) from trap
        except (OSError, wasmtime.WasmtimeError) as error:
            raise from_canister(canister, out_of_memory(error)) from error

    def _heap(self, image: MemoryImage) -> Heap:
        if self._tables:
            return MappedHeap(image, self.statistics, self._tables)
        return CopiedHeap(image, self.statistics)

    def _check_out(self, canister: Canister) -> LiveCanister:
        """Take the canister's instance out of the pool, or make one; whoever takes it checks it in or closes it."""
        code = code_of(canister)
        live = self._live.pop(canister.canister_id, None)
        if live is not None:
            if live.code is code:
                return live
            live.instance.close()
        return LiveCanister(
            self._instance(canister, code.module, code.heap, code.global_values), code, StableMemory(code.stable)
        )

    def _check_in(self, canister: Canister, live: LiveCanister) -> None:
        self._live[canister.canister_id] = live
        while len(self._live) > self._max_instances:
            self._live.popitem(last=False)[1].instance.close()

    def _forget(self, canister: Canister) -> None:
        live = self._live.pop(canister.canister_id, None)
        if live:
            live.instance.close()

    def _memory_failure(self, canister: Canister, live: LiveCanister, mode: Mode) -> Rejected | None:
        return self._size_failure(canister, live.instance, live.code.heap.size_bytes, mode)

    @staticmethod
    def _size_failure(canister: Canister, instance: Instance, old_size: int, mode: Mode) -> Rejected | None:
        limit = canister.settings.wasm_memory_limit
        if mode not in _LIMITED_MODES or not limit:
            return None
        size = instance.memory_size
        if size <= old_size or size <= limit:
            return None
        text = (
            f"Canister exceeded its current Wasm memory limit of {limit} bytes. The peak Wasm memory usage was "
            f"{size} bytes. If the canister reached this limit unexpectedly, raise `wasm_memory_limit`."
        )
        return Rejected("IC0539", text)


@attrs.frozen(kw_only=True)
class _Predecessor:
    """What an upgrade takes over: the old instance after pre_upgrade, uncommitted."""

    live: LiveCanister
    api: SystemApi | None
    keep_memory: bool
    instructions: int


def _keep_memory(old: WasmModule, new: WasmModule, persistence: str | None) -> bool:
    """Apply the rules of enhanced orthogonal persistence to the upgrade option."""
    if old.enhanced_orthogonal_persistence and persistence is None:
        text = (
            "Missing upgrade option: "
            "Enhanced orthogonal persistence requires the `wasm_memory_persistence` upgrade option."
        )
        raise Rejected("IC0504", text)
    if persistence == "keep" and not new.enhanced_orthogonal_persistence:
        text = (
            "Invalid upgrade option: The `wasm_memory_persistence: opt Keep` upgrade option requires that the new "
            "canister module supports enhanced orthogonal persistence."
        )
        raise Rejected("IC0504", text)
    return persistence == "keep"
