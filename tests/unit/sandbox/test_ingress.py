import time
from types import SimpleNamespace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.sandbox.protocol.exchange import HttpReply
from knowtation_backup.sandbox.protocol.ingress import IngressError, authorize, hash_of_map, read_envelope

SECOND = 10**9
REQUEST_ID = bytes.fromhex("1d1091364d6bb8a6c16b203ee75467d59ead468f523eb058880ae8ec80e2b101")
CONTENT: dict[str, Any] = {
    "request_type": "call",
    "sender": b"\x04",
    "ingress_expiry": 1685570400000000000,
    "canister_id": bytes.fromhex("00000000000004D2"),
    "method_name": "hello",
    "arg": bytes.fromhex("4449444C00FD2A"),
}


def refused(reply: HttpReply, status: int, text: str) -> None:
    assert (reply.status, text in reply.body.decode()) == (status, True), reply.body


def test_request_id_of_the_specification(tools: SimpleNamespace) -> None:
    assert hash_of_map(CONTENT) == tools.rih(CONTENT) == REQUEST_ID
    body = cbor2.dumps({"content": {**CONTENT, "nonce": None, "unknown": 1}, "sender_pubkey": None})
    assert read_envelope(body, request_type="call").content.request_id == REQUEST_ID


def test_delegation_and_response_hashes_of_the_reference(tools: SimpleNamespace) -> None:
    der = tools.ed25519(1).der
    delegation = {"pubkey": der, "expiration": 1685570400000000000}
    assert hash_of_map(delegation | {"targets": None}).hex() == (
        "7a24682f06224f8e50e05cac3fa5d52b42d3297c9ac7855f3a537db512d35462"
    )
    assert hash_of_map(delegation | {"targets": [tools.canister]}).hex() == (
        "9d1a3f26a7d95acb9721c3fec92732ed2a9dc884b20c86b484bcecf977857791"
    )
    about = {"request_id": REQUEST_ID, "timestamp": 1685570400000000000}
    replied = {"status": "replied", "reply": {"arg": b"DIDL\x00\x00"}}
    assert hash_of_map(replied | about).hex() == "8c7266db1acdf49f61bc35f78f0d226fd505181445eb0a5a58bb180a41436fac"
    rejected = {"status": "rejected", "reject_code": 3, "reject_message": "no", "error_code": "IC0301"}
    assert hash_of_map(rejected | about).hex() == "8b5e4ef0220c94a5f067acc872a35f8f966533f18dc13863665e80f25a52204d"


@pytest.mark.parametrize("tagged", [True, False])
def test_signed_calls_of_all_schemes_arrive(ic: Any, replica: Any, tools: SimpleNamespace, tagged: bool) -> None:  # noqa: FBT001
    ic.tagged = tagged
    for identity in (tools.ed25519(), tools.ecdsa(ec.SECP256K1()), tools.ecdsa(ec.SECP256R1())):
        ic.identity = identity
        assert ic.send("call", nonce=b"n").status == 200
        assert replica.calls[-1].sender == identity.principal


def test_null_fields_count_as_absent(ic: Any, replica: Any, tools: SimpleNamespace) -> None:
    content = ic.content("call")
    body = ic.envelope(content, sender_pubkey=None, sender_sig=None, sender_delegation=None)
    assert ic.post(f"/api/v2/canister/{tools.canister_text}/call", body).status == 202
    assert replica.calls[-1].request_id == tools.rih(content)


def test_bad_signatures_are_refused(ic: Any, replica: Any, tools: SimpleNamespace) -> None:
    ic.identity = tools.ed25519()
    path = f"/api/v3/canister/{tools.canister_text}/call"
    content = ic.content("call")
    changed = cbor2.loads(ic.envelope(content)[3:])
    changed["content"]["arg"] = b"DIDL\x00\x01"
    refused(ic.post(path, cbor2.dumps(changed)), 400, "Invalid signature: ")
    wrong_domain = ic.envelope(content, sender_sig=ic.identity.sign(tools.rih(content)))
    refused(ic.post(path, wrong_domain), 400, "Invalid signature: ")
    other = ic.envelope(content, sender_pubkey=tools.ed25519(1).der)
    refused(ic.post(path, other), 400, "does not match the public key 302a")
    unsigned = cbor2.dumps({"content": content})
    refused(ic.post(path, unsigned), 400, "Missing signature from user: 535yc-")
    anonymous = ic.envelope(ic.content("call", sender=b"\x04"))
    refused(ic.post(path, anonymous), 400, "Signature is not allowed for the anonymous user")
    half = cbor2.dumps({"content": content, "sender_pubkey": ic.identity.der})
    refused(ic.post(path, half), 400, "given together")
    assert replica.calls == []


@pytest.mark.parametrize("kind", ["call", "query", "read_state"])
def test_expiry_window(ic: Any, tools: SimpleNamespace, kind: str) -> None:
    ic.identity = tools.ed25519()
    extra: dict[str, Any] = {"paths": []} if kind == "read_state" else {}
    now = time.time_ns()
    for expiry in (now - SECOND, now + 332 * SECOND):
        reply = ic.send(kind, ingress_expiry=expiry, **extra)
        refused(reply, 400, "Invalid request expiry: Specified ingress_expiry not within expected range: Minimum")
        assert " UTC, Maximum allowed expiry: " in reply.body.decode()
    assert ic.send(kind, ingress_expiry=now + 325 * SECOND, **extra).status == 200


@pytest.mark.parametrize(("kind", "status"), [("call", 400), ("query", 200), ("read_state", 200)])
def test_anonymous_reads_may_carry_any_expiry(ic: Any, kind: str, status: int) -> None:
    extra: dict[str, Any] = {"paths": []} if kind == "read_state" else {}
    assert ic.send(kind, ingress_expiry=1, **extra).status == status
    assert ic.send(kind, ingress_expiry=2**64 - 1, **extra).status == status


def test_clock_advance_moves_the_window(ic: Any, clock: Any, tools: SimpleNamespace) -> None:
    ic.identity = tools.ed25519()
    clock.advance(3600)
    refused(ic.send("query"), 400, "Invalid request expiry: ")


def chain(ic: Any, tools: SimpleNamespace, *links: dict[str, Any]) -> HttpReply:
    """Call through delegations seed 0 → 1 → 2 …, each with the fields of *links*."""
    kind = links[0].pop("kind", "call") if links else "call"
    content = ic.content(kind, sender=tools.ed25519(0).principal, **({"paths": []} if kind == "read_state" else {}))
    delegations = [
        tools.delegate(tools.ed25519(step), tools.ed25519(extra.pop("to", step + 1)), **extra)
        for step, extra in enumerate(links)
    ]
    signature = tools.ed25519(len(links)).sign(b"\x0aic-request" + tools.rih(content))
    body = cbor2.dumps(
        {
            "content": content,
            "sender_pubkey": tools.ed25519(0).der,
            "sender_sig": signature,
            "sender_delegation": delegations,
        }
    )
    reply: HttpReply = ic.post(f"/api/v3/canister/{tools.canister_text}/{kind}", body)
    return reply


def test_delegations_are_followed(ic: Any, replica: Any, tools: SimpleNamespace) -> None:
    assert chain(ic, tools, {}, {"targets": [tools.canister, b"x"]}, {"permissions": "all"}).status == 200
    assert replica.calls[-1].sender == tools.ed25519(0).principal


def test_bad_delegations_are_refused(ic: Any, tools: SimpleNamespace) -> None:
    refused(chain(ic, tools, {"expiration": 1}), 400, "Invalid delegation expiry: ")
    refused(chain(ic, tools, {"targets": [b"\x00"]}), 400, "Canister rrkah-fqaaa-aaaaa-aaaaq-cai is not one of the")
    refused(
        chain(ic, tools, {"targets": [tools.canister]}, {"targets": [b"\x00"]}),
        400,
        "not one of the delegation targets",
    )
    refused(chain(ic, tools, {}, {"to": 0}), 400, "cycle")
    refused(chain(ic, tools, *({} for _ in range(21))), 400, "Chain of delegations is too long")
    refused(
        chain(ic, tools, {"targets": [tools.canister] + [bytes([i, j]) for i in range(5) for j in range(250)]}),
        400,
        "at most 1000 targets",
    )
    refused(chain(ic, tools, {"permissions": "some"}), 400, "unknown permissions")


def test_delegation_for_queries_only(ic: Any, tools: SimpleNamespace) -> None:
    refused(chain(ic, tools, {"permissions": "queries"}), 400, "permits only queries")
    assert chain(ic, tools, {"permissions": "queries", "kind": "query"}).status == 200
    assert chain(ic, tools, {"permissions": "queries", "kind": "read_state"}).status == 200


def test_delegation_signed_by_the_wrong_key(ic: Any, tools: SimpleNamespace) -> None:
    root, session = tools.ed25519(0), tools.ed25519(1)
    content = ic.content("call", sender=root.principal)
    forged = tools.delegate(tools.ed25519(2), session)
    body = cbor2.dumps(
        {
            "content": content,
            "sender_pubkey": root.der,
            "sender_sig": session.sign(b"\x0aic-request" + tools.rih(content)),
            "sender_delegation": [forged],
        }
    )
    refused(ic.post(f"/api/v3/canister/{tools.canister_text}/call", body), 400, "Invalid delegation: ")


@pytest.mark.parametrize(
    "change",
    [
        {"request_type": "query"},
        {"request_type": 1},
        {"sender": "text"},
        {"sender": bytes(30)},
        {"ingress_expiry": -1},
        {"ingress_expiry": 2**64},
        {"ingress_expiry": True},
        {"ingress_expiry": 1.5},
        {"nonce": bytes(33)},
        {"canister_id": None},
        {"method_name": b"echo"},
        {"arg": [1]},
        {"sender_info": {"info": b"", "signer": b"", "sig": b""}},
    ],
)
def test_malformed_content_is_refused(ic: Any, tools: SimpleNamespace, change: dict[str, Any]) -> None:
    body = cbor2.dumps({"content": ic.content("call") | change})
    reply = ic.post(f"/api/v3/canister/{tools.canister_text}/call", body)
    text = "Invalid sender info" if "sender_info" in change else "Failed to deserialize cbor request: "
    refused(reply, 400, text)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\xa1\x67content",
        cbor2.dumps([1]),
        cbor2.dumps({}),
        cbor2.dumps({"content": 5}),
        b"\xd9\xd9\xf7",
        b"\x81" * 5000,
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        cbor2.dumps({"content": CONTENT, "sender_delegation": [1]}),
        cbor2.dumps({"content": CONTENT, "sender_delegation": [{"delegation": {}, "signature": b""}]}),
        cbor2.dumps(
            {
                "content": CONTENT,
                "sender_delegation": [
                    {"delegation": {"pubkey": b"", "expiration": 1, "targets": [1]}, "signature": b""}
                ],
            }
        ),
    ],
)
def test_malformed_envelopes_are_refused(ic: Any, tools: SimpleNamespace, body: bytes) -> None:
    reply = ic.post(f"/api/v3/canister/{tools.canister_text}/call", body)
    refused(reply, 400, "Failed to deserialize cbor request: ")


@pytest.mark.parametrize("paths", ["text", [1], [[1]], [[b""] * 128], [[b"time"]] * 1001])
def test_malformed_paths_are_refused(ic: Any, paths: Any) -> None:
    refused(ic.send("read_state", paths=paths), 400, "Failed to deserialize cbor request: ")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=10),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), below, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*CONTENT, "nonce", "paths", "sender_info"])
contents = st.builds(lambda changes: CONTENT | changes, st.dictionaries(names, values, max_size=3))
envelopes = st.fixed_dictionaries(
    {"content": contents | values},
    optional={"sender_pubkey": values, "sender_sig": values, "sender_delegation": values | st.lists(values)},
)


@given(body=st.binary(max_size=200) | envelopes.map(cbor2.dumps) | values.map(cbor2.dumps))
@pytest.mark.parametrize("kind", ["call", "query", "read_state"])
def test_arbitrary_bodies_are_read_or_refused(kind: str, body: bytes) -> None:
    try:
        authorize(read_envelope(body, request_type=kind), now_ns=CONTENT["ingress_expiry"])
    except IngressError as refusal:
        assert refusal.status == 400  # noqa: PT017 - either outcome is fine
