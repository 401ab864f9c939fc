"""
Writing one archive: sections to jobs, jobs to packs, tables to indexes, and the manifest last.

Order and reasons on the format page, ``docs/reference/repository.md``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from .._checks import between
from .._engine.chunking import even
from .._engine.steady import steady_seconds
from ..codecs.signing import SigningKey
from ..contracts import ArchiveSink
from ..errors import ConfigurationError, InternalError, PlanStaleError
from ..model.sections import FileSection, ImageSection, RecordSection, Section
from .config import RepositoryConfig
from .drafts import DraftFile, DraftPiece, DraftSection, IndexWriter, place_sections
from .frames import MAX_CONTENT_BYTES, Compressor, FileKind, seal_small
from .images import ImageWriter, ParentImage
from .keys import WriterKey
from .layout import archive_id_of, archive_key
from .manifest import ArchiveManifest, FileTable, ImageTables, ObjectRef, RecordTables
from .packing import Job, Packer
from .reading import IndexReader
from .recordsets import ParentRecords, RecordsWriter
from .signing import put_archive_signature
from .storing import put_object
from .tables import FrameRef
from .tenants import TenantSealers

__all__ = ["PIECE_BYTES", "ArchiveWriter", "KnownPieces", "Parent", "WriteOptions", "WrittenSection", "approved"]

PIECE_BYTES: Final = 1 << 20
"""Of a file; the last piece is smaller."""


@attrs.frozen(kw_only=True)
class WriteOptions:
    """How content is stored."""

    compression_level: int = attrs.field(default=3, validator=between(1, 19))
    """Of zstd; higher is smaller and slower."""
    read_back: bool = False
    """
    Whether every new object is read again and compared with its name, before the manifest is published; then that, too.

    Costs reading what was added. A store that gives back other bytes ends the backup with `IntegrityError`.
    """


@attrs.frozen(kw_only=True)
class Parent:
    """The archive to compare with."""

    archive_id: str
    manifest: ArchiveManifest


@attrs.frozen(kw_only=True)
class WrittenSection:
    """What became of one section."""

    name: str
    size_bytes: int
    """Of content; of records, of those that were stored."""
    changed: int
    """Pages, records or pieces that differ from the parent's."""
    stored: int
    """Of these, how many were stored: zeros and what is known elsewhere are not."""


def approved(_manifest: ArchiveManifest) -> None:
    """Approve of any manifest."""


class KnownPieces:
    """Pieces of files that lie in the store already, of whatever canister."""

    def __init__(self) -> None:
        self._pieces: dict[bytes, DraftPiece] = {}

    def add(self, manifest: ArchiveManifest) -> None:
        """Take note of all pieces of an archive."""
        for section in manifest.sections:
            for piece in section.pieces if isinstance(section, FileTable) else ():
                pack = manifest.packs[piece.pack]
                draft = DraftPiece(piece.piece_id, piece.size_bytes, pack, piece.frame, piece.offset, piece.length)
                self._pieces.setdefault(piece.piece_id, draft)

    def find(self, piece_id: bytes) -> DraftPiece | None:
        """Return where a piece lies, `None` when nobody has seen it."""
        return self._pieces.get(piece_id)

    def note(self, piece: DraftPiece) -> None:
        """Take note of a piece on its way."""
        self._pieces[piece.piece_id] = piece


class ArchiveWriter:
    """
    Writes one archive.

    Args:
        sink: Where to; needs the rights to list, read and create.
        keys: What to write with.
        config: Of the repository.
        parent: What to compare with; `None` stores everything.
        pieces: Pieces of files that need not be stored again.
        options: How content is stored.
        began_at: When by *monotonic* the parent was looked for.
        tenant_sink: Where keys of tenants are, if they have any; `None`: with everything else.
        monotonic: Seconds; measures how long it takes.
    """

    def __init__(  # noqa: PLR0913 - keyword only
        self,
        sink: ArchiveSink,
        keys: WriterKey,
        config: RepositoryConfig,
        *,
        parent: Parent | None,
        pieces: KnownPieces,
        options: WriteOptions,
        began_at: float,
        tenant_sink: ArchiveSink | None = None,
        monotonic: Callable[[], float] = steady_seconds,
    ) -> None:
        self._sink = sink
        self._keys = keys
        self._config = config
        self._parent = parent
        self._pieces = pieces
        self._began_at = began_at
        self._monotonic = monotonic
        compressor = Compressor(options.compression_level)
        self._sealers = TenantSealers(tenant_sink or sink, keys) if config.tenant_keys else None
        self._read_back = options.read_back
        self._packer = Packer(sink, keys, compressor, read_back=options.read_back)
        self._indexes = IndexWriter(sink, keys, compressor, read_back=options.read_back)
        self._reader = IndexReader(sink, keys)
        self._drafts: dict[str, DraftSection] = {}
        self._names: list[str] = []
        self.written: list[WrittenSection] = []
        """What became of each section, in order."""

    def write(self, sections: Iterable[Section]) -> None:
        """
        Store the sections, each as it comes; nothing is published.

        Raises:
            BackupError: What the sections raise; `SinkError`: storing failed.
        """
        jobs = self._jobs(sections)
        try:
            self._packer.run(jobs)
        finally:
            jobs.close()

    def write_file(self, name: str, content: bytes) -> None:
        """Store one more small file."""
        self.write([FileSection(name=name, chunks=(content,))])

    def publish(
        self,
        facts: Mapping[str, Any],
        *,
        finished_at: dt.datetime,
        signing_keys: Iterable[SigningKey] = (),
        approve: Callable[[ArchiveManifest], None] = approved,
    ) -> tuple[str, ArchiveManifest]:
        """
        Sign the manifest, if there are keys, and write it: from now on there is an archive.

        Args:
            facts: Fields of `ArchiveManifest` that the capture knows.
            finished_at: Now.
            signing_keys: Who signs; none: nobody.
            approve: Shown the manifest first; what it raises keeps it from being published.

        Returns:
            Its id, and the manifest.

        Raises:
            PlanStaleError: Writing took longer than half the grace period, so that a prune may have removed what the
                archive would name. What was stored is left for `prune` to find.
            IntegrityError: What was read back is not what was sent; of the manifest, there is a damaged archive then.
            SinkError: Storing failed.
        """
        self._indexes.flush()
        known = self._parent.manifest if self._parent is not None else None
        drafts = [self._drafts[name] for name in self._names]
        packs = [piece.pack for draft in drafts if isinstance(draft, DraftFile) for piece in draft.pieces]
        places = place_sections(
            drafts,
            packs=[*(known.packs if known else ()), *self._packer.packs, *(pack for pack in packs if pack is not None)],
            indexes=[*(known.indexes if known else ()), *self._indexes.indexes],
        )
        parent = self._parent.archive_id if self._parent is not None else ""
        manifest = ArchiveManifest(finished_at=finished_at, parent=parent, **facts, **places)  # type: ignore[arg-type]  # fields by name
        approve(manifest)
        stored = seal_small(FileKind.MANIFEST, self._keys, list(even((manifest.to_bytes(),), MAX_CONTENT_BYTES)))
        archive_id = archive_id_of(manifest.taken_at, stored)
        signers = tuple(signing_keys)
        if signers:
            put_archive_signature(self._sink, archive_id, signers)
        took = self._monotonic() - self._began_at
        if took > self._config.grace_seconds / 2:
            message = (
                f"the backup took {took:.0f} s, more than half of the repository's grace period of "
                f"{self._config.grace_seconds:.0f} s; it is not published"
            )
            hint = "back up less at once, or make a repository with a longer grace period"
            raise PlanStaleError(message, kind="backup_too_slow", hint=hint)
        put_object(self._sink, archive_key(archive_id), stored, read_back=self._read_back)
        return archive_id, manifest

    @property
    def lost_tenants(self) -> int:
        """Tenants whose keys are gone, without a notice of erasure; everything of theirs is stored again."""
        return len(self._sealers.lost) if self._sealers is not None else 0

    @property
    def stored_objects(self) -> tuple[ObjectRef, ...]:
        """Packs and indexes that were written."""
        return (*self._packer.packs, *self._indexes.indexes)

    def _jobs(self, sections: Iterable[Section]) -> Generator[Job, None, None]:
        for section in sections:
            if section.name in self._names:
                raise ConfigurationError(f"two sections are called {section.name}", kind="bad_section_name")
            self._names.append(section.name)
            match section:
                case ImageSection():
                    yield from self._image(section)
                case RecordSection():
                    yield from self._records(section)
                case FileSection():
                    yield from self._file(section)

    def _image(self, section: ImageSection) -> Iterator[Job]:
        tables = self._parent_tables(section.name)
        parent = None
        if self._parent is not None and isinstance(tables, ImageTables):
            parent = ParentImage(manifest=self._parent.manifest, tables=tables, reader=self._reader)
        writer = ImageWriter(
            section,
            keys=self._keys,
            indexes=self._indexes,
            parent=parent,
            max_chain=self._config.max_chain,
            finished=self._finish,
        )
        yield from writer.jobs()
        yield Job(
            settled=lambda _frame: self._note(
                section.name, section.size_bytes, writer.changed_pages, writer.stored_pages
            )
        )

    def _records(self, section: RecordSection) -> Iterator[Job]:
        tables = self._parent_tables(section.name)
        parent = None
        if self._parent is not None and isinstance(tables, RecordTables):
            parent = ParentRecords(manifest=self._parent.manifest, tables=tables, reader=self._reader)
        writer = RecordsWriter(
            section,
            keys=self._keys,
            indexes=self._indexes,
            parent=parent,
            max_chain=self._config.max_chain,
            sealers=self._sealers,
            finished=self._finish,
        )
        yield from writer.jobs()
        changed, stored = writer.changed_records, writer.stored_records
        yield Job(settled=lambda _frame: self._note(section.name, writer.stored_bytes, changed, stored))

    def _file(self, section: FileSection) -> Iterator[Job]:
        pieces: list[DraftPiece] = []
        stored = size = 0
        for content in even(section.chunks, PIECE_BYTES):
            size += len(content)
            piece_id = self._keys.piece_id(content)
            piece = self._pieces.find(piece_id)
            if piece is None:
                piece = DraftPiece(piece_id, len(content))
                self._pieces.note(piece)
                stored += 1
                yield Job(content=[content], items=1, settled=_Settled(piece, self._packer))
            pieces.append(piece)
        self._finish(DraftFile(name=section.name, pieces=pieces))
        yield Job(settled=lambda _frame: self._note(section.name, size, stored, stored))

    def _parent_tables(self, name: str) -> ImageTables | RecordTables | FileTable | None:
        return self._parent.manifest.section(name) if self._parent is not None else None

    def _finish(self, draft: DraftSection) -> None:
        self._drafts[draft.name] = draft

    def _note(self, name: str, size_bytes: int, changed: int, stored: int) -> None:
        self.written.append(WrittenSection(name=name, size_bytes=size_bytes, changed=changed, stored=stored))


@attrs.frozen(eq=False)
class _Settled:
    """Takes note of where a piece was stored."""

    piece: DraftPiece
    packer: Packer

    def __call__(self, frame: FrameRef | None) -> None:
        """Fill in the place."""
        if frame is None:  # pragma: no cover - pieces are never empty
            raise InternalError("a piece was stored nowhere")
        self.piece.pack = self.packer.packs[-1]
        self.piece.frame, self.piece.offset, self.piece.length = frame.number, frame.offset, frame.length
