"""
``float32`` as a Python `float`, bit by bit.

`struct` converts by way of the processor, which turns signalling NaNs into quiet ones. A network does not.
"""

from __future__ import annotations

import math
import struct
from typing import Final

__all__ = ["float32_bytes", "float32_value"]

_EXPONENT: Final = 0x7F80_0000
_FRACTION: Final = 0x007F_FFFF
_EXPONENT64: Final = 0x7FF << 52
_MORE_FRACTION_BITS: Final = 29
_QUIET: Final = 0x0040_0000


def float32_value(data: bytes) -> float:
    """Return the number that four bytes stand for; a NaN keeps its payload, in the upper bits of the wider one."""
    bits = int.from_bytes(data, "little")
    fraction = bits & _FRACTION
    if bits & _EXPONENT != _EXPONENT or not fraction:
        value: float = struct.unpack("<f", data)[0]
        return value
    wide = bits >> 31 << 63 | _EXPONENT64 | fraction << _MORE_FRACTION_BITS
    nan: float = struct.unpack("<d", wide.to_bytes(8, "little"))[0]
    return nan


def float32_bytes(value: float) -> bytes:
    """Return the four bytes of a number, the inverse of `float32_value`."""
    if not math.isnan(value):
        return struct.pack("<f", value)
    wide = int.from_bytes(struct.pack("<d", value), "little")
    fraction = wide >> _MORE_FRACTION_BITS & _FRACTION
    return (wide >> 63 << 31 | _EXPONENT | (fraction or _QUIET)).to_bytes(4, "little")
