"""
Keys and signatures of the sandbox: BLS12-381 for subnets, Ed25519 for nodes, and the three schemes of users.

Everything signed on the Internet Computer is a length-prefixed domain separator followed by the message. Subnets sign
with BLS (signature in G1, key in G2), nodes sign query answers with Ed25519, users sign requests with Ed25519 or ECDSA.
"""

from __future__ import annotations

import hashlib
from typing import Final

import pyblst
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "DELEGATION",
    "ED25519_DER_PREFIX",
    "QUERY_RESPONSE",
    "REQUEST",
    "STATE_ROOT",
    "BlsKey",
    "NodeKey",
    "UnsupportedKeyError",
    "UserKey",
    "self_authenticating",
    "verify_bls",
]

REQUEST: Final = b"\x0aic-request"
DELEGATION: Final = b"\x1aic-request-auth-delegation"
QUERY_RESPONSE: Final = b"\x0bic-response"
STATE_ROOT: Final = b"\x0dic-state-root"

ED25519_DER_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
_SECP256K1_DER_PREFIX: Final = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")
_P256_DER_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_BLS_DER_PREFIX: Final = bytes.fromhex(
    "308182301d060d2b0601040182dc7c0503010201060c2b0601040182dc7c05030201036100",
)
# Object identifiers 1.3.6.1.4.1.56387.1.1 and .2, as they appear inside a key.
_WEBAUTHN_OID: Final = bytes.fromhex("060a2b0601040183b8430101")
_CANISTER_SIGNATURE_OID: Final = bytes.fromhex("060a2b0601040183b8430102")

_BLS_DST: Final = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
_BLS_ORDER: Final = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
_G2_GENERATOR: Final = bytes.fromhex(
    "93e02b6052719f607dacd3a088274f65596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e"
    "024aa2b2f08f0a91260805272dc51051c6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8",
)


def self_authenticating(der_key: bytes) -> bytes:
    """Return the principal that belongs to a DER public key."""
    return hashlib.sha224(der_key).digest() + b"\x02"


class BlsKey:
    """
    A subnet's signing key.

    Args:
        secret: The scalar, 1 up to the group order.
    """

    def __init__(self, secret: int) -> None:
        if not 0 < secret < _BLS_ORDER:
            message = "a BLS secret must lie between 1 and the group order"
            raise ValueError(message)
        self._secret = secret
        self.public_key: bytes = pyblst.BlstP2Element().uncompress(_G2_GENERATOR).scalar_mul(secret).compress()
        self.der: bytes = _BLS_DER_PREFIX + self.public_key
        self.principal: bytes = self_authenticating(self.der)

    @classmethod
    def from_seed(cls, seed: bytes) -> BlsKey:
        """Derive a key from *seed*; equal seeds give equal keys."""
        digest = hashlib.sha512(b"knowtation sandbox subnet key" + seed).digest()
        return cls(int.from_bytes(digest, "big") % (_BLS_ORDER - 1) + 1)

    def __repr__(self) -> str:
        return f"BlsKey(public_key={self.public_key.hex()!r})"

    def sign(self, message: bytes) -> bytes:
        """Return the 48-byte signature over *message*, which already starts with its domain separator."""
        signature: bytes = pyblst.BlstP1Element().hash_to_group(message, _BLS_DST).scalar_mul(self._secret).compress()
        return signature


def verify_bls(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """
    Tell whether *signature* (48 bytes) over *message* was made with the 96-byte *public_key*.

    The sandbox never needs this to serve; it is here so that its own tests can look at what they receive.
    """
    try:
        point = pyblst.BlstP1Element().uncompress(signature)
        key = pyblst.BlstP2Element().uncompress(public_key)
    except ValueError:
        return False
    generator = pyblst.BlstP2Element().uncompress(_G2_GENERATOR)
    hashed = pyblst.BlstP1Element().hash_to_group(message, _BLS_DST)
    return bool(pyblst.final_verify(pyblst.miller_loop(point, generator), pyblst.miller_loop(hashed, key)))


class NodeKey:
    """The Ed25519 key with which the sandbox's single node signs query answers."""

    def __init__(self, seed: bytes) -> None:
        secret = hashlib.sha256(b"knowtation sandbox node key" + seed).digest()
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.der: bytes = ED25519_DER_PREFIX + self._key.public_key().public_bytes_raw()
        self.principal: bytes = self_authenticating(self.der)

    def __repr__(self) -> str:
        return f"NodeKey(der={self.der.hex()!r})"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over *message*, which already starts with its domain separator."""
        return self._key.sign(message)


class UnsupportedKeyError(ValueError):
    """A user's public key is malformed, or of a scheme the sandbox does not verify."""


class UserKey:
    """
    A user's public key: Ed25519, or ECDSA over secp256k1 or P-256, in the DER form of the interface specification.

    WebAuthn keys and canister signatures are not verified by the sandbox and are refused by name.

    Raises:
        UnsupportedKeyError: *der* is none of these.
    """

    def __init__(self, der: bytes) -> None:
        self._ed25519: Ed25519PublicKey | None = None
        self._ecdsa: ec.EllipticCurvePublicKey | None = None
        problem = ""
        try:
            if der.startswith(ED25519_DER_PREFIX) and len(der) == 44:
                self._ed25519 = Ed25519PublicKey.from_public_bytes(der[len(ED25519_DER_PREFIX) :])
            elif der.startswith(_SECP256K1_DER_PREFIX) and len(der) == 88:
                point = der[len(_SECP256K1_DER_PREFIX) :]
                self._ecdsa = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), point)
            elif der.startswith(_P256_DER_PREFIX) and len(der) == 91:
                point = der[len(_P256_DER_PREFIX) :]
                self._ecdsa = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            else:
                problem = _describe_unsupported(der)
        except ValueError as error:
            problem = f"Invalid public key: Malformed public key: {error}"
        if problem:
            raise UnsupportedKeyError(problem)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Tell whether *signature* over *message* (with its domain separator) is good; ECDSA uses SHA-256 and r‖s."""
        if len(signature) != 64:
            return False
        try:
            if self._ed25519 is not None:
                self._ed25519.verify(signature, message)
            elif self._ecdsa is not None:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                self._ecdsa.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def _describe_unsupported(der: bytes) -> str:
    if _WEBAUTHN_OID in der:
        return "WebAuthn signatures are not verified by the sandbox network"
    if _CANISTER_SIGNATURE_OID in der:
        return "Invalid canister signature: canister signatures are not verified by the sandbox network"
    return "Invalid public key: Malformed public key: unsupported algorithm or encoding"
