"""Which archive a backup continues, and what it stores because of that."""

import datetime as dt
import random
from collections.abc import Iterable, Iterator

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, contents, new_repository

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import ConfigurationError, IntegrityError, PlanStaleError, TruncatedError
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.sections import ImageSection, Section
from knowtation_backup.operations.repository import backup as module
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, RepositoryBackupReport, back_up
from knowtation_backup.operations.repository.marks import quarantine
from knowtation_backup.repository.layout import archive_key, pack_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.repository.writer import WriteOptions
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.wrappers import SinkWrapper

NOISE = random.Random(7)  # noqa: S311 - noise
MEMORY = NOISE.randbytes(400 * 4096)
DAY = dt.timedelta(days=1)


def source(memory: bytes = MEMORY, days: int = 0, **fields: object) -> StagedSource:
    made = StagedSource(images={"stable_memory.bin": memory}, taken_at=MOMENT + days * DAY)
    return attrs.evolve(made, **fields)  # type: ignore[arg-type]  # fields by name


def changed(memory: bytes, *pages: int) -> bytes:
    altered = bytearray(memory)
    for page in pages:
        altered[page * 4096 : (page + 1) * 4096] = NOISE.randbytes(4096)
    return bytes(altered)


def stored_pages(report: RepositoryBackupReport) -> int:
    return next(section.stored for section in report.sections if section.name == "stable_memory.bin")


@pytest.fixture
def repository() -> Repository:
    return new_repository(MemorySink(permissions="lrw"))


def test_only_changed_pages_are_stored(repository: Repository) -> None:
    first = back_up(repository, source())
    memory = changed(MEMORY, 0, 7, 399)
    second = back_up(repository, source(memory, 1))
    assert (stored_pages(first), stored_pages(second)) == (400, 3)
    assert second.manifest.parent == first.archive_id
    assert second.new_bytes < 4 * 4096 < first.new_bytes
    assert contents(repository, first.archive_id)["stable_memory.bin"] == MEMORY
    assert contents(repository, second.archive_id)["stable_memory.bin"] == memory


def test_the_newest_complete_archive_of_the_source_is_the_parent(repository: Repository) -> None:
    first = back_up(repository, source(days=2))
    back_up(repository, source(days=5, source_id="another"))
    incomplete = back_up(repository, source(days=4, complete=False))
    older = back_up(repository, source(days=1))
    assert incomplete.manifest.parent == older.manifest.parent == first.archive_id
    # Two archives of one second: the later moment counts, not the name.
    for milliseconds in (300, 700, 500):
        back_up(repository, source(taken_at=MOMENT + 3 * DAY + dt.timedelta(milliseconds=milliseconds)))
    last = back_up(repository, source(days=6))
    assert repository.manifest(last.manifest.parent).taken_at.microsecond == 700_000


def test_what_is_quarantined_or_damaged_is_no_parent(repository: Repository) -> None:
    first = back_up(repository, source())
    second = back_up(repository, source(days=1))
    quarantine(repository, second.archive_id)
    third = back_up(repository, source(days=2))
    assert third.manifest.parent == first.archive_id

    broken = new_repository(MemorySink())
    whole = back_up(broken, source())
    broken.sink.delete(pack_key(whole.manifest.packs[0].object_id))
    again = back_up(broken, source(days=1))
    assert again.manifest.parent == ""
    assert [warning.code for warning in again.warnings] == ["parent_damaged"]
    assert contents(broken, again.archive_id)["stable_memory.bin"] == MEMORY
    broken.sink.delete(archive_key(again.archive_id))
    broken.sink.put(archive_key(again.archive_id), (b"not a manifest",))
    third = back_up(broken, source(days=2))
    assert "archive_damaged" in {warning.code for warning in third.warnings}


def test_what_is_dated_ahead_does_not_stay_the_parent(repository: Repository) -> None:
    first = back_up(repository, source())
    ahead = [back_up(repository, source(days=days), clock=lambda: MOMENT) for days in (3700, 3800)]
    assert ahead[1].warnings == ()  # it is dated ahead itself
    assert ahead[0].manifest.parent == first.archive_id
    memory = changed(MEMORY, 1, 2, 3)
    second = back_up(repository, source(memory, 1), clock=lambda: MOMENT + DAY)
    assert second.manifest.parent == first.archive_id
    assert [(found.code, found.where) for found in second.warnings] == [
        ("archive_from_the_future", ahead[1].archive_id)
    ]
    third = back_up(repository, source(memory, 2), clock=lambda: MOMENT + 2 * DAY)
    assert (third.manifest.parent, stored_pages(third)) == (second.archive_id, 0)
    named = RepositoryBackupOptions(parent=ahead[0].archive_id)
    assert back_up(repository, source(days=3), options=named).manifest.parent == ahead[0].archive_id
    last = back_up(repository, source(days=4000), clock=lambda: MOMENT + 4000 * DAY)
    assert (last.manifest.parent, last.warnings) == (ahead[1].archive_id, ())


def test_what_is_dated_ahead_is_better_than_nothing(repository: Repository) -> None:
    ahead = back_up(repository, source(days=3700))
    first = back_up(repository, source(days=1), clock=lambda: MOMENT)
    assert (first.manifest.parent, stored_pages(first)) == (ahead.archive_id, 0)
    assert [found.code for found in first.warnings] == ["archive_from_the_future"]
    second = back_up(repository, source(days=2), clock=lambda: MOMENT)
    assert second.manifest.parent == first.archive_id
    within_a_day = back_up(repository, source(taken_at=MOMENT + 1.5 * DAY), clock=lambda: MOMENT + DAY)
    assert within_a_day.manifest.parent == second.archive_id


def test_a_parent_can_be_named_and_nothing_compared(repository: Repository) -> None:
    clone = back_up(repository, source(source_id="production"))
    staging = source(changed(MEMORY, 3), 1, source_id="staging")
    named = back_up(repository, staging, options=RepositoryBackupOptions(parent=clone.archive_id))
    assert (named.manifest.parent, stored_pages(named)) == (clone.archive_id, 1)
    assert contents(repository, named.archive_id)["stable_memory.bin"] == staging.images["stable_memory.bin"]
    full = back_up(repository, source(days=2, source_id="staging"), options=RepositoryBackupOptions(full=True))
    assert (full.manifest.parent, stored_pages(full)) == ("", 400)
    with pytest.raises(ConfigurationError) as caught:
        back_up(repository, source(days=3), options=RepositoryBackupOptions(parent="20260101T000000Z-" + 64 * "0"))
    assert caught.value.kind == "bad_parent"


def test_files_that_another_canister_has_brought_are_not_stored_again(repository: Repository) -> None:
    module_bytes = NOISE.randbytes(2_500_000)
    first = back_up(repository, StagedSource(files={"wasm_module.bin": module_bytes}, source_id="one"))
    second = back_up(repository, StagedSource(files={"wasm_module.bin": module_bytes}, source_id="two"))
    assert first.new_bytes > len(module_bytes)
    assert second.new_bytes < 10_000
    assert contents(repository, second.archive_id)["wasm_module.bin"] == module_bytes


def test_a_long_history_is_not_read_whole(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_AT", 2)
    for day in range(12):
        back_up(repository, source(days=day))
    read: list[str] = []
    manifest = Repository.manifest

    def counted(self: Repository, archive_id: str) -> object:
        read.append(archive_id)
        return manifest(self, archive_id)

    monkeypatch.setattr(Repository, "manifest", counted)
    small = attrs.evolve(repository, parallel_reads=1)
    report = back_up(small, source(days=12))
    assert report.manifest.parent == sorted(repository.archive_ids())[-2]
    assert len(read) < 12


def test_a_backup_that_takes_too_long_is_not_published() -> None:
    repository = new_repository(MemorySink(), grace_seconds=100.0)
    moments = iter([0.0, 49.0])
    back_up(repository, source(), monotonic=lambda: next(moments, 49.0))
    moments = iter([0.0, 51.0])
    with pytest.raises(PlanStaleError) as caught:
        back_up(repository, source(days=1), monotonic=lambda: next(moments, 51.0))
    assert caught.value.kind == "backup_too_slow"
    assert len(repository.archive_ids()) == 1


@attrs.frozen(kw_only=True)
class LyingSource(StagedSource):
    """A source whose image has another size than it says."""

    claimed: int

    def sections(self) -> Iterator[Section]:
        yield ImageSection(name="stable_memory.bin", size_bytes=self.claimed, chunks=(MEMORY,))


@pytest.mark.parametrize("claimed", [len(MEMORY) - 1, len(MEMORY) + 1])
def test_a_section_of_another_size_than_it_says_is_not_published(repository: Repository, claimed: int) -> None:
    with pytest.raises(TruncatedError) as caught:
        back_up(repository, LyingSource(claimed=claimed))
    assert caught.value.kind == "section_size"
    assert repository.archive_ids() == []


class _Spoils(SinkWrapper):
    """A store that keeps other bytes than it was sent."""

    def __init__(self, inner: ArchiveSink, prefix: str) -> None:
        super().__init__(inner)
        self.prefix = prefix

    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        data = b"".join(chunks)
        return super()._put(key, [data[:-1] + bytes([data[-1] ^ 1])] if key.startswith(self.prefix) else [data])


@pytest.mark.parametrize("prefix", ["packs/", "indexes/", "archives/"])
def test_what_is_stored_is_read_back_when_asked_for(prefix: str) -> None:
    repository = new_repository(MemorySink())
    spoiling = attrs.evolve(repository, sink=_Spoils(repository.sink, prefix))
    source = StagedSource(images={"heap.bin": bytes(range(1, 251)) * 200})
    options = RepositoryBackupOptions(write=WriteOptions(read_back=True))
    with pytest.raises(IntegrityError) as raised:
        back_up(spoiling, source, options=options)
    assert raised.value.kind == "object_changed"
    assert (repository.archive_ids() == []) is (prefix != "archives/")
    assert contents(repository, back_up(repository, source, options=options).archive_id)["heap.bin"]
