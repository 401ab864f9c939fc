"""Whatever arrives, it is answered: arbitrary bodies, Candid arguments and paths end in no 500 and no exception."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import cbor2
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowtation_backup.sandbox import SandboxNetwork, candid
from knowtation_backup.sandbox.management.types import METHODS
from knowtation_backup.sandbox.messages import Call, Rejected, Replied
from knowtation_backup.sandbox.principal import to_text
from knowtation_backup.sandbox.protocol.exchange import HttpRequest
from knowtation_backup.sandbox.replica.replica import ManagementRequest

pytestmark = pytest.mark.sandbox

ANONYMOUS = b"\x04"
SUBNET_TIME = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork(tick_seconds=None, call_wait_seconds=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def canister(network: SandboxNetwork, counter_wasm: bytes) -> bytes:
    return network.create_canister(counter_wasm, controllers=[ANONYMOUS])


@pytest.fixture(scope="module")
def client(network: SandboxNetwork) -> Iterator[httpx.Client]:
    with httpx.Client(transport=network.transport(), base_url="http://localhost") as client:
        yield client


# Bodies

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(max_size=20)
cbor_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=12,
)
contents = st.fixed_dictionaries(
    {},
    optional={
        "request_type": st.sampled_from(["call", "query", "read_state"]) | cbor_values,
        "sender": st.just(ANONYMOUS) | cbor_values,
        "ingress_expiry": st.integers(min_value=0, max_value=1 << 64) | cbor_values,
        "canister_id": st.just(b"") | cbor_values,
        "method_name": st.sampled_from(sorted(METHODS)) | cbor_values,
        "arg": st.just(b"DIDL\x00\x00") | cbor_values,
        "nonce": cbor_values,
        "paths": st.lists(st.lists(st.sampled_from([b"time", b"canister", b"subnet", b"request_status"]) | st.binary()))
        | cbor_values,
        "sender_info": cbor_values,
    },
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "content": contents | cbor_values,
        "sender_pubkey": cbor_values,
        "sender_sig": cbor_values,
        "sender_delegation": cbor_values,
    },
)
bodies = st.binary(max_size=200) | st.builds(cbor2.dumps, envelopes) | st.builds(cbor2.dumps, cbor_values)


@SUBNET_TIME
@given(body=bodies, endpoint=st.sampled_from(["v2 call", "v4 call", "v3 query", "v3 read_state"]), tagged=st.booleans())
def test_arbitrary_bodies(client: httpx.Client, canister: bytes, body: bytes, endpoint: str, *, tagged: bool) -> None:
    version, kind = endpoint.split()
    path = f"/api/{version}/canister/{to_text(canister)}/{kind}"
    content = b"\xd9\xd9\xf7" + body if tagged else body
    reply = client.post(path, content=content, headers={"content-type": "application/cbor"})
    assert reply.status_code in (200, 202, 400, 403, 404, 413)


# Candid arguments


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(0, 100) | st.integers(low, high)


PRIMITIVES: Mapping[candid.CandidType, st.SearchStrategy[Any]] = {
    candid.TEXT: st.text(max_size=20),
    candid.BOOL: st.booleans(),
    candid.FLOAT32: st.floats(width=32),
    candid.FLOAT64: st.floats(),
    candid.NAT: integers(0, 1 << 200),
    candid.NAT64: integers(0, (1 << 64) - 1),
    candid.INT32: integers(-(1 << 31), (1 << 31) - 1),
    candid.INT64: integers(-(1 << 63), (1 << 63) - 1),
    candid.NULL: st.none(),
    candid.RESERVED: st.none(),
}


def values_of(type_: candid.CandidType, canister_id: bytes) -> st.SearchStrategy[Any]:
    """Return values of a type: mostly small ones, existing things among them, and the extremes."""
    match type_:
        case candid.Vec(inner) if inner is candid.NAT8:
            found: st.SearchStrategy[Any] = st.just(bytes(8) + canister_id) | st.binary(max_size=64)
        case candid.Vec(inner):
            found = st.lists(values_of(inner, canister_id), max_size=3)
        case candid.Opt(inner):
            found = st.none() | values_of(inner, canister_id)
        case candid.Record(fields):
            found = st.fixed_dictionaries({field.key: values_of(field.type, canister_id) for field in fields})
        case candid.Variant(fields):
            found = st.one_of([st.tuples(st.just(field.key), values_of(field.type, canister_id)) for field in fields])
        case _ if type_ is candid.PRINCIPAL:
            found = st.just(canister_id) | st.binary(max_size=29)
        case _:
            found = PRIMITIVES[type_]
    return found


def canister_with_code(network: SandboxNetwork, wasm: bytes) -> bytes:
    """Return a canister that is worth attacking: with code, cycles, and the attacker as its controller."""
    for canister in network.canisters.values():
        if canister.code is not None and canister.cycles > 10**13 and ANONYMOUS in canister.settings.controllers:
            return canister.canister_id
    return network.create_canister(wasm, controllers=[ANONYMOUS])


@pytest.mark.parametrize("method", sorted(METHODS))
@settings(SUBNET_TIME, max_examples=25)
@given(data=st.data())
def test_arbitrary_arguments_of_management(
    network: SandboxNetwork, counter_wasm: bytes, method: str, data: st.DataObject
) -> None:
    canister_id = canister_with_code(network, counter_wasm)
    type_ = METHODS[method].argument
    arg = data.draw(st.binary(max_size=60) | st.binary(max_size=60).map(b"DIDL".__add__))
    if type_ is not None and data.draw(st.integers(0, 9)):
        arg = candid.encode([type_], [data.draw(values_of(type_, canister_id))])
    call = Call(
        request_id=data.draw(st.binary(min_size=32, max_size=32)),
        sender=ANONYMOUS,
        canister_id=b"",
        effective_canister_id=b"",
        method=method,
        arg=arg,
        ingress_expiry=network.clock.now_ns(),
        size_bytes=len(arg),
    )
    answers: list[Any] = [network.replica.query(call)]
    try:
        answers.append(network.replica.call(call).answer)
    except Rejected as refusal:
        answers.append(refusal)
    # Once more as canisters call, which no filter stands before.
    request = ManagementRequest(
        caller=ANONYMOUS,
        method=method,
        arg=arg,
        cycles=10**12,
        from_canister=canister_id,
        sender_canister_version=data.draw(st.none() | st.just(1)),
        ingress=None,
        respond=lambda answer, _refund: answers.append(answer),
    )
    with contextlib.suppress(Rejected):
        network.replica.management.execute(request)
    network.tick()
    assert all(isinstance(answer, Replied | Rejected) for answer in answers)
    assert all(canister.cycles >= 0 for canister in network.canisters.values())


# Paths

pieces = st.sampled_from(["api", "v2", "v3", "v4", "canister", "subnet", "call", "query", "status", "..", "%2e", "%00"])
paths = st.lists(pieces | st.text(max_size=8), max_size=7).map(lambda found: "/" + "/".join(found))
header_names = st.sampled_from(["range", "x-user-id", "accept", "cookie", "content-type", "user-agent"])
hosts = st.sampled_from(["{}.raw.localhost", "{}.localhost", "a--{}.raw.localhost", "localhost", "{}"]) | st.text()


@SUBNET_TIME
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "OPTIONS", "HEAD"]) | st.text(),
    path=paths,
    query=st.text(max_size=20) | st.just("canisterId=aaaaa-aa"),
    body=st.binary(max_size=50),
    headers=st.lists(st.tuples(header_names, st.text(max_size=20)), max_size=4),
    host=hosts,
)
def test_arbitrary_requests(  # noqa: PLR0917 - the parts of a request
    network: SandboxNetwork,
    canister: bytes,
    method: str,
    path: str,
    query: str,
    body: bytes,
    headers: list[tuple[str, str]],
    host: str,
) -> None:
    fields = (("host", host.replace("{}", to_text(canister))), *headers)
    request = HttpRequest(method=method, path=path, query=query, headers=fields, body=body)
    front = network._front  # as a transport does it; clients refuse to send half of this
    reply = front.execute(request, front.admit(request))
    front.leave()
    assert reply.status != 500
    if reply.status > 500:
        assert dict(reply.headers)["x-ic-error-cause"]
