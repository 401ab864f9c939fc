"""
Signatures over manifests: the file that holds them, whose keys are trusted, and what follows from having none.

The file ``manifest.sig`` lies beside the manifest and is written before it (see `model.manifest`), as canonical JSON::

    {"format":"knowtation-backup-signatures","format_version":1,"signatures":[
        {"algorithm":"ed25519","public_key":<64 hexadecimal digits>,"signature":<128 hexadecimal digits>}]}

A signature is over `SIGNATURE_CONTEXT` followed by the exact bytes of ``manifest.json``; of an archive of a repository
it is over `ARCHIVE_CONTEXT` followed by its id. No cryptography happens here; see `codecs.signing`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, Final

import attrs

from .._checks import one_of, optional
from ..errors import ConfigurationError, SignatureError, UnsupportedFormatError
from .json_input import check_nesting, typed

__all__ = [
    "ARCHIVE_CONTEXT",
    "ED25519",
    "MAX_SIGNATURE_BYTES",
    "SIGNATURE_CONTEXT",
    "Signature",
    "SignatureFile",
    "SignaturePolicy",
    "VerifyKey",
]

SIGNATURE_CONTEXT: Final = b"knowtation-backup manifest v1\x00"
"""Goes before the manifest, so that no signature made for something else fits."""

ARCHIVE_CONTEXT: Final = b"knowtation-backup repository archive v1\x00"
"""Goes before the id of an archive of a repository, for the same reason."""

SIGNATURE_FORMAT: Final = "knowtation-backup-signatures"
SIGNATURE_VERSION: Final = 1
MAX_SIGNATURE_BYTES: Final = 64 << 10
ED25519: Final = "ed25519"

_KEY_BYTES: Final = 32
_ID_CONTEXT: Final = b"knowtation-backup signing key id v1\x00"
_TEXT = re.compile(r"(?:ed25519:)?(?P<digits>[0-9A-Fa-f]{64})")
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----(?P<body>[A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----")
_SPKI_HEAD: Final = bytes.fromhex("302a300506032b6570032100")
"""An Ed25519 key as SubjectPublicKeyInfo is these bytes and the key (RFC 8410, 4)."""

_SMALL_ORDER: Final = frozenset(
    map(
        bytes.fromhex,
        (
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ),
    )
)
"""Points of order 1, 2, 4 or 8, sign bit cleared: nobody's key, and anybody can make signatures that fit them."""


def _check_raw(_key: VerifyKey, _field: attrs.Attribute[bytes], value: Any) -> None:
    if not isinstance(value, bytes) or len(value) != _KEY_BYTES:
        length = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise ConfigurationError(f"a public signing key is {_KEY_BYTES} bytes, not {length}", kind="bad_verify_key")
    if value[:-1] + bytes([value[-1] & 0x7F]) in _SMALL_ORDER:
        message = "this is no public key: anybody could make signatures that fit it"
        raise ConfigurationError(message, kind="bad_verify_key", hint="has the key been left empty?")


@attrs.frozen(kw_only=True)
class VerifyKey:
    """The public half of a signing key (Ed25519): tells who signed. Not secret, but must come from a trusted place."""

    raw: bytes = attrs.field(repr=False, validator=_check_raw)

    def __str__(self) -> str:
        """Return ``ed25519:`` and 64 hexadecimal digits, as `from_text` reads it."""
        return f"{ED25519}:{self.raw.hex()}"

    def __repr__(self) -> str:
        """Return class and text form."""
        return f"VerifyKey({str(self)!r})"

    @property
    def key_id(self) -> str:
        """16 hexadecimal digits, for people to tell keys apart."""
        return hashlib.sha256(_ID_CONTEXT + self.raw).hexdigest()[:16]

    @property
    def pem(self) -> str:
        """The key as ``openssl`` reads it."""
        body = base64.b64encode(_SPKI_HEAD + self.raw).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"

    @classmethod
    def from_text(cls, text: str) -> VerifyKey:
        """
        Parse ``ed25519:`` and 64 hexadecimal digits, the digits alone, or a PEM public key.

        Raises:
            ConfigurationError: Anything else, or a point that is nobody's key.
        """
        trimmed = text.strip()
        match = _TEXT.fullmatch(trimmed)
        if match is not None:
            return cls(raw=bytes.fromhex(match["digits"]))
        match = _PEM.fullmatch(trimmed)
        if match is not None:
            try:
                data = base64.b64decode("".join(match["body"].split()), validate=True)
            except binascii.Error:
                data = b""
            if data.startswith(_SPKI_HEAD):
                return cls(raw=data[len(_SPKI_HEAD) :])
        message = "this text is no Ed25519 public key"
        hint = "it is 'ed25519:' and 64 hexadecimal digits, or PEM that starts with '-----BEGIN PUBLIC KEY-----'"
        raise ConfigurationError(message, kind="bad_verify_key", hint=hint)


@attrs.frozen(kw_only=True)
class Signature:
    """One signature as a file holds it; whether it fits is not known yet."""

    algorithm: str
    public_key: bytes
    signature: bytes


@attrs.frozen(kw_only=True)
class SignatureFile:
    """The signatures of one manifest."""

    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no white space, ASCII, a final newline."""
        value = {
            "format": SIGNATURE_FORMAT,
            "format_version": SIGNATURE_VERSION,
            "signatures": [
                {"algorithm": item.algorithm, "public_key": item.public_key.hex(), "signature": item.signature.hex()}
                for item in self.signatures
            ],
        }
        return _canonical(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> SignatureFile:
        """
        Parse a file written by any release of format version 1.

        Only canonical bytes are read, so that there is one way to write a signature.

        Raises:
            SignatureError: Not such a file.
            UnsupportedFormatError: A file of a newer format version.
        """
        if len(data) > MAX_SIGNATURE_BYTES:
            raise _damaged(f"it is larger than {MAX_SIGNATURE_BYTES} bytes")
        try:
            check_nesting(data)
            value = json.loads(data)
            if value["format"] != SIGNATURE_FORMAT:
                raise _damaged(f"its format is {value['format']!r:.80}")
            version = typed(value["format_version"], int)
            if version != SIGNATURE_VERSION:
                message = f"the signatures have format version {version}; this release reads 1"
                raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
            if _canonical(value) != data:
                raise _damaged("it is not in canonical form")
            return cls(signatures=tuple(_signature(item) for item in typed(value["signatures"], list)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(f"{type(error).__name__} at {str(error)[:80]!r}") from error


def _canonical(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()


def _signature(value: Any) -> Signature:
    return Signature(
        algorithm=typed(value["algorithm"], str),
        public_key=_from_hex(value["public_key"]),
        signature=_from_hex(value["signature"]),
    )


def _from_hex(value: Any) -> bytes:
    text = typed(value, str)
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise ValueError("not lower-case hexadecimal digits")
    return data


def _damaged(reason: str) -> SignatureError:
    hint = "restore it from another copy of the archive"
    return SignatureError(f"the signature file cannot be read: {reason}", kind="bad_signature", hint=hint)


def _keys(trusted: Iterable[VerifyKey | str] | VerifyKey) -> tuple[VerifyKey, ...]:
    if isinstance(trusted, str | VerifyKey):
        trusted = (trusted,)
    return tuple(key if isinstance(key, VerifyKey) else VerifyKey.from_text(key) for key in trusted)


@attrs.frozen(kw_only=True)
class SignaturePolicy:
    """
    Whose archives are read, and what happens with unsigned ones.

    A signature that does not fit its manifest is always refused. With *trusted* keys at least one of the signatures has
    to be by one of them. Without, anybody may have signed.
    """

    trusted: tuple[VerifyKey, ...] = attrs.field(default=(), converter=_keys)
    """Keys, or their texts as `VerifyKey.from_text` reads them."""
    unsigned: str | None = attrs.field(default=None, validator=optional(one_of("refuse", "report", "allow")))
    """
    ``refuse``: reading raises, verifying reports a finding. ``report``: a finding only. ``allow``: neither. `None` is
    ``refuse`` with *trusted* keys and ``allow`` without. Anything but ``refuse`` lets whoever can write to the store
    take the signature away and change the rest.
    """

    @property
    def for_unsigned(self) -> str:
        """What happens with unsigned archives, `None` resolved."""
        return self.unsigned or ("refuse" if self.trusted else "allow")

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked for, so that no archive is refused."""
        return not self.trusted and self.for_unsigned == "allow"
