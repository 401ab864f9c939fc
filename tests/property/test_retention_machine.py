"""Whatever people and plans do to a store in whatever order, nothing goes that may not."""

from __future__ import annotations

import datetime as dt

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from knowtation_backup.contracts import RetentionPolicy
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState, ForgetPlan
from knowtation_backup.operations import marks
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.operations.forget import apply_forget, plan_delete, plan_forget
from knowtation_backup.operations.trash import plan_empty_trash, undelete
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.retention.policy import KeepPolicy
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.sources import FakeSource

HOUR = dt.timedelta(hours=1)
GRACE = dt.timedelta(days=7)
POLICIES: list[RetentionPolicy] = [
    KeepLast(limit=2),
    KeepPolicy(daily=2, min_keep=1),
    KeepPolicy(last=1, min_keep=2, tags=["keep-me"]),
    KeepPolicy(older_than="2d", min_keep=1),
    KeepPolicy(within="1d", weekly=1, min_keep=0),
]
FOREIGN = {"backup-20200101T000000Z.tgz": b"theirs", "notes.txt": b"theirs"}
picks = st.integers(0, 99)


def usable(info: ArchiveInfo) -> bool:
    standing = info.standing
    return info.state is ArchiveState.COMPLETE and not (standing.quarantined or standing.trashed_at)


class Store(RuleBasedStateMachine):
    """A store, the people who use it, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
        self.sink = MemorySink(clock=self.clock)

    def clock(self) -> dt.datetime:
        return self.now

    def archives(self) -> dict[str, ArchiveInfo]:
        return {info.archive_id: info for info in list_archives(self.sink) if info.managed}

    def pick(self, number: int) -> str:
        ids = sorted(self.archives())
        return ids[number % len(ids)]

    @initialize()
    def begin(self) -> None:
        for key, data in FOREIGN.items():
            self.sink.put(key, [data])
        self.back_up(complete=True)

    @rule(complete=st.sampled_from([True, True, True, False]))
    def back_up(self, *, complete: bool) -> None:
        self.now += HOUR
        backup(FakeSource(complete=complete), self.sink, clock=self.clock)

    @rule(hours=st.sampled_from([5, 24, 80]))
    def time_passes(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule(number=picks, verb=st.sampled_from([MarkVerb.VERIFIED, MarkVerb.VERIFIED, MarkVerb.FAILED]))
    def verify(self, number: int, verb: MarkVerb) -> None:
        marks.put_mark(self.sink, self.pick(number), verb, {"level": "content"}, clock=self.clock)

    @rule(number=picks, days=st.sampled_from([None, 1, 30]))
    def pin(self, number: int, days: int | None) -> None:
        until = self.now + days * 24 * HOUR if days else None
        marks.pin(self.sink, self.pick(number), until=until, clock=self.clock)

    @rule(number=picks, what=st.sampled_from([marks.unpin, marks.quarantine, marks.release]))
    def note(self, number: int, what: object) -> None:
        what(self.sink, self.pick(number), clock=self.clock)  # type: ignore[operator] # one of three of one shape

    @rule(number=picks)
    def undelete(self, number: int) -> None:
        archive_id = self.pick(number)
        resting = self.archives()[archive_id].standing.trashed_at is not None
        try:
            undelete(self.sink, archive_id, clock=self.clock)
        except ConfigurationError:
            assert not resting

    @rule(policy=st.sampled_from(POLICIES), at_once=st.booleans())
    def forget(self, policy: RetentionPolicy, *, at_once: bool) -> None:
        grace = dt.timedelta(0) if at_once else GRACE
        before = self.archives()
        plan = plan_forget(self.sink, policy, now=self.now, trash_grace=grace)
        self.apply(plan)
        for series in {info.series for info in before.values()}:
            good = [info for info in before.values() if info.series == series and usable(info)]
            left = self.archives()
            assert not good or any(usable(left[info.archive_id]) for info in good if info.archive_id in left)
        again = plan_forget(self.sink, policy, now=self.now, trash_grace=grace)
        assert again.forgotten == ()

    @rule(number=picks, at_once=st.booleans())
    def delete(self, number: int, *, at_once: bool) -> None:
        archive_id = self.pick(number)
        grace = dt.timedelta(0) if at_once else GRACE
        try:
            plan = plan_delete(self.sink, [archive_id], now=self.now, trash_grace=grace)
        except ConfigurationError as error:
            pinned = self.archives()[archive_id].standing.is_pinned(self.now)
            assert pinned == (error.kind == "archive_pinned")  # noqa: PT017 - refusing is one of two right answers
        else:
            self.apply(plan)

    @precondition(lambda self: any(info.standing.trashed_at for info in self.archives().values()))
    @rule()
    def empty_trash(self) -> None:
        before = self.archives()
        self.apply(plan_empty_trash(self.sink, now=self.now, grace=GRACE))
        for archive_id in before.keys() - self.archives():
            since = before[archive_id].standing.trashed_at
            assert since is not None
            assert self.now - since >= GRACE

    def apply(self, plan: ForgetPlan) -> None:
        before, stored = self.archives(), self.sink.contents()
        report = apply_forget(self.sink, plan, clock=self.clock)
        after = self.archives()
        changed = {archive_id for archive_id in before if before[archive_id] != after.get(archive_id)}
        assert changed == set(report.forgotten) == {info.archive_id for info in plan.forgotten}
        assert not any(before[archive_id].standing.is_pinned(self.now) for archive_id in changed)
        gone = stored.keys() - self.sink.contents()
        assert bool(gone) == bool(report.freed_bytes)
        assert report.freed_bytes == sum(len(stored[key]) for key in gone)

    @invariant()
    def others_are_left_alone(self) -> None:
        assert self.sink.contents().items() >= FOREIGN.items() or not self.sink.contents()

    @invariant()
    def nothing_is_half(self) -> None:
        states = {info.state for info in self.archives().values()}
        assert states <= {ArchiveState.COMPLETE, ArchiveState.INCOMPLETE}


Store.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestStore = Store.TestCase
