"""
Values that pass between the sandbox's HTTP interface, its replica and its canisters.

Principals are raw bytes throughout the sandbox; text appears only at the edges.
"""

from __future__ import annotations

import enum

import attrs

from ..errors import RejectedError

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


class Rejected(RejectedError):  # noqa: N818 - first of all a value of the interface
    """
    A refusal, as a value and as an exception; equal when code and message are.

    ``error_code`` is ``IC`` and four digits; its hundreds digit is the reject code, and ``message`` is cut at 8 KiB
    (internet-computer reference, A.11).
    """

    default_kind = "sandbox_rejected"
    __match_args__ = ("error_code", "message")

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(_cut(message), error_code=error_code, reject_code=int(error_code[2:4]))
        self.error_code = error_code

    @property
    def code(self) -> RejectCode:
        """The reject code that belongs to the error code."""
        return RejectCode(int(self.error_code[2:4]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rejected):
            return NotImplemented
        mine, others = (type(self), self.error_code, self.message), (type(other), other.error_code, other.message)
        return mine == others

    def __hash__(self) -> int:
        return hash((self.error_code, self.message))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.error_code!r}, {self.message!r})"

    def __str__(self) -> str:
        return f"{self.error_code}: {self.message}"

    def __reduce__(self) -> tuple[type[Rejected], tuple[str, str]]:
        return (type(self), (self.error_code, self.message))


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
