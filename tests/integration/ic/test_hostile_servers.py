"""Servers that break HTTP itself, over real sockets: every request ends with an error of ours, in time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import BackupError, RejectedError, SourceUnavailableError
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.limits import AgentLimits, AgentTimeouts
from knowtation_backup.model.ids import Principal

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
NOTHING = b"DIDL\x00\x00"


@contextlib.contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """Hand each connection to *serve*, then close it; yields the URL."""

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.settimeout(10)
                one(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def asked(url: str, arg: bytes = NOTHING, *, attempt_seconds: float = 5.0) -> BackupError:
    with (
        Agent(
            url,
            retry=RetryPolicy(attempts=1),
            timeouts=AgentTimeouts(attempt_seconds=attempt_seconds),
            limits=AgentLimits(reply_bytes=100_000),
        ) as agent,
        pytest.raises(BackupError) as caught,
    ):
        agent.call(CANISTER, "m", arg, repeatable=True)
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\xff\xfe: \x00\xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-" + b"f" * 40 + b"\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n" + bytes(200_000),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\n\r\n" + bytes(200_000),
    ],
)
def test_answers_that_break_the_protocol_are_errors_of_ours(answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(answer)

    with server(serve) as url:
        error = asked(url)
    assert error.kind != "internal"


@pytest.mark.parametrize("size", [b"-1", b"0"])
def test_no_more_is_received_than_an_answer_may_have(size: bytes) -> None:
    sent = 0

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n")
        while sent < 100_000_000:
            connection.sendall(b"x: y\r\n" * 10_000)
            sent += 60_000

    with server(serve) as url:
        error = asked(url)
    assert (type(error), error.kind) == (SourceUnavailableError, "connection_lost")
    assert sent < 20_000_000  # what is more than the limit is in the buffers of the system


def test_an_answer_in_chunks_is_read() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(
            b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n1\r\n!\r\n0\r\n\r\n"
        )

    with server(serve) as url:
        error = asked(url)
    assert (error.kind, "no!" in error.message) == ("forbidden", True)


@pytest.mark.parametrize(
    "drip",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n",
    ],
)
def test_answers_that_never_end_are_cut_off(drip: bytes) -> None:
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(drip)
        piece = drip if b"100" in drip else b"a: b\r\n" if b"chunked" in drip else b"x"
        while not ended.wait(0.05):
            connection.sendall(piece)

    with server(serve) as url:
        error = asked(url, attempt_seconds=0.6)
        ended.set()
    assert (type(error), error.kind) == (SourceUnavailableError, "timeout")


def test_a_node_that_answers_a_large_request_early_is_heard() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large")

    with server(serve) as url:
        error = asked(url, bytes(30_000_000))
    assert (type(error), error.kind) == (RejectedError, "message_too_large")
