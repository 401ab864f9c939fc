"""Forgetting, emptying the trash, and pruning in two phases: what goes, when, and what stops it."""

import datetime as dt
import hashlib
from typing import Any

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, contents, limited, needed_keys, new_repository

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    PlanStaleError,
    RepositoryError,
    SinkError,
    SinkPermissionError,
)
from knowtation_backup.model.blobs import BlobInfo, BlobLock
from knowtation_backup.model.events import Event
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.moments import iso_ms
from knowtation_backup.model.plans import ForgetAction
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.marks import put_mark
from knowtation_backup.operations.repository import marks
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.catalog import list_archives
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash, plan_forget
from knowtation_backup.operations.repository.prune_reports import LockedObject, PruneReport
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.operations.repository.waste import measure_waste
from knowtation_backup.repository.frames import FileKind, seal_small
from knowtation_backup.repository.layout import archive_key, object_id, pack_key, prune_key
from knowtation_backup.repository.notes import NotedObject, PruneNote, list_notes, put_note, read_note
from knowtation_backup.repository.repository import Repository
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.retention.policy import KeepPolicy
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.wrappers import ReadOnlySink, SinkWrapper
from knowtation_backup.testing.faults import FaultSink

HOUR = dt.timedelta(hours=1)
DAY = 24 * HOUR
GRACE = 3 * DAY


@attrs.define
class World:
    """A store with a clock of its own, a repository in it, and what was backed up."""

    now: dt.datetime = MOMENT
    locks: bool = False
    sink: MemorySink = attrs.field(init=False)
    repository: Repository = attrs.field(init=False)
    kept: dict[str, bytes] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.sink = MemorySink(clock=self.clock, locks=self.locks)
        self.repository = new_repository(self.sink)

    def clock(self) -> dt.datetime:
        return self.now

    def store(self, content: bytes, **facts: Any) -> str:
        options = RepositoryBackupOptions(full=facts.pop("full", False))
        self.now += HOUR
        source = StagedSource(images={"heap": content}, taken_at=self.now, **facts)
        archive_id = back_up(self.repository, source, options=options, clock=self.clock).archive_id
        self.kept[archive_id] = content
        return archive_id

    def forget(self, *archive_ids: str, last_too: bool = False) -> None:
        plan = plan_delete(self.repository, archive_ids, now=self.now, last_too=last_too)
        apply_forget(self.repository, plan, clock=self.clock)

    def empty_trash(self, *, last_too: bool = False) -> tuple[str, ...]:
        plan = plan_empty_trash(self.repository, now=self.now, grace=dt.timedelta(0), last_too=last_too)
        return apply_forget(self.repository, plan, clock=self.clock).forgotten

    def remove(self, *archive_ids: str) -> None:
        """Forget archives and wait until they may go."""
        self.forget(*archive_ids, last_too=True)
        self.now += GRACE
        assert set(self.empty_trash(last_too=True)) == set(archive_ids)
        for archive_id in archive_ids:
            del self.kept[archive_id]

    def prune(self) -> PruneReport:
        return apply_prune(self.repository, plan_prune(self.repository), clock=self.clock)

    def prune_wholly(self) -> None:
        self.prune()
        self.now += GRACE
        self.prune()

    def require_sound(self) -> None:
        assert {info.archive_id for info in list_archives(self.repository)} >= self.kept.keys()
        for archive_id, content in self.kept.items():
            assert contents(self.repository, archive_id)["heap"] == content

    def require_clean(self) -> None:
        """Check that nothing is left that no archive needs."""
        assert self.sink.contents().keys() == needed_keys(self.repository)


def block(number: int, pages: int = 40) -> bytes:
    return b"".join(f"{number}-{page}".encode().ljust(4096, b".") for page in range(pages))


def noise(number: int, pages: int) -> bytes:
    """Bytes that do not compress."""
    return hashlib.shake_256(bytes([number])).digest(pages * 4096)


def changed(content: bytes, page: int, number: int) -> bytes:
    return content[: page * 4096] + f"changed {number}".encode().ljust(4096, b"!") + content[(page + 1) * 4096 :]


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_forgetting_moves_to_the_trash_and_needs_no_right_to_delete() -> None:
    world = World()
    first, second = world.store(block(1)), world.store(block(2))
    writing = attrs.evolve(world.repository, sink=limited(world.sink))
    plan = plan_forget(writing, KeepLast(limit=1), now=world.now)
    assert plan.action is ForgetAction.TRASH
    assert "shared with others" in str(plan)
    report = apply_forget(writing, plan, clock=world.clock)
    assert report.forgotten == (first,)
    assert report.freed_bytes == 0
    standing = {info.archive_id: info.standing for info in list_archives(world.repository)}
    assert standing[first].trashed_at == world.now
    assert standing[second].trashed_at is None
    assert plan_forget(world.repository, KeepLast(limit=1), now=world.now).forgotten == ()
    marks.undelete(world.repository, first, clock=world.clock)
    assert plan_forget(world.repository, KeepLast(limit=1), now=world.now).forgotten[0].archive_id == first
    world.require_sound()


def test_the_floor_counts_verified_archives() -> None:
    world = World()
    ids = [world.store(block(number)) for number in range(4)]
    policy = KeepPolicy(last=1, min_keep=2)
    assert plan_forget(world.repository, policy, now=world.now).forgotten == ()
    for archive_id in ids[2:]:
        put_mark(world.sink, archive_id, MarkVerb.VERIFIED, {"level": "content"}, clock=world.clock)
    marks.pin(world.repository, ids[0], clock=world.clock)
    plan = plan_forget(world.repository, policy, now=world.now)
    assert [info.archive_id for info in plan.forgotten] == [ids[1]]
    reasons = {decision.archive.archive_id: decision.reason for decision in plan.decisions}
    assert reasons[ids[0]] == "complete: pinned"
    assert "floor: 2 newer archives must be verified, 1 are" in reasons[ids[2]]


def test_nothing_of_a_series_is_forgotten_while_its_newest_archive_is_in_quarantine() -> None:
    world = World()
    first = world.store(b"one")
    second = world.store(b"two")
    third = world.store(b"encrypted by somebody")
    others = [world.store(b"other %d" % number, source_id="bbbbb-bb") for number in range(2)]
    world.forget(world.store(b"in the trash, and newer"))
    policy = KeepLast(limit=1)
    marks.quarantine(world.repository, third, clock=world.clock)
    plan = plan_forget(world.repository, policy, now=world.now)
    assert [info.archive_id for info in plan.forgotten] == [others[0]]
    held = {decision.archive.archive_id: decision for decision in plan.decisions}[first]
    assert held.keep
    assert held.rules == ("suspicious",)
    assert third in held.reason
    plan = plan_forget(world.repository, policy, now=world.now, hold_suspicious=False)
    assert [info.archive_id for info in plan.forgotten] == [others[0], first]
    # Somebody looked: it is released, or a newer one is good.
    marks.release(world.repository, third, clock=world.clock)
    plan = plan_forget(world.repository, policy, now=world.now)
    assert [info.archive_id for info in plan.forgotten] == [others[0], second, first]
    marks.quarantine(world.repository, third, clock=world.clock)
    world.store(b"three")
    plan = plan_forget(world.repository, policy, now=world.now)
    assert [info.archive_id for info in plan.forgotten] == [others[0], second, first]


def test_a_stale_plan_does_nothing() -> None:
    world = World()
    world.store(block(1))
    world.store(block(2))
    plan = plan_forget(world.repository, KeepLast(limit=1), now=world.now)
    world.store(block(3))
    with pytest.raises(PlanStaleError):
        apply_forget(world.repository, plan, clock=world.clock)
    assert not list(world.sink.list("side/"))


def test_the_last_archive_and_pinned_ones_stay_unless_asked_for() -> None:
    world = World()
    first = world.store(block(1))
    with pytest.raises(ConfigurationError) as unsafe:
        plan_delete(world.repository, [first], now=world.now)
    assert unsafe.value.kind == "unsafe_plan"
    marks.pin(world.repository, first)
    with pytest.raises(ConfigurationError) as pinned:
        plan_delete(world.repository, first, now=world.now, last_too=True)
    assert pinned.value.kind == "archive_pinned"


def test_the_trash_is_emptied_by_the_clock_of_the_store() -> None:
    world = World()
    first = world.store(block(1))
    world.store(block(2))
    world.forget(first)
    wrong = world.now + 365 * DAY  # the clock of this host
    plan = plan_empty_trash(world.repository, now=wrong)
    assert plan.forgotten == ()
    reasons = {decision.archive.archive_id: decision.reason for decision in plan.decisions}
    assert "by the clock of the store, less than the repository's 3 days" in reasons[first]
    world.now += GRACE
    plan = plan_empty_trash(world.repository, now=wrong)
    assert [info.archive_id for info in plan.forgotten] == [first]
    size = len(world.sink.contents()[archive_key(first)])
    report = apply_forget(world.repository, plan, clock=world.clock)
    assert report.forgotten == (first,)
    assert size < report.freed_bytes < size + 1000  # manifest and mark
    assert not list(world.sink.list("side/"))
    assert not list(world.sink.list("prune/"))
    with pytest.raises(BlobNotFoundError):
        marks.undelete(world.repository, first)


def test_a_plan_cannot_empty_the_trash_too_early() -> None:
    world = World()
    first = world.store(block(1))
    world.store(block(2))
    world.forget(first)
    plan = plan_empty_trash(world.repository, now=world.now)
    decisions = tuple(attrs.evolve(d, keep=d.archive.archive_id != first) for d in plan.decisions)
    with pytest.raises(PlanStaleError, match="may not be removed: in the trash since"):
        apply_forget(world.repository, attrs.evolve(plan, decisions=decisions), clock=world.clock)
    assert first in world.repository.archive_ids()


def test_parents_may_be_forgotten_whatever_was_built_on_them() -> None:
    world = World()
    content = block(1)
    ids = [world.store(content)]
    for number in range(6):
        content = changed(content, 3 * number, number)
        ids.append(world.store(content))
    assert [world.repository.manifest(one).parent for one in ids] == ["", *ids[:-1]]
    for archive_id in ids[:3] + ids[4:6]:
        world.remove(archive_id)
        world.prune_wholly()
        world.require_sound()
    assert [info.archive_id for info in list_archives(world.repository)] == [ids[6], ids[3]]
    world.require_clean()


# -- pruning -----------------------------------------------------------------------------------------------------------


def test_a_repository_without_garbage_is_left_alone() -> None:
    world = World()
    world.store(block(1))
    before = world.sink.contents()
    plan = plan_prune(world.repository)
    assert (plan.marking, plan.due, plan.waiting) == ((), (), ())
    assert "nothing is to be pruned" in str(plan)
    report = apply_prune(world.repository, plan)
    assert str(report) == "deleted 0 object(s), 0 bytes"
    assert world.sink.contents() == before


def test_pruning_notes_first_and_deletes_a_grace_period_later() -> None:
    world = World()
    first, second = world.store(block(1)), world.store(block(2), full=True)
    garbage = {key for key, _ in world.repository.manifest(first).objects()}
    garbage -= {key for key, _ in world.repository.manifest(second).objects()}
    size = sum(len(world.sink.contents()[key]) for key in garbage)
    assert plan_prune(world.repository).marking == ()
    world.remove(first)
    events: list[Event] = []
    plan = plan_prune(world.repository)
    assert {noted.key for noted in plan.marking} == garbage
    assert f"note {len(garbage)} object(s), {size:,} bytes" in str(plan)
    report = apply_prune(world.repository, plan, clock=world.clock, observer=events.append)
    assert (report.deleted_objects, report.marked_objects, report.marked_bytes) == (0, len(garbage), size)
    assert report.waiting_bytes == size
    assert report.waiting_until == world.now + GRACE
    assert garbage <= world.sink.contents().keys()
    world.now += GRACE - dt.timedelta(seconds=1)
    early = plan_prune(world.repository)
    assert (early.due, early.waiting_bytes, early.marking) == ((), size, ())
    assert "wait until" in str(early)
    assert apply_prune(world.repository, early).deleted_objects == 0
    world.now += dt.timedelta(seconds=1)
    plan = plan_prune(world.repository)
    assert plan.freed_bytes == size
    assert f"DELETE {len(garbage)} object(s)" in str(plan)
    report = apply_prune(world.repository, plan, observer=events.append)
    assert (report.deleted_objects, report.freed_bytes, report.waiting) == (len(garbage), size, ())
    assert report.outcome is Outcome.OK
    assert [event.name for event in events] == ["prune.noted"] + ["prune.deleted"] * len(garbage)
    world.require_sound()
    world.require_clean()


def test_a_writer_key_prunes() -> None:
    world = World()
    first = world.store(block(1))
    world.store(block(2), full=True)
    reading, world.repository = world.repository, Repository.open_with(world.sink, world.repository.writer_key)
    world.remove(first)
    world.prune_wholly()
    world.repository = reading
    world.require_sound()
    world.require_clean()


def test_marks_without_an_archive_and_forgotten_probes_are_garbage_too() -> None:
    world = World()
    archive_id = world.store(block(1))
    marks.tag(world.repository, archive_id, "stays", clock=world.clock)
    put_mark(world.sink, "20200101T000000Z-" + "1" * 64, MarkVerb.TRASHED, clock=world.clock)
    world.sink.put("prune/" + "a" * 32 + ".probe", (b"x",))
    world.sink.put("prune/readme.txt", (b"somebody else's",))
    world.sink.put("packs/notes.txt", (b"somebody else's",))
    world.sink.put("side/other/thing", (b"somebody else's",))
    assert len(plan_prune(world.repository).marking) == 2
    world.prune_wholly()
    assert [info.key for info in world.sink.list("prune/")] == ["prune/readme.txt"]
    assert len(list(world.sink.list("side/"))) == 2
    assert [info.archive_id for info in list_archives(world.repository)] == [archive_id]


def test_what_came_into_use_again_is_not_deleted() -> None:
    """A backup that was under way when its packs were noted."""
    world = World()
    world.store(block(1))
    archive_id = world.store(block(2))
    manifest = world.sink.contents()[archive_key(archive_id)]
    world.sink.delete(archive_key(archive_id))
    report = world.prune()
    assert report.marked_objects == 2
    world.now += GRACE
    plan = plan_prune(world.repository)
    assert plan.freed_bytes > 0
    world.sink.put(archive_key(archive_id), (manifest,))
    with pytest.raises(PlanStaleError, match=r"2 object\(s\) came into use"):
        apply_prune(world.repository, plan)
    report = world.prune()
    assert report.deleted_objects == 0
    assert list_notes(world.sink) == []
    world.require_sound()
    world.require_clean()


def test_a_plan_made_by_a_wrong_clock_is_stale() -> None:
    world = World()
    first = world.store(block(1))
    world.store(block(2), full=True)
    world.remove(first)
    world.prune()
    world.now += GRACE
    plan = plan_prune(world.repository)
    world.now -= HOUR
    with pytest.raises(PlanStaleError, match="not a grace period old"):
        apply_prune(world.repository, plan)


@pytest.mark.parametrize("what", ["manifest changed", "pack missing", "index cut"])
def test_nothing_is_deleted_while_an_archive_is_damaged(what: str) -> None:
    world = World()
    garbage, archive_id = world.store(block(1)), world.store(block(2), full=True)
    world.remove(garbage)
    world.prune()
    world.now += GRACE
    plan = plan_prune(world.repository)
    manifest = world.repository.manifest(archive_id)
    if what == "manifest changed":
        key = archive_key(archive_id)
    else:
        key = next(key for key, _ in manifest.objects() if key.startswith(what.split(maxsplit=1)[0]))
    data = world.sink.contents()[key]
    world.sink.delete(key)
    if what != "pack missing":
        world.sink.put(key, (data[:-1],))
    before = world.sink.contents()
    for doing in (lambda: apply_prune(world.repository, plan), lambda: plan_prune(world.repository)):
        with pytest.raises(RepositoryError, match=archive_id) as caught:
            doing()
        assert caught.value.kind == "prune_refused"
        assert caught.value.context["archive_ids"] == [archive_id]
    assert world.sink.contents() == before
    if key in before:
        world.sink.delete(key)
    world.sink.put(key, (data,))
    world.prune()
    world.require_clean()


def test_prunes_at_once_do_no_harm() -> None:
    world = World()
    first = world.store(block(1))
    world.store(block(2), full=True)
    world.remove(first)
    one, other = plan_prune(world.repository), plan_prune(world.repository)
    assert apply_prune(world.repository, one, clock=world.clock).marked_objects == 2
    assert apply_prune(world.repository, other, clock=world.clock).marked_objects == 0
    noted = tuple(one.marking)
    put_note(world.sink, world.repository.writer_key, PruneNote(made_at=world.now + HOUR, objects=noted))
    world.now += GRACE
    one, other = plan_prune(world.repository), plan_prune(world.repository)
    assert apply_prune(world.repository, one).deleted_objects == 2
    assert apply_prune(world.repository, other).deleted_objects == 0
    world.require_clean()


def test_what_the_store_keeps_stays_noted() -> None:
    world = World()
    first = world.store(block(1))
    world.store(block(2), full=True)
    world.remove(first)
    noted = world.prune().waiting[0].objects
    world.now += GRACE
    locked = next(one.key for one in noted if one.key.startswith("packs/"))
    keeping = attrs.evolve(world.repository, sink=_Keeping(world.sink, locked))
    report = apply_prune(keeping, plan_prune(keeping))
    assert (report.outcome, report.deleted_objects) == (Outcome.PARTIAL, 1)
    assert [finding.where for finding in report.refused] == [locked]
    assert f"NOT DELETED {locked}: locked until 2030" in str(report)
    assert len(list_notes(world.sink)) == 1
    assert world.prune().deleted_objects == 1  # the lock has ended
    world.require_clean()


class _Versions(SinkWrapper):
    """A bucket that keeps versions: deleting hides, whatever is locked; and perhaps it does not say what is."""

    silent = False

    def _delete(self, key: str) -> None:
        assert isinstance(self._inner, MemorySink)
        self._inner._retained.pop(key, None)
        super()._delete(key)

    def _lock_of(self, key: str) -> BlobLock:
        if self.silent:
            raise SinkPermissionError("asking is refused")
        return attrs.evolve(super()._lock_of(key), versioned=True)


def _due(world: World) -> tuple[str, str]:
    """Make a pack and an index that a prune may delete; return their keys."""
    first = world.store(block(1))
    world.store(block(2), full=True)
    world.remove(first)
    (note,) = world.prune().waiting
    world.now += GRACE
    index, pack = sorted(noted.key for noted in note.objects)
    return pack, index


@pytest.mark.parametrize("versions", [False, True])
def test_what_is_locked_waits_until_its_lock_ends_and_is_not_counted(versions: bool) -> None:  # noqa: FBT001
    world = World(locks=True)
    pack, index = _due(world)
    world.sink.retain_until(pack, world.now + DAY)
    sizes = {key: world.sink.stat(key).size_bytes for key in (pack, index)}
    repository = attrs.evolve(world.repository, sink=_Versions(world.sink)) if versions else world.repository
    plan = plan_prune(repository)
    assert plan.locked == (LockedObject(pack, sizes[pack], world.now + DAY),)
    assert (plan.freed_bytes, plan.hidden_bytes) == ((0, sizes[index]) if versions else (sizes[index], 0))
    assert f"are locked, until {iso_ms(world.now + DAY)} at the latest" in str(plan)
    told: list[Event] = []
    report = apply_prune(repository, plan, observer=told.append)
    assert (report.outcome, report.deleted_objects, report.locked) == (Outcome.OK, 1, plan.locked)
    assert (report.freed_bytes, report.hidden_bytes) == (plan.freed_bytes, plan.hidden_bytes)
    assert (report.locked_bytes, report.locked_until) == (sizes[pack], world.now + DAY)
    assert ("only hidden" in str(report)) == versions
    assert [(event.name, event.fields["key"]) for event in told] == [("prune.deleted", index), ("prune.locked", pack)]
    assert pack in world.sink.contents()
    assert len(list_notes(world.sink)) == 1
    world.now += DAY - HOUR
    report = apply_prune(repository, plan_prune(repository))
    assert (report.deleted_objects, report.marked_objects, len(report.locked)) == (0, 0, 1)
    plan = plan_prune(repository)
    world.now += HOUR
    assert apply_prune(repository, plan).deleted_objects == 0, "only what the plan said is deleted"
    assert len(list_notes(world.sink)) == 1
    assert apply_prune(repository, plan_prune(repository)).deleted_objects == 1
    world.require_clean()


def test_where_the_store_does_not_say_what_is_locked_that_is_said() -> None:
    world = World(locks=True)
    pack, _ = _due(world)
    sink = _Versions(world.sink)
    sink.silent = True
    repository = attrs.evolve(world.repository, sink=sink)
    world.sink.retain_until(pack, world.now + DAY)
    report = apply_prune(repository, plan_prune(repository))
    assert (report.outcome, report.deleted_objects) == (Outcome.OK, 2)
    assert [finding.code for finding in report.findings] == ["locks_unknown"]
    assert "may only be hidden: asking is refused" in str(report)


def test_a_legal_hold_has_no_end() -> None:
    world = World(locks=True)
    pack, index = _due(world)

    class Held(SinkWrapper):
        def _lock_of(self, key: str) -> BlobLock:
            return BlobLock(until=world.now + DAY, legal_hold=True) if key == index else BlobLock()

    plan = plan_prune(attrs.evolve(world.repository, sink=Held(world.sink)))
    assert [(locked.key, locked.until) for locked in plan.locked] == [(index, None)]
    assert [noted.key for note in plan.due for noted in note.objects] == [pack]
    assert "locked, until a legal hold is lifted" in str(plan)


def test_a_store_without_times_is_refused() -> None:
    world = World()
    garbage, archive_id = world.store(block(1)), world.store(block(2), full=True)
    timeless = attrs.evolve(world.repository, sink=_Timeless(world.sink))
    world.forget(garbage)
    with pytest.raises(SinkError) as trash:
        plan_empty_trash(timeless, now=world.now + 100 * DAY)
    world.now += GRACE
    world.empty_trash()
    with pytest.raises(SinkError) as mark:
        plan_prune(timeless)
    world.prune()
    with pytest.raises(SinkError) as sweep:
        plan_prune(timeless)
    assert {trash.value.kind, mark.value.kind, sweep.value.kind} == {"no_store_times"}
    assert archive_id in world.repository.archive_ids()


def test_without_the_right_to_delete_garbage_is_only_noted() -> None:
    world = World()
    garbage = world.store(block(1))
    world.store(block(2), full=True)
    world.remove(garbage)
    writing = attrs.evolve(world.repository, sink=limited(world.sink))
    assert apply_prune(writing, plan_prune(writing), clock=world.clock).marked_objects == 2
    with pytest.raises(SinkPermissionError):
        plan_prune(writing)
    assert len(list(world.sink.list("prune/"))) == 1
    reading = attrs.evolve(world.repository, sink=ReadOnlySink(world.sink))
    with pytest.raises(SinkPermissionError):
        plan_prune(reading)


@pytest.mark.parametrize("key", ["repository.json", "archives/x", "keys/" + "0" * 32 + ".access", "tenants/a.tenant"])
def test_a_hostile_note_deletes_nothing(key: str) -> None:
    world = World()
    archive_id = world.store(block(1))
    key = archive_key(archive_id) if key == "archives/x" else key
    note = PruneNote(made_at=world.now, objects=(NotedObject(key, 5),))
    put_note(world.sink, world.repository.writer_key, note)
    used = next(iter(world.repository.manifest(archive_id).objects()))
    put_note(world.sink, world.repository.writer_key, attrs.evolve(note, objects=(NotedObject(*used),)))
    world.now += GRACE
    plan = plan_prune(world.repository)
    assert [finding.code for finding in plan.findings] == ["bad_prune_note"]
    assert key in str(plan)
    assert apply_prune(world.repository, plan).deleted_objects == 0
    world.require_sound()
    world.require_clean()  # notes without sense go, too


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"format":"x","format_version":1}',
        b'{"format":"knowtation-repository-prune","format_version":1,"made_at":"x","objects":[]}',
        b'{"format":"knowtation-repository-prune","format_version":1,"made_at":"2026-01-01T00:00:00Z","objects":[1]}',
    ],
)
def test_damaged_notes_are_named(data: bytes) -> None:
    world = World()
    keys = world.repository.writer_key
    stored = seal_small(FileKind.PRUNE_NOTE, keys, [data])
    key = prune_key(world.now, object_id(stored))
    world.sink.put(key, (stored,))
    plan = plan_prune(world.repository)
    assert [(finding.code, finding.where) for finding in plan.findings] == [("bad_prune_note", key)]


def test_notes_come_back() -> None:
    world = World()
    objects = tuple(NotedObject(pack_key(bytes([number]) * 32), number) for number in range(200))
    note = PruneNote(made_at=world.now, objects=objects)
    key = put_note(world.sink, world.repository.writer_key, note)
    assert read_note(world.sink, world.repository.read_keys, key) == note
    assert read_note(world.sink, world.repository.writer_key, key) == note


# -- backups at the same time ------------------------------------------------------------------------------------------


def test_a_parent_that_is_forgotten_meanwhile_is_there_until_the_backup_is_published() -> None:
    """
    The case that a grace period of pruning alone does not cover.

    Objects of an archive are noted while it is being made, so that their note is old when the archive is forgotten.
    Whoever takes it for a parent just before that would lose them, if the archive could go at once.
    """
    world = World()
    first = world.store(block(1))
    manifest = world.sink.contents()[archive_key(first)]
    world.sink.delete(archive_key(first))  # it is being made
    world.prune()
    world.sink.put(archive_key(first), (manifest,))
    world.now += GRACE

    def meanwhile() -> None:
        world.forget(first, last_too=True)
        assert world.empty_trash(last_too=True) == ()
        world.now += GRACE / 2 - HOUR
        assert world.empty_trash(last_too=True) == ()
        assert world.prune().deleted_objects == 0

    content = changed(block(1), 7, 1)
    source = _Slow(StagedSource(images={"heap": content}, taken_at=world.now), meanwhile)
    report = back_up(world.repository, source, clock=world.clock)
    assert report.manifest.parent == first
    world.kept = {report.archive_id: content}
    world.now += GRACE
    assert world.empty_trash(last_too=True) == (first,)
    world.prune_wholly()
    world.require_sound()
    world.require_clean()


def test_a_backup_that_took_too_long_is_not_published() -> None:
    world = World()
    seconds = 0.0

    def meanwhile() -> None:
        nonlocal seconds
        seconds += (GRACE / 2 + HOUR).total_seconds()

    source = _Slow(StagedSource(images={"heap": block(1)}), meanwhile)
    with pytest.raises(PlanStaleError) as caught:
        back_up(world.repository, source, clock=world.clock, monotonic=lambda: seconds)
    assert caught.value.kind == "backup_too_slow"
    assert world.repository.archive_ids() == []
    world.prune_wholly()
    world.require_clean()


def test_a_manifest_that_comes_into_being_too_late_is_not_relied_on() -> None:
    world = World()
    seconds = 0.0

    def meanwhile() -> None:
        nonlocal seconds
        seconds += (GRACE + HOUR).total_seconds()

    slow = attrs.evolve(world.repository, sink=_SlowPut(world.sink, meanwhile))
    source = StagedSource(images={"heap": block(1)}, taken_at=MOMENT)
    with pytest.raises(PlanStaleError) as caught:
        back_up(slow, source, clock=world.clock, monotonic=lambda: seconds)
    assert caught.value.kind == "published_too_late"
    (info,) = list_archives(world.repository)
    assert info.archive_id == caught.value.context["archive_id"]
    assert info.standing.quarantined
    assert back_up(world.repository, source, clock=world.clock).manifest.parent == ""


def test_archives_that_come_and_go_while_manifests_are_read_are_seen() -> None:
    """An archive hands its objects to another one between two steps of a reader."""
    world = World()
    parent = world.store(block(1))
    child = world.store(changed(block(1), 3, 1))
    stored = world.sink.contents()
    world.sink.delete(archive_key(child))

    def hand_over() -> None:
        world.sink.put(archive_key(child), (stored[archive_key(child)],))
        world.sink.delete(archive_key(parent))

    watching = attrs.evolve(world.repository, sink=_HandingOver(world.sink, archive_key(parent), hand_over))
    plan = plan_prune(watching)
    shared = {key for key, _ in world.repository.manifest(child).objects()}
    assert not shared & {noted.key for noted in plan.marking}


@attrs.frozen
class _Slow:
    """A source during whose capture something happens."""

    source: StagedSource
    meanwhile: Any

    def capture_sections(self, **_facts: Any) -> Any:
        return self

    def sections(self) -> Any:
        self.meanwhile()
        yield from self.source.sections()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


class _Timeless(FaultSink):
    def _stat(self, key: str) -> BlobInfo:
        return attrs.evolve(super()._stat(key), modified_at=None)

    def _list(self, prefix: str) -> Any:
        return (attrs.evolve(info, modified_at=None) for info in super()._list(prefix))


class _Keeping(FaultSink):
    """A store that does not let go of one object."""

    def __init__(self, inner: ArchiveSink, key: str) -> None:
        super().__init__(inner)
        self.key = key

    def _delete(self, key: str) -> None:
        if key == self.key:
            raise SinkPermissionError("locked until 2030")
        super()._delete(key)


class _SlowPut(FaultSink):
    """Something happens while a manifest is stored."""

    def __init__(self, inner: ArchiveSink, act: Any) -> None:
        super().__init__(inner)
        self.act = act

    def _put(self, key: str, chunks: Any) -> BlobInfo:
        if key.startswith("archives/"):
            self.act()
        return super()._put(key, chunks)


class _HandingOver(FaultSink):
    """Something happens right after a key was listed, once."""

    def __init__(self, inner: ArchiveSink, key: str, act: Any) -> None:
        super().__init__(inner)
        self.key, self.act = key, act

    def _list(self, prefix: str) -> Any:
        found = list(super()._list(prefix))
        if self.act and any(info.key == self.key for info in found):
            act, self.act = self.act, None
            act()
        return iter(found)


def test_a_probe_that_somebody_removes_makes_the_plan_stale() -> None:
    world = World()
    garbage = world.store(block(1))
    world.store(block(2), full=True)
    world.remove(garbage)
    world.prune()
    greedy = attrs.evolve(world.repository, sink=_Greedy(world.sink))
    with pytest.raises(PlanStaleError, match="is gone again"):
        plan_prune(greedy)


class _Greedy(FaultSink):
    def _put(self, key: str, chunks: Any) -> BlobInfo:
        info = super()._put(key, chunks)
        self._inner.delete(key)
        return info


# -- waste -------------------------------------------------------------------------------------------------------------


def test_waste_is_what_no_table_names_in_packs_that_are_needed() -> None:
    world = World()
    world.repository = new_repository(MemorySink(clock=world.clock), max_chain=1)
    world.sink = world.repository.sink  # type: ignore[assignment]  # it is one
    content = noise(1, 600)
    first = world.store(content)
    waste = measure_waste(world.repository)
    assert waste.wasted_bytes == 0
    assert (waste.packs, waste.partly_used) == (1, ())
    second = world.store(content[: 256 * 4096] + noise(2, 256) + content[512 * 4096 :])
    assert measure_waste(world.repository).wasted_bytes == 0
    world.remove(first)
    waste = measure_waste(attrs.evolve(world.repository, keys=world.repository.writer_key))
    # 256 pages of noise, their details, and what sealing adds.
    assert 256 * 4096 < waste.wasted_bytes < 256 * 4096 + 2000
    assert [pack.pack_id for pack in waste.partly_used] == [
        next(ref.object_id for ref in world.repository.manifest(second).packs if ref.size_bytes > 500 * 4096)
    ]
    assert "are wasted, in 1 of 2 packs" in str(waste)
    world.prune_wholly()
    world.require_sound()
