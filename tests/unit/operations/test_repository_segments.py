"""Images larger than a segment, 256 MiB, that grow, shrink and become zeros; nearly all zeros, so it is quick."""

from __future__ import annotations

import datetime as dt
import gc
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from repository_stage import MOMENT, new_repository

from knowtation_backup.model.reports import CaptureResult
from knowtation_backup.model.sections import PAGE_BYTES, ImageSection, Section
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.catalog import list_archives
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.manifest import ImageTables
from knowtation_backup.repository.repository import Repository
from knowtation_backup.repository.tables import SEGMENT_PAGES, PageTable
from knowtation_backup.sinks.memory import MemorySink

CHUNK = 1 << 20
ZEROS = bytes(CHUNK)
SEGMENT = SEGMENT_PAGES * PAGE_BYTES


@attrs.frozen
class Sparse:
    """An image of zeros with a few other bytes, by offset; none of them crosses a chunk."""

    size_bytes: int
    written: Mapping[int, bytes]
    day: int

    kind = "canister-snapshot"
    source_id = "aaaaa-aa"

    @property
    def taken_at(self) -> dt.datetime:
        return MOMENT + dt.timedelta(days=self.day)

    def capture_sections(self, **_facts: Any) -> Sparse:
        return self

    def chunk(self, start: int) -> bytes:
        here = {at - start: data for at, data in self.written.items() if start <= at < start + CHUNK}
        if not here:
            return ZEROS
        chunk = bytearray(ZEROS)
        for at, data in here.items():
            chunk[at : at + len(data)] = data
        return bytes(chunk)

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, self.size_bytes, CHUNK):
            yield self.chunk(start)[: self.size_bytes - start]

    def sections(self) -> Iterator[Section]:
        yield ImageSection(name="stable_memory.bin", size_bytes=self.size_bytes, chunks=self.chunks())

    def result(self) -> CaptureResult:
        return CaptureResult(complete=True, counts={}, details={})

    def assert_restored(self, repository: Repository, archive_id: str) -> None:
        manifest = repository.manifest(archive_id)
        tables = manifest.section("stable_memory.bin")
        assert isinstance(tables, ImageTables)
        end = 0
        for part in ArchiveReader(repository.sink, repository.read_keys, manifest).image(tables):
            assert part.offset == end
            end += part.size_bytes
            wanted = b"".join(
                self.chunk(start)[max(0, part.offset - start) : end - start]
                for start in range(part.offset // CHUNK * CHUNK, end, CHUNK)
            )
            assert (part.data or bytes(part.size_bytes)) == wanted
        assert end == self.size_bytes


def test_images_of_several_segments_keep_their_history() -> None:
    now = MOMENT
    sink = MemorySink(clock=lambda: now)
    repository = new_repository(sink, max_chain=2)
    edges = {0: b"first", SEGMENT - 5: b"the end", SEGMENT + 4096: b"second", SEGMENT + (3 << 20): b"far"}
    edges = {at: data for at, data in edges.items() if at // CHUNK == (at + len(data) - 1) // CHUNK}
    days = [
        Sparse(SEGMENT + (4 << 20) + 1, edges | {SEGMENT - 4096: b"last page"}, 0),
        Sparse(SEGMENT + (4 << 20) + 1, edges | {SEGMENT + (2 << 20): b"new"}, 1),
        Sparse(SEGMENT, edges, 2),
        Sparse(SEGMENT - 4097, edges, 3),
        Sparse(SEGMENT + (8 << 20), {SEGMENT + (3 << 20) + 1: b"not where it was"}, 4),
        Sparse(5, {}, 5),
        Sparse(SEGMENT + 1, {SEGMENT: b"!"}, 6),
        Sparse(0, {}, 7),
    ]
    ids: list[str] = []
    for day in days:
        now = day.taken_at
        report = back_up(repository, day)
        assert report.new_bytes < 60_000
        ids.append(report.archive_id)
    for day, archive_id in zip(days, ids, strict=True):
        day.assert_restored(repository, archive_id)
    going = [ids[number] for number in (0, 2, 3, 5)]
    apply_forget(repository, plan_delete(repository, going, now=now), clock=lambda: now)
    now += repository.config.grace
    apply_forget(repository, plan_empty_trash(repository, now=now, grace=dt.timedelta(0)))
    apply_prune(repository, plan_prune(repository))
    now += repository.config.grace
    assert apply_prune(repository, plan_prune(repository)).deleted_objects > 0
    assert len(list_archives(repository)) == 4
    for number in (1, 4, 6, 7):
        days[number].assert_restored(repository, ids[number])


def test_tables_of_the_parent_do_not_wait_in_memory() -> None:
    repository = new_repository(MemorySink())
    written = {number * SEGMENT: b"in every segment" for number in range(4)}
    back_up(repository, Sparse(4 * SEGMENT, written, 0))
    alive: list[int] = []

    class Watched(Sparse):
        def chunks(self) -> Iterator[bytes]:
            for start in range(0, self.size_bytes, CHUNK):
                if start % SEGMENT == CHUNK:
                    gc.collect()
                    alive.append(sum(isinstance(found, PageTable) for found in gc.get_objects()))
                yield self.chunk(start)

    back_up(repository, Watched(4 * SEGMENT, written, 1))
    assert len(alive) == 4
    assert alive[-1] <= alive[0] == 1
