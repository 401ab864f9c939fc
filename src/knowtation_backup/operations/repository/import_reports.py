"""What importing into a repository would do, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from ...errors import BackupError
from ...model.blobs import BlobInfo
from ...model.plans import ArchiveInfo
from ...model.reports import Finding, Outcome
from .stored_folders import StoredFolder

__all__ = ["ImportItem", "ImportPlan", "ImportReport", "Skipped"]

_MAX_LINES: Final = 50
"""Of what was passed over: a sink may hold anything."""


@attrs.frozen(kw_only=True)
class Skipped:
    """Something on the sink that is not imported."""

    key: str
    reason: str

    def __str__(self) -> str:
        """Return one line."""
        return f"skipped {self.key}: {self.reason}"


@attrs.frozen(kw_only=True)
class ImportItem:
    """One file or folder that would be imported."""

    archive: ArchiveInfo
    """As listings describe it; a folder has its path for an id."""
    blobs: tuple[BlobInfo, ...] = attrs.field(repr=False)
    """What would be read."""
    folder: StoredFolder | None = attrs.field(default=None, repr=False)
    """`None`: it is a file."""

    @property
    def key(self) -> str:
        """Where it lies on the sink."""
        return self.archive.archive_id

    @property
    def set_id(self) -> str:
        """What an archive made of it has for a set id: so a repeated run knows what was imported."""
        return f"import-{self.archive.short_id}"

    @property
    def size_bytes(self) -> int:
        """Of all that would be read."""
        return sum(info.size_bytes for info in self.blobs)

    def __str__(self) -> str:
        """Return one line."""
        info = self.archive
        return f"{self.key}: {info.kind or 'unknown kind'}, {info.taken_at:%Y-%m-%d}, {self.size_bytes:,} bytes"


@attrs.frozen(kw_only=True)
class ImportPlan:
    """What importing would do; nothing was written, and of most files only the names were seen."""

    location: str
    """Where the files are."""
    items: tuple[ImportItem, ...]
    """What would be imported, oldest first."""
    present: tuple[str, ...] = ()
    """What the repository has already."""
    skipped: tuple[Skipped, ...] = ()
    """What would not be imported, and why."""
    source_id: str = ""
    """What files are taken to be backups of that do not say it."""

    @property
    def size_bytes(self) -> int:
        """What would be read."""
        return sum(item.size_bytes for item in self.items)

    def __str__(self) -> str:
        """Return a line for each file or folder."""
        head = f"would import {len(self.items)} from {self.location}, {self.size_bytes:,} bytes to read"
        lines = [f"  {item}" for item in self.items]
        lines += [f"  {name}: there already" for name in self.present]
        return "\n".join([head, *lines, *(f"  {line}" for line in _some(self.skipped))])


@attrs.frozen(kw_only=True)
class ImportReport:
    """What `import_all` did."""

    imported: dict[str, str]
    """Ids in the repository by the names of files and folders."""
    present: tuple[str, ...]
    """Files that the repository has already."""
    failed: dict[str, BackupError]
    """Files that could not be imported, and why; they stay what they are."""
    skipped: tuple[Skipped, ...] = ()
    """What was passed over, and why; not looked into."""
    warnings: Mapping[str, tuple[Finding, ...]] = attrs.field(factory=dict)
    """What was found in some that were imported."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when a file could not be imported."""
        return Outcome.PARTIAL if self.failed else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line for each file."""
        lines = [f"{name} -> {archive_id}" for name, archive_id in self.imported.items()]
        lines += [
            f"warning {w.code} in {name} at {w.where}: {w.message}"
            for name in self.warnings
            for w in self.warnings[name]
        ]
        lines += [f"{name}: there already" for name in self.present]
        lines += _some(self.skipped)
        lines += [f"NOT imported {name}: {error}" for name, error in self.failed.items()]
        counts = f"{len(self.imported)} imported, {len(self.failed)} not, {len(self.skipped)} skipped"
        return "\n".join([*lines, counts])


def _some(skipped: tuple[Skipped, ...]) -> list[str]:
    lines = [str(each) for each in skipped[:_MAX_LINES]]
    if len(skipped) > _MAX_LINES:
        lines.append(f"skipped {len(skipped) - _MAX_LINES} more")
    return lines
