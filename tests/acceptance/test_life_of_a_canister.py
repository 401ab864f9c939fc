"""
A bad upgrade of a real hub, and every way back (issue 4): on chain, from a directory, proved offline.

Everything runs over loopback against executing Wasm, through a network that is busy now and then.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from stage import OPERATOR_KEY

from knowtation_backup import (
    Agent,
    HubClient,
    KeyIdentity,
    ManagementCanister,
    MemorySink,
    OperatorExporter,
    Outcome,
    Pipeline,
    Principal,
    RetryPolicy,
    SnapshotManager,
    capture_facts,
    diff_facts,
    verify_provenance,
)
from knowtation_backup.errors import CertificateError, RejectedError
from knowtation_backup.model.ids import MANAGEMENT_CANISTER
from knowtation_backup.sandbox import Answer, FaultPlan, SandboxNetwork, SandboxServer
from knowtation_backup.sandbox.candid import encode
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, canister_wasm, seed
from knowtation_backup.sandbox.management.types import METHODS
from knowtation_backup.snapshots.drift import ChangeKind


@attrs.frozen(kw_only=True)
class House:
    """A hub, its controller, and the tools that work on it."""

    network: SandboxNetwork
    server: SandboxServer
    hub: SandboxHub
    hub_id: Principal
    agent: Agent
    manager: SnapshotManager

    def content_root(self) -> str:
        with HubClient(self.hub.base_url(self.server), operator_key=OPERATOR_KEY) as client:
            pipeline = Pipeline(source=OperatorExporter(client), sink=MemorySink())
            assert pipeline.backup().manifest.complete
            assert pipeline.verify().ok
            return str(pipeline.details().capture["content_root"])

    def upgrade_badly(self) -> None:
        """Install the same module without its memory: what a forgotten migration does to the data."""
        mode = ("upgrade", {"wasm_memory_persistence": ("replace", None)})
        argument = {
            "mode": mode,
            "canister_id": self.hub_id.raw,
            "wasm_module": canister_wasm("hub"),
            "arg": encode([], []),
        }
        type_ = METHODS["install_code"].argument
        assert type_ is not None
        arg = encode([type_], [argument])
        self.agent.call(MANAGEMENT_CANISTER, "install_code", arg, effective_canister_id=self.hub_id)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    identity = KeyIdentity.generate()
    faults = FaultPlan(seed=4)
    faults.add(Answer(status=503), endpoint="call", probability=0.1)
    faults.add(Answer(status=429, retry_after_seconds=0), endpoint="read_state", probability=0.1)
    with SandboxNetwork(faults=faults) as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY, controller=identity.sender.raw)
        seed(hub, SeedPlan(tenants=3, vaults=2, notes=5, proposals=2))
        retry = RetryPolicy(attempts=8, first_delay_seconds=0.01, max_delay_seconds=0.05)
        with Agent(server.url, identity=identity, root_key=network.root_key, retry=retry) as agent:
            manager = SnapshotManager(ManagementCanister(agent), journal=tmp_path / "journal")
            hub_id = Principal(hub.hub_id)
            yield House(network=network, server=server, hub=hub, hub_id=hub_id, agent=agent, manager=manager)


@pytest.mark.sandbox
def test_a_hub_comes_back_from_a_bad_upgrade(house: House, tmp_path: Path) -> None:
    good, hub_id, manager = house.content_root(), house.hub_id, house.manager
    management = ManagementCanister(house.agent)
    directory = tmp_path / "hub"

    assert manager.preflight(hub_id).ok
    (taken,) = manager.take(hub_id, confirm=hub_id).results
    assert taken.snapshot is not None
    report = manager.download(hub_id, taken.snapshot.snapshot_id, directory)
    assert report.size_bytes == sum(file.stat().st_size for file in directory.glob("*.bin"))
    facts = capture_facts(management, hub_id)

    house.upgrade_badly()
    with pytest.raises(RejectedError, match="no operator export secret"):
        house.content_root()
    manager.roll_back(hub_id, taken.snapshot.snapshot_id, confirm=hub_id)
    assert house.content_root() == good

    house.upgrade_badly()
    for snapshot in manager.list(hub_id).snapshots:
        manager.delete(hub_id, snapshot.snapshot_id, confirm=hub_id)
    restored = manager.restore(
        directory, hub_id, confirm=hub_id, health_check=lambda _hub_id: house.content_root() == good
    )
    assert [step.name for step in restored.steps][:3] == ["validate", "open", "upload"]
    assert house.content_root() == good
    assert manager.recover().outcome is Outcome.OK

    drift = diff_facts(facts, capture_facts(management, hub_id))
    assert not drift.of(ChangeKind.CODE)
    assert not drift.of(ChangeKind.CONTROLLERS)


@pytest.mark.sandbox
def test_a_download_proves_itself_without_any_network(house: House, tmp_path: Path) -> None:
    root_key, hub_id = house.network.root_key, house.hub_id
    (taken,) = house.manager.take(hub_id, confirm=hub_id).results
    assert taken.snapshot is not None
    directory = tmp_path / "hub"
    house.manager.download(hub_id, taken.snapshot.snapshot_id, directory)
    house.server.close()

    proof = verify_provenance(directory, root_key=root_key, canister_id=hub_id)
    assert (proof.canister_id, proof.snapshot_id) == (hub_id, taken.snapshot.snapshot_id)
    assert proof.evidence_bytes < 0.01 * proof.size_bytes

    changed = tmp_path / "changed"
    shutil.copytree(directory, changed)
    memory = changed / "wasm_memory.bin"
    data = bytearray(memory.read_bytes())
    data[len(data) // 2] ^= 1
    memory.write_bytes(data)
    with pytest.raises(CertificateError, match="wasm_memory from"):
        verify_provenance(changed, root_key=root_key, canister_id=hub_id)
    with SandboxNetwork(key_seed=b"another network") as other, pytest.raises(CertificateError):
        verify_provenance(directory, root_key=other.root_key, canister_id=hub_id)
