"""
Node's JSON parser reads an export as the object that was written, and writes it back byte for byte (HUB-09).

Needs ``node`` only, no npm package. The existing tools are Node programs: what they read is what counts.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from knowtation_backup import ExportOptions, ExportReader, HubClient, OperatorExporter, VaultExporter
from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, SeedReport, seed

pytestmark = [pytest.mark.peers, pytest.mark.sandbox]

NOW = dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
KEY = "operator key of the peer tests, long enough"

REWRITE = """
const fs = require("node:fs");
const bytes = fs.readFileSync(process.argv[1]);
const text = new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(bytes);
const value = JSON.parse(text);
fs.writeFileSync(process.argv[2], JSON.stringify(value));
const users = value.users ?? [];
console.log(JSON.stringify({
  keys: Object.keys(value),
  exported_at: value.exported_at && new Date(value.exported_at).toISOString(),
  users: users.map((user) => user.user_id),
  notes: users.flatMap((user) => user.vaults).reduce((sum, vault) => sum + vault.notes.length, 0),
  bodies: users.flatMap((user) => user.vaults).flatMap((vault) => vault.notes)
    .reduce((sum, note) => sum + note.body.length, 0),
}));
"""


def rewritten(node: str, payload: bytes, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return what Node writes after parsing *payload*, and what it saw."""
    source, target = folder / "export.json", folder / "again.json"
    source.write_bytes(payload)
    done = subprocess.run(  # noqa: S603 - the peer under test
        [node, "-e", REWRITE, str(source), str(target)], capture_output=True, text=True, timeout=60, check=True
    )
    return target.read_bytes(), json.loads(done.stdout)


@pytest.fixture(scope="module")
def exports() -> tuple[SeedReport, bytes, bytes]:
    """What was planted, the full export, and the legacy export of one vault."""
    with SandboxNetwork() as network:
        hub = SandboxHub.deploy(network, operator_key=KEY)
        planted = seed(hub, SeedPlan.showcase(oversized=False))
        with HubClient(hub.base_url(), operator_key=KEY, transport=network.transport()) as client:
            options = ExportOptions(extra_users=planted.hidden_user_ids, extra_vaults=planted.hidden_vault_ids)
            full = OperatorExporter(client, options).capture(taken_at=NOW)
            single = VaultExporter(client, user_id=planted.user_ids[0]).capture(taken_at=NOW)
            return planted, b"".join(full.chunks()), b"".join(single.chunks())


def test_node_reads_the_same_object_and_writes_the_same_bytes(
    node: str, exports: tuple[SeedReport, bytes, bytes], tmp_path: Path
) -> None:
    planted, payload, _ = exports
    again, seen = rewritten(node, payload, tmp_path)
    assert seen["keys"] == ["format_version", "kind", "exported_at", "users"]
    assert seen["exported_at"] == "2026-04-08T15:30:22.123Z"
    assert seen["users"] == [*planted.user_ids, *planted.hidden_user_ids]
    assert seen["notes"] == planted.notes
    bodies = [entry.note.body for entry in ExportReader([payload]) if entry.note]
    assert seen["bodies"] == sum(len(body.encode("utf-16-le", "surrogatepass")) // 2 for body in bodies)
    assert again == payload


def test_the_legacy_export_too(node: str, exports: tuple[SeedReport, bytes, bytes], tmp_path: Path) -> None:
    payload = exports[2]
    again, seen = rewritten(node, payload, tmp_path)
    assert seen["keys"] == ["format_version", "kind", "exported_at", "vault_id", "notes", "proposals"]
    assert again == payload


def test_what_node_wrote_reads_as_the_same_content(
    node: str, exports: tuple[SeedReport, bytes, bytes], tmp_path: Path
) -> None:
    """Also with the indentation that people like to add, which `JSON.parse` does not mind and we do not either."""
    planted, payload, _ = exports
    again, _ = rewritten(node, json.dumps(json.loads(payload), indent=2).encode(), tmp_path)
    assert again == payload
    reader = ExportReader([json.dumps(json.loads(payload), indent=2).encode()]).read_all()
    assert reader.counts["notes"] == planted.notes
    assert reader.content_root == ExportReader([payload]).read_all().content_root


def test_every_kind_of_text_is_written_as_javascript_writes_it(node: str, tmp_path: Path) -> None:
    texts = [chr(code) for code in (*range(0x120), 0x2028, 0x2029, 0xFEFF, 0xFFFF, 0x1F600)]
    texts += ["\ud800", "\udfff lone", "\ud83d\ude00 a pair", "\ude00\ud83d the wrong way round", '\\ud800 "quoted"']
    payload = dumps({"texts": texts, "numbers": [0, -1, 2**53 - 1], "rest": [True, False, None, [], {}, ""]})
    assert rewritten(node, payload, tmp_path)[0] == payload


@pytest.mark.parametrize(
    ("kept", "javascript"),
    [
        (b'{"n":9007199254740993}', b'{"n":9007199254740992}'),
        (b'{"n":1.10}', b'{"n":1.1}'),
        (b'{"b":0,"1":0}', b'{"1":0,"b":0}'),
    ],
)
def test_what_we_keep_and_javascript_loses(node: str, tmp_path: Path, kept: bytes, javascript: bytes) -> None:
    """The exceptions that the module of the canonical form documents; hubs send no such values."""
    assert dumps(loads(kept)) == kept
    assert rewritten(node, kept, tmp_path)[0] == javascript
