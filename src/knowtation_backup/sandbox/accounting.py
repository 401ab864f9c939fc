"""
What things cost in cycles, and how much memory a canister uses.

Prices are those of a 13-node application subnet. Charges are recorded by use case, under the names of
`canister_metrics`.

Source:
    internet-computer reference, D.4 and D.9; ``docs/references/cycle-costs.md`` of the developer documentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import principal
from .messages import Rejected

if TYPE_CHECKING:
    from .state import Canister, CanisterSettings, Change, Snapshot

__all__ = [
    "BURNED",
    "CALL_BYTE_FEE",
    "CALL_FEE",
    "CANISTER_CREATION",
    "COMPUTE_ALLOCATION",
    "CREATION_FEE",
    "HTTP_OUTCALLS",
    "INGRESS_INDUCTION",
    "INSTRUCTIONS",
    "MEMORY",
    "TRANSMISSION",
    "UNINSTALL",
    "USE_CASES",
    "charge",
    "charge_idle",
    "charge_ingress",
    "execution_cost",
    "freezing_balance",
    "idle_cycles_burned_per_day",
    "ingress_cost",
    "memory_usage",
    "require_cycles",
    "require_unfrozen_for_query",
    "snapshot_size_bytes",
]

MEMORY: Final = "memory"
COMPUTE_ALLOCATION: Final = "compute_allocation"
INGRESS_INDUCTION: Final = "ingress_induction"
INSTRUCTIONS: Final = "instructions"
TRANSMISSION: Final = "request_and_response_transmission"
UNINSTALL: Final = "uninstall"
CANISTER_CREATION: Final = "canister_creation"
HTTP_OUTCALLS: Final = "http_outcalls"
BURNED: Final = "burned_cycles"
USE_CASES: Final = (
    MEMORY,
    COMPUTE_ALLOCATION,
    INGRESS_INDUCTION,
    INSTRUCTIONS,
    TRANSMISSION,
    UNINSTALL,
    CANISTER_CREATION,
    HTTP_OUTCALLS,
    BURNED,
)

CREATION_FEE: Final = 500_000_000_000
CALL_FEE: Final = 260_000
"""Of a call between canisters, with its answer; their bytes come on top."""
CALL_BYTE_FEE: Final = 1_000
_INGRESS_FEE: Final = 1_200_000
_INGRESS_BYTE_FEE: Final = 2_000
_EXECUTION_FEE: Final = 5_000_000
_GIB_SECOND_FEE: Final = 127_000
_COMPUTE_PERCENT_SECOND_FEE: Final = 10_000_000

_SECONDS_PER_DAY: Final = 86_400
_NS_PER_SECOND: Final = 1_000_000_000
_GLOBAL_BYTES: Final = 8
_CHUNK_SLOT_BYTES: Final = 1 << 20
_CHANGE_BYTES: Final = 104  # an entry without its lists, as the replica's memory accounting has it, roughly
_PRINCIPAL_BYTES: Final = 30
_LOG_RECORD_BYTES: Final = 16


def ingress_cost(size_bytes: int) -> int:
    """Return the price in cycles of accepting a user's message of *size_bytes*, envelope included."""
    return _INGRESS_FEE + _INGRESS_BYTE_FEE * size_bytes


def execution_cost(instructions: int, *, wasm64: bool) -> int:
    """Return the price in cycles of executing one message; 64-bit modules pay double per instruction."""
    return _EXECUTION_FEE + instructions * (2 if wasm64 else 1)


def charge(canister: Canister, use_case: str, amount: int) -> int:
    """
    Take up to *amount* cycles from the canister's balance and return how many were taken.

    The balance never becomes negative; to refuse what cannot be paid, ask `require_cycles` first.
    """
    taken = min(amount, canister.cycles)
    canister.cycles -= taken
    canister.cycles_consumed[use_case] = canister.cycles_consumed.get(use_case, 0) + taken
    return taken


def require_cycles(canister: Canister, amount: int) -> None:
    """
    Refuse when paying *amount* would leave less than the freezing balance.

    Raises:
        Rejected: IC0207; the canister is frozen, or would be.
    """
    missing = freezing_balance(canister) + amount - canister.cycles
    if missing > 0:
        raise Rejected(
            "IC0207",
            f"Canister {principal.to_text(canister.canister_id)} is out of cycles: "
            f"please top up the canister with at least {missing} additional cycles",
        )


def charge_ingress(canister: Canister, size_bytes: int) -> None:
    """
    Charge the induction of a user's message.

    Raises:
        Rejected: IC0207; nothing was charged.
    """
    cost = ingress_cost(size_bytes)
    require_cycles(canister, cost)
    charge(canister, INGRESS_INDUCTION, cost)


def snapshot_size_bytes(snapshot: Snapshot) -> int:
    """Return what a snapshot reports as its ``total_size``."""
    return (
        len(snapshot.module)
        + snapshot.heap.size_bytes
        + snapshot.stable.size_bytes
        + len(snapshot.global_values) * _GLOBAL_BYTES
        + len(snapshot.chunk_store) * _CHUNK_SLOT_BYTES
        + len(snapshot.certified_data)
    )


def memory_usage(canister: Canister) -> dict[str, int]:
    """Return the bytes in use by the names of ``memory_metrics``, and their sum as ``total``."""
    code = canister.code
    usage = {
        "wasm_memory_size": code.heap.size_bytes if code else 0,
        "stable_memory_size": code.stable.size_bytes if code else 0,
        "global_memory_size": len(code.global_values) * _GLOBAL_BYTES if code else 0,
        "wasm_binary_size": len(code.module.data) if code else 0,
        "custom_sections_size": code.module.custom_sections_size_bytes if code else 0,
        "canister_history_size": sum(map(_change_size_bytes, canister.history)),
        "wasm_chunk_store_size": len(canister.chunk_store) * _CHUNK_SLOT_BYTES,
        "snapshots_size": sum(map(snapshot_size_bytes, canister.snapshots.values())),
        "log_memory_store_size": sum(len(record.content) + _LOG_RECORD_BYTES for record in canister.logs),
    }
    usage["total"] = sum(usage.values())
    return usage


def _change_size_bytes(change: Change) -> int:
    details = change.details[1]
    controllers = details.get("controllers", ()) if isinstance(details, dict) else ()
    return _CHANGE_BYTES + len(controllers) * _PRINCIPAL_BYTES


def _idle_cost(
    canister: Canister, seconds: int, *, extra_bytes: int = 0, settings: CanisterSettings | None = None
) -> tuple[int, int]:
    """Return the price of memory and of compute allocation for *seconds*."""
    settings = settings or canister.settings
    billed_bytes = max(memory_usage(canister)["total"] + extra_bytes, settings.memory_allocation)
    memory = billed_bytes * _GIB_SECOND_FEE * seconds >> 30
    return memory, settings.compute_allocation * _COMPUTE_PERCENT_SECOND_FEE * seconds


def idle_cycles_burned_per_day(canister: Canister) -> int:
    """Return the cycles a day costs when nothing executes."""
    return sum(_idle_cost(canister, _SECONDS_PER_DAY))


def freezing_balance(canister: Canister, *, extra_bytes: int = 0, settings: CanisterSettings | None = None) -> int:
    """
    Return the balance below which the canister is frozen: its idle cost for the duration of the freezing threshold.

    Args:
        canister: Which.
        extra_bytes: Memory it is about to use in addition.
        settings: What it would be under these instead of its own.
    """
    duration = (settings or canister.settings).freezing_threshold
    idle = sum(_idle_cost(canister, duration, extra_bytes=extra_bytes, settings=settings))
    return max(0, idle - canister.reserved_cycles)


def require_unfrozen_for_query(canister: Canister) -> None:
    """
    Refuse queries of a frozen canister.

    Raises:
        Rejected: IC0207.
    """
    if canister.cycles < freezing_balance(canister):
        raise Rejected(
            "IC0207",
            f"Canister {principal.to_text(canister.canister_id)} is unable to process query calls because it's frozen. "
            "Please top up the canister with cycles and try again.",
        )


def charge_idle(canister: Canister, now_ns: int) -> bool:
    """
    Charge storage and compute allocation up to *now_ns*, in whole seconds.

    Returns:
        Whether it could be paid. When not, the balance is 0 and the canister must be uninstalled by the system.
    """
    seconds = (now_ns - canister.charged_until) // _NS_PER_SECOND
    if seconds <= 0:
        return True
    canister.charged_until += seconds * _NS_PER_SECOND
    memory, compute = _idle_cost(canister, seconds)
    from_reserve = min(memory, canister.reserved_cycles)
    canister.reserved_cycles -= from_reserve
    paid = charge(canister, MEMORY, memory - from_reserve)
    canister.cycles_consumed[MEMORY] += from_reserve
    return paid + from_reserve == memory and charge(canister, COMPUTE_ALLOCATION, compute) == compute
