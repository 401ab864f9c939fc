"""Snapshots in a repository: what comes back is byte for byte what a download writes, and is still proved."""

import datetime as dt
from pathlib import Path

import attrs
import pytest
from repository_stage import contents, new_repository
from snapshot_source import snapshot_source

from knowtation_backup.errors import ConfigurationError, DigestMismatchError, IntegrityError, InternalError
from knowtation_backup.model.ids import MANAGEMENT_CANISTER
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import DETAILS_SECTION, back_up
from knowtation_backup.operations.repository.differences import diff, diff_live
from knowtation_backup.operations.repository.restoring import restore_directory
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.snapshots.directory import SnapshotDirectory
from knowtation_backup.snapshots.directory_source import SnapshotDirectorySource
from knowtation_backup.snapshots.download import DIGESTS_FILE, download
from knowtation_backup.snapshots.facts import FACTS_FILE, CanisterFacts
from knowtation_backup.snapshots.provenance import PROVENANCE_FILE, verify_provenance
from knowtation_backup.snapshots.source import CanisterSource

pytestmark = pytest.mark.sandbox


def paths(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("chunks", [0, 2])
def test_a_snapshot_streams_into_a_repository(tmp_path: Path, chunks: int) -> None:
    with snapshot_source(pieces=2, chunks=chunks) as source:
        which = (source.canister_id, source.snapshot_id)
        download(source.management, *which, tmp_path / "downloaded")
        repository = new_repository(FsspecSink(tmp_path / "repository"))
        captured = CanisterSource(management=source.management, canister_id=which[0], snapshot_id=which[1])
        first = back_up(repository, captured)
        stored = contents(repository, first.archive_id)
        wanted = files(tmp_path / "downloaded")
        for changing in (PROVENANCE_FILE, DIGESTS_FILE, DETAILS_SECTION):
            wanted.pop(changing, None)
        assert {name: stored[name] for name in wanted} == wanted
        assert set(stored) - set(wanted) == {PROVENANCE_FILE, DETAILS_SECTION}
        restored = restore_directory(repository, first.archive_id, tmp_path / "restored").directory
        proved = verify_provenance(restored, root_key=source.network.root_key, canister_id=which[0])
        assert proved.snapshot_id == which[1]
        assert (first.manifest.kind, first.manifest.source_id) == ("canister-snapshot", str(which[0]))
        assert first.manifest.taken_at == proved.taken_at.replace(
            microsecond=proved.taken_at.microsecond // 1000 * 1000
        )
        # The same snapshot from the directory is the same content: nothing of the memory is stored again.
        again = back_up(repository, SnapshotDirectorySource(path=tmp_path / "downloaded", canister_id=which[0]))
        assert again.manifest.parent == first.archive_id
        changed = {section.name: section.stored for section in again.sections if section.stored}
        assert set(changed) == {PROVENANCE_FILE, DIGESTS_FILE, DETAILS_SECTION}
        assert {**contents(repository, again.archive_id), DETAILS_SECTION: b""} == {
            **files(tmp_path / "downloaded"),
            DETAILS_SECTION: b"",
        }
        restored = restore_directory(repository, again.archive_id, tmp_path / "restored again").directory
        assert files(restored) == files(tmp_path / "downloaded")
        assert paths(restored) == paths(tmp_path / "downloaded")
        with SnapshotDirectory.open(restored) as directory:
            directory.check_digests()
        assert diff(repository, first.archive_id, again.archive_id).outcome is Outcome.OK
        assert diff_live(repository, again.archive_id, captured).outcome is Outcome.OK


def test_a_directory_that_is_not_whole_is_not_stored(tmp_path: Path) -> None:
    with snapshot_source(pieces=1) as source:
        place = tmp_path / "downloaded"
        download(source.management, source.canister_id, source.snapshot_id, place)
        repository = new_repository(FsspecSink(tmp_path / "repository"))
        memory = place / "stable_memory.bin"
        good = memory.read_bytes()
        memory.write_bytes(b"\0" + good[1:])
        checked = SnapshotDirectorySource(path=place, canister_id=source.canister_id, check_digests=True)
        with pytest.raises(DigestMismatchError):
            back_up(repository, checked)
        memory.write_bytes(good[:-1])
        with pytest.raises(IntegrityError):
            back_up(repository, SnapshotDirectorySource(path=place, canister_id=source.canister_id))
        assert repository.archive_ids() == []
        memory.write_bytes(good)
        assert back_up(repository, checked).manifest.complete


def test_captures_say_what_they_found_only_at_their_end(tmp_path: Path) -> None:
    with snapshot_source() as source:
        now = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
        place = tmp_path / "downloaded"
        download(source.management, source.canister_id, source.snapshot_id, place)
        streamed = CanisterSource(
            management=source.management, canister_id=source.canister_id, snapshot_id=source.snapshot_id
        )
        for maker in (streamed, SnapshotDirectorySource(path=place, canister_id=str(source.canister_id))):
            with pytest.raises(InternalError):
                maker.capture_sections(taken_at=now).result()
        with pytest.raises(ConfigurationError):
            SnapshotDirectorySource(path=place, canister_id="not a canister")


def test_facts_are_stored_beside_a_snapshot(tmp_path: Path) -> None:
    with snapshot_source() as source:
        captured = CanisterSource(
            management=source.management, canister_id=source.canister_id, snapshot_id=source.snapshot_id
        )
        repository = new_repository(FsspecSink(tmp_path / "repository"))
        plain = back_up(repository, captured)
        report = back_up(repository, attrs.evolve(captured, facts=True))
        stored = contents(repository, report.archive_id)
        assert set(stored) - set(contents(repository, plain.archive_id)) == {FACTS_FILE}
        written = stored[FACTS_FILE]
        assert isinstance(written, bytes)
        facts = CanisterFacts.from_bytes(written)
        assert (facts.canister_id, facts.access) == (source.canister_id, "controller")
        assert facts.captured_at == report.manifest.started_at
        assert facts.snapshots is not None
        assert [snapshot.snapshot_id for snapshot in facts.snapshots] == [source.snapshot_id]
        assert report.warnings == facts.findings
        # It is restored beside the snapshot, and a directory with it says itself whose it is.
        restored = restore_directory(repository, report.archive_id, tmp_path / "restored").directory
        assert (restored / FACTS_FILE).read_bytes() == written
        again = back_up(repository, SnapshotDirectorySource(path=restored))
        assert (again.manifest.source_id, again.manifest.parent) == (str(source.canister_id), report.archive_id)
        assert contents(repository, again.archive_id)[FACTS_FILE] == written


def test_what_a_mere_reader_may_not_see_is_a_warning(tmp_path: Path) -> None:
    with snapshot_source() as source:
        source.management.update_settings(
            source.canister_id, controllers=[MANAGEMENT_CANISTER], values={"snapshot_visibility": "public"}
        )
        captured = CanisterSource(
            management=source.management, canister_id=source.canister_id, snapshot_id=source.snapshot_id, facts=True
        )
        report = back_up(new_repository(FsspecSink(tmp_path / "repository")), captured)
        assert report.manifest.complete
        assert {warning.code for warning in report.warnings} == {"public_facts_only", "logs_unreadable"}
