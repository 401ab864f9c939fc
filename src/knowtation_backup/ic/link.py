"""What every request of an agent needs: signing, sending, waiting, and the verification of certificates."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs

from .._engine.retrying import RetryPolicy
from ..contracts import Clock, Observer
from ..errors import BackupError, CertificateError, SourceError, SourceUnavailableError
from ..model.events import Event
from ..model.ids import Principal
from .answers import http_refusal, is_missing_endpoint, is_overload, malformed, outer_map
from .certificate import MAINNET_ROOT_KEY, Certificate, verify_certificate
from .delegation_chain import check_delegations
from .identity import Identity
from .limits import AgentTimeouts
from .rejections import PASSING
from .root_subnet import RootSubnet
from .sending import HttpAnswer, Sender, Waiting
from .signature_batches import SignatureBatches
from .wire import Buffer, SignedRequest, buffers_of, signed_request

__all__ = ["Endpoint", "Link", "OnRetry", "joined", "passing"]

T = TypeVar("T")

OnRetry = Callable[[BackupError], None]
"""Told each failure that is waited out; one of kind ``overloaded`` asks for fewer requests at once."""

_EXPIRY_NS: Final = 240 * 10**9
"""Replicas accept at most five minutes; the rest is room for clocks that differ."""
_NONCE_BYTES: Final = 16


class Endpoint:
    """Which version of an endpoint the network offers: found out once, for all requests of an agent."""

    def __init__(self, *versions: str) -> None:
        self._lock = threading.Lock()
        self._versions = versions
        self._number = 0

    @property
    def version(self) -> str:
        """The newest one, or an older one after the network said that it does not have that."""
        return self._versions[self._number]

    def older(self, refused: str) -> str | None:
        """Go on with the version before *refused*; `None` when there is none."""
        number = self._versions.index(refused) + 1
        if number >= len(self._versions):
            return None
        with self._lock:
            self._number = max(self._number, number)
        return self._versions[number]


@attrs.frozen(kw_only=True)
class Link:
    """One network as one identity sees it. Thread-safe: its parts are."""

    sender: Sender
    identity: Identity = attrs.field(repr=False)
    root_key: bytes
    timeouts: AgentTimeouts
    retry: RetryPolicy
    observer: Observer
    clock: Clock
    sleep: Callable[[float], None] | None
    random: Callable[[], float]
    monotonic: Callable[[], float]
    root_subnet: RootSubnet
    signatures: SignatureBatches = attrs.field(factory=SignatureBatches)
    calls: Endpoint = attrs.field(factory=lambda: Endpoint("v4", "v3", "v2"))
    queries: Endpoint = attrs.field(factory=lambda: Endpoint("v3", "v2"))
    states: Endpoint = attrs.field(factory=lambda: Endpoint("v3", "v2"))

    # -- requests -----------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """Return the present moment in nanoseconds since 1970."""
        now = self.clock()
        seconds = int(now.replace(microsecond=0).timestamp())
        return seconds * 10**9 + now.microsecond * 1_000

    def signed(self, request_type: str, fields: dict[str, Any]) -> SignedRequest:
        """
        Return a fresh request of four minutes' life, signed.

        Raises:
            ConfigurationError: A delegation of the identity has expired, or is not for this request.
        """
        now_ns = self.now_ns()
        target = Principal(fields["canister_id"]) if "canister_id" in fields else None
        check_delegations(self.identity.delegations, now_ns=now_ns, canister_id=target, query=request_type != "call")
        content = {
            "request_type": request_type,
            "sender": self.identity.sender.raw,
            "ingress_expiry": now_ns + _EXPIRY_NS,
            "nonce": os.urandom(_NONCE_BYTES),
            **fields,
        }
        return signed_request(content, self.identity)

    def refusal(self, answer: HttpAnswer, arg: bytes = b"") -> BackupError:
        """Return the error that an answer other than 200 and 202 stands for."""
        return http_refusal(answer, now=self.clock().astimezone(dt.UTC), arg=arg)

    def post(  # noqa: PLR0913 - the parts of a request
        self,
        kind: str,
        endpoint: Endpoint,
        effective_id: Principal,
        envelope: Sequence[Buffer],
        *,
        route: str,
        waiting: Waiting,
    ) -> HttpAnswer:
        """Send an envelope to the newest endpoint that the network has; returns the answer, whatever its status."""
        version = endpoint.version
        while True:
            path = f"/api/{version}/canister/{effective_id}/{kind}"
            answer = self.sender.post(path, envelope, route=route, waiting=waiting)
            older = endpoint.older(version) if is_missing_endpoint(answer) else None
            if older is None:
                return answer
            self.observer(Event(name="ic.endpoint", fields={"kind": kind, "version": older}))
            version = older

    def read_state(
        self,
        effective_id: Principal,
        paths: Sequence[Sequence[bytes]],
        waiting: Waiting,
        *,
        arg: Buffer | Sequence[Buffer] = b"",
    ) -> Certificate:
        """Ask once for parts of the state, and return the certificate of the answer, verified; errors hide *arg*."""
        return self._of_its_subnet(self._state(effective_id, paths, waiting, arg), effective_id, waiting)

    def verified(self, data: Buffer, effective_id: Principal, waiting: Waiting) -> Certificate:
        """Return the certificate of an answer about *effective_id*; raises `CertificateError` unless it is genuine."""
        return self._of_its_subnet(self._signed_by_subnet(data, effective_id), effective_id, waiting)

    def _state(
        self,
        effective_id: Principal,
        paths: Sequence[Sequence[bytes]],
        waiting: Waiting,
        arg: Buffer | Sequence[Buffer] = b"",
    ) -> Certificate:
        route = f"read_state {effective_id}"
        request = self.signed("read_state", {"paths": [list(path) for path in paths]})
        answer = self.post("read_state", self.states, effective_id, request.parts, route=route, waiting=waiting)
        if answer.status != 200:
            raise self.refusal(answer, joined(arg))
        found = outer_map(answer.body, route=route).get("certificate")
        if not isinstance(found, memoryview):
            raise malformed(route, "it holds no certificate")
        return self._signed_by_subnet(found, effective_id)

    def _signed_by_subnet(self, data: Buffer, effective_id: Principal) -> Certificate:
        certificate = Certificate.parse(data)
        try:
            verify_certificate(
                certificate,
                root_key=self.root_key,
                effective_canister_id=effective_id,
                now_ns=self.now_ns(),
                verify=self.signatures.verify,
            )
        except CertificateError as error:
            wrong_key = error.kind in {"certificate_signature", "certificate_delegation"}
            if wrong_key and self.root_key == MAINNET_ROOT_KEY and not self.sender.address.is_mainnet:
                error.hint = "a network other than mainnet has a root key of its own: pass root_key="
            raise
        return certificate

    def _of_its_subnet(self, certificate: Certificate, effective_id: Principal, waiting: Waiting) -> Certificate:
        if certificate.delegation is None:  # ranges come with delegations, and the root subnet needs none
            self.root_subnet.require(effective_id, lambda: self._state(effective_id, [(b"subnet",)], waiting))
        return certificate

    # -- waiting ------------------------------------------------------------------------------------------------------

    def pause(self, seconds: float, waiting: Waiting) -> None:
        """Wait; raises `OperationCancelledError` when the operation is cancelled."""
        waiting.cancellation.check()
        (self.sleep or waiting.cancellation.sleep)(seconds)
        waiting.cancellation.check()

    def pause_after(
        self, error: BackupError, failed: int, *, method: str, waiting: Waiting, on_retry: OnRetry | None
    ) -> bool:
        """Wait before the next attempt, and tell about it; `False` at once when the time left is too short."""
        asked = float(error.context.get("retry_after_seconds", 0.0))
        delay = self.retry.delay_seconds(failed, random=self.random, retry_after_seconds=asked)
        if delay >= waiting.left_seconds:
            return False
        self.observer(
            Event(
                name="ic.retry",
                fields={"method": method, "attempt": failed, "delay_seconds": round(delay, 3), "kind": error.kind},
            )
        )
        if on_retry is not None:
            on_retry(error)
        self.pause(delay, waiting)
        return True

    def repeated(
        self, attempt: Callable[[], T], *, method: str, waiting: Waiting, on_retry: OnRetry | None = None
    ) -> T:
        """
        Return what *attempt*, which changes nothing, returns in the end.

        Passing failures are repeated as often as the policy says; a network that calls itself busy is waited for until
        the deadline.
        """
        failed = broken = 0
        while True:
            try:
                return attempt()
            except SourceError as error:
                failed += 1
                broken = 0 if is_overload(error) else broken + 1
                error.context["attempts"] = failed
                if not passing(error) or broken >= self.retry.attempts:
                    raise
                if not self.pause_after(error, failed, method=method, waiting=waiting, on_retry=on_retry):
                    raise


def joined(arg: Buffer | Sequence[Buffer]) -> bytes:
    """Return the bytes of an argument."""
    return b"".join(buffers_of(arg))


def passing(error: BackupError) -> bool:
    """Whether the very same request may succeed a little later."""
    return isinstance(error, SourceUnavailableError) or error.kind in PASSING
