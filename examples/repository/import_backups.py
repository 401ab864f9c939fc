"""
Import: archives that a `Pipeline` made, and files of other tools, become part of one history.

    python examples/repository/import_backups.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from _days import export_file

from knowtation_backup import EncryptionKey, FsspecSink, Keyring, Ktb2Codec, Repository, RepositoryPipeline


def main(directory: Path) -> None:
    """Import a plain export of other tools and a sealed one, and repeat it."""
    key = EncryptionKey.generate()
    old = FsspecSink(directory / "old")
    for day, sealed in enumerate((False, True)):
        payload = (directory / Path(export_file(directory, day).path).name).read_bytes()
        name = f"operator-full-export-2026030{day + 1}T073000Z.json"
        if sealed:
            old.put(f"{name}.ktb2", Ktb2Codec(seal_to=key).seal([payload]))
        else:
            old.put(name, [payload])

    repository = Repository.create(FsspecSink(directory / "history"), seal_to=key)
    pipeline = RepositoryPipeline(repository=repository)
    print(pipeline.import_all(old, Keyring([key]), source_id="hub"))
    print(pipeline.import_all(old, Keyring([key]), source_id="hub"))
    print(pipeline.diff("latest-1", "latest"))


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
