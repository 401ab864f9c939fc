"""
The System API seen by one Wasm instance: binds ``ic0`` imports to Python and holds the state of the running message.

The functions themselves are in `ic0_messages`, `ic0_calls` and `ic0_system`; each is declared with its type and the
modes that may call it (internet-computer reference, F.2). Imports are bound lazily by the module's own list.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ..messages import Answer, Rejected
from . import ic0_calls, ic0_messages, ic0_system
from .ic0 import Ic0Function, contract_violation, trapped
from .message import UNREPLICATED, Message, Mode, OutgoingCall
from .native import HostFunction, NativeInstance, make_callback

if TYPE_CHECKING:
    from ..clock import SandboxClock
    from ..state import Canister
    from .native import Slots
    from .stable import StableMemory
    from .wasm_binary import Import
    from .wasm_module import WasmModule

__all__ = ["Environment", "SystemApi", "check_imports"]

FUNCTIONS: Mapping[str, Ic0Function] = {
    function.name: function for function in (*ic0_messages.FUNCTIONS, *ic0_calls.FUNCTIONS, *ic0_system.FUNCTIONS)
}


@attrs.frozen(kw_only=True)
class Environment:
    """What every canister of a subnet sees alike."""

    clock: SandboxClock
    subnet_id: bytes
    root_key_der: bytes = attrs.field(repr=False)


def check_imports(module: WasmModule) -> None:
    """
    Refuse modules that import something the System API does not have.

    Raises:
        Rejected: IC0505 with name and expected type.
    """
    for item in module.imports:
        function = FUNCTIONS.get(item.name) if item.module == "ic0" else None
        if function is None or (function.memory32_only and module.memory64):
            text = f"Module imports function '{item.name}' from '{item.module}' that is not exported by the runtime."
            raise Rejected("IC0505", f"Canister's Wasm module is not valid: {text}")
        expected = function.type(memory64=module.memory64)
        if item.type != expected:
            message = f"Expected import of '{item.name}' with {expected}, got {item.type}"
            raise Rejected("IC0505", f"Canister's Wasm module is not valid: {message}")


class SystemApi:
    """
    Host side of one instance.

    `begin` prepares a message; host functions then work on the attributes; the engine reads them when the message has
    ended.

    Args:
        environment: Clock and keys of the subnet.
        canister: Read for balances, controllers, environment variables; never changed here.
        memory64: Whether pointers have 64 bits.
    """

    def __init__(self, environment: Environment, canister: Canister, *, memory64: bool) -> None:
        self.environment = environment
        self.canister = canister
        self.memory64 = memory64
        self._native: NativeInstance | None = None
        self._address = 0
        self._memory_size = 0
        self.error: BaseException | None = None
        self.stable: StableMemory | None = None
        self.fuel_limit: int = 0
        self._reset(Message(mode=Mode.START, entry=""))

    def _reset(self, message: Message) -> None:
        self.message = message
        self.mode: Mode = message.mode
        self.error = None
        self.time_ns: int = 0
        self.reply_data: bytearray = bytearray()
        self.answer: Answer | None = None
        self.answered: bool = message.answered or not message.may_answer
        self.accepted = False
        self.cycles_accepted = 0
        self.cycles_burned = 0
        self.cycles_sent = 0
        self.calls: list[OutgoingCall] = []
        self.call: ic0_calls.CallUnderConstruction | None = None
        self.certificate: bytes | None = None
        self.certified_data: bytes | None = None
        self.global_timer: int | None = None
        self.logs: list[tuple[int, bytes]] = []

    def bind(self, native: NativeInstance, address: int) -> None:
        """Connect to the instance; *address* of its memory, 0 when it has none."""
        self._native = native
        self._address = address
        self._memory_size = native.memory_size() if address else 0

    def host_function(self, item: Import) -> HostFunction:
        """Return what to pass for an import that `check_imports` has accepted."""
        function = FUNCTIONS[item.name]
        callback = make_callback(self._bound(function), self._fail)
        return HostFunction(item.type.parameters, item.type.results, callback)

    def begin(
        self,
        message: Message,
        *,
        stable: StableMemory,
        fuel_limit: int,
        certified_data: bytes | None = None,
        global_timer: int | None = None,
    ) -> None:
        """
        Prepare a message.

        *certified_data* and *global_timer* are changes made by earlier executions of the same transaction (an upgrade
        runs several).
        """
        self._reset(message)
        self.stable = stable
        self.fuel_limit = fuel_limit
        self.time_ns = self.environment.clock.now_ns()
        self.certified_data = certified_data
        self.global_timer = global_timer

    # What host functions use.

    @property
    def replicated(self) -> bool:
        """Whether effects of this message can last."""
        return self.mode not in UNREPLICATED

    @property
    def balance(self) -> int:
        """Cycles of the canister as of now within the message."""
        return self.canister.cycles + self.cycles_accepted - self.cycles_sent - self.cycles_burned

    def final_balance(self) -> int:
        """Return the balance after the message; cycles of a call never performed have come back."""
        return self.balance + (self.call.cycles if self.call else 0)

    @property
    def cycles_available(self) -> int:
        """Cycles of the call that can still be accepted."""
        return 0 if self.answered else self.message.cycles_available - self.cycles_accepted

    @property
    def timer(self) -> int:
        """The global timer as of now within the message."""
        return self.canister.global_timer if self.global_timer is None else self.global_timer

    def instructions(self) -> int:
        """Instructions used by the message so far."""
        return self.fuel_limit - self._native.fuel() if self._native else 0

    def read(self, pointer: int, size: int) -> bytes:
        """Copy bytes out of Wasm memory."""
        self._check(pointer, size)
        return ctypes.string_at(self._address + pointer, size)

    def write(self, pointer: int, data: bytes) -> None:
        """Copy bytes into Wasm memory."""
        self._check(pointer, len(data))
        ctypes.memmove(self._address + pointer, data, len(data))

    def copy_slice(self, what: str, data: bytes, target: int, offset: int, size: int) -> None:
        """Serve a ``*_copy`` function: part of *data* into memory."""
        if offset + size > len(data):
            text = f"ic0.{what}: offset {offset} + size {size} exceeds the data of {len(data)} bytes"
            raise contract_violation(text)
        self.write(target, data if size == len(data) else data[offset : offset + size])

    def write_u128(self, pointer: int, value: int) -> None:
        """Store an amount of cycles: 16 bytes little endian."""
        self.write(pointer, value.to_bytes(16, "little"))

    def _check(self, pointer: int, size: int) -> None:
        if pointer + size > self._memory_size:
            # Memory may have grown since the size was looked at; asking on every access would double its cost.
            self._memory_size = self._native.memory_size() if self._native and self._address else 0
            if pointer + size > self._memory_size:
                raise trapped("heap out of bounds")

    def _fail(self, error: BaseException) -> None:
        self.error = error

    def _bound(self, function: Ic0Function) -> Callable[[Slots], None]:
        """Return the function over slots, with its mode check; this runs a dozen times per message."""
        run, modes, name = function.function, function.modes, function.name
        masks = [
            0xFFFF_FFFF_FFFF_FFFF if kind == "i64" else 0xFFFF_FFFF
            for kind in function.type(memory64=self.memory64).parameters
        ]
        has_result = bool(function.results)

        def refuse() -> Rejected:
            return contract_violation(f'"ic0.{name}" cannot be executed in {_MODE_NAMES[self.mode]} mode')

        def nullary(slots: Slots) -> None:
            if self.mode not in modes:
                raise refuse()
            result: Any = run(self)
            if has_result:
                slots[0] = result

        def general(slots: Slots) -> None:
            if self.mode not in modes:
                raise refuse()
            result: Any = run(self, *[slots[2 * position] & mask for position, mask in enumerate(masks)])
            if has_result:
                slots[0] = result

        return general if masks else nullary


_MODE_NAMES = {
    Mode.INIT: "init",
    Mode.PRE_UPGRADE: "pre upgrade",
    Mode.UPDATE: "update",
    Mode.REPLICATED_QUERY: "replicated query",
    Mode.QUERY: "non replicated query",
    Mode.COMPOSITE_QUERY: "composite query",
    Mode.REPLY_CALLBACK: "reply callback",
    Mode.REJECT_CALLBACK: "reject callback",
    Mode.COMPOSITE_REPLY_CALLBACK: "composite reply callback",
    Mode.COMPOSITE_REJECT_CALLBACK: "composite reject callback",
    Mode.CLEANUP: "cleanup",
    Mode.COMPOSITE_CLEANUP: "composite cleanup",
    Mode.INSPECT: "inspect message",
    Mode.SYSTEM: "system task",
    Mode.START: "start",
}
