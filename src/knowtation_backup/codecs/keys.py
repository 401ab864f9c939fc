"""
Keys: parsed strictly, never shown, named by a short id.

Three kinds of holder: one secret for both directions (`EncryptionKey`), words a person remembers (`Passphrase`), and
pairs of which the writing host needs only the public half (`PublicKey`, `PrivateKey`).

A pair is X25519, or the hybrid of ML-KEM-768 and X25519 known as X-Wing (HPKE KEM 0x647a), which stays closed unless
*both* parts are broken. Text forms carry a checksum, so that a mistyped recipient is found before anything is sealed
to it: ``kb-public-<kind>:`` or ``kb-private-<kind>:``, then base64url without padding of the raw bytes and the first
four bytes of SHA-256 over a context, everything up to and with the colon, and the raw bytes.
"""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import hashlib
import os
import re
import secrets
import unicodedata
from typing import Any, Final

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey

from ..errors import ConfigurationError
from ._key_files import create_private, read_private

__all__ = [
    "EncryptionKey",
    "KeyKind",
    "Passphrase",
    "PrivateKey",
    "PublicKey",
    "key_from_text",
    "key_to_text",
    "unsupported",
]

_KEY_BYTES: Final = 32
_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_ID_CONTEXT: Final = b"knowtation-backup encryption key id v1\x00"


def _check_length(_key: EncryptionKey, _field: attrs.Attribute[bytes], value: Any) -> None:
    if not isinstance(value, bytes) or len(value) != _KEY_BYTES:
        length = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise ConfigurationError(f"an encryption key is {_KEY_BYTES} bytes, not {length}", kind="bad_key_length")


@attrs.frozen(kw_only=True)
class EncryptionKey:
    """32 secret bytes. They are in no ``repr``, error or log; compare keys by `key_id`."""

    raw: bytes = attrs.field(repr=False, validator=_check_length)

    def __repr__(self) -> str:
        """Return class and key id."""
        return f"EncryptionKey(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """16 hexadecimal digits that name the key without revealing it; recorded in manifests."""
        return hashlib.sha256(_ID_CONTEXT + self.raw).hexdigest()[:16]

    @classmethod
    def from_hex(cls, text: str) -> EncryptionKey:
        """
        Parse 64 hexadecimal digits of either case; white space around them is ignored.

        Raises:
            ConfigurationError: Anything else; the message names the length, never the content.
        """
        trimmed = text.strip()
        if not _HEX.fullmatch(trimmed):
            what = f"{len(trimmed)} characters" if len(trimmed) != 2 * _KEY_BYTES else "other characters among its 64"
            message = f"an encryption key is 64 hexadecimal digits; this text has {what}"
            raise ConfigurationError(message, kind="bad_key_text", hint="make one with EncryptionKey.generate()")
        return cls(raw=bytes.fromhex(trimmed))

    @classmethod
    def generate(cls) -> EncryptionKey:
        """Make a new random key. Keep ``key.raw.hex()`` somewhere the backups are not."""
        return cls(raw=secrets.token_bytes(_KEY_BYTES))


_PASSPHRASE_CHARACTERS: Final = 4096


def _check_passphrase(_key: Passphrase, _field: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"a passphrase is text, not {type(value).__name__}", kind="bad_passphrase")
    if not value.strip():
        raise ConfigurationError("the passphrase is empty", kind="empty_passphrase", hint="five random words are good")
    if len(value) > _PASSPHRASE_CHARACTERS:
        message = f"the passphrase has {len(value)} characters, more than {_PASSPHRASE_CHARACTERS}"
        raise ConfigurationError(message, kind="bad_passphrase", hint="is this the content of another file?")
    if any(character in value for character in "\n\r\0"):
        # Nearly always the line end of the file it was read from, and nobody can type it into a prompt later.
        hint = "remove the line end that came with it"
        raise ConfigurationError("the passphrase has a line end or NUL in it", kind="bad_passphrase", hint=hint)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigurationError("the passphrase is not valid Unicode", kind="bad_passphrase")


@attrs.frozen(kw_only=True)
class Passphrase:
    """
    Words somebody remembers. They are in no ``repr``, error or log, and have no key id: an id would be a guess's proof.

    Accented letters have several encodings, and keyboards differ in which they send. Our own format derives from
    `normalized`; formats of others take `text` as it is, because their programs do.

    Raises:
        ConfigurationError: Empty, blank, longer than 4,096 characters, or with a line end in it.
    """

    text: str = attrs.field(repr=False, validator=_check_passphrase)

    def __repr__(self) -> str:
        """Return the class alone."""
        return "Passphrase()"

    @property
    def normalized(self) -> bytes:
        """UTF-8 of Unicode normalization form C, as RFC 8265 does for passwords."""
        return unicodedata.normalize("NFC", self.text).encode()


class KeyKind(enum.StrEnum):
    """Which mathematics a pair of keys relies on."""

    X25519 = "x25519"
    """Elliptic curve; `openssl` makes such keys. Open to a later quantum computer."""

    MLKEM768_X25519 = "mlkem768x25519"
    """X-Wing, the hybrid of ML-KEM-768 and X25519."""


_X25519_BYTES: Final = 32
_MLKEM768_BYTES: Final = 1184
_PUBLIC_BYTES: Final = {
    KeyKind.X25519: _X25519_BYTES,
    KeyKind.MLKEM768_X25519: _MLKEM768_BYTES + _X25519_BYTES,
}
_PRIVATE_BYTES: Final = dict.fromkeys(KeyKind, 32)
_MLKEM768_SEED_BYTES: Final = 64
_PUBLIC_ID_CONTEXT: Final = b"knowtation-backup public key id v1\x00"
_CHECKSUM_CONTEXT: Final = b"knowtation-backup key text v1\x00"
_CHECKSUM_BYTES: Final = 4
_KEY_TEXT = re.compile(r"kb-(public|private|writer)-([0-9a-z]{1,32}):([0-9A-Za-z_-]{1,4096})")
_PEM_BYTES: Final = 64 * 1024


def _kind(value: Any) -> KeyKind:
    try:
        return KeyKind(value)
    except ValueError:
        pass  # the chain would repeat a value that may be a misplaced secret
    raise ConfigurationError("unknown kind of key", kind="bad_option", hint=f"one of {', '.join(KeyKind)}")


def _check_raw(key: PublicKey | PrivateKey, _field: attrs.Attribute[bytes], value: Any) -> None:
    wanted = (_PUBLIC_BYTES if isinstance(key, PublicKey) else _PRIVATE_BYTES)[key.kind]
    if not isinstance(value, bytes) or len(value) != wanted:
        length = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        what = "public" if isinstance(key, PublicKey) else "private"
        raise ConfigurationError(f"a {what} {key.kind} key is {wanted} bytes, not {length}", kind="bad_key_length")
    if key.kind is KeyKind.MLKEM768_X25519 and not _has_mlkem():
        raise unsupported("ML-KEM-768")


@functools.cache
def _has_mlkem() -> bool:
    try:
        MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        return False
    return True


def unsupported(algorithm: str) -> ConfigurationError:
    """Return the error for what the installed `cryptography` was built without."""
    message = f"the cryptography package that is installed was built without {algorithm}"
    return ConfigurationError(message, kind="missing_algorithm", hint="install its wheel from PyPI")


@attrs.frozen(kw_only=True)
class PublicKey:
    """
    The half of a pair that seals. Not secret, but authentic: whoever can replace it can read what is sealed next.

    Raises:
        ConfigurationError: Not as long as its kind, or a value that no private key belongs to.
    """

    kind: KeyKind = attrs.field(converter=_kind)
    raw: bytes = attrs.field(repr=False, validator=_check_raw)
    """X25519: 32 bytes. Hybrid: the 1,184 of ML-KEM-768, then the 32 of X25519."""

    def __attrs_post_init__(self) -> None:
        try:
            # The exchange refuses points of small order, with which anybody could compute the shared secret.
            X25519PrivateKey.from_private_bytes(bytes(_X25519_BYTES)).exchange(self._x25519)
            _ = self.vendor_key
        except ValueError as error:
            raise ConfigurationError(f"this is no usable public {self.kind} key", kind="bad_public_key") from error

    def __repr__(self) -> str:
        """Return class, kind and key id."""
        return f"PublicKey(kind={str(self.kind)!r}, key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """16 hexadecimal digits that name the pair; recorded in sealed files and manifests."""
        return hashlib.sha256(_PUBLIC_ID_CONTEXT + self.kind.encode() + b"\x00" + self.raw).hexdigest()[:16]

    @property
    def _x25519(self) -> X25519PublicKey:
        return X25519PublicKey.from_public_bytes(self.raw[-_X25519_BYTES:])

    @property
    def vendor_key(self) -> X25519PublicKey | MLKEM768X25519PublicKey:
        """The key as `cryptography` wants it."""
        if self.kind is KeyKind.X25519:
            return self._x25519
        mlkem = MLKEM768PublicKey.from_public_bytes(self.raw[:_MLKEM768_BYTES])
        return MLKEM768X25519PublicKey(mlkem, self._x25519)

    def to_text(self) -> str:
        """Return the text form, one line for configuration files and mails."""
        return key_to_text("public", self.kind, self.raw)

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """
        Parse `to_text`; white space around it is ignored.

        Raises:
            ConfigurationError: Not such a text, mistyped, or the text of a private key.
        """
        kind, raw = key_from_text("public", text)
        return cls(kind=kind, raw=raw)

    @classmethod
    def from_pem(cls, pem: str | bytes) -> PublicKey:
        """
        Parse a PEM ``PUBLIC KEY`` of X25519, as ``openssl pkey -pubout`` prints.

        Raises:
            ConfigurationError: Anything else.
        """
        try:
            key = serialization.load_pem_public_key(_pem_bytes(pem))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, X25519PublicKey):
            raise ConfigurationError("this is no PEM public key of X25519", kind="bad_key_text")
        return cls(kind=KeyKind.X25519, raw=key.public_bytes_raw())


@attrs.frozen(kw_only=True)
class PrivateKey:
    """The half of a pair that opens: 32 secret bytes, in no ``repr``, error or log."""

    kind: KeyKind = attrs.field(converter=_kind)
    raw: bytes = attrs.field(repr=False, validator=_check_raw)
    """X25519: the scalar. Hybrid: the X-Wing seed, which SHAKE256 expands to the seeds of both parts."""

    def __repr__(self) -> str:
        """Return class, kind and key id."""
        return f"PrivateKey(kind={str(self.kind)!r}, key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """That of the public key."""
        return self.public_key.key_id

    @property
    def public_key(self) -> PublicKey:
        """The other half."""
        raw = self._x25519.public_key().public_bytes_raw()
        if self.kind is KeyKind.MLKEM768_X25519:
            raw = self._mlkem.public_key().public_bytes_raw() + raw
        return PublicKey(kind=self.kind, raw=raw)

    @property
    def _x25519(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self._expanded[-_X25519_BYTES:])

    @property
    def _mlkem(self) -> MLKEM768PrivateKey:
        return MLKEM768PrivateKey.from_seed_bytes(self._expanded[:_MLKEM768_SEED_BYTES])

    @property
    def _expanded(self) -> bytes:
        if self.kind is KeyKind.X25519:
            return self.raw
        return hashlib.shake_256(self.raw).digest(_MLKEM768_SEED_BYTES + _X25519_BYTES)

    @property
    def vendor_key(self) -> X25519PrivateKey | MLKEM768X25519PrivateKey:
        """The key as `cryptography` wants it."""
        if self.kind is KeyKind.X25519:
            return self._x25519
        return MLKEM768X25519PrivateKey(self._mlkem, self._x25519)

    @classmethod
    def generate(cls, kind: KeyKind | str = KeyKind.MLKEM768_X25519) -> PrivateKey:
        """Make a new random pair. Keep the private half where the backups are not."""
        return cls(kind=_kind(kind), raw=secrets.token_bytes(_PRIVATE_BYTES[_kind(kind)]))

    def to_text(self) -> str:
        """Return the text form, one secret line."""
        return key_to_text("private", self.kind, self.raw)

    @classmethod
    def from_text(cls, text: str) -> PrivateKey:
        """
        Parse `to_text`; white space around it is ignored.

        Raises:
            ConfigurationError: Not such a text, mistyped, or the text of a public key. The content is not repeated.
        """
        kind, raw = key_from_text("private", text)
        return cls(kind=kind, raw=raw)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, passphrase: Passphrase | None = None) -> PrivateKey:
        """
        Read a key file: `to_text`, after lines that start with ``#``, or PEM.

        Raises:
            ConfigurationError: The file is open to others than its owner (``key_file_exposed``), or holds no key.
            BlobNotFoundError: There is no such file.
            SinkPermissionError: Reading is refused.
        """
        text = read_private(path)
        if "-----BEGIN" in text:
            return cls.from_pem(text, passphrase=passphrase)
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        return cls.from_text("\n".join(lines))

    @classmethod
    def load_or_create(
        cls, path: str | os.PathLike[str], *, kind: KeyKind | str = KeyKind.MLKEM768_X25519
    ) -> PrivateKey:
        """
        Read a key file, and make one with a new pair first when there is none.

        The new file names the public key in a comment, has mode 0600 and appears complete or not at all; when two
        processes make one at once, both return the same pair. An existing file is never written to.

        Raises:
            ConfigurationError: The file is open to others than its owner (``key_file_exposed``), or holds no key.
            SinkError: Reading or writing it failed.
        """
        kind = _kind(kind)
        create_private(path, lambda: cls.generate(kind)._file_text())  # noqa: SLF001 - our own
        return cls.load(path)

    def _file_text(self) -> str:
        return f"# public key: {self.public_key.to_text()}\n{self.to_text()}\n"

    @classmethod
    def from_pem(cls, pem: str | bytes, *, passphrase: Passphrase | None = None) -> PrivateKey:
        """
        Parse a PEM ``PRIVATE KEY`` (PKCS #8) of X25519, as ``openssl genpkey -algorithm x25519`` prints.

        Args:
            pem: The text.
            passphrase: What it is encrypted with, if it is.

        Raises:
            ConfigurationError: Anything else, or another passphrase.
        """
        password = passphrase.text.encode() if passphrase else None
        try:
            key = serialization.load_pem_private_key(_pem_bytes(pem), password)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, X25519PrivateKey):
            hint = "pass the right passphrase if it is encrypted, none otherwise"
            raise ConfigurationError("this is no PEM private key of X25519", kind="bad_key_text", hint=hint)
        return cls(kind=KeyKind.X25519, raw=key.private_bytes_raw())


def _pem_bytes(pem: str | bytes) -> bytes:
    data = pem.encode(errors="replace") if isinstance(pem, str) else pem
    if len(data) > _PEM_BYTES:
        raise ConfigurationError(f"a PEM key of {len(data)} bytes is none", kind="bad_key_text")
    return data


def _checksum(prefix: str, raw: bytes) -> bytes:
    return hashlib.sha256(_CHECKSUM_CONTEXT + prefix.encode() + raw).digest()[:_CHECKSUM_BYTES]


def key_to_text(half: str, kind: KeyKind, raw: bytes) -> str:
    """Return the text form of a key with its checksum; *half* is ``public``, ``private`` or ``writer``."""
    prefix = f"kb-{half}-{kind}:"
    return prefix + base64.urlsafe_b64encode(raw + _checksum(prefix, raw)).rstrip(b"=").decode()


def key_from_text(half: str, text: str) -> tuple[KeyKind, bytes]:
    """
    Parse `key_to_text`.

    Raises:
        ConfigurationError: Not such a text, mistyped, or of another half. The content is not repeated.
    """

    def refuse(why: str) -> ConfigurationError:
        return ConfigurationError(f"this is no {half} key: {why}", kind="bad_key_text")

    found = _KEY_TEXT.fullmatch(text.strip())
    if found is None:
        raise refuse(f"it does not look like kb-{half}-<kind>:<letters, digits, - and _>")
    if found[1] != half:
        raise refuse(f"it is a {found[1]} one")
    if found[2] not in set(KeyKind):
        raise refuse(f"this release knows the kinds {', '.join(KeyKind)}")
    kind = KeyKind(found[2])
    try:
        data = base64.urlsafe_b64decode(found[3] + "=" * (-len(found[3]) % 4))
    except binascii.Error:
        data = b""
    raw = data[:-_CHECKSUM_BYTES]
    if key_to_text(half, kind, raw) != text.strip():
        raise refuse("its checksum does not match, so a character is wrong or missing")
    return kind, raw
