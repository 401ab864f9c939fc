"""
Isolation of messages: binds the memory of a running instance to the committed image of a canister's heap.

Two strategies with the same behaviour:

``mapped`` (Linux)
    The image is mapped privately over the instance's memory, so reads come from the image and writes go to private pages of
    the process. Rolling back drops the private pages (``MADV_DONTNEED``), committing finds them (``PAGEMAP_SCAN`` ioctl of
    Linux 6.7, else ``/proc/self/pagemap``), writes just them into the image and drops them. Costs follow the pages a
    message touched, never the size of the heap.
``copy`` (anywhere)
    The whole memory is written to the image on commit, and the whole image to memory on roll back.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Protocol

import attrs

from .images import MemoryImage

__all__ = ["CopiedHeap", "Heap", "HeapStatistics", "MappedHeap", "PageTables", "SavedPages", "mapping_supported"]

_MAP_FIXED = 0x10
_MAP_PRIVATE = 0x02
_MAP_NORESERVE = 0x4000
_MADV_DONTNEED = 4
_MADV_NOHUGEPAGE = 15
_COPY_CHUNK_BYTES = 4 << 20
_MANY_RANGES = 64

SavedPages = list[tuple[int, bytes]]
"""Offset and bytes of changed ranges, relative to the committed image."""


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
        """Bring memory of *size_bytes* into the image, which grows if needed; returns bytes of changed pages."""

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
        if size_bytes != old_size:
            self._image.resize(size_bytes)
        changed = 0
        for start in range(0, size_bytes, _COPY_CHUNK_BYTES):
            size = min(_COPY_CHUNK_BYTES, size_bytes - start)
            new = ctypes.string_at(self._address + start, size)
            old = self._image.read(start, size)
            if new == old:
                continue
            for offset in range(0, size, mmap.PAGESIZE):
                page = new[offset : offset + mmap.PAGESIZE]
                if page != old[offset : offset + mmap.PAGESIZE]:
                    self._image.write(start + offset, page)
                    changed += len(page)
        self._statistics.bytes_committed += changed
        return changed

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
            self._tables.advise(address, size_bytes, _MADV_NOHUGEPAGE)
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
        if size_bytes != self._image.size_bytes:
            self._image.resize(size_bytes)
        descriptor = self._image.fileno()
        changed = 0
        for start, end in ranges:
            self._tables.write(descriptor, start, end - start, start - address)
            changed += end - start
        if len(ranges) > _MANY_RANGES:
            self._tables.advise(address, self._mapped, _MADV_DONTNEED)
        else:
            mapped_end = address + self._mapped
            for start, end in ranges:
                if start < mapped_end:
                    self._tables.advise(start, min(end, mapped_end) - start, _MADV_DONTNEED)
        if size_bytes > self._mapped:
            self._map(size_bytes)
        self._statistics.bytes_committed += changed
        return changed

    def rollback(self, size_bytes: int) -> bool:
        """Drop private pages."""
        self._statistics.rollbacks += 1
        if size_bytes != self._mapped:
            return False
        if size_bytes:
            self._tables.advise(self._address, size_bytes, _MADV_DONTNEED)
        return True

    def _map(self, size_bytes: int) -> None:
        """Map ``[mapped, size_bytes)`` of the image."""
        if size_bytes > self._mapped:
            self._tables.map(self._address + self._mapped, size_bytes - self._mapped, self._image.fileno(), self._mapped)
            self._mapped = size_bytes


class _ScanArguments(ctypes.Structure):
    """``struct pm_scan_arg`` of ``linux/fs.h``."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    )


_PAGE_IS_FILE = 1 << 2
_PAGE_IS_PRESENT = 1 << 3
_PAGE_IS_SWAPPED = 1 << 4
_PAGE_IS_PFNZERO = 1 << 5
_PAGEMAP_SCAN = (3 << 30) | (ctypes.sizeof(_ScanArguments) << 16) | (ord("f") << 8) | 16
_REGIONS = 4096


class PageTables:
    """
    System calls on this process's own page tables (Linux). Used under the replica's execution lock.

    Args:
        scan: Use the ``PAGEMAP_SCAN`` ioctl; `None` asks the kernel once.
    """

    def __init__(self, *, scan: bool | None = None) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._mmap = libc.mmap
        self._mmap.restype = ctypes.c_void_p
        self._mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int64,
        ]
        self._madvise = libc.madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._pwrite = libc.pwrite64 if hasattr(libc, "pwrite64") else libc.pwrite
        self._pwrite.restype = ctypes.c_ssize_t
        self._pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
        self._ioctl = libc.ioctl
        self._ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
        self._file = open("/proc/self/pagemap", "rb", buffering=0)  # noqa: PTH123, SIM115 - lives as long as self
        self._regions = (ctypes.c_uint64 * (3 * _REGIONS))()
        self._arguments = _ScanArguments(
            size=ctypes.sizeof(_ScanArguments),
            vec=ctypes.addressof(self._regions),
            vec_len=_REGIONS,
            category_inverted=_PAGE_IS_FILE | _PAGE_IS_PFNZERO,
            category_mask=_PAGE_IS_FILE | _PAGE_IS_PFNZERO,
            category_anyof_mask=_PAGE_IS_PRESENT | _PAGE_IS_SWAPPED,
            return_mask=_PAGE_IS_PRESENT,
        )
        self._scan = self._has_scan() if scan is None else scan

    def close(self) -> None:
        """Close the file of page tables."""
        self._file.close()

    def map(self, address: int, size_bytes: int, descriptor: int, offset: int) -> None:
        """Map a file privately at a fixed address; nothing is reserved, so a big heap does not need big memory."""
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = _MAP_FIXED | _MAP_PRIVATE | _MAP_NORESERVE
        if self._mmap(address, size_bytes, protection, flags, descriptor, offset) != address:
            raise _os_error("mmap")

    def advise(self, address: int, size_bytes: int, advice: int) -> None:
        """Call ``madvise``; kernels built without huge pages refuse advice on them, which is as good."""
        if self._madvise(address, size_bytes, advice) != 0 and advice != _MADV_NOHUGEPAGE:
            raise _os_error("madvise")

    def write(self, descriptor: int, address: int, size_bytes: int, offset: int) -> None:
        """Write memory to a file without a copy in between."""
        while size_bytes:
            written = self._pwrite(descriptor, address, size_bytes, offset)
            if written <= 0:
                raise _os_error("pwrite")
            address += written
            offset += written
            size_bytes -= written

    def private_ranges(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return half-open address ranges of pages private to the process: those written since they were mapped."""
        if start >= end:
            return []
        return self._scanned(start, end) if self._scan else self._read(start, end)

    def _scanned(self, start: int, end: int) -> list[tuple[int, int]]:
        arguments, regions = self._arguments, self._regions
        pointer, descriptor = ctypes.addressof(arguments), self._file.fileno()
        found: list[tuple[int, int]] = []
        arguments.end = end
        while start < end:
            arguments.start = start
            arguments.walk_end = 0
            count = self._ioctl(descriptor, _PAGEMAP_SCAN, pointer)
            if count < 0:
                raise _os_error("PAGEMAP_SCAN")
            found += [(regions[3 * i], regions[3 * i + 1]) for i in range(count)]
            start = arguments.walk_end
        return found

    def _read(self, start: int, end: int) -> list[tuple[int, int]]:
        """Read ``/proc/self/pagemap``: 8 bytes per page; 63 present, 62 swapped, 61 file page or shared memory."""
        page_size = mmap.PAGESIZE
        found: list[tuple[int, int]] = []
        piece_pages = 1 << 16
        position, last = start // page_size, -(-end // page_size)
        while position < last:
            raw = os.pread(self._file.fileno(), min(piece_pages, last - position) * 8, position * 8)
            if raw.count(0) != len(raw):
                _merge(found, [position + i for i, entry in enumerate(_entries(raw)) if _is_private(entry)])
            position += len(raw) // 8
        return [(max(start, low * page_size), min(end, high * page_size)) for low, high in found]

    def _has_scan(self) -> bool:
        probe = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            self._arguments.start = self._arguments.end = 0
            return bool(self._ioctl(self._file.fileno(), _PAGEMAP_SCAN, ctypes.addressof(self._arguments)) >= 0)
        finally:
            probe.close()


def mapping_supported() -> bool:
    """Whether this system has what the mapped strategy needs."""
    return sys.platform == "linux" and mmap.PAGESIZE <= 65_536 and os.access("/proc/self/pagemap", os.R_OK)


def _entries(raw: bytes) -> Sequence[int]:
    return memoryview(raw).cast("Q")


def _is_private(entry: int) -> bool:
    return bool(entry >> 62) and not entry >> 61 & 1


def _merge(found: list[tuple[int, int]], pages: list[int]) -> None:
    for page in pages:
        if found and found[-1][1] == page:
            found[-1] = (found[-1][0], page + 1)
        else:
            found.append((page, page + 1))


def _os_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
