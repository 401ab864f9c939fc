"""
Isolation of messages: binds the memory of a running instance to the committed image of a canister's heap.

Two strategies with the same behaviour:

``mapped`` (Linux)
    The image is mapped privately over the instance's memory, so reads come from the image and writes go to private
    pages of the process. Rolling back drops the private pages (``MADV_DONTNEED``), committing finds them
    (`page_tables`), writes just them into the image and drops them. Costs follow the pages a message touched, never
    the size of the heap.
``copy`` (anywhere)
    The whole memory is written to the image on commit, and the whole image to memory on roll back.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Protocol

import attrs

from ...errors import InternalError
from .images import MemoryImage
from .page_tables import MADV_DONTNEED, MADV_NOHUGEPAGE, PageTables

__all__ = ["CopiedHeap", "Heap", "HeapStatistics", "MappedHeap", "SavedPages", "TornImageError"]

_COPY_CHUNK_BYTES = 4 << 20
_MANY_RANGES = 64

SavedPages = list[tuple[int, bytes]]
"""Offset and bytes of changed ranges, relative to the committed image."""


class TornImageError(InternalError):
    """A commit broke off in the middle: the image holds neither the old nor the new memory."""

    default_kind = "sandbox_memory_torn"


@attrs.define
class HeapStatistics:
    """What isolation has cost so far; tests assert on it instead of on time."""

    bytes_committed: int = 0
    """Bytes written into images."""
    bytes_restored: int = 0
    """Bytes copied from images into memories."""
    rollbacks: int = 0


class Heap(Protocol):
    """One instance's memory and its committed image. Addresses and sizes in bytes."""

    def attach(self, address: int, size_bytes: int) -> None:
        """Make memory of *size_bytes* (at least the image's size) show the image; the rest stays as it is."""

    def changed_pages(self, size_bytes: int) -> SavedPages:
        """Return what differs from the image, as copies."""

    def commit(self, size_bytes: int) -> int:
        """
        Bring memory of *size_bytes* into the image, which grows if needed; returns bytes of changed pages.

        Raises:
            OSError: There is no room. The image is as before; memory must be rolled back.
            TornImageError: A write failed although room was reserved for it (a limit on file sizes, failing swap).
        """

    def rollback(self, size_bytes: int) -> bool:
        """Bring the image back into memory; `False` when memory has grown: throw the instance away."""


class CopiedHeap:
    """The portable strategy."""

    def __init__(self, image: MemoryImage, statistics: HeapStatistics) -> None:
        self._image = image
        self._statistics = statistics
        self._address = 0

    def attach(self, address: int, size_bytes: int) -> None:  # noqa: ARG002 - protocol
        """Copy the image into memory."""
        self._address = address
        self._restore()

    def changed_pages(self, size_bytes: int) -> SavedPages:
        """Return the whole memory."""
        return [(0, ctypes.string_at(self._address, size_bytes))]

    def commit(self, size_bytes: int) -> int:
        """Copy the whole memory into the image; the count covers pages that really differ."""
        old_size = self._image.size_bytes
        undo: SavedPages = []
        try:
            self._write_changes(size_bytes, undo)
        except OSError:
            for offset, page in undo:
                if self._image.read(offset, len(page)) != page:  # a hole that could not be filled is one still
                    self._image.write(offset, page)
            self._image.resize(old_size)
            raise
        changed = sum(len(page) for _, page in undo)
        self._statistics.bytes_committed += changed
        return changed

    def _write_changes(self, size_bytes: int, undo: SavedPages) -> None:
        """Write the pages that differ; what they replace goes to *undo* first."""
        if size_bytes != self._image.size_bytes:
            self._image.resize(size_bytes)
        for start in range(0, size_bytes, _COPY_CHUNK_BYTES):
            size = min(_COPY_CHUNK_BYTES, size_bytes - start)
            new = ctypes.string_at(self._address + start, size)
            old = self._image.read(start, size)
            if new == old:
                continue
            for offset in range(0, size, mmap.PAGESIZE):
                page, before = new[offset : offset + mmap.PAGESIZE], old[offset : offset + mmap.PAGESIZE]
                if page != before:
                    undo.append((start + offset, before))
                    self._image.write(start + offset, page)

    def rollback(self, size_bytes: int) -> bool:
        """Copy the whole image into memory."""
        self._statistics.rollbacks += 1
        if size_bytes != self._image.size_bytes:
            return False
        self._restore()
        return True

    def _restore(self) -> None:
        for start in range(0, self._image.size_bytes, _COPY_CHUNK_BYTES):
            data = self._image.read(start, min(_COPY_CHUNK_BYTES, self._image.size_bytes - start))
            ctypes.memmove(self._address + start, data, len(data))
        self._statistics.bytes_restored += self._image.size_bytes


class MappedHeap:
    """The Linux strategy; see the module documentation."""

    def __init__(self, image: MemoryImage, statistics: HeapStatistics, tables: PageTables) -> None:
        self._image = image
        self._statistics = statistics
        self._tables = tables
        self._address = 0
        self._mapped = 0

    def attach(self, address: int, size_bytes: int) -> None:
        """Map the image over the front of the memory."""
        self._address = address
        self._mapped = 0
        if size_bytes:
            # Huge pages would make two megabytes "changed" where a message wrote one byte into a grown memory.
            self._tables.advise(address, size_bytes, MADV_NOHUGEPAGE)
        self._map(self._image.size_bytes)

    def changed_pages(self, size_bytes: int) -> SavedPages:
        """Return the private pages."""
        return [
            (start - self._address, ctypes.string_at(start, end - start))
            for start, end in self._tables.private_ranges(self._address, self._address + size_bytes)
        ]

    def commit(self, size_bytes: int) -> int:
        """Write private pages into the image and drop them; map what has grown."""
        address = self._address
        ranges = self._tables.private_ranges(address, address + size_bytes)
        self._make_room(size_bytes, ranges)
        descriptor = self._image.fileno()
        changed = 0
        try:
            for start, end in ranges:
                self._tables.write(descriptor, start, end - start, start - address)
                changed += end - start
        except OSError as error:
            message = f"{changed} bytes of a message's changes were written to the canister's memory, then: {error}"
            raise TornImageError(message) from error
        if len(ranges) > _MANY_RANGES:
            self._tables.advise(address, self._mapped, MADV_DONTNEED)
        else:
            mapped_end = address + self._mapped
            for start, end in ranges:
                if start < mapped_end:
                    self._tables.advise(start, min(end, mapped_end) - start, MADV_DONTNEED)
        # Where mapping fails, the grown part stays private memory with the committed bytes, and the next roll back
        # throws the instance away: the image is complete, so nothing is lost.
        with contextlib.suppress(OSError):
            self._map(size_bytes)
        self._statistics.bytes_committed += changed
        return changed

    def _make_room(self, size_bytes: int, ranges: list[tuple[int, int]]) -> None:
        """Give the image its new size and reserve all that will be written: the writes themselves then cannot fail."""
        old_size = self._image.size_bytes
        try:
            if size_bytes != old_size:
                self._image.resize(size_bytes)
            for start, end in ranges:
                self._image.reserve(start - self._address, end - start)
        except OSError:
            self._image.resize(old_size)
            raise

    def rollback(self, size_bytes: int) -> bool:
        """Drop private pages."""
        self._statistics.rollbacks += 1
        if size_bytes != self._mapped:
            return False
        if size_bytes:
            self._tables.advise(self._address, size_bytes, MADV_DONTNEED)
        return True

    def _map(self, size_bytes: int) -> None:
        """Map ``[mapped, size_bytes)`` of the image."""
        if size_bytes > self._mapped:
            self._tables.map(
                self._address + self._mapped, size_bytes - self._mapped, self._image.fileno(), self._mapped
            )
            self._mapped = size_bytes
