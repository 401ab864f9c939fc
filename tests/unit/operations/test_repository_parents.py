"""What a backup is compared with: the newest archive, the newest full one, or nothing when a full one is due."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from repository_stage import MOMENT, StagedSource, contents, new_repository

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.repository import backup
from knowtation_backup.operations.repository.backup import FullEvery, RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.marks import quarantine
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink

DAY = dt.timedelta(days=1)
PAGES = [bytes([n + 1]) * PAGE_BYTES for n in range(64)]


def source(day: int, **fields: Any) -> StagedSource:
    pages = [bytes([100 + n]) * PAGE_BYTES if n < day else page for n, page in enumerate(PAGES)]
    fields = {"taken_at": MOMENT + day * DAY, "files": {"module.wasm": b"module"}, **fields}
    return StagedSource(images={"heap.bin": b"".join(pages)}, **fields)


def run(repository: Repository, day: int, *, taken: StagedSource | None = None, **options: Any) -> str:
    """Back up a day; return the id of the archive."""
    return back_up(repository, taken or source(day), options=RepositoryBackupOptions(**options)).archive_id


def fulls(repository: Repository) -> list[int]:
    """Days that are full, from 0."""
    ids = repository.archive_ids()
    return [day for day, archive_id in enumerate(ids) if not repository.manifest(archive_id).parent]


# -- parents --------------------------------------------------------------------------------------------------------


def test_latest_is_what_nothing_means() -> None:
    repository = new_repository(MemorySink())
    first = run(repository, 0, parent="latest")
    second = run(repository, 1, parent="latest")
    third = run(repository, 2)
    assert [repository.manifest(one).parent for one in (first, second, third)] == ["", first, second]


def test_differential_backups_are_compared_with_the_newest_full_one() -> None:
    repository = new_repository(MemorySink())
    first = run(repository, 0, parent="full")
    days = [run(repository, day, parent="full") for day in (1, 2, 3)]
    assert [repository.manifest(one).parent for one in days] == [first] * 3
    reports = [back_up(repository, source(day), options=RepositoryBackupOptions(parent="full")) for day in (4, 5)]
    assert [report.sections[1].changed for report in reports] == [4, 5]
    for day, archive_id in enumerate(days, 1):
        assert contents(repository, archive_id)["heap.bin"] == source(day).images["heap.bin"]

    again = run(repository, 6, full=True)
    assert repository.manifest(run(repository, 7, parent="full")).parent == again
    # incremental ones in between are not built on, and do not end the mode
    run(repository, 8)
    assert repository.manifest(run(repository, 9, parent="full")).parent == again


def test_only_complete_full_archives_are_built_on() -> None:
    repository = new_repository(MemorySink())
    full = run(repository, 0)
    run(repository, 1, taken=source(1, complete=False), full=True)
    assert repository.manifest(run(repository, 2, parent="full")).parent == full
    quarantine(repository, full)
    assert repository.manifest(run(repository, 3, parent="full")).parent == ""


def test_full_archives_of_other_sources_are_not_built_on() -> None:
    repository = new_repository(MemorySink())
    mine = run(repository, 0)
    run(repository, 1, taken=source(1, source_id="other"))
    assert repository.manifest(run(repository, 2, parent="full")).parent == mine


def test_a_full_archive_that_lost_objects_is_not_built_on() -> None:
    repository = new_repository(MemorySink())
    full = run(repository, 0)
    repository.sink.delete(next(key for key, _ in repository.manifest(full).objects() if key.startswith("packs/")))
    report = back_up(repository, source(1), options=RepositoryBackupOptions(parent="full"))
    assert report.manifest.parent == ""
    assert [(one.code, one.where) for one in report.warnings] == [("parent_damaged", full)]


def test_a_full_archive_is_looked_for_as_far_back_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = new_repository(MemorySink())
    first = run(repository, 0)
    for day in range(1, 5):
        run(repository, day)
    monkeypatch.setattr(backup, "_LOOK_AT", 1)
    assert repository.manifest(run(repository, 5, parent="full")).parent == first
    assert repository.manifest(run(repository, 6, full_every=100)).parent != ""


def test_a_parent_that_is_named_is_taken_or_refused() -> None:
    repository = new_repository(MemorySink())
    first, _ = run(repository, 0), run(repository, 1)
    assert repository.manifest(run(repository, 2, parent=first)).parent == first
    with pytest.raises(ConfigurationError) as caught:
        run(repository, 3, parent="fullest")
    assert caught.value.kind == "bad_parent"


# -- full ones every so often -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (None, [0]),
        (1, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (3, [0, 3, 6]),
        (FullEvery(backups=4), [0, 4, 8]),
        (4 * DAY, [0, 4, 8]),
        (FullEvery(age=3.5 * DAY), [0, 4, 8]),
        (FullEvery(backups=5, age=2 * DAY), [0, 2, 4, 6, 8]),
        (FullEvery(backups=2, age=100 * DAY), [0, 2, 4, 6, 8]),
    ],
    ids=str,
)
def test_one_of_so_many_or_of_such_age_is_full(
    every: FullEvery | int | dt.timedelta | None, expected: list[int]
) -> None:
    repository = new_repository(MemorySink())
    for day in range(9):
        run(repository, day, full_every=every)
    assert fulls(repository) == expected


@pytest.mark.parametrize("parent", [None, "latest", "full"])
def test_the_cadence_goes_with_every_mode(parent: str | None) -> None:
    repository = new_repository(MemorySink())
    ids = [run(repository, day, parent=parent, full_every=3) for day in range(6)]
    assert fulls(repository) == [0, 3]
    assert repository.manifest(ids[5]).parent == (ids[3] if parent == "full" else ids[4])


def test_a_full_archive_made_otherwise_begins_the_count_anew() -> None:
    repository = new_repository(MemorySink())
    for day in range(2):
        run(repository, day, full_every=3)
    run(repository, 2, full=True)
    for day in range(3, 6):
        run(repository, day, full_every=3)
    assert fulls(repository) == [0, 2, 5]


@pytest.mark.parametrize("complete", [True, False])
def test_without_a_complete_full_archive_one_is_due(*, complete: bool) -> None:
    repository = new_repository(MemorySink())
    full = run(repository, 0, taken=source(0, complete=complete))
    run(repository, 1)
    if complete:
        quarantine(repository, full)
    assert repository.manifest(run(repository, 2, full_every=100)).parent == ""


def test_when_a_full_archive_lost_what_later_ones_do_not_need_one_is_due() -> None:
    repository = new_repository(MemorySink())
    full = run(repository, 0, taken=source(0, files={}))
    later = run(repository, 1, taken=source(len(PAGES), files={}, taken_at=MOMENT + DAY))
    needed = dict(repository.manifest(later).objects())
    lost = [key for key, _ in repository.manifest(full).objects() if key not in needed and key.startswith("packs/")]
    assert repository.manifest(later).parent == full
    assert lost
    repository.sink.delete(lost[0])
    assert repository.manifest(run(repository, 2, full_every=100)).parent == ""


def test_series_are_counted_by_themselves() -> None:
    repository = new_repository(MemorySink())
    for day in range(4):
        run(repository, day, full_every=3)
        run(repository, day, taken=source(day, source_id="other", taken_at=MOMENT + day * DAY + DAY / 2), full_every=2)
    manifests = [repository.manifest(one) for one in repository.archive_ids()]
    assert [not one.parent for one in manifests if one.source_id == "aaaaa-aa"] == [True, False, False, True]
    assert [not one.parent for one in manifests if one.source_id == "other"] == [True, False, True, False]


def test_a_full_archive_that_was_due_needs_nothing_of_others_but_a_first_one_shares_files() -> None:
    repository = new_repository(MemorySink(), keys=ReadKeys.generate())
    first = run(repository, 0, full_every=2)
    other = run(repository, 0, taken=source(0, source_id="other"), full_every=2)
    run(repository, 1, full_every=2)
    due = run(repository, 2, full_every=2)

    def packs(archive_id: str) -> set[str]:
        return {key for key, _ in repository.manifest(archive_id).objects() if key.startswith("packs/")}

    assert packs(other) & packs(first)
    assert not any(packs(due) & packs(one) for one in repository.archive_ids() if one != due)


@pytest.mark.parametrize(
    "make",
    [
        FullEvery,
        lambda: FullEvery(backups=0),
        lambda: FullEvery(age=dt.timedelta(0)),
        lambda: FullEvery(age=7),  # type: ignore[arg-type]
        lambda: RepositoryBackupOptions(full_every=0),
        lambda: RepositoryBackupOptions(full_every=-DAY),
        lambda: RepositoryBackupOptions(full_every="7d"),  # type: ignore[arg-type]
        lambda: RepositoryBackupOptions(full_every=True),
    ],
)
def test_what_is_no_cadence_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()
