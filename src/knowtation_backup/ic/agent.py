"""
The network as one identity sees it: calls, queries and reads of the certified state, every answer verified.

There is no switch that turns verification off, and nothing falls back to an unverified way. A network other than
mainnet has a root key of its own, which is given; `fetch_root_key` reads it, for networks on this machine.

Events told to the observer:

=====================  =================================================================================
name                   fields
=====================  =================================================================================
``ic.retry``           ``method``, ``attempt`` (that failed), ``delay_seconds``, ``kind``
``ic.poll``            ``method``, ``attempt``, ``status`` of the call, or ``unknown``
``ic.endpoint``        ``kind`` of request, ``version`` used from now on: the network does not have the newer one
``ic.node_keys``       ``canister_id``, ``nodes``: how many keys were read, to verify the answers of queries
=====================  =================================================================================
"""

from __future__ import annotations

import random as _random
import ssl
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from .._engine.cancellation import Cancellation
from .._engine.retrying import RetryPolicy
from ..contracts import Clock, Observer, ignore_events, utc_now
from ..errors import ConfigurationError
from ..model.ids import Principal
from .addresses import MAINNET, NodeAddress
from .calls import CallRun
from .certificate import MAINNET_ROOT_KEY, Certificate
from .delegations import root_key_der
from .evidence import CertifiedReply
from .identity import AnonymousIdentity, Identity, identity_of
from .limits import AgentLimits, AgentTimeouts
from .link import Link, OnRetry
from .queries import NodeKeys, QueryRun
from .root_subnet import RootSubnet
from .sending import Sender, Waiting
from .status import NodeStatus, read_status
from .wire import Buffer

__all__ = ["Agent", "fetch_root_key"]

_ATTEMPTS = 8
"""About a minute of trying: nightly runs meet restarting routers."""


class Agent:
    """
    Asks one network as one identity. Thread-safe; use it as a context manager, or `close` it.

    Args:
        url: Of a replica or of API boundary nodes, without path; plain http for this machine only.
        identity: Who asks; the anonymous user when `None`. Identities of ic-py and icp-py-core do, too.
        root_key: Of the network, in DER form (133 bytes) or as 266 hexadecimal digits.
        timeouts: How long to wait.
        limits: How much to accept.
        retry: How often passing failures are repeated; a network that calls itself busy is waited for until the end of
            the time, with the same delays.
        ssl_context: For own certificate authorities; the default checks against certifi's.
        transport: Replaces the connections, for tests and proxies. The caller closes it.
        observer: Told about retries and polls.
        clock: The present moment, for the expiry of requests and the age of certificates.
        sleep: Replaces waiting between attempts; the default ends early when the operation is cancelled.
        random: Numbers in ``[0, 1)`` for jitter.
        monotonic: Seconds, for deadlines.

    Raises:
        ConfigurationError: The address or the root key cannot be used.
    """

    def __init__(  # noqa: PLR0913 - one argument per independent part, all optional
        self,
        url: str = MAINNET,
        *,
        identity: Identity | Any | None = None,
        root_key: bytes | str = MAINNET_ROOT_KEY,
        timeouts: AgentTimeouts | None = None,
        limits: AgentLimits | None = None,
        retry: RetryPolicy | None = None,
        ssl_context: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
        observer: Observer = ignore_events,
        clock: Clock = utc_now,
        sleep: Callable[[float], None] | None = None,
        random: Callable[[], float] = _random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeouts = timeouts or AgentTimeouts()
        self._limits = limits or AgentLimits()
        address = NodeAddress.parse(url)
        key = root_key_der(root_key)
        keep_seconds = self._limits.key_cache_seconds
        self._link = Link(
            sender=Sender(
                address, transport=transport, ssl_context=ssl_context, timeouts=self._timeouts, limits=self._limits
            ),
            identity=AnonymousIdentity() if identity is None else identity_of(identity),
            root_key=key,
            timeouts=self._timeouts,
            retry=retry or RetryPolicy(attempts=_ATTEMPTS),
            observer=observer,
            clock=clock,
            sleep=sleep,
            random=random,
            monotonic=monotonic,
            root_subnet=RootSubnet(key, monotonic=monotonic, keep_seconds=keep_seconds),
        )
        self._keys = NodeKeys(self._link, seconds=keep_seconds)

    @property
    def sender(self) -> Principal:
        """Who asks."""
        return self._link.identity.sender

    @property
    def root_key(self) -> bytes:
        """The key everything is verified with, in DER form."""
        return self._link.root_key

    @property
    def url(self) -> str:
        """Where the network is reached."""
        return str(self._link.sender.address)

    def close(self) -> None:
        """Close the connections."""
        self._link.sender.close()

    def __enter__(self) -> Self:
        """Return the agent itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def __repr__(self) -> str:
        return f"Agent({self.url!r}, sender={str(self.sender)!r})"

    def call(  # noqa: PLR0913 - the parts of a call
        self,
        canister_id: Principal,
        method: str,
        arg: Buffer | Sequence[Buffer],
        *,
        effective_canister_id: Principal | None = None,
        repeatable: bool = False,
        nonce: bytes | None = None,
        deadline_seconds: float | None = None,
        cancellation: Cancellation | None = None,
        on_retry: OnRetry | None = None,
    ) -> CertifiedReply:
        """
        Make an update call and return its certified reply.

        A lost answer is followed by the identical envelope, which the network executes once at most. Refusals for the
        pace only (heap delta, ingress history, HTTP 429 and 503) are waited out until the deadline.

        Args:
            canister_id: Whom to call.
            method: Its method.
            arg: Candid; several parts are sent as one.
            effective_canister_id: Where to route it: for management calls, the canister that they are about.
            repeatable: Whether executing it twice does no harm, as with reads. Then a fresh envelope is sent when the
                former one has expired, and no outcome is looked up after lost answers.
            nonce: Up to 32 bytes of the caller's that become part of the request, and so of what the network certifies;
                random when `None`. Calls alike in everything, expiry included, are one call to the network.
            deadline_seconds: For everything together; ``AgentTimeouts.call_seconds`` when `None`.
            cancellation: Ends the waiting, not the call.
            on_retry: Told each failure that is waited out; kinds ``overloaded`` and ``rate_limited`` ask for fewer
                calls at once.

        Raises:
            RejectedError: The network or the canister said no. ``certified`` tells whether a subnet signed that;
                ``error_code`` and ``reject_code`` are in the context. A refusal for the pace has kind ``rate_limited``.
            CertificateError: The answer does not verify. Not repeated; nothing of it is used.
            SourceUnavailableError: The network could not be reached, or stayed overloaded; the call did not run. Kind
                ``not_executed``: it was lost on the way, certainly, and may be made again.
            OutcomeUnknownError: It may have been executed. Kind ``reply_dropped``: it was, and the reply is gone.
            SourceError: Kind ``tls`` and answers that no node sends.
            OperationCancelledError: It was cancelled.
            ConfigurationError: A delegation of the identity has expired, or is not for this canister.

            Where the call may have run although the error is about something else, the context says
            ``may_have_run``.
        """
        return CallRun(
            link=self._link,
            canister_id=canister_id,
            effective_id=canister_id if effective_canister_id is None else effective_canister_id,
            method=method,
            arg=arg,
            repeatable=repeatable,
            waiting=self._waiting(deadline_seconds, self._timeouts.call_seconds, cancellation),
            on_retry=on_retry,
            nonce=nonce,
        ).run()

    def query(  # noqa: PLR0913 - the parts of a query
        self,
        canister_id: Principal,
        method: str,
        arg: Buffer | Sequence[Buffer],
        *,
        effective_canister_id: Principal | None = None,
        deadline_seconds: float | None = None,
        cancellation: Cancellation | None = None,
        on_retry: OnRetry | None = None,
    ) -> bytes:
        """
        Ask one node of the canister's subnet, and return the reply once that node's signature has verified.

        One node alone answers: its signature says who is to blame, not that the subnet agrees.

        Raises:
            RejectedError: The canister or the node said no, signed by that node; ``certified`` is false.
            CertificateError: The signature or the keys of the subnet's nodes do not verify, even after reading them
                anew.
            SourceUnavailableError: Not reachable or overloaded, after all attempts.
            SourceError: Kind ``tls`` and answers that no node sends.
            OperationCancelledError: It was cancelled.
        """
        return QueryRun(
            link=self._link,
            keys=self._keys,
            canister_id=canister_id,
            effective_id=canister_id if effective_canister_id is None else effective_canister_id,
            method=method,
            arg=arg,
            waiting=self._waiting(deadline_seconds, self._timeouts.query_seconds, cancellation),
            on_retry=on_retry,
        ).run()

    def read_state(
        self,
        effective_canister_id: Principal,
        paths: Sequence[Sequence[bytes]],
        *,
        deadline_seconds: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> Certificate:
        """
        Return a verified certificate of parts of the state; ``/time`` is always among them.

        Raises:
            RejectedError: Kind ``forbidden``: a part is private. Kind ``not_found``: there is no such path.
            CertificateError: The answer does not verify.
            SourceUnavailableError: Not reachable or overloaded, after all attempts.
            OperationCancelledError: It was cancelled.
        """
        waiting = self._waiting(deadline_seconds, self._timeouts.query_seconds, cancellation)
        return self._link.repeated(
            lambda: self._link.read_state(effective_canister_id, paths, waiting), method="read_state", waiting=waiting
        )

    def status(self, *, cancellation: Cancellation | None = None) -> NodeStatus:
        """Return what the node says about itself. Nobody signs that: it is for people and preflight checks."""
        waiting = self._waiting(None, self._timeouts.query_seconds, cancellation)
        return self._link.repeated(
            lambda: read_status(self._link.sender, waiting, clock=self._link.clock), method="status", waiting=waiting
        )

    def _waiting(self, seconds: float | None, usual: float, cancellation: Cancellation | None) -> Waiting:
        if seconds is not None and not seconds > 0:
            message = f"deadline_seconds is {seconds!r:.80}"
            raise ConfigurationError(message, kind="bad_option", hint="it must be a number above 0")
        monotonic = self._link.monotonic
        deadline = monotonic() + (usual if seconds is None else seconds)
        return Waiting(cancellation=cancellation or Cancellation(), deadline=deadline, monotonic=monotonic)


def fetch_root_key(
    url: str, *, transport: httpx.BaseTransport | None = None, timeouts: AgentTimeouts | None = None
) -> bytes:
    """
    Ask a network for its root key, and believe it.

    For local networks only, which make a new key with each start: whoever answers decides what will count as genuine.

    Args:
        url: Of the network.
        transport: Replaces the connections, for tests.
        timeouts: How long to wait.

    Returns:
        The key in DER form, 133 bytes.

    Raises:
        ConfigurationError: Kind ``known_root_key``: *url* is mainnet, whose key is `MAINNET_ROOT_KEY`.
        SourceUnavailableError: Not reachable.
        CertificateError: Kind ``bad_reply``: the answer holds no key.
    """
    address = NodeAddress.parse(url)
    if address.is_mainnet:
        message = f"the root key of {address.host} is known and never fetched"
        raise ConfigurationError(message, kind="known_root_key", hint="leave root_key= out")
    timeouts = timeouts or AgentTimeouts()
    sender = Sender(address, transport=transport, timeouts=timeouts, limits=AgentLimits())
    try:
        waiting = Waiting(cancellation=Cancellation(), deadline=time.monotonic() + timeouts.query_seconds)
        return read_status(sender, waiting, clock=utc_now).checked_root_key()
    finally:
        sender.close()
