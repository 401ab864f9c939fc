"""
SHA-256 of the files of a snapshot, computed by the threads that write them.

The parts of a file arrive in any order, and its digest needs them in one. Whoever has written a part looks whether it
is the next; if so, it hashes it while the bytes are still at hand, and then those that wait behind it, from the file.
So nobody waits for anybody, one part at a time is hashed in one call, and when the last part is written almost nothing
is left to do. (One thread that follows the others through the file is starved by them: it needs the interpreter for a
moment between any two calls, and they hold it.)
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import attrs

from ..errors import InternalError
from ..model.canisters import Slice, SnapshotPart, StoredChunk
from .layout import part_file

__all__ = ["FileDigests"]

Buffer = bytes | bytearray | memoryview


@attrs.define(eq=False)
class _Running:
    """One file, hashed up to a position."""

    hasher: Any = attrs.field(factory=hashlib.sha256)
    position: int = 0
    waiting: dict[int, Slice] = attrs.field(factory=dict)
    """Written but not hashed, by offset."""
    busy: bool = False
    scratch: bytearray = attrs.field(factory=bytearray)


class FileDigests:
    """
    Digests by the path of each file, as in ``SHA256SUMS``. Thread-safe.

    Args:
        read_into: Fills a buffer with a part that was added before; called by one thread at a time for each file. Not
            needed by those who add all parts with their bytes and in order.
    """

    def __init__(self, read_into: Callable[[Slice, memoryview], None] | None = None) -> None:
        self._read_into = read_into
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        self._noted: dict[str, str] = {}

    def add(self, part: SnapshotPart, data: Buffer | None = None) -> None:
        """Take in a part, each once, in any order; with its bytes, if they are at hand."""
        name = part_file(part)
        if isinstance(part, StoredChunk):
            self.note(name, part.sha256.hex())  # a file of its own, whose digest is its name
            return
        with self._lock:
            running = self._running.setdefault(name, _Running())
            running.waiting[part.offset] = part
            if running.busy:
                return  # whoever is at it takes this part, too
            running.busy = True
        try:
            while (following := self._next(running)) is not None:
                at_hand = data is not None and following is part
                running.hasher.update(data if at_hand else self._again(following, running))
                running.position += following.size_bytes
        except BaseException:
            running.busy = False
            raise

    def _again(self, part: Slice, running: _Running) -> memoryview:
        if self._read_into is None:
            raise InternalError(f"{part} came out of order")
        if len(running.scratch) < part.size_bytes:
            running.scratch = bytearray(part.size_bytes)
        room = memoryview(running.scratch)[: part.size_bytes]
        self._read_into(part, room)
        return room

    def _next(self, running: _Running) -> Slice | None:
        with self._lock:
            following = running.waiting.pop(running.position, None)
            running.busy = following is not None
            return following

    def note(self, name: str, digest: str) -> None:
        """Note the digest of a whole file."""
        with self._lock:
            self._noted[name] = digest

    def note_empty(self, name: str) -> None:
        """Note a file that is empty if nothing was added to it."""
        if name not in self._running:
            self.note(name, hashlib.sha256().hexdigest())

    def hexdigests(self) -> dict[str, str]:
        """Return the digests in the order of the names."""
        found = self._noted | {name: running.hasher.hexdigest() for name, running in self._running.items()}
        return {name: found[name] for name in sorted(found)}

    def as_text(self) -> str:
        """Return the lines of ``SHA256SUMS``."""
        return "".join(f"{digest}  {name}\n" for name, digest in self.hexdigests().items())
