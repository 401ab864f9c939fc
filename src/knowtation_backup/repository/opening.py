"""Opening frames of packs: fetched in runs, opened side by side, handed out in the order they are wanted."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from .._engine.ahead import map_ahead
from ..contracts import ArchiveSink
from ..errors import ErasedTenantError, IntegrityError, TruncatedError
from .frames import HEAD_LIMIT_BYTES, FileHead, FileKind, parse_head
from .keys import ReadKeys
from .layout import pack_key
from .tables import FrameRef
from .tenants import TenantOpener

__all__ = ["FrameReader", "FrameSupply", "fetch_groups", "values_of"]

_FETCH_BYTES: Final = 2 << 20
"""Frames that lie one after another are fetched together, up to so many bytes."""
_FETCH_FRAMES: Final = 6
"""Same: what compresses well takes more memory once it is opened."""
_GAP_BYTES: Final = 256 << 10
"""Bytes nobody wants that are read rather than asking the store once more."""
_WINDOW_FRAMES: Final = 24
_CACHED_BYTES: Final = 32 << 20
"""More than the frames of a window hold."""


_HEADS: Final = 256
"""Kept at most, each of 5 kB; images with a long history alternate between fewer packs."""


class FrameReader:
    """
    Opens frames of packs. Thread-safe.

    Args:
        sink: Where the packs are.
        keys: What opens them.
        tenant_sink: Where keys of tenants are; `None`: with the packs.
    """

    def __init__(self, sink: ArchiveSink, keys: ReadKeys, *, tenant_sink: ArchiveSink | None = None) -> None:
        self._sink = sink
        self._keys = keys
        self._tenants = TenantOpener(tenant_sink or sink, keys)
        self._lock = threading.Lock()
        self._heads: OrderedDict[bytes, FileHead] = OrderedDict()

    def head(self, pack_id: bytes, beginning: bytes | None = None) -> FileHead:
        """Return the head of a pack, from its *beginning* if that was read already."""
        with self._lock:
            found = self._heads.get(pack_id)
        if found is None:
            if beginning is None:
                key = pack_key(pack_id)
                beginning = b"".join(self._sink.read(key, start=0, size_bytes=HEAD_LIMIT_BYTES))
            found = parse_head(FileKind.PACK, beginning, self._keys)
            with self._lock:
                self._heads[pack_id] = found
                while len(self._heads) > _HEADS:
                    self._heads.popitem(last=False)
        return found

    def contents(self, frames: Sequence[FrameRef]) -> list[bytes | ErasedTenantError]:
        """
        Return the contents of frames of one pack, in ascending order of their offsets, with one request.

        Of a frame that is sealed to an erased tenant, the error is returned that opening it gives.

        Raises:
            BlobNotFoundError: The pack is not there.
            TruncatedError: It ends early.
            IntegrityError: It is damaged; `TamperedError`: a frame does not open.
        """
        first, last = frames[0], frames[-1]
        start = 0 if first.offset <= HEAD_LIMIT_BYTES else first.offset
        size = last.offset + last.length - start
        data = memoryview(b"".join(self._sink.read(pack_key(first.pack_id), start=start, size_bytes=size)))
        if len(data) != size:
            message = f"pack {first.pack_id.hex()} ends at byte {start + len(data)}, before a frame it should hold"
            raise TruncatedError(message, kind="truncated", hint="repair it from a replica")
        head = self.head(first.pack_id, bytes(data[:HEAD_LIMIT_BYTES]) if start == 0 else None)
        found: list[bytes | ErasedTenantError] = []
        for frame in frames:
            at = frame.offset - start
            try:
                found.append(self._opened(head, frame, data[at : at + frame.length]))
            except ErasedTenantError as error:
                found.append(error)
        return found

    def opened(self, frame: FrameRef, pack: memoryview) -> bytes:
        """Return the content of a frame of a pack that was read whole; raises as `contents`, or `ErasedTenantError`."""
        end = frame.offset + frame.length
        if end > len(pack):
            message = f"pack {frame.pack_id.hex()} ends at byte {len(pack)}, before a frame it should hold"
            raise TruncatedError(message, kind="truncated", hint="repair it from a replica")
        return self._opened(self.head(frame.pack_id, bytes(pack[:HEAD_LIMIT_BYTES])), frame, pack[frame.offset : end])

    def _opened(self, head: FileHead, frame: FrameRef, stored: memoryview) -> bytes:
        if int.from_bytes(stored[:4], "big") != frame.length - 4:
            message = f"pack {frame.pack_id.hex()} has no frame of {frame.length} bytes at {frame.offset}"
            raise IntegrityError(message, kind="bad_object", hint="repair it from a replica")
        return self._tenants.content_of(head.open(frame.number, stored[4:]), head)


def fetch_groups(frames: Iterable[FrameRef]) -> Iterator[list[FrameRef]]:
    """
    Yield frames that one request reads together: near each other in a pack, and wanted at about the same time.

    Images that have a history take their pages from several packs in turn: so a window of frames is looked at, and what
    lies together in it is fetched together.
    """
    waiting = iter(frames)
    while window := list(islice(waiting, _WINDOW_FRAMES)):
        packs: dict[bytes, list[FrameRef]] = {}
        for frame in window:
            packs.setdefault(frame.pack_id, []).append(frame)
        for together in packs.values():
            yield from _neighbours(sorted(together, key=lambda frame: frame.offset))


def _neighbours(frames: Iterable[FrameRef]) -> Iterator[list[FrameRef]]:
    group: list[FrameRef] = []
    for frame in frames:
        if group:
            gap = frame.offset - group[-1].offset - group[-1].length
            size = frame.offset + frame.length - group[0].offset
            if gap > _GAP_BYTES or size > _FETCH_BYTES or len(group) == _FETCH_FRAMES:
                yield group
                group = []
        group.append(frame)
    if group:
        yield group


class FrameSupply:
    """
    Contents of frames, opened ahead, kept until their last use while there is room, read again when not.

    Args:
        reader: Opens them.
        order: A frame for every use of it, in the order of uses.
        workers: Threads.
        check: Also called by whoever opens a frame; says whether it is what was backed up.
    """

    def __init__(
        self,
        reader: FrameReader,
        order: Sequence[FrameRef],
        *,
        workers: int,
        check: Callable[[FrameRef, bytes], None] | None = None,
    ) -> None:
        self._reader = reader
        self._check = check
        self._uses = Counter(order)
        self._opened = map_ahead(self._open, fetch_groups(self._uses), workers=workers)
        self._kept: OrderedDict[FrameRef, bytes | ErasedTenantError] = OrderedDict()
        self._kept_bytes = 0
        self._seen: set[FrameRef] = set()
        """Frames that were opened ahead: those not kept any more are read again, all others are still to come."""

    def _open(self, group: list[FrameRef]) -> list[tuple[FrameRef, bytes | ErasedTenantError]]:
        found = list(zip(group, self._reader.contents(group), strict=True))
        if self._check is not None:
            for frame, content in found:
                if isinstance(content, bytes):
                    self._check(frame, content)
        return found

    def get(self, frame: FrameRef) -> bytes:
        """Return the content of a frame, for one use; raises as opening it does, or as *check* does."""
        found = self._find(frame)
        self._uses[frame] -= 1
        if self._uses[frame] <= 0 and frame in self._kept:
            self._kept_bytes -= _size(self._kept.pop(frame))
        if isinstance(found, ErasedTenantError):
            raise found
        return found

    def _find(self, frame: FrameRef) -> bytes | ErasedTenantError:
        found = self._kept.get(frame)
        if found is not None:
            self._kept.move_to_end(frame)
            return found
        for opened in self._opened if frame not in self._seen else ():
            for ref, content in opened:
                self._seen.add(ref)
                self._keep(ref, content)
            found = self._kept.get(frame)
            if found is not None:
                return found
        ((_, content),) = self._open([frame])
        self._keep(frame, content)
        return content

    def _keep(self, frame: FrameRef, content: bytes | ErasedTenantError) -> None:
        self._kept[frame] = content
        self._kept_bytes += _size(content)
        while self._kept_bytes > _CACHED_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= _size(dropped)

    def close(self) -> None:
        """End all threads."""
        self._opened.close()


def _size(content: bytes | ErasedTenantError) -> int:
    return len(content) if isinstance(content, bytes) else 0


def values_of(content: bytes) -> list[bytes]:
    """
    Return the values of a frame of records.

    Raises:
        IntegrityError: The frame contradicts itself.
    """
    count = int.from_bytes(content[:4], "little")
    at = 4 + 4 * count
    if at > len(content):
        raise IntegrityError("a frame of records is too short", kind="bad_object")
    values: list[bytes] = []
    for number in range(count):
        size = int.from_bytes(content[4 + 4 * number : 8 + 4 * number], "little")
        values.append(content[at : at + size])
        at += size
    if at != len(content):
        raise IntegrityError("a frame of records has another length than it says", kind="bad_object")
    return values
