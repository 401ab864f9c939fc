"""What earlier pipelines and other tools left on a sink becomes part of a repository's history."""

import datetime as dt
import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from repository_stage import contents, new_repository

from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keyring import Keyring
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Ktb2Codec
from knowtation_backup.errors import ConfigurationError, IntegrityError
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.exports.sections import ExportFileSource
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.importing import StoredFileSource, import_all
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.sources import FakeSource

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


def tar(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def sealed(codec: Any, data: bytes) -> tuple[bytes, ...]:
    return tuple(codec.seal([data]))


def test_everything_that_is_recognised_is_imported_once() -> None:
    old = MemorySink()
    old.put("operator-full-export-20260401T073000Z.json", (export(1),))
    old.put("operator-full-export-20260402T073000Z.json.enc", sealed(Ktb1Codec(KEY), export(2)))
    chain = CodecChain(Compression("zstd"), Ktb2Codec(seal_to=KEY))
    old.put("operator-full-export-20260403T073000Z.json.zst.ktb2", sealed(chain, export(3)))
    state = tar({"./state.db": b"state" * 1000})
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
    members = {"metadata.json": b"{}", "wasm_module.bin": b"\0asm", "stable_memory.bin": bytes(5000) + b"x" * 5000}
    old.put("snapshot.tar", (tar(members),))
    repository = new_repository(MemorySink())
    source = StoredFileSource(
        sink=old, key="snapshot.tar", source_id="aaaaa-aa", kind="canister-snapshot", taken_at=NOW
    )
    report = back_up(repository, source)
    stored = contents(repository, report.archive_id)
    assert {name: stored[name] for name in members} == members
    assert next(s.changed for s in report.sections if s.name == "stable_memory.bin") == 2
    for bad in (tar({"../escape": b"x"}), tar(members)[:700]):
        old.delete("snapshot.tar")
        old.put("snapshot.tar", (bad,))
        with pytest.raises((ConfigurationError, IntegrityError)):
            back_up(repository, source)
    assert len(repository.archive_ids()) == 1


@pytest.mark.parametrize("program", [["tar", "-cf"], ["tar", "-czf"]])
def test_a_directory_packed_by_tar_is_a_snapshot(program: list[str], tmp_path: Path) -> None:
    members = {"metadata.json": b"{}", "wasm_module.bin": b"\0asm", "stable_memory.bin": b"x" * 5000}
    (tmp_path / "there").mkdir()
    for name, content in members.items():
        (tmp_path / "there" / name).write_bytes(content)
    subprocess.run([*program, "made.tar", "-C", "there", "."], cwd=tmp_path, check=True)  # noqa: S603 - of the system
    old = MemorySink()
    old.put("made.tar", ((tmp_path / "made.tar").read_bytes(),))
    repository = new_repository(MemorySink())
    source = StoredFileSource(sink=old, key="made.tar", source_id="aaaaa-aa", kind="canister-snapshot", taken_at=NOW)
    stored = contents(repository, back_up(repository, source).archive_id)
    assert {name: stored[name] for name in members} == members


def _link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/elsewhere"
    return info


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (["metadata.json", _link("wasm_module.bin")], "'wasm_module.bin' is no regular file"),
        (["wasm_module.bin"], "it has no metadata.json"),
        (["metadata.json", "./metadata.json"], "'metadata.json' is in it twice"),
    ],
)
def test_a_tar_file_that_lacks_something_is_no_snapshot(members: list[str | tarfile.TarInfo], said: str) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for member in members:
            archive.addfile(tarfile.TarInfo(member) if isinstance(member, str) else member, io.BytesIO())
    old = MemorySink()
    old.put("snapshot.tar", (made.getvalue(),))
    repository = new_repository(MemorySink())
    source = StoredFileSource(
        sink=old, key="snapshot.tar", source_id="aaaaa-aa", kind="canister-snapshot", taken_at=NOW
    )
    with pytest.raises(IntegrityError, match=said) as raised:
        back_up(repository, source)
    assert raised.value.kind == "bad_payload"
    assert repository.archive_ids() == []


def test_what_is_not_recognised_needs_a_kind() -> None:
    old = MemorySink()
    old.put("odd.bin", (b"odd" * 1000,))
    repository = new_repository(MemorySink())
    with pytest.raises(ConfigurationError) as caught:
        back_up(repository, StoredFileSource(sink=old, key="odd.bin", source_id="desk"))
    assert caught.value.kind == "not_recognised"
    report = back_up(repository, StoredFileSource(sink=old, key="odd.bin", source_id="desk", kind="odd"))
    assert contents(repository, report.archive_id)["payload"] == b"odd" * 1000


def test_what_is_passed_over_is_named() -> None:
    old = MemorySink()
    name = "operator-full-export-20260401T073000Z.json"
    Pipeline(source=FakeSource(), sink=old).backup()
    (archive,) = Pipeline(sink=old).list()
    manifest = next(key for key in old.contents() if key.endswith("manifest.json"))
    old.delete(manifest)
    old.put(manifest, [b"{}"])
    old.put(name, (export(1),))
    report = import_all(new_repository(MemorySink()), old, source_id="hub")
    assert list(report.imported) == [name]
    assert report.skipped == {archive.archive_id: ArchiveState.DAMAGED}
    assert f"passed over {archive.archive_id}: damaged" in str(report)
