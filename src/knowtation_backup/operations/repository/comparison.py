"""One comparison: an archive against another one, or against what is read now, section by section."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Final, TypeVar

import attrs

from ...errors import BackupError, ConfigurationError
from ...exports.sections import HEADER_SECTION
from ...model.reports import Finding
from ...model.sections import FileSection, ImageSection, RecordSection
from ...repository.content import ArchiveReader
from ...repository.keys import ID_BYTES, ReadKeys
from ...repository.manifest import ArchiveManifest, FileTable, ImageTables, RecordTables, SectionTables
from ...repository.reading import IndexReader
from ...repository.repository import Repository
from ...snapshots.drift import FactsDiff, diff_facts
from ...snapshots.facts import CanisterFacts
from ...snapshots.layout import DIGESTS_FILE, METADATA_NAME
from ...snapshots.provenance_records import PROVENANCE_FILE
from .difference_reports import (
    Change,
    FileDifference,
    ImageDifference,
    RecordsDifference,
    RepositoryDiff,
    change_of,
)
from .record_changes import by_tenant, named_changes, ordered
from .section_ids import LiveRecords, live_pages, live_pieces, page_count, stored_pages, stored_pieces, stored_records

__all__ = ["FACTS_FILE", "Comparison", "Side"]

_T = TypeVar("_T")

FACTS_FILE: Final = "facts.json"
_OF_CAPTURE: Final = frozenset({HEADER_SECTION, METADATA_NAME, PROVENANCE_FILE, DIGESTS_FILE, FACTS_FILE})
"""They name the moment of their capture."""
_MAX_FACTS_BYTES: Final = 16 << 20


@attrs.frozen
class Side:
    """One archive, and what reads it."""

    archive_id: str
    manifest: ArchiveManifest
    indexes: IndexReader
    content: ArchiveReader | None
    """`None` with a writer key."""

    @classmethod
    def of(cls, repository: Repository, archive_id: str, *, indexes: IndexReader | None = None) -> Side:
        """Open an archive; *indexes* are shared with another one."""
        manifest = repository.manifest(archive_id)
        indexes = indexes or IndexReader(repository.sink, repository.keys)
        keys = repository.keys
        content = (
            ArchiveReader(repository.sink, keys, manifest, indexes=indexes, tenant_sink=repository.tenant_sink)
            if isinstance(keys, ReadKeys)
            else None
        )
        return cls(archive_id, manifest, indexes, content)

    def values(self, tables: RecordTables, wanted: set[bytes]) -> dict[bytes, bytes]:
        """Return the values of records; those of tenants whose keys are gone are left out."""
        if self.content is None or not wanted:
            return {}

        def leave_out(_owner_key: bytes, _count: int) -> None:
            pass

        groups = self.content.records(tables, wanted=wanted, on_erased=leave_out, on_lost=leave_out)
        return {record.key: record.value for group in groups for record in group}


@attrs.define(kw_only=True)
class Comparison:
    """
    One comparison under way.

    Args:
        repository: Where the archives are.
        side: The earlier one.
        names: Whether records and facts are opened.
    """

    repository: Repository
    side: Side
    names: bool
    images: list[ImageDifference] = attrs.field(factory=list, init=False)
    files: list[FileDifference] = attrs.field(factory=list, init=False)
    records: list[RecordsDifference] = attrs.field(factory=list, init=False)
    warnings: tuple[Finding, ...] = attrs.field(default=(), init=False)

    def archived(self, name: str, other: Side | None) -> None:
        """Compare a section with that of another archive."""
        before = self.side.manifest.section(name)
        after = other.manifest.section(name) if other is not None else None
        if before is not None and after is not None and before.kind is not after.kind:
            self._one(name, before, None, None)
            self._one(name, None, after, other)
        else:
            self._one(name, before, after, other)

    def _one(self, name: str, before: SectionTables | None, after: SectionTables | None, other: Side | None) -> None:
        if isinstance(before, ImageTables) or isinstance(after, ImageTables):
            self._images(name, _as(before, ImageTables), _as(after, ImageTables), other)
        elif isinstance(before, FileTable) or isinstance(after, FileTable):
            self._files(name, _as(before, FileTable), _as(after, FileTable))
        else:
            self._records(name, _as(before, RecordTables), _as(after, RecordTables), other)

    # -- images -----------------------------------------------------------------------------------------------------

    def _images(self, name: str, before: ImageTables | None, after: ImageTables | None, other: Side | None) -> None:
        same = before is not None and after is not None and before.root == after.root
        earlier = stored_pages(self.side.manifest, before, self.side.indexes) if before is not None else iter(())
        later: Iterator[bytes] = iter(())
        if after is not None and other is not None:
            later = stored_pages(other.manifest, after, other.indexes)
        pages = 0 if same or before is None or after is None else _differing(earlier, later)
        self._image(name, _image_size(before), _image_size(after), pages)

    def live_image(self, section: ImageSection) -> None:
        """Compare an image that is read now."""
        before = _as(self.side.manifest.section(section.name), ImageTables)
        earlier = stored_pages(self.side.manifest, before, self.side.indexes) if before is not None else iter(())
        pages = _differing(earlier, live_pages(section, self.repository.writer_key))
        self._other_kind(section.name, ImageTables)
        self._image(section.name, _image_size(before), section.size_bytes, pages if before is not None else 0)

    def _image(self, name: str, before: int | None, after: int | None, pages: int) -> None:
        counts = page_count(before or 0), page_count(after or 0)
        self.images.append(
            ImageDifference(
                name=name,
                change=change_of(before, after, same=not pages and before == after),
                before_bytes=before,
                after_bytes=after,
                changed_pages=pages,
                added_pages=max(0, counts[1] - counts[0]),
                removed_pages=max(0, counts[0] - counts[1]),
            )
        )

    # -- files ------------------------------------------------------------------------------------------------------

    def _files(self, name: str, before: FileTable | None, after: FileTable | None) -> None:
        same = before is not None and after is not None and stored_pieces(before) == stored_pieces(after)
        self._file(name, before.size_bytes if before else None, after.size_bytes if after else None, same=same)

    def live_file(self, section: FileSection) -> None:
        """Compare a file that is read now."""
        before = _as(self.side.manifest.section(section.name), FileTable)
        pieces, size = live_pieces(section, self.repository.writer_key)
        self._other_kind(section.name, FileTable)
        same = before is not None and stored_pieces(before) == pieces
        self._file(section.name, before.size_bytes if before else None, size, same=same)

    def _file(self, name: str, before: int | None, after: int | None, *, same: bool) -> None:
        self.files.append(
            FileDifference(
                name=name,
                change=change_of(before, after, same=same),
                before_bytes=before,
                after_bytes=after,
                of_capture=name in _OF_CAPTURE,
            )
        )

    # -- records ----------------------------------------------------------------------------------------------------

    def _records(self, name: str, before: RecordTables | None, after: RecordTables | None, other: Side | None) -> None:
        if before is not None and after is not None and before.root == after.root:
            self.records.append(RecordsDifference(name=name, before_count=before.count, after_count=after.count))
            return
        later: dict[bytes, bytes] = {}
        if after is not None and other is not None:
            later = stored_records(other.manifest, after, other.indexes)
        earlier = self._earlier(before)
        values: Mapping[bytes, bytes] = {}
        if after is not None and other is not None and self.names:
            values = other.values(after, {key for key, value in later.items() if earlier.get(key) != value})
        self._compare(name, before, earlier, later, values)

    def live_records(self, section: RecordSection) -> None:
        """Compare records that are read now."""
        before = _as(self.side.manifest.section(section.name), RecordTables)
        earlier = self._earlier(before)
        live = LiveRecords(self.repository.writer_key, earlier, self.names)
        live.read(section)
        self._other_kind(section.name, RecordTables)
        self._compare(section.name, before, earlier, live.ids, live.values)

    def _earlier(self, tables: RecordTables | None) -> dict[bytes, bytes]:
        return {} if tables is None else stored_records(self.side.manifest, tables, self.side.indexes)

    def _compare(
        self,
        name: str,
        tables: RecordTables | None,
        earlier: Mapping[bytes, bytes],
        later: Mapping[bytes, bytes],
        after: Mapping[bytes, bytes],
    ) -> None:
        changes = {
            key: change_of(earlier.get(key), later.get(key), same=False)
            for key in sorted(earlier.keys() | later.keys())
            if earlier.get(key) != later.get(key)
        }
        gone = {key for key, change in changes.items() if change is not Change.ADDED}
        before = self.side.values(tables, gone) if tables is not None and self.names else {}
        exported = self.names and self.side.manifest.section(HEADER_SECTION) is not None
        named = named_changes(changes, before, after) if exported else {}
        self.records.append(
            RecordsDifference(
                name=name,
                before_count=len(earlier),
                after_count=len(later),
                tenants=tuple(by_tenant(changes, named)),
                records=ordered(named),
            )
        )

    def _other_kind(self, name: str, kind: type[SectionTables]) -> None:
        """Report a section that was of another kind as gone."""
        before = self.side.manifest.section(name)
        if before is not None and not isinstance(before, kind):
            self._one(name, before, None, None)

    # -- facts ------------------------------------------------------------------------------------------------------

    def facts_of(self, side: Side) -> CanisterFacts | None:
        """Return the facts an archive holds, if they can be read."""
        table = _as(side.manifest.section(FACTS_FILE), FileTable)
        if table is None or side.content is None or not self.names or table.size_bytes > _MAX_FACTS_BYTES:
            return None
        return self.parsed(b"".join(side.content.file(table)), side.archive_id)

    def parsed(self, data: bytes | None, where: str) -> CanisterFacts | None:
        """Return facts; what cannot be read is noted."""
        if data is None:
            return None
        try:
            return CanisterFacts.from_bytes(data)
        except BackupError as error:
            self._warn(Finding(code="facts_unreadable", where=where, message=error.message))
            return None

    def _drift(self, before: CanisterFacts | None, after: CanisterFacts | None) -> FactsDiff | None:
        if before is None or after is None:
            return None
        try:
            return diff_facts(before, after)
        except ConfigurationError as error:  # archives of two canisters
            self._warn(Finding(code="facts_not_compared", where=FACTS_FILE, message=error.message))
            return None

    def _warn(self, finding: Finding) -> None:
        self.warnings = (*self.warnings, finding)

    def report(
        self, after: str, *, complete: bool, facts: CanisterFacts | None, facts_after: CanisterFacts | None
    ) -> RepositoryDiff:
        """Return what was found."""
        return RepositoryDiff(
            before=self.side.archive_id,
            after=after,
            images=tuple(self.images),
            files=tuple(self.files),
            records=tuple(self.records),
            facts=self._drift(facts, facts_after),
            complete=complete,
            warnings=self.warnings,
        )


def _as(section: SectionTables | None, kind: type[_T]) -> _T | None:
    return section if isinstance(section, kind) else None


def _image_size(tables: ImageTables | None) -> int | None:
    return None if tables is None else tables.size_bytes


def _differing(before: Iterator[bytes], after: Iterator[bytes]) -> int:
    """Return how many pages that are on both sides have other ids; both sides are read to their end."""
    count = 0
    for old, new in zip_longest(before, after, fillvalue=b""):
        size = min(len(old), len(new))
        if old[:size] != new[:size]:
            places = range(0, size, ID_BYTES)
            count += sum(
                map(operator.ne, (old[n : n + ID_BYTES] for n in places), (new[n : n + ID_BYTES] for n in places))
            )
    return count
