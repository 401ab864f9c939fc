"""Exports for tests: tenants made of plain values, and a repository that holds them."""

import random
from pathlib import Path
from typing import Any

from knowtation_backup._engine.canonical import dumps
from knowtation_backup.exports.sections import ExportFileSource
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.repository.repository import Repository

__all__ = ["export_source", "note", "payload", "stored_export", "user"]

CHAOS = random.Random(3)  # noqa: S311 - content of tests


def note(path: str, body: str) -> dict[str, str]:
    return {"path": path, "frontmatter": "{}", "body": body}


def user(user_id: str, notes: int = 3, size: int = 20, proposals: int = 2) -> dict[str, Any]:
    """A tenant with vaults work and home, notes n0.md ... in both, and proposals p0 ... in work."""
    return {
        "user_id": user_id,
        "vaults": [
            {
                "vault_id": vault,
                "notes": [note(f"n{n}.md", f"{user_id} {vault} {CHAOS.randbytes(size).hex()}") for n in range(notes)],
            }
            for vault in ("work", "home")
        ],
        "proposals": [{"proposal_id": f"p{n}", "vault_id": "work", "status": "proposed"} for n in range(proposals)],
    }


def payload(*users: dict[str, Any], exported_at: str | None = "2026-04-08T15:30:22.123Z") -> dict[str, Any]:
    return {
        "format_version": 4,
        "kind": "knowtation-operator-full-export",
        "exported_at": exported_at,
        "users": list(users),
    }


def export_source(directory: Path, *users: dict[str, Any], exported_at: str | None = None) -> ExportFileSource:
    path = directory / "payload.json"
    path.write_bytes(dumps(payload(*users, exported_at=exported_at or "2026-04-08T15:30:22.123Z")))
    return ExportFileSource(path=path, source_id="hub")


def stored_export(
    repository: Repository, directory: Path, *users: dict[str, Any], exported_at: str | None = None
) -> str:
    return back_up(repository, export_source(directory, *users, exported_at=exported_at)).archive_id
