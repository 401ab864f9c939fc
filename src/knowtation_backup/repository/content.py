"""
Reading content: images, records and files of an archive, from its tables and the frames they name.

Every page and record is compared with its id, every section with its root or size: what comes out is what went in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import attrs

from ..contracts import ArchiveSink
from ..errors import ErasedTenantError, IntegrityError
from ..model.sections import PAGE_BYTES
from .folding import FoldedRecord, Spots, StoredRun, fold_ids, fold_records, fold_spots
from .keys import ID_BYTES, ReadKeys, WriterKey
from .manifest import ArchiveManifest, FileTable, ImageTables, RecordTables
from .opening import FrameReader, FrameSupply, values_of
from .reading import IndexReader
from .tables import SEGMENT_PAGES, FrameRef

__all__ = ["ArchiveReader", "ImagePart", "ReadRecord"]

_WORKERS: Final = 4
"""Threads that fetch and open: more than processors, since a store makes them wait."""
_WRITTEN_BYTES: Final = 1 << 20


@attrs.frozen(eq=False)
class ImagePart:
    """Consecutive bytes of an image; `data` is `None` where they are all zeros."""

    offset: int
    size_bytes: int
    data: memoryview | None = attrs.field(repr=False)


@attrs.frozen(eq=False)
class ReadRecord:
    """A record as it lies in the repository: its owner is known by a hash alone."""

    key: bytes
    value: bytes = attrs.field(repr=False)


class ArchiveReader:
    """
    Reads the content of one archive.

    Memory: about 80 MB, whatever the size of images.

    Args:
        sink: Where the repository is.
        keys: What opens content.
        manifest: Of the archive.
        indexes: Shared with readers of other archives, so that indexes are read once.
        frames: Same, of heads of packs and keys of tenants.
        tenant_sink: Where keys of tenants are; `None`: with everything else. Of no use beside *frames*.
        workers: Threads that open frames.
    """

    def __init__(  # noqa: PLR0913 - keyword only
        self,
        sink: ArchiveSink,
        keys: ReadKeys,
        manifest: ArchiveManifest,
        *,
        indexes: IndexReader | None = None,
        frames: FrameReader | None = None,
        tenant_sink: ArchiveSink | None = None,
        workers: int = _WORKERS,
    ) -> None:
        self._keys = keys
        self._ids: WriterKey = keys.writer_key
        self._manifest = manifest
        self._indexes = indexes or IndexReader(sink, keys)
        self._frames = frames or FrameReader(sink, keys, tenant_sink=tenant_sink)
        self._workers = workers

    # -- images -----------------------------------------------------------------------------------------------------

    def image(self, tables: ImageTables) -> Generator[ImagePart, None, None]:
        """
        Yield an image in order, in parts of at most 1 MiB, each page compared with its id.

        Raises:
            IntegrityError: A page is not what it was, or the whole is not: kind ``page_changed``, ``root_changed``.
            SinkError: Reading failed.
        """
        root = self._ids.digest(b"image")
        pages_left = -(-tables.size_bytes // PAGE_BYTES)
        expected = -(-pages_left // SEGMENT_PAGES)
        if len(tables.segments) != expected:
            message = f"{tables.name} has {len(tables.segments)} segments instead of {expected}"
            raise IntegrityError(message, kind="bad_table")
        for number, segment in enumerate(tables.segments):
            base = number * SEGMENT_PAGES
            pages = min(SEGMENT_PAGES, pages_left)
            pages_left -= pages
            found = self._indexes.page_tables(self._manifest, segment)
            ids = bytes(fold_ids(found)[: pages * ID_BYTES])
            root.update(ids)
            yield from self._segment(tables, base, pages, ids, fold_spots(found))
            self._indexes.turn()
        root.update(tables.size_bytes.to_bytes(8, "big"))
        if root.digest() != tables.root:
            message = f"the tables of {tables.name} give another image than was backed up"
            raise IntegrityError(message, kind="root_changed", section=tables.name)

    def _segment(
        self, tables: ImageTables, base: int, pages: int, ids: bytes, spots: Spots
    ) -> Generator[ImagePart, None, None]:
        runs = spots.runs(pages)
        by_frame: dict[FrameRef, list[StoredRun]] = {}
        for run in runs:
            by_frame.setdefault(spots.frames[run.frame], []).append(run)

        def check(frame: FrameRef, content: bytes) -> None:
            self._check_pages(content, by_frame[frame], ids, tables.name, base)

        order = [spots.frames[run.frame] for run in runs]
        supply = FrameSupply(self._frames, order, workers=self._workers, check=check)
        try:
            for stretch in _stretches(runs, pages):
                offset = (base + stretch.first) * PAGE_BYTES
                size = min(stretch.count * PAGE_BYTES, tables.size_bytes - offset)
                if not stretch.runs:
                    yield ImagePart(offset, size, None)
                    continue
                pieces = [
                    memoryview(supply.get(spots.frames[run.frame]))[
                        run.slot * PAGE_BYTES : (run.slot + run.count) * PAGE_BYTES
                    ]
                    for run in stretch.runs
                ]
                data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
                yield ImagePart(offset, size, data[:size])
        finally:
            supply.close()

    def _check_pages(self, content: bytes, runs: Sequence[StoredRun], ids: bytes, name: str, base: int) -> None:
        """Compare the pages of a frame that an image takes from it with their ids; called by threads."""
        view = memoryview(content)
        for run in runs:
            start, end = run.slot * PAGE_BYTES, (run.slot + run.count) * PAGE_BYTES
            if end > len(view):
                raise IntegrityError(f"a frame of {name} is too short", kind="page_changed", section=name)
            found = self._ids.page_ids(view[start:end])
            at = run.first * ID_BYTES
            if b"".join(found) == ids[at : at + run.count * ID_BYTES]:
                continue
            wrong = next(n for n, each in enumerate(found) if each != ids[at + n * ID_BYTES : at + (n + 1) * ID_BYTES])
            page = base + run.first + wrong
            message = f"page {page} of {name} (bytes from {page * PAGE_BYTES}) is not what was backed up"
            raise IntegrityError(message, kind="page_changed", section=name, page=page)

    # -- files ------------------------------------------------------------------------------------------------------

    def file(self, table: FileTable) -> Generator[bytes, None, None]:
        """
        Yield a file in pieces of at most 1 MiB, each compared with its id.

        Raises:
            IntegrityError: A piece is not what it was, kind ``piece_changed``.
            SinkError: Reading failed.
        """
        packs = self._manifest.packs
        frames = [FrameRef(packs[p.pack].object_id, p.frame, p.offset, p.length, 1) for p in table.pieces]
        supply = FrameSupply(self._frames, frames, workers=self._workers)
        try:
            for piece, frame in zip(table.pieces, frames, strict=True):
                content = supply.get(frame)
                if len(content) != piece.size_bytes or self._ids.piece_id(content) != piece.piece_id:
                    message = f"a piece of {table.name} is not what was backed up"
                    raise IntegrityError(message, kind="piece_changed", section=table.name)
                yield content
        finally:
            supply.close()

    # -- records ----------------------------------------------------------------------------------------------------

    def records(
        self,
        tables: RecordTables,
        *,
        owner: bytes | None = None,
        wanted: Container[bytes] | None = None,
        on_erased: Callable[[bytes, int], None] | None = None,
        on_lost: Callable[[bytes, int], None] | None = None,
    ) -> Generator[list[ReadRecord], None, None]:
        """
        Yield all records, those of one owner in a list of their own, each compared with its id.

        Owners come in the order of their hashes, and records of an owner in that of theirs: neither means anything.

        Args:
            tables: Which.
            owner: Only this one's; without the root being compared.
            wanted: Only records of these keys; of others nothing is read.
            on_erased: Told of each owner of whom records are left out because its key was destroyed: the 8 bytes its
                records' keys begin with, and how many they are. `None`: that is an error, once all others were yielded.
            on_lost: Same, of each owner whose key is gone though no notice says that it was erased.

        Raises:
            ErasedTenantError: An owner's key was destroyed, or lost (kind ``tenant_key_lost``), and nobody asked to be
                told.
            IntegrityError: A record is not what it was, or some are missing: ``record_changed``, ``root_changed``.
        """
        found = self.record_places(tables, self._ids.owner_key(owner) if owner is not None else None)
        if owner is None:
            self._check_records(tables, found)
        if wanted is not None:
            found = {key: record for key, record in found.items() if key in wanted}
        groups: list[list[tuple[bytes, FoldedRecord]]] = []
        for key in sorted(found):
            if not groups or groups[-1][-1][0][:8] != key[:8]:
                groups.append([])
            groups[-1].append((key, found[key]))
        # In the order the records were stored in, so that each frame is opened once.
        groups.sort(key=lambda group: min((r.frame.pack_id, r.frame.offset) for _, r in group))
        order = [record.frame for group in groups for _, record in group]
        supply = FrameSupply(self._frames, order, workers=self._workers)
        cut = _Cut()
        told = {"tenant_erased": on_erased, "tenant_key_lost": on_lost}
        untold: list[ErasedTenantError] = []
        try:
            for group in groups:
                erased: list[ErasedTenantError] = []
                read = (self._record(key, record, supply, cut, tables.name, erased) for key, record in group)
                if there := [record for record in read if record is not None]:
                    yield there
                for kind, count in Counter(error.kind for error in erased).items():
                    if (tell := told[kind]) is not None:
                        tell(group[0][0][:8], count)
                    else:
                        untold += (error for error in erased if error.kind == kind)
        finally:
            supply.close()
        if untold:
            raise untold[0]

    def record_places(self, tables: RecordTables, owner_key: bytes | None = None) -> dict[bytes, FoldedRecord]:
        """Return where each record lies, by key; of one owner only, if *owner_key* is given."""
        segments: Iterable[int] = range(len(tables.segments))
        if len(tables.segments) != 1 << tables.bits:
            raise IntegrityError(f"{tables.name} has another number of segments than it says", kind="bad_table")
        if owner_key is not None:
            segments = (owner_key[0] >> (8 - tables.bits),)
        found: dict[bytes, FoldedRecord] = {}
        for number in segments:
            found |= fold_records(self._indexes.record_tables(self._manifest, tables.segments[number]))
        if owner_key is not None:
            found = {key: record for key, record in found.items() if key.startswith(owner_key)}
        return found

    def _check_records(self, tables: RecordTables, found: dict[bytes, FoldedRecord]) -> None:
        root = self._ids.digest(b"records")
        root.update(b"".join(chain.from_iterable((key, found[key].record_id) for key in sorted(found))))
        if len(found) != tables.count or root.digest() != tables.root:
            message = f"the tables of {tables.name} give other records than were backed up"
            raise IntegrityError(message, kind="root_changed", section=tables.name)

    def _record(  # noqa: PLR0913, PLR0917 - of one place
        self,
        key: bytes,
        record: FoldedRecord,
        supply: FrameSupply,
        cut: _Cut,
        name: str,
        erased: list[ErasedTenantError],
    ) -> ReadRecord | None:
        try:
            values = cut.values(record.frame, supply.get(record.frame))
        except ErasedTenantError as error:
            erased.append(error)
            return None
        value = values[record.slot] if record.slot < len(values) else b""
        if self._ids.record_id(value) != record.record_id:
            message = f"a record of {name} is not what was backed up"
            raise IntegrityError(message, kind="record_changed", section=name, key=key.hex())
        return ReadRecord(key, value)


class _Cut:
    """Values of the frame that was cut last."""

    def __init__(self) -> None:
        self._frame: FrameRef | None = None
        self._values: list[bytes] = []

    def values(self, frame: FrameRef, content: bytes) -> list[bytes]:
        if frame is not self._frame:
            self._frame, self._values = frame, values_of(content)
        return self._values


@attrs.frozen(eq=False)
class _Stretch:
    """Consecutive pages of a segment: all of them stored, in these runs, or all zeros."""

    first: int
    count: int
    runs: Sequence[StoredRun] = ()


def _stretches(runs: Sequence[StoredRun], pages: int) -> Iterator[_Stretch]:
    """Cut a segment into stretches of stored pages and of zeros, each of at most 1 MiB."""
    limit = _WRITTEN_BYTES // PAGE_BYTES
    waiting: list[StoredRun] = []
    first = page = 0
    for run in runs:
        if waiting and (run.first > page or page - first + run.count > limit):
            yield _Stretch(first, page - first, waiting)
            waiting, first = [], page
        if run.first > page:
            yield from _zeros(page, run.first, limit)
            first = run.first
        waiting.append(run)
        page = run.first + run.count
    if waiting:
        yield _Stretch(first, page - first, waiting)
    yield from _zeros(page, pages, limit)


def _zeros(page: int, end: int, limit: int) -> Iterator[_Stretch]:
    for first in range(page, end, limit):
        yield _Stretch(first, min(limit, end - first))
