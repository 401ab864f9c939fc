"""`RepositoryPipeline`: sources, a repository and what happens between them, with one method a verb."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor

import attrs

from .contracts import (
    ArchiveSink,
    BackupSource,
    Clock,
    Codec,
    Observer,
    RetentionPolicy,
    SectionSource,
    ignore_events,
    utc_now,
)
from .errors import ConfigurationError
from .exports.sections import ExportSections, StoredEntries
from .model.marks import Mark
from .model.plans import ArchiveInfo, ForgetPlan
from .model.reports import ForgetReport, Sample, VerifyLevel
from .model.selection import ArchiveFilter
from .operations.backup import ReadBack
from .operations.forget import TRASH_GRACE
from .operations.repository import marks
from .operations.repository.backup import RepositoryBackupOptions
from .operations.repository.catalog import find, list_archives, resolve
from .operations.repository.consolidating import ConsolidationReport, consolidate
from .operations.repository.copy_reports import LagReport, RepositoryCopyReport
from .operations.repository.copying import copy
from .operations.repository.difference_reports import RepositoryDiff
from .operations.repository.differences import diff, diff_live
from .operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash, plan_forget
from .operations.repository.history import history
from .operations.repository.history_reports import RecordHistory
from .operations.repository.import_reports import ImportPlan, ImportReport
from .operations.repository.importing import apply_import, import_all, plan_import
from .operations.repository.lock_reports import LockPlan, LockReport
from .operations.repository.locking import LOCK_AHEAD, apply_extend_locks, plan_extend_locks
from .operations.repository.many import BackupSetReport, back_up_set
from .operations.repository.note_difference import NoteDiff, diff_note
from .operations.repository.prune_reports import PrunePlan, PruneReport
from .operations.repository.pruning import apply_prune, plan_prune
from .operations.repository.repairing import RepairPlan, RepairReport, apply_repair, plan_repair
from .operations.repository.replicating import lag, replicate
from .operations.repository.restoring import (
    RepositoryRestorePlan,
    RepositoryRestoreReport,
    apply_restore,
    plan_restore,
    restore_directory,
    restore_stream,
)
from .operations.repository.selecting import restore_records
from .operations.repository.signing import sign_archive
from .operations.repository.stored_export import ExportForm
from .operations.repository.timeline import AsOf, MissingReport, as_of, missing
from .operations.repository.verify_reports import ArchiveVerifyReport, RepositoryVerifyReport
from .operations.repository.verifying import verify, verify_all
from .operations.repository.waste import Waste, measure_waste
from .repository.manifest import ArchiveManifest
from .repository.repository import Repository

__all__ = ["AnySource", "RepositoryPipeline"]

AnySource = SectionSource | BackupSource | Callable[[], SectionSource]
"""A source of sections, an exporter, or a function that makes a source where it is needed."""


@attrs.frozen(kw_only=True)
class RepositoryPipeline:
    """
    Sources and a repository.

    Holds no state of its own: two pipelines know nothing of each other. Every verb says what it does in the operation
    of the same name. Archives are named by id, by the beginning of an id, by short id, or as ``latest`` and
    ``latest-1``, of one series as ``latest:<series>``.
    """

    repository: Repository
    sources: Mapping[str, AnySource] = attrs.field(factory=dict)
    """What `backup` reads, by names for its report. Exporters are stored as records."""
    pillars: Sequence[tuple[str, str]] = ()
    """Pairs of names, snapshot and export of one hub, that `backup` compares."""
    max_gap: dt.timedelta = dt.timedelta(hours=1)
    """Between the two of a pair."""
    retention: RetentionPolicy | None = None
    """Needed for `plan_forget` only."""
    options: RepositoryBackupOptions = attrs.field(factory=RepositoryBackupOptions)
    executor: Executor | None = attrs.field(default=None, repr=False)
    """Runs the sources; `None`: two threads."""
    trash_grace: dt.timedelta = TRASH_GRACE
    """How long forgotten archives stay in the trash."""
    observer: Observer = attrs.field(default=ignore_events, repr=False)
    clock: Clock = attrs.field(default=utc_now, repr=False)

    # -- write ------------------------------------------------------------------------------------------------------

    def backup(self, *names: str) -> BackupSetReport:
        """Back up all sources, or those named, as one set; what fails is reported, and does not keep others from it."""
        unknown = sorted(set(names) - self.sources.keys())
        if unknown:
            raise ConfigurationError(f"no source is called {', '.join(unknown)[:200]}", kind="bad_option")
        chosen = {name: source for name, source in self.sources.items() if not names or name in names}
        return back_up_set(
            self.repository,
            {name: _sections(source) for name, source in chosen.items()},
            executor=self.executor,
            options=self.options,
            pillars=[pair for pair in self.pillars if set(pair) <= chosen.keys()],
            max_gap=self.max_gap,
            observer=self.observer,
            clock=self.clock,
        )

    # -- look -------------------------------------------------------------------------------------------------------

    def list(self, wanted: ArchiveFilter | None = None) -> tuple[ArchiveInfo, ...]:
        """Return archives, newest first, damaged ones shown as such; without *wanted* all but those in the trash."""
        return tuple(list_archives(self.repository, wanted or ArchiveFilter()))

    def find(self, archive_id: str = "latest", *, verified: bool = False) -> ArchiveInfo:
        """Return the one archive that *archive_id* names; of those that proved good, if *verified*."""
        return find(self.repository, archive_id, verified=verified)

    def manifest(self, archive_id: str = "latest") -> ArchiveManifest:
        """Return the manifest of an archive."""
        return self.repository.manifest(self._resolve(archive_id))

    def as_of(
        self,
        moment: dt.datetime,
        *,
        kind: str | None = None,
        source_id: str | None = None,
        tenant: str | None = None,
    ) -> AsOf:
        """Return the newest complete archive at or before a moment, of a tenant if one is named, and the gap."""
        return as_of(self.repository, moment, kind=kind, source_id=source_id, tenant=tenant)

    def missing(self, since: dt.datetime, *, expected: Iterable[str] = (), tenants: bool = False) -> MissingReport:
        """Return which series, seen or *expected*, and which tenants have no complete archive since a moment."""
        return missing(self.repository, since, expected=expected, tenants=tenants)

    def diff(self, before: str, after: str = "latest", *, names: bool = True) -> RepositoryDiff:
        """Compare two archives: pages, files, notes, proposals, settings."""
        return diff(self.repository, self._resolve(before), self._resolve(after), names=names)

    def diff_note(self, tenant: str, vault: str, path: str, before: str, after: str = "latest") -> NoteDiff:
        """Compare one note of two archives: fields of its front matter, and line by line."""
        return diff_note(self.repository, self._resolve(before), self._resolve(after), tenant, vault, path)

    def diff_live(self, archive_id: str, source: AnySource) -> RepositoryDiff:
        """Compare an archive with what its source holds now; nothing is stored."""
        made = _sections(source)
        live = made if isinstance(made, SectionSource) else made()
        return diff_live(self.repository, self._resolve(archive_id), live, observer=self.observer, clock=self.clock)

    def history(  # noqa: PLR0913 - what of which series
        self,
        tenant: str,
        vault: str,
        path: str | None = None,
        *,
        proposal_id: str | None = None,
        kind: str | None = None,
        source_id: str | None = None,
        contents: bool = False,
    ) -> RecordHistory:
        """Return every version of a note or proposal that archives of a series hold."""
        return history(
            self.repository,
            tenant,
            vault,
            path,
            proposal_id=proposal_id,
            kind=kind,
            source_id=source_id,
            contents=contents,
        )

    # -- restore ----------------------------------------------------------------------------------------------------

    def plan_restore(  # noqa: PLR0913 - as `restore`
        self,
        archive_id: str,
        directory: str | os.PathLike[str],
        *,
        sections: Iterable[str] | None = None,
        form: ExportForm = ExportForm.RECORDS,
        details: bool = False,
        replace: bool = False,
    ) -> RepositoryRestorePlan:
        """Return what `restore` would write with the same arguments; nothing is written."""
        return plan_restore(
            self.repository,
            self._resolve(archive_id),
            directory,
            sections=sections,
            form=form,
            details=details,
            replace=replace,
        )

    def restore(  # noqa: PLR0913 - the last four have defaults
        self,
        archive_id: str,
        directory: str | os.PathLike[str],
        *,
        sections: Iterable[str] | None = None,
        form: ExportForm = ExportForm.RECORDS,
        details: bool = False,
        replace: bool = False,
    ) -> RepositoryRestoreReport:
        """Write an archive into a new directory, complete or not at all; *replace* moves aside what is there."""
        return restore_directory(
            self.repository,
            self._resolve(archive_id),
            directory,
            sections=sections,
            form=form,
            details=details,
            replace=replace,
            observer=self.observer,
            clock=self.clock,
        )

    def apply_restore(self, plan: RepositoryRestorePlan) -> RepositoryRestoreReport:
        """Do what a plan of `plan_restore` says, if it still holds."""
        return apply_restore(self.repository, plan, observer=self.observer, clock=self.clock)

    def entries(
        self,
        archive_id: str = "latest",
        *,
        tenant: str | None = None,
        vault: str | None = None,
        path: str | None = None,
        proposal_id: str | None = None,
    ) -> StoredEntries:
        """Return entries of an export, of one tenant, vault, note or proposal if named; reads only what is needed."""
        return restore_records(
            self.repository, self._resolve(archive_id), tenant, vault, path=path, proposal_id=proposal_id
        )

    def read(self, section: str, archive_id: str = "latest") -> Iterator[bytes]:
        """Yield one section of an archive, each piece compared with what was backed up."""
        yield from restore_stream(self.repository, self._resolve(archive_id), section)

    # -- check, copy, heal --------------------------------------------------------------------------------------------

    def verify(
        self,
        archive_id: str = "latest",
        *,
        level: VerifyLevel = VerifyLevel.CONTENT,
        sample: Sample | None = None,
        record: bool = True,
    ) -> ArchiveVerifyReport:
        """Check an archive, report every finding, and note the result beside it where the sink allows."""
        return verify(
            self.repository,
            self._resolve(archive_id),
            level=level,
            sample=sample,
            record=record,
            observer=self.observer,
            clock=self.clock,
        )

    def verify_all(
        self,
        *,
        level: VerifyLevel = VerifyLevel.CONTENT,
        sample: Sample | None = None,
        record: bool = True,
    ) -> RepositoryVerifyReport:
        """Check all archives; what several share is read once."""
        return verify_all(
            self.repository,
            level=level,
            sample=sample,
            record=record,
            observer=self.observer,
            clock=self.clock,
        )

    def copy_to(
        self,
        target: Repository,
        archive_ids: Iterable[str] | None = None,
        *,
        read_back: ReadBack = ReadBack.SIZES,
        marks: bool = True,
    ) -> RepositoryCopyReport:
        """Copy archives to another repository: as they are stored to a replica, written anew under other keys."""
        return copy(self.repository, target, archive_ids, read_back=read_back, marks=marks, observer=self.observer)

    def replicate(
        self,
        sink: ArchiveSink,
        *,
        tenant_sink: ArchiveSink | None = None,
        read_back: ReadBack = ReadBack.SIZES,
        marks: bool = True,
    ) -> RepositoryCopyReport:
        """Make another place a replica of the whole repository, or bring it up to date."""
        return replicate(
            self.repository,
            sink,
            tenant_sink=tenant_sink,
            read_back=read_back,
            marks=marks,
            observer=self.observer,
        )

    def lag(self, replica: Repository) -> LagReport:
        """Return which archives a replica does not have yet."""
        return lag(self.repository, replica, clock=self.clock)

    def plan_repair(self, *replicas: Repository) -> RepairPlan:
        """Return which damaged objects replicas can heal; everything is verified, nothing is changed."""
        return plan_repair(self.repository, replicas, observer=self.observer, clock=self.clock)

    def apply_repair(self, plan: RepairPlan, *replicas: Repository) -> RepairReport:
        """Heal what a plan says, from the replicas it was made with."""
        return apply_repair(self.repository, replicas, plan, observer=self.observer)

    # -- import -----------------------------------------------------------------------------------------------------

    def import_all(
        self,
        sink: ArchiveSink,
        keys: Codec | None = None,
        *,
        source_id: str = "",
        wanted: ArchiveFilter | None = None,
    ) -> ImportReport:
        """Take archives of pipelines and files of other tools from a sink into the repository, oldest first."""
        return import_all(
            self.repository,
            sink,
            keys,
            source_id=source_id,
            wanted=wanted,
            options=self.options,
            observer=self.observer,
            clock=self.clock,
        )

    def plan_import(self, sink: ArchiveSink, *, source_id: str = "", wanted: ArchiveFilter | None = None) -> ImportPlan:
        """Return what `import_all` would take and pass over; nothing happens."""
        return plan_import(self.repository, sink, source_id=source_id, wanted=wanted)

    def apply_import(self, sink: ArchiveSink, plan: ImportPlan, keys: Codec | None = None) -> ImportReport:
        """Take what a plan names from the sink it was made for."""
        return apply_import(
            self.repository, sink, plan, keys, options=self.options, observer=self.observer, clock=self.clock
        )

    # -- note -------------------------------------------------------------------------------------------------------

    def pin(self, archive_id: str, *, until: dt.datetime | None = None) -> Mark:
        """Keep an archive whatever retention says, for ever or *until* a moment."""
        return marks.pin(self.repository, archive_id, until=until, clock=self.clock)

    def unpin(self, archive_id: str) -> Mark:
        """Leave an archive to retention again."""
        return marks.unpin(self.repository, archive_id, clock=self.clock)

    def tag(self, archive_id: str, *tags: str) -> Mark:
        """Give an archive tags."""
        return marks.tag(self.repository, archive_id, *tags, clock=self.clock)

    def untag(self, archive_id: str, *tags: str) -> Mark:
        """Take tags away."""
        return marks.untag(self.repository, archive_id, *tags, clock=self.clock)

    def annotate(self, archive_id: str, notes: Mapping[str, str | None]) -> Mark:
        """Add notes by name to an archive, readable without a key; `None` removes one."""
        return marks.annotate(self.repository, archive_id, notes, clock=self.clock)

    def quarantine(self, archive_id: str, *, reason: str = "") -> Mark:
        """Keep an archive for analysis: it is never ``latest``, never a parent, and never counts."""
        return marks.quarantine(self.repository, archive_id, reason=reason, clock=self.clock)

    def release(self, archive_id: str) -> Mark:
        """End the quarantine of an archive."""
        return marks.release(self.repository, archive_id, clock=self.clock)

    def sign(self, archive_id: str) -> None:
        """Sign a finished archive, named by its whole id, with the signing keys of the repository; verify it first."""
        sign_archive(self.repository, archive_id)

    # -- thin out -----------------------------------------------------------------------------------------------------

    def plan_forget(self, *, hold_suspicious: bool = True) -> ForgetPlan:
        """
        Return what retention would keep and forget, with reasons; nothing happens.

        With *hold_suspicious* a series whose newest archive is in quarantine keeps everything.
        """
        if self.retention is None:
            raise ConfigurationError("this pipeline has no retention policy", kind="no_retention")
        return plan_forget(self.repository, self.retention, now=self.clock(), hold_suspicious=hold_suspicious)

    def plan_delete(self, *archive_ids: str, last_too: bool = False) -> ForgetPlan:
        """Return a plan that forgets exactly the archives named; pinned ones are refused; nothing happens."""
        return plan_delete(self.repository, archive_ids, now=self.clock(), last_too=last_too)

    def plan_empty_trash(self, *, last_too: bool = False) -> ForgetPlan:
        """Return a plan that removes the manifests of what has been in the trash for `trash_grace`."""
        return plan_empty_trash(self.repository, now=self.clock(), grace=self.trash_grace, last_too=last_too)

    def apply(self, plan: ForgetPlan) -> ForgetReport:
        """Do what a plan says, if the repository still holds exactly what was planned for."""
        return apply_forget(self.repository, plan, observer=self.observer, clock=self.clock)

    def undelete(self, archive_id: str) -> Mark:
        """Bring an archive back from the trash; name it by its id."""
        return marks.undelete(self.repository, archive_id, clock=self.clock)

    def plan_prune(self) -> PrunePlan:
        """Return what no archive needs any more: what would be noted, and what can be deleted by now."""
        return plan_prune(self.repository)

    def apply_prune(self, plan: PrunePlan) -> PruneReport:
        """Note and delete what a plan says."""
        return apply_prune(self.repository, plan, observer=self.observer, clock=self.clock)

    def consolidate(self, archive_id: str = "latest") -> ConsolidationReport:
        """Make a full archive with the content of a stored one, without its source; the old one stays."""
        return consolidate(
            self.repository,
            self._resolve(archive_id),
            write=self.options.write,
            observer=self.observer,
            clock=self.clock,
        )

    def plan_extend_locks(self, *, ahead: dt.timedelta = LOCK_AHEAD, until: dt.datetime | None = None) -> LockPlan:
        """Return what must be locked for longer, so that nobody can remove what kept archives need; nothing happens."""
        return plan_extend_locks(self.repository, self.retention, now=self.clock(), ahead=ahead, until=until)

    def apply_extend_locks(self, plan: LockPlan) -> LockReport:
        """Extend the locks that a plan names; none is ever shortened."""
        return apply_extend_locks(self.repository, plan, observer=self.observer)

    def measure_waste(self) -> Waste:
        """Return how much of packs no archive needs, while it cannot be pruned because of the rest."""
        return measure_waste(self.repository)

    def _resolve(self, archive_id: str) -> str:
        return resolve(self.repository, archive_id)


def _sections(source: AnySource) -> SectionSource | Callable[[], SectionSource]:
    if isinstance(source, SectionSource):
        return source
    if isinstance(source, BackupSource):
        return ExportSections(exporter=source)
    return source
