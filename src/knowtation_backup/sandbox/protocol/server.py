"""
The sandbox on loopback: an HTTP/1.1 server with a thread for each connection.

A request is read, delayed, executed and answered by one thread, without a hop: on a network whose messages take less
than a millisecond, hops cost more than the work. Hashing and sending large replies happens outside the interpreter
lock, so connections use all cores. Resets are real TCP resets; truncated bodies announce their full length before the
connection closes.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ...errors import ConfigurationError
from .. import principal
from .exchange import HttpRequest, plain_text
from .gateway import MAX_GATEWAY_BODY_BYTES
from .http1 import BadRequestError, Incoming, RequestReader, reset, send

if TYPE_CHECKING:
    from .front import FrontDoor

__all__ = ["SandboxServer"]

_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 1024


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
        self._lock = threading.Lock()
        self._gateway_ports: dict[bytes, int] = {}
        self._listeners: dict[socket.socket, bytes | None] = {}
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closing = threading.Event()
        try:
            self.port: int = self._listen(port, None)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"port {port} on {_HOST} cannot be opened: {error}", hint="choose port 0 for a free one", port=port
            ) from error
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._thread = threading.Thread(target=self._accept_all, name="sandbox-server", daemon=True)
        self._thread.start()

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
            if self._closing.is_set():
                raise ConfigurationError("the server is closed", hint="open another one with serve()")
            port = self._gateway_ports.get(canister_id)
            if port is None:
                port = self._gateway_ports[canister_id] = self._listen(0, canister_id)
                self._wake_sender.send(b"\0")
        return f"{self._scheme}://{_HOST}:{port}"

    def gateway_host_url(self, canister_id: bytes, *, raw: bool = True) -> str:
        """Return the canister's URL by host name, as on mainnet; needs a resolver or `LocalhostTransport`."""
        middle = ".raw" if raw else ""
        return f"{self._scheme}://{principal.to_text(canister_id)}{middle}.localhost:{self.port}"

    def close(self) -> None:
        """Stop listening, cut open connections, and end all threads of the server. Idempotent."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        self._wake_sender.send(b"\0")
        self._thread.join()
        with self._lock:
            threads = list(self._connections.values())
            for connection in self._connections:
                # Not the method of a TLS socket, which would pull the session from under the thread that reads it.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for end in (self._wake_receiver, self._wake_sender, *self._listeners):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Accepting

    def _listen(self, port: int, canister_id: bytes | None) -> int:
        listener = socket.create_server((_HOST, port), backlog=_BACKLOG)
        listener.settimeout(0)
        self._listeners[listener] = canister_id
        return int(listener.getsockname()[1])

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_receiver, selectors.EVENT_READ)
            while not self._closing.is_set():
                with self._lock:
                    for listener in self._listeners.keys() - {key.fileobj for key in selector.get_map().values()}:
                        selector.register(listener, selectors.EVENT_READ)
                for key, _ in selector.select():
                    if key.fileobj is self._wake_receiver:
                        self._wake_receiver.recv(64)
                    elif isinstance(key.fileobj, socket.socket):
                        self._accept(key.fileobj)
        # Whoever connects from now on is refused, and not left waiting for a server that has ended.
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the peer has given up already
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._ssl_context is not None:
            connection = self._ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(
            target=self._serve, args=(connection, self._listeners[listener]), name="sandbox-connection", daemon=True
        )
        with self._lock:
            self._connections[connection] = thread
        thread.start()

    # One connection

    def _serve(self, connection: socket.socket, canister_id: bytes | None) -> None:
        try:
            with connection:
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
                self._answer_all(connection, canister_id)
        except OSError:
            pass  # the peer has gone, or closing has cut the connection
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    def _answer_all(self, connection: socket.socket, canister_id: bytes | None) -> None:
        reader = RequestReader(connection, max_body_bytes=MAX_GATEWAY_BODY_BYTES)
        try:
            while (incoming := reader.read()) is not None:
                if not self._answer(connection, incoming, canister_id):
                    return
        except BadRequestError as error:
            send(connection, plain_text(error.status, error.text), keep_alive=False)

    def _answer(self, connection: socket.socket, incoming: Incoming, canister_id: bytes | None) -> bool:
        """Answer one request; tells whether the connection goes on."""
        request: HttpRequest = incoming.request
        decision = self._front.admit(request)
        try:
            if decision.delay_seconds and self._closing.wait(decision.delay_seconds):
                return False
            reply = None if decision.reset == "before" else self._front.execute(request, decision, canister_id)
        except Exception:
            send(connection, plain_text(500, "The sandbox failed; its traceback tells more."), keep_alive=False)
            raise
        finally:
            self._front.leave()
        if reply is None or decision.reset is not None:
            reset(connection)
            return False
        keep_alive = incoming.keep_alive and decision.keep is None
        send(connection, reply, head_only=request.method == "HEAD", keep=decision.keep, keep_alive=incoming.keep_alive)
        return keep_alive
