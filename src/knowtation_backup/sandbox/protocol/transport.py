"""`httpx` transports to a sandbox: one in process, and one that finds ``*.localhost`` without a name server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx

from .exchange import HttpReply, HttpRequest

if TYPE_CHECKING:
    from ..faults import Decision
    from .front import FrontDoor

__all__ = ["LocalhostTransport", "SandboxTransport"]


class _CutStream(httpx.SyncByteStream):
    def __init__(self, part: bytes, expected: int) -> None:
        self._part = part
        self._expected = expected

    def __iter__(self) -> Iterator[bytes]:
        if self._part:
            yield self._part
        message = (
            "peer closed connection without sending complete message body "
            f"(received {len(self._part)} bytes, expected {self._expected})"
        )
        raise httpx.RemoteProtocolError(message)


class SandboxTransport(httpx.BaseTransport):
    """
    Serves `httpx` clients without a socket, with the same faults as a server.

    Resets arrive as `httpx.ReadError`, truncated bodies as `httpx.RemoteProtocolError` while reading. Thread-safe.
    """

    def __init__(self, front: FrontDoor) -> None:
        self._front = front

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request of an `httpx.Client`."""
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        given = HttpRequest(
            method=request.method,
            path=path,
            query=query,
            headers=tuple((name.lower(), value) for name, value in request.headers.multi_items()),
            body=request.read(),
        )
        decision = self._front.admit(given)
        try:
            return self._answer(request, given, decision)
        finally:
            self._front.leave()

    def _answer(self, request: httpx.Request, given: HttpRequest, decision: Decision) -> httpx.Response:
        if decision.delay_seconds:
            _sleep_within_timeout(request, decision.delay_seconds)
        if decision.reset == "before":
            message = "connection reset by the sandbox before execution"
            raise httpx.ReadError(message, request=request)
        reply = self._front.execute(given, decision)
        if decision.reset == "after":
            message = "connection reset by the sandbox after execution"
            raise httpx.ReadError(message, request=request)
        return _response(reply, decision.keep)


def _sleep_within_timeout(request: httpx.Request, seconds: float) -> None:
    timeout = request.extensions.get("timeout", {}).get("read")
    if timeout is not None and timeout < seconds:
        time.sleep(timeout)
        message = "the sandbox answers later than the read timeout"
        raise httpx.ReadTimeout(message, request=request)
    time.sleep(seconds)


def _response(reply: HttpReply, keep: float | None) -> httpx.Response:
    body = reply.body
    headers = [*reply.headers, ("content-length", str(len(body)))]
    if keep is None:
        return httpx.Response(reply.status, headers=headers, content=body)
    return httpx.Response(reply.status, headers=headers, stream=_CutStream(body[: int(len(body) * keep)], len(body)))


class LocalhostTransport(httpx.HTTPTransport):
    """
    An ordinary `httpx.HTTPTransport` that connects to 127.0.0.1 for every host below ``localhost``.

    Most systems resolve only ``localhost`` itself. The ``Host`` header stays as it is.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request of an `httpx.Client`."""
        if request.url.host.endswith(".localhost"):
            request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)
