"""
Erase a tenant from all archives at once, those that nobody can delete too: its keys are destroyed.

What is written is a notice in the place of each key, so that nobody takes the erasure for a loss, or a loss for an
erasure.

A key must go from every place it was copied to. What was open to somebody before stays known to him; from then on
nobody can open it any more, with whatever keys.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Sequence

import attrs

from ...contracts import ArchiveSink, Clock, Observer, ignore_events, utc_now
from ...errors import BackupError, BlobNotFoundError, ConfigurationError, PlanStaleError, SinkPermissionError
from ...model.events import Event
from ...model.moments import iso_ms
from ...model.reports import Finding, Outcome
from ...model.sections import SectionKind
from ...repository.erasures import put_erasure
from ...repository.layout import tenant_key_id, tenant_key_named, tenant_key_prefix
from ...repository.manifest import ArchiveManifest, RecordTables
from ...repository.proving import WRONG_BYTES
from ...repository.reading import IndexReader
from ...repository.repository import Repository

__all__ = [
    "AffectedArchive",
    "ErasePlan",
    "ErasureReport",
    "TenantKeyObject",
    "apply_erase_tenant",
    "plan_erase_tenant",
]


@attrs.frozen(kw_only=True, order=True)
class TenantKeyObject:
    """One copy of one key of a tenant."""

    place: int
    """0: the repository's own store; from 1 on the copies, in the order they were given."""
    location: str
    """The store it is in, for people; several may be called the same."""
    key: str
    """Of the object there."""

    def __str__(self) -> str:
        """Return both."""
        return f"{self.key} in {self.location}"


@attrs.frozen(kw_only=True)
class AffectedArchive:
    """An archive that has records of the tenant, which nobody can open afterwards."""

    archive_id: str
    records: int


@attrs.frozen(kw_only=True)
class ErasePlan:
    """What erasing a tenant would destroy. It does not say the tenant's name."""

    repository_id: bytes
    tenant_id: str
    """32 hexadecimal digits: a keyed hash, which only holders of the repository's keys can make from the name."""
    objects: tuple[TenantKeyObject, ...]
    """The keys that are deleted, in every store."""
    archives: tuple[AffectedArchive, ...]
    """Oldest first."""
    findings: tuple[Finding, ...] = ()
    """What erasing does not reach, or could not be looked at."""
    sinks: tuple[ArchiveSink, ...] = attrs.field(repr=False)
    key_ids: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    """Of every key the tenant ever had, as far as stores and archives know: each gets a notice."""

    def __str__(self) -> str:
        """Return what would happen, for people."""
        records = sum(archive.records for archive in self.archives)
        lines = [
            f"erase tenant {self.tenant_id} of repository {self.repository_id.hex()}: CANNOT BE UNDONE",
            *(f"  delete {each}" for each in self.objects),
            f"  nobody can open its {records} record(s) in {len(self.archives)} archive(s) afterwards",
            *(f"    {archive.archive_id}: {archive.records}" for archive in self.archives),
        ]
        return "\n".join([*lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


@attrs.frozen(kw_only=True)
class ErasureReport:
    """
    What was destroyed, to be kept as evidence. It does not say the tenant's name.

    Whoever holds a key of the repository can make `tenant_id` from the name again, and so see whom it was about.
    """

    repository_id: bytes
    tenant_id: str
    erased_at: dt.datetime
    removed: tuple[TenantKeyObject, ...]
    """Keys that are gone; each was looked for again afterwards."""
    left: tuple[TenantKeyObject, ...] = ()
    """Keys that a store did not let go of: what is sealed to them can still be opened."""
    archives: tuple[AffectedArchive, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def erased(self) -> bool:
        """Whether no key of the tenant is left in the stores that were given."""
        return not self.left

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when a key is left."""
        return Outcome.OK if self.erased else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return the certificate, for people."""
        done = "erased" if self.erased else "NOT ERASED"
        records = sum(archive.records for archive in self.archives)
        lines = [
            f"tenant {self.tenant_id} of repository {self.repository_id.hex()}: {done} at {iso_ms(self.erased_at)}",
            *(f"  destroyed {each}" for each in self.removed),
            *(f"  LEFT {each}" for each in self.left),
            f"  {records} record(s) in {len(self.archives)} archive(s) cannot be opened by anybody"
            if self.erased
            else "  its records can still be opened",
            *(f"    {archive.archive_id}: {archive.records}" for archive in self.archives),
        ]
        return "\n".join([*lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


def plan_erase_tenant(repository: Repository, owner: str | bytes, *, copies: Iterable[ArchiveSink] = ()) -> ErasePlan:
    """
    Return a plan that destroys all keys of a tenant; nothing happens.

    A writer key is enough, since nothing is opened. Memory: the records of a section, 40 bytes each. A plan for a
    tenant whose keys are lost already has no objects: applying it says that they are not missed.

    Args:
        repository: Which.
        owner: The tenant, as sources name it: its id, text is encoded as UTF-8.
        copies: Further stores that hold keys of tenants: replicas, copies made earlier.

    Raises:
        ConfigurationError: Tenants have no keys of their own here, kind ``no_tenant_keys``; or nothing in the
            repository is this one's, kind ``no_such_tenant``.
        SinkError: A store could not be reached, or refuses.
    """
    if not repository.config.tenant_keys:
        message = f"tenants have no keys of their own in {repository.sink.location}: none can be erased"
        hint = "forget and prune the archives, or copy into a repository made with tenant_keys=True"
        raise ConfigurationError(message, kind="no_tenant_keys", hint=hint)
    name = owner.encode() if isinstance(owner, str) else owner
    tenant_id = repository.writer_key.tenant_id(name)
    sinks = (repository.tenant_sink, *copies)
    objects = _objects(sinks, tenant_id)
    archives, known, findings = _affected(repository, repository.writer_key.owner_key(name), tenant_id)
    named = (tenant_key_named(each.key) for each in objects)
    key_ids = known.union(key_id for _, key_id in filter(None, named))
    if not objects and not archives:
        message = f"nothing in {repository.sink.location} is of such a tenant"
        raise ConfigurationError(message, kind="no_such_tenant", hint="is it named as in the source?")
    return ErasePlan(
        repository_id=repository.config.repository_id,
        tenant_id=tenant_id.hex(),
        objects=objects,
        archives=archives,
        findings=tuple(findings),
        sinks=sinks,
        key_ids=tuple(sorted(key_ids)),
    )


def apply_erase_tenant(
    repository: Repository, plan: ErasePlan, *, observer: Observer = ignore_events, clock: Clock = utc_now
) -> ErasureReport:
    """
    Destroy the keys of a tenant. This cannot be undone.

    Needs the rights to create and to delete where the keys are: first a notice of the erasure is written in every
    place, then the keys are deleted. Archives, packs and indexes stay as they are; verifying them finds no damage,
    restoring gives everybody else's records. An interruption leaves some of the keys: plan again.

    Args:
        repository: The one the plan was made for.
        plan: As it was made; printing it says what happens.
        observer: Told of every key.
        clock: Dates the report.

    Raises:
        PlanStaleError: The stores hold other keys of the tenant than planned for; nothing happened.
        ConfigurationError: The plan is of another repository, kind ``wrong_repository``.
        SinkPermissionError: A store takes no notice; no key was destroyed.
        SinkUnavailableError: A store could not be reached; keys destroyed so far are.
    """
    if plan.repository_id != repository.config.repository_id:
        raise ConfigurationError("the plan is of another repository", kind="wrong_repository")
    tenant_id = bytes.fromhex(plan.tenant_id)
    if _objects(plan.sinks, tenant_id) != plan.objects:
        raise PlanStaleError("keys of the tenant came or went since the plan was made", hint="plan again")
    erased_at = clock()
    for sink, key_id in itertools.product(plan.sinks, plan.key_ids):
        put_erasure(sink, repository.writer_key, tenant_id, key_id, at=erased_at)
    for sink, found in _listed(plan.sinks, tenant_id):
        with contextlib.suppress(SinkPermissionError, BlobNotFoundError):
            sink.delete(found.key)
            observer(Event(name="tenant.key_destroyed", fields={"key": found.key, "location": found.location}))
    left = _objects(plan.sinks, tenant_id)
    return ErasureReport(
        repository_id=plan.repository_id,
        tenant_id=plan.tenant_id,
        erased_at=erased_at,
        removed=tuple(each for each in plan.objects if each not in left),
        left=left,
        archives=plan.archives,
        findings=plan.findings,
    )


def _listed(sinks: Iterable[ArchiveSink], tenant_id: bytes) -> Iterator[tuple[ArchiveSink, TenantKeyObject]]:
    for place, sink in enumerate(sinks):
        for info in list(sink.list(tenant_key_prefix(tenant_id))):
            if tenant_key_named(info.key) is not None:
                yield sink, TenantKeyObject(place=place, location=sink.location, key=info.key)


def _objects(sinks: Iterable[ArchiveSink], tenant_id: bytes) -> tuple[TenantKeyObject, ...]:
    return tuple(sorted(found for _, found in _listed(sinks, tenant_id)))


def _affected(
    repository: Repository, owner_key: bytes, tenant_id: bytes
) -> tuple[tuple[AffectedArchive, ...], set[bytes], Sequence[Finding]]:
    """Return the archives that have records of an owner, the ids of its keys they know, and what is not reached."""
    reader = IndexReader(repository.sink, repository.writer_key)
    affected: list[AffectedArchive] = []
    key_ids: set[bytes] = set()
    findings: list[Finding] = []
    images = False
    for listed in repository.trusting_anybody.archives():  # whoever wrote them, the tenant's records are in them
        error: BackupError | None = listed.error
        if listed.manifest is not None:
            images = images or any(section.kind is SectionKind.IMAGE for section in listed.manifest.sections)
            try:
                records = _count(listed.manifest, reader, owner_key)
                key_ids.update(_key_ids(listed.manifest, reader, tenant_id))
            except WRONG_BYTES as unreadable:
                error = unreadable
            else:
                if records:
                    affected.append(AffectedArchive(archive_id=listed.archive_id, records=records))
        if error is not None:
            message = f"whether it has records of the tenant cannot be seen: {error}"
            findings.append(Finding(code="archive_damaged", where=listed.archive_id, message=message))
    return tuple(affected), key_ids, [*findings, *_limits(repository, images=images)]


def _key_ids(manifest: ArchiveManifest, reader: IndexReader, tenant_id: bytes) -> Iterator[bytes]:
    for section in manifest.sections:
        if isinstance(section, RecordTables):
            public_key = reader.tenants(manifest, section).get(tenant_id)
            if public_key is not None:
                yield tenant_key_id(public_key)


def _count(manifest: ArchiveManifest, reader: IndexReader, owner_key: bytes) -> int:
    known: dict[bytes, bytes] = {}
    count = 0
    for section in manifest.sections:
        if isinstance(section, RecordTables):
            known.clear()
            for table in reader.record_tables(manifest, section.segment_of(owner_key)):
                table.fold_ids(known)
            count += sum(key.startswith(owner_key) for key in known)
    return count


def _limits(repository: Repository, *, images: bool) -> Iterator[Finding]:
    where = repository.sink.location
    if images:
        message = (
            "memory images hold whatever the canister held, this tenant's data too: forget and prune the archives "
            "that have some"
        )
        yield Finding(code="images_not_erased", where=where, message=message)
    message = (
        "files of archives, such as what a capture found, are not sealed to tenants: where they name this one, forget "
        "and prune the archives"
    )
    yield Finding(code="files_not_erased", where=where, message=message)
    message = (
        "copies of keys in other places keep everything open: replicas, older versions that a store keeps, backups of "
        "tenants/; and copying from there brings the key back"
    )
    yield Finding(code="other_copies", where=where, message=message)
