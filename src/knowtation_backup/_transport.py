"""
Pooled HTTP connections whose waiting can be interrupted.

The connections of ``httpcore`` wait in the operating system for as long as one read may take. Here every wait is cut
into short slices, and between slices the thread looks at its guard: was the run cancelled, is the time for the whole
attempt used up? This bounds servers that drip single bytes, headers included, and lets Ctrl-C end a run at once.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import httpcore
import httpx

from ._engine.cancellation import Cancellation

__all__ = ["GUARD", "Guard", "GuardedTransport"]

GUARD = "knowtation_guard"
"""Name of the request extension that carries the `Guard`."""

_SLICE_SECONDS = 0.25
_KEEPALIVE_SECONDS = 30.0


@attrs.frozen(kw_only=True)
class Guard:
    """What a thread looks at while it waits for one reply."""

    cancellation: Cancellation
    deadline: float
    """In terms of *clock*."""
    clock: Callable[[], float] = time.monotonic

    @property
    def remaining_seconds(self) -> float:
        """Time left; negative when it is used up."""
        return self.deadline - self.clock()


class GuardedTransport(httpx.BaseTransport):
    """
    An httpx transport over an ``httpcore`` pool of as many connections as there are threads.

    It raises ``httpcore``'s exceptions; the hub client translates them together with those of httpx.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None, http2: bool) -> None:
        self._active = threading.local()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            max_connections=None,  # the number of threads bounds them
            max_keepalive_connections=None,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            http1=True,
            http2=http2,
            network_backend=_GuardedBackend(self._active),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the guard stays in force for this thread until the response is closed."""
        self._active.guard = request.extensions.get(GUARD)
        try:
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        except BaseException:
            self._active.guard = None
            raise
        return httpx.Response(
            status_code=response.status, headers=response.headers, stream=_Body(response, self._active)
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response, active: threading.local) -> None:
        self._response = response
        self._active = active

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()
        self._active.guard = None


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, active: threading.local) -> None:
        self._active = active
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        if host == "localhost" or host.endswith(".localhost"):
            host = "127.0.0.1"  # RFC 6761, section 6.3; few resolvers know the names below localhost
        guard: Guard | None = getattr(self._active, "guard", None)
        if guard is not None:
            guard.cancellation.check()
        stream = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _GuardedStream(stream, self._active)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        return _GuardedStream(self._inner.connect_unix_socket(path, timeout, socket_options), self._active)

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


class _GuardedStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, active: threading.local) -> None:
        self._inner = inner
        self._active = active

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        guard: Guard | None = getattr(self._active, "guard", None)
        if guard is None:
            return self._inner.read(max_bytes, timeout)
        waited_until = guard.clock() + (timeout if timeout is not None else guard.remaining_seconds)
        while True:
            guard.cancellation.check()
            left = min(waited_until, guard.deadline) - guard.clock()
            if left <= 0:
                raise httpcore.ReadTimeout("the reply did not arrive in time")
            try:
                return self._inner.read(max_bytes, min(left, _SLICE_SECONDS))
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _GuardedStream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._active)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
