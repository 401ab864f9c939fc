"""
One HTTP request to the network: sent, answered in full, within bounds of time and size.

What is read here is not believed yet: certificates are verified by those who ask.
"""

from __future__ import annotations

import functools
import io
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import httpx

from .._engine.cancellation import Cancellation
from .._transport import GUARD, TRANSPORT_ERRORS, Guard, transport_error
from ..errors import BackupError, SourceError, SourceUnavailableError
from .addresses import NodeAddress
from .cbor import Buffer
from .connections import LargeAnswers, WholeBody
from .limits import AgentLimits, AgentTimeouts

__all__ = ["HttpAnswer", "Sender", "Waiting"]

_HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"Content-Type", b"application/cbor"),
    (b"Accept", b"application/cbor"),
    # Plain bodies only: a compressed one could be a bomb, and the limit would have to be checked while inflating.
    (b"Accept-Encoding", b"identity"),
)


@attrs.frozen(kw_only=True)
class Waiting:
    """How long the present operation may go on: its cancellation and the moment of its end, by *monotonic*."""

    cancellation: Cancellation
    deadline: float
    monotonic: Callable[[], float] = time.monotonic

    @property
    def left_seconds(self) -> float:
        """Time left; negative when it is used up."""
        return self.deadline - self.monotonic()


@attrs.frozen(kw_only=True)
class HttpAnswer:
    """One complete answer; ``route`` says what was asked, in words."""

    route: str
    status: int
    body: bytes | memoryview = attrs.field(repr=False)
    retry_after: str = ""
    cause: str = ""
    """What a boundary node names as the cause (``X-IC-Error-Cause``)."""
    date: str = ""
    """The ``Date`` header."""


class Sender:
    """
    Sends requests to one address over pooled connections. Thread-safe.

    Args:
        address: Where to.
        transport: Replaces the connections, for tests; the caller closes it.
        ssl_context: For own certificate authorities.
        timeouts: Per attempt.
        limits: What is accepted.
    """

    def __init__(
        self,
        address: NodeAddress,
        *,
        transport: httpx.BaseTransport | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeouts: AgentTimeouts,
        limits: AgentLimits,
    ) -> None:
        self.address: NodeAddress = address
        self._timeouts = timeouts
        self._limits = limits
        self._owned = transport is None
        if transport is None:
            if ssl_context is None and address.scheme == "https":
                ssl_context = httpx.create_ssl_context()
            transport = LargeAnswers(ssl_context=ssl_context)
        self._transport = transport
        self._base = str(address)

    def close(self) -> None:
        """Close the connections."""
        if self._owned:
            self._transport.close()

    def post(self, path: str, body: Sequence[Buffer], *, route: str, waiting: Waiting) -> HttpAnswer:
        """Send *body*, which comes in parts, and return the answer, whatever its status; see `get` for the errors."""
        return self._send("POST", path, body, route=route, waiting=waiting)

    def get(self, path: str, *, route: str, waiting: Waiting) -> HttpAnswer:
        """
        Return the answer to a request without body, whatever its status.

        Raises:
            SourceUnavailableError: Kind ``unreachable``: nothing was sent. Kinds ``timeout`` and ``connection_lost``:
                the request may have arrived.
            SourceError: Kind ``tls``: the other side is not who it should be. Kinds ``reply_too_large`` and
                ``encoded_reply``: it answers what no node of the network would.
            OperationCancelledError: The operation was cancelled meanwhile.
        """
        return self._send("GET", path, None, route=route, waiting=waiting)

    def _send(self, verb: str, path: str, body: Sequence[Buffer] | None, *, route: str, waiting: Waiting) -> HttpAnswer:
        waiting.cancellation.check()
        timeouts = self._timeouts
        left = min(waiting.left_seconds, timeouts.attempt_seconds)
        if left <= 0:
            raise SourceUnavailableError(
                f"no time was left for {route}",
                kind="unreachable",
                hint="allow more with deadline_seconds=",
                route=route,
            )
        guard = Guard(cancellation=waiting.cancellation, deadline=waiting.monotonic() + left, clock=waiting.monotonic)
        headers = _HEADERS
        content: Any = body  # httpx accepts parts that are views, though it does not say so
        if body is not None and (len(body) == 1 or not isinstance(self._transport, LargeAnswers)):
            content = b"".join(body)
        elif body is not None:
            headers += ((b"Content-Length", b"%d" % sum(map(len, body))),)
        request = httpx.Request(
            verb,
            _url(self._base, path),
            content=content,
            headers=headers,
            extensions={
                "timeout": {
                    "connect": min(timeouts.connect_seconds, left),
                    "read": min(timeouts.read_seconds, left),
                    "write": min(timeouts.read_seconds, left),
                    "pool": left,
                },
                GUARD: guard,
            },
        )
        failure: BackupError
        try:
            response = self._transport.handle_request(request)
            try:
                data = self._body(response, route, guard)
            finally:
                response.close()
        except TRANSPORT_ERRORS as error:
            failure = transport_error(error, route=route, host=self.address.host)
        else:
            given = response.headers
            return HttpAnswer(
                route=route,
                status=response.status_code,
                body=data,
                retry_after=given.get("retry-after", ""),
                cause=given.get("x-ic-error-cause", ""),
                date=given.get("date", ""),
            )
        raise failure  # outside the handler: the exception there refers to the whole request

    def _body(self, response: httpx.Response, route: str, guard: Guard) -> bytes | memoryview:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            message = f"the answer to {route} is compressed ({encoding[:20]!r}) although plain bytes were asked for"
            hint = "a proxy compresses although it was asked not to: go around it"
            raise SourceError(message, kind="encoded_reply", hint=hint, route=route)
        limit = self._limits.reply_bytes
        stream: Any = response.stream  # always the synchronous kind: our transports and injected ones are BaseTransport
        if isinstance(stream, WholeBody):
            whole = stream.read_whole(limit)
            if whole is None:
                raise _too_large(route, limit)
            return memoryview(whole).toreadonly()  # replies are views into it, and nobody's to change
        body = io.BytesIO()
        for part in stream:
            body.write(part)
            if body.tell() > limit:
                raise _too_large(route, limit)
            if guard.remaining_seconds < 0:
                message = f"the answer to {route} was not complete in time"
                raise SourceUnavailableError(
                    message, kind="timeout", hint="try again, or allow more with AgentTimeouts", route=route
                )
        return body.getvalue()


@functools.lru_cache(maxsize=256)  # taking an address apart costs more than all else that is done here
def _url(base: str, path: str) -> httpx.URL:
    return httpx.URL(f"{base}{path}")


def _too_large(route: str, limit: int) -> SourceError:
    message = f"the answer to {route} is larger than {limit} bytes"
    hint = "no node of the network can send that much: check the address and proxies on the way"
    return SourceError(message, kind="reply_too_large", hint=hint, route=route, limit_bytes=limit)
