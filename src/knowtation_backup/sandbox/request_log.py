"""The record of requests a network has seen, for tests that count them. Values of headers are not kept."""

from __future__ import annotations

import collections
import threading
from typing import Final

import attrs

from .protocol.exchange import HttpRequest
from .protocol.http_api import endpoint_kind

__all__ = ["RequestLog", "SeenRequest"]

_HARMLESS: Final = frozenset(
    {"host", "content-type", "content-length", "user-agent", "x-user-id", "x-vault-id", "range"}
)


@attrs.frozen(kw_only=True)
class SeenRequest:
    """One request: where it went and what became of it."""

    endpoint: str
    """``call``, ``query``, ``read_state``, ``status`` or ``gateway``."""
    method: str
    path: str
    query: str
    header_names: tuple[str, ...]
    headers: dict[str, str] = attrs.field(repr=False)
    """Values of a few headers that hold no secrets (host, content type, user and vault id)."""
    faults: tuple[str, ...]
    body_size_bytes: int


class RequestLog:
    """
    Requests in order of arrival, bounded, and counters that are not.

    Args:
        capacity: How many requests are remembered.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._lock = threading.Lock()
        self._entries: collections.deque[SeenRequest] = collections.deque(maxlen=capacity)
        self._counts: collections.Counter[str] = collections.Counter()
        self._in_flight = 0
        self._max_in_flight = 0

    def arrived(self, request: HttpRequest, faults: tuple[str, ...]) -> None:
        """Record a request at its arrival."""
        seen = SeenRequest(
            endpoint=endpoint_kind(request.path) or "gateway",
            method=request.method,
            path=request.path,
            query=request.query,
            header_names=tuple(name for name, _ in request.headers),
            headers={name: value for name, value in request.headers if name in _HARMLESS},
            faults=faults,
            body_size_bytes=len(request.body),
        )
        with self._lock:
            self._entries.append(seen)
            self._counts[seen.endpoint] += 1
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)

    def left(self) -> None:
        """Note that a recorded request has been answered or given up."""
        with self._lock:
            self._in_flight -= 1

    @property
    def entries(self) -> tuple[SeenRequest, ...]:
        """The remembered requests, oldest first."""
        with self._lock:
            return tuple(self._entries)

    @property
    def counts(self) -> dict[str, int]:
        """Requests by kind of endpoint, since the last `clear`."""
        with self._lock:
            return dict(self._counts)

    @property
    def total(self) -> int:
        """Requests since the last `clear`."""
        with self._lock:
            return self._counts.total()

    @property
    def max_in_flight(self) -> int:
        """The most requests that were under way at the same time, since the last `clear`."""
        with self._lock:
            return self._max_in_flight

    def clear(self) -> None:
        """Forget everything but what is under way."""
        with self._lock:
            self._entries.clear()
            self._counts.clear()
            self._max_in_flight = self._in_flight
