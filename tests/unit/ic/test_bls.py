"""BLS signatures, against the reference's vector and an implementation in pure Python."""

import hashlib
import threading
from typing import Any, cast

import py_ecc.optimized_bls12_381
import pytest
from hypothesis import given
from hypothesis import strategies as st
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.bls.point_compression import compress_G1, compress_G2, decompress_G1

from knowtation_backup.ic import bls

curve: Any = py_ecc.optimized_bls12_381  # it does not say what it exports
SECRET = 0x0123456789ABCDEF
KEY = bytes.fromhex(
    "90bb033495af95faf151528ab2517222aa3a089a1cff5e298a3c2b8967285de464f1d3753f30b89de7513d2a6a6aa4e4"
    "195592448c5afc494cb51107124231677599fe5b3d2ef47aed91b2d3c3ce3d6b8ce3fbdef77edbb6b60f413ec292dee9"
)
MESSAGE = b"\x0dic-state-root" + bytes.fromhex("eb5c5b2195e62d996b84c9bcc8259d19a83786a2f59e0878cec84c811f669aa0")
SIGNATURE = bytes.fromhex(
    "98cdc51d776437a50520b0ffe4d4ad5897e532ce7a5ba9ab906208422514584e1e2970201ba6cb44d31ed37c9c55415c"
)
OUTSIDE_X = 4
"""Of a point on the curve that is not in the group."""


def _verified(key: bytes = KEY, message: bytes = MESSAGE, signature: bytes = SIGNATURE) -> bool:
    return bls.verify(key, message, signature)


def test_the_vector_of_the_reference() -> None:
    assert _verified()


@pytest.mark.parametrize("bit", range(0, 384, 13))
def test_a_changed_signature_does_not_verify(bit: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[bit // 8] ^= 1 << bit % 8
    assert not _verified(signature=bytes(changed))


@pytest.mark.parametrize("bit", range(0, 768, 29))
def test_a_changed_key_does_not_verify(bit: int) -> None:
    changed = bytearray(KEY)
    changed[bit // 8] ^= 1 << bit % 8
    assert not _verified(key=bytes(changed))


def test_another_message_does_not_verify() -> None:
    assert not _verified(message=MESSAGE + b"\x00")
    assert not _verified(message=b"")


def test_another_implementation_makes_the_same_signature_and_key() -> None:
    point = hash_to_G1(
        b"\x0dic-state-root other", b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_", cast("Any", hashlib.sha256)
    )
    signature = compress_G1(curve.multiply(point, SECRET)).to_bytes(48, "big")
    first, second = compress_G2(curve.multiply(curve.G2, SECRET))
    assert first.to_bytes(48, "big") + second.to_bytes(48, "big") == KEY
    assert bls.verify(KEY, b"\x0dic-state-root other", signature)


def test_points_at_infinity_are_neither_key_nor_signature() -> None:
    nowhere = compress_G1(curve.Z1).to_bytes(48, "big")
    first, second = compress_G2(curve.Z2)
    no_key = first.to_bytes(48, "big") + second.to_bytes(48, "big")
    assert not bls.verify(no_key, MESSAGE, nowhere)
    assert not _verified(signature=nowhere)
    assert not _verified(key=no_key)


def test_a_point_outside_the_group_is_no_signature() -> None:
    encoded = bytearray(OUTSIDE_X.to_bytes(48, "big"))
    encoded[0] |= 0x80
    point = decompress_G1(cast("Any", int.from_bytes(encoded, "big")))  # it is on the curve
    assert curve.multiply(point, curve.curve_order)[2] != 0  # and not in the group
    assert not _verified(signature=bytes(encoded))


@pytest.mark.parametrize("length", [0, 47, 49, 95, 97])
def test_other_lengths_are_neither_key_nor_signature(length: int) -> None:
    assert not _verified(signature=(SIGNATURE + bytes(60))[:length])
    assert not _verified(key=(KEY + bytes(60))[:length])


@given(st.binary(min_size=48, max_size=48))
def test_any_bytes_are_refused_as_a_signature(data: bytes) -> None:
    assert not _verified(signature=data)


def test_threads_verify_at_the_same_time() -> None:
    verdicts: list[bool] = []

    def work() -> None:
        verdicts.extend(_verified(message=MESSAGE if number % 2 else b"other") for number in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts.count(True) == verdicts.count(False) == 40
