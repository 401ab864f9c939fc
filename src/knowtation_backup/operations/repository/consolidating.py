"""
Consolidate: make a full archive from a stored one, without its source, so that old packs can go.

The archive is read, every byte compared with what was backed up, and written as if it were captured now. What was
written must have the roots of what was read before it is published, and is read back before it counts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import attrs

from ..._engine.steady import steady_seconds
from ...contracts import Clock, Observer, ignore_events, utc_now
from ...errors import IntegrityError
from ...exports.sections import record_names
from ...model.reports import Outcome, VerifyLevel
from ...repository.manifest import ArchiveManifest, FileTable, ImageTables, RecordTables, SectionTables
from ...repository.repository import Repository
from ...repository.writer import WriteOptions
from ..marks import list_marks, quarantine, read_standing
from .archive_source import ArchiveCapture, ArchiveSource, IdentifyRecord
from .backup import DETAILS_SECTION, RepositoryBackupOptions, RepositoryBackupReport, store
from .verify_reports import ArchiveVerifyReport
from .verifying import verify

__all__ = ["ConsolidationReport", "consolidate"]


@attrs.frozen(kw_only=True)
class ConsolidationReport:
    """A full archive that was made from another one."""

    consolidated_from: str
    """Id of the archive that was read; it is still there."""
    backup: RepositoryBackupReport
    verification: ArchiveVerifyReport
    """Of the new archive, read back."""

    @property
    def archive_id(self) -> str:
        """Of the new archive."""
        return self.backup.archive_id

    @property
    def ok(self) -> bool:
        """Whether the new archive proved good, so that it may take the place of the other."""
        return self.verification.ok

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `DIFFERENT` when something was found, so that the new archive is in quarantine."""
        return Outcome.OK if self.ok else Outcome.DIFFERENT

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        return f"made from {self.consolidated_from}:\n{self.backup}\n{self.verification}"


def consolidate(  # noqa: PLR0913 - the last five have defaults
    repository: Repository,
    archive_id: str,
    *,
    identify: IdentifyRecord = record_names,
    write: WriteOptions | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
    monotonic: Callable[[], float] = steady_seconds,
) -> ConsolidationReport:
    """
    Make a full archive with the content of a stored one: nothing of older archives is needed to read it.

    It has the same moment, content, counts, warnings and set, and the tags that hold now; pins and notes stay with the
    other. `ArchiveManifest.consolidated_from` says which that is. It is the newer one of both, so that the next backup
    is compared with it if this was the newest archive; and once it has proved good, the other no longer counts for
    retention. Costs reading the archive twice, and storing it once. Memory: as `back_up`.

    Records of erased tenants are left out, and a warning says so.

    Args:
        repository: Open to be read; needs the rights to list, read and create.
        archive_id: Which archive; its whole id.
        identify: Finds owner and name of records, see `ArchiveSource`.
        write: How content is stored; `None` means the defaults.
        observer: Told what happens, as by `back_up` and `verify`.
        clock: Dates the new archive's making.
        monotonic: Seconds; measures durations.

    Raises:
        BlobNotFoundError: There is no such archive.
        ConfigurationError: The repository is open to be written only, kind ``write_only``.
        IntegrityError: The archive is damaged, or what was written has other roots (``roots_differ``); nothing was
            published. `DecryptionError`: it does not open.
        PlanStaleError: It took longer than half the repository's grace period, see `back_up`.
        SinkError: Reading or storing failed.
    """
    _ = repository.read_keys  # before anything is read
    manifest = repository.manifest(archive_id)
    source = _Watched(source=ArchiveSource(repository=repository, manifest=manifest, identify=identify))
    standing = read_standing(repository.sink, list_marks(repository.sink, archive_id))
    tags = sorted((set(manifest.tags) | set(standing.tags)) - set(standing.removed_tags))
    backup = store(
        repository,
        source,
        options=RepositoryBackupOptions(
            tags=tuple(tags), set_id=manifest.set_id, full=True, write=write or WriteOptions()
        ),
        observer=observer,
        clock=clock,
        monotonic=monotonic,
        consolidated_from=archive_id,
        approve=lambda made: _require_same(manifest, made, source),
    )
    verification = verify(repository, backup.archive_id, level=VerifyLevel.CONTENT, observer=observer, clock=clock)
    if not verification.ok:
        reason = f"made from {archive_id}, and not whole when it was read back"
        quarantine(repository.sink, backup.archive_id, reason=reason, clock=clock)
    return ConsolidationReport(consolidated_from=archive_id, backup=backup, verification=verification)


@attrs.define(kw_only=True)
class _Watched:
    """The archive as a source that says afterwards what of it was left out."""

    source: ArchiveSource
    capture: ArchiveCapture | None = None

    def capture_sections(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> ArchiveCapture:
        """Begin to read the archive."""
        self.capture = self.source.capture_sections(taken_at=taken_at, observer=observer)
        return self.capture

    def erased(self, section: str) -> int:
        """Return how many records of a section belonged to erased tenants."""
        return self.capture.erased.get(section, 0) if self.capture is not None else 0


def _require_same(old: ArchiveManifest, made: ArchiveManifest, source: _Watched) -> None:
    """Require that both have the same sections with the same roots, details aside: another release may write others."""
    before = {section.name: section for section in old.sections if section.name != DETAILS_SECTION}
    after = {section.name: section for section in made.sections if section.name != DETAILS_SECTION}
    differing = sorted(before.keys() ^ after.keys())
    differing += [
        name
        for name in sorted(before.keys() & after.keys())
        if not _is_same(before[name], after[name], source.erased(name))
    ]
    if differing:
        message = f"{', '.join(differing)[:200]} would be another than in the archive it was made from; not published"
        hint = "verify the archive; if it is whole, this is a bug: please report it"
        raise IntegrityError(message, kind="roots_differ", hint=hint, sections=differing[:20])


def _is_same(before: SectionTables, after: SectionTables, erased: int) -> bool:
    match before, after:
        case ImageTables(), ImageTables():
            return (before.size_bytes, before.root) == (after.size_bytes, after.root)
        case RecordTables(), RecordTables():
            # Roots are over all records. Each that is left was compared with its id, so it is enough to count them.
            return before.count == after.count + erased and (erased > 0 or before.root == after.root)
        case FileTable(), FileTable():
            return [piece.piece_id for piece in before.pieces] == [piece.piece_id for piece in after.pieces]
        case _:
            return False
