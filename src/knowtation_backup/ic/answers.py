"""
Naming HTTP answers of replicas and boundary nodes that are not what was asked for.

Sources:
    HTTP-level errors: internet-computer reference, A.10; causes of API boundary nodes: the same.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Mapping
from typing import Any, Final

from .._transport import retry_after_seconds
from ..errors import BackupError, CertificateError, RejectedError, SourceUnavailableError
from .cbor import Buffer, CborError, decode
from .rejections import blotted
from .sending import HttpAnswer

__all__ = ["OVERLOADED", "http_refusal", "is_missing_endpoint", "is_overload", "malformed"]
__all__ += ["may_have_passed", "outer_map"]

OVERLOADED: Final = "overloaded"

_PATIENT: Final = frozenset({429, 503})
"""Statuses of a network that is there but busy; they are waited out."""
_TRANSIENT: Final = frozenset({408, 425, *range(500, 600)}) - {501, 505}
_AMBIGUOUS: Final = frozenset(range(500, 600)) - {501, 503, 505}
_IDENTITY_TEXTS: Final = (
    "Invalid signature",
    "Missing signature",
    "Signature is not allowed",
    "The user id",
    "Invalid delegation",
    "Invalid canister signature",
)
_DELEGATION_TEXT: Final = "is not one of the delegation targets"
_EXPIRY_TEXT: Final = "Invalid request expiry"
_ALLOWED: Final = re.compile(r"Minimum allowed expiry: (\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,6})?)", re.ASCII)
_MOST_TEXT: Final = 4_096


def is_overload(error: BackupError) -> bool:
    """Whether *error* says that the network is busy: fewer requests at once would help."""
    return error.kind == OVERLOADED


def is_missing_endpoint(answer: HttpAnswer) -> bool:
    """Whether the node does not know this version of the interface (and not merely what was asked for in it)."""
    return answer.status == 404 and not _text(answer).startswith("Invalid path") and "canister" not in answer.cause


def may_have_passed(answer: HttpAnswer) -> bool:
    """
    Whether the request may have reached a node although this is the answer to it.

    Gateways and boundary nodes answer 5xx when what they passed the request on to did not answer them; nodes themselves
    answer 503 before they accept anything.
    """
    return answer.status in _AMBIGUOUS or (answer.status == 503 and answer.cause.startswith("replica"))


def http_refusal(answer: HttpAnswer, *, now: dt.datetime, arg: bytes = b"") -> BackupError:
    """
    Return the error that an answer other than 200 and 202 stands for.

    Args:
        answer: Status and text.
        now: To turn a ``Retry-After`` date into seconds, and to name how clocks differ.
        arg: What was asked: should the text repeat parts of it, they are blotted out.
    """
    text = _text(answer)
    said = f"the network answered {answer.status} to {answer.route}"
    quoted = blotted(text, arg)
    if quoted:
        said = f"{said}: {quoted}"
    context = {"status": answer.status, "route": answer.route, "cause": blotted(answer.cause, arg)}
    if answer.status in _PATIENT or answer.status in _TRANSIENT:
        if wait := retry_after_seconds(answer.retry_after, now=now):
            context["retry_after_seconds"] = wait
        if answer.status in _PATIENT:
            hint = "lower the concurrency or try again later"
            return SourceUnavailableError(said, kind="overloaded", hint=hint, **context)
        hint = "try again later; the nodes may be in the middle of an upgrade"
        return SourceUnavailableError(said, kind="network_unavailable", hint=hint, **context)
    if _EXPIRY_TEXT in text:
        return _clocks(answer, text, now)
    of_identity = text.startswith(_IDENTITY_TEXTS) or _DELEGATION_TEXT in text
    if answer.status in {400, 401, 403} and of_identity:
        hint = "check the identity, its delegations and this machine's clock"
        return RejectedError(said, kind="identity_refused", hint=hint, **context)
    if 300 <= answer.status < 400:
        return RejectedError(
            said, kind="redirected", hint="redirects are not followed; use the final address", **context
        )
    kind, hint = _BY_STATUS.get(answer.status, ("rejected", "the network refused the request for a reason of its own"))
    if answer.cause in {"canister_not_found", "subnet_not_found"}:
        kind, hint = "canister_not_found", "check the canister id, and that it lives on this network"
    return RejectedError(said, kind=kind, hint=hint, **context)


def outer_map(body: Buffer, *, route: str) -> Mapping[str, Any]:
    """
    Return the fields of an answer; byte strings are views into *body*.

    Args:
        body: The whole answer.
        route: What was asked, in words, for the error.

    Raises:
        CertificateError: Kind ``bad_reply``: this is not one CBOR map.
    """
    try:
        value = decode(body)
    except CborError as error:
        raise malformed(route, str(error)) from None
    if not isinstance(value, dict):
        raise malformed(route, "it is not a map")
    return value


def malformed(route: str, why: str) -> CertificateError:
    """Return the error for an answer that no node of the network gives."""
    message = f"the answer to {route} is not what a node of the network sends: {why}"
    hint = "check the address and proxies on the way; nothing of the answer was used"
    return CertificateError(message, kind="bad_reply", hint=hint, route=route)


_BY_STATUS: Final = {
    403: ("forbidden", "this part of the state is private, or a proxy refuses this client"),
    404: ("not_found", "check the address and the path: is this an Internet Computer replica or boundary node?"),
    413: ("message_too_large", "a message to the network holds at most 2 MiB"),
}


def _clocks(answer: HttpAnswer, text: str, now: dt.datetime) -> RejectedError:
    network_time = _network_time(answer, text)
    context = {"status": answer.status, "route": answer.route}
    hint = "set this machine's clock, with a time service such as NTP"
    if network_time is None:
        message = f"the network refused the expiry of {answer.route}: this machine's clock is wrong"
        return RejectedError(message, kind="clock_differs", hint=hint, **context)
    difference = (now - network_time).total_seconds()
    direction = "ahead of" if difference > 0 else "behind"
    message = (
        f"the network refused the expiry of {answer.route}: this machine's clock is about {abs(difference):.0f} s "
        f"{direction} the network's"
    )
    return RejectedError(message, kind="clock_differs", hint=hint, difference_seconds=round(difference, 1), **context)


def _network_time(answer: HttpAnswer, text: str) -> dt.datetime | None:
    found = _ALLOWED.search(text)
    try:
        if found is not None:  # the earliest expiry a replica allows is its own present
            return dt.datetime.fromisoformat(found[1]).replace(tzinfo=dt.UTC)
        return email.utils.parsedate_to_datetime(answer.date).astimezone(dt.UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def _text(answer: HttpAnswer) -> str:
    return bytes(answer.body[:_MOST_TEXT]).decode("utf-8", "replace").strip()
