"""What earlier exports held is looked for again, on a real hub (HUB-18)."""

from __future__ import annotations

import json

import attrs

from knowtation_backup import (
    ExportOptions,
    ExportReader,
    HubClient,
    KnownContent,
    MemorySink,
    OperatorExporter,
    Pipeline,
)
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import Note, Proposal, SandboxHub, SeedPlan, Vault, seed

KEY = "planted-operator-key-0123456789abcdef"
HIDDEN = Vault(user_id="github:reviewer", proposals=(Proposal(proposal_id="prop-1", path="a.md"),))
LISTED = Vault(user_id="github:writer", notes=(Note(path="ä.md", body="listed"), Note(path="b.md", body="")))
DRAFTS = Vault(
    user_id="github:writer",
    vault_id="drafts",
    proposals=(Proposal(proposal_id="prop-2", path="b.md", vault_id="drafts"),),
)


def test_a_later_export_finds_what_no_list_shows() -> None:
    with SandboxNetwork() as network:
        hub = SandboxHub.deploy(network, operator_key=KEY)
        seed(hub, SeedPlan(tenants=1, notes=1, proposals=1, others=(HIDDEN, LISTED, DRAFTS)))
        with HubClient(hub.base_url(), operator_key=KEY, transport=network.transport()) as client:
            named = ExportOptions(extra_users=("github:reviewer",), extra_vaults=("drafts",))
            first = Pipeline(source=OperatorExporter(client, named), sink=MemorySink())
            first.backup()
            known = KnownContent.of(ExportReader(first.read(), hashing=False))
            again = Pipeline(source=OperatorExporter(client, known.extend()), sink=MemorySink())
            report = again.backup()
    assert again.details().capture["content_root"] == first.details().capture["content_root"]
    assert {warning.where for warning in report.warnings if warning.code == "hidden_tenant"} == {"github:reviewer"}
    assert known.paths["github:writer", "default"] == ("b.md", "ä.md")


def test_options_of_the_caller_stay() -> None:
    known = KnownContent(vaults={"a": ("x",), "b": ()}, paths={("a", "x"): ("p",)})
    own = ExportOptions(extra_users=("c",), extra_vaults_of={"a": ("y",), "d": ("z",)}, concurrency=3)
    extended = known.extend(own)
    assert extended.extra_users == ("c", "a", "b")
    assert dict(extended.extra_vaults_of) == {"a": ("y", "x"), "d": ("z",), "b": ()}
    assert extended.concurrency == 3
    assert extended.known_paths is not None
    assert list(extended.known_paths("a", "x")) == ["p"]
    assert list(extended.known_paths("a", "unknown")) == []
    mine = attrs.evolve(own, known_paths=lambda _user, _vault: ("mine",))
    kept = known.extend(mine).known_paths
    assert kept is not None
    assert list(kept("a", "x")) == ["mine"]


def test_paths_can_be_left_out() -> None:
    vaults = [{"vault_id": "v", "notes": [{"path": "p", "frontmatter": "{}", "body": ""}]}]
    users = [{"user_id": "u", "vaults": vaults, "proposals": []}]
    text = json.dumps({"format_version": 4, "kind": "knowtation-operator-full-export", "users": users}).encode()
    known = KnownContent.of(ExportReader([text], hashing=False), paths=False)
    assert dict(known.vaults) == {"u": ("v",)}
    assert known.paths == {}
