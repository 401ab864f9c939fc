"""What executions do to a canister outside its memories: balance, certified data, timer, hook status, log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .. import accounting, principal
from ..messages import Rejected
from ..state import Canister, CanisterSettings, CodeState, LogRecord

if TYPE_CHECKING:
    from .message import Outcome
    from .system_api import SystemApi

__all__ = [
    "apply_effects",
    "code_of",
    "from_canister",
    "heap_limit",
    "keep_logs",
    "low_memory",
    "out_of_memory",
    "read_outcome",
    "torn",
    "update_hook_status",
]

_MAX_WASM32_BYTES: Final = 4 << 30
_MAX_WASM64_BYTES: Final = 6 << 30
_TRAP_CODES: Final = frozenset({"IC0502", "IC0503", "IC0504", "IC0507", "IC0522", "IC0539"})


def heap_limit(*, memory64: bool) -> int:
    """Return the largest heap of a module, in bytes."""
    return _MAX_WASM64_BYTES if memory64 else _MAX_WASM32_BYTES


def low_memory(settings: CanisterSettings, heap_bytes: int, *, memory64: bool) -> bool:
    """Return whether less than ``wasm_memory_threshold`` bytes are left before the heap's limit."""
    limit = settings.wasm_memory_limit or heap_limit(memory64=memory64)
    return settings.wasm_memory_threshold > 0 and limit - heap_bytes < settings.wasm_memory_threshold


def code_of(canister: Canister) -> CodeState:
    """
    Return the canister's code state.

    Raises:
        Rejected: IC0537, there is none.
    """
    if canister.code is None:
        text = "Attempted to execute a message, but the canister contains no Wasm module."
        raise from_canister(canister, Rejected("IC0537", text))
    return canister.code


def out_of_memory(error: Exception) -> Rejected:
    """Return the failure of a message for which the machine has no room; the cause is for whoever runs the sandbox."""
    return Rejected("IC0507", f"Canister ran out of memory: the machine under the sandbox has no room ({error})")


def torn(error: Exception) -> Rejected:
    """Return the failure of a message that cost the canister its memory."""
    text = f"Canister's memory is lost, load a snapshot or install it again: {error}"
    return Rejected("IC0521", text)


def from_canister(canister: Canister, failure: Rejected) -> Rejected:
    """Return the failure with the canister's name in front, as callers see it."""
    name = principal.to_text(canister.canister_id)
    return Rejected(failure.error_code, f"Error from Canister {name}: {failure.message}")


def read_outcome(api: SystemApi, outcome: Outcome) -> None:
    """Take what a successful message sends out."""
    outcome.answer = api.answer
    outcome.calls = api.calls
    outcome.cycles_accepted = api.cycles_accepted
    outcome.accepted = api.accepted


def apply_effects(canister: Canister, api: SystemApi) -> None:
    """Make the effects outside the memories last."""
    canister.cycles = api.final_balance()
    if api.cycles_burned:
        consumed = canister.cycles_consumed
        consumed[accounting.BURNED] = consumed.get(accounting.BURNED, 0) + api.cycles_burned
    if api.certified_data is not None:
        canister.certified_data = api.certified_data
    if api.global_timer is not None:
        canister.global_timer = api.global_timer
    update_hook_status(canister)


def update_hook_status(canister: Canister) -> None:
    """Make the low-memory hook ready when the heap has come close to its limit, and forget it when it has not."""
    code = canister.code
    if code is None or not low_memory(canister.settings, code.heap.size_bytes, memory64=code.module.memory64):
        canister.hook_status = "condition_not_satisfied"
    elif canister.hook_status == "condition_not_satisfied":
        canister.hook_status = "ready"


def keep_logs(canister: Canister, api: SystemApi, failure: Rejected | None) -> None:
    """Append what the message printed, and why it trapped; the oldest records beyond the limit go."""
    records = list(api.logs)
    if failure is not None and failure.error_code in _TRAP_CODES:
        records.append((api.time_ns, f"[TRAP]: {failure.message}".encode()))
    if not records:
        return
    limit = canister.settings.log_memory_limit
    for time_ns, content in records:
        canister.logs.append(LogRecord(idx=canister.next_log, timestamp_nanos=time_ns, content=content[:limit]))
        canister.next_log += 1
    size = sum(len(record.content) for record in canister.logs)
    while canister.logs and size > limit:
        size -= len(canister.logs.popleft().content)
