"""
Recognise what a payload is wrapped in by its first bytes, and unwrap it as a stream.

gzip and zstd announce themselves; brotli has no mark, so it is tried on what can be neither JSON nor anything else we
know. Sealed files (KTB1) are named, not opened: that is the codec's work.
"""

from __future__ import annotations

import importlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from .._checks import at_least
from ..errors import ConfigurationError, IntegrityError, TruncatedError, UnsupportedFormatError

__all__ = ["UnwrapLimits", "unwrap"]

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_KTB1 = b"KTB1"
_JSON_STARTS = (b"{", b"\xef\xbb\xbf")
_WHITE = b" \t\n\r"
_GZIP_STEP_BYTES = 1 << 20
_ZSTD_SLICE_BYTES = 1 << 10  # one block of a few bytes can stand for 128 KiB, so this bounds a burst to some 40 MB
_ZSTD_WINDOW_BYTES = 1 << 27
_BROTLI_SLICE_BYTES = 1 << 16


@attrs.frozen(kw_only=True)
class UnwrapLimits:
    """How much a compressed payload may grow before it is taken for a bomb."""

    ratio: int = attrs.field(default=200, validator=at_least(1))
    """Unwrapped bytes allowed per stored byte; text compresses 3 to 20 times."""
    allowance_bytes: int = attrs.field(default=64 << 20, validator=at_least(0))
    """Unwrapped bytes allowed in any case, so that small repetitive files pass."""


def unwrap(chunks: Iterable[bytes], limits: UnwrapLimits | None = None) -> Iterator[bytes]:
    """
    Yield the plain bytes of a payload that may be compressed with gzip, zstd or brotli.

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
    while len(head.lstrip(_WHITE)) < 4 and len(head) < 4096 and (chunk := next(source, None)) is not None:
        head += chunk
    if not head:
        raise TruncatedError("the payload is empty", hint="take another copy of the archive")
    whole = itertools.chain((head,), source)
    start = head.lstrip(_WHITE)
    if start.startswith(_JSON_STARTS) or not start:
        return whole
    if head.startswith(_KTB1):
        raise UnsupportedFormatError(
            "the payload is encrypted (KTB1)",
            kind="sealed",
            hint="open it with its key first, then read the plain bytes",
        )
    limits = limits or UnwrapLimits()
    if head.startswith(_GZIP):
        return _limited(_gunzip, whole, limits)
    if head.startswith(_ZSTD):
        return _limited(_unzstd, whole, limits)
    return _limited(_unbrotli, whole, limits)


def _limited(
    expand: Callable[[Iterable[bytes]], Iterator[bytes]], chunks: Iterable[bytes], limits: UnwrapLimits
) -> Iterator[bytes]:
    taken = given = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks:
            taken += len(chunk)
            yield chunk

    for part in expand(counted()):
        given += len(part)
        if given > limits.allowance_bytes + limits.ratio * taken:
            raise IntegrityError(
                f"the compressed payload grew to {given} bytes from {taken}",
                kind="decompression_limit",
                hint="if the file is genuine, raise the ratio of UnwrapLimits",
            )
        yield part


def _damaged(name: str, error: Exception) -> IntegrityError:
    return IntegrityError(f"the {name} stream is damaged: {error}", kind="compressed_data")


def _cut(name: str) -> TruncatedError:
    return TruncatedError(f"the {name} stream ends early", hint="take another copy of the archive")


def _slices(chunks: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), size_bytes):
            yield chunk[start : start + size_bytes]


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    fresh = True  # whether the current member has taken no byte yet
    for chunk in chunks:
        data = chunk
        while data:
            try:
                part = member.decompress(data, _GZIP_STEP_BYTES)
            except zlib.error as error:
                raise _damaged("gzip", error) from error
            fresh = False
            if part:
                yield part
            data = member.unconsumed_tail
            if member.eof:  # a gzip file may consist of several members; padding with NUL is usual on tapes
                data = member.unused_data.lstrip(b"\x00")
                member = zlib.decompressobj(wbits=31)
                fresh = True
    if not fresh:
        raise _cut("gzip")


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    zstandard = _optional("zstandard", "zstd")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    fresh = True
    for piece in _slices(chunks, _ZSTD_SLICE_BYTES):
        data = piece
        while data:
            try:
                part = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise _damaged("zstd", error) from error
            fresh = False
            if part:
                yield part
            data = b""
            if frame.eof:
                data = frame.unused_data
                frame = decompressor.decompressobj()
                fresh = True
    if not fresh:
        raise _cut("zstd")


def _unbrotli(chunks: Iterable[bytes]) -> Iterator[bytes]:
    brotli = _optional("brotli", "brotli")
    stream = brotli.Decompressor()
    began = False
    for piece in _slices(chunks, _BROTLI_SLICE_BYTES):
        data = piece
        while data or not stream.can_accept_more_data():
            try:
                part = stream.process(data, output_buffer_limit=_GZIP_STEP_BYTES)
            except brotli.error as error:
                raise _damaged("brotli", error) if began else _unknown() from error
            data = b""
            if part:
                began = True
                yield part
            if stream.is_finished():
                break
    if not stream.is_finished():
        raise _cut("brotli") if began else _unknown()


def _unknown() -> UnsupportedFormatError:
    return UnsupportedFormatError(
        "the payload is neither JSON nor compressed in a way this release knows",
        hint="supported are plain JSON, gzip, zstd and brotli",
    )


def _optional(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"the payload seems to be compressed with {extra}; reading it needs the package {module}",
            kind="missing_extra",
            hint=f"install knowtation-backup[{extra}]",
        ) from error
