"""
Names in a downloaded snapshot directory, and how a name is opened safely.

===================================  =================================================================
``metadata.json``                    see `metadata`
``wasm_module.bin``                  exactly the declared size
``wasm_memory.bin``                  same; not there when the size is 0
``stable_memory.bin``                same; when the size is 0 empty (icp) or not there (dfx)
``wasm_chunk_store/<64 hex>.bin``    one per chunk, named by its SHA-256; dfx makes no empty directory
===================================  =================================================================

Other files are nobody's business: locks, upload progress, what people add.

Source:
    internet-computer reference, E.1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from ..model.canisters import SectionName, SnapshotMetadata, SnapshotPart, StoredChunk

__all__ = [
    "CHUNK_STORE",
    "DIGESTS_FILE",
    "ICP_DOWNLOAD_PROGRESS",
    "METADATA_NAME",
    "PIECE_BYTES",
    "chunk_name",
    "open_read_only",
    "part_file",
    "pread_exactly",
    "pwrite_all",
    "section_file",
    "section_files",
]

METADATA_NAME: Final = "metadata.json"
DIGESTS_FILE: Final = "SHA256SUMS"
"""Beside the data of our own downloads: checked with ``sha256sum --check SHA256SUMS`` anywhere."""
CHUNK_STORE: Final = "wasm_chunk_store"
ICP_DOWNLOAD_PROGRESS: Final = ".download_progress.json"
"""There while ``icp`` downloads, and after it failed: files then have their full length and hold zeros."""
PIECE_BYTES: Final = 1 << 18
"""Bytes per write at most: for larger ones some kernels look for contiguous memory, at ten times the cost."""

_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def section_file(section: SectionName) -> str:
    """Return the name of a section's file."""
    return f"{section.value}.bin"


def chunk_name(sha256: bytes) -> str:
    """Return the name of a chunk's file, without its directory."""
    return f"{sha256.hex()}.bin"


def part_file(part: SnapshotPart) -> str:
    """Return the path, below the snapshot directory, of the file a part is in."""
    if isinstance(part, StoredChunk):
        return f"{CHUNK_STORE}/{chunk_name(part.sha256)}"
    return section_file(part.section)


def section_files(metadata: SnapshotMetadata) -> Iterator[tuple[SectionName, str, int, bool]]:
    """Yield section, name of its file, size, and whether ``icp`` writes the file although it is empty."""
    for section in SectionName:
        size = metadata.section_size(section)
        yield section, section_file(section), size, size > 0 or section is not SectionName.WASM_MEMORY


def open_read_only(name: str, directory_fd: int) -> int:
    """
    Return a descriptor of a file; symbolic links are refused, and named pipes do not make us wait.

    Raises:
        OSError: As the operating system says.
    """
    return os.open(name, _READ_FLAGS, dir_fd=directory_fd)


def pread_exactly(file_fd: int, size: int, offset: int) -> bytes:
    """
    Return up to *size* bytes, fewer only where the file ends.

    Raises:
        OSError: As the operating system says.
    """
    data = os.pread(file_fd, size, offset)
    if len(data) == size:
        return data
    pieces = [data]
    found = len(data)
    while data and found < size:
        data = os.pread(file_fd, size - found, offset + found)
        pieces.append(data)
        found += len(data)
    return b"".join(pieces)


def pwrite_all(file_fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """
    Write everything at *offset*, in pieces.

    Raises:
        OSError: As the operating system says.
    """
    with memoryview(data) as view, view.cast("B") as octets:
        done = 0
        while done < len(octets):
            done += os.pwrite(file_fd, octets[done : done + PIECE_BYTES], offset + done)
