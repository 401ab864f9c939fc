"""
Whatever operation of the store fails, is lost after success, or is the last one before the process is killed.

Every archive that is listed restores bit-identically, a second run finishes, a backup overwrites and deletes nothing,
and pruning afterwards removes all garbage and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, contents, copied, limited, needed_keys, new_repository

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import BackupError, PlanStaleError, RepositoryError, SinkUnavailableError
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.catalog import list_archives
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash
from knowtation_backup.operations.repository.marks import undelete
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository import packing
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.manifest import RecordTables
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

GRACE = dt.timedelta(days=3)
PAGE = 4096


class KilledError(BaseException):
    """The process is gone: nothing that it would have done still happens."""


def noise(number: int, pages: int) -> bytes:
    return hashlib.shake_256(bytes([number])).digest(pages * PAGE)


@functools.cache
def source(day: int) -> StagedSource:
    """One canister on a day: images that change, shrink and grow, files, records that come, change and go."""
    heap = bytearray(noise(1, 60) + bytes(40 * PAGE) + noise(2, 10))
    for page in range(0, 50, 7):
        heap[page * PAGE] ^= day
    stable = noise(3, 50 if day % 2 else 60) + noise(10 + day, 10)
    records = {(b"ann", b"%d" % number): b"ann %d" % number * 50 for number in range(40)}
    records[b"bob", b"today"] = b"bob %d" % day * 100
    del records[b"ann", b"%d" % day]
    return StagedSource(
        images={"heap.bin": bytes(heap), "stable.bin": stable},
        files={"wasm_module.bin": noise(4, 40), "settings.json": b'{"day":%d}' % day},
        records={"notes": records},
        taken_at=MOMENT + dt.timedelta(days=day),
    )


@attrs.define
class Stage:
    """A repository of some days in a store with a clock of its own."""

    days: int
    now: dt.datetime = MOMENT
    keys: ReadKeys = attrs.field(factory=ReadKeys.generate)
    sink: MemorySink = attrs.field(init=False)
    proven: dict[str, dict[str, bytes]] = attrs.field(factory=dict)
    """The objects with which an archive was restored: with the same bytes it comes out the same."""

    def __attrs_post_init__(self) -> None:
        self.sink = MemorySink(clock=self.clock)
        new_repository(self.sink, keys=self.keys, max_chain=2)
        for day in range(self.days):
            self.back_up(self.open(), day)

    def clock(self) -> dt.datetime:
        return self.now

    def open(self, sink: ArchiveSink | None = None) -> Repository:
        return Repository.open_with(sink or self.sink, self.keys)

    def back_up(self, repository: Repository, day: int) -> None:
        self.now = MOMENT + dt.timedelta(days=day)
        back_up(repository, source(day), clock=self.clock)

    def forget(self, repository: Repository, count: int) -> None:
        """Put the oldest archives into the trash; some may be there already."""
        resting = [info for info in list_archives(repository) if info.standing.trashed_at is None]
        going = resting[::-1][: max(0, len(resting) - (self.days - count))]
        if going:
            plan = plan_delete(repository, [info.archive_id for info in going], now=self.now)
            apply_forget(repository, plan, clock=self.clock)

    def empty_trash(self, repository: Repository) -> None:
        plan = plan_empty_trash(repository, now=self.now, grace=dt.timedelta(0))
        apply_forget(repository, plan, clock=self.clock)

    def undelete(self, repository: Repository) -> None:
        """Take everything out of the trash; some may be out already."""
        for info in list_archives(repository):
            if info.standing.trashed_at is not None:
                undelete(repository, info.archive_id, clock=self.clock)

    def prune(self, repository: Repository) -> None:
        apply_prune(repository, plan_prune(repository), clock=self.clock)

    def restored(self, sink: MemorySink) -> set[int]:
        """Check that every archive that is listed is what was backed up on its day; return the days."""
        repository = self.open(sink)
        blobs = sink.contents()
        found: set[int] = set()
        for archive_id in repository.archive_ids():
            manifest = repository.manifest(archive_id)
            day = (manifest.taken_at - MOMENT).days
            found.add(day)
            objects = {key: blobs[key] for key, _ in manifest.objects()}
            if self.proven.get(archive_id) != objects:
                stored = contents(repository, archive_id)
                del stored["details.json"]
                assert stored == source(day).plain
                self.proven[archive_id] = objects
        return found

    def require_clean_after_pruning(self, sink: MemorySink) -> None:
        days = self.restored(sink)
        for _ in range(2):
            self.now += GRACE
            self.prune(self.open(sink))
        assert sink.contents().keys() == needed_keys(self.open(sink))
        assert self.restored(sink) == days


Act = Callable[[Stage, Repository], None]


@attrs.frozen
class Scene:
    """What is there before, what is done, and which days' archives there are afterwards."""

    prepare: Act
    act: Act
    before: set[int]
    after: set[int]
    days: int = 3
    trashed: int | None = None
    """How many of them are in the trash afterwards; `None`: whatever is."""
    writes_only: bool = False
    """Whether it may do nothing but list, read and create."""


def nothing(_stage: Stage, _repository: Repository) -> None:
    pass


def resting(stage: Stage, repository: Repository) -> None:
    stage.forget(repository, 2)
    stage.now += GRACE / 4  # later than the marks, and too early for them to be removed


def trashed(stage: Stage, repository: Repository) -> None:
    stage.forget(repository, 2)
    stage.now += GRACE


def emptied(stage: Stage, repository: Repository) -> None:
    trashed(stage, repository)
    stage.empty_trash(repository)


def noted(stage: Stage, repository: Repository) -> None:
    emptied(stage, repository)
    stage.prune(repository)
    stage.now += GRACE


SCENES: Mapping[str, Scene] = {
    "first backup": Scene(
        nothing, lambda stage, repository: stage.back_up(repository, 0), set(), {0}, days=0, writes_only=True
    ),
    "incremental backup": Scene(
        nothing, lambda stage, repository: stage.back_up(repository, 3), {0, 1, 2}, {0, 1, 2, 3}, writes_only=True
    ),
    "forget": Scene(
        nothing,
        lambda stage, repository: stage.forget(repository, 2),
        {0, 1, 2},
        {0, 1, 2},
        trashed=2,
        writes_only=True,
    ),
    "undelete": Scene(resting, Stage.undelete, {0, 1, 2}, {0, 1, 2}, trashed=0, writes_only=True),
    "empty trash": Scene(trashed, Stage.empty_trash, {0, 1, 2}, {2}),
    "note": Scene(emptied, Stage.prune, {2}, {2}),
    "sweep": Scene(noted, Stage.prune, {2}, {2}),
}


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", 4 << 10)


def failures(count: int) -> Iterator[tuple[int, FaultMoment, bool]]:
    for number in range(count):
        for moment in FaultMoment:
            for killed in (False, True):
                yield number, moment, killed


def failing(sink: ArchiveSink, number: int, moment: FaultMoment, *, killed: bool) -> FaultSink:
    """Fail once, or be killed: then nothing that comes after has any effect."""
    if not killed:
        return FaultSink(sink, fail_at=number, moment=moment)
    gone = FaultSink(sink, fail_from=number + 1, error=KilledError)
    return FaultSink(gone, fail_at=number, moment=moment, error=KilledError)


@pytest.mark.parametrize("name", SCENES)
def test_every_operation_may_fail(name: str) -> None:
    scene = SCENES[name]
    stage = Stage(scene.days)
    scene.prepare(stage, stage.open())
    began = stage.now

    def acted(sink: MemorySink) -> ArchiveSink:
        return limited(sink) if scene.writes_only else sink

    counting = FaultSink(acted(copied(stage.sink)))
    scene.act(stage, stage.open(counting))
    seen: set[frozenset[int]] = set()
    failed = 0
    for number, moment, killed in failures(len(counting.operations)):
        stage.now = began
        sink = copied(stage.sink)
        before = sink.contents()
        try:
            scene.act(stage, stage.open(failing(acted(sink), number, moment, killed=killed)))
        except (KilledError, SinkUnavailableError):
            failed += 1
        if scene.writes_only:
            assert sink.contents().items() >= before.items()
        days = stage.restored(sink)
        assert scene.before & scene.after <= days <= scene.before | scene.after
        seen.add(frozenset(days))
        scene.act(stage, stage.open(acted(sink)))
        assert stage.restored(sink) == scene.after
        if scene.trashed is not None:
            listed = list_archives(stage.open(sink))
            assert sum(info.standing.trashed_at is not None for info in listed) == scene.trashed
        stage.require_clean_after_pruning(sink)
    assert failed > 5 * len(counting.operations)
    assert frozenset(scene.before) in seen


ANN, BOB = b"ann", b"bob"


def read_records(repository: Repository, archive_id: str) -> tuple[set[bytes], set[bytes]]:
    """Return the records that open, and the owners of those that were erased."""
    manifest = repository.manifest(archive_id)
    reader = ArchiveReader(repository.sink, repository.read_keys, manifest, tenant_sink=repository.tenant_sink)
    (tables,) = (section for section in manifest.sections if isinstance(section, RecordTables))
    erased: dict[bytes, int] = {}
    found = {record.value for group in reader.records(tables, on_erased=erased.__setitem__) for record in group}
    return found, set(erased)


def erase(repository: Repository, owner: bytes) -> None:
    apply_erase_tenant(repository, plan_erase_tenant(repository, owner))


def test_erasing_is_done_or_can_be_gone_on_with() -> None:
    """Keys of three sources and of a full archive go one by one; nobody else's records are touched."""
    keys = ReadKeys.generate()
    store = MemorySink()
    repository = new_repository(store, keys=keys, tenant_keys=True)
    records = {(owner, b"%d" % n): b"%b %d" % (owner, n) for owner in (ANN, BOB) for n in range(3)}
    of_bob = {value for (owner, _), value in records.items() if owner == BOB}
    for number in range(3):
        back_up(repository, StagedSource(records={"notes": records}, source_id=f"hub {number}"))
    full = StagedSource(records={"notes": records}, source_id="hub 0", taken_at=MOMENT + dt.timedelta(days=1))
    back_up(repository, full, options=RepositoryBackupOptions(full=True))
    archives = repository.archive_ids()
    named = keys.writer_key.owner_key(ANN)
    counting = FaultSink(copied(store))
    erase(Repository.open_with(counting, keys), ANN)
    assert sum(text.startswith("delete") for text in counting.operations) == 4
    states: set[int] = set()
    for number, moment, killed in failures(len(counting.operations)):
        sink = copied(store)
        with contextlib.suppress(KilledError, SinkUnavailableError):
            erase(Repository.open_with(failing(sink, number, moment, killed=killed), keys), ANN)
        opened = Repository.open_with(sink, keys)
        found = [read_records(opened, archive_id) for archive_id in archives]
        assert all((values, erased) in [(set(records.values()), set()), (of_bob, {named})] for values, erased in found)
        states.add(sum(bool(erased) for _, erased in found))
        erase(opened, ANN)
        assert [read_records(opened, archive_id) for archive_id in archives] == [(of_bob, {named})] * len(archives)
        verify_all(opened).raise_for_findings()
        removed = store.contents().keys() - sink.contents().keys()
        assert {key.split("/")[0] for key in removed} == {"tenants"}
        assert len(removed) == 4
    assert states == set(range(5))


@pytest.mark.parametrize("number", range(0, 40, 3))
def test_a_store_that_goes_away_leaves_nothing_wrong(number: int) -> None:
    stage = Stage(2)
    sink = copied(stage.sink)
    with contextlib.suppress(BackupError):
        stage.back_up(stage.open(FaultSink(limited(sink), fail_from=number)), 2)
    assert stage.restored(sink) >= {0, 1}
    stage.back_up(stage.open(limited(sink)), 2)
    stage.require_clean_after_pruning(sink)


def test_garbage_of_many_dead_writers_goes_at_once() -> None:
    stage = Stage(1)
    counting = FaultSink(copied(stage.sink))
    stage.back_up(stage.open(counting), 1)
    for number in (at for at, text in enumerate(counting.operations) if text.startswith(("put packs", "put indexes"))):
        with pytest.raises(KilledError):
            stage.back_up(stage.open(failing(limited(stage.sink), number, FaultMoment.AFTER, killed=True)), 1)
    garbage = stage.sink.contents().keys() - needed_keys(stage.open())
    assert len(garbage) > 6
    stage.require_clean_after_pruning(stage.sink)


def test_damage_stops_every_prune_until_it_is_healed() -> None:
    stage = Stage(3)
    noted(stage, stage.open())
    key = next(key for key in stage.sink.contents() if key.startswith("archives/"))
    data = stage.sink.contents()[key]
    stage.sink.delete(key)
    stage.sink.put(key, (data[:-1] + b"!",))
    with pytest.raises(RepositoryError):
        stage.prune(stage.open())
    stage.sink.delete(key)
    stage.sink.put(key, (data,))
    stage.require_clean_after_pruning(stage.sink)


def test_a_plan_that_was_interrupted_is_stale() -> None:
    stage = Stage(3)
    trashed(stage, stage.open())
    plan = plan_empty_trash(stage.open(), now=stage.now, grace=dt.timedelta(0))
    with pytest.raises(SinkUnavailableError):
        apply_forget(stage.open(FaultSink(stage.sink, fail_at=_deletion(stage, plan))), plan)
    with pytest.raises(PlanStaleError):
        apply_forget(stage.open(), plan)
    stage.empty_trash(stage.open())
    assert stage.restored(stage.sink) == {2}


def _deletion(stage: Stage, plan: object) -> int:
    """Return the number of the second deletion of a manifest."""
    counting = FaultSink(copied(stage.sink))
    apply_forget(stage.open(counting), plan)  # type: ignore[arg-type]  # one that was just made
    manifests = [at for at, text in enumerate(counting.operations) if text.startswith("delete archives/")]
    return manifests[1]


@pytest.mark.parametrize("scene", ["backup", "empty", "sweep"])
def test_killed_by_the_system(tmp_path: Path, scene: str) -> None:
    """Real processes, SIGKILL, and a real directory."""
    child = str(Path(__file__).parent / "killed_repository.py")
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, child, str(tmp_path), scene],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
