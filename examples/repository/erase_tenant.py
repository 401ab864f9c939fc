"""
Erase one tenant from history by destroying a key; everybody else's backups stay as they are.

    python examples/repository/erase_tenant.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _days import export_file

from knowtation_backup import (
    EncryptionKey,
    FsspecSink,
    Repository,
    RepositoryPipeline,
    apply_erase_tenant,
    plan_erase_tenant,
)


def main(directory: Path) -> None:
    """Erase Anna, and verify what is left."""
    repository = Repository.create(
        FsspecSink(directory / "history"), seal_to=EncryptionKey.generate(), tenant_keys=True
    )
    for day, tenant in enumerate(("anna", "ben")):
        pipeline = RepositoryPipeline(
            repository=repository, sources={"export": export_file(directory, day, user_id=tenant)}
        )
        pipeline.backup()

    plan = plan_erase_tenant(repository, "anna")
    print(plan)
    print(apply_erase_tenant(repository, plan))

    print(pipeline.verify_all())
    print("Ben has", len(list(pipeline.entries(tenant="ben"))), "notes")


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
