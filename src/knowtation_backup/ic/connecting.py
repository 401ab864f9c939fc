"""
Making connections whose waiting can be interrupted: TCP and, where asked for, TLS.

The usual calls wait in the operating system for as long as the whole timeout; here the thread looks at its guard four
times a second.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final

import httpx

from .._transport import Guard

__all__ = ["connect"]

_SLICE_SECONDS: Final = 0.25


def connect(
    place: tuple[str, int],
    *,
    tls: tuple[ssl.SSLContext, str] | None,
    guard: Guard,
    timeout_seconds: float,
) -> socket.socket:
    """
    Return a connected socket.

    Args:
        place: Host, without brackets, and port.
        tls: Context, and the name that the other side must prove to have; `None` for plain TCP.
        guard: Looked at while waiting.
        timeout_seconds: For connection and handshake together; looking up the name is not interrupted.

    Raises:
        httpx.ConnectTimeout: It took too long.
        httpx.ConnectError: It cannot be made, or the other side cannot be trusted; the cause says which.
        OperationCancelledError: The guard's operation was cancelled.
    """
    deadline = min(guard.clock() + timeout_seconds, guard.deadline)

    def left(share: int = 1) -> Callable[[], float]:
        """Return what tells how long to wait at most before looking again, until a *share* of the time is over."""
        now = guard.clock()
        return functools.partial(seconds_until, now + (deadline - now) / share)

    def seconds_until(end: float) -> float:
        guard.cancellation.check()
        seconds = end - guard.clock()
        if seconds <= 0:
            raise TimeoutError("the connection was not made in time")
        return min(seconds, _SLICE_SECONDS)

    try:
        sock = _connected(place, left)
        return sock if tls is None else _secured(sock, tls, left())
    except TimeoutError as error:
        raise httpx.ConnectTimeout("the connection was not made in time") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error


def _connected(place: tuple[str, int], left: Callable[[int], Callable[[], float]]) -> socket.socket:
    left(1)()
    failure: OSError | None = None
    found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            # A host may have addresses that lead nowhere from here: time is left for the others.
            _connect_one(sock, address, left(len(found) - number))
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError("the name has no address")


def _connect_one(sock: socket.socket, address: object, left: Callable[[], float]) -> None:
    sock.settimeout(0)
    try:
        sock.connect(address)  # type: ignore[arg-type] # as getaddrinfo gave it
    except (BlockingIOError, InterruptedError):
        while not _ready(sock, select.POLLOUT, left()):
            pass
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _secured(sock: socket.socket, tls: tuple[ssl.SSLContext, str], left: Callable[[], float]) -> socket.socket:
    context, name = tls
    try:
        secured = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        while (wanted := _handshake(secured)) is not None:
            _ready(secured, wanted, left())  # outside the handler: time that ran out is no failure of TLS
    except BaseException:
        secured.close()
        raise
    return secured


def _handshake(sock: ssl.SSLSocket) -> int | None:
    """Go on with a handshake; returns what it waits for, `None` when it is done."""
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return select.POLLIN
    except ssl.SSLWantWriteError:
        return select.POLLOUT
    return None


def _ready(sock: socket.socket, event: int, seconds: float) -> bool:
    poll = select.poll()  # not select(): its descriptors end at 1024
    poll.register(sock, event)
    return bool(poll.poll(seconds * 1000))
