"""
Verify archives: say everything that is wrong with stored bytes, and go on.

Wrong bytes become findings. What is no statement about the bytes (an unreachable store, a refused read, the wrong key)
is raised, so that *unreachable* is never reported as *corrupt*.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from typing import Any

import attrs

from .._checks import checked_member
from ..codecs.signing import check_manifest
from ..contracts import ArchiveSink, Clock, Codec, Observer, ignore_events, utc_now
from ..errors import (
    BackupError,
    BlobNotFoundError,
    DecryptionError,
    IntegrityError,
    NoMatchingKeyError,
    SignatureError,
    UnsupportedFormatError,
)
from ..exports.checking import verify_payload
from ..model.blobs import BlobRef
from ..model.details import ArchiveDetails
from ..model.events import Event
from ..model.manifest import DETAILS_NAME, SIGNATURE_NAME, STARTED_NAME, Manifest, manifest_key, side_key
from ..model.reports import Coverage, Finding, Sample, VerifyLevel, VerifyReport
from ..model.signatures import SignaturePolicy
from .marks import mark_names, needed_marks, read_mark, record_verification
from .metering import Meter
from .read import MAX_DETAILS_BYTES, codec_for, is_stored, open_blob, parse_manifest, read_manifest_bytes
from .recognising import is_export
from .sampling import SampledBlobs, is_in_part
from .signatures import read_signatures

__all__ = ["PayloadChecker", "verify"]

PayloadChecker = Callable[[Iterable[bytes], Mapping[str, Any]], Iterable[Finding]]
"""Compares a plaintext payload with what was recorded when it was written (`ArchiveDetails.facts`)."""

MAX_SIDE_BLOBS = 20_000
"""Blobs beside an artifact that are looked at; genuine archives have a few, and a mark per event."""

_WRONG_BYTES = (IntegrityError, DecryptionError, UnsupportedFormatError, BlobNotFoundError)
_NOBODY = SignaturePolicy()


def verify(  # noqa: PLR0913 - the parts of a pipeline, most with a default
    sink: ArchiveSink,
    archive_id: str,
    *,
    level: VerifyLevel = VerifyLevel.CONTENT,
    codec: Codec | None = None,
    payload_checker: PayloadChecker | None = None,
    sample: Sample | None = None,
    policy: SignaturePolicy | None = None,
    record: bool = False,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> VerifyReport:
    """
    Check one archive; every level includes those before it.

    Constant memory apart from the details. At level ``content`` every blob is read once, in format KTB1 twice.

    Args:
        sink: Where the archive is.
        archive_id: As `list_archives` names it.
        level: How deep to look.
        codec: Opens sealed archives; needed for level ``content`` only.
        payload_checker: Judges the payload; `None` chooses by its kind (Knowtation payloads are parsed and compared
            with their content roots and counts; of others size and digest are compared).
        sample: Reads only this part of the content, for level ``content``: of containers that authenticate single
            chunks (KTB2) a range of chunks, of all others the whole of the archives that belong to this part. Parts 1
            to *of* cover everything. What only a whole payload shows (its digests and counts) is not compared when
            chunks are.
        policy: Whose archives may be opened; the content of one it refuses is not. `None` trusts everybody, and still
            finds signatures that do not fit.
        record: Whether to note the result beside the archive, which needs the right to create.
        observer: Told what happens.
        clock: Dates the report.

    Raises:
        BlobNotFoundError: There is no such archive, not even an unfinished one, or it was removed meanwhile.
        ConfigurationError: *level* is no `VerifyLevel`.
        NoMatchingKeyError: *codec* is not the one the archive was sealed with.
        SinkUnavailableError: The store could not be reached: says nothing about the archive.
        SinkPermissionError: Listing or reading is refused.
    """
    level = checked_member(VerifyLevel, level, "the level")
    if sample is not None and sample.of == 1:
        sample = None
    run = _Run(sink=sink, archive_id=archive_id, observer=observer, policy=policy or _NOBODY)
    manifest = run.structure()
    if manifest is not None and level is not VerifyLevel.STRUCTURE:
        run.presence(manifest)
        if level is VerifyLevel.CONTENT and not run.refused:
            try:
                opener = codec_for(manifest, codec)
            except UnsupportedFormatError as error:
                run.note_error(error, manifest_key(archive_id))
            else:
                run.content(manifest, opener, payload_checker, sample)
    if run.finished and (run.missing or record):
        run.require_manifest()
    report = VerifyReport(
        archive_id=archive_id,
        level=level,
        verified_at=clock(),
        bytes_read=run.bytes_read,
        findings=tuple(run.findings),
        sample=sample,
        covered=run.covered,
    )
    observer(Event(name="verify.finished", fields={"archive_id": archive_id, "findings": len(report.findings)}))
    return _recorded(sink, report, observer, clock) if record and run.finished else report


def _recorded(sink: ArchiveSink, report: VerifyReport, observer: Observer, clock: Clock) -> VerifyReport:
    """Note the result; what was found is not lost when that fails."""
    noted = report
    if report.covered is Coverage.WHOLE:
        noted = attrs.evolve(report, sample=None)
    elif report.covered is Coverage.NONE and report.level is VerifyLevel.CONTENT:
        noted = attrs.evolve(report, sample=None, level=VerifyLevel.PRESENCE)
    try:
        record_verification(sink, noted, clock=clock)
    except BackupError as error:
        observer(Event(name="verify.not_recorded", fields={"archive_id": report.archive_id, "error": error.kind}))
        return report
    return attrs.evolve(report, recorded=True)


@attrs.define(kw_only=True)
class _Run:
    sink: ArchiveSink
    archive_id: str
    observer: Observer
    policy: SignaturePolicy
    findings: list[Finding] = attrs.field(factory=list)
    bytes_read: int = 0
    bad_keys: set[str] = attrs.field(factory=set)
    finished: bool = False
    """Whether there is a manifest, so that something can be said of an archive."""
    refused: bool = False
    """Whether the policy forbids to open the archive."""
    covered: Coverage = Coverage.NONE
    missing: bool = False
    """Whether a blob was not there, which says nothing of an archive that is being removed."""

    def note(self, code: str, where: str, message: str) -> None:
        """Add a finding and tell the observer its code; messages may quote sealed content."""
        self.findings.append(Finding(code=code, where=where, message=message))
        self.observer(Event(name="verify.finding", fields={"archive_id": self.archive_id, "code": code}))

    def note_error(self, error: BackupError, where: str) -> None:
        """Add an error as a finding of its kind."""
        self.missing = self.missing or isinstance(error, BlobNotFoundError)
        self.note(error.kind, where, str(error))

    def require_manifest(self) -> None:
        """Refuse to judge an archive that is gone by now: who removes one removes its manifest first."""
        if not is_stored(self.sink, manifest_key(self.archive_id)):
            message = f"{self.archive_id} was removed from {self.sink.location} while it was being verified"
            raise BlobNotFoundError(message, hint="list the archives", archive_id=self.archive_id)

    def structure(self) -> Manifest | None:
        """Return the manifest if it reads, is signed as wanted, and speaks of this archive; look at marks."""
        where = manifest_key(self.archive_id)
        manifest = data = None
        try:
            data = read_manifest_bytes(self.sink, self.archive_id)
        except BlobNotFoundError:
            started = side_key(self.archive_id, STARTED_NAME)
            if not is_stored(self.sink, self.archive_id) and not is_stored(self.sink, started):
                raise
            self.note("manifest_missing", where, "the backup was never finished: there is no manifest")
            return None
        except IntegrityError as error:
            self.note_error(error, where)
        else:
            self.bytes_read += len(data)
            try:
                manifest = parse_manifest(self.archive_id, data)
            except (IntegrityError, UnsupportedFormatError) as error:
                self.note_error(error, where)
        self.finished = True
        beside = self.beside()
        if data is not None:
            self.signatures(data, beside)
        self.marks(beside)
        return manifest

    def beside(self) -> list[str]:
        """Return the keys beside the artifact, as many as a genuine archive could have."""
        folder = side_key(self.archive_id, "")
        keys = list(itertools.islice((info.key for info in self.sink.list(folder)), MAX_SIDE_BLOBS + 1))
        if len(keys) > MAX_SIDE_BLOBS:
            self.note("too_many_blobs", folder, f"more than {MAX_SIDE_BLOBS} blobs; marks were not read")
            return []
        return keys

    def signatures(self, manifest_bytes: bytes, beside: Collection[str]) -> None:
        """Note what is wrong with the signatures."""
        where = side_key(self.archive_id, SIGNATURE_NAME)
        if beside and where not in beside and self.policy.is_open:
            return  # a read that fails costs as much as one that does not
        try:
            data = read_signatures(self.sink, self.archive_id)
        except SignatureError as error:
            self.note_error(error, where)
            self.refused = not self.policy.is_open
            return
        self.bytes_read += len(data or b"")
        for finding in check_manifest(manifest_bytes, data, self.policy, where=where):
            self.note(finding.code, finding.where, finding.message)
            tolerated = finding.code == "unsigned" and self.policy.for_unsigned == "report"
            self.refused = not (self.policy.is_open or tolerated)

    def marks(self, beside: Iterable[str]) -> None:
        """Note marks whose content matters and cannot be read."""
        for name in needed_marks(mark_names(beside)):
            mark = read_mark(self.sink, name)
            if mark is not None and mark.damage:
                self.note("mark", name.key, mark.damage)

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

    def content(
        self, manifest: Manifest, codec: Codec | None, checker: PayloadChecker | None, sample: Sample | None
    ) -> None:
        """Read everything that is there, open it, and compare payload, details and manifest."""
        sampled = None
        if sample is not None:
            sampled = SampledBlobs.of(self.sink, codec, sample)
            if sampled is None and not is_in_part(self.archive_id, sample):
                return
        details_key = side_key(self.archive_id, DETAILS_NAME) + (codec.suffix if codec else "")
        details: ArchiveDetails | None = None
        for ref in manifest.side:
            if ref.key == details_key:
                details = self._details(manifest, codec, ref)
            elif sampled is not None:
                self._open_sampled(sampled, ref)
            else:
                self._open(ref, codec, _forget)
        if all(ref.key != details_key for ref in manifest.side):
            self.note("details_missing", details_key, "the manifest names no details")
        if sampled is not None:
            self._open_sampled(sampled, manifest.artifact)
        elif details is None:
            self._open(manifest.artifact, codec, _forget)
        else:
            self._payload(manifest, codec, details, checker)
        self.covered = Coverage.WHOLE if sampled is None else Coverage.PART

    def _details(self, manifest: Manifest, codec: Codec | None, ref: BlobRef) -> ArchiveDetails | None:
        """Return the details, the only blob that is kept in memory; note where they contradict the manifest."""
        kept = _Kept(MAX_DETAILS_BYTES)
        if ref.size_bytes > 2 * MAX_DETAILS_BYTES:
            self.note("details_too_large", ref.key, f"the manifest says they have {ref.size_bytes} bytes")
            return None
        if not self._open(ref, codec, kept.take):
            return None
        if kept.overflown:
            self.note("details_too_large", ref.key, f"they have more than {MAX_DETAILS_BYTES} bytes when opened")
            return None
        try:
            details = ArchiveDetails.from_bytes(kept.joined())
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
        except NoMatchingKeyError:
            raise  # says nothing about the bytes, which are as they were written
        except _WRONG_BYTES as error:
            self.note_error(error, ref.key)
            return False
        self.bytes_read += ref.size_bytes
        return True

    def _open_sampled(self, sampled: SampledBlobs, ref: BlobRef) -> None:
        """Check one part of a blob's chunks."""
        if ref.key in self.bad_keys:
            return
        try:
            self.bytes_read += sampled.check(ref)
        except NoMatchingKeyError:
            # Another key, or a header that was damaged: only the digest over the whole blob can tell.
            if self._open(ref, None, _forget):
                raise
        except _WRONG_BYTES as error:
            self.note_error(error, ref.key)

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
            checker = _check_knowtation if is_export(manifest.kind) else _check_bytes
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
            if not isinstance(failure[0], _WRONG_BYTES) or isinstance(failure[0], NoMatchingKeyError):
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


class _Kept:
    """Keeps chunks up to a limit, and nothing at all beyond it."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._parts: list[bytes] = []
        self.overflown = False

    def take(self, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            self.overflown = True
            self._parts.clear()
        else:
            self._parts.append(chunk)

    def joined(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _forget(_chunk: bytes) -> None:
    """Drop a chunk that only had to be authentic."""
