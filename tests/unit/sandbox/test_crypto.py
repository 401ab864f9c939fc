import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.bls.point_compression import compress_G1, decompress_G1, decompress_G2
from py_ecc.optimized_bls12_381.optimized_curve import G2
from py_ecc.optimized_bls12_381.optimized_pairing import pairing

from knowtation_backup.sandbox.principal import to_text
from knowtation_backup.sandbox.protocol.crypto import (
    BlsKey,
    NodeKey,
    UnsupportedKeyError,
    UserKey,
    self_authenticating,
    verify_bls,
)

DST = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
MESSAGE = b"\x0dic-state-root" + bytes.fromhex("eb5c5b2195e62d996b84c9bcc8259d19a83786a2f59e0878cec84c811f669aa0")
PUBLIC_KEY = bytes.fromhex(
    "90bb033495af95faf151528ab2517222aa3a089a1cff5e298a3c2b8967285de464f1d3753f30b89de7513d2a6a6aa4e4"
    "195592448c5afc494cb51107124231677599fe5b3d2ef47aed91b2d3c3ce3d6b8ce3fbdef77edbb6b60f413ec292dee9"
)
SIGNATURE = bytes.fromhex(
    "98cdc51d776437a50520b0ffe4d4ad5897e532ce7a5ba9ab906208422514584e1e2970201ba6cb44d31ed37c9c55415c"
)


def hashed(message: bytes) -> Any:
    return hash_to_G1(message, DST, hashlib.sha256)  # type: ignore[arg-type] # it wants the constructor


def test_bls_vector_of_the_reference() -> None:
    key = BlsKey(0x0123456789ABCDEF)
    assert key.public_key == PUBLIC_KEY
    assert key.sign(MESSAGE) == SIGNATURE
    assert to_text(key.principal) == "mkkp6-kghmu-llqtd-yvoxc-qz5tc-5pyzy-5bsvn-bbbnm-nnhob-qtc7d-3qe"


def test_hash_to_curve_agrees_with_another_implementation() -> None:
    point = compress_G1(hashed(MESSAGE)).to_bytes(48, "big")
    assert point.hex().startswith("a10a8c459b5436784712fcc1dbd4b5a3")
    assert BlsKey(1).sign(MESSAGE) == point


def test_another_implementation_verifies_our_signature() -> None:
    key = BlsKey.from_seed(b"any")
    halves = tuple(int.from_bytes(key.public_key[start : start + 48], "big") for start in (0, 48))
    signature = decompress_G1(int.from_bytes(key.sign(b"hello"), "big"))  # type: ignore[arg-type]
    assert pairing(G2, signature) == pairing(decompress_G2(halves), hashed(b"hello"))  # type: ignore[arg-type]


def test_verify_bls_tells_good_from_bad() -> None:
    assert verify_bls(PUBLIC_KEY, MESSAGE, SIGNATURE)
    assert not verify_bls(PUBLIC_KEY, MESSAGE + b"!", SIGNATURE)
    assert not verify_bls(BlsKey(2).public_key, MESSAGE, SIGNATURE)
    assert not verify_bls(PUBLIC_KEY, MESSAGE, b"\xff" * 48)


@pytest.mark.parametrize("secret", [0, -1, 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001])
def test_secret_out_of_range_is_refused(secret: int) -> None:
    with pytest.raises(ValueError, match="group order"):
        BlsKey(secret)


def test_seeds_decide_keys_and_repr_shows_no_secret() -> None:
    key = BlsKey.from_seed(b"a")
    assert key.der == BlsKey.from_seed(b"a").der != BlsKey.from_seed(b"b").der
    assert len(key.der) == 133
    assert str(key._secret) not in repr(key)
    assert f"{key._secret:x}" not in repr(key)
    assert NodeKey(b"a").der == NodeKey(b"a").der != NodeKey(b"b").der
    assert len(NodeKey(b"a").der) == 44


def test_principals_of_the_reference(tools: SimpleNamespace) -> None:
    for identity, text in (
        (tools.ed25519(), "535yc-uxytb-gfk7h-tny7p-vjkoe-i4krp-3qmcl-uqfgr-cpgej-yqtjq-rqe"),
        (tools.ecdsa(ec.SECP256K1()), "vh5jj-2v5av-uunuh-hbba5-pss3b-vrzng-7dqdp-xcku3-zj2tc-36shc-bqe"),
        (tools.ecdsa(ec.SECP256R1()), "svixd-dijgl-w65hb-fx6lq-ctonm-iiyi2-hprpy-gmara-jouum-z4mxg-3ae"),
    ):
        assert to_text(self_authenticating(identity.der)) == text


def test_user_keys_of_all_schemes(tools: SimpleNamespace) -> None:
    for identity in (tools.ed25519(), tools.ecdsa(ec.SECP256K1()), tools.ecdsa(ec.SECP256R1())):
        key = UserKey(identity.der)
        signature = identity.sign(b"message")
        assert key.verifies(b"message", signature)
        assert not key.verifies(b"messagE", signature)
        assert not key.verifies(b"message", signature[:-1])
        assert not key.verifies(b"message", bytes(64))


def test_high_s_signatures_are_accepted(tools: SimpleNamespace) -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    identity = tools.ecdsa(ec.SECP256K1())
    signature = identity.sign(b"m")
    other = signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert UserKey(identity.der).verifies(b"m", signature)
    assert UserKey(identity.der).verifies(b"m", other)


@pytest.mark.parametrize(
    ("der", "text"),
    [
        (b"", "Malformed public key"),
        (bytes(44), "unsupported algorithm"),
        (bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200") + b"\x04" + b"\x01" * 64, "Malformed"),
        (bytes.fromhex("300c060a2b0601040183b84301010300"), "WebAuthn"),
        (bytes.fromhex("300c060a2b0601040183b84301020300"), "canister signatures"),
    ],
)
def test_other_keys_are_refused_by_name(der: bytes, text: str) -> None:
    with pytest.raises(UnsupportedKeyError, match=text):
        UserKey(der)
