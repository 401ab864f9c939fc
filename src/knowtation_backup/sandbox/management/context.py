"""What all areas of the management canister share: looking up canisters, permissions, history, charges."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from ..._checks import above, at_least, optional
from .. import accounting, principal
from ..messages import Rejected
from ..state import Canister, Change, Visibility

if TYPE_CHECKING:
    from ..replica.replica import ManagementRequest, Replica

__all__ = ["DEFERRED", "Handler", "ManagementContext", "ManagementOptions", "Reply", "chunk_store_error"]

DEFAULT_CYCLES: Final = 100_000_000_000_000
_MAX_HISTORY: Final = 20


@attrs.frozen(kw_only=True)
class ManagementOptions:
    """Switches for what a network does on its own terms."""

    checkpoint_delay_seconds: float = attrs.field(default=0.0, validator=at_least(0))
    """How long foreign snapshots stay unloadable after being taken from a running canister or uploaded to."""
    heap_delta_limit_bytes: int | None = attrs.field(default=None, validator=optional(above(0)))
    """Debit of written bytes from which on snapshot operations are refused; `None` never refuses."""
    default_cycles: int = attrs.field(default=DEFAULT_CYCLES, validator=at_least(0))
    """Balance of provisionally created canisters that name no amount."""


@attrs.frozen
class Reply:
    """Values of a successful call; ``accepted`` of the attached cycles are kept."""

    values: tuple[Any, ...] = ()
    accepted: int = 0


DEFERRED: Final = None
"""The handler answers later, through the request."""

Handler: TypeAlias = Callable[["ManagementRequest", dict[str, Any]], Reply | None]


def chunk_store_error(message: str) -> Rejected:
    """Return the refusal of a chunk store; its code says nothing of the cause."""
    return Rejected("IC0504", f"Error from Wasm chunk store: {message}.")


class ManagementContext:
    """Used by the handlers of one management canister."""

    def __init__(self, replica: Replica, options: ManagementOptions) -> None:
        self.replica = replica
        self.options = options

    @property
    def now_ns(self) -> int:
        """The sandbox's time."""
        return self.replica.clock.now_ns()

    # Who

    def canister(self, canister_id: bytes) -> Canister:
        """
        Return a canister of this subnet.

        Raises:
            Rejected: IC0301.
        """
        canister = self.replica.canisters.get(canister_id)
        if canister is None:
            raise Rejected("IC0301", f"Canister {principal.to_text(canister_id)} not found.")
        return canister

    @staticmethod
    def controllers_only(canister: Canister, caller: bytes) -> Rejected:
        """Return the refusal that names the controllers."""
        controllers = " ".join(map(principal.to_text, canister.settings.controllers))
        return Rejected(
            "IC0512",
            f"Only the controllers of the canister {principal.to_text(canister.canister_id)} can control it.\n"
            f"Canister's controllers: {controllers}\n"
            f"Sender's ID: {principal.to_text(caller)}",
        )

    def controlled(self, canister_id: bytes, caller: bytes, *, allow_self: bool = False) -> Canister:
        """
        Return a canister that *caller* controls (or is, with *allow_self*).

        Raises:
            Rejected: IC0301, IC0512.
        """
        canister = self.canister(canister_id)
        if caller not in canister.settings.controllers and not (allow_self and caller == canister_id):
            raise self.controllers_only(canister, caller)
        return canister

    @staticmethod
    def may_view(canister: Canister, visibility: Visibility, caller: bytes) -> bool:
        """Tell whether a visibility setting lets *caller* read; controllers always may."""
        return (
            visibility.kind == "public"
            or caller in canister.settings.controllers
            or (visibility.kind == "allowed_viewers" and caller in visibility.viewers)
        )

    # History

    def record(self, canister: Canister, request: ManagementRequest, details: tuple[str, Any]) -> None:
        """Append to the canister's history, under its present version; the oldest of more than 20 entries go."""
        origin: tuple[str, Any] = ("from_user", {"user_id": request.caller})
        if request.from_canister is not None:
            version = request.sender_canister_version
            origin = ("from_canister", {"canister_id": request.from_canister, "canister_version": version})
        canister.history.append(
            Change(timestamp_nanos=self.now_ns, canister_version=canister.version, origin=origin, details=details)
        )
        del canister.history[:-_MAX_HISTORY]
        canister.total_changes += 1

    # Cycles and memory

    @staticmethod
    def charge_instructions(canister: Canister, instructions: int) -> None:
        """
        Charge the execution of *instructions* on behalf of the canister, before doing the work.

        Raises:
            Rejected: IC0207; nothing was charged.
        """
        code = canister.code
        cost = accounting.execution_cost(instructions, wasm64=bool(code and code.module.memory64))
        accounting.require_cycles(canister, cost)
        accounting.charge(canister, accounting.INSTRUCTIONS, cost)

    @staticmethod
    def require_growth(canister: Canister, size_bytes: int) -> None:
        """
        Refuse when the balance would not cover the freezing threshold with *size_bytes* more memory.

        Raises:
            Rejected: IC0532.
        """
        if size_bytes <= 0:
            return
        missing = accounting.freezing_balance(canister, extra_bytes=size_bytes) - canister.cycles
        if missing > 0:
            raise Rejected(
                "IC0532",
                f"Canister cannot grow memory by {size_bytes} bytes due to insufficient cycles. "
                f"At least {missing} additional cycles are required.",
            )

    def _heap_delta(self, canister: Canister) -> tuple[int, int] | None:
        """Return debit and limit when the canister's budget of written bytes is used up; the replica drains it."""
        limit = self.options.heap_delta_limit_bytes
        if limit is None or canister.heap_delta_debit < limit:
            return None
        return canister.heap_delta_debit, limit

    def require_heap_delta(self, canister: Canister) -> None:
        """
        Refuse while too much was written.

        Raises:
            Rejected: IC0210.
        """
        if exceeded := self._heap_delta(canister):
            debit, limit = exceeded
            raise Rejected(
                "IC0210",
                f"Canister {principal.to_text(canister.canister_id)} is heap delta rate limited: "
                f"current delta debit is {debit}, but limit is {limit}.",
            )

    def require_chunk_heap_delta(self, canister: Canister) -> None:
        """
        Refuse while too much was written, the way chunk stores and snapshot uploads say it.

        Raises:
            Rejected: IC0504.
        """
        if exceeded := self._heap_delta(canister):
            debit, limit = exceeded
            raise chunk_store_error(
                f"Canister is heap delta rate limited. Current delta debit: {debit}, limit: {limit}"
            )
