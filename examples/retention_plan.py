"""
Compare what several policies would keep of a store; nothing is changed.

    python examples/retention_plan.py [DIRECTORY]

Without a directory, a small one is made first: forty days of backups of a sandbox hub, some of them verified.
"""

from __future__ import annotations

import datetime as dt
import itertools
import sys
import tempfile
from pathlib import Path

from knowtation_backup import FsspecSink, HubClient, KeepLast, KeepPolicy, OperatorExporter, Pipeline, RetentionPolicy
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

OPERATOR_KEY = "an operator key, long and random"
POLICIES: dict[str, RetentionPolicy] = {
    "the last seven": KeepLast(limit=7),
    "a week, then weeks, then months": KeepPolicy(daily=7, weekly=4, monthly=12),
    "the same, trusting what nobody read": KeepPolicy(daily=7, weekly=4, monthly=12, min_keep=0),
    "nothing older than a month": KeepPolicy(older_than="30d"),
    "QURI's runbook": KeepPolicy.quri(),
}


def main(directory: Path) -> None:
    """Print, for every policy, how much it would keep, and its plan for the oldest archive."""
    for name, policy in POLICIES.items():
        plan = Pipeline(sink=FsspecSink(directory), retention=policy).plan_forget()
        kept = sum(info.size_bytes for info in plan.kept)
        print(f"{name}: {len(plan.kept)} archives stay ({kept:,} bytes), {len(plan.forgotten)} go")
        if plan.decisions:
            oldest = plan.decisions[-1]
            print(f"    {'keeps' if oldest.keep else 'forgets'} {oldest.archive.archive_id}: {oldest.reason}")


def fill(directory: Path) -> None:
    """Make an archive a day for forty days, and verify every fifth."""
    today = dt.datetime.now(dt.UTC)
    with SandboxNetwork() as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY)
        seed(hub, SeedPlan(tenants=1))
        with HubClient(hub.base_url(server), operator_key=OPERATOR_KEY) as client:
            for days_ago in range(40):
                clock = itertools.repeat(today - dt.timedelta(days=days_ago)).__next__
                pipeline = Pipeline(source=OperatorExporter(client), sink=FsspecSink(directory), clock=clock)
                archive_id = pipeline.backup().archive_id
                if days_ago % 5 == 0:
                    pipeline.verify(archive_id)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory(prefix="knowtation-backup-") as temporary:
            fill(Path(temporary))
            main(Path(temporary))
