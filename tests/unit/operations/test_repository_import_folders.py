"""Folders of other tools are imported where it is clear what they are, and nothing is passed over in silence."""

from __future__ import annotations

import datetime as dt
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from repository_stage import contents, new_repository
from snapshot_files import snapshot_files

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import PlanStaleError
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.model.manifest import side_key
from knowtation_backup.model.reports import Outcome
from knowtation_backup.model.selection import ArchiveFilter
from knowtation_backup.operations.repository.import_reports import ImportReport
from knowtation_backup.operations.repository.importing import apply_import, import_all, plan_import
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.snapshots.provenance_records import ProvenanceHead, Recorder

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
OTHER = Principal.parse("ryjl3-tyaaa-aaaaa-aaaba-cai")
SNAPSHOT_ID = SnapshotId(bytes(7) + b"\1" + CANISTER.raw)
HELPER = f"hub-20260408T153022Z-{SNAPSHOT_ID}"
AGENT_TIME = "2026-04-09T10-11-12-345Z"
QURI = "20260410_020000"


def put(sink: ArchiveSink, folder: str, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        sink.put(f"{folder}/{name}" if folder else name, (content,))


def evidence_of(canister: Principal) -> bytes:
    head = ProvenanceHead(canister_id=canister, snapshot_id=SnapshotId(bytes(8) + canister.raw))
    return Recorder(head).head()


def sums(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


def quri(**more: bytes) -> dict[str, bytes]:
    files = {"registry_status.txt": b"Status: Running\n", "registry_export.txt": b"(record {})\n"}
    return {**files, "MANIFEST.txt": b"Backup Date: x\nNetwork: ic\n" + sums(files), **more}


def agentvault(**changed: str) -> dict[str, bytes]:
    files = {"agents/demo/config.json": b"{}", "wallets/demo.json": b"[1]"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {
        "version": "1.0",
        "agentName": "demo",
        "files": [
            {"relativePath": name, "sizeBytes": len(files.get(name, b"")), "checksum": digest}
            for name, digest in (digests | changed).items()
        ],
        "checksum": hashlib.sha256("".join(sorted((digests | changed).values())).encode()).hexdigest(),
    }
    return {**files, "manifest.json": json.dumps(manifest, indent=2).encode()}


def only(repository: Repository, report: ImportReport) -> dict[str, bytes | set[bytes]]:
    (archive_id,) = report.imported.values()
    assert report.outcome is Outcome.OK
    return contents(repository, archive_id)


@pytest.mark.parametrize("folder", [HELPER, f"ours/2026/{HELPER}"])
def test_what_the_knowtation_helper_downloaded_is_imported(tmp_path: Path, folder: str) -> None:
    sink = FsspecSink(tmp_path)
    files = snapshot_files()
    put(sink, folder, files)
    (tmp_path / folder / ".lock").write_bytes(b"")
    repository = new_repository(MemorySink())
    report = import_all(repository, sink)
    found = only(repository, report)
    assert {name: found[name] for name in files} == files
    manifest = repository.manifest(report.imported[folder])
    assert (manifest.kind, manifest.source_id) == ("canister-snapshot", str(CANISTER))
    assert manifest.taken_at == dt.datetime(2026, 5, 28, 20, 26, 40, 123000, tzinfo=dt.UTC)
    assert next(s.kind.value for s in manifest.sections if s.name == "stable_memory.bin") == "image"
    assert [finding.code for finding in report.warnings[folder]] == ["snapshot_unproven"]
    assert "warning snapshot_unproven" in str(report)
    assert report.skipped == ()
    assert import_all(repository, sink).present == (folder,)


def test_our_own_downloads_say_whose_they_are_and_are_compared() -> None:
    files = snapshot_files()
    ours = {**files, "SHA256SUMS": sums(files), "provenance.cbor": evidence_of(CANISTER) + b"more" * 5000}
    sink = MemorySink()
    put(sink, "monday", ours)
    repository = new_repository(MemorySink())
    report = import_all(repository, sink, source_id="hub")
    assert {name: only(repository, report)[name] for name in ours} == ours
    assert repository.manifest(report.imported["monday"]).source_id == str(CANISTER)
    assert report.warnings == {}


@pytest.mark.parametrize(
    ("name", "changed", "kind"),
    [
        ("monday", {}, "canister_not_named"),
        ("hub-20260408T153022Z-00ff", {}, "canister_not_named"),
        (f"hub-20260408T153022Z-{'07' * 18}", {}, "canister_not_named"),  # as long, and of no canister
        (HELPER, {"provenance.cbor": evidence_of(OTHER)}, "provenance_mismatch"),
        (HELPER, {"provenance.cbor": b"\xff"}, "provenance_malformed"),
        (HELPER, {"metadata.json": b"{}"}, "snapshot_metadata"),
        (HELPER, {"stable_memory.bin": b"short"}, "snapshot_file_size"),
        (HELPER, {"SHA256SUMS": sums({"wasm_memory.bin": b"other"})}, "snapshot_file_digest"),
        (QURI, {}, "canister_not_named"),
    ],
)
def test_snapshots_that_are_not_sound_are_named(name: str, changed: dict[str, bytes], kind: str) -> None:
    sink = MemorySink()
    put(sink, name, {**snapshot_files(), **changed})
    repository = new_repository(MemorySink())
    report = import_all(repository, sink)
    assert (list(report.failed), report.failed[name].kind, report.exit_code) == ([name], kind, 3)
    assert repository.archive_ids() == []


def test_directories_of_dfx_take_the_canister_they_are_given() -> None:
    sink = MemorySink()
    files = snapshot_files(stable=b"")
    del files["stable_memory.bin"]
    put(sink, "monday", files)
    repository = new_repository(MemorySink())
    report = import_all(repository, sink, source_id=str(CANISTER))
    assert repository.manifest(report.imported["monday"]).source_id == str(CANISTER)


def test_directories_of_quri_are_imported_with_what_their_manifest_says() -> None:
    sink = MemorySink()
    put(sink, QURI, quri())
    put(sink, "backups/20260411_020000", quri(**{"registry_status.txt": b"Status: Stopped\n"}))
    put(sink, "backups/20260412_020000", {"registry_info.json": b"{}"})
    put(sink, "20260413_020000", {"notes.txt": b"of something else"})
    repository = new_repository(MemorySink())
    report = import_all(repository, sink)
    assert list(report.imported) == [QURI, "backups/20260411_020000", "backups/20260412_020000"]
    manifests = [repository.manifest(archive_id) for archive_id in report.imported.values()]
    assert {(manifest.kind, manifest.source_id) for manifest in manifests} == {("quri-backup", "quri")}
    assert manifests[0].taken_at == dt.datetime(2026, 4, 10, 2, tzinfo=dt.UTC)
    assert manifests[1].parent == report.imported[QURI]
    found = contents(repository, report.imported[QURI])
    assert {name: found[name] for name in quri()} == quri()
    codes = {name: [finding.code for finding in findings] for name, findings in report.warnings.items()}
    assert codes == {"backups/20260411_020000": ["metadata_digest"], "backups/20260412_020000": ["manifest_missing"]}
    assert [each.key for each in report.skipped] == ["20260413_020000/notes.txt"]


def test_cloud_folders_of_agentvault_are_compared_with_their_manifest() -> None:
    folder = f"AgentVault-Backups/demo-{AGENT_TIME}"
    sink = MemorySink()
    put(sink, folder, agentvault())
    repository = new_repository(MemorySink())
    report = import_all(repository, sink)
    found = only(repository, report)
    assert {name: found[name] for name in agentvault()} == agentvault()
    manifest = repository.manifest(report.imported[folder])
    assert (manifest.kind, manifest.source_id) == ("agentvault-cloud-folder", "demo")
    assert manifest.taken_at == dt.datetime(2026, 4, 9, 10, 11, 12, 345000, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (agentvault(**{"wallets/demo.json": "0" * 64}), "folder_file_digest"),
        (agentvault(**{"wallets/other.json": "0" * 64}), "folder_file_missing"),
        ({**agentvault(), "manifest.json": agentvault()["manifest.json"][:-9]}, "bad_folder_manifest"),
        ({**agentvault(), "manifest.json": b'{"files":[],"checksum":""}'}, "folder_file_digest"),
        ({**agentvault(), "manifest.json": b"[]"}, "bad_folder_manifest"),
    ],
)
def test_cloud_folders_that_are_not_whole_are_refused(files: dict[str, bytes], kind: str) -> None:
    sink = MemorySink()
    put(sink, f"demo-{AGENT_TIME}", files)
    repository = new_repository(MemorySink())
    report = import_all(repository, sink)
    assert [error.kind for error in report.failed.values()] == [kind]
    assert repository.archive_ids() == []


def test_files_of_quri_and_agentvault_are_kept_as_they_are() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in quri().items():
            info = tarfile.TarInfo(f"{QURI}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    bundle = {"format": "agentvault-thoughtform-bundle-v1", "createdAt": "x", "manifest": {}, "entries": {}}
    full = {"format": "agentvault-full-backup-v1", "manifest": {}, "encryptedPayload": {}}
    plain = {"version": "1.1", "agentName": "demo", "checksums": {}, "components": []}
    files = {
        f"{QURI}.tar.gz": (gzip.compress(packed.getvalue()), packed.getvalue(), "quri-backup", "quri"),
        f"demo-{AGENT_TIME}.json": (json.dumps(plain).encode(), None, "agentvault-manifest", "demo"),
        f"demo-{AGENT_TIME}-full.zip": (json.dumps(full).encode(), None, "agentvault-full-backup", "demo"),
        f"demo-{AGENT_TIME}.thoughtform-bundle.json.gz": (
            gzip.compress(json.dumps(bundle).encode()),
            json.dumps(bundle).encode(),
            "agentvault-thoughtform-bundle",
            "demo",
        ),
        "archive-1775729472345-00aabbcc.json": (b'{"a":1}', None, "agentvault-archive", "archive"),
    }
    sink = MemorySink()
    put(sink, "", {name: stored for name, (stored, *_) in files.items()})
    repository = new_repository(MemorySink())
    report = import_all(repository, sink)
    assert (report.failed, report.skipped) == ({}, ())
    for name, (stored, inside, kind, source_id) in files.items():
        manifest = repository.manifest(report.imported[name])
        assert (manifest.kind, manifest.source_id, manifest.complete) == (kind, source_id, True)
        assert contents(repository, report.imported[name])["payload"] == (inside or stored)


def test_whatever_is_passed_over_is_named_with_a_reason() -> None:
    sink = MemorySink()
    sink.put("notes.txt", (b"x",))
    damaged = "canister-snapshot-20260401T073000Z.tar"
    sink.put(side_key(damaged, "started.json"), (b'{"kind":"canister-snapshot","source_id":"x"}',))
    sink.put(side_key("gone", "note.json"), (b"{}",))
    sink.put("old/operator-full-export-20260402T073000Z.json", (b"{}",))
    sink.put("backups/hub/metadata.json", (b"{}",))
    put(sink, QURI, quri())
    plan = plan_import(new_repository(MemorySink()), sink, wanted=ArchiveFilter(kind="canister-snapshot"))
    assert plan.items == ()
    plan = plan_import(new_repository(MemorySink()), sink)
    assert [item.key for item in plan.items] == [QURI]
    reasons = {each.key: each.reason for each in plan.skipped}
    assert sorted(reasons) == [
        "backups/hub/metadata.json",
        damaged,
        "notes.txt",
        "old/operator-full-export-20260402T073000Z.json",
        side_key("gone", "note.json"),
    ]
    assert "never finished" in reasons[damaged]
    assert "no archive that is there" in reasons[side_key("gone", "note.json")]
    assert "open the sink there" in reasons["old/operator-full-export-20260402T073000Z.json"]
    assert "no tool that is known" in reasons["notes.txt"]
    report = import_all(new_repository(MemorySink()), sink)
    assert report.skipped == plan.skipped
    assert "skipped notes.txt: " in str(report)
    assert "skipped notes.txt: " in str(plan)
    assert "1 imported, 0 not, 5 skipped" in str(report)
    many = ImportReport(imported={}, present=(), failed={}, skipped=plan.skipped * 20)
    assert "skipped 50 more" in str(many)
    assert len(str(many).splitlines()) == 52


def test_a_plan_is_applied_as_it_was_made_or_not_at_all() -> None:
    sink = MemorySink()
    put(sink, QURI, quri())
    sink.put("archive-1775729472345-00aabbcc.json", (b'{"a":1}',))
    repository = new_repository(MemorySink())
    plan = plan_import(repository, sink)
    assert repository.archive_ids() == []
    assert plan.size_bytes == sum(len(data) for data in sink.contents().values())
    put(sink, "20260411_020000", quri())  # came later: not planned, not imported
    report = apply_import(repository, sink, plan)
    assert set(report.imported) == {QURI, "archive-1775729472345-00aabbcc.json"}
    again = apply_import(repository, sink, plan)
    assert (again.imported, set(again.present)) == ({}, set(report.imported))
    plan = plan_import(repository, sink)
    assert ([item.key for item in plan.items], set(plan.present)) == (["20260411_020000"], set(report.imported))
    for change in (
        lambda: sink.put("20260411_020000/more.txt", (b"x",)),
        lambda: sink.delete("20260411_020000/registry_status.txt"),
    ):
        plan = plan_import(repository, sink)
        change()
        with pytest.raises(PlanStaleError, match="plan again"):
            apply_import(repository, sink, plan)
    with pytest.raises(PlanStaleError):
        apply_import(repository, MemorySink(), plan)
    assert len(repository.archive_ids()) == 2


def test_a_folder_within_a_folder_belongs_to_it() -> None:
    sink = MemorySink()
    put(sink, QURI, quri())
    put(sink, f"{QURI}/{HELPER}", snapshot_files())
    plan = plan_import(new_repository(MemorySink()), sink)
    assert [(item.key, len(item.blobs)) for item in plan.items] == [(QURI, len(quri()) + len(snapshot_files()))]
    assert plan.skipped == ()
