"""
How deep chains of tables should be: what tables cost to store, against what a deep chain costs to read.

One image, backed up day by day with some of its pages changed at random, in one repository for each depth. Restored and
verified is the archive whose chain is deepest; times are medians of five. Content is the same everywhere.

``nox -s bench -- chain [--megabytes N] [--days N] [--percent N] [--depths N,N,…]``
"""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from _harness import Row, median_seconds, publish
from knowtation_backup import EncryptionKey, FileSection, FsspecSink, ImageSection, Repository
from knowtation_backup.contracts import Observer, SectionCapture, ignore_events
from knowtation_backup.model.reports import CaptureResult
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.restoring import restore_stream
from knowtation_backup.operations.repository.verifying import verify
from knowtation_backup.repository.manifest import ArchiveManifest, ImageTables

MIB = 1 << 20
NAME = "stable_memory.bin"
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@attrs.define
class Image:
    """An image in memory, as a source; half of every page compresses away."""

    content: bytearray
    chance: random.Random
    day: int = 0
    kind: str = "canister-snapshot"
    source_id: str = "aaaaa-aa"

    @classmethod
    def of(cls, megabytes: int) -> Image:
        """Return the image of the first day."""
        image = cls(content=bytearray(megabytes * MIB), chance=random.Random(7))  # noqa: S311 - the same for all depths
        for page in range(len(image.content) // PAGE_BYTES):
            image.write(page)
        return image

    @property
    def taken_at(self) -> dt.datetime:
        """The moment of its content."""
        return START + self.day * dt.timedelta(days=1)

    def write(self, page: int) -> None:
        """Give a page another content."""
        half = self.chance.randbytes(PAGE_BYTES // 2)
        self.content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = half + half

    def go_on(self, percent: float) -> None:
        """Change pages at random: a day has gone by."""
        pages = len(self.content) // PAGE_BYTES
        for page in self.chance.sample(range(pages), round(pages * percent / 100)):
            self.write(page)
        self.day += 1

    def capture_sections(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> SectionCapture:  # noqa: ARG002
        """Return itself."""
        return self

    def sections(self) -> Iterator[ImageSection | FileSection]:
        """Yield the image."""
        parts = (memoryview(self.content)[at : at + MIB] for at in range(0, len(self.content), MIB))
        yield ImageSection(name=NAME, size_bytes=len(self.content), chunks=parts)

    def result(self) -> CaptureResult:
        """Return that it was complete."""
        return CaptureResult(complete=True, counts={}, details={})


def depth_of(manifest: ArchiveManifest) -> int:
    """Return how many tables reading one page may need."""
    tables = manifest.section(NAME)
    return max(len(segment.tables) for segment in tables.segments) if isinstance(tables, ImageTables) else 0


def measure(folder: Path, depth: int, megabytes: int, days: int, percent: float) -> list[Row]:
    """Keep a history with chains of one depth, and read where it is deepest."""
    repository = Repository.create(FsspecSink(folder), seal_to=EncryptionKey.generate(), max_chain=depth)
    image = Image.of(megabytes)
    seconds: list[float] = []
    archives: list[str] = []
    for day in range(days + 1):
        if day:
            image.go_on(percent)
        start = time.perf_counter()
        archives.append(back_up(repository, image).archive_id)
        seconds.append(time.perf_counter() - start)
    deepest = max(archives, key=lambda one: depth_of(repository.manifest(one)))

    def restore() -> None:
        collections.deque(restore_stream(repository, deepest, NAME), maxlen=0)

    def check() -> None:
        verify(repository, deepest, record=False).raise_for_findings()

    def stored(kind: str) -> float:
        return sum(path.stat().st_size for path in (folder / kind).rglob("*") if path.is_file()) / 1e6

    case = f"depth {depth}"
    return [
        Row(case=case, metric="tables", ours=stored("indexes"), unit="MB"),
        Row(case=case, metric="packs", ours=stored("packs"), unit="MB"),
        Row(case=case, metric="manifests", ours=stored("archives"), unit="MB"),
        Row(case=case, metric="backup of a day", ours=statistics.median(seconds[1:]), unit="s"),
        Row(
            case=case,
            metric=f"restore, {depth_of(repository.manifest(deepest))} deep",
            ours=median_seconds(restore),
            unit="s",
        ),
        Row(case=case, metric="verify", ours=median_seconds(check), unit="s"),
    ]


def main() -> None:
    """Measure every depth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="size of the image, in MiB")
    parser.add_argument("--days", type=int, default=48)
    parser.add_argument("--percent", type=float, default=1.0, help="of the pages that change every day")
    parser.add_argument("--depths", default="1,6,12,24,48")
    arguments = parser.parse_args()
    found: list[Row] = []
    for depth in map(int, arguments.depths.split(",")):
        with tempfile.TemporaryDirectory(prefix="knowtation-bench-") as folder:
            found += measure(Path(folder), depth, arguments.megabytes, arguments.days, arguments.percent)
    publish("chain", found)


if __name__ == "__main__":
    main()
