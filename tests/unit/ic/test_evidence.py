"""Evidence of calls: it proves question and answer offline, and fails when anything was changed."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import time
from typing import Any

import attrs
import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ic_certificates import CANISTER, ROOT, certificate, delegation

from knowtation_backup.errors import BackupError, CertificateError, ConfigurationError
from knowtation_backup.ic.certificate import MAINNET_ROOT_KEY, Certificate, Delegation, moment
from knowtation_backup.ic.evidence import CallEvidence, CertifiedReply, DelegationBook
from knowtation_backup.ic.hash_tree import Found
from knowtation_backup.ic.wire import request_id
from knowtation_backup.model.ids import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from knowtation_backup.sandbox import SandboxClock
from knowtation_backup.sandbox.messages import Rejected, Replied, RequestState, RequestStatus
from knowtation_backup.sandbox.protocol.certification import Certifier

CANISTER_ID = Principal(CANISTER)
ARG = b"DIDL\x01\x6c\x02" + b"\x01\x0a" + CANISTER + b"which part"
REPLY = b"DIDL\0\0" + bytes(5_000)
CERTIFIERS = {delegated: Certifier(clock=SandboxClock(), delegation=delegated) for delegated in (True, False)}
DELEGATED = CERTIFIERS[True]


def _content(**fields: Any) -> dict[str, Any]:
    return {
        "request_type": "call",
        "sender": ANONYMOUS.raw,
        "nonce": bytes(range(16)),
        "ingress_expiry": 1_790_000_000 * 10**9,
        "canister_id": MANAGEMENT_CANISTER.raw,
        "method_name": "read_canister_snapshot_data",
        **fields,
    }


def _reply(
    certifier: Certifier = DELEGATED,
    *,
    content: dict[str, Any] | None = None,
    arg: bytes = ARG,
    answer: Replied | Rejected | None = None,
    sharded: bool = True,
) -> CertifiedReply:
    """Return what an agent hands out for a call that the sandbox certified."""
    content = content or _content()
    number = request_id(content, arg)
    answer = answer or Replied(REPLY)
    state = RequestState.REPLIED if isinstance(answer, Replied) else RequestState.REJECTED
    status = RequestStatus(state=state, sender=b"\x04", canister_id=b"", answer=answer)
    parsed = Certificate.parse(b"".join(certifier.request_certificate(number, status, sharded=sharded)))
    found = parsed.lookup(b"request_status", number, b"reply")
    plain = {name: value for name, value in content.items() if value is not None}
    return CertifiedReply(
        reply=found.value if isinstance(found, Found) else memoryview(b""),
        certificate=parsed,
        content=plain,
        request_id=number,
        effective_canister_id=CANISTER_ID,
    )


EVIDENCE = CallEvidence.of(_reply())


def _check(
    evidence: CallEvidence = EVIDENCE, *, arg: Any = ARG, reply: Any = REPLY, root_key: bytes | None = None
) -> Any:
    return evidence.check(arg=arg, reply=reply, root_key=DELEGATED.root_key_der if root_key is None else root_key)


def _refused(kind: str, evidence: CallEvidence = EVIDENCE, **options: Any) -> None:
    with pytest.raises(CertificateError) as caught:
        _check(evidence, **options)
    assert caught.value.kind == kind


@pytest.mark.parametrize("delegated", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("nonce", [b"", b"n" * 32, None])
def test_a_genuine_record_proves_reply_and_time(*, delegated: bool, sharded: bool, nonce: bytes | None) -> None:
    certifier = CERTIFIERS[delegated]
    reply = _reply(certifier, content=_content(nonce=nonce), sharded=sharded)
    evidence = CallEvidence.of(reply)
    proved = evidence.check(arg=ARG, reply=reply.reply, root_key=certifier.root_key_der)
    assert proved == moment(reply.time_ns)
    assert abs(proved.timestamp() - time.time()) < 600
    assert evidence.sender == ANONYMOUS
    assert evidence.method_name == "read_canister_snapshot_data"


def test_arguments_and_replies_may_come_in_parts() -> None:
    assert _check() == _check(arg=[ARG[:9], memoryview(ARG)[9:]], reply=[REPLY[:100], b"", bytearray(REPLY[100:])])


def test_a_record_is_small_and_independent_of_the_answer() -> None:
    reply = _reply(answer=Replied(bytes(1_000_000)))
    evidence = CallEvidence.of(reply)
    book = DelegationBook()
    assert len(evidence.to_cbor(book)) < 500
    assert len(evidence.to_cbor()) < 1_200
    assert isinstance(evidence.certificate, bytes)


def test_the_kept_certificate_holds_only_what_the_proof_needs() -> None:
    kept = Certificate.parse(EVIDENCE.certificate)
    number = request_id(_content(), ARG)
    assert kept.tree.labels() == (b"request_status", b"time")
    assert kept.tree.labels(b"request_status") == (number,)
    assert kept.tree.labels(b"request_status", number) == (b"reply", b"status")
    assert not isinstance(kept.lookup(b"request_status", number, b"reply"), Found)


def test_a_record_survives_being_written_down() -> None:
    assert CallEvidence.from_cbor(EVIDENCE.to_cbor()) == EVIDENCE
    book = DelegationBook()
    records = [CallEvidence.of(_reply(content=_content(nonce=bytes([number])))) for number in range(5)]
    written = [record.to_cbor(book) for record in records]
    assert len(book) == 1
    again = DelegationBook.from_cbor(book.to_cbor())
    assert [CallEvidence.from_cbor(data, again) for data in written] == records
    for record in records:
        _check(record)


def test_a_record_of_the_root_subnet_has_no_delegation() -> None:
    evidence = CallEvidence.of(_reply(CERTIFIERS[False]))
    book = DelegationBook()
    assert CallEvidence.from_cbor(evidence.to_cbor(book), book) == evidence
    assert len(book) == 0
    assert evidence.to_cbor() == evidence.to_cbor(book)


@pytest.mark.parametrize("position", [0, 1, 7, len(REPLY) - 1])
def test_a_changed_reply_is_noticed(position: int) -> None:
    changed = bytearray(REPLY)
    changed[position] ^= 1
    _refused("evidence_reply", reply=bytes(changed))


@pytest.mark.parametrize("reply", [b"", REPLY[:-1], REPLY + b"\0"])
def test_a_cut_or_longer_reply_is_noticed(reply: bytes) -> None:
    _refused("evidence_reply", reply=reply)


@pytest.mark.parametrize("bit", range(0, len(ARG) * 8, 3))
def test_a_changed_question_is_noticed(bit: int) -> None:
    changed = bytearray(ARG)
    changed[bit // 8] ^= 1 << bit % 8
    _refused("evidence_question", arg=bytes(changed))


@pytest.mark.parametrize(
    "changes",
    [
        {"sender": Principal(b"\x05")},
        {"nonce": None},
        {"nonce": b""},
        {"ingress_expiry_ns": 1},
        {"canister_id": CANISTER_ID},
        {"method_name": "read_canister_snapshot_metadata"},
        {"effective_canister_id": Principal(bytes.fromhex("00000000000000020101"))},
        {"effective_canister_id": MANAGEMENT_CANISTER},
    ],
)
def test_a_changed_field_is_noticed(changes: dict[str, Any]) -> None:
    with pytest.raises(CertificateError):
        _check(attrs.evolve(EVIDENCE, **changes))


def test_the_canister_of_a_direct_call_is_the_one_that_answers() -> None:
    content = _content(canister_id=CANISTER)
    evidence = CallEvidence.of(_reply(content=content, arg=b"DIDL\0\0"))
    _check(evidence, arg=b"DIDL\0\0")
    other = attrs.evolve(evidence, effective_canister_id=Principal(bytes.fromhex("00000000000000020101")))
    _refused("evidence_question", other, arg=b"DIDL\0\0")


def test_a_canister_inside_another_value_of_the_question_is_not_its_own() -> None:
    arg = b"DIDL\x01\x6c\x02" + b"\x01\x0a" + bytes(8) + b"\x01\x01" + b"\x12" + bytes(8) + CANISTER
    _check(CallEvidence.of(_reply(arg=ARG)))
    _refused("evidence_question", CallEvidence.of(_reply(arg=arg)), arg=arg)


def test_the_hash_of_an_argument_with_a_secret_is_enough() -> None:
    content = _content(canister_id=CANISTER)
    evidence = CallEvidence.of(_reply(content=content, arg=b"secret"))
    digest = hashlib.sha256(b"secret").digest()
    root_key = DELEGATED.root_key_der
    assert evidence.check(arg_sha256=digest, reply=REPLY, root_key=root_key) <= dt.datetime.now(dt.UTC)
    with pytest.raises(CertificateError):
        evidence.check(arg_sha256=hashlib.sha256(b"other").digest(), reply=REPLY, root_key=root_key)


def test_evidence_of_another_network_is_refused() -> None:
    _refused("certificate_delegation", root_key=MAINNET_ROOT_KEY)
    with pytest.raises(ConfigurationError):
        _check(root_key=b"")


def test_a_delegation_of_another_subnet_is_refused() -> None:
    other = Certifier(clock=SandboxClock(), seed=b"other")
    theirs = CallEvidence.of(_reply(other))
    _refused("certificate_delegation", attrs.evolve(EVIDENCE, delegation=theirs.delegation))
    _refused("certificate_signature", attrs.evolve(EVIDENCE, delegation=None))


def test_a_subnet_proves_nothing_about_canisters_of_others() -> None:
    state = {b"request_status": {request_id(_content(), ARG): {b"status": b"replied", b"reply": REPLY}}}
    data = certificate(state)
    for pair, kind in (((CANISTER, CANISTER), ""), ((b"\x01", b"\x02"), "certificate_range")):
        about = delegation(flat=[pair])
        granted = Delegation(subnet_id=Principal(about["subnet_id"]), certificate=about["certificate"])
        evidence = attrs.evolve(EVIDENCE, certificate=data, delegation=granted)
        if kind:
            _refused(kind, evidence, root_key=ROOT.der)
        else:
            _check(evidence, root_key=ROOT.der)


def test_a_rejected_call_is_no_evidence_of_a_reply() -> None:
    evidence = CallEvidence.of(_reply(answer=Rejected("IC0305", "no such snapshot")))
    _refused("evidence_reply", evidence)


def test_a_certificate_of_something_else_is_no_evidence() -> None:
    bare = certificate({b"x": b"y"}, key=ROOT)
    evidence = attrs.evolve(EVIDENCE, certificate=bare, delegation=None)
    _refused("evidence_question", evidence, root_key=ROOT.der)


def test_a_reply_beside_another_status_is_no_evidence() -> None:
    number = request_id(_content(), ARG)
    for status, kind in ((b"replied", ""), (b"done", "evidence_reply"), (b"", "evidence_reply")):
        state = {b"request_status": {number: {b"status": status, b"reply": REPLY}}}
        evidence = attrs.evolve(EVIDENCE, certificate=certificate(state, key=ROOT), delegation=None)
        if kind:
            _refused(kind, evidence, root_key=ROOT.der)
        else:
            _check(evidence, root_key=ROOT.der)


def test_a_record_has_one_form_only() -> None:
    data = EVIDENCE.to_cbor()
    assert data[1] == 1  # the version, which may be written longer
    with pytest.raises(CertificateError, match="canonical"):
        CallEvidence.from_cbor(data[:1] + b"\x18\x01" + data[2:])
    with pytest.raises(CertificateError):
        CallEvidence.from_cbor(data + b"\0")


def test_a_delegation_inside_the_certificate_is_refused() -> None:
    delegation = EVIDENCE.delegation
    assert delegation is not None
    fields = cbor2.loads(EVIDENCE.certificate)
    inner = {"subnet_id": delegation.subnet_id.raw, "certificate": delegation.certificate}
    smuggled = attrs.evolve(EVIDENCE, certificate=cbor2.dumps({**fields, "delegation": inner}))
    _refused("certificate_malformed", smuggled)


@pytest.mark.parametrize("shared", [True, False])
def test_any_changed_bit_of_a_record_is_noticed(*, shared: bool) -> None:
    book = DelegationBook() if shared else None
    data = EVIDENCE.to_cbor(book)
    for bit in [*range(64), *range(64, len(data) * 8, 13)]:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BackupError):
            _check(CallEvidence.from_cbor(bytes(changed), book))


def test_any_changed_bit_of_the_delegations_is_noticed() -> None:
    book = DelegationBook()
    record = EVIDENCE.to_cbor(book)
    data = book.to_cbor()
    for bit in range(0, len(data) * 8, 7):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BackupError):
            _check(CallEvidence.from_cbor(record, DelegationBook.from_cbor(bytes(changed))))


@given(st.binary(max_size=100))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    for read in (CallEvidence.from_cbor, DelegationBook.from_cbor):
        with contextlib.suppress(CertificateError):
            read(data)


FIELDS = cbor2.loads(EVIDENCE.to_cbor())


@pytest.mark.parametrize("place", range(len(FIELDS)))
@pytest.mark.parametrize("value", [None, "text", bytes(40), {}, [1, 2, 3], 77, True])
def test_a_field_of_another_kind_is_refused(place: int, value: object) -> None:
    fields = [*FIELDS]
    fields[place] = value
    with pytest.raises(BackupError):
        _check(CallEvidence.from_cbor(cbor2.dumps(fields)))


def test_a_record_of_a_later_version_is_named_so() -> None:
    with pytest.raises(CertificateError, match="version 2"):
        CallEvidence.from_cbor(cbor2.dumps([2, *FIELDS[1:]]))


def test_a_number_that_is_in_no_book_is_refused() -> None:
    with pytest.raises(CertificateError, match="delegation 5"):
        CallEvidence.from_cbor(cbor2.dumps([*FIELDS[:-1], 5]), DelegationBook())
    with pytest.raises(CertificateError, match="delegation 0"):
        CallEvidence.from_cbor(cbor2.dumps([*FIELDS[:-1], 0]), DelegationBook())
    with pytest.raises(CertificateError):
        CallEvidence.from_cbor(cbor2.dumps([*FIELDS[:-1], 0]))


def test_a_record_beyond_all_sizes_is_refused() -> None:
    with pytest.raises(CertificateError, match="larger"):
        CallEvidence.from_cbor(bytes(2 << 20))


def test_a_delegation_is_noted_once() -> None:
    pair = [b"id", b"certificate"]
    with pytest.raises(CertificateError, match="twice"):
        DelegationBook.from_cbor(cbor2.dumps([pair, pair]))
    with pytest.raises(CertificateError):
        DelegationBook.from_cbor(cbor2.dumps([[bytes(30), b""]]))
    with pytest.raises(CertificateError):
        DelegationBook.from_cbor(cbor2.dumps([[b""]]))
