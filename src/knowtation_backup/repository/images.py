"""
Writing images: pages are compared with those of the parent, and what differs goes its way.

Memory does not grow with the image: a segment's ids (1 MiB) and what is on its way are all that is held.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Final

import attrs

from .._engine.chunking import even
from ..errors import TruncatedError
from ..model.sections import PAGE_BYTES, ImageSection
from .drafts import DraftImage, DraftSegment, IndexWriter, inherited
from .folding import fold_ids, fold_spots, full_table
from .keys import ID_BYTES, ZERO_ID, WriterKey
from .manifest import ArchiveManifest, ImageTables, SegmentTables
from .packing import Job
from .reading import IndexReader
from .tables import NOWHERE, SEGMENT_PAGES, FrameRef, PageTable

__all__ = ["FRAME_PAGES", "ImageWriter", "ParentImage"]

FRAME_PAGES: Final = 256
"""Pages compressed together, 1 MiB: with fewer the store grows (128 KiB: by 4 %), with more reading one costs more."""
_PIECE_PAGES: Final = 32
"""Pages looked at together; small, so that zeros between others are passed over quickly."""
_PIECE_BYTES: Final = _PIECE_PAGES * PAGE_BYTES
_ZEROS: Final = bytes(_PIECE_BYTES)
_ZERO_IDS: Final = bytes(_PIECE_PAGES * ID_BYTES)
_FULL_SHARE: Final = 0.5
"""From so many changed pages of a segment on, a whole table costs hardly more than a delta."""


@attrs.frozen(kw_only=True)
class ParentImage:
    """The image to compare with."""

    manifest: ArchiveManifest
    tables: ImageTables
    reader: IndexReader

    def segment(self, number: int) -> SegmentTables | None:
        """Return a segment, `None` beyond the end."""
        segments = self.tables.segments
        return segments[number] if number < len(segments) else None

    def page_tables(self, segment: SegmentTables) -> list[PageTable]:
        """Return the tables of a segment."""
        return self.reader.page_tables(self.manifest, segment)


class ImageWriter:
    """
    Writes one image.

    Args:
        section: What to write.
        keys: Make ids.
        indexes: Takes the tables.
        parent: What to compare with; `None` stores every page that is not zeros.
        max_chain: Most tables of one segment.
        finished: Takes the result, once everything is stored.
    """

    def __init__(  # noqa: PLR0913 - keyword only
        self,
        section: ImageSection,
        *,
        keys: WriterKey,
        indexes: IndexWriter,
        parent: ParentImage | None,
        max_chain: int,
        finished: Callable[[DraftImage], None],
    ) -> None:
        self._section = section
        self._keys = keys
        self._indexes = indexes
        self._parent = parent
        self._max_chain = max_chain
        self._finished = finished
        self._segments: list[DraftSegment] = []
        self._root = keys.digest(b"image")
        self.changed_pages: int = 0
        self.stored_pages: int = 0

    def jobs(self) -> Generator[Job, None, None]:
        """
        Yield the frames to store, and marks; tables are written as these are settled.

        Raises:
            TruncatedError: The section has another size than it says.
        """
        section = self._section
        size = 0
        segment: _SegmentWriter | None = None
        for number, piece in enumerate(even(section.chunks, _PIECE_BYTES)):
            first = number * _PIECE_PAGES
            size += len(piece)
            if size > section.size_bytes:
                break
            if first % SEGMENT_PAGES == 0:
                if segment is not None:
                    yield from segment.finish(self._settle)
                segment = self._begin(first // SEGMENT_PAGES)
            if segment is not None:
                yield from segment.add(first % SEGMENT_PAGES, _padded(piece))
        if size != section.size_bytes:
            found = "more" if size > section.size_bytes else f"{size}"
            message = f"{section.name} should have {section.size_bytes} bytes and has {found}"
            raise TruncatedError(message, kind="section_size", section=section.name)
        if segment is not None:
            yield from segment.finish(self._settle)
        yield Job(settled=self._finish)

    def _begin(self, number: int) -> _SegmentWriter:
        parent = self._parent
        known = parent.segment(number) if parent is not None else None
        if parent is not None:
            parent.reader.turn()
        tables = parent.page_tables(known) if parent is not None and known is not None else []
        shrinks = parent is not None and self._section.size_bytes < parent.tables.size_bytes
        pages = min(SEGMENT_PAGES, -(-self._section.size_bytes // PAGE_BYTES) - number * SEGMENT_PAGES)
        return _SegmentWriter(
            pages=pages,
            keys=self._keys,
            root_update=self._root.update,
            known=inherited(parent.manifest, known) if parent is not None and known is not None else DraftSegment(),
            tables=tables,
            deep=len(tables) >= self._max_chain,
            # Where the image ends now, tables may name pages behind: they must not come back when it grows again.
            cut=bool(tables) and shrinks and pages < SEGMENT_PAGES,
        )

    def _settle(self, segment: _SegmentWriter) -> None:
        self.changed_pages += segment.changed_pages
        self.stored_pages += segment.stored_pages
        self._segments.append(segment.written(self._indexes))

    def _finish(self, _frame: FrameRef | None) -> None:
        section = self._section
        self._root.update(section.size_bytes.to_bytes(8, "big"))
        root = self._root.digest()
        self._finished(DraftImage(name=section.name, size_bytes=section.size_bytes, root=root, segments=self._segments))


def _padded(piece: bytes) -> bytes:
    short = -len(piece) % PAGE_BYTES
    return piece + bytes(short) if short else piece


class _SegmentWriter:
    """Compares and writes the pages of one segment."""

    def __init__(  # noqa: PLR0913 - keyword only
        self,
        *,
        pages: int,
        keys: WriterKey,
        root_update: Callable[[bytes], object],
        known: DraftSegment,
        tables: list[PageTable],
        deep: bool,
        cut: bool,
    ) -> None:
        self._pages = pages
        self._keys = keys
        self._root_update = root_update
        self._known = known
        self._tables = tables
        self._deep = deep
        self._cut = cut
        self._known_ids = fold_ids(tables) if tables else None
        self._firsts: list[int] = []
        self._counts: list[int] = []
        self._positions: list[int] = []
        self._ids: list[bytes] = []
        self._frames: list[FrameRef] = []
        self._waiting: list[bytes | memoryview] = []
        self._waiting_pages = 0
        self.changed_pages: int = 0
        self.stored_pages: int = 0

    def add(self, first: int, piece: bytes) -> Iterator[Job]:
        """Take whole pages from page *first* of the segment on."""
        pages = len(piece) // PAGE_BYTES
        start, end = first * ID_BYTES, (first + pages) * ID_BYTES
        known = bytes(self._known_ids[start:end]) if self._known_ids is not None else _ZERO_IDS[: end - start]
        if piece == (_ZEROS if pages == _PIECE_PAGES else _ZEROS[: len(piece)]):
            ids = [ZERO_ID] * pages
            joined = _ZERO_IDS[: end - start]
        else:
            ids = self._keys.page_ids(memoryview(piece))
            joined = b"".join(ids)
        self._root_update(joined)
        if joined == known:
            return
        page = 0
        while page < pages:
            if ids[page] == known[page * ID_BYTES : (page + 1) * ID_BYTES]:
                page += 1
                continue
            begin = page
            zeros = ids[page] == ZERO_ID
            while (
                page < pages
                and (ids[page] == ZERO_ID) == zeros
                and ids[page] != known[page * ID_BYTES : (page + 1) * ID_BYTES]
            ):
                page += 1
            self._extent(first + begin, page - begin, zeros=zeros)
            if not zeros:
                # A copy of what changed, not a view: that would keep the whole piece in memory until it is stored.
                self._waiting.append(piece[begin * PAGE_BYTES : page * PAGE_BYTES])
                self._waiting_pages += page - begin
                self._ids.append(joined[begin * ID_BYTES : page * ID_BYTES])
        if self._waiting_pages >= FRAME_PAGES:
            yield self._frame()

    def _extent(self, first: int, count: int, *, zeros: bool) -> None:
        self.changed_pages += count
        position = NOWHERE if zeros else self.stored_pages
        if self._firsts and self._firsts[-1] + self._counts[-1] == first and zeros == (self._positions[-1] == NOWHERE):
            self._counts[-1] += count
        else:
            self._firsts.append(first)
            self._counts.append(count)
            self._positions.append(position)
        if not zeros:
            self.stored_pages += count

    def _frame(self) -> Job:
        job = Job(content=self._waiting, items=self._waiting_pages, settled=self._stored)
        self._waiting, self._waiting_pages = [], 0
        return job

    def _stored(self, frame: FrameRef | None) -> None:
        if frame is not None:
            self._frames.append(frame)

    @property
    def _changed(self) -> bool:
        return bool(self._firsts) or self._cut

    def finish(self, settle: Callable[[_SegmentWriter], None]) -> Iterator[Job]:
        """End the segment: *settle* is called once all its frames are stored."""
        self._known_ids = None
        many = self.changed_pages >= _FULL_SHARE * self._pages
        if not self._changed or not (self._deep or self._cut or many):
            self._tables = []  # the table to come only adds to these: they need not wait in memory until it is written
        if self._waiting:
            yield self._frame()
        yield Job(settled=lambda _frame: settle(self))

    def written(self, indexes: IndexWriter) -> DraftSegment:
        """Write the table, if there is anything to say, and return what the segment is made of."""
        if not self._changed:
            return self._known
        delta = PageTable(self._firsts, self._counts, self._positions, self._frames, b"".join(self._ids))
        known = self._known
        if self._tables:
            tables = [*self._tables, delta]
            delta = full_table(fold_ids(tables), fold_spots(tables), self._pages)
            known = DraftSegment()
        self._tables = []
        added = indexes.add(delta.to_bytes(), delta.ids)
        packs = known.packs | {frame.pack_id for frame in delta.frames}
        return DraftSegment((*known.tables, added), packs)
