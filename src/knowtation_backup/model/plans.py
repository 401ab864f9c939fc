"""Plans: what would happen and why, as values a person can read before they are applied."""

from __future__ import annotations

import datetime as dt
import enum
import hashlib

import attrs

from .manifest import SIGNATURE_NAME, manifest_key, side_key
from .marks import Standing

__all__ = ["ArchiveInfo", "ArchiveState", "ForgetAction", "ForgetDecision", "ForgetPlan"]


class ArchiveState(enum.Enum):
    """
    What a listing knows of an archive.

    ``complete`` and ``incomplete`` say whether the capture lacked tenants; ``damaged`` archives have an unreadable
    manifest, or one that a signature policy refuses, or a blob is missing or of another size than the manifest says;
    ``unfinished`` ones have blobs but no manifest, so they never became archives.
    """

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    DAMAGED = "damaged"
    UNFINISHED = "unfinished"


@attrs.frozen(kw_only=True)
class ArchiveInfo:
    """One line of a listing; nothing but the manifest was read."""

    archive_id: str
    state: ArchiveState
    series: str
    """Archives of one source and kind form a series; retention counts per series."""
    taken_at: dt.datetime
    size_bytes: int
    keys: tuple[str, ...] = attrs.field(repr=False)
    """Every blob of the archive in the order to delete them: manifest first."""
    managed: bool = True
    """Whether retention may count and remove it; `False` for files of other tools, which are only listed."""

    number: int = 0
    """Of archives that bear the same stamp, the larger is the newer: of a repository, when they were finished."""

    kind: str = ""
    """Kind of the payload as the manifest says, else as the name lets expect; empty when neither says it."""
    source_id: str = ""
    """What was read; empty when neither manifest nor marker says it."""
    backup_tags: tuple[str, ...] = ()
    """Tags the manifest holds."""
    standing: Standing = Standing()  # noqa: RUF009 - frozen, so sharing it is safe
    """What was noted since: verification, pins, tags, quarantine, trash."""
    rewrapped_from: str = ""
    """Id of the archive of the same content this one was made from; empty for all others."""
    superseded_by: str = ""
    """Id of a complete archive of the same content that was made from this one; this one no longer counts."""
    in_repository: bool = False
    """Whether it is an archive of a repository: `size_bytes` is what reading it needs, mostly shared with others."""

    @property
    def short_id(self) -> str:
        """8 hexadecimal digits that follow from the id alone, to type instead of it."""
        return hashlib.sha256(self.archive_id.encode()).hexdigest()[:8]

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags that hold now, sorted."""
        held = set(self.backup_tags) | set(self.standing.tags)
        return tuple(sorted(held - set(self.standing.removed_tags)))

    @property
    def age_key(self) -> tuple[dt.datetime, int, bool, str]:
        """Sorts archives from the oldest to the newest; what takes the place of another counts as newer."""
        return (self.taken_at, self.number, not self.superseded_by, self.archive_id)

    @property
    def has_manifest(self) -> bool:
        """Whether a manifest of ours is there, readable or not; archives of other tools have none."""
        return self.in_repository or manifest_key(self.archive_id) in self.keys

    @property
    def is_signed(self) -> bool:
        """Whether signatures lie beside it. Whose they are, and whether they fit, is for a signature policy to say."""
        return side_key(self.archive_id, SIGNATURE_NAME) in self.keys

    def __str__(self) -> str:
        """Return one line of a table: state, short id, moment, size, id, and what holds of it now."""
        moment = f"{self.taken_at.astimezone(dt.UTC):%Y-%m-%d %H:%M}Z"
        line = f"{self.state.value:10}  {self.short_id}  {moment}  {_size(self.size_bytes):>9}  {self.archive_id}"
        return f"{line}  {', '.join(self._remarks)}".rstrip()

    @property
    def _remarks(self) -> tuple[str, ...]:
        standing = self.standing
        until = f" until {standing.pinned_until:%Y-%m-%d}" if standing.pinned_until else ""
        remarks = {
            "not managed": not self.managed,
            "signed": self.is_signed,
            f"verified {standing.verified_at:%Y-%m-%d}" if standing.verified_at else "": True,
            f"FAILED verification {standing.failed_at:%Y-%m-%d}" if standing.failed_at else "": True,
            f"pinned{until}": standing.pinned,
            "quarantined": standing.quarantined,
            f"superseded by {self.superseded_by}": bool(self.superseded_by),
            f"in trash since {standing.trashed_at:%Y-%m-%d}" if standing.trashed_at else "": True,
            f"tags {' '.join(self.tags)}": bool(self.tags),
            f"{len(standing.damaged)} damaged mark(s)": bool(standing.damaged),
        }
        return tuple(text for text, holds in remarks.items() if text and holds)


@attrs.frozen(kw_only=True)
class ForgetDecision:
    """What happens to one archive, and the rules that decided."""

    archive: ArchiveInfo
    keep: bool
    reason: str
    """Every rule that keeps it, or why none does, for people."""
    rules: tuple[str, ...] = ()
    """Names of the rules that decided, for programs, such as ``daily``, ``pin`` or ``older_than``."""
    assured_until: dt.datetime | None = None
    """Until when rules that name a length of time keep it; `None` when none of those does. Pins aside."""


class ForgetAction(enum.Enum):
    """
    What applying a plan does to the archives it forgets.

    ``trash`` notes that they are in the trash: nothing is removed, and it can be undone. ``delete`` removes them.
    """

    TRASH = "trash"
    DELETE = "delete"


@attrs.frozen(kw_only=True)
class ForgetPlan:
    """
    What retention would keep and forget, newest first; nothing has happened yet.

    Applying refuses with `PlanStaleError` when the sink no longer holds exactly the archives planned for.
    """

    made_at: dt.datetime
    decisions: tuple[ForgetDecision, ...]
    action: ForgetAction = ForgetAction.TRASH
    """What happens to those forgotten."""
    last_too: bool = False
    """Whether the last complete archive of a series may go: only when a person asked for just that."""

    @property
    def forgotten(self) -> tuple[ArchiveInfo, ...]:
        """The archives to be put into the trash or removed, see `action`."""
        return tuple(d.archive for d in self.decisions if not d.keep)

    @property
    def kept(self) -> tuple[ArchiveInfo, ...]:
        """The archives that stay; those in the trash are not among them."""
        return tuple(d.archive for d in self.decisions if d.keep and d.archive.standing.trashed_at is None)

    @property
    def trashed(self) -> tuple[ArchiveInfo, ...]:
        """The archives that are in the trash already and stay there."""
        return tuple(d.archive for d in self.decisions if d.keep and d.archive.standing.trashed_at is not None)

    @property
    def forgotten_bytes(self) -> int:
        """
        Size of the archives to be forgotten; only deleting frees it.

        In a repository archives share most of it: what comes free is what a prune finds unused.
        """
        return sum(info.size_bytes for info in self.forgotten)

    def __str__(self) -> str:
        """Return one line per archive with its reason, and one that says what applying would do."""
        lines = [f"{self._verb(d)} {d.archive.archive_id}: {d.reason}" for d in self.decisions]
        doing = "move to the trash" if self.action is ForgetAction.TRASH else "delete"
        summary = f"applying would {doing} {len(self.forgotten)} archive(s), {self.forgotten_bytes:,} bytes"
        summary += ", shared with others" if any(info.in_repository for info in self.forgotten) else ""
        resting = f", {len(self.trashed)} in the trash already" if self.trashed else ""
        return "\n".join([*lines, f"{summary}; {len(self.kept)} kept{resting}"])

    def _verb(self, decision: ForgetDecision) -> str:
        if not decision.keep:
            return self.action.name
        return "keep" if decision.archive.standing.trashed_at is None else "in trash"


def _size(size_bytes: int) -> str:
    """Return a size for people, in powers of a thousand."""
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"
