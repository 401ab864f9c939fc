"""
A canister snapshot as the payload of an archive: compressed, sealed and stored like an export, without touching a disk.

The payload is a POSIX tar file of the directory that a download would write, so that ``tar -x`` gives what ``icp`` and
``dfx`` upload: ``metadata.json``, the sections, the Wasm chunks, and at the end, when it is known, ``provenance.cbor``.
"""

from __future__ import annotations

import datetime as dt
import io
import tarfile
from collections.abc import Iterator
from typing import Any, Final

import attrs

from ..contracts import Observer, ignore_events
from ..errors import InternalError
from ..ic.management import ManagementCanister
from ..model.canisters import SectionName, Slice, StoredChunk
from ..model.ids import Principal, SnapshotId
from ..model.moments import iso_ms
from ..model.reports import CaptureResult
from .download import SnapshotStream, StreamReport, stream
from .layout import CHUNK_STORE, METADATA_NAME, part_file, section_file
from .provenance_records import PROVENANCE_FILE
from .reading import DownloadOptions

__all__ = ["SNAPSHOT_KIND", "CanisterCapture", "CanisterSource"]

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
    A `BackupSource`: one snapshot that is on chain already, for example one just taken by `SnapshotManager`.

    Args:
        management: Whom to ask.
        canister_id: Whose snapshot it is.
        snapshot_id: Which one.
        options: How it is read.
    """

    management: ManagementCanister = attrs.field(repr=False)
    canister_id: Principal = attrs.field(converter=_principal)
    snapshot_id: SnapshotId = attrs.field(converter=_snapshot)
    options: DownloadOptions = attrs.field(factory=DownloadOptions)

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> CanisterCapture:
        """Begin a capture; nothing is read before its chunks are."""
        return CanisterCapture(source=self, taken_at=taken_at, observer=observer)


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
        report = self._report
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
