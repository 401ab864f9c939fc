"""Certificates: what is genuine passes, in every form that networks send, and everything else has its own refusal."""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ic_certificates import (
    CANISTER,
    EVERYTHING,
    ROOT,
    SELF_DESCRIBED,
    STRANGER,
    SUBNET,
    certificate,
    delegation,
    leb128,
    ranges,
    tree_of,
)
from icp_certificate.certificate import Certificate as IcpPyCoreCertificate  # type: ignore[import-untyped]

from knowtation_backup.errors import BackupError, CertificateError, ConfigurationError
from knowtation_backup.ic import bls
from knowtation_backup.ic import certificate as module
from knowtation_backup.ic.certificate import MAINNET_ROOT_KEY, Certificate, moment, verify_certificate
from knowtation_backup.ic.delegations import VerdictCache
from knowtation_backup.ic.hash_tree import Absent, Found, Unknown
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import SandboxClock
from knowtation_backup.sandbox.messages import Rejected, Replied, RequestState, RequestStatus
from knowtation_backup.sandbox.protocol.certification import Certifier
from knowtation_backup.sandbox.protocol.hash_tree import Fork, Labeled, Leaf, Pruned

NOW = 1_790_000_000 * 10**9
CANISTER_ID = Principal(CANISTER)
MINUTE = 60 * 10**9
DAY = 24 * 60 * MINUTE


def _id(number: int) -> bytes:
    return number.to_bytes(8, "big") + b"\x01\x01"


def _verify(data: bytes, *, now_ns: int | None = NOW, canister_id: Principal | None = CANISTER_ID, **more: Any) -> None:
    options = {"root_key": ROOT.der, **more}
    verify_certificate(Certificate.parse(data), effective_canister_id=canister_id, now_ns=now_ns, **options)


def _refused(kind: str, data: bytes, **options: Any) -> CertificateError:
    with pytest.raises(CertificateError) as caught:
        _verify(data, **options)
    assert caught.value.kind == kind
    return caught.value


def _delegated(**options: Any) -> bytes:
    about: dict[str, Any] = {"flat": [EVERYTHING], "time_ns": NOW, **options}
    return certificate({b"x": b"y"}, delegation=delegation(**about), time_ns=NOW)


def test_the_root_key_of_mainnet_names_the_root_subnet() -> None:
    root = Principal.self_authenticating(MAINNET_ROOT_KEY)
    assert str(root) == "tdb26-jop6k-aogll-7ltgs-eruif-6kk7m-qpktf-gdiqx-mxtrf-vb5e6-eqe"
    assert len(MAINNET_ROOT_KEY) == 133
    assert bls._key(MAINNET_ROOT_KEY[37:])  # a point of the group
    assert not bls.verify(MAINNET_ROOT_KEY[37:], b"message", ROOT.sign(b"message"))


def test_the_subnet_id_of_the_reference() -> None:
    key = MAINNET_ROOT_KEY[:37] + bytes.fromhex(
        "90bb033495af95faf151528ab2517222aa3a089a1cff5e298a3c2b8967285de464f1d3753f30b89de7513d2a6a6aa4e4"
        "195592448c5afc494cb51107124231677599fe5b3d2ef47aed91b2d3c3ce3d6b8ce3fbdef77edbb6b60f413ec292dee9"
    )
    subnet_id = "mkkp6-kghmu-llqtd-yvoxc-qz5tc-5pyzy-5bsvn-bbbnm-nnhob-qtc7d-3qe"
    assert str(Principal.self_authenticating(key)) == subnet_id


# -- genuine ones ---------------------------------------------------------------------------------------------------


def test_the_root_subnet_needs_no_delegation() -> None:
    data = certificate({b"x": b"y"}, key=ROOT, time_ns=NOW)
    _verify(data)
    parsed = Certificate.parse(data)
    assert parsed.subnet_id is None
    assert parsed.time_ns == NOW
    assert parsed.lookup(b"x") == Found(memoryview(b"y"))


@pytest.mark.parametrize(
    "options",
    [
        {"flat": [EVERYTHING]},
        {"flat": [(_id(5), _id(6)), (CANISTER, CANISTER)]},
        {"flat": [(_id(0), CANISTER)]},
        {"flat": [(CANISTER, _id(9))]},
        {"flat": None, "shards": {_id(0): [EVERYTHING]}},
        {"flat": None, "shards": {CANISTER: [(CANISTER, CANISTER)], _id(7): [(_id(7), _id(8))]}},
        {"flat": None, "shards": {_id(0): [], CANISTER: [(CANISTER, _id(6))]}},
    ],
)
def test_a_subnet_answers_for_its_canisters(options: dict[str, Any]) -> None:
    _verify(_delegated(**options))
    assert Certificate.parse(_delegated(**options)).subnet_id == Principal(SUBNET.principal)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("delegated", [False, True])
@pytest.mark.parametrize("rejected", [False, True])
def test_what_the_sandbox_certifies_is_genuine_and_other_clients_agree(
    *, sharded: bool, delegated: bool, rejected: bool
) -> None:
    certifier = Certifier(clock=SandboxClock(), delegation=delegated)
    request_id = bytes(range(32))
    answer = Rejected("IC0305", "no such snapshot") if rejected else Replied(b"DIDL\0\0" + bytes(3000))
    state = RequestState.REJECTED if rejected else RequestState.REPLIED
    status = RequestStatus(state=state, sender=b"\x04", canister_id=b"", answer=answer)
    data = b"".join(certifier.request_certificate(request_id, status, sharded=sharded))
    _verify(data, root_key=certifier.root_key_der, now_ns=time.time_ns())
    parsed = Certificate.parse(data)
    found = parsed.lookup(b"request_status", request_id, b"reject_message" if rejected else b"reply")
    assert isinstance(found, Found)
    assert bytes(found.value) == (b"DIDL\0\0" + bytes(3000) if isinstance(answer, Replied) else b"no such snapshot")
    assert isinstance(parsed.lookup(b"request_status", request_id, b"nothing"), Absent)
    assert isinstance(parsed.lookup(b"canister"), Unknown)
    other = IcpPyCoreCertificate(cbor2.loads(data.removeprefix(SELF_DESCRIBED)))
    assert other.root_hash() == parsed.tree.root_hash
    assert other.lookup_time() == parsed.time_ns


def test_an_unknown_request_is_certified_to_be_absent() -> None:
    certifier = Certifier(clock=SandboxClock())
    data = b"".join(certifier.request_certificate(bytes(range(32)), None, sharded=True))
    _verify(data, root_key=certifier.root_key_der, now_ns=time.time_ns())
    parsed = Certificate.parse(data)
    assert isinstance(parsed.lookup(b"request_status", bytes(range(32)), b"status"), Absent)


def test_unknown_fields_are_skipped() -> None:
    fields = cbor2.loads(certificate({}, key=ROOT, time_ns=NOW)[3:])
    _verify(cbor2.dumps({**fields, "later": {"x": [1, None]}}))


def test_certificates_about_the_subnet_itself_have_no_canister() -> None:
    _verify(_delegated(flat=[(_id(8), _id(9))]), canister_id=None)


def test_evidence_of_long_ago_is_checked_without_a_clock() -> None:
    old = certificate({}, delegation=delegation(flat=[EVERYTHING], time_ns=1), time_ns=2)
    _verify(old, now_ns=None)
    _refused("certificate_time", old)


# -- the others -----------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_network_is_refused() -> None:
    error = _refused("certificate_signature", certificate({}, key=STRANGER, time_ns=NOW))
    assert "root key" in error.hint
    _refused("certificate_signature", certificate({}, key=ROOT, time_ns=NOW), root_key=MAINNET_ROOT_KEY)
    _refused("certificate_delegation", _delegated(), root_key=MAINNET_ROOT_KEY)


def test_a_delegated_certificate_must_be_signed_by_the_subnet() -> None:
    about = delegation(flat=[EVERYTHING], time_ns=NOW)
    _refused("certificate_signature", certificate({}, key=STRANGER, delegation=about, time_ns=NOW))
    _refused("certificate_signature", certificate({}, key=ROOT, delegation=about, time_ns=NOW))


@pytest.mark.parametrize("signature", [b"", bytes(47), bytes(48), b"\xc0" + bytes(47), bytes(96)])
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    _refused("certificate_signature", certificate({}, signature=signature, key=ROOT, time_ns=NOW))


def test_a_delegation_by_anybody_else_is_refused() -> None:
    error = _refused("certificate_delegation", _delegated(key=STRANGER))
    assert str(Principal(SUBNET.principal)) in error.message


def test_a_delegation_to_another_subnet_is_refused() -> None:
    about = delegation(subnet=STRANGER, flat=[EVERYTHING], time_ns=NOW)
    swapped = {**about, "subnet_id": SUBNET.principal}
    error = _refused("certificate_delegation", certificate({}, delegation=swapped, time_ns=NOW))
    assert "does not hold" in error.message


def test_a_delegation_of_a_delegation_is_refused() -> None:
    middle = delegation(subnet=STRANGER, flat=[EVERYTHING], time_ns=NOW)
    about = delegation(key=STRANGER, inner=middle, flat=[EVERYTHING], time_ns=NOW)
    error = _refused("certificate_delegation", certificate({}, delegation=about, time_ns=NOW))
    assert "another delegation" in error.message


@pytest.mark.parametrize("key", [b"", bytes(133), SUBNET.der[:-1], SUBNET.der + b"\0", b"\x31" + SUBNET.der[1:]])
def test_a_key_of_another_form_is_refused(key: bytes) -> None:
    error = _refused("certificate_delegation", _delegated(subnet_key=key))
    assert "unknown form" in error.message
    if key:
        with pytest.raises(ConfigurationError) as caught:
            _verify(_delegated(), root_key=key)
        assert caught.value.kind == "bad_root_key"


def test_a_key_at_infinity_is_refused() -> None:
    nowhere = SUBNET.der[:37] + b"\xc0" + bytes(95)
    about = delegation(subnet_key=nowhere, flat=[EVERYTHING], time_ns=NOW)
    forged = certificate({}, delegation=about, signature=b"\xc0" + bytes(47), time_ns=NOW)
    _refused("certificate_signature", forged)


@pytest.mark.parametrize(
    "options",
    [
        {"flat": []},
        {"flat": [(_id(5), _id(9))]},
        {"flat": [(_id(0), _id(0))]},
        {"flat": [(CANISTER + b"\0", _id(9))]},
        {"flat": [(_id(0), CANISTER[:-1])]},
        {"flat": None},
        {"flat": None, "shards": {_id(2): [EVERYTHING]}},
        {"flat": None, "shards": {_id(0): [EVERYTHING], CANISTER: [(_id(7), _id(8))]}},
    ],
)
def test_a_subnet_does_not_answer_for_canisters_of_others(options: dict[str, Any]) -> None:
    error = _refused("certificate_range", _delegated(**options))
    assert error.context["subnet_id"] == str(Principal(SUBNET.principal))
    assert str(Principal(SUBNET.principal)) in error.message


@pytest.mark.parametrize("other", [b"\x00", b"\xff" * 29])
def test_what_is_said_of_another_subnet_does_not_count(other: bytes) -> None:
    # Genuine: the root subnet tells everybody about all subnets in one certificate.
    theirs = {b"public_key": STRANGER.der, b"canister_ranges": ranges(EVERYTHING)}
    state = {
        b"subnet": {SUBNET.principal: {b"public_key": SUBNET.der}, other: theirs},
        b"canister_ranges": {
            SUBNET.principal: {CANISTER: ranges((_id(5), _id(6)))},
            other: {_id(0): theirs[b"canister_ranges"]},
        },
    }
    inner = certificate(state, key=ROOT, time_ns=NOW)
    about = {"subnet_id": SUBNET.principal, "certificate": inner}
    _refused("certificate_range", certificate({b"x": b"y"}, delegation=about, time_ns=NOW))
    _refused("certificate_signature", certificate({b"x": b"y"}, key=STRANGER, delegation=about, time_ns=NOW))


def test_a_delegation_that_is_null_is_none() -> None:
    fields = cbor2.loads(certificate({b"x": b"y"}, key=ROOT, time_ns=NOW)[3:])
    _verify(SELF_DESCRIBED + cbor2.dumps({**fields, "delegation": None}))


def test_no_earlier_shard_answers_for_one_that_is_pruned() -> None:
    shards = {_id(0): ranges(EVERYTHING), CANISTER: Pruned(bytes(32))}
    state = {
        b"subnet": {SUBNET.principal: {b"public_key": SUBNET.der}},
        b"canister_ranges": {SUBNET.principal: shards},
    }
    about = {"subnet_id": SUBNET.principal, "certificate": certificate(state, key=ROOT, time_ns=NOW)}
    data = certificate({}, delegation=about, time_ns=NOW)
    _refused("certificate_range", data)
    _verify(data, canister_id=Principal(_id(0)))


def test_a_subnet_may_have_very_many_ranges() -> None:
    many = [(_id(number), _id(number)) for number in range(2, 60_002, 2)]
    data = _delegated(flat=[*many, (CANISTER, CANISTER)])
    _verify(data)
    _verify(data, canister_id=Principal(_id(4)))
    _refused("certificate_range", data, canister_id=Principal(_id(5)))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x81\x81\x41\x00", b"\x81\x83\x41\x00\x41\x00\x41\x00", b"\xa0", b"\x81\x82\x00\x00"]
)
def test_malformed_ranges_are_refused(data: bytes) -> None:
    state = {b"time": leb128(NOW), b"subnet": {SUBNET.principal: {b"public_key": SUBNET.der, b"canister_ranges": data}}}
    about = {"subnet_id": SUBNET.principal, "certificate": certificate(state, key=ROOT)}
    _refused("certificate_malformed", certificate({}, delegation=about, time_ns=NOW))


@pytest.mark.parametrize(
    ("age_ns", "old"), [(5 * MINUTE + 1, True), (DAY, True), (-5 * MINUTE - 1, False), (-DAY, False)]
)
def test_a_certificate_of_another_time_is_refused(age_ns: int, *, old: bool) -> None:
    error = _refused("certificate_time", certificate({}, key=ROOT, time_ns=NOW - age_ns))
    assert error.context["too_old"] is old
    assert ("too old" if old else "from the future") in error.message
    assert "clock" in error.hint
    assert "2026-09-21T14:13" in error.message


@pytest.mark.parametrize("age_ns", [5 * MINUTE, 0, -5 * MINUTE])
def test_clocks_may_differ_a_little(age_ns: int) -> None:
    data = certificate({}, key=ROOT, time_ns=NOW - age_ns)
    _verify(data)
    if age_ns:
        _refused("certificate_time", data, max_age=dt.timedelta(minutes=4))


@pytest.mark.parametrize(("age_ns", "fine"), [(29 * DAY, True), (31 * DAY, False), (-MINUTE, True), (-DAY, False)])
def test_a_delegation_lasts_a_month(age_ns: int, *, fine: bool) -> None:
    data = _delegated(time_ns=NOW - age_ns)
    if fine:
        _verify(data)
    else:
        assert "delegation" in _refused("certificate_time", data).message


def test_a_certificate_must_tell_its_time() -> None:
    tree = tree_of({b"x": b"y"})
    _refused("certificate_path", certificate(tree, key=ROOT))
    _refused("certificate_malformed", certificate({b"time": b"\x80"}, key=ROOT))
    _refused("certificate_path", certificate({b"time": {b"now": b"1"}}, key=ROOT))


def test_a_tree_out_of_order_is_refused_although_it_is_signed() -> None:
    tree = Fork(Labeled(b"time", Leaf(leb128(NOW))), Labeled(b"a", Leaf(b"")))
    _refused("certificate_malformed", certificate(tree, key=ROOT))


def test_any_changed_bit_is_noticed() -> None:
    data = _delegated()
    for bit in range(0, len(data) * 8, 11):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BackupError):
            _verify(bytes(changed))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tree": [0]},
        {"signature": bytes(48)},
        {"tree": [0], "signature": "text"},
        {"tree": [9], "signature": bytes(48)},
        {"tree": [0], "signature": bytes(48), "delegation": {}},
        {"tree": [0], "signature": bytes(48), "delegation": {"subnet_id": bytes(30), "certificate": b""}},
        {"tree": [0], "signature": bytes(48), "delegation": {"subnet_id": b"", "certificate": "text"}},
        {"tree": [0], "signature": bytes(48), **{str(number): 0 for number in range(20)}},
        {1: 2},
        [],
    ],
)
def test_what_is_no_certificate_is_refused(fields: object) -> None:
    with pytest.raises(CertificateError) as caught:
        Certificate.parse(cbor2.dumps(fields))
    assert caught.value.kind == "certificate_malformed"
    assert caught.value.hint


def test_bytes_behind_a_certificate_are_refused() -> None:
    with pytest.raises(CertificateError, match="follow"):
        Certificate.parse(certificate({}, key=ROOT) + b"\0")


def test_a_field_that_comes_twice_is_refused() -> None:
    with pytest.raises(CertificateError, match="twice"):
        Certificate.parse(b"\xa2\x64tree\x81\x00\x64tree\x81\x00")


@given(st.binary(max_size=120))
def test_any_bytes_are_a_certificate_or_refused(data: bytes) -> None:
    with pytest.raises(BackupError):
        _verify(data)


GENUINE = _delegated()


@given(st.integers(0, len(GENUINE)), st.binary(max_size=6), st.integers(0, 12))
def test_any_splice_into_a_certificate_is_refused(at: int, junk: bytes, dropped: int) -> None:
    changed = GENUINE[:at] + junk + GENUINE[at + dropped :]
    if changed == GENUINE:
        return
    with pytest.raises(BackupError):
        _verify(changed)


# -- speed and sharing ----------------------------------------------------------------------------------------------


def test_values_are_views_into_the_answer() -> None:
    data = certificate({b"reply": bytes(100_000)}, key=ROOT, time_ns=NOW)
    found = Certificate.parse(data).lookup(b"reply")
    assert isinstance(found, Found)
    assert found.value.obj is data


def test_a_delegation_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []
    verify = bls.verify

    def counted(key: bytes, message: bytes, signature: bytes) -> bool:
        keys.append(key)
        return verify(key, message, signature)

    monkeypatch.setattr(module, "_VERDICTS", VerdictCache())
    monkeypatch.setattr(bls, "verify", counted)
    data = _delegated()
    _verify(data)
    _verify(data)
    assert keys.count(ROOT.public_key) == 1
    assert keys.count(SUBNET.public_key) == 2
    # Another root key has its own verdicts, and a refused delegation has none.
    for _ in range(2):
        _refused("certificate_delegation", data, root_key=STRANGER.der)
    assert keys.count(STRANGER.public_key) == 2


def test_a_cached_delegation_is_still_checked_for_canister_and_age() -> None:
    data = _delegated(flat=[(CANISTER, CANISTER)])
    _verify(data)
    _refused("certificate_range", data, canister_id=Principal(_id(2)))
    later = NOW + 40 * DAY
    again = certificate({}, delegation=cbor2.loads(data[3:])["delegation"], time_ns=later)
    assert "delegation" in _refused("certificate_time", again, now_ns=later).message


def test_the_cache_is_bounded() -> None:
    cache = VerdictCache(most=2)
    facts: Any = object()
    made: list[int] = []

    def verified(number: int) -> Any:
        def make() -> Any:
            made.append(number)
            return facts

        return make

    for number in (1, 2, 1, 3, 1, 2):
        cache.get(b"root", b"subnet", bytes([number]), verified(number))
    assert made == [1, 2, 3, 2]


def test_threads_share_verdicts() -> None:
    data = _delegated(shards={_id(0): [EVERYTHING]}, flat=None)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                _verify(data)
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_last_moment_of_64_bits_is_a_date() -> None:
    assert moment((1 << 64) - 1).year == 2554
    assert moment(1_000_001_999).isoformat() == "1970-01-01T00:00:01.000001+00:00"
