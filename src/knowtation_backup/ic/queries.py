"""
Queries, and the keys of the nodes that answer them.

One node answers a query alone and signs what it says. The keys of a subnet's nodes are part of the certified state;
they are read once for some minutes, and once more when an answer does not verify, since nodes come and go.

Source:
    IC interface specification, "Request: Query call"; internet-computer reference, A.8 and B.6.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from ..errors import CertificateError
from ..model.events import Event
from ..model.ids import Principal
from .answers import outer_map
from .link import Link, OnRetry, joined
from .node_signatures import node_keys, verify_query_signatures
from .rejections import rejection
from .sending import Waiting
from .wire import Buffer

__all__ = ["NodeKeys", "QueryRun"]

_MOST_CACHED: Final = 1_024


@attrs.frozen(kw_only=True)
class _Known:
    keys: Mapping[Principal, bytes]
    until: float


class NodeKeys:
    """
    The keys of the nodes of those subnets that were asked. Thread-safe.

    Args:
        link: Reads them.
        seconds: How long they are used.
    """

    def __init__(self, link: Link, *, seconds: float) -> None:
        self._link = link
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known: dict[Principal, _Known] = {}

    def of(self, canister_id: Principal, waiting: Waiting, *, fresh: bool = False) -> Mapping[Principal, bytes]:
        """
        Return the keys of the nodes of a canister's subnet by their principals.

        Args:
            canister_id: The canister.
            waiting: How long to wait for them.
            fresh: Read them even if they are known.
        """
        now = self._link.monotonic()
        with self._lock:
            known = self._known.get(canister_id)
        if known is not None and now < known.until and not fresh:
            return known.keys
        keys = self._read(canister_id, waiting)
        with self._lock:
            if len(self._known) >= _MOST_CACHED:
                self._known.clear()
            self._known[canister_id] = _Known(keys=keys, until=now + self._seconds)
        return keys

    def _read(self, canister_id: Principal, waiting: Waiting) -> Mapping[Principal, bytes]:
        certificate = self._link.read_state(canister_id, [(b"subnet",)], waiting)
        keys = node_keys(certificate, root_key=self._link.root_key, effective_canister_id=canister_id)
        self._link.observer(Event(name="ic.node_keys", fields={"canister_id": str(canister_id), "nodes": len(keys)}))
        return keys


@attrs.frozen(kw_only=True)
class QueryRun:
    """One query; `run` once."""

    link: Link
    keys: NodeKeys
    canister_id: Principal
    effective_id: Principal
    method: str
    arg: Buffer | Sequence[Buffer] = attrs.field(repr=False)
    waiting: Waiting
    on_retry: OnRetry | None

    @property
    def _route(self) -> str:
        return f"query {self.method} of {self.effective_id}"

    def run(self) -> bytes:
        """Return the verified reply; see `Agent.query` for the errors."""
        return self.link.repeated(self._once, method=self.method, waiting=self.waiting, on_retry=self.on_retry)

    def _once(self) -> bytes:
        fields = {"canister_id": self.canister_id.raw, "method_name": self.method, "arg": self.arg}
        request = self.link.signed("query", fields)
        answer = self.link.post(
            "query", self.link.queries, self.effective_id, request.parts, route=self._route, waiting=self.waiting
        )
        if answer.status != 200:
            raise self.link.refusal(answer, joined(self.arg))
        said = outer_map(answer.body, route=self._route)
        self._verify(said, request.request_id)
        if said["status"] == "rejected":
            raise rejection(
                what=self._route,
                reject_code=said["reject_code"],
                message=said["reject_message"],
                error_code=said.get("error_code"),
                certified=False,
                arg=joined(self.arg),
            )
        return bytes(said["reply"]["arg"])

    def _verify(self, said: Mapping[str, Any], request_id: bytes) -> None:
        keys = self.keys.of(self.effective_id, self.waiting)
        try:
            verify_query_signatures(said, request_id=request_id, keys=keys, now_ns=self.link.now_ns())
        except CertificateError as error:
            if error.kind != "node_signature":
                raise
        else:
            return
        # Nodes come and go: once more with keys that are read now.
        keys = self.keys.of(self.effective_id, self.waiting, fresh=True)
        verify_query_signatures(said, request_id=request_id, keys=keys, now_ns=self.link.now_ns())
