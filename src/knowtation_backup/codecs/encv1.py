r"""
``enc-v1``, the passphrase envelope of AgentVault: one AES-256-GCM message in one JSON text.

::

    {
      "version": "enc-v1",
      "algorithm": "aes-256-gcm",
      "kdf": "pbkdf2-sha256",
      "iterations": 210000,
      "salt": 16 bytes, "iv": 12, "tag": 16, "ciphertext": as long as the plaintext; all standard base64
    }

Key = PBKDF2-HMAC-SHA256 over the passphrase's UTF-8, 32 bytes; no associated data. Written in this order, indented by
two spaces, without a final newline, as AgentVault does; read with any order and white space. What AgentVault records as
``encryptedZipSha256`` is the SHA-256 of the text, so it is the digest of the stored blob.

The tag stands before the ciphertext and covers all of it, so a message is held in memory, within a limit. For large
data KTB2 or age are the better formats.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADDecryptionContext, Cipher, algorithms, modes

from .._checks import between
from ..contracts import EncryptionCodec, ReadBlob
from ..errors import (
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from ..model.manifest import CodecSpec
from ._whole import PIECE_BYTES, collect
from .keys import Passphrase

__all__ = ["MIN_ITERATIONS", "EncV1Codec", "EncV1Options"]

MIN_ITERATIONS: Final = 210_000
"""What AgentVault writes; OWASP's figure for PBKDF2 with SHA-512, and the least we accept."""

_MAX_ITERATIONS: Final = 10_000_000
_VERSION: Final = "enc-v1"
_ALGORITHM: Final = "aes-256-gcm"
_KDF: Final = "pbkdf2-sha256"
_SALT_BYTES: Final = 16
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16
_MAX_MEMBERS: Final = 64  # eight are written
_ENVELOPE_BYTES: Final = 64 << 10  # everything but the ciphertext; written ones have some 200 bytes
_BASE64_PIECE: Final = PIECE_BYTES // 3 * 4

_WHITE: Final = b" \t\r\n"
_SPACE: Final = rb"[ \t\r\n]*+"
_START = re.compile(_SPACE + rb"\{" + _SPACE)
# A value is text without escapes but the slash's, which some writers escape in base64, or an integer. Every repetition
# is possessive: hostile texts cost one pass.
_MEMBER = re.compile(
    rb'"([A-Za-z0-9_-]{1,64})"' + _SPACE + rb":" + _SPACE
    + rb'(?:"((?:[^"\\\x00-\x1f]++|\\/)*+)"|(-?(?:0|[1-9][0-9]{0,19})))' + _SPACE
)  # fmt: skip
_NEXT = re.compile(rb"," + _SPACE)
_END = re.compile(rb"\}" + _SPACE)


@attrs.frozen(kw_only=True)
class EncV1Options:
    """Bounds of sealing and opening."""

    iterations: int = attrs.field(default=MIN_ITERATIONS, validator=between(MIN_ITERATIONS, _MAX_ITERATIONS))
    """Of PBKDF2, when sealing; AgentVault reads any number, and itself writes the default."""
    min_iterations: int = attrs.field(default=MIN_ITERATIONS, validator=between(1, _MAX_ITERATIONS))
    """Files with fewer are refused: their passphrase is cheap to guess, and AgentVault writes none."""
    max_iterations: int = attrs.field(default=_MAX_ITERATIONS, validator=between(MIN_ITERATIONS, 1 << 31))
    """Files with more are refused: they would keep a processor busy for hours. The default takes some seconds."""
    limit_bytes: int = attrs.field(default=256 << 20, validator=between(1 << 10, 1 << 32))
    """Largest plaintext. Sealing holds as much in memory, opening 4/3 of it."""


class EncV1Codec(EncryptionCodec):
    """Seals and opens ``enc-v1`` files with one passphrase."""

    def __init__(self, passphrase: Passphrase, options: EncV1Options | None = None) -> None:
        self._passphrase = passphrase
        self._options = options or EncV1Options()

    def __repr__(self) -> str:
        """Return the class alone: a passphrase has no id."""
        return "EncV1Codec()"

    @property
    def spec(self) -> CodecSpec:
        """``enc-v1``, without key ids."""
        return CodecSpec(name=_VERSION)

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """
        Yield the JSON text, in pieces, once everything was read.

        Raises:
            ConfigurationError: More than ``limit_bytes`` (kind ``payload_too_large``).
        """
        salt, iv = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_IV_BYTES)
        key = self._derive(salt, self._options.iterations)
        encryptor = Cipher(algorithms.AES(key), modes.GCM(iv)).encryptor()
        sealed = bytearray()
        for chunk in chunks:
            if len(sealed) + len(chunk) > self._options.limit_bytes:
                limit = self._options.limit_bytes
                message = f"{_VERSION} holds the whole message in memory; this payload has more than {limit} bytes"
                hint = "seal large data with KTB2 or age, or raise EncV1Options.limit_bytes"
                raise ConfigurationError(message, kind="payload_too_large", hint=hint, limit_bytes=limit)
            sealed += encryptor.update(chunk)
        sealed += encryptor.finalize()
        members = {
            "version": _VERSION,
            "algorithm": _ALGORITHM,
            "kdf": _KDF,
            "iterations": self._options.iterations,
            "salt": base64.b64encode(salt).decode(),
            "iv": base64.b64encode(iv).decode(),
            "tag": base64.b64encode(encryptor.tag).decode(),
            "ciphertext": "",
        }
        yield json.dumps(members, indent=2).encode().removesuffix(b'"\n}')
        view = memoryview(sealed)
        for start in range(0, len(view), PIECE_BYTES // 3 * 3):
            yield base64.b64encode(view[start : start + PIECE_BYTES // 3 * 3])
        yield b'"\n}'

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """
        Yield the plaintext in pieces, after all of it was authenticated.

        Raises:
            UnsupportedFormatError: Not an ``enc-v1`` text (``bad_magic``), another version, algorithm or key
                derivation, or more than ``limit_bytes`` (``payload_too_large``).
            DecryptionError: Iterations out of bounds (``weak_parameters``, ``excessive_parameters``).
            TruncatedError: The text ends early.
            IntegrityError: The text is not as documented (``bad_envelope``).
            TamperedError: Wrong passphrase, or changed bytes; nothing was released.
        """
        limit = self._options.limit_bytes
        text = collect(read(), -(-limit // 3) * 4 + _ENVELOPE_BYTES)
        if text is None:
            message = f"this {_VERSION} file holds more than {limit} bytes, which would have to be in memory"
            hint = "raise EncV1Options.limit_bytes if the file is genuine"
            raise UnsupportedFormatError(message, kind="payload_too_large", hint=hint, limit_bytes=limit)
        envelope = _Envelope.parse(text)
        self._check_iterations(envelope.iterations)
        key = self._derive(envelope.salt, envelope.iterations)
        # Twice: nothing may be released before the tag held, and the plaintext beside the text would double the memory.
        decryptor = _decryptor(key, envelope)
        for piece in envelope.ciphertext():
            decryptor.update(piece)
        _finish(decryptor, envelope)
        decryptor = _decryptor(key, envelope)
        for piece in envelope.ciphertext():
            yield decryptor.update(piece)

    def _check_iterations(self, iterations: int) -> None:
        least, most = self._options.min_iterations, self._options.max_iterations
        if iterations < least:
            message = f"the passphrase is stretched by {iterations} iterations, fewer than {least}"
            hint = "somebody may have weakened the file; EncV1Options.min_iterations accepts it"
            raise DecryptionError(message, kind="weak_parameters", hint=hint, iterations=iterations)
        if iterations > most:
            message = f"the passphrase is stretched by {iterations} iterations, more than {most}"
            hint = "raise EncV1Options.max_iterations if the file is genuine"
            raise DecryptionError(message, kind="excessive_parameters", hint=hint, iterations=iterations)

    def _derive(self, salt: bytes, iterations: int) -> bytes:
        return hashlib.pbkdf2_hmac("sha256", self._passphrase.text.encode(), salt, iterations, 32)


@attrs.frozen(kw_only=True)
class _Envelope:
    """What a text says, the ciphertext still as base64 in it."""

    iterations: int
    salt: bytes
    iv: bytes
    tag: bytes
    encoded: memoryview

    @classmethod
    def parse(cls, text: bytearray) -> _Envelope:
        texts, numbers = _members(text)
        if "version" not in texts:
            raise _foreign("it is a JSON object without a version")
        for name, wanted in (("version", _VERSION), ("algorithm", _ALGORITHM), ("kdf", _KDF)):
            found = bytes(_get(texts, name)[:80]).decode("utf-8", "replace")
            if found != wanted:
                message = f"the {name} is {found!r}; this release reads {wanted!r}"
                raise UnsupportedFormatError(message, hint="was it written by a newer AgentVault?")
        if "iterations" not in numbers:
            raise _malformed("iterations is missing or no whole number")
        return cls(
            iterations=numbers["iterations"],
            salt=_exactly(texts, "salt", _SALT_BYTES),
            iv=_exactly(texts, "iv", _IV_BYTES),
            tag=_exactly(texts, "tag", _TAG_BYTES),
            encoded=_get(texts, "ciphertext"),
        )

    def ciphertext(self) -> Iterator[bytes]:
        """Yield the ciphertext in pieces."""
        last = max(len(self.encoded) - _BASE64_PIECE, 0)
        for start in range(0, len(self.encoded), _BASE64_PIECE):
            yield _decoded("ciphertext", self.encoded[start : start + _BASE64_PIECE], whole=start >= last)


def _members(text: bytearray) -> tuple[dict[str, memoryview], dict[str, int]]:
    """
    Return the members of a flat JSON object, texts and integers apart.

    A scanner of our own: the ciphertext must not be copied into other forms, and a repeated name must not pass.
    """
    start = _START.match(text)
    if start is None and text.strip(_WHITE):
        raise _foreign(f"it starts with {bytes(text[:4]).hex()}")
    if start is None or not text[-_ENVELOPE_BYTES:].rstrip(_WHITE).endswith(b"}"):
        raise TruncatedError(f"this {_VERSION} file ends early", hint="use another copy", size_bytes=len(text))
    texts: dict[str, memoryview] = {}
    numbers: dict[str, int] = {}
    position = start.end()
    while True:
        member = _MEMBER.match(text, position)
        if member is None:
            raise _malformed(f"offset {position} is not the start of a member with a text or a whole number")
        name = member[1].decode()
        if name in texts or name in numbers:
            raise _malformed(f"{name!r} comes twice")
        if len(texts) + len(numbers) == _MAX_MEMBERS:
            raise _malformed(f"it has more than {_MAX_MEMBERS} members")
        if member[3] is not None:
            numbers[name] = int(member[3])
        else:
            value = memoryview(text)[member.start(2) : member.end(2)]
            escaped = text.find(b"\\", member.start(2), member.end(2)) >= 0
            texts[name] = memoryview(bytes(value).replace(b"\\/", b"/")) if escaped else value
        following = _NEXT.match(text, member.end())
        if following is None:
            break
        position = following.end()
    end = _END.match(text, member.end())
    if end is None or end.end() != len(text):
        raise _malformed(f"offset {member.end()} is not the end of the object")
    return texts, numbers


def _get(texts: Mapping[str, memoryview], name: str) -> memoryview:
    if name not in texts:
        raise _malformed(f"{name} is missing or no text")
    return texts[name]


def _exactly(texts: Mapping[str, memoryview], name: str, size_bytes: int) -> bytes:
    value = _get(texts, name)
    decoded = _decoded(name, value, whole=True) if len(value) <= 64 else b""
    if len(decoded) != size_bytes:
        raise _malformed(f"{name} is not {size_bytes} bytes in base64")
    return decoded


def _decoded(name: str, value: memoryview, *, whole: bool) -> bytes:
    """Return the bytes of standard base64; padding is allowed where the value ends only."""
    try:
        decoded = binascii.a2b_base64(value, strict_mode=True)
    except binascii.Error as error:
        raise _malformed(f"{name} is not base64") from error
    # One spelling per value, lest a text be changed without anybody noticing; and no padding in the middle.
    if binascii.b2a_base64(decoded, newline=False) != bytes(value) or (len(decoded) % 3 and not whole):
        raise _malformed(f"{name} is not canonical base64")
    return decoded


def _decryptor(key: bytes, envelope: _Envelope) -> AEADDecryptionContext:
    return Cipher(algorithms.AES(key), modes.GCM(envelope.iv)).decryptor()


def _finish(decryptor: AEADDecryptionContext, envelope: _Envelope) -> None:
    try:
        decryptor.finalize_with_tag(envelope.tag)
    except InvalidTag as error:
        message = "the tag does not match: wrong passphrase, or the sealed bytes were changed"
        hint = "try the other passphrases you have; if none fits, use another copy"
        raise TamperedError(message, hint=hint) from error


def _foreign(reason: str) -> UnsupportedFormatError:
    message = f"these bytes are not an {_VERSION} file: {reason}"
    return UnsupportedFormatError(message, kind="bad_magic", hint="is this file sealed at all?")


def _malformed(reason: str) -> IntegrityError:
    message = f"this {_VERSION} file is not as documented: {reason}"
    return IntegrityError(message, kind="bad_envelope", hint="use another copy")
