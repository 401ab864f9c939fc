"""Answers of queries: signed by nodes of the right subnet, for this very query, just now, or refused."""

from __future__ import annotations

import time
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from ic_certificates import CANISTER, EVERYTHING, ROOT, SUBNET, certificate, delegation, ranges
from icp_agent.agent import build_query_response_signable  # type: ignore[import-untyped]

from knowtation_backup.errors import CertificateError
from knowtation_backup.ic.certificate import Certificate, verify_certificate
from knowtation_backup.ic.node_signatures import node_keys, verify_query_signatures
from knowtation_backup.ic.wire import IC_RESPONSE, content_hash
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import SandboxClock
from knowtation_backup.sandbox.protocol.certification import Certifier

NOW = 1_790_000_000 * 10**9
MINUTE = 60 * 10**9
CANISTER_ID = Principal(CANISTER)
REQUEST_ID = bytes(range(32))
DER_PREFIX = bytes.fromhex("302a300506032b6570032100")
NODES = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(4)]
DERS = [DER_PREFIX + node.public_key().public_bytes_raw() for node in NODES]
IDS = [Principal.self_authenticating(der) for der in DERS]
KEYS = dict(zip(IDS, DERS, strict=True))
REPLIED: dict[str, Any] = {"status": "replied", "reply": {"arg": b"DIDL\0\0"}}
REJECTED: dict[str, Any] = {"status": "rejected", "reject_code": 3, "reject_message": "no", "error_code": "IC0301"}


def _signature(
    answer: dict[str, Any], node: int = 0, *, time_ns: int = NOW, request_id: bytes = REQUEST_ID
) -> dict[str, Any]:
    digest = content_hash({**answer, "request_id": request_id, "timestamp": time_ns})
    signature = NODES[node].sign(IC_RESPONSE + digest)
    return {"timestamp": time_ns, "signature": signature, "identity": IDS[node].raw}


def _signed(answer: dict[str, Any] = REPLIED, *nodes: int, **options: Any) -> dict[str, Any]:
    return {**answer, "signatures": [_signature(answer, node, **options) for node in nodes or (0,)]}


def _verify(answer: dict[str, Any], *, keys: Any = KEYS, request_id: bytes = REQUEST_ID) -> None:
    verify_query_signatures(answer, request_id=request_id, keys=keys, now_ns=NOW)


def _refused(kind: str, answer: dict[str, Any], **options: Any) -> CertificateError:
    with pytest.raises(CertificateError) as caught:
        _verify(answer, **options)
    assert caught.value.kind == kind
    return caught.value


@pytest.mark.parametrize(
    "answer", [REPLIED, REJECTED, {**REJECTED, "error_code": None}], ids=["reply", "error", "plain"]
)
@pytest.mark.parametrize("nodes", [(0,), (3, 1), (0, 1, 2, 3)])
def test_answers_signed_by_nodes_of_the_subnet_are_taken(answer: dict[str, Any], nodes: tuple[int, ...]) -> None:
    _verify(_signed(answer, *nodes))


def test_another_client_signs_the_same_bytes() -> None:
    theirs = build_query_response_signable("replied", REQUEST_ID, NOW, reply={"arg": b"DIDL\0\0"})
    assert theirs == IC_RESPONSE + content_hash({**REPLIED, "request_id": REQUEST_ID, "timestamp": NOW})


@pytest.mark.parametrize(
    "changes",
    [
        {"reply": {"arg": b"DIDL\0\1"}},
        {"reply": {}},
        {"reply": {"arg": "text"}},
        {"reply": None},
        {"status": "rejected"},
        {"status": "other"},
        {"status": None},
    ],
)
def test_a_changed_reply_is_refused(changes: dict[str, Any]) -> None:
    _refused("node_signature", {**_signed(), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"reject_code": 4},
        {"reject_code": -1},
        {"reject_code": True},
        {"reject_code": "3"},
        {"reject_message": "yes"},
        {"reject_message": b"no"},
        {"error_code": "IC0302"},
        {"error_code": None},
        {"error_code": 5},
        {**REPLIED},
    ],
)
def test_a_changed_rejection_is_refused(changes: dict[str, Any]) -> None:
    _refused("node_signature", {**_signed(REJECTED), **changes})


def test_an_answer_to_another_query_is_refused() -> None:
    _refused("node_signature", _signed(), request_id=bytes(32))


@pytest.mark.parametrize("signatures", [None, [], 5, [{}], [None], [5], "text"])
def test_an_answer_without_signatures_is_refused(signatures: object) -> None:
    _refused("node_signature", {**REPLIED, "signatures": signatures})
    _refused("node_signature", REPLIED)


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": bytes(64)},
        {"signature": b""},
        {"signature": "text"},
        {"identity": b""},
        {"identity": IDS[1].raw},
        {"identity": 5},
        {"timestamp": NOW + 1},
        {"timestamp": True},
        {"timestamp": -1},
        {"timestamp": None},
    ],
)
def test_a_changed_signature_is_refused(changes: dict[str, Any]) -> None:
    signature = {**_signature(REPLIED), **changes}
    _refused("node_signature", {**REPLIED, "signatures": [signature]})


def test_one_bad_signature_among_good_ones_is_refused() -> None:
    answer = _signed(REPLIED, 0, 1)
    answer["signatures"][1]["signature"] = bytes(64)
    _refused("node_signature", answer)


def test_a_node_of_another_subnet_is_refused_with_a_reason() -> None:
    error = _refused("node_signature", _signed(REPLIED, 3), keys={IDS[0]: DERS[0]})
    assert "not a node of the subnet" in error.message


def test_more_signatures_than_nodes_are_refused() -> None:
    _refused("node_signature", _signed(REPLIED, 0, 0), keys={IDS[0]: DERS[0]})


@pytest.mark.parametrize(("age_ns", "old"), [(6 * MINUTE, True), (-6 * MINUTE, False)])
def test_an_answer_of_another_time_is_refused(age_ns: int, *, old: bool) -> None:
    error = _refused("certificate_time", _signed(time_ns=NOW - age_ns))
    assert error.context["too_old"] is old
    _verify(_signed(time_ns=NOW - age_ns // 2))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*REJECTED, *REPLIED, "arg", "signatures", *_signature(REPLIED)]), inner)
    ),
    max_leaves=15,
)


@given(VALUES.filter(lambda value: isinstance(value, dict)), st.sampled_from([{}, REPLIED, REJECTED]))
def test_any_answer_without_a_node_is_refused(answer: dict[str, Any], start: dict[str, Any]) -> None:
    with pytest.raises(CertificateError):
        _verify({**start, **answer})


# -- keys ------------------------------------------------------------------------------------------------------------


def _subnet(key: Any, nodes: dict[bytes, Any] | None = None, **more: bytes) -> dict[bytes, Any]:
    about: dict[bytes, Any] = {b"public_key": key.der, b"type": b"application"}
    about[b"node"] = {node.raw: {b"public_key": der} for node, der in KEYS.items()} if nodes is None else nodes
    return {b"subnet": {key.principal: about | {name.encode(): value for name, value in more.items()}}}


def _keys(data: bytes, canister_id: Principal | None = CANISTER_ID) -> Any:
    parsed = Certificate.parse(data)
    verify_certificate(parsed, root_key=ROOT.der, effective_canister_id=canister_id, now_ns=NOW)
    return node_keys(parsed, root_key=ROOT.der, effective_canister_id=canister_id)


def test_keys_of_a_delegated_subnet() -> None:
    about = delegation(flat=[EVERYTHING], time_ns=NOW)
    assert _keys(certificate(_subnet(SUBNET), delegation=about, time_ns=NOW)) == KEYS


def test_keys_of_the_root_subnet_need_ranges_beside_them() -> None:
    good = certificate(_subnet(ROOT, canister_ranges=ranges(EVERYTHING)), key=ROOT, time_ns=NOW)
    assert _keys(good) == KEYS
    elsewhere = ranges((bytes(8) + b"\x01\x01", bytes(8) + b"\x01\x01"))
    for state in (_subnet(ROOT), _subnet(ROOT, canister_ranges=elsewhere)):
        data = certificate(state, key=ROOT, time_ns=NOW)
        with pytest.raises(CertificateError) as caught:
            _keys(data)
        assert caught.value.kind == "certificate_range"
        assert _keys(data, None) == KEYS


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ({}, "certificate_path"),
        ({IDS[0].raw: {b"other": b""}}, "certificate_path"),
        ({IDS[0].raw: {b"public_key": DERS[1]}}, "node_key"),
        ({IDS[0].raw: {b"public_key": b""}}, "node_key"),
        ({Principal.self_authenticating(b"short").raw: {b"public_key": b"short"}}, "node_key"),
        ({bytes(40): {b"public_key": DERS[1]}}, "node_key"),
    ],
)
def test_keys_that_are_not_the_nodes_are_refused(nodes: dict[bytes, Any], kind: str) -> None:
    about = delegation(flat=[EVERYTHING], time_ns=NOW)
    with pytest.raises(CertificateError) as caught:
        _keys(certificate(_subnet(SUBNET, nodes), delegation=about, time_ns=NOW))
    assert caught.value.kind == kind


@pytest.mark.parametrize("delegated", [True, False])
def test_the_keys_that_the_sandbox_certifies(*, delegated: bool) -> None:
    certifier = Certifier(clock=SandboxClock(), delegation=delegated)
    tree = certifier.subnet_tree(with_ranges=False)
    data = b"".join(certifier.certificate({b"subnet": tree}, [(b"subnet",)], sharded=True))
    parsed = Certificate.parse(data)
    root_key = certifier.root_key_der
    verify_certificate(parsed, root_key=root_key, effective_canister_id=CANISTER_ID, now_ns=time.time_ns())
    keys = node_keys(parsed, root_key=root_key, effective_canister_id=CANISTER_ID)
    assert keys == {Principal(certifier.node.principal): certifier.node.der}
    assert cbor2.loads(data[3:]).get("delegation", {}).get("subnet_id", certifier.subnet_id) == certifier.subnet_id
