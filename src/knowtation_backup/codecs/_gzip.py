"""
gzip: one member, compressed by several threads; any members read (RFC 1952).

The way of pigz: every piece is deflated by itself with the last 32 KiB before it as dictionary and ends on a byte
boundary, so the pieces joined are one deflate stream, as long as one thread's to within a thousandth.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from .._engine.ahead import map_ahead
from .._engine.chunking import even
from ._streams import beginning_with, cut, damaged

__all__ = ["MAGIC", "expand", "filler", "pack"]

MAGIC: Final = b"\x1f\x8b"

_HEADER: Final = MAGIC + b"\x08\x00" + bytes(4) + b"\x00\xff"  # deflate, no flags, no time, unknown system
_PIECE_BYTES: Final = 1 << 20
_WINDOW_BYTES: Final = 1 << 15
_EMPTY_BLOCK: Final = b"\x00\x00\x00\xff\xff"
_LAST_BLOCK: Final = b"\x03\x00"
_STEP_BYTES: Final = 256 << 10
_RAW: Final = -15
_GZIP: Final = 31


def pack(chunks: Iterable[bytes], *, level: int, workers: int) -> Iterator[tuple[int, bytes]]:
    """Yield stored parts, each with the number of plain bytes it stands for."""
    checksum = size = 0

    def pieces() -> Iterator[tuple[bytes, bytes]]:
        nonlocal checksum, size
        before = b""
        for piece in even(chunks, _PIECE_BYTES):
            checksum = zlib.crc32(piece, checksum)
            size += len(piece)
            yield before, piece
            before = piece[-_WINDOW_BYTES:]

    def deflated(item: tuple[bytes, bytes]) -> tuple[int, bytes]:
        before, piece = item
        stream = (
            zlib.compressobj(level, zlib.DEFLATED, _RAW, zdict=before)
            if before
            else zlib.compressobj(level, zlib.DEFLATED, _RAW)
        )
        return len(piece), stream.compress(piece) + stream.flush(zlib.Z_SYNC_FLUSH)

    yield 0, _HEADER
    yield from map_ahead(deflated, pieces(), workers=workers)
    yield 0, _LAST_BLOCK + checksum.to_bytes(4, "little") + (size % (1 << 32)).to_bytes(4, "little")


def filler(size_bytes: int) -> bytes:
    """Return at least *size_bytes* that stand for nothing, to go between parts."""
    return _EMPTY_BLOCK * -(-size_bytes // len(_EMPTY_BLOCK))


def expand(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the plain bytes of all members; NUL bytes between and behind them are passed over, as gzip does."""
    member = zlib.decompressobj(wbits=_GZIP)
    begun = False  # whether the current member has taken a byte yet
    members = 0
    for chunk in beginning_with(MAGIC, "gzip", chunks):
        data = chunk
        while data:
            if not begun and members:
                data = data.lstrip(b"\x00")
                if not data:
                    break
            try:
                part = member.decompress(data, _STEP_BYTES)
            except zlib.error as error:
                raise damaged("gzip", error) from error
            begun = True
            if part:
                yield part
            data = member.unconsumed_tail
            if member.eof:
                data = member.unused_data
                member = zlib.decompressobj(wbits=_GZIP)
                begun = False
                members += 1
    if begun or not members:
        raise cut("gzip")
