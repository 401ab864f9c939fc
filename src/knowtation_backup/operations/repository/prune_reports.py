"""What a prune would do and what one did, as values a person can read."""

from __future__ import annotations

import datetime as dt

import attrs

from ...model.moments import iso_ms
from ...model.reports import Finding, Outcome
from ...repository.notes import NotedObject

__all__ = ["LockedObject", "NoteState", "PrunePlan", "PruneReport"]


def _total(objects: tuple[NotedObject, ...]) -> int:
    return sum(noted.size_bytes for noted in objects)


@attrs.frozen
class LockedObject:
    """An object that the store keeps for now, whatever anybody asks of it."""

    key: str
    size_bytes: int
    until: dt.datetime | None
    """When its lock ends; `None` when somebody has to lift a legal hold."""


@attrs.frozen(kw_only=True)
class NoteState:
    """A prune note, and what of it is still there and still unused."""

    key: str
    until: dt.datetime
    """When it will be a grace period old, by the clock of the store."""
    objects: tuple[NotedObject, ...] = attrs.field(repr=False)
    locked: tuple[LockedObject, ...] = attrs.field(default=(), repr=False)
    """Those of a note that is old enough which are locked; they are not among `objects`, and the note stays."""
    hidden: frozenset[str] = attrs.field(default=frozenset(), repr=False)
    """Keys of those of `objects` of which older versions stay: deleting hides them, and frees nothing yet."""

    @property
    def size_bytes(self) -> int:
        """Of `objects`."""
        return _total(self.objects)

    @property
    def hidden_bytes(self) -> int:
        """Of those that deleting only hides."""
        return sum(noted.size_bytes for noted in self.objects if noted.key in self.hidden)


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
    """Notes that are: what they name is deleted unless it is locked, and then the note."""
    findings: tuple[Finding, ...] = ()
    """Notes that cannot be read; and a store that does not say what is locked, code ``locks_unknown``."""

    @property
    def marked_bytes(self) -> int:
        """What would be noted."""
        return _total(self.marking)

    @property
    def freed_bytes(self) -> int:
        """What would be gone: not what is locked, nor what is only hidden."""
        return sum(note.size_bytes for note in self.due) - self.hidden_bytes

    @property
    def hidden_bytes(self) -> int:
        """What would only be hidden, in a bucket that keeps versions."""
        return sum(note.hidden_bytes for note in self.due)

    @property
    def locked(self) -> tuple[LockedObject, ...]:
        """What would be deleted if it were not locked."""
        return tuple(each for note in self.due for each in note.locked)

    @property
    def waiting_bytes(self) -> int:
        """What was noted and may not be deleted yet."""
        return sum(note.size_bytes for note in self.waiting)

    def __str__(self) -> str:
        """Return a line per note, and one for what was found."""
        used = f"{self.archives} archive(s) need {self.used_objects} object(s), {self.used_bytes:,} bytes"
        lines = [f"{used}, in {self.location}"]
        lines += [
            f"DELETE {len(note.objects)} object(s), {note.size_bytes:,} bytes: {note.key}"
            for note in self.due
            if note.objects or not note.locked
        ]
        lines += _hidden_lines(self.hidden_bytes)
        lines += _locked_lines(self.locked)
        lines += _waiting_lines(self.waiting)
        if self.marking:
            lines.append(f"note {len(self.marking)} object(s), {self.marked_bytes:,} bytes, that nobody needs any more")
        lines += [f"{finding.code} at {finding.where}: {finding.message}" for finding in self.findings]
        if len(lines) == 1:
            lines.append("nothing is to be pruned")
        return "\n".join(lines)


def _hidden_lines(size_bytes: int) -> list[str]:
    if not size_bytes:
        return []
    return [f"of these, {size_bytes:,} bytes are only hidden: the store keeps versions, see its life cycle rules"]


def _locked_lines(locked: tuple[LockedObject, ...]) -> list[str]:
    if not locked:
        return []
    size = sum(each.size_bytes for each in locked)
    last = max((each.until for each in locked if each.until is not None), default=None)
    ends = [f"until {iso_ms(last)} at the latest"] if last else []
    ends += ["until a legal hold is lifted"] if any(each.until is None for each in locked) else []
    return [f"{len(locked)} object(s), {size:,} bytes, are locked, {' or '.join(ends)}"]


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
    """What is gone: not what is only hidden."""
    marked_objects: int
    marked_bytes: int
    waiting: tuple[NoteState, ...] = ()
    """Everything that is noted now and is not a grace period old, newest last."""
    refused: tuple[Finding, ...] = ()
    """Objects that the store does not let go; their notes stay for the next prune."""
    hidden_bytes: int = 0
    """Deleted in a store that keeps versions: nobody sees it any more, and it is paid for until its version goes."""
    locked: tuple[LockedObject, ...] = ()
    """What is due and locked: it was left alone, and waits in its note until a prune finds the lock ended."""
    findings: tuple[Finding, ...] = ()
    """What was odd and hindered nothing; see `PrunePlan.findings`."""

    @property
    def locked_bytes(self) -> int:
        """Of what is locked."""
        return sum(each.size_bytes for each in self.locked)

    @property
    def locked_until(self) -> dt.datetime | None:
        """When the last lock ends, legal holds aside; `None` when nothing is locked so."""
        return max((each.until for each in self.locked if each.until is not None), default=None)

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
        lines = [f"deleted {self.deleted_objects} object(s), {self.freed_bytes + self.hidden_bytes:,} bytes"]
        lines += _hidden_lines(self.hidden_bytes)
        lines += _locked_lines(self.locked)
        if self.marked_objects:
            lines.append(f"noted {self.marked_objects} object(s), {self.marked_bytes:,} bytes")
        lines += _waiting_lines(self.waiting)
        lines += [f"NOT DELETED {finding.where}: {finding.message}" for finding in self.refused]
        lines += [f"{finding.code} at {finding.where}: {finding.message}" for finding in self.findings]
        return "\n".join(lines)
