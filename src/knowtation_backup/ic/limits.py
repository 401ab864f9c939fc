"""How long to wait for the network and how much to accept from it: bounds against slow and hostile answers."""

from __future__ import annotations

import attrs

from .._checks import above, at_least

__all__ = ["AgentLimits", "AgentTimeouts"]


@attrs.frozen(kw_only=True)
class AgentTimeouts:
    """
    How long an agent waits.

    ``read_seconds`` bounds the silence between two pieces of an answer, ``attempt_seconds`` one HTTP request, and
    ``call_seconds`` and ``query_seconds`` everything done for one call or one query, waiting included.
    """

    connect_seconds: float = attrs.field(default=10.0, validator=above(0))
    read_seconds: float = attrs.field(default=60.0, validator=above(0))
    attempt_seconds: float = attrs.field(default=120.0, validator=above(0))
    """The nodes of the network answer a call after 10 s at the latest, and cut requests off after 120 s."""
    call_seconds: float = attrs.field(default=360.0, validator=above(0))
    """More than a call can live (four minutes), so that its end can still be proved."""
    query_seconds: float = attrs.field(default=120.0, validator=above(0))
    first_poll_seconds: float = attrs.field(default=0.5, validator=above(0))
    """Wait before the outcome of an accepted call is asked for; each further one is 1.4 times as long."""
    max_poll_seconds: float = attrs.field(default=2.0, validator=above(0))


@attrs.frozen(kw_only=True)
class AgentLimits:
    """How much is accepted from the network before it is taken for broken or hostile."""

    reply_bytes: int = attrs.field(default=5 * 1024 * 1024, validator=above(0))
    """Largest body of one answer: a reply holds at most 3 MiB, the rest is its certificate and margin."""
    key_cache_seconds: float = attrs.field(default=300.0, validator=at_least(0))
    """How long the keys of a subnet's nodes are used before they are read again."""
