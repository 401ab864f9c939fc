"""
Export past a tenant that cannot be read, then resume: only what is missing is read again.

    python examples/resume.py [DIRECTORY]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from knowtation_backup import (
    ExportOptions,
    FsspecSink,
    HubClient,
    OperatorExporter,
    Pipeline,
    PreviousArchive,
    RetryPolicy,
)
from knowtation_backup.sandbox import Answer, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

OPERATOR_KEY = "an operator key, long and random"


def main(directory: Path) -> None:
    """Make an incomplete archive and a complete one out of it in *directory*."""
    sink = FsspecSink(directory)
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY)
        planted = seed(hub, SeedPlan(tenants=5))
        hasty = RetryPolicy(first_delay_seconds=0.01)  # an example should not wait; your hub deserves the default
        with HubClient(hub.base_url(server), operator_key=OPERATOR_KEY, retry=hasty) as client:
            network.faults.add(Answer(status=503), headers={"x-user-id": planted.user_ids[2]})
            options = ExportOptions(on_error="continue")
            first = Pipeline(source=OperatorExporter(client, options), sink=sink).backup()
            print(first)

            network.faults.clear()  # the hub has recovered
            stored = Pipeline(sink=sink)
            previous = PreviousArchive(stored.details(first.archive_id).capture, lambda: stored.read(first.archive_id))
            options = ExportOptions(on_error="continue", previous=previous)
            second = Pipeline(source=OperatorExporter(client, options), sink=sink).backup()
            print(second)
    if first.manifest.complete or not second.manifest.complete:
        sys.exit("the first archive should lack a tenant, and the second should not")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
