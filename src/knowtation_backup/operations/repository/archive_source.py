"""An archive of a repository as a source: so that it can be stored in another one, under that one's keys."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import attrs

from ...contracts import Observer, ignore_events
from ...errors import IntegrityError
from ...exports.sections import record_names
from ...model.reports import CaptureResult, Finding
from ...model.sections import FileSection, ImageSection, RecordSection, Section, SectionRecord
from ...repository.content import ArchiveReader
from ...repository.manifest import ArchiveManifest, FileTable, ImageTables, RecordTables
from ...repository.repository import Repository
from .backup import DETAILS_SECTION
from .details import read_details

__all__ = ["ArchiveCapture", "ArchiveSource", "IdentifyRecord"]

IdentifyRecord: TypeAlias = Callable[[str, bytes], Iterable[tuple[bytes, bytes]]]
"""Returns what owner and name of a record may be, likeliest first, from the name of its section and its value."""

_ZEROS: Final = bytes(1 << 20)


@attrs.frozen(kw_only=True)
class ArchiveSource:
    """
    A `SectionSource` that reads one archive, every byte of it compared with what was backed up.

    Args:
        repository: Where it is; open to be read.
        manifest: Of the archive.
        identify: Finds owner and name of records in their values: a repository knows hashes of them only, which decide.
            Unless said otherwise, it knows the records of exports.
    """

    repository: Repository
    manifest: ArchiveManifest
    identify: IdentifyRecord = record_names

    def capture_sections(
        self,
        *,
        taken_at: object,  # noqa: ARG002 - the content is of the moment the archive says
        observer: Observer = ignore_events,  # noqa: ARG002
    ) -> ArchiveCapture:
        """Begin to read the archive."""
        return ArchiveCapture(self)


class ArchiveCapture:
    """A `SectionCapture` of an archive."""

    def __init__(self, source: ArchiveSource) -> None:
        self._source = source
        self._manifest = source.manifest
        repository = source.repository
        self._reader = ArchiveReader(
            repository.sink, repository.read_keys, source.manifest, tenant_sink=repository.tenant_sink
        )
        self.erased: dict[str, int] = {}
        """How many records of a section were left out, since the keys of their tenants were destroyed."""
        self._details: dict[str, Any] = {}
        self.kind: str = source.manifest.kind
        self.source_id: str = source.manifest.source_id
        self.taken_at: dt.datetime = source.manifest.taken_at

    def sections(self) -> Iterator[Section]:
        """Yield what was backed up but the details, which whoever stores this writes anew."""
        for section in self._manifest.sections:
            match section:
                case FileTable(name=name) if name == DETAILS_SECTION:
                    self._details = read_details(self._reader, section)
                case FileTable():
                    yield FileSection(name=section.name, chunks=self._reader.file(section))
                case ImageTables():
                    yield ImageSection(name=section.name, size_bytes=section.size_bytes, chunks=self._image(section))
                case RecordTables():
                    yield RecordSection(name=section.name, batches=self._records(section))

    def _image(self, tables: ImageTables) -> Iterator[bytes | memoryview]:
        for part in self._reader.image(tables):
            yield part.data if part.data is not None else memoryview(_ZEROS)[: part.size_bytes]

    def _records(self, tables: RecordTables) -> Iterator[Sequence[SectionRecord]]:
        identify = self._source.identify
        keys = self._source.repository.writer_key
        for group in self._reader.records(
            tables, on_erased=lambda _owner, records: self._note_erased(tables.name, records)
        ):
            batch: list[SectionRecord] = []
            for record in group:
                candidates = identify(tables.name, record.value)
                found = next((each for each in candidates if keys.record_key(*each) == record.key), None)
                if found is None:
                    message = f"a record of {tables.name} has another owner or name than its value says"
                    raise IntegrityError(message, kind="record_changed", section=tables.name, key=record.key.hex())
                batch.append(SectionRecord(*found, record.value))
            yield batch

    def _note_erased(self, section: str, records: int) -> None:
        self.erased[section] = self.erased.get(section, 0) + records

    def result(self) -> CaptureResult:
        """Return what the capture found when the archive was made."""
        manifest = self._manifest
        try:
            warnings = tuple(Finding(**warning) for warning in self._details.get("warnings", ()))
        except TypeError as error:
            raise IntegrityError("warnings of an archive cannot be read", kind="details_unreadable") from error
        if self.erased:
            message = (
                f"{sum(self.erased.values())} record(s) were left out, since the keys of their tenants were destroyed"
            )
            warnings += (Finding(code="records_erased", where=self.source_id, message=message),)
        return CaptureResult(
            complete=manifest.complete,
            counts=manifest.counts,
            details=self._details.get("capture", {}),
            warnings=warnings,
        )
