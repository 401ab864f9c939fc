"""
A month in the life of a repository: both pillars of a hub, day after day, with no network and no account.

A real hub canister runs in the embedded sandbox network. Every day something is written to it, then its snapshot and
its export go into one repository on a host that cannot read back. In the end another host, with the private key,
verifies, compares, restores and thins out.

    python examples/daily_repository.py [DIRECTORY]
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path

from knowtation_backup import (
    Agent,
    CanisterSource,
    FsspecSink,
    HubClient,
    KeepPolicy,
    KeyIdentity,
    ManagementCanister,
    OperatorExporter,
    Principal,
    PrivateKey,
    Repository,
    RepositoryPipeline,
    SnapshotManager,
    verify_provenance,
)
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

OPERATOR_KEY = secrets.token_hex(32)
DAYS = 3


def main(directory: Path) -> None:
    """Back up for some days, then look back."""
    # On the host that restores, and kept there. The host that backs up gets the writer key and nothing else.
    private_key = PrivateKey.generate()
    writer_key = Repository.create(FsspecSink(directory / "repository"), seal_to=[private_key.public_key]).writer_key

    identity = KeyIdentity.generate()
    with SandboxNetwork() as network, network.serve() as server:
        canister = SandboxHub.deploy(network, operator_key=OPERATOR_KEY, controller=identity.sender.raw)
        hub_id = Principal(canister.hub_id)
        seed(canister, SeedPlan(tenants=3, notes=20))
        with (
            Agent(server.url, identity=identity, root_key=network.root_key) as agent,
            HubClient(canister.base_url(server), operator_key=OPERATOR_KEY) as hub,
        ):
            management = ManagementCanister(agent)
            manager = SnapshotManager(management, journal=directory / "journal")
            repository = Repository.open(FsspecSink(directory / "repository"), writer_key)
            for day in range(1, DAYS + 1):
                write(canister, day)
                (snapshot_id,) = manager.take(hub_id, confirm=hub_id).snapshots.values()
                writing = RepositoryPipeline(
                    repository=repository,
                    sources={
                        "snapshot": CanisterSource(management=management, canister_id=hub_id, snapshot_id=snapshot_id),
                        "export": OperatorExporter(hub),
                    },
                    pillars=[("snapshot", "export")],
                )
                print(f"day {day}")
                print(writing.backup())
                manager.delete(hub_id, snapshot_id, confirm=hub_id)  # it is off-chain now
        root_key = network.root_key

    print("Another day, another host, with the private key")
    reading = RepositoryPipeline(
        repository=Repository.open(FsspecSink(directory / "repository"), private_key),
        retention=KeepPolicy(daily=7, weekly=4, monthly=12),
    )
    for archive in reading.list():
        print(f"   {archive}")
    verdict = reading.verify_all()
    verdict.raise_for_findings()
    print(verdict)

    snapshots = [archive for archive in reading.list() if archive.kind == "canister-snapshot"]
    exports = [archive for archive in reading.list() if archive.kind != "canister-snapshot"]
    print(reading.diff(exports[-1].archive_id, exports[0].archive_id))

    print(reading.restore(snapshots[0].archive_id, directory / "snapshot"))
    print(verify_provenance(directory / "snapshot", root_key=root_key, canister_id=hub_id))
    print(reading.restore(exports[0].archive_id, directory / "export"))
    print(reading.plan_forget())


def write(canister: SandboxHub, day: int) -> None:
    """Add the note of a day."""
    note = {"path": f"days/{day}.md", "frontmatter": "{}", "body": f"what happened on day {day}"}
    vault = {"user_id": "diarist", "vault_id": "default", "create_vault": True, "notes": [note], "proposals": []}
    canister.seed_vaults([vault])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
