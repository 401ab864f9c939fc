"""The attestation ledger of the sandbox: exported whole, proven append-only, and what a lying replica is caught at."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import cbor2
import httpx
import pytest
from ic import candid
from ic.principal import Principal

from knowtation_backup import CaptureResult, Ktb1Codec, MemorySink, Pipeline
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    ExportError,
    IntegrityError,
    RejectedError,
    SourceUnavailableError,
)
from knowtation_backup.exports import attestations
from knowtation_backup.exports.attestations import AttestationExporter, LedgerPrefix
from knowtation_backup.ic.query import QueryClient, principal_bytes
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub

pytestmark = pytest.mark.sandbox

NOW = dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
LEDGER = "rrkah-fqaaa-aaaaa-aaaaq-cai"


@attrs.frozen(kw_only=True)
class Place:
    hub: SandboxHub
    url: str

    @property
    def ledger(self) -> str:
        return str(Principal(bytes=self.hub.attestation_id).to_str())

    def add(self, first: int, last: int) -> None:
        for number in range(first, last):
            entry = dict.fromkeys(("action", "path", "content_hash", "sig"), f"é {number}")
            self.hub.store_attestation(id=f"att-{number}", timestamp="2026-04-08T15:30:22.123Z", **entry)

    def export(self, previous: LedgerPrefix | None = None) -> tuple[bytes, CaptureResult]:
        with QueryClient(self.url) as client:
            capture = AttestationExporter(client=client, canister_id=self.ledger, previous=previous).capture(
                taken_at=NOW
            )
            return b"".join(capture.chunks()), capture.result()


@pytest.fixture
def place() -> Iterator[Place]:
    with SandboxNetwork() as network, network.serve() as server:
        yield Place(hub=SandboxHub.deploy(network), url=server.url)


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
    with QueryClient(place.url) as client:
        source = AttestationExporter(client=client, canister_id=place.ledger)
        pipeline = Pipeline(source=source, sink=MemorySink(), codec=Ktb1Codec(EncryptionKey.generate()))
        report = pipeline.backup()
    assert report.archive_id.startswith("attestation-export-")
    pipeline.verify().raise_for_findings()
    previous = LedgerPrefix.from_details(pipeline.details().capture)
    assert previous.records == 3


def test_rejected_queries(place: Place) -> None:
    with QueryClient(place.url) as client:
        with pytest.raises(RejectedError) as caught:
            client.query(place.ledger, "noSuchMethod", b"DIDL\x00\x00")
        assert (caught.value.kind, caught.value.certified) == ("query_rejected", False)
        assert caught.value.reject_code is not None


# What a single replica may answer instead, over a transport that makes it up.


def answer(method: str, value: dict[str, Any]) -> bytes:
    kind = attestations._STATS if method == "getStats" else attestations._LIST
    return bytes(candid.encode([{"type": kind, "value": value}]))


def replica(respond: Callable[[str, list[int]], Any], **options: Any) -> QueryClient:
    def handler(request: httpx.Request) -> httpx.Response:
        content = cbor2.loads(request.content.removeprefix(b"\xd9\xd9\xf7"))["content"]
        numbers = [item["value"] for item in candid.decode(content["arg"])]
        reply = respond(content["method_name"], numbers)
        if isinstance(reply, httpx.Response):
            return reply
        if isinstance(reply, dict) and "status" not in reply:
            reply = {"status": "replied", "reply": {"arg": answer(content["method_name"], reply)}}
        return httpx.Response(200, content=b"\xd9\xd9\xf7" + cbor2.dumps(reply))

    waits: list[float] = []
    return QueryClient(transport=httpx.MockTransport(handler), **{"sleep": waits.append, **options})


def record(seq: int) -> dict[str, Any]:
    texts = dict.fromkeys(("id", "action", "path", "timestamp", "content_hash", "sig", "stored_at"), "x")
    return {**texts, "seq": seq}


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
    with replica(respond) as client:
        capture = AttestationExporter(client=client, canister_id=LEDGER).capture(taken_at=NOW)
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
        (always({"status": "rejected", "reject_code": 5}), RejectedError, "query_rejected"),
        (always({"status": "rejected", "reject_code": 2}), SourceUnavailableError, "query_rejected"),
        (always({"status": "replied", "reply": {"arg": b"DIDL"}}), ExportError, "bad_reply"),
        (
            always({"status": "replied", "reply": {"arg": b"DIDL\x00\x01\x71\x01x"}}),
            ExportError,
            "bad_reply",
        ),
        (always({"status": "replied"}), ExportError, "bad_reply"),
        (always([1]), ExportError, "bad_reply"),
        (always(httpx.Response(200, content=b"\xff")), ExportError, "bad_reply"),
        (always(httpx.Response(200, content=b"\x81" * 100_000)), ExportError, "bad_reply"),
        (always(httpx.Response(200, content=b"x" * 5_000_000)), ExportError, "reply_too_large"),
        (always(httpx.Response(400, text="no\x1b")), RejectedError, "rejected"),
        (always(httpx.Response(503)), SourceUnavailableError, "network_unavailable"),
    ],
)
def test_hub_22_what_does_not_add_up_is_named(
    respond: Callable[[str, list[int]], Any], expected: type[BackupError], kind: str
) -> None:
    with pytest.raises(expected) as caught:
        export(respond)
    assert caught.value.kind == kind
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://replica.example", "ftp://127.0.0.1"])
def test_plain_http_is_for_loopback(url: str) -> None:
    with pytest.raises(ConfigurationError):
        QueryClient(url)


@pytest.mark.parametrize("text", ["", "x", "rrkah-fqaaa-aaaaa-aaaaq-caj", "é"])
def test_canister_ids_are_checked(text: str) -> None:
    with pytest.raises(ConfigurationError):
        principal_bytes(text)
