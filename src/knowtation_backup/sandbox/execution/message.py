"""Values that describe one execution of a canister: what goes in, and what comes out."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from ..messages import Answer, Rejected

__all__ = ["UNREPLICATED", "InstructionLimits", "Message", "Mode", "Outcome", "OutgoingCall", "TableEntry"]


class Mode(enum.Enum):
    """Execution modes by the abbreviations of the interface specification."""

    if not TYPE_CHECKING:  # for checkers it is the one of any enumeration
        __hash__ = object.__hash__  # the inherited one runs in Python, a dozen times per message

    INIT = "I"
    PRE_UPGRADE = "G"
    UPDATE = "U"
    REPLICATED_QUERY = "RQ"
    QUERY = "NRQ"
    COMPOSITE_QUERY = "CQ"
    REPLY_CALLBACK = "Ry"
    REJECT_CALLBACK = "Rt"
    COMPOSITE_REPLY_CALLBACK = "CRy"
    COMPOSITE_REJECT_CALLBACK = "CRt"
    CLEANUP = "C"
    COMPOSITE_CLEANUP = "CC"
    INSPECT = "F"
    SYSTEM = "T"
    """Heartbeat, global timer, low memory hook."""
    START = "s"


UNREPLICATED = frozenset(
    {
        Mode.QUERY,
        Mode.COMPOSITE_QUERY,
        Mode.COMPOSITE_REPLY_CALLBACK,
        Mode.COMPOSITE_REJECT_CALLBACK,
        Mode.COMPOSITE_CLEANUP,
        Mode.INSPECT,
    }
)
"""Modes whose effects are always discarded."""


@attrs.frozen(kw_only=True)
class InstructionLimits:
    """Instructions per message (internet-computer reference, D.2); tests lower them."""

    update: int = 40_000_000_000
    query: int = 5_000_000_000
    install: int = 300_000_000_000
    inspect: int = 200_000_000

    def of(self, mode: Mode) -> int:
        """Return the limit for a mode."""
        if mode in {Mode.INIT, Mode.PRE_UPGRADE, Mode.START}:
            return self.install
        if mode is Mode.INSPECT:
            return self.inspect
        return self.query if mode in UNREPLICATED else self.update


@attrs.frozen
class TableEntry:
    """A callback: index into the canister's table, and the argument."""

    function: int
    environment: int


@attrs.frozen(kw_only=True)
class Message:
    """One execution to run."""

    mode: Mode
    entry: str | TableEntry
    """Export name or callback."""
    caller: bytes = b""
    arg: bytes = attrs.field(default=b"", repr=False)
    method: str = ""
    """For inspect_message."""
    reject: Rejected | None = None
    """What a reject callback is told."""
    cycles_available: int = 0
    cycles_refunded: int = 0
    deadline: int = 0
    answered: bool = False
    """The call context has been answered by an earlier message."""
    may_answer: bool = True
    """Whether there is a caller: false in system tasks and their callbacks."""
    context_instructions: int = 0
    """Instructions earlier messages of the call context used."""
    certificate: Callable[[], bytes] | None = attrs.field(default=None, repr=False)
    """Makes the data certificate, for queries; called only when the canister asks for it."""
    waiting_calls: Mapping[bytes, int] = attrs.field(factory=dict, repr=False)
    """Calls of the canister that wait for an answer, by callee."""
    version: int | None = None
    """What the canister sees as its version when it is not the present one (installation)."""


@attrs.frozen(kw_only=True)
class OutgoingCall:
    """A call a message has made."""

    callee: bytes
    method: str
    arg: bytes = attrs.field(repr=False)
    cycles: int
    on_reply: TableEntry
    on_reject: TableEntry
    on_cleanup: TableEntry | None
    timeout_seconds: int | None
    """Best-effort response: give up after this time; `None` waits for ever."""


@attrs.define(kw_only=True)
class Outcome:
    """What one execution did."""

    failure: Rejected | None = None
    """Set when it trapped: nothing else happened, but instructions were used."""
    answer: Answer | None = None
    calls: list[OutgoingCall] = attrs.field(factory=list)
    cycles_accepted: int = 0
    accepted: bool = False
    """Inspect: the message is welcome."""
    instructions: int = 0
    bytes_written: int = 0
    """Heap and stable memory committed."""
