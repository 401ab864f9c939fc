"""The downtime journal: durable, one entry per canister, locks that die with their process."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from knowtation_backup.errors import BackupError, ConfigurationError, IntegrityError, SourceUnavailableError
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.snapshots.journal import DowntimeEntry, DowntimeJournal, network_name

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
OTHER = Principal.parse("ryjl3-tyaaa-aaaaa-aaaba-cai")
NETWORK = network_name(b"key")
ENTRY = DowntimeEntry(
    canister_id=CANISTER,
    network=NETWORK,
    operation="load",
    was_running=True,
    began_at=dt.datetime(2026, 4, 8, tzinfo=dt.UTC),
    group=(CANISTER, OTHER),
    snapshots_before=(SnapshotId(b"\x01"), SnapshotId(b"\x02")),
    pending="load",
    taken=SnapshotId(b"\x03"),
    target=SnapshotId(b"\x04"),
    safety=SnapshotId(b"\x05"),
    version=7,
    settled_at=dt.datetime(2026, 4, 9, tzinfo=dt.UTC),
)


def test_an_entry_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    journal = DowntimeJournal(tmp_path / "a" / "journal")
    assert journal.entries() == ()
    bare = attrs.evolve(
        ENTRY,
        canister_id=OTHER,
        group=(),
        pending="",
        taken=None,
        target=None,
        safety=None,
        version=None,
        settled_at=None,
    )
    journal.write(ENTRY)
    journal.write(bare)
    assert set(journal.entries()) == {ENTRY, bare}
    assert journal.find(CANISTER, NETWORK) == ENTRY
    changed = attrs.evolve(ENTRY, pending="")
    journal.write(changed)
    journal.remove(bare)
    journal.remove(bare)
    assert journal.entries() == (changed,)


def test_the_journal_is_private(tmp_path: Path) -> None:
    journal = DowntimeJournal(tmp_path / "journal")
    journal.write(ENTRY)
    (file,) = journal.directory.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.directory.stat().st_mode) == 0o700


def test_entries_of_two_networks_with_the_same_canister_id_do_not_meet(tmp_path: Path) -> None:
    journal = DowntimeJournal(tmp_path)
    elsewhere = attrs.evolve(ENTRY, network=network_name(b"other key"))
    journal.write(ENTRY)
    journal.write(elsewhere)
    journal.remove(ENTRY)
    assert journal.entries() == (elsewhere,)


def test_file_and_directory_are_flushed_before_writing_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = DowntimeJournal(tmp_path)
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushing(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renaming(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        steps.append("rename")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "rename", renaming)
    journal.write(ENTRY)
    assert steps == ["file", "rename", "directory"]


def test_a_write_that_fails_leaves_the_former_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = DowntimeJournal(tmp_path)
    journal.write(ENTRY)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError) as caught:
        journal.write(attrs.evolve(ENTRY, pending=""))
    assert caught.value.kind == "no_space"
    assert journal.entries() == (ENTRY,)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_place_that_cannot_be_written_is_found_by_the_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match="downtime journal"):
        DowntimeJournal(tmp_path / "file" / "journal").check()
    journal = DowntimeJournal(tmp_path / "journal")
    journal.check()
    assert list(journal.directory.iterdir()) == []


def test_a_check_on_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError, match="downtime journal"):
        DowntimeJournal(tmp_path).check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', "[" * 100_000])
def test_a_damaged_entry_is_named(tmp_path: Path, text: str) -> None:
    journal = DowntimeJournal(tmp_path)
    journal.write(ENTRY)
    (file,) = tmp_path.glob("*.json")
    file.write_text(text)
    with pytest.raises(IntegrityError) as caught:
        journal.entries()
    assert caught.value.kind == "journal_damaged"
    assert str(CANISTER) in str(caught.value)


def test_an_entry_about_another_canister_than_its_file_is_damaged(tmp_path: Path) -> None:
    journal = DowntimeJournal(tmp_path)
    journal.write(ENTRY)
    (file,) = tmp_path.glob("*.json")
    file.rename(tmp_path / file.name.replace(str(CANISTER), str(OTHER)))
    with pytest.raises(IntegrityError, match=str(OTHER)):
        journal.entries()


def test_a_damaged_entry_does_not_hide_the_others(tmp_path: Path) -> None:
    journal = DowntimeJournal(tmp_path)
    other = attrs.evolve(ENTRY, canister_id=OTHER)
    journal.write(ENTRY)
    journal.write(other)
    (file,) = tmp_path.glob(f"{CANISTER}*.json")
    file.write_text("{")
    entries, damaged = journal.read()
    assert entries == (other,)
    assert list(damaged) == [file.name]


def test_a_later_format_is_not_guessed_at() -> None:
    value = json.loads(json.dumps(ENTRY.to_json())) | {"format": "knowtation-downtime-2"}
    with pytest.raises(ValueError, match="unknown format"):
        DowntimeEntry.from_json(value)


def test_names_of_networks_cannot_lead_out_of_the_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        DowntimeJournal(tmp_path).write(attrs.evolve(ENTRY, network="../x"))


def test_one_operation_at_a_time_holds_a_canister(tmp_path: Path) -> None:
    journal = DowntimeJournal(tmp_path)
    with journal.lock(CANISTER, NETWORK):
        with pytest.raises(SourceUnavailableError) as caught, journal.lock(CANISTER, NETWORK):
            pass
        assert (caught.value.kind, caught.value.retryable) == ("canister_busy", True)
        with DowntimeJournal(tmp_path).lock(OTHER, NETWORK):
            pass
    with journal.lock(CANISTER, NETWORK):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from knowtation_backup.model.ids import Principal\n"
        "from knowtation_backup.snapshots.journal import DowntimeJournal\n"
        "with DowntimeJournal(sys.argv[1]).lock(Principal.parse(sys.argv[2]), sys.argv[3]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(CANISTER), NETWORK]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:  # noqa: S603 - our own
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(SourceUnavailableError), DowntimeJournal(tmp_path).lock(CANISTER, NETWORK):
            pass
        child.kill()
        child.wait()
    with DowntimeJournal(tmp_path).lock(CANISTER, NETWORK):
        pass
