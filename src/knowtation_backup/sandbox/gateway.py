"""
The HTTP gateway: plain HTTP in, ``http_request`` of a canister out.

The canister comes from the host (``<id>.raw.localhost``, ``<id>.localhost``, with an optional ``name--`` in front of
the id), from ``?canisterId=``, or from a port of its own (`SandboxServer.gateway_url`). Queries are upgraded to
``http_request_update``, streamed and partial (206) bodies are collected into one reply. Errors are those of the mainnet
gateways: JSON (a page for browsers) and the header ``X-IC-Error-Cause``.

Responses are never verified. Instead of a verified answer, the host without ``raw`` gives 503 to every query, as
mainnet does for canisters that certify nothing; `GatewayOptions.serve_unverified` turns that off. Updates need no
verification there.

Source:
    HTTP gateway protocol; internet-computer reference, G.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from . import candid, principal
from .exchange import HttpReply, HttpRequest, plain_text
from .messages import ANONYMOUS, Answer, Call, RejectCode, Rejected, Replied, RequestState

if TYPE_CHECKING:
    from .clock import SandboxClock
    from .replica import Replica

__all__ = ["MAX_GATEWAY_BODY_BYTES", "Gateway", "GatewayOptions"]

MAX_GATEWAY_BODY_BYTES: Final = 10 * 1024 * 1024
_MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
_MAX_CALLBACKS: Final = 1000
_EXPIRY_NS: Final = 240 * 1_000_000_000
_UPDATE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_HEADERS: Final = candid.Vec(candid.Record({0: candid.TEXT, 1: candid.TEXT}))
_UPDATE_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    "method": candid.TEXT,
    "url": candid.TEXT,
    "headers": _HEADERS,
    "body": candid.BLOB,
}
_UPDATE_REQUEST: Final = candid.Record(_UPDATE_FIELDS)
_QUERY_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    **_UPDATE_FIELDS,
    "certificate_version": candid.Opt(candid.NAT16),
}
_QUERY_REQUEST: Final = candid.Record(_QUERY_FIELDS)
_RESPONSE_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    "status_code": candid.NAT16,
    "headers": _HEADERS,
    "body": candid.BLOB,
    "upgrade": candid.Opt(candid.BOOL),
}
_RESPONSE: Final = candid.Record(_RESPONSE_FIELDS)
# Of the server's concern, or of one connection only.
_NOT_FORWARDED: Final = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive"})

_DESCRIPTIONS: Final[Mapping[str, tuple[int, str]]] = {
    "backend_response_verification": (503, "The response of the canister could not be verified."),
    "backend_http_gateway": (503, "The canister's answer could not be turned into an HTTP response."),
    "backend_timeout": (503, "The canister did not answer in time."),
    "backend_other": (503, "The network refused the request."),
    "canister_error": (503, "The canister failed to process the request."),
    "canister_reject": (503, "The canister explicitly rejected the request."),
    "canister_frozen": (503, "The canister is frozen: its cycles are used up."),
    "canister_not_found": (404, "The canister does not exist."),
    "canister_id_not_resolved": (400, "No canister id could be found in host or query."),
    "canister_id_incorrect": (400, "The canister id is not a principal."),
    "client_unknown_domain": (400, "This gateway does not serve the domain."),
    "client_body_too_large": (413, "The request body is too large for the Internet Computer."),
    "client_malformed_request": (400, "The request was not correctly formed."),
}


@attrs.frozen(kw_only=True)
class GatewayOptions:
    """
    How the gateway behaves.

    Attributes:
        base_domains: Hosts that lead to no canister by themselves; addresses of the loopback always do so.
        serve_unverified: Answer on hosts without ``raw`` as well.
        plain_errors: Map errors as the bare gateway library of local networks does (404, 502 as plain text).
    """

    base_domains: tuple[str, ...] = ("localhost",)
    serve_unverified: bool = False
    plain_errors: bool = False


@attrs.frozen
class _GatewayError(Exception):
    cause: str
    details: str | None = None
    reject: Rejected | None = None


@attrs.frozen(kw_only=True)
class _Response:
    """A decoded answer of ``http_request``; streaming is what its strategy said, with the types it came with."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = attrs.field(repr=False)
    upgrade: bool
    streaming: tuple[tuple[bytes, str], candid.CandidType, Any] | None

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


class Gateway:
    """
    The gateway over one replica.

    Args:
        replica: Answers queries and updates.
        clock: Gives the expiry of requests.
        options: See `GatewayOptions`.
        tick: Called while an update is under way.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        clock: SandboxClock,
        options: GatewayOptions | None = None,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._options = options or GatewayOptions()
        self._tick = tick or replica.tick
        self._numbers = itertools.count()

    def handle(self, request: HttpRequest, canister_id: bytes | None = None) -> HttpReply:
        """
        Answer *request*; every refusal is a reply, nothing is raised.

        Args:
            request: As it arrived.
            canister_id: Set by a port that belongs to one canister; host and query are then not looked at.
        """
        try:
            resolved = self._resolve(request) if canister_id is None else (canister_id, True)
            return self._base_domain(request) if resolved is None else self._serve(request, *resolved)
        except _GatewayError as error:
            return self._error(request, error)

    def _base_domain(self, request: HttpRequest) -> HttpReply:
        if request.path == "/health":
            return plain_text(200, "OK")
        raise _GatewayError("canister_id_not_resolved")

    # Which canister

    def _resolve(self, request: HttpRequest) -> tuple[bytes, bool] | None:
        """Return canister id and whether the host is a raw one, or `None` on a base domain."""
        host = re.sub(r":\d+$", "", request.header("host") or "").lower()
        parameters = urllib.parse.parse_qs(request.query)
        by_query = parameters.get("canisterId", [None])[0]
        domain = next((base for base in self._options.base_domains if host.endswith("." + base)), None)
        if domain is None:
            if host not in self._options.base_domains and not _is_address(host):
                raise _GatewayError("client_unknown_domain", host)
            return None if by_query is None else (_canister_id(by_query), True)
        labels = host.removesuffix("." + domain).split(".")
        if labels == ["raw"]:
            raise _GatewayError("canister_id_not_resolved")
        if len(labels) > 2 or (len(labels) == 2 and labels[1] != "raw"):
            raise _GatewayError("client_unknown_domain", host)
        return _canister_id(labels[0].rpartition("--")[2]), len(labels) == 2

    # Request and response

    def _serve(self, request: HttpRequest, canister_id: bytes, raw: bool) -> HttpReply:  # noqa: FBT001 - a pair, unpacked
        if len(request.body) > MAX_GATEWAY_BODY_BYTES:
            raise _GatewayError("client_body_too_large", f"at most {MAX_GATEWAY_BODY_BYTES} bytes")
        message = _message(request)
        response = self._query(canister_id, message)
        if response.upgrade:
            response = self._update(canister_id, message)
        elif not raw and not self._options.serve_unverified:
            raise _GatewayError("backend_response_verification", "this gateway verifies no responses; use a raw host")
        elif response.status == 206 and request.header("range") is None:
            response = self._collect_ranges(canister_id, message, response)
        body = self._stream(canister_id, response)
        headers = [(name, value) for name, value in response.headers if name.lower() not in _NOT_FORWARDED]
        if response.header("access-control-allow-origin") is None:
            headers.append(("access-control-allow-origin", "*"))
        return HttpReply(status=response.status, headers=tuple(headers), body=body)

    def _query(self, canister_id: bytes, message: dict[str, Any]) -> _Response:
        arg = candid.encode([_QUERY_REQUEST], [{**message, "certificate_version": 2}])
        return _decode_response(self._query_call(canister_id, "http_request", arg))

    def _update(self, canister_id: bytes, message: dict[str, Any]) -> _Response:
        call = self._new_call(canister_id, "http_request_update", candid.encode([_UPDATE_REQUEST], [message]))
        try:
            status = self._replica.call(call)
        except Rejected as refusal:
            raise _rejected(refusal) from refusal
        deadline = time.monotonic() + _UPDATE_SECONDS
        while status.state in (RequestState.RECEIVED, RequestState.PROCESSING):
            if time.monotonic() > deadline:
                raise _GatewayError("backend_timeout")
            time.sleep(_POLL_SECONDS)
            self._tick()
            status = self._replica.request_status(call.request_id) or status
        return _decode_response(_replied(status.answer))

    def _query_call(self, canister_id: bytes, method: str, arg: bytes) -> bytes:
        return _replied(self._replica.query(self._new_call(canister_id, method, arg)))

    def _new_call(self, canister_id: bytes, method: str, arg: bytes) -> Call:
        if len(arg) > _MAX_MESSAGE_BYTES:
            raise _GatewayError(
                "backend_http_gateway",
                f"a message of {len(arg)} bytes is larger than the max allowed {_MAX_MESSAGE_BYTES}",
            )
        now = self._clock.now_ns()
        # Not the hash of an envelope, as there is none; unique is all that is asked of it.
        request_id = hashlib.sha256(f"gateway {next(self._numbers)} {now}".encode()).digest()
        return Call(
            request_id=request_id,
            sender=ANONYMOUS,
            canister_id=canister_id,
            effective_canister_id=canister_id,
            method=method,
            arg=arg,
            ingress_expiry=now + _EXPIRY_NS,
            size_bytes=len(arg),
        )

    def _stream(self, canister_id: bytes, response: _Response) -> bytes:
        if response.streaming is None:
            return response.body
        (callee, method), token_type, token = response.streaming
        if callee != canister_id:
            raise _GatewayError("backend_http_gateway", "the streaming callback belongs to another canister")
        parts = [response.body]
        for _ in range(_MAX_CALLBACKS):
            data = self._query_call(canister_id, method, candid.encode([token_type], [token]))
            body, token_type, token = _decode_chunk(data)
            parts.append(body)
            if token is None:
                return b"".join(parts)
        raise _GatewayError("backend_http_gateway", f"the body did not end after {_MAX_CALLBACKS} callbacks")

    def _collect_ranges(self, canister_id: bytes, message: dict[str, Any], first: _Response) -> _Response:
        parts, response, position, total = [], first, 0, None
        for _ in range(_MAX_CALLBACKS):
            found = _CONTENT_RANGE.fullmatch(response.header("content-range") or "")
            if response.status != 206 or found is None or int(found[1]) != position:
                raise _GatewayError("backend_http_gateway", "a partial response has no fitting content-range")
            parts.append(response.body)
            position, total = int(found[2]) + 1, int(found[3])
            if position >= total:
                headers = tuple((name, value) for name, value in first.headers if name.lower() != "content-range")
                return attrs.evolve(first, status=200, headers=headers, body=b"".join(parts))
            ranged = {**message, "headers": [*message["headers"], {0: "range", 1: f"bytes={position}-"}]}
            response = self._query(canister_id, ranged)
        raise _GatewayError("backend_http_gateway", f"the body did not end after {_MAX_CALLBACKS} ranges")

    # Errors

    def _error(self, request: HttpRequest, error: _GatewayError) -> HttpReply:
        if self._options.plain_errors and error.reject is not None:
            return _plain_error(error.reject)
        status, description = _DESCRIPTIONS[error.cause]
        headers = (("x-ic-error-cause", error.cause), ("access-control-allow-origin", "*"))
        if (request.header("user-agent") or "").startswith("Mozilla/"):
            page = f"<!DOCTYPE html>\n<title>{error.cause}</title>\n<h1>{status}</h1>\n<p>{description}</p>\n"
            return HttpReply(
                status=status, headers=(("content-type", "text/html; charset=utf-8"), *headers), body=page.encode()
            )
        answer = {"error_type": error.cause, "description": description}
        if error.details is not None:
            answer["details"] = error.details
        body = json.dumps(answer, indent=2).encode()
        return HttpReply(status=status, headers=(("content-type", "application/json"), *headers), body=body)


def _is_address(host: str) -> bool:
    return bool(re.fullmatch(r"[\d.]+|\[[\da-f:]+\]|", host))


def _canister_id(text: str) -> bytes:
    try:
        return principal.from_text(text)
    except ValueError as error:
        raise _GatewayError("canister_id_incorrect", str(error)) from error


def _message(request: HttpRequest) -> dict[str, Any]:
    headers = [(name.lower(), value) for name, value in request.headers if name.lower() != "x-request-id"]
    encodings = [value for name, value in headers if name == "accept-encoding"]
    headers = [header for header in headers if header[0] != "accept-encoding"]
    accepted = ", ".join(encodings)
    if "identity" not in accepted:
        accepted = f"{accepted}, identity" if accepted else "identity"
    headers.append(("accept-encoding", accepted))
    return {
        "method": request.method.upper(),
        "url": f"{request.path}?{request.query}" if request.query else request.path,
        "headers": [{0: name, 1: value} for name, value in headers],
        "body": request.body,
    }


def _rejected(refusal: Rejected) -> _GatewayError:
    if refusal.code is RejectCode.CANISTER_ERROR:
        cause = "canister_error"
    elif refusal.code is RejectCode.CANISTER_REJECT:
        cause = "canister_reject"
    elif refusal.code is RejectCode.DESTINATION_INVALID:
        cause = "canister_not_found"
    elif refusal.code is RejectCode.SYS_TRANSIENT and "frozen" in refusal.message:
        cause = "canister_frozen"
    else:
        cause = "backend_other"
    return _GatewayError(cause, refusal.message, refusal)


def _plain_error(refusal: Rejected) -> HttpReply:
    if refusal.code is RejectCode.DESTINATION_INVALID:
        return plain_text(404, refusal.message)
    return plain_text(
        502,
        f"Replica Error: reject code {refusal.code.name}, message {refusal.message}, error code {refusal.error_code}",
    )


def _replied(answer: Answer | None) -> bytes:
    match answer:
        case Replied(data):
            return data
        case Rejected():
            raise _rejected(answer)
    raise _GatewayError("backend_other", "the reply is no longer available")


def _decode_response(data: bytes) -> _Response:
    try:
        (fields,) = candid.decode(data, [_RESPONSE])
        types, values = candid.decode_untyped(data)
        streaming = _strategy(types[0], values[0])
    except candid.CandidError as error:
        raise _GatewayError(
            "backend_http_gateway", f"the canister's response is not of the known form: {error}"
        ) from error
    if not 100 <= fields["status_code"] <= 999:
        raise _GatewayError("backend_http_gateway", f"{fields['status_code']} is not an HTTP status")
    return _Response(
        status=fields["status_code"],
        headers=tuple((header[0], header[1]) for header in fields["headers"]),
        body=fields["body"],
        upgrade=bool(fields["upgrade"]),
        streaming=streaming,
    )


def _field_type(record: candid.CandidType | None, name: str) -> candid.CandidType | None:
    number = candid.field_id(name)
    if not isinstance(record, candid.Record | candid.Variant):
        return None
    return next((field.type for field in record.fields if field.id == number), None)


def _without_option(type_: candid.CandidType | None) -> candid.CandidType | None:
    return type_.inner if isinstance(type_, candid.Opt) else type_


def _strategy(type_: candid.CandidType, value: Any) -> tuple[tuple[bytes, str], candid.CandidType, Any] | None:
    """Return callback, type and value of the token, or `None` when the body is complete."""
    variant = _without_option(_field_type(type_, "streaming_strategy"))
    chosen = value.get(candid.field_id("streaming_strategy"))
    if variant is None or chosen is None:
        return None
    content_type = _field_type(variant, "Callback")
    token_type = _field_type(content_type, "token")
    if (
        not isinstance(_field_type(content_type, "callback"), candid.Func)
        or token_type is None
        or chosen[0] != candid.field_id("Callback")
    ):
        message = "unknown streaming strategy"
        raise candid.CandidError(message)
    return chosen[1][candid.field_id("callback")], token_type, chosen[1][candid.field_id("token")]


def _decode_chunk(data: bytes) -> tuple[bytes, candid.CandidType, Any]:
    """Return body, type and value of the next token; accepts `callback_response` and `opt callback_response`."""
    try:
        types, values = candid.decode_untyped(data)
    except candid.CandidError as error:
        raise _GatewayError("backend_http_gateway", f"the streaming callback's answer is malformed: {error}") from error
    type_ = _without_option(types[0] if types else None)
    if not isinstance(type_, candid.Record):
        raise _GatewayError("backend_http_gateway", "the streaming callback's answer is not a record")
    if values[0] is None:
        return b"", candid.NULL, None
    body = values[0].get(candid.field_id("body"))
    if not isinstance(body, bytes):
        raise _GatewayError("backend_http_gateway", "the streaming callback's answer has no body")
    token = values[0].get(candid.field_id("token"))
    token_type = _without_option(_field_type(type_, "token"))
    return body, token_type or candid.NULL, token.value if isinstance(token, candid.Some) else token
