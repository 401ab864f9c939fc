"""What the programs beside this one back up: a hub's exports, as files, one for each day."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

from knowtation_backup import EncryptionKey, ExportFileSource, FsspecSink, Repository, RepositoryPipeline

START = dt.datetime(2026, 3, 1, 7, 30, tzinfo=dt.UTC)
DAYS: list[dict[str, str]] = [
    {"plan.md": "buy milk\nwrite to Ann\n"},
    {"plan.md": "buy milk\nwrite to Ann\n", "ideas.md": "a boat\n"},
    {"plan.md": "write to Ann\ncall Ben\n", "ideas.md": "a boat\n"},
]


def export_file(directory: Path, day: int, *, user_id: str = "google:1") -> ExportFileSource:
    """Write the export of a day, counted from 0, as a Knowtation hub exports it."""
    notes = [{"path": path, "frontmatter": "{}", "body": body} for path, body in DAYS[day].items()]
    value = {
        "format_version": 4,
        "kind": "knowtation-operator-full-export",
        "exported_at": f"{START + dt.timedelta(days=day):%Y-%m-%dT%H:%M:%S}.000Z",
        "users": [{"user_id": user_id, "vaults": [{"vault_id": "default", "notes": notes}], "proposals": []}],
    }
    path = directory / f"operator-full-export-{day}.json"
    path.write_text(json.dumps(value))
    return ExportFileSource(path=path, source_id="hub")


def three_days(directory: Path) -> RepositoryPipeline:
    """Return the pipeline of a repository with three days of backups."""
    repository = Repository.create(FsspecSink(directory / "history"), seal_to=EncryptionKey.generate())
    for day in range(len(DAYS)):
        RepositoryPipeline(repository=repository, sources={"export": export_file(directory, day)}).backup()
    return RepositoryPipeline(repository=repository)
