"""
Principals: raw bytes inside the sandbox, text at its edges.

The text form is base32 (lower case, no padding) of a big-endian CRC-32 and the bytes, in groups of five characters.

Source:
    IC interface specification, "Textual representation of principals"; internet-computer reference, A.4.
"""

from __future__ import annotations

import base64
import binascii
import functools
import zlib
from typing import Final

from ..errors import ConfigurationError

__all__ = ["MAX_PRINCIPAL_BYTES", "from_text", "to_text"]

MAX_PRINCIPAL_BYTES: Final = 29
_MAX_TEXT_CHARACTERS: Final = 63


def to_text(principal: bytes) -> str:
    """
    Return the text form of *principal*.

    Raises:
        ConfigurationError: More than 29 bytes.
    """
    if len(principal) > MAX_PRINCIPAL_BYTES:
        raise ConfigurationError(f"a principal has at most {MAX_PRINCIPAL_BYTES} bytes, not {len(principal)}")
    data = zlib.crc32(principal).to_bytes(4, "big") + principal
    text = base64.b32encode(data).decode("ascii").rstrip("=").lower()
    return "-".join(text[start : start + 5] for start in range(0, len(text), 5))


@functools.lru_cache(maxsize=1024)
def from_text(text: str) -> bytes:
    """
    Return the bytes of a principal in text form.

    Only the canonical spelling is accepted: lower case, hyphens in their places, right checksum.

    Raises:
        ConfigurationError: *text* is not a principal.
    """
    if len(text) > _MAX_TEXT_CHARACTERS or not text.isascii():
        raise ConfigurationError("a principal's text has at most 63 ASCII characters")
    plain = text.replace("-", "").upper()
    try:
        data = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except binascii.Error as error:
        raise ConfigurationError(f"{text!r} is not the base32 text of a principal") from error
    if len(data) < 4:
        raise ConfigurationError(f"{text!r} is too short to be a principal")
    principal = data[4:]
    if len(principal) > MAX_PRINCIPAL_BYTES or to_text(principal) != text:
        raise ConfigurationError(f"{text!r} is not a principal in canonical form: checksum or spelling is wrong")
    return principal
