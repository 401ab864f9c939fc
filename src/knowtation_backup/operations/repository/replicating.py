"""
Replicas: the same objects under the same keys on another sink, as they are stored; no key that reads is needed.

Objects first, each compared with its name on the way, then signatures and marks, the manifest last: until it is there
nobody sees the archive, and a copy that was interrupted is finished by repeating it. Nothing is overwritten or deleted.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Collection, Iterable

import attrs

from ..._checks import checked_member
from ..._engine.ahead import map_ahead
from ..._engine.steady import steady_seconds
from ...contracts import ArchiveSink, Clock, Observer, ignore_events, utc_now
from ...errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    PlanStaleError,
    RepositoryNotFoundError,
    TruncatedError,
)
from ...model.events import Event
from ...model.marks import MAX_MARK_BYTES
from ...model.reports import Unverified
from ...model.signatures import SignaturePolicy
from ...repository.config import MAX_CONFIG_BYTES
from ...repository.layout import (
    ACCESS_PREFIX,
    CONFIG_KEY,
    SIDE_PREFIX,
    TENANT_PREFIX,
    archive_key,
    archive_stamp,
    erasure_named,
    tenant_key_at,
)
from ...repository.manifest import ArchiveManifest
from ...repository.notes import list_notes, read_note
from ...repository.proving import WRONG_BYTES
from ...repository.repository import Repository, read_config
from ...repository.signing import archive_signature_problem, read_signatures, signature_key
from ...repository.storing import MAX_OBJECT_BYTES, get_object, put_object
from ..backup import ReadBack
from ..copy import carried_marks
from ..marks import list_marks, read_standing
from .catalog import live_archives, standings, stored_sizes
from .copy_reports import LagReport, RepositoryCopyReport

__all__ = ["copy_as_stored", "lag", "replicate", "signed_keys", "wanted_archives"]

_NOTHING = dt.timedelta()
_TRANSFERS = 4
"""Objects on their way at once; each is held in memory, about 8 MB."""


def replicate(  # noqa: PLR0913 - the last six have defaults
    repository: Repository,
    sink: ArchiveSink,
    *,
    archive_ids: Iterable[str] | None = None,
    read_back: ReadBack = ReadBack.SIZES,
    marks: bool = True,
    tenant_sink: ArchiveSink | None = None,
    observer: Observer = ignore_events,
    monotonic: Callable[[], float] = steady_seconds,
) -> RepositoryCopyReport:
    """
    Make another sink a replica, or bring it up to date: the same recipients open it, and any archive heals the other.

    Args:
        repository: What to copy; a writer key is enough. Archives that its signature policy refuses are not copied.
        sink: Where to; needs the rights to list, read and create. An empty one becomes a repository.
        archive_ids: Which; `None` means all but those in the trash.
        read_back: ``content`` reads every new object again and compares it with its name.
        marks: Whether pins, tags, notes and quarantine come along.
        tenant_sink: Where keys of tenants go. `None`: to *sink*, if the repository has them with everything else; where
            it has them in another place, they are not copied, so that erasing a tenant stays possible there, and the
            replica is opened with that place. The replica says whether they are elsewhere, and stays with that.
        observer: Told what happens.
        monotonic: Seconds; measures durations.

    Raises:
        ConfigurationError: The sink holds another repository, kind ``wrong_repository``; or *tenant_sink* is not what
            the replica says: ``tenant_sink_needed``, ``tenant_sink_unexpected``, ``no_tenant_keys``.
        SinkError: Reading or storing failed; repeat it to go on.
    """
    replica, fresh, tenant_sink = _agreed(repository, sink, tenant_sink)
    wanted = wanted_archives(repository, archive_ids)  # first, so that the keys of tenants are there that these need
    written, stale = _copy_access(repository, sink, tenant_sink)
    if fresh:  # last, so that whoever finds a repository can open it
        written[CONFIG_KEY] = _copy_config(repository, replica)
    report = copy_as_stored(
        repository,
        replica,
        archive_ids=wanted,
        read_back=read_back,
        marks=marks,
        observer=observer,
        monotonic=monotonic,
    )
    return attrs.evolve(
        report,
        objects=report.objects + len(written),
        copied_bytes=report.copied_bytes + sum(written.values()),
        stale=tuple(stale),
    )


def _agreed(
    repository: Repository, sink: ArchiveSink, tenant_sink: ArchiveSink | None
) -> tuple[Repository, bool, ArchiveSink | None]:
    """Return the replica, whether it is new, and where keys of tenants are copied to; `None`: nowhere."""
    config = repository.config
    given = None if tenant_sink is sink else tenant_sink
    if given is not None and not config.tenant_keys:
        message = f"tenants have no keys of their own in {repository.sink.location}"
        raise ConfigurationError(message, kind="no_tenant_keys", hint="leave out tenant_sink=")
    try:
        there = read_config(sink)
    except RepositoryNotFoundError:
        with_it = tenant_sink is sink or (tenant_sink is None and not config.tenants_elsewhere)
        elsewhere = config.tenant_keys and not with_it
        there, fresh = attrs.evolve(config, tenants_elsewhere=elsewhere), True
    else:
        fresh = False
    if there.repository_id != config.repository_id:
        message = f"{sink.location} holds another repository"
        raise ConfigurationError(message, kind="wrong_repository", hint="choose another place")
    if there.tenants_elsewhere and tenant_sink is None:
        replica = Repository(sink=sink, keys=repository.keys, config=there, tenants_at=repository.tenants_at)
        return replica, fresh, None
    replica = Repository(
        sink=sink, keys=repository.keys, config=there, tenants_at=tenant_sink if there.tenants_elsewhere else given
    )
    return replica, fresh, replica.tenant_sink


def _copy_access(
    repository: Repository, sink: ArchiveSink, tenant_sink: ArchiveSink | None
) -> tuple[dict[str, int], list[str]]:
    """Copy who may open what; return what was written, and what is only there."""
    written: dict[str, int] = {}
    stale: list[str] = []
    places = [(ACCESS_PREFIX, repository.sink, sink)]
    if tenant_sink is not None:
        places.append((TENANT_PREFIX, repository.tenant_sink, tenant_sink))
    for prefix, source, target in places:
        here = [info.key for info in source.list(prefix)]
        there = {info.key for info in target.list(prefix)}
        stale += sorted(there.difference(here))
        erased = {tenant_key_at(*named) for named in map(erasure_named, there.union(here)) if named is not None}
        for key in here:
            if key not in there and key not in erased:
                written[key] = _copy_small(source, target, key, MAX_OBJECT_BYTES)
    return written, stale


def _copy_config(repository: Repository, replica: Repository) -> int:
    if replica.config == repository.config:
        return _copy_small(repository.sink, replica.sink, CONFIG_KEY, MAX_CONFIG_BYTES)
    data = replica.config.to_bytes()
    with contextlib.suppress(BlobExistsError):
        replica.sink.put(CONFIG_KEY, (data,))
    return len(data)


def _copy_small(source: ArchiveSink, target: ArchiveSink, key: str, limit_bytes: int) -> int:
    data = source.read_all(key, limit_bytes=limit_bytes)
    with contextlib.suppress(BlobExistsError):
        target.put(key, (data,))
    return len(data)


def lag(repository: Repository, replica: Repository, *, clock: Clock = utc_now) -> LagReport:
    """
    Say which archives a replica lacks, and how old the oldest of them is; from listings, no content is read.

    Archives in the trash do not count, as `replicate` does not copy them.

    Raises:
        ConfigurationError: It is no replica of this repository, kind ``wrong_repository``.
        SinkUnavailableError: A store could not be reached.
    """
    _check_same(repository, replica)
    there = set(replica.archive_ids())
    missing = tuple(archive_id for archive_id in wanted_archives(repository, None) if archive_id not in there)
    oldest = archive_stamp(missing[0]) if missing else None
    behind = clock() - oldest if oldest is not None else None
    return LagReport(missing=missing, oldest=oldest, lag=max(behind, _NOTHING) if behind is not None else _NOTHING)


def _check_same(repository: Repository, replica: Repository) -> None:
    if repository.config.repository_id != replica.config.repository_id:
        message = f"{replica.sink.location} holds no replica of {repository.sink.location}"
        raise ConfigurationError(message, kind="wrong_repository", hint="copy between repositories instead")


def wanted_archives(repository: Repository, archive_ids: Iterable[str] | None) -> list[str]:
    """Return the ids that were named, sorted, or those of all archives that are not in the trash."""
    if archive_ids is not None:
        return sorted({archive_ids} if isinstance(archive_ids, str) else set(archive_ids))
    trashed = {archive_id for archive_id, noted in standings(repository).items() if noted.trashed_at is not None}
    return [archive_id for archive_id in repository.archive_ids() if archive_id not in trashed]


def copy_as_stored(  # noqa: PLR0913 - the last five have defaults
    source: Repository,
    target: Repository,
    *,
    archive_ids: Iterable[str] | None = None,
    read_back: ReadBack = ReadBack.SIZES,
    marks: bool = True,
    observer: Observer = ignore_events,
    monotonic: Callable[[], float] = steady_seconds,
) -> RepositoryCopyReport:
    """Copy archives between repositories with the same keys; see `replicate`, without access files."""
    _check_same(source, target)
    began_at = monotonic()
    read_back = checked_member(ReadBack, read_back, "read_back")
    run = _Run(source=source, target=target, read_back=read_back, marks=marks, observer=observer, monotonic=monotonic)
    run.look()
    copied: dict[str, str] = {}
    present: list[str] = []
    failed: list[Unverified] = []
    for archive_id in wanted_archives(source, archive_ids):
        try:
            if run.archive(archive_id):
                copied[archive_id] = archive_id
            else:
                present.append(archive_id)
        except (*WRONG_BYTES, PlanStaleError) as error:
            observer(Event(name="copy.failed", fields={"archive_id": archive_id, "error": error.kind}))
            failed.append(Unverified(archive_id=archive_id, error=error))
    return RepositoryCopyReport(
        source=source.sink.location,
        target=target.sink.location,
        copied=copied,
        present=tuple(present),
        failed=tuple(failed),
        objects=run.objects,
        copied_bytes=run.copied_bytes,
        duration_seconds=monotonic() - began_at,
    )


def signed_keys(repository: Repository) -> set[str]:
    """Return the keys of all signatures of archives that are there; two listings."""
    here = {info.key for info in repository.sink.list(SIDE_PREFIX)}
    return here & {signature_key(archive_id) for archive_id in repository.archive_ids()}


@attrs.define(kw_only=True)
class _Run:
    source: Repository
    target: Repository
    read_back: ReadBack
    marks: bool
    observer: Observer
    monotonic: Callable[[], float]
    present: dict[str, int] = attrs.field(factory=dict)
    """What the target has, by key."""
    doomed: Collection[str] = ()
    """What of it a prune may delete at any moment."""
    archives: set[str] = attrs.field(factory=set)
    unsigned: set[str] = attrs.field(factory=set)
    """Keys of signatures that the target does not have."""
    looked_at: float = 0.0
    bad: dict[str, BackupError] = attrs.field(factory=dict)
    """Objects that could not be copied, and why: archives share them."""
    objects: int = 0
    copied_bytes: int = 0

    def look(self) -> None:
        """
        See what the target has.

        What is there now, and in no prune note, will be there for a grace period. What is in one may go as soon as that
        prune goes on, unless an archive names it that is not in the trash: that one stays for a grace period.
        """
        self.looked_at = self.monotonic()
        self.present = stored_sizes(self.target)
        self.archives = set(self.target.archive_ids())
        self.unsigned = signed_keys(self.source) - signed_keys(self.target)
        noted: set[str] = set()
        for info in list_notes(self.target.sink):
            with contextlib.suppress(*WRONG_BYTES):  # one that says nothing deletes nothing
                noted.update(one.key for one in read_note(self.target.sink, self.target.keys, info.key).objects)
        noted &= self.present.keys()
        for listed in live_archives(self.target.trusting_anybody) if noted else ():
            if listed.manifest is not None:
                noted.difference_update(key for key, _ in listed.manifest.objects())
        self.doomed = noted

    def archive(self, archive_id: str) -> bool:
        """Copy one archive; return whether it was missing."""
        missing = archive_id not in self.archives
        if missing:
            self.tell("copy.started", archive_id=archive_id)
            before = (self.objects, self.copied_bytes)
            stored = get_object(self.source.sink, archive_key(archive_id))
            manifest = self.source.manifest(archive_id)
            self._objects(archive_id, manifest)
            while self.monotonic() - self.looked_at > self.target.config.grace_seconds / 2:
                self.look()
                self._objects(archive_id, manifest)
        if signature_key(archive_id) in self.unsigned:
            self._signature(archive_id)
        if self.marks:
            self._marks(archive_id)
        if missing:
            self._put(archive_key(archive_id), stored)
            self.archives.add(archive_id)
            copied = self.objects - before[0]
            here = len(manifest.packs) + len(manifest.indexes) + 1 - copied
            size = self.copied_bytes - before[1]
            self.tell("copy.finished", archive_id=archive_id, copied=copied, present=here, copied_bytes=size)
        return missing

    def tell(self, name: str, **fields: object) -> None:
        """Tell the observer."""
        self.observer(Event(name=name, fields=fields))

    def _objects(self, archive_id: str, manifest: ArchiveManifest) -> None:
        wanted = [key for key, size in manifest.objects() if self.present.get(key) != size]
        for key, _ in manifest.objects():
            if key in self.bad:
                raise self.bad[key]
            if key in self.doomed:
                message = (
                    f"{key} is in {self.target.sink.location}, unused, and a prune there may be about to delete it"
                )
                hint = "finish that prune first, then copy again"
                raise PlanStaleError(message, kind="prune_pending", hint=hint, key=key)
        for done, (key, size) in enumerate(map_ahead(self._transfer, wanted, workers=_TRANSFERS), 1):
            self.present[key] = size
            self.objects += 1
            self.copied_bytes += size
            self.tell(
                "copy.progress",
                archive_id=archive_id,
                objects_done=done,
                objects_total=len(wanted),
                copied_bytes=self.copied_bytes,
            )

    def _transfer(self, key: str) -> tuple[str, int]:
        try:
            stored = get_object(self.source.sink, key)
            self._store(key, stored)
        except WRONG_BYTES as error:
            self.bad[key] = error
            raise
        return key, len(stored)

    def _put(self, key: str, stored: bytes) -> None:
        self._store(key, stored)
        self.objects += 1
        self.copied_bytes += len(stored)

    def _store(self, key: str, stored: bytes) -> None:
        put_object(self.target.sink, key, stored)
        if self.read_back is ReadBack.CONTENT:
            get_object(self.target.sink, key)
        elif (found := self.target.sink.stat(key).size_bytes) != len(stored):
            message = f"{key} has {found} bytes in {self.target.sink.location}, {len(stored)} were sent"
            raise TruncatedError(message, kind="size_mismatch", key=key)

    def _signature(self, archive_id: str) -> None:
        """Copy the signatures, before the manifest; those that are there by now stay."""
        problem = archive_signature_problem(self.source.sink, archive_id, SignaturePolicy())
        if problem is not None:
            raise problem
        signatures = read_signatures(self.source.sink, archive_id)
        if signatures is not None:
            with contextlib.suppress(BlobExistsError):
                self.target.sink.put(signature_key(archive_id), (signatures,))

    def _marks(self, archive_id: str) -> None:
        names = list_marks(self.source.sink, archive_id)
        if not names:
            return
        there = set(list_marks(self.target.sink, archive_id))
        for name in carried_marks(names, read_standing(self.source.sink, names)):
            if name not in there:
                with contextlib.suppress(BlobNotFoundError, BlobExistsError):
                    data = b"".join(self.source.sink.read(name.key, size_bytes=MAX_MARK_BYTES + 1))
                    self.target.sink.put(name.key, (data,))
