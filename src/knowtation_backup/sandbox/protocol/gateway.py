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

from .. import candid, principal
from ..candid import CandidError
from ..messages import ANONYMOUS, Answer, Call, RejectCode, Rejected, Replied, RequestState
from .exchange import HttpReply, HttpRequest, plain_text
from .gateway_messages import Response, decode_chunk, decode_response, encode_query, encode_update, message_of

if TYPE_CHECKING:
    from ..clock import SandboxClock
    from ..replica.replica import Replica

__all__ = ["MAX_GATEWAY_BODY_BYTES", "Gateway", "GatewayOptions"]

MAX_GATEWAY_BODY_BYTES: Final = 10 * 1024 * 1024
_MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
_MAX_CALLBACKS: Final = 1000
_EXPIRY_NS: Final = 240 * 1_000_000_000
_UPDATE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
# A canister must not be able to end the head of a response early.
_HEADER: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\0\r\n]*")

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
        try:
            message = message_of(request)
        except CandidError as error:
            raise _GatewayError("client_malformed_request", str(error)) from error
        response = self._query(canister_id, message)
        if response.upgrade:
            response = self._update(canister_id, message)
        elif not raw and not self._options.serve_unverified:
            raise _GatewayError("backend_response_verification", "this gateway verifies no responses; use a raw host")
        elif response.status == 206 and request.header("range") is None:
            response = self._collect_ranges(canister_id, message, response)
        if any(_HEADER.fullmatch(f"{name}:{value}") is None for name, value in response.headers):
            raise _GatewayError("backend_http_gateway", "the response has a malformed header")
        body = self._stream(canister_id, response)
        headers = [(name, value) for name, value in response.headers if name.lower() not in _NOT_FORWARDED]
        if response.header("access-control-allow-origin") is None:
            headers.append(("access-control-allow-origin", "*"))
        return HttpReply(status=response.status, headers=tuple(headers), body=body)

    def _query(self, canister_id: bytes, message: dict[str, Any]) -> Response:
        return _decoded(self._query_call(canister_id, "http_request", encode_query(message)))

    def _update(self, canister_id: bytes, message: dict[str, Any]) -> Response:
        call = self._new_call(canister_id, "http_request_update", encode_update(message))
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
        return _decoded(_replied(status.answer))

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

    def _stream(self, canister_id: bytes, response: Response) -> bytes:
        if response.streaming is None:
            return response.body
        (callee, method), token = response.streaming
        if callee != canister_id:
            raise _GatewayError("backend_http_gateway", "the streaming callback belongs to another canister")
        parts = [response.body]
        for _ in range(_MAX_CALLBACKS):
            data = self._query_call(canister_id, method, candid.encode([token[0]], [token[1]]))
            try:
                body, following = decode_chunk(data)
            except CandidError as error:
                raise _GatewayError("backend_http_gateway", f"the streaming callback is malformed: {error}") from error
            parts.append(body)
            if following is None:
                return b"".join(parts)
            token = following
        raise _GatewayError("backend_http_gateway", f"the body did not end after {_MAX_CALLBACKS} callbacks")

    def _collect_ranges(self, canister_id: bytes, message: dict[str, Any], first: Response) -> Response:
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


def _decoded(data: bytes) -> Response:
    try:
        return decode_response(data)
    except CandidError as error:
        raise _GatewayError("backend_http_gateway", f"the response is not of the known form: {error}") from error
