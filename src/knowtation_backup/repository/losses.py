"""What of an archive cannot be restored when objects are missing or damaged: sections, byte ranges, records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import attrs

from ..model.sections import PAGE_BYTES, SectionKind
from .claims import piece_frames
from .folding import fold_ids, fold_records, fold_spots
from .keys import ID_BYTES
from .layout import index_key
from .manifest import ArchiveManifest, FileTable, ImageTables, RecordTables, SectionTables, SegmentTables
from .proving import WRONG_BYTES, BadPlaces
from .reading import IndexReader
from .tables import SEGMENT_PAGES

__all__ = ["SectionLoss", "find_losses"]


@attrs.frozen(kw_only=True)
class SectionLoss:
    """What one section lost."""

    section: str
    kind: SectionKind
    ranges: tuple[tuple[int, int], ...] = ()
    """Half-open ranges of bytes of an image or a file, ascending; whole pages of an image, pieces of a file."""
    records: int = 0
    """Records that are known to be lost."""
    parts: int = 0
    """Parts of the records of which nothing is known, since their tables are lost."""
    of_parts: int = 0
    """How many parts all records are divided into, by a hash of owner and name."""
    objects: tuple[str, ...] = ()
    """Keys of the packs, indexes and keys of tenants that are at fault, sorted."""

    @property
    def pages(self) -> tuple[tuple[int, int], ...]:
        """`ranges` of an image in pages of 4,096 bytes."""
        return tuple((start // PAGE_BYTES, -(-end // PAGE_BYTES)) for start, end in self.ranges)

    @property
    def size_bytes(self) -> int:
        """Of `ranges`."""
        return sum(end - start for start, end in self.ranges)

    def __str__(self) -> str:
        """Return a sentence for people."""
        if self.kind is SectionKind.RECORDS:
            unknown = f"all records of {self.parts} of {self.of_parts} parts" if self.parts else ""
            known = f"{self.records} record(s)" if self.records else ""
            return f"{self.section}: {' and '.join(filter(None, (known, unknown)))} cannot be read"
        shown = ", ".join(f"{start}-{end}" for start, end in self.ranges[:5])
        more = f" and {len(self.ranges) - 5} more ranges" if len(self.ranges) > 5 else ""
        return f"{self.section}: {self.size_bytes} bytes cannot be read, at {shown}{more}"


def find_losses(
    manifest: ArchiveManifest, reader: IndexReader, bad: BadPlaces, *, sections: Collection[str] = ()
) -> tuple[SectionLoss, ...]:
    """
    Return what each section lost, in order; sections that are whole are left out.

    Args:
        manifest: Of the archive.
        reader: Reads its tables; those that cannot be read are lost.
        bad: Packs and frames that cannot be read.
        sections: Names of sections that cannot be relied on, whatever else is known of them.

    Raises:
        SinkUnavailableError: The store could not be reached; `SinkPermissionError`: reading is refused.
    """
    touched = bad.touched
    packs = {place for place, ref in enumerate(manifest.packs) if ref.object_id in touched}
    found: list[SectionLoss] = []
    for section in manifest.sections:
        match section:
            case FileTable():
                loss = _file_loss(manifest, section, bad)
            case ImageTables():
                loss = _image_loss(manifest, section, reader, bad, packs)
            case RecordTables():
                loss = _records_loss(manifest, section, reader, bad, packs)
        if section.name in sections:
            loss = _everything(section)
        if loss.ranges or loss.records or loss.parts:
            found.append(loss)
    return tuple(found)


def _everything(section: SectionTables) -> SectionLoss:
    if isinstance(section, RecordTables):
        parts = len(section.segments)
        return SectionLoss(section=section.name, kind=section.kind, parts=parts, of_parts=parts)
    return SectionLoss(section=section.name, kind=section.kind, ranges=((0, section.size_bytes),))


def _file_loss(manifest: ArchiveManifest, table: FileTable, bad: BadPlaces) -> SectionLoss:
    ranges: list[tuple[int, int]] = []
    objects: set[str] = set()
    at = 0
    for piece, frame in zip(table.pieces, piece_frames(manifest, table), strict=True):
        if bad.of(frame, ((0, piece.piece_id),)):
            ranges.append((at, at + piece.size_bytes))
            objects.add(bad.culprit(frame))
        at += piece.size_bytes
    return SectionLoss(
        section=table.name, kind=table.kind, ranges=tuple(joined(ranges)), objects=tuple(sorted(objects))
    )


def _image_loss(
    manifest: ArchiveManifest, tables: ImageTables, reader: IndexReader, bad: BadPlaces, packs: set[int]
) -> SectionLoss:
    pages_left = -(-tables.size_bytes // PAGE_BYTES)
    lost: list[tuple[int, int]] = []
    objects: set[str] = set()
    for number, segment in enumerate(tables.segments):
        base = number * SEGMENT_PAGES
        pages = min(SEGMENT_PAGES, pages_left)
        pages_left -= pages
        try:
            found = reader.page_tables(manifest, segment)
        except WRONG_BYTES:
            lost.append((base, base + pages))
            objects.update(_indexes(manifest, segment))
            continue
        if packs.isdisjoint(segment.packs):
            continue
        spots = fold_spots(found)
        ids = fold_ids(found)
        for run in spots.runs(pages):
            frame = spots.frames[run.frame]
            places = (
                (run.slot + n, bytes(ids[ID_BYTES * (run.first + n) : ID_BYTES * (run.first + n + 1)]))
                for n in range(run.count)
            )
            slots = bad.of(frame, places)
            first = base + run.first - run.slot
            lost += [(first + slot, first + slot + 1) for slot in slots]
            objects.update([bad.culprit(frame)] if slots else [])
    ranges = [(first * PAGE_BYTES, min(end * PAGE_BYTES, tables.size_bytes)) for first, end in joined(lost)]
    return SectionLoss(section=tables.name, kind=tables.kind, ranges=tuple(ranges), objects=tuple(sorted(objects)))


def _records_loss(
    manifest: ArchiveManifest, tables: RecordTables, reader: IndexReader, bad: BadPlaces, packs: set[int]
) -> SectionLoss:
    records = parts = 0
    objects: set[str] = set()
    for segment in tables.segments:
        try:
            found = reader.record_tables(manifest, segment)
        except WRONG_BYTES:
            parts += 1
            objects.update(_indexes(manifest, segment))
            continue
        if packs.isdisjoint(segment.packs):
            continue
        for record in fold_records(found).values():
            if bad.of(record.frame, ((record.slot, record.record_id),)):
                records += 1
                objects.add(bad.culprit(record.frame))
    return SectionLoss(
        section=tables.name,
        kind=tables.kind,
        records=records,
        parts=parts,
        of_parts=len(tables.segments),
        objects=tuple(sorted(objects)),
    )


def _indexes(manifest: ArchiveManifest, segment: SegmentTables) -> set[str]:
    return {index_key(manifest.indexes[ref.index].object_id) for ref in segment.tables}


def joined(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ascending half-open ranges, those that touch as one."""
    begin = end = -1
    for start, stop in ranges:
        if start == end:
            end = stop
            continue
        if begin >= 0:
            yield begin, end
        begin, end = start, stop
    if begin >= 0:
        yield begin, end
