"""Listing archives of a repository, finding one, travelling in time, and noticing what is missing."""

import datetime as dt
from typing import Any

import pytest
from repository_stage import MOMENT, StagedSource, new_repository

from knowtation_backup.errors import BlobNotFoundError, ConfigurationError, SinkUnavailableError
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.model.reports import Outcome
from knowtation_backup.model.selection import ArchiveFilter
from knowtation_backup.operations.marks import put_mark
from knowtation_backup.operations.repository import marks
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.catalog import find, list_archives, resolve
from knowtation_backup.operations.repository.pruning import plan_prune
from knowtation_backup.operations.repository.timeline import as_of, missing
from knowtation_backup.repository.layout import archive_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.retention.policy import KeepPolicy
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink

HOUR = dt.timedelta(hours=1)
EXPORT = "knowtation-operator-full-export"


def store(repository: Repository, hours: float = 0, **facts: Any) -> str:
    tags = facts.pop("tags", ())
    source = StagedSource(**{"images": {"heap": b"heap" * 5000}, "taken_at": MOMENT + hours * HOUR, **facts})
    return back_up(repository, source, options=RepositoryBackupOptions(tags=tags)).archive_id


def export(repository: Repository, hours: float, statuses: dict[str, str], **facts: Any) -> str:
    details = {"tenants": [{"user_id": name, "status": status} for name, status in statuses.items()]}
    complete = all(status in {"complete", "absent"} for status in statuses.values())
    return store(repository, hours, kind=EXPORT, source_id="hub", details=details, complete=complete, **facts)


def at(hours: float) -> dt.datetime:
    return MOMENT + hours * HOUR


def by_id(repository: Repository) -> dict[str, ArchiveInfo]:
    return {info.archive_id: info for info in list_archives(repository)}


def test_archives_are_described_newest_first() -> None:
    repository = new_repository(MemorySink())
    first = store(repository, tags=("nightly",))
    second = store(repository, 1, complete=False)
    other = store(repository, 0.5, source_id="bbbbb-bb")
    listed = list_archives(repository)
    assert [info.archive_id for info in listed] == [second, other, first]
    assert [info.state for info in listed] == [ArchiveState.INCOMPLETE, ArchiveState.COMPLETE, ArchiveState.COMPLETE]
    assert {info.series for info in listed} == {"canister-snapshot@aaaaa-aa", "canister-snapshot@bbbbb-bb"}
    info = by_id(repository)[first]
    assert (info.taken_at, info.tags, info.kind, info.source_id) == (
        MOMENT,
        ("nightly",),
        "canister-snapshot",
        "aaaaa-aa",
    )
    assert info.size_bytes == repository.manifest(first).size_bytes
    assert info.has_manifest


def test_a_writer_key_lists() -> None:
    sink = MemorySink()
    repository = new_repository(sink)
    store(repository)
    writer = Repository.open_with(sink, repository.writer_key)
    assert list_archives(writer) == list_archives(repository)


def test_marks_are_part_of_what_is_listed() -> None:
    repository = new_repository(MemorySink())
    archive_id = store(repository, tags=("old",))
    marks.pin(repository, "latest")
    marks.tag(repository, archive_id, "gold")
    marks.untag(repository, archive_id[:10], "old")
    marks.annotate(repository, archive_id, {"why": "before the upgrade"})
    put_mark(repository.sink, archive_id, MarkVerb.VERIFIED, {"level": "content"})
    info = by_id(repository)[archive_id]
    assert info.tags == ("gold",)
    assert info.standing.pinned
    assert info.standing.verified_at
    assert info.standing.notes == {"why": "before the upgrade"}
    assert info.keys[0] == archive_key(archive_id)
    assert len(info.keys) == 6
    marks.unpin(repository, info.short_id)
    marks.quarantine(repository, archive_id, reason="strange")
    info = by_id(repository)[archive_id]
    assert (info.standing.pinned, info.standing.quarantined) == (False, True)
    marks.release(repository, archive_id)
    assert not by_id(repository)[archive_id].standing.quarantined


def test_what_is_not_there_cannot_be_marked() -> None:
    repository = new_repository(MemorySink())
    with pytest.raises(BlobNotFoundError, match="there is no archive"):
        marks.pin(repository, "20260301T120000Z-" + "0" * 64)
    assert not list(repository.sink.list("side/"))


@pytest.mark.parametrize("prefix", ["packs/", "indexes/", "archives/"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_damage_is_shown(prefix: str, how: str) -> None:
    sink = MemorySink()
    repository = new_repository(sink)
    whole = store(repository, 0, source_id="bbbbb-bb", images={"heap": b"another" * 5000})
    archive_id = store(repository)
    before = {key for key, _ in repository.manifest(whole).objects()} | {archive_key(whole)}
    key = next(info.key for info in sink.list(prefix) if info.key not in before)
    data = sink.read_all(key, limit_bytes=1 << 20)
    sink.delete(key)
    if how == "cut":
        sink.put(key, (data[:-1],))
    listed = by_id(repository)
    assert listed[whole].state is ArchiveState.COMPLETE
    if prefix == "archives/" and how == "gone":
        assert archive_id not in listed
    else:
        assert listed[archive_id].state is ArchiveState.DAMAGED
        assert find(repository, "latest").archive_id == whole


def test_a_manifest_of_an_impossible_date_does_not_stop_a_listing() -> None:
    sink = MemorySink()
    repository = new_repository(sink)
    archive_id = store(repository)
    stray = "99999999T999999Z-" + "0" * 64
    sink.put(archive_key(stray), (b"rubbish",))
    assert [(info.archive_id, info.state) for info in list_archives(repository)] == [
        (archive_id, ArchiveState.COMPLETE),
        (stray, ArchiveState.DAMAGED),
    ]


def test_an_unreachable_archive_is_not_damaged() -> None:
    sink = MemorySink()
    keys = new_repository(sink).read_keys
    store(Repository.open_with(sink, keys))
    for number in range(1, 5):
        repository = Repository.open_with(FaultSink(sink, fail_at=number), keys)
        with pytest.raises(SinkUnavailableError):
            list_archives(repository)


def test_filters_and_policies_work_unchanged() -> None:
    repository = new_repository(MemorySink())
    ids = [store(repository, hours) for hours in range(4)]
    store(repository, 0, source_id="bbbbb-bb")
    found = list_archives(repository, ArchiveFilter(source_id="aaaaa-aa", since=at(1), until=at(3)))
    assert [info.archive_id for info in found] == [ids[2], ids[1]]
    kept = KeepLast(limit=2).plan(list_archives(repository), now=at(5)).forgotten
    assert [info.archive_id for info in kept] == [ids[1], ids[0]]
    policy = KeepPolicy(last=1, min_keep=1)
    assert policy.plan(list_archives(repository), now=at(5)).forgotten == ()  # nothing is verified
    put_mark(repository.sink, ids[3], MarkVerb.VERIFIED, {"level": "content"})
    plan = policy.plan(list_archives(repository), now=at(5))
    assert [info.archive_id for info in plan.forgotten] == [ids[2], ids[1], ids[0]]


def test_archives_are_found_by_what_people_type() -> None:
    repository = new_repository(MemorySink())
    first, second = store(repository), store(repository, 30)
    other = store(repository, 40, source_id="bbbbb-bb")
    incomplete = store(repository, 50, complete=False)
    assert find(repository).archive_id == other
    assert find(repository, "latest-1").archive_id == second
    assert find(repository, "latest:canister-snapshot@aaaaa-aa").archive_id == second
    assert find(repository, incomplete).archive_id == incomplete
    assert find(repository, first[:8]).archive_id == first
    assert resolve(repository, first) == first
    short = by_id(repository)[second].short_id
    assert resolve(repository, short) == second
    with pytest.raises(BlobNotFoundError, match="verified"):
        find(repository, "latest", verified=True)
    put_mark(repository.sink, first, MarkVerb.VERIFIED, {"level": "content"})
    assert find(repository, "latest", verified=True).archive_id == first
    put_mark(repository.sink, first, MarkVerb.FAILED, {"level": "content"})
    with pytest.raises(BlobNotFoundError):
        find(repository, "latest", verified=True)
    with pytest.raises(ConfigurationError, match="4 archives begin with"):
        find(repository, "202603")


def test_as_of_gives_the_newest_before() -> None:
    repository = new_repository(MemorySink())
    first, second = store(repository), store(repository, 2)
    store(repository, 3, complete=False)
    last = store(repository, 5)
    found = as_of(repository, at(4.5))
    assert (found.archive.archive_id, found.taken_at, found.gap) == (second, at(2), 2.5 * HOUR)
    assert str(found).startswith(f"{second} of 2026-03-01T14:00:00.000Z, 2:30:00 before")
    assert as_of(repository, at(5)).archive.archive_id == last
    assert as_of(repository, at(0)).gap == dt.timedelta(0)
    marks.quarantine(repository, second)
    assert as_of(repository, at(4.5)).archive.archive_id == first


def test_before_the_first_there_is_an_error_that_names_it() -> None:
    repository = new_repository(MemorySink())
    with pytest.raises(BlobNotFoundError) as none:
        as_of(repository, at(0))
    assert none.value.kind == "no_such_archive"
    first = store(repository)
    store(repository, 1)
    with pytest.raises(BlobNotFoundError, match=r"the earliest archive is of 2026-03-01T12:00:00.000Z") as early:
        as_of(repository, at(-1))
    assert early.value.kind == "before_first_archive"
    assert first in str(early.value)


def test_as_of_never_chooses_between_series() -> None:
    repository = new_repository(MemorySink())
    store(repository)
    other = store(repository, source_id="bbbbb-bb")
    with pytest.raises(ConfigurationError) as caught:
        as_of(repository, at(1))
    assert caught.value.kind == "ambiguous_series"
    assert as_of(repository, at(1), source_id="bbbbb-bb").archive.archive_id == other
    with pytest.raises(ConfigurationError, match="time zone"):
        as_of(repository, dt.datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_as_of_a_tenant_needs_that_tenant_only() -> None:
    repository = new_repository(MemorySink())
    export(repository, 0, {"ann": "complete"})
    first = export(repository, 1, {"ann": "complete", "bob": "complete"})
    second = export(repository, 2, {"ann": "complete", "bob": "partial"})
    export(repository, 3, {"ann": "failed", "bob": "failed"})
    assert as_of(repository, at(3), tenant="bob").archive.archive_id == first
    assert as_of(repository, at(3), tenant="ann").archive.archive_id == second
    assert as_of(repository, at(3)).archive.archive_id == first
    with pytest.raises(BlobNotFoundError, match=r"the earliest archive with all of tenant 'bob' is of 2026-03-01T13"):
        as_of(repository, at(0.5), tenant="bob")
    with pytest.raises(BlobNotFoundError) as nobody:
        as_of(repository, at(3), tenant="eve")
    assert nobody.value.kind == "no_such_archive"
    writer = Repository.open_with(repository.sink, repository.writer_key)
    assert as_of(writer, at(3)).archive.archive_id == first
    with pytest.raises(ConfigurationError) as caught:
        as_of(writer, at(3), tenant="ann")
    assert caught.value.kind == "write_only"


def test_details_that_cannot_be_read_are_told() -> None:
    sink = MemorySink()
    repository = new_repository(sink)
    good = export(repository, 0, {"ann": "complete"})
    bad = store(repository, 1, kind=EXPORT, source_id="hub", details={"tenants": [{"user_id": 5}]})
    found = as_of(repository, at(2), tenant="ann")
    assert found.archive.archive_id == good
    assert [one.archive_id for one in found.passed_over] == [bad]
    assert found.passed_over[0].error.kind == "details_unreadable"
    assert bad in str(found)


def test_series_without_a_backup_since_are_found() -> None:
    repository = new_repository(MemorySink())
    store(repository, 0)
    old = store(repository, 1, source_id="bbbbb-bb")
    store(repository, 10, source_id="bbbbb-bb", complete=False)
    store(repository, 10)
    report = missing(repository, at(9), expected=["canister-snapshot@ccccc-cc"])
    assert [(one.series, one.newest.archive_id if one.newest else None) for one in report.found] == [
        ("canister-snapshot@bbbbb-bb", old),
        ("canister-snapshot@ccccc-cc", None),
    ]
    assert (report.outcome, report.exit_code) == (Outcome.FAILED, 1)
    assert "canister-snapshot@ccccc-cc: no backup at all" in str(report)
    assert "2 of 3 series lack a backup since 2026-03-01T21:00:00.000Z" in str(report)
    assert missing(repository, at(1)).outcome is Outcome.OK


def test_tenants_without_a_backup_since_are_found() -> None:
    repository = new_repository(MemorySink())
    export(repository, 0, {"ann": "complete", "gone": "complete"})
    old = export(repository, 1, {"ann": "complete", "bob": "complete", "cyd": "complete"})
    export(repository, 10, {"ann": "complete", "bob": "partial", "new": "failed"})
    report = missing(repository, at(9), tenants=True)
    assert [(one.tenant, one.newest.archive_id if one.newest else None) for one in report.found] == [
        (None, old),
        ("bob", old),
        ("cyd", old),
        ("new", None),
    ]
    assert f"tenant bob of {EXPORT}@hub: nothing since 2026-03-01T13:00:00.000Z" in str(report)
    export(repository, 11, {"ann": "complete", "bob": "complete", "cyd": "complete", "new": "complete"})
    assert missing(repository, at(9), tenants=True).found == ()


def test_the_year_one_is_listed_like_any_other() -> None:
    repository = new_repository(MemorySink())
    first = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
    archive_id = back_up(repository, StagedSource(files={"a": b"a"}, taken_at=first), clock=lambda: first).archive_id
    assert archive_id.startswith("00010101T000000Z-")
    marks.pin(repository, archive_id, clock=lambda: first)
    (info,) = list_archives(repository)
    assert (info.archive_id, info.taken_at, info.standing.pinned) == (archive_id, first, True)
    assert plan_prune(repository).marking == ()
