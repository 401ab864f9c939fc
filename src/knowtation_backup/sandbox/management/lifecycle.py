"""The management canister's methods that create, change, start, stop, empty and delete canisters."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from .. import accounting, principal
from ..messages import Rejected, Replied
from ..state import Canister, CanisterStatus
from .context import DEFERRED, Handler, ManagementContext, Reply
from .settings import apply_settings, initial_settings

if TYPE_CHECKING:
    from ..replica.replica import ManagementRequest

__all__ = ["Lifecycle"]

_FIRST_NUMBER: Final = 0x8000_0000_0010_0000
"""Local networks start here: ``80000000001000000101`` and on."""
_EMPTY_REPLY: Final = Replied(b"DIDL\x00\x00")


class Lifecycle:
    """
    Handlers, and the system's own uninstalling.

    Publishes ``next_canister``: the number that the next created canister gets (its id is the number in eight bytes
    and ``01 01``), which storage keeps.
    """

    def __init__(self, context: ManagementContext) -> None:
        self._context = context
        self._stopping: dict[bytes, list[ManagementRequest]] = {}
        self.next_canister: int = _FIRST_NUMBER

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by method name."""
        return {
            "create_canister": self.create,
            "provisional_create_canister_with_cycles": self.provisional_create,
            "provisional_top_up_canister": self.top_up,
            "update_settings": self.update_settings,
            "uninstall_code": self.uninstall_code,
            "start_canister": self.start,
            "stop_canister": self.stop,
            "delete_canister": self.delete,
            "deposit_cycles": self.deposit,
        }

    # Creating

    def create(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Create a canister paid by the calling canister."""
        fee = accounting.CREATION_FEE
        if request.cycles < fee:
            raise Rejected(
                "IC0403",
                f"Creating a canister requires a fee of {fee} that is deducted from the canister's initial balance "
                f"but only {request.cycles} cycles were received with the create_canister request.",
            )
        canister = self._create(request, argument["settings"], cycles=request.cycles, canister_id=self._allocate())
        accounting.charge(canister, accounting.CANISTER_CREATION, fee)
        return Reply(({"canister_id": canister.canister_id},), accepted=request.cycles)

    def provisional_create(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Create a canister with cycles from nowhere."""
        canister_id = argument["specified_id"]
        if canister_id is None:
            canister_id = self._allocate()
        elif not canister_id or canister_id in self._context.replica.canisters:
            raise Rejected(
                "IC0205",
                f"Unsuccessful canister creation: canister id {principal.to_text(canister_id)} already exists.",
            )
        amount = argument["amount"]
        cycles = self._context.options.default_cycles if amount is None else amount
        canister = self._create(request, argument["settings"], cycles=cycles, canister_id=canister_id)
        return Reply(({"canister_id": canister.canister_id},))

    def _allocate(self) -> bytes:
        while True:
            canister_id = self.next_canister.to_bytes(8, "big") + b"\x01\x01"
            self.next_canister += 1
            if canister_id not in self._context.replica.canisters:
                return canister_id

    def _create(
        self, request: ManagementRequest, settings: dict[str, Any] | None, *, cycles: int, canister_id: bytes
    ) -> Canister:
        now = self._context.now_ns
        canister = Canister(
            canister_id=canister_id,
            settings=initial_settings(settings, request.caller),
            created_at=now,
            cycles=cycles,
            charged_until=now,
        )
        details = {
            "controllers": list(canister.settings.controllers),
            "environment_variables_hash": _variables_hash(canister.settings.environment_variables),
        }
        self._context.record(canister, request, ("creation", details))
        self._context.replica.canisters[canister_id] = canister
        return canister

    def top_up(self, _request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Add cycles from nowhere."""
        self._context.canister(argument["canister_id"]).cycles += argument["amount"]
        return Reply()

    def deposit(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Add the cycles attached to the call."""
        self._context.canister(argument["canister_id"]).cycles += request.cycles
        return Reply(accepted=request.cycles)

    def update_settings(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Change settings."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        apply_settings(canister, argument["settings"])
        canister.version += 1
        if argument["settings"]["controllers"] is not None:
            details = {"controllers": list(canister.settings.controllers)}
            self._context.record(canister, request, ("controllers_change", details))
        return Reply()

    # Running

    def start(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Start a canister; whoever waits for it to stop is told that this will not happen."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        self._context.replica.forget_waits(canister.canister_id)
        text = f"Canister {principal.to_text(canister.canister_id)}'s stop request was cancelled."
        canister.status = CanisterStatus.RUNNING
        canister.version += 1
        for waiting in self._stopping.pop(canister.canister_id, []):
            waiting.respond(Rejected("IC0511", text), waiting.cycles)
        return Reply()

    def stop(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply | None:
        """Stop a canister; answered when its open calls are finished, or after five minutes."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        if canister.status is CanisterStatus.STOPPED:
            return Reply()
        if canister.status is CanisterStatus.RUNNING:
            canister.status = CanisterStatus.STOPPING
            canister.version += 1
        waiting = self._stopping.setdefault(canister.canister_id, [])
        waiting.append(request)

        def on_timeout() -> None:
            waiting.remove(request)
            request.respond(Rejected("IC0206", "Stop canister request timed out."), request.cycles)

        self._context.replica.when_no_contexts(canister.canister_id, lambda: self._stopped(canister), on_timeout)
        return DEFERRED

    def _stopped(self, canister: Canister) -> None:
        """Answer everybody who waits; called once per waiting request, of which the first does it all."""
        if canister.status is CanisterStatus.STOPPING:
            canister.status = CanisterStatus.STOPPED
            canister.version += 1
        for waiting in self._stopping.pop(canister.canister_id, []):
            waiting.respond(_EMPTY_REPLY, waiting.cycles)

    # Emptying and deleting

    def uninstall_code(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Remove code and state; snapshots stay."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        self.uninstall(canister)
        self._context.record(canister, request, ("code_uninstall", None))
        return Reply()

    def uninstall(self, canister: Canister) -> None:
        """Remove code, state and chunk store, and reject the calls the canister had not answered."""
        self._context.replica.engine.uninstall(canister)
        canister.chunk_store.clear()
        answer = Rejected("IC0406", "Canister has been uninstalled.")
        self._context.replica.reject_open_contexts(canister.canister_id, answer)

    def uninstall_by_system(self, canister: Canister) -> None:
        """Take everything from a canister that cannot pay: code, state, snapshots and allocations."""
        self.uninstall(canister)
        self.drop_snapshots(canister)
        canister.settings.compute_allocation = 0
        canister.settings.memory_allocation = 0

    def delete(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Delete a stopped canister with its snapshots; its cycles are lost."""
        canister = self._context.controlled(argument["canister_id"], request.caller)
        text = principal.to_text(canister.canister_id)
        if request.from_canister == canister.canister_id:
            raise Rejected("IC0512", f"Canister {text} cannot delete itself.")
        if canister.status is not CanisterStatus.STOPPED:
            raise Rejected("IC0510", f"Canister {text} must be stopped before it is deleted.")
        self.uninstall(canister)
        self.drop_snapshots(canister)
        del self._context.replica.canisters[canister.canister_id]
        return Reply()

    @staticmethod
    def drop_snapshots(canister: Canister) -> None:
        """Delete all snapshots."""
        while canister.snapshots:
            _, snapshot = canister.snapshots.popitem()
            snapshot.heap.close()
            snapshot.stable.close()


def _variables_hash(variables: dict[str, str]) -> bytes | None:
    """Return the representation-independent hash of environment variables, `None` for none."""
    if not variables:
        return None
    pairs = sorted(
        hashlib.sha256(name.encode()).digest() + hashlib.sha256(value.encode()).digest()
        for name, value in variables.items()
    )
    return hashlib.sha256(b"".join(pairs)).digest()
