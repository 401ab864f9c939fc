"""One subnet of the sandbox: canisters, queues, call contexts, request history; executes messages one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from .messages import Answer, Call

if TYPE_CHECKING:
    from .clock import SandboxClock
    from .messages import RequestStatus
    from .state import Canister

__all__ = ["Management", "ManagementRequest", "Replica"]


@attrs.frozen(kw_only=True)
class ManagementRequest:
    """One call of the management canister, from a user or from a canister."""

    caller: bytes
    method: str
    arg: bytes = attrs.field(repr=False)
    cycles: int
    """Cycles attached by a calling canister; 0 for users."""
    from_canister: bytes | None
    """Id of the calling canister, `None` for users."""
    sender_canister_version: int | None
    """Version of the calling canister when it made the call, `None` for users."""
    ingress: Call | None
    """The user's call, `None` for canisters."""
    respond: Callable[[Answer, int], None] = attrs.field(repr=False)
    """Takes the answer and the cycles to refund. Call exactly once, now or later (a deferred stop)."""


class Management(Protocol):
    """What the replica needs of the management canister. Every method runs under the replica's execution lock."""

    def check_ingress(self, call: Call) -> None:
        """Raise `Rejected` when the ingress filter refuses *call*; charges the induction of accepted ones."""

    def execute(self, request: ManagementRequest) -> None:
        """Execute *request*; raising `Rejected` is the same as answering with it and refunding all cycles."""

    def query(self, call: Call) -> bytes:
        """Answer a query of the management canister with Candid bytes, or raise `Rejected`."""


class Replica:
    """
    A subnet with one execution lock; see the methods.

    Publishes ``canisters`` (by raw id), ``clock``, ``engine``, ``subnet_id`` and ``root_key_der``. Two attributes are set after
    construction: ``management`` and ``data_certificate`` (canister id to certificate bytes, for queries).
    """

    clock: SandboxClock
    canisters: dict[bytes, Canister]
    management: Management
    data_certificate: Callable[[bytes], bytes]

    def call(self, call: Call) -> RequestStatus:
        """Run an ingress call as far as possible; raises `Rejected` when the ingress filter refuses it."""
        raise NotImplementedError

    def query(self, call: Call) -> Answer:
        """Answer a query; never raises `Rejected`."""
        raise NotImplementedError

    def request_status(self, request_id: bytes) -> RequestStatus | None:
        """Return what the history knows, or `None` (unknown or expired)."""
        raise NotImplementedError

    def tick(self) -> None:
        """Run one round: due timers, heartbeats, expiry of history, timeouts of deferred stops, idle charges."""
        raise NotImplementedError

    def open_call_contexts(self, canister_id: bytes) -> int:
        """Count the calls the canister has accepted and not finished."""
        raise NotImplementedError

    def reject_open_contexts(self, canister_id: bytes, answer: Answer) -> None:
        """Answer all unanswered calls of a canister with *answer* and forget its callbacks (uninstall, delete)."""
        raise NotImplementedError

    def when_no_contexts(
        self, canister_id: bytes, on_done: Callable[[], None], on_timeout: Callable[[], None]
    ) -> None:
        """
        Call *on_done* as soon as the canister has no open call context, at once if that is so now.

        After five minutes of sandbox time `tick` calls *on_timeout* instead (answer it with IC0206).
        """
        raise NotImplementedError

    def forget_waits(self, canister_id: bytes) -> None:
        """Drop what `when_no_contexts` registered (a start cancels a stop; the caller answers with IC0511)."""
        raise NotImplementedError
