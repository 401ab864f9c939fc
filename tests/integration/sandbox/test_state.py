"""A network with a directory: the real hub and everything about its canisters outlive the process, once at a time."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from knowtation_backup.errors import ConfigurationError, IntegrityError, SinkUnavailableError
from knowtation_backup.sandbox import SandboxNetwork, SandboxProcess, candid
from knowtation_backup.sandbox.hub import SandboxHub
from knowtation_backup.sandbox.management.types import METHODS

pytestmark = pytest.mark.sandbox

NOTHING = b"DIDL\x00\x00"
USER = {"X-User-Id": "google:1"}


def manage(network: SandboxNetwork, method: str, *, query: bool = False, **argument: Any) -> Any:
    types = METHODS[method]
    assert types.argument is not None
    arg = candid.encode([types.argument], [argument])
    ask = network.query if query else network.update
    values = candid.decode(ask(b"", method, arg, network.operator), types.results)
    return values[0] if values else None


def write(client: httpx.Client, path: str) -> None:
    reply = client.post("/api/v1/notes", content=f'{{"path":"{path}","body":"text of {path}"}}', headers=USER)
    assert reply.status_code == 200


def notes(client: httpx.Client) -> Mapping[str, str]:
    reply = client.get("/api/v1/export", headers=USER)
    return {note["path"]: note["body"] for note in reply.json()["notes"]}


def client_of(network: SandboxNetwork, hub: SandboxHub) -> httpx.Client:
    return httpx.Client(transport=network.transport(), base_url=hub.base_url())


def described(network: SandboxNetwork, *canister_ids: bytes) -> list[Any]:
    """Return what management says of the canisters, without what asking costs and counts."""
    found = []
    for canister_id in canister_ids:
        status = manage(network, "canister_status", canister_id=canister_id)
        for changing in ("cycles", "query_stats"):
            del status[changing]
        found += [
            status,
            manage(network, "canister_info", query=True, canister_id=canister_id, num_requested_changes=20),
            manage(network, "list_canister_snapshots", canister_id=canister_id),
            manage(network, "fetch_canister_logs", query=True, canister_id=canister_id),
        ]
    return found


def test_a_hub_outlives_its_network(tmp_path: Path, counter_wasm: bytes) -> None:
    with SandboxNetwork(directory=tmp_path, tick_seconds=None) as network:
        hub = SandboxHub.deploy(network, operator_key="operator secret")
        with client_of(network, hub) as client:
            write(client, "kept.md")
            manage(network, "take_canister_snapshot", canister_id=hub.hub_id)
            write(client, "after the snapshot.md")
        settings = {"freezing_threshold": 1234, "log_visibility": ("public", None)}
        manage(network, "update_settings", canister_id=hub.hub_id, settings=settings)
        timed = network.create_canister(counter_wasm)
        network.update(timed, "later", NOTHING)
        with pytest.raises(Exception, match="on purpose"):
            network.update(timed, "boom", NOTHING)
        before = described(network, hub.hub_id, timed)
        assert before[0]["settings"]["freezing_threshold"] == 1234
        assert len(before[2]) == 1
        assert b"on purpose" in before[7]["canister_log_records"][0]["content"]
        cycles = {canister_id: canister.cycles for canister_id, canister in network.canisters.items()}

    with SandboxNetwork(directory=tmp_path, tick_seconds=None) as network:
        assert {canister_id: canister.cycles for canister_id, canister in network.canisters.items()} == cycles
        hub = SandboxHub(
            network=network, hub_id=hub.hub_id, attestation_id=hub.attestation_id, controller=network.operator
        )
        with client_of(network, hub) as client:
            assert notes(client) == {path: f"text of {path}" for path in ("kept.md", "after the snapshot.md")}
            assert described(network, hub.hub_id, timed) == before
            index = client.get("/api/v1/operator/export", headers={"X-Operator-Export-Key": "operator secret"})
            assert index.json()["user_ids"] == ["google:1"]
            manage(network, "load_canister_snapshot", canister_id=hub.hub_id, snapshot_id=before[2][0]["id"])
            assert notes(client) == {"kept.md": "text of kept.md"}
        network.clock.advance(3600)
        network.tick()
        assert network.query(timed, "get", NOTHING)[-8:] == (1000).to_bytes(8, "little")


def test_a_killed_network_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    with SandboxNetwork(directory=tmp_path) as network:
        hub_id = SandboxHub.deploy(network).hub_id
    with (
        SandboxProcess(directory=tmp_path) as process,
        httpx.Client(base_url=process.gateway_url(hub_id)) as client,
    ):
        write(client, "saved.md")
        process.call("save")
        write(client, "not saved.md")
        os.kill(process.pid, signal.SIGKILL)
    with SandboxNetwork(directory=tmp_path) as network:
        hub = SandboxHub(network=network, hub_id=hub_id, attestation_id=b"", controller=network.operator)
        with client_of(network, hub) as client:
            assert notes(client) == {"saved.md": "text of saved.md"}
            write(client, "goes on.md")


def test_calls_that_wait_for_their_turn_are_finished_before_closing(
    tmp_path: Path, counter_wasm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SandboxNetwork(directory=tmp_path, tick_seconds=None) as network:
        canister_id = network.create_canister(counter_wasm)
        with monkeypatch.context() as patch:
            patch.setattr("knowtation_backup.sandbox.replica.replica.MAX_MESSAGES_PER_CALL", 0)
            network.replica.call(network._new_call(canister_id, canister_id, "inc", NOTHING, b"\x04"))
            assert network.query(canister_id, "get", NOTHING)[-8:] == bytes(8)
    with SandboxNetwork(directory=tmp_path) as network:
        assert network.query(canister_id, "get", NOTHING)[-8:] == (1).to_bytes(8, "little")


# One network at a time


def test_a_directory_belongs_to_one_network(tmp_path: Path) -> None:
    with SandboxNetwork(directory=tmp_path / "state") as network:
        for open_again in (SandboxNetwork, SandboxProcess):
            with pytest.raises(ConfigurationError, match="in use by another network"):
                open_again(directory=tmp_path / "state")
        with SandboxNetwork(directory=tmp_path / "another"):
            pass
        canister_id = network.create_canister()
    with SandboxProcess(directory=tmp_path / "state") as process:
        assert process.call("canisters.__len__") == 1
        with pytest.raises(ConfigurationError):
            SandboxNetwork(directory=tmp_path / "state")
    with SandboxNetwork(directory=tmp_path / "state") as network:
        assert list(network.canisters) == [canister_id]


def test_a_directory_is_free_again_when_its_network_died_or_never_lived(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "from knowtation_backup.sandbox import SandboxNetwork\n"
        "network = SandboxNetwork(directory=pathlib.Path(sys.argv[1]))\n"
        "network.save()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)  # noqa: S603 - our own
    assert done.returncode == -signal.SIGKILL
    pointer = (tmp_path / "CURRENT").read_bytes()
    (tmp_path / "CURRENT").write_bytes(b"junk")
    with pytest.raises(IntegrityError):
        SandboxNetwork(directory=tmp_path)
    (tmp_path / "CURRENT").write_bytes(pointer)
    with SandboxNetwork(directory=tmp_path) as network:
        assert network.canisters == {}


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SinkUnavailableError, match="could not be saved in"):
        SandboxNetwork(directory=tmp_path / "file" / "state")
