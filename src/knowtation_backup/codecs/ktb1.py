r"""
KTB1, the sealed form the Knowtation tools read and write: AES-256-GCM over a whole file.

=======  ======  ==============================================
offset   length  content
=======  ======  ==============================================
0        4       ASCII ``KTB1``
4        12      random IV
16       n       ciphertext, as long as the plaintext; may be 0
16 + n   16      GCM tag
=======  ======  ==============================================

No associated data. Both directions stream in constant memory, up to the 64 GiB - 32 bytes that GCM allows one message
(NIST SP 800-38D, 5.2.1.1). Because the tag comes last, opening reads the bytes twice: the first pass authenticates all
of them and remembers, per piece of 1 MiB, a short code under a key that lives only as long as the call; the second
pass decrypts, and releases a piece only if its code still matches. So nothing is released that the tag did not cover,
even if someone changes the stored bytes between the passes.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADDecryptionContext, Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..contracts import EncryptionCodec, ReadBlob
from ..errors import ConfigurationError, TamperedError, TruncatedError, UnsupportedFormatError
from ..model.manifest import CodecSpec
from .keys import EncryptionKey

__all__ = ["MAX_PLAINTEXT_BYTES", "Ktb1Codec"]

MAX_PLAINTEXT_BYTES: Final = (1 << 36) - 32
"""What AES-GCM allows under one IV."""

_MAGIC: Final = b"KTB1"
_IV_BYTES: Final = 12
_HEAD_BYTES: Final = len(_MAGIC) + _IV_BYTES
_TAG_BYTES: Final = 16
_PIECE_BYTES: Final = 1 << 20


class Ktb1Codec(EncryptionCodec):
    """
    Seals and opens KTB1 files with one key.

    About 2 MiB of memory whatever the size, plus 16 bytes per MiB while opening.
    """

    def __init__(self, key: EncryptionKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        """Return class and key id."""
        return f"Ktb1Codec(key_id={self._key.key_id!r})"

    @property
    def spec(self) -> CodecSpec:
        """``ktb1`` and the key's id."""
        return CodecSpec(name="ktb1", key_ids=(self._key.key_id,))

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """
        Yield header, ciphertext and tag under a fresh random IV.

        Raises:
            ConfigurationError: More than `MAX_PLAINTEXT_BYTES`.
        """
        iv = secrets.token_bytes(_IV_BYTES)
        encryptor = Cipher(algorithms.AES(self._key.raw), modes.GCM(iv)).encryptor()
        yield _MAGIC + iv
        total = 0
        for chunk in chunks:
            total += len(chunk)
            if total > MAX_PLAINTEXT_BYTES:
                message = f"KTB1 seals at most {MAX_PLAINTEXT_BYTES} bytes in one file; this payload has more"
                raise ConfigurationError(message, kind="payload_too_large", hint="back up vaults one by one")
            for offset in range(0, len(chunk), _PIECE_BYTES):
                yield encryptor.update(chunk[offset : offset + _PIECE_BYTES])
        yield encryptor.finalize() + encryptor.tag

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """
        Yield the plaintext in pieces of at most 1 MiB, after all of it was authenticated.

        Args:
            read: Starts reading the sealed bytes; called twice.

        Raises:
            UnsupportedFormatError: No ``KTB1`` magic, or more bytes than the format can hold.
            TruncatedError: Shorter than the 32 bytes of header and tag.
            TamperedError: Wrong key or changed bytes. Raised before any plaintext is released when the bytes were so
                from the start, and before any *changed* byte is when they changed between the two passes.
        """
        codes = _Codes()
        scratch = bytearray(_PIECE_BYTES + _TAG_BYTES)
        with contextlib.closing(_Sealed(read())) as sealed:
            decryptor = self._decryptor(sealed)
            for number, piece in enumerate(sealed.pieces()):
                codes.note(number, piece)
                decryptor.update_into(piece, scratch)  # plaintext nobody may see yet; only the tag counts
            self._check_tag(decryptor, sealed.tag)
        with contextlib.closing(_Sealed(read())) as sealed:
            decryptor = self._decryptor(sealed)
            for number, piece in enumerate(sealed.pieces()):
                codes.check(number, piece)
                yield decryptor.update(piece)
            self._check_tag(decryptor, sealed.tag)

    def _check_tag(self, decryptor: AEADDecryptionContext, tag: bytes) -> None:
        try:
            decryptor.finalize_with_tag(tag)
        except InvalidTag as error:
            key_id = self._key.key_id
            message = f"the tag does not match under key {key_id}: wrong key, or the sealed bytes were changed"
            hint = "try the other keys you have; if none fits, use another copy"
            raise TamperedError(message, hint=hint, key_id=key_id) from error

    def _decryptor(self, sealed: _Sealed) -> AEADDecryptionContext:
        head = sealed.head()
        if not head.startswith(_MAGIC[: len(head)]):
            message = f"these bytes are not a KTB1 file: they start with {head[:4].hex()}, not {_MAGIC.hex()}"
            raise UnsupportedFormatError(message, kind="bad_magic", hint="is this file sealed at all?")
        if len(head) < _HEAD_BYTES:
            raise _too_short(len(head))
        return Cipher(algorithms.AES(self._key.raw), modes.GCM(head[len(_MAGIC) :])).decryptor()


class _Codes:
    """
    Short codes of the pieces of one blob: noted in the first pass, checked in the second.

    GMAC under a random key that nobody else ever sees, several times faster than a hash.
    """

    def __init__(self) -> None:
        self._mac = AESGCM(secrets.token_bytes(32))
        self._noted = bytearray()

    def _code(self, number: int, piece: memoryview) -> bytes:
        return self._mac.encrypt(number.to_bytes(_IV_BYTES, "big"), b"", piece)

    def note(self, number: int, piece: memoryview) -> None:
        self._noted += self._code(number, piece)

    def check(self, number: int, piece: memoryview) -> None:
        noted = self._noted[number * _TAG_BYTES : (number + 1) * _TAG_BYTES]
        if not secrets.compare_digest(noted, self._code(number, piece)):
            message = "the sealed bytes changed while they were being opened"
            raise TamperedError(message, kind="changed_while_reading", piece=number)


class _Sealed:
    """A sealed stream cut into header, pieces of one size, and tag, however the chunks fall."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._buffer = memoryview(bytearray(_PIECE_BYTES + _TAG_BYTES))
        self._filled = 0
        self.tag = b""
        """Valid once `pieces` is exhausted."""

    def close(self) -> None:
        """Stop reading."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def _fill(self, size_bytes: int) -> None:
        """Have *size_bytes* in the buffer, fewer only when there are no more."""
        while self._filled < size_bytes:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return
                self._rest = memoryview(chunk)
            taken = min(len(self._rest), size_bytes - self._filled)
            self._buffer[self._filled : self._filled + taken] = self._rest[:taken]
            self._rest = self._rest[taken:]
            self._filled += taken

    def head(self) -> bytes:
        """Return the first 16 bytes, fewer only when there are no more."""
        self._fill(_HEAD_BYTES)
        head = bytes(self._buffer[: self._filled])
        self._filled = 0
        return head

    def pieces(self) -> Iterator[memoryview]:
        """Yield the ciphertext in pieces of 1 MiB, the last one shorter and never empty; each valid until the next."""
        total = 0
        while True:
            self._fill(len(self._buffer))
            if self._filled < _TAG_BYTES:
                raise _too_short(_HEAD_BYTES + self._filled)
            length = self._filled - _TAG_BYTES
            total += length
            if total > MAX_PLAINTEXT_BYTES:
                raise UnsupportedFormatError("these bytes are longer than any KTB1 file", kind="payload_too_large")
            tail = bytes(self._buffer[length : self._filled])
            if not length:
                self.tag = tail
                return
            yield self._buffer[:length]
            self._buffer[:_TAG_BYTES] = tail
            self._filled = _TAG_BYTES


def _too_short(size_bytes: int) -> TruncatedError:
    message = f"a KTB1 file has at least {_HEAD_BYTES + _TAG_BYTES} bytes; this one has {size_bytes}"
    return TruncatedError(message, hint="the file was cut; use another copy", size_bytes=size_bytes)
