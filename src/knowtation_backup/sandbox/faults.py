"""
Injected faults: which requests go wrong, how, and how often, the same in every run.

A `FaultPlan` holds rules. A rule names the requests it is for and one action. Probabilities are drawn from the plan's
seed and the request itself (method, path, query, ``x-`` headers, how often it came before), not from a running
generator: parallel clients meet the same faults whatever the order of arrival.

    plan = FaultPlan(seed=7, latency_seconds=0.05)
    plan.add(Answer(status=503), endpoint="gateway", probability=0.05)
    plan.add(ResetAfterExecution(), endpoint="call", canister_method="take_canister_snapshot", nth=1)
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from .._checks import above, at_least, between, optional
from .protocol.exchange import HttpReply, HttpRequest, plain_text
from .protocol.http_api import Directive, endpoint_kind

__all__ = [
    "Action",
    "Answer",
    "AnswerLater",
    "Decision",
    "Delay",
    "FaultPlan",
    "ResetAfterExecution",
    "ResetBeforeExecution",
    "Rule",
    "StaleCertificate",
    "Tamper",
    "Truncate",
]

Endpoint: TypeAlias = Literal["call", "query", "read_state", "status", "gateway"]

_NANOS: Final = 1_000_000_000
_OVERLOADED: Final = {429: "The service is overloaded.", 503: "Service is overloaded, try again later."}


@attrs.frozen
class Delay:
    """Wait *seconds* before anything else happens."""

    seconds: float = attrs.field(validator=at_least(0))


@attrs.frozen(kw_only=True)
class Answer:
    """Answer at once and execute nothing. An empty *text* stands for the network's own."""

    status: int
    text: str = ""
    content_type: str = "text/plain; charset=utf-8"
    retry_after_seconds: int | None = None


@attrs.frozen
class AnswerLater:
    """Execute the call, answer 202, and show its outcome only after *seconds*; other requests are not touched."""

    seconds: float = attrs.field(default=0.5, validator=at_least(0))


@attrs.frozen
class ResetBeforeExecution:
    """Reset the connection; nothing was executed."""


@attrs.frozen
class ResetAfterExecution:
    """Execute, then reset the connection instead of answering."""


@attrs.frozen
class Truncate:
    """Announce the whole body, send only this share of it, and close."""

    keep: float = attrs.field(default=0.5, validator=between(0, 1, below=True))


@attrs.frozen
class Tamper:
    """
    Flip one bit of the answer: in the ``reply`` bytes, in the first ``signature``, or in the ``middle`` of the body.

    Where an answer has no such part, the middle is hit.
    """

    part: Literal["reply", "signature", "middle"] = "reply"


@attrs.frozen
class StaleCertificate:
    """Sign certificates whose ``/time`` lies this far in the past."""

    age_seconds: float = attrs.field(default=3600.0, validator=above(0))


Action: TypeAlias = (
    Delay | Answer | AnswerLater | ResetBeforeExecution | ResetAfterExecution | Truncate | Tamper | StaleCertificate
)


@attrs.define(kw_only=True, eq=False)
class Rule:
    """
    One action and the requests it is for; every condition given must hold.

    Attributes:
        action: What goes wrong.
        endpoint: Kind of endpoint, `None` for all.
        method: HTTP method.
        path_contains: Part of the path or the query.
        canister_method: Method named in the envelope of a call or query.
        headers: Values of headers, names in lower case; never shown.
        nth: Only the n-th matching request, counted from 1.
        every: Every n-th matching request.
        probability: Share of the matching requests, 0 to 1.
        limit: How many times the action happens at most.
        matched: Requests that met the conditions so far.
        applied: Times the action happened so far.
    """

    action: Action
    endpoint: Endpoint | None = None
    method: str | None = None
    path_contains: str = ""
    canister_method: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    nth: int | None = attrs.field(default=None, validator=optional(at_least(1)))
    every: int | None = attrs.field(default=None, validator=optional(at_least(1)))
    probability: float = attrs.field(default=1.0, validator=between(0, 1))
    limit: int | None = attrs.field(default=None, validator=optional(at_least(0)))
    matched: int = attrs.field(default=0, init=False)
    applied: int = attrs.field(default=0, init=False)

    def matches(self, request: HttpRequest, kind: str) -> bool:
        """Tell whether *request* meets the conditions; counting and chance come later."""
        return (
            self.endpoint in (None, kind)
            and self.method in (None, request.method)
            and self.path_contains in f"{request.path}?{request.query}"
            and all(request.header(name) == value for name, value in self.headers.items())
            and (self.canister_method is None or self.canister_method == _canister_method(request.body))
        )


@attrs.frozen(kw_only=True)
class Decision:
    """What happens to one request."""

    delay_seconds: float = 0.0
    reply: HttpReply | None = None
    """Sent instead of executing."""
    reset: Literal["before", "after"] | None = None
    keep: float | None = None
    """Share of the body that is sent."""
    tamper: str | None = None
    directive: Directive = attrs.field(factory=Directive)
    faults: tuple[str, ...] = ()
    """Names of the actions, for the record of requests."""

    def spoil(self, reply: HttpReply) -> HttpReply:
        """Return *reply* as the client shall see it; truncation is left to the transport."""
        return reply if self.tamper is None else attrs.evolve(reply, body=_flip(reply.body, self.tamper))


class FaultPlan:
    """
    Rules and latency of one network; safe to change while requests run.

    Args:
        seed: Decides who is hit by probabilities.
        latency_seconds: Every request waits this long, without holding anything that others need.
    """

    def __init__(self, *, seed: int = 0, latency_seconds: float = 0.0) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._seen: dict[bytes, int] = {}
        self.latency_seconds: float = latency_seconds

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules with their counters."""
        with self._lock:
            return tuple(self._rules)

    def add(  # noqa: PLR0913 - the conditions of a rule
        self,
        action: Action,
        *,
        endpoint: Endpoint | None = None,
        method: str | None = None,
        path_contains: str = "",
        canister_method: str | None = None,
        headers: Mapping[str, str] | None = None,
        nth: int | None = None,
        every: int | None = None,
        probability: float = 1.0,
        limit: int | None = None,
    ) -> Rule:
        """Add a rule, see `Rule` for the conditions, and return it: its counters go on."""
        rule = Rule(
            action=action,
            endpoint=endpoint,
            method=method,
            path_contains=path_contains,
            canister_method=canister_method,
            headers={name.lower(): value for name, value in (headers or {}).items()},
            nth=nth,
            every=every,
            probability=probability,
            limit=limit,
        )
        with self._lock:
            self._rules.append(rule)
        return rule

    def set_latency(self, seconds: float) -> None:
        """Change the latency of all requests from now on."""
        self.latency_seconds = seconds

    def clear(self) -> None:
        """Remove all rules and the latency."""
        with self._lock:
            self._rules.clear()
        self.latency_seconds = 0.0

    def decide(self, request: HttpRequest) -> Decision:
        """Return what happens to *request*, and count it. Called once for each request."""
        with self._lock:
            if not self._rules:
                return Decision(delay_seconds=self.latency_seconds)
            kind = endpoint_kind(request.path) or "gateway"
            chosen = [
                rule.action
                for position, rule in enumerate(self._rules)
                if rule.matches(request, kind) and self._strikes(rule, position, request)
            ]
        return _combine(chosen, kind, self.latency_seconds)

    def _strikes(self, rule: Rule, position: int, request: HttpRequest) -> bool:
        rule.matched += 1
        if rule.limit is not None and rule.applied >= rule.limit:
            return False
        if rule.nth not in (None, rule.matched) or (rule.every is not None and rule.matched % rule.every):
            return False
        if rule.probability < 1 and self._draw(position, request) >= rule.probability:
            return False
        rule.applied += 1
        return True

    def _draw(self, position: int, request: HttpRequest) -> float:
        custom = sorted(header for header in request.headers if header[0].startswith("x-"))
        about = repr((self._seed, position, request.method, request.path, request.query, custom)).encode()
        key = hashlib.sha256(about).digest()
        self._seen[key] = self._seen.get(key, 0) + 1
        drawn = hashlib.sha256(key + self._seen[key].to_bytes(8, "big")).digest()
        return int.from_bytes(drawn[:8], "big") / (1 << 64)


def _combine(actions: list[Action], kind: str, latency_seconds: float) -> Decision:
    decision = Decision(
        delay_seconds=latency_seconds,
        faults=tuple(type(action).__name__ for action in actions),
    )
    for action in actions:
        match action:
            case Delay(seconds):
                decision = attrs.evolve(decision, delay_seconds=decision.delay_seconds + seconds)
            case Answer() if decision.reply is None:
                decision = attrs.evolve(decision, reply=_answer(action))
            case AnswerLater(seconds) if kind == "call":
                directive = attrs.evolve(decision.directive, answer_after_ns=round(seconds * _NANOS))
                decision = attrs.evolve(decision, directive=directive)
            case StaleCertificate(age_seconds):
                directive = attrs.evolve(decision.directive, certificate_age_ns=round(age_seconds * _NANOS))
                decision = attrs.evolve(decision, directive=directive)
            case ResetBeforeExecution():
                decision = attrs.evolve(decision, reset="before")
            case ResetAfterExecution() if decision.reset is None:
                decision = attrs.evolve(decision, reset="after")
            case Truncate(keep):
                decision = attrs.evolve(decision, keep=keep)
            case Tamper(part):
                decision = attrs.evolve(decision, tamper=part)
            case _:
                pass
    return decision


def _answer(action: Answer) -> HttpReply:
    headers: tuple[tuple[str, str], ...] = ()
    if action.retry_after_seconds is not None:
        headers = (("retry-after", str(action.retry_after_seconds)),)
    reply = plain_text(action.status, action.text or _OVERLOADED.get(action.status, ""), headers=headers)
    return attrs.evolve(reply, headers=(("content-type", action.content_type), *headers))


def _length(body: bytes, position: int) -> tuple[int, int] | None:
    """Return start and length of the CBOR string whose head is at *position*."""
    if position >= len(body):
        return None
    low = body[position] & 0x1F
    if low < 24:
        return position + 1, low
    width = {24: 1, 25: 2, 26: 4, 27: 8}.get(low)
    if width is None:
        return None
    start = position + 1 + width
    return start, int.from_bytes(body[position + 1 : start], "big")


def _canister_method(body: bytes) -> str | None:
    # A look into the envelope without decoding it: the key "method_name" followed by a text string.
    marker = b"\x6bmethod_name"
    found = body.find(marker)
    place = _length(body, found + len(marker)) if found >= 0 else None
    if place is None:
        return None
    start, length = place
    return body[start : start + length].decode(errors="replace")


# Text before the bytes to hit: a leaf in a certificate, or a field of a query answer.
_MARKERS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "reply": (b"\x45reply\x82\x03", b"\x63arg"),
    "signature": (b"\x69signature",),
    "middle": (),
}


def _flip(body: bytes, part: str) -> bytes:
    if not body:
        return body
    position = len(body) // 2
    for marker in _MARKERS[part]:
        found = body.find(marker)
        place = _length(body, found + len(marker)) if found >= 0 else None
        if place is not None and place[1] and sum(place) <= len(body):
            position = sum(place) - 1
            break
    return body[:position] + bytes((body[position] ^ 1,)) + body[position + 1 :]
