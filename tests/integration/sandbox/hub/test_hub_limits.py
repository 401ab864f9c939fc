"""What the network's limits do to a hub: 3 MiB per reply, 5 billion instructions per query (contracts 1.1, 1.8)."""

from __future__ import annotations

import json

from tests.integration.sandbox.hub.conftest import Api


def plant(api: Api, notes: int, body: str) -> None:
    vault = {"user_id": api.user, "vault_id": "default", "create_vault": True, "proposals": []}
    for start in range(0, notes, 50):
        items = [
            {"path": f"{place:05d}.md", "frontmatter": "{}", "body": body}
            for place in range(start, min(start + 50, notes))
        ]
        api.hub.seed_vaults([vault | {"notes": items}])


def instructions(api: Api) -> int:
    return api.hub.network.canisters[api.hub.hub_id].query_stats.num_instructions_total


def test_an_export_just_below_the_limit_is_cheap(api: Api) -> None:
    plant(api, 145, 'line "quoted"\n' * 1_250)
    before = instructions(api)
    reply = api.get("/api/v1/export")
    assert reply.status_code == 200
    assert 2_900_000 < len(reply.content) < 3_145_728
    assert len(reply.json()["notes"]) == 145
    assert 0 < instructions(api) - before < 50_000_000


def test_many_small_notes_are_cheap_too(api: Api) -> None:
    plant(api, 3_000, "x" * 500)
    before = instructions(api)
    assert api.get("/api/v1/notes").json()["total"] == 3_000
    assert 0 < instructions(api) - before < 50_000_000


def test_a_vault_beyond_the_reply_limit_cannot_be_exported(api: Api) -> None:
    plant(api, 160, "x" * 20_000)
    reply = api.get("/api/v1/export")
    assert reply.status_code == 503
    assert "code" not in json.loads(reply.content)
    assert api.get("/api/v1/notes/00007.md").json()["body"] == "x" * 20_000


def test_an_index_page_costs_the_same_wherever_it_is(empty_api: Api) -> None:
    vault = {"vault_id": "default", "create_vault": True, "notes": [], "proposals": []}
    empty_api.hub.seed_vaults([{"user_id": f"u{number:05}"} | vault for number in range(5_000)])
    costs = []
    for cursor in (0, 4_900):
        before = instructions(empty_api)
        assert len(empty_api.index(f"?cursor={cursor}").json()["user_ids"]) == 100
        costs.append(instructions(empty_api) - before)
    assert 0 < costs[1] < 1.1 * costs[0]
