"""Kept connections: whole bodies, bounds, cancellation, and how many large answers are in memory."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._transport import GUARD, Guard
from knowtation_backup.errors import OperationCancelledError
from knowtation_backup.ic.addresses import NodeAddress
from knowtation_backup.ic.connecting import connect
from knowtation_backup.ic.connections import Admission, LargeAnswers, WholeBody, is_unused
from knowtation_backup.ic.limits import AgentLimits, AgentTimeouts
from knowtation_backup.ic.sending import Sender, Waiting

LARGE = 300_000


class Handler(BaseHTTPRequestHandler):
    """Answers by path; says on which connection."""

    protocol_version = "HTTP/1.1"
    ports: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.ports.append(self.client_address[1])
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for part in (b"abc", b"defg"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/cut":
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            self.close_connection = True
            return
        if self.path == "/close":
            self.send_header("connection", "close")
        data = body * (LARGE // len(body)) if self.path == "/large" else body
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.ports = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def transport() -> Iterator[LargeAnswers]:
    made = LargeAnswers(ssl_context=None)
    yield made
    made.close()


def ask(
    transport: LargeAnswers,
    url: str,
    body: bytes = b"hello",
    *,
    cancellation: Cancellation | None = None,
    **timeouts: float,
) -> httpx.Response:
    guard = Guard(cancellation=cancellation or Cancellation(), deadline=time.monotonic() + 30)
    timeout = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0} | timeouts
    return transport.handle_request(
        httpx.Request("POST", url, content=body, extensions={GUARD: guard, "timeout": timeout})
    )


def whole(response: httpx.Response, limit: int = 1 << 20) -> Any:
    assert isinstance(response.stream, WholeBody)
    try:
        return response.stream.read_whole(limit)
    finally:
        response.close()


def test_a_request_in_parts_arrives_in_one(server: str) -> None:
    sender = Sender(NodeAddress.parse(server), timeouts=AgentTimeouts(), limits=AgentLimits())
    waiting = Waiting(cancellation=Cancellation(), deadline=time.monotonic() + 30)
    parts: list[bytes | memoryview] = [
        b"head",
        memoryview(bytearray(b"x" * LARGE)),
        b"between",
        memoryview(b"y" * LARGE),
    ]
    try:
        for _ in range(2):
            answer = sender.post("/same", parts, route="a test", waiting=waiting)
            assert (answer.status, bytes(answer.body)) == (200, b"".join(parts))
    finally:
        sender.close()
    assert len(set(Handler.ports)) == 1


def test_memory_is_unused_when_nobody_looks_at_it() -> None:
    memory = bytearray(b"abc")
    view = memoryview(memory)[:2]
    assert not is_unused(memory)
    view.release()
    assert is_unused(memory)
    assert memory == b"abc"
    assert not is_unused(bytearray())


def test_a_connection_is_used_again(transport: LargeAnswers, server: str) -> None:
    for number in range(5):
        assert whole(ask(transport, server + "/x", b"%d" % number)) == b"%d" % number
    assert len(set(Handler.ports)) == 1


def test_a_connection_that_was_not_read_to_its_end_is_not_used_again(transport: LargeAnswers, server: str) -> None:
    ask(transport, server + "/large").close()
    assert whole(ask(transport, server + "/x")) == b"hello"
    assert len(set(Handler.ports)) == 2


def test_neither_is_one_that_the_other_side_closes(transport: LargeAnswers, server: str) -> None:
    assert whole(ask(transport, server + "/close")) == b"hello"
    assert whole(ask(transport, server + "/x")) == b"hello"
    assert len(set(Handler.ports)) == 2


def test_bodies_arrive_whole_in_every_form(transport: LargeAnswers, server: str) -> None:
    assert whole(ask(transport, server + "/chunked")) == b"abcdefg"
    assert whole(ask(transport, server + "/large", b"ab")) == b"ab" * (LARGE // 2)
    response = ask(transport, server + "/large", b"ab")
    assert isinstance(response.stream, httpx.SyncByteStream)
    assert b"".join(response.stream) == b"ab" * (LARGE // 2)
    response.close()
    large = b"z" * 500_000
    assert whole(ask(transport, server + "/x", large)) == large


def test_a_body_above_the_limit_is_not_received(transport: LargeAnswers, server: str) -> None:
    assert whole(ask(transport, server + "/large"), limit=1000) is None
    assert whole(ask(transport, server + "/chunked"), limit=3) is None


def test_a_cut_body_is_an_error(transport: LargeAnswers, server: str) -> None:
    with pytest.raises(httpx.TransportError):
        whole(ask(transport, server + "/cut"))


def test_nobody_there_is_a_connect_error(transport: LargeAnswers) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(httpx.ConnectError):
        ask(transport, f"http://127.0.0.1:{port}/")


def test_a_header_cannot_smuggle_a_line(transport: LargeAnswers, server: str) -> None:
    request = httpx.Request("POST", server + "/x", content=b"x", headers={"a": "b\r\nc: d"})
    request.extensions = {GUARD: Guard(cancellation=Cancellation(), deadline=time.monotonic() + 30)}
    with pytest.raises(httpx.LocalProtocolError):
        transport.handle_request(request)


def test_silence_ends_when_it_is_cancelled_or_lasts_too_long(transport: LargeAnswers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(httpx.ReadTimeout):
            ask(transport, url, read=0.01)
        cancellation = Cancellation()
        threading.Timer(0.05, cancellation.cancel).start()
        with pytest.raises(OperationCancelledError):
            ask(transport, url, cancellation=cancellation)


def test_what_is_no_http_is_an_error(transport: LargeAnswers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"no protocol\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(httpx.RemoteProtocolError):
            ask(transport, f"http://127.0.0.1:{listening.getsockname()[1]}/")
        thread.join()


def test_only_so_many_large_answers_are_let_in_and_by_their_turn() -> None:
    admission = Admission(1)
    guard = Guard(cancellation=Cancellation(), deadline=time.monotonic() + 30)
    order: list[int] = []
    waiting = threading.Semaphore(0)

    def wait(turn: int) -> None:
        with admission.one_answer(turn):
            waiting.release()
            admission.enter(guard)
            order.append(turn)

    with admission.one_answer():
        admission.enter(guard)
        admission.enter(guard)  # a place once held is enough
        threads = [threading.Thread(target=wait, args=(turn,)) for turn in (3, 1, 2)]
        for thread in threads:
            thread.start()
        while len(admission._waiting) < len(threads):
            waiting.acquire(timeout=0.01)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [1, 2, 3]
    assert admission._free == 1


def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    admission = Admission(1)
    cancellation = Cancellation()
    cancellation.cancel()
    refused: list[BaseException] = []

    def wait() -> None:
        guard = Guard(cancellation=cancellation, deadline=time.monotonic() + 30)
        try:
            with admission.one_answer():
                admission.enter(guard)
        except OperationCancelledError as error:
            refused.append(error)

    with admission.one_answer():
        admission.enter(Guard(cancellation=Cancellation(), deadline=time.monotonic() + 30))
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
        assert len(refused) == 1
        assert admission._waiting == []
    assert admission._free == 1


def test_memory_is_used_again_once_nobody_looks_at_it() -> None:
    admission = Admission(2)
    guard = Guard(cancellation=Cancellation(), deadline=time.monotonic() + 30)
    with admission.one_answer():
        admission.enter(guard)
        first = admission.buffer(1000)
        view = memoryview(first)
    with admission.one_answer():
        admission.enter(guard)
        second = admission.buffer(1000)
        assert second is not first
    with admission.one_answer():
        admission.enter(guard)
        third = admission.buffer(700)
        assert third is second
        assert len(third) == 700
    with admission.one_answer():
        admission.enter(guard)
        assert len(admission.buffer(1500)) == 1500
        admission.leave()
    assert admission._buffers == []
    assert view.obj is first


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    # As of hosts with two kinds of addresses, of which one leads nowhere.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as silent,
        socket.create_server(("127.0.0.1", 0)) as listening,
        contextlib.ExitStack() as filling,
    ):
        places = [silent.getsockname(), listening.getsockname()]
        for _ in range(4):  # its queue is full: further connections are not answered
            filler = filling.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(places[0])
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: found)
        guard = Guard(cancellation=Cancellation(), deadline=time.monotonic() + 60)
        with connect(("dual.example", 1), tls=None, guard=guard, timeout_seconds=1) as connected:
            assert connected.getpeername() == places[1]
        found.reverse()
        del found[0]
        with pytest.raises(httpx.ConnectTimeout):
            connect(("dual.example", 1), tls=None, guard=guard, timeout_seconds=0.1)
