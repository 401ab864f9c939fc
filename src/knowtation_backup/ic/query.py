"""
Anonymous query calls to a canister.

**Uncertified**: one replica answers a query alone, and its signature is not checked here. That is what the hub's HTTP
reads are worth, too; whoever needs more takes a canister snapshot. A verifying client comes with those.

Source: IC interface specification, "Request: Query call"; envelopes are CBOR (RFC 8949).
"""

from __future__ import annotations

import io
import random as _random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import cbor2
import httpx
from ic.principal import Principal

from .._engine.cancellation import Cancellation
from .._engine.retrying import Retrier, RetryBudget, RetryPolicy
from ..contracts import Clock, Observer, ignore_events, utc_now
from ..errors import BackupError, ConfigurationError, ExportError, RejectedError, SourceError, SourceUnavailableError
from ..model.events import Event

__all__ = ["MAINNET", "QueryClient", "principal_bytes"]

MAINNET = "https://icp-api.io"
_SELF_DESCRIBED = b"\xd9\xd9\xf7"
"""Tag 55799. Removed before decoding: under it, recent cbor2 releases return immutable maps."""
_ANONYMOUS = b"\x04"
_EXPIRY_NS = 240 * 10**9
"""Replicas accept at most five minutes; the rest is room for clocks that differ."""
_MAX_REPLY_BYTES = 4 * 1024 * 1024
_TRANSIENT = frozenset({408, 425, 429})
_SYS_TRANSIENT = 2


def principal_bytes(text: str) -> bytes:
    """Return the bytes of a principal's text form; raises `ConfigurationError` when it is none."""
    try:
        principal = Principal.from_str(text)
        if principal.to_str() == text:
            return bytes(principal.bytes)
    except Exception as error:  # the library asserts and raises bare exceptions
        raise ConfigurationError(f"{text[:80]!r} is not a canister id", kind="bad_canister_id") from error
    raise ConfigurationError(f"{text[:80]!r} is not a canister id", kind="bad_canister_id")


class QueryClient:
    """
    Sends anonymous queries. Thread-safe; use it as a context manager, or `close` it.

    Args:
        url: Of a replica or of the network's API gateway, without path; plain http for loopback only.
        retry: How often passing failures are repeated.
        timeout_seconds: Between two pieces of a reply; the whole reply may take three times as long.
        transport: Replaces the connections, for tests.
        observer: Told about ``ic.retry`` (``method``, ``attempt``, ``delay_seconds``, ``kind``).
        sleep: Waits between attempts.
        random: Numbers in ``[0, 1)`` for jitter.
        monotonic: Seconds, for the deadline of a reply.
        clock: The present moment, for the expiry of requests.
    """

    def __init__(  # noqa: PLR0913 - one argument per independent part, all optional
        self,
        url: str = MAINNET,
        *,
        retry: RetryPolicy | None = None,
        timeout_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        observer: Observer = ignore_events,
        sleep: Callable[[float], None] | None = None,
        random: Callable[[], float] = _random.random,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Clock = utc_now,
    ) -> None:
        parsed = httpx.URL(url)
        loopback = parsed.host in {"127.0.0.1", "::1", "localhost"} or parsed.host.endswith(".localhost")
        if parsed.scheme != "https" and not (parsed.scheme == "http" and loopback):
            raise ConfigurationError(
                "a replica is reached over https; plain http is for loopback", kind="insecure_http"
            )
        self._url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._client = httpx.Client(
            transport=transport, timeout=httpx.Timeout(timeout_seconds, connect=10.0), trust_env=False
        )
        self._observer = observer
        self._monotonic = monotonic
        self._clock = clock
        self._retrier = Retrier(
            policy=retry or RetryPolicy(), budget=RetryBudget(), sleep=sleep or Cancellation().sleep, random=random
        )

    def query(self, canister_id: str, method: str, arg: bytes) -> bytes:
        """
        Return the Candid reply of a query method.

        Raises:
            RejectedError: Kind ``query_rejected``: the canister or the network said no; ``certified`` is false.
            SourceUnavailableError: Not reachable, overloaded, or a transient rejection, after all attempts.
            ExportError: Kinds ``reply_too_large``, ``bad_reply``.
        """
        canister = principal_bytes(canister_id)

        def on_retry(number: int, delay_seconds: float, error: BackupError) -> None:
            fields = {"method": method, "attempt": number, "delay_seconds": round(delay_seconds, 3)}
            self._observer(Event(name="ic.retry", fields={**fields, "kind": error.kind}))

        return self._retrier.call(lambda _number: self._once(canister_id, canister, method, arg), on_retry=on_retry)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _once(self, canister_id: str, canister: bytes, method: str, arg: bytes) -> bytes:
        expiry = int(self._clock().timestamp() * 10**9) + _EXPIRY_NS
        content = {
            "request_type": "query",
            "canister_id": canister,
            "method_name": method,
            "arg": arg,
            "sender": _ANONYMOUS,
            "ingress_expiry": expiry,
        }
        envelope = _SELF_DESCRIBED + cbor2.dumps({"content": content})
        status, body = self._post(f"{self._url}/api/v2/canister/{canister_id}/query", envelope, method)
        if status in _TRANSIENT or status >= 500:
            message = f"the network answered {status} to query {method}"
            raise SourceUnavailableError(message, kind="network_unavailable", status=status)
        if status != 200:
            text = "".join(c if c.isprintable() else " " for c in body[:200].decode("utf-8", "replace"))
            raise RejectedError(f"the network answered {status} to query {method}: {text}", status=status)
        return _argument(_decoded(body, method), method)

    def _post(self, url: str, envelope: bytes, method: str) -> tuple[int, bytes]:
        body = io.BytesIO()
        deadline = self._monotonic() + 3 * self._timeout_seconds
        try:
            headers = {"Content-Type": "application/cbor", "Accept-Encoding": "identity"}
            with self._client.stream("POST", url, content=envelope, headers=headers) as response:
                if response.headers.get("content-encoding", "identity").lower() != "identity":
                    raise ExportError(f"the reply to query {method} is compressed", kind="encoded_reply")
                for part in response.iter_bytes():
                    body.write(part)
                    if body.tell() > _MAX_REPLY_BYTES:
                        message = f"the reply to query {method} is larger than {_MAX_REPLY_BYTES} bytes"
                        raise ExportError(message, kind="reply_too_large")
                    if self._monotonic() > deadline:
                        raise SourceUnavailableError(f"the reply to query {method} did not end", kind="timeout")
                return response.status_code, body.getvalue()
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise SourceError(f"no trustworthy TLS connection for query {method}", kind="tls") from error
            message = f"query {method} got no reply ({type(error).__name__})"
            raise SourceUnavailableError(message, kind="unreachable") from error


def _decoded(body: bytes, method: str) -> Mapping[str, Any]:
    try:
        value = cbor2.loads(body.removeprefix(_SELF_DESCRIBED))
    except (cbor2.CBORDecodeError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        raise ExportError(f"the reply to query {method} is not CBOR", kind="bad_reply") from error
    if not isinstance(value, Mapping):
        raise ExportError(f"the reply to query {method} is not a CBOR map", kind="bad_reply")
    return value


def _argument(value: Mapping[str, Any], method: str) -> bytes:
    if value.get("status") == "rejected":
        code = value.get("reject_code")
        reason = "".join(c if c.isprintable() else " " for c in str(value.get("reject_message"))[:200])
        message = f"query {method} was rejected with code {code}: {reason}"
        if code == _SYS_TRANSIENT:
            raise SourceUnavailableError(message, kind="query_rejected", reject_code=code)
        raise RejectedError(message, kind="query_rejected", certified=False, reject_code=code)
    reply = value.get("reply")
    arg = reply.get("arg") if isinstance(reply, Mapping) else None
    if value.get("status") != "replied" or not isinstance(arg, bytes):
        raise ExportError(f"the reply to query {method} has neither an answer nor a rejection", kind="bad_reply")
    return arg
