"""
A client for the Knowtation hub's HTTP interface: the reads an export needs, one method each.

It only ever sends GET. Every answer is bounded in size and time, failures have names (`failures`), passing ones are
repeated, and no secret leaves through an error, an event or a ``repr``.

Events told to the observer:

=====================  =================================================================================
name                   fields
=====================  =================================================================================
``hub.retry``          ``route``, ``attempt`` (that failed), ``delay_seconds``, ``kind``, ``status`` or `None`
``hub.raw_host``       ``host``: the verifying gateway refused, all further requests go to this raw host
=====================  =================================================================================
"""

from __future__ import annotations

import io
import random as _random
import ssl
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import attrs
import httpx

from .._engine.adaptive import AdaptiveLimit
from .._engine.cancellation import Cancellation
from .._engine.canonical import JsonError, loads
from .._engine.retrying import Retrier, RetryBudget, RetryPolicy
from .._transport import GUARD, TRANSPORT_ERRORS, Guard, GuardedTransport, transport_error
from ..contracts import Clock, Observer, ignore_events, utc_now
from ..errors import BackupError, ConfigurationError, ExportError, SourceUnavailableError
from ..model.events import Event
from .address import HubAddress
from .carrier import HubCarrier, HubRequest
from .encoding import encode_segment, secret_text, tenant_headers
from .failures import HINTS, HubReply, error_code, not_json_error, reply_error
from .limits import HubLimits, HubTimeouts
from .preflight import PreflightReport
from .schema import (
    IndexPage,
    Note,
    NoteList,
    ParsedProposal,
    Proposal,
    StubList,
    note_from_json,
    parse_index,
    parse_notes,
    parse_proposal,
    parse_stubs,
    parse_vaults,
)
from .stats import HubStats, Tally
from .wiring import Settings, Wire

__all__ = ["HubClient", "HubStats"]

T = TypeVar("T")

_OVERLOADED = frozenset({"overloaded", "rate_limited"})
"""Kinds of failures of a carrier that fewer requests at once would help."""


class HubClient:
    """
    Reads one hub. Thread-safe; use it as a context manager, or `close` it.

    Args:
        address: A `HubAddress`, or text for `HubAddress.parse`.
        operator_key: Needed for the user index only. Surrounding white space is dropped, as headers would anyway.
        gateway_secret: Sent as ``X-Gateway-Auth`` with every request when given.
        timeouts: Per attempt.
        limits: What is accepted from the hub.
        retry: How often passing failures are repeated.
        http2: Offer HTTP/2 over https. Off by default, because it does not help here: with 32 threads, TLS and 50 ms
            latency, 300 small replies a second instead of 460, 23 of 2.8 MB instead of 54, and a broken connection
            takes all its requests along.
        ssl_context: For own certificate authorities; the default checks against certifi's.
        transport: Replaces the connections, for tests and proxies. The caller closes it.
        observer: Told about retries.
        sleep: Replaces waiting between attempts; the default ends early when the run is cancelled.
        random: Numbers in ``[0, 1)`` for jitter.
        monotonic: Seconds, for deadlines.
        clock: The present moment, for ``Retry-After`` dates.

    Raises:
        ConfigurationError: The address or a secret cannot be used.
    """

    def __init__(  # noqa: PLR0913 - one argument per independent part, all but the address optional
        self,
        address: HubAddress | str,
        *,
        operator_key: str | None = None,
        gateway_secret: str | None = None,
        timeouts: HubTimeouts | None = None,
        limits: HubLimits | None = None,
        retry: RetryPolicy | None = None,
        http2: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
        observer: Observer = ignore_events,
        sleep: Callable[[float], None] | None = None,
        random: Callable[[], float] = _random.random,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Clock = utc_now,
    ) -> None:
        self._settings = Settings(
            operator_key=secret_text(operator_key, "operator_key"),
            gateway_secret=secret_text(gateway_secret, "gateway_secret"),
            timeouts=timeouts or HubTimeouts(),
            limits=limits or HubLimits(),
            retry=retry or RetryPolicy(),
            sleep=sleep,
            random=random,
            monotonic=monotonic,
            clock=clock,
        )
        parsed = address if isinstance(address, HubAddress) else HubAddress.parse(address)
        if transport is None:
            context = ssl_context
            if context is None and parsed.scheme == "https":
                context = httpx.create_ssl_context()
            pools = [GuardedTransport(ssl_context=context, http2=http2) for _ in range(2)]
            self._wire = Wire(given=parsed, address=parsed, transport=pools[0], second=pools[1], owned=True)
        else:
            self._wire = Wire(given=parsed, address=parsed, transport=transport, second=transport, owned=False)
        self._bind(observer, Cancellation(), AdaptiveLimit(1024), RetryBudget())

    def _bind(
        self,
        observer: Observer,
        cancellation: Cancellation,
        limit: AdaptiveLimit,
        budget: RetryBudget,
        carrier: HubCarrier | None = None,
    ) -> None:
        self._observer = observer
        self._carrier = carrier
        self._cancellation = cancellation
        self._limit = limit
        self._tally = Tally()
        # A carrier repeats what failed on its way; doing so here as well would multiply the attempts.
        policy = self._settings.retry if carrier is None else attrs.evolve(self._settings.retry, attempts=1)
        self._retrier = Retrier(
            policy=policy,
            budget=budget,
            sleep=self._settings.sleep or cancellation.sleep,
            random=self._settings.random,
        )

    def for_run(
        self,
        *,
        observer: Observer,
        cancellation: Cancellation,
        concurrency: int,
        budget: RetryBudget | None = None,
        carrier: HubCarrier | None = None,
    ) -> HubClient:
        """
        Return a client over the same connections with its own cancellation, retry budget, limit and statistics.

        It need not be closed. With a *carrier* every request goes that way, and none over the connections.
        """
        bound = object.__new__(HubClient)
        bound._settings = self._settings
        bound._wire = self._wire
        bound._bind(observer, cancellation, AdaptiveLimit(concurrency), budget or RetryBudget(), carrier)
        return bound

    @property
    def address(self) -> HubAddress:
        """Where requests go at present."""
        return self._wire.address

    @property
    def refused_address(self) -> HubAddress | None:
        """The address this client was given, once requests go to the raw host instead; otherwise `None`."""
        return None if self._wire.address == self._wire.given else self._wire.given

    @property
    def limits(self) -> HubLimits:
        """What is accepted from the hub."""
        return self._settings.limits

    @property
    def stats(self) -> HubStats:
        """What was sent and received so far."""
        return self._tally.summary(lowest_concurrency=self._limit.lowest)

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def __repr__(self) -> str:
        return f"HubClient({str(self.address)!r})"

    # -- endpoints --------------------------------------------------------------------------------------------------

    def health(self) -> bool:
        """Return whether the hub says it is healthy; raises what `index_page` raises when it says nothing."""
        value = self._read("health", "/health", loads)
        return isinstance(value, dict) and value.get("ok") is True

    def index_page(self, cursor: str = "", *, limit: int = 200) -> IndexPage:
        """
        Return one page of the operator's user index.

        Raises:
            ConfigurationError: This client has no operator key.
            RejectedError: Kinds ``gateway_auth``, ``operator_key``, ``not_configured``, ``not_found``.
            SourceUnavailableError: Kinds ``unreachable``, ``timeout``, ``connection_lost``, ``hub_unavailable``,
                ``overloaded``, after all attempts.
            ExportError: Kinds ``reply_not_json``, ``reply_too_large``, ``bad_reply``.
            SourceError: Kind ``tls``.
        """
        if self._settings.operator_key is None:
            message = "the user index needs the operator key"
            hint = "pass operator_key=, the value of KNOWTATION_OPERATOR_EXPORT_KEY"
            raise ConfigurationError(message, kind="operator_key_missing", hint=hint)
        query = f"?limit={limit}" if not cursor else f"?cursor={quote(cursor, safe='')}&limit={limit}"
        headers = [(b"X-Operator-Export-Key", self._settings.operator_key.encode("latin-1"))]
        return parse_index(self._read("operator/export", f"/api/v1/operator/export{query}", loads, headers))

    def vaults(self, user_id: str) -> tuple[str, ...]:
        """Return the vault ids of a tenant, ``("default",)`` when it has none (contracts 1.7)."""
        return parse_vaults(self._read("vaults", "/api/v1/vaults", loads, tenant_headers(user_id)))

    def export(self, user_id: str, vault_id: str) -> NoteList:
        """Return all notes of a vault."""
        where = f"{user_id}/{vault_id}"
        return self.read_export(user_id, vault_id, lambda body: parse_notes(loads(body), where=where))

    def read_export(self, user_id: str, vault_id: str, decode: Callable[[bytes], T], *, independent: bool = False) -> T:
        """
        Return what *decode* makes of the reply that holds all notes of a vault.

        Args:
            user_id: The tenant.
            vault_id: The vault.
            decode: Called in this thread; a `JsonError` from it means the reply is read once more.
            independent: Use other connections than the usual ones, to compare two readings.
        """
        headers = tenant_headers(user_id, vault_id)
        return self._read("export", "/api/v1/export", decode, headers, independent=independent)

    def note(self, user_id: str, vault_id: str, path: str) -> Note:
        """
        Return one note; raises `RejectedError` of kind ``not_found`` when there is none.

        Paths with non-ASCII characters are never found: the hub decodes them as Latin-1 (contracts 1.8).
        """
        target = f"/api/v1/notes/{encode_segment(path)}"
        return note_from_json(self._read("notes/<path>", target, loads, tenant_headers(user_id, vault_id)))[0]

    def proposal_stubs(self, user_id: str, vault_id: str) -> StubList:
        """Return the list of a vault's proposals."""
        value = self._read("proposals", "/api/v1/proposals", loads, tenant_headers(user_id, vault_id))
        return parse_stubs(value, where=f"{user_id}/{vault_id}")

    def proposal(self, user_id: str, vault_id: str, stub: Proposal) -> ParsedProposal:
        """
        Return the full proposal of a stub.

        A reply that is not JSON, twice in the same way, becomes the stand-in object of contracts 1.6.
        """
        proposal_id = str(stub["proposal_id"])

        def decode(body: bytes) -> ParsedProposal:
            parsed = parse_proposal(body, proposal_id=proposal_id, stub=stub)
            if parsed.raw is not None:
                raise JsonError("the proposal is not a JSON object")
            return parsed

        return self._read(
            "proposals/<id>",
            f"/api/v1/proposals/{encode_segment(proposal_id)}",
            decode,
            tenant_headers(user_id, vault_id),
            malformed=lambda body: parse_proposal(body, proposal_id=proposal_id, stub=stub),
        )

    def preflight(self) -> PreflightReport:
        """Tell whether an export could begin: is the hub there, and are both keys right? Failures are in the report."""
        try:
            healthy = self.health()
            self.index_page(limit=1)
        except BackupError as error:
            return PreflightReport(address=str(self.address), status=error.kind, message=error.message, hint=error.hint)
        if not healthy:
            message = "the hub answers but does not call itself healthy"
            return PreflightReport(address=str(self.address), status="unhealthy", message=message)
        return PreflightReport(address=str(self.address), status="ok", message="the hub answers and accepts the keys")

    # -- one request --------------------------------------------------------------------------------------------------

    def _read(  # noqa: PLR0913 - the parts of one request
        self,
        route: str,
        path: str,
        decode: Callable[[bytes], T],
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        malformed: Callable[[bytes], T] | None = None,
        independent: bool = False,
    ) -> T:
        """Send a request until it succeeds, and decode the reply; see `index_page` for the errors."""

        def attempt(_number: int) -> T:
            body = self._admitted(route, path, headers, independent=independent)
            try:
                return decode(body)
            except JsonError:
                pass
            # A reply cut short looks like malformed data. Data is the same twice, an accident is not.
            again = self._admitted(route, path, headers, independent=independent)
            if again != body:
                try:
                    return decode(again)
                except JsonError:
                    raise not_json_error(route, again, passing=True) from None
            if malformed is not None:
                return malformed(body)
            raise not_json_error(route, body, passing=False)

        def on_retry(number: int, delay_seconds: float, error: BackupError) -> None:
            self._tally.retry(error.kind)
            fields = {"route": route, "attempt": number, "delay_seconds": round(delay_seconds, 3), "kind": error.kind}
            self._observer(Event(name="hub.retry", fields={**fields, "status": error.context.get("status")}))

        return self._retrier.call(attempt, on_retry=on_retry)

    def _admitted(self, route: str, path: str, headers: Sequence[tuple[bytes, bytes]], *, independent: bool) -> bytes:
        self._cancellation.check()
        with self._limit.admit(self._cancellation) as current:
            if self._carrier is not None:
                reply = self._carry(self._carrier, route, path, headers, admitted_in=current)
            else:
                address = self._wire.address
                reply = self._send(address, route, path, headers, independent=independent)
                if reply.status == 503 and not error_code(reply.body) and self._switch_to_raw(address):
                    reply = self._send(self._wire.address, route, path, headers, independent=independent)
        if reply.ok:
            self._limit.succeeded()
            return reply.body
        error = reply_error(reply, secrets=self._settings.secrets, now=self._settings.clock())
        if error.retryable:
            self._limit.overloaded(current)
        raise error

    def _carry(
        self,
        carrier: HubCarrier,
        route: str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        admitted_in: int,
    ) -> HubReply:
        def on_retry(error: BackupError) -> None:
            self._tally.retry(error.kind)
            if error.kind in _OVERLOADED:
                self._limit.overloaded(admitted_in)
            if not self._retrier.budget.spend():
                error.context["retry_budget_spent"] = True
                raise error

        # No gateway in between, so none of the headers that are meant for one.
        all_headers = [*self._secret_headers(), *headers]
        request = HubRequest(
            route=route,
            target=path,
            headers=tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in all_headers),
            timeout_seconds=self._settings.timeouts.total_seconds,
            cancellation=self._cancellation,
            on_retry=on_retry,
        )
        received = 0
        try:
            reply = carrier.carry(request)
            received = len(reply.body)
        finally:
            self._tally.request(received)
        if received > self._settings.limits.reply_bytes:
            raise self._too_large(route)
        return reply

    def _switch_to_raw(self, refused: HubAddress) -> bool:
        """Go to the raw host from now on, if there is one; `True` when the request is worth sending again."""
        raw = refused.raw
        if raw is None:
            return False
        with self._wire.lock:
            first = self._wire.address == refused
            self._wire.address = raw
        if first:
            self._observer(Event(name="hub.raw_host", fields={"host": raw.host}))
        return True

    def _send(
        self,
        address: HubAddress,
        route: str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        independent: bool,
    ) -> HubReply:
        timeouts = self._settings.timeouts
        deadline = self._settings.monotonic() + timeouts.total_seconds
        request = httpx.Request(
            "GET",
            address.url(path),
            headers=[*self._common_headers(), *headers],
            extensions={
                "timeout": {
                    "connect": min(timeouts.connect_seconds, timeouts.total_seconds),
                    "read": timeouts.read_seconds,
                    "write": timeouts.read_seconds,
                    "pool": timeouts.total_seconds,
                },
                GUARD: Guard(cancellation=self._cancellation, deadline=deadline, clock=self._settings.monotonic),
            },
        )
        transport = self._wire.second if independent else self._wire.transport
        failure: BackupError
        try:
            response = transport.handle_request(request)
            try:
                body = self._body(response, route, deadline)
            finally:
                response.close()
        except TRANSPORT_ERRORS as error:
            failure = transport_error(error, route=route, host=address.host, hints=HINTS)
        else:
            self._tally.request(len(body))
            return HubReply(
                route=route,
                status=response.status_code,
                body=body,
                retry_after=response.headers.get("retry-after", ""),
                location=response.headers.get("location", ""),
            )
        self._tally.request(0)
        raise failure  # outside the handler: the exception there refers to the request with its secrets

    def _common_headers(self) -> list[tuple[bytes, bytes]]:
        # Plain bodies only: a compressed one could be a bomb, and the limit would have to be checked while inflating.
        return [(b"Accept", b"application/json"), (b"Accept-Encoding", b"identity"), *self._secret_headers()]

    def _secret_headers(self) -> list[tuple[bytes, bytes]]:
        secret = self._settings.gateway_secret
        return [] if secret is None else [(b"X-Gateway-Auth", secret.encode("latin-1"))]

    def _too_large(self, route: str) -> ExportError:
        limit = self._settings.limits.reply_bytes
        message = f"the reply to {route} is larger than {limit} bytes"
        return ExportError(
            message, kind="reply_too_large", hint=HINTS["reply_too_large"], route=route, limit_bytes=limit
        )

    def _body(self, response: httpx.Response, route: str, deadline: float) -> bytes:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            message = f"the reply to {route} is compressed ({encoding[:20]}) although plain bytes were asked for"
            raise ExportError(message, kind="encoded_reply", hint=HINTS["encoded_reply"], route=route)
        limit = self._settings.limits.reply_bytes
        body = io.BytesIO()  # grows in place and gives its buffer away without a copy
        stream: Any = response.stream  # always the synchronous kind: our transports and injected ones are BaseTransport
        for part in stream:
            body.write(part)
            if body.tell() > limit:
                raise self._too_large(route)
            if self._settings.monotonic() > deadline:
                message = f"the reply to {route} was not complete after {self._settings.timeouts.total_seconds:g} s"
                raise SourceUnavailableError(message, kind="timeout", hint=HINTS["timeout"], route=route)
        return body.getvalue()
