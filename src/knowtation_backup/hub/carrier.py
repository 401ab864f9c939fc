"""
Another way to a hub than plain HTTP: whoever can carry a request to the canister itself.

The client keeps its routes, limits and names of failures. What lies between request and reply differs, and repeating it
is part of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from .._engine.cancellation import Cancellation
from ..errors import BackupError
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
    on_retry: Callable[[BackupError], None] = attrs.field(repr=False)
    """Told each failure that the carrier means to wait out; raises it when the run has had enough of them."""


class HubCarrier(Protocol):
    """Carries requests, from several threads at once, and repeats them as it sees fit."""

    def carry(self, request: HubRequest) -> HubReply:
        """
        Return the reply, whatever its status.

        Raises:
            BackupError: There is none, and none is to be had.
        """
