"""
The sandbox on loopback: an HTTP/1.1 server in a thread of its own.

Delays are awaited on the event loop, so that any number of slow requests cost no thread; execution runs in a pool.
Resets are real TCP resets; truncated bodies announce their full length before the connection closes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import http
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

from ...errors import ConfigurationError
from .. import principal
from .exchange import HttpReply, HttpRequest
from .gateway import MAX_GATEWAY_BODY_BYTES

if TYPE_CHECKING:
    from ..faults import Decision
    from .front import FrontDoor

__all__ = ["SandboxServer"]

_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 30.0
_SEND_BUFFER_BYTES: Final = 4 * 1024 * 1024
_WORKERS: Final = 64
_SETTLE_SECONDS: Final = 0.02


class SandboxServer:
    """
    A running server; made by `SandboxNetwork.serve`, ended by `close` or the end of a ``with`` block.

    Args:
        front: Answers requests.
        port: Port on 127.0.0.1, 0 for a free one.
        ssl_context: Serve TLS with this context.

    Raises:
        ConfigurationError: The port cannot be opened.
    """

    def __init__(
        self,
        front: FrontDoor,
        *,
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._front = front
        self._ssl_context = ssl_context
        self._pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="sandbox-http")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox-server", daemon=True)
        self._listeners: list[tuple[asyncio.Server, web.Server]] = []
        self._gateway_ports: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._thread.start()
        try:
            self.port: int = self._on_loop(self._listen(port, None))
        except OSError as error:
            self.close()
            raise ConfigurationError(
                f"port {port} on {_HOST} cannot be opened: {error}", hint="choose port 0 for a free one", port=port
            ) from error

    @property
    def url(self) -> str:
        """Base URL of the Internet Computer interface, without a trailing slash."""
        return f"{self._scheme}://{_HOST}:{self.port}"

    @property
    def _scheme(self) -> str:
        return "http" if self._ssl_context is None else "https"

    def gateway_url(self, canister_id: bytes) -> str:
        """
        Return a base URL under which the canister is served raw, without a trailing slash.

        It is a port of its own on 127.0.0.1, opened at the first use, so that clients need neither ``*.localhost``
        names nor query parameters.
        """
        with self._lock:
            port = self._gateway_ports.get(canister_id)
            if port is None:
                port = self._gateway_ports[canister_id] = self._on_loop(self._listen(0, canister_id))
        return f"{self._scheme}://{_HOST}:{port}"

    def gateway_host_url(self, canister_id: bytes, *, raw: bool = True) -> str:
        """Return the canister's URL by host name, as on mainnet; needs a resolver or `LocalhostTransport`."""
        middle = ".raw" if raw else ""
        return f"{self._scheme}://{principal.to_text(canister_id)}{middle}.localhost:{self.port}"

    def close(self) -> None:
        """Stop listening, cut open connections, and end all threads of the server. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._on_loop(self._shut_down())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=_START_SECONDS)
            self._loop.close()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _on_loop(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=_START_SECONDS)

    async def _listen(self, port: int, canister_id: bytes | None) -> int:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(request, canister_id)

        server = web.Server(handler, access_log=None, auto_decompress=False)
        listener = await self._loop.create_server(server, _HOST, port, ssl=self._ssl_context, backlog=1024)
        self._listeners.append((listener, server))
        return int(listener.sockets[0].getsockname()[1])

    async def _shut_down(self) -> None:
        # A connection accepted this very moment needs some turns of the loop until the server knows it. Closing the
        # listener before that would leave it open for ever, so stop accepting first.
        for listener, _ in self._listeners:
            for listening in listener.sockets:
                self._loop.remove_reader(listening.fileno())
        await asyncio.sleep(_SETTLE_SECONDS)
        for listener, _ in self._listeners:
            listener.close()
        for _, server in self._listeners:
            await server.shutdown(timeout=_SETTLE_SECONDS)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, request: web.BaseRequest, canister_id: bytes | None) -> web.StreamResponse:
        given = HttpRequest(
            method=request.method,
            path=request.raw_path.partition("?")[0],
            query=request.raw_path.partition("?")[2],
            headers=tuple((name.lower(), value) for name, value in request.headers.items()),
            body=await _read_body(request),
        )
        decision = self._front.admit(given)
        try:
            if decision.delay_seconds:
                await asyncio.sleep(decision.delay_seconds)
            if decision.reset == "before":
                return _reset(request)
            work = functools.partial(self._front.execute, given, decision, canister_id)
            reply = await self._loop.run_in_executor(self._pool, work)
            if decision.reset == "after":
                return _reset(request)
            return _send(request, reply, decision)
        finally:
            self._front.leave()


async def _read_body(request: web.BaseRequest) -> bytes:
    parts, size = [], 0
    # One byte more than the largest limit is enough for the core to refuse the request.
    async for part in request.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_GATEWAY_BODY_BYTES:
            break
    return b"".join(parts)


def _send(request: web.BaseRequest, reply: HttpReply, decision: Decision) -> web.StreamResponse:
    transport = request.transport
    if transport is not None and len(reply.body) > 65_536:
        # A larger kernel buffer takes most of the body at once instead of in many wake-ups.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if decision.keep is not None and transport is not None:
        return _send_part(transport, reply, decision.keep)
    return web.Response(status=reply.status, headers=list(reply.headers), body=reply.body)


def _send_part(transport: asyncio.Transport, reply: HttpReply, keep: float) -> web.StreamResponse:
    head = [f"HTTP/1.1 {reply.status} {_phrase(reply.status)}"]
    head += [f"{name}: {value}" for name, value in reply.headers]
    head += [f"content-length: {len(reply.body)}", "", ""]
    transport.write("\r\n".join(head).encode("latin-1") + reply.body[: int(len(reply.body) * keep)])
    transport.close()
    return web.Response()  # finds the transport closing and is dropped


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        # With a linger time of zero, closing sends RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()  # finds the transport closing and is dropped


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
