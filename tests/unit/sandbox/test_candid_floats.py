"""Floats of 32 bits in the sandbox's Candid."""

import math

from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.sandbox import candid
from knowtation_backup.sandbox.candid.floats import float32_bytes, float32_value


@given(st.integers(0, (1 << 32) - 1) | st.integers(0x7F800000, 0x7FFFFFFF) | st.integers(0xFF800000, 0xFFFFFFFF))
def test_no_float_loses_a_bit(bits: int) -> None:
    data = bits.to_bytes(4, "little")
    assert float32_bytes(float32_value(data)) == data
    message = b"DIDL\x00\x01\x73" + data
    assert candid.encode([candid.FLOAT32], candid.decode(message, [candid.FLOAT32])) == message


def test_a_nan_whose_payload_does_not_fit_stays_one() -> None:
    assert math.isnan(float32_value(float32_bytes(math.nan)))
    wide = candid.decode(b"DIDL\x00\x01\x72" + (0x7FF0000000000001).to_bytes(8, "little"), [candid.FLOAT64])[0]
    assert float32_bytes(wide) == (0x7FC00000).to_bytes(4, "little")
