"""
Exports as a repository stores them: canonical records, one for each tenant, vault, note and proposal, and back again.

So an unchanged note costs nothing, whatever order the hub tells things in. Sections:

``records``
    owner: the tenant's id; name: the record's sort key (see `records`), followed by its leaf hash where a tenant has
    several of one sort key, and by a number where these are equal, too; value: the record's line
``export.json``
    what the payload says of itself: ``format_version``, ``kind``, ``exported_at``
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from .._engine.local_files import os_errors_translated
from ..contracts import BackupSource, Capture, Codec, Observer, SectionCapture, ignore_events
from ..errors import ExportError, IntegrityError, InternalError
from ..model.json_input import check_nesting
from ..model.reports import CaptureResult, Finding
from ..model.sections import FileSection, RecordSection, Section, SectionRecord
from .entries import Entry, PayloadHeader, Run
from .reader import KINDS, ExportReader, ReadLimits
from .records import ContentRoot, RecordKind, TenantContent, note_lines, parse_record, proposal_record, vault_record

__all__ = [
    "HEADER_SECTION",
    "RECORDS_SECTION",
    "ExportFileSource",
    "ExportSections",
    "StoredEntries",
    "parse_header",
    "payload_capture",
    "record_names",
]

RECORDS_SECTION: Final = "records"
HEADER_SECTION: Final = "export.json"
RECORDS_KIND: Final = "knowtation-backup-records"
_READ_BYTES: Final = 1 << 20
_MOST_ALIKE: Final = 1000
"""Equal records of one tenant that are told apart."""
_HEADER_FIELDS: Final = ("format_version", "kind", "exported_at")


@attrs.frozen(kw_only=True)
class ExportSections:
    """
    A `SectionSource` of any exporter: what it streams is cut into records on its way.

    Args:
        exporter: An `OperatorExporter`, a `VaultExporter`, or another source of Knowtation payloads.
        user_id: The tenant of payloads that name none.
        limits: Protection against hostile payloads.
    """

    exporter: BackupSource
    user_id: str = ""
    limits: ReadLimits = attrs.field(factory=ReadLimits)

    def capture_sections(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> _ExportCapture:
        """Begin a capture; no request is sent before its sections are read."""
        capture = self.exporter.capture(taken_at=taken_at, observer=observer)
        reader = ExportReader(capture.chunks(), user_id=self.user_id, limits=self.limits, hashing=False)
        return _ExportCapture(
            kind=capture.kind,
            source_id=capture.source_id,
            taken_at=capture.taken_at,
            reader=reader,
            runs=reader.runs(),
            capture=capture,
            hashing=False,  # an exporter says the content root itself
        )


@attrs.frozen(kw_only=True)
class ExportFileSource:
    """
    A `SectionSource` of a payload in a local file: versions 1, 2 and 4, and records, compressed or not.

    Args:
        path: The file.
        source_id: What it was read from: the hub's canister id or host name.
        codec: Opens sealed files.
        user_id: The tenant of payloads that name none.
        content_root: Whether to compute the content root, by which any restored copy is recognised; takes a third of
            the time of a backup in which little has changed. What is stored is compared with its ids in any case.
        limits: Protection against hostile files.
    """

    path: Path = attrs.field(converter=Path)
    source_id: str
    codec: Codec | None = None
    user_id: str = ""
    content_root: bool = True
    limits: ReadLimits = attrs.field(factory=ReadLimits)

    def capture_sections(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> SectionCapture:  # noqa: ARG002 - nothing to tell
        """
        Begin a capture; the beginning of the file is read, which says what it is.

        Raises:
            BlobNotFoundError: There is no such file.
            IntegrityError: It is no payload; `UnsupportedFormatError`: of an unknown version, or sealed.
        """
        chunks = _file_chunks(self.path) if self.codec is None else self.codec.open(lambda: _file_chunks(self.path))
        return payload_capture(
            chunks,
            source_id=self.source_id,
            taken_at=taken_at,
            user_id=self.user_id,
            limits=self.limits,
            content_root=self.content_root,
        )


def payload_capture(  # noqa: PLR0913 - keyword only
    chunks: Iterable[bytes],
    *,
    source_id: str,
    taken_at: dt.datetime,
    user_id: str = "",
    limits: ReadLimits | None = None,
    content_root: bool = True,
) -> SectionCapture:
    """
    Return a capture of a payload from wherever it comes; its beginning is read, which says what it is.

    Args:
        chunks: The payload, opened but possibly compressed.
        source_id: What it was read from.
        taken_at: When, if the payload does not say it.
        user_id: The tenant of payloads that name none.
        limits: Protection against hostile payloads.
        content_root: Whether to compute the content root.

    Raises:
        IntegrityError: It is no payload; `UnsupportedFormatError`: of an unknown version, or sealed.
    """
    reader = ExportReader(chunks, user_id=user_id, limits=limits, hashing=False)
    runs = reader.runs()
    first = list(itertools.islice(runs, 1))
    header = reader.header
    return _ExportCapture(
        kind=header.kind or (RECORDS_KIND if header.format_version is None else KINDS[header.format_version]),
        source_id=source_id,
        taken_at=header.exported_moment or taken_at,
        reader=reader,
        runs=itertools.chain(first, runs),
        capture=None,
        hashing=content_root,
    )


def _file_chunks(path: Path) -> Iterator[bytes]:
    with os_errors_translated(f"reading {path}"):
        file_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            with os_errors_translated(f"reading {path}"):
                chunk = os.read(file_fd, _READ_BYTES)
            if not chunk:
                return
            yield chunk
    finally:
        os.close(file_fd)


@attrs.define(kw_only=True)
class _ExportCapture:
    """One export under way; a `SectionCapture`."""

    kind: str
    source_id: str
    taken_at: dt.datetime
    reader: ExportReader
    runs: Iterator[Run]
    capture: Capture | None
    """Of an exporter; `None` of a file."""
    hashing: bool
    """Whether to compute the content root."""
    _root: ContentRoot = attrs.field(factory=ContentRoot, init=False)
    _counts: dict[RecordKind, int] = attrs.field(factory=lambda: dict.fromkeys(RecordKind, 0), init=False)
    _finished: bool = attrs.field(default=False, init=False)

    def sections(self) -> Generator[Section, None, None]:
        """Yield the records, then what the payload says of itself."""
        yield RecordSection(name=RECORDS_SECTION, batches=self._batches())
        self._finished = True
        header = {name: getattr(self.reader.header, name) for name in _HEADER_FIELDS}
        yield FileSection(name=HEADER_SECTION, chunks=(json.dumps(header, sort_keys=True).encode() + b"\n",))

    def result(self) -> CaptureResult:
        """Return what was found: what the exporter says, if it is one."""
        if not self._finished:
            raise InternalError("a capture has a result only when it was read to its end")
        counts = {f"{kind.value}s": count for kind, count in self._counts.items()}
        if self.capture is None:
            details = {"content_root": self._root.hexdigest()} if self.hashing else {}
            return CaptureResult(complete=True, counts=counts, details=details, warnings=self.reader.findings)
        result = self.capture.result()
        told = {name: count for name, count in result.counts.items() if name in counts}
        if told != {name: counts[name] for name in told}:
            message = f"the exporter says it read {told}, and {counts} were stored"
            raise InternalError(message, kind="other_counts")
        return result

    def _batches(self) -> Generator[Sequence[SectionRecord], None, None]:
        done: set[str] = set()
        for user_id, runs in itertools.groupby(self.runs, key=lambda run: run.user_id):
            if user_id in done:
                message = "the payload names a tenant twice, so that it is not clear what belongs to it"
                raise ExportError(message, kind="tenant_twice")
            done.add(user_id)
            yield from self._tenant(user_id, runs)

    def _tenant(self, user_id: str, runs: Iterable[Run]) -> Generator[Sequence[SectionRecord], None, None]:
        owner = user_id.encode("utf-8", "surrogatepass")
        content = TenantContent(user_id)
        names = _Names()
        for run in runs:
            lines = _lines(run)
            self._counts[run.kind] += len(lines)
            if self.hashing and run.kind is not RecordKind.TENANT:  # that one has its own record already
                content.add_lines(run.kind, lines)
            yield [SectionRecord(owner, name, line) for name, line in names.unique(lines)]
        if self.hashing:
            self._root.add(content.digest())


class _Names:
    """Makes sort keys unique within a tenant: a hub may hold two proposals of one id in two vaults, or worse."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def unique(self, lines: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        keys = {key for key, _ in lines}
        if len(keys) == len(lines) and self._seen.isdisjoint(keys):
            self._seen |= keys
            return lines
        return [(self._of(key, line), line) for key, line in lines]

    def _of(self, key: bytes, line: bytes) -> bytes:
        name = next(name for name in _names(key, line) if name not in self._seen)
        self._seen.add(name)
        return name


def _names(key: bytes, line: bytes) -> Iterator[bytes]:
    yield key
    longer = key + hashlib.sha256(line).digest()
    yield longer
    for number in itertools.count(1):
        yield b"%b%d" % (longer, number)


def record_names(_section: str, value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield what owner and name of a stored record may be, likeliest first.

    Raises:
        IntegrityError: It is no record of an export, kind ``bad_record``.
    """
    record, _ = parse_record(value)
    owner = record.user_id.encode("utf-8", "surrogatepass")
    for name in itertools.islice(_names(record.sort_key, record.line), _MOST_ALIKE):
        yield owner, name


def _lines(run: Run) -> list[tuple[bytes, bytes]]:
    if run.kind is RecordKind.NOTE:
        return note_lines(run.user_id, run.vault_id, run.notes)
    if run.kind is RecordKind.PROPOSAL:
        records = [proposal_record(run.user_id, proposal) for proposal in run.proposals]
    elif run.kind is RecordKind.VAULT:
        records = [vault_record(run.user_id, run.vault_id)]
    else:
        records = [entry.record() for entry in run.entries()]
    return [(record.sort_key, record.line) for record in records]


def parse_header(data: bytes) -> PayloadHeader:
    """
    Return what a stored export says of itself: the content of section ``export.json``.

    Raises:
        IntegrityError: It cannot be read.
    """
    try:
        check_nesting(data)
        value: Any = json.loads(data)
        return PayloadHeader(**{name: value[name] for name in _HEADER_FIELDS})
    except (ValueError, KeyError, TypeError) as error:
        message = f"the header of a stored export cannot be read: {type(error).__name__}"
        raise IntegrityError(message, kind="bad_payload") from error


class StoredEntries:
    """
    The entries of an export from a repository: an `EntrySource` for `full_export` and its kin.

    Iterate once; memory is the records of one tenant.

    Args:
        tenants: For each tenant the values of its records, in any order.
        header: See `parse_header`.
        content_root: What the root must be, or what says so once everything was read; `None` compares nothing, for a
            part of an export.
        findings: What is missing, as far as the values were asked for.

    Raises (while iterating):
        IntegrityError: A value is no record (``bad_record``), or the whole has another content root
            (``root_changed``).
    """

    def __init__(
        self,
        tenants: Iterable[Iterable[bytes]],
        header: PayloadHeader,
        *,
        content_root: str | Callable[[], str | None] | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        self._tenants = tenants
        self._wanted = content_root
        self._root = ContentRoot()
        self.header = header
        self.findings = findings

    @property
    def counts(self) -> dict[str, int]:
        """Totals of what was iterated so far."""
        return dict(self._root.counts)

    def __iter__(self) -> Iterator[Entry]:
        for values in self._tenants:
            yield from self._entries(values)
        wanted = self._wanted() if callable(self._wanted) else self._wanted
        if wanted is not None and self._root.hexdigest() != wanted:
            message = "the records give another content root than the export had when it was backed up"
            raise IntegrityError(message, kind="root_changed")

    def _entries(self, values: Iterable[bytes]) -> Iterator[Entry]:
        parsed = [parse_record(value) for value in values]
        parsed.sort(key=lambda item: (item[0].sort_key, item[0].line))
        content: TenantContent | None = None
        for record, found in parsed:
            if record.kind is RecordKind.TENANT:
                content = TenantContent(record.user_id)
            elif content is None:
                raise IntegrityError("the record of a tenant is missing", kind="bad_record")
            else:
                content.add(record)
            note = found if found is not None and not isinstance(found, dict) else None
            yield Entry(
                kind=record.kind,
                user_id=record.user_id,
                vault_id=record.vault_id,
                note=note,
                proposal=found if isinstance(found, dict) else None,
            )
        if content is not None:
            self._root.add(content.digest())
