"""The hub client over real sockets: TLS, servers that stall, drip, cut, and connections that are kept."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trustme

from knowtation_backup import HubClient, OperatorExporter
from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.contracts import ignore_events
from knowtation_backup.errors import (
    ExportError,
    OperationCancelledError,
    SourceError,
    SourceUnavailableError,
)
from knowtation_backup.hub.limits import HubTimeouts

Handler = Callable[[socket.socket], None]
ONCE = RetryPolicy(attempts=1)
REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class Server:
    """Accepts connections on a loopback port and hands each to a handler in a thread of its own."""

    def __init__(self, handler: Handler, context: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self._handler = handler
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.port = self._socket.getsockname()[1]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._context is not None:
                with self._context.wrap_socket(connection, server_side=True) as wrapped:
                    self._handler(wrapped)
            else:
                self._handler(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(handler: Handler, context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(handler, context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return b""
        data += part
    return data


def answers(body: bytes) -> Handler:
    def handler(connection: socket.socket) -> None:
        while request(connection):
            connection.sendall(REPLY + b"content-length: %d\r\n\r\n" % len(body) + body)

    return handler


VAULTS = b'{"vaults":[{"id":"a"}]}'


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_trusted_certificate(serve: Callable[..., Server], authority: trustme.CA) -> None:
    server = serve(answers(VAULTS), server_context(authority, "localhost"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with HubClient(f"https://localhost:{server.port}", ssl_context=trusting) as hub:
        assert [hub.vaults("u") for _ in range(3)] == [("a",)] * 3
    assert server.connections == 1


@pytest.mark.parametrize(("name", "trusted"), [("localhost", False), ("other.example", True)])
def test_bad_certificate_is_refused_at_once_and_for_good(
    serve: Callable[..., Server], authority: trustme.CA, name: str, *, trusted: bool
) -> None:
    server = serve(answers(VAULTS), server_context(authority, name))
    context = ssl.create_default_context()
    if trusted:
        authority.configure_trust(context)
    with HubClient(f"https://localhost:{server.port}", operator_key="k" * 40, ssl_context=context) as hub:
        with pytest.raises(SourceError) as caught:
            hub.vaults("u")
        assert (caught.value.kind, caught.value.retryable) == ("tls", False)
        assert "certificate" in str(caught.value)
        assert hub.preflight().status == "tls"
    assert server.connections == 2


def test_plain_http_where_tls_is_expected(serve: Callable[..., Server]) -> None:
    def plain(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    with HubClient(f"https://localhost:{serve(plain).port}") as hub, pytest.raises(SourceError) as caught:
        hub.vaults("u")
    assert caught.value.kind == "tls"


def test_unreachable_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with HubClient(f"http://127.0.0.1:{port}", retry=ONCE) as hub, pytest.raises(SourceUnavailableError) as caught:
        hub.vaults("u")
    assert caught.value.kind == "unreachable"
    assert "refused" in caught.value.message


def test_names_below_localhost_need_no_resolver(serve: Callable[..., Server]) -> None:
    server = serve(answers(VAULTS))
    with HubClient(f"http://rrkah-fqaaa-aaaaa-aaaaq-cai.raw.localhost:{server.port}") as hub:
        assert hub.vaults("u") == ("a",)


def drip_headers(connection: socket.socket) -> None:
    request(connection)
    connection.sendall(REPLY)
    while True:
        connection.sendall(b"x: y\r\n")
        time.sleep(0.02)


def drip_body(connection: socket.socket) -> None:
    request(connection)
    connection.sendall(REPLY + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1\r\n \r\n")
        time.sleep(0.02)


def silence(connection: socket.socket) -> None:
    request(connection)
    connection.recv(1)


@pytest.mark.parametrize("handler", [drip_headers, drip_body, silence])
def test_slow_servers_end_at_the_deadline(serve: Callable[..., Server], handler: Handler) -> None:
    timeouts = HubTimeouts(read_seconds=30, total_seconds=0.6)
    before = time.monotonic()
    with HubClient(f"http://127.0.0.1:{serve(handler).port}", retry=ONCE, timeouts=timeouts) as hub:
        with pytest.raises(SourceUnavailableError) as caught:
            hub.vaults("u")
        assert caught.value.kind in {"timeout", "connection_lost"}  # thousands of headers are a protocol error, too
    assert 0.3 < time.monotonic() - before < 3


def test_silence_ends_at_the_read_timeout(serve: Callable[..., Server]) -> None:
    before = time.monotonic()
    timeouts = HubTimeouts(read_seconds=0.3)
    with HubClient(f"http://127.0.0.1:{serve(silence).port}", retry=ONCE, timeouts=timeouts) as hub:
        with pytest.raises(SourceUnavailableError) as caught:
            hub.vaults("u")
        assert caught.value.kind == "timeout"
    assert time.monotonic() - before < 3


def test_cancelling_ends_a_waiting_request(serve: Callable[..., Server]) -> None:
    cancellation = Cancellation()
    with HubClient(f"http://127.0.0.1:{serve(silence).port}") as client:
        hub = client.for_run(observer=ignore_events, cancellation=cancellation, concurrency=1)
        threading.Timer(0.2, cancellation.cancel).start()
        before = time.monotonic()
        with pytest.raises(OperationCancelledError):
            hub.vaults("u")
    assert time.monotonic() - before < 3


def test_leaving_an_export_does_not_wait_for_silent_servers(serve: Callable[..., Server]) -> None:
    index = b'{"user_ids":["a","b","c","d"],"next_cursor":"","done":true}'

    def handler(connection: socket.socket) -> None:
        if b"operator/export" in request(connection):
            connection.sendall(REPLY + b"content-length: %d\r\n\r\n" % len(index) + index)
        connection.recv(1)

    with HubClient(f"http://127.0.0.1:{serve(handler).port}", operator_key="k" * 40) as hub:
        capture = OperatorExporter(hub).capture(taken_at=dt.datetime.now(dt.UTC))
        threading.Timer(0.3, capture.cancel).start()
        before = time.monotonic()
        with pytest.raises(OperationCancelledError):
            list(capture.chunks())
        assert time.monotonic() - before < 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def cut(keep: int) -> Handler:
    seen = 0

    def handler(connection: socket.socket) -> None:
        nonlocal seen
        while request(connection):
            seen += 1
            full = REPLY + b"content-length: %d\r\n\r\n" % len(VAULTS) + VAULTS
            connection.sendall(full[:-keep] if seen == 1 else full)
            if seen == 1:
                return

    return handler


def reset_first(connection: socket.socket) -> None:
    request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def cut_without_length(connection: socket.socket) -> None:
    request(connection)
    connection.sendall(REPLY + b"connection: close\r\n\r\n" + VAULTS[:-3])


@pytest.mark.parametrize("keep", [1, 10, len(VAULTS) + 5])
def test_truncated_reply_is_read_again(serve: Callable[..., Server], keep: int) -> None:
    with HubClient(f"http://127.0.0.1:{serve(cut(keep)).port}", random=lambda: 0.0) as hub:
        assert hub.vaults("u") == ("a",)
        assert hub.stats.retries_by_kind == {"connection_lost": 1}


def test_reset_connection_is_repeated(serve: Callable[..., Server]) -> None:
    server = serve(reset_first)
    with HubClient(f"http://127.0.0.1:{server.port}", random=lambda: 0.0) as hub:
        with pytest.raises(SourceUnavailableError) as caught:
            hub.vaults("u")
        assert caught.value.kind == "connection_lost"
        assert caught.value.context["attempts"] == 5
    assert server.connections == 5


def test_cut_that_http_cannot_notice_is_no_json(serve: Callable[..., Server]) -> None:
    server = serve(cut_without_length)
    with HubClient(f"http://127.0.0.1:{server.port}") as hub, pytest.raises(ExportError) as caught:
        hub.vaults("u")
    assert caught.value.kind == "reply_not_json"


def test_huge_announced_and_endless_replies(serve: Callable[..., Server]) -> None:
    def endless(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(REPLY + b"content-length: 99999999999\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with HubClient(f"http://127.0.0.1:{serve(endless).port}") as hub, pytest.raises(ExportError) as caught:
        hub.vaults("u")
    assert caught.value.kind == "reply_too_large"
