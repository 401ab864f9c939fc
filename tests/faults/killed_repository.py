"""
Run by test_repository_faults: work on a repository in a local directory that is killed at each of its operations.

``DIRECTORY SCENE`` makes a repository, then for every operation of the store that the scene makes forks a child that
kills itself with SIGKILL right before it, in the middle of it, or right after it; then checks in the parent that every
archive that is listed restores, that a second run finishes, and that pruning leaves nothing but what is needed. Prints
how many operations there were.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from repository_stage import MOMENT, Aged, StagedSource, contents, needed_keys, new_repository

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import BackupError
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.catalog import list_archives
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.repository import packing
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

KEYS = ReadKeys.generate()
GRACE = dt.timedelta(days=3)


def die(_operation: str) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@functools.cache
def source(day: int) -> StagedSource:
    heap = bytearray(hashlib.shake_256(b"heap").digest(60 * 4096))
    heap[day * 4096 : (day + 3) * 4096] = bytes([day + 1]) * 3 * 4096
    records = {(b"ann", b"%d" % number): b"ann %d %d" % (number, day * (number % 7 == day)) for number in range(30)}
    moment = MOMENT + dt.timedelta(days=day)
    return StagedSource(images={"heap.bin": bytes(heap)}, records={"notes": records}, taken_at=moment)


def opened(sink: ArchiveSink) -> Repository:
    return Repository.open_with(sink, KEYS)


def backup(repository: Repository) -> None:
    back_up(repository, source(2))


def empty(repository: Repository) -> None:
    now = dt.datetime.now(dt.UTC)
    apply_forget(repository, plan_empty_trash(repository, now=now, grace=dt.timedelta(0)))


def sweep(repository: Repository) -> None:
    apply_prune(repository, plan_prune(repository))


def trash(repository: Repository) -> None:
    ids = [info.archive_id for info in list_archives(repository)][1:]
    apply_forget(repository, plan_delete(repository, ids, now=MOMENT + dt.timedelta(days=5)))


SCENES: dict[str, tuple[list[Callable[[Repository], None]], Callable[[Repository], None], set[int]]] = {
    "backup": ([], backup, {0, 1, 2}),
    "empty": ([trash], empty, {1}),
    "sweep": ([trash, empty, sweep], sweep, {1}),
}


def restored(repository: Repository) -> set[int]:
    days: set[int] = set()
    for archive_id in repository.archive_ids():
        day = (repository.manifest(archive_id).taken_at - MOMENT).days
        stored = contents(repository, archive_id)
        del stored["details.json"]
        assert stored == source(day).plain, archive_id
        days.add(day)
    return days


def forked(work: Callable[[], None]) -> int:
    """Run *work* in a child; return how it ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - told by the status
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def checked(place: Path, act: Callable[[Repository], None], after: set[int]) -> None:
    """Check what a killed process left, run again, and prune."""
    sink = FsspecSink(place)
    repository = opened(Aged(sink, 2 * GRACE))
    assert restored(repository) >= after & {0, 1}
    act(repository)
    assert restored(repository) == after
    sweep(repository)
    sweep(repository)
    assert {info.key for info in sink.list()} == needed_keys(repository)
    assert restored(repository) == after
    sink.remove_leftovers(now=dt.datetime.now(dt.UTC) + dt.timedelta(days=2))
    assert list(sink.leftovers()) == []


def moments() -> Iterable[FaultMoment]:
    return (FaultMoment.BEFORE, FaultMoment.DURING, FaultMoment.AFTER)


def main(arguments: list[str]) -> int:
    directory, scene = Path(arguments[0]), arguments[1]
    prepare, act, after = SCENES[scene]
    packing.PACK_BYTES = 4 << 10
    base = directory / "base"

    def made() -> None:
        repository = new_repository(FsspecSink(base), keys=KEYS, max_chain=2)
        for day in range(2):
            back_up(repository, source(day))
        for step in prepare:
            step(opened(Aged(FsspecSink(base), 2 * GRACE)))

    if forked(made):  # in a child: threads that were started do not survive a fork
        return 1
    for number in range(200):
        killed = False
        for moment in moments():
            place = directory / f"{number}-{moment.value}"
            shutil.copytree(base, place)
            sink = FaultSink(Aged(FsspecSink(place), 2 * GRACE), fail_at=number, moment=moment, error=die)
            status = forked(lambda: act(opened(sink)))  # noqa: B023 - at once
            killed = os.WIFSIGNALED(status)
            if not killed and status:
                return 1
            if forked(lambda: checked(place, act, after)):  # noqa: B023 - at once
                print("after killing", moment.value, "operation", number, file=sys.stderr)  # noqa: T201
                return 1
            shutil.rmtree(place)
        if not killed:
            print(number)  # noqa: T201 - how it reports
            return 0
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BackupError:
        traceback.print_exc()
        sys.exit(3)
