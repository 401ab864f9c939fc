"""`SnapshotManager` on a network that runs real canisters: what it does, refuses, measures and says."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
from snapshot_stage import ANONYMOUS, SECOND, SnapshotStage, counter_wasm, new_manager, refusing, snapshot_stage

from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    IntegrityError,
    OutcomeUnknownError,
    PlanStaleError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
)
from knowtation_backup.model.events import Event
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.model.reports import Outcome
from knowtation_backup.sandbox import Answer
from knowtation_backup.sandbox.management.context import ManagementOptions
from knowtation_backup.sandbox.state import CanisterStatus as SandboxStatus
from knowtation_backup.snapshots.reports import LoadReport, Taken

pytestmark = pytest.mark.sandbox

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "events.md").read_text()
DOCUMENTED = {
    name: set(re.findall(r"`([a-z_]+)`", fields))
    for name, fields in re.findall(r"^\| `(snapshot\.[a-z_]+)` \| ([^|]*) \|", PAGE, re.MULTILINE)
}


@pytest.fixture(scope="module")
def wasm() -> bytes:
    return counter_wasm()


@pytest.fixture
def stage(tmp_path: Path, wasm: bytes) -> Iterator[SnapshotStage]:
    with snapshot_stage(tmp_path, wasm) as running:
        yield running
        for event in running.events:
            if event.name.startswith("snapshot."):
                assert DOCUMENTED[event.name] == set(event.fields), event.name


def state(stage: SnapshotStage, canister: Principal, status: str) -> None:
    stage.network.canisters[canister.raw].status = SandboxStatus(status)


def taken(stage: SnapshotStage, canister: Principal) -> SnapshotId:
    return stage.manager.take(canister, confirm=canister).snapshots[canister]


# Taking


def test_canisters_are_taken_one_after_the_other_in_the_order_given(stage: SnapshotStage) -> None:
    first, second = stage.canister(1), stage.canister(2)
    seen: list[Taken] = []
    report = stage.manager.take([str(second), f" {first} ", second], confirm=[first, second], on_taken=seen.append)
    assert [item.canister_id for item in report.results] == [second, first]
    assert seen == list(report.results)
    assert (report.outcome, report.exit_code, report.ok) == (Outcome.OK, 0, True)
    assert {item: stage.snapshots(item) for item in (first, second)} == {
        item: {snapshot} for item, snapshot in report.snapshots.items()
    }
    assert not any("/query" in request.path for request in stage.network.requests.entries), "one node was believed"
    lifecycle = [name for name in stage.transport.calls if name in {"stop_canister", "start_canister"}]
    assert lifecycle == ["stop_canister", "start_canister"] * 2
    assert stage.running(first)
    assert stage.running(second)
    assert report.to_json()["results"][0]["snapshot"]["snapshot_id"] == str(report.snapshots[second])


def test_downtime_is_measured_from_the_stop_to_the_certified_start(
    stage: SnapshotStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    canister = stage.canister()

    def slow(event: Event) -> None:
        stage.events.append(event)
        if event.name == "snapshot.canister_stopped":
            stage.sleep(7.0)

    manager = new_manager(stage)
    monkeypatch.setattr(manager, "_site", attrs.evolve(manager._site, observer=slow))
    (result,) = manager.take(canister, confirm=canister).results
    assert 7.0 <= result.downtime_seconds < 17.0
    event = next(event for event in stage.events if event.name == "snapshot.taken")
    assert event.fields["downtime_seconds"] == pytest.approx(result.downtime_seconds, abs=0.001)


@pytest.mark.parametrize("group", [False, True])
def test_a_downtime_budget_aborts_and_starts(stage: SnapshotStage, group: bool) -> None:  # noqa: FBT001
    canister = stage.canister()

    def slow(event: Event) -> None:
        if event.name == "snapshot.canister_stopped":
            stage.sleep(7.0)

    manager = new_manager(stage)
    manager._site = attrs.evolve(manager._site, observer=slow)
    with pytest.raises(SourceError) as caught:
        manager.take(canister, confirm=canister, group=group, max_downtime=dt.timedelta(seconds=5))
    assert caught.value.kind == "downtime_exceeded"
    assert stage.running(canister)
    assert stage.snapshots(canister) == set()


def test_a_canister_that_was_stopped_stays_stopped_and_is_reported(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    stage.management.stop(canister)
    stage.transport.calls.clear()
    (result,) = stage.manager.take(canister, confirm=canister).results
    assert (result.was_running, result.downtime_seconds) == (False, 0.0)
    assert "was_stopped" in {finding.code for finding in result.findings}
    assert "stopped before, and still" in str(result)
    assert not stage.running(canister)
    assert not {"stop_canister", "start_canister"} & set(stage.transport.calls)
    report = stage.manager.roll_back(canister, taken(stage, canister), confirm=canister, health_check=lambda _id: False)
    assert not stage.running(canister)
    assert report.healthy is None
    assert "health_not_checked" in {finding.code for finding in report.findings}
    assert stage.manager.recover().results == ()


def test_a_failure_stays_with_its_canister(stage: SnapshotStage) -> None:
    good, empty, foreign, last = (
        stage.canister(1),
        stage.canister(wasm=b""),
        stage.canister(controllers=(SECOND,)),
        stage.canister(2),
    )
    everything = [good, empty, foreign, last]
    report = stage.manager.take(everything, confirm=everything)
    assert [item.ok for item in report.results] == [True, False, False, True]
    assert [item.error.kind for item in report.results if item.error] == ["canister_empty", "not_controller"]
    assert (report.outcome, report.exit_code) == (Outcome.PARTIAL, 3)
    with pytest.raises(SourceError) as caught:
        report.raise_for_failures()
    assert caught.value.kind == "canister_empty"
    assert stage.manager.take([empty, foreign], confirm=[empty, foreign]).outcome is Outcome.FAILED
    assert all(map(stage.running, (good, last)))


def test_who_is_no_controller_is_told_the_command_that_helps(stage: SnapshotStage) -> None:
    canister = stage.canister(controllers=(SECOND,))
    with pytest.raises(RejectedError) as caught:
        stage.manager.take(canister, confirm=canister)
    assert caught.value.kind == "not_controller"
    assert f"icp canister settings update {canister} --add-controller 2vxsx-fae" in caught.value.hint
    assert "stop_canister" not in stage.transport.calls


def test_at_the_cap_nothing_is_stopped_unless_something_is_replaced(stage: SnapshotStage) -> None:
    canister = stage.canister()
    for _ in range(10):
        stage.management.take_snapshot(canister)
    oldest, second, *_ = stage.manager.list(canister).ids
    stage.transport.calls.clear()
    with pytest.raises(SourceError) as caught:
        stage.manager.take(canister, confirm=canister)
    assert caught.value.kind == "snapshot_cap"
    assert "stop_canister" not in stage.transport.calls
    (result,) = stage.manager.take(canister, confirm=canister, replace="oldest").results
    assert result.replaced == oldest
    assert oldest not in stage.snapshots(canister)
    (result,) = stage.manager.take(canister, confirm=canister, replace=str(second)).results
    assert result.replaced == second
    assert len(stage.snapshots(canister)) == 10
    stage.manager.delete(canister, result.snapshot.snapshot_id if result.snapshot else second, confirm=canister)
    (result,) = stage.manager.take(canister, confirm=canister, replace="oldest").results
    assert result.replaced is None, "there was room"
    with pytest.raises(PlanStaleError):
        stage.manager.take(canister, confirm=canister, replace=oldest)


def test_a_group_is_stopped_together_and_started_in_reverse(stage: SnapshotStage) -> None:
    canisters = [stage.canister(number) for number in range(3)]
    report = stage.manager.take(canisters, confirm=canisters, group=True)
    assert report.group
    assert all(item.ok for item in report.results)
    story = [
        (event.name.rpartition("_")[2], event.fields["canister_id"])
        for event in stage.events
        if event.name in {"snapshot.canister_stopped", "snapshot.canister_started"}
    ]
    names = list(map(str, canisters))
    assert story == [*(("stopped", name) for name in names), *(("started", name) for name in reversed(names))]
    with pytest.raises(ConfigurationError):
        stage.manager.take(canisters, confirm=canisters, group=True, replace="oldest")


def test_one_that_may_not_be_taken_keeps_a_group_from_being_stopped(stage: SnapshotStage) -> None:
    canisters = [stage.canister(), stage.canister(wasm=b"")]
    with pytest.raises(SourceError) as caught:
        stage.manager.take(canisters, confirm=canisters, group=True)
    assert caught.value.kind == "canister_empty"
    assert "stop_canister" not in stage.transport.calls


@pytest.mark.parametrize("confirm", ["", [], "rrkah-fqaaa-aaaaa-aaaaq-cai"])
def test_what_is_not_confirmed_is_not_even_asked_about(stage: SnapshotStage, confirm: Any) -> None:
    canister = stage.canister()
    snapshot = SnapshotId(b"\x01")
    for operation in (
        lambda: stage.manager.take(canister, confirm=confirm),
        lambda: stage.manager.roll_back(canister, snapshot, confirm=confirm),
        lambda: stage.manager.delete(canister, snapshot, confirm=confirm),
        lambda: stage.manager.restore("nowhere", canister, confirm=confirm),
        lambda: stage.manager.clone(canister, snapshot, canister, confirm=confirm),
    ):
        with pytest.raises(ConfigurationError):
            operation()
    assert stage.transport.calls == []


# Never left stopped


def test_a_canister_with_a_call_that_hangs_is_started_again(
    stage: SnapshotStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    canister = stage.canister(3)
    monkeypatch.setattr(stage.network.replica, "when_no_contexts", lambda *_: None)
    with pytest.raises(BackupError):
        stage.manager.take(canister, confirm=canister, max_downtime=dt.timedelta(seconds=30))
    assert stage.running(canister)
    assert stage.snapshots(canister) == set()
    assert stage.manager.recover().results == ()


def test_a_canister_that_cannot_be_started_is_named_and_recovered_later(stage: SnapshotStage) -> None:
    first, second = stage.canister(3), stage.canister()

    def refuse_from_now_on(event: Event) -> None:
        stage.events.append(event)
        if event.name == "snapshot.canister_stopped":
            refusal.__enter__()

    refusal = refusing(stage.network)
    manager = new_manager(stage)
    manager._site = attrs.evolve(manager._site, observer=refuse_from_now_on)
    with pytest.raises(SourceError) as caught:
        manager.take([first, second], confirm=[first, second])
    assert caught.value.kind == "canister_down"
    assert caught.value.context["canister_ids"] == [str(first)]
    assert str(first) in str(caught.value)
    assert stage.transport.calls.count("start_canister") == 5
    assert "snapshot.canister_down" in stage.names()
    assert not stage.running(first)
    assert stage.running(second), "the others are left alone"
    report = manager.recover()
    assert report.down == (first,)
    assert report.outcome is Outcome.PARTIAL
    refusal.__exit__(None, None, None)

    report = new_manager(stage).recover()
    assert [(item.canister_id, item.action) for item in report.results] == [(first, "started")]
    assert stage.running(first)
    assert new_manager(stage).recover().results == ()


def test_the_next_operation_finds_what_a_crash_left(stage: SnapshotStage) -> None:
    """A stopped canister with an entry in the journal was running: the next take starts it, and says it was up."""
    canister = stage.canister(3)
    entry = crashed(stage, canister)
    assert entry.was_running
    (result,) = new_manager(stage).take(canister, confirm=canister).results
    assert result.was_running
    assert stage.running(canister)


def crashed(stage: SnapshotStage, canister: Principal, *, entries: int = 1) -> Any:
    """Leave a canister as a process does that is killed after the stop."""
    manager = new_manager(stage, start_attempts=1)

    def die(event: Event) -> None:
        if event.name == "snapshot.canister_stopped":
            stage.transport.arm("outage_before", 0)

    manager._site = attrs.evolve(
        manager._site, observer=die, options=attrs.evolve(manager._site.options, start_seconds=1)
    )
    with pytest.raises(SourceError):
        manager.take(canister, confirm=canister)
    stage.transport.disarm()
    assert not stage.running(canister)
    found = manager._site.journal.entries()
    assert len(found) == entries
    return found[0]


def test_a_damaged_entry_is_reported_and_the_others_are_recovered(stage: SnapshotStage) -> None:
    lost, other = stage.canister(3), stage.canister(4)
    crashed(stage, lost)
    (file,) = stage.journal.glob("*.json")
    crashed(stage, other, entries=2)
    file.write_text("{")
    file.with_name(f"notes@{file.stem.partition('@')[2]}.json").write_text("not ours")
    report = stage.manager.recover()
    assert {item.canister_id: item.action for item in report.results} == {lost: "failed", other: "started"}
    assert report.down == (lost,)
    with pytest.raises(IntegrityError):
        stage.manager.take(lost, confirm=lost)
    assert stage.running(other)


def test_a_canister_that_was_deleted_is_forgotten(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    crashed(stage, canister)
    stage.network.replica.canisters.pop(canister.raw)
    assert [item.action for item in stage.manager.recover().results] == ["gone"]
    assert stage.manager.recover().results == ()


def test_recovering_leaves_living_operations_alone(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    seen: list[Any] = []

    def recover_meanwhile(event: Event) -> None:
        if event.name == "snapshot.canister_stopped":
            seen.extend(new_manager(stage).recover().results)
            with pytest.raises(SourceUnavailableError) as caught:
                new_manager(stage).take(canister, confirm=canister)
            assert caught.value.kind == "canister_busy"

    manager = new_manager(stage)
    manager._site = attrs.evolve(manager._site, observer=recover_meanwhile)
    assert manager.take(canister, confirm=canister).ok
    assert [item.action for item in seen] == ["busy"]
    assert stage.running(canister)


def test_another_network_with_the_same_canister_ids_is_left_alone(
    stage: SnapshotStage, tmp_path: Path, wasm: bytes
) -> None:
    crashed(stage, stage.canister(3))
    with snapshot_stage(tmp_path, wasm, key_seed=b"other") as other:
        assert other.journal == stage.journal
        assert other.manager.recover().results == ()
    assert len(stage.manager.recover().results) == 1


def test_a_signal_ends_the_operation_and_not_the_canister(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    before = signal.getsignal(signal.SIGTERM)

    def terminate(event: Event) -> None:
        if event.name == "snapshot.canister_stopped":
            os.kill(os.getpid(), signal.SIGTERM)

    manager = new_manager(stage)
    manager._site = attrs.evolve(manager._site, observer=terminate)
    with pytest.raises(SystemExit) as caught, manager.terminating_signals():
        manager.take(canister, confirm=canister)
    assert caught.value.code == 128 + signal.SIGTERM
    assert stage.running(canister)
    assert signal.getsignal(signal.SIGTERM) is before
    assert manager.recover().results == ()


def test_signals_are_for_the_main_thread(stage: SnapshotStage) -> None:
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with stage.manager.terminating_signals():
                pass
        except ConfigurationError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_interrupting_again_and_again_does_not_keep_a_canister_stopped(stage: SnapshotStage) -> None:
    """Ctrl-C at the stop, and again while the start is under way."""
    canister = stage.canister(3)

    def interrupt(event: Event) -> None:
        stage.events.append(event)
        if event.name == "snapshot.canister_stopped":
            raise KeyboardInterrupt
        if event.name == "snapshot.canister_started":
            signal.raise_signal(signal.SIGINT)

    manager = new_manager(stage)
    manager._site = attrs.evolve(manager._site, observer=interrupt)
    with pytest.raises(KeyboardInterrupt):
        manager.take(canister, confirm=canister)
    assert stage.running(canister)
    assert manager.recover().ok


def test_interrupting_the_watch_over_a_late_stop_does_not_keep_a_canister_stopped(
    stage: SnapshotStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the stop is on its way, and again when it has arrived after the start."""
    canister = stage.canister(3)
    handle = type(stage.transport).handle_request

    def held(transport: Any, request: httpx.Request) -> httpx.Response:
        if b"stop_canister" in request.read() and transport._held is None:
            copy = httpx.Request("POST", request.url, content=request.read(), headers=request.headers)
            transport._held = (transport._now() + 0.5, copy)
            raise KeyboardInterrupt
        return handle(transport, request)

    def interrupted(seconds: float) -> None:
        stage.sleep(seconds)
        assert not stage.running(canister)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(stage.transport), "handle_request", held)
    manager = new_manager(stage)
    manager._site = attrs.evolve(manager._site, sleep=interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        manager.take(canister, confirm=canister)
    assert stage.running(canister)
    assert "recover()" in "".join(caught.value.__notes__)
    (recovered,) = stage.manager.recover().results
    assert recovered.action == "running"
    assert stage.manager.recover().results == ()


def test_interrupting_every_start_does_not_keep_a_canister_stopped(
    stage: SnapshotStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    canister = stage.canister(3)
    handle = type(stage.transport).handle_request

    def interrupted(transport: Any, request: httpx.Request) -> httpx.Response:
        if b"start_canister" in request.read():
            signal.raise_signal(signal.SIGINT)
        return handle(transport, request)

    monkeypatch.setattr(type(stage.transport), "handle_request", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let their background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            stage.manager.take(canister, confirm=canister)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stage.running(canister)
    assert stage.manager.recover().results == ()


def test_an_observer_that_raises_ends_the_operation_and_not_the_canister(stage: SnapshotStage) -> None:
    canister = stage.canister(3)

    def raising(event: Event) -> None:
        if event.name.startswith("snapshot.canister_s"):
            message = "an observer's bug"
            raise RuntimeError(message)

    manager = new_manager(stage)
    manager._site = attrs.evolve(manager._site, observer=raising)
    with pytest.raises(RuntimeError):
        manager.take(canister, confirm=canister)
    assert stage.running(canister)


def test_a_stop_that_takes_effect_late_is_undone(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    stop = 4  # after the checks
    stage.transport.arm("late", stop - 2)
    with pytest.raises(BackupError):
        stage.manager.take(canister, confirm=canister, max_downtime=dt.timedelta(seconds=20))
    assert stage.transport.calls[2] == "stop_canister"
    assert "snapshot.settling" in stage.names()
    assert stage.running(canister)
    assert stage.manager.recover().results == ()


def test_a_snapshot_that_is_taken_late_is_named(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    stage.transport.arm("late", 3)
    with pytest.raises(OutcomeUnknownError) as caught:
        stage.manager.take(canister, confirm=canister, max_downtime=dt.timedelta(seconds=20))
    assert stage.transport.calls[3] == "take_canister_snapshot"
    (late,) = stage.snapshots(canister)
    assert caught.value.context["snapshots_left"] == [str(late)]
    assert "snapshot.unclear" in stage.names()
    assert stage.running(canister)


# Rolling back


def test_state_really_rolls_back_and_the_safety_snapshot_holds_what_was_lost(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    wanted = taken(stage, canister)
    stage.count(canister, 4)
    stage.network.clock.advance(3 * 3600)
    seen: list[tuple[Principal, bool, int]] = []
    report = stage.manager.roll_back(
        canister,
        str(wanted),
        confirm=canister,
        health_check=lambda item: seen.append((item, stage.running(item), stage.counted(item))),
    )
    assert seen == [(canister, True, 3)], "the health check meets the running canister"
    assert stage.counted(canister) == 3
    assert report.healthy is True
    assert report.lost is not None
    assert report.lost >= dt.timedelta(hours=3)
    assert "lost: what changed in the 3 hours" in str(report)
    assert report.safety_snapshot is not None
    assert [step.name for step in report.steps] == ["stop", "load", "verify", "start"]
    stage.manager.roll_back(canister, report.safety_snapshot.snapshot_id, confirm=canister, safety_snapshot=False)
    assert stage.counted(canister) == 7
    assert stage.running(canister)


def test_without_a_safety_snapshot_none_is_taken(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    wanted = taken(stage, canister)
    report = stage.manager.load(canister, wanted, confirm=canister, safety_snapshot=False)
    assert report.safety_snapshot is None
    assert stage.snapshots(canister) == {wanted}


@pytest.mark.parametrize("failing", ["said no", "raised"])
def test_an_unhealthy_canister_is_rolled_forward(stage: SnapshotStage, failing: str) -> None:
    canister = stage.canister(3)
    wanted = taken(stage, canister)
    stage.count(canister, 4)

    def check(_canister: Principal) -> bool:
        if failing == "raised":
            message = "secret detail"
            raise ValueError(message)
        return False

    report = stage.manager.roll_back(canister, wanted, confirm=canister, health_check=check)
    assert (report.healthy, report.rolled_forward, report.outcome) == (False, True, Outcome.PARTIAL)
    assert stage.counted(canister) == 7
    assert stage.running(canister)
    assert report.health_error is not None
    assert report.health_error.kind == "unhealthy"
    assert "secret detail" not in str(report)
    assert "back at the state from before" in str(report)
    assert "snapshot.unhealthy" in stage.names()


def test_who_interrupts_a_health_check_is_told_where_the_former_state_is(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    wanted = taken(stage, canister)

    def interrupted(_canister_id: Principal) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        stage.manager.roll_back(canister, wanted, confirm=canister, health_check=interrupted)
    (safety,) = stage.snapshots(canister) - {wanted}
    assert str(safety) in "".join(caught.value.__notes__)
    assert stage.running(canister)


@pytest.mark.parametrize("custom_section", [b"", b"\x00\x02\x01a"], ids=["same", "other"])
def test_a_report_says_when_a_load_changes_the_code(stage: SnapshotStage, wasm: bytes, custom_section: bytes) -> None:
    source, target = stage.canister(wasm=wasm + custom_section), stage.canister()
    report = stage.manager.clone(source, taken(stage, source), target, confirm=target)
    assert isinstance(report, LoadReport)
    assert [item.code for item in report.findings if item.code == "code_changed"] == ["code_changed"] * bool(
        custom_section
    )


def test_an_unhealthy_canister_without_a_safety_snapshot_is_reported(stage: SnapshotStage) -> None:
    canister = stage.canister(3)
    report = stage.manager.roll_back(
        canister, taken(stage, canister), confirm=canister, safety_snapshot=False, health_check=lambda _item: False
    )
    assert (report.healthy, report.rolled_forward) == (False, False)
    assert "there is no safety snapshot to go back to" in str(report)


def test_a_snapshot_that_does_not_exist_stops_nothing(stage: SnapshotStage) -> None:
    canister = stage.canister()
    for operation in (stage.manager.roll_back, stage.manager.delete):
        with pytest.raises(RejectedError) as caught:
            operation(canister, SnapshotId(b"\x01"), confirm=canister)
        assert caught.value.kind == "snapshot_not_found"
    assert "stop_canister" not in stage.transport.calls


def test_room_for_the_safety_snapshot_is_asked_for_before_the_stop(stage: SnapshotStage) -> None:
    canister = stage.canister()
    for _ in range(10):
        stage.management.take_snapshot(canister)
    wanted = stage.manager.list(canister).ids[0]
    with pytest.raises(SourceError) as caught:
        stage.manager.roll_back(canister, wanted, confirm=canister)
    assert caught.value.kind == "snapshot_cap"
    assert "stop_canister" not in stage.transport.calls
    assert stage.manager.roll_back(canister, wanted, confirm=canister, safety_snapshot=False).outcome is Outcome.OK


# Moving


def test_a_snapshot_is_put_back_in_seven_steps(stage: SnapshotStage, tmp_path: Path) -> None:
    canister = stage.canister(3)
    wanted = taken(stage, canister)
    stage.manager.download(canister, wanted, tmp_path / "snapshot")
    stage.manager.delete(canister, wanted, confirm=canister)
    stage.count(canister, 4)
    report = stage.manager.restore(tmp_path / "snapshot", canister, confirm=canister)
    names = ["validate", "open", "upload", "stop", "load", "verify", "start"]
    assert [step.name for step in report.steps] == names
    assert [event.fields["step"] for event in stage.events if event.name == "snapshot.step"] == names
    assert stage.counted(canister) == 3
    assert report.load.safety_snapshot is not None
    assert stage.snapshots(canister) == {report.uploaded, report.load.safety_snapshot.snapshot_id}
    assert report.to_json()["steps"][0]["name"] == "validate"
    assert str(report).count("\n") >= 7


@pytest.mark.parametrize(("place", "kind"), [(None, "snapshot_file_size"), (70_000, "snapshot_file_digest")])
def test_a_damaged_directory_is_refused_before_anything_is_asked(
    stage: SnapshotStage, tmp_path: Path, place: int | None, kind: str
) -> None:
    canister = stage.canister(3)
    stage.manager.download(canister, taken(stage, canister), tmp_path / "snapshot")
    file = tmp_path / "snapshot" / "wasm_memory.bin"
    data = bytearray(file.read_bytes())
    if place is None:
        data.pop()
    else:
        data[place] ^= 1  # of the right size: only a digest shows it
    file.write_bytes(data)
    stage.transport.calls.clear()
    with pytest.raises(IntegrityError, match=r"wasm_memory\.bin") as caught:
        stage.manager.restore(tmp_path / "snapshot", canister, confirm=canister)
    assert caught.value.kind == kind
    assert stage.transport.calls == []


def test_what_is_loaded_is_verified_before_the_start(
    stage: SnapshotStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that loads something else: the state from before comes back."""
    canister = stage.canister(3)
    stage.manager.download(canister, taken(stage, canister), tmp_path / "snapshot")
    stage.count(canister, 4)
    monkeypatch.setattr("knowtation_backup.snapshots.restoring._module_hash", lambda _opened: bytes(32))
    with pytest.raises(BackupError) as caught:
        stage.manager.restore(tmp_path / "snapshot", canister, confirm=canister)
    assert caught.value.kind == "restore_mismatch"
    assert caught.value.context["rolled_back"] is True
    assert caught.value.context["uploaded"] in map(str, stage.snapshots(canister))
    assert stage.counted(canister) == 7
    assert stage.running(canister)


def test_a_foreign_snapshot_is_waited_for_until_the_next_checkpoint(
    stage: SnapshotStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = stage.canister(3), stage.canister(1)
    monkeypatch.setattr(stage.network._management, "options", ManagementOptions(checkpoint_delay_seconds=60))
    snapshot = stage.management.take_snapshot(source).snapshot_id  # of the running canister
    report = stage.manager.clone(source, snapshot, target, confirm=target)
    assert stage.counted(target) == 3
    assert "snapshot.not_loadable" in stage.names()
    assert report.to_json()["downtime_seconds"] >= 40


def test_a_canister_is_cloned_on_its_subnet(stage: SnapshotStage) -> None:
    source, target = stage.canister(3), stage.canister(wasm=b"")
    report = stage.manager.clone(source, taken(stage, source), target, confirm=target)
    assert stage.counted(target) == 3
    assert stage.running(target)
    assert "no_safety_snapshot" in str(report.to_json())
    assert "upload_canister_snapshot_metadata" not in stage.transport.calls


def test_between_subnets_a_directory_is_needed(
    stage: SnapshotStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = stage.canister(3), stage.canister(1)
    snapshot = taken(stage, source)
    monkeypatch.setattr(type(stage.manager), "_subnet", lambda _self, canister: canister)
    with pytest.raises(ConfigurationError) as caught:
        stage.manager.clone(source, snapshot, target, confirm=target)
    assert caught.value.kind == "other_subnet"
    stage.manager.clone(source, snapshot, target, confirm=target, directory=tmp_path / "way")
    assert stage.counted(target) == 3


# Keeping few


def test_retention_on_chain_deletes_what_was_planned_and_nothing_else(stage: SnapshotStage) -> None:
    canister = stage.canister()
    ids = [taken(stage, canister) for _ in range(4)]
    plan = stage.manager.plan_retention(canister, keep=1, only_downloaded=[str(ids[0]), ids[2]])
    assert [item.snapshot_id for item in stage.manager.apply(plan)] == [ids[0], ids[2]]
    assert stage.snapshots(canister) == {ids[1], ids[3]}
    with pytest.raises(PlanStaleError):
        stage.manager.apply(plan)


def test_a_deletion_whose_answer_is_lost_is_looked_up(stage: SnapshotStage) -> None:
    canister = stage.canister()
    wanted = taken(stage, canister)
    stage.transport.arm("reset_after", 1)
    assert stage.manager.delete(canister, wanted, confirm=canister).snapshot_id == wanted
    assert stage.snapshots(canister) == set()


# Looking


def test_preflight_says_all_at_once_and_changes_nothing(stage: SnapshotStage) -> None:
    good, alone = stage.canister(), stage.canister(controllers=(ANONYMOUS,))
    poor, stopping = stage.canister(cycles=10**10), stage.canister()
    state(stage, stopping, "stopping")
    report = stage.manager.preflight([good, alone, poor, stopping])
    assert not report.ok
    assert report.outcome is Outcome.REFUSED
    kinds = {item.canister_id: item.error.kind for item in report if item.error is not None}
    assert kinds == {poor: "low_cycles", stopping: "canister_stopping"}
    assert [finding.code for finding in report.findings] == ["only_controller"]
    assert {check.name for check in report.canisters[0].checks} == {
        "access",
        "state",
        "code",
        "cycles",
        "cap",
        "journal",
        "custody",
    }
    assert set(stage.transport.calls) == {"canister_status", "list_canister_snapshots"}
    assert "FAILED" in str(report)
    with pytest.raises(SourceError):
        report.raise_for_errors()
    assert report.to_json()["canisters"][0]["checks"][0]["ok"] is True


# Uploading


def test_an_upload_takes_the_place_of_an_older_snapshot(stage: SnapshotStage, tmp_path: Path) -> None:
    canister = stage.canister()
    old = taken(stage, canister)
    stage.manager.download(canister, old, tmp_path / "snapshot")
    report = stage.manager.upload(tmp_path / "snapshot", canister, replace=str(old))
    assert stage.snapshots(canister) == {report.snapshot_id}


def test_an_interrupted_upload_can_be_abandoned(stage: SnapshotStage, tmp_path: Path) -> None:
    canister = stage.canister()
    wanted = taken(stage, canister)
    stage.manager.download(canister, wanted, tmp_path / "snapshot")
    stage.network.faults.add(Answer(status=400), canister_method="upload_canister_snapshot_data", nth=1)
    with pytest.raises(BackupError) as caught:
        stage.manager.upload(tmp_path / "snapshot", canister)
    stage.network.faults.clear()
    assert str(stage.manager.abandon_upload(tmp_path / "snapshot", canister)) == caught.value.context["snapshot_id"]
    assert stage.snapshots(canister) == {wanted}
    assert stage.manager.abandon_upload(tmp_path / "snapshot", canister) is None
