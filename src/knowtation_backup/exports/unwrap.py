"""
Recognise what a payload is wrapped in by its first bytes, and unwrap it as a stream.

gzip, zstd and xz announce themselves; brotli has no mark, so it is tried on what can be neither JSON nor anything else
we know. Sealed files are named, not opened: that is the codec's work.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from ..codecs._streams import UnwrapLimits
from ..codecs.compression import Compression
from ..errors import IntegrityError, TruncatedError, UnsupportedFormatError

__all__ = ["UnwrapLimits", "unwrap"]

_MAGICS: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz"}
_SEALED: Final = (b"KTB1",)
_JSON_STARTS: Final = (b"{", b"\xef\xbb\xbf")
_WHITE: Final = b" \t\n\r"
_HEAD_BYTES: Final = max(map(len, _MAGICS))


def unwrap(chunks: Iterable[bytes], limits: UnwrapLimits | None = None) -> Iterator[bytes]:
    """
    Yield the plain bytes of a payload that may be compressed with gzip, zstd, brotli or xz.

    Chunks that are not compressed are passed on as they come. Memory is a few chunks plus the format's window.

    Raises:
        UnsupportedFormatError: The bytes are sealed, or of no format known here.
        ConfigurationError: The format needs an extra that is not installed.
        TruncatedError: Nothing was read, or the compressed stream ends early.
        IntegrityError: The compressed stream is damaged (``compressed_data``) or grows beyond *limits*
            (``decompression_limit``).
    """
    source = iter(chunks)
    head = b""
    while len(head.lstrip(_WHITE)) < _HEAD_BYTES and len(head) < 4096 and (chunk := next(source, None)) is not None:
        head += chunk
    if not head:
        raise TruncatedError("the payload is empty", hint="take another copy of the archive")
    whole = itertools.chain((head,), source)
    start = head.lstrip(_WHITE)
    if start.startswith(_JSON_STARTS) or not start:
        return whole
    if head.startswith(_SEALED):
        raise UnsupportedFormatError(
            f"the payload is encrypted ({head[:4].decode()})",
            kind="sealed",
            hint="open it with its key first, then read the plain bytes",
        )
    limits = limits or UnwrapLimits()
    for magic, name in _MAGICS.items():
        if head.startswith(magic):
            return Compression(name, limits=limits).open(lambda: whole)
    return _perhaps_brotli(whole, limits)


def _perhaps_brotli(whole: Iterator[bytes], limits: UnwrapLimits) -> Iterator[bytes]:
    began = False
    try:
        for part in Compression("brotli", limits=limits).open(lambda: whole):
            began = True
            yield part
    except IntegrityError as error:
        if began or error.kind == "decompression_limit":
            raise
        raise UnsupportedFormatError(
            "the payload is neither JSON nor compressed in a way this release knows",
            hint="supported are plain JSON, and that in xz, gzip, zstd and brotli",
        ) from error
