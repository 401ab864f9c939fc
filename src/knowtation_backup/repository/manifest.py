"""
The manifest of an archive: canonical JSON, sealed with the index key, written last.

Fields, beside format and version:

``kind``, ``source_id``, ``taken_at``, ``started_at``, ``finished_at``, ``complete``, ``counts``, ``tags``, ``set_id``,
``parent``, ``generator``, and in archives made from others ``consolidated_from``
    what `ArchiveManifest` says of them; moments are ISO with milliseconds
``packs``, ``indexes``
    lists of ``[id in hexadecimal, size in bytes]``: every object that reading the archive needs
``sections``
    in the order of the capture; each has ``name`` and ``kind``, and

    - ``image``: ``size_bytes``, ``root``, and ``segments``: for each, the tables it is made of as pairs ``[index,
      frame]`` (the ids follow in the next frame), and the packs its pages lie in
    - ``records``: ``count``, ``root``, ``bits``, and ``segments`` as above (a table is one frame); and when tenants
      have keys of their own ``tenants``: the tables of their public keys, as such pairs
    - ``file``: ``size_bytes``, and ``pieces`` as ``[id, pack, frame, offset, length, size in bytes]``

    where index and pack are places in the lists above.

Fields that a release does not know are kept nowhere and ignored.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ..errors import BackupError, IntegrityError, ManifestError, UnsupportedFormatError
from ..model.json_input import check_nesting, check_values, typed
from ..model.moments import iso_ms, parse_iso, utc_of
from ..model.sections import SectionKind, check_section_name
from .frames import MAX_CONTENT_BYTES, MAX_FRAME_BYTES
from .keys import ID_BYTES
from .layout import index_key, pack_key

__all__ = [
    "ArchiveManifest",
    "FilePiece",
    "FileTable",
    "ImageTables",
    "ObjectRef",
    "RecordTables",
    "SegmentTables",
    "TableRef",
]

FORMAT: Final = "knowtation-repository-archive"
VERSION: Final = 1
_MAX_NUMBER: Final = (1 << 63) - 1
_MAX_BITS: Final = 8
_ROOT_BYTES: Final = 32


@attrs.frozen
class ObjectRef:
    """A pack or index."""

    object_id: bytes
    size_bytes: int


@attrs.frozen
class TableRef:
    """Where a table begins: an index of the manifest's list, and the number of a frame in it."""

    index: int
    frame: int


@attrs.frozen
class SegmentTables:
    """What one segment is made of: tables, the full one first, and the packs in which its content lies."""

    tables: tuple[TableRef, ...]
    packs: tuple[int, ...]


@attrs.frozen(kw_only=True)
class ImageTables:
    """Where an image lies."""

    name: str
    size_bytes: int
    root: bytes
    segments: tuple[SegmentTables, ...] = attrs.field(repr=False)

    kind = SectionKind.IMAGE


@attrs.frozen(kw_only=True)
class RecordTables:
    """Where records lie."""

    name: str
    count: int
    root: bytes
    bits: int
    segments: tuple[SegmentTables, ...] = attrs.field(repr=False)
    tenants: tuple[TableRef, ...] = attrs.field(default=(), repr=False)
    """Where the public keys of tenants are; of two tables that name one, the later holds."""

    kind = SectionKind.RECORDS

    def segment_of(self, key: bytes) -> SegmentTables:
        """
        Return the segment in which records of a key lie, or those of an owner's.

        Raises:
            IntegrityError: There are not as many segments as there should be.
        """
        if len(self.segments) != 1 << self.bits:
            raise IntegrityError(f"{self.name} has another number of segments than it says", kind="bad_table")
        return self.segments[key[0] >> (_MAX_BITS - self.bits)]


@attrs.frozen
class FilePiece:
    """Where a piece of a file lies."""

    piece_id: bytes
    pack: int
    frame: int
    offset: int
    length: int
    size_bytes: int


@attrs.frozen(kw_only=True)
class FileTable:
    """Where a file lies."""

    name: str
    size_bytes: int
    pieces: tuple[FilePiece, ...] = attrs.field(repr=False)

    kind = SectionKind.FILE


SectionTables = ImageTables | RecordTables | FileTable


def _to_ms(moment: dt.datetime) -> dt.datetime:
    utc = utc_of(moment)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


@attrs.frozen(kw_only=True)
class ArchiveManifest:
    """One archive. Readable with a writer key; content is not in it."""

    kind: str
    """Of what was captured, for example ``canister-snapshot``."""
    source_id: str
    taken_at: dt.datetime = attrs.field(converter=_to_ms)
    """The moment the content is of; moments are kept to the millisecond."""
    started_at: dt.datetime = attrs.field(converter=_to_ms)
    finished_at: dt.datetime = attrs.field(converter=_to_ms)
    complete: bool
    counts: Mapping[str, int]
    tags: tuple[str, ...] = ()
    set_id: str = ""
    """The same for all archives of one backup set; empty when there was one source only."""
    parent: str = ""
    """Id of the archive whose tables this one continues; empty for a first or full one."""
    generator: str = ""
    consolidated_from: str = ""
    """Id of the archive of the same content that this one was made from, without its source; empty for all others."""
    packs: tuple[ObjectRef, ...] = attrs.field(default=(), repr=False)
    indexes: tuple[ObjectRef, ...] = attrs.field(default=(), repr=False)
    sections: tuple[SectionTables, ...] = attrs.field(default=(), repr=False)

    @property
    def size_bytes(self) -> int:
        """Of packs and indexes that reading it needs; most of them it shares with others."""
        return sum(ref.size_bytes for ref in (*self.packs, *self.indexes))

    def objects(self) -> Iterator[tuple[str, int]]:
        """Yield key and size of every pack and index that reading it needs."""
        yield from ((pack_key(ref.object_id), ref.size_bytes) for ref in self.packs)
        yield from ((index_key(ref.object_id), ref.size_bytes) for ref in self.indexes)

    def section(self, name: str) -> SectionTables | None:
        """Return the section of a name, `None` when there is none."""
        return next((section for section in self.sections if section.name == name), None)

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no white space, ASCII."""
        value = {
            "format": FORMAT,
            "format_version": VERSION,
            "kind": self.kind,
            "source_id": self.source_id,
            "taken_at": iso_ms(self.taken_at),
            "started_at": iso_ms(self.started_at),
            "finished_at": iso_ms(self.finished_at),
            "complete": self.complete,
            "counts": dict(self.counts),
            "tags": list(self.tags),
            "set_id": self.set_id,
            "parent": self.parent,
            "generator": self.generator,
            "packs": [[ref.object_id.hex(), ref.size_bytes] for ref in self.packs],
            "indexes": [[ref.object_id.hex(), ref.size_bytes] for ref in self.indexes],
            "sections": [_section_json(section) for section in self.sections],
        }
        if self.consolidated_from:
            value["consolidated_from"] = self.consolidated_from
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ArchiveManifest:
        """
        Parse what any release of format version 1 wrote, and check that places exist.

        Raises:
            ManifestError: It cannot be read, or contradicts itself.
            UnsupportedFormatError: A newer format.
        """
        try:
            check_nesting(data)
            check_values(data)
            value = json.loads(data)
            if value["format"] != FORMAT:
                raise ManifestError(f"a manifest names another format: {value['format']!r:.80}")
            if value["format_version"] != VERSION:
                message = f"an archive has format version {value['format_version']!r:.20}; this release reads {VERSION}"
                raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
            manifest = cls(
                kind=typed(value["kind"], str),
                source_id=typed(value["source_id"], str),
                taken_at=parse_iso(typed(value["taken_at"], str)),
                started_at=parse_iso(typed(value["started_at"], str)),
                finished_at=parse_iso(typed(value["finished_at"], str)),
                complete=typed(value["complete"], bool),
                counts={name: typed(count, int) for name, count in value["counts"].items()},
                tags=tuple(typed(tag, str) for tag in value["tags"]),
                set_id=typed(value["set_id"], str),
                parent=typed(value["parent"], str),
                generator=typed(value["generator"], str),
                consolidated_from=typed(value.get("consolidated_from", ""), str),
                packs=tuple(map(_object, value["packs"])),
                indexes=tuple(map(_object, value["indexes"])),
                sections=tuple(map(_section, value["sections"])),
            )
            manifest._check_places()
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            why = error.message if isinstance(error, BackupError) else type(error).__name__
            raise ManifestError(f"a manifest cannot be read: {why}") from error
        return manifest

    def _check_places(self) -> None:
        packs, indexes = len(self.packs), len(self.indexes)
        if len({section.name for section in self.sections}) != len(self.sections):
            raise ManifestError("two sections of a manifest have one name")
        for section in self.sections:
            if isinstance(section, FileTable):
                found = [piece.pack for piece in section.pieces]
                tables: list[TableRef] = []
            else:
                found = [pack for segment in section.segments for pack in segment.packs]
                tables = [table for segment in section.segments for table in segment.tables]
                tables += section.tenants if isinstance(section, RecordTables) else ()
            if any(not 0 <= pack < packs for pack in found) or any(not 0 <= ref.index < indexes for ref in tables):
                raise ManifestError(f"section {section.name} of a manifest lies in objects the manifest does not name")


def _object(value: Any) -> ObjectRef:
    object_id, size_bytes = value
    return ObjectRef(_octets(object_id, 32), _number(size_bytes))


def _octets(value: Any, size: int) -> bytes:
    raw = bytes.fromhex(typed(value, str))
    if len(raw) != size:
        raise ManifestError(f"an id in a manifest has {len(raw)} bytes instead of {size}")
    return raw


def _number(value: Any, limit: int = _MAX_NUMBER) -> int:
    number = typed(value, int)
    if not 0 <= number <= limit:
        raise ManifestError(f"a number in a manifest is not in 0 to {limit}")
    return number


def _section_json(section: SectionTables) -> dict[str, Any]:
    value: dict[str, Any] = {"name": section.name, "kind": section.kind.value}
    if isinstance(section, FileTable):
        pieces = [[piece.piece_id.hex(), *attrs.astuple(piece)[1:]] for piece in section.pieces]
        return value | {"size_bytes": section.size_bytes, "pieces": pieces}
    segments = [[[[ref.index, ref.frame] for ref in s.tables], list(s.packs)] for s in section.segments]
    value |= {"root": section.root.hex(), "segments": segments}
    if isinstance(section, ImageTables):
        return value | {"size_bytes": section.size_bytes}
    if section.tenants:
        value["tenants"] = [[ref.index, ref.frame] for ref in section.tenants]
    return value | {"count": section.count, "bits": section.bits}


def _section(value: Any) -> SectionTables:
    kind = SectionKind(value["kind"])
    name = check_section_name(typed(value["name"], str))
    if kind is SectionKind.FILE:
        pieces = tuple(map(_piece, value["pieces"]))
        return FileTable(name=name, size_bytes=_number(value["size_bytes"]), pieces=pieces)
    segments = tuple(
        SegmentTables(
            tuple(map(_table_ref, tables)),
            tuple(map(_number, packs)),
        )
        for tables, packs in value["segments"]
    )
    root = _octets(value["root"], _ROOT_BYTES)
    if kind is SectionKind.IMAGE:
        return ImageTables(name=name, size_bytes=_number(value["size_bytes"]), root=root, segments=segments)
    return RecordTables(
        name=name,
        count=_number(value["count"]),
        root=root,
        bits=_number(value["bits"], _MAX_BITS),
        segments=segments,
        tenants=tuple(map(_table_ref, value.get("tenants", ()))),
    )


def _table_ref(value: Any) -> TableRef:
    index, frame = value
    return TableRef(_number(index), _number(frame))


def _piece(value: Any) -> FilePiece:
    piece_id, pack, frame, offset, length, size_bytes = value
    return FilePiece(
        _octets(piece_id, ID_BYTES),
        _number(pack),
        _number(frame),
        _number(offset),
        _number(length, MAX_FRAME_BYTES),
        _number(size_bytes, MAX_CONTENT_BYTES),
    )
