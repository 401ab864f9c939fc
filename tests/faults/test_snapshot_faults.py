"""
Every management call of every snapshot operation goes wrong in every way, one at a time.

Whatever happens: afterwards the canisters run, there is no snapshot that nobody names, no entry is left in the journal,
and a second run completes. The calls are counted, not picked: the loop ends when an operation has no further one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from snapshot_stage import FAULTS, LATE_SECONDS, SnapshotStage, counter_wasm, new_manager, snapshot_stage

from knowtation_backup.errors import BackupError
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.sandbox import SandboxNetwork

pytestmark = pytest.mark.sandbox

CHILD = str(Path(__file__).parent / "killed_snapshot.py")
MOST_CALLS = 60


@pytest.fixture(scope="module")
def wasm() -> bytes:
    return counter_wasm()


@pytest.fixture
def stage(tmp_path: Path, wasm: bytes) -> Iterator[SnapshotStage]:
    with snapshot_stage(tmp_path, wasm) as running:
        yield running


def named_in(said: object, events: list[Any]) -> str:
    """Return everything an operator is told: the report or error with its notes and context, and the events."""
    parts = [str(said), *(str(dict(event.fields)) for event in events)]
    if isinstance(said, BaseException):
        parts.extend(getattr(said, "__notes__", []))
        parts.append(str(getattr(said, "context", "")))
    elif said is not None:
        parts.append(str(said.to_json()))  # type: ignore[attr-defined]
    return "\n".join(parts)


def attempt(operation: Callable[[], Any]) -> tuple[Any, bool]:
    """Return the report or the error, and whether it succeeded."""
    try:
        return operation(), True
    except (BackupError, KeyboardInterrupt) as error:
        return error, False


def require_sound(stage: SnapshotStage, said: object, before: dict[Principal, set[SnapshotId]]) -> set[SnapshotId]:
    """Check what must hold after any fault; return nameless snapshots, which the next upload goes on with."""
    stage.sleep(LATE_SECONDS)  # whatever was held back and can still be executed is executed now
    told = named_in(said, stage.events)
    uploading = list(stage.journal.parent.glob("*.upload"))
    nameless: set[SnapshotId] = set()
    for canister_id, known in before.items():
        assert stage.running(canister_id), told
        nameless |= {item for item in stage.snapshots(canister_id) - known if str(item) not in told}
    assert uploading or not nameless, "a snapshot that nobody names"
    assert new_manager(stage).recover().results == (), "an entry was left in the journal"
    return nameless


def each_call(
    stage: SnapshotStage,
    faults: Sequence[str],
    prepare: Callable[[], tuple[Callable[[], Any], list[Principal]]],
) -> Iterator[tuple[int, bool, set[SnapshotId]]]:
    """Run an operation once for each of its calls, which goes wrong in the next way; yield what came of it."""
    for number in range(MOST_CALLS):
        stage.events.clear()
        operation, canisters = prepare()
        before = {item: stage.snapshots(item) for item in canisters}
        stage.transport.arm(faults[number % len(faults)], number)
        said, succeeded = attempt(operation)
        made = len(stage.transport.calls)
        stage.transport.disarm()
        if number >= made:
            assert succeeded
            assert number >= 5
            return
        yield number, succeeded, require_sound(stage, said, before)


def turned(shift: int) -> list[str]:
    """Return all faults, beginning with another one."""
    return [*FAULTS[shift:], *FAULTS[:shift]]


@pytest.mark.parametrize("fault", FAULTS)
def test_taking_one(stage: SnapshotStage, fault: str) -> None:
    canister = stage.canister(3)

    def prepare() -> tuple[Callable[[], Any], list[Principal]]:
        for snapshot in stage.manager.list(canister).ids:
            stage.manager.delete(canister, snapshot, confirm=canister)
        return (lambda: stage.manager.take(canister, confirm=canister)), [canister]

    outcomes = []
    for number, succeeded, _ in each_call(stage, [fault], prepare):
        outcomes.append(succeeded)
        assert stage.counted(canister) == 3
        assert stage.manager.take(canister, confirm=canister).ok, number
    if fault in {"busy", "reset_before", "reset_after"}:
        assert all(outcomes), "what passes must not end an operation"
    else:
        assert not all(outcomes)


@pytest.mark.parametrize("shift", range(0, len(FAULTS), 2))
def test_taking_a_group(stage: SnapshotStage, shift: int) -> None:
    """Long operations meet the faults in turn, beginning with another one each time."""
    canisters = [stage.canister(1), stage.canister(2)]

    def prepare() -> tuple[Callable[[], Any], list[Principal]]:
        for canister in canisters:
            for snapshot in stage.manager.list(canister).ids:
                stage.manager.delete(canister, snapshot, confirm=canister)
        return (lambda: stage.manager.take(canisters, confirm=canisters, group=True)), canisters

    for number, succeeded, _ in each_call(stage, turned(shift), prepare):
        kept = [len(stage.snapshots(canister)) for canister in canisters]
        assert kept in ([0, 0], [1, 1]), number
        if succeeded:
            assert kept == [1, 1]
        else:
            assert stage.manager.take(canisters, confirm=canisters, group=True).ok


@pytest.mark.parametrize("fault", FAULTS)
def test_loading(stage: SnapshotStage, fault: str) -> None:
    canister = stage.canister(3)
    (wanted,) = stage.manager.take(canister, confirm=canister).snapshots.values()

    def prepare() -> tuple[Callable[[], Any], list[Principal]]:
        for snapshot in stage.manager.list(canister).ids:
            if snapshot != wanted:
                stage.manager.delete(canister, snapshot, confirm=canister)
        if stage.counted(canister) == 3:
            stage.count(canister, 4)
        assert stage.counted(canister) == 7
        return (lambda: stage.manager.roll_back(canister, wanted, confirm=canister)), [canister]

    for number, succeeded, _ in each_call(stage, [fault], prepare):
        verified = "verify" in [event.fields["step"] for event in stage.events if event.name == "snapshot.step"]
        assert verified or not succeeded
        assert stage.counted(canister) == (3 if verified else 7), number
        if not succeeded:
            assert stage.manager.roll_back(canister, wanted, confirm=canister).outcome == 0
            assert stage.counted(canister) == 3


@pytest.mark.parametrize("shift", range(0, len(FAULTS), 3))
def test_restoring(stage: SnapshotStage, tmp_path: Path, shift: int) -> None:
    canister = stage.canister(3)
    (wanted,) = stage.manager.take(canister, confirm=canister).snapshots.values()
    directory = tmp_path / "snapshot"
    stage.manager.download(canister, wanted, directory)

    def prepare() -> tuple[Callable[[], Any], list[Principal]]:
        for snapshot in stage.manager.list(canister).ids:
            stage.manager.delete(canister, snapshot, confirm=canister)
        if stage.counted(canister) == 3:
            stage.count(canister, 4)
        assert stage.counted(canister) == 7
        return (lambda: stage.manager.restore(directory, canister, confirm=canister)), [canister]

    for number, succeeded, nameless in each_call(stage, turned(shift), prepare):
        verified = "verify" in [event.fields["step"] for event in stage.events if event.name == "snapshot.step"]
        assert verified or not succeeded
        assert stage.counted(canister) == (3 if verified else 7), number
        if not succeeded:
            report = stage.manager.restore(directory, canister, confirm=canister)
            assert report.outcome == 0
            assert nameless <= {report.uploaded}
            assert stage.counted(canister) == 3


@pytest.mark.parametrize("operation", ["take", "group", "load", "restore"])
def test_killed_at_each_call(tmp_path: Path, operation: str) -> None:
    """
    The process is killed right before each call is sent, and right after it was.

    Then a new process recovers what is left, and a third one runs the operation to its end.
    """
    wasm = counter_wasm()
    with SandboxNetwork() as network, network.serve() as server:
        canisters = [network.create_canister(wasm, controllers=(b"\x04", b"\x05")).hex() for _ in range(2)]
        command = [sys.executable, CHILD, server.url, network.root_key.hex(), str(tmp_path), operation, *canisters]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)  # noqa: S603 - our own
        assert done.returncode == 0, done.stdout + done.stderr
        numbers = [int(line) for line in done.stdout.splitlines() if line.isdecimal()]
        assert len(numbers) == 1
        assert numbers[0] >= 6
        for canister in map(bytes.fromhex, canisters):
            assert network.canisters[canister].status.value == "running"
