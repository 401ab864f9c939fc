"""Random access to a stored KTB2 file: any part of the plaintext, or the proof of any part of the chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from .._engine.chunking import stopping
from ..errors import ConfigurationError, TruncatedError
from ._frames import frames
from ._ktb2_header import PREAMBLE_BYTES, FileKey, Header, parse_header, parse_preamble
from ._ktb2_payload import TAG_BYTES, Payload

__all__ = ["Ktb2Reader", "ReadRange"]

ReadRange = Callable[[int, int], Iterator[bytes]]
"""Reads ``[start, start + size)`` of the stored bytes; called with start and size."""

_HEAD_BYTES: Final = 8 * 1024
"""Read at first: enough for the header of a few recipients, so that one request suffices."""


class Ktb2Reader:
    """
    One stored file, opened anywhere. Made by `Ktb2Codec.reader`; several threads may use one.

    A part alone proves nothing about the others. `size_bytes` follows from the stored size, which a store can
    misstate or a cut can change; reading up to the end, and `verify`, prove it.
    """

    def __init__(self, read_range: ReadRange, size_bytes: int, unwrap: Callable[[Header], FileKey]) -> None:
        if size_bytes < 0:
            raise ConfigurationError(f"no file has {size_bytes} bytes", kind="bad_range")
        self._read_range = read_range
        self._stored_bytes = size_bytes
        head = self._fetch(0, min(size_bytes, _HEAD_BYTES))
        wanted = parse_preamble(head[:PREAMBLE_BYTES])
        if len(head) < wanted:
            head += self._fetch(len(head), min(size_bytes, wanted) - len(head))
        self._header = parse_header(head)
        self._head_bytes_read = len(head)
        self._payload = Payload(self._header, unwrap(self._header))
        stored = size_bytes - self._header.size_bytes
        self._count = max(1, -(-stored // self._payload.frame_bytes))
        last_bytes = stored - (self._count - 1) * self._payload.frame_bytes
        self._payload.check_frame(self._count - 1, last_bytes, last=True)
        self.size_bytes: int = stored - self._count * TAG_BYTES
        """Of the plaintext, provided the stored size is right."""

    def _fetch(self, start: int, size_bytes: int) -> bytes:
        data = b"".join(self._read_range(start, size_bytes)) if size_bytes else b""
        if len(data) != size_bytes:
            raise self._other_size(start, size_bytes, len(data))
        return data

    def _other_size(self, start: int, size_bytes: int, got: int) -> TruncatedError:
        message = f"the store gave {got} of the {size_bytes} bytes from {start} of a file of {self._stored_bytes}"
        return TruncatedError(message, hint="was the file replaced meanwhile? ask for its size again")

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """
        Yield the plaintext ``[start, start + length)``, less where the file ends earlier.

        Reads the chunks that hold it and no others. Whoever asks for bytes at or beyond the end is answered from the
        authenticated last chunk, and not from the stored size.

        Raises:
            ConfigurationError: A negative offset or length.
            TamperedError: A chunk does not verify.
            TruncatedError: The file does not end with its last chunk.
        """
        if start < 0 or length < 0:
            message = f"cannot read {length} bytes from offset {start} of a KTB2 file"
            raise ConfigurationError(message, kind="bad_range")
        return self._read(start, length)

    def _read(self, start: int, length: int) -> Iterator[bytes]:
        if not length:
            return
        chunk_bytes = self._header.chunk_bytes
        first = min(start // chunk_bytes, self._count - 1)
        stop = min(-(-(start + length) // chunk_bytes), self._count)
        with stopping(self._chunks(first, stop)) as chunks:
            for number, plain in enumerate(chunks, first):
                offset = number * chunk_bytes
                part = plain[max(0, start - offset) : start + length - offset]
                if part:
                    yield part

    def _chunks(self, first: int, stop: int) -> Iterator[bytes]:
        """Yield the plaintext of the chunks *first* to before *stop*, of which there is at least one."""
        frame_bytes = self._payload.frame_bytes
        start = self._header.size_bytes + first * frame_bytes
        end = min(self._header.size_bytes + stop * frame_bytes, self._stored_bytes)
        got = 0
        with stopping(self._read_range(start, end - start)) as pieces:
            for number, (frame, _) in enumerate(frames(pieces, frame_bytes), first):
                got += len(frame)
                last = number == self._count - 1
                expected = min(frame_bytes, end - (start + (number - first) * frame_bytes))
                if number >= stop or len(frame) != expected:
                    raise self._other_size(start, end - start, got)
                yield self._payload.open_one(number, frame, last=last)
        if got != end - start:
            raise self._other_size(start, end - start, got)

    def verify(self, part: int = 1, of: int = 1) -> int:
        """
        Authenticate one part of the chunks, and the last one, which says that the file is whole.

        Parts are ranges of neighbouring chunks, so that one is one request; all parts together are all chunks.

        Args:
            part: From 1 to *of*.
            of: How many parts.

        Returns:
            Stored bytes that were read, with the header.

        Raises:
            ConfigurationError: No such part.
            TamperedError: A chunk does not verify.
            TruncatedError: The file does not end with its last chunk.
        """
        if not 1 <= part <= of:
            raise ConfigurationError(f"part {part} of {of} does not exist", kind="bad_sample")
        first, stop = (self._count * (part - 1)) // of, (self._count * part) // of
        total = self._head_bytes_read
        ranges = [(first, stop), (max(stop, self._count - 1), self._count)]
        for begin, end in ranges:
            if begin < end:
                total += sum(len(plain) + TAG_BYTES for plain in self._chunks(begin, end))
        return total
