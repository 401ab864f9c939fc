"""
Copy archives from one repository into another.

Between repositories with the same keys objects are copied as they are stored (`replicating`). Otherwise archives are
read, every byte compared with what was backed up, and written under the keys of the other repository, where they are
compared with what that one has: history costs there what it costs here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterable

import attrs

from ..._engine.steady import steady_seconds
from ...contracts import Observer, ignore_events
from ...errors import BlobExistsError, PlanStaleError
from ...exports.sections import record_names
from ...model.events import Event
from ...model.marks import Standing
from ...model.reports import Finding, Unverified
from ...repository.manifest import ArchiveManifest, RecordTables
from ...repository.proving import WRONG_BYTES
from ...repository.repository import Repository
from ...repository.signing import signature_key
from ...repository.writer import WriteOptions
from ..backup import ReadBack
from ..copy import carried_marks
from ..marks import list_marks, read_mark
from .archive_source import ArchiveSource, IdentifyRecord
from .backup import DETAILS_SECTION, RepositoryBackupOptions, back_up
from .copy_reports import RepositoryCopyReport
from .replicating import copy_as_stored, signed_keys, wanted_archives

__all__ = ["copy"]


def copy(  # noqa: PLR0913 - the last seven have defaults
    source: Repository,
    target: Repository,
    archive_ids: Iterable[str] | None = None,
    *,
    read_back: ReadBack = ReadBack.SIZES,
    marks: bool = True,
    identify: IdentifyRecord = record_names,
    write: WriteOptions | None = None,
    observer: Observer = ignore_events,
    monotonic: Callable[[], float] = steady_seconds,
) -> RepositoryCopyReport:
    """
    Copy archives that the other repository does not have; repeat it to finish a copy that was interrupted.

    An archive that was re-keyed has another id there. It is recognised by kind, source, the moments of its content and
    of its beginning, and the names and sizes of its sections. Records of erased tenants are left out. Signatures say
    nothing of it: it is signed anew with the signing keys of *target*, or not at all.

    Args:
        source: What to copy; archives that its signature policy refuses are not. With the same keys on both sides a
            writer key is enough; else it is read.
        target: Where to; needs the rights to list, read and create.
        archive_ids: Which; `None` means all but those in the trash.
        read_back: With the same keys: whether new objects are read again.
        marks: Whether pins, tags, notes and quarantine come along.
        identify: With other keys: finds owner and name of records, see `ArchiveSource`.
        write: With other keys: how content is stored.
        observer: Told what happens.
        monotonic: Seconds; measures durations.

    Raises:
        ConfigurationError: The source is open to be written only, and keys differ, kind ``write_only``.
        SinkError: Reading or storing failed; repeat it to go on.
    """
    if source.config.repository_id == target.config.repository_id:
        return copy_as_stored(
            source,
            target,
            archive_ids=archive_ids,
            read_back=read_back,
            marks=marks,
            observer=observer,
            monotonic=monotonic,
        )
    began_at = monotonic()
    _ = source.read_keys  # before anything is written
    known = {_identity(one.manifest): one.archive_id for one in target.archives() if one.manifest is not None}
    signed = set() if target.signing_keys else signed_keys(source)
    copied: dict[str, str] = {}
    present: list[str] = []
    failed: list[Unverified] = []
    findings: list[Finding] = []
    copied_bytes = 0
    for listed in source.archives(wanted_archives(source, archive_ids)):
        manifest = listed.manifest
        if manifest is None:
            if listed.error is not None:
                failed.append(Unverified(archive_id=listed.archive_id, error=listed.error))
            continue
        if _identity(manifest) in known:
            present.append(listed.archive_id)
            if marks:
                _carry_marks(source, target, listed.archive_id, known[_identity(manifest)])
            continue
        _tell(observer, "copy.started", archive_id=listed.archive_id)
        try:
            report = back_up(
                target,
                ArchiveSource(repository=source, manifest=manifest, identify=identify),
                options=RepositoryBackupOptions(
                    tags=manifest.tags, set_id=manifest.set_id, write=write or WriteOptions()
                ),
                observer=observer,
                clock=_Times(manifest),
                monotonic=monotonic,
            )
        except (*WRONG_BYTES, PlanStaleError) as error:
            _tell(observer, "copy.failed", archive_id=listed.archive_id, error=error.kind)
            failed.append(Unverified(archive_id=listed.archive_id, error=error))
            continue
        if marks:
            _carry_marks(source, target, listed.archive_id, report.archive_id)
        known[_identity(manifest)] = report.archive_id
        copied[listed.archive_id] = report.archive_id
        copied_bytes += report.new_bytes
        if signature_key(listed.archive_id) in signed:
            message = (
                f"it is signed, and its copy {report.archive_id} is not: the target was opened without a signing key"
            )
            findings.append(Finding(code="signature_dropped", where=listed.archive_id, message=message))
        _tell(observer, "copy.finished", archive_id=listed.archive_id, copied_bytes=report.new_bytes)
    return RepositoryCopyReport(
        source=source.sink.location,
        target=target.sink.location,
        copied=copied,
        present=tuple(present),
        failed=tuple(failed),
        findings=tuple(findings),
        copied_bytes=copied_bytes,
        duration_seconds=monotonic() - began_at,
    )


def _carry_marks(source: Repository, target: Repository, archive_id: str, copied_id: str) -> None:
    """
    Put marks of an archive beside its copy under another id.

    What verifying found stays: a copy under other keys exists only if all of it was read and was good.
    """
    there = {(name.order, name.verb) for name in list_marks(target.sink, copied_id)}
    for name in carried_marks(list_marks(source.sink, archive_id), Standing()):
        mark = read_mark(source.sink, name) if (name.order, name.verb) not in there else None
        if mark is None or mark.damage:
            continue
        moved = attrs.evolve(mark, name=attrs.evolve(name, artifact=copied_id))
        with contextlib.suppress(BlobExistsError):  # another copy was faster
            target.sink.put(moved.name.key, (moved.to_bytes(),))


def _tell(observer: Observer, name: str, **fields: object) -> None:
    observer(Event(name=name, fields=fields))


def _identity(manifest: ArchiveManifest) -> tuple[object, ...]:
    """What is the same of an archive and its copy under other keys, and of no other archive."""
    sizes = tuple(
        (section.name, section.kind, 0 if isinstance(section, RecordTables) else section.size_bytes)
        for section in manifest.sections  # records of erased tenants are not copied
        if section.name != DETAILS_SECTION  # another release may write other details
    )
    return manifest.kind, manifest.source_id, manifest.taken_at, manifest.started_at, sizes


@attrs.define
class _Times:
    """A clock that says what it said when the archive was made: when it was begun, then when it was finished."""

    manifest: ArchiveManifest
    asked: bool = False

    def __call__(self) -> dt.datetime:
        """Return the next moment."""
        asked, self.asked = self.asked, True
        return self.manifest.finished_at if asked else self.manifest.started_at
