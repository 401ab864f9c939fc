"""
Verify, replicate, lag, repair; and copy to a repository with other keys.

    python examples/repository/replicate_and_repair.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
from _days import three_days

from knowtation_backup import FsspecSink, PrivateKey, Repository, RepositoryPipeline


def main(directory: Path) -> None:
    """Lose a file of the repository, and get it back."""
    pipeline = three_days(directory)

    print("-- replicate: the same recipients open it, and lag says that nothing is left to copy")
    replica = attrs.evolve(pipeline.repository, sink=FsspecSink(directory / "elsewhere"))
    print(pipeline.replicate(replica.sink))
    print(pipeline.lag(replica))

    print("-- verify: a pack has lost its end")
    (pack, *_) = sorted((directory / "history" / "packs").rglob("*.pack"))
    pack.write_bytes(pack.read_bytes()[:-10])
    print(pipeline.verify_all())

    print("-- repair")
    plan = pipeline.plan_repair(replica)
    print(plan)
    print(pipeline.apply_repair(plan, replica))
    pipeline.verify_all().raise_for_findings()

    print("-- copy_to: another repository, other keys")
    auditor = PrivateKey.generate()
    other = Repository.create(FsspecSink(directory / "auditor"), seal_to=[auditor.public_key])
    print(pipeline.copy_to(other))
    RepositoryPipeline(repository=Repository.open(other.sink, auditor)).verify_all().raise_for_findings()


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
