"""
Pooled HTTP connections whose waiting can be interrupted.

The connections of ``httpcore`` wait in the operating system for as long as one read may take. Here every wait is cut
into short slices, and between slices the thread looks at its guard: was the run cancelled, is the time for the whole
attempt used up? This bounds servers that drip single bytes, headers included, and lets Ctrl-C end a run at once.

What goes wrong below the level of HTTP statuses gets its name here too, alike for every service that is asked.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
import httpcore
import httpx

from ._engine.cancellation import Cancellation
from .errors import BackupError, ConfigurationError, SourceError, SourceUnavailableError

__all__ = [
    "GUARD",
    "TRANSPORT_ERRORS",
    "TRANSPORT_HINTS",
    "Guard",
    "GuardedTransport",
    "excerpt",
    "is_this_machine",
    "retry_after_seconds",
    "transport_error",
]

GUARD = "knowtation_guard"
"""Name of the request extension that carries the `Guard`."""

TRANSPORT_ERRORS: Final = (
    httpx.TransportError,
    httpx.StreamError,
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    httpcore.ProxyError,
    OSError,
)
"""Everything a transport raises when a request fails below the level of HTTP statuses."""

TRANSPORT_HINTS: Final[Mapping[str, str]] = {
    "unreachable": "check the address, the network and that the service is running",
    "timeout": "try again later, or raise the timeouts if the service is known to be slow",
    "connection_lost": "try again later; check proxies between here and the service if it goes on",
    "tls": "check the host name and the certificate authorities of this machine; the check is never skipped",
}

_SLICE_SECONDS = 0.25
_KEEPALIVE_SECONDS = 30.0
_READ_BYTES = 1 << 20
"""Asked for at once: the 64 KiB of ``httpcore`` make a reply of 2 MB cost a quarter more processor time."""
_EXCERPT_CHARACTERS = 200
_CONNECT = (httpx.ConnectError, httpx.ConnectTimeout, httpcore.ConnectError, httpcore.ConnectTimeout)
_TLS_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_TIMEOUT = (httpx.TimeoutException, httpcore.TimeoutException)
_LOCAL = (
    httpx.LocalProtocolError,
    httpcore.LocalProtocolError,
    httpx.UnsupportedProtocol,
    httpcore.UnsupportedProtocol,
)


def is_this_machine(host: str) -> bool:
    """Tell whether *host* can only be this machine: the one place to which plain http may go."""
    if _is_local_name(host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local_name(host: str) -> bool:
    """Names under ``localhost`` are reserved for this machine (RFC 6761, section 6.3)."""
    return host == "localhost" or host.endswith(".localhost")


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

    It raises ``httpcore``'s exceptions; `transport_error` translates them together with those of httpx.
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
        if _is_local_name(host):
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
                return self._inner.read(max(max_bytes, _READ_BYTES), min(left, _SLICE_SECONDS))
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        guard: Guard | None = getattr(self._active, "guard", None)
        sock: socket.socket | None = self._inner.get_extra_info("socket")
        if guard is None or sock is None:
            self._inner.write(buffer, timeout)
            return
        # The stream below would not say how much of a large body was sent when its time is up, and copies what is left.
        rest = memoryview(buffer)
        waited_until = guard.clock() + (timeout if timeout is not None else guard.remaining_seconds)
        while rest:
            guard.cancellation.check()
            left = min(waited_until, guard.deadline) - guard.clock()
            if left <= 0:
                raise httpcore.WriteTimeout("the request could not be sent in time")
            try:
                sock.settimeout(min(left, _SLICE_SECONDS))
                sent = sock.send(rest)
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.WriteError(str(error)) from error
            rest = rest[sent:]
            if timeout is not None:
                waited_until = guard.clock() + timeout

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _GuardedStream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._active)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def transport_error(
    error: BaseException, *, route: str, host: str, hints: Mapping[str, str] = TRANSPORT_HINTS
) -> BackupError:
    """
    Return the error that a transport exception stands for; raise it outside the ``except`` block.

    The exception itself is dropped: it refers to the request, and that to headers with secrets.
    """
    refusal = _tls_refusal(error)
    if refusal is not None:
        return SourceError(
            f"no trustworthy TLS connection to {host}: {refusal}", kind="tls", hint=hints["tls"], route=route
        )
    if isinstance(error, _LOCAL):  # its text may quote a header
        return ConfigurationError(f"the request to {host} cannot be sent as HTTP", kind="not_sendable", route=route)
    if isinstance(error, _CONNECT):
        reason = _system_reason(error)
        return SourceUnavailableError(
            f"cannot connect to {host}{reason}", kind="unreachable", hint=hints["unreachable"], route=route
        )
    if isinstance(error, _TIMEOUT):
        return SourceUnavailableError(
            f"{host} did not answer {route} in time", kind="timeout", hint=hints["timeout"], route=route
        )
    return SourceUnavailableError(
        f"the connection to {host} broke during {route} ({type(error).__name__}{_system_reason(error)})",
        kind="connection_lost",
        hint=hints["connection_lost"],
        route=route,
    )


def retry_after_seconds(value: str, *, now: dt.datetime) -> float:
    """Return the seconds a ``Retry-After`` header asks for, 0 when it is absent, past, or unreadable."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - now).total_seconds())


def excerpt(body: bytes, secrets: Iterable[str] = ()) -> str:
    """Return the first characters of an answer, fit to be shown, with *secrets* blotted out."""
    text = body[: 4 * _EXCERPT_CHARACTERS + 4096].decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(text.split())[:_EXCERPT_CHARACTERS]
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _causes(error: BaseException) -> Iterable[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        current = current.__cause__ or current.__context__
    return seen


def _tls_refusal(error: BaseException) -> str | None:
    """Return why TLS failed for good, `None` when it did not; a connection cut during the handshake may pass."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, ssl.SSLError) and isinstance(error, _CONNECT) and not isinstance(cause, _TLS_CUT):
            return cause.reason or "the handshake failed"
    return None


def _system_reason(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return f": {cause.strerror}"
    return ""
