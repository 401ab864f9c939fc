"""Plans plant what they say, the same every time, and the report tells what an export must find."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import attrs
import httpx
import pytest

from knowtation_backup.sandbox.hub import PROPOSAL_KEYS, Note, Proposal, SandboxHub, SeedPlan, Vault, seed

OPERATOR = {"X-Operator-Export-Key": "operator secret"}


@attrs.frozen
class Reader:
    """Reads a hub over HTTP, as an operator and as any tenant."""

    client: httpx.Client

    def get(self, path: str, user_id: str, vault_id: str = "default") -> httpx.Response:
        return self.client.get(f"/api/v1/{path}", headers={"X-User-Id": user_id, "X-Vault-Id": vault_id})

    def user_ids(self) -> list[str]:
        found: list[str] = []
        cursor = "0"
        while cursor:
            page = self.client.get(f"/api/v1/operator/export?limit=200&cursor={cursor}", headers=OPERATOR).json()
            found += page["user_ids"]
            cursor = page["next_cursor"]
        return found

    def vault_ids(self, user_id: str) -> list[str]:
        return [vault["id"] for vault in self.get("vaults", user_id).json()["vaults"]]

    def notes(self, user_id: str, vault_id: str) -> set[Note]:
        return {Note(**note) for note in self.get("export", user_id, vault_id).json()["notes"]}

    def proposals(self, user_id: str, vault_id: str) -> list[dict[str, Any]]:
        listed = self.get("proposals", user_id, vault_id).json()
        assert listed["total"] == len(listed["proposals"])
        return list(listed["proposals"])


@pytest.fixture
def reader(empty_hub: SandboxHub) -> Iterator[Reader]:
    with httpx.Client(transport=empty_hub.network.transport(), base_url=empty_hub.base_url()) as client:
        yield Reader(client)


def test_a_plan_is_planted_exactly(empty_hub: SandboxHub, reader: Reader) -> None:
    plan = SeedPlan(tenants=3, vaults=2, notes=7, proposals=3, body_size_bytes=1_000)
    report = seed(empty_hub, plan)
    assert tuple(reader.user_ids()) == report.user_ids == ("google:100000", "google:100001", "google:100002")
    vaults = list(plan.contents())
    assert (report.vaults, report.notes, report.proposals) == (6, 42, 18)
    assert report.body_size_bytes == sum(len(note.body) for vault in vaults for note in vault.notes)
    assert (report.hidden_user_ids, report.malformed, report.oversized) == ((), (), ())
    for vault in vaults:
        assert vault.vault_id in reader.vault_ids(vault.user_id)
        assert reader.notes(vault.user_id, vault.vault_id) == set(vault.notes)
        ids = [stub["proposal_id"] for stub in reader.proposals(vault.user_id, vault.vault_id)]
        assert ids == [proposal.proposal_id for proposal in vault.proposals]


def test_plans_are_deterministic() -> None:
    plan = SeedPlan.showcase()
    assert list(plan.contents()) == list(plan.contents())
    assert list(attrs.evolve(plan, seed=1).contents()) != list(plan.contents())


def test_sizes_of_bodies_spread_around_their_mean() -> None:
    sizes = [len(note.body) for vault in SeedPlan(tenants=4, notes=100).contents() for note in vault.notes]
    assert min(sizes) >= 300
    assert max(sizes) <= 900
    assert 550 < sum(sizes) / len(sizes) < 650


def test_every_field_of_a_proposal_is_planted(empty_hub: SandboxHub, reader: Reader) -> None:
    fields = {key: f"{key} é\n" for key in PROPOSAL_KEYS} | {
        "proposal_id": "prop-1",
        "vault_id": "default",
        "suggested_labels": '["l"]',
        "assistant_suggested_frontmatter": '{"f":1}',
    }
    seed(empty_hub, SeedPlan(others=(Vault(user_id="u", proposals=(Proposal(**fields),)),)))
    expected = fields | {"suggested_labels": ["l"], "assistant_suggested_frontmatter": {"f": 1}}
    assert reader.get("proposals/prop-1", "u").json() == expected


def test_copied_notes_are_planted_for_every_tenant(empty_hub: SandboxHub, reader: Reader) -> None:
    plan = SeedPlan.large(6_000_000, vault_size_bytes=1_000_000)
    report = seed(empty_hub, plan)
    assert len(report.user_ids) == 6
    assert report.notes == 300
    assert 5_400_000 < report.body_size_bytes < 6_600_000
    for vault in plan.contents():
        assert reader.notes(vault.user_id, "default") == set(vault.notes)
        assert len(reader.proposals(vault.user_id, "default")) == 1


def test_copies_take_little_memory(empty_hub: SandboxHub) -> None:
    report = seed(empty_hub, SeedPlan.large(400_000_000))
    code = empty_hub.network.canisters[empty_hub.hub_id].code
    assert code is not None
    assert report.body_size_bytes > 380_000_000
    assert code.heap.size_bytes < 200_000_000


def test_a_thousand_tenants_are_planted_in_seconds(empty_hub: SandboxHub, reader: Reader) -> None:
    started = time.monotonic()
    report = seed(empty_hub, SeedPlan.many_tenants(1_000, proposals=2))
    assert time.monotonic() - started < 10
    assert (len(report.user_ids), report.vaults, report.proposals) == (1_000, 1_000, 2_000)
    assert tuple(reader.user_ids()) == report.user_ids


# The showcase


@pytest.fixture(scope="module")
def showcase_plan() -> SeedPlan:
    return SeedPlan.showcase()


def test_the_showcase_is_planted_exactly(empty_hub: SandboxHub, reader: Reader, showcase_plan: SeedPlan) -> None:
    report = seed(empty_hub, showcase_plan)
    assert tuple(reader.user_ids()) == report.user_ids
    assert report.notes > 2_500
    notes = proposals = vaults = 0
    for vault in showcase_plan.contents():
        listed = vault.vault_id in reader.vault_ids(vault.user_id)
        vaults += listed and vault.user_id not in report.hidden_user_ids
        notes += len(vault.notes)
        proposals += len({stub["proposal_id"] for stub in reader.proposals(vault.user_id, vault.vault_id)})
        if (vault.user_id, vault.vault_id) not in report.oversized:
            assert reader.notes(vault.user_id, vault.vault_id) == set(vault.notes)
    assert (vaults, notes, proposals) == (report.vaults, report.notes, report.proposals)


def test_the_showcase_holds_every_difficulty(empty_hub: SandboxHub, reader: Reader, showcase_plan: SeedPlan) -> None:
    report = seed(empty_hub, showcase_plan)
    # Tenants with only proposals are in no index, and their proposals are there.
    assert report.hidden_user_ids == ("github:proposals-only",)
    assert report.hidden_vault_ids == ("hidden",)
    assert "hidden" not in reader.vault_ids("github:duplicates")
    assert len(reader.proposals("github:duplicates", "hidden")) == 1
    assert not set(report.hidden_user_ids) & set(reader.user_ids())
    assert len(reader.proposals("github:proposals-only", "default")) == 3
    # Replies of some proposals are malformed JSON, of their neighbours not.
    assert len(report.malformed) == 3
    for user_id, vault_id, proposal_id in report.malformed:
        reply = reader.get(f"proposals/{proposal_id}", user_id, vault_id)
        assert reply.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            reply.json()
    assert reader.get("proposals/prop-1775660000000000301", "github:malformed", "work").json()["evaluation_waiver"]
    # An oversized vault fails, the rest of its tenant does not.
    assert report.oversized == (("github:oversized", "huge"),)
    assert reader.get("export", "github:oversized", "huge").status_code == 503
    assert len(reader.notes("github:oversized", "default")) == 1
    # One id in two vaults, and twice in one.
    in_default = [stub["proposal_id"] for stub in reader.proposals("github:duplicates", "default")]
    in_work = [stub["proposal_id"] for stub in reader.proposals("github:duplicates", "work")]
    assert set(in_default) & set(in_work)
    assert len(in_work) > len(set(in_work))
    # A vault with proposals that no vault list shows, and one that is empty.
    assert "hidden" not in reader.vault_ids("github:duplicates")
    assert reader.proposals("github:duplicates", "hidden")
    assert reader.notes("default", "nothing-yet") == set()
    assert "nothing-yet" in reader.vault_ids("default")
    # Texts.
    texts = {note for vault in showcase_plan.contents() for note in vault.notes}
    assert any(not note.path.isascii() for note in texts)
    assert {chr(code) for code in range(0x20)} <= set("".join(note.body for note in texts))
    assert any(len(note.body) >= 100_000 for note in texts)
    assert any("\r\n" in note.body for note in texts)
    kinds = {type(json.loads(note.frontmatter)) for note in texts if is_json(note.frontmatter)}
    assert kinds == {dict, str}
    assert any(note.frontmatter.startswith("title:") for note in texts)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_without_the_oversized_vault_every_vault_can_be_read(empty_hub: SandboxHub, reader: Reader) -> None:
    plan = SeedPlan.showcase(oversized=False)
    assert seed(empty_hub, plan).oversized == ()
    for vault in plan.contents():
        assert reader.notes(vault.user_id, vault.vault_id) == set(vault.notes)
