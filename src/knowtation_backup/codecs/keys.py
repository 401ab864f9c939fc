"""Encryption keys: parsed strictly, never shown, named by a short id."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any, Final

import attrs

from ..errors import ConfigurationError

__all__ = ["EncryptionKey"]

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
