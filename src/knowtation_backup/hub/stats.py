"""Counting what a hub client sends, receives and repeats."""

from __future__ import annotations

import threading

import attrs

__all__ = ["HubStats", "Tally"]


@attrs.frozen(kw_only=True)
class HubStats:
    """What a client sent and received so far."""

    requests: int
    retries: int
    received_bytes: int
    retries_by_kind: dict[str, int]
    lowest_concurrency: int


@attrs.define(eq=False)
class Tally:
    """Counts requests of any thread."""

    requests: int = 0
    received_bytes: int = 0
    retries_by_kind: dict[str, int] = attrs.field(factory=dict)
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def request(self, received_bytes: int) -> None:
        """Count one request, answered or not."""
        with self.lock:
            self.requests += 1
            self.received_bytes += received_bytes

    def retry(self, kind: str) -> None:
        """Count one retry by the kind of its cause."""
        with self.lock:
            self.retries_by_kind[kind] = self.retries_by_kind.get(kind, 0) + 1

    def summary(self, *, lowest_concurrency: int) -> HubStats:
        """Return the counts so far."""
        with self.lock:
            return HubStats(
                requests=self.requests,
                retries=sum(self.retries_by_kind.values()),
                received_bytes=self.received_bytes,
                retries_by_kind=dict(sorted(self.retries_by_kind.items())),
                lowest_concurrency=lowest_concurrency,
            )
