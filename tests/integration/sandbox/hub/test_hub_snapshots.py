"""What snapshots are for: a real hub through a bad upgrade and back, and a copy of it in another canister."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import wasmtime

from knowtation_backup.sandbox import Rejected, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, canister_wasm

pytestmark = pytest.mark.sandbox

ANONYMOUS = b"\x04"
USER = {"X-User-Id": "google:1"}
SLICE = 2_000_000
# Exports what an upgrade needs to pass, and serves nothing of what the hub did.
BROKEN = """(module
  (memory i64 4)
  (@custom "icp:private enhanced-orthogonal-persistence" "")
  (func (export "canister_query http_request") unreachable))"""


@pytest.fixture
def network() -> Iterator[SandboxNetwork]:
    """A network of its own: these tests change the code of the hub."""
    with SandboxNetwork(tick_seconds=None) as running:
        yield running


@pytest.fixture
def hub(network: SandboxNetwork) -> SandboxHub:
    return SandboxHub.deploy(network, controller=ANONYMOUS)


@pytest.fixture
def web(network: SandboxNetwork, hub: SandboxHub) -> Iterator[httpx.Client]:
    with (
        network.serve() as server,
        httpx.Client(base_url=server.gateway_url(hub.hub_id), headers=USER, timeout=60) as client,
    ):
        yield client


def write(client: httpx.Client, path: str) -> None:
    assert client.post("/api/v1/notes", content=f'{{"path":"{path}","body":"of {path}"}}').status_code == 200


def notes(client: httpx.Client) -> dict[str, str]:
    reply = client.get("/api/v1/export")
    assert reply.status_code == 200, reply.text
    return {note["path"]: note["body"] for note in reply.json()["notes"]}


def upgrade(ic: Any, hub: SandboxHub, wasm: bytes, persistence: str | None) -> None:
    options = {"wasm_memory_persistence": (persistence, None) if persistence else None}
    mode = ("upgrade", options)
    ic.manage("install_code", {"mode": mode, "canister_id": hub.hub_id, "wasm_module": wasm, "arg": b"DIDL\x00\x00"})


def test_an_upgrade_keeps_the_notes_and_does_not_lose_them_unasked(ic: Any, hub: SandboxHub, web: httpx.Client) -> None:
    write(web, "a.md")
    with pytest.raises(Rejected, match="Missing upgrade option") as refused:
        upgrade(ic, hub, canister_wasm("hub"), None)
    assert refused.value.error_code == "IC0504"
    assert notes(web) == {"a.md": "of a.md"}

    upgrade(ic, hub, canister_wasm("hub"), "keep")
    write(web, "b.md")
    assert notes(web) == {"a.md": "of a.md", "b.md": "of b.md"}

    upgrade(ic, hub, canister_wasm("hub"), "replace")
    assert notes(web) == {}


def test_a_snapshot_undoes_a_bad_upgrade(ic: Any, hub: SandboxHub, web: httpx.Client) -> None:
    about = {"canister_id": hub.hub_id}
    write(web, "before.md")
    ic.manage("stop_canister", about)
    snapshot = ic.manage("take_canister_snapshot", about)
    ic.manage("start_canister", about)
    good = ic.manage("canister_status", about)
    write(web, "after the snapshot.md")

    upgrade(ic, hub, bytes(wasmtime.wat2wasm(BROKEN)), "keep")
    assert web.get("/api/v1/export").status_code == 503
    ic.manage("stop_canister", about)
    ic.manage("load_canister_snapshot", {**about, "snapshot_id": snapshot["id"]})
    assert web.get("/api/v1/export").status_code == 503  # loading does not start it
    ic.manage("start_canister", about)

    assert notes(web) == {"before.md": "of before.md"}
    write(web, "life goes on.md")
    status = ic.manage("canister_status", about)
    assert status["module_hash"] == good["module_hash"] == hashlib.sha256(canister_wasm("hub")).digest()
    assert status["version"] > good["version"]
    assert status["settings"] == good["settings"]
    changes = ic.manage("canister_info", {**about, "num_requested_changes": 20}, query=True)["recent_changes"]
    assert [change["details"][0] for change in changes][-2:] == ["code_deployment", "load_snapshot"]


def download(ic: Any, canister_id: bytes, snapshot_id: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    about = {"canister_id": canister_id, "snapshot_id": snapshot_id}
    metadata = ic.manage("read_canister_snapshot_metadata", about)
    parts = {}
    for kind in ("wasm_module", "wasm_memory", "stable_memory"):
        slices, size = [], metadata[f"{kind}_size"]
        for offset in range(0, size, SLICE):
            where = {"offset": offset, "size": min(SLICE, size - offset)}
            slices.append(ic.manage("read_canister_snapshot_data", {**about, "kind": (kind, where)})["chunk"])
        parts[kind] = b"".join(slices)
        assert len(parts[kind]) == size
    return metadata, parts


def upload(ic: Any, canister_id: bytes, metadata: dict[str, Any], parts: dict[str, bytes]) -> bytes:
    names = ("globals", "certified_data", "global_timer", "on_low_wasm_memory_hook_status")
    sizes = {f"{kind}_size": len(data) for kind, data in parts.items()}
    announced = {"canister_id": canister_id, **sizes, **{name: metadata[name] for name in names}}
    snapshot_id: bytes = ic.manage("upload_canister_snapshot_metadata", announced)["snapshot_id"]
    for kind, data in parts.items():
        for offset in range(0, len(data), SLICE):
            argument = {
                "canister_id": canister_id,
                "snapshot_id": snapshot_id,
                "kind": (kind, {"offset": offset}),
                "chunk": data[offset : offset + SLICE],
            }
            ic.manage("upload_canister_snapshot_data", argument)
    return snapshot_id


def test_a_downloaded_hub_lives_on_in_another_canister(
    ic: Any, network: SandboxNetwork, hub: SandboxHub, web: httpx.Client
) -> None:
    for number in range(20):
        write(web, f"{number}.md")
    about = {"canister_id": hub.hub_id}
    ic.manage("stop_canister", about)
    metadata, parts = download(ic, hub.hub_id, ic.manage("take_canister_snapshot", about)["id"])
    ic.manage("start_canister", about)
    assert parts["wasm_module"] == canister_wasm("hub")
    assert len(parts["wasm_memory"]) > SLICE

    clone_id = ic.manage("provisional_create_canister_with_cycles", {})["canister_id"]
    # The clone has no code yet, so it counts as 32-bit: heaps of up to 4 GiB are accepted.
    uploaded = upload(ic, clone_id, metadata, parts)
    ic.manage("load_canister_snapshot", {"canister_id": clone_id, "snapshot_id": uploaded})
    with httpx.Client(base_url=network.serve().gateway_url(clone_id), headers=USER, timeout=60) as clone:
        assert notes(clone) == notes(web)
        write(clone, "only in the clone.md")
        assert "only in the clone.md" in notes(clone)
    assert "only in the clone.md" not in notes(web)
    assert download(ic, clone_id, uploaded)[1] == parts
    assert ic.manage("canister_status", {"canister_id": clone_id})["settings"]["controllers"] == [ANONYMOUS]
