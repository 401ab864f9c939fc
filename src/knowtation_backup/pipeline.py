"""`Pipeline`: holds the parts of a backup and offers the verbs."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

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
from .model.details import ArchiveDetails
from .model.manifest import Manifest
from .model.plans import ArchiveInfo, ForgetPlan
from .model.reports import BackupReport, ForgetReport, VerifyLevel, VerifyReport
from .model.selection import ArchiveFilter
from .operations.backup import BackupOptions, backup
from .operations.catalog import find_archive, list_archives, resolve_archive
from .operations.forget import apply_forget, plan_forget
from .operations.read import read, read_details, read_manifest
from .operations.verify import PayloadChecker, verify

__all__ = ["Pipeline"]


@attrs.frozen(kw_only=True)
class Pipeline:
    """
    A source, a sink, and what happens between them.

    Holds no state of its own: two pipelines know nothing of each other, and one may be used from several threads as
    far as its parts allow. Every verb says what it does in the operation of the same name. Archives are named by id,
    by the beginning of an id, or as ``latest``; see `find_archive`.
    """

    sink: ArchiveSink
    source: BackupSource | None = None
    """Needed for `backup` only."""
    codec: Codec | None = None
    """Seals what `backup` writes and opens sealed archives; `None` stores in the clear."""
    retention: RetentionPolicy | None = None
    """Needed for `plan_forget` only."""
    options: BackupOptions = BackupOptions()  # noqa: RUF009 - frozen, so sharing it is safe
    payload_checker: PayloadChecker | None = attrs.field(default=None, repr=False)
    observer: Observer = attrs.field(default=ignore_events, repr=False)
    clock: Clock = attrs.field(default=utc_now, repr=False)

    def backup(self) -> BackupReport:
        """Capture the source and store it as one new archive; nothing is overwritten or removed."""
        if self.source is None:
            raise ConfigurationError("this pipeline has no source to back up", kind="no_source")
        return backup(
            self.source,
            self.sink,
            self.codec,
            options=self.options,
            observer=self.observer,
            clock=self.clock,
        )

    def list(self) -> tuple[ArchiveInfo, ...]:
        """Return what is on the sink except its trash, newest first, damaged and unfinished ones shown as such."""
        return tuple(list_archives(self.sink, ArchiveFilter()))

    def find(self, archive_id: str = "latest") -> ArchiveInfo:
        """Return the one archive that *archive_id* names."""
        return find_archive(list_archives(self.sink), archive_id)

    def latest(self) -> ArchiveInfo:
        """Return the newest complete archive."""
        return self.find()

    def verify(self, archive_id: str = "latest", *, level: VerifyLevel = VerifyLevel.CONTENT) -> VerifyReport:
        """Check an archive and report every finding."""
        return verify(
            self.sink,
            resolve_archive(self.sink, archive_id),
            level=level,
            codec=self.codec,
            payload_checker=self.payload_checker,
            observer=self.observer,
            clock=self.clock,
        )

    def read(self, archive_id: str = "latest") -> Iterator[bytes]:
        """Yield the payload of an archive: plaintext, checked before the first byte."""
        yield from read(self.sink, resolve_archive(self.sink, archive_id), self.codec)

    def manifest(self, archive_id: str = "latest") -> Manifest:
        """Return the manifest of an archive: totals, sizes, digests, and the id of the key it needs; needs no key."""
        return read_manifest(self.sink, resolve_archive(self.sink, archive_id))

    def details(self, archive_id: str = "latest") -> ArchiveDetails:
        """Return what the capture of an archive found."""
        return read_details(self.sink, self.manifest(archive_id), self.codec)

    def plan_forget(self) -> ForgetPlan:
        """Return what retention would keep and forget, with reasons; nothing happens."""
        if self.retention is None:
            raise ConfigurationError("this pipeline has no retention policy", kind="no_retention")
        return plan_forget(self.sink, self.retention, now=self.clock())

    def apply(self, plan: ForgetPlan) -> ForgetReport:
        """Do what a plan says, if the sink still holds exactly what was planned for."""
        return apply_forget(self.sink, plan, observer=self.observer, clock=self.clock)
