"""
Sign manifests and check their signatures: Ed25519 (RFC 8032), which ``openssl pkeyutl -rawin`` checks too.

A signature says who wrote an archive; sealing does not, since anybody can seal to a public key.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from typing import Any, Final

import attrs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ..errors import ConfigurationError, SignatureError, UnsupportedFormatError
from ..model.manifest import SIGNATURE_NAME
from ..model.reports import Finding
from ..model.signatures import (
    ARCHIVE_CONTEXT,
    ED25519,
    SIGNATURE_CONTEXT,
    Signature,
    SignatureFile,
    SignaturePolicy,
    VerifyKey,
)
from ..model.statements import MAX_STATEMENT_BYTES, STATEMENT_CONTEXT, ContentStatement
from ._key_files import create_private, read_private

__all__ = [
    "SigningKey",
    "archive_id_problem",
    "check_content",
    "check_manifest",
    "sign_archive_id",
    "sign_content",
    "sign_manifest",
    "signature_problem",
]

_SEED_BYTES: Final = 32
_HEX = re.compile(r"[0-9A-Fa-f]{64}")


def _check_seed(_key: SigningKey, _field: attrs.Attribute[bytes], value: Any) -> None:
    if not isinstance(value, bytes) or len(value) != _SEED_BYTES:
        length = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise ConfigurationError(f"a signing key is {_SEED_BYTES} bytes, not {length}", kind="bad_signing_key")


@attrs.frozen(kw_only=True)
class SigningKey:
    """An Ed25519 key that signs. The secret seed is in no ``repr``, error or log; compare keys by `key_id`."""

    seed: bytes = attrs.field(repr=False, validator=_check_seed)

    def __repr__(self) -> str:
        """Return class and key id."""
        return f"SigningKey(key_id={self.key_id!r})"

    @property
    def verify_key(self) -> VerifyKey:
        """The public half: give it to those who read."""
        return VerifyKey(raw=self._private().public_key().public_bytes_raw())

    @property
    def key_id(self) -> str:
        """That of the public half."""
        return self.verify_key.key_id

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature over *message*, always the same ones."""
        return self._private().sign(message)

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new random key. Keep ``key.seed.hex()`` somewhere the backups are not."""
        return cls(seed=secrets.token_bytes(_SEED_BYTES))

    @classmethod
    def from_hex(cls, text: str) -> SigningKey:
        """
        Parse the 64 hexadecimal digits of a seed, as AgentVault's key files hold them; white space around is ignored.

        Raises:
            ConfigurationError: Anything else; the message names the length, never the content.
        """
        trimmed = text.strip()
        if not _HEX.fullmatch(trimmed):
            what = f"{len(trimmed)} characters" if len(trimmed) != 2 * _SEED_BYTES else "other characters among its 64"
            message = f"a signing key is 64 hexadecimal digits or PEM; this text has {what}"
            raise ConfigurationError(message, kind="bad_signing_key", hint="make one with SigningKey.generate()")
        return cls(seed=bytes.fromhex(trimmed))

    @classmethod
    def from_pem(cls, text: str, *, password: str | None = None) -> SigningKey:
        """
        Parse a PEM private key, as ``openssl genpkey -algorithm ed25519`` writes it.

        Args:
            text: PKCS #8, plain or encrypted.
            password: Of an encrypted one.

        Raises:
            ConfigurationError: Not such a key, of another algorithm, or another password.
        """
        try:
            key = load_pem_private_key(text.encode(), None if password is None else password.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None  # the messages may quote what they could not read
        if not isinstance(key, Ed25519PrivateKey):
            message = "this is no PEM private key for Ed25519, or the password is not the right one"
            hint = "make one with 'openssl genpkey -algorithm ed25519'"
            raise ConfigurationError(message, kind="bad_signing_key", hint=hint)
        return cls(seed=key.private_bytes_raw())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, password: str | None = None) -> SigningKey:
        """
        Read a key file: 64 hexadecimal digits, or PEM.

        Raises:
            ConfigurationError: The file is open to others than its owner (``key_file_exposed``), or holds no key.
            BlobNotFoundError: There is no such file.
            SinkPermissionError: Reading is refused.
        """
        text = read_private(path)
        if "-----BEGIN" in text:
            return cls.from_pem(text, password=password)
        return cls.from_hex(text)

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> SigningKey:
        """
        Read a key file, and make one with a new key first when there is none.

        The new file holds 64 hexadecimal digits, has mode 0600 and appears complete or not at all; when two processes
        make one at once, both return the same key.

        Raises:
            ConfigurationError: The file is open to others than its owner (``key_file_exposed``), or holds no key.
            SinkError: Reading or writing it failed.
        """
        create_private(path, lambda: f"{cls.generate().seed.hex()}\n")
        return cls.load(path)


def sign_manifest(manifest_bytes: bytes, keys: Iterable[SigningKey]) -> bytes:
    """
    Return the signature file for a manifest; the same bytes for the same manifest and keys.

    Args:
        manifest_bytes: Exactly as they will be stored.
        keys: Each signs; one signature by a trusted key is enough for a reader, so several make it possible to change
            keys.

    Raises:
        ConfigurationError: There is no key.
    """
    return _sign(SIGNATURE_CONTEXT + manifest_bytes, keys)


def sign_archive_id(archive_id: str, keys: Iterable[SigningKey]) -> bytes:
    """
    Return the signature file for an archive of a repository; the same bytes for the same archive and keys.

    Args:
        archive_id: Ends with the SHA-256 of the stored manifest, which is what this vouches for.
        keys: As for `sign_manifest`.

    Raises:
        ConfigurationError: There is no key.
    """
    return _sign(ARCHIVE_CONTEXT + archive_id.encode(), keys)


def _sign(message: bytes, keys: Iterable[SigningKey]) -> bytes:
    by_public = {key.verify_key.raw: key for key in keys}
    if not by_public:
        raise ConfigurationError("there is no key to sign with", kind="no_signing_key")
    signatures = tuple(
        Signature(algorithm=ED25519, public_key=public, signature=key.sign(message))
        for public, key in sorted(by_public.items())
    )
    return SignatureFile(signatures=signatures).to_bytes()


def signature_problem(
    manifest_bytes: bytes, signature_bytes: bytes | None, policy: SignaturePolicy
) -> SignatureError | UnsupportedFormatError | None:
    """
    Return what is wrong with the signatures of a manifest under a policy, `None` when nothing is.

    Args:
        manifest_bytes: Exactly as they are stored.
        signature_bytes: Content of the signature file; `None` when there is none.
        policy: Whom to trust.
    """
    if signature_bytes is None:
        return _unsigned(policy)
    return _problem(SIGNATURE_CONTEXT + manifest_bytes, signature_bytes, policy, "manifest")


def archive_id_problem(
    archive_id: str, signature_bytes: bytes | None, policy: SignaturePolicy
) -> SignatureError | UnsupportedFormatError | None:
    """Return what is wrong with the signatures of an archive of a repository, see `signature_problem`."""
    if signature_bytes is None:
        return _unsigned(policy)
    return _problem(ARCHIVE_CONTEXT + archive_id.encode(), signature_bytes, policy, "archive")


def _unsigned(policy: SignaturePolicy) -> SignatureError | None:
    if policy.for_unsigned == "allow":
        return None
    hint = "find out who wrote it; sign_archive signs archives that were written before there was a key"
    return SignatureError("the archive is not signed", kind="unsigned", hint=hint)


def _problem(
    message_bytes: bytes, signature_bytes: bytes, policy: SignaturePolicy, what: str
) -> SignatureError | UnsupportedFormatError | None:
    try:
        file = SignatureFile.from_bytes(signature_bytes)
    except (SignatureError, UnsupportedFormatError) as error:
        return error
    signers: list[bytes] = []
    for item in file.signatures:
        if item.algorithm != ED25519:
            continue  # of a newer release, beside one that this release can check, or not
        if not _fits(item, message_bytes):
            message = f"the signature by {item.public_key.hex()[:80]} does not fit the {what}"
            hint = f"{what} or signature were changed; use another copy"
            return SignatureError(message, kind="bad_signature", hint=hint, public_key=item.public_key.hex()[:80])
        signers.append(item.public_key)
    if policy.trusted and not {key.raw for key in policy.trusted} & set(signers):
        listed = ", ".join(signer.hex() for signer in signers[:3]) or "nobody with an algorithm known here"
        message = f"the {what} is signed by {listed}, and none of the {len(policy.trusted)} trusted keys"
        hint = "find out who wrote it; if it is one of yours, add the key to the trusted ones"
        return SignatureError(message, kind="unknown_signer", hint=hint)
    return None


def check_manifest(
    manifest_bytes: bytes, signature_bytes: bytes | None, policy: SignaturePolicy, *, where: str = SIGNATURE_NAME
) -> list[Finding]:
    """Return `signature_problem` as findings: ``unsigned``, ``bad_signature``, ``unknown_signer``, or none."""
    problem = signature_problem(manifest_bytes, signature_bytes, policy)
    return [] if problem is None else [Finding(code=problem.kind, where=where, message=str(problem))]


def sign_content(statement: ContentStatement, keys: Iterable[SigningKey]) -> bytes:
    """
    Return a signed statement of a content root, a file for somebody who may not see the archive.

    Raises:
        ConfigurationError: There is no key.
    """
    text = statement.to_bytes()
    return text + _sign(STATEMENT_CONTEXT + text, keys)


def check_content(data: bytes, trusted: Iterable[VerifyKey | str] | VerifyKey) -> ContentStatement:
    """
    Return a statement that somebody trusted signed.

    Args:
        data: The file, as `sign_content` returned it.
        trusted: Keys, or their texts, of which at least one must have signed.

    Raises:
        SignatureError: Signed by nobody trusted (``unknown_signer``), or changed (``bad_signature``).
        UnsupportedFormatError: A newer release wrote it.
        ConfigurationError: No key is trusted.
    """
    policy = SignaturePolicy(trusted=trusted)
    if not policy.trusted:
        raise ConfigurationError("a statement by anybody says nothing", kind="no_trusted_key", hint="pass trusted keys")
    if len(data) > MAX_STATEMENT_BYTES:
        raise SignatureError("the statement is too large to be one", kind="bad_signature")
    text, newline, signatures = data.partition(b"\n")
    problem = _problem(STATEMENT_CONTEXT + text + newline, signatures, policy, "statement")
    if problem is not None:
        raise problem
    return ContentStatement.from_bytes(text + newline)


def _fits(item: Signature, message: bytes) -> bool:
    try:
        key = VerifyKey(raw=item.public_key)
        Ed25519PublicKey.from_public_bytes(key.raw).verify(item.signature, message)
    except (ConfigurationError, InvalidSignature, ValueError):
        return False
    return True
