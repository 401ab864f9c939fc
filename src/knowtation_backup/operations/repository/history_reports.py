"""What the history of one note or proposal reports."""

from __future__ import annotations

import datetime as dt
import enum

import attrs

from ...exports.entries import Entry
from ...exports.records import RecordKind
from ...model.moments import iso_ms
from ...model.reports import Finding, Outcome

__all__ = ["HistorySpan", "Presence", "RecordHistory"]


class Presence(enum.Enum):
    """What archives say of a record."""

    THERE = "there"
    ABSENT = "absent"
    """It was not there: not made yet, or deleted."""
    UNKNOWN = "unknown"
    """Its tenant was not read whole, or was not asked for."""
    UNREADABLE = "unreadable"
    """The archive cannot be read."""


@attrs.frozen(kw_only=True)
class HistorySpan:
    """Archives one after another that say the same."""

    presence: Presence
    first: str
    """Id of the first of these archives."""
    first_at: dt.datetime | None
    """The moment its content is of; `None` of an archive that cannot be read."""
    last: str
    last_at: dt.datetime | None
    archives: int = 1
    """How many they are."""
    record_id: str | None = None
    """Hash of the record, 32 hexadecimal digits: equal for equal content."""
    size_bytes: int | None = None
    """Of the record; `None` when nothing was opened."""
    status: str | None = None
    """Of a proposal."""
    entry: Entry | None = attrs.field(default=None, repr=False)
    """The content, when it was asked for."""

    def __str__(self) -> str:
        """Return one line."""
        moments = [iso_ms(moment) if moment is not None else "?" for moment in (self.first_at, self.last_at)]
        when = f"{moments[0]} to {moments[1]} ({self.archives} archives)" if self.archives > 1 else moments[0]
        if self.record_id is None:
            return f"{when}: {self.presence.value}"
        size = f", {self.size_bytes:,} bytes" if self.size_bytes is not None else ""
        status = f", {self.status}" if self.status is not None else ""
        return f"{when}: {self.record_id[:12]}{size}{status}, restore from {self.first}"


@attrs.frozen(kw_only=True)
class RecordHistory:
    """What became of one note or proposal, as far as archives tell; between two of them nobody has looked."""

    kind: RecordKind
    user_id: str
    vault_id: str
    name: str
    """Path of a note, id of a proposal."""
    series: str
    spans: tuple[HistorySpan, ...]
    """Oldest first: every archive of the series belongs to one."""
    warnings: tuple[Finding, ...] = ()
    """Versions that cannot be opened."""

    @property
    def versions(self) -> tuple[HistorySpan, ...]:
        """The spans in which it was there; what was put back as it had been is a span of its own."""
        return tuple(span for span in self.spans if span.presence is Presence.THERE)

    @property
    def gaps(self) -> tuple[HistorySpan, ...]:
        """The spans of which nobody knows whether it was there."""
        return tuple(span for span in self.spans if span.presence in {Presence.UNKNOWN, Presence.UNREADABLE})

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when archives or versions could not be read."""
        return Outcome.PARTIAL if self.gaps or self.warnings else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line per span."""
        where = "/".join(ascii(part)[1:-1] for part in (self.user_id, self.vault_id, self.name))
        lines = [f"{self.kind.value} {where} in {self.series}", *(f"  {span}" for span in self.spans)]
        return "\n".join([*lines, *(f"  warning {w.code} at {w.where}: {w.message}" for w in self.warnings)])
