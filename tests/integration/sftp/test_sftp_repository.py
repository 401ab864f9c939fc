"""The life of a repository on a real SFTP server."""

import datetime as dt
from pathlib import Path

import attrs
from repository_stage import MOMENT, Aged, StagedSource, contents, needed_keys, new_repository
from sftp_server import SinkAt

from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.operations.repository.restoring import restore_directory
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.repository import Repository

GRACE = dt.timedelta(days=3)
FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
KEYS = ReadKeys.generate()


def source(day: int) -> StagedSource:
    heap = b"".join(b"%d %d" % (page, day * (page % 9 == day)) + bytes(4090) for page in range(300))
    records = {(b"ann", b"%d" % number): b"ann %d %d" % (number, day * (number == day)) for number in range(30)}
    moment = MOMENT + dt.timedelta(days=day)
    return StagedSource(images={"heap.bin": heap}, records={"notes": records}, taken_at=moment)


def test_backup_verify_restore_forget_and_prune(connected: SinkAt, tmp_path: Path) -> None:
    place = tmp_path / "repository"
    repository = new_repository(connected(place), keys=KEYS)
    reports = [back_up(repository, source(day)) for day in range(3)]
    assert [report.manifest.parent for report in reports[1:]] == [report.archive_id for report in reports[:2]]
    assert reports[1].new_bytes < reports[0].new_bytes
    # Nothing of older archives is needed to read this one, so that all of theirs can go.
    reports.append(back_up(repository, source(3), options=RepositoryBackupOptions(full=True)))
    opened = Repository.open_with(connected(place), KEYS)  # as another host does
    verify_all(opened).raise_for_findings()
    for day, report in enumerate(reports):
        assert contents(opened, report.archive_id).items() >= source(day).plain.items()
    restored = restore_directory(opened, reports[3].archive_id, tmp_path / "restored").directory
    assert (restored / "heap.bin").read_bytes() == source(3).images["heap.bin"]
    old = [report.archive_id for report in reports[:3]]
    apply_forget(opened, plan_delete(opened, old, now=MOMENT))
    assert plan_empty_trash(opened, now=FAR).forgotten == ()  # by the clock of the server it is too early
    later = attrs.evolve(opened, sink=Aged(opened.sink, 2 * GRACE))
    assert set(apply_forget(later, plan_empty_trash(later, now=FAR)).forgotten) == set(old)
    assert apply_prune(opened, plan_prune(opened)).marked_objects > 0
    assert plan_prune(opened).due == ()
    pruned = apply_prune(later, plan_prune(later))
    assert pruned.outcome is Outcome.OK
    assert pruned.deleted_objects > 0
    assert {info.key for info in opened.sink.list()} == needed_keys(opened)
    verify_all(opened).raise_for_findings()
    assert contents(opened, reports[3].archive_id).items() >= source(3).plain.items()
