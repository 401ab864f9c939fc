"""What extending locks would do and what it did, as values a person can read."""

from __future__ import annotations

import datetime as dt

import attrs

from ...model.moments import iso_ms
from ...model.reports import Finding, Outcome

__all__ = ["ArchiveLock", "LockPlan", "LockReport", "ObjectLock"]


@attrs.frozen(kw_only=True)
class ArchiveLock:
    """An archive that is kept, and until when everything it needs is to be locked."""

    archive_id: str
    until: dt.datetime
    reason: str
    """Why it is kept, for people."""


@attrs.frozen
class ObjectLock:
    """An object whose lock ends before it is needed no longer."""

    key: str
    locked_until: dt.datetime | None
    """When its lock ends or ended; `None` when it has none."""
    until: dt.datetime
    """Until when it is to be locked: that of the last archive that needs it."""


@attrs.frozen(kw_only=True)
class LockPlan:
    """Which locks would be extended; nothing has happened yet."""

    location: str
    made_at: dt.datetime
    archives: tuple[ArchiveLock, ...]
    """Those that are kept, newest first."""
    objects: tuple[ObjectLock, ...] = attrs.field(repr=False)
    """What would be locked for longer, sorted by key."""
    held_objects: int
    """How many objects are locked long enough."""
    findings: tuple[Finding, ...] = ()
    """Manifests that cannot be read, so that nobody knows what they need, and objects that are missing."""

    @property
    def until(self) -> dt.datetime | None:
        """The end of the longest lock there would be, `None` when nothing is kept."""
        return max((archive.until for archive in self.archives), default=None)

    def __str__(self) -> str:
        """Return a line per archive, and one that says what applying would do."""
        lines = [f"keep {each.archive_id} until {iso_ms(each.until)}: {each.reason}" for each in self.archives]
        lines += [f"{finding.code} at {finding.where}: {finding.message}" for finding in self.findings]
        bare = sum(each.locked_until is None for each in self.objects)
        summary = f"applying would extend the locks of {len(self.objects)} object(s) in {self.location}"
        summary += f", {bare} of which have none" if bare else ""
        return "\n".join([*lines, f"{summary}; {self.held_objects} are locked long enough"])


@attrs.frozen(kw_only=True)
class LockReport:
    """What applying a plan did."""

    extended_objects: int
    held_objects: int
    """Those that were locked long enough when the plan was made."""
    refused: tuple[Finding, ...] = ()
    """Objects that are not locked as long as they should be."""
    findings: tuple[Finding, ...] = ()
    """Those of the plan."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when something that an archive needs is not locked, or may not be."""
        return Outcome.PARTIAL if self.refused or self.findings else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [
            f"extended the locks of {self.extended_objects} object(s), {self.held_objects} were locked long enough"
        ]
        lines += [f"NOT LOCKED {finding.where}: {finding.message}" for finding in self.refused]
        lines += [f"{finding.code} at {finding.where}: {finding.message}" for finding in self.findings]
        return "\n".join(lines)
