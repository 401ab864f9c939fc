"""
Naming what went wrong between us and a hub: HTTP replies and transport exceptions become `BackupError`.

Decisions follow the status and the stable ``code`` of an error body, never its text (contracts 1.3). Messages hold the
status and at most 200 characters of the body, with our own secrets blotted out in case the hub repeats them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

import attrs

from .._engine.canonical import JsonError, loads
from .._transport import TRANSPORT_HINTS, excerpt, retry_after_seconds
from ..errors import BackupError, ExportError, RejectedError, SourceUnavailableError

__all__ = ["HINTS", "HubReply", "error_code", "reply_error"]

_TRANSIENT = frozenset({408, 425, 429})


@attrs.frozen(kw_only=True)
class HubReply:
    """One complete answer; ``route`` names the endpoint without ids or paths."""

    route: str
    status: int
    body: bytes = attrs.field(repr=False)
    retry_after: str = ""
    location: str = ""

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return 200 <= self.status < 300


def error_code(body: bytes) -> str:
    """Return the ``code`` of an error body, or ``""`` when there is none."""
    if len(body) > 65536:
        return ""  # error bodies are one sentence; a large one is something else
    try:
        value = loads(body)
    except JsonError:
        return ""
    code = value.get("code") if isinstance(value, dict) else None
    return code if isinstance(code, str) else ""


def reply_error(reply: HubReply, *, secrets: Iterable[str], now: dt.datetime) -> BackupError:
    """
    Return the error that a reply other than 2xx stands for.

    Args:
        reply: Status and body.
        secrets: Never to appear in the message, even if the hub repeats them.
        now: To turn a ``Retry-After`` date into seconds.
    """
    code = error_code(reply.body)
    context = {"status": reply.status, "code": code, "route": reply.route}
    said = f"the hub answered {reply.status}{f' {code[:40]}' if code else ''} to {reply.route}"
    quoted = excerpt(reply.body, secrets)
    if quoted:
        said = f"{said}: {quoted}"
    transient = reply.status in _TRANSIENT or (reply.status >= 500 and not code)
    if transient:
        kind = "overloaded" if reply.status == 429 else "hub_unavailable"
        if wait := retry_after_seconds(reply.retry_after, now=now):
            return SourceUnavailableError(said, kind=kind, hint=HINTS[kind], **context, retry_after_seconds=wait)
        return SourceUnavailableError(said, kind=kind, hint=HINTS[kind], **context)
    kind = _kind(reply, code)
    hint = HINTS[kind]
    if kind == "redirected":
        context["location"] = excerpt(reply.location.encode(), secrets)
    return RejectedError(said, kind=kind, hint=hint, **context)


def not_json_error(route: str, body: bytes, *, passing: bool) -> BackupError:
    """
    Return the error for a reply of status 2xx that is not JSON.

    Args:
        route: The endpoint, without ids or paths.
        body: The reply.
        passing: Whether a second reading differed.
    """
    message = f"the reply to {route} is not JSON ({len(body)} bytes)"
    if passing:
        return SourceUnavailableError(f"{message}, and a second reading differed", kind="reply_not_json", route=route)
    page = "check the hub address: a web page answers instead of the hub?"
    hint = page if body.lstrip()[:1] == b"<" else HINTS["reply_not_json"]
    return ExportError(message, kind="reply_not_json", hint=hint, route=route)


HINTS: Final = {
    **TRANSPORT_HINTS,
    "gateway_auth": "the hub has a gateway secret: pass gateway_secret=, the value of CANISTER_AUTH_SECRET",
    "operator_key": "the operator key is not the one a controller stored with admin_set_operator_export_secret; "
    "compare KNOWTATION_OPERATOR_EXPORT_KEY",
    "not_configured": "no operator key was ever stored in the hub: a controller calls admin_set_operator_export_secret",
    "not_found": "check the hub address: is this a Knowtation hub, and of this version?",
    "redirected": "redirects are not followed, because the keys would go with them; use the final address",
    "overloaded": "lower the concurrency or try again later",
    "hub_unavailable": "the canister may be stopped, frozen, out of cycles, or its reply too large; try again later",
    "timeout": "try again later, or raise HubTimeouts if the hub is known to be slow",
    "reply_not_json": "check the hub address; if it is right, report the reply to the hub's owner",
    "reply_too_large": "no canister can send that much: check the hub address, or raise HubLimits.reply_bytes",
    "encoded_reply": "a proxy compresses although it was asked not to: go around it",
    "forbidden": "the hub or a proxy before it refuses this client: check the gateway secret and any access rules",
    "rejected": "the hub refused the request for a reason of its own: see its answer",
}


def _kind(reply: HubReply, code: str) -> str:
    named = {"GATEWAY_AUTH_REQUIRED": "gateway_auth", "NOT_FOUND": "not_found"}.get(code)
    if named:
        return named
    if reply.status == 503 and code == "SERVICE_UNAVAILABLE":
        return "not_configured"
    by_status = {401: "operator_key", 403: "forbidden", 404: "not_found"}.get(reply.status)
    if by_status:
        return by_status
    return "redirected" if 300 <= reply.status < 400 else "rejected"
