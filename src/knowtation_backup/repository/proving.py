"""
Proving one pack: it is what its name says, its frames open, and hold what is claimed of them.

The name is a SHA-256, which needs no key; the rest needs the repository's secrets.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

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
from .keys import ID_BYTES, WriterKey
from .layout import TENANT_PREFIX, pack_key
from .manifest import ObjectRef
from .opening import FrameReader, values_of
from .storing import MAX_OBJECT_BYTES
from .tables import FrameRef

Place: TypeAlias = tuple[int, bytes]
"""A place in a frame, and the id of what is said to lie there."""

__all__ = ["WRONG_BYTES", "BadPlaces", "PackProof", "prove_pack"]

WRONG_BYTES: Final = (IntegrityError, DecryptionError, UnsupportedFormatError, BlobNotFoundError)
"""Errors that say something of stored bytes; all others say that they could not be looked at."""
_ERASED: Final = "tenant_erased"


@attrs.define(eq=False)
class BadPlaces:
    """Where content cannot be read from."""

    packs: set[bytes] = attrs.field(factory=set)
    """Of which nothing can be read."""
    frames: dict[FrameRef, AbstractSet[Place] | None] = attrs.field(factory=dict)
    """What somebody says lies in a frame and does not; `None`: nothing of the frame can be read."""

    blamed: dict[FrameRef, str] = attrs.field(factory=dict)
    """Key of the object that is at fault, where that is another one than the pack: the key of a tenant."""

    @property
    def touched(self) -> set[bytes]:
        """Packs of which at least something cannot be read."""
        return self.packs | {frame.pack_id for frame in self.frames}

    def culprit(self, frame: FrameRef) -> str:
        """Return the key of the object because of which a frame cannot be read from."""
        return self.blamed.get(frame, pack_key(frame.pack_id))

    def of(self, frame: FrameRef, places: Iterable[Place]) -> list[int]:
        """Return those of the places of a frame, by their ids, that cannot be read from."""
        bad: AbstractSet[Place] | None = None
        if frame.pack_id not in self.packs:
            bad = self.frames.get(frame, frozenset())
        if bad is None:
            return [slot for slot, _ in places]
        return [place[0] for place in places if place in bad] if bad else []


@attrs.frozen(kw_only=True, eq=False)
class PackProof:
    """What became of proving one pack."""

    pack_id: bytes
    bytes_read: int
    error: BackupError | None = None
    """Why it is not what its name says; `None` when it is."""
    mismatch: BackupError | None = None
    """Why it does not hold what tables say although it is what its name says: they are wrong, or it always was."""
    blamed: Mapping[FrameRef, BackupError] = attrs.field(factory=dict)
    """Frames that the key of a tenant does not open because that is damaged; the context of each error has its key."""
    bad: Mapping[FrameRef, AbstractSet[Place] | None] | None = attrs.field(factory=dict)
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
    bad: dict[FrameRef, AbstractSet[Place] | None] = {}
    erased = 0
    mismatch: BackupError | None = None
    blamed: dict[FrameRef, BackupError] = {}
    unopened: NoMatchingKeyError | None = None
    for frame, wanted in claims.items():
        try:
            places = _wrong_places(frames.opened(frame, memoryview(stored)), wanted, ids)
        except WRONG_BYTES as error:
            if error.kind == _ERASED:
                erased += len(wanted)
            elif wrong is None and isinstance(error, NoMatchingKeyError):
                unopened = error
                break
            else:
                bad[frame] = None
                if str(error.context.get("key", "")).startswith(TENANT_PREFIX):
                    blamed[frame] = error
                else:
                    mismatch = mismatch or error
        else:
            if places:
                bad[frame] = places
                message = f"frame {frame.number} of {key} does not hold what tables say, at {len(places)} place(s)"
                mismatch = mismatch or IntegrityError(message, kind="content_changed", key=key)
    return PackProof(
        pack_id=pack.object_id,
        bytes_read=len(stored),
        error=wrong,
        mismatch=mismatch if wrong is None else None,
        blamed=blamed,
        bad=bad,
        erased=erased,
        unopened=unopened,
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


def _wrong_places(content: bytes, claims: Iterable[Claim], ids: WriterKey) -> set[Place]:
    """Return what is claimed of an opened frame and does not lie in it."""
    opened = _Opened(content, ids)
    wrong: set[Place] = set()
    for claim in claims:
        match claim:
            case PageClaim():
                wrong.update(opened.wrong_pages(claim))
            case RecordClaim(slot, _, record_id):
                if slot >= len(opened.values) or ids.record_id(opened.values[slot]) != record_id:
                    wrong.add((slot, record_id))
            case PieceClaim(piece_id, size_bytes):
                if len(content) != size_bytes or ids.piece_id(content) != piece_id:
                    wrong.add((0, piece_id))
    return wrong


class _Opened:
    """An opened frame as pages or as records, worked out once however many tables name it."""

    def __init__(self, content: bytes, ids: WriterKey) -> None:
        self._content = content
        self._ids = ids

    @functools.cached_property
    def page_ids(self) -> bytes:
        whole = len(self._content) - len(self._content) % PAGE_BYTES
        return b"".join(self._ids.page_ids(memoryview(self._content)[:whole]))

    @functools.cached_property
    def values(self) -> list[bytes]:
        return values_of(self._content)

    def wrong_pages(self, claim: PageClaim) -> Iterator[Place]:
        start = claim.slot * ID_BYTES
        if self.page_ids[start : start + len(claim.ids)] == claim.ids:
            return
        for at in range(0, len(claim.ids), ID_BYTES):
            page_id = claim.ids[at : at + ID_BYTES]
            if self.page_ids[start + at : start + at + ID_BYTES] != page_id:
                yield claim.slot + at // ID_BYTES, page_id
