"""
Back up: stream a capture through digest and codec to a sink, then its details, and the manifest last.

What an interruption leaves behind, at any moment: blobs under this archive's own keys, each complete or absent, and no
manifest. They are listed as unfinished. Nothing is ever overwritten or deleted, so the writer needs no right to.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.metadata
import json
import time
from collections.abc import Iterable, Iterator

import attrs

from ..contracts import ArchiveSink, BackupSource, Capture, Clock, Codec, Observer, ignore_events, utc_now
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    DigestMismatchError,
    IntegrityError,
    InternalError,
    SinkError,
    TruncatedError,
)
from ..model.blobs import BlobRef
from ..model.details import ArchiveDetails
from ..model.events import Event
from ..model.manifest import DETAILS_NAME, MANIFEST_NAME, STARTED_NAME, Manifest, manifest_key, side_key
from ..model.moments import iso_ms
from ..model.reports import BackupReport, CaptureResult
from .metering import Meter
from .naming import ArtifactName
from .read import open_blob

__all__ = ["BackupOptions", "ReadBack", "backup"]

STARTED_FORMAT = "knowtation-backup-started"
_MAX_NUMBER = 999


class ReadBack(enum.Enum):
    """
    What is looked at again after writing, before the manifest makes an archive of it.

    ``sizes``: every blob is there with its size. ``content``: every blob is read, hashed and opened.
    """

    SIZES = "sizes"
    CONTENT = "content"


@attrs.frozen(kw_only=True)
class BackupOptions:
    """How one backup is stored."""

    read_back: ReadBack = ReadBack.SIZES


def backup(  # noqa: PLR0913 - the parts of a pipeline, most with a default
    source: BackupSource,
    sink: ArchiveSink,
    codec: Codec | None = None,
    *,
    options: BackupOptions | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> BackupReport:
    """
    Capture a source and store it as one new archive.

    Constant memory beside what the source needs: a few MB.

    Args:
        source: What to read.
        sink: Where to store; needs the rights to list, read and create.
        codec: Seals payload, details and raw replies; `None` stores them in the clear.
        options: `None` means the defaults.
        observer: Told what happens.
        clock: Dates the archive.

    Raises:
        SourceError: Reading failed; no archive was made.
        SinkError: Storing failed; no archive was made.
        IntegrityError: What was read back is not what was written; no archive was made.
    """
    started = time.monotonic()
    capture = source.capture(taken_at=clock(), observer=observer)
    writer = _Writer(sink=sink, codec=codec, observer=observer, clock=clock, options=options or BackupOptions())
    return writer.run(capture, started)


@attrs.frozen(kw_only=True)
class _Written:
    """One blob that was published, and the plaintext that went in."""

    ref: BlobRef
    plain_bytes: int
    plain_sha256: str


@attrs.frozen(kw_only=True)
class _Writer:
    sink: ArchiveSink
    codec: Codec | None
    observer: Observer
    clock: Clock
    options: BackupOptions

    def run(self, capture: Capture, started: float) -> BackupReport:
        archive_id = self._reserve(capture)
        self._tell("backup.started", archive_id=archive_id, kind=capture.kind, source_id=capture.source_id)
        try:
            report = self._write(capture, archive_id, started)
        except BaseException as error:
            kind = error.kind if isinstance(error, BackupError) else type(error).__name__
            self._tell("backup.failed", archive_id=archive_id, error=kind)
            raise
        self._tell(
            "backup.finished",
            archive_id=archive_id,
            complete=report.manifest.complete,
            payload_bytes=report.payload_bytes,
            stored_bytes=report.manifest.artifact.size_bytes,
        )
        return report

    def _tell(self, name: str, **fields: object) -> None:
        self.observer(Event(name=name, fields=fields))

    def _reserve(self, capture: Capture) -> str:
        """
        Take a name nobody else has, before anything is streamed.

        The stream cannot be read a second time, so a clash must not wait until publishing. The marker is create-only:
        of two writers in the same second one gets the next number.
        """
        suffix = capture.suffix + (self.codec.suffix if self.codec else "")
        for number in range(_MAX_NUMBER + 1):
            name = ArtifactName(name=capture.name, taken_at=capture.taken_at, suffix=suffix, number=number)
            key = name.key
            if not self._exists(key):
                with contextlib.suppress(BlobExistsError):
                    self.sink.put(side_key(key, STARTED_NAME), [_started(key, capture)])
                    return key
        message = f"{_MAX_NUMBER + 1} archives of {capture.name} bear the stamp of this second in {self.sink.location}"
        raise SinkError(message, kind="no_free_name", hint="wait a second; check the clock")

    def _exists(self, key: str) -> bool:
        try:
            self.sink.stat(key)
        except BlobNotFoundError:
            return False
        return True

    def _write(self, capture: Capture, archive_id: str, started: float) -> BackupReport:
        chunks = capture.chunks()
        with contextlib.ExitStack() as stack:
            stack.callback(_close, chunks)  # also when the sink stops reading: the source's threads must end
            artifact = self._put(archive_id, chunks)
        result = capture.result()
        _check_side_names(result)
        details = ArchiveDetails(
            artifact=archive_id,
            kind=capture.kind,
            source_id=capture.source_id,
            taken_at=capture.taken_at,
            complete=result.complete,
            counts=result.counts,
            payload_bytes=artifact.plain_bytes,
            payload_sha256=artifact.plain_sha256,
            warnings=result.warnings,
            capture=result.details,
        )
        suffix = self.codec.suffix if self.codec else ""
        side = [self._put(side_key(archive_id, DETAILS_NAME) + suffix, [details.to_bytes()])]
        side += [self._put(side_key(archive_id, file.name) + suffix, [file.content]) for file in result.side_files]
        for written in (artifact, *side):
            self._read_back(written)
        manifest = Manifest(
            artifact=artifact.ref,
            side=tuple(written.ref for written in side),
            kind=capture.kind,
            source_id=capture.source_id,
            taken_at=capture.taken_at,
            finished_at=self.clock(),
            complete=result.complete,
            codecs=self.codec.specs if self.codec else (),
            counts=dict(result.counts),
            generator=_generator(),
        )
        data = manifest.to_bytes()
        if self.sink.put(manifest_key(archive_id), [data]).size_bytes != len(data):
            raise TruncatedError(f"the manifest of {archive_id} was not stored whole", archive_id=archive_id)
        return BackupReport(
            manifest=manifest,
            payload_bytes=artifact.plain_bytes,
            payload_sha256=artifact.plain_sha256,
            duration_seconds=time.monotonic() - started,
            warnings=result.warnings,
        )

    def _put(self, key: str, chunks: Iterable[bytes]) -> _Written:
        plain = Meter(chunks)
        stored = Meter(self.codec.seal(plain)) if self.codec else plain
        info = self.sink.put(key, stored)
        if not (plain.exhausted and stored.exhausted) or info.size_bytes != stored.size_bytes:
            message = f"{key} has {info.size_bytes} bytes in {self.sink.location}, {stored.size_bytes} were sent"
            raise TruncatedError(message, key=key)
        ref = BlobRef(key=key, size_bytes=stored.size_bytes, sha256=stored.sha256)
        self._tell("backup.stored", key=key, size_bytes=ref.size_bytes, plain_bytes=plain.size_bytes)
        return _Written(ref=ref, plain_bytes=plain.size_bytes, plain_sha256=plain.sha256)

    def _read_back(self, written: _Written) -> None:
        ref = written.ref
        try:
            found = self.sink.stat(ref.key).size_bytes
        except BlobNotFoundError as error:
            message = f"{ref.key} was written and is not in {self.sink.location}"
            raise IntegrityError(message, kind="blob_vanished", key=ref.key) from error
        if found != ref.size_bytes:
            message = f"{ref.key} has {found} bytes in {self.sink.location}, {ref.size_bytes} were written"
            raise TruncatedError(message, kind="size_mismatch", key=ref.key)
        if self.options.read_back is ReadBack.CONTENT:
            opened = Meter(open_blob(self.sink, ref, self.codec))
            opened.drain()
            if (opened.size_bytes, opened.sha256) != (written.plain_bytes, written.plain_sha256):
                message = f"{ref.key} opens to other bytes than were sealed"
                raise DigestMismatchError(message, hint="report this", key=ref.key)
            self._tell("backup.read_back", key=ref.key, size_bytes=ref.size_bytes)


def _check_side_names(result: CaptureResult) -> None:
    names = [MANIFEST_NAME, STARTED_NAME, DETAILS_NAME, *(file.name for file in result.side_files)]
    if len(set(names)) != len(names):
        message = f"the capture gives two side files one name, or one of ours: {', '.join(sorted(names))}"
        raise InternalError(message, kind="side_names")


def _started(key: str, capture: Capture) -> bytes:
    value = {
        "format": STARTED_FORMAT,
        "format_version": 1,
        "artifact": key,
        "kind": capture.kind,
        "source_id": capture.source_id,
        "taken_at": iso_ms(capture.taken_at),
        "generator": _generator(),
    }
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def _generator() -> str:
    return f"knowtation-backup {importlib.metadata.version('knowtation-backup')}"


def _close(chunks: Iterator[bytes]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
