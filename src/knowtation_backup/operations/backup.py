"""
Back up: stream a capture through digests and codecs to a sink, then its details, and the manifest last.

The order of the steps, and what an interruption leaves behind, is in `operations.writing`.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from .._checks import member_of
from ..codecs.signing import SigningKey
from ..contracts import ArchiveSink, BackupSource, Capture, Clock, Codec, Observer, ignore_events, utc_now
from ..errors import BackupError, InternalError
from ..model.details import ArchiveDetails
from ..model.manifest import (
    DETAILS_NAME,
    MANIFEST_NAME,
    SIGNATURE_NAME,
    STARTED_NAME,
    Manifest,
    check_tags,
    side_key,
)
from ..model.marks import MarkVerb
from ..model.reports import BackupReport, CaptureResult, Finding, VerifyLevel
from .marks import put_mark
from .writing import ArchiveWriter, generator

__all__ = ["BackupOptions", "ReadBack", "backup"]


class ReadBack(enum.Enum):
    """
    What is looked at again after writing, before the manifest makes an archive of it.

    ``sizes``: every blob is there with its size. ``content``: every blob is read, hashed and opened, which needs the
    keys to open what was sealed; the archive then counts as verified.
    """

    SIZES = "sizes"
    CONTENT = "content"


@attrs.frozen(kw_only=True)
class BackupOptions:
    """How one backup is stored."""

    read_back: ReadBack = attrs.field(default=ReadBack.SIZES, validator=member_of(ReadBack))
    tags: tuple[str, ...] = attrs.field(default=(), converter=check_tags)
    """Words to find the archive by and to keep it by, for example ``pre-upgrade``; readable without a key."""


def backup(  # noqa: PLR0913 - the parts of a pipeline, most with a default
    source: BackupSource,
    sink: ArchiveSink,
    codec: Codec | None = None,
    *,
    options: BackupOptions | None = None,
    signing_keys: Iterable[SigningKey] = (),
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> BackupReport:
    """
    Capture a source and store it as one new archive.

    Constant memory beside what the source needs: a few MB, and what the codec says of itself.

    Args:
        source: What to read.
        sink: Where to store; needs the rights to list, read and create.
        codec: What payload, details and raw replies go through; `None` stores them as they are.
        options: `None` means the defaults.
        signing_keys: Who signs the manifest; nobody by default.
        observer: Told what happens.
        clock: Dates the archive.

    Raises:
        ConfigurationError: The codec has nobody to seal to, or only opens; nothing was read or written.
        SourceError: Reading failed; no archive was made.
        SinkError: Storing failed; no archive was made.
        IntegrityError: What was read back is not what was written; no archive was made.
    """
    started = time.monotonic()
    options = options or BackupOptions()
    if codec is not None:
        codec.seal(())  # a codec that cannot seal says so at once, before a name is taken
    capture = source.capture(taken_at=clock(), observer=observer)
    suffix = codec.suffix if codec else ""
    writer = ArchiveWriter(sink=sink, codec=codec, signing_keys=tuple(signing_keys), observer=observer)
    archive_id = writer.reserve(
        name=capture.name,
        suffix=capture.suffix + suffix,
        taken_at=capture.taken_at,
        kind=capture.kind,
        source_id=capture.source_id,
    )
    writer.tell("backup.started", archive_id=archive_id, kind=capture.kind, source_id=capture.source_id)
    try:
        report = _write(writer, capture, archive_id, options, clock, started)
    except BaseException as error:
        kind = error.kind if isinstance(error, BackupError) else type(error).__name__
        writer.tell("backup.failed", archive_id=archive_id, error=kind)
        raise
    writer.tell(
        "backup.finished",
        archive_id=archive_id,
        complete=report.manifest.complete,
        payload_bytes=report.payload_bytes,
        stored_bytes=report.manifest.artifact.size_bytes,
    )
    return report


def _write(  # noqa: PLR0913, PLR0917 - one call, to keep `backup` readable
    writer: ArchiveWriter, capture: Capture, archive_id: str, options: BackupOptions, clock: Clock, started: float
) -> BackupReport:
    chunks = capture.chunks()
    with contextlib.ExitStack() as stack:
        stack.callback(_close, chunks)  # also when the sink stops reading: the source's threads must end
        artifact = writer.put(archive_id, chunks)
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
    suffix = writer.codec.suffix if writer.codec else ""
    side = [writer.put(side_key(archive_id, DETAILS_NAME) + suffix, [details.to_bytes()])]
    side += [writer.put(side_key(archive_id, file.name) + suffix, [file.content]) for file in result.side_files]
    for written in (artifact, *side):
        writer.check_size(written.ref)
        if options.read_back is ReadBack.CONTENT:
            writer.check_content(written, writer.codec)
    manifest = Manifest(
        artifact=artifact.ref,
        side=tuple(written.ref for written in side),
        kind=capture.kind,
        source_id=capture.source_id,
        taken_at=capture.taken_at,
        finished_at=clock(),
        complete=result.complete,
        codecs=writer.codec.specs if writer.codec else (),
        counts=dict(result.counts),
        tags=options.tags,
        generator=generator(),
    )
    writer.finish(manifest)
    warnings = result.warnings
    if options.read_back is ReadBack.CONTENT:
        warnings += _record(writer.sink, archive_id, clock)
    return BackupReport(
        manifest=manifest,
        payload_bytes=artifact.plain_bytes,
        payload_sha256=artifact.plain_sha256,
        duration_seconds=time.monotonic() - started,
        warnings=warnings,
        targets=writer.sink.target_results(archive_id),
    )


def _record(sink: ArchiveSink, archive_id: str, clock: Clock) -> tuple[Finding, ...]:
    """Note that the whole content proved good; there is an archive by now, so failing to is a warning."""
    values: dict[str, Any] = {"level": VerifyLevel.CONTENT.value, "part": None, "of": None, "findings": []}
    try:
        put_mark(sink, archive_id, MarkVerb.VERIFIED, values, clock=clock)
    except BackupError as error:
        message = f"the archive was read back whole, but that could not be noted: {error}"
        return (Finding(code="not_recorded", where=archive_id, message=message),)
    return ()


def _check_side_names(result: CaptureResult) -> None:
    ours = [MANIFEST_NAME, SIGNATURE_NAME, STARTED_NAME, DETAILS_NAME]
    names = [*ours, *(file.name for file in result.side_files)]
    if len(set(names)) != len(names):
        message = f"the capture gives two side files one name, or one of ours: {', '.join(sorted(names))}"
        raise InternalError(message, kind="side_names")


def _close(chunks: Iterator[bytes]) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
