"""
The two Python agents, ic-py and its successor icp-py-core.

Neither verifies what a local network signs: ic-py never does; icp-py-core needs a module that is on no index, and takes
the signatures of queries for missing where cbor2 (6 and newer) decodes them as a tuple. What they prove is the plain
protocol: untagged envelopes, the oldest endpoints, the absence of nonces.
"""

import os
import re
from typing import Any

import ic.agent
import ic.candid
import ic.client
import ic.identity
import icp_core  # type: ignore[import-untyped] # ships no types
import pytest

from knowtation_backup.sandbox import AnswerLater, SandboxNetwork, SandboxServer
from knowtation_backup.sandbox.principal import to_text

pytestmark = [
    pytest.mark.peers,
    pytest.mark.sandbox,
    # ic-py posts bytes with an argument of httpx that is on its way out.
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"),
]

NOTHING = b"DIDL\x00\x00"


# ic-py: asynchronous v2 calls and polling


@pytest.fixture(params=["ed25519", "secp256k1"])
def old_agent(request: pytest.FixtureRequest, server: SandboxServer) -> Any:
    identity = ic.identity.Identity(privkey="11" * 32, type=request.param)
    return ic.agent.Agent(identity, ic.client.Client(url=server.url))


def value_of(result: Any) -> Any:
    (argument,) = result
    return argument["value"]


def test_ic_py_update(old_agent: Any, counter: bytes, network: SandboxNetwork) -> None:
    nat64 = [ic.candid.Types.Nat64]
    assert value_of(old_agent.update_raw(to_text(counter), "inc", NOTHING, nat64)) == 1
    counts = network.requests.counts
    assert counts["call"] == 1
    assert counts["read_state"] >= 1
    assert {entry.path.split("/")[2] for entry in network.requests.entries} == {"v2"}


def test_ic_py_polls(old_agent: Any, counter: bytes, network: SandboxNetwork) -> None:
    network.faults.add(AnswerLater(1.5), endpoint="call")
    assert value_of(old_agent.update_raw(to_text(counter), "inc", NOTHING, [ic.candid.Types.Nat64])) == 1
    assert network.requests.counts["read_state"] >= 2


def test_ic_py_rejects(old_agent: Any, counter: bytes) -> None:
    with pytest.raises(Exception, match=r"Rejected: .*on purpose"):
        old_agent.update_raw(to_text(counter), "boom", NOTHING)


def test_ic_py_query(old_agent: Any, counter: bytes, network: SandboxNetwork, python_peers: dict[str, str]) -> None:
    network.update(counter, "inc", NOTHING)

    def query() -> Any:
        return old_agent.query_raw(to_text(counter), "get", NOTHING, [ic.candid.Types.Nat64])

    if int(python_peers["cbor2"].split(".")[0]) < 6:
        assert value_of(query()) == 1
    else:
        # ic-py looks for a `dict`, but newer cbor2 decodes everything below the tag of the answer as `frozendict`.
        with pytest.raises(ValueError, match=r"Malformed result: frozendict\(.*replied"):
            query()
    (entry,) = network.requests.entries
    assert (entry.endpoint, entry.path.split("/")[2]) == ("query", "v2")


def test_ic_py_reads_state(old_agent: Any, counter: bytes, network: SandboxNetwork) -> None:
    agent: Any = ic.agent.Agent(old_agent.identity, old_agent.client)
    answer = agent.read_state_raw(to_text(counter), [[b"canister", counter, b"metadata", b"candid:service"]])
    assert b"service : {" in repr(answer).encode()
    assert network.requests.counts == {"read_state": 1}


# icp-py-core: synchronous v4 calls


@pytest.fixture
def new_agent(server: SandboxServer) -> Any:
    return icp_core.Agent(icp_core.Identity(privkey="22" * 32), icp_core.Client(url=server.url))


def test_icp_py_core_update_and_query(new_agent: Any, counter: bytes, network: SandboxNetwork) -> None:
    text = to_text(counter)
    nat64 = [icp_core.Types.Nat64]
    assert value_of(new_agent.update_raw(text, "inc", NOTHING, nat64, verify_certificate=False)) == 1
    assert value_of(new_agent.query_raw(text, "get", NOTHING, nat64)) == 1
    assert [entry.path.split("/")[2] for entry in network.requests.entries] == ["v4", "v3"]
    with pytest.raises(icp_core.ReplicaReject, match="on purpose"):
        new_agent.update_raw(text, "boom", NOTHING, verify_certificate=False)


def test_icp_py_core_polls(new_agent: Any, counter: bytes, network: SandboxNetwork) -> None:
    network.faults.add(AnswerLater(1.0), endpoint="call")
    nat64 = [icp_core.Types.Nat64]
    assert value_of(new_agent.update_raw(to_text(counter), "inc", NOTHING, nat64, verify_certificate=False)) == 1
    assert network.requests.counts["read_state"] >= 1


@pytest.mark.parametrize("kind", ["update", "query"])
def test_icp_py_core_blob_of_two_megabytes(new_agent: Any, counter: bytes, kind: str) -> None:
    blob = os.urandom(2_000_000)
    blob_type = icp_core.Types.Vec(icp_core.Types.Nat8)
    arg = icp_core.encode([{"type": blob_type, "value": blob}])
    if kind == "update":
        reply = new_agent.update_raw(to_text(counter), "echo", arg, [blob_type], verify_certificate=False)
    else:
        reply = new_agent.query_raw(to_text(counter), "echo_query", arg, [blob_type])
    assert bytes(value_of(reply)) == blob


def test_icp_py_core_management(new_agent: Any, network: SandboxNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its management helper addresses every call to ``aaaaa-aa``, which only a local network accepts."""
    update = new_agent.update_raw
    monkeypatch.setattr(new_agent, "update_raw", lambda *a, **k: update(*a, **{**k, "verify_certificate": False}))
    management = icp_core.Management(new_agent)
    created = management.provisional_create_canister_with_cycles(
        {"amount": [], "settings": []}, verify_certificate=False
    )
    text = re.findall(r"[a-z0-9-]+-cai", repr(created))[0]
    assert text in {to_text(canister) for canister in network.canisters}
