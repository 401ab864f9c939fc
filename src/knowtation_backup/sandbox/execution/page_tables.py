"""
System calls on this process's own page tables (Linux): private file mappings, and which of their pages were written.

Written pages of a private mapping are anonymous memory of the process; the untouched ones still belong to the file. The
``PAGEMAP_SCAN`` ioctl (Linux 6.7) lists them by range; before, ``/proc/self/pagemap`` has eight bytes for every page.
Source: ``Documentation/admin-guide/mm/pagemap.rst`` of the kernel.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence

__all__ = ["MADV_DONTNEED", "MADV_NOHUGEPAGE", "PageTables", "mapping_supported"]

MADV_DONTNEED = 4
MADV_NOHUGEPAGE = 15
_MAP_FIXED = 0x10
_MAP_PRIVATE = 0x02
_MAP_NORESERVE = 0x4000


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
        if self._madvise(address, size_bytes, advice) != 0 and advice != MADV_NOHUGEPAGE:
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
            count = self._ioctl(descriptor, _PAGEMAP_SCAN, pointer)
            if count < 0:
                raise _os_error("PAGEMAP_SCAN")
            found += [(regions[3 * i], regions[3 * i + 1]) for i in range(count)]
            # Not by walk_end: kernels (6.18 at least) leave an early value there when there are more than 512 regions.
            start = found[-1][1] if count == _REGIONS else end
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
        page = ctypes.addressof(self._regions) & -mmap.PAGESIZE  # any page that certainly exists
        self._arguments.start, self._arguments.end = page, page + mmap.PAGESIZE
        return bool(self._ioctl(self._file.fileno(), _PAGEMAP_SCAN, ctypes.addressof(self._arguments)) >= 0)


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
