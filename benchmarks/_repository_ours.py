"""
Our side of the repository's benchmark: one function for each verb, called in a fresh process.

The repository is sealed to a raw key, and everything else is as the library has it by default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from _harness import in_fresh_process
from _repository_peers import Cost, Tool
from knowtation_backup import (
    EncryptionKey,
    ExportFileSource,
    ExportForm,
    ExportReader,
    FsspecSink,
    Repository,
    RepositoryPipeline,
    SectionSource,
    SnapshotDirectorySource,
)

KEY = EncryptionKey(raw=bytes(range(32)))
CANISTER = "bnz7o-iuaaa-aaaaa-qaaaa-cai"


@attrs.frozen(kw_only=True)
class Place:
    """Where a repository is."""

    url: str
    options: dict[str, Any] | None = attrs.field(default=None, repr=False)

    def sink(self) -> FsspecSink:
        """Open it."""
        return FsspecSink(self.url, storage_options=self.options)


def create(place: Place) -> None:
    """Make a repository."""
    with place.sink() as sink:
        Repository.create(sink, seal_to=[KEY])


def _backup(place: Place, source: SectionSource) -> None:
    with place.sink() as sink:
        report = RepositoryPipeline(repository=Repository.open(sink, [KEY]), sources={"live": source}).backup()
        for member in report.failed:
            if member.error is not None:
                raise member.error


def backup_directory(place: Place, directory: str) -> None:
    """Back up a snapshot directory."""
    _backup(place, SnapshotDirectorySource(path=directory, canister_id=CANISTER))


def backup_export(place: Place, payload_file: str, content_root: bool) -> None:  # noqa: FBT001 - called by position
    """Back up an export, record by record."""
    _backup(place, ExportFileSource(path=payload_file, source_id=CANISTER, content_root=content_root))


def restore(place: Place, archive: int, directory: str) -> None:
    """Restore archive number *archive*, counted from the oldest, into a directory."""
    with place.sink() as sink:
        pipeline = RepositoryPipeline(repository=Repository.open(sink, [KEY]))
        pipeline.restore(pipeline.repository.archive_ids()[archive], directory, form=ExportForm.FULL)


def verify(place: Place) -> None:
    """Read back and check everything stored."""
    with place.sink() as sink:
        RepositoryPipeline(repository=Repository.open(sink, [KEY])).verify_all().raise_for_findings()


def content_root(path: Path) -> str:
    """Return the content root of an export file."""
    with path.open("rb") as file:
        return ExportReader(iter(lambda: file.read(1 << 20), b"")).read_all().content_root


class Ours(Tool):
    """
    The same for us as for the others.

    Wall time is that of a new process, with the start of Python and the imports; ``inner_seconds`` is the call alone,
    as in a program that runs already.
    """

    name = "ours"
    content_root = True

    def __init__(self, folder: Path, place: Place | None = None) -> None:
        super().__init__(folder)
        self.place = place or Place(url=os.fspath(self.stored))

    @classmethod
    def missing(cls) -> str | None:
        """Return `None`: there is nothing to install."""
        return None

    def create(self) -> None:
        """Make a repository."""
        super().create()
        self._call(create)

    def _backup(self, source: Path, number: int) -> Cost:
        """Back up a snapshot directory, or the one export file in *source*."""
        del number
        if (source / "metadata.json").exists():
            return self._call(backup_directory, os.fspath(source))
        (payload,) = source.iterdir()
        return self._call(backup_export, os.fspath(payload), self.content_root)

    def gave_back(self, path: Path, folder: Path) -> bool:
        """Whether a file is among what was restored; of an export, whether its content is."""
        restored = folder / "records.json"
        if not restored.exists():
            return super().gave_back(path, folder)
        return content_root(path) == content_root(restored)

    def _restore(self, number: int, target: Path) -> Cost:
        return self._call(restore, number, os.fspath(target / "live"))

    def _verify(self, source: Path, number: int) -> Cost:
        del source, number
        return self._call(verify)

    def _call(self, function: Callable[..., None], *arguments: Any) -> Cost:
        start = time.perf_counter()
        measured = in_fresh_process(function, self.place, *arguments)
        return Cost(
            wall_seconds=time.perf_counter() - start,
            cpu_seconds=measured.cpu_seconds,
            peak_bytes=measured.peak_bytes,
            inner_seconds=measured.wall_seconds,
        )


class Rootless(Ours):
    """Ours without the content root of exports: an exporter has computed it already, and no peer computes any."""

    name = "ours, rootless"
    content_root = False
