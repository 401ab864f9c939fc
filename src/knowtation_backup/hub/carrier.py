"""
Another way to a hub than plain HTTP: whoever can carry a request to the canister itself.

The client keeps its routes, retries, limits and names of failures; only what lies between request and reply differs.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from .._engine.cancellation import Cancellation
from .failures import HubReply

__all__ = ["HubCarrier", "HubRequest"]


@attrs.frozen(kw_only=True)
class HubRequest:
    """One read to be carried."""

    route: str
    """The endpoint without ids or paths, for messages."""
    target: str
    """Path and query."""
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    """Names in lower case; values may be secrets."""
    timeout_seconds: float
    cancellation: Cancellation = attrs.field(repr=False)


class HubCarrier(Protocol):
    """Carries requests, from several threads at once."""

    def carry(self, request: HubRequest) -> HubReply:
        """
        Return the reply, whatever its status.

        Raises:
            BackupError: There is none; the client repeats those whose class is ``retryable``.
        """
