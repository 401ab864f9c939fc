"""Forgetting: exactly the plan or nothing, manifest first, nothing of others."""

import datetime as dt

import attrs
import pytest

from knowtation_backup.errors import ConfigurationError, PlanStaleError, SinkPermissionError, SinkUnavailableError
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import manifest_key
from knowtation_backup.model.plans import ArchiveState, ForgetDecision, ForgetPlan
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.operations.forget import apply_forget, plan_forget
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
NOW = START + dt.timedelta(days=20)
AT_ONCE = dt.timedelta(0)


def make(sink: MemorySink, days: int, *, complete: bool = True) -> str:
    source = FakeSource(complete=complete)
    return backup(source, sink, clock=lambda: START + dt.timedelta(days=days)).archive_id


@pytest.fixture
def sink() -> MemorySink:
    sink = MemorySink()
    for days in range(4):
        make(sink, days)
    make(sink, 5, complete=False)
    sink.delete(manifest_key(make(sink, 0)))
    for key in ("operator-full-export-20200101T000000Z.json", "backup-20200101T000000Z.tgz", "notes.txt"):
        sink.put(key, [b"theirs"])
    for day in range(1, 4):
        sink.put(f"km-backup-2020010{day}T000000Z.tgz", [b"state"])
    return sink


def test_the_plan_is_applied_and_nothing_else_happens(sink: MemorySink) -> None:
    plan = plan_forget(sink, KeepLast(limit=2), now=NOW, trash_grace=AT_ONCE)
    before = sink.contents()
    events: list[Event] = []
    report = apply_forget(sink, plan, observer=events.append)
    gone = before.keys() - sink.contents().keys()
    assert gone == {key for info in plan.forgotten for key in info.keys}
    assert list(report.forgotten) == [
        "km-backup-20200101T000000Z.tgz",
        "operator-full-export-20260401T000000Z.json",
        "operator-full-export-20260401T000000Z-01.json",
        "operator-full-export-20260402T000000Z.json",
    ]
    assert report.freed_bytes == sum(len(before[key]) for key in gone)
    assert report.outcome is Outcome.OK
    assert "forgot 4 archive(s)" in str(report)
    assert "applying would delete 4 archive(s)" in str(plan)
    assert {event.name for event in events} == {"forget.removed"}
    assert [event.fields["archive_id"] for event in events] == list(report.forgotten)
    for key in ("operator-full-export-20200101T000000Z.json", "backup-20200101T000000Z.tgz", "notes.txt"):
        assert sink.contents()[key] == b"theirs"
    assert not plan_forget(sink, KeepLast(limit=2), now=NOW).forgotten


def test_planning_needs_no_right_to_delete() -> None:
    sink = MemorySink(permissions="lrw")
    for days in range(3):
        make(sink, days)
    plan = plan_forget(sink, KeepLast(limit=1), now=NOW, trash_grace=AT_ONCE)
    assert len(plan.forgotten) == 2
    before = sink.contents()
    with pytest.raises(SinkPermissionError):
        apply_forget(sink, plan)
    assert sink.contents() == before


@pytest.mark.parametrize("change", ["new", "gone", "finished", "foreign"])
def test_a_world_that_changed_makes_the_plan_stale(sink: MemorySink, change: str) -> None:
    plan = plan_forget(sink, KeepLast(limit=2), now=NOW)
    newest = plan.kept[0].archive_id
    if change == "new":
        make(sink, 6)
    elif change == "gone":
        for key in plan.kept[1].keys:
            sink.delete(key)
    elif change == "finished":
        sink.delete(manifest_key(newest))
    else:
        sink.put("km-backup-20260101T000000Z.tgz", [b"x"])
    before = sink.contents()
    with pytest.raises(PlanStaleError, match="plan again"):
        apply_forget(sink, plan)
    assert sink.contents() == before


def test_a_plan_can_be_applied_once(sink: MemorySink) -> None:
    plan = plan_forget(sink, KeepLast(limit=2), now=NOW)
    apply_forget(sink, plan)
    with pytest.raises(PlanStaleError):
        apply_forget(sink, plan)


@pytest.mark.parametrize("reach", ["last complete", "foreign"])
def test_an_unsafe_plan_of_any_policy_is_refused(sink: MemorySink, reach: str) -> None:
    archives = list_archives(sink)
    victims = [
        info.archive_id
        for info in archives
        if (reach == "foreign" and not info.managed)
        or (reach != "foreign" and info.managed and info.state is ArchiveState.COMPLETE)
    ]
    plan = ForgetPlan(
        made_at=NOW,
        decisions=tuple(
            ForgetDecision(archive=info, keep=info.archive_id not in victims, reason="bad policy") for info in archives
        ),
    )
    before = sink.contents()
    with pytest.raises(ConfigurationError) as caught:
        apply_forget(sink, plan)
    assert caught.value.kind == "unsafe_plan"
    assert sink.contents() == before


@pytest.mark.parametrize("moment", list(FaultMoment))
def test_an_interruption_anywhere_leaves_whole_archives_or_known_rests(moment: FaultMoment) -> None:
    def fresh() -> MemorySink:
        sink = MemorySink()
        for days in range(4):
            make(sink, days)
        return sink

    counting = FaultSink(fresh())
    apply_forget(counting, plan_forget(counting, KeepLast(limit=2), now=NOW, trash_grace=AT_ONCE))
    for number in range(len(counting.operations)):
        inner = fresh()
        plan = plan_forget(inner, KeepLast(limit=2), now=NOW, trash_grace=AT_ONCE)
        kept = [info.archive_id for info in plan.kept]
        faulty = FaultSink(inner, fail_at=number, moment=moment)
        try:
            apply_forget(faulty, plan)
        except SinkUnavailableError:
            pass
        else:
            assert number >= len(faulty.operations), "a fault that happened is never silent"
        states = {info.archive_id: info.state for info in list_archives(inner)}
        assert all(states[archive_id] is ArchiveState.COMPLETE for archive_id in kept)
        assert set(states.values()) <= {ArchiveState.COMPLETE, ArchiveState.UNFINISHED}
        apply_forget(inner, plan_forget(inner, KeepLast(limit=2), now=NOW, trash_grace=AT_ONCE))
        assert [info.archive_id for info in list_archives(inner)] == kept
        assert {key.split("/")[1] if "/" in key else key for key in inner.contents()} == set(kept)


def test_an_archive_somebody_else_removes_meanwhile_is_fine(sink: MemorySink) -> None:
    plan = plan_forget(sink, KeepLast(limit=2), now=NOW, trash_grace=AT_ONCE)
    first = min(plan.forgotten, key=lambda info: info.age_key)

    class Helpful(FaultSink):
        def _delete(self, key: str) -> None:
            if key == first.keys[0]:
                sink.delete(key)
            super()._delete(key)

    report = apply_forget(Helpful(sink), plan)
    assert first.archive_id in report.forgotten


def test_plans_are_values() -> None:
    plan = ForgetPlan(made_at=NOW, decisions=())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plan.made_at = START  # type: ignore[misc]
