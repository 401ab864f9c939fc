"""Sparse byte images that live in a file descriptor: the committed heaps and stable memories of canisters."""

from __future__ import annotations

import errno
import mmap
import os
import pathlib
import tempfile
import weakref
from collections.abc import Iterator
from typing import Self

__all__ = ["MemoryImage"]

_COPY_CHUNK_BYTES = 8 << 20
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("knowtation-image", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


class MemoryImage:
    """
    A resizable byte array behind a file descriptor; ranges never written are holes and cost nothing.

    On Linux the bytes live in memory (`memfd_create`), elsewhere in an unlinked temporary file. The descriptor can be
    mapped privately, which is how running canisters see their heap without copying it. Not synchronised: callers hold
    the replica's execution lock. Closing twice is harmless; an image that is dropped closes itself.

    Args:
        size_bytes: Initial size; all zero.
    """

    def __init__(self, size_bytes: int = 0) -> None:
        self._descriptor = _anonymous_file()
        self._finalizer = weakref.finalize(self, os.close, self._descriptor)
        self._size_bytes = 0
        self._mapping: mmap.mmap | None = None
        self.resize(size_bytes)

    @property
    def size_bytes(self) -> int:
        """Size of the image, holes included."""
        return self._size_bytes

    def fileno(self) -> int:
        """Return the descriptor; it stays the image's own."""
        return self._descriptor

    def read(self, offset: int, size: int) -> bytes:
        """
        Return *size* bytes from *offset*; one copy for sizes below 2 GiB.

        Raises:
            ValueError: The range is not inside the image.
        """
        self._check_range(offset, size)
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size:
            return data
        parts = [data]
        done = len(data)
        while done < size:
            parts.append(os.pread(self._descriptor, size - done, offset + done))
            if not parts[-1]:
                message = f"image of {self._size_bytes} bytes ended at {offset + done}: was it truncated from outside?"
                raise OSError(message)
            done += len(parts[-1])
        return b"".join(parts)

    def view(self, offset: int, size: int) -> memoryview:
        """
        Return *size* bytes from *offset* as a view of the image itself, for large answers that are made of it at once.

        It shows what is written later, and must not be used any more when the image has been cut.

        Raises:
            ValueError: The range is not inside the image.
        """
        self._check_range(offset, size)
        if not size:
            return memoryview(b"")
        if self._mapping is None:
            self._mapping = mmap.mmap(self._descriptor, self._size_bytes, access=mmap.ACCESS_READ)
        return memoryview(self._mapping)[offset : offset + size]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """
        Overwrite bytes from *offset*; the image does not grow.

        Raises:
            ValueError: The range is not inside the image.
        """
        view = memoryview(data).cast("B")
        self._check_range(offset, len(view))
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written

    def reserve(self, offset: int, size: int) -> None:
        """
        Find room for a range, so that writing it cannot fail for want of space; its bytes stay as they are.

        Systems that cannot reserve (macOS) do nothing.

        Raises:
            ValueError: The range is not inside the image.
            OSError: There is no room. Nothing has changed but that holes may have become zeros.
        """
        self._check_range(offset, size)
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, offset, size)

    def resize(self, size_bytes: int) -> None:
        """Cut the image, or grow it with zeros."""
        self._mapping = None  # views that are left keep it
        os.ftruncate(self._descriptor, size_bytes)
        self._size_bytes = size_bytes

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield half-open ``(start, end)`` ranges that may hold non-zero bytes, ascending; the rest is zero."""
        yield from _extents(self._descriptor, self._size_bytes)

    def copy(self) -> MemoryImage:
        """Return an independent image with the same bytes; holes stay holes."""
        twin = MemoryImage(self._size_bytes)
        for start, end in self.extents():
            _copy_range(self._descriptor, twin._descriptor, start, end)
        return twin

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the image to a new or overwritten file, holes kept; not synchronised to the device."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, self._size_bytes)
            for start, end in self.extents():
                _copy_range(self._descriptor, descriptor, start, end)
        finally:
            os.close(descriptor)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return an image with the bytes of a file; later changes of either do not show in the other."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size_bytes = pathlib.Path(path).stat().st_size
            image = cls(size_bytes)
            for start, end in _extents(descriptor, size_bytes):
                _copy_range(descriptor, image.fileno(), start, end)
        finally:
            os.close(descriptor)
        return image

    def close(self) -> None:
        """Give the memory back; existing mappings of the image stay readable."""
        self._mapping = None
        self._finalizer()

    def _check_range(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self._size_bytes:
            message = f"range {offset}..{offset + size} lies outside an image of {self._size_bytes} bytes"
            raise ValueError(message)


def _extents(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield data ranges; file systems without hole support report one range for everything."""
    if not hasattr(os, "SEEK_DATA"):
        if size_bytes:
            yield 0, size_bytes
        return
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size_bytes)
        if start >= size_bytes:
            return
        yield start, end
        position = end


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """Copy inside the kernel where that is possible, else through a buffer."""
    while start < end:
        try:
            copied = os.copy_file_range(source, target, end - start, start, start)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_COPY_RANGE:
                raise
            break
        if copied == 0:
            break
        start += copied
    while start < end:
        piece = os.pread(source, min(_COPY_CHUNK_BYTES, end - start), start)
        if not piece:
            message = f"file ended at {start}, expected {end} bytes"
            raise OSError(message)
        view = memoryview(piece)
        while view:
            written = os.pwrite(target, view, start)
            view = view[written:]
            start += written
