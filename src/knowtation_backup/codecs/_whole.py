"""Formats that hold one message: the whole of it in memory, within a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ..contracts import ReadBlob

__all__ = ["PIECE_BYTES", "close", "collect", "pieces"]

PIECE_BYTES: Final = 1 << 20


def close(chunks: Iterable[bytes]) -> None:
    """Tell where chunks come from that no more are wanted."""
    end = getattr(chunks, "close", None)
    if end is not None:
        end()


def collect(read: ReadBlob, limit_bytes: int) -> bytearray | None:
    """Return everything that is read, `None` when it is more than *limit_bytes*; never holds more than that."""
    data = bytearray()
    chunks = read()
    try:
        for chunk in chunks:
            if len(data) + len(chunk) > limit_bytes:
                return None
            data += chunk
    finally:
        close(chunks)
    return data


def pieces(data: bytes | bytearray) -> Iterator[bytes]:
    """Yield *data* in pieces of at most 1 MiB."""
    view = memoryview(data)
    for start in range(0, len(view), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])
