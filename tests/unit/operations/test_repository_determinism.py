"""What two repositories say of one source: the same where it is meant to be compared, and else nothing alike."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from repository_stage import contents, new_repository
from snapshot_files import snapshot_files, tar_of

from knowtation_backup.contracts import SectionSource
from knowtation_backup.exports.sections import ExportFileSource
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.importing import StoredFileSource
from knowtation_backup.repository.manifest import ImageTables, RecordTables
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.snapshots.directory_source import SnapshotDirectorySource

CANISTER = "rrkah-fqaaa-aaaaa-aaaaq-cai"
FILES = {**snapshot_files(heap=bytes(range(256)) * 3000), "facts.json": b"{}\n"}
SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}


def details_of(source: SectionSource) -> tuple[Repository, str, dict[str, Any]]:
    """Back up into a repository of its own."""
    repository = new_repository(MemorySink())
    archive_id = back_up(repository, source).archive_id
    found = contents(repository, archive_id)["details.json"]
    assert isinstance(found, bytes)
    return repository, archive_id, json.loads(found)


def roots(repository: Repository, archive_id: str) -> set[bytes]:
    sections = repository.manifest(archive_id).sections
    return {section.root for section in sections if isinstance(section, ImageTables | RecordTables)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_snapshots_are_compared_by_the_digests_of_their_files(directory: Path) -> None:
    source = SnapshotDirectorySource(path=directory, canister_id=CANISTER, digests=True)
    first, second = details_of(source), details_of(source)
    assert first[2] == second[2]
    assert first[2]["capture"]["digests"] == SHA256
    assert len(roots(*first[:2])) == 2
    assert roots(*first[:2]).isdisjoint(roots(*second[:2]))  # keyed: whoever has both stores learns nothing
    # The same snapshot that came as a tar file.
    sink = MemorySink()
    sink.put("snapshot.tar", (tar_of(FILES),))
    packed = StoredFileSource(sink=sink, key="snapshot.tar", source_id=CANISTER, kind="canister-snapshot")
    assert details_of(packed)[2]["capture"]["digests"] == SHA256


def test_digests_of_directories_are_made_when_asked_for(directory: Path) -> None:
    _, _, details = details_of(SnapshotDirectorySource(path=directory, canister_id=CANISTER))
    assert "digests" not in details["capture"]


def test_exports_are_compared_by_their_content_root(tmp_path: Path) -> None:
    notes = [{"path": f"{n}.md", "frontmatter": "{}", "body": f"note {n}"} for n in range(30)]
    users = [{"user_id": "google:1", "vaults": [{"vault_id": "default", "notes": notes}], "proposals": []}]
    moment = "2026-04-08T15:30:22.123Z"
    head = {"format_version": 4, "kind": "knowtation-operator-full-export", "exported_at": moment}
    path = tmp_path / "export.json"
    path.write_text(json.dumps({**head, "users": users}))
    source = ExportFileSource(path=path, source_id="hub")
    first, second = details_of(source), details_of(source)
    assert first[2] == second[2]
    assert first[2]["capture"]["content_root"]
    assert roots(*first[:2]).isdisjoint(roots(*second[:2]))
    path.write_text(path.read_text().replace("note 7", "note 8"))
    other = details_of(attrs.evolve(source))[2]
    assert other["capture"]["content_root"] != first[2]["capture"]["content_root"]
