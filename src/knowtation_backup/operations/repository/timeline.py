"""
Travelling in time: the archive that was the newest at a moment, and what has no archive since one.

Nothing but the store is asked, so that another machine than the one that backs up can tell.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from ...errors import BlobNotFoundError, ConfigurationError
from ...model.moments import iso_ms, utc_of
from ...model.plans import ArchiveInfo, ArchiveState
from ...model.reports import Outcome, Unverified
from ...repository.content import ArchiveReader
from ...repository.manifest import FileTable
from ...repository.proving import WRONG_BYTES
from ...repository.repository import Repository
from .backup import DETAILS_SECTION
from .catalog import list_archives
from .details import complete_tenants, named_tenants, read_details

__all__ = ["AsOf", "MissingBackup", "MissingReport", "as_of", "missing"]


@attrs.frozen(kw_only=True)
class AsOf:
    """The archive that holds what was there at a moment, and how far away from it that is."""

    archive: ArchiveInfo
    wanted: dt.datetime
    tenant: str | None = None
    passed_over: tuple[Unverified, ...] = ()
    """Newer archives whose details could not be read, so that nobody knows whether they hold the tenant."""

    @property
    def taken_at(self) -> dt.datetime:
        """The moment the content really is of."""
        return self.archive.taken_at

    @property
    def gap(self) -> dt.timedelta:
        """What happened in this time before the wanted moment is not in the archive."""
        return self.wanted - self.archive.taken_at

    def __str__(self) -> str:
        """Return a line for people, and one per archive that was passed over."""
        whose = f", with all of {self.tenant}" if self.tenant is not None else ""
        line = f"{self.archive.archive_id} of {iso_ms(self.taken_at)}, {self.gap} before {iso_ms(self.wanted)}{whose}"
        return "\n".join([line, *(f"  passed over {one.archive_id}: {one.error}" for one in self.passed_over)])


def as_of(
    repository: Repository,
    moment: dt.datetime,
    *,
    kind: str | None = None,
    source_id: str | None = None,
    tenant: str | None = None,
) -> AsOf:
    """
    Return the newest complete archive that was taken at a moment or before.

    For a tenant: the newest archive whose capture read all of that tenant, whoever else is missing in it; their details
    are read, newest first, until it is found. Archives in the trash or in quarantine, and those that failed
    verification, are passed over.

    Args:
        repository: With *tenant*, open to be read.
        moment: With a time zone.
        kind: Of what was captured; `None` for any.
        source_id: Same.
        tenant: Id of a tenant, as the hub has it.

    Raises:
        BlobNotFoundError: All are younger, kind ``before_first_archive``, which names the earliest; or there is none at
            all, kind ``no_such_archive``.
        ConfigurationError: Archives of several series fit, kind ``ambiguous_series``; the moment has no time zone; or a
            tenant is asked for with a writer key, kind ``write_only``.
        SinkUnavailableError: The store could not be reached.
    """
    moment = utc_of(moment)
    if tenant is not None:
        _ = repository.read_keys  # before anything is listed
    states = {ArchiveState.COMPLETE} | ({ArchiveState.INCOMPLETE} if tenant is not None else set())
    fitting = [
        info
        for info in list_archives(repository)
        if info.state in states
        and not info.standing.spoken_against
        and kind in {None, info.kind}
        and source_id in {None, info.source_id}
    ]
    series = sorted({info.series for info in fitting})
    if len(series) > 1:
        message = f"archives of {len(series)} series fit: {', '.join(series[:5])}"
        raise ConfigurationError(message, kind="ambiguous_series", hint="name kind and source")
    passed_over: list[Unverified] = []
    before = (info for info in fitting if info.taken_at <= moment)
    for info in _holding(repository, before, tenant, passed_over):
        return AsOf(archive=info, wanted=moment, tenant=tenant, passed_over=tuple(passed_over))
    later = reversed([info for info in fitting if info.taken_at > moment])
    whose = f" with all of tenant {tenant!r:.100}" if tenant is not None else ""
    for info in _holding(repository, later, tenant, passed_over):
        message = f"the earliest archive{whose} is of {iso_ms(info.taken_at)}, after {iso_ms(moment)}"
        hint = f"restore {info.archive_id}, or look in another repository"
        raise BlobNotFoundError(message, kind="before_first_archive", hint=hint, archive_id=info.archive_id)
    message = f"there is no complete archive{whose} in {repository.sink.location}"
    raise BlobNotFoundError(message, kind="no_such_archive", hint="list the archives")


def _holding(
    repository: Repository, archives: Iterable[ArchiveInfo], tenant: str | None, passed_over: list[Unverified]
) -> Iterator[ArchiveInfo]:
    """Yield archives that hold all of a tenant, and take note of those that do not say."""
    for info in archives:
        if tenant is None:
            yield info
            continue
        try:
            details = _details(repository, info.archive_id)
            if details is not None and tenant in complete_tenants(details):
                yield info
        except WRONG_BYTES as error:
            passed_over.append(Unverified(archive_id=info.archive_id, error=error))


def _details(repository: Repository, archive_id: str) -> dict[str, Any] | None:
    manifest = repository.manifest(archive_id)
    table = manifest.section(DETAILS_SECTION)
    if not isinstance(table, FileTable):
        return None
    return read_details(ArchiveReader(repository.sink, repository.read_keys, manifest), table)


@attrs.frozen(kw_only=True)
class MissingBackup:
    """A series, or a tenant in one, that was not backed up since the moment asked for."""

    series: str
    newest: ArchiveInfo | None = None
    """The newest archive that counts; `None` when there is none at all."""
    tenant: str | None = None
    """Whose content is missing; `None` when the series as a whole is."""

    def __str__(self) -> str:
        """Return one line for people."""
        what = self.series if self.tenant is None else f"tenant {self.tenant} of {self.series}"
        since = f"nothing since {iso_ms(self.newest.taken_at)}" if self.newest else "no backup at all"
        return f"{what}: {since}"


@attrs.frozen(kw_only=True)
class MissingReport:
    """What has no backup since a moment."""

    since: dt.datetime
    found: tuple[MissingBackup, ...]
    looked_at: tuple[str, ...]
    """Every series that was looked for."""
    unread: tuple[Unverified, ...] = ()
    """Archives whose details could not be read."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `FAILED` when a backup is missing."""
        return Outcome.FAILED if self.found else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line per series or tenant, and one about all."""
        lines = [str(one) for one in self.found] + [f"{one.archive_id}: {one.error}" for one in self.unread]
        series = {one.series for one in self.found}
        return "\n".join(
            [*lines, f"{len(series)} of {len(self.looked_at)} series lack a backup since {iso_ms(self.since)}"]
        )


def missing(
    repository: Repository, since: dt.datetime, *, expected: Iterable[str] = (), tenants: bool = False
) -> MissingReport:
    """
    Say which series, and which tenants in them, have no complete backup that was taken at a moment or later.

    Args:
        repository: With *tenants*, open to be read.
        since: With a time zone.
        expected: Series (``kind@source``) that must be there although the repository may never have seen them.
        tenants: Whether to read the details of archives, back to the newest before *since*, and to report tenants that
            were there once and that no capture read completely since.

    Raises:
        ConfigurationError: The moment has no time zone; or tenants are asked for with a writer key (``write_only``).
        SinkUnavailableError: The store could not be reached.
    """
    since = utc_of(since)
    if tenants:
        _ = repository.read_keys
    series: dict[str, list[ArchiveInfo]] = {name: [] for name in expected}
    for info in list_archives(repository):
        if info.kind:
            series.setdefault(info.series, []).append(info)
    found: list[MissingBackup] = []
    unread: list[Unverified] = []
    for name, archives in sorted(series.items()):
        good = [info for info in archives if not info.standing.spoken_against]
        newest = next((info for info in good if info.state is ArchiveState.COMPLETE), None)
        if newest is None or newest.taken_at < since:
            found.append(MissingBackup(series=name, newest=newest))
        if tenants:
            found += _missing_tenants(repository, name, good, since, unread)
    return MissingReport(
        since=since,
        found=tuple(found),
        looked_at=tuple(sorted(series)),
        unread=tuple(unread),
    )


def _missing_tenants(
    repository: Repository, series: str, archives: Sequence[ArchiveInfo], since: dt.datetime, unread: list[Unverified]
) -> list[MissingBackup]:
    held: set[str] = set()
    lacking: dict[str, ArchiveInfo | None] = {}
    for info in archives:
        if info.state is ArchiveState.DAMAGED:
            continue
        try:
            details = _details(repository, info.archive_id) or {}
            statuses = named_tenants(details)
        except WRONG_BYTES as error:
            unread.append(Unverified(archive_id=info.archive_id, error=error))
            continue
        if info.taken_at >= since:
            held |= complete_tenants(details)
            lacking |= {user_id: None for user_id, status in statuses.items() if status in {"partial", "failed"}}
            continue
        for user_id in complete_tenants(details):
            if lacking.get(user_id) is None:
                lacking[user_id] = info
        break
    return [
        MissingBackup(series=series, newest=newest, tenant=user_id)
        for user_id, newest in sorted(lacking.items())
        if user_id not in held
    ]
