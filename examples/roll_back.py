"""
A snapshot before an upgrade, an upgrade that loses data, and the way back, with no network and no account.

A real hub canister runs in the embedded sandbox network. What happens to it is printed as it happens.

    python examples/roll_back.py [JOURNAL_DIRECTORY]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from knowtation_backup import Agent, Event, HubClient, ManagementCanister, Principal, SnapshotManager
from knowtation_backup.model.ids import ANONYMOUS
from knowtation_backup.sandbox import SandboxNetwork, candid
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, canister_wasm, seed

OPERATOR_KEY = "an operator key of at least 32 characters"
USERS = 3


def show(event: Event) -> None:
    """Print what happens to canisters."""
    if event.name.startswith("snapshot."):
        fields = ", ".join(f"{name} {value}" for name, value in event.fields.items() if name != "canister_id")
        print(f"   {event.name.removeprefix('snapshot.').replace('_', ' ')}: {fields}")


def upgrade_badly(network: SandboxNetwork, canister_id: Principal) -> None:
    """Install the hub anew, with nothing in it."""
    install = candid.Record(
        {
            "mode": candid.Variant({"reinstall": candid.NULL}),
            "canister_id": candid.PRINCIPAL,
            "wasm_module": candid.BLOB,
            "arg": candid.BLOB,
        }
    )
    values = {
        "mode": ("reinstall", None),
        "canister_id": canister_id.raw,
        "wasm_module": canister_wasm("hub"),
        "arg": b"DIDL\x00\x00",
    }
    network.update(b"", "install_code", candid.encode([install], [values]), sender=ANONYMOUS.raw)


def main(journal: Path) -> None:
    """Take, break, roll back."""
    with SandboxNetwork() as network, network.serve() as server:
        canister = SandboxHub.deploy(network, operator_key=OPERATOR_KEY, controller=ANONYMOUS.raw)
        seed(canister, SeedPlan(tenants=USERS))
        hub_id = Principal(canister.hub_id)
        with (
            Agent(server.url, root_key=network.root_key) as agent,
            HubClient(canister.base_url(server), operator_key=OPERATOR_KEY) as hub,
        ):
            manager = SnapshotManager(ManagementCanister(agent), journal=journal, observer=show)
            print("0. Finishing what a killed process may have left")
            print(f"   {manager.recover()}")
            # SIGTERM shall not kill us while the canister is stopped.
            with manager.terminating_signals():
                print("1. Taking a snapshot")
                taken = manager.take(hub_id, confirm=hub_id)
                print("2. The upgrade goes wrong")
                upgrade_badly(network, hub_id)
                print("3. Rolling back")
                report = manager.roll_back(
                    hub_id,
                    taken.snapshots[hub_id],
                    confirm=hub_id,
                    health_check=lambda _id: len(hub.index_page().user_ids) == USERS,
                )
            print()
            print(report)
            if not report.healthy:
                sys.exit(report.exit_code)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
