"""
Export one vault of one tenant: the legacy single-partition file, format version 2. No operator key is needed.

    python examples/export_one_vault.py [DIRECTORY]
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from pathlib import Path

from knowtation_backup import ExportReader, FsspecSink, HubClient, Pipeline, VaultExporter
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed


def main(directory: Path) -> None:
    """Export the vault ``vault-1`` of the first of two tenants into *directory*."""
    gateway_secret = secrets.token_hex(32)
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, gateway_secret=gateway_secret)
        tenant = seed(hub, SeedPlan(tenants=2, vaults=2, notes=4)).user_ids[0]
        with HubClient(hub.base_url(server), gateway_secret=gateway_secret) as client:
            print(f"vaults of {tenant}: {', '.join(client.vaults(tenant))}")
            source = VaultExporter(client, user_id=tenant, vault_id="vault-1")
            pipeline = Pipeline(source=source, sink=FsspecSink(directory))
            print(pipeline.backup())

    # The file names its vault but not its tenant, so the reader is told.
    for entry in ExportReader(pipeline.read(), user_id=tenant):
        if entry.note is not None:
            print("   note    ", entry.note.path)
        elif entry.proposal is not None:
            print("   proposal", entry.proposal["proposal_id"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
