"""The attestation ledger of the sandbox: exported whole, proven append-only, and what a lying replica is caught at."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import httpx
import pytest
from ic import candid
from ic.candid import Types

from knowtation_backup import Agent, CaptureResult, Ktb1Codec, MemorySink, Pipeline, verify_export_evidence
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.errors import (
    BackupError,
    CertificateError,
    ConfigurationError,
    ExportError,
    IntegrityError,
    RejectedError,
)
from knowtation_backup.exports.attestations import AttestationCapture, AttestationExporter, LedgerPrefix
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import SandboxNetwork, Tamper
from knowtation_backup.sandbox.hub import SandboxHub

pytestmark = pytest.mark.sandbox

NOW = dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
LEDGER = "rrkah-fqaaa-aaaaa-aaaaq-cai"


@attrs.frozen(kw_only=True)
class Place:
    hub: SandboxHub

    @property
    def ledger(self) -> str:
        return str(Principal(self.hub.attestation_id))

    def add(self, first: int, last: int) -> None:
        for number in range(first, last):
            entry = dict.fromkeys(("action", "path", "content_hash", "sig"), f"é {number}")
            self.hub.store_attestation(id=f"att-{number}", timestamp="2026-04-08T15:30:22.123Z", **entry)

    def export(self, previous: LedgerPrefix | None = None, *, certified: bool = False) -> tuple[bytes, CaptureResult]:
        with self.agent() as agent:
            exporter = AttestationExporter(agent=agent, canister_id=self.ledger, previous=previous, certified=certified)
            capture = exporter.capture(taken_at=NOW)
            return b"".join(capture.chunks()), capture.result()

    def agent(self, transport: httpx.BaseTransport | None = None) -> Agent:
        transport = transport or self.hub.network.transport()
        return Agent("http://127.0.0.1", root_key=self.hub.network.root_key, transport=transport)


@pytest.fixture
def place() -> Iterator[Place]:
    with SandboxNetwork() as network:
        yield Place(hub=SandboxHub.deploy(network))


def test_hub_22_whole_ledger_and_its_growth(place: Place) -> None:
    empty, nothing = place.export()
    assert json.loads(empty)["records"] == []
    place.add(0, 205)
    payload, result = place.export(LedgerPrefix.from_details(nothing.details))
    value = json.loads(payload)
    assert [key for key in value if key != "records"] == ["format_version", "kind", "exported_at", "canister_id"]
    assert [record["id"] for record in value["records"]] == [f"att-{number}" for number in range(205)]
    assert [record["seq"] for record in value["records"]] == list(range(1, 206))
    assert value["records"][7]["action"] == "é 7"
    assert result.counts == {"records": 205}
    assert json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() == payload
    place.add(205, 210)
    longer, second = place.export(LedgerPrefix.from_details(json.loads(json.dumps(result.details))))
    assert longer.startswith(payload[:-2])
    assert second.details["ledger"]["prefix_of_earlier"] == 205


def test_hub_22_rewritten_and_shortened_ledgers_are_noticed(place: Place) -> None:
    place.add(0, 3)
    _, result = place.export()
    digest = result.details["ledger"]["sha256"]
    for previous in (LedgerPrefix(records=2, sha256=digest), LedgerPrefix(records=4, sha256=digest)):
        with pytest.raises(IntegrityError) as caught:
            place.export(previous)
        assert caught.value.kind == "ledger_rewritten"


def test_hub_22_is_an_artifact_of_its_own(place: Place) -> None:
    place.add(0, 3)
    with place.agent() as agent:
        source = AttestationExporter(agent=agent, canister_id=place.ledger)
        pipeline = Pipeline(source=source, sink=MemorySink(), codec=Ktb1Codec(EncryptionKey.generate()))
        report = pipeline.backup()
    assert report.archive_id.startswith("attestation-export-")
    pipeline.verify().raise_for_findings()
    previous = LedgerPrefix.from_details(pipeline.details().capture)
    assert previous.records == 3


def test_query_mode_says_that_it_is_not_certified(place: Place) -> None:
    _, result = place.export()
    assert result.details["certified"] is False
    assert result.side_files == ()


def test_hub_22_certified_export_comes_with_its_evidence(place: Place) -> None:
    place.add(0, 205)
    queried, first = place.export()
    payload, result = place.export(LedgerPrefix.from_details(first.details), certified=True)
    assert payload == queried
    assert result.details["certified"] is True
    assert result.details["certification"]["replies"] == 5
    (evidence,) = (file.content for file in result.side_files)
    root_key = place.hub.network.root_key
    report = verify_export_evidence(evidence, [payload], root_key=root_key, canister_id=place.ledger)
    report.raise_for_findings()
    assert (report.complete, report.secrets_checked, report.replies) == (True, True, 5)
    forged = payload.replace("é 7".encode(), "é 8".encode(), 1)
    assert not verify_export_evidence(evidence, [forged], root_key=root_key).ok


@pytest.mark.parametrize("certified", [False, True])
def test_a_forged_answer_is_refused(place: Place, certified: bool) -> None:  # noqa: FBT001 - parametrised
    place.add(0, 3)
    place.hub.network.faults.add(Tamper(), endpoint="call" if certified else "query", every=1)
    with pytest.raises(CertificateError):
        place.export(certified=certified)


def test_a_canister_without_a_ledger_is_named(place: Place) -> None:
    with place.agent() as agent:
        hub_id = str(Principal(place.hub.hub_id))
        for certified in (False, True):
            exporter = AttestationExporter(agent=agent, canister_id=hub_id, certified=certified)
            with pytest.raises(RejectedError) as caught:
                list(exporter.capture(taken_at=NOW).chunks())
            assert caught.value.certified == certified


# What a single replica may answer instead, over a transport that makes it up.


TEXTS = ("id", "action", "path", "timestamp", "content_hash", "sig", "stored_at")
STATS = {"total": Types.Nat, "next_seq": Types.Nat}
RECORD = {**dict.fromkeys(TEXTS, Types.Text), "seq": Types.Nat}


def listing(record: dict[str, Any] = RECORD, total: Any = Types.Nat) -> Any:
    return Types.Record({"records": Types.Vec(Types.Record(record)), "total": total})


def encoded(kind: Any, value: Any) -> bytes:
    return bytes(candid.encode([{"type": kind, "value": value}]))


def answer(method: str, value: dict[str, Any]) -> bytes:
    return encoded(Types.Record(STATS) if method == "getStats" else listing(), value)


def replica(respond: Callable[[str, list[int]], Any]) -> Callable[[str, bytes], bytes]:
    def ask(method: str, arg: bytes) -> bytes:
        reply = respond(method, [item["value"] for item in candid.decode(arg)])
        return reply if isinstance(reply, bytes) else answer(method, reply)

    return ask


def record(seq: int) -> dict[str, Any]:
    return {**dict.fromkeys(TEXTS, "x"), "seq": seq}


def ledger(
    seqs: list[int], *, total: int | None = None, next_seq: int | None = None
) -> Callable[[str, list[int]], Any]:
    size = len(seqs) if total is None else total

    def respond(method: str, numbers: list[int]) -> Any:
        if method == "getStats":
            return {"total": size, "next_seq": (seqs[-1] + 1 if seqs else 1) if next_seq is None else next_seq}
        offset, limit = numbers
        return {"records": [record(seq) for seq in seqs[offset : offset + limit]], "total": size}

    return respond


def always(value: Any) -> Callable[[str, list[int]], Any]:
    return lambda _method, _numbers: value


def export(respond: Callable[[str, list[int]], Any]) -> CaptureResult:
    capture = AttestationCapture(replica(respond), canister_id=LEDGER, taken_at=NOW)
    list(capture.chunks())
    return capture.result()


def test_made_up_ledger_is_read_as_the_real_one() -> None:
    assert export(ledger(list(range(150)))).counts == {"records": 150}


@pytest.mark.parametrize(
    ("respond", "expected", "kind"),
    [
        (ledger([1, 2, 4]), IntegrityError, "ledger_gap"),
        (ledger([1, 2, 2]), IntegrityError, "ledger_gap"),
        (ledger([1, 2, 3], next_seq=9), IntegrityError, "ledger_gap"),
        (ledger([1, 2, 3], total=9), ExportError, "ledger_short"),
        (always(b"DIDL"), ExportError, "bad_reply"),
        (always(b"DIDL\x00\x01\x71\x01x"), ExportError, "bad_reply"),
    ],
)
def test_hub_22_what_does_not_add_up_is_named(
    respond: Callable[[str, list[int]], Any], expected: type[BackupError], kind: str
) -> None:
    with pytest.raises(expected) as caught:
        export(respond)
    assert caught.value.kind == kind


HOSTILE = b"DIDL\x01\x6d\x7f\x01\x00\xff\xff\xff\xff\x7f"
"""Announces billions of values that take no bytes."""


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("getStats", HOSTILE),
        ("getStats", encoded(Types.Nat, 1)),
        ("getStats", encoded(Types.Record({"total": Types.Nat}), {"total": 1})),
        ("getStats", encoded(Types.Record({**STATS, "total": Types.Text}), {"total": "1", "next_seq": 2})),
        ("getStats", encoded(Types.Record({**STATS, "total": Types.Int}), {"total": -1, "next_seq": 2})),
        ("getStats", encoded(Types.Record({**STATS, "total": Types.Bool}), {"total": True, "next_seq": 2})),
        ("getStats", answer("getStats", {"total": 1, "next_seq": 2}) + b"x"),
        ("listAttestations", HOSTILE),
        ("listAttestations", encoded(Types.Vec(Types.Nat), [1])),
        ("listAttestations", encoded(Types.Record({"records": Types.Vec(Types.Nat8)}), {"records": [1]})),
        ("listAttestations", encoded(listing(total=Types.Text), {"records": [record(1)], "total": "1"})),
        (
            "listAttestations",
            encoded(listing({**RECORD, "sig": Types.Nat}), {"records": [{**record(1), "sig": 1}], "total": 1}),
        ),
        ("listAttestations", encoded(listing({"seq": Types.Nat}), {"records": [{"seq": 1}], "total": 1})),
    ],
)
def test_hub_22_replies_of_another_shape_are_named(method: str, reply: bytes) -> None:
    honest = ledger([1])
    with pytest.raises(ExportError) as caught:
        export(lambda asked, numbers: reply if asked == method else honest(asked, numbers))
    assert caught.value.kind == "bad_reply"
    assert method in caught.value.message


def test_a_newer_ledger_may_tell_more() -> None:
    honest = ledger([1])
    more = encoded(Types.Record({**STATS, "since": Types.Text}), {"total": 1, "next_seq": 2, "since": "2026"})
    assert export(lambda asked, numbers: more if asked == "getStats" else honest(asked, numbers)).counts == {
        "records": 1
    }


def test_the_questions_that_evidence_was_made_with_never_change() -> None:
    asked: list[tuple[str, str]] = []
    honest = replica(ledger(list(range(101))))

    def ask(method: str, arg: bytes) -> bytes:
        asked.append((method, arg.hex()))
        return honest(method, arg)

    list(AttestationCapture(ask, canister_id=LEDGER, taken_at=NOW).chunks())
    assert asked == [
        ("getStats", "4449444c0000"),
        ("listAttestations", "4449444c00027d7d0064"),
        ("listAttestations", "4449444c00027d7d6464"),
        ("getStats", "4449444c0000"),
    ]


@pytest.mark.parametrize("text", ["", "x", "rrkah-fqaaa-aaaaa-aaaaq-caj", "é"])
def test_canister_ids_are_checked(text: str) -> None:
    with Agent() as agent, pytest.raises(ConfigurationError) as caught:
        AttestationExporter(agent=agent, canister_id=text)
    assert caught.value.kind == "bad_principal"
