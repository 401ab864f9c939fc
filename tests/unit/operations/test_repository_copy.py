"""Copying between repositories: replicas as they are stored, and other keys."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, contents, new_repository

from knowtation_backup.errors import BackupError, ConfigurationError, IntegrityError, SinkUnavailableError
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.events import Event
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.reports import Outcome
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.backup import ReadBack
from knowtation_backup.operations.marks import list_marks, pin, put_mark, quarantine, tag
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.catalog import find, list_archives
from knowtation_backup.operations.repository.copying import copy
from knowtation_backup.operations.repository.replicating import lag, replicate
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository import packing
from knowtation_backup.repository.content import ArchiveReader, ReadRecord
from knowtation_backup.repository.layout import archive_key, pack_key
from knowtation_backup.repository.manifest import RecordTables
from knowtation_backup.repository.notes import NotedObject, PruneNote, put_note
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

DAY = dt.timedelta(days=1)
PAGES = [bytes([n + 1]) + n.to_bytes(2, "big") * 2047 + b"." for n in range(60)]


@pytest.fixture(autouse=True)
def small_packs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PACK_BYTES", 32 << 10)
        yield


def filled(days: int = 3) -> Repository:
    repository = new_repository(MemorySink())
    pages = list(PAGES)
    for day in range(days):
        pages[day] = bytes([99 + day]) * PAGE_BYTES
        values = {
            (owner, name): json.dumps([owner.decode(), name.decode(), day if name == b"a" else 0]).encode()
            for owner in (b"ann", b"ben")
            for name in (b"a", b"b", b"c%d" % day)
        }
        source = StagedSource(
            images={"heap.bin": b"".join(pages) + bytes(3 * PAGE_BYTES) + b"end"},
            files={"module.wasm": PAGES[5] * 3},
            records={"notes": values},
            taken_at=MOMENT + day * DAY,
            details={"day": day},
        )
        back_up(repository, source, options=RepositoryBackupOptions(tags=("nightly",), set_id=f"set-{day}"))
    return repository


def identify(_section: str, value: bytes) -> list[tuple[bytes, bytes]]:
    owner, name, _ = json.loads(value)
    return [(b"somebody", b"else"), (owner.encode(), name.encode())]


def blobs(repository: Repository) -> dict[str, bytes]:
    assert isinstance(repository.sink, MemorySink)
    return repository.sink.contents()


def empty_replica(repository: Repository, sink: MemorySink | None = None) -> Repository:
    return Repository.create_with(sink or MemorySink(), repository.read_keys, repository.config)


def spoil(repository: Repository, key: str) -> None:
    stored = blobs(repository)[key]
    repository.sink.delete(key)
    repository.sink.put(key, [stored[:-1] + bytes([stored[-1] ^ 1])])


# -- replicas -------------------------------------------------------------------------------------------------------


def test_a_replica_needs_no_right_to_delete_and_no_key_that_reads() -> None:
    repository = filled()
    repository.sink.put("keys/00.access", [b"sealed"])
    closed = Repository.open_with(repository.sink, repository.writer_key)
    sink = MemorySink(permissions="lrw")
    events: list[Event] = []
    report = replicate(closed, sink, observer=events.append)
    assert sink.contents() == blobs(repository)
    assert list(report.copied) == repository.archive_ids()
    assert report.objects == len(blobs(repository))
    assert report.copied_bytes == sum(map(len, blobs(repository).values()))
    assert report.outcome is Outcome.OK
    assert "copied 3 archive(s)" in str(report)
    progress = [event for event in events if event.name == "copy.progress"]
    assert progress[-1].fields["objects_done"] == progress[-1].fields["objects_total"]
    # what is there is not sent again
    watched = FaultSink(sink)
    again = replicate(closed, watched)
    assert list(again.present) == repository.archive_ids()
    assert (again.objects, again.copied_bytes) == (0, 0)
    assert not [operation for operation in watched.operations if operation.startswith("put")]
    back_up(repository, StagedSource(images={"heap.bin": b"more"}, taken_at=MOMENT + 9 * DAY))
    more = replicate(closed, sink)
    assert list(more.copied) == repository.archive_ids()[-1:]
    assert len(more.present) == 3
    assert sink.contents() == blobs(repository)


def test_what_is_only_in_the_replica_is_named() -> None:
    repository = filled(days=1)
    repository.sink.put("keys/00.access", [b"sealed"])
    sink = MemorySink()
    replicate(repository, sink)
    repository.sink.delete("keys/00.access")
    report = replicate(repository, sink)
    assert report.stale == ("keys/00.access",)
    assert "only there: keys/00.access" in str(report)


def test_lag_is_the_age_of_the_oldest_that_is_missing() -> None:
    repository = filled()
    replica = empty_replica(repository)
    first, *others = repository.archive_ids()
    copy(repository, replica, [first])
    report = lag(repository, replica, clock=lambda: MOMENT + 10 * DAY)
    assert report.missing == tuple(others)
    assert report.oldest == MOMENT + DAY
    assert report.lag == 9 * DAY
    assert report.outcome is Outcome.DIFFERENT
    assert "2 archive(s)" in str(report)
    copy(repository, replica)
    caught_up = lag(repository, replica)
    assert (caught_up.missing, caught_up.oldest, caught_up.lag) == ((), None, dt.timedelta())
    assert caught_up.exit_code == 0


def test_pins_come_along_and_results_of_verification_do_not() -> None:
    repository = filled(days=2)
    first, second = repository.archive_ids()
    pin(repository.sink, first)
    verify_all(repository)
    replica = empty_replica(repository)
    copy(repository, replica)
    assert [name.verb for name in list_marks(replica.sink, first)] == [MarkVerb.PINNED]
    assert list_marks(replica.sink, second) == []
    tag(repository.sink, second, "later")
    copy(repository, replica)  # of archives that are there already, too
    assert [name.verb for name in list_marks(replica.sink, second)] == [MarkVerb.TAGGED]
    bare = empty_replica(repository)
    copy(repository, bare, marks=False)
    assert list_marks(bare.sink, first) == []


def test_archives_in_the_trash_are_left_out_unless_named() -> None:
    repository = filled()
    first = repository.archive_ids()[0]
    put_mark(repository.sink, first, MarkVerb.TRASHED)
    replica = empty_replica(repository)
    assert first not in copy(repository, replica).copied
    assert lag(repository, replica).missing == ()
    assert first in copy(repository, replica, [first]).copied
    assert lag(repository, replica).missing == ()


@pytest.mark.parametrize("moment", list(FaultMoment))
def test_a_copy_that_fails_anywhere_is_finished_by_the_next(moment: FaultMoment) -> None:
    repository = filled(days=2)
    pin(repository.sink, repository.archive_ids()[0])
    counted = FaultSink(MemorySink())
    replicate(repository, counted)
    for number in range(len(counted.operations)):
        sink = MemorySink(permissions="lrw")
        with contextlib.suppress(SinkUnavailableError):  # no fault comes after the answer that nothing is there
            replicate(repository, FaultSink(sink, fail_at=number, moment=moment))
        if "repository.json" in sink.contents():
            half = Repository.open_with(sink, repository.keys)
            for archive_id in half.archive_ids():  # whoever sees an archive can read it
                assert contents(half, archive_id) == contents(repository, archive_id)
        replicate(repository, sink)
        assert sink.contents() == blobs(repository)


def test_a_source_that_fails_anywhere_is_not_called_damaged() -> None:
    repository = filled(days=2)
    counted = FaultSink(repository.sink)
    replicate(attrs.evolve(repository, sink=counted), MemorySink())
    for number in range(len(counted.operations)):
        faulty = attrs.evolve(repository, sink=FaultSink(repository.sink, fail_at=number))
        with pytest.raises(SinkUnavailableError):
            replicate(faulty, MemorySink())


def test_damaged_archives_are_not_copied_and_others_are() -> None:
    repository = filled()
    first, second, third = repository.archive_ids()
    before = {pack_key(ref.object_id) for ref in repository.manifest(second).packs}
    own = [key for key, _ in repository.manifest(third).objects() if key.startswith("packs/") and key not in before]
    spoil(repository, own[0])
    replica = empty_replica(repository)
    report = copy(repository, replica)
    assert list(report.copied) == [first, second]
    assert [item.archive_id for item in report.failed] == [third]
    assert report.outcome is Outcome.PARTIAL
    assert "NOT COPIED" in str(report)
    assert replica.archive_ids() == [first, second]
    assert own[0] not in blobs(replica)
    assert verify_all(replica, record=False).ok


def test_an_object_of_another_size_at_the_target_is_not_overwritten() -> None:
    repository = filled(days=1)
    (archive_id,) = repository.archive_ids()
    key = pack_key(repository.manifest(archive_id).packs[0].object_id)
    replica = empty_replica(repository)
    replica.sink.put(key, [b"half"])
    report = copy(repository, replica)
    assert [item.error.kind for item in report.failed] == ["object_changed"]
    assert blobs(replica)[key] == b"half"
    assert replica.archive_ids() == []


class Forgetful(MemorySink):
    """Stores something else than it was given."""

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        data = b"".join(chunks)
        return super()._put(key, [data[:-1] + b"!"] if key.startswith("packs/") else [data])


def test_new_objects_are_read_again_when_asked_for() -> None:
    repository = filled(days=1)
    replica = empty_replica(repository, Forgetful())
    report = copy(repository, replica, read_back=ReadBack.CONTENT)
    assert [item.error.kind for item in report.failed] == ["object_changed"]
    assert replica.archive_ids() == []
    trusting = empty_replica(repository, Forgetful())
    assert copy(repository, trusting, read_back=ReadBack.SIZES).outcome is Outcome.OK
    assert not verify_all(trusting, record=False).ok


def test_what_a_prune_may_delete_is_not_relied_on() -> None:
    repository = filled(days=1)
    (archive_id,) = repository.archive_ids()
    key = pack_key(repository.manifest(archive_id).packs[0].object_id)
    replica = empty_replica(repository)
    replica.sink.put(key, [blobs(repository)[key]])  # left by a copy that was interrupted
    moment = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    note = PruneNote(made_at=moment, objects=(NotedObject(key, 1),))
    note_key = put_note(replica.sink, replica.writer_key, note)
    report = copy(repository, replica)
    assert [item.error.kind for item in report.failed] == ["prune_pending"]
    assert replica.archive_ids() == []
    other = attrs.evolve(note, objects=(NotedObject(pack_key(bytes(32)), 1),))
    put_note(replica.sink, replica.writer_key, other)
    replica.sink.delete(note_key)
    assert copy(repository, replica).outcome is Outcome.OK


def test_what_an_archive_in_the_trash_needs_is_relied_on_unless_it_is_noted() -> None:
    repository = filled(days=2)
    first, second = repository.archive_ids()
    replica = empty_replica(repository)
    assert copy(repository, replica, [first]).outcome is Outcome.OK
    key = next(key for key, _ in repository.manifest(first).objects() if key.startswith("packs/"))
    assert key in dict(repository.manifest(second).objects())
    note = PruneNote(made_at=MOMENT, objects=(NotedObject(key, 1),))
    note_key = put_note(replica.sink, replica.writer_key, note)
    put_mark(replica.sink, first, MarkVerb.TRASHED)
    assert [item.error.kind for item in copy(repository, replica, [second]).failed] == ["prune_pending"]
    put_mark(replica.sink, first, MarkVerb.UNDELETED)
    assert copy(repository, replica, [second]).outcome is Outcome.OK
    replica.sink.delete(archive_key(second))
    put_mark(replica.sink, first, MarkVerb.TRASHED)
    replica.sink.delete(note_key)
    assert copy(repository, replica, [second]).outcome is Outcome.OK


def test_a_copy_that_takes_long_looks_again_before_it_publishes() -> None:
    repository = filled(days=1)
    (archive_id,) = repository.archive_ids()
    key = pack_key(repository.manifest(archive_id).packs[0].object_id)
    replica = empty_replica(repository)
    replica.sink.put(key, [blobs(repository)[key]])
    now = [0.0]

    def slowly(event: Event) -> None:
        if event.name == "copy.progress" and event.fields["objects_done"] == 1 and not now[0]:
            now[0] = repository.config.grace_seconds
            replica.sink.delete(key)  # as a prune may do after so long

    report = copy(repository, replica, observer=slowly, monotonic=lambda: now[0])
    assert report.outcome is Outcome.OK
    assert blobs(replica) == blobs(repository)


def test_another_repository_is_no_replica() -> None:
    repository, other = filled(days=1), filled(days=1)
    with pytest.raises(ConfigurationError) as caught:
        replicate(repository, other.sink)
    assert caught.value.kind == "wrong_repository"
    with pytest.raises(ConfigurationError):
        lag(repository, other)


# -- other keys -----------------------------------------------------------------------------------------------------


def test_archives_are_the_same_under_other_keys() -> None:
    repository = filled()
    other = new_repository(MemorySink(permissions="lrw"))
    report = copy(repository, other, identify=identify)
    assert list(report.copied) == repository.archive_ids()
    assert list(report.copied.values()) == other.archive_ids()
    for ours, theirs in report.copied.items():
        assert contents(other, theirs) == contents(repository, ours)
        here, there = repository.manifest(ours), other.manifest(theirs)
        for fact in ("kind", "source_id", "taken_at", "started_at", "finished_at", "complete", "tags", "set_id"):
            assert getattr(here, fact) == getattr(there, fact)
        assert here.counts == there.counts
        assert here.sections[0].name == there.sections[0].name
    # history costs there what it costs here
    last_here, last_there = (blobs_of(one, one.archive_ids()[-1]) for one in (repository, other))
    assert last_there < 1.1 * last_here
    assert verify_all(other, record=False).ok
    # owners and names are known there: their hashes are those of that repository
    keys = {record.key for group in records(other, other.archive_ids()[-1]) for record in group}
    assert other.writer_key.record_key(b"ann", b"a") in keys


def blobs_of(repository: Repository, archive_id: str) -> int:
    """Bytes of the objects that only this archive names."""
    shared = {key for one in repository.archive_ids() if one != archive_id for key, _ in objects(repository, one)}
    return sum(size for key, size in objects(repository, archive_id) if key not in shared)


def objects(repository: Repository, archive_id: str) -> list[tuple[str, int]]:
    return list(repository.manifest(archive_id).objects())


def records(repository: Repository, archive_id: str) -> Iterator[list[ReadRecord]]:
    manifest = repository.manifest(archive_id)
    section = manifest.section("notes")
    assert isinstance(section, RecordTables)
    return ArchiveReader(repository.sink, repository.read_keys, manifest).records(section)


def test_a_copy_under_other_keys_is_pinned_and_in_quarantine_as_the_original() -> None:
    repository = filled(days=3)
    pinned, later, suspicious = repository.archive_ids()
    pin(repository.sink, pinned)
    quarantine(repository.sink, suspicious)
    verify_all(repository)
    other = new_repository(MemorySink())
    copied = copy(repository, other, identify=identify).copied
    assert [name.verb for name in list_marks(other.sink, copied[pinned])] == [MarkVerb.PINNED]
    assert {info.archive_id: info.standing.pinned for info in list_archives(other)}[copied[pinned]]
    assert find(other).archive_id == copied[later]  # and not the one in quarantine
    tag(repository.sink, later, "seen")
    copy(repository, other, identify=identify)  # of archives that are there already, too, and none twice
    assert [name.verb for name in list_marks(other.sink, copied[later])] == [MarkVerb.TAGGED]
    assert len(list_marks(other.sink, copied[suspicious])) == 1
    bare = new_repository(MemorySink())
    copy(repository, bare, identify=identify, marks=False)
    assert not any(list_marks(bare.sink, archive_id) for archive_id in bare.archive_ids())


def test_what_was_copied_before_is_recognised() -> None:
    repository = filled()
    other = new_repository(MemorySink())
    first, *rest = repository.archive_ids()
    copy(repository, other, [first], identify=identify)
    report = copy(repository, other, identify=identify)
    assert report.present == (first,)
    assert list(report.copied) == rest
    again = copy(repository, other, identify=identify)
    assert (again.copied, len(again.present)) == ({}, 3)


@pytest.mark.parametrize("moment", list(FaultMoment))
def test_a_copy_under_other_keys_that_fails_is_finished_by_the_next(moment: FaultMoment) -> None:
    repository = filled(days=2)
    keys = new_repository(MemorySink()).read_keys
    probe = new_repository(MemorySink(), keys=keys)
    counted = FaultSink(probe.sink)
    copy(repository, attrs.evolve(probe, sink=counted), identify=identify)
    for number in range(0, len(counted.operations), 3):
        other = new_repository(MemorySink(permissions="lrw"), keys=keys)
        with pytest.raises(SinkUnavailableError):
            copy(
                repository,
                attrs.evolve(other, sink=FaultSink(other.sink, fail_at=number, moment=moment)),
                identify=identify,
            )
        copy(repository, other, identify=identify)
        assert len(other.archive_ids()) == 2
        assert verify_all(other, record=False).ok


@pytest.mark.parametrize("wrong", [lambda _s, _v: [(b"ann", b"a")], lambda _s, _v: []])
def test_owners_and_names_are_checked(wrong: Callable[[str, bytes], list[tuple[bytes, bytes]]]) -> None:
    repository = filled(days=1)
    other = new_repository(MemorySink())
    report = copy(repository, other, identify=wrong)
    assert [item.error.kind for item in report.failed] == ["record_changed"]
    assert isinstance(report.failed[0].error, IntegrityError)
    assert other.archive_ids() == []


def test_records_that_are_not_of_exports_need_somebody_who_knows_their_names() -> None:
    other = new_repository(MemorySink())
    report = copy(filled(days=1), other)
    assert [item.error.kind for item in report.failed] == ["bad_record"]
    assert other.archive_ids() == []


def test_other_keys_need_a_key_that_reads() -> None:
    repository = filled(days=1)
    closed = Repository.open_with(repository.sink, repository.writer_key)
    with pytest.raises(ConfigurationError) as caught:
        copy(closed, new_repository(MemorySink()))
    assert caught.value.kind == "write_only"


def test_a_damaged_archive_is_not_copied_under_other_keys() -> None:
    repository = filled(days=2)
    first, second = repository.archive_ids()
    spoil(repository, archive_key(second))
    for key, _ in objects(repository, first):
        if key.startswith("packs/"):
            spoil(repository, key)
            break
    other = new_repository(MemorySink())
    report = copy(repository, other, identify=identify)
    assert {item.archive_id for item in report.failed} == {first, second}
    assert all(isinstance(item.error, BackupError) for item in report.failed)
    assert other.archive_ids() == []
