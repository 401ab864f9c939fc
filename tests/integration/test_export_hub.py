"""Exports of the real Motoko hub in the sandbox network: what was planted is what is stored, faults or not."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from knowtation_backup import CaptureResult, ExportOptions, ExportReader, HubClient, OperatorExporter, VaultExporter
from knowtation_backup._engine.canonical import loads
from knowtation_backup.errors import RejectedError, SourceUnavailableError
from knowtation_backup.sandbox import Answer, FaultPlan, ResetAfterExecution, SandboxNetwork, SandboxServer, Truncate
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, SeedReport, seed

pytestmark = pytest.mark.sandbox

NOW = dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
KEY = "operator key of the integration tests, long enough"
SECRET = "gateway secret of the integration tests"
PLAN = SeedPlan.showcase(oversized=False, seed=3)


@attrs.frozen(kw_only=True)
class Place:
    """A seeded hub behind a real port, and the faults of its network."""

    hub: SandboxHub
    server: SandboxServer
    faults: FaultPlan
    planted: SeedReport

    def client(self, **options: Any) -> HubClient:
        given = {"operator_key": KEY, "gateway_secret": SECRET, "random": lambda: 0.01, **options}
        return HubClient(self.hub.base_url(self.server), **given)

    def export(self, **options: Any) -> tuple[bytes, CaptureResult]:
        hidden = {"extra_users": self.planted.hidden_user_ids, "extra_vaults": self.planted.hidden_vault_ids}
        with self.client() as client:
            capture = OperatorExporter(client, ExportOptions(**{**hidden, **options})).capture(taken_at=NOW)
            payload = b"".join(capture.chunks())
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prefetch", "decode"))]
        return payload, capture.result()


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    faults = FaultPlan(seed=11)
    with SandboxNetwork(faults=faults) as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=KEY, gateway_secret=SECRET)
        yield Place(hub=hub, server=server, faults=faults, planted=seed(hub, PLAN))


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    yield shared
    shared.faults.clear()


@pytest.fixture(scope="module")
def undisturbed(shared: Place) -> tuple[bytes, CaptureResult]:
    return shared.export()


def test_export_holds_exactly_what_was_planted(place: Place, undisturbed: tuple[bytes, CaptureResult]) -> None:
    payload, result = undisturbed
    notes = {
        (vault.user_id, vault.vault_id, note.path): (note.frontmatter, note.body)
        for vault in PLAN.contents()
        for note in vault.notes
    }
    stored = {
        (entry.user_id, entry.vault_id, entry.note.path): (entry.note.frontmatter, entry.note.body)
        for entry in ExportReader([payload])
        if entry.note
    }
    assert stored == notes
    reader = ExportReader([payload]).read_all()
    assert reader.counts["proposals"] == place.planted.proposals
    assert [tenant.user_id for tenant in reader.tenants] == [*place.planted.user_ids, *place.planted.hidden_user_ids]
    assert reader.content_root == result.details["content_root"]
    assert result.complete
    assert result.counts["unparseable_proposals"] == len(place.planted.malformed) == len(result.side_files)
    malformed = {(item["user_id"], item["vault_id"], item["proposal_id"]) for item in result.details["unparseable"]}
    assert malformed == set(place.planted.malformed)
    assert {"hidden_tenant", "proposal_collision"} <= {warning.code for warning in result.warnings}
    planted = {(vault.user_id, p.proposal_id): p for vault in PLAN.contents() for p in vault.proposals}
    filled = next(e.proposal for e in ExportReader([payload]) if e.proposal and e.proposal["path"] == "inbox/filled.md")
    original = next(p for p in planted.values() if p.path == "inbox/filled.md")
    for key in ("body", "frontmatter", "evaluation_checklist", "evaluation_waiver", "updated_at", "review_hints"):
        assert filled[key] == getattr(original, key), key
    assert filled["suggested_labels"] == json.loads(original.suggested_labels)


@pytest.mark.usefixtures("undisturbed")
def test_only_get_requests_reach_the_hub(place: Place) -> None:
    seen = [request for request in place.hub.network.requests.entries if "/api/v1/" in request.path]
    assert seen
    assert {request.method for request in seen} == {"GET"}


@pytest.mark.parametrize("concurrency", [1, 32])
def test_concurrency_does_not_show(place: Place, undisturbed: tuple[bytes, CaptureResult], concurrency: int) -> None:
    assert place.export(concurrency=concurrency)[0] == undisturbed[0]


def test_five_percent_faults_do_not_show(place: Place, undisturbed: tuple[bytes, CaptureResult]) -> None:
    for action in (
        Answer(status=503),
        Answer(status=429),
        Answer(status=500),
        ResetAfterExecution(),
        Truncate(keep=0.7),
    ):
        place.faults.add(action, endpoint="gateway", probability=0.05)
    payload, result = place.export(concurrency=16)
    assert payload == undisturbed[0]
    assert result.details["content_root"] == undisturbed[1].details["content_root"]
    assert result.complete
    assert {"hub_unavailable", "overloaded", "connection_lost"} <= set(result.details["transfer"]["retries_by_kind"])


def test_one_failing_tenant_leaves_the_rest_complete(place: Place, undisturbed: tuple[bytes, CaptureResult]) -> None:
    victim = place.planted.user_ids[1]
    place.faults.add(Answer(status=500), endpoint="gateway", headers={"x-user-id": victim})
    payload, result = place.export(on_error="continue")
    expected = {user["user_id"]: user for user in loads(undisturbed[0])["users"]}
    del expected[victim]
    assert {user["user_id"]: user for user in loads(payload)["users"]} == expected
    assert not result.complete
    assert [(failure["user_id"], failure["what"]) for failure in result.details["failures"]] == [(victim, "tenant")]
    with pytest.raises(SourceUnavailableError):
        place.export()


def test_double_reading_of_an_honest_hub_changes_nothing(
    place: Place, undisturbed: tuple[bytes, CaptureResult]
) -> None:
    payload, result = place.export(consistency="double")
    assert payload == undisturbed[0]
    assert result.details["remarks"] == undisturbed[1].details["remarks"]


def test_records_prove_the_same_content(place: Place, undisturbed: tuple[bytes, CaptureResult]) -> None:
    payload, result = place.export(payload="records")
    assert result.details["content_root"] == undisturbed[1].details["content_root"]
    assert ExportReader([payload]).read_all().content_root == result.details["content_root"]


def test_single_vault(place: Place, undisturbed: tuple[bytes, CaptureResult]) -> None:
    user_id = place.planted.user_ids[0]
    with place.client(operator_key=None) as client:
        capture = VaultExporter(client, user_id=user_id, vault_id="default").capture(taken_at=NOW)
        single = loads(b"".join(capture.chunks()))
    full = next(user for user in loads(undisturbed[0])["users"] if user["user_id"] == user_id)
    assert single["notes"] == next(vault["notes"] for vault in full["vaults"] if vault["vault_id"] == "default")
    assert [p for p in full["proposals"] if p["vault_id"] in {"", "default"}] == single["proposals"]


def test_single_notes(place: Place) -> None:
    vault = next(vault for vault in PLAN.contents() if vault.notes and vault.notes[0].path.isascii())
    with place.client() as client:
        read = client.note(vault.user_id, vault.vault_id, vault.notes[0].path)
        assert (read.frontmatter, read.body) == (vault.notes[0].frontmatter, vault.notes[0].body)
        with pytest.raises(RejectedError) as caught:
            client.note(vault.user_id, vault.vault_id, "no such note.md")
    assert caught.value.kind == "not_found"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, "ok"),
        ({"operator_key": "x" * 40}, "operator_key"),
        ({"gateway_secret": None}, "gateway_auth"),
        ({"gateway_secret": "wrong"}, "gateway_auth"),
    ],
)
def test_preflight(place: Place, options: dict[str, Any], status: str) -> None:
    with place.client(**options) as client:
        assert client.preflight().status == status


def test_oversized_vault_through_known_paths() -> None:
    plan = attrs.evolve(SeedPlan.showcase(oversized=True), tenants=0)
    huge = next(vault for vault in plan.contents() if vault.vault_id == "huge")
    plan = attrs.evolve(plan, others=tuple(v for v in plan.others if v.user_id == "github:oversized"))
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=KEY)
        planted = seed(hub, plan)
        with HubClient(hub.base_url(server), operator_key=KEY, random=lambda: 0.01) as client:
            with pytest.raises(SourceUnavailableError) as caught:
                b"".join(OperatorExporter(client).capture(taken_at=NOW).chunks())
            assert caught.value.kind == "hub_unavailable"
            assert "snapshot" in caught.value.hint
            options = ExportOptions(known_paths=lambda _user, _vault: [note.path for note in huge.notes])
            capture = OperatorExporter(client, options).capture(taken_at=NOW)
            payload = b"".join(capture.chunks())
    result = capture.result()
    assert not result.complete
    assert result.counts["notes"] == planted.notes
    read = {entry.note.path: entry.note.body for entry in ExportReader([payload]) if entry.note}
    assert all(read[note.path] == note.body for note in huge.notes)
    assert {tenant["user_id"]: tenant.get("partial_vaults") for tenant in result.details["tenants"]} == {
        "github:oversized": ["huge"]
    }
