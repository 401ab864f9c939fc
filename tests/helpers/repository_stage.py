"""Sources and repositories for tests: sections from plain values, and secrets that are made on the spot."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from knowtation_backup.contracts import ArchiveSink, Observer, SectionSource, ignore_events
from knowtation_backup.errors import SourceUnavailableError
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.reports import CaptureResult
from knowtation_backup.model.sections import FileSection, ImageSection, RecordSection, Section, SectionRecord
from knowtation_backup.repository.config import RepositoryConfig
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.layout import CONFIG_KEY, archive_key
from knowtation_backup.repository.manifest import FileTable, ImageTables, RecordTables
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink

__all__ = [
    "MOMENT",
    "Aged",
    "Records",
    "StagedSource",
    "contents",
    "copied",
    "limited",
    "needed_keys",
    "new_repository",
    "numbered_source",
    "open_stored",
    "unreachable_source",
]

MOMENT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)

Records = Mapping[tuple[bytes, bytes], bytes]
"""Values of records by owner and name."""


@attrs.frozen(kw_only=True)
class StagedSource:
    """A `SectionSource` of plain values, and its own capture."""

    images: Mapping[str, bytes] = attrs.field(factory=dict)
    files: Mapping[str, bytes] = attrs.field(factory=dict)
    records: Mapping[str, Records] = attrs.field(factory=dict)
    kind: str = "canister-snapshot"
    source_id: str = "aaaaa-aa"
    taken_at: dt.datetime = MOMENT
    complete: bool = True
    details: Mapping[str, Any] = attrs.field(factory=dict)

    def capture_sections(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> StagedSource:  # noqa: ARG002
        return self

    def sections(self) -> Iterator[Section]:
        for name, content in self.files.items():
            yield FileSection(name=name, chunks=(content,))
        for name, content in self.images.items():
            yield ImageSection(name=name, size_bytes=len(content), chunks=(content,))
        for name, records in self.records.items():
            ordered = [SectionRecord(owner, key, value) for (owner, key), value in sorted(records.items())]
            yield RecordSection(name=name, batches=(ordered,))

    def result(self) -> CaptureResult:
        return CaptureResult(complete=self.complete, counts={"images": len(self.images)}, details=self.details)

    @property
    def plain(self) -> dict[str, bytes | set[bytes]]:
        """What `contents` must give of an archive of this source, beside its details."""
        records = {name: set(values.values()) for name, values in self.records.items()}
        return {**self.images, **self.files, **records}


def new_repository(
    sink: ArchiveSink, *, keys: ReadKeys | None = None, tenant_sink: ArchiveSink | None = None, **config: object
) -> Repository:
    """Make a repository whose secrets lie nowhere but in its handle."""
    keys = keys or ReadKeys.generate()
    made = RepositoryConfig(repository_id=keys.repository_id, **config)  # type: ignore[arg-type]  # fields by name
    return Repository.create_with(sink, keys, made, tenant_sink=tenant_sink)


def contents(repository: Repository, archive_id: str) -> dict[str, bytes | set[bytes]]:
    """Read everything of an archive back: images and files as bytes, records as the set of their values."""
    manifest = repository.manifest(archive_id)
    reader = ArchiveReader(repository.sink, repository.read_keys, manifest)
    found: dict[str, bytes | set[bytes]] = {}
    for section in manifest.sections:
        match section:
            case ImageTables():
                parts = (
                    part.data if part.data is not None else bytes(part.size_bytes) for part in reader.image(section)
                )
                found[section.name] = b"".join(parts)
            case FileTable():
                found[section.name] = b"".join(reader.file(section))
            case RecordTables():
                found[section.name] = {record.value for group in reader.records(section) for record in group}
    return found


def needed_keys(repository: Repository) -> set[str]:
    """Return the keys of all that belongs into a repository: what its archives name, and what lies beside them."""
    needed = {CONFIG_KEY}
    for archive_id in repository.archive_ids():
        needed.add(archive_key(archive_id))
        needed.update(key for key, _ in repository.manifest(archive_id).objects())
        needed.update(info.key for info in repository.sink.list(f"side/{archive_id}/"))
    return needed


def limited(sink: MemorySink, permissions: str = "lrw") -> MemorySink:
    """Return a sink with the same blobs, now and later, and other permissions."""
    view = MemorySink(permissions=permissions, clock=sink._clock)
    view._blobs, view._lock = sink._blobs, sink._lock
    return view


def copied(sink: MemorySink) -> MemorySink:
    """Return a sink with a copy of the blobs, their times included."""
    copy = MemorySink(permissions=sink._permissions, clock=sink._clock)
    copy._blobs = dict(sink._blobs)
    return copy


class Aged(FaultSink):
    """A store in which everything is older than it is, except probes: nobody waits for a grace period to go by."""

    def __init__(self, inner: ArchiveSink, by: dt.timedelta) -> None:
        super().__init__(inner)
        self._by = by

    def _stat(self, key: str) -> BlobInfo:
        return self._dated(super()._stat(key))

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        return map(self._dated, super()._list(prefix))

    def _dated(self, info: BlobInfo) -> BlobInfo:
        if info.modified_at is None or info.key.endswith(".probe"):
            return info
        return attrs.evolve(info, modified_at=info.modified_at - self._by)


# Functions, because executors of other processes import what they run: they cannot import tests.


def numbered_source(number: int) -> StagedSource:
    """A canister whose memory says which it is."""
    return StagedSource(images={"stable_memory.bin": bytes([number + 1]) * 10_000}, source_id=f"canister-{number}")


def unreachable_source() -> SectionSource:
    """A source that is not there."""
    raise SourceUnavailableError("the hub does not answer")


def open_stored(place: str, keys: ReadKeys) -> Repository:
    """Open a repository in a local directory."""
    return Repository.open_with(FsspecSink(place), keys)
