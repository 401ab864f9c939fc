"""Certified exports of the sandbox's hub: what lies between is not trusted, and the evidence holds for the payload."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import random
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import httpx
import pytest

from knowtation_backup import (
    Agent,
    CaptureResult,
    EncryptionKey,
    Event,
    ExportOptions,
    HubClient,
    Ktb1Codec,
    MemorySink,
    OperatorExporter,
    Pipeline,
    VaultExporter,
    verify_export_evidence,
)
from knowtation_backup.errors import (
    CertificateError,
    ConfigurationError,
    ExportError,
    IntegrityError,
    OperationCancelledError,
    OutcomeUnknownError,
    RejectedError,
    UnsupportedFormatError,
)
from knowtation_backup.exports.evidence import EVIDENCE_NAME, EvidenceFile
from knowtation_backup.exports.questions import Question
from knowtation_backup.exports.resume import PreviousArchive
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import Answer, AnswerLater, FaultPlan, ResetAfterExecution, SandboxNetwork, Tamper
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, SeedReport, seed

pytestmark = pytest.mark.sandbox

NOW = dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
KEY = "operator key of the integration tests, long enough"
SECRET = "gateway secret of the integration tests"
TRUE, FORGED = b"pay 100 to alice", b"pay 999 to mallo"
PLAN = SeedPlan.showcase(oversized=False, seed=3)


@attrs.frozen(kw_only=True)
class Exported:
    payload: bytes
    result: CaptureResult

    @property
    def evidence(self) -> bytes:
        (file,) = (file for file in self.result.side_files if file.name == EVIDENCE_NAME)
        return file.content


@attrs.frozen(kw_only=True)
class Place:
    """A seeded hub, and the ways to it."""

    network: SandboxNetwork
    hub: SandboxHub
    planted: SeedReport

    def client(self, transport: httpx.BaseTransport | None = None) -> HubClient:
        transport = transport or self.network.transport()
        return HubClient(self.hub.base_url(), operator_key=KEY, gateway_secret=SECRET, transport=transport)

    def agent(self, transport: httpx.BaseTransport | None = None) -> Agent:
        transport = transport or self.network.transport()
        return Agent(
            "http://127.0.0.1", root_key=self.network.root_key, transport=transport, sleep=lambda _seconds: None
        )

    def export(self, mode: str = "certified", transport: httpx.BaseTransport | None = None, **options: Any) -> Exported:
        hidden = {"extra_users": self.planted.hidden_user_ids, "extra_vaults": self.planted.hidden_vault_ids}
        with self.client(transport) as client, self.agent(transport) as agent:
            given = {"mode": mode, "agent": agent} if mode == "certified" else {}
            exporter = OperatorExporter(client, ExportOptions(**(hidden | options)), **given)  # type: ignore[arg-type]
            return taken(exporter)

    def check(self, exported: Exported, **given: Any) -> Any:
        options = {"root_key": self.network.root_key, "canister_id": None} | given
        return verify_export_evidence(exported.evidence, [exported.payload], **options)


def taken(exporter: Any) -> Exported:
    capture = exporter.capture(taken_at=NOW)
    payload = b"".join(capture.chunks())
    return Exported(payload=payload, result=capture.result())


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with SandboxNetwork(faults=FaultPlan(seed=11)) as network:
        hub = SandboxHub.deploy(network, operator_key=KEY, gateway_secret=SECRET)
        planted = seed(hub, PLAN)
        note = {"path": "order.md", "frontmatter": "{}", "body": TRUE.decode()}
        vault = {"user_id": "zz:1", "vault_id": "default", "create_vault": True, "notes": [note], "proposals": []}
        hub.seed_vaults([vault])
        yield Place(network=network, hub=hub, planted=planted)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    yield shared
    shared.network.faults.clear()


@pytest.fixture(scope="module")
def certified(shared: Place) -> Exported:
    return shared.export()


@pytest.fixture(scope="module")
def small(shared: Place) -> tuple[Place, Exported]:
    """A hub of one tenant, for what is checked many times."""
    hub = SandboxHub.deploy(shared.network, operator_key=KEY, gateway_secret=SECRET)
    place = Place(network=shared.network, hub=hub, planted=seed(hub, SeedPlan(tenants=1, notes=2, proposals=2)))
    return place, place.export()


class Forger(httpx.BaseTransport):
    """A gateway and boundary node that changes a text in whatever it passes on."""

    def __init__(self, inner: httpx.BaseTransport, original: bytes, forged: bytes) -> None:
        assert len(original) == len(forged)
        self._inner = inner
        self._texts = (original, forged)
        self.forged = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        body = response.read()
        self.forged += self._texts[0] in body
        headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-length"]
        return httpx.Response(response.status_code, headers=headers, content=body.replace(*self._texts))


def test_the_payload_is_that_of_a_query_export(place: Place, certified: Exported) -> None:
    queried = place.export("query")
    assert certified.payload == queried.payload
    assert certified.result.counts == queried.result.counts
    assert queried.result.details["certified"] is False
    assert "certification" not in queried.result.details
    details = certified.result.details
    assert details["certified"] is True
    assert details["certification"]["replies"] == details["transfer"]["requests"]
    assert details["certification"]["certified_from"] <= details["certification"]["certified_to"]


def test_no_request_goes_through_a_gateway(place: Place) -> None:
    before = len(place.network.requests.entries)
    place.export()
    assert {entry.endpoint for entry in place.network.requests.entries[before:]} == {"call"}


def test_a_forged_note_is_seen_in_certified_mode_only(place: Place, certified: Exported) -> None:
    gateway = Forger(place.network.transport(), TRUE, FORGED)
    believed = place.export("query", gateway)
    assert FORGED in believed.payload
    assert believed.result.complete
    node = Forger(place.network.transport(), TRUE, FORGED)
    with pytest.raises(CertificateError) as caught:
        place.export(transport=node)
    assert node.forged
    assert caught.value.kind.startswith("certificate_")
    assert TRUE in certified.payload


def test_nothing_is_stored_of_a_forged_export(place: Place) -> None:
    sink = MemorySink()
    node = Forger(place.network.transport(), TRUE, FORGED)
    with place.client() as client, place.agent(node) as agent:
        for on_error in ("fail", "continue"):
            options = ExportOptions(on_error=on_error)
            source = OperatorExporter(client, options, mode="certified", agent=agent)
            with pytest.raises(CertificateError):
                Pipeline(source=source, sink=sink).backup()
    assert not [key for key in sink.contents() if key.endswith("manifest.json")]


@pytest.mark.parametrize("part", ["reply", "signature"])
def test_flipped_bits_are_refused(place: Place, part: Any) -> None:
    place.network.faults.add(Tamper(part=part), endpoint="call", nth=40)
    with pytest.raises(CertificateError):
        place.export()


def test_passing_failures_are_waited_out(place: Place, certified: Exported) -> None:
    faults = place.network.faults
    faults.add(ResetAfterExecution(), endpoint="call", every=9)
    faults.add(Answer(status=429), endpoint="call", every=7)
    faults.add(AnswerLater(0.05), endpoint="call", every=31)
    again = place.export(concurrency=16)
    assert again.payload == certified.payload
    assert again.result.details["transfer"]["retries_by_kind"].keys() >= {"connection_lost", "overloaded"}
    assert place.check(again).ok


# Evidence


def test_the_evidence_proves_the_payload(place: Place, certified: Exported) -> None:
    report = place.check(certified)
    report.raise_for_findings()
    assert (report.ok, report.complete, report.secrets_checked) == (True, True, False)
    assert report.replies == certified.result.details["certification"]["replies"]
    assert report.certified_from <= report.certified_to
    full = place.check(
        certified, operator_key=KEY, gateway_secret=SECRET, canister_id=place.client().address.canister_id
    )
    assert (full.ok, full.secrets_checked) == (True, True)
    assert "proven by" in str(full)


def test_the_evidence_holds_no_secret(certified: Exported) -> None:
    # Replies are compressed, questions are not; neither ever held one.
    for secret in (KEY, SECRET):
        assert secret.encode() not in certified.evidence
        assert secret.encode().hex().encode() not in certified.evidence
    assert b"x-gateway-auth" in certified.evidence
    assert KEY not in repr(certified.result)


def test_a_wrong_secret_does_not_fit(place: Place, certified: Exported) -> None:
    report = place.check(certified, operator_key=KEY, gateway_secret="another " * 5)
    assert {finding.code for finding in report.findings} == {"evidence_question"}


def test_another_network_or_canister_is_refused(place: Place, certified: Exported) -> None:
    other = SandboxNetwork(key_seed=b"another")
    with other:
        report = place.check(certified, root_key=other.root_key)
    assert "evidence_reply" in {finding.code for finding in report.findings}
    report = place.check(certified, canister_id="aaaaa-aa")
    assert report.findings[0].code == "evidence_reply"
    with pytest.raises(IntegrityError) as caught:
        report.raise_for_findings()
    assert caught.value.kind == "evidence"


@pytest.mark.parametrize(("form", "consistency"), [("full", "double"), ("records", "single")])
def test_every_form_and_consistency_is_proven(place: Place, form: str, consistency: str) -> None:
    exported = place.export(payload=form, consistency=consistency)
    assert place.check(exported).ok


def test_a_single_vault_is_proven(place: Place) -> None:
    vault = next(vault for vault in PLAN.contents() if vault.notes and vault.user_id.isascii())
    with place.client() as client, place.agent() as agent:
        exporter = VaultExporter(client, user_id=vault.user_id, vault_id=vault.vault_id, mode="certified", agent=agent)
        exported = taken(exporter)
    report = place.check(exported)
    report.raise_for_findings()
    assert report.complete


def test_each_changed_bit_of_the_payload_is_found(small: tuple[Place, Exported]) -> None:
    place, exported = small
    draw = random.Random(4)  # noqa: S311 - a sample
    for _ in range(16):
        at = draw.randrange(len(exported.payload))
        changed = bytearray(exported.payload)
        changed[at] ^= 1 << draw.randrange(8)
        report = place.check(attrs.evolve(exported, payload=bytes(changed)))
        (finding,) = report.findings
        assert finding.code == "evidence_payload"
        assert f"byte {at} on" in finding.message
    for payload in (exported.payload[:-1], exported.payload + b" "):
        assert not place.check(attrs.evolve(exported, payload=payload)).ok


def changed_evidence(exported: Exported, change: Callable[[bytes], bytes]) -> Exported:
    """Return the same export with other evidence."""
    file = attrs.evolve(exported.result.side_files[-1], content=change(exported.evidence))
    return attrs.evolve(exported, result=attrs.evolve(exported.result, side_files=(file,)))


def test_each_changed_bit_of_the_evidence_is_found(place: Place, certified: Exported) -> None:
    draw = random.Random(5)  # noqa: S311 - a sample
    for _ in range(300):
        at, bit = draw.randrange(len(certified.evidence)), 1 << draw.randrange(8)

        def flip(data: bytes, at: int = at, bit: int = bit) -> bytes:
            return data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]

        with pytest.raises((IntegrityError, UnsupportedFormatError)):
            place.check(changed_evidence(certified, flip))
    with pytest.raises(IntegrityError) as caught:
        place.check(changed_evidence(certified, lambda data: data[:-1]))
    assert caught.value.kind == "bad_evidence"


# What a forger does who makes the digest fit again.


def frames_of(data: bytes) -> list[bytes]:
    start = data.index(b"\n") + 1
    frames = [data[:start]]
    while start < len(data):
        (size,) = struct.unpack_from(">I", data, start)
        frames.append(data[start + 4 : start + 4 + size])
        start += 4 + size
    return frames


def sealed_again(frames: list[bytes], replies: int | None = None) -> bytes:
    end = json.loads(frames[-1][1:-32])
    end["replies"] = end["replies"] if replies is None else replies
    body = frames[0] + b"".join(struct.pack(">I", len(frame)) + frame for frame in frames[1:-1])
    last = b"E" + json.dumps(end, separators=(",", ":"), ensure_ascii=False).encode()
    return body + struct.pack(">I", len(last) + 32) + last + hashlib.sha256(body).digest()


def test_resealing_alone_changes_nothing(certified: Exported) -> None:
    assert sealed_again(frames_of(certified.evidence)) == certified.evidence


def test_each_changed_bit_of_resealed_evidence_is_found(small: tuple[Place, Exported]) -> None:
    place, exported = small
    draw = random.Random(6)  # noqa: S311 - a sample
    frames = frames_of(exported.evidence)
    replies = {record.number: record.reply() for record in EvidenceFile.parse(exported.evidence).records}
    for _ in range(100):
        changed = list(frames)
        which = draw.choices(range(1, len(frames) - 1), weights=[len(frame) for frame in frames[1:-1]])[0]
        at = draw.randrange(len(frames[which]))
        flipped = bytes((frames[which][at] ^ 1 << draw.randrange(8),))
        changed[which] = frames[which][:at] + flipped + frames[which][at + 1 :]
        sealed = sealed_again(changed)
        try:
            report = place.check(changed_evidence(exported, lambda _, sealed=sealed: sealed))  # type: ignore[misc]
        except (IntegrityError, UnsupportedFormatError):
            continue
        if report.ok:  # compression leaves bits at the end of a reply that mean nothing
            assert {record.number: record.reply() for record in EvidenceFile.parse(sealed).records} == replies


def test_replies_cannot_stand_in_for_others(place: Place, certified: Exported) -> None:
    def exchanged(data: bytes) -> bytes:
        frames = frames_of(data)
        first, second = [n for n, frame in enumerate(frames) if b'"url":"/api/v1/export"' in frame[:400]][:2]
        one, other = split(frames[first]), split(frames[second])
        frames[first] = joined(one[0], *other[1:])
        frames[second] = joined(other[0], *one[1:])
        return sealed_again(frames)

    report = place.check(changed_evidence(certified, exchanged))
    assert [finding.code for finding in report.findings][:2] == ["evidence_question"] * 2


def split(frame: bytes) -> tuple[bytes, bytes, bytes]:
    (size,) = struct.unpack_from(">I", frame, 1)
    head = frame[5 : 5 + size]
    (call,) = struct.unpack_from(">I", frame, 5 + size)
    return head, frame[9 + size : 9 + size + call], frame[9 + size + call :]


def joined(head: bytes, call: bytes, packed: bytes) -> bytes:
    return b"R" + struct.pack(">I", len(head)) + head + struct.pack(">I", len(call)) + call + packed


def test_a_question_cannot_be_told_otherwise(place: Place, certified: Exported) -> None:
    def renamed(data: bytes) -> bytes:
        frames = frames_of(data)
        at = next(n for n, frame in enumerate(frames) if b'"url":"/api/v1/export"' in frame[:400])
        head, call, packed = split(frames[at])
        frames[at] = joined(head.replace(b'["x-vault-id","', b'["x-vault-id","x'), call, packed)
        return sealed_again(frames)

    report = place.check(changed_evidence(certified, renamed))
    assert report.findings[0].code == "evidence_question"


def test_a_reply_cannot_be_left_out_or_added(place: Place, certified: Exported) -> None:
    frames = frames_of(certified.evidence)
    replies = len(frames) - 4
    dropped = frames[:5] + frames[6:]
    report = place.check(changed_evidence(certified, lambda _: sealed_again(dropped, replies - 1)))
    assert [finding.code for finding in report.findings] == ["evidence_payload"]
    twice = [*frames[:6], frames[5], *frames[6:]]
    with pytest.raises(IntegrityError):
        place.check(changed_evidence(certified, lambda _: sealed_again(twice, replies + 1)))


def test_replies_of_another_run_do_not_count(place: Place, certified: Exported) -> None:
    other = frames_of(place.export().evidence)
    frames = frames_of(certified.evidence)
    head = split(frames[2])[0]
    at = next(n for n, frame in enumerate(other) if frame[:1] == b"R" and split(frame)[0] == head)
    frames[2] = other[at]
    report = place.check(changed_evidence(certified, lambda _: sealed_again(frames)))
    assert [finding.code for finding in report.findings] == ["evidence_question"]


def test_the_header_cannot_be_changed(place: Place, certified: Exported) -> None:
    def later(data: bytes) -> bytes:
        frames = frames_of(data)
        frames[1] = frames[1].replace(b"2026-04-08", b"2026-04-09")
        return sealed_again(frames)

    changed = attrs.evolve(certified, payload=certified.payload.replace(b"2026-04-08", b"2026-04-09", 1))
    report = place.check(changed_evidence(changed, later))
    assert {finding.code for finding in report.findings} == {"evidence_question"}


def test_a_reply_nobody_asks_for_is_found(place: Place) -> None:
    with place.client() as client, place.agent() as agent:
        capture = OperatorExporter(client, mode="certified", agent=agent).capture(taken_at=NOW)
        reads = capture._reads
        assert reads is not None
        reads(Question(method="http_request", url="/health"), secrets={})
        payload = b"".join(capture.chunks())
    report = place.check(Exported(payload=payload, result=capture.result()))
    (finding,) = report.findings
    assert (finding.code, finding.where) == ("evidence_unused", "reply 1 (/health)")


# Limits and refusals


def test_what_was_not_read_is_told(place: Place) -> None:
    place.network.faults.add(Answer(status=400, text="no"), endpoint="call", nth=30)
    exported = place.export(on_error="continue")
    assert not exported.result.complete
    report = place.check(exported)
    assert (report.ok, report.complete) == (True, False)


def test_a_vault_beyond_a_replicated_reply_is_read_note_by_note() -> None:
    note = {"path": "a.md", "frontmatter": "{}", "body": "x" * 800_000}
    with SandboxNetwork() as network:
        hub = SandboxHub.deploy(network, operator_key=KEY)
        place = Place(network=network, hub=hub, planted=seed(hub, SeedPlan(tenants=0)))
        for number in range(3):
            vault = {"user_id": f"u{number}", "vault_id": "default", "create_vault": True, "proposals": []}
            hub.seed_vaults([vault | {"notes": [note | {"path": f"{number}.md"}]}])
        for number in range(3):
            vault = {"user_id": "u0", "vault_id": "default", "create_vault": True, "proposals": []}
            hub.seed_vaults([vault | {"notes": [note | {"path": f"more {number}.md"}]}])
        with place.client() as client, place.agent() as agent:
            with pytest.raises(RejectedError) as caught:
                taken(OperatorExporter(client, mode="certified", agent=agent))
            assert caught.value.kind == "reply_too_large"
            assert caught.value.certified
            known = ExportOptions(
                on_error="continue", known_paths=lambda _user, _vault: ["0.md", "more 1.md", "gone.md"]
            )
            exported = taken(OperatorExporter(client, known, mode="certified", agent=agent))
        assert exported.result.counts["notes"] == 4
        report = place.check(exported)
        report.raise_for_findings()
        assert not report.complete


def test_a_reply_that_the_network_dropped_is_asked_for_again(small: tuple[Place, Exported]) -> None:
    place, exported = small
    dropped: list[str] = []

    class Forgetful(Agent):
        def call(self, canister_id: Principal, method: str, arg: Any, **options: Any) -> Any:
            reply = super().call(canister_id, method, arg, **options)
            if len(dropped) < 2:
                dropped.append(method)
                raise OutcomeUnknownError("executed, but the reply is gone", kind="reply_dropped")
            return reply

    agent = Forgetful("http://127.0.0.1", root_key=place.network.root_key, transport=place.network.transport())
    with place.client() as client, agent:
        again = taken(OperatorExporter(client, ExportOptions(concurrency=1), mode="certified", agent=agent))
    assert dropped == ["http_request"] * 2
    assert again.payload == exported.payload
    assert place.check(again).ok


def test_a_network_that_goes_down_costs_the_retry_budget_once(place: Place) -> None:
    place.network.faults.add(Answer(status=503), endpoint="call", every=2)
    place.network.faults.add(ResetAfterExecution(), endpoint="call", every=3)
    exported = place.export(on_error="continue", retry_budget=20, concurrency=2)
    assert not exported.result.complete
    transfer = exported.result.details["transfer"]
    assert transfer["retries"] <= 20 + transfer["requests"]
    report = place.check(exported)
    assert (report.ok, report.complete) == (True, False)


def test_a_cancelled_export_ends_at_once(place: Place) -> None:
    with place.client() as client, place.agent() as agent:
        exporter = OperatorExporter(client, mode="certified", agent=agent)

        def cancel(event: Event) -> None:
            if event.name == "export.index":
                capture.cancel()

        capture = exporter.capture(taken_at=NOW, observer=cancel)
        with pytest.raises(OperationCancelledError):
            list(capture.chunks())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode"))]


def test_too_much_evidence_ends_the_export(place: Place) -> None:
    with pytest.raises(ExportError) as caught:
        place.export(evidence_bytes=10_000)
    assert caught.value.kind == "evidence_too_large"


def test_modes_need_what_they_need_and_nothing_else(place: Place) -> None:
    with place.client() as client, place.agent() as agent, HubClient("https://hub.example", operator_key=KEY) as other:
        previous = PreviousArchive({}, lambda: iter(()))
        cases: list[tuple[Callable[[], object], str]] = [
            (lambda: OperatorExporter(client, mode="certified"), "agent_missing"),
            (lambda: OperatorExporter(client, agent=agent), "bad_option"),
            (lambda: OperatorExporter(client, mode="sure", agent=agent), "bad_option"),  # type: ignore[arg-type]
            (lambda: OperatorExporter(other, mode="certified", agent=agent), "no_canister_id"),
            (
                lambda: OperatorExporter(client, ExportOptions(previous=previous), mode="certified", agent=agent),
                "certified_resume",
            ),
            (lambda: VaultExporter(client, user_id="u", mode="certified"), "agent_missing"),
        ]
        for make, kind in cases:
            with pytest.raises(ConfigurationError) as caught:
                make()
            assert caught.value.kind == kind
        exporter = OperatorExporter(other, mode="certified", agent=agent, canister_id=client.address.canister_id)
        with pytest.raises(RejectedError) as refused:  # it reaches the hub, but lacks the gateway secret
            taken(exporter)
        assert refused.value.kind == "gateway_auth"


def test_the_evidence_is_sealed_beside_the_archive(place: Place) -> None:
    with place.client() as client, place.agent() as agent:
        source = OperatorExporter(client, mode="certified", agent=agent)
        pipeline = Pipeline(source=source, sink=MemorySink(), codec=Ktb1Codec(EncryptionKey.generate()))
        pipeline.backup()
    pipeline.verify().raise_for_findings()
    assert pipeline.details().capture["certified"] is True
    root_key = place.network.root_key
    report = verify_export_evidence(pipeline.side_file(EVIDENCE_NAME), pipeline.read(), root_key=root_key)
    report.raise_for_findings()


@pytest.mark.parametrize(
    "data", [b"", b"x", b"knowtation-backup evidence 1\n", b"knowtation-backup evidence 1\n\0\0\0\1H"]
)
def test_what_is_no_evidence_is_named(data: bytes) -> None:
    with pytest.raises((UnsupportedFormatError, IntegrityError)):
        verify_export_evidence(data, [b"{}"])
