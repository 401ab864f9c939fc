"""QURI's metadata directories: written from the sandbox network, read back, and those of the scripts."""

import datetime as dt
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import BlobExistsError, ConfigurationError, SinkError
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.ids import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from knowtation_backup.model.reports import Outcome
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.snapshots.facts import CanisterFacts
from knowtation_backup.snapshots.metadata_backup import back_up_metadata
from knowtation_backup.snapshots.metadata_reading import read_metadata
from knowtation_backup.snapshots.registry import CanisterRegistry
from knowtation_backup.snapshots.status_text import parse_status

pytestmark = pytest.mark.sandbox

DATA = Path(__file__).parents[2] / "data"
ABSENT = str(Principal(bytes(7) + b"\x99\x01\x01"))
NOW = dt.datetime(2026, 11, 21, 6, 7, 8, 900_000, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@pytest.fixture(scope="module")
def counter_wasm() -> bytes:
    return bytes(wasmtime.wat2wasm((DATA / "counter.wat").read_text()))


@pytest.fixture(scope="module")
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork(tick_seconds=None, call_wait_seconds=2.0) as running:
        yield running


@pytest.fixture(scope="module")
def management(network: SandboxNetwork) -> Iterator[ManagementCanister]:
    with Agent(
        "http://127.0.0.1:1",
        root_key=network.root_key,
        transport=network.transport(),
        retry=RetryPolicy(attempts=2, first_delay_seconds=0.01),
        sleep=lambda _seconds: None,
    ) as agent:
        yield ManagementCanister(agent)


@pytest.fixture(scope="module")
def ours(network: SandboxNetwork, management: ManagementCanister, counter_wasm: bytes) -> str:
    canister = Principal(network.create_canister(counter_wasm, controllers=[ANONYMOUS.raw]))
    values = {"environment_variables": {"A": "x\nBalance: 1 Cycles"}, "log_visibility": (MANAGEMENT_CANISTER,)}
    management.update_settings(canister, values=values)
    return str(canister)


@pytest.fixture(scope="module")
def theirs(network: SandboxNetwork, counter_wasm: bytes) -> str:
    return str(Principal(network.create_canister(counter_wasm, controllers=[b"\x2a\x01"])))


def test_every_file_of_the_documents_is_there(management: ManagementCanister, ours: str, tmp_path: Path) -> None:
    registry = CanisterRegistry.from_text(f"rune-engine={ours}")
    report = back_up_metadata(management, registry, tmp_path / "backups", clock=lambda: NOW)
    assert (report.outcome, report.exit_code) == (Outcome.OK, 0)
    assert report.directory == tmp_path / "backups" / "20261121_040708"  # UTC
    assert sorted(item.name for item in report.directory.iterdir()) == sorted(report.files)
    assert {name for name in report.files if name.endswith(".txt")} == {
        "rune-engine_status.txt",
        "rune-engine_info.txt",
        "rune-engine_metrics.txt",
        "MANIFEST.txt",
    }
    texts = {name: (report.directory / name).read_text() for name in report.files}

    metrics = texts["rune-engine_metrics.txt"].splitlines()
    assert metrics[1:5] == ["Canister: rune-engine", f"ID: {ours}", "Timestamp: 2026-11-21T04:07:08Z", ""]
    assert metrics[5] == "Status: Running"
    assert [line for line in metrics if line.startswith("Balance: ")]

    manifest = texts["MANIFEST.txt"].splitlines()
    assert "Backup Date: 2026-11-21T04:07:08Z" in manifest
    assert "Network: ic" in manifest
    assert f"Backup Directory: {report.directory}" in manifest
    assert f"- rune-engine: {ours}" in manifest
    assert manifest[-1] == "Backup completed at 2026-11-21T04:07:08Z"
    digest = hashlib.sha256(texts["rune-engine_status.txt"].encode()).hexdigest()
    assert f"{digest}  rune-engine_status.txt" in manifest


def test_every_text_has_a_twin_that_says_the_same(management: ManagementCanister, ours: str, tmp_path: Path) -> None:
    report = back_up_metadata(management, CanisterRegistry.from_text(f"hub={ours}"), tmp_path)
    assert report.directory is not None
    twins = {name.removesuffix(".txt") + ".json" for name in report.files if name.endswith(".txt")}
    assert twins <= {*report.files}
    printed = parse_status((report.directory / "hub_status.txt").read_text())
    twin = parse_status((report.directory / "hub_status.json").read_text())
    facts = CanisterFacts.from_bytes((report.directory / "hub_facts.json").read_bytes())
    assert facts.status is not None
    for form in (printed, twin):
        assert (form.cycles, form.module_hash) == (facts.status.cycles, facts.module_hash)
        assert form.controllers == facts.controllers
        assert form.settings["log_visibility"] == (MANAGEMENT_CANISTER,)
        assert form.settings["freezing_threshold"] == facts.status.settings.values["freezing_threshold"]
    assert twin.settings["environment_variables"] == {"A": "x\nBalance: 1 Cycles"}
    assert parse_status((report.directory / "hub_info.json").read_text()).public_only
    metrics = json.loads((report.directory / "hub_metrics.json").read_text())
    assert metrics["metrics"]["Status"] == "Running"
    manifest = json.loads((report.directory / "MANIFEST.json").read_text())
    assert manifest["canisters"] == [{"name": "hub", "id": ours, "result": "ok", "error": None}]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_the_manifest_is_read_by_sha256sum(management: ManagementCanister, ours: str, tmp_path: Path) -> None:
    report = back_up_metadata(management, [ours], tmp_path)
    command = ["sha256sum", "--check", "--quiet", "MANIFEST.txt"]
    done = subprocess.run(  # noqa: S603 - the peer under test
        command, cwd=report.directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_are_private(management: ManagementCanister, ours: str, tmp_path: Path) -> None:
    report = back_up_metadata(management, [ours], tmp_path / "new")
    assert report.directory is not None
    for place in (report.directory, report.directory.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(item.stat().st_mode) for item in report.directory.iterdir()} == {0o600}


def test_one_failing_canister_does_not_stop_others(
    management: ManagementCanister, ours: str, theirs: str, tmp_path: Path
) -> None:
    registry = CanisterRegistry.from_text(f"absent={ABSENT} ours={ours} theirs={theirs}")
    report = back_up_metadata(management, registry, tmp_path)
    assert (report.outcome, report.exit_code) == (Outcome.PARTIAL, 3)
    assert report.directory is not None
    assert not [name for name in report.files if name.startswith("absent")]
    assert "theirs_info.txt" in report.files
    assert "theirs_status.txt" not in report.files
    manifest = (report.directory / "MANIFEST.txt").read_text()
    assert f"- absent: {ABSENT}\n" in manifest
    assert "  absent: FAILED (" in manifest
    assert "  theirs: public information only\n" in manifest
    assert "Outcome: PARTIAL" in manifest
    assert "FAILED" in str(report)


def test_nothing_is_written_when_no_canister_can_be_read(management: ManagementCanister, tmp_path: Path) -> None:
    report = back_up_metadata(management, [ABSENT], tmp_path)
    assert (report.outcome, report.exit_code, report.directory) == (Outcome.FAILED, 1, None)
    assert list(tmp_path.iterdir()) == []
    assert "nothing was written" in str(report)
    with pytest.raises(ConfigurationError, match="no canister"):
        back_up_metadata(management, [], tmp_path)


def test_a_backup_of_the_same_second_is_not_replaced(management: ManagementCanister, ours: str, tmp_path: Path) -> None:
    report = back_up_metadata(management, [ours], tmp_path, clock=lambda: NOW)
    assert report.directory is not None
    before = {item.name: item.read_bytes() for item in report.directory.iterdir()}
    with pytest.raises(BlobExistsError):
        back_up_metadata(management, [ours], tmp_path, clock=lambda: NOW)
    assert [item.name for item in tmp_path.iterdir()] == [report.directory.name]
    assert {item.name: item.read_bytes() for item in report.directory.iterdir()} == before


@pytest.mark.parametrize("failing", ["fsync", "link", "rename"])
def test_a_failure_leaves_nothing_behind(
    management: ManagementCanister, ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(*_args: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, refuse)
    with pytest.raises(SinkError) as caught:
        back_up_metadata(management, [ours], tmp_path)
    assert caught.value.kind == "no_space"
    assert list(tmp_path.iterdir()) == []


# Reading.


def test_what_was_written_is_read_back(management: ManagementCanister, ours: str, theirs: str, tmp_path: Path) -> None:
    report = back_up_metadata(management, CanisterRegistry.from_text(f"ours={ours} theirs={theirs}"), tmp_path)
    assert report.directory is not None
    backup = read_metadata(report.directory)
    assert (backup.outcome, backup.findings, backup.network) == (Outcome.OK, (), "ic")
    assert backup["ours"].found == ("status", "info", "metrics")
    assert backup["ours"].facts == report.fleet["ours"]
    assert backup["ours"].canister_id == Principal.parse(ours)
    assert backup[theirs].found == ("info", "metrics")
    entry = backup["theirs"]
    assert entry.status is not None
    assert entry.status.public_only
    with pytest.raises(ConfigurationError, match="holds nothing of 'x'"):
        backup["x"]
    assert "ours: 3 of 3 files" in str(backup)


def test_changed_and_missing_files_are_found(management: ManagementCanister, ours: str, tmp_path: Path) -> None:
    report = back_up_metadata(management, CanisterRegistry.from_text(f"hub={ours}"), tmp_path)
    assert report.directory is not None
    (report.directory / "hub_info.txt").unlink()
    with (report.directory / "hub_facts.json").open("ab") as file:
        file.write(b"x")
    backup = read_metadata(report.directory)
    assert {(finding.code, finding.where) for finding in backup.findings} == {
        ("metadata_file_missing", "hub_info.txt"),
        ("metadata_digest", "hub_facts.json"),
        ("facts_unreadable", "hub_facts.json"),
    }
    assert backup.outcome is Outcome.DIFFERENT


def test_a_directory_of_the_scripts_is_read(tmp_path: Path) -> None:
    (tmp_path / "registry_status.txt").write_text("Error: Cannot find canister id.\n")
    (tmp_path / "registry_info.txt").write_text(f"Controllers: {ANONYMOUS}\nModule hash: None\n")
    (tmp_path / "rune-engine_status.txt").write_text("Status: Running\nBalance: 3_100_000_000_000 Cycles\n")
    (tmp_path / "rune-engine_export.txt").write_text("Error: no such method\n")
    (tmp_path / "MANIFEST.txt").write_text(
        "QURI backup\nBackup Date: Fri Nov 20 02:00:00 CET 2026\nNetwork: ic\n"
        "- rune-engine: pkrpq-5qaaa-aaaah-aroda-cai\n- registry: broken-id\n"
        "-rw-r--r-- 1 root root 5 x\nBackup completed\n"
    )
    backup = read_metadata(tmp_path)
    assert (backup.network, backup.date) == ("ic", "Fri Nov 20 02:00:00 CET 2026")
    rune, registry = backup["rune-engine"], backup["registry"]
    assert rune.status is not None
    assert rune.status.cycles == 3_100_000_000_000
    assert str(rune.canister_id) == "pkrpq-5qaaa-aaaah-aroda-cai"
    assert registry.canister_id is None
    assert registry.status is not None
    assert registry.status.has_code is False
    assert [(finding.code, finding.where) for finding in backup.findings] == [
        ("status_unreadable", "registry_status.txt")
    ]


def test_without_manifest_it_is_read_with_a_finding(tmp_path: Path) -> None:
    (tmp_path / "hub_metrics.txt").write_text("x")
    backup = read_metadata(tmp_path)
    assert [finding.code for finding in backup.findings] == ["manifest_missing"]
    assert (backup["hub"].found, backup["hub"].status, backup["hub"].canister_id) == (("metrics",), None, None)


def test_what_is_no_metadata_directory_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigurationError) as caught:
            read_metadata(place)
        assert caught.value.kind == "bad_canister_file"
    os.mkfifo(tmp_path / "hub_status.txt")
    assert [finding.code for finding in read_metadata(tmp_path).findings] == ["manifest_missing", "status_unreadable"]
