"""
Prune notes: what a prune found unused, for a later one to delete.

Canonical JSON, sealed with the index key: ``format``, ``format_version``, ``made_at`` (ISO with milliseconds, by the
clock of the host, for people), and ``objects``, a list of ``[key, size in bytes]``. How old a note is, the store says.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, Final

import attrs

from .._engine.chunking import even
from ..contracts import ArchiveSink
from ..errors import BackupError, IntegrityError, UnsupportedFormatError
from ..model.blobs import BlobInfo
from ..model.json_input import check_nesting, check_values, typed
from ..model.moments import iso_ms, parse_iso
from .frames import MAX_CONTENT_BYTES, FileKind, open_file, seal_small
from .keys import ReadKeys, WriterKey
from .layout import PRUNE_PREFIX, is_prunable, is_prune_note, object_id, prune_key
from .storing import get_object, put_object

__all__ = ["MAX_NOTE_OBJECTS", "NotedObject", "PruneNote", "list_notes", "put_note", "read_note"]

FORMAT: Final = "knowtation-repository-prune"
VERSION: Final = 1
MAX_NOTE_OBJECTS: Final = 100_000
"""About 11 MB; more unused objects take several notes."""


@attrs.frozen
class NotedObject:
    """An object that no manifest named."""

    key: str
    size_bytes: int


@attrs.frozen(kw_only=True)
class PruneNote:
    """What was found unused."""

    made_at: dt.datetime
    """By the clock of the host that wrote it."""
    objects: tuple[NotedObject, ...] = attrs.field(repr=False)

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no white space, ASCII."""
        value = {
            "format": FORMAT,
            "format_version": VERSION,
            "made_at": iso_ms(self.made_at),
            "objects": [[noted.key, noted.size_bytes] for noted in self.objects],
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> PruneNote:
        """
        Parse what any release of format version 1 wrote.

        Raises:
            IntegrityError: It cannot be read, or names what no prune may delete, kind ``bad_prune_note``.
            UnsupportedFormatError: A newer format.
        """
        try:
            check_nesting(data)
            check_values(data)
            return _parsed(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, IntegrityError) as error:
            why = error.message if isinstance(error, BackupError) else type(error).__name__
            raise IntegrityError(f"a prune note cannot be read: {why}", kind="bad_prune_note") from error


def _parsed(value: dict[str, Any]) -> PruneNote:
    if value["format"] != FORMAT:
        raise IntegrityError(f"it names another format: {value['format']!r:.80}")
    if value["format_version"] != VERSION:
        message = f"a prune note has format version {value['format_version']!r:.20}; this release reads {VERSION}"
        raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
    objects = tuple(NotedObject(typed(key, str), typed(size, int)) for key, size in value["objects"])
    strange = next((noted.key for noted in objects if not is_prunable(noted.key)), None)
    if strange is not None:
        raise IntegrityError(f"it names {strange!r:.200}, which no prune deletes")
    return PruneNote(made_at=parse_iso(typed(value["made_at"], str)), objects=objects)


def put_note(sink: ArchiveSink, keys: WriterKey, note: PruneNote) -> str:
    """Store a note of at most `MAX_NOTE_OBJECTS`; return its key."""
    stored = seal_small(FileKind.PRUNE_NOTE, keys, list(even((note.to_bytes(),), MAX_CONTENT_BYTES)))
    key = prune_key(note.made_at, object_id(stored))
    put_object(sink, key, stored)
    return key


def list_notes(sink: ArchiveSink) -> list[BlobInfo]:
    """Return all prune notes, unread."""
    return [info for info in sink.list(PRUNE_PREFIX) if is_prune_note(info.key)]


def read_note(sink: ArchiveSink, keys: ReadKeys | WriterKey, key: str) -> PruneNote:
    """
    Return a prune note.

    Raises:
        BlobNotFoundError: There is none.
        IntegrityError: It cannot be read; `TamperedError`: it was changed.
    """
    return PruneNote.from_bytes(b"".join(open_file(FileKind.PRUNE_NOTE, get_object(sink, key), keys)))
