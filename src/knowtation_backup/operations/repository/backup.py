"""Back up into a repository: compare with the newest archive of the same source, store what differs, publish last."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Final, NoReturn

import attrs

from ..._checks import optional, whole_number
from ..._engine.steady import steady_seconds
from ...contracts import Clock, Observer, SectionCapture, SectionSource, ignore_events, utc_now
from ...errors import BackupError, ConfigurationError, PlanStaleError, SignatureError
from ...model.events import Event
from ...model.manifest import check_tags
from ...model.moments import iso_ms, utc_of
from ...model.reports import CaptureResult, Finding, Outcome
from ...model.sections import FileSection, Section
from ...repository.manifest import ArchiveManifest
from ...repository.repository import ListedArchive, Repository
from ...repository.writer import ArchiveWriter, KnownPieces, Parent, WriteOptions, WrittenSection, approved
from ...retention.common import MAX_AHEAD
from ..marks import quarantine
from ..writing import generator
from .catalog import is_whole, live_archives, stored_sizes

__all__ = [
    "DETAILS_SECTION",
    "FullEvery",
    "RepositoryBackupOptions",
    "RepositoryBackupReport",
    "back_up",
    "no_source",
    "store",
]

_LOOK_AT: Final = 256
"""Archives looked at for a parent and for known files, newest first; more only until there is a parent."""
DETAILS_SECTION: Final = "details.json"
"""The section that holds what the capture found; sealed like content."""
_LATEST: Final = "latest"
_FULL: Final = "full"


@attrs.frozen(kw_only=True)
class FullEvery:
    """
    When a backup stores everything again: as soon as one of its limits is reached.

    Archives are counted as they are there: what was forgotten does not count, and where no full one is left that is
    complete and has all its objects, a full one is due. The first archive of a series is a full one anyway.
    """

    backups: int | None = attrs.field(default=None, validator=optional(whole_number(1)))
    """One of so many archives of a series is full: 7 makes six others follow each full one, 1 makes all full."""
    age: dt.timedelta | None = attrs.field(default=None)
    """How much older than what is being backed up the content of the newest full archive may become."""

    @age.validator
    def _check_age(self, _field: attrs.Attribute[dt.timedelta | None], value: object) -> None:
        if value is not None and (not isinstance(value, dt.timedelta) or value <= dt.timedelta(0)):
            message = f"FullEvery.age is {value!r:.80}"
            raise ConfigurationError(message, kind="bad_option", hint="it must be a positive datetime.timedelta")
        if value is None and self.backups is None:
            message = "FullEvery has neither backups nor age"
            raise ConfigurationError(message, kind="bad_option", hint="give at least one of them")

    def is_due(self, full_at: dt.datetime | None, since: int, now: dt.datetime) -> bool:
        """
        Whether the next archive is to be a full one.

        Args:
            full_at: The moment the newest full archive is of; `None`: there is none.
            since: How many archives of the series are newer than that.
            now: The moment the next archive is of.
        """
        if full_at is None or (self.backups is not None and since + 1 >= self.backups):
            return True
        return self.age is not None and now - full_at >= self.age


def _full_every(value: FullEvery | int | dt.timedelta | None) -> FullEvery | None:
    if value is None or isinstance(value, FullEvery):
        return value
    return FullEvery(age=value) if isinstance(value, dt.timedelta) else FullEvery(backups=value)


@attrs.frozen(kw_only=True)
class RepositoryBackupOptions:
    """How one backup into a repository is made."""

    tags: tuple[str, ...] = attrs.field(default=(), converter=check_tags)
    """Words to find the archive by and to keep it by."""
    set_id: str = ""
    """The same for all archives of one backup set."""
    parent: str | None = None
    """
    What to compare with, of the same kind and source: `None` or ``latest``: the newest complete archive that is not
    dated more than a day ahead. ``full``: the newest complete full one, so that each backup stores all that changed
    since that (differential). Or the id of one. Where there is none, everything is stored, and the archive is a full
    one.
    """
    full: bool = False
    """Store everything again, without comparing: nothing of older archives is needed to read this one."""
    full_every: FullEvery | None = attrs.field(default=None, converter=_full_every)
    """
    When to do so by itself, whatever *parent* says; a number means `FullEvery.backups`, a length of time
    `FullEvery.age`.
    """
    write: WriteOptions = attrs.field(factory=WriteOptions)


@attrs.frozen(kw_only=True)
class RepositoryBackupReport:
    """One finished backup into a repository."""

    archive_id: str
    manifest: ArchiveManifest
    sections: tuple[WrittenSection, ...]
    new_bytes: int
    """What the store grew by: packs, indexes and the manifest."""
    duration_seconds: float
    warnings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when the capture was not complete."""
        return Outcome.OK if self.manifest.complete else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        parent = f"on top of {self.manifest.parent}" if self.manifest.parent else "without a parent"
        lines = [
            f"{'complete' if self.manifest.complete else 'INCOMPLETE'} archive {self.archive_id}",
            f"  {self.manifest.kind} of {self.manifest.source_id}, {parent}",
            f"  {self.new_bytes:,} bytes stored, {self.duration_seconds:.1f} s",
            *(f"  {s.name}: {s.changed} changed, {s.stored} stored" for s in self.sections if s.changed),
            *(f"  warning {w.code} at {w.where}: {w.message}" for w in self.warnings),
        ]
        return "\n".join(lines)


def back_up(  # noqa: PLR0913 - parts with defaults
    repository: Repository,
    source: SectionSource,
    *,
    options: RepositoryBackupOptions | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
    monotonic: Callable[[], float] = steady_seconds,
) -> RepositoryBackupReport:
    """
    Capture a source and store it as one new archive; what the repository has already is not stored again.

    Needs the rights to list, read and create, and no key that opens content. Several hosts may back up into one
    repository at once. Memory: about 150 MB, whatever the size of images; 200 bytes for each record.

    Args:
        repository: Where to.
        source: What to read.
        options: `None` means the defaults.
        observer: Told what happens.
        clock: Dates the archive.
        monotonic: Seconds; measures durations.

    Raises:
        SourceError: Reading failed; no archive was made.
        SinkError: Storing failed; no archive was made.
        PlanStaleError: It took longer than half the repository's grace period, and no archive was made; or publishing
            it took that long in addition, and it is in quarantine, kind ``published_too_late``.
        ConfigurationError: The parent that was named cannot be one, kind ``bad_parent``; or *source* is no source,
            ``bad_source``.
    """
    options = options or RepositoryBackupOptions()
    given: object = source
    if not isinstance(given, SectionSource):
        raise no_source(given)
    return store(repository, source, options=options, observer=observer, clock=clock, monotonic=monotonic)


def store(  # noqa: PLR0913 - as `back_up`
    repository: Repository,
    source: SectionSource,
    *,
    options: RepositoryBackupOptions,
    observer: Observer,
    clock: Clock,
    monotonic: Callable[[], float],
    consolidated_from: str = "",
    approve: Callable[[ArchiveManifest], None] = approved,
) -> RepositoryBackupReport:
    """
    Store a capture as `back_up` does.

    Args:
        repository: Where to.
        source: What to read.
        options: As given.
        observer: Told what happens.
        clock: Dates the archive.
        monotonic: Seconds; measures durations.
        consolidated_from: Id of the archive that *source* reads, when the new one is to take its place.
        approve: Shown the manifest before it is published; what it raises keeps it from being so.
    """
    began_at = monotonic()
    started_at = clock()
    capture = source.capture_sections(taken_at=started_at, observer=observer)
    now = max(utc_of(started_at), utc_of(capture.taken_at))
    parent, pieces, warnings = _look(repository, capture, options, now=now)
    writer = ArchiveWriter(
        repository.sink,
        repository.writer_key,
        repository.config,
        parent=parent,
        pieces=pieces,
        options=options.write,
        began_at=began_at,
        tenant_sink=repository.tenant_sink,
        monotonic=monotonic,
    )
    _tell(observer, "backup.started", capture, parent=parent.archive_id if parent else "")
    try:
        results: list[CaptureResult] = []
        writer.write(_sections(capture, results))
        result = results[0]
        warnings += _lost_keys(repository, writer.lost_tenants)
        facts = {
            "kind": capture.kind,
            "source_id": capture.source_id,
            "taken_at": capture.taken_at,
            "started_at": started_at,
            "complete": result.complete,
            "counts": dict(result.counts),
            "tags": options.tags,
            "set_id": options.set_id,
            "generator": generator(),
            "consolidated_from": consolidated_from,
        }
        archive_id, manifest = writer.publish(
            facts,
            finished_at=clock(),
            signing_keys=repository.signing_keys,
            approve=approve,
        )
        if monotonic() - began_at > repository.config.grace_seconds:
            _distrust(repository, archive_id, clock)
    except BaseException as error:
        kind = error.kind if isinstance(error, BackupError) else type(error).__name__
        _tell(observer, "backup.failed", capture, error=kind)
        raise
    new_bytes = sum(ref.size_bytes for ref in writer.stored_objects)
    _tell(observer, "backup.finished", capture, archive_id=archive_id, new_bytes=new_bytes)
    return RepositoryBackupReport(
        archive_id=archive_id,
        manifest=manifest,
        sections=tuple(writer.written),
        new_bytes=new_bytes,
        duration_seconds=monotonic() - began_at,
        warnings=(*warnings, *result.warnings),
    )


def no_source(given: object) -> ConfigurationError:
    """Return the error that something is no source of sections."""
    hint = "pass an object with capture_sections(); ExportSections makes one of an exporter"
    return ConfigurationError(f"a {type(given).__name__} is no source", kind="bad_source", hint=hint)


def _lost_keys(repository: Repository, tenants: int) -> Iterator[Finding]:
    if tenants:
        message = (
            f"keys of {tenants} tenant(s) are lost: older archives of theirs open for nobody, and everything is stored "
            "again under new keys; repair them from a replica"
        )
        yield Finding(code="tenant_key_lost", where=repository.tenant_sink.location, message=message)


def _distrust(repository: Repository, archive_id: str, clock: Clock) -> NoReturn:
    """Say that a prune may have removed, while the manifest was being stored, what it names."""
    quarantine(repository.sink, archive_id, reason="published too late: a prune may have run before", clock=clock)
    message = f"{archive_id} was published more than a grace period after its backup began, and is in quarantine"
    hint = "verify it; release it when it is whole, else delete it"
    raise PlanStaleError(message, kind="published_too_late", hint=hint, archive_id=archive_id)


def _sections(capture: SectionCapture, results: list[CaptureResult]) -> Generator[Section, None, None]:
    """Yield what is captured, then what was found, as the last section."""
    sections = capture.sections()
    with contextlib.ExitStack() as stack:
        stack.callback(_close, sections)
        yield from sections
    result = capture.result()
    results.append(result)
    for side in result.side_files:
        yield FileSection(name=side.name, chunks=(side.content,))
    yield FileSection(name=DETAILS_SECTION, chunks=(_details(capture, result),))


def _details(capture: SectionCapture, result: CaptureResult) -> bytes:
    value = {
        "kind": capture.kind,
        "source_id": capture.source_id,
        "taken_at": iso_ms(capture.taken_at),
        "complete": result.complete,
        "counts": dict(result.counts),
        "warnings": [attrs.asdict(warning) for warning in result.warnings],
        "capture": dict(result.details),
    }
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()


def _close(items: Iterator[Section]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()


def _tell(observer: Observer, name: str, capture: SectionCapture, **fields: object) -> None:
    observer(Event(name=name, fields={"kind": capture.kind, "source_id": capture.source_id, **fields}))


def _look(
    repository: Repository, capture: SectionCapture, options: RepositoryBackupOptions, *, now: dt.datetime
) -> tuple[Parent | None, KnownPieces, list[Finding]]:
    """Choose the parent, and take note of the files that the newest archive of every series has."""
    pieces = KnownPieces()
    findings: list[Finding] = []
    if options.full:
        return None, pieces, findings
    survey = _Survey(series=(capture.kind, capture.source_id), options=options, now=now)
    survey.read(repository, findings)
    present = stored_sizes(repository) if survey.newest else {}
    if survey.is_full_due(capture.taken_at, present):
        return None, pieces, findings
    parent = survey.parent
    for candidate in survey.newest.values():
        if is_whole(candidate.manifest, present):
            pieces.add(candidate.manifest)
    if parent is not None and is_whole(parent.manifest, present):
        return parent, pieces, findings
    if survey.named is not None:
        message = f"{survey.named} cannot be a parent: there is no such archive, or objects of it are missing"
        raise ConfigurationError(message, kind="bad_parent", hint="name another one, or none")
    if parent is not None:
        message = "objects of it are missing, so that it is no parent; everything is stored again"
        findings.append(Finding(code="parent_damaged", where=parent.archive_id, message=message))
    return None, pieces, findings


@attrs.define(kw_only=True)
class _Survey:
    """What the archives that are there offer, read from the newest on."""

    series: tuple[str, str]
    """Kind and source of what is being backed up."""
    options: RepositoryBackupOptions
    now: dt.datetime
    """Archives dated more than a day later are taken only while there is no other: they would stay the newest."""
    newest: dict[tuple[str, str], Parent] = attrs.field(factory=dict)
    """The best archive of every series."""
    full: Parent | None = None
    """The newest complete archive of this series that continues none."""
    since_full: int = 0
    """Archives of this series that are newer."""
    chosen: Parent | None = None
    """The archive that was named."""

    @property
    def named(self) -> str | None:
        """Id of the archive to compare with, if one was given."""
        return None if self.options.parent in {_LATEST, _FULL} else self.options.parent

    @property
    def parent(self) -> Parent | None:
        """What to compare with."""
        if self.named is not None:
            return self.chosen
        return self.full if self.options.parent == _FULL else self.newest.get(self.series)

    def is_full_due(self, now: dt.datetime, present: Mapping[str, int]) -> bool:
        """Whether it is time to store everything again."""
        if self.options.full_every is None or self.series not in self.newest:
            return False
        full = self.full.manifest if self.full is not None and is_whole(self.full.manifest, present) else None
        return self.options.full_every.is_due(full.taken_at if full is not None else None, self.since_full, now)

    def read(self, repository: Repository, findings: list[Finding]) -> None:
        """Read manifests until nothing more is wanted; a long history is not read for files that others may have."""
        ahead: list[Parent] = []
        refused: list[ListedArchive] = []
        with contextlib.closing(live_archives(repository, newest_first=True)) as archives:
            for read, found in enumerate(archives):
                if read >= _LOOK_AT and self._has_enough:
                    break
                if isinstance(found.error, SignatureError):
                    refused.append(found)
                elif found.manifest is None:
                    message = f"its manifest cannot be read: {found.error}"
                    findings.append(Finding(code="archive_damaged", where=found.archive_id, message=message))
                else:
                    here = Parent(archive_id=found.archive_id, manifest=found.manifest)
                    self._note(here)
                    if _series_of(here) == self.series and _is_ahead(here, self.now):
                        ahead.append(here)
        findings.extend(_passed_over(ahead, refused))

    @property
    def _has_enough(self) -> bool:
        wants_full = self.options.full_every is not None or self.options.parent == _FULL
        best = self.newest.get(self.series)
        found = best is not None and not _is_ahead(best, self.now)
        return found and self.named is None and (self.full is not None or not wants_full)

    def _note(self, found: Parent) -> None:
        manifest, series = found.manifest, _series_of(found)
        if series not in self.newest or _rank(found, self.now) > _rank(self.newest[series], self.now):
            self.newest[series] = found
        if found.archive_id == self.named:
            self.chosen = found
        if series == self.series and self.full is None and not _is_ahead(found, self.now):
            if manifest.complete and not manifest.parent:
                self.full = found
            else:
                self.since_full += 1


def _series_of(parent: Parent) -> tuple[str, str]:
    return (parent.manifest.kind, parent.manifest.source_id)


def _passed_over(ahead: Sequence[Parent], refused: Sequence[ListedArchive]) -> Iterator[Finding]:
    """Say which archives the backup does not build on, the newest first, and why."""
    if ahead:
        message = (
            f"{len(ahead)} archive(s) of this series are dated more than a day ahead, this one to "
            f"{iso_ms(ahead[0].manifest.taken_at)}: put them into the trash if their date is wrong"
        )
        yield Finding(code="archive_from_the_future", where=ahead[0].archive_id, message=message)
    if refused:
        message = f"{len(refused)} archive(s) are refused and not built on; the newest of them: {refused[0].error}"
        yield Finding(code="archives_refused", where=refused[0].archive_id, message=message)


def _is_ahead(parent: Parent, now: dt.datetime) -> bool:
    return parent.manifest.taken_at - now > MAX_AHEAD


def _rank(parent: Parent, now: dt.datetime) -> tuple[bool, bool, dt.datetime, dt.datetime]:
    manifest = parent.manifest
    return (not _is_ahead(parent, now), manifest.complete, manifest.taken_at, manifest.finished_at)
