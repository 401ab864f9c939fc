"""
Verify archives: say everything that is wrong with stored bytes, and go on.

Wrong bytes become findings. What is no statement about the bytes (an unreachable store, a refused read, the wrong key)
is raised, so that *unreachable* is never reported as *corrupt*.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import attrs

from ..contracts import ArchiveSink, Clock, Codec, Observer, ignore_events, utc_now
from ..errors import (
    BackupError,
    BlobNotFoundError,
    DecryptionError,
    IntegrityError,
    UnsupportedFormatError,
)
from ..exports.checking import verify_payload
from ..model.blobs import BlobRef
from ..model.details import ArchiveDetails
from ..model.events import Event
from ..model.manifest import DETAILS_NAME, STARTED_NAME, Manifest, manifest_key, side_key
from ..model.reports import Finding, VerifyLevel, VerifyReport
from .metering import Meter
from .read import MAX_DETAILS_BYTES, codec_for, open_blob, read_manifest

__all__ = ["PayloadChecker", "verify"]

PayloadChecker = Callable[[Iterable[bytes], Mapping[str, Any]], Iterable[Finding]]
"""Compares a plaintext payload with what was recorded when it was written (`ArchiveDetails.facts`)."""

_WRONG_BYTES = (IntegrityError, DecryptionError, UnsupportedFormatError, BlobNotFoundError)
_KNOWTATION = "knowtation-"
_OPAQUE = frozenset({"knowtation-attestation-export"})
"""Kinds that no `ExportReader` reads; their bytes are compared with the recorded digest."""


def verify(  # noqa: PLR0913 - the parts of a pipeline, most with a default
    sink: ArchiveSink,
    archive_id: str,
    *,
    level: VerifyLevel = VerifyLevel.CONTENT,
    codec: Codec | None = None,
    payload_checker: PayloadChecker | None = None,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> VerifyReport:
    """
    Check one archive; every level includes those before it.

    Constant memory apart from the details. At level ``content`` every sealed blob is read twice, any other once.

    Args:
        sink: Where the archive is.
        archive_id: As `list_archives` names it.
        level: How deep to look.
        codec: Opens sealed archives; needed for level ``content`` only.
        payload_checker: Judges the payload; `None` chooses by its kind (Knowtation payloads are parsed and compared
            with their content roots and counts; of others size and digest are compared).
        observer: Told what happens.
        clock: Dates the report.

    Raises:
        BlobNotFoundError: There is no such archive, not even an unfinished one.
        NoMatchingKeyError: *codec* is not the one the archive was sealed with.
        SinkUnavailableError: The store could not be reached: says nothing about the archive.
        SinkPermissionError: Reading is refused.
    """
    run = _Run(sink=sink, archive_id=archive_id, observer=observer)
    manifest = run.structure()
    if manifest is not None and level is not VerifyLevel.STRUCTURE:
        run.presence(manifest)
        if level is VerifyLevel.CONTENT:
            try:
                opener = codec_for(manifest, codec)
            except UnsupportedFormatError as error:
                run.note_error(error, manifest_key(archive_id))
            else:
                run.content(manifest, opener, payload_checker)
    report = VerifyReport(
        archive_id=archive_id,
        level=level,
        verified_at=clock(),
        bytes_read=run.bytes_read,
        findings=tuple(run.findings),
    )
    observer(Event(name="verify.finished", fields={"archive_id": archive_id, "findings": len(report.findings)}))
    return report


@attrs.define(kw_only=True)
class _Run:
    sink: ArchiveSink
    archive_id: str
    observer: Observer
    findings: list[Finding] = attrs.field(factory=list)
    bytes_read: int = 0
    bad_keys: set[str] = attrs.field(factory=set)

    def note(self, code: str, where: str, message: str) -> None:
        """Add a finding and tell the observer its code; messages may quote sealed content."""
        self.findings.append(Finding(code=code, where=where, message=message))
        self.observer(Event(name="verify.finding", fields={"archive_id": self.archive_id, "code": code}))

    def note_error(self, error: BackupError, where: str) -> None:
        """Add an error as a finding of its kind."""
        self.note(error.kind, where, str(error))

    def structure(self) -> Manifest | None:
        """Return the manifest if it reads and speaks of this archive."""
        where = manifest_key(self.archive_id)
        try:
            manifest = read_manifest(self.sink, self.archive_id)
        except BlobNotFoundError:
            if not self._exists(self.archive_id) and not self._exists(side_key(self.archive_id, STARTED_NAME)):
                raise
            self.note("manifest_missing", where, "the backup was never finished: there is no manifest")
            return None
        except (IntegrityError, UnsupportedFormatError) as error:
            self.note_error(error, where)
            return None
        self.bytes_read += len(manifest.to_bytes())
        return manifest

    def _exists(self, key: str) -> bool:
        try:
            self.sink.stat(key)
        except BlobNotFoundError:
            return False
        return True

    def presence(self, manifest: Manifest) -> None:
        """Note blobs that are missing or of another size."""
        for ref in (manifest.artifact, *manifest.side):
            try:
                found = self.sink.stat(ref.key).size_bytes
            except BlobNotFoundError as error:
                self.bad_keys.add(ref.key)
                self.note_error(error, ref.key)
                continue
            if found != ref.size_bytes:
                self.bad_keys.add(ref.key)
                message = f"{found} bytes are stored, the manifest says {ref.size_bytes}"
                self.note("size_mismatch", ref.key, message)

    def content(self, manifest: Manifest, codec: Codec | None, checker: PayloadChecker | None) -> None:
        """Read everything that is there, open it, and compare payload, details and manifest."""
        details_key = side_key(self.archive_id, DETAILS_NAME) + (codec.suffix if codec else "")
        details: ArchiveDetails | None = None
        for ref in manifest.side:
            parts: list[bytes] = []
            if ref.key == details_key and ref.size_bytes > MAX_DETAILS_BYTES:
                self.note("details_too_large", ref.key, f"the manifest says they have {ref.size_bytes} bytes")
                continue
            # Only the details are kept in memory; raw replies are opened and forgotten.
            whole = self._open(ref, codec, parts.append if ref.key == details_key else _forget)
            if whole and ref.key == details_key:
                details = self._details(b"".join(parts), manifest, ref)
        if all(ref.key != details_key for ref in manifest.side):
            self.note("details_missing", details_key, "the manifest names no details")
        if details is None:
            self._open(manifest.artifact, codec, _forget)
        else:
            self._payload(manifest, codec, details, checker)

    def _details(self, data: bytes, manifest: Manifest, ref: BlobRef) -> ArchiveDetails | None:
        try:
            details = ArchiveDetails.from_bytes(data)
        except (IntegrityError, UnsupportedFormatError) as error:
            self.note_error(error, ref.key)
            return None
        for finding in details.differences(manifest):
            self.note(finding.code, finding.where, finding.message)
        return details

    def _open(self, ref: BlobRef, codec: Codec | None, take: Callable[[bytes], object]) -> bool:
        """Hand the plaintext of a blob to *take*; return whether all of it was good."""
        if ref.key in self.bad_keys:
            return False
        try:
            for chunk in open_blob(self.sink, ref, codec, unchecked=True):
                take(chunk)
        except _WRONG_BYTES as error:
            self.note_error(error, ref.key)
            return False
        self.bytes_read += ref.size_bytes
        return True

    def _payload(
        self,
        manifest: Manifest,
        codec: Codec | None,
        details: ArchiveDetails,
        checker: PayloadChecker | None,
    ) -> None:
        ref = manifest.artifact
        if ref.key in self.bad_keys:
            return
        if checker is None:
            parsed = manifest.kind.startswith(_KNOWTATION) and manifest.kind not in _OPAQUE
            checker = _check_knowtation if parsed else _check_bytes
        failure: list[BackupError] = []
        with contextlib.closing(_noting(open_blob(self.sink, ref, codec, unchecked=True), failure)) as payload:
            try:
                findings = list(checker(payload, details.facts))
                for _ in payload:  # a checker may stop early; the stored digest covers every byte
                    pass
            except _WRONG_BYTES as error:
                findings = [Finding(code=error.kind, where=ref.key, message=str(error))]
        if failure:
            # What a checker made of a stream that broke off says nothing more.
            if not isinstance(failure[0], _WRONG_BYTES):
                raise failure[0]
            self.note_error(failure[0], ref.key)
            return
        self.bytes_read += ref.size_bytes
        for finding in findings:
            self.note(finding.code, finding.where, finding.message)


def _check_knowtation(chunks: Iterable[bytes], facts: Mapping[str, Any]) -> list[Finding]:
    user_id = facts.get("user_id")  # recorded for payloads that name no tenant
    return verify_payload(chunks, facts, user_id=user_id if isinstance(user_id, str) else "")


def _check_bytes(chunks: Iterable[bytes], facts: Mapping[str, Any]) -> list[Finding]:
    payload = Meter(chunks)
    payload.drain()
    if (payload.size_bytes, payload.sha256) == (facts["payload_size_bytes"], facts["payload_sha256"]):
        return []
    message = f"the payload has {payload.size_bytes} bytes of sha256 {payload.sha256}, its details say otherwise"
    return [Finding(code="payload_digest", where="payload", message=message)]


def _noting(chunks: Iterator[bytes], failure: list[BackupError]) -> Generator[bytes]:
    """Pass chunks on and remember the error that ended them, whatever the reader makes of it."""
    try:
        yield from chunks
    except BackupError as error:
        failure.append(error)
        raise


def _forget(_chunk: bytes) -> None:
    """Drop a chunk that only had to be authentic."""
