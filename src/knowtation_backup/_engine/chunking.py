"""Streams of bytes in other pieces than they came in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["joined"]


def joined(parts: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """Join small parts into chunks of at least *size_bytes* (the last may be smaller): what follows costs per call."""
    pending: list[bytes] = []
    size = 0
    for part in parts:
        pending.append(part)
        size += len(part)
        if size >= size_bytes:
            yield b"".join(pending)
            pending, size = [], 0
    if size:
        yield b"".join(pending)
