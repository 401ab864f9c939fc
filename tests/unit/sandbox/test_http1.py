"""HTTP/1.1 over a socket pair: what is read, what is refused, and what is sent."""

import socket
import threading
from collections.abc import Iterator

import pytest

from knowtation_backup.sandbox.protocol.exchange import HttpReply
from knowtation_backup.sandbox.protocol.http1 import BadRequestError, Incoming, RequestReader, send

LIMIT = 300_000


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Client and server end of a connection."""
    client, server = socket.socketpair()
    with client, server:
        yield client, server


def read(data: bytes, *, end: bool = True) -> list[Incoming]:
    """Return the requests in *data*, sent as one piece and then byte by byte, which must be the same."""
    results = []
    for step in (len(data) or 1, 1) if len(data) < 1000 else (len(data), 70_001):
        client, server = socket.socketpair()
        with client, server:

            def feed(client: socket.socket = client, step: int = step) -> None:
                for start in range(0, len(data), step):
                    client.sendall(data[start : start + step])
                if end:
                    client.shutdown(socket.SHUT_WR)

            feeder = threading.Thread(target=feed)
            feeder.start()
            reader = RequestReader(server, max_body_bytes=LIMIT)
            found = []
            try:
                while (incoming := reader.read()) is not None:
                    found.append(incoming)
            finally:
                server.close()
                feeder.join()
            results.append(found)
    assert results[0] == results[1]
    return results[0]


def test_several_requests_on_one_connection() -> None:
    first, second, third = read(
        b"GET /a%20b?x=1?y HTTP/1.1\r\nHost: h\r\nX-Two:  spaced \r\nx-two: again\r\n\r\n"
        b"\r\nPOST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"
        b"GET http://h:1/p HTTP/1.1\nconnection: close\n\n"
    )
    assert (first.request.method, first.request.path, first.request.query) == ("GET", "/a%20b", "x=1?y")
    assert first.request.headers == (("host", "h"), ("x-two", "spaced"), ("x-two", "again"))
    assert (second.request.method, second.request.body) == ("POST", b"abc")
    assert third.request.path == "/p"
    assert [item.keep_alive for item in (first, second, third)] == [True, True, False]


def test_old_versions_close_unless_asked() -> None:
    first, second = read(b"GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
    assert (first.keep_alive, second.keep_alive) == (False, True)


def test_large_and_chunked_bodies() -> None:
    body = bytes(range(256)) * 1000
    sized = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    pieces = b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in (body[:1], body[1:]))
    chunked = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\ntrailer: x\r\n\r\n"
    assert [item.request.body for item in read(sized + chunked + sized)] == [body] * 3


@pytest.mark.parametrize("chunked", [False, True])
def test_of_too_large_bodies_enough_is_kept_to_refuse_them(chunked: bool) -> None:  # noqa: FBT001
    body = bytes(2 * LIMIT)
    if chunked:
        head, sent = b"transfer-encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        head, sent = b"content-length: %d" % len(body), body
    first, second = read(b"POST / HTTP/1.1\r\n" + head + b"\r\n\r\n" + sent + b"GET /next HTTP/1.1\r\n\r\n")
    assert len(first.request.body) == LIMIT + 1
    assert second.request.path == "/next"


def test_who_waits_for_continue_gets_it(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
    answered = []

    def answer() -> None:
        answered.append(client.recv(100))
        client.sendall(b"ok")

    other = threading.Thread(target=answer)
    other.start()
    incoming = RequestReader(server, max_body_bytes=LIMIT).read()
    other.join()
    assert incoming is not None
    assert incoming.request.body == b"ok"
    assert answered == [b"HTTP/1.1 100 Continue\r\n\r\n"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET example HTTP/1.1\r\n\r\n", 400),
        (b"G(T / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nna me: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 10_000, 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
    ],
)
def test_malformed_requests_are_refused(data: bytes, status: int, pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(data)
    with pytest.raises(BadRequestError) as refused:
        RequestReader(server, max_body_bytes=LIMIT).read()
    assert refused.value.status == status


@pytest.mark.parametrize("data", [b"", b"GET / HT"])
def test_an_end_between_or_in_a_head_is_no_request(data: bytes) -> None:
    assert read(data) == []


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
def test_an_end_within_a_body_is_an_error(data: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        read(data)


def sent(pair: tuple[socket.socket, socket.socket], reply: HttpReply, **options: bool | float) -> bytes:
    """Return what `send` puts on the wire."""
    client, server = pair

    def work() -> None:
        send(server, reply, **options)  # type: ignore[arg-type]  # the options are those of send
        server.close()

    sender = threading.Thread(target=work)
    sender.start()
    data = b""
    while part := client.recv(1 << 20):
        data += part
    sender.join()
    return data


def test_replies(pair: tuple[socket.socket, socket.socket]) -> None:
    reply = HttpReply(status=200, headers=(("a", "b"), ("a", "c")), body=(b"one", b"two"))
    assert sent(pair, reply) == b"HTTP/1.1 200 OK\r\na: b\r\na: c\r\ncontent-length: 6\r\n\r\nonetwo"


@pytest.mark.parametrize(
    ("status", "options", "expected"),
    [
        (200, {"head_only": True}, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        (200, {"keep_alive": False}, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
        (200, {"keep": 0.5}, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no"),
        (204, {}, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (799, {}, b"HTTP/1.1 799 Unknown\r\ncontent-length: 2\r\n\r\nok"),
    ],
)
def test_forms_of_replies(
    pair: tuple[socket.socket, socket.socket], status: int, options: dict[str, bool | float], expected: bytes
) -> None:
    assert sent(pair, HttpReply(status=status, body=b"ok"), **options) == expected


def test_large_replies_arrive_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    parts = [bytes([number % 256]) * size for number, size in enumerate([1, 100_000, 5, 7, 3_000_000, 2] * 3)]
    data = sent(pair, HttpReply(status=200, body=parts))
    assert data.partition(b"\r\n\r\n")[2] == b"".join(parts)
