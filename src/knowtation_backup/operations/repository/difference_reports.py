"""What comparing two archives, or an archive with what is there now, reports."""

from __future__ import annotations

import enum

import attrs

from ...exports.records import RecordKind
from ...model.canisters import SectionName
from ...model.reports import Finding, Outcome
from ...model.sections import PAGE_BYTES
from ...snapshots.drift import FactsDiff
from ...snapshots.layout import section_file

__all__ = [
    "Change",
    "FileDifference",
    "ImageDifference",
    "RecordChange",
    "RecordsDifference",
    "RepositoryDiff",
    "TenantDifference",
]

_SHOWN = 20
_MODULE = section_file(SectionName.WASM_MODULE)


class Change(enum.Enum):
    """What became of something from the earlier side to the later one."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


def change_of(before: object | None, after: object | None, *, same: bool) -> Change:
    """Return what became of something that is `None` where it is not."""
    if before is None:
        return Change.ADDED
    if after is None:
        return Change.REMOVED
    return Change.SAME if same else Change.CHANGED


@attrs.frozen(kw_only=True)
class ImageDifference:
    """One memory image, compared page by page."""

    name: str
    change: Change
    before_bytes: int | None
    """`None` where there is no such image."""
    after_bytes: int | None
    changed_pages: int = 0
    """Pages of 4 KiB that are on both sides and differ."""
    added_pages: int = 0
    """Pages beyond the end of the earlier image; all of an image that is new."""
    removed_pages: int = 0
    """Pages beyond the end of the later image; all of one that is gone."""

    @property
    def changed_bytes(self) -> int:
        """Of all pages that changed, came or went."""
        return (self.changed_pages + self.added_pages + self.removed_pages) * PAGE_BYTES

    def __str__(self) -> str:
        """Return one line."""
        sizes = f"{_size(self.before_bytes)} -> {_size(self.after_bytes)}"
        pages = f"{self.changed_pages:,} pages changed, {self.added_pages:,} added, {self.removed_pages:,} removed"
        return f"{self.name}: {self.change.value}, {sizes}; {pages}"


@attrs.frozen(kw_only=True)
class FileDifference:
    """One file, compared as a whole."""

    name: str
    change: Change
    before_bytes: int | None
    after_bytes: int | None
    of_capture: bool = False
    """Whether it tells of the capture, with its moment, so that it differs every time and does not count."""

    def __str__(self) -> str:
        """Return one line."""
        aside = " (tells of the capture; does not count)" if self.of_capture else ""
        return f"{self.name}: {self.change.value}, {_size(self.before_bytes)} -> {_size(self.after_bytes)}{aside}"


@attrs.frozen(kw_only=True)
class RecordChange:
    """One tenant, vault, note or proposal that came, went or changed."""

    change: Change
    kind: RecordKind
    user_id: str
    vault_id: str = ""
    name: str = ""
    """Path of a note, id of a proposal."""
    before_bytes: int | None = None
    """Size of its record."""
    after_bytes: int | None = None
    before_status: str | None = None
    """Of a proposal."""
    after_status: str | None = None

    def __str__(self) -> str:
        """Return one line."""
        where = "/".join(ascii(part)[1:-1] for part in (self.user_id, self.vault_id, self.name) if part)
        status = ""
        if self.kind is RecordKind.PROPOSAL and self.before_status != self.after_status:
            status = f", {self.before_status or '-'} -> {self.after_status or '-'}"
        sizes = f"{_size(self.before_bytes)} -> {_size(self.after_bytes)}"
        return f"{self.change.value} {self.kind.value} {where}: {sizes}{status}"


@attrs.frozen(kw_only=True)
class TenantDifference:
    """How many records of one tenant came, went and changed."""

    owner_key: str
    """Hash of the tenant's id, 16 hexadecimal digits."""
    user_id: str | None = None
    """`None` when nothing was opened that says it."""
    added: int = 0
    removed: int = 0
    changed: int = 0

    def __str__(self) -> str:
        """Return one line."""
        who = self.owner_key if self.user_id is None else ascii(self.user_id)[1:-1]
        return f"tenant {who}: {self.added} added, {self.removed} removed, {self.changed} changed"


@attrs.frozen(kw_only=True)
class RecordsDifference:
    """A section of records."""

    name: str
    before_count: int
    after_count: int
    tenants: tuple[TenantDifference, ...] = ()
    """Those of whom something differs."""
    records: tuple[RecordChange, ...] = ()
    """By name; empty when nothing may or should be opened, or the section is no export."""

    @property
    def added(self) -> int:
        """How many records came."""
        return sum(tenant.added for tenant in self.tenants)

    @property
    def removed(self) -> int:
        """How many went."""
        return sum(tenant.removed for tenant in self.tenants)

    @property
    def changed(self) -> int:
        """How many have another value."""
        return sum(tenant.changed for tenant in self.tenants)

    def counts(self, change: Change) -> dict[RecordKind, int]:
        """Return how many records of each kind came, went or changed, as far as they are named."""
        found = [record.kind for record in self.records if record.change is change]
        return {kind: found.count(kind) for kind in RecordKind if kind in found}

    def __str__(self) -> str:
        """Return a line, and one for each of the first tenants and records that differ."""
        head = f"{self.name}: {self.before_count:,} -> {self.after_count:,} records; "
        lines = [head + f"{self.added:,} added, {self.removed:,} removed, {self.changed:,} changed"]
        for items in (self.tenants, self.records):
            lines += [f"  {item}" for item in items[:_SHOWN]]
            lines += [f"  ... and {len(items) - _SHOWN:,} more"] if len(items) > _SHOWN else []
        return "\n".join(lines)


@attrs.frozen(kw_only=True)
class RepositoryDiff:
    """Every difference between two archives, or between an archive and what is there now."""

    before: str
    """Id of the earlier archive."""
    after: str
    """Id of the later archive; ``live`` for what is there now."""
    images: tuple[ImageDifference, ...] = ()
    files: tuple[FileDifference, ...] = ()
    records: tuple[RecordsDifference, ...] = ()
    facts: FactsDiff | None = None
    """What changed of the canister beside its memory; `None` where a side has no facts, or nothing may be opened."""
    complete: bool = True
    """Whether both captures are; what is missing from one looks as if it were removed, or added."""
    warnings: tuple[Finding, ...] = ()
    """What could not be compared, or what the capture of what is there now found."""

    @property
    def module_changed(self) -> bool:
        """Whether the canister runs another module."""
        return any(file.name == _MODULE and file.change is not Change.SAME for file in self.files)

    @property
    def different(self) -> bool:
        """Whether content differs; files that only tell of the capture do not count, drift of facts does."""
        return (
            any(image.change is not Change.SAME for image in self.images)
            or any(file.change is not Change.SAME and not file.of_capture for file in self.files)
            or any(part.added or part.removed or part.changed for part in self.records)
            or (self.facts is not None and bool(self.facts.drift))
        )

    @property
    def outcome(self) -> Outcome:
        """`DIFFERENT`, `PARTIAL` when nothing differs as far as could be seen, or `OK`."""
        if self.different:
            return Outcome.DIFFERENT
        return Outcome.OK if self.complete and not self.warnings else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return what differs, a line each."""
        head = f"{self.before} -> {self.after}: {'different' if self.different else 'the same'}"
        lines = [head + ("" if self.complete else "; a capture is INCOMPLETE")]
        items: list[ImageDifference | FileDifference | RecordsDifference]
        items = [*self.images, *self.files, *self.records]
        lines += [f"  {line}" for item in items if not _is_same(item) for line in str(item).splitlines()]
        if self.facts is not None and self.facts.changes:
            lines += [f"  {line}" for line in str(self.facts).splitlines()]
        lines += [f"  warning {w.code} at {w.where}: {w.message}" for w in self.warnings]
        return "\n".join(lines)


def _is_same(item: ImageDifference | FileDifference | RecordsDifference) -> bool:
    return not item.tenants if isinstance(item, RecordsDifference) else item.change is Change.SAME


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes:,} B"
