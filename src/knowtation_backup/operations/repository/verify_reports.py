"""What verifying a repository reports: objects that are damaged, archives they belong to, and what is lost of these."""

from __future__ import annotations

import attrs

from ...model.reports import Coverage, Outcome, Sample, VerifyAllReport, VerifyLevel, VerifyReport
from ...repository.losses import SectionLoss

__all__ = ["ArchiveVerifyReport", "DamagedObject", "RepositoryVerifyReport"]


@attrs.frozen(kw_only=True)
class ArchiveVerifyReport(VerifyReport):
    """What verifying found of one archive; no findings means every check of the level passed."""

    losses: tuple[SectionLoss, ...] = ()
    """What of it cannot be restored; everything else can, also when there are findings."""

    def __str__(self) -> str:
        """Return a few lines for people."""
        return "\n".join([VerifyReport.__str__(self), *(f"  LOST {loss}" for loss in self.losses)])


@attrs.frozen(kw_only=True)
class DamagedObject:
    """An object that is missing, or is not what it should be."""

    key: str
    code: str
    """See the findings of `verify` in the reference of errors."""
    message: str
    archives: tuple[str, ...] = ()
    """Ids of the archives that name it, sorted; of a manifest, its own."""


@attrs.frozen(kw_only=True)
class RepositoryVerifyReport(VerifyAllReport):
    """What verifying several archives of a repository found; each pack was read once, whoever shares it."""

    reports: tuple[ArchiveVerifyReport, ...]
    level: VerifyLevel
    sample: Sample | None = None
    covered: Coverage = Coverage.NONE
    """How much of the content was read."""
    objects: tuple[DamagedObject, ...] = ()
    """Everything that is damaged, sorted by key."""
    packs_read: int = 0
    stored_bytes: int = 0
    """Bytes of packs that were read, each once."""
    erased_records: int = 0
    """Records nobody can open any more since the keys of their tenants were destroyed, as notices say: no damage."""

    @property
    def failed(self) -> tuple[ArchiveVerifyReport, ...]:
        """The reports with findings."""
        return tuple(report for report in self.reports if not report.ok)

    @property
    def bytes_read(self) -> int:
        """Same as `stored_bytes`: those of archives overlap."""
        return self.stored_bytes

    @property
    def ok(self) -> bool:
        """Whether every archive was judged, none has findings, and no object is damaged."""
        return super().ok and not self.objects

    @property
    def outcome(self) -> Outcome:
        """`DIFFERENT` when something was found, else `PARTIAL` when something could not be judged, else `OK`."""
        return Outcome.DIFFERENT if self.objects else super().outcome

    def __str__(self) -> str:
        """Return a line per archive and damaged object, and what is lost."""
        depth = self.level.value
        if self.sample is not None:
            depth += f", part {self.sample.part} of {self.sample.of}"
        totals = f"{len(self.failed)} with findings, {len(self.unverified)} not judged"
        lines = [f"verified {len(self.reports)} archive(s) ({depth}): {totals}"]
        lines.append(f"  {self.packs_read} packs read, {self.stored_bytes:,} bytes")
        if self.erased_records:
            lines.append(f"  {self.erased_records} record(s) of erased tenants, which nobody can open")
        lines += [f"  DAMAGED {item.key}: {item.code}, in {len(item.archives)} archive(s)" for item in self.objects]
        lines += [f"  NOT JUDGED {item.archive_id}: {item.error}" for item in self.unverified]
        return "\n".join(lines + [str(report) for report in self.reports])
