"""
Verify every archive, then keep the newest three: first the plan with its reasons, then its application.

    python examples/verify_and_forget.py [DIRECTORY]
"""

from __future__ import annotations

import datetime as dt
import itertools
import sys
import tempfile
from pathlib import Path

from knowtation_backup import FsspecSink, HubClient, KeepLast, OperatorExporter, Pipeline
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

OPERATOR_KEY = "an operator key, long and random"


def main(directory: Path) -> None:
    """Make five archives in *directory* as if on five days, verify them, keep three."""
    sink, today = FsspecSink(directory), dt.datetime.now(dt.UTC)
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY)
        seed(hub, SeedPlan(tenants=2))
        with HubClient(hub.base_url(server), operator_key=OPERATOR_KEY) as client:
            for days in range(5):
                moment = today - dt.timedelta(days=days)
                Pipeline(source=OperatorExporter(client), sink=sink, clock=itertools.repeat(moment).__next__).backup()

    # What follows needs no hub: it could be another program, on another day, with other rights.
    pipeline = Pipeline(sink=FsspecSink(directory), retention=KeepLast(limit=3))
    for archive in pipeline.list():
        print(pipeline.verify(archive.archive_id))

    plan = pipeline.plan_forget()
    for decision in plan.decisions:
        print("keep  " if decision.keep else "forget", decision.archive.archive_id, "-", decision.reason)
    print(pipeline.apply(plan))  # refused if the directory changed since the plan was made
    print(len(pipeline.list()), "archives are left")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
