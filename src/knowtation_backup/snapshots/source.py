"""
A canister snapshot as the payload of an archive: compressed, sealed and stored like an export, without touching a disk.

The payload is a POSIX tar file of the directory that a download would write, so that ``tar -x`` gives what ``icp`` and
``dfx`` upload: ``metadata.json``, the sections, the Wasm chunks, and at the end, when it is known, ``provenance.cbor``.
"""

from __future__ import annotations

import datetime as dt
import io
import tarfile
from collections.abc import Generator, Iterator
from typing import Any, Final

import attrs

from ..contracts import Observer, ignore_events
from ..errors import InternalError
from ..ic.management import ManagementCanister
from ..model.canisters import SectionName, Slice, StoredChunk, moment_of
from ..model.ids import Principal, SnapshotId
from ..model.moments import iso_ms
from ..model.reports import CaptureResult
from ..model.sections import FileSection, ImageSection, Section
from .download import SnapshotStream, StreamedPart, StreamReport, stream
from .facts import FACTS_FILE, CanisterFacts, capture_facts
from .layout import CHUNK_STORE, METADATA_NAME, part_file, section_file, section_files
from .provenance_records import PROVENANCE_FILE
from .reading import DownloadOptions

__all__ = ["SNAPSHOT_KIND", "CanisterCapture", "CanisterSectionCapture", "CanisterSource"]

SNAPSHOT_KIND: Final = "canister-snapshot"
"""Kind of the payload."""
_SUFFIX: Final = ".tar"
_MODE: Final = 0o600
_END: Final = bytes(2 * tarfile.BLOCKSIZE)


def _principal(value: Principal | str) -> Principal:
    return Principal.parse(value)


def _snapshot(value: SnapshotId | str) -> SnapshotId:
    return SnapshotId.parse(value)


@attrs.frozen(kw_only=True)
class CanisterSource:
    """
    A `BackupSource` and a `SectionSource`: one snapshot that is on chain already.

    For example one just taken by a `SnapshotManager`.

    Args:
        management: Whom to ask.
        canister_id: Whose snapshot it is.
        snapshot_id: Which one.
        options: How it is read.
        facts: Whether a repository gets ``facts.json`` as well: what the canister looks like when the capture begins,
            its settings and log included. Archives of `capture` hold the snapshot alone.
    """

    management: ManagementCanister = attrs.field(repr=False)
    canister_id: Principal = attrs.field(converter=_principal)
    snapshot_id: SnapshotId = attrs.field(converter=_snapshot)
    options: DownloadOptions = attrs.field(factory=DownloadOptions)
    facts: bool = False

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> CanisterCapture:
        """Begin a capture; nothing is read before its chunks are."""
        return CanisterCapture(source=self, taken_at=taken_at, observer=observer)

    def capture_sections(
        self,
        *,
        taken_at: dt.datetime,
        observer: Observer = ignore_events,
    ) -> CanisterSectionCapture:
        """
        Begin a capture for a repository: the certified metadata is read, which says when the snapshot was taken.

        Args:
            taken_at: Dates the facts.
            observer: Told what happens.

        Raises:
            RejectedError: There is no such snapshot, or it may not be read.
            CertificateError: The answer does not verify.
            SourceUnavailableError: The network could not be reached.
        """
        parts = stream(
            self.management,
            self.canister_id,
            self.snapshot_id,
            options=self.options,
            observer=observer,
        )
        moment = moment_of(parts.metadata.taken_at_ns)
        return CanisterSectionCapture(source=self, parts=parts, taken_at=moment, began_at=taken_at)


@attrs.define(kw_only=True)
class CanisterCapture:
    """One read of a snapshot; a `Capture`."""

    source: CanisterSource
    taken_at: dt.datetime
    observer: Observer
    kind: str = attrs.field(default=SNAPSHOT_KIND, init=False)
    name: str = attrs.field(default=SNAPSHOT_KIND, init=False)
    suffix: str = attrs.field(default=_SUFFIX, init=False)
    _begun: bool = attrs.field(default=False, init=False)
    _report: StreamReport | None = attrs.field(default=None, init=False)

    @property
    def source_id(self) -> str:
        """The canister's id."""
        return str(self.source.canister_id)

    def chunks(self) -> Iterator[bytes]:
        """Yield the tar file; may be called once."""
        if self._begun:
            raise InternalError("a capture is read once")
        self._begun = True
        source = self.source
        parts = stream(
            source.management,
            source.canister_id,
            source.snapshot_id,
            options=source.options,
            observer=self.observer,
        )
        with parts:
            yield from self._files(parts)
            self._report = parts.result()

    def _files(self, parts: SnapshotStream) -> Iterator[bytes]:
        metadata = parts.metadata
        seconds = metadata.taken_at_ns // 10**9
        evidence = io.BytesIO()
        evidence.write(parts.record)
        yield _head(METADATA_NAME, len(parts.metadata_json), seconds)
        yield from _padded(parts.metadata_json)
        # Sections come in their order and each from its beginning: an empty one is told when its turn has come.
        waiting = list(SectionName)
        for streamed in parts:
            part = streamed.part
            yield from _empty_before(part.section if isinstance(part, Slice) else None, waiting, seconds)
            if isinstance(part, StoredChunk):
                yield _head(part_file(part), len(streamed.data), seconds)
                yield from _padded(bytes(streamed.data))
            else:
                size = metadata.section_size(part.section)
                if part.offset == 0:
                    yield _head(section_file(part.section), size, seconds)
                yield bytes(streamed.data)
                if part.offset + part.size_bytes == size and size % tarfile.BLOCKSIZE:
                    yield bytes(-size % tarfile.BLOCKSIZE)
            evidence.write(streamed.record)
        yield from _empty_before(None, waiting, seconds)
        if not metadata.wasm_chunk_store:
            yield _head(CHUNK_STORE, 0, seconds, kind=tarfile.DIRTYPE)
        yield _head(PROVENANCE_FILE, evidence.tell(), seconds)
        yield from _padded(evidence.getvalue())
        yield _END

    def result(self) -> CaptureResult:
        """Return what was found; valid once `chunks` is exhausted."""
        return _found(self._report)


@attrs.define(kw_only=True)
class CanisterSectionCapture:
    """One read of a snapshot for a repository; a `SectionCapture`. Its sections are the files of a directory."""

    source: CanisterSource
    parts: SnapshotStream
    taken_at: dt.datetime
    began_at: dt.datetime
    kind: str = attrs.field(default=SNAPSHOT_KIND, init=False)
    _facts: CanisterFacts | None = attrs.field(default=None, init=False)
    _report: StreamReport | None = attrs.field(default=None, init=False)

    @property
    def source_id(self) -> str:
        """The canister's id."""
        return str(self.source.canister_id)

    def sections(self) -> Generator[Section, None, None]:
        """Yield metadata, module, memories, chunks, facts if wanted, and the evidence of the snapshot at the end."""
        metadata = self.parts.metadata
        evidence = io.BytesIO()
        evidence.write(self.parts.record)
        with self.parts as parts:
            if self.source.facts:  # first, close to the moment of the snapshot: reading it may take hours
                self._facts = capture_facts(self.source.management, self.source.canister_id, now=self.began_at)
            yield FileSection(name=METADATA_NAME, chunks=(parts.metadata_json,))
            waiting = _Waiting(iter(parts), evidence)
            for section, name, size, written in section_files(metadata):
                if not written:
                    continue
                if section is SectionName.WASM_MODULE:
                    yield FileSection(name=name, chunks=waiting.slices(section))
                else:
                    yield ImageSection(name=name, size_bytes=size, chunks=waiting.slices(section))
            for chunk in waiting.chunks():
                yield FileSection(name=part_file(chunk.part), chunks=(chunk.data,))
            self._report = parts.result()
        if self._facts is not None:
            yield FileSection(name=FACTS_FILE, chunks=(self._facts.to_bytes(),))
        yield FileSection(name=PROVENANCE_FILE, chunks=(evidence.getvalue(),))

    def result(self) -> CaptureResult:
        """Return what was found; valid once `sections` is exhausted. What the facts lack is among the warnings."""
        return attrs.evolve(_found(self._report), warnings=() if self._facts is None else self._facts.findings)


class _Waiting:
    """Parts of a stream, handed to whose turn it is; their evidence is gathered."""

    def __init__(self, parts: Iterator[StreamedPart], evidence: io.BytesIO) -> None:
        self._parts = parts
        self._evidence = evidence
        self._next = next(parts, None)

    def _take(self) -> StreamedPart:
        taken = self._next
        if taken is None:  # pragma: no cover - asked for only when there is one
            raise InternalError("there are no parts left")
        self._next = next(self._parts, None)
        self._evidence.write(taken.record)
        return taken

    def slices(self, section: SectionName) -> Iterator[memoryview]:
        while self._next is not None and isinstance(self._next.part, Slice) and self._next.part.section is section:
            yield self._take().data

    def chunks(self) -> Iterator[StreamedPart]:
        while self._next is not None:
            yield self._take()


def _found(report: StreamReport | None) -> CaptureResult:
    if report is None:
        raise InternalError("a capture has a result only when it was read to its end")
    details: dict[str, Any] = {
        "canister_id": str(report.canister_id),
        "snapshot_id": str(report.snapshot_id),
        "snapshot_taken_at": iso_ms(report.taken_at),
        "evidence_bytes": report.evidence_bytes,
        "digests": dict(report.digests),
    }
    return CaptureResult(complete=True, counts={"snapshot_bytes": report.size_bytes}, details=details)


def _empty_before(section: SectionName | None, waiting: list[SectionName], seconds: int) -> Iterator[bytes]:
    """Yield heads of empty files whose turn was before *section*; `None`: all that are left."""
    if section is not None and section not in waiting:
        return
    while waiting:
        first = waiting.pop(0)
        if first is section:
            return
        if first is not SectionName.WASM_MEMORY:  # as icp does
            yield _head(section_file(first), 0, seconds)


def _head(name: str, size: int, seconds: int, *, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = seconds
    info.mode = 0o700 if kind == tarfile.DIRTYPE else _MODE
    info.type = kind
    return info.tobuf(tarfile.PAX_FORMAT)


def _padded(data: bytes) -> Iterator[bytes]:
    yield data
    if len(data) % tarfile.BLOCKSIZE:
        yield bytes(-len(data) % tarfile.BLOCKSIZE)
