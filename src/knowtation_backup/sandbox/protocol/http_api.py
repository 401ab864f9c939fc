"""
The Internet Computer's HTTP interface: one request in, one reply out, over any transport.

Offers ``GET /api/v2/status`` and, below ``/api/v2`` to ``/api/v4``, ``call``, ``query`` and ``read_state`` for
canisters and the subnet, with the rules, texts and status codes of the internet-computer reference, section A.
Differences:

- WebAuthn keys, canister signatures (so Internet Identity) and ``sender_info`` are refused, not verified;
- every effective canister id is routed here, and ``aaaaa-aa`` is accepted for management calls;
- ``/subnet/<id>/metrics`` and boundary nodes do not exist and are proved absent.

Replies of megabytes leave in parts, so that framing them copies nothing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from .. import principal
from ..messages import (
    MANAGEMENT_CANISTER,
    Answer,
    Call,
    Rejected,
    Replied,
    RequestState,
    RequestStatus,
)
from ..replica.replica import Misaddressed
from . import cbor, ingress
from .crypto import QUERY_RESPONSE
from .exchange import HttpReply, HttpRequest, plain_text
from .ingress import Content, IngressError
from .state_paths import StatePaths

if TYPE_CHECKING:
    from ..clock import SandboxClock
    from ..replica.replica import Replica
    from .certification import Certifier

__all__ = ["MAX_BODY_BYTES", "Directive", "HttpApi", "endpoint_kind"]

MAX_BODY_BYTES: Final = 5 * 1024 * 1024
_ROUTE: Final = re.compile(r"/api/(v[234])/(canister|subnet)/([^/]+)/(call|query|read_state)")
_OFFERED: Final = frozenset(
    {
        ("v2", "canister", "call"),
        ("v3", "canister", "call"),
        ("v4", "canister", "call"),
        ("v4", "subnet", "call"),
        ("v2", "canister", "query"),
        ("v3", "canister", "query"),
        ("v3", "subnet", "query"),
        ("v2", "canister", "read_state"),
        ("v3", "canister", "read_state"),
        ("v2", "subnet", "read_state"),
        ("v3", "subnet", "read_state"),
    }
)
_OPEN: Final = (RequestState.RECEIVED, RequestState.PROCESSING)
_IMPL_VERSION: Final = "knowtation-sandbox"
_POLL_SECONDS: Final = 0.02


@attrs.frozen(kw_only=True)
class Directive:
    """What an injected fault asks of the interface itself."""

    certificate_age_ns: int = 0
    """How far ``/time`` of certificates lies in the past."""
    answer_after_ns: int | None = None
    """Answer calls with 202, and let their outcome be seen only after this time."""


_NO_DIRECTIVE: Final = Directive()


@attrs.frozen(kw_only=True)
class _Route:
    version: str
    scope: str
    target: bytes
    """Effective canister id, or subnet id."""
    kind: str


def _route(request: HttpRequest) -> _Route:
    found = _ROUTE.fullmatch(request.path)
    if found is None or (found[1], found[2], found[4]) not in _OFFERED:
        raise IngressError(404, "Not found.")
    if request.method != "POST":
        raise IngressError(405, "Method not allowed.")
    if (request.header("content-type") or "").lower() != "application/cbor":
        raise IngressError(400, "Unexpected content-type, expected application/cbor.")
    if len(request.body) > MAX_BODY_BYTES:
        raise IngressError(413, f"Request body is larger than the max allowed {MAX_BODY_BYTES} bytes.")
    try:
        target = principal.from_text(found[3])
    except ValueError as error:
        raise IngressError(400, f"Failed to parse principal {found[3]!r} in the URL: {error}") from error
    return _Route(version=found[1], scope=found[2], target=target, kind=found[4])


def endpoint_kind(path: str) -> str | None:
    """Return ``status``, ``call``, ``query`` or ``read_state``, or `None` for a path outside the interface."""
    if path == "/api/v2/status":
        return "status"
    route = _ROUTE.fullmatch(path)
    return route[4] if route else None


class HttpApi:
    """
    The interface over one replica.

    Args:
        replica: Executes calls and queries; set up completely before the first request.
        certifier: Signs.
        clock: Judges expiry.
        call_wait_seconds: How long a synchronous call waits for an outcome before it answers 202.
        tick: Called while a call waits, so that time-driven outcomes arrive without a server.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        certifier: Certifier,
        clock: SandboxClock,
        call_wait_seconds: float = 10.0,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._replica = replica
        self._certifier = certifier
        self._clock = clock
        self._call_wait_seconds = call_wait_seconds
        self._tick = tick or replica.tick
        self._held: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def handle(self, request: HttpRequest, directive: Directive = _NO_DIRECTIVE) -> HttpReply:
        """Answer *request*; every refusal is a reply, nothing is raised."""
        try:
            if request.path == "/api/v2/status":
                return self._status(request)
            route = _route(request)
            if route.scope == "subnet" and route.target != self._certifier.subnet_id:
                raise IngressError(400, f"Subnet {principal.to_text(route.target)} is not this subnet.")  # noqa: TRY301
            if route.kind == "query":
                return self._query(route, request.body)
            if route.kind == "read_state":
                return self._read_state(route, request.body, directive)
            return self._call(route, request.body, directive)
        except IngressError as error:
            return plain_text(error.status, error.text)

    def _status(self, request: HttpRequest) -> HttpReply:
        if request.method not in ("GET", "HEAD"):
            raise IngressError(405, "Method not allowed.")
        return _cbor_reply(
            [
                cbor.encode_tagged(
                    {
                        "root_key": self._certifier.root_key_der,
                        "impl_version": _IMPL_VERSION,
                        "impl_hash": "",
                        "replica_health_status": "healthy",
                        "certified_height": self._clock.now_ns() // 1_000_000_000,
                    }
                )
            ]
        )

    def _authorized(self, body: bytes, request_type: str) -> tuple[Content, frozenset[bytes] | None]:
        envelope = ingress.read_envelope(body, request_type=request_type)
        targets = ingress.authorize(envelope, now_ns=self._clock.now_ns())
        if request_type != "read_state":
            ingress.check_target(targets, envelope.content.canister_id)
        return envelope.content, targets

    @staticmethod
    def _to_call(content: Content, route: _Route, size_bytes: int) -> Call:
        ordinary = content.canister_id != MANAGEMENT_CANISTER  # which compares the URL with the argument itself
        if ordinary and route.scope == "subnet":
            raise IngressError(400, "Only the management canister can be called through the subnet endpoint.")
        if ordinary and content.canister_id != route.target:
            raise IngressError(
                400,
                f"Specified CanisterId {principal.to_text(content.canister_id)} does not match effective canister id "
                f"in URL {principal.to_text(route.target)}",
            )
        return Call(
            request_id=content.request_id,
            sender=content.sender,
            canister_id=content.canister_id,
            effective_canister_id=route.target,
            method=content.method_name,
            arg=content.arg,
            ingress_expiry=content.ingress_expiry,
            size_bytes=size_bytes,
        )

    # Queries

    def _query(self, route: _Route, body: bytes) -> HttpReply:
        content, _ = self._authorized(body, "query")
        call = self._to_call(content, route, len(body))
        answer = self._replica.query(call)
        _require_addressed(answer)
        return _cbor_reply(self._signed_answer(call, answer))

    def _signed_answer(self, call: Call, answer: Answer) -> list[bytes]:
        timestamp = self._clock.now_ns()
        about: dict[str, object] = {"request_id": call.request_id, "timestamp": timestamp}
        match answer:
            case Replied(data):
                about |= {"status": "replied", "reply": {"arg": data}}
                parts = [
                    cbor.SELF_DESCRIBED + cbor.head_map(3) + cbor.text("status") + cbor.text("replied"),
                    cbor.text("reply") + cbor.head_map(1) + cbor.text("arg") + cbor.head_bytes(len(data)),
                    data,
                ]
            case Rejected():
                refusal = _refusal(answer)
                about |= {"status": "rejected", **refusal}
                parts = [
                    cbor.SELF_DESCRIBED + cbor.head_map(5) + cbor.text("status") + cbor.text("rejected"),
                    *(cbor.text(name) + cbor.encode(value) for name, value in refusal.items()),
                ]
        node = self._certifier.node
        signature = node.sign(QUERY_RESPONSE + ingress.hash_of_map(about))
        signatures = [{"timestamp": timestamp, "signature": signature, "identity": node.principal}]
        parts.append(cbor.text("signatures") + cbor.encode(signatures))
        return parts

    # Calls

    def _call(self, route: _Route, body: bytes, directive: Directive) -> HttpReply:
        content, _ = self._authorized(body, "call")
        if len(body) > ingress.MAX_INGRESS_BYTES:
            raise IngressError(
                413,
                f"Request 0x{content.request_id.hex()} is too large. Message byte size {len(body)} is larger than the "
                f"max allowed {ingress.MAX_INGRESS_BYTES}.",
            )
        call = self._to_call(content, route, len(body))
        if self._is_held(call.request_id):
            return plain_text(202, "Duplicate request. Message is already being tracked and executed.")
        if directive.answer_after_ns is not None:
            self._hold(call.request_id, directive.answer_after_ns)
        try:
            status = self._replica.call(call)
        except Rejected as refusal:
            self._release(call.request_id)
            _require_addressed(refusal)
            extra = {} if route.version == "v2" else {"status": "non_replicated_rejection"}
            return _cbor_reply([cbor.encode_tagged({**extra, **_refusal(refusal)})])
        if route.version == "v2" or self._is_held(call.request_id):
            return plain_text(202, "")
        waited = self._wait(call.request_id, status)
        if waited.state in _OPEN:
            return plain_text(202, "Message did not complete execution and certification within the wait time.")
        certificate = self._certifier.request_certificate(
            call.request_id, waited, sharded=route.version == "v4", age_ns=directive.certificate_age_ns
        )
        opening = cbor.SELF_DESCRIBED + cbor.head_map(2) + cbor.text("status") + cbor.text("replied")
        return _cbor_reply([opening, *_certificate_field(certificate)])

    def _wait(self, request_id: bytes, status: RequestStatus) -> RequestStatus:
        deadline = time.monotonic() + self._call_wait_seconds
        while status.state in _OPEN and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            self._tick()
            status = self._replica.request_status(request_id) or status
        return status

    def _hold(self, request_id: bytes, answer_after_ns: int) -> None:
        now = self._clock.now_ns()
        with self._lock:
            self._held = {held: until for held, until in self._held.items() if until > now}
            self._held[request_id] = now + answer_after_ns

    def _release(self, request_id: bytes) -> None:
        with self._lock:
            self._held.pop(request_id, None)

    def _is_held(self, request_id: bytes) -> bool:
        with self._lock:
            until = self._held.get(request_id)
        return until is not None and until > self._clock.now_ns()

    # State

    def _read_state(self, route: _Route, body: bytes, directive: Directive) -> HttpReply:
        content, targets = self._authorized(body, "read_state")
        sharded = route.version != "v2"
        reader = StatePaths(
            replica=self._replica,
            certifier=self._certifier,
            sender=content.sender,
            targets=targets,
            effective_id=route.target,
            of_subnet=route.scope == "subnet",
        )
        with self._replica.lock:
            reader.check(content.paths)
            subtrees = reader.subtrees(content.paths, sharded=sharded, visible=self._visible)
        certificate = self._certifier.certificate(
            subtrees, content.paths, sharded=sharded, age_ns=directive.certificate_age_ns
        )
        return _cbor_reply([cbor.SELF_DESCRIBED + cbor.head_map(1), *_certificate_field(certificate)])

    def _visible(self, request_id: bytes, status: RequestStatus | None) -> RequestStatus | None:
        if status is None or not self._is_held(request_id):
            return status
        return attrs.evolve(status, state=RequestState.PROCESSING, answer=None)


def _require_addressed(answer: Answer) -> None:
    if isinstance(answer, Misaddressed):
        raise IngressError(400, answer.message)


def _refusal(refusal: Rejected) -> dict[str, int | str]:
    return {
        "reject_code": int(refusal.code),
        "reject_message": refusal.message,
        "error_code": refusal.error_code,
    }


def _certificate_field(parts: list[bytes]) -> list[bytes]:
    return [cbor.text("certificate") + cbor.head_bytes(sum(map(len, parts))), *parts]


def _cbor_reply(parts: list[bytes]) -> HttpReply:
    return HttpReply(status=200, headers=(("content-type", "application/cbor"),), body=parts)
