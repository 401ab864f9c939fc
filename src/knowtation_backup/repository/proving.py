"""
Proving one pack: it is what its name says, its frames open, and hold what is claimed of them.

The name is a SHA-256, which needs no key; the rest needs the repository's secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from ..contracts import ArchiveSink
from ..errors import (
    BackupError,
    BlobNotFoundError,
    DecryptionError,
    IntegrityError,
    NoMatchingKeyError,
    TruncatedError,
    UnsupportedFormatError,
)
from ..model.sections import PAGE_BYTES
from .claims import Claim, Claims, PageClaim, PieceClaim, RecordClaim
from .content import FrameReader, values_of
from .keys import ID_BYTES, WriterKey
from .layout import pack_key
from .manifest import ObjectRef
from .storing import MAX_OBJECT_BYTES
from .tables import FrameRef

__all__ = ["WRONG_BYTES", "BadPlaces", "PackProof", "prove_pack"]

WRONG_BYTES: Final = (IntegrityError, DecryptionError, UnsupportedFormatError, BlobNotFoundError)
"""Errors that say something of stored bytes; all others say that they could not be looked at."""
_ERASED: Final = "tenant_erased"


@attrs.define(eq=False)
class BadPlaces:
    """Where content cannot be read from."""

    packs: set[bytes] = attrs.field(factory=set)
    """Of which nothing can be read."""
    frames: dict[FrameRef, AbstractSet[int] | None] = attrs.field(factory=dict)
    """Places in a frame that hold something else than claimed; `None`: all of them."""

    @property
    def touched(self) -> set[bytes]:
        """Packs of which at least something cannot be read."""
        return self.packs | {frame.pack_id for frame in self.frames}

    def of(self, frame: FrameRef, slots: Iterable[int]) -> list[int]:
        """Return those of the places of a frame that cannot be read from."""
        if frame.pack_id in self.packs:
            return list(slots)
        bad = self.frames.get(frame, frozenset())
        return list(slots) if bad is None else [slot for slot in slots if slot in bad]


@attrs.frozen(kw_only=True, eq=False)
class PackProof:
    """What became of proving one pack."""

    pack_id: bytes
    bytes_read: int
    error: BackupError | None = None
    """What is wrong with it; `None`: nothing."""
    bad: Mapping[FrameRef, AbstractSet[int] | None] | None = attrs.field(factory=dict)
    """See `BadPlaces.frames`; `None`: nothing of the pack can be relied on."""
    erased: int = 0
    """Records that nobody can open any more, because the key of their tenant was destroyed."""
    unopened: NoMatchingKeyError | None = None
    """Why it was not opened although its bytes are what its name says: it is sealed to another key."""


def prove_pack(
    sink: ArchiveSink, pack: ObjectRef, claims: Claims, *, ids: WriterKey, frames: FrameReader | None
) -> PackProof:
    """
    Read a pack once, and compare it with its name and with what is claimed of it.

    Memory: the pack, and one frame.

    Args:
        sink: Where it is.
        pack: Id and size that manifests name.
        claims: What must lie in it.
        ids: Make ids.
        frames: Opens frames; `None`: only the name is compared.

    Raises:
        SinkUnavailableError: The store could not be reached; `SinkPermissionError`: reading is refused.
    """
    key = pack_key(pack.object_id)
    try:
        stored = _read(sink, key, pack.size_bytes)
    except BlobNotFoundError as error:
        return PackProof(pack_id=pack.object_id, bytes_read=0, error=error, bad=None)
    wrong = _compare_with_name(key, stored, pack)
    if frames is None:
        return PackProof(
            pack_id=pack.object_id, bytes_read=len(stored), error=wrong, bad=None if wrong is not None else {}
        )
    bad: dict[FrameRef, AbstractSet[int] | None] = {}
    erased = 0
    unopened: NoMatchingKeyError | None = None
    for frame, wanted in claims.items():
        try:
            slots = _wrong_slots(frames.opened(frame, memoryview(stored)), wanted, ids)
        except WRONG_BYTES as error:
            if error.kind == _ERASED:
                erased += len(wanted)
            elif wrong is None and isinstance(error, NoMatchingKeyError):
                unopened = error
                break
            else:
                bad[frame] = None
                wrong = wrong or error
        else:
            if slots:
                bad[frame] = slots
                message = f"frame {frame.number} of {key} does not hold what tables say, at {len(slots)} place(s)"
                wrong = wrong or IntegrityError(message, kind="content_changed", key=key)
    return PackProof(
        pack_id=pack.object_id, bytes_read=len(stored), error=wrong, bad=bad, erased=erased, unopened=unopened
    )


def _read(sink: ArchiveSink, key: str, size_bytes: int) -> bytes:
    # One byte more than there should be: enough to see that there is more, however much that is.
    wanted = min(size_bytes, MAX_OBJECT_BYTES) + 1
    return b"".join(sink.read(key, size_bytes=wanted))


def _compare_with_name(key: str, stored: bytes, pack: ObjectRef) -> BackupError | None:
    if len(stored) != pack.size_bytes:
        found = f"more than {pack.size_bytes}" if len(stored) > pack.size_bytes else str(len(stored))
        message = f"{key} has {found} bytes, manifests say {pack.size_bytes}"
        return TruncatedError(message, kind="size_mismatch", key=key)
    if hashlib.sha256(stored).digest() != pack.object_id:
        message = f"{key} is not what its name says: {len(stored)} bytes with another SHA-256"
        return IntegrityError(message, kind="object_changed", hint="repair it from a replica", key=key)
    return None


def _wrong_slots(content: bytes, claims: Iterable[Claim], ids: WriterKey) -> set[int]:
    """Return the places of an opened frame that hold something else than claimed."""
    wrong: set[int] = set()
    pages: bytes | None = None
    values: list[bytes] | None = None
    for claim in claims:
        match claim:
            case PageClaim(slot, wanted):
                if pages is None:
                    whole = len(content) - len(content) % PAGE_BYTES
                    pages = b"".join(ids.page_ids(memoryview(content)[:whole]))
                start = slot * ID_BYTES
                if pages[start : start + len(wanted)] != wanted:
                    wrong.update(
                        slot + at // ID_BYTES
                        for at in range(0, len(wanted), ID_BYTES)
                        if pages[start + at : start + at + ID_BYTES] != wanted[at : at + ID_BYTES]
                    )
            case RecordClaim(slot, key, record_id):
                if values is None:
                    values = values_of(content)
                if slot >= len(values) or ids.record_id(key, values[slot]) != record_id:
                    wrong.add(slot)
            case PieceClaim(piece_id, size_bytes):
                if len(content) != size_bytes or ids.piece_id(content) != piece_id:
                    wrong.add(0)
    return wrong
