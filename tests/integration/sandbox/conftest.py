"""A network with the hand-written counter of ``tests/data``, and a client that sees only its HTTP interface."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import cbor2
import httpx
import pytest
import wasmtime

from knowtation_backup.sandbox import SandboxClock, SandboxNetwork, candid
from knowtation_backup.sandbox.management.types import METHODS
from knowtation_backup.sandbox.messages import Rejected
from knowtation_backup.sandbox.principal import to_text

DATA = Path(__file__).parents[2] / "data"
ANONYMOUS = b"\x04"
TAG = b"\xd9\xd9\xf7"


@attrs.frozen
class Interface:
    """
    Calls canisters over the HTTP interface as the anonymous user, who may be a controller like anybody.

    Signatures and certificates are the business of other tests.
    """

    client: httpx.Client
    clock: SandboxClock

    def post(self, kind: str, canister_id: bytes, method: str, arg: bytes, *, url_id: bytes) -> httpx.Response:
        """Send one call or query under the URL of *url_id*."""
        content = {
            "request_type": kind,
            "sender": ANONYMOUS,
            "ingress_expiry": self.clock.now_ns() + 60 * 10**9,
            "canister_id": canister_id,
            "method_name": method,
            "arg": arg,
            "nonce": os.urandom(16),
        }
        version = "v4" if kind == "call" else "v3"
        return self.client.post(
            f"/api/{version}/canister/{to_text(url_id)}/{kind}",
            content=TAG + cbor2.dumps({"content": content}),
            headers={"content-type": "application/cbor"},
        )

    def manage(self, method: str, argument: dict[str, Any] | None = None, *, query: bool = False) -> Any:
        """Call a method of the management canister; raises `Rejected`."""
        fields = argument or {}
        types = METHODS[method]
        arg = candid.encode([types.argument], [fields]) if types.argument else candid.encode([], [])
        url_id = fields.get("canister_id") or fields.get("target_canister") or bytes.fromhex("80000000001000000101")
        reply = self.post("query" if query else "call", b"", method, arg, url_id=url_id)
        values = candid.decode(query_reply(reply) if query else call_reply(reply), types.results)
        return values[0] if values else None

    def update(self, canister_id: bytes, method: str, arg: bytes = b"DIDL\x00\x00") -> bytes:
        """Call an ordinary canister; raises `Rejected`."""
        return call_reply(self.post("call", canister_id, method, arg, url_id=canister_id))

    def query(self, canister_id: bytes, method: str, arg: bytes = b"DIDL\x00\x00") -> bytes:
        """Query an ordinary canister; raises `Rejected`."""
        return query_reply(self.post("query", canister_id, method, arg, url_id=canister_id))


def call_reply(reply: httpx.Response) -> bytes:
    """Return the Candid reply of a synchronous call from its certificate."""
    assert reply.status_code == 200, reply.text
    answer = cbor2.loads(reply.content[3:])
    if answer["status"] == "non_replicated_rejection":
        raise Rejected(answer["error_code"], answer["reject_message"])
    leaves = _leaves(cbor2.loads(answer["certificate"][3:])["tree"])
    if leaves[b"status"] == b"replied":
        return leaves[b"reply"]
    raise Rejected(leaves[b"error_code"].decode(), leaves[b"reject_message"].decode())


def query_reply(reply: httpx.Response) -> bytes:
    """Return the Candid reply of a query."""
    assert reply.status_code == 200, reply.text
    answer = cbor2.loads(reply.content[3:])
    if answer["status"] == "rejected":
        raise Rejected(answer["error_code"], answer["reject_message"])
    return bytes(answer["reply"]["arg"])


def _leaves(tree: list[Any]) -> dict[bytes, bytes]:
    """Return the values of a hash tree by their last labels, which are unique in the certificate of one call."""
    if tree[0] == 1:
        return _leaves(tree[1]) | _leaves(tree[2])
    if tree[0] == 2:
        return {tree[1]: tree[2][1]} if tree[2][0] == 3 else _leaves(tree[2])
    return {}


@pytest.fixture(scope="session")
def counter_wasm() -> bytes:
    return bytes(wasmtime.wat2wasm((DATA / "counter.wat").read_text()))


@pytest.fixture
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork() as running:
        yield running


@pytest.fixture
def counter(network: SandboxNetwork, counter_wasm: bytes) -> bytes:
    return network.create_canister(counter_wasm)


@pytest.fixture
def ic(network: SandboxNetwork) -> Iterator[Interface]:
    """The network's interface over a real socket."""
    with network.serve() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield Interface(client, network.clock)
