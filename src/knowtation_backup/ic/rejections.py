"""
Naming refusals of the network: reject codes, error codes and a few texts become kinds of `RejectedError`.

Sources:
    IC interface specification, "Reject codes"; error codes: internet-computer reference, A.11 and D.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .._transport import excerpt
from ..errors import RejectedError

__all__ = ["KINDS", "PASSING", "RATE_LIMITED", "REJECT_KINDS", "blotted", "rejection"]

RATE_LIMITED: Final = "rate_limited"

MESSAGE_TIMED_OUT: Final = "message_timed_out"
PASSING: Final = frozenset({RATE_LIMITED, MESSAGE_TIMED_OUT})
"""Rejections of calls that did not run, and may be accepted a little later."""

KINDS: Final[Mapping[str, str]] = {
    "IC0101": "subnet_full",
    "IC0102": "subnet_full",
    "IC0201": RATE_LIMITED,
    "IC0202": MESSAGE_TIMED_OUT,
    "IC0204": RATE_LIMITED,
    "IC0206": "stop_timed_out",
    "IC0207": "out_of_cycles",
    "IC0208": RATE_LIMITED,
    "IC0209": RATE_LIMITED,
    "IC0210": RATE_LIMITED,
    "IC0301": "canister_not_found",
    "IC0305": "snapshot_not_found",
    "IC0402": "subnet_full",
    "IC0408": "bad_argument",
    "IC0409": "snapshot_immutable",
    "IC0502": "canister_trapped",
    "IC0503": "canister_trapped",
    "IC0508": "canister_stopped",
    "IC0509": "canister_stopping",
    "IC0510": "canister_not_stopped",
    "IC0511": "stop_cancelled",
    "IC0512": "not_controller",
    "IC0530": "out_of_cycles",
    "IC0531": "out_of_cycles",
    "IC0532": "out_of_cycles",
    "IC0533": "reserved_cycles_limit",
    "IC0534": "reserved_cycles_limit",
    "IC0535": "out_of_cycles",
    "IC0536": "method_not_found",
    "IC0537": "canister_empty",
    "IC0540": "reserved_cycles_limit",
}
"""Kinds by error code; those left out get the kind of their reject code."""

REJECT_KINDS: Final[Mapping[int, str]] = {
    1: "system_fatal",
    2: "system_transient",
    3: "destination_invalid",
    4: "canister_rejected",
    5: "canister_error",
    6: "system_unknown",
}

_HINTS: Final[Mapping[str, str]] = {
    RATE_LIMITED: "the network limits how fast state is written; try again in a minute",
    "out_of_cycles": "top up the canister with cycles",
    "reserved_cycles_limit": "raise reserved_cycles_limit in the canister's settings",
    "subnet_full": "the subnet has no memory left: try later, or move to another subnet",
    "not_controller": "add this identity to the canister's controllers",
    "canister_stopped": "start the canister",
    "canister_stopping": "wait until it has stopped, or start it",
    "canister_not_stopped": "stop the canister first",
    "canister_not_found": "check the canister id, and that it lives on this network",
    "snapshot_not_found": "list the canister's snapshots: it may have been replaced or deleted",
    "not_loadable": "the network makes it loadable with its next checkpoint; try again in some minutes",
    MESSAGE_TIMED_OUT: "the network was busy and dropped the message before it ran; try again",
}

_HEAP_DELTA: Final = "heap delta rate limited"
_NOT_LOADABLE: Final = "not currently loadable"
_SECRET_ARG_BYTES: Final = 65_536
_WINDOW: Final = 8


def rejection(  # noqa: PLR0913 - the parts of a refusal
    *, what: str, reject_code: int, message: str, error_code: str | None, certified: bool, arg: bytes = b""
) -> RejectedError:
    """
    Return the error for a refusal.

    Args:
        what: Which call, in words.
        reject_code: 1 to 6.
        message: The network's or the canister's own text; shown in part.
        error_code: ``IC`` and four digits, if there is one.
        certified: Whether a subnet signed it.
        arg: What was asked: should the text repeat parts of it, they are blotted out.
    """
    code = error_code or ""
    kind = _kind(reject_code, code, message)
    said = blotted(message, arg)
    signed = "" if certified else ", without a subnet's signature"
    return RejectedError(
        f"{what} was rejected with code {reject_code}{f' ({code[:10]})' if code else ''}{signed}: {said}",
        kind=kind,
        hint=_HINTS.get(kind, ""),
        certified=certified,
        reject_code=reject_code,
        error_code=code[:10],
        reject_message=said,
    )


def _kind(reject_code: int, error_code: str, message: str) -> str:
    # Chunks for the chunk store and for snapshots are refused under the code of a broken contract (reference, D.8).
    if error_code == "IC0504" and _HEAP_DELTA in message:
        return RATE_LIMITED
    if error_code == "IC0406" and _NOT_LOADABLE in message:
        return "not_loadable"
    return KINDS.get(error_code) or REJECT_KINDS.get(reject_code, "rejected")


def blotted(text: str, arg: bytes) -> str:
    """Return the first characters of *text*, printable, without what a small *arg* (which may be a secret) holds."""
    said = excerpt(text.encode("utf-8", "replace"))
    if not arg or len(arg) > _SECRET_ARG_BYTES:
        return said
    hidden = [False] * len(said)
    for start in range(len(said) - _WINDOW + 1):
        if said[start : start + _WINDOW].encode() in arg:
            hidden[start : start + _WINDOW] = [True] * _WINDOW
    shown = []
    for position, character in enumerate(said):
        if not hidden[position]:
            shown.append(character)
        elif not position or not hidden[position - 1]:
            shown.append("***")
    return "".join(shown)
