"""
Restore an archive of a repository: into a new directory, which appears complete or not at all, or as a stream.

Every byte is compared with what was backed up before it is written; what does not compare is never published.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from ..._engine.local_files import os_errors_translated
from ..._engine.new_tree import NewTree, TreeFile, is_free
from ...contracts import Clock, Observer, ignore_events, utc_now
from ...errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    PlanStaleError,
    TargetNotReadyError,
)
from ...exports.sections import HEADER_SECTION
from ...model.events import Event
from ...model.moments import stamp
from ...repository.content import ArchiveReader
from ...repository.manifest import ArchiveManifest, FileTable, ImageTables, RecordTables, SectionTables
from ...repository.repository import Repository
from ...snapshots.layout import CHUNK_STORE, METADATA_NAME
from .backup import DETAILS_SECTION
from .restore_reports import RepositoryRestorePlan, RepositoryRestoreReport, RestoredSection
from .stored_export import ExportForm, StoredExport

__all__ = [
    "RepositoryRestorePlan",
    "RepositoryRestoreReport",
    "RestoredSection",
    "apply_restore",
    "plan_restore",
    "restore_directory",
    "restore_stream",
]

_ZEROS: Final = bytes(1 << 20)
"""As much as parts of images have at most."""


def plan_restore(  # noqa: PLR0913 - the last four have defaults
    repository: Repository,
    archive_id: str,
    directory: str | os.PathLike[str],
    *,
    sections: Iterable[str] | None = None,
    form: ExportForm = ExportForm.RECORDS,
    details: bool = False,
    replace: bool = False,
) -> RepositoryRestorePlan:
    """
    Return what `restore_directory` would do with the same arguments. A writer key is enough, and one read.

    Raises:
        TargetNotReadyError: Something is at the directory already.
        ConfigurationError: There is no such section (``no_such_section``), or two would be one file
            (``ambiguous_path``).
        BlobNotFoundError: There is no such archive.
        IntegrityError: Its manifest is damaged; `SinkError`: it cannot be read.
    """
    target = Path(directory).absolute()
    with os_errors_translated(f"looking at {target}"):
        free = is_free(target)
    if not free and not replace:
        raise _not_ready(target)
    manifest = repository.manifest(archive_id)
    chosen = _chosen(manifest, sections, details=details)
    packs = {pack for section in chosen for pack in _packs(section)}
    planned = tuple(_planned(section, manifest, form) for section in chosen)
    _check_paths(planned)
    return RepositoryRestorePlan(
        archive_id=archive_id,
        directory=target,
        manifest=manifest,
        sections=planned,
        packs=len(packs),
        pack_bytes=sum(manifest.packs[pack].size_bytes for pack in packs),
        form=form,
        location=repository.sink.location,
        repository_id=repository.config.repository_id,
        replaces=not free,
        whole=sections is None,
    )


def apply_restore(
    repository: Repository,
    plan: RepositoryRestorePlan,
    *,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
    monotonic: Callable[[], float] = time.monotonic,
) -> RepositoryRestoreReport:
    """
    Do what a plan of `plan_restore` says, as `restore_directory` does it, or nothing.

    Args:
        repository: The one the plan was made for, open to be read.
        plan: As it was made; printing it says what happens.
        observer: Told what happens.
        clock: Dates what is moved aside.
        monotonic: Seconds; measures the duration.

    Raises:
        PlanStaleError: The archive is gone or another, or something is at the directory where nothing was, or nothing
            where something was; nothing was written.
        ConfigurationError: The plan is of another repository (``wrong_repository``), or the repository is open to be
            written only (``write_only``).
        BackupError: As `restore_directory`.
    """
    if plan.repository_id != repository.config.repository_id:
        raise ConfigurationError("the plan is of another repository", kind="wrong_repository")
    try:
        unchanged = repository.manifest(plan.archive_id) == plan.manifest
    except BlobNotFoundError as error:
        message = f"{plan.archive_id} is gone since the restore was planned"
        raise PlanStaleError(message, hint="plan again with another archive") from error
    if not unchanged:
        raise PlanStaleError(f"{plan.archive_id} is another archive than was planned", hint="plan again")
    with os_errors_translated(f"looking at {plan.directory}"):
        free = is_free(plan.directory)
    if free == plan.replaces:
        message = f"there is {'nothing' if free else 'something'} at {plan.directory} now, unlike when this was planned"
        raise PlanStaleError(message, hint="look what is there, and plan again", path=str(plan.directory))
    return _restore(repository, plan, replace=plan.replaces, observer=observer, clock=clock, monotonic=monotonic)


def restore_directory(  # noqa: PLR0913 - the last seven have defaults
    repository: Repository,
    archive_id: str,
    directory: str | os.PathLike[str],
    *,
    sections: Iterable[str] | None = None,
    form: ExportForm = ExportForm.RECORDS,
    details: bool = False,
    replace: bool = False,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
    monotonic: Callable[[], float] = time.monotonic,
) -> RepositoryRestoreReport:
    """
    Write an archive into a new directory, which appears complete or not at all: `plan_restore`, applied at once.

    Images and files are byte for byte what was backed up, so that `icp` and `dfx` read a restored snapshot; pages of
    zeros become holes. Records are written as a file of the export. Files get mode 0600, directories 0700, and
    everything is on the disk when this returns.

    Memory: about 150 MB whatever the size of images; of exports the records of the largest tenant, and 200 bytes for
    each record.

    Args:
        repository: Open to be read.
        archive_id: Which.
        directory: Where to; nothing may be there but an empty directory.
        sections: Names of what to restore; `None`: everything but ``details.json``.
        form: How records of an export are written; other records become lines, values one after another.
        details: Whether ``details.json``, what the capture found, is written as well.
        replace: Whether something may be at the directory: when everything is written, it is renamed to
            ``<name>.pre-restore-<stamp>``, and never removed.
        observer: Told what happens.
        clock: Gives that stamp.
        monotonic: Seconds; measures the duration.

    Raises:
        TargetNotReadyError: Something is at the directory already, or came to be there meanwhile; it is not touched.
        ConfigurationError: There is no such section (``no_such_section``), two would be one file
            (``ambiguous_path``), or the repository is open to be written only (``write_only``).
        BlobNotFoundError: There is no such archive, or something of it is missing.
        IntegrityError: Something is not what was backed up; `DecryptionError`: it does not open.
        SinkError: Reading or writing failed.
    """
    plan = plan_restore(
        repository, archive_id, directory, sections=sections, form=form, details=details, replace=replace
    )
    return _restore(repository, plan, replace=replace, observer=observer, clock=clock, monotonic=monotonic)


def _restore(  # noqa: PLR0913 - keyword only
    repository: Repository,
    plan: RepositoryRestorePlan,
    *,
    replace: bool,
    observer: Observer,
    clock: Clock,
    monotonic: Callable[[], float],
) -> RepositoryRestoreReport:
    began = monotonic()
    keys, manifest, archive_id, form = repository.read_keys, plan.manifest, plan.archive_id, plan.form
    reader = ArchiveReader(repository.sink, keys, manifest, tenant_sink=repository.tenant_sink)
    export = StoredExport(manifest=manifest, reader=reader, keys=repository.writer_key)
    facts = {"archive_id": archive_id, "sections": len(plan.sections), "size_bytes": plan.size_bytes}
    observer(Event(name="restore.started", fields=facts))
    written: list[RestoredSection] = []
    try:
        aside = f"{plan.directory.name}.pre-restore-{stamp(clock())}" if replace else None
        with NewTree(plan.directory, aside=aside) as tree:
            for section in plan.sections:
                with tree.file(section.path) as file:
                    _write(file, _section(manifest, section.name), reader, export, form)
                written.append(attrs.evolve(section, size_bytes=file.size_bytes))
            if plan.whole and manifest.section(METADATA_NAME) is not None:
                tree.directory(CHUNK_STORE)  # tools expect it, though nothing is in it
            tree.publish()
    except BaseException as error:
        found = _not_ready(plan.directory) if isinstance(error, BlobExistsError) else error
        kind = found.kind if isinstance(found, BackupError) else type(found).__name__
        observer(Event(name="restore.failed", fields={"archive_id": archive_id, "error": kind}))
        if found is error:
            raise
        raise found from error
    report = RepositoryRestoreReport(
        archive_id=archive_id,
        directory=plan.directory,
        complete=manifest.complete,
        sections=tuple(written),
        duration_seconds=monotonic() - began,
        moved_aside=tree.moved_to,
        warnings=tuple(export.findings),
    )
    observer(Event(name="restore.finished", fields={"archive_id": archive_id, "size_bytes": report.size_bytes}))
    return report


def restore_stream(
    repository: Repository, archive_id: str, section: str, *, form: ExportForm = ExportForm.RECORDS
) -> Generator[bytes, None, None]:
    """
    Yield one section in order, each piece compared with what was backed up before it is yielded.

    Nothing is read before the first piece is asked for. Whoever stops early closes the generator. A failure after some
    pieces means that what came before is not the whole.

    Raises (while iterating):
        BackupError: As `restore_directory`.
    """
    keys = repository.read_keys
    manifest = repository.manifest(archive_id)
    table = _section(manifest, section)
    reader = ArchiveReader(repository.sink, keys, manifest, tenant_sink=repository.tenant_sink)
    match table:
        case ImageTables():
            for part in reader.image(table):
                yield _ZEROS[: part.size_bytes] if part.data is None else bytes(part.data)
        case FileTable():
            yield from reader.file(table)
        case RecordTables():
            export = StoredExport(manifest=manifest, reader=reader, keys=repository.writer_key)
            yield from _record_chunks(table, reader, export, form)


def _write(file: TreeFile, table: SectionTables, reader: ArchiveReader, export: StoredExport, form: ExportForm) -> None:
    match table:
        case ImageTables():
            for part in reader.image(table):
                if part.data is None:
                    file.skip(part.size_bytes)
                else:
                    file.write(part.data)
        case FileTable():
            for piece in reader.file(table):
                file.write(piece)
        case RecordTables():
            for chunk in _record_chunks(table, reader, export, form):
                file.write(chunk)


def _record_chunks(
    table: RecordTables, reader: ArchiveReader, export: StoredExport, form: ExportForm
) -> Iterator[bytes]:
    if _is_export(export.manifest):
        yield from form.chunks(export.entries(table))
        return
    for group in reader.records(table):
        yield b"".join(record.value + b"\n" for record in group)


def _is_export(manifest: ArchiveManifest) -> bool:
    return manifest.section(HEADER_SECTION) is not None


def _chosen(manifest: ArchiveManifest, names: Iterable[str] | None, *, details: bool) -> Sequence[SectionTables]:
    if names is None:
        return [section for section in manifest.sections if details or section.name != DETAILS_SECTION]
    wanted = list(dict.fromkeys([names] if isinstance(names, str) else names))
    if details and DETAILS_SECTION not in wanted:
        wanted.append(DETAILS_SECTION)
    return [_section(manifest, name) for name in wanted]


def _section(manifest: ArchiveManifest, name: str) -> SectionTables:
    found = manifest.section(name)
    if found is None:
        names = ", ".join(section.name for section in manifest.sections)
        message = f"the archive has no section {name!r:.200}"
        raise ConfigurationError(message, kind="no_such_section", hint=f"it has {names:.500}")
    return found


def _packs(section: SectionTables) -> Iterator[int]:
    if isinstance(section, FileTable):
        yield from (piece.pack for piece in section.pieces)
    else:
        yield from (pack for segment in section.segments for pack in segment.packs)


def _planned(section: SectionTables, manifest: ArchiveManifest, form: ExportForm) -> RestoredSection:
    if isinstance(section, RecordTables):
        suffix = form.suffix if _is_export(manifest) else ExportForm.RECORDS.suffix
        return RestoredSection(
            name=section.name,
            kind=section.kind,
            path=section.name + suffix,
            size_bytes=None,
            records=section.count,
        )
    return RestoredSection(name=section.name, kind=section.kind, path=section.name, size_bytes=section.size_bytes)


def _check_paths(sections: Iterable[RestoredSection]) -> None:
    """Refuse a file that would be a directory of another one, or the same file."""
    files: set[str] = set()
    folders: set[str] = set()
    for section in sections:
        parts = section.path.split("/")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if section.path in files | folders or above & files:
            message = f"section {section.name} and another one cannot be restored side by side"
            raise ConfigurationError(message, kind="ambiguous_path", hint="restore one of them, by its name")
        files.add(section.path)
        folders |= above


def _not_ready(directory: Path) -> TargetNotReadyError:
    hint = "choose another place, or move away what is there"
    return TargetNotReadyError(f"there is something at {directory} already", hint=hint, path=str(directory))
