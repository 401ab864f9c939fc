"""What the parts of a hub client share: its settings, and the connections of all clients of one hub."""

from __future__ import annotations

import threading
from collections.abc import Callable

import attrs
import httpx

from .._engine.retrying import RetryPolicy
from ..contracts import Clock
from .address import HubAddress
from .limits import HubLimits, HubTimeouts

__all__ = ["Settings", "Wire"]


@attrs.define(kw_only=True, eq=False)
class Wire:
    """What all clients of one hub share: connections, and which host turned out to be right."""

    given: HubAddress
    address: HubAddress
    """At first the given one, the raw host once the verifying gateway refused."""
    transport: httpx.BaseTransport
    second: httpx.BaseTransport
    """Other connections, for reading the same thing twice independently."""
    owned: bool
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def close(self) -> None:
        """Close the connections, unless they were given."""
        if self.owned:
            self.transport.close()
            self.second.close()


@attrs.frozen(kw_only=True)
class Settings:
    """What a client was made with."""

    operator_key: str | None = attrs.field(repr=False)
    gateway_secret: str | None = attrs.field(repr=False)
    timeouts: HubTimeouts
    limits: HubLimits
    retry: RetryPolicy
    sleep: Callable[[float], None] | None
    random: Callable[[], float]
    monotonic: Callable[[], float]
    clock: Clock

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may repeat."""
        return tuple(secret for secret in (self.operator_key, self.gateway_secret) if secret)
