"""What a prune would do and what one did, as values a person can read."""

from __future__ import annotations

import datetime as dt

import attrs

from ...model.moments import iso_ms
from ...model.reports import Finding, Outcome
from ...repository.notes import NotedObject

__all__ = ["NoteState", "PrunePlan", "PruneReport"]


def _total(objects: tuple[NotedObject, ...]) -> int:
    return sum(noted.size_bytes for noted in objects)


@attrs.frozen(kw_only=True)
class NoteState:
    """A prune note, and what of it is still there and still unused."""

    key: str
    until: dt.datetime
    """When it will be a grace period old, by the clock of the store."""
    objects: tuple[NotedObject, ...] = attrs.field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Of these objects."""
        return _total(self.objects)


@attrs.frozen(kw_only=True)
class PrunePlan:
    """What a prune would do; nothing has happened yet."""

    location: str
    archives: int
    used_objects: int
    used_bytes: int
    marking: tuple[NotedObject, ...] = attrs.field(repr=False)
    """What is unused and in no note yet."""
    waiting: tuple[NoteState, ...] = ()
    """Notes that are not a grace period old."""
    due: tuple[NoteState, ...] = ()
    """Notes that are: what they name is deleted, and the note."""
    findings: tuple[Finding, ...] = ()
    """Notes that cannot be read."""

    @property
    def marked_bytes(self) -> int:
        """What would be noted."""
        return _total(self.marking)

    @property
    def freed_bytes(self) -> int:
        """What would be deleted."""
        return sum(note.size_bytes for note in self.due)

    @property
    def waiting_bytes(self) -> int:
        """What was noted and may not be deleted yet."""
        return sum(note.size_bytes for note in self.waiting)

    def __str__(self) -> str:
        """Return a line per note, and one for what was found."""
        used = f"{self.archives} archive(s) need {self.used_objects} object(s), {self.used_bytes:,} bytes"
        lines = [f"{used}, in {self.location}"]
        lines += [f"DELETE {len(note.objects)} object(s), {note.size_bytes:,} bytes: {note.key}" for note in self.due]
        lines += _waiting_lines(self.waiting)
        if self.marking:
            lines.append(f"note {len(self.marking)} object(s), {self.marked_bytes:,} bytes, that nobody needs any more")
        lines += [f"{finding.code} at {finding.where}: {finding.message}" for finding in self.findings]
        if len(lines) == 1:
            lines.append("nothing is to be pruned")
        return "\n".join(lines)


def _waiting_lines(waiting: tuple[NoteState, ...]) -> list[str]:
    return [
        f"{len(note.objects)} object(s), {note.size_bytes:,} bytes, wait until {iso_ms(note.until)}: {note.key}"
        for note in waiting
    ]


@attrs.frozen(kw_only=True)
class PruneReport:
    """What applying a plan did."""

    deleted_objects: int
    freed_bytes: int
    marked_objects: int
    marked_bytes: int
    waiting: tuple[NoteState, ...] = ()
    """Everything that is noted now and is not a grace period old, newest last."""
    refused: tuple[Finding, ...] = ()
    """Objects that the store does not let go, for example until a lock ends; their notes stay for the next prune."""

    @property
    def waiting_bytes(self) -> int:
        """What later prunes may delete."""
        return sum(note.size_bytes for note in self.waiting)

    @property
    def waiting_until(self) -> dt.datetime | None:
        """When all of it may go, by the clock of the store; `None` when nothing waits."""
        return max((note.until for note in self.waiting), default=None)

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when the store did not let go of something."""
        return Outcome.PARTIAL if self.refused else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [f"deleted {self.deleted_objects} object(s), {self.freed_bytes:,} bytes"]
        if self.marked_objects:
            lines.append(f"noted {self.marked_objects} object(s), {self.marked_bytes:,} bytes")
        lines += _waiting_lines(self.waiting)
        lines += [f"NOT DELETED {finding.where}: {finding.message}" for finding in self.refused]
        return "\n".join(lines)
