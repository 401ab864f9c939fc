"""How long to wait for a hub and how much to accept from it: bounds against slow and hostile answers."""

from __future__ import annotations

import attrs

from .._checks import above

__all__ = ["CALL_REPLY_LIMIT_BYTES", "QUERY_REPLY_LIMIT_BYTES", "HubLimits", "HubTimeouts"]

QUERY_REPLY_LIMIT_BYTES = 3 * 1024 * 1024
"""What a canister can return to a query (contracts 1.1); a vault whose export is larger cannot be read in one reply."""

CALL_REPLY_LIMIT_BYTES = 2 * 1024 * 1024
"""What it can return to a replicated call."""


@attrs.frozen(kw_only=True)
class HubTimeouts:
    """
    How long one attempt may take.

    ``read_seconds`` bounds the silence between two pieces of a reply, ``total_seconds`` the whole attempt, so that a
    server that sends one byte now and then cannot hold a thread for ever.
    """

    connect_seconds: float = attrs.field(default=10.0, validator=above(0))
    read_seconds: float = attrs.field(default=60.0, validator=above(0))
    total_seconds: float = attrs.field(default=180.0, validator=above(0))


@attrs.frozen(kw_only=True)
class HubLimits:
    """How much is accepted from a hub before it is taken for broken or hostile."""

    reply_bytes: int = attrs.field(default=4 * 1024 * 1024, validator=above(0))
    """Largest body of one reply; the network allows 3 MiB, the rest is margin for other gateways."""
    index_pages: int = attrs.field(default=50_000, validator=above(0))
    index_users: int = attrs.field(default=5_000_000, validator=above(0))
    empty_pages: int = attrs.field(default=20, validator=above(0))
    """Most index pages in a row that bring no new user."""
