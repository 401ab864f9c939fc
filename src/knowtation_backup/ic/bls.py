"""
BLS signatures of subnets: the one place that knows pyblst.

Source:
    internet-computer reference, B.2: BLS12-381, signatures in G1, keys in G2, both compressed.
"""

from __future__ import annotations

import functools
import operator
import secrets
from collections.abc import Sequence
from typing import Any, Final

import pyblst

__all__ = ["PUBLIC_KEY_BYTES", "SIGNATURE_BYTES", "verify", "verify_each"]

PUBLIC_KEY_BYTES: Final = 96
SIGNATURE_BYTES: Final = 48

_SUITE: Final = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
_GENERATOR: Final = bytes.fromhex(
    "93e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e"
    "024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8"
)
"""Of G2."""
_MOST_NUMBER: Final = (1 << 128) - 1
_INFINITY: Final = 0x40
"""Flag in the first byte of a compressed point. A key at infinity verifies the signature at infinity of anything."""


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """
    Say whether *signature* is that of *message* by the holder of *public_key*.

    Bytes that are no point of the right group, and points at infinity, are simply no signature or key.
    """
    try:
        key, point = _key(bytes(public_key)), _signature(bytes(signature))
    except ValueError:
        return False
    hashed = pyblst.BlstP1Element.hash_to_group(message, _SUITE)
    return bool(pyblst.final_verify(pyblst.miller_loop(point, _generator()), pyblst.miller_loop(hashed, key)))


def verify_each(public_key: bytes, signed: Sequence[tuple[bytes, bytes]]) -> list[bool]:
    """
    Say of several pairs of message and signature what `verify` says of each.

    With random numbers r of 128 bits, the sum of the r * signature is checked against the sum of the r * hashed message
    in one pairing equation. All points lie in a group of prime order (that is checked for each signature before), and
    the key is not the point at infinity. If every signature is right, the equation holds. If one is wrong, it holds for
    one value of that signature's number at most, whatever the others are: one chance in 2^128 for somebody who does
    not know the numbers, which are drawn after all signatures have come. When it does not hold, each signature is
    verified alone, so that the wrong ones are known and the right ones count.

    Args:
        public_key: Of all of them.
        signed: Messages and signatures.

    Source:
        Bellare, Garay, Rabin: Fast Batch Verification for Modular Exponentiation and Digital Signatures, 1998 (small
        exponents test); Camenisch, Hohenberger, Pedersen: Batch Verification of Short Signatures, 2007.
    """
    if len(signed) > 1 and _hold_together(public_key, signed):
        return [True] * len(signed)
    return [verify(public_key, message, signature) for message, signature in signed]


def _hold_together(public_key: bytes, signed: Sequence[tuple[bytes, bytes]]) -> bool:
    try:
        key = _key(bytes(public_key))
        points = [_signature(bytes(signature)) for _message, signature in signed]
    except ValueError:
        return False
    numbers = [secrets.randbelow(_MOST_NUMBER) + 1 for _ in signed]
    hashed = [pyblst.BlstP1Element.hash_to_group(message, _SUITE) for message, _ in signed]
    left = functools.reduce(operator.add, map(_times, points, numbers))
    right = functools.reduce(operator.add, map(_times, hashed, numbers))
    return bool(pyblst.final_verify(pyblst.miller_loop(left, _generator()), pyblst.miller_loop(right, key)))


def _times(point: Any, number: int) -> Any:
    return point.scalar_mul(number)


def _signature(data: bytes) -> Any:
    if len(data) != SIGNATURE_BYTES or data[0] & _INFINITY:
        raise ValueError("not a signature")
    return pyblst.BlstP1Element.uncompress(data)  # checks curve and subgroup


@functools.lru_cache(maxsize=64)
def _key(data: bytes) -> Any:
    if len(data) != PUBLIC_KEY_BYTES or data[0] & _INFINITY:
        raise ValueError("not a key")
    return pyblst.BlstP2Element.uncompress(data)


@functools.lru_cache(maxsize=1)
def _generator() -> Any:
    return pyblst.BlstP2Element.uncompress(_GENERATOR)
