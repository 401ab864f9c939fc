"""
How AgentVault's full backups prove their content and wrap their key: pure functions, no files.

The Merkle root is AgentVault's own, without domain separation; ours, which is another, is in `exports.records`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Final

import attrs
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import ConfigurationError, SignatureError, TamperedError

__all__ = ["WrappedKey", "leaf_hash", "merkle_root", "unwrap_key", "wrap_key", "wrapping_key"]

_SEED_BYTES: Final = 32
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16
_SALT: Final = b"agentvault-backup-key-wrapping"
_INFO: Final = b"backup-key-wrapping-v1"


def leaf_hash(path: str, content: bytes) -> str:
    """Return SHA-256 over the path's UTF-8 and the content, in hexadecimal: what full backups have in ``checksums``."""
    return hashlib.sha256(path.encode() + content).hexdigest()


def merkle_root(leaves: Mapping[str, str]) -> str:
    """
    Return the root over leaf hashes by path.

    Leaves are taken in the order of their paths' code points; a parent is SHA-256 of the *text* of both hexadecimal
    hashes, an odd last node moves up unchanged, and no leaves at all give SHA-256 of nothing.

    Raises:
        ConfigurationError: A leaf is not 64 lower-case hexadecimal digits.
    """
    level = [_checked(path, leaves[path]) for path in sorted(leaves)]
    if not level:
        return hashlib.sha256().hexdigest()
    while len(level) > 1:
        pairs = [level[start : start + 2] for start in range(0, len(level), 2)]
        level = [hashlib.sha256("".join(pair).encode()).hexdigest() if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def _checked(path: str, leaf: str) -> str:
    if len(leaf) != 64 or not set(leaf) <= set("0123456789abcdef"):
        raise ConfigurationError(f"the leaf of {path!r:.120} is no SHA-256 in hexadecimal", kind="bad_leaf")
    return leaf


@attrs.frozen(kw_only=True)
class WrappedKey:
    """The key of a full backup, sealed and signed; nothing in it is secret."""

    ciphertext: bytes
    """32 bytes."""
    iv: bytes
    tag: bytes
    signature: bytes
    """Ed25519 over ciphertext, IV and tag."""
    public_key: bytes
    """Of whoever signed. It proves nothing by itself: compare it with one you know."""


def wrapping_key(seed: bytes) -> bytes:
    """Return the key that wraps, derived from the 32 bytes of the signing key's seed."""
    _check_length("the seed of a signing key", seed, _SEED_BYTES)
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=_SALT, info=_INFO).derive(seed)


def wrap_key(key: bytes, seed: bytes) -> WrappedKey:
    """
    Seal the 32-byte key of a payload under a signing key's seed, and sign it.

    Raises:
        ConfigurationError: Key or seed are not 32 bytes.
    """
    _check_length("the key of a payload", key, _KEY_BYTES)
    iv = secrets.token_bytes(_IV_BYTES)
    sealed = AESGCM(wrapping_key(seed)).encrypt(iv, key, None)
    ciphertext, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
    signing = Ed25519PrivateKey.from_private_bytes(seed)
    public_key = signing.public_key().public_bytes_raw()
    signature = signing.sign(ciphertext + iv + tag)
    return WrappedKey(ciphertext=ciphertext, iv=iv, tag=tag, signature=signature, public_key=public_key)


def unwrap_key(wrapped: WrappedKey, seed: bytes, *, expected_public_key: bytes | None = None) -> bytes:
    """
    Check the signature and return the key of the payload.

    Args:
        wrapped: As the manifest holds it.
        seed: Of the signing key.
        expected_public_key: Who must have signed; `None` means the owner of *seed*, which is who wraps.

    Raises:
        ConfigurationError: The seed is not 32 bytes.
        SignatureError: Signed by somebody else, or changed since.
        TamperedError: The seed is not the one it was wrapped with.
    """
    _check_length("the seed of a signing key", seed, _SEED_BYTES)
    expected = expected_public_key or Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    if not secrets.compare_digest(expected, wrapped.public_key):
        message = f"the key is signed by {wrapped.public_key.hex()}, expected was {expected.hex()}"
        raise SignatureError(message, hint="use the signing key that belongs to this backup")
    try:
        signed = wrapped.ciphertext + wrapped.iv + wrapped.tag
        Ed25519PublicKey.from_public_bytes(wrapped.public_key).verify(wrapped.signature, signed)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("the signature of the wrapped key does not match", hint="use another copy") from error
    try:
        return AESGCM(wrapping_key(seed)).decrypt(wrapped.iv, wrapped.ciphertext + wrapped.tag, None)
    except (InvalidTag, ValueError) as error:
        message = "the wrapped key does not open under this seed"
        raise TamperedError(message, hint="use the signing key that belongs to this backup") from error


def _check_length(what: str, value: bytes, size_bytes: int) -> None:
    if len(value) != size_bytes:
        raise ConfigurationError(f"{what} is {size_bytes} bytes, not {len(value)}", kind="bad_key_length")
