"""
HTTP/1.1 on a blocking socket: requests in, replies out, as little as a server on loopback needs.

Heads are read whole and split once. A body is received straight into one bytes object when its length is announced;
chunked bodies are joined. Large replies leave in pieces, without being joined.

Source:
    RFC 9112; request targets in absolute form (section 3.2.2) are reduced to path and query.
"""

from __future__ import annotations

import functools
import http
import re
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Final

import attrs

from .exchange import HttpReply, HttpRequest

__all__ = ["BadRequestError", "Incoming", "RequestReader", "reset", "send"]

_MAX_HEAD_BYTES: Final = 64 * 1024
_MAX_CHUNK_LINE_BYTES: Final = 4096
_RECEIVE_BYTES: Final = 256 * 1024
_JOIN_BYTES: Final = 64 * 1024
"""Pieces up to this size are joined before they are sent: cheaper than one more piece."""
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_LENGTH: Final = re.compile(r"\d{1,18}")
_ABSOLUTE: Final = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


@attrs.frozen
class BadRequestError(Exception):
    """A request that cannot be read; answer with *status* and close the connection."""

    status: int
    text: str


@attrs.frozen
class Incoming:
    """A request, and whether its connection may serve another one."""

    request: HttpRequest
    keep_alive: bool


class RequestReader:
    """
    Reads one request after another from a connection.

    Args:
        connection: Blocking and without a timeout.
        max_body_bytes: Of longer bodies one byte more than this is kept, enough to refuse them; the rest is dropped.
    """

    def __init__(self, connection: socket.socket, *, max_body_bytes: int) -> None:
        self._connection = connection
        self._kept_bytes = max_body_bytes + 1
        self._encrypted = isinstance(connection, ssl.SSLSocket)
        self._buffer = b""

    def read(self) -> Incoming | None:
        """
        Return the next request, `None` when the peer has closed the connection.

        Raises:
            BadRequestError: What arrived is not an HTTP/1 request.
            OSError: The connection broke.
        """
        head = self._head()
        if head is None:
            return None
        lines = head.decode("utf-8", "surrogateescape").split("\n")
        method, target, version = _request_line(lines[0].rstrip("\r"))
        headers = tuple([_header(line) for line in lines[1:]])
        given = dict(headers)
        path, _, query = target.partition("?")
        options = given.get("connection", "").lower()
        request = HttpRequest(method=method, path=path, query=query, headers=headers, body=self._body(headers, given))
        keep_alive = "close" not in options if version == "HTTP/1.1" else "keep-alive" in options
        return Incoming(request, keep_alive)

    def _head(self) -> bytes | None:
        """Return request line and headers without the empty line, `None` at the end of the connection."""
        while True:
            # Empty lines before a request are to be ignored (RFC 9112, 2.2).
            buffer = self._buffer.lstrip(b"\r\n") if self._buffer[:1] in (b"\r", b"\n") else self._buffer
            found = _HEAD_END.search(buffer)
            if found is not None:
                self._buffer = buffer[found.end() :]
                return buffer[: found.start()]
            if len(buffer) > _MAX_HEAD_BYTES:
                raise BadRequestError(431, f"The request's head is larger than {_MAX_HEAD_BYTES} bytes.")
            received = self._connection.recv(_RECEIVE_BYTES)
            if not received:
                return None
            self._buffer = buffer + received

    def _body(self, headers: Sequence[tuple[str, str]], given: dict[str, str]) -> bytes:
        coding, length = given.get("transfer-encoding"), given.get("content-length")
        if coding is None and length is None:
            return b""
        if given.get("expect", "").lower() == "100-continue":
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise BadRequestError(400, f"Transfer-Encoding {coding!r} is not supported.")
            return self._chunked()
        if (
            length is None
            or not _LENGTH.fullmatch(length)
            or any(name == "content-length" and value != length for name, value in headers)
        ):
            raise BadRequestError(400, "Content-Length is not a number.")
        return self._sized(int(length))

    def _sized(self, size: int) -> bytes:
        kept = min(size, self._kept_bytes)
        body = self._exactly(kept)
        self._drop(size - kept)
        return body

    def _chunked(self) -> bytes:
        parts: list[bytes] = []
        kept = 0
        while True:
            line = _CHUNK_LINE.fullmatch(self._line())
            if line is None:
                raise BadRequestError(400, "The chunked body is malformed.")
            size = int(line[1], 16)
            if not size:
                break
            wanted = min(size, self._kept_bytes - kept)
            parts.append(self._exactly(wanted))
            kept += wanted
            self._drop(size - wanted)
            if self._line():
                raise BadRequestError(400, "A chunk is longer than announced.")
        while self._line():
            pass  # trailers mean nothing to anybody here
        return b"".join(parts)

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_CHUNK_LINE_BYTES:
                raise BadRequestError(400, "A line of the chunked body is too long.")
            self._buffer += self._receive(_RECEIVE_BYTES)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.removesuffix(b"\r")

    def _exactly(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        if len(self._buffer) >= size:
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        parts, self._buffer = [self._buffer] if self._buffer else [], b""
        missing = size - sum(map(len, parts))
        while missing:
            parts.append(self._receive(missing))
            missing -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _drop(self, size: int) -> None:
        while size:
            size -= len(self._exactly(min(size, _RECEIVE_BYTES)))

    def _receive(self, size: int) -> bytes:
        # All at once where the kernel can wait for it: the body then needs no joining.
        waiting = 0 if self._encrypted or size == _RECEIVE_BYTES else socket.MSG_WAITALL
        data = self._connection.recv(size, waiting)
        if not data:
            message = "the peer closed the connection within a request"
            raise ConnectionResetError(message)
        return data


def _request_line(line: str) -> tuple[str, str, str]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not _TOKEN.fullmatch(parts[0]):
        raise BadRequestError(400, "This is not an HTTP/1.1 request.")
    method, target, version = parts
    if not target.startswith("/"):
        found = _ABSOLUTE.match(target)
        if found is None:
            raise BadRequestError(400, "The request target is not a path.")
        target = target[found.end() :]
        target = target if target.startswith("/") else "/" + target
    return method, target, version


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        raise BadRequestError(400, "A header is malformed.")
    return name.lower(), value.strip(" \t\r")


@functools.lru_cache(maxsize=1000)
def _status_line(status: int) -> str:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n"


def send(
    connection: socket.socket, reply: HttpReply, *, head_only: bool = False, keep: float | None = None,
    keep_alive: bool = True,
) -> None:  # fmt: skip
    """
    Send *reply*.

    Args:
        connection: Blocking.
        reply: Its header names and values hold no line breaks.
        head_only: Answer to HEAD.
        keep: Send only this share of the body, though its whole length is announced.
        keep_alive: Whether the connection stays open.
    """
    size = reply.size_bytes
    bodiless = reply.status < 200 or reply.status in (204, 304)
    lines = [_status_line(reply.status), *[f"{name}: {value}\r\n" for name, value in reply.headers]]
    if not bodiless:
        lines.append(f"content-length: {size}\r\n")
    lines.append("\r\n" if keep_alive else "connection: close\r\n\r\n")
    head = "".join(lines).encode("utf-8", "surrogateescape")
    parts: Sequence[bytes] = () if head_only or bodiless else reply.parts
    if keep is not None and parts:
        parts = (reply.body[: int(size * keep)],)
    if size <= _JOIN_BYTES:
        connection.sendall(b"".join((head, *parts)))
    else:
        _send_pieces(connection, _pieces((head, *parts)))


def _pieces(parts: Sequence[bytes]) -> list[bytes]:
    """Join neighbouring small parts."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    for part in parts:
        if len(part) <= _JOIN_BYTES:
            small.append(part)
            continue
        if small:
            pieces.append(b"".join(small))
            small = []
        pieces.append(part)
    if small:
        pieces.append(b"".join(small))
    return pieces


def _send_pieces(connection: socket.socket, pieces: list[bytes]) -> None:
    if isinstance(connection, ssl.SSLSocket) or not hasattr(connection, "sendmsg"):
        for piece in pieces:
            connection.sendall(piece)
        return
    views = [memoryview(piece) for piece in pieces]
    while views:
        sent = connection.sendmsg(views[:64])
        while views and sent >= len(views[0]):
            sent -= len(views.pop(0))
        if views:
            views[0] = views[0][sent:]


def reset(connection: socket.socket) -> None:
    """Make the coming close a TCP reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
