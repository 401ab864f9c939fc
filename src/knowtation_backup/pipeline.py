"""`Pipeline`: holds the parts of a backup and offers the verbs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping

import attrs

from .codecs.keyring import RingKey
from .codecs.ktb2 import OpeningKey, SealingKey
from .codecs.signing import SigningKey
from .contracts import (
    ArchiveSink,
    BackupSource,
    Clock,
    Codec,
    Observer,
    RetentionPolicy,
    ignore_events,
    utc_now,
)
from .errors import ConfigurationError
from .model.blobs import BlobInfo
from .model.details import ArchiveDetails
from .model.manifest import Manifest
from .model.marks import Mark
from .model.plans import ArchiveInfo, ForgetPlan
from .model.reports import BackupReport, ForgetReport, Sample, VerifyAllReport, VerifyLevel, VerifyReport
from .model.selection import ArchiveFilter
from .model.signatures import SignaturePolicy
from .operations import marks
from .operations.adopt import Adoption, AdoptOptions, AdoptReport, adopt, adopt_all
from .operations.backup import BackupOptions, ReadBack, backup
from .operations.catalog import find_archive, list_archives, resolve_archive, resolve_file
from .operations.copy import CopyReport, copy_archive
from .operations.forget import TRASH_GRACE, apply_forget, plan_delete, plan_forget
from .operations.keys import KeyCheckReport, check_keys
from .operations.read import MAX_DETAILS_BYTES, read, read_details, read_manifest, read_side_file
from .operations.rewrap import RewrapOptions, RewrapReport, rewrap
from .operations.sign import sign_archive
from .operations.trash import plan_empty_trash, undelete
from .operations.verify import PayloadChecker, verify
from .operations.verify_all import verify_all

__all__ = ["Pipeline"]


def _signers(keys: Iterable[SigningKey]) -> tuple[SigningKey, ...]:
    return tuple(keys)


@attrs.frozen(kw_only=True)
class Pipeline:
    """
    A source, a sink, and what happens between them.

    Holds no state of its own: two pipelines know nothing of each other, and one may be used from several threads as
    far as its parts allow. Every verb says what it does in the operation of the same name. Archives are named by id,
    by the beginning of an id, by short id, or as ``latest``; see `find_archive`.
    """

    sink: ArchiveSink
    source: BackupSource | None = None
    """Needed for `backup` only."""
    codec: Codec | None = None
    """What `backup` sends blobs through; holds the keys that open sealed archives. `None` stores them as they are."""
    retention: RetentionPolicy | None = None
    """Needed for `plan_forget` only."""
    options: BackupOptions = BackupOptions()  # noqa: RUF009 - frozen, so sharing it is safe
    signing_keys: tuple[SigningKey, ...] = attrs.field(default=(), converter=_signers)
    """Who signs what `backup`, `adopt` and `rewrap` write."""
    signatures: SignaturePolicy | None = None
    """Whose archives may be read and pass verification; `None` trusts everybody."""
    trash_grace: dt.timedelta = TRASH_GRACE
    """How long forgotten archives stay in the trash; 0 removes them when a plan is applied."""
    payload_checker: PayloadChecker | None = attrs.field(default=None, repr=False)
    observer: Observer = attrs.field(default=ignore_events, repr=False)
    clock: Clock = attrs.field(default=utc_now, repr=False)

    # -- write ------------------------------------------------------------------------------------------------------

    def backup(self) -> BackupReport:
        """Capture the source and store it as one new archive; nothing is overwritten or removed."""
        if self.source is None:
            raise ConfigurationError("this pipeline has no source to back up", kind="no_source")
        return backup(
            self.source,
            self.sink,
            self.codec,
            options=self.options,
            signing_keys=self.signing_keys,
            observer=self.observer,
            clock=self.clock,
        )

    def adopt(self, archive_id: str, options: AdoptOptions | None = None) -> Adoption:
        """Make an archive of a file that another tool wrote, listed or not; the file stays as it is."""
        return adopt(
            self.sink,
            resolve_file(self.sink, archive_id),
            self.codec,
            options=options,
            signing_keys=self.signing_keys,
            observer=self.observer,
            clock=self.clock,
        )

    def adopt_all(self, wanted: ArchiveFilter | None = None, *, options: AdoptOptions | None = None) -> AdoptReport:
        """Adopt every file of another tool that the listing shows; those that cannot be are reported and left."""
        return adopt_all(
            self.sink,
            self.codec,
            wanted=wanted,
            options=options,
            signing_keys=self.signing_keys,
            observer=self.observer,
            clock=self.clock,
        )

    # -- look -------------------------------------------------------------------------------------------------------

    def list(self, wanted: ArchiveFilter | None = None) -> tuple[ArchiveInfo, ...]:
        """
        Return what is on the sink, newest first, damaged and unfinished ones shown as such.

        Without *wanted* everything but what is in the trash.
        """
        return tuple(list_archives(self.sink, wanted or ArchiveFilter(), signatures=self.signatures))

    def find(self, archive_id: str = "latest", *, verified: bool = False) -> ArchiveInfo:
        """Return the one archive that *archive_id* names; of those that proved good, if *verified*."""
        return find_archive(list_archives(self.sink, signatures=self.signatures), archive_id, verified=verified)

    def latest(self, *, verified: bool = False) -> ArchiveInfo:
        """Return the newest complete archive, or the newest whose whole content proved good."""
        return self.find(verified=verified)

    def manifest(self, archive_id: str = "latest") -> Manifest:
        """Return the manifest of an archive: totals, sizes, digests, and the ids of the keys; needs no key."""
        return read_manifest(self.sink, self._resolve(archive_id), self.signatures)

    # -- read and check ---------------------------------------------------------------------------------------------

    def read(self, archive_id: str = "latest") -> Iterator[bytes]:
        """Yield the payload of an archive: plaintext, checked before the first byte."""
        yield from read(self.sink, self._resolve(archive_id), self.codec, policy=self.signatures)

    def details(self, archive_id: str = "latest") -> ArchiveDetails:
        """Return what the capture of an archive found."""
        return read_details(self.sink, self.manifest(archive_id), self.codec)

    def side_file(self, name: str, archive_id: str = "latest", *, limit_bytes: int = MAX_DETAILS_BYTES) -> bytes:
        """
        Return a file kept beside the payload, such as a malformed reply or the evidence of a certified export.

        Raises:
            BlobNotFoundError: The archive has no file of this name.
        """
        return read_side_file(self.sink, self.manifest(archive_id), name, self.codec, limit_bytes=limit_bytes)

    def verify(
        self,
        archive_id: str = "latest",
        *,
        level: VerifyLevel = VerifyLevel.CONTENT,
        sample: Sample | None = None,
        record: bool = True,
    ) -> VerifyReport:
        """Check an archive, report every finding, and note the result beside it where the sink allows."""
        return verify(
            self.sink,
            self._resolve(archive_id),
            level=level,
            codec=self.codec,
            payload_checker=self.payload_checker,
            sample=sample,
            policy=self.signatures,
            record=record,
            observer=self.observer,
            clock=self.clock,
        )

    def verify_all(
        self,
        wanted: ArchiveFilter | None = None,
        *,
        level: VerifyLevel = VerifyLevel.CONTENT,
        sample: Sample | None = None,
        record: bool = True,
    ) -> VerifyAllReport:
        """Check every archive that *wanted* selects, all but those in the trash by default."""
        return verify_all(
            self.sink,
            list_archives(self.sink, wanted or ArchiveFilter(), signatures=self.signatures),
            level=level,
            codec=self.codec,
            payload_checker=self.payload_checker,
            sample=sample,
            policy=self.signatures,
            record=record,
            observer=self.observer,
            clock=self.clock,
        )

    def sign(self, archive_id: str) -> BlobInfo:
        """Sign a finished archive that nobody signed; verify it first, for the signature vouches for it."""
        return sign_archive(self.sink, self._resolve(archive_id), self.signing_keys)

    def copy_to(
        self, target: ArchiveSink, archive_id: str = "latest", *, read_back: ReadBack = ReadBack.CONTENT
    ) -> CopyReport:
        """Copy an archive as it is stored to another sink; needs no key, and finishes what was interrupted."""
        return copy_archive(
            self.sink,
            target,
            self._resolve(archive_id),
            read_back=read_back,
            policy=self.signatures,
            observer=self.observer,
        )

    # -- keys -------------------------------------------------------------------------------------------------------

    def check_keys(self, archive_id: str, keys: RingKey | Iterable[RingKey]) -> KeyCheckReport:
        """Find out which keys open an archive, without reading its payload."""
        return check_keys(self.sink, self._resolve(archive_id), keys, policy=self.signatures)

    def rewrap(
        self,
        archive_id: str,
        *,
        open_with: OpeningKey | Iterable[OpeningKey],
        seal_to: SealingKey | Iterable[SealingKey],
        options: RewrapOptions | None = None,
    ) -> RewrapReport:
        """Write a KTB2 archive beside another, with the same content and other keys; forget the old one by a plan."""
        return rewrap(
            self.sink,
            self._resolve(archive_id),
            open_with=open_with,
            seal_to=seal_to,
            options=options,
            signing_keys=self.signing_keys,
            policy=self.signatures,
            observer=self.observer,
            clock=self.clock,
        )

    # -- note -------------------------------------------------------------------------------------------------------

    def pin(self, archive_id: str, *, until: dt.datetime | None = None) -> Mark:
        """Keep an archive whatever retention says, for ever or *until* a moment."""
        return marks.pin(self.sink, self._resolve(archive_id), until=until, clock=self.clock)

    def unpin(self, archive_id: str) -> Mark:
        """Leave an archive to retention again."""
        return marks.unpin(self.sink, self._resolve(archive_id), clock=self.clock)

    def tag(self, archive_id: str, *tags: str) -> Mark:
        """Give an archive tags."""
        return marks.tag(self.sink, self._resolve(archive_id), *tags, clock=self.clock)

    def untag(self, archive_id: str, *tags: str) -> Mark:
        """Take tags away, also those the backup itself was given."""
        return marks.untag(self.sink, self._resolve(archive_id), *tags, clock=self.clock)

    def annotate(self, archive_id: str, notes: Mapping[str, str | None]) -> Mark:
        """Add notes by name to an archive, readable without a key; `None` removes one."""
        return marks.annotate(self.sink, self._resolve(archive_id), notes, clock=self.clock)

    def quarantine(self, archive_id: str, *, reason: str = "") -> Mark:
        """Keep an archive for analysis: it stays readable by its id, but is never ``latest`` and never counts."""
        return marks.quarantine(self.sink, self._resolve(archive_id), reason=reason, clock=self.clock)

    def release(self, archive_id: str) -> Mark:
        """End the quarantine of an archive."""
        return marks.release(self.sink, self._resolve(archive_id), clock=self.clock)

    # -- forget -----------------------------------------------------------------------------------------------------

    def plan_forget(self) -> ForgetPlan:
        """Return what retention would keep and forget, with reasons; nothing happens."""
        if self.retention is None:
            raise ConfigurationError("this pipeline has no retention policy", kind="no_retention")
        return plan_forget(
            self.sink,
            self.retention,
            now=self.clock(),
            trash_grace=self.trash_grace,
            signatures=self.signatures,
        )

    def plan_delete(self, *archive_ids: str, last_too: bool = False) -> ForgetPlan:
        """Return a plan that forgets exactly the archives named; pinned ones are refused; nothing happens."""
        return plan_delete(
            self.sink,
            archive_ids,
            now=self.clock(),
            trash_grace=self.trash_grace,
            last_too=last_too,
            signatures=self.signatures,
        )

    def plan_empty_trash(self, *, last_too: bool = False) -> ForgetPlan:
        """Return a plan that removes what has been in the trash for `trash_grace`; nothing happens."""
        return plan_empty_trash(
            self.sink, now=self.clock(), grace=self.trash_grace, last_too=last_too, signatures=self.signatures
        )

    def apply(self, plan: ForgetPlan) -> ForgetReport:
        """Do what a plan says, if the sink still holds exactly what was planned for."""
        return apply_forget(self.sink, plan, signatures=self.signatures, observer=self.observer, clock=self.clock)

    def undelete(self, archive_id: str) -> Mark:
        """Bring an archive back from the trash; name it by its id."""
        return undelete(self.sink, self._resolve(archive_id), clock=self.clock)

    def _resolve(self, archive_id: str) -> str:
        return resolve_archive(self.sink, archive_id, signatures=self.signatures)
