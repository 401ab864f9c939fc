"""
Kept connections for large answers: HTTP/1.1 straight into one buffer per answer.

A snapshot is thousands of answers of 2 MB, a hundred of them under way at once. The general client takes each apart in
pieces of 64 KiB that are copied three times, which costs Python more time than verifying them. Here the standard
library parses the head of an answer, and the body is received by the operating system into the buffer that everything
after it only looks at.

Waiting is cut into slices between which the thread looks at its `Guard`, as in the general transport. A thread may hold
an `Admission`: then it waits, before it makes room for a large body, until there are few enough of them in memory.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import http.client
import io
import itertools
import math
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import attrs
import httpx

from .._engine.cancellation import Cancellation
from .._transport import GUARD, Guard
from .connecting import connect

__all__ = ["Admission", "LargeAnswers", "WholeBody", "is_unused"]

_SLICE_SECONDS: Final = 0.25
_KEPT_SECONDS: Final = 30.0
"""Boundary nodes close idle connections after a minute or so."""
_PIECE_BYTES: Final = 1 << 16
_SMALL_BYTES: Final = 1 << 16
"""Bodies up to this size need no admission."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_held = threading.local()


class Admission:
    """
    Bounds how many large answers are in memory at once.

    A thread that works inside `one_answer` takes a place when the head of its next large answer has arrived, and gives
    it back when it leaves the block: all that waits meanwhile waits in the operating system. Those that wait are let in
    by their *turn*, so that who consumes answers in order does not wait for the first one at the end.
    """

    def __init__(self, places: int) -> None:
        self._lock = threading.Lock()
        self._free = places
        self._buffers: list[bytearray] = []
        self._waiting: list[tuple[int, int, threading.Lock]] = []
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def one_answer(self, turn: int = 0) -> Iterator[None]:
        """Let this thread take at most one place until the end of the block."""
        _held.admission, _held.taken, _held.turn, _held.buffer = self, False, turn, None
        try:
            yield
        finally:
            _held.admission = None
            self.leave(reuse=True)

    def leave(self, *, reuse: bool = False) -> None:
        """
        Give back the place that this thread holds, if it does: its answer is no longer needed.

        Args:
            reuse: Whether its memory may serve another answer; that nobody looks at it any more is checked.
        """
        if getattr(_held, "taken", False):
            _held.taken = False
            buffer, _held.buffer = _held.buffer, None
            if reuse and buffer is not None and is_unused(buffer):
                self._buffers.append(buffer)
            self._give_back()

    def buffer(self, size: int) -> bytearray:
        """
        Return memory for an answer of the thread that has a place.

        That of an earlier answer is used again, for new memory costs the system as much as receiving into it; but only
        if nobody refers to it any more.
        """
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(size)
        else:
            if len(buffer) < size:
                buffer.extend(bytes(size - len(buffer)))
            del buffer[size:]
        _held.buffer = buffer
        return buffer

    def enter(self, guard: Guard) -> None:
        """Wait for a place, unless this thread has one already."""
        if _held.taken:
            return
        with self._lock:
            if self._free:
                self._free -= 1
                _held.taken = True
                return
            called = threading.Lock()
            called.acquire()
            entry = (_held.turn, next(self._numbers), called)
            heapq.heappush(self._waiting, entry)
        try:
            while not called.acquire(timeout=_SLICE_SECONDS):
                _look(guard)
        except BaseException:
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                    heapq.heapify(self._waiting)
                    raise
            self._give_back()  # the place was handed over just now
            raise
        _held.taken = True

    def _give_back(self) -> None:
        with self._lock:
            if self._waiting:
                heapq.heappop(self._waiting)[2].release()
            else:
                self._free += 1


def is_unused(buffer: bytearray) -> bool:
    """Whether there are no views of it, and it is not empty: Python refuses to resize what somebody looks at."""
    try:
        buffer.append(buffer.pop())  # shorter first: growing would move it to other memory
    except (BufferError, IndexError):
        return False
    return True


def _look(guard: Guard) -> float:
    """Return how long to wait at most before looking again; raises when there is no reason to go on."""
    guard.cancellation.check()
    left = guard.remaining_seconds
    if left <= 0:
        raise httpx.ReadTimeout("the reply did not arrive in time")
    return min(left, _SLICE_SECONDS)


@attrs.define(eq=False)
class _Connection:
    """One socket; looks like a socket to `http.client.HTTPResponse`."""

    sock: socket.socket
    used_at: float = 0.0
    guard: Guard = attrs.field(factory=lambda: Guard(cancellation=Cancellation(), deadline=0.0))
    silence_seconds: float = 60.0
    left_bytes: float = math.inf
    """How much more may arrive for this answer: the sizes it announces may be lies."""

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(cast("Any", _Incoming(self)))

    def send(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            self.sock.settimeout(_look(self.guard))
            try:
                sent = self.sock.send(rest)
            except TimeoutError:
                continue
            rest = rest[sent:]

    def is_usable(self, now: float) -> bool:
        """Whether it is still open and silent; anything to read now is the end of it."""
        if now - self.used_at > _KEPT_SECONDS:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


class _Incoming(io.RawIOBase):
    """What a connection receives."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        connection = self._connection
        guard = connection.guard
        silent_until = guard.clock() + connection.silence_seconds
        while True:
            connection.sock.settimeout(_look(guard))
            try:
                got = connection.sock.recv_into(buffer)
            except TimeoutError:
                if guard.clock() >= silent_until:
                    raise httpx.ReadTimeout("the reply did not arrive in time") from None
                continue
            connection.left_bytes -= got
            if connection.left_bytes < 0:
                raise httpx.RemoteProtocolError("the answer does not end")
            return got


class WholeBody(httpx.SyncByteStream):
    """The body of an answer, for `read_whole` or, as every stream, in pieces."""

    def __init__(self, answer: http.client.HTTPResponse, connection: _Connection, keep: Callable[[], None]) -> None:
        self._answer = answer
        self._connection = connection
        self._keep = keep

    def read_whole(self, limit_bytes: int) -> bytes | bytearray | None:
        """
        Return the whole body, received into one buffer; `None` when it is larger than *limit_bytes*.

        Raises:
            httpx.TransportError: It ended early, or did not arrive in time.
        """
        size = self._answer.length
        self._connection.left_bytes = 2 * limit_bytes + _PIECE_BYTES
        if size is None:  # chunked, or as long as the connection lasts
            parts = io.BytesIO()
            for part in self:
                parts.write(part)
                if parts.tell() > limit_bytes:
                    return None
            return parts.getvalue()
        if size > limit_bytes:
            return None
        admission: Admission | None = getattr(_held, "admission", None)
        if admission is not None and size > _SMALL_BYTES:
            admission.enter(self._connection.guard)
            body = admission.buffer(size)
        else:
            body = bytearray(size)
        with _as_httpx():
            got = self._answer.readinto(body) if size else 0
        if got != size:
            message = f"the connection was closed after {got} of {size} bytes"
            raise httpx.RemoteProtocolError(message)
        return body

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with _as_httpx():
                part = self._answer.read(_PIECE_BYTES)
            if not part:
                if self._answer.length:
                    raise httpx.RemoteProtocolError(f"the connection was closed {self._answer.length} bytes early")
                return
            yield part

    def close(self) -> None:
        """Keep the connection when everything was read and both sides go on; close it otherwise."""
        if self._answer.isclosed() and not self._answer.will_close:
            self._keep()
        else:
            self._connection.close()
        with contextlib.suppress(OSError, ValueError):
            self._answer.close()


class LargeAnswers(httpx.BaseTransport):
    """
    An httpx transport over plain HTTP/1.1 connections, as many as there are threads. Thread-safe.

    Requests must carry a `Guard`. Nothing is repeated here: whoever sends a request knows whether it may be.
    """

    def __init__(self, *, ssl_context: ssl.SSLContext | None) -> None:
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], collections.deque[_Connection]] = {}
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request and return its answer as soon as the head has arrived."""
        guard: Guard = request.extensions[GUARD]
        timeouts: dict[str, float] = request.extensions.get("timeout", {})
        url = request.url
        place = (url.scheme, url.host, url.port or _DEFAULT_PORTS[url.scheme])
        connection = self._kept(place) or self._connected(place, guard, timeouts.get("connect", 10.0))
        connection.guard = guard
        connection.silence_seconds = timeouts.get("read", 60.0)
        connection.left_bytes = math.inf  # of the head, which the parser bounds
        try:
            with _as_httpx():
                cut = _sent(connection, _head(request), list(cast("Any", request.stream)))
                answer = http.client.HTTPResponse(cast("Any", connection), method=request.method)
                try:
                    answer.begin()
                except (OSError, http.client.HTTPException) as error:
                    raise (cut or error) from None
                if cut is not None:
                    answer.will_close = True
        except BaseException:
            connection.close()
            raise
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.getheaders()]
        stream = WholeBody(answer, connection, lambda: self._keep(place, connection))
        return httpx.Response(status_code=answer.status, headers=headers, stream=stream)

    def close(self) -> None:
        """Close all connections that nobody uses; the others close when their answer has been read."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _kept(self, place: tuple[str, str, int]) -> _Connection | None:
        now = time.monotonic()
        while True:
            with self._lock:
                connections = self._idle.get(place)
                if not connections:
                    return None
                connection = connections.pop()
            if connection.is_usable(now):
                return connection
            connection.close()

    def _keep(self, place: tuple[str, str, int], connection: _Connection) -> None:
        connection.used_at = time.monotonic()
        with self._lock:
            if not self._closed:
                self._idle.setdefault(place, collections.deque()).append(connection)
                return
        connection.close()

    def _connected(self, place: tuple[str, str, int], guard: Guard, timeout_seconds: float) -> _Connection:
        scheme, host, port = place
        target = host.strip("[]")
        if host == "localhost" or host.endswith(".localhost"):
            target = "127.0.0.1"  # RFC 6761, section 6.3; few resolvers know the names below localhost
        context = (self._ssl_context or httpx.create_ssl_context()) if scheme == "https" else None
        sock = connect(
            (target, port),
            tls=None if context is None else (context, host.strip("[]")),
            guard=guard,
            timeout_seconds=timeout_seconds,
        )
        return _Connection(sock)


def _sent(connection: _Connection, head: bytes, body: list[bytes | memoryview]) -> OSError | None:
    """
    Send a request; returns the error when the other side stopped listening.

    Nodes that are busy answer a large request before it is complete, and hang up. Their answer says why.
    """
    try:
        small = head
        for part in body:
            if len(part) > _SMALL_BYTES:
                connection.send(small)
                connection.send(part)
                small = b""
            else:
                small += part
        if small:
            connection.send(small)
    except ConnectionError as error:
        return error
    return None


def _head(request: httpx.Request) -> bytes:
    target = request.url.raw_path
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), target)]
    lines += [b"%s: %s" % pair for pair in request.headers.raw]
    if any(byte in line for line in lines for byte in (b"\r", b"\n", b"\0")):
        raise httpx.LocalProtocolError("a header holds a line break")
    return b"\r\n".join(lines) + b"\r\n\r\n"


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise what the standard library reports as errors of httpx."""
    try:
        yield
    except httpx.TransportError:
        raise
    except (http.client.HTTPException, ValueError, OverflowError) as error:  # sizes that are no sizes
        raise httpx.RemoteProtocolError(type(error).__name__) from error
    except OSError as error:
        raise httpx.ReadError(str(error)) from error
