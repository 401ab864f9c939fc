"""
brotli: one stream, compressed by one thread beside the consumer's (RFC 7932).

The format has neither a mark at its beginning nor a checksum: what detects changed bytes is the encryption around it,
or the digest in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from .._engine.ahead import map_ahead
from .._engine.chunking import even
from ._streams import cut, damaged, require

__all__ = ["expand", "pack", "package"]

_PIECE_BYTES: Final = 1 << 20
_STEP_BYTES: Final = 256 << 10
_SLICE_BYTES: Final = 1 << 16


def package() -> Any:
    """Return the vendor's module; raises `ConfigurationError` when it is not installed."""
    return require("brotli", "brotli")


def pack(chunks: Iterable[bytes], *, level: int, workers: int) -> Iterator[tuple[int, bytes]]:
    """Yield stored parts, each with the number of plain bytes it stands for."""
    del workers  # a stream cannot be divided; one thread gets it going beside everything else
    stream = package().Compressor(quality=level)

    def process(piece: bytes) -> tuple[int, bytes]:
        return len(piece), stream.process(piece)

    yield from map_ahead(process, even(chunks, _PIECE_BYTES), workers=1)
    yield 0, stream.finish()


def expand(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the plain bytes."""
    brotli = package()
    stream = brotli.Decompressor()
    for chunk in chunks:
        for start in range(0, len(chunk), _SLICE_BYTES):
            if stream.is_finished():
                raise damaged("brotli", "bytes behind its end")
            data = chunk[start : start + _SLICE_BYTES]
            part = data
            # Until nothing comes: `can_accept_more_data` is true too early when the end of the input is inside already.
            while part or not stream.can_accept_more_data():
                try:
                    part = stream.process(data, output_buffer_limit=_STEP_BYTES)
                except brotli.error as error:
                    raise damaged("brotli", error) from error
                data = b""
                if part:
                    yield part
    if not stream.is_finished():
        raise cut("brotli")
