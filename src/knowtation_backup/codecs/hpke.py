"""Sealing a few bytes to a public key: HPKE (RFC 9180), one shot, base mode, HKDF-SHA256 and AES-256-GCM."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from .keys import KeyKind, PrivateKey, PublicKey

__all__ = ["encapsulated_bytes", "open_sealed", "seal_to"]

_KEMS: Final = {KeyKind.X25519: (KEM.X25519, 32), KeyKind.MLKEM768_X25519: (KEM.MLKEM768_X25519, 1120)}
_SUITES: Final = {kind: Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM) for kind, (kem, _) in _KEMS.items()}


def encapsulated_bytes(kind: KeyKind) -> int:
    """Return how long the encapsulated key is that precedes the ciphertext."""
    return _KEMS[kind][1]


def seal_to(key: PublicKey, data: bytes, *, info: bytes) -> bytes:
    """Return encapsulated key, ciphertext and tag; *info* must be the same when it is opened."""
    return _SUITES[key.kind].encrypt(data, key.vendor_key, info)


def open_sealed(key: PrivateKey, sealed: bytes, *, info: bytes) -> bytes | None:
    """Return what `seal_to` was given; `None` when it was sealed to another key, with other *info*, or changed."""
    try:
        return _SUITES[key.kind].decrypt(sealed, key.vendor_key, info)
    except (InvalidTag, ValueError):
        return None
