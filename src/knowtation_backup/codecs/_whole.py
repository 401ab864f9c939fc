"""Formats that hold one message: the whole of it in memory, within a limit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .._engine.chunking import stopping

__all__ = ["PIECE_BYTES", "collect"]

PIECE_BYTES: Final = 1 << 20


def collect(chunks: Iterable[bytes], limit_bytes: int) -> bytearray | None:
    """Return all chunks as one, `None` when they are more than *limit_bytes*; never holds more than that."""
    data = bytearray()
    with stopping(chunks) as stream:
        for chunk in stream:
            if len(data) + len(chunk) > limit_bytes:
                return None
            data += chunk
    return data
