"""
CBOR framing for answers, written by hand so that a large reply is copied once.

Small maps are left to `cbor2`; the few shapes that wrap a reply of megabytes are assembled from parts here.
"""

from __future__ import annotations

import io
from typing import Any

import cbor2

__all__ = ["SELF_DESCRIBED", "decode", "encode", "encode_tagged", "head_bytes", "head_map", "text"]

SELF_DESCRIBED = b"\xd9\xd9\xf7"
"""Tag 55799; the interface asks for it on every top-level value."""


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes((major << 5 | value,))
    if value < 1 << 8:
        return bytes((major << 5 | 24, value))
    if value < 1 << 16:
        return bytes((major << 5 | 25,)) + value.to_bytes(2, "big")
    if value < 1 << 32:
        return bytes((major << 5 | 26,)) + value.to_bytes(4, "big")
    return bytes((major << 5 | 27,)) + value.to_bytes(8, "big")


def head_bytes(length: int) -> bytes:
    """Return the head of a byte string of *length* bytes."""
    return _head(2, length)


def head_map(pairs: int) -> bytes:
    """Return the head of a map with *pairs* entries."""
    return _head(5, pairs)


def text(value: str) -> bytes:
    """Return *value* as a CBOR text string."""
    data = value.encode()
    return _head(3, len(data)) + data


def encode(value: Any) -> bytes:
    """Return the CBOR form of a small value."""
    data: bytes = cbor2.dumps(value)
    return data


def encode_tagged(value: Any) -> bytes:
    """Return *value* with the self-describing tag in front."""
    return SELF_DESCRIBED + encode(value)


def decode(data: bytes) -> Any:
    """
    Decode one CBOR value, with or without the self-describing tag.

    The tag is passed over: newer `cbor2` versions give immutable containers below a tag. That copies nothing.

    Raises:
        ValueError: *data* is not exactly one CBOR value.
    """
    try:
        stream = io.BytesIO(data)
        if data.startswith(SELF_DESCRIBED):
            stream.seek(len(SELF_DESCRIBED))
        value = cbor2.CBORDecoder(stream).decode()
        if stream.read(1):
            raise ValueError("more follows the value")  # noqa: TRY301
    except (cbor2.CBORDecodeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        message = str(error) or type(error).__name__
        raise ValueError(message) from error
    return value
