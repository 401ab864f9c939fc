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
from ...errors import BackupError, ConfigurationError, InternalError, OperationCancelledError, PlanStaleError
from ...exports.reader import ReadLimits
from ...exports.sections import payload_capture
from ...model.manifest import SIDE_PREFIX
from ...model.plans import ArchiveInfo, ArchiveState
from ...model.reports import CaptureResult, Finding
from ...model.sections import FileSection, Section
from ...model.selection import ArchiveFilter
from ...repository.repository import Repository
from ...snapshots.file_sections import SnapshotFiles
from ...snapshots.source import SNAPSHOT_KIND
from ..adopt import is_foreign
from ..catalog import list_archives
from ..naming import ForeignName
from ..recognising import is_export
from ..unfolding import Unfolded, unfold
from .backup import RepositoryBackupOptions, back_up
from .folder_source import StoredFolderSource
from .import_reports import ImportItem, ImportPlan, ImportReport, Skipped
from .snapshot_tar import tar_sections
from .stored_folders import StoredFolder, find_folders

__all__ = ["ImportPlan", "ImportReport", "StoredFileSource", "apply_import", "import_all", "plan_import"]

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


def plan_import(
    repository: Repository,
    sink: ArchiveSink,
    *,
    source_id: str = "",
    wanted: ArchiveFilter | None = None,
) -> ImportPlan:
    """
    Return what `import_all` would do with the same arguments; nothing happens.

    One listing, and small reads: the manifests of archives, and of snapshots in folders what says whose they are.

    Args:
        repository: Where to; a writer key is enough.
        sink: Where they are.
        source_id: What files are backups of that do not say it.
        wanted: Which; `None` means all but those in the trash.

    Raises:
        SinkError: The sink could not be listed.
    """
    chosen, skipped = _found(sink, wanted or ArchiveFilter())
    there = _there(repository)
    return ImportPlan(
        location=sink.location,
        items=tuple(item for item in chosen if item.set_id not in there),
        present=tuple(item.key for item in chosen if item.set_id in there),
        skipped=tuple(skipped),
        source_id=source_id,
    )


def apply_import(  # noqa: PLR0913 - parts with defaults
    repository: Repository,
    sink: ArchiveSink,
    plan: ImportPlan,
    keys: Codec | None = None,
    *,
    options: RepositoryBackupOptions | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> ImportReport:
    """
    Import what a plan names, and nothing else; what the repository got meanwhile is not imported again.

    Args:
        repository: Where to; a writer key is enough.
        sink: The one the plan was made for.
        plan: As `plan_import` made it.
        keys: Opens what is sealed.
        options: As `import_all`.
        observer: Told what happens.
        clock: Dates the backups.

    Raises:
        PlanStaleError: Something that is to be imported is gone, or has another size or other files; nothing happened.
        SinkError: The sink could not be listed.
    """
    found, _ = _found(sink, ArchiveFilter(include_trashed=True))
    now = {item.key: item.blobs for item in found}
    changed = [item.key for item in plan.items if now.get(item.key) != item.blobs]
    if plan.location != sink.location or changed:
        what = f"{changed[0]} is not what it was" if changed else f"the plan is of {plan.location}"
        raise PlanStaleError(f"{what} when the import was planned", hint="plan again", keys=changed[:20])
    there = _there(repository)
    fresh = attrs.evolve(
        plan,
        items=tuple(item for item in plan.items if item.set_id not in there),
        present=(*plan.present, *(item.key for item in plan.items if item.set_id in there)),
    )
    return _run(repository, sink, fresh, keys, options or RepositoryBackupOptions(), observer, clock)


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
    Import every archive, and every file and folder of other tools, that a listing shows; repeat it to go on.

    The oldest come first. Folders are those that `stored_folders` recognises; whatever else lies on the sink is named
    in the report. This is `plan_import` and `apply_import` in one.

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
    plan = plan_import(repository, sink, source_id=source_id, wanted=wanted)
    return _run(repository, sink, plan, keys, options or RepositoryBackupOptions(), observer, clock)


def _run(  # noqa: PLR0913, PLR0917 - what, where, and the usual parts
    repository: Repository,
    sink: ArchiveSink,
    plan: ImportPlan,
    keys: Codec | None,
    options: RepositoryBackupOptions,
    observer: Observer,
    clock: Clock,
) -> ImportReport:
    imported: dict[str, str] = {}
    failed: dict[str, BackupError] = {}
    warnings: dict[str, tuple[Finding, ...]] = {}
    for item in plan.items:
        tags = tuple(dict.fromkeys((*options.tags, *item.archive.tags)))
        tagged = attrs.evolve(options, set_id=item.set_id, tags=tags)
        source = _source(item, sink, keys, plan.source_id)
        try:
            report = back_up(repository, source, options=tagged, observer=observer, clock=clock)
        except OperationCancelledError:
            raise
        except BackupError as error:
            failed[item.key] = error
        else:
            imported[item.key] = report.archive_id
            if report.warnings:
                warnings[item.key] = report.warnings
    return ImportReport(imported=imported, present=plan.present, failed=failed, skipped=plan.skipped, warnings=warnings)


def _found(sink: ArchiveSink, wanted: ArchiveFilter) -> tuple[list[ImportItem], list[Skipped]]:
    """Return what can be imported, oldest first, and everything else."""
    blobs = {info.key: info for info in sink.list()}
    listed: list[tuple[ArchiveInfo, StoredFolder | None]] = [(info, None) for info in list_archives(sink)]
    listed += [(folder.described(sink), folder) for folder in find_folders(blobs.values())]
    chosen: list[ImportItem] = []
    skipped: list[Skipped] = []
    for info, folder in sorted(listed, key=lambda pair: pair[0].age_key):
        reason = _refusal(info, wanted, is_folder=folder is not None)
        artifact = blobs.get(info.archive_id)
        if folder is None and artifact is None:
            reason = reason or "its file is gone"
        if reason:
            skipped.append(Skipped(key=info.archive_id, reason=reason))
        elif folder is not None:
            chosen.append(ImportItem(archive=info, blobs=folder.files, folder=folder))
        elif artifact is not None:
            chosen.append(ImportItem(archive=info, blobs=(artifact,)))
    known = {key for info, _ in listed for key in info.keys}
    skipped += [Skipped(key=key, reason=_unknown(key)) for key in blobs if key not in known]
    return chosen, skipped


def _refusal(info: ArchiveInfo, wanted: ArchiveFilter, *, is_folder: bool) -> str:
    if not wanted.matches(info):
        trashed = info.standing.trashed_at is not None and not wanted.include_trashed
        return "it is in the trash" if trashed else "it is not among those wanted"
    if info.state in {ArchiveState.COMPLETE, ArchiveState.INCOMPLETE} or is_foreign(info) or is_folder:
        return ""
    return "it is damaged" if info.state is ArchiveState.DAMAGED else "it is a backup of ours that was never finished"


def _unknown(key: str) -> str:
    if key.startswith(SIDE_PREFIX):
        return "it belongs to no archive that is there"
    if ForeignName.parse(key.rpartition("/")[2]) is not None:
        return "files in folders are not looked for: open the sink there"
    return "no tool that is known gives such names: StoredFileSource(kind=...) keeps it as it is"


def _there(repository: Repository) -> set[str]:
    return {found.manifest.set_id for found in repository.archives() if found.manifest is not None}


def _source(
    item: ImportItem, sink: ArchiveSink, keys: Codec | None, source_id: str
) -> StoredFileSource | StoredFolderSource:
    if item.folder is not None:
        return StoredFolderSource(sink=sink, folder=item.folder, source_id=source_id)
    info = item.archive
    return StoredFileSource(
        sink=sink,
        key=info.archive_id,
        source_id=info.source_id or source_id or info.series,
        taken_at=info.taken_at,
        kind=info.kind,
        keys=keys,
    )
