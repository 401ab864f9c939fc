"""What earlier pipelines and other tools left on a sink becomes part of a repository's history."""

import datetime as dt
import gzip
import json
from typing import Any

import pytest
from repository_stage import contents, new_repository
from snapshot_files import snapshot_files, tar_of

from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keyring import Keyring
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Ktb2Codec
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.exports.sections import ExportFileSource
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.importing import StoredFileSource, import_all
from knowtation_backup.sinks.memory import MemorySink

KEY = EncryptionKey(raw=bytes(range(32)))
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


def export(day: int) -> bytes:
    notes = [{"path": f"{n}.md", "frontmatter": "{}", "body": f"note {n} {day if n == 0 else ''}"} for n in range(40)]
    user = {"user_id": "google:1", "vaults": [{"vault_id": "default", "notes": notes}], "proposals": []}
    value = {
        "format_version": 4,
        "kind": "knowtation-operator-full-export",
        "exported_at": f"2026-04-{day:02}T07:30:00.123Z",
        "users": [user],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def sealed(codec: Any, data: bytes) -> tuple[bytes, ...]:
    return tuple(codec.seal([data]))


def test_everything_that_is_recognised_is_imported_once() -> None:
    old = MemorySink()
    old.put("operator-full-export-20260401T073000Z.json", (export(1),))
    old.put("operator-full-export-20260402T073000Z.json.enc", sealed(Ktb1Codec(KEY), export(2)))
    chain = CodecChain(Compression("zstd"), Ktb2Codec(seal_to=KEY))
    old.put("operator-full-export-20260403T073000Z.json.zst.ktb2", sealed(chain, export(3)))
    state = tar_of({"./state.db": b"state" * 1000})
    old.put("km-backup-20260404T000000Z.tgz", (gzip.compress(state),))
    old.put("operator-full-export-20260405T073000Z.json", (export(5)[:-20],))
    repository = new_repository(MemorySink(permissions="lrw"))
    report = import_all(repository, old, Keyring([KEY]), source_id="hub")
    assert set(report.failed) == {"operator-full-export-20260405T073000Z.json"}
    assert (report.outcome, report.exit_code, len(report.imported)) == (Outcome.PARTIAL, 3, 4)
    by_name = {name: repository.manifest(archive_id) for name, archive_id in report.imported.items()}
    exports = [manifest for manifest in by_name.values() if manifest.kind == "knowtation-operator-full-export"]
    assert [manifest.taken_at.day for manifest in exports] == [1, 2, 3]
    assert {manifest.source_id for manifest in exports} == {"hub"}
    assert exports[1].parent == report.imported["operator-full-export-20260401T073000Z.json"]
    stored = contents(repository, report.imported["operator-full-export-20260403T073000Z.json.zst.ktb2"])
    assert len(stored["records"]) == 42
    duskmantle = "km-backup-20260404T000000Z.tgz"
    assert contents(repository, report.imported[duskmantle])["payload"] == state
    assert by_name[duskmantle].kind == "duskmantle-state"
    assert "NOT imported operator-full-export-20260405" in str(report)
    again = import_all(repository, old, Keyring([KEY]), source_id="hub")
    assert (again.imported, len(again.present)) == ({}, 4)


def test_what_was_imported_is_the_parent_of_what_comes(tmp_path: Any) -> None:
    old = MemorySink()
    old.put("operator-full-export-20260401T073000Z.json", (export(1),))
    repository = new_repository(MemorySink())
    (imported,) = import_all(repository, old, source_id="hub").imported.values()
    (tmp_path / "new.json").write_bytes(export(2))
    report = back_up(repository, ExportFileSource(path=tmp_path / "new.json", source_id="hub"))
    assert report.manifest.parent == imported
    assert next(section.stored for section in report.sections if section.name == "records") == 1
    root = ExportReader([export(1)]).read_all().content_root
    assert root in str(contents(repository, imported)["details.json"])


def test_a_snapshot_in_a_tar_file_becomes_images() -> None:
    old = MemorySink()
    members = snapshot_files(stable=bytes(5000) + b"x" * 5000)
    old.put("snapshot.tar", (tar_of(members),))
    repository = new_repository(MemorySink())
    source = StoredFileSource(
        sink=old, key="snapshot.tar", source_id="aaaaa-aa", kind="canister-snapshot", taken_at=NOW
    )
    report = back_up(repository, source)
    stored = contents(repository, report.archive_id)
    assert {name: stored[name] for name in members} == members
    assert next(s.changed for s in report.sections if s.name == "stable_memory.bin") == 2


def test_what_is_not_recognised_needs_a_kind() -> None:
    old = MemorySink()
    old.put("odd.bin", (b"odd" * 1000,))
    repository = new_repository(MemorySink())
    with pytest.raises(ConfigurationError) as caught:
        back_up(repository, StoredFileSource(sink=old, key="odd.bin", source_id="desk"))
    assert caught.value.kind == "not_recognised"
    report = back_up(repository, StoredFileSource(sink=old, key="odd.bin", source_id="desk", kind="odd"))
    assert contents(repository, report.archive_id)["payload"] == b"odd" * 1000
