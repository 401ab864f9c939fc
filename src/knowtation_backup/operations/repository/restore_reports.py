"""What restoring an archive of a repository would do, and what it did."""

from __future__ import annotations

from pathlib import Path

import attrs

from ...model.moments import iso_ms
from ...model.reports import Finding, Outcome
from ...model.sections import SectionKind
from ...repository.manifest import ArchiveManifest
from .stored_export import ExportForm

__all__ = ["RepositoryRestorePlan", "RepositoryRestoreReport", "RestoredSection"]


@attrs.frozen(kw_only=True)
class RestoredSection:
    """One section of a restored archive, or of one that would be."""

    name: str
    kind: SectionKind
    path: str
    """Of the file, relative to the directory."""
    size_bytes: int | None
    """`None`: of records the size is known once they are read."""
    records: int | None = None
    """How many, of records."""

    def __str__(self) -> str:
        """Return one line."""
        size = f"{self.records:,} records" if self.size_bytes is None else f"{self.size_bytes:,} bytes"
        return f"{self.path}: {size}"


@attrs.frozen(kw_only=True)
class RepositoryRestorePlan:
    """What restoring an archive into a directory would do; nothing was written."""

    archive_id: str
    directory: Path
    manifest: ArchiveManifest = attrs.field(repr=False)
    sections: tuple[RestoredSection, ...]
    packs: int
    """How many would be read, or parts of them."""
    pack_bytes: int
    """Their size; less is read where an archive needs little of a pack."""
    form: ExportForm = ExportForm.RECORDS
    location: str = ""
    """Where the repository is."""
    repository_id: bytes = b""
    replaces: bool = False
    """Whether something is at the directory, which would be moved aside."""
    whole: bool = False
    """Whether no sections were named: then a snapshot's directory is as tools expect it, empty folders included."""

    @property
    def size_bytes(self) -> int:
        """Of all files whose size is known before; zeros take no space on the disk."""
        return sum(section.size_bytes or 0 for section in self.sections)

    def __str__(self) -> str:
        """Return a few lines for people."""
        manifest = self.manifest
        complete = "" if manifest.complete else ", INCOMPLETE"
        return "\n".join(
            [
                f"would restore {self.archive_id} from {self.location} to {self.directory}",
                f"  {manifest.kind} of {manifest.source_id}, taken {iso_ms(manifest.taken_at)}{complete}",
                f"  {self.size_bytes:,} bytes to write, {self.packs} pack(s) with {self.pack_bytes:,} bytes to read",
                *(["  what is at that place now is kept beside it"] if self.replaces else []),
                *(f"  {section}" for section in self.sections),
            ]
        )


@attrs.frozen(kw_only=True)
class RepositoryRestoreReport:
    """A restored directory; every byte in it was compared with what was backed up."""

    archive_id: str
    directory: Path
    complete: bool
    """Whether the capture was complete when it was backed up."""
    sections: tuple[RestoredSection, ...]
    duration_seconds: float
    moved_aside: Path | None = None
    """Where that is now which was at the directory before; `None` when nothing was."""
    warnings: tuple[Finding, ...] = ()
    """What is missing, since its tenant was erased."""

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(section.size_bytes or 0 for section in self.sections)

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when the capture was not complete, or tenants were erased."""
        return Outcome.OK if self.complete and not self.warnings else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        incomplete = "" if self.complete else "the INCOMPLETE archive "
        return "\n".join(
            [
                f"restored {incomplete}{self.archive_id} to {self.directory}",
                f"  {self.size_bytes:,} bytes, {self.duration_seconds:.1f} s",
                *([f"  what was there before is at {self.moved_aside}"] if self.moved_aside is not None else []),
                *(f"  {section}" for section in self.sections),
                *(f"  warning {w.code} at {w.where}: {w.message}" for w in self.warnings),
            ]
        )
