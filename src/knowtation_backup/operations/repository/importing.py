"""
Import what lies on a sink already: archives of `Pipeline`, and files of other tools, into a repository.

Exports become records and snapshots become images, so that they join the history that goes on from there; everything
else is kept as the file it is. The files stay where they are.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Generator, Iterator
from typing import Any, Final

import attrs

from ...contracts import ArchiveSink, Clock, Codec, Observer, SectionCapture, ignore_events, utc_now
from ...errors import BackupError, ConfigurationError, InternalError, OperationCancelledError
from ...exports.reader import ReadLimits
from ...exports.sections import payload_capture
from ...model.plans import ArchiveInfo, ArchiveState
from ...model.reports import CaptureResult, Outcome
from ...model.sections import FileSection, Section
from ...model.selection import ArchiveFilter
from ...repository.repository import Repository
from ...snapshots.file_sections import SnapshotFiles
from ...snapshots.source import SNAPSHOT_KIND
from ..adopt import is_foreign
from ..catalog import list_archives
from ..recognising import is_export
from ..unfolding import Unfolded, unfold
from .backup import RepositoryBackupOptions, back_up
from .snapshot_tar import tar_sections

__all__ = ["ImportReport", "StoredFileSource", "import_all"]

PAYLOAD_SECTION: Final = "payload"
"""The section of a file that is kept as it is; its name is in the details."""


@attrs.frozen(kw_only=True)
class StoredFileSource:
    """
    A `SectionSource`: one file on a sink, whatever it is sealed and compressed with.

    Args:
        sink: Where it is.
        key: Which file.
        source_id: What it is a backup of.
        taken_at: When, if the payload does not say it.
        kind: Of what it holds, for files that are not recognised by their bytes.
        keys: Opens sealed files.
        user_id: The tenant of payloads that name none.
        limits: Protection against hostile files.
    """

    sink: ArchiveSink
    key: str
    source_id: str
    taken_at: dt.datetime | None = None
    kind: str = ""
    keys: Codec | None = None
    user_id: str = ""
    limits: ReadLimits = attrs.field(factory=ReadLimits)

    def capture_sections(
        self,
        *,
        taken_at: dt.datetime,
        observer: Observer = ignore_events,  # noqa: ARG002 - nothing to tell
    ) -> SectionCapture:
        """
        Begin a capture; the beginning of the file is read, which says what it is.

        Raises:
            BlobNotFoundError: There is no such file.
            NoMatchingKeyError: It is sealed, and no key at hand opens it.
            ConfigurationError: It is not recognised, and no kind was given, kind ``not_recognised``.
            IntegrityError: It is damaged at its beginning.
        """
        moment = self.taken_at or taken_at
        unfolded = unfold(lambda: self.sink.read(self.key), self.keys, name=self.key)
        kind = unfolded.inside.kind or self.kind
        if is_export(kind):
            payload = unfolded.expand(unfolded.read())
            return payload_capture(
                payload, source_id=self.source_id, taken_at=moment, user_id=self.user_id, limits=self.limits
            )
        if not kind:
            message = f"{self.key} is nothing that is recognised by its bytes"
            raise ConfigurationError(message, kind="not_recognised", hint="pass kind= to keep it as it is")
        return _FileCapture(source=self, unfolded=unfolded, kind=kind, taken_at=moment)


@attrs.define(kw_only=True)
class _FileCapture:
    """A snapshot's tar file, or any other file; a `SectionCapture`."""

    source: StoredFileSource
    unfolded: Unfolded
    kind: str
    taken_at: dt.datetime
    _size_bytes: int = attrs.field(default=0, init=False)
    _files: SnapshotFiles | None = attrs.field(default=None, init=False)
    _finished: bool = attrs.field(default=False, init=False)

    @property
    def source_id(self) -> str:
        """As the source says."""
        return self.source.source_id

    def sections(self) -> Generator[Section, None, None]:
        """Yield the files of a snapshot, or the file itself."""
        payload = self._counted(self.unfolded.expand(self.unfolded.read()))
        with contextlib.closing(payload):
            if self.kind == SNAPSHOT_KIND:  # by whatever bytes: what is no tar file of one must not pass for one
                files = self._files = SnapshotFiles(self.source.key)
                yield from tar_sections(payload, files, self.source.key)
            else:
                yield FileSection(name=PAYLOAD_SECTION, chunks=payload)
        self._finished = True

    def _counted(self, chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
        for chunk in chunks:
            self._size_bytes += len(chunk)
            yield chunk

    def result(self) -> CaptureResult:
        """Return what was found."""
        if not self._finished:
            raise InternalError("a capture has a result only when it was read to its end")
        counts = {"payload_bytes": self._size_bytes}
        details: dict[str, Any] = {"file": self.source.key}
        if self._files is not None:
            details |= {"digests": self._files.digests(), "left_out": self._files.left_out}
        return CaptureResult(complete=True, counts=counts, details=details)


@attrs.frozen(kw_only=True)
class ImportReport:
    """What `import_all` did."""

    imported: dict[str, str]
    """Ids in the repository by the names of files."""
    present: tuple[str, ...]
    """Files that the repository has already."""
    failed: dict[str, BackupError]
    """Files that could not be imported, and why; they stay what they are."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when a file could not be imported."""
        return Outcome.PARTIAL if self.failed else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line for each file."""
        lines = [f"{name} -> {archive_id}" for name, archive_id in self.imported.items()]
        lines += [f"{name}: there already" for name in self.present]
        lines += [f"NOT imported {name}: {error}" for name, error in self.failed.items()]
        return "\n".join([*lines, f"{len(self.imported)} imported, {len(self.failed)} not"])


def import_all(  # noqa: PLR0913 - parts with defaults
    repository: Repository,
    sink: ArchiveSink,
    keys: Codec | None = None,
    *,
    source_id: str = "",
    wanted: ArchiveFilter | None = None,
    options: RepositoryBackupOptions | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> ImportReport:
    """
    Import every archive and every file of other tools that a listing shows, oldest first; repeat it to go on.

    Args:
        repository: Where to; a writer key is enough.
        sink: Where they are.
        keys: Opens those that are sealed.
        source_id: What files are backups of that do not say it; with the canister id or host of the backups that go
            on, they join their series.
        wanted: Which; `None` means all but those in the trash.
        options: For all of them; tags of archives are kept as well. The set id says which file was imported.
        observer: Told what happens.
        clock: Dates the backups.

    Raises:
        SinkError: The sink could not be listed.
    """
    chosen = options or RepositoryBackupOptions()
    there = {found.manifest.set_id for found in repository.archives() if found.manifest is not None}
    imported: dict[str, str] = {}
    present: list[str] = []
    failed: dict[str, BackupError] = {}
    for info in reversed(list_archives(sink, wanted or ArchiveFilter())):
        if info.state not in {ArchiveState.COMPLETE, ArchiveState.INCOMPLETE} and not is_foreign(info):
            continue
        set_id = f"import-{info.short_id}"
        if set_id in there:
            present.append(info.archive_id)
            continue
        tagged = attrs.evolve(chosen, set_id=set_id, tags=tuple(dict.fromkeys((*chosen.tags, *info.tags))))
        source = _source(info, sink, keys, source_id)
        try:
            report = back_up(repository, source, options=tagged, observer=observer, clock=clock)
        except OperationCancelledError:
            raise
        except BackupError as error:
            failed[info.archive_id] = error
        else:
            imported[info.archive_id] = report.archive_id
    return ImportReport(imported=imported, present=tuple(present), failed=failed)


def _source(info: ArchiveInfo, sink: ArchiveSink, keys: Codec | None, source_id: str) -> StoredFileSource:
    return StoredFileSource(
        sink=sink,
        key=info.archive_id,
        source_id=info.source_id or source_id or info.series,
        taken_at=info.taken_at,
        kind=info.kind,
        keys=keys,
    )
