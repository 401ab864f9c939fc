"""The trash: forgetting removes nothing, can be undone, and ends in a plan of its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    PlanStaleError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.events import Event
from knowtation_backup.model.marks import Mark, MarkName, MarkVerb
from knowtation_backup.model.plans import (
    ArchiveInfo,
    ArchiveState,
    ForgetAction,
    ForgetDecision,
    ForgetPlan,
)
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import find_archive, list_archives
from knowtation_backup.operations.forget import apply_forget, plan_delete, plan_forget
from knowtation_backup.operations.marks import pin, put_mark, quarantine, read_marks, tag
from knowtation_backup.operations.trash import plan_empty_trash, undelete
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.retention.policy import KeepPolicy
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
NOW = START + dt.timedelta(days=20)
DAY = dt.timedelta(days=1)
AT_ONCE = dt.timedelta(0)
TWO = KeepLast(limit=2)


class Calendar:
    """A clock that tests turn."""

    def __init__(self, now: dt.datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


def make(sink: ArchiveSink, days: int) -> str:
    return backup(FakeSource(), sink, clock=lambda: START + dt.timedelta(days=days)).archive_id


def stock(sink: ArchiveSink) -> list[str]:
    """Store four archives, and return their ids from the newest to the oldest."""
    return [make(sink, days) for days in range(4)][::-1]


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def sink(calendar: Calendar) -> MemorySink:
    return MemorySink(clock=calendar)


def states(sink: ArchiveSink) -> dict[str, ArchiveState]:
    return {info.archive_id: info.state for info in list_archives(sink)}


def trashed(sink: ArchiveSink) -> list[str]:
    return [info.archive_id for info in list_archives(sink) if info.standing.trashed_at is not None]


def to_trash(sink: ArchiveSink, calendar: Calendar, *archive_ids: str, last_too: bool = False) -> None:
    plan = plan_delete(sink, archive_ids, now=calendar(), last_too=last_too)
    apply_forget(sink, plan, clock=calendar)


def test_forgetting_needs_no_right_to_delete_and_removes_nothing(calendar: Calendar) -> None:
    sink = MemorySink(permissions="lrw", clock=calendar)
    ids = stock(sink)
    before = sink.contents()
    plan = plan_forget(sink, TWO, now=NOW)
    assert plan.action is ForgetAction.TRASH
    assert "applying would move to the trash 2 archive(s)" in str(plan)
    assert f"TRASH {ids[2]}: complete: 2 newer complete archives exist" in str(plan)
    events: list[Event] = []
    report = apply_forget(sink, plan, clock=calendar, observer=events.append)
    assert report.forgotten == (ids[3], ids[2])
    assert (report.freed_bytes, report.action) == (0, ForgetAction.TRASH)
    assert str(report).startswith("moved 2 archive(s) to the trash; nothing was removed")
    assert [(event.name, event.fields["archive_id"]) for event in events] == [
        ("forget.trashed", ids[3]),
        ("forget.trashed", ids[2]),
    ]
    after = sink.contents()
    assert after.items() >= before.items()
    assert len(after) == len(before) + 2
    assert trashed(sink) == ids[2:]
    noted = [mark.values["reason"] for mark in read_marks(sink, ids[2])]
    assert noted == ["complete: 2 newer complete archives exist, 2 are kept"]


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_what_was_forgotten_comes_back_whole(kind: str, tmp_path: Path, calendar: Calendar) -> None:
    sink: ArchiveSink = MemorySink(permissions="lrw", clock=calendar) if kind == "memory" else FsspecSink(tmp_path)
    ids = stock(sink)
    apply_forget(sink, plan_forget(sink, KeepLast(limit=1), now=NOW), clock=calendar)
    assert trashed(sink) == ids[1:]
    assert find_archive(list_archives(sink), "latest").archive_id == ids[0]
    with pytest.raises(BlobNotFoundError):
        find_archive(list_archives(sink), "latest-1")
    undelete(sink, ids[1], clock=calendar)
    assert trashed(sink) == ids[2:]
    assert find_archive(list_archives(sink), "latest-1").archive_id == ids[1]
    assert set(states(sink).values()) == {ArchiveState.COMPLETE}


def test_only_what_is_in_the_trash_is_undeleted(sink: MemorySink) -> None:
    newest = stock(sink)[0]
    for archive_id in (newest, "no-such-archive-20260401T000000Z.json"):
        with pytest.raises(ConfigurationError) as caught:
            undelete(sink, archive_id)
        assert caught.value.kind == "not_in_trash"
    assert not any("undeleted" in key for key in sink.contents())


def test_what_is_in_the_trash_is_planned_for_once_and_takes_no_place(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[0])
    plan = plan_forget(sink, TWO, now=NOW)
    assert [info.archive_id for info in plan.trashed] == [ids[0]]
    assert [info.archive_id for info in plan.kept] == ids[1:3], "the trash displaces nothing"
    assert [info.archive_id for info in plan.forgotten] == [ids[3]]
    assert f"in trash {ids[0]}: since 2026-04-21T00:00:00.000Z" in str(plan)
    assert "1 in the trash already" in str(plan)
    apply_forget(sink, plan, clock=calendar)
    assert plan_forget(sink, TWO, now=NOW).forgotten == ()


def test_the_trash_is_emptied_after_the_grace_and_marks_go_with_the_archive(
    sink: MemorySink, calendar: Calendar
) -> None:
    ids = stock(sink)
    tag(sink, ids[3], "audit", clock=Calendar(NOW - DAY))
    to_trash(sink, calendar, ids[3])
    calendar.now += 3 * DAY
    to_trash(sink, calendar, ids[2])
    calendar.now += 4 * DAY - dt.timedelta(seconds=1)
    assert plan_empty_trash(sink, now=calendar()).forgotten == ()
    calendar.now += dt.timedelta(seconds=1)
    plan = plan_empty_trash(sink, now=calendar())
    assert plan.action is ForgetAction.DELETE
    assert f"DELETE {ids[3]}: in the trash since 2026-04-21T00:00:00.000Z" in str(plan)
    assert f"in trash {ids[2]}: in the trash since 2026-04-24T00:00:00.000Z, less than 7 days" in str(plan)
    assert f"keep {ids[0]}: not in the trash" in str(plan)
    size = sum(len(data) for key, data in sink.contents().items() if ids[3] in key)
    report = apply_forget(sink, plan, clock=calendar)
    assert report.forgotten == (ids[3],)
    assert report.freed_bytes == plan.forgotten_bytes == size
    assert not any(ids[3] in key for key in sink.contents())
    assert set(states(sink)) == set(ids[:3])
    assert plan_empty_trash(sink, now=calendar()).forgotten == ()


def test_emptying_needs_the_right_to_delete_and_not_to_write(calendar: Calendar) -> None:
    sink = MemorySink(clock=calendar)
    ids = stock(sink)
    to_trash(sink, calendar, ids[3])
    plan = plan_empty_trash(sink, now=NOW + 8 * DAY)
    sink._permissions = "lrw"
    with pytest.raises(SinkPermissionError):
        apply_forget(sink, plan)
    assert ids[3] in states(sink)
    sink._permissions = "lrd"
    apply_forget(sink, plan)
    assert ids[3] not in states(sink)


def test_no_grace_empties_everything(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[2], ids[3])
    plan = plan_empty_trash(sink, now=calendar(), grace=AT_ONCE)
    assert [info.archive_id for info in plan.forgotten] == ids[2:]
    calendar.now -= DAY  # also what was put there by a clock that is ahead of ours
    assert plan_empty_trash(sink, now=calendar(), grace=AT_ONCE).forgotten == plan.forgotten
    with pytest.raises(ConfigurationError) as caught:
        plan_empty_trash(sink, now=calendar(), grace=-DAY)
    assert caught.value.kind == "bad_duration"


def test_a_mark_that_was_dated_back_shortens_no_grace(sink: MemorySink) -> None:
    ids = stock(sink)
    long_ago = MarkName(artifact=ids[3], made_at=START - 100 * DAY, verb=MarkVerb.TRASHED, nonce="0" * 8)
    sink.put(long_ago.key, [Mark(name=long_ago).to_bytes()])
    assert trashed(sink) == [ids[3]]
    assert plan_empty_trash(sink, now=NOW + 6 * DAY).forgotten == ()
    assert len(plan_empty_trash(sink, now=NOW + 7 * DAY).forgotten) == 1


def test_a_mark_that_was_dated_back_prolongs_no_grace(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[0])
    earlier = MarkName(artifact=ids[0], made_at=START - DAY, verb=MarkVerb.TRASHED, nonce="0" * 8)
    calendar.now = NOW + 5 * DAY
    sink.put(earlier.key, [Mark(name=earlier).to_bytes()])
    assert [info.archive_id for info in plan_empty_trash(sink, now=NOW + 8 * DAY).forgotten] == [ids[0]]


def test_the_last_complete_archive_of_a_series_stays_in_the_trash(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, *ids, last_too=True)
    later = NOW + 8 * DAY
    plan = plan_empty_trash(sink, now=later)
    assert plan.forgotten == ()
    assert "no complete archive of its series is outside the trash" in str(plan)
    assert len(plan_empty_trash(sink, now=later, last_too=True).forgotten) == 4
    undelete(sink, ids[1], clock=calendar)
    plan = plan_empty_trash(sink, now=later)
    assert [info.archive_id for info in plan.forgotten] == [ids[0], *ids[2:]]
    apply_forget(sink, plan_empty_trash(sink, now=later))
    assert list(states(sink)) == [ids[1]]


def test_what_is_not_complete_leaves_the_trash_although_nothing_better_is_there(
    sink: MemorySink, calendar: Calendar
) -> None:
    incomplete = backup(FakeSource(complete=False), sink, clock=lambda: START).archive_id
    to_trash(sink, calendar, incomplete)
    assert len(plan_empty_trash(sink, now=NOW + 7 * DAY).forgotten) == 1


def test_what_is_in_the_trash_is_no_reason_to_let_the_last_one_go(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, *ids[1:])
    with pytest.raises(ConfigurationError, match="every complete archive"):
        plan_delete(sink, [ids[0]], now=NOW)


def test_files_of_other_tools_are_never_in_the_trash(sink: MemorySink, calendar: Calendar) -> None:
    foreign = "backup-20200101T000000Z.tgz"
    sink.put(foreign, [b"theirs"])
    put_mark(sink, foreign, MarkVerb.TRASHED, clock=calendar)
    plan = plan_empty_trash(sink, now=NOW + 8 * DAY, last_too=True)
    assert plan.forgotten == ()
    assert [decision.reason for decision in plan.decisions] == ["of another tool: never removed"]


def test_what_leaves_the_trash_while_planning_stays(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[3])

    class Leaving(FaultSink):
        def _stat(self, key: str) -> BlobInfo:
            raise BlobNotFoundError(f"there is no {key} any more")

    assert plan_empty_trash(Leaving(sink), now=NOW + 8 * DAY).forgotten == ()


def test_a_pin_holds_in_the_trash_too(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[3])
    pin(sink, ids[3], until=NOW + 30 * DAY, clock=calendar)
    assert plan_empty_trash(sink, now=NOW + 29 * DAY).forgotten == ()
    assert len(plan_empty_trash(sink, now=NOW + 30 * DAY).forgotten) == 1


def test_archives_are_deleted_by_name(sink: MemorySink) -> None:
    ids = stock(sink)
    short = find_archive(list_archives(sink), ids[1]).short_id
    plan = plan_delete(sink, [short, ids[2]], now=NOW, trash_grace=AT_ONCE)
    assert [info.archive_id for info in plan.forgotten] == ids[1:3]
    assert [decision.reason for decision in plan.decisions] == ["not named", *["complete: named"] * 2, "not named"]
    apply_forget(sink, plan)
    assert list(states(sink)) == [ids[0], ids[3]]
    one = plan_delete(sink, ids[3], now=NOW)
    assert [info.archive_id for info in one.forgotten] == [ids[3]], "one id need not be in a list"
    assert one.action is ForgetAction.TRASH


def test_what_is_in_the_trash_can_be_named_to_be_removed_at_once(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[2])
    plan = plan_delete(sink, [ids[2]], now=NOW)
    assert plan.forgotten == ()
    assert f"in trash {ids[2]}: named, and in the trash already" in str(plan)
    apply_forget(sink, plan_delete(sink, [ids[2]], now=NOW, trash_grace=AT_ONCE))
    assert ids[2] not in states(sink)


def test_an_unknown_name_is_refused(sink: MemorySink) -> None:
    stock(sink)
    with pytest.raises(BlobNotFoundError) as caught:
        plan_delete(sink, ["operator-full-export-2019"], now=NOW)
    assert caught.value.kind == "no_such_archive"


def test_pinned_foreign_and_last_archives_are_refused_by_name(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    foreign = "operator-full-export-20200101T000000Z.json"
    sink.put(foreign, [b"theirs"])
    pin(sink, ids[1], until=NOW + DAY, clock=calendar)
    before = sink.contents()
    with pytest.raises(ConfigurationError, match="pinned until 2026-04-22") as caught:
        plan_delete(sink, [ids[1]], now=NOW)
    assert (caught.value.kind, caught.value.hint) == ("archive_pinned", "unpin it first, if it is to go")
    with pytest.raises(ConfigurationError, match=foreign) as caught:
        plan_delete(sink, [foreign], now=NOW, last_too=True)
    assert caught.value.kind == "unsafe_plan"
    with pytest.raises(ConfigurationError, match="every complete archive") as caught:
        plan_delete(sink, ids, now=NOW + 2 * DAY)
    assert caught.value.kind == "unsafe_plan"
    assert len(plan_delete(sink, ids, now=NOW + 2 * DAY, last_too=True).forgotten) == 4
    assert sink.contents() == before


@pytest.mark.parametrize("doubt", ["failed", "quarantined"])
def test_what_is_known_to_be_bad_is_no_reason_to_let_the_last_good_one_go(sink: MemorySink, doubt: str) -> None:
    good, bad = make(sink, 1), make(sink, 2)
    put_mark(sink, bad, MarkVerb(doubt), clock=lambda: START)
    with pytest.raises(ConfigurationError, match="that can be relied on") as caught:
        plan_delete(sink, [good], now=NOW)
    assert caught.value.kind == "unsafe_plan"
    assert [info.archive_id for info in plan_delete(sink, [bad], now=NOW).forgotten] == [bad]
    assert [info.archive_id for info in plan_delete(sink, [good], now=NOW, last_too=True).forgotten] == [good]


@attrs.frozen
class RemoveOld:
    """Somebody's policy that knows nothing of pins, quarantine and trash."""

    seen: list[str]

    def plan(self, archives: Sequence[ArchiveInfo], *, now: dt.datetime) -> ForgetPlan:
        self.seen[:] = [info.archive_id for info in archives]
        decisions = [ForgetDecision(archive=info, keep=index == 0, reason="old") for index, info in enumerate(archives)]
        return ForgetPlan(made_at=now, decisions=tuple(decisions), last_too=True, action=ForgetAction.DELETE)


def test_no_policy_overrides_what_a_person_said(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    oldest = make(sink, -1)
    pin(sink, ids[1], clock=calendar)
    quarantine(sink, ids[2], clock=calendar)
    to_trash(sink, calendar, ids[3])
    seen: list[str] = []
    plan = plan_forget(sink, RemoveOld(seen), now=NOW)
    assert ids[3] not in seen, "a policy need not know the trash"
    assert [info.archive_id for info in plan.kept] == ids[:3]
    assert [info.archive_id for info in plan.forgotten] == [oldest]
    assert (plan.action, plan.last_too) == (ForgetAction.TRASH, False), "nor decides how"
    assert f"keep {ids[1]}: complete: pinned" in str(plan)
    assert f"keep {ids[2]}: complete: quarantined" in str(plan)


def test_a_plan_made_by_hand_cannot_forget_a_pinned_archive(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    pin(sink, ids[3], clock=calendar)
    decisions = [
        ForgetDecision(archive=info, keep=info.archive_id != ids[3], reason="by hand") for info in list_archives(sink)
    ]
    with pytest.raises(ConfigurationError) as caught:
        apply_forget(sink, ForgetPlan(made_at=NOW, decisions=tuple(decisions)))
    assert caught.value.kind == "archive_pinned"
    assert trashed(sink) == []


@pytest.mark.parametrize("verb", [MarkVerb.PINNED, MarkVerb.UNDELETED, MarkVerb.QUARANTINED])
def test_what_is_noted_after_planning_makes_the_plan_stale(
    sink: MemorySink, calendar: Calendar, verb: MarkVerb
) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[2], ids[3])
    plan = plan_empty_trash(sink, now=NOW, grace=AT_ONCE)
    put_mark(sink, ids[2], verb, clock=calendar)
    before = sink.contents()
    with pytest.raises(PlanStaleError):
        apply_forget(sink, plan)
    assert sink.contents() == before


def test_a_pin_made_while_others_are_removed_is_seen(sink: MemorySink, calendar: Calendar) -> None:
    ids = stock(sink)
    to_trash(sink, calendar, ids[2], ids[3])

    class Late(FaultSink):
        def _delete(self, key: str) -> None:
            if key == f"side/{ids[3]}/manifest.json":
                pin(sink, ids[2], clock=calendar)
            super()._delete(key)

    late = Late(sink)
    with pytest.raises(PlanStaleError, match=r"pinned.* 1 archive\(s\) were removed before"):
        apply_forget(late, plan_empty_trash(late, now=NOW, grace=AT_ONCE))
    assert list(states(sink)) == ids[:3]
    assert set(states(sink).values()) == {ArchiveState.COMPLETE}


def each_fault(
    run: Callable[[ArchiveSink], object], fresh: Callable[[], MemorySink], moment: FaultMoment
) -> list[MemorySink]:
    """Run once per operation with that operation failing, and return what is stored then."""
    counting = FaultSink(fresh())
    run(counting)
    left: list[MemorySink] = []
    for number in range(len(counting.operations)):
        inner = fresh()
        with pytest.raises(SinkUnavailableError):
            run(FaultSink(inner, fail_at=number, moment=moment))
        left.append(inner)
    return left


@pytest.mark.parametrize("moment", [FaultMoment.BEFORE, FaultMoment.AFTER])
def test_an_interruption_while_forgetting_harms_nothing(moment: FaultMoment, calendar: Calendar) -> None:
    ids: list[str] = []

    def fresh() -> MemorySink:
        sink = MemorySink(clock=calendar)
        ids[:] = stock(sink)
        return sink

    def run(sink: ArchiveSink) -> object:
        return apply_forget(sink, plan_forget(sink, TWO, now=NOW), clock=calendar)

    for sink in each_fault(run, fresh, moment):
        assert set(states(sink).values()) == {ArchiveState.COMPLETE}
        assert set(trashed(sink)) <= set(ids[2:])
        run(sink)
        assert trashed(sink) == ids[2:]


@pytest.mark.parametrize("moment", [FaultMoment.BEFORE, FaultMoment.AFTER])
def test_an_interruption_while_emptying_leaves_whole_archives_or_known_rests(
    moment: FaultMoment, calendar: Calendar
) -> None:
    ids: list[str] = []

    def fresh() -> MemorySink:
        sink = MemorySink(clock=calendar)
        ids[:] = stock(sink)
        to_trash(sink, calendar, ids[2], ids[3])
        return sink

    def run(sink: ArchiveSink) -> object:
        return apply_forget(sink, plan_empty_trash(sink, now=NOW, grace=AT_ONCE), clock=calendar)

    for sink in each_fault(run, fresh, moment):
        found = states(sink)
        assert [found[archive_id] for archive_id in ids[:2]] == [ArchiveState.COMPLETE] * 2
        assert set(found.values()) <= {ArchiveState.COMPLETE, ArchiveState.UNFINISHED}
        run(sink)
        # At most the marker of one archive is left, which is unfinished like after any crash.
        apply_forget(sink, plan_forget(sink, TWO, now=NOW, trash_grace=AT_ONCE))
        assert list(states(sink)) == ids[:2]
        assert {key.split("/")[1] if "/" in key else key for key in sink.contents()} == set(ids[:2])


def test_state_archives_of_duskmantle_go_to_the_trash_and_come_back(sink: MemorySink, calendar: Calendar) -> None:
    names = [f"km-backup-2026040{day}T000000Z.tgz" for day in range(1, 5)]
    for name in names:
        sink.put(name, [b"state"])
    others = ["km-backup-notes.txt", "backup-20260401T000000Z.tgz", "KM-BACKUP-20260401T000000Z.tgz"]
    for name in others:
        sink.put(name, [b"theirs"])
    ours = make(sink, -30)
    policy = KeepLast.km(2)
    apply_forget(sink, plan_forget(sink, policy, now=NOW), clock=calendar)
    assert trashed(sink) == [names[1], names[0]]
    undelete(sink, names[1], clock=calendar)
    plan = plan_forget(sink, policy, now=NOW, trash_grace=AT_ONCE)
    assert [info.archive_id for info in plan.forgotten] == [names[1]]
    apply_forget(sink, plan)
    apply_forget(sink, plan_empty_trash(sink, now=NOW, grace=AT_ONCE))
    assert {key for key in sink.contents() if "/" not in key} == {*names[2:], *others, ours}
    assert not any(name in key for key in sink.contents() for name in names[:2])


def test_a_target_has_its_own_policy(calendar: Calendar) -> None:
    near, far = MemorySink(clock=calendar), MemorySink(clock=calendar)
    ids = stock(near)
    for key, data in near.contents().items():
        far.put(key, [data])
    policies = ((near, KeepLast(limit=1)), (far, KeepPolicy(daily=3, min_keep=0)))
    for sink, policy in policies:
        apply_forget(sink, plan_forget(sink, policy, now=NOW), clock=calendar)
    assert trashed(near) == ids[1:]
    assert trashed(far) == ids[3:]


@pytest.mark.parametrize("grace", ["7d", 7, None])
def test_a_grace_that_is_no_length_of_time_is_refused(sink: MemorySink, grace: object) -> None:
    with pytest.raises(ConfigurationError, match="no length of time for the trash") as caught:
        plan_empty_trash(sink, now=NOW, grace=grace)  # type: ignore[arg-type] # the point
    assert caught.value.kind == "bad_duration"


def test_a_moment_without_a_zone_plans_nothing(sink: MemorySink) -> None:
    stock(sink)
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(ConfigurationError) as caught:
        plan_empty_trash(sink, now=naive)
    assert caught.value.kind == "naive_datetime"
    for policy in (KeepLast(limit=1), KeepPolicy(last=1)):
        with pytest.raises(ConfigurationError) as caught:
            plan_forget(sink, policy, now=naive)
        assert caught.value.kind == "naive_datetime"
