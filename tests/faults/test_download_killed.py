"""Downloads that are killed, refused, cut off or run out of space leave nothing half-written, and go on."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from snapshot_source import noise_wasm, prepare, snapshot_source
from snapshot_stage import FAULTS, SnapshotStage, snapshot_stage

from knowtation_backup.errors import BackupError, ConfigurationError, SinkFullError
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.sandbox import SandboxProcess
from knowtation_backup.snapshots.download import DIGESTS_FILE, DownloadOptions, download
from knowtation_backup.snapshots.provenance import PROVENANCE_FILE, verify_provenance

pytestmark = pytest.mark.sandbox

CHILD = str(Path(__file__).parent / "killed_download.py")
ONE = DownloadOptions(concurrency=1)
KILLS = 20


def contents(place: Path) -> dict[str, bytes]:
    files = (path for path in place.rglob("*") if path.is_file() and path.name not in {PROVENANCE_FILE, DIGESTS_FILE})
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def killed(tmp_path: Path, *, pieces: int, mode: str) -> list[tuple[int, int, bool]]:
    """Download, be killed and go on; return bytes received, size of the data, and whether it is the same, for each."""
    with SandboxProcess() as network:
        canister, snapshot = prepare(network, pieces=pieces, chunks=1)
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            [
                sys.executable, CHILD, network.url, network.root_key.hex(), str(Principal(canister)), snapshot.hex(),
                str(tmp_path), str(KILLS), mode,
            ],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(int(received), int(size), same == "True") for _, received, size, same in lines]


def test_a_killed_download_goes_on_without_reading_twice_what_is_done(tmp_path: Path) -> None:
    trials = killed(tmp_path, pieces=20, mode="each")
    assert len(trials) == KILLS
    for received, size, same in trials:
        assert same
        assert received < 1.05 * size


def test_one_download_that_is_killed_twenty_times_reads_hardly_more(tmp_path: Path) -> None:
    # A kill costs the part that was on its way, of 2 MB: twenty of them are less than 5 % from 800 MB on.
    (received, size, same), *others = killed(tmp_path, pieces=420, mode="one")
    assert not others
    assert same
    assert size < received < 1.05 * size


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[SnapshotStage]:
    with snapshot_stage(tmp_path, noise_wasm()) as running:
        yield running


def taken(stage: SnapshotStage) -> tuple[Principal, SnapshotId]:
    canister, snapshot = prepare(stage.network, chunks=1)
    return Principal(canister), SnapshotId(snapshot)


def fetched(stage: SnapshotStage, which: tuple[Principal, SnapshotId], place: Path) -> Path:
    download(ManagementCanister(stage.agent), *which, place, options=ONE, monotonic=stage.monotonic)
    return place


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_call_fails_the_second_run_completes(stage: SnapshotStage, tmp_path: Path, fault: str) -> None:
    which = taken(stage)
    stage.transport.disarm()
    wanted = contents(fetched(stage, which, tmp_path / "wanted"))
    calls = len(stage.transport.calls)
    assert calls == 1 + 6
    for number in range(calls):
        place = tmp_path / f"{fault}-{number}"
        stage.transport.arm(fault, number)
        try:
            fetched(stage, which, place)
        except (BackupError, KeyboardInterrupt):
            assert not place.exists()
            stage.sleep(1000)
            stage.transport.disarm()
            fetched(stage, which, place)
            assert len(stage.transport.calls) == calls - max(0, number - 1)
        assert contents(place) == wanted
        assert verify_provenance(place, root_key=stage.network.root_key).parts == calls - 1
        assert not place.with_name(place.name + ".partial").exists()


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    with snapshot_source() as source:
        which = (source.canister_id, source.snapshot_id)
        download(source.management, *which, tmp_path / "wanted", options=ONE)
        for number in range(0, 24, 3):
            made = 0

            def full(*args: Any, number: int = number) -> int:
                nonlocal made
                made += 1
                if made > number:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*args)

            place = tmp_path / str(number)
            monkeypatch.setattr(os, "pwrite", full)
            with pytest.raises(SinkFullError):
                download(source.management, *which, place, options=ONE)
            assert not place.exists()
            monkeypatch.setattr(os, "pwrite", real)
            download(source.management, *which, place, options=ONE)
            assert contents(place) == contents(tmp_path / "wanted")


def test_another_snapshot_does_not_get_mixed_in(tmp_path: Path) -> None:
    with snapshot_source() as source:
        second = source.management.take_snapshot(source.canister_id).snapshot_id
        cancelled = _Cancelling()
        with pytest.raises(_Enough):
            download(
                source.management, source.canister_id, source.snapshot_id, tmp_path / "one",
                options=DownloadOptions(concurrency=1, progress_seconds=1e-9), observer=cancelled,
            )  # fmt: skip
        with pytest.raises(ConfigurationError) as caught:
            download(source.management, source.canister_id, second, tmp_path / "one", options=ONE)
        assert caught.value.kind == "other_snapshot"
        report = download(source.management, source.canister_id, second, tmp_path / "one", options=ONE, restart=True)
        assert report.resumed_bytes == 0


class _Enough(Exception):  # noqa: N818 - not an error
    """Raised by an observer."""


class _Cancelling:
    """Ends the download after the second part."""

    def __init__(self) -> None:
        self.told = 0

    def __call__(self, event: Any) -> None:
        self.told += event.name == "download.progress"
        if self.told == 2:
            raise _Enough
