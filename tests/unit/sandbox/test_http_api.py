import hashlib
import threading
import time
from types import SimpleNamespace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from knowtation_backup.sandbox.clock import SandboxClock
from knowtation_backup.sandbox.principal import to_text
from knowtation_backup.sandbox.protocol.certification import Certifier
from knowtation_backup.sandbox.protocol.exchange import HttpReply, HttpRequest
from knowtation_backup.sandbox.protocol.http_api import Directive, HttpApi, endpoint_kind

BIG = bytes(range(256)) * 7813  # 2,000,128 bytes


def refused(reply: HttpReply, status: int, text: str) -> None:
    assert (reply.status, text in reply.body.decode()) == (status, True), reply.body
    assert dict(reply.headers)["content-type"].startswith("text/plain")


def leb128(value: bytes) -> int:
    return sum((byte & 127) << 7 * place for place, byte in enumerate(value))


@pytest.fixture
def root_key(certifier: Certifier) -> bytes:
    return certifier.root_key_der


# Routes


def test_status(api: HttpApi, root_key: bytes, tools: SimpleNamespace) -> None:
    status = tools.cbor(api.handle(HttpRequest(method="GET", path="/api/v2/status")))
    assert status["root_key"] == root_key
    assert status["replica_health_status"] == "healthy"
    assert api.handle(HttpRequest(method="POST", path="/api/v2/status")).status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/api/v3/status",
        "/api/v5/canister/aaaaa-aa/call",
        "/api/v4/canister/aaaaa-aa/query",
        "/api/v2/subnet/aaaaa-aa/query",
        "/api/v2/canister/call",
        "/api/v2/canister/a/b/call",
        "/",
    ],
)
def test_unknown_routes(ic: Any, path: str) -> None:
    assert ic.post(path, b"").status == 404


def test_rules_for_every_post(ic: Any, api: HttpApi, tools: SimpleNamespace) -> None:
    path = f"/api/v3/canister/{tools.canister_text}/query"
    refused(ic.post(path, b"", "application/json"), 400, "Unexpected content-type, expected application/cbor.")
    refused(api.handle(HttpRequest(method="POST", path=path)), 400, "Unexpected content-type")
    assert api.handle(HttpRequest(method="GET", path=path)).status == 405
    assert ic.post(path, ic.envelope(ic.content("query")), "Application/CBOR").status == 200
    refused(ic.post("/api/v3/canister/not-a-principal/query", b""), 400, "Failed to parse principal")
    refused(ic.post(path, bytes(5 * 1024 * 1024 + 1)), 413, "larger than the max allowed")


def test_endpoint_kinds() -> None:
    assert endpoint_kind("/api/v2/status") == "status"
    assert endpoint_kind("/api/v4/canister/aaaaa-aa/call") == "call"
    assert endpoint_kind("/api/v3/subnet/aaaaa-aa/read_state") == "read_state"
    assert endpoint_kind("/api/v1/export") is None


# Calls


@pytest.mark.parametrize(("version", "sharded"), [("v3", False), ("v4", True)])
def test_synchronous_call_is_certified(  # noqa: PLR0917 - fixtures and cases
    ic: Any,
    root_key: bytes,
    certifier: Certifier,
    tools: SimpleNamespace,
    version: str,
    sharded: bool,  # noqa: FBT001
) -> None:
    ic.identity = tools.ed25519()
    content = ic.content("call", arg=BIG)
    reply = tools.cbor(ic.post(f"/api/{version}/canister/{tools.canister_text}/call", ic.envelope(content)))
    assert reply["status"] == "replied"
    tree = tools.verified(reply["certificate"], root_key, canister=tools.canister)
    request_id = tools.rih(content)
    assert tools.lookup(tree, "request_status", request_id, "status") == b"replied"
    assert tools.lookup(tree, "request_status", request_id, "reply") == BIG
    assert tools.lookup(tree, "request_status", request_id, "error_code") == "absent"
    assert abs(leb128(tools.lookup(tree, "time")) - time.time_ns()) < 5 * 10**9
    for hidden in (("subnet",), ("canister", tools.canister), ("request_status", bytes(32)), ("canister_ranges",)):
        assert tools.lookup(tree, *hidden) == "unknown"
    delegation = cbor2.loads(reply["certificate"][3:]).get("delegation")
    if delegation is not None:
        inner = cbor2.loads(delegation["certificate"][3:])["tree"]
        flat = tools.lookup(inner, "subnet", certifier.subnet_id, "canister_ranges")
        shards = tools.lookup(inner, "canister_ranges", certifier.subnet_id)
        assert (flat == "unknown", shards == "unknown") == (sharded, not sharded)
        assert tools.lookup(inner, "canister", tools.canister) == "unknown"


def test_certified_reject(ic: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    content = ic.content("call", method_name="fail")
    reply = tools.cbor(ic.post(f"/api/v4/canister/{tools.canister_text}/call", ic.envelope(content)))
    assert reply["status"] == "replied"
    below = ("request_status", tools.rih(content))
    tree = tools.verified(reply["certificate"], root_key)
    assert tools.lookup(tree, *below, "status") == b"rejected"
    assert tools.lookup(tree, *below, "reject_code") == b"\x05"
    assert tools.lookup(tree, *below, "reject_message") == b"Panicked"
    assert tools.lookup(tree, *below, "error_code") == b"IC0503"
    assert tools.lookup(tree, *below, "reply") == "absent"


def test_refusal_of_the_filter_is_not_certified(ic: Any, tools: SimpleNamespace) -> None:
    about = {"reject_code": 3, "reject_message": "Canister not found", "error_code": "IC0301"}
    for version in ("v3", "v4"):
        reply = tools.cbor(ic.send("call", version=version, method_name="refuse"))
        assert reply == {"status": "non_replicated_rejection", **about}
    assert tools.cbor(ic.send("call", version="v2", method_name="refuse")) == about


def test_asynchronous_call_and_polling(ic: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    content = ic.content("call")
    path = [b"request_status", tools.rih(content)]
    before = tools.cbor(ic.send("read_state", paths=[path]))
    assert tools.lookup(tools.verified(before["certificate"], root_key), *path, "status") == "absent"
    reply = ic.post(f"/api/v2/canister/{tools.canister_text}/call", ic.envelope(content))
    assert (reply.status, reply.body) == (202, b"")
    after = tools.cbor(ic.send("read_state", version="v2", paths=[path]))
    assert tools.lookup(tools.verified(after["certificate"], root_key), *path, "reply") == b"DIDL\x00\x00"


@pytest.mark.parametrize("request_id", [bytes(32), b"\xff" * 32, b"\x80" * 32])
def test_absence_of_any_request_id_is_proved(
    ic: Any, root_key: bytes, tools: SimpleNamespace, request_id: bytes
) -> None:
    reply = tools.cbor(ic.send("read_state", paths=[[b"request_status", request_id]]))
    tree = tools.verified(reply["certificate"], root_key)
    assert tools.lookup(tree, "request_status", request_id, "status") == "absent"


def test_a_repeated_call_is_one_message(ic: Any, replica: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    content = ic.content("call", arg=b"once")
    body = ic.envelope(content)
    for _ in range(3):
        reply = tools.cbor(ic.post(f"/api/v4/canister/{tools.canister_text}/call", body))
        tree = tools.verified(reply["certificate"], root_key)
        assert tools.lookup(tree, "request_status", tools.rih(content), "reply") == b"once"
    assert len(replica.calls) == 1


def test_a_slow_call_is_awaited_while_rounds_go_on(ic: Any, replica: Any, tools: SimpleNamespace) -> None:
    reply = tools.cbor(ic.send("call", method_name="slow"))
    assert reply["status"] == "replied"
    assert replica.ticks == 3


def test_a_call_that_takes_too_long_is_answered_202(
    ic: Any, replica: Any, certifier: Certifier, clock: SandboxClock
) -> None:
    ic.api = HttpApi(replica=replica, certifier=certifier, clock=clock, call_wait_seconds=0.05, tick=lambda: None)
    assert ic.send("call", method_name="slow").status == 202


def test_too_large_a_message(ic: Any, replica: Any, tools: SimpleNamespace) -> None:
    content = ic.content("call", arg=bytes(2 * 1024 * 1024))
    body = ic.envelope(content)
    reply = ic.post(f"/api/v4/canister/{tools.canister_text}/call", body)
    text = (
        f"Request 0x{tools.rih(content).hex()} is too large. Message byte size {len(body)} is larger than the max "
        "allowed 2097152."
    )
    refused(reply, 413, text)
    assert replica.calls == []
    fitting = ic.content("call", arg=bytes(2 * 1024 * 1024 - len(body) + 2 * 1024 * 1024))
    assert len(ic.envelope(fitting)) == 2 * 1024 * 1024
    assert ic.post(f"/api/v4/canister/{tools.canister_text}/call", ic.envelope(fitting)).status == 200


# Effective canister ids


@pytest.mark.parametrize("kind", ["call", "query"])
def test_url_must_name_the_canister(ic: Any, kind: str) -> None:
    reply = ic.send(kind, target="bkyz2-fmaaa-aaaaa-qaaaq-cai")
    text = (
        "Specified CanisterId rrkah-fqaaa-aaaaa-aaaaq-cai does not match effective canister id in URL "
        "bkyz2-fmaaa-aaaaa-qaaaq-cai"
    )
    refused(reply, 400, text)


def test_management_calls_take_the_canister_of_the_url(ic: Any, replica: Any, tools: SimpleNamespace) -> None:
    assert ic.send("call", canister_id=b"").status == 200
    assert replica.calls[-1].effective_canister_id == tools.canister
    assert ic.send("call", canister_id=b"", target="aaaaa-aa").status == 200
    assert replica.calls[-1].effective_canister_id == b""


def test_subnet_endpoints(ic: Any, replica: Any, certifier: Certifier) -> None:
    subnet = to_text(certifier.subnet_id)
    create = ic.envelope(ic.content("call", canister_id=b"", method_name="create_canister"))
    assert ic.post(f"/api/v4/subnet/{subnet}/call", create).status == 200
    assert replica.calls[-1].effective_canister_id == certifier.subnet_id
    listing = ic.envelope(ic.content("query", canister_id=b"", method_name="list_canisters"))
    assert ic.post(f"/api/v3/subnet/{subnet}/query", listing).status == 200
    refused(ic.post("/api/v3/subnet/bkyz2-fmaaa-aaaaa-qaaaq-cai/query", listing), 400, "is not this subnet")
    ordinary = ic.envelope(ic.content("query"))
    refused(ic.post(f"/api/v3/subnet/{subnet}/query", ordinary), 400, "Only the management canister")


# Queries


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("echo", {"status": "replied", "reply": {"arg": BIG}}),
        (
            "fail",
            {"status": "rejected", "reject_code": 5, "reject_message": "no such query", "error_code": "IC0536"},
        ),
    ],
)
def test_query_answers_are_signed_by_the_node(  # noqa: PLR0917 - fixtures and cases
    ic: Any, root_key: bytes, tools: SimpleNamespace, version: str, method: str, expected: dict[str, Any]
) -> None:
    content = ic.content("query", method_name=method, arg=BIG)
    reply = tools.cbor(ic.post(f"/api/{version}/canister/{tools.canister_text}/query", ic.envelope(content)))
    (signature,) = reply.pop("signatures")
    assert reply == expected
    state = tools.cbor(ic.send("read_state", paths=[[b"subnet"]]))
    tree = tools.verified(state["certificate"], root_key, canister=tools.canister)
    delegation = cbor2.loads(state["certificate"][3:]).get("delegation")
    subnet = delegation["subnet_id"] if delegation else hashlib.sha224(root_key).digest() + b"\x02"
    node_key = tools.lookup(tree, "subnet", subnet, "node", signature["identity"], "public_key")
    assert len(node_key) == 44
    signed = {**expected, "request_id": tools.rih(content), "timestamp": signature["timestamp"]}
    Ed25519PublicKey.from_public_bytes(node_key[12:]).verify(
        signature["signature"], b"\x0bic-response" + tools.rih(signed)
    )


# State


def read(ic: Any, tools: SimpleNamespace, root_key: bytes, *path: bytes, version: str = "v3") -> Any:
    reply = tools.cbor(ic.send("read_state", version=version, paths=[list(path)]))
    return tools.lookup(tools.verified(reply["certificate"], root_key, canister=tools.canister), *path)


def test_canister_information(ic: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    def of(*path: bytes) -> Any:
        return read(ic, tools, root_key, b"canister", tools.canister, *path)

    assert of(b"module_hash") == hashlib.sha256(b"module").digest()
    assert cbor2.loads(of(b"controllers")[3:]) == [tools.ed25519().principal]
    assert leb128(of(b"canister_creation_timestamp")) == 7
    assert leb128(of(b"last_install_timestamp")) == 9
    assert of(b"metadata", b"candid:service") == b"service : {}"
    assert of(b"metadata", b"nothing") == "absent"


def test_only_what_was_asked_for_is_revealed(ic: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    path = [b"canister", tools.canister, b"module_hash"]
    reply = tools.cbor(ic.send("read_state", paths=[path]))
    tree = tools.verified(reply["certificate"], root_key)
    assert tools.lookup(tree, "canister", tools.canister, "controllers") == "unknown"
    assert tools.lookup(tree, "canister", tools.canister, "metadata", "secret") == "unknown"
    assert b"for controllers" not in reply["certificate"]


def test_absent_canisters_and_empty_ones(ic: Any, replica: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    replica.canisters[tools.canister].code = None
    assert read(ic, tools, root_key, b"canister", tools.canister, b"module_hash") == "absent"
    del replica.canisters[tools.canister]
    for number in range(5):
        replica.canisters[bytes([number])] = None
    assert read(ic, tools, root_key, b"canister", tools.canister, b"controllers") == "absent"


def test_private_metadata_is_for_controllers(ic: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    path = (b"canister", tools.canister, b"metadata", b"secret")
    refused(ic.send("read_state", paths=[list(path)]), 403, "can only be requested by the controllers")
    ic.identity = tools.ed25519(1)
    refused(ic.send("read_state", paths=[list(path)]), 403, "can only be requested by the controllers")
    ic.identity = tools.ed25519(0)
    assert read(ic, tools, root_key, *path) == b"for controllers"


def test_request_status_is_for_its_sender(ic: Any, tools: SimpleNamespace) -> None:
    ic.identity = tools.ed25519()
    content = ic.content("call")
    ic.post(f"/api/v2/canister/{tools.canister_text}/call", ic.envelope(content))
    path = [b"request_status", tools.rih(content)]
    assert ic.send("read_state", paths=[path, [*path, b"reply"]]).status == 200
    refused(ic.send("read_state", paths=[path, [b"request_status", bytes(32)]]), 400, "More than one")
    refused(ic.send("read_state", paths=[[b"request_status", b"short"]]), 400, "32 bytes")
    for other in (None, tools.ed25519(1)):
        ic.identity = other
        reply = ic.send("read_state", paths=[path])
        refused(reply, 403, "The user tries to access Request ID not signed by the caller.")


def test_request_status_through_a_delegation_needs_its_target(ic: Any, tools: SimpleNamespace) -> None:
    root, session = tools.ed25519(0), tools.ed25519(1)
    ic.identity = root
    content = ic.content("call")
    ic.post(f"/api/v2/canister/{tools.canister_text}/call", ic.envelope(content))
    reading = ic.content("read_state", paths=[[b"request_status", tools.rih(content)]])
    for targets, status in (([b"other"], 403), ([tools.canister], 200)):
        body = cbor2.dumps(
            {
                "content": reading,
                "sender_pubkey": root.der,
                "sender_sig": session.sign(b"\x0aic-request" + tools.rih(reading)),
                "sender_delegation": [tools.delegate(root, session, targets=targets)],
            }
        )
        assert ic.post(f"/api/v3/canister/{tools.canister_text}/read_state", body).status == status


@pytest.mark.parametrize(
    "path",
    [
        [],
        [b"canister"],
        [b"canister", bytes.fromhex("00000000000000010101")],
        [b"canister", bytes.fromhex("00000000000000010101"), b"certified_data"],
        [b"request_status"],
        [b"request_status", bytes(32), b"other"],
        [b"subnet", b"x", b"metrics"],
        [b"canister_ranges", b"x"],
        [b"time", b"x"],
        [b"secret"],
    ],
)
def test_invalid_paths(ic: Any, path: list[bytes]) -> None:
    refused(ic.send("read_state", paths=[path]), 404, "Invalid path requested.")


def test_another_canisters_information(ic: Any, tools: SimpleNamespace) -> None:
    path = [b"canister", tools.canister, b"module_hash"]
    reply = ic.send("read_state", target="bkyz2-fmaaa-aaaaa-qaaaq-cai", paths=[path])
    refused(reply, 400, "Effective principal id in URL bkyz2-fmaaa-aaaaa-qaaaq-cai does not match")


def test_subnet_state(ic: Any, certifier: Certifier, root_key: bytes, tools: SimpleNamespace) -> None:
    subnet = certifier.subnet_id
    assert read(ic, tools, root_key, b"subnet", subnet, b"type") == b"application"
    assert len(read(ic, tools, root_key, b"subnet", subnet, b"public_key")) == 133
    flat = read(ic, tools, root_key, b"subnet", subnet, b"canister_ranges", version="v2")
    everything = [[bytes.fromhex("00000000000000000101"), bytes.fromhex("ffffffffffffffff0101")]]
    assert cbor2.loads(flat[3:]) == everything
    hidden = read(ic, tools, root_key, b"subnet", subnet, b"canister_ranges", version="v3")
    assert hidden == ("unknown" if root_key[-96:] != certifier._subnet.public_key else flat)
    assert read(ic, tools, root_key, b"api_boundary_nodes") == [0]
    assert read(ic, tools, root_key, b"api_boundary_nodes", b"x", b"domain") == "absent"
    paths = [[b"canister_ranges", subnet], [b"subnet", subnet, b"metrics"], [b"time"]]
    reply = ic.post(f"/api/v3/subnet/{to_text(subnet)}/read_state", ic.envelope(ic.content("read_state", paths=paths)))
    tree = tools.verified(tools.cbor(reply)["certificate"], root_key)
    shard = tools.lookup(tree, b"canister_ranges", subnet, everything[0][0])
    assert cbor2.loads(shard[3:]) == everything
    assert tools.lookup(tree, b"subnet", subnet, b"metrics") == "absent"
    request = ic.envelope(ic.content("read_state", paths=[[b"request_status", bytes(32)]]))
    refused(ic.post(f"/api/v3/subnet/{to_text(subnet)}/read_state", request), 404, "Invalid path")


# Directives of faults


def test_stale_certificates_are_honestly_signed(ic: Any, api: HttpApi, root_key: bytes, tools: SimpleNamespace) -> None:
    request = HttpRequest(
        method="POST",
        path=f"/api/v3/canister/{tools.canister_text}/read_state",
        headers=(("content-type", "application/cbor"),),
        body=ic.envelope(ic.content("read_state", paths=[])),
    )
    reply = tools.cbor(api.handle(request, Directive(certificate_age_ns=3600 * 10**9)))
    age = time.time_ns() - leb128(tools.lookup(tools.verified(reply["certificate"], root_key), "time"))
    assert 3599 < age / 1e9 < 3610


@pytest.mark.parametrize("version", ["v2", "v4"])
def test_answer_later(  # noqa: PLR0917 - fixtures and cases
    ic: Any, api: HttpApi, clock: SandboxClock, root_key: bytes, tools: SimpleNamespace, version: str
) -> None:
    content = ic.content("call")
    path = [b"request_status", tools.rih(content), b"status"]
    request = HttpRequest(
        method="POST",
        path=f"/api/{version}/canister/{tools.canister_text}/call",
        headers=(("content-type", "application/cbor"),),
        body=ic.envelope(content),
    )
    assert api.handle(request, Directive(answer_after_ns=60 * 10**9)).status == 202
    assert read(ic, tools, root_key, *path) == b"processing"
    refused(api.handle(request), 202, "Duplicate request. Message is already being tracked and executed.")
    clock.advance(61)
    assert read(ic, tools, root_key, *path) == b"replied"


def test_filter_refusals_are_not_held_back(api: HttpApi, ic: Any, tools: SimpleNamespace) -> None:
    request = HttpRequest(
        method="POST",
        path=f"/api/v4/canister/{tools.canister_text}/call",
        headers=(("content-type", "application/cbor"),),
        body=ic.envelope(ic.content("call", method_name="refuse")),
    )
    reply = tools.cbor(api.handle(request, Directive(answer_after_ns=60 * 10**9)))
    assert reply["status"] == "non_replicated_rejection"


# Keys


def test_data_certificates_are_for_queries(certifier: Certifier, root_key: bytes, tools: SimpleNamespace) -> None:
    tree = tools.verified(certifier.data_certificate(tools.canister, b"hash"), root_key, canister=tools.canister)
    assert tools.lookup(tree, "canister", tools.canister, "certified_data") == b"hash"


def test_root_key_is_the_same_in_every_run() -> None:
    digests = {
        delegation: hashlib.sha256(Certifier(clock=SandboxClock(), delegation=delegation).root_key_der).hexdigest()
        for delegation in (True, False)
    }
    assert digests[True] == digests[False]
    assert digests[True].startswith("40a4000509d510c4")
    assert Certifier(clock=SandboxClock(), seed=b"x").root_key_der != Certifier(clock=SandboxClock()).root_key_der


def test_certificates_are_made_in_parallel(ic: Any, root_key: bytes, tools: SimpleNamespace) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                reply = tools.cbor(ic.send("call", arg=b"x"))
                tools.verified(reply["certificate"], root_key)
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
