"""
The history of one note or proposal over all archives of a series, from tables; each index is read once.

Only versions that differ are opened, one frame each.
"""

from __future__ import annotations

import contextlib

import attrs

from ...errors import BackupError, BlobNotFoundError, ConfigurationError, ErasedTenantError, IntegrityError
from ...exports.entries import Entry
from ...exports.records import Record, RecordKind, parse_record
from ...exports.sections import RECORDS_SECTION
from ...model.reports import Finding
from ...repository.content import ArchiveReader
from ...repository.folding import FoldedRecord, find_record
from ...repository.keys import ReadKeys
from ...repository.manifest import ArchiveManifest, FileTable, RecordTables
from ...repository.opening import FrameReader, values_of
from ...repository.proving import WRONG_BYTES
from ...repository.reading import IndexReader
from ...repository.repository import ListedArchive, Repository
from .backup import DETAILS_SECTION
from .catalog import live_archives, series_of
from .details import complete_tenants, read_details
from .history_reports import HistorySpan, Presence, RecordHistory
from .record_changes import status_of
from .stored_export import owner_of

__all__ = ["history"]


def history(  # noqa: PLR0913 - what of which series
    repository: Repository,
    tenant: str,
    vault: str,
    path: str | None = None,
    *,
    proposal_id: str | None = None,
    kind: str | None = None,
    source_id: str | None = None,
    contents: bool = False,
) -> RecordHistory:
    """
    Return every version of a note or proposal that archives hold, and where there is none.

    Archives in the trash or in quarantine are passed over. Of several notes of one path, which hubs do not make, the
    first one is followed. Any version comes back with `restore_records` from the archive that its span names.

    With a writer key versions are told apart, and neither their sizes nor contents are known.

    Args:
        repository: A writer key is enough.
        tenant: As the hub has it.
        vault: Same; the empty text for proposals without one.
        path: Of the note.
        proposal_id: Of the proposal, instead.
        kind: Of what was captured; `None` for any that holds an export.
        source_id: Same.
        contents: Whether the versions themselves are returned.

    Raises:
        BlobNotFoundError: No archive that can be read has it, kind ``no_such_record``.
        ConfigurationError: Archives of several series hold exports (``ambiguous_series``), it is not named
            (``bad_option``), or contents are asked for with a writer key (``write_only``).
        SinkUnavailableError: The store could not be reached.
    """
    if (path is None) == (proposal_id is None):
        message = "a history is that of one note or of one proposal"
        raise ConfigurationError(message, kind="bad_option", hint="pass a path, or proposal_id=")
    if contents:
        _ = repository.read_keys
    record = Record(
        kind=RecordKind.NOTE if path is not None else RecordKind.PROPOSAL,
        user_id=tenant,
        vault_id=vault,
        name=path if path is not None else proposal_id or "",
        line=b"",
    )
    archives, series = _archives(repository, kind, source_id)
    look = _Look(repository=repository, record=record, contents=contents)
    for found in archives:
        look.at(found)
    if not any(span.presence is Presence.THERE for span in look.spans):
        message = f"no archive of {series or repository.sink.location} has {record.kind.value} {record.name!r:.200}"
        raise BlobNotFoundError(message, kind="no_such_record", hint="names are compared exactly")
    return RecordHistory(
        kind=record.kind,
        user_id=tenant,
        vault_id=vault,
        name=record.name,
        series=series,
        spans=tuple(look.spans),
        warnings=tuple(look.warnings),
    )


def _archives(repository: Repository, kind: str | None, source_id: str | None) -> tuple[list[ListedArchive], str]:
    """Return the archives to look at, oldest first, and their series."""
    found: list[ListedArchive] = []
    series: set[str] = set()
    for listed in live_archives(repository):
        manifest = listed.manifest
        if manifest is not None:
            if kind not in {None, manifest.kind} or source_id not in {None, manifest.source_id}:
                continue
            if not isinstance(manifest.section(RECORDS_SECTION), RecordTables):
                continue
            series.add(series_of(manifest.kind, manifest.source_id))
        found.append(listed)
    if len(series) > 1:
        message = f"archives of {len(series)} series hold exports: {', '.join(sorted(series)[:5])}"
        raise ConfigurationError(message, kind="ambiguous_series", hint="name kind and source")
    return found, next(iter(series), "")


@attrs.define(kw_only=True)
class _Look:
    """A look at one archive after another."""

    repository: Repository
    record: Record
    contents: bool
    spans: list[HistorySpan] = attrs.field(factory=list, init=False)
    warnings: list[Finding] = attrs.field(factory=list, init=False)
    _key: bytes = attrs.field(init=False)
    _indexes: IndexReader = attrs.field(init=False)
    _frames: FrameReader | None = attrs.field(init=False)
    _named: dict[tuple[bytes, int], tuple[bool, FoldedRecord | None]] = attrs.field(factory=dict, init=False)
    """What each table says, so that no index is read twice."""
    _opened: dict[bytes, bytes | None] = attrs.field(factory=dict, init=False, repr=False)
    """Values by their ids."""

    def __attrs_post_init__(self) -> None:
        """Make what all archives are read with."""
        repository = self.repository
        self._key = repository.writer_key.record_key(owner_of(self.record.user_id), self.record.sort_key)
        self._indexes = IndexReader(repository.sink, repository.keys)
        self._frames = None
        if isinstance(repository.keys, ReadKeys):
            self._frames = FrameReader(repository.sink, repository.keys, tenant_sink=repository.tenant_sink)

    def at(self, listed: ListedArchive) -> None:
        """Take note of what an archive says."""
        manifest = listed.manifest
        if manifest is None:
            self._add(_span(listed, Presence.UNREADABLE))
            return
        try:
            place = self._place(manifest)
        except WRONG_BYTES:
            self._add(_span(listed, Presence.UNREADABLE))
            return
        if place is None:
            presence = Presence.ABSENT if self._was_read(manifest) else Presence.UNKNOWN
            self._add(_span(listed, presence))
            return
        span = attrs.evolve(_span(listed, Presence.THERE), record_id=place.record_id.hex())
        self._add(self._described(span, place))

    def _place(self, manifest: ArchiveManifest) -> FoldedRecord | None:
        tables = manifest.section(RECORDS_SECTION)
        if not isinstance(tables, RecordTables):
            return None
        for ref in reversed(tables.segment_of(self._key).tables):  # the newest that names it is right
            index_id = manifest.indexes[ref.index].object_id
            known = self._named.get((index_id, ref.frame))
            if known is None:
                known = find_record(self._indexes.record_table(index_id, ref.frame), self._key)
                self._named[index_id, ref.frame] = known
            if known[0]:
                return known[1]
        return None

    def _was_read(self, manifest: ArchiveManifest) -> bool:
        """Whether the capture read all of the tenant, so that what is not in it was not there."""
        if manifest.complete:
            return True
        table = manifest.section(DETAILS_SECTION)
        keys = self.repository.keys
        if not isinstance(table, FileTable) or not isinstance(keys, ReadKeys):
            return False
        reader = ArchiveReader(self.repository.sink, keys, manifest)
        with contextlib.suppress(*WRONG_BYTES):
            return self.record.user_id in complete_tenants(read_details(reader, table))
        return False

    def _described(self, span: HistorySpan, place: FoldedRecord) -> HistorySpan:
        value = self._value(place, span)
        if value is None:
            return span
        record, content = parse_record(value)
        entry = None
        if self.contents:
            note = content if content is not None and not isinstance(content, dict) else None
            proposal = content if isinstance(content, dict) else None
            entry = Entry(
                kind=record.kind, user_id=record.user_id, vault_id=record.vault_id, note=note, proposal=proposal
            )
        return attrs.evolve(span, size_bytes=len(value), status=status_of(content), entry=entry)

    def _value(self, place: FoldedRecord, span: HistorySpan) -> bytes | None:
        if self._frames is None:
            return None
        if place.record_id not in self._opened:
            self._opened[place.record_id] = None
            try:
                self._opened[place.record_id] = self._read(self._frames, place)
            except WRONG_BYTES as error:
                self.warnings.append(_unopened(error, span))
        return self._opened[place.record_id]

    def _read(self, frames: FrameReader, place: FoldedRecord) -> bytes:
        (content,) = frames.contents([place.frame])
        if isinstance(content, ErasedTenantError):
            raise content
        values = values_of(content)
        value = values[place.slot] if place.slot < len(values) else b""
        if self.repository.writer_key.record_id(value) != place.record_id:
            raise IntegrityError("a record is not what was backed up", kind="record_changed", key=self._key.hex())
        return value

    def _add(self, span: HistorySpan) -> None:
        last = self.spans[-1] if self.spans else None
        if last is not None and (last.presence, last.record_id) == (span.presence, span.record_id):
            span = attrs.evolve(last, last=span.last, last_at=span.last_at, archives=last.archives + 1)
            self.spans[-1] = span
        else:
            self.spans.append(span)


def _span(listed: ListedArchive, presence: Presence) -> HistorySpan:
    moment = listed.manifest.taken_at if listed.manifest is not None else None
    archive_id = listed.archive_id
    return HistorySpan(presence=presence, first=archive_id, first_at=moment, last=archive_id, last_at=moment)


def _unopened(error: BackupError, span: HistorySpan) -> Finding:
    message = f"version {span.record_id or '':.12} cannot be opened: {error.message}"
    return Finding(code=error.kind, where=span.first, message=message)
