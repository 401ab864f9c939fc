"""
One backup set of many sources: canisters, hubs, tenants, side by side on any executor; a failure stays with its source.

Executors of other processes and machines (``ProcessPoolExecutor``, ``distributed.Client.get_executor()``) get what they
run by pickle: give them functions that open the repository and make the source where they run.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Final, TypeAlias

import attrs

from ...contracts import Clock, Observer, SectionSource, ignore_events, utc_now
from ...errors import BackupError, ConfigurationError
from ...model.ids import Principal
from ...model.reports import Finding, Outcome
from ...repository.repository import Repository
from .backup import RepositoryBackupOptions, RepositoryBackupReport, back_up, no_source

__all__ = ["BackupSetReport", "MakesRepository", "MakesSource", "SetMember", "back_up_set"]

MakesRepository: TypeAlias = Repository | Callable[[], Repository]
"""A repository, or a function that opens one."""
MakesSource: TypeAlias = SectionSource | Callable[[], SectionSource]
"""A source, or a function that makes one."""

_SNAPSHOT_KIND: Final = "canister-snapshot"
_EXPORT_KIND: Final = "knowtation-operator-full-export"


@attrs.frozen(kw_only=True)
class SetMember:
    """What became of one source."""

    name: str
    report: RepositoryBackupReport | None = None
    error: BackupError | None = None
    """Why there is no archive; `None` when there is one."""


@attrs.frozen(kw_only=True)
class BackupSetReport:
    """What became of a backup set."""

    set_id: str
    members: tuple[SetMember, ...]
    findings: tuple[Finding, ...] = ()
    """What both pillars say of each other, see `back_up_set`."""

    @property
    def failed(self) -> tuple[SetMember, ...]:
        """The sources of which there is no archive."""
        return tuple(member for member in self.members if member.error is not None)

    @property
    def outcome(self) -> Outcome:
        """`OK`; `PARTIAL`: something failed or is incomplete; `FAILED`: there is no archive at all."""
        if len(self.failed) == len(self.members):
            return Outcome.FAILED
        whole = all(member.report is not None and member.report.outcome is Outcome.OK for member in self.members)
        return Outcome.OK if whole else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line for each source, and the findings."""
        lines = [f"backup set {self.set_id}: {len(self.members) - len(self.failed)} of {len(self.members)} archives"]
        for member in self.members:
            if member.report is not None:
                lines.append(f"  {member.name}: {member.report.archive_id}, {member.report.new_bytes:,} bytes new")
            else:
                lines.append(f"  {member.name}: FAILED: {member.error}")
        return "\n".join([*lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


def back_up_set(  # noqa: PLR0913 - parts with defaults
    repository: MakesRepository,
    sources: Mapping[str, MakesSource],
    *,
    executor: Executor | None = None,
    options: RepositoryBackupOptions | None = None,
    pillars: Sequence[tuple[str, str]] = (),
    max_gap: dt.timedelta = dt.timedelta(hours=1),
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> BackupSetReport:
    """
    Back up several sources; their archives share a set id.

    A hub should have both pillars in one set: a snapshot of its canister, and an export. *pillars* names pairs that
    belong together, and the report then says where one is missing, not complete, of another canister (where both name
    theirs), or more than *max_gap* away from the other: what was written between them is in one only, and neither makes
    up for the other.

    Args:
        repository: Where to; a function for executors of other processes.
        sources: By names for the report; functions for executors of other processes.
        executor: Runs them; `None`: two threads. It is not shut down.
        options: For each of them; `None` means the defaults. A set id in it is kept.
        pillars: Pairs of names, snapshot and export, of the same hub.
        max_gap: Between the two of a pair.
        observer: Told what happens; only by threads of this process.
        clock: Dates the archives; only in threads of this process.

    Raises:
        ConfigurationError: No source, or a pair names none; kind ``bad_source``: something is neither a source nor a
            function. Nothing was read or written.
        BaseException: What is not a `BackupError` ends the set; backups under way finish, and are not reported.
    """
    if not sources:
        raise ConfigurationError("a backup set needs a source", kind="no_source")
    unknown = sorted({name for pair in pillars for name in pair} - sources.keys())
    if unknown:
        raise ConfigurationError(f"no source is called {', '.join(unknown)[:200]}", kind="bad_option")
    for source in sources.values():
        if not isinstance(source, SectionSource) and not callable(source):
            raise no_source(source)
    options = options or RepositoryBackupOptions()
    if not options.set_id:
        options = attrs.evolve(options, set_id=secrets.token_hex(8))
    own = ThreadPoolExecutor(2, thread_name_prefix="backup-set") if executor is None else None
    try:
        runner = own or executor
        if runner is None:  # pragma: no cover - one of both is there
            raise ConfigurationError("no executor", kind="bad_option")
        here = (observer, clock) if isinstance(runner, ThreadPoolExecutor) else None
        futures: dict[str, Future[SetMember]] = {
            name: runner.submit(_one, name, repository, source, options, here) for name, source in sources.items()
        }
        try:
            members = tuple(future.result() for future in futures.values())
        finally:
            for future in futures.values():
                future.cancel()
    finally:
        if own is not None:
            own.shutdown(wait=True, cancel_futures=True)
    return BackupSetReport(
        set_id=options.set_id, members=members, findings=tuple(_cross_check(members, pillars, max_gap))
    )


def _one(
    name: str,
    repository: MakesRepository,
    source: MakesSource,
    options: RepositoryBackupOptions,
    here: tuple[Observer, Clock] | None,
) -> SetMember:
    """Run where the executor runs things."""
    observer, clock = here or (ignore_events, utc_now)
    try:
        opened = repository if isinstance(repository, Repository) else repository()
        made = source if isinstance(source, SectionSource) else source()
        report = back_up(opened, made, options=options, observer=observer, clock=clock)
    except BackupError as error:
        return SetMember(name=name, error=error)
    return SetMember(name=name, report=report)


def _cross_check(
    members: Sequence[SetMember], pillars: Sequence[tuple[str, str]], max_gap: dt.timedelta
) -> list[Finding]:
    reports = {member.name: member.report for member in members}
    findings: list[Finding] = []
    for pair in pillars:
        found = [reports[name] for name in pair]
        for name, report, kind in zip(pair, found, (_SNAPSHOT_KIND, _EXPORT_KIND), strict=True):
            if report is None:
                message = "this pillar is missing from the set; the other one does not make up for it"
                findings.append(Finding(code="pillar_missing", where=name, message=message))
            elif not report.manifest.complete:
                message = "this pillar is not complete"
                findings.append(Finding(code="pillar_incomplete", where=name, message=message))
            elif report.manifest.kind != kind:
                message = f"this pillar is a {report.manifest.kind}, not a {kind}"
                findings.append(Finding(code="pillar_kind", where=name, message=message))
        first, second = found
        if first is not None and second is not None:
            one, other = _canister(first), _canister(second)
            if None not in {one, other} and one != other:
                message = f"the snapshot is of {one} and the export of {other}: they are no pillars of one hub"
                findings.append(Finding(code="pillars_differ", where=" and ".join(pair), message=message))
            gap = abs(first.manifest.taken_at - second.manifest.taken_at)
            if gap > max_gap:
                message = f"the pillars are {gap} apart, more than {max_gap}: what was written between is in one only"
                findings.append(Finding(code="pillars_apart", where=" and ".join(pair), message=message))
    return findings


def _canister(report: RepositoryBackupReport) -> Principal | None:
    """Return which canister was backed up; `None` when an export knows only the host, as behind a custom domain."""
    try:
        return Principal.parse(report.manifest.source_id.partition("/")[0])  # single vaults have a tag behind it
    except ConfigurationError:
        return None
