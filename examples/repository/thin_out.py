"""
Thin out: tag, pin, quarantine; forget into the trash and back again; prune; what packs hold in vain.

    python examples/repository/thin_out.py
"""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path

import attrs
from _days import START, three_days

from knowtation_backup import KeepPolicy, VerifyLevel


def main(directory: Path) -> None:
    """Keep the newest archive and what is pinned."""
    pipeline = attrs.evolve(
        three_days(directory),
        retention=KeepPolicy(last=1, min_keep=1),
        clock=lambda: START + dt.timedelta(days=30),
    )
    pipeline.verify_all(level=VerifyLevel.CONTENT).raise_for_findings()  # only what proved good counts for the floor

    print("-- pin, tag, quarantine")
    oldest, middle, _newest = (archive.archive_id for archive in reversed(pipeline.list()))
    pipeline.pin(oldest)
    pipeline.tag(middle, "before-upgrade")
    pipeline.quarantine(middle, reason="looks odd")
    pipeline.release(middle)

    print("-- forget: a plan, then into the trash")
    plan = pipeline.plan_forget()
    print(plan)
    print(pipeline.apply(plan))
    print("in the trash:", middle not in {archive.archive_id for archive in pipeline.list()})

    print("-- undelete")
    pipeline.undelete(middle)
    print("back again:", middle in {archive.archive_id for archive in pipeline.list()})

    print("-- empty the trash, then prune: both only what has waited long enough, which here is nothing")
    print(pipeline.apply(pipeline.plan_empty_trash()))
    print(pipeline.apply_prune(pipeline.plan_prune()))
    print(pipeline.measure_waste())


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
