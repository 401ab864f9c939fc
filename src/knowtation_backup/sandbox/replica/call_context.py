"""Calls in flight: what a canister has been asked, and what it has asked others."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ..execution.message import OutgoingCall
from ..messages import Answer, Call

__all__ = ["CallContext", "PendingCall", "Request"]

Respond = Callable[[Answer, int], None]
"""Takes the answer and the cycles that go back."""


@attrs.frozen(kw_only=True)
class Request:
    """A call on its way to a canister, from a user or from a canister."""

    receiver: bytes
    """Empty for the management canister."""
    method: str
    arg: bytes = attrs.field(repr=False)
    caller: bytes
    cycles: int = 0
    deadline: int = 0
    """Nanoseconds after which the caller does not wait any more, 0 for ever."""
    respond: Respond = attrs.field(repr=False)
    ingress: Call | None = None
    sender_version: int | None = None


@attrs.define(kw_only=True, eq=False)
class CallContext:
    """
    One call being worked on by a canister, over all its messages.

    It is open until it has been answered and none of its own calls is outstanding. Heartbeats and timers have one
    without anybody to answer: ``respond`` is `None`.
    """

    canister_id: bytes
    caller: bytes
    cycles: int
    """Cycles that came with the call and have not been accepted."""
    deadline: int
    respond: Respond | None = attrs.field(repr=False)
    outstanding: int = 0
    answered: bool = False
    instructions: int = 0
    closed: bool = False
    """Set when code was uninstalled under it: callbacks are not run any more."""

    def answer(self, answer: Answer) -> None:
        """Give the answer, once, with the cycles nobody accepted."""
        self.answered = True
        refund, self.cycles = self.cycles, 0
        if self.respond:
            self.respond(answer, refund)


@attrs.define(kw_only=True, eq=False)
class PendingCall:
    """A call a canister has made and not been answered."""

    context: CallContext
    call: OutgoingCall
    expires_at: int | None
    """For best-effort calls, nanoseconds."""
    done: bool = False
