"""Stable memory of a canister with an undo log, so that one message's writes can be taken back."""

from __future__ import annotations

from ..state import WASM_PAGE_SIZE
from .images import MemoryImage

__all__ = ["MAX_STABLE_PAGES", "WASM_PAGE_SIZE", "StableMemory"]

PAGE_SIZE = 4096
MAX_STABLE_PAGES = (500 << 30) // WASM_PAGE_SIZE
_ZEROS = bytes(PAGE_SIZE)


class StableMemory:
    """
    A transaction on a stable memory image: writes go to the image at once, old 4 KiB pages are remembered.

    Memory use follows the pages overwritten since the last `commit`; pages beyond the committed size cost nothing.

    Args:
        image: Changed in place, unless *private*.
        private: Work on a copy, made when something is written for the first time; `close` frees it.
    """

    def __init__(self, image: MemoryImage, *, private: bool = False) -> None:
        self.image: MemoryImage = image
        self._shared = private
        self._owned = False
        self._committed_size = image.size_bytes
        self._undo: dict[int, bytes] = {}
        self._written_bytes = 0

    @property
    def size_pages(self) -> int:
        """Present size in Wasm pages."""
        return self.image.size_bytes // WASM_PAGE_SIZE

    def grow(self, pages: int) -> int:
        """Grow by Wasm pages; returns the old size in pages, -1 where the network's limit or the machine's is met."""
        old = self.size_pages
        if old + pages > MAX_STABLE_PAGES:
            return -1
        try:
            if pages:
                self._make_writable()
                self.image.resize((old + pages) * WASM_PAGE_SIZE)
        except OSError:
            return -1
        return old

    def write(self, offset: int, data: bytes) -> None:
        """
        Write inside the present size (the caller checks it).

        Raises:
            OSError: There is no room; nothing was written.
        """
        if not data:
            return
        self._make_writable()
        # Before anything is noted for undoing: taking back must never need room that is not there.
        self.image.reserve(offset, len(data))
        end = min(offset + len(data), self._committed_size)
        undo = self._undo
        for page in range(offset // PAGE_SIZE, -(-end // PAGE_SIZE)):
            if page not in undo:
                old = self.image.read(page * PAGE_SIZE, PAGE_SIZE)
                undo[page] = _ZEROS if old == _ZEROS else old
        self.image.write(offset, data)
        self._written_bytes += len(data)

    def commit(self) -> int:
        """Keep what was written; returns the number of bytes written since the last commit or rollback."""
        written, self._written_bytes = self._written_bytes, 0
        self._undo.clear()
        self._committed_size = self.image.size_bytes
        return written

    def rollback(self) -> None:
        """Put size and bytes of the last commit back."""
        if self.image.size_bytes != self._committed_size:
            self.image.resize(self._committed_size)
        for page, old in self._undo.items():
            self.image.write(page * PAGE_SIZE, old)
        self._undo.clear()
        self._written_bytes = 0

    def close(self) -> None:
        """Free the private copy, if one was made."""
        if self._owned:
            self.image.close()

    def _make_writable(self) -> None:
        if self._shared:
            self.image = self.image.copy()
            self._shared, self._owned = False, True
