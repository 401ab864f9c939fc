"""
Names of things on the Internet Computer: principals (canisters, subnets, people) and canister snapshots.

A principal's text form is base32 (lower case, no padding) of a big-endian CRC-32 and the bytes, in groups of five.

Source:
    IC interface specification, "Textual representation of principals"; snapshot ids: internet-computer reference, D.3.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import zlib
from typing import Any, Final, Self

import attrs

from ..errors import ConfigurationError

__all__ = ["ANONYMOUS", "MANAGEMENT_CANISTER", "Principal", "SnapshotId"]

_MAX_BYTES: Final = 29
_MAX_CHARACTERS: Final = 63
_SELF_AUTHENTICATING: Final = b"\x02"
_MAX_SNAPSHOT_BYTES: Final = 64


@attrs.frozen(order=True, repr=False)
class Principal:
    """
    Who or what something is for, or from: a canister, a subnet, a key holder.

    Args:
        raw: At most 29 bytes; ordered bytewise, as canister ranges are.
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check_raw(self, _attribute: object, value: object) -> None:
        if not isinstance(value, bytes) or len(value) > _MAX_BYTES:
            message = f"a principal is at most {_MAX_BYTES} bytes, not {value!r:.80}"
            raise ConfigurationError(message, kind="bad_principal")

    @classmethod
    def parse(cls, value: Principal | str | bytes | Any) -> Principal:
        """
        Return the principal that *value* names: text in canonical form, raw bytes, or an object of ic-py's shape.

        Raises:
            ConfigurationError: It names none; text must be lower case with all hyphens and the right checksum.
        """
        if isinstance(value, Principal):
            return value
        if isinstance(value, str):
            return cls(_from_text(value))
        raw = value if isinstance(value, (bytes, bytearray, memoryview)) else getattr(value, "bytes", None)
        if not isinstance(raw, (bytes, bytearray, memoryview)):
            raise _refusal(value)
        return cls(bytes(raw))

    @classmethod
    def self_authenticating(cls, der_public_key: bytes) -> Self:
        """Return the principal of whoever holds the key; also the id of a subnet or node."""
        return cls(hashlib.sha224(der_public_key).digest() + _SELF_AUTHENTICATING)

    def __str__(self) -> str:
        """Return the text form."""
        return _to_text(self.raw)

    def __repr__(self) -> str:
        return f"Principal({str(self)!r})"


@functools.lru_cache(maxsize=1024)  # requests name the same few canisters again and again
def _to_text(raw: bytes) -> str:
    data = zlib.crc32(raw).to_bytes(4, "big") + raw
    text = base64.b32encode(data).decode("ascii").rstrip("=").lower()
    return "-".join(text[start : start + 5] for start in range(0, len(text), 5))


def _from_text(text: str) -> bytes:
    if len(text) > _MAX_CHARACTERS or not text.isascii():
        raise _refusal(text)
    plain = text.replace("-", "").upper()
    try:
        data = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except binascii.Error as error:
        raise _refusal(text) from error
    if not 4 <= len(data) <= 4 + _MAX_BYTES or str(Principal(data[4:])) != text:
        raise _refusal(text)
    return data[4:]


def _refusal(value: object) -> ConfigurationError:
    message = f"{value!r:.80} is not a principal or canister id"
    return ConfigurationError(message, kind="bad_principal", hint="write it as in aaaaa-aa, lower case with hyphens")


MANAGEMENT_CANISTER: Final = Principal(b"")
"""``aaaaa-aa``, the interface to the network itself."""
ANONYMOUS: Final = Principal(b"\x04")
"""The sender of unsigned requests."""


@attrs.frozen(order=True, repr=False)
class SnapshotId:
    """
    Name of a canister snapshot: opaque bytes, lower-case hexadecimal as text.

    Args:
        raw: 1 to 64 bytes; today's networks give 18: a counter and the canister's id.
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check_raw(self, _attribute: object, value: object) -> None:
        if not isinstance(value, bytes) or not 1 <= len(value) <= _MAX_SNAPSHOT_BYTES:
            message = f"a snapshot id is 1 to {_MAX_SNAPSHOT_BYTES} bytes, not {value!r:.80}"
            raise ConfigurationError(message, kind="bad_snapshot_id")

    @classmethod
    def parse(cls, value: SnapshotId | str | bytes) -> SnapshotId:
        """Return the id that *value* names, hexadecimal text or bytes; raises `ConfigurationError` when it is none."""
        if isinstance(value, SnapshotId):
            return value
        if isinstance(value, bytes):
            return cls(value)
        try:
            raw = bytes.fromhex(value)
        except (TypeError, ValueError):
            raw = b""
        # The parser of hexadecimal text skips blanks.
        if not raw or raw.hex() != value.lower():
            message = f"{value!r:.80} is not a snapshot id"
            hint = "it is hexadecimal text, as listed by SnapshotManager.list()"
            raise ConfigurationError(message, kind="bad_snapshot_id", hint=hint)
        return cls(raw)

    def __str__(self) -> str:
        """Return the hexadecimal text."""
        return self.raw.hex()

    def __repr__(self) -> str:
        return f"SnapshotId({str(self)!r})"
