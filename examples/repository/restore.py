"""
Restore: an archive into a directory, with a plan; one tenant's notes; a section as a stream.

    python examples/repository/restore.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _days import three_days

from knowtation_backup import ExportForm


def main(directory: Path) -> None:
    """Restore what was there on the second day, in several ways."""
    pipeline = three_days(directory)
    second = pipeline.find("latest-1").archive_id

    print("-- restore: the directory appears complete or not at all")
    print(pipeline.plan_restore(second, directory / "restored", form=ExportForm.FULL))
    print(pipeline.restore(second, directory / "restored", form=ExportForm.FULL))

    print("-- entries: what one tenant had; nothing else is read")
    for entry in pipeline.entries(second, tenant="google:1", vault="default"):
        if entry.note is not None:
            print(entry.note.path, repr(entry.note.body))

    print("-- read: one section as a stream")
    print(b"".join(pipeline.read("details.json", second)).decode())


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
