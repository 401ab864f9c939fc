"""Streams of bytes in other pieces than they came in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

__all__ = ["even", "joined", "stopping"]


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


def even(parts: Iterable[bytes | memoryview], size_bytes: int) -> Iterator[bytes]:
    """Cut a stream into pieces of exactly *size_bytes*, however its parts fall; the last may be smaller."""
    pending: list[bytes | memoryview] = []
    missing = size_bytes
    for part in parts:
        if missing == size_bytes == len(part) and isinstance(part, bytes):
            yield part  # as it is, not a copy
            continue
        rest = memoryview(part)
        while len(rest) >= missing:
            pending.append(rest[:missing])
            rest = rest[missing:]
            yield b"".join(pending)
            pending, missing = [], size_bytes
        if rest:
            pending.append(rest)
            missing -= len(rest)
    if pending:
        yield b"".join(pending)


@contextlib.contextmanager
def stopping(chunks: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """Iterate *chunks* and tell their source at the end that no more are wanted, if it can be told."""
    stream = iter(chunks)
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
