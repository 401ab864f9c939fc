"""
Naming what went wrong between us and a hub: HTTP replies and transport exceptions become `BackupError`.

Decisions follow the status and the stable ``code`` of an error body, never its text (contracts 1.3). Messages hold the
status and at most 200 characters of the body, with our own secrets blotted out in case the hub repeats them.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import ssl
from collections.abc import Iterable
from typing import Final

import attrs
import httpcore
import httpx

from .._engine.canonical import JsonError, loads
from ..errors import BackupError, ConfigurationError, RejectedError, SourceError, SourceUnavailableError

__all__ = [
    "HINTS",
    "TRANSPORT_ERRORS",
    "HubReply",
    "error_code",
    "reply_error",
    "retry_after_seconds",
    "transport_error",
]

_EXCERPT_CHARACTERS = 200
_TRANSIENT = frozenset({408, 425, 429})
_CONNECT = (httpx.ConnectError, httpx.ConnectTimeout, httpcore.ConnectError, httpcore.ConnectTimeout)
_TLS_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_TIMEOUT = (httpx.TimeoutException, httpcore.TimeoutException)
_LOCAL = (
    httpx.LocalProtocolError,
    httpcore.LocalProtocolError,
    httpx.UnsupportedProtocol,
    httpcore.UnsupportedProtocol,
)

TRANSPORT_ERRORS = (
    httpx.TransportError,
    httpx.StreamError,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    httpcore.ProxyError,
    OSError,
)
"""Everything a transport raises when a request fails below the level of HTTP statuses."""


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
    excerpt = _excerpt(reply.body, secrets)
    if excerpt:
        said = f"{said}: {excerpt}"
    transient = reply.status in _TRANSIENT or (reply.status >= 500 and not code)
    if transient:
        kind = "overloaded" if reply.status == 429 else "hub_unavailable"
        if wait := retry_after_seconds(reply.retry_after, now=now):
            return SourceUnavailableError(said, kind=kind, hint=HINTS[kind], **context, retry_after_seconds=wait)
        return SourceUnavailableError(said, kind=kind, hint=HINTS[kind], **context)
    kind = _kind(reply, code)
    hint = HINTS[kind]
    if kind == "redirected":
        context["location"] = _excerpt(reply.location.encode(), secrets)
    return RejectedError(said, kind=kind, hint=hint, **context)


def retry_after_seconds(value: str, *, now: dt.datetime) -> float:
    """Return the seconds a ``Retry-After`` header asks for, 0 when it is absent, past, or unreadable."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - now).total_seconds())


def transport_error(error: BaseException, *, route: str, host: str) -> BackupError:
    """
    Return the error that a transport exception stands for; raise it outside the ``except`` block.

    The exception itself is dropped: it refers to the request, and that to headers with secrets.
    """
    refusal = _tls_refusal(error)
    if refusal is not None:
        return SourceError(
            f"no trustworthy TLS connection to {host}: {refusal}", kind="tls", hint=HINTS["tls"], route=route
        )
    if isinstance(error, _LOCAL):  # its text may quote a header
        return ConfigurationError(f"the request to {host} cannot be sent as HTTP", kind="not_sendable", route=route)
    if isinstance(error, _CONNECT):
        reason = _system_reason(error)
        return SourceUnavailableError(
            f"cannot connect to {host}{reason}", kind="unreachable", hint=HINTS["unreachable"], route=route
        )
    if isinstance(error, _TIMEOUT):
        return SourceUnavailableError(
            f"{host} did not answer {route} in time", kind="timeout", hint=HINTS["timeout"], route=route
        )
    return SourceUnavailableError(
        f"the connection to {host} broke during {route} ({type(error).__name__}{_system_reason(error)})",
        kind="connection_lost",
        hint=HINTS["connection_lost"],
        route=route,
    )


HINTS: Final = {
    "gateway_auth": "the hub has a gateway secret: pass gateway_secret=, the value of CANISTER_AUTH_SECRET",
    "operator_key": "the operator key is not the one a controller stored with admin_set_operator_export_secret; "
    "compare KNOWTATION_OPERATOR_EXPORT_KEY",
    "not_configured": "no operator key was ever stored in the hub: a controller calls admin_set_operator_export_secret",
    "not_found": "check the hub address: is this a Knowtation hub, and of this version?",
    "redirected": "redirects are not followed, because the keys would go with them; use the final address",
    "overloaded": "lower the concurrency or try again later",
    "hub_unavailable": "the canister may be stopped, frozen, out of cycles, or its reply too large; try again later",
    "unreachable": "check the address, the network and that the hub is running",
    "timeout": "try again later, or raise HubTimeouts if the hub is known to be slow",
    "connection_lost": "try again later; check proxies between here and the hub if it goes on",
    "reply_not_json": "check the hub address; if it is right, report the reply to the hub's owner",
    "reply_too_large": "no canister can send that much: check the hub address, or raise HubLimits.reply_bytes",
    "encoded_reply": "a proxy compresses although it was asked not to: go around it",
    "forbidden": "the hub or a proxy before it refuses this client: check the gateway secret and any access rules",
    "rejected": "the hub refused the request for a reason of its own: see its answer",
    "tls": "check the host name and the certificate authorities of this machine; the check is never skipped",
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


def _excerpt(body: bytes, secrets: Iterable[str]) -> str:
    text = body[: 4 * _EXCERPT_CHARACTERS + 4096].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split())[:_EXCERPT_CHARACTERS]
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _causes(error: BaseException) -> Iterable[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    return seen


def _tls_refusal(error: BaseException) -> str | None:
    """Return why TLS failed for good, `None` when it did not; a connection cut during the handshake may pass."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, ssl.SSLError) and isinstance(error, _CONNECT) and not isinstance(cause, _TLS_CUT):
            return cause.reason or "the handshake failed"
    return None


def _system_reason(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return f": {cause.strerror}"
    return ""
