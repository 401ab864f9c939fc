"""
xz: a stream per piece, compressed by several threads; any streams read (the .xz file format, version 1.1).

Joined streams are one file to every xz tool. The checksum is CRC-64, as the xz program's.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator
from typing import Final

from .._engine.ahead import map_ahead
from .._engine.chunking import even
from ._streams import beginning_with, cut, damaged

__all__ = ["MAGIC", "MAX_MEMORY_BYTES", "expand", "filler", "pack"]

MAGIC: Final = b"\xfd7zXZ\x00"
MAX_MEMORY_BYTES: Final = (128 << 20) + (1 << 20)
"""For one decoder: a dictionary of 128 MiB, twice what the program's level 9 needs."""

_PIECE_BYTES: Final = 16 << 20
_DICTIONARY_BYTES: Final = {level: 1 << min(24, 19 + step) for level, step in enumerate((0, 1, 2, 3, 3, 4, 4, 5, 6, 7))}
_STEP_BYTES: Final = 256 << 10
_EMPTY: Final = lzma.compress(b"", check=lzma.CHECK_CRC64)


def pack(chunks: Iterable[bytes], *, level: int, workers: int) -> Iterator[tuple[int, bytes]]:
    """Yield stored parts, each with the number of plain bytes it stands for."""
    # The levels' own dictionaries, but none larger than what there is to compress: it would only need memory.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": level, "dict_size": _DICTIONARY_BYTES[level]}]

    def stream(piece: bytes) -> tuple[int, bytes]:
        return len(piece), lzma.compress(piece, check=lzma.CHECK_CRC64, filters=filters)

    anything = False
    for result in map_ahead(stream, even(chunks, _PIECE_BYTES), workers=workers):
        anything = True
        yield result
    if not anything:
        yield 0, _EMPTY


def filler(size_bytes: int) -> bytes:
    """Return at least *size_bytes* that stand for nothing; empty streams, since few readers know stream padding."""
    return _EMPTY * -(-size_bytes // len(_EMPTY))


def expand(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the plain bytes of all streams; stream padding is passed over."""
    streams = _Streams()
    for chunk in beginning_with(MAGIC, "xz", chunks):
        yield from streams.feed(chunk)
    streams.finish()


class _Streams:
    """Where we are in a file of several streams."""

    def __init__(self) -> None:
        self._decoder = _decoder()
        self._begun = False  # whether the current stream has taken a byte yet
        self._finished = 0
        self._padding = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        data = chunk
        while data or (self._begun and not self._decoder.needs_input):
            if not self._begun and not (data := self._without_padding(data)):
                return
            try:
                part = self._decoder.decompress(data, _STEP_BYTES)
            except lzma.LZMAError as error:
                raise damaged("xz", error) from error
            self._begun = True
            data = b""
            if part:
                yield part
            if self._decoder.eof:
                data = self._decoder.unused_data
                self._decoder, self._begun = _decoder(), False
                self._finished += 1

    def _without_padding(self, data: bytes) -> bytes:
        if not self._finished:
            return data
        rest = data.lstrip(b"\x00")
        self._padding += len(data) - len(rest)
        if rest:
            self._check_padding()
        return rest

    def _check_padding(self) -> None:
        if self._padding % 4:
            raise damaged("xz", "padding of a wrong length")
        self._padding = 0

    def finish(self) -> None:
        if self._begun or not self._finished:
            raise cut("xz")
        self._check_padding()


def _decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_MEMORY_BYTES)
