"""
One verification: what was found of which object, and what that means for the archives that name it.

Damage is remembered by object, since archives share them, and told archive by archive at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

import attrs

from ..._engine.ahead import map_ahead
from ...contracts import Clock, Observer
from ...errors import BackupError, BlobNotFoundError
from ...model.events import Event
from ...model.reports import Coverage, Finding, Sample, Unverified, VerifyLevel
from ...model.signatures import SignaturePolicy
from ...repository.access import access_files
from ...repository.claims import ClaimRegister, Claims
from ...repository.config import MAX_CONFIG_BYTES, RepositoryConfig
from ...repository.keys import ReadKeys
from ...repository.layout import (
    ACCESS_PREFIX,
    CONFIG_KEY,
    SIDE_PREFIX,
    archive_key,
    beside_archive,
    index_key,
    pack_key,
)
from ...repository.losses import SectionLoss, find_losses
from ...repository.manifest import ArchiveManifest, ObjectRef
from ...repository.opening import FrameReader
from ...repository.proving import WRONG_BYTES, BadPlaces, PackProof, prove_pack
from ...repository.reading import IndexReader
from ...repository.repository import ListedArchive, Repository
from ...repository.signing import archive_signature_problem, signature_key
from ...repository.soundness import check_soundness
from ..marks import record_verification
from .catalog import stored_sizes
from .verify_reports import ArchiveVerifyReport, DamagedObject, RepositoryVerifyReport

__all__ = ["Verification"]

_GONE = frozenset({"blob_not_found", "unsigned"})
"""What is found of an archive that is being removed."""
_WORKERS = 3
"""Packs read at once."""


@attrs.define(kw_only=True)
class _Archive:
    """What is remembered of an archive: its manifest is read again where damage is found."""

    archive_id: str
    packs: tuple[bytes, ...] = ()
    indexes: tuple[bytes, ...] = ()
    findings: list[Finding] = attrs.field(factory=list)
    """Of the manifest itself."""
    unreliable: set[str] = attrs.field(factory=set)
    """Sections that are not what they were, as far as tables go."""
    losses: tuple[SectionLoss, ...] = ()


@attrs.define(kw_only=True, slots=False)
class Verification:
    """Takes archives and levels one after another, and reports at the end."""

    repository: Repository
    level: VerifyLevel
    sample: Sample | None
    observer: Observer
    new_only: bool = False
    """Whether packs are passed over that parents name."""
    inherited: set[bytes] = attrs.field(factory=set)
    """These packs."""
    archives: list[_Archive] = attrs.field(factory=list)
    packs: dict[bytes, ObjectRef] = attrs.field(factory=dict)
    indexes: dict[bytes, ObjectRef] = attrs.field(factory=dict)
    damaged: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    """Code and message by key; what was found first."""
    mismatched: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    """The same of packs that are what their names say, and of keys of tenants: only archives that lose something are
    concerned."""
    doubtful: set[bytes] = attrs.field(factory=set)
    """Packs that do not hold, or whose tenants' keys do not open, what somebody says."""
    bad: BadPlaces = attrs.field(factory=BadPlaces)
    unopened: dict[bytes, BackupError] = attrs.field(factory=dict)
    read: dict[bytes, int] = attrs.field(factory=dict)
    """Bytes of the packs that were read."""
    erased: int = 0
    reader: IndexReader = attrs.field(init=False)
    register: ClaimRegister = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reader = IndexReader(self.repository.sink, self.repository.keys)
        self.register = ClaimRegister(self.reader)

    def note(self, code: str, key: str, message: str) -> None:
        """Remember what is wrong with an object, unless something is known to be wrong with it already."""
        self.damaged.setdefault(key, (code, message))

    def config(self) -> None:
        """
        Compare what the repository says of itself with what it said when it was opened, and look at access files.

        Of these only the header can be judged without the key of their recipient.
        """
        try:
            stored = b"".join(self.repository.sink.read(CONFIG_KEY, size_bytes=MAX_CONFIG_BYTES + 1))
            if RepositoryConfig.from_bytes(stored) != self.repository.config:
                self.note("config_changed", CONFIG_KEY, "it says something else than when it was opened")
        except WRONG_BYTES as error:
            self.note(error.kind, CONFIG_KEY, str(error))
        files = access_files(self.repository.sink)
        if self.repository.expects_access and not files:
            message = "there is no access file: no recipient can open the repository; copy them from a replica"
            self.note("no_access_file", ACCESS_PREFIX, message)
        for file in files:
            if file.error is not None:
                self.note(file.error.kind, file.key, str(file.error))

    def check(self, archives: Iterable[ListedArchive]) -> None:
        """Look at archives as deep as was asked for."""
        for number, listed in enumerate(archives, 1):
            self.structure(listed)
            fields = {"archives_done": number, "archive_id": listed.archive_id}
            self.observer(Event(name="verify.structure", fields=fields))
        if self.level is not VerifyLevel.STRUCTURE:
            self.presence()
        if self.level is VerifyLevel.CONTENT:
            self.content()

    # -- structure --------------------------------------------------------------------------------------------------

    def structure(self, listed: ListedArchive) -> None:
        """Check signatures, manifest and tables of an archive; of a refused one nothing is believed or read."""
        archive = _Archive(archive_id=listed.archive_id)
        self.archives.append(archive)
        if self._is_refused(listed.archive_id):
            return
        manifest = listed.manifest
        if manifest is None:
            error = listed.error
            code, message = (error.kind, str(error)) if error is not None else ("manifest", "it cannot be read")
            self.note(code, archive_key(listed.archive_id), message)
            return
        archive.packs = tuple(self.packs.setdefault(ref.object_id, ref).object_id for ref in manifest.packs)
        archive.indexes = tuple(self.indexes.setdefault(ref.object_id, ref).object_id for ref in manifest.indexes)
        self._same_sizes(archive, manifest)
        if self.new_only and manifest.parent:
            self.inherited.update(self._packs_of(manifest.parent))
        found = check_soundness(listed.archive_id, manifest, self.reader, self.repository.writer_key, self.register)
        for unsound in found:
            finding = Finding(code=unsound.error.kind, where=unsound.where, message=str(unsound.error))
            if unsound.section:
                archive.unreliable.add(unsound.section)
            if unsound.section or finding.code == "bad_table":  # what was written is wrong: of this archive only
                archive.findings.append(finding)
            else:
                self.note(finding.code, finding.where, finding.message)

    @functools.cached_property
    def signed(self) -> set[str]:
        """Keys of signatures; one listing."""
        found = {info.key for info in self.repository.sink.list(SIDE_PREFIX)}
        return found & {signature_key(archive_id) for archive_id in map(beside_archive, found) if archive_id}

    def _is_refused(self, archive_id: str) -> bool:
        """Note what is wrong with the signatures; without a policy only those that do not fit are."""
        policy = self.repository.signatures or SignaturePolicy()
        if policy.is_open and signature_key(archive_id) not in self.signed:
            return False  # a read that fails costs as much as one that does not
        problem = archive_signature_problem(self.repository.sink, archive_id, policy)
        if problem is None:
            return False
        self.note(problem.kind, signature_key(archive_id), str(problem))
        tolerated = problem.kind == "unsigned" and policy.for_unsigned == "report"
        return not (policy.is_open or tolerated)

    def _packs_of(self, archive_id: str) -> list[bytes]:
        try:
            return [ref.object_id for ref in self.repository.manifest(archive_id).packs]
        except WRONG_BYTES:
            return []  # everything is read, then

    def _same_sizes(self, archive: _Archive, manifest: ArchiveManifest) -> None:
        for known, refs in ((self.packs, manifest.packs), (self.indexes, manifest.indexes)):
            for ref in refs:
                if known[ref.object_id].size_bytes != ref.size_bytes:
                    message = f"it gives {ref.object_id.hex()} another size than other manifests do"
                    where = archive_key(archive.archive_id)
                    archive.findings.append(Finding(code="size_mismatch", where=where, message=message))

    # -- presence ---------------------------------------------------------------------------------------------------

    def presence(self) -> None:
        """Look for everything that is named, with one listing."""
        present = stored_sizes(self.repository)
        deeper = self.level is VerifyLevel.CONTENT
        for ref in self.packs.values():
            key = pack_key(ref.object_id)
            # One of another size may still have whole frames, which only reading it shows.
            if not self._is_there(key, ref, present) and not (deeper and key in present):
                self.bad.packs.add(ref.object_id)
        for ref in self.indexes.values():
            self._is_there(index_key(ref.object_id), ref, present)

    def _is_there(self, key: str, ref: ObjectRef, present: dict[str, int]) -> bool:
        size = present.get(key)
        if size is None:
            self.note("blob_not_found", key, f"there is no {key} in {self.repository.sink.location}")
        elif size != ref.size_bytes:
            self.note("size_mismatch", key, f"{size} bytes are stored, manifests say {ref.size_bytes}")
        return size == ref.size_bytes

    # -- content ----------------------------------------------------------------------------------------------------

    def content(self) -> None:
        """Read every pack of the sample once."""
        named = [pack_id for pack_id in self.register.packs if pack_id in self.packs]
        chosen = [one for one in dict.fromkeys([*named, *self.packs]) if self._is_in_sample(one)]
        chosen = [pack_id for pack_id in chosen if pack_id not in self.bad.packs]
        keys = self.repository.keys
        ids = self.repository.writer_key
        frames = (
            FrameReader(self.repository.sink, keys, tenant_sink=self.repository.tenant_sink)
            if isinstance(keys, ReadKeys)
            else None
        )

        def prove(work: tuple[ObjectRef, Claims]) -> PackProof:
            return prove_pack(self.repository.sink, *work, ids=ids, frames=frames)

        work = self._work(chosen, opens=frames is not None)
        bytes_read = 0
        for number, proof in enumerate(map_ahead(prove, work, workers=_WORKERS), 1):
            self._proven(proof)
            bytes_read += proof.bytes_read
            fields = {"packs_done": number, "packs_total": len(chosen), "bytes_read": bytes_read}
            self.observer(Event(name="verify.pack", fields=fields))

    def _work(self, chosen: Iterable[bytes], *, opens: bool) -> Iterator[tuple[ObjectRef, Claims]]:
        for pack_id in chosen:
            yield self.packs[pack_id], self.register.claims(pack_id) if opens else {}

    def _is_in_sample(self, pack_id: bytes) -> bool:
        sample = self.sample
        if pack_id in self.inherited:
            return False
        return sample is None or int.from_bytes(pack_id[:8], "big") % sample.of == sample.part - 1

    def _proven(self, proof: PackProof) -> None:
        self.read[proof.pack_id] = proof.bytes_read
        self.erased += proof.erased
        if proof.error is not None:
            self.note(proof.error.kind, pack_key(proof.pack_id), str(proof.error))
        if proof.mismatch is not None:
            self.doubtful.add(proof.pack_id)
            self.mismatched[pack_key(proof.pack_id)] = (proof.mismatch.kind, str(proof.mismatch))
        for frame, error in proof.blamed.items():
            key = str(error.context["key"])
            self.mismatched[key] = (error.kind, str(error))
            self.bad.blamed[frame] = key
            self.doubtful.add(proof.pack_id)
        if proof.bad is None:
            self.bad.packs.add(proof.pack_id)
        else:
            self.bad.frames.update(proof.bad)
        if proof.unopened is not None:
            self.unopened[proof.pack_id] = proof.unopened

    # -- report -----------------------------------------------------------------------------------------------------

    def report(self, clock: Clock, *, record: bool) -> RepositoryVerifyReport:
        """Say of every archive what was found."""
        reports: list[ArchiveVerifyReport] = []
        unverified: list[Unverified] = []
        vanished: list[str] = []
        objects = {
            key: DamagedObject(key=key, code=code, message=message)
            for key, (code, message) in self.damaged.items()
            if key == CONFIG_KEY or key.startswith(ACCESS_PREFIX)  # of no archive
        }
        for archive in self.archives:
            if self._is_gone(archive):
                vanished.append(archive.archive_id)
                continue
            report = self._judged(archive, clock)
            for finding in report.findings:
                if finding.code != "content_lost":
                    _enter(objects, finding, archive.archive_id)
            closed = next((self.unopened[pack_id] for pack_id in archive.packs if pack_id in self.unopened), None)
            if closed is not None and report.ok:
                unverified.append(Unverified(archive_id=archive.archive_id, error=closed))
                continue
            reports.append(self._recorded(report, clock) if record else report)
            fields = {"archive_id": archive.archive_id, "findings": len(report.findings)}
            self.observer(Event(name="verify.finished", fields=fields))
        return RepositoryVerifyReport(
            reports=tuple(reports),
            unverified=tuple(unverified),
            vanished=tuple(vanished),
            level=self.level,
            sample=self.sample,
            covered=self._covered,
            objects=tuple(objects[key] for key in sorted(objects)),
            packs_read=len(self.read),
            stored_bytes=sum(self.read.values()),
            erased_records=self.erased,
        )

    @property
    def _covered(self) -> Coverage:
        if self.level is not VerifyLevel.CONTENT:
            return Coverage.NONE
        if self.sample is not None or self.inherited:
            return Coverage.PART
        return Coverage.WHOLE if isinstance(self.repository.keys, ReadKeys) else Coverage.STORED

    def _damage_of(self, archive: _Archive) -> list[str]:
        own = (archive_key(archive.archive_id), signature_key(archive.archive_id))
        keys = [*own, *map(index_key, archive.indexes), *map(pack_key, archive.packs)]
        return [key for key in keys if key in self.damaged]

    def _is_gone(self, archive: _Archive) -> bool:
        """Whether an archive of which objects are missing was forgotten meanwhile: manifests go first."""
        if all(self.damaged[key][0] not in _GONE for key in self._damage_of(archive)):
            return False
        try:
            self.repository.sink.stat(archive_key(archive.archive_id))
        except BlobNotFoundError:
            return True
        return False

    def _judged(self, archive: _Archive, clock: Clock) -> ArchiveVerifyReport:
        findings = [*archive.findings]
        findings += [self._finding(key, self.damaged) for key in self._damage_of(archive)]
        losses: tuple[SectionLoss, ...] = ()
        if (findings or not self.doubtful.isdisjoint(archive.packs)) and archive.packs:
            losses = self._losses(archive)
            lost = {key for loss in losses for key in loss.objects}
            findings += [self._finding(key, self.mismatched) for key in sorted(lost & self.mismatched.keys())]
            findings += [Finding(code="content_lost", where=loss.section, message=str(loss)) for loss in losses]
        for finding in findings:
            self.observer(Event(name="verify.finding", fields={"archive_id": archive.archive_id, "code": finding.code}))
        sizes = [self.read.get(pack_id, 0) for pack_id in archive.packs]
        sizes += [self.indexes[index_id].size_bytes for index_id in archive.indexes]
        return ArchiveVerifyReport(
            archive_id=archive.archive_id,
            level=self.level,
            verified_at=clock(),
            bytes_read=sum(sizes),
            findings=tuple(findings),
            sample=self.sample,
            covered=self._covered,
            losses=losses,
        )

    @staticmethod
    def _finding(key: str, known: Mapping[str, tuple[str, str]]) -> Finding:
        code, message = known[key]
        return Finding(code=code, where=key, message=message)

    def _losses(self, archive: _Archive) -> tuple[SectionLoss, ...]:
        try:
            manifest = self.repository.manifest(archive.archive_id)
        except WRONG_BYTES:
            return ()  # its own finding says that nothing of it can be read
        return find_losses(manifest, self.reader, self.bad, sections=archive.unreliable)

    def _recorded(self, report: ArchiveVerifyReport, clock: Clock) -> ArchiveVerifyReport:
        """Note the result; what was found is not lost when that fails."""
        noted = report
        opened = isinstance(self.repository.keys, ReadKeys)
        partly = report.covered is Coverage.PART and (report.sample is None or not opened)
        if report.covered is Coverage.STORED or partly:
            # Not everything was read, or what it holds was not seen: nothing that counts as verified.
            noted = attrs.evolve(report, level=VerifyLevel.PRESENCE)
        try:
            record_verification(self.repository.sink, noted, parts_add_up=opened and not self.new_only, clock=clock)
        except BackupError as error:
            fields = {"archive_id": report.archive_id, "error": error.kind}
            self.observer(Event(name="verify.not_recorded", fields=fields))
            return report
        return attrs.evolve(report, recorded=True)


def _enter(objects: dict[str, DamagedObject], finding: Finding, archive_id: str) -> None:
    known = objects.get(finding.where)
    if known is None:
        known = DamagedObject(key=finding.where, code=finding.code, message=finding.message)
    if archive_id not in known.archives:
        known = attrs.evolve(known, archives=tuple(sorted((*known.archives, archive_id))))
    objects[finding.where] = known
