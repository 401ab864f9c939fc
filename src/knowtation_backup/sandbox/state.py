"""
What the sandbox remembers of one canister: plain values, no behaviour beyond derivation.

Execution (`execution`), management (`management`) and storage (`storage`) all work on these.
"""

from __future__ import annotations

import collections
import enum
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from .execution.images import MemoryImage
    from .execution.wasm_module import WasmModule

__all__ = [
    "WASM_PAGE_SIZE",
    "Canister",
    "CanisterSettings",
    "CanisterStatus",
    "Change",
    "CodeState",
    "GlobalValue",
    "LogRecord",
    "QueryStats",
    "Snapshot",
    "Visibility",
]

WASM_PAGE_SIZE = 65_536


class CanisterStatus(enum.Enum):
    """Run status; a stopping canister still has open call contexts."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@attrs.frozen
class Visibility:
    """Who may read: ``controllers``, ``public``, or ``allowed_viewers`` with up to ten principals."""

    kind: str = "controllers"
    viewers: tuple[bytes, ...] = ()


@attrs.define(kw_only=True)
class CanisterSettings:
    """Definite settings of a canister; units as in the interface specification."""

    controllers: list[bytes]
    compute_allocation: int = 0
    memory_allocation: int = 0
    freezing_threshold: int = 2_592_000
    reserved_cycles_limit: int = 5_000_000_000_000
    minimum_incoming_canister_call_cycles: int = 0
    log_visibility: Visibility = attrs.field(factory=Visibility)
    snapshot_visibility: Visibility = attrs.field(factory=Visibility)
    status_visibility: Visibility = attrs.field(factory=Visibility)
    wasm_memory_limit: int = 3 << 30
    wasm_memory_threshold: int = 0
    environment_variables: dict[str, str] = attrs.field(factory=dict)
    log_memory_limit: int = 4096


@attrs.frozen
class GlobalValue:
    """A Wasm global: ``kind`` is i32, i64, f32, f64 or v128; floats are kept as their raw IEEE bits."""

    kind: str
    bits: int
    """Unsigned integer of the kind's width (32, 64 or 128 bits)."""


@attrs.define(kw_only=True)
class CodeState:
    """
    Module and memories of an installed canister, as of its last committed message.

    ``global_values`` follow the order of the snapshot interface: exported globals in export order, then the
    non-exported mutable globals by index.
    """

    module: WasmModule
    heap: MemoryImage
    stable: MemoryImage
    global_values: list[GlobalValue]


@attrs.frozen(kw_only=True)
class Snapshot:
    """A canister snapshot; uploaded ones are mutable images until loaded or deleted."""

    snapshot_id: bytes
    taken_at: int
    uploaded: bool
    module: bytearray | bytes = attrs.field(repr=False)
    heap: MemoryImage
    stable: MemoryImage
    global_values: tuple[GlobalValue, ...] = attrs.field(repr=False)
    chunk_store: dict[bytes, bytes] = attrs.field(repr=False)
    canister_version: int
    certified_data: bytes
    global_timer: int | None
    """Absolute nanoseconds, 0 when inactive, `None` when not recorded."""
    hook_status: str | None
    loadable_at: int = 0
    """Sandbox time from which on the snapshot can be loaded elsewhere (checkpoint delay)."""


@attrs.frozen(kw_only=True)
class Change:
    """One entry of the canister history; ``origin`` and ``details`` are Candid-shaped values."""

    timestamp_nanos: int
    canister_version: int
    origin: tuple[str, Any]
    details: tuple[str, Any]


@attrs.frozen(kw_only=True)
class LogRecord:
    """One record of the canister log."""

    idx: int
    timestamp_nanos: int
    content: bytes


@attrs.define(kw_only=True)
class QueryStats:
    """Aggregated query statistics as `canister_status` reports them."""

    num_calls_total: int = 0
    num_instructions_total: int = 0
    request_payload_bytes_total: int = 0
    response_payload_bytes_total: int = 0


@attrs.define(kw_only=True, eq=False)
class Canister:
    """Everything the sandbox keeps about one canister, except running instances and open call contexts."""

    canister_id: bytes
    settings: CanisterSettings
    created_at: int
    status: CanisterStatus = CanisterStatus.RUNNING
    version: int = 0
    cycles: int = 0
    reserved_cycles: int = 0
    code: CodeState | None = None
    last_install_at: int = 0
    certified_data: bytes = b""
    global_timer: int = 0
    """Absolute nanoseconds; 0 when inactive."""
    hook_status: str = "condition_not_satisfied"
    chunk_store: dict[bytes, bytes] = attrs.field(factory=dict)
    snapshots: dict[bytes, Snapshot] = attrs.field(factory=dict)
    next_snapshot: int = 0
    history: list[Change] = attrs.field(factory=list)
    total_changes: int = 0
    logs: collections.deque[LogRecord] = attrs.field(factory=collections.deque)
    next_log: int = 0
    query_stats: QueryStats = attrs.field(factory=QueryStats)
    heap_delta_debit: int = 0
    cycles_consumed: dict[str, int] = attrs.field(factory=dict)
    """By use case, as `canister_metrics` reports it."""
    charged_until: int = 0
    """Sandbox time up to which idle burn has been charged."""
