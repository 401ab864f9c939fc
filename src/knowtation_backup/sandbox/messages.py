"""
Values that pass between the sandbox's HTTP interface, its replica and its canisters.

Principals are raw bytes throughout the sandbox; text appears only at the edges.
"""

from __future__ import annotations

import enum

import attrs

MANAGEMENT_CANISTER = b""
ANONYMOUS = b"\x04"


class RejectCode(enum.IntEnum):
    """Reject codes of the interface specification."""

    SYS_FATAL = 1
    SYS_TRANSIENT = 2
    DESTINATION_INVALID = 3
    CANISTER_REJECT = 4
    CANISTER_ERROR = 5
    SYS_UNKNOWN = 6


@attrs.frozen
class Replied:
    """A successful answer: Candid bytes."""

    data: bytes = attrs.field(repr=False)


_MAX_MESSAGE_BYTES = 8 << 10


def _cut(message: str) -> str:
    return message.encode(errors="replace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")


@attrs.frozen
class Rejected(Exception):  # noqa: N818 - first of all a value of the interface
    """
    A refusal, as a value and as an exception.

    ``error_code`` is ``IC`` and four digits; its hundreds digit is the reject code, and ``message`` is cut at 8 KiB
    (internet-computer reference, A.11).
    """

    error_code: str
    message: str = attrs.field(converter=_cut)

    @property
    def code(self) -> RejectCode:
        """The reject code that belongs to the error code."""
        return RejectCode(int(self.error_code[2:4]))


Answer = Replied | Rejected


@attrs.frozen(kw_only=True)
class Call:
    """A validated ingress call or query, envelope removed."""

    request_id: bytes
    sender: bytes
    canister_id: bytes
    effective_canister_id: bytes
    method: str
    arg: bytes = attrs.field(repr=False)
    ingress_expiry: int
    """Nanoseconds since the epoch."""
    size_bytes: int = 0
    """Size of the whole envelope, for the accounting of ingress cycles."""


class RequestState(enum.Enum):
    """States of a request in the ingress history."""

    RECEIVED = "received"
    PROCESSING = "processing"
    REPLIED = "replied"
    REJECTED = "rejected"
    DONE = "done"


@attrs.frozen(kw_only=True)
class RequestStatus:
    """What the ingress history knows of one request."""

    state: RequestState
    sender: bytes
    canister_id: bytes
    answer: Answer | None = None
