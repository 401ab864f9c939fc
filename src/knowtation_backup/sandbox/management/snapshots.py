"""
Canister snapshots: take, load, list, delete, and describe.

An id is the canister's counter in eight bytes, big endian, and the canister's id. Texts show it as ``<canister>-<n>``.

Source:
    internet-computer reference, C.3 and D.1 to D.8; ``rs/execution_environment/src/canister_manager`` of the replica.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from .. import accounting, principal
from ..candid.floats import float32_value
from ..execution.effects import low_memory
from ..messages import Rejected
from ..state import Canister, CanisterStatus, CodeState, GlobalValue, Snapshot
from .context import Handler, ManagementContext, Reply
from .install import Installer
from .lifecycle import Lifecycle

if TYPE_CHECKING:
    from ..execution.wasm_module import WasmModule
    from ..replica.replica import ManagementRequest

__all__ = ["SnapshotStore", "Snapshots", "snapshot_text"]

MAX_SNAPSHOTS: Final = 10
_BASE_INSTRUCTIONS: Final = 2_000_000_000
_COUNTER_BYTES: Final = 8


def snapshot_text(snapshot_id: bytes) -> str:
    """Return a snapshot id as error texts show it."""
    number = int.from_bytes(snapshot_id[:_COUNTER_BYTES], "big")
    return f"{principal.to_text(snapshot_id[_COUNTER_BYTES:])}-{number}"


def _require_id(snapshot_id: bytes) -> None:
    if not _COUNTER_BYTES < len(snapshot_id) <= _COUNTER_BYTES + principal.MAX_PRINCIPAL_BYTES:
        raise Rejected("IC0408", f"Error decoding candid: invalid snapshot id of {len(snapshot_id)} bytes")


class SnapshotStore:
    """The snapshots of all canisters: finding, adding, removing."""

    def __init__(self, context: ManagementContext) -> None:
        self._context = context

    def find(self, snapshot_id: bytes, canister: Canister) -> tuple[Canister, Snapshot]:
        """
        Return a snapshot of any canister, and its owner.

        Raises:
            Rejected: IC0408 for a malformed id, IC0305 for an unknown one; *canister* is named in the text.
        """
        _require_id(snapshot_id)
        owner = self._context.replica.canisters.get(snapshot_id[_COUNTER_BYTES:])
        snapshot = owner.snapshots.get(snapshot_id) if owner else None
        if owner is None or snapshot is None:
            raise Rejected(
                "IC0305",
                f"Could not find the snapshot ID {snapshot_text(snapshot_id)} "
                f"for canister {principal.to_text(canister.canister_id)}.",
            )
        return owner, snapshot

    def own(self, snapshot_id: bytes, canister: Canister) -> Snapshot:
        """
        Return a snapshot of *canister*.

        Raises:
            Rejected: IC0408, IC0305, or IC0406 when it belongs to another canister.
        """
        owner, snapshot = self.find(snapshot_id, canister)
        if owner is not canister:
            raise Rejected(
                "IC0406",
                f"The snapshot {snapshot_text(snapshot_id)} does not belong to canister "
                f"{principal.to_text(canister.canister_id)}.",
            )
        return snapshot

    def readable(self, argument: dict[str, Any], caller: bytes) -> Canister:
        """
        Return a canister whose snapshots *caller* may read.

        Raises:
            Rejected: IC0301, IC0512.
        """
        canister = self._context.canister(argument["canister_id"])
        if not self._context.may_view(canister, canister.settings.snapshot_visibility, caller):
            raise self._context.controllers_only(canister, caller)
        return canister

    def prepare(self, canister: Canister, replace: bytes | None, size_bytes: int) -> Snapshot | None:
        """
        Check that a new snapshot of *size_bytes* may be made, charge it, and return the one it replaces.

        Raises:
            Rejected: IC0305, IC0406, IC0408 about the replaced one; IC0406 too many; IC0210, IC0207, IC0532.
        """
        replaced = self.own(replace, canister) if replace is not None else None
        if replaced is None and len(canister.snapshots) >= MAX_SNAPSHOTS:
            raise Rejected(
                "IC0406",
                f"Canister {principal.to_text(canister.canister_id)} has reached the maximum number of snapshots "
                f"allowed: {MAX_SNAPSHOTS}.",
            )
        self._context.require_heap_delta(canister)
        freed = accounting.snapshot_size_bytes(replaced) if replaced else 0
        self._context.require_growth(canister, size_bytes - freed)
        charge_snapshot_work(self._context, canister, _BASE_INSTRUCTIONS + size_bytes)
        return replaced

    def next_id(self, canister: Canister) -> bytes:
        """Return a fresh id; numbers are never used twice."""
        number = canister.next_snapshot
        canister.next_snapshot += 1
        return number.to_bytes(_COUNTER_BYTES, "big") + canister.canister_id

    def put(self, canister: Canister, snapshot: Snapshot, replaced: Snapshot | None) -> None:
        """Add a snapshot, in place of another one if given."""
        if replaced is not None:
            self.remove(canister, replaced)
        canister.snapshots[snapshot.snapshot_id] = snapshot

    @staticmethod
    def remove(canister: Canister, snapshot: Snapshot) -> None:
        """Delete a snapshot and free its memory."""
        del canister.snapshots[snapshot.snapshot_id]
        snapshot.heap.close()
        snapshot.stable.close()


def charge_snapshot_work(context: ManagementContext, canister: Canister, instructions: int) -> None:
    """
    Charge the instructions of a snapshot operation.

    Raises:
        Rejected: IC0207; nothing was charged.
    """
    try:
        context.charge_instructions(canister, instructions)
    except Rejected as rejected:
        raise Rejected(rejected.error_code, f"Canister snapshotting failed with: `{rejected.message}`") from rejected


def snapshot_value(snapshot: Snapshot) -> dict[str, Any]:
    """Return what take and list say of a snapshot."""
    return {
        "id": snapshot.snapshot_id,
        "taken_at_timestamp": snapshot.taken_at,
        "total_size": accounting.snapshot_size_bytes(snapshot),
    }


class Snapshots:
    """Handlers of take, load, list, delete and metadata."""

    def __init__(
        self, context: ManagementContext, store: SnapshotStore, lifecycle: Lifecycle, installer: Installer
    ) -> None:
        self._context = context
        self._store = store
        self._lifecycle = lifecycle
        self._installer = installer

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by method name."""
        return {
            "take_canister_snapshot": self.take,
            "load_canister_snapshot": self.load,
            "list_canister_snapshots": self.list_all,
            "delete_canister_snapshot": self.delete,
            "read_canister_snapshot_metadata": self.read_metadata,
        }

    def take(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Copy code and state, whatever the canister is doing; uninstall it afterwards if asked."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        code = canister.code
        if code is None:
            text = principal.to_text(canister.canister_id)
            raise Rejected("IC0406", f"Failed to create snapshot for empty canister {text}:")
        size_bytes = len(code.module.data) + code.heap.size_bytes + code.stable.size_bytes
        replaced = self._store.prepare(canister, argument["replace_snapshot"], size_bytes)
        now = self._context.now_ns
        running = canister.status is not CanisterStatus.STOPPED
        snapshot = Snapshot(
            snapshot_id=self._store.next_id(canister),
            taken_at=now,
            uploaded=False,
            module=code.module.data,
            heap=code.heap.copy(),
            stable=code.stable.copy(),
            global_values=tuple(code.global_values),
            chunk_store=dict(canister.chunk_store),
            canister_version=canister.version,
            certified_data=canister.certified_data,
            global_timer=canister.global_timer,
            hook_status=canister.hook_status,
            loadable_at=now + self._delay_ns if running else 0,
        )
        self._store.put(canister, snapshot, replaced)
        canister.heap_delta_debit += size_bytes
        if argument["uninstall_code"]:
            self._lifecycle.uninstall(canister)
            self._context.record(canister, request, ("code_uninstall", None))
        return Reply((snapshot_value(snapshot),))

    @property
    def _delay_ns(self) -> int:
        return round(self._context.options.checkpoint_delay_seconds * 1e9)

    def load(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Replace code and state by a snapshot's, of this canister or of another one with the same controller."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        owner, snapshot = self._store.find(argument["snapshot_id"], canister)
        if owner is not canister:
            self._require_foreign_loadable(request, canister, owner, snapshot)
        self._context.require_heap_delta(canister)
        size_bytes = accounting.snapshot_size_bytes(snapshot)
        used = accounting.memory_usage(canister)
        freed = sum(used[name] for name in ("wasm_memory_size", "stable_memory_size", "wasm_binary_size"))
        self._context.require_growth(canister, size_bytes - freed - used["wasm_chunk_store_size"])
        module = self._installer.parse(canister, bytes(snapshot.module))
        if snapshot.uploaded:
            _require_consistent(canister, snapshot, module)
        charge_snapshot_work(self._context, canister, _BASE_INSTRUCTIONS + len(snapshot.module) + size_bytes)
        timer, hook = canister.global_timer, canister.hook_status
        code = CodeState(
            module=module,
            heap=snapshot.heap.copy(),
            stable=snapshot.stable.copy(),
            global_values=list(snapshot.global_values),
        )
        self._context.replica.engine.load_code(canister, code, certified_data=snapshot.certified_data)
        canister.chunk_store = dict(snapshot.chunk_store)
        # Timer and hook come only with uploaded snapshots that carry them; otherwise the present ones stay.
        canister.global_timer, canister.hook_status = timer, hook
        if snapshot.uploaded:
            if snapshot.global_timer is not None:
                canister.global_timer = snapshot.global_timer
            canister.hook_status = snapshot.hook_status or hook
        canister.heap_delta_debit += size_bytes
        details = {
            "from_canister_id": owner.canister_id if owner is not canister else None,
            "snapshot_id": snapshot.snapshot_id,
            "canister_version": snapshot.canister_version,
            "taken_at_timestamp": snapshot.taken_at,
            "source": source_value(snapshot),
        }
        self._context.record(canister, request, ("load_snapshot", details))
        return Reply()

    def _require_foreign_loadable(
        self, request: ManagementRequest, canister: Canister, owner: Canister, snapshot: Snapshot
    ) -> None:
        text, target = snapshot_text(snapshot.snapshot_id), principal.to_text(canister.canister_id)
        if request.caller not in owner.settings.controllers:
            raise Rejected(
                "IC0406",
                f"Only a controller of the canister that snapshot {text} belongs to can load it on canister {target}. "
                f"Sender: {principal.to_text(request.caller)}.",
            )
        if self._context.now_ns < snapshot.loadable_at:
            raise Rejected(
                "IC0406",
                f"Snapshot {text} is not currently loadable on the specified canister {target}. Try again later. "
                "The call should succeed if you wait sufficiently long (usually ten minutes).",
            )

    def list_all(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """List the canister's snapshots, oldest first."""
        canister = self._store.readable(argument, request.caller)
        return Reply(([snapshot_value(canister.snapshots[key]) for key in sorted(canister.snapshots)],))

    def delete(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Delete one of the canister's snapshots."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        self._store.remove(canister, self._store.own(argument["snapshot_id"], canister))
        return Reply()

    def read_metadata(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Describe a snapshot: everything but the bytes of module, memories and chunks."""
        canister = self._store.readable(argument, request.caller)
        snapshot = self._store.own(argument["snapshot_id"], canister)
        self._context.charge_instructions(canister, 0)
        timer = snapshot.global_timer
        return Reply(
            (
                {
                    "source": source_value(snapshot),
                    "taken_at_timestamp": snapshot.taken_at,
                    "wasm_module_size": len(snapshot.module),
                    "globals": [global_to_value(item) for item in snapshot.global_values],
                    "wasm_memory_size": snapshot.heap.size_bytes,
                    "stable_memory_size": snapshot.stable.size_bytes,
                    "wasm_chunk_store": [{"hash": digest} for digest in sorted(snapshot.chunk_store)],
                    "canister_version": snapshot.canister_version,
                    "certified_data": snapshot.certified_data,
                    "global_timer": None if timer is None else ("active", timer) if timer else ("inactive", None),
                    "on_low_wasm_memory_hook_status": (snapshot.hook_status, None) if snapshot.hook_status else None,
                },
            )
        )


def source_value(snapshot: Snapshot) -> tuple[str, None]:
    """Return where a snapshot came from."""
    return ("metadata_upload" if snapshot.uploaded else "taken_from_canister"), None


def global_to_value(item: GlobalValue) -> tuple[str, int | float]:
    """Return a global as Candid has it."""
    if item.kind in ("i32", "i64"):
        width = 32 if item.kind == "i32" else 64
        return item.kind, item.bits - (1 << width) if item.bits >> (width - 1) else item.bits
    if item.kind == "f32":
        return item.kind, float32_value(item.bits.to_bytes(4, "little"))
    if item.kind == "f64":
        return item.kind, struct.unpack("<d", item.bits.to_bytes(8, "little"))[0]
    return item.kind, item.bits


def _require_consistent(canister: Canister, snapshot: Snapshot, module: WasmModule) -> None:
    """Check at load what could not be checked while uploading; raises `Rejected` IC0408."""
    kinds = [slot.kind for slot in module.global_slots]
    if kinds != [item.kind for item in snapshot.global_values]:
        raise Rejected("IC0408", "Wasm exported globals of canister module and snapshot metadata do not match.")
    hook = snapshot.hook_status
    if hook is None:
        return
    satisfied = low_memory(canister.settings, snapshot.heap.size_bytes, memory64=module.memory64)
    if (hook != "condition_not_satisfied") != satisfied:
        name = "".join(word.capitalize() for word in hook.split("_"))
        raise Rejected(
            "IC0408",
            f"Hook status ({name}) of uploaded snapshot is inconsistent with the canister's state "
            f"(hook condition satisfied: {str(satisfied).lower()}).",
        )
