"""
The chunks of a KTB2 file: numbered, the last one marked, each with a tag of its own.

See the format page, ``docs/reference/ktb2.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import ConfigurationError, TamperedError, TruncatedError, UnsupportedFormatError
from ._frames import frames
from ._ktb2_header import FileKey, Header

__all__ = ["MAX_CHUNKS", "TAG_BYTES", "Payload"]

MAX_CHUNKS: Final = 1 << 32
"""Messages under one AES-GCM key (NIST SP 800-38D)."""

TAG_BYTES: Final = 16
_COUNTER_BYTES: Final = 11


class Payload:
    """Seals and opens the chunks of one file. Several threads may use one."""

    def __init__(self, header: Header, file_key: FileKey) -> None:
        self._cipher = AESGCM(file_key.payload_key(header))
        self._chunk_bytes = header.chunk_bytes
        self.frame_bytes = header.chunk_bytes + TAG_BYTES
        """Stored size of a full chunk."""

    def seal(self, plain: Iterable[bytes]) -> Iterator[bytes]:
        """
        Yield the stored chunks of a plaintext.

        Raises:
            ConfigurationError: More than `MAX_CHUNKS`.
        """
        encrypt = self._cipher.encrypt
        for number, (chunk, last) in enumerate(frames(plain, self._chunk_bytes)):
            if number >= MAX_CHUNKS:
                message = f"a KTB2 file has at most {MAX_CHUNKS} chunks; this payload needs more"
                raise ConfigurationError(message, kind="payload_too_large", hint="choose larger chunks")
            yield encrypt(_nonce(number, last=last), chunk, None)

    def open(self, sealed: Iterable[bytes | memoryview]) -> Iterator[tuple[memoryview, bytes]]:
        """
        Yield stored chunks with their plaintext, each only after its tag held; the stored ones until the next is due.

        Raises:
            TamperedError: A tag does not hold, or bytes follow the last chunk.
            TruncatedError: The last chunk is missing.
        """
        decrypt = self._cipher.decrypt
        for number, (frame, last) in enumerate(frames(sealed, self.frame_bytes)):
            self.check_frame(number, len(frame), last=last)
            try:
                plain = decrypt(_nonce(number, last=last), frame, None)
            except InvalidTag:
                plain = b""
            else:
                yield frame, plain
                continue
            yield from self._genuine_elsewhere(number, frame, last=last)
            raise self._refusal(number, frame, last=last)

    def open_one(self, number: int, frame: memoryview, *, last: bool) -> bytes:
        """
        Return the plaintext of one chunk.

        Raises:
            TamperedError: Its tag does not hold.
            TruncatedError: It should be the last and is another one.
        """
        try:
            return self._cipher.decrypt(_nonce(number, last=last), frame, None)
        except InvalidTag:
            pass  # says nothing that the refusal does not
        raise self._refusal(number, frame, last=last)

    def check_frame(self, number: int, size_bytes: int, *, last: bool) -> None:
        """
        Refuse what can be no chunk, whatever its tag.

        Raises:
            TruncatedError: Too short.
            UnsupportedFormatError: More chunks than the format can have.
        """
        if last and size_bytes <= TAG_BYTES and not (number == 0 and size_bytes == TAG_BYTES):
            message = f"this KTB2 file ends with {size_bytes} bytes where chunk {number} should be"
            raise TruncatedError(message, hint="the file was cut; use another copy", chunk=number)
        if number >= MAX_CHUNKS:
            raise UnsupportedFormatError("these bytes are longer than any KTB2 file", kind="payload_too_large")

    def _genuine_elsewhere(self, number: int, frame: memoryview, *, last: bool) -> Iterator[tuple[memoryview, bytes]]:
        """Yield a chunk that is genuine and right up to here, though what follows it, or does not, is wrong."""
        if len(frame) == self.frame_bytes:
            try:
                plain = self._cipher.decrypt(_nonce(number, last=not last), frame, None)
            except InvalidTag:
                return
            yield frame, plain

    def _refusal(self, number: int, frame: memoryview, *, last: bool) -> TamperedError | TruncatedError:
        if any(True for _ in self._genuine_elsewhere(number, frame, last=last)):
            if last:
                message = f"this KTB2 file ends after chunk {number}, which is not its last"
                return TruncatedError(message, hint="the file was cut; use another copy", chunk=number)
            message = f"bytes follow chunk {number} of this KTB2 file, which is its last"
            return TamperedError(message, kind="trailing_data", hint="use another copy", chunk=number)
        what = "was changed, or the file was cut within it" if last else "was changed"
        message = f"chunk {number} of this KTB2 file {what}: its tag does not match"
        return TamperedError(message, hint="use another copy", chunk=number)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(_COUNTER_BYTES, "big") + (b"\x01" if last else b"\x00")
