"""Verifying repositories: samples, marks, keys, and what is no statement about stored bytes."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Iterator

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, new_repository

from knowtation_backup.errors import BlobNotFoundError, ConfigurationError, NoMatchingKeyError, SinkUnavailableError
from knowtation_backup.model.events import Event
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.reports import Coverage, Outcome, Sample, VerifyLevel, jsonable
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.marks import list_marks, put_mark, read_marks
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.catalog import list_archives
from knowtation_backup.operations.repository.verifying import verify, verify_all
from knowtation_backup.repository import claims, packing, reading, recordsets
from knowtation_backup.repository.folding import fold_records
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.layout import archive_key, pack_key
from knowtation_backup.repository.manifest import RecordTables
from knowtation_backup.repository.reading import IndexReader
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

RNG = random.Random(7)  # noqa: S311 - the same content in every run
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
PAGES = [RNG.randbytes(PAGE_BYTES) for _ in range(70)]
NOTES = {(b"t%d" % (n % 9), b"n%d" % n): RNG.randbytes(50) for n in range(200)}


@pytest.fixture(autouse=True)
def small_packs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PACK_BYTES", 64 << 10)
        patch.setattr(recordsets, "_FRAME_BYTES", 1 << 10)
        yield


def filled(sink: MemorySink | None = None, keys: ReadKeys | None = None, days: int = 3) -> Repository:
    """A repository with a chain of archives, one page changed a day."""
    repository = new_repository(sink or MemorySink(), keys=keys)
    pages = list(PAGES)
    for day in range(days):
        pages[day] = RNG.randbytes(PAGE_BYTES)
        source = StagedSource(
            images={"heap.bin": b"".join(pages)},
            files={"module.wasm": PAGES[0] * 10},
            records={"notes": NOTES},
            taken_at=MOMENT + dt.timedelta(days=day),
        )
        back_up(repository, source)
    return repository


def at_now() -> dt.datetime:
    return NOW


def spoil(repository: Repository, key: str, at: float = 0.5) -> None:
    stored = repository.sink.read_all(key, limit_bytes=1 << 24)
    place = int(len(stored) * at)
    repository.sink.delete(key)
    repository.sink.put(key, [stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]])


def packs_of(repository: Repository, archive_id: str) -> list[str]:
    return [pack_key(ref.object_id) for ref in repository.manifest(archive_id).packs]


def test_every_pack_is_read_once_whoever_shares_it() -> None:
    repository = filled()
    watched = FaultSink(repository.sink)
    report = verify_all(attrs.evolve(repository, sink=watched), record=False)
    assert report.ok
    assert len(report.reports) == 3
    read = Counter(operation for operation in watched.operations if operation.startswith("read packs/"))
    stored = {f"read {info.key}" for info in repository.sink.list("packs/")}
    assert read == Counter(stored)
    assert report.packs_read == len(stored)
    assert report.stored_bytes == sum(info.size_bytes for info in repository.sink.list("packs/"))
    assert report.bytes_read == report.stored_bytes


def test_samples_together_cover_everything_once() -> None:
    repository = filled()
    of = 4
    read: Counter[str] = Counter()
    for part in range(1, of + 1):
        watched = FaultSink(repository.sink)
        sample = Sample(part=part, of=of)
        report = verify_all(attrs.evolve(repository, sink=watched), sample=sample, record=False)
        assert report.covered is Coverage.PART
        assert f"part {part} of {of}" in str(report)
        read.update(operation for operation in watched.operations if operation.startswith("read packs/"))
    assert read == Counter(f"read {info.key}" for info in repository.sink.list("packs/"))


def test_a_sample_finds_what_lies_in_it_and_one_of_all_is_all() -> None:
    repository = filled()
    bad = packs_of(repository, repository.archive_ids()[0])[0]
    spoil(repository, bad)
    found = [verify_all(repository, sample=Sample(part=n, of=3), record=False).objects for n in (1, 2, 3)]
    assert [[item.key for item in objects] for objects in found if objects] == [[bad]]
    assert verify_all(repository, sample=Sample(part=1, of=1), record=False).covered is Coverage.WHOLE


def test_results_are_noted_beside_archives() -> None:
    repository = filled()
    first, second, third = repository.archive_ids()
    report = verify_all(repository, [first], clock=at_now)
    assert report.reports[0].recorded
    assert report.reports[0].verified_at == NOW
    verify_all(repository, [second], sample=Sample(part=1, of=2))
    closed = Repository.open_with(repository.sink, repository.writer_key)
    verify(closed, third)
    marks = {archive_id: read_marks(repository.sink, archive_id)[-1] for archive_id in (first, second, third)}
    assert marks[first].name.verb is MarkVerb.VERIFIED
    assert marks[second].name.verb is MarkVerb.CHECKED
    assert (marks[second].values["part"], marks[second].values["of"]) == (1, 2)
    assert marks[third].name.verb is MarkVerb.CHECKED  # nobody has seen what it holds
    assert marks[third].values["level"] == "presence"
    spoil(repository, next(key for key in packs_of(repository, third) if key not in packs_of(repository, second)))
    verify_all(repository)
    verbs = {one: list_marks(repository.sink, one)[-1].verb for one in (first, second, third)}
    assert verbs == {first: MarkVerb.VERIFIED, second: MarkVerb.VERIFIED, third: MarkVerb.FAILED}
    assert read_marks(repository.sink, third)[-1].values["findings"] == ["content_lost", "object_changed"]


def test_where_noting_is_refused_the_report_is_made_all_the_same() -> None:
    repository = filled()
    read_only = MemorySink(permissions="lr")
    read_only._blobs = repository.sink._blobs  # type: ignore[attr-defined]  # the same blobs, for somebody else
    events: list[Event] = []
    report = verify_all(attrs.evolve(repository, sink=read_only), observer=events.append)
    assert report.ok
    assert not any(one.recorded for one in report.reports)
    assert [event.fields["error"] for event in events if event.name == "verify.not_recorded"] == ["sink_permission"] * 3


@pytest.mark.parametrize("moment", list(FaultMoment))
def test_unreachable_is_never_reported_as_damaged(moment: FaultMoment) -> None:
    repository = filled(days=2)
    counted = FaultSink(repository.sink)
    assert verify_all(attrs.evolve(repository, sink=counted), record=False).ok
    for number in range(len(counted.operations)):
        faulty = FaultSink(repository.sink, fail_at=number, moment=moment)
        with pytest.raises(SinkUnavailableError):
            verify_all(attrs.evolve(repository, sink=faulty), record=False)


def test_an_archive_that_is_forgotten_meanwhile_is_not_damaged() -> None:
    repository = filled()
    *_, before, last = repository.archive_ids()
    own = [key for key in packs_of(repository, last) if key not in packs_of(repository, before)]

    def forget(event: Event) -> None:
        if event.name == "verify.structure" and event.fields["archive_id"] == last:
            for key in (archive_key(last), own[0]):
                repository.sink.delete(key)

    report = verify_all(repository, record=False, observer=forget)
    assert report.vanished == (last,)
    assert report.ok
    assert len(report.reports) == 2
    with pytest.raises(BlobNotFoundError) as caught:
        verify(repository, last)
    assert caught.value.kind == "no_such_archive"


def test_another_key_says_nothing_about_the_bytes() -> None:
    keys = ReadKeys.generate()
    repository = filled(keys=keys.rotated())
    older = Repository.open_with(repository.sink, keys)
    report = verify_all(older, record=False)
    assert [one.archive_id for one in report.unverified] == repository.archive_ids()
    assert report.outcome is Outcome.PARTIAL
    assert not report.failed
    with pytest.raises(NoMatchingKeyError):
        verify(older, repository.archive_ids()[0], record=False)
    # that something is damaged is seen all the same
    spoil(repository, packs_of(repository, repository.archive_ids()[0])[0])
    assert len(verify_all(older, record=False).failed) == 3


def test_archives_in_the_trash_are_left_out_unless_named() -> None:
    repository = filled()
    first = repository.archive_ids()[0]
    put_mark(repository.sink, first, MarkVerb.TRASHED)
    assert first not in {one.archive_id for one in verify_all(repository, record=False).reports}
    assert verify(repository, first, record=False).ok


def test_lost_records_are_counted() -> None:
    repository = filled(days=1)
    (archive_id,) = repository.archive_ids()
    manifest = repository.manifest(archive_id)
    section = manifest.section("notes")
    assert isinstance(section, RecordTables)
    reader = IndexReader(repository.sink, repository.keys)
    records = fold_records(reader.record_tables(manifest, section.segments[0]))
    frame = next(iter(records.values())).frame
    key = pack_key(frame.pack_id)
    size = repository.sink.stat(key).size_bytes
    spoil(repository, key, at=(frame.offset + frame.length / 2) / size)
    (loss,) = verify(repository, archive_id, record=False).losses
    assert loss.section == "notes"
    assert loss.records == sum(record.frame == frame for record in records.values())
    assert 0 < loss.records < len(records)
    assert f"{loss.records} record(s)" in str(loss)
    assert loss.objects == (key,)


def test_reports_read_well() -> None:
    repository = filled()
    bad = packs_of(repository, repository.archive_ids()[0])[0]
    spoil(repository, bad)
    report = verify_all(repository, record=False)
    text = str(report)
    assert f"DAMAGED {bad}: object_changed, in 3 archive(s)" in text
    assert "LOST" in text
    assert report.exit_code == 4
    assert jsonable(report)["objects"][0]["key"] == bad
    with pytest.raises(Exception, match="object_changed"):
        report.raise_for_findings()


def test_an_empty_repository_is_sound() -> None:
    report = verify_all(new_repository(MemorySink()))
    assert report.ok
    assert report.outcome is Outcome.OK
    assert report.reports == ()


def test_levels_are_levels() -> None:
    repository = filled(days=1)
    with pytest.raises(ConfigurationError):
        verify_all(repository, level="content")  # type: ignore[arg-type]
    watched = FaultSink(repository.sink)
    report = verify_all(attrs.evolve(repository, sink=watched), level=VerifyLevel.STRUCTURE, record=False)
    assert report.covered is Coverage.NONE
    assert not [operation for operation in watched.operations if "packs/" in operation]


def test_what_a_backup_stored_can_be_read_back_by_itself() -> None:
    repository = filled()
    *_, before, last = repository.archive_ids()
    own = [key for key in packs_of(repository, last) if key not in packs_of(repository, before)]
    watched = FaultSink(repository.sink)
    report = verify(attrs.evolve(repository, sink=watched), last, new_only=True)
    assert report.ok
    assert report.covered is Coverage.PART
    assert sorted(op for op in watched.operations if op.startswith("read packs/")) == sorted(f"read {k}" for k in own)
    assert read_marks(repository.sink, last)[-1].name.verb is MarkVerb.CHECKED
    spoil(repository, packs_of(repository, before)[0])
    assert verify(repository, last, new_only=True, record=False).ok
    spoil(repository, own[0])
    assert not verify(repository, last, new_only=True, record=False).ok
    # where the parent was forgotten, or there is none, everything is read
    first = repository.archive_ids()[0]
    assert verify(repository, first, new_only=True, record=False).covered is Coverage.WHOLE
    repository.sink.delete(archive_key(before))
    assert verify(repository, last, new_only=True, record=False).covered is Coverage.WHOLE


def test_tables_that_did_not_fit_into_memory_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = filled()
    monkeypatch.setattr(claims, "_OPEN_CLAIMS", 0)
    monkeypatch.setattr(reading, "_CACHED_BYTES", 0)
    monkeypatch.setattr(reading, "_IDLE_BYTES", 0)
    assert verify_all(repository, record=False).ok
    for key in packs_of(repository, repository.archive_ids()[-1]):
        spoil(repository, key)
        assert key in {item.key for item in verify_all(repository, record=False).objects}


def test_all_parts_of_a_sample_together_count_as_verified() -> None:
    repository = filled()
    (first, *_) = repository.archive_ids()

    def verified(opened: Repository) -> bool:
        return all(info.standing.verified_at is not None for info in list_archives(opened))

    for part in (2, 3, 3):
        assert verify_all(repository, sample=Sample(part=part, of=3)).ok
        assert not verified(repository)
    verify_all(repository, sample=Sample(part=1, of=4))  # of another division
    assert not verified(repository)
    put_mark(repository.sink, first, MarkVerb.FAILED)
    verify_all(repository, sample=Sample(part=1, of=3))
    standings = {info.archive_id: info.standing for info in list_archives(repository)}
    assert standings[first].verified_at is None  # what was good before the failure counts no more
    assert all(standing.verified_at for archive_id, standing in standings.items() if archive_id != first)
    for part in (2, 3):
        verify_all(repository, sample=Sample(part=part, of=3))
    assert verified(repository)
    (newest,) = (mark for mark in read_marks(repository.sink, first)[-1:])
    assert (newest.name.verb, newest.values["parts"]) == (MarkVerb.VERIFIED, [1, 2, 3])


def test_parts_that_nobody_could_open_do_not_add_up() -> None:
    repository = filled()
    writing = attrs.evolve(repository, keys=repository.writer_key)
    for part in (1, 2):
        assert verify_all(writing, sample=Sample(part=part, of=2)).ok
    assert not any(info.standing.verified_at for info in list_archives(repository))
    for part in (3, 4):  # nor with parts that somebody else opened
        assert verify_all(writing, sample=Sample(part=part, of=4)).ok
    for part in (1, 2):
        assert verify_all(repository, sample=Sample(part=part, of=4)).ok
    assert not any(info.standing.verified_at for info in list_archives(repository))
