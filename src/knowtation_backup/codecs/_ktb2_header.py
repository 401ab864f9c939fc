"""
What comes before the chunks of a KTB2 file: preamble, slots and header MAC.

Bytes to values and back, within bounds; wrapping and unwrapping of the file key is `_slots`. See the format page,
``docs/reference/ktb2.md``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Final

import attrs
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import TamperedError, TruncatedError, UnsupportedFormatError

__all__ = [
    "CONTEXT",
    "FILE_ID_BYTES",
    "MAC_BYTES",
    "MAX_EXPONENT",
    "MAX_HEADER_BYTES",
    "MAX_SLOTS",
    "MIN_EXPONENT",
    "PREAMBLE_BYTES",
    "FileKey",
    "Header",
    "Slot",
    "derive",
    "parse_header",
    "parse_preamble",
    "read_header",
]

PREAMBLE_BYTES: Final = 32
MAC_BYTES: Final = 32
FILE_ID_BYTES: Final = 16
MIN_EXPONENT: Final = 12
MAX_EXPONENT: Final = 24
MAX_SLOTS: Final = 64
MAX_SLOTS_BYTES: Final = 256 * 1024
MAX_HEADER_BYTES: Final = PREAMBLE_BYTES + MAX_SLOTS_BYTES + MAC_BYTES

_MAGIC: Final = b"KTB2"
_VERSION: Final = 1
_CIPHER: Final = 1
_SLOT_HEAD_BYTES: Final = 4
CONTEXT: Final = b"knowtation-backup KTB2 v1 "
"""Begins every label of this format, so that no derived key means anything anywhere else."""


def derive(secret: bytes, *, salt: bytes, info: bytes, size_bytes: int = 32) -> bytes:
    """Return HKDF-SHA-256 under this format's context."""
    return HKDF(hashes.SHA256(), size_bytes, salt, CONTEXT + info).derive(secret)


@attrs.frozen
class Slot:
    """The file key wrapped for one key, or something of a later release."""

    type: int
    body: bytes

    def to_bytes(self) -> bytes:
        """Return the stored form."""
        return bytes((self.type, 0)) + len(self.body).to_bytes(2, "big") + self.body


@attrs.frozen
class FileKey:
    """The secret of one file and what is derived from it."""

    raw: bytes = attrs.field(repr=False)

    def header_mac(self, header: Header) -> bytes:
        """Return what authenticates preamble and slots."""
        key = derive(self.raw, salt=header.file_id, info=b"header" + header.parameters)
        return hmac.digest(key, header.authenticated_bytes, "sha256")

    def payload_key(self, header: Header) -> bytes:
        """Return the key of the chunks."""
        return derive(self.raw, salt=header.file_id, info=b"payload" + header.parameters)


@attrs.frozen(kw_only=True)
class Header:
    """Preamble and slots. What was read is not to be believed before `check_mac`."""

    exponent: int
    file_id: bytes
    slots: tuple[Slot, ...]
    mac: bytes = b""

    @property
    def chunk_bytes(self) -> int:
        """Plaintext of a full chunk."""
        return 1 << self.exponent

    @property
    def parameters(self) -> bytes:
        """What the file's derived keys are bound to, beside the file id."""
        return bytes((_VERSION, _CIPHER, self.exponent))

    @property
    def authenticated_bytes(self) -> bytes:
        """All that the MAC covers, as stored."""
        slots = b"".join(slot.to_bytes() for slot in self.slots)
        counts = bytes((len(self.slots),)) + self.file_id + len(slots).to_bytes(4, "big") + bytes(4)
        return _MAGIC + self.parameters + counts + slots

    @property
    def size_bytes(self) -> int:
        """Where the first chunk begins."""
        return PREAMBLE_BYTES + sum(_SLOT_HEAD_BYTES + len(slot.body) for slot in self.slots) + MAC_BYTES

    def sealed_with(self, file_key: FileKey) -> bytes:
        """Return the stored header."""
        return self.authenticated_bytes + file_key.header_mac(self)

    def check_mac(self, file_key: FileKey) -> None:
        """
        Believe the header from here on.

        Raises:
            TamperedError: It is not the one that the holder of the file key wrote.
        """
        if not hmac.compare_digest(self.mac, file_key.header_mac(self)):
            message = "the header of this KTB2 file was changed: its MAC does not match"
            raise TamperedError(message, kind="header_tampered", hint="use another copy")


def parse_preamble(data: bytes) -> int:
    """
    Return the size in bytes of the whole header that *data* begins.

    Raises:
        UnsupportedFormatError: Not KTB2, or of a later release.
        TruncatedError: Shorter than a preamble.
        TamperedError: It contradicts itself.
    """
    if not data.startswith(_MAGIC[: len(data)]):
        message = f"these bytes are not a KTB2 file: they start with {data[:4].hex()}, not {_MAGIC.hex()}"
        raise UnsupportedFormatError(message, kind="bad_magic", hint="is this file sealed at all?")
    if len(data) < PREAMBLE_BYTES:
        raise _cut(len(data), PREAMBLE_BYTES)
    version, cipher, exponent, count = data[4:8]
    if (version, cipher) != (_VERSION, _CIPHER):
        message = f"this KTB2 file has version {version} and cipher {cipher}; this release reads 1 and 1"
        raise UnsupportedFormatError(message, hint="use a newer release")
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT or any(data[28:32]):
        message = f"this KTB2 file has chunks of 2^{exponent} bytes and flags {data[28:32].hex()}; none are known"
        raise UnsupportedFormatError(message, hint="use a newer release")
    slots_bytes = int.from_bytes(data[24:28], "big")
    if not 1 <= count <= MAX_SLOTS or slots_bytes > MAX_SLOTS_BYTES:
        raise _contradiction(f"{count} slots in {slots_bytes} bytes")
    return PREAMBLE_BYTES + slots_bytes + MAC_BYTES


def parse_header(data: bytes) -> Header:
    """
    Return the header that *data* begins with; further bytes are left alone.

    Raises:
        UnsupportedFormatError: Not KTB2, or of a later release.
        TruncatedError: *data* ends before the header does.
        TamperedError: It contradicts itself.
    """
    size_bytes = parse_preamble(data[:PREAMBLE_BYTES])
    if len(data) < size_bytes:
        raise _cut(len(data), size_bytes)
    end = size_bytes - MAC_BYTES
    return Header(
        exponent=data[6],
        file_id=data[8:24],
        slots=tuple(_slots(data[PREAMBLE_BYTES:end], data[7])),
        mac=data[end:size_bytes],
    )


def _slots(data: bytes, count: int) -> Iterator[Slot]:
    offset = 0
    for _ in range(count):
        if offset + _SLOT_HEAD_BYTES > len(data):
            raise _contradiction("a slot begins where none can")
        kind, reserved = data[offset : offset + 2]
        start = offset + _SLOT_HEAD_BYTES
        offset = start + int.from_bytes(data[offset + 2 : start], "big")
        if reserved:
            message = f"a slot of this KTB2 file has flags {reserved}; none are known"
            raise UnsupportedFormatError(message, hint="use a newer release")
        if offset > len(data):
            raise _contradiction("a slot is longer than all of them")
        yield Slot(kind, data[start:offset])
    if offset != len(data):
        raise _contradiction("the slots are shorter than their stated length")


def read_header(pieces: Iterator[bytes]) -> tuple[Header, memoryview]:
    """
    Take a header from a stream; return it and what the last piece held beyond it.

    Raises:
        BackupError: As `parse_header`.
    """
    head = bytearray()
    wanted = PREAMBLE_BYTES
    for piece in pieces:
        rest = memoryview(piece)
        while rest and len(head) < wanted:
            part = rest[: wanted - len(head)]
            head += part
            rest = rest[len(part) :]
            if len(head) == PREAMBLE_BYTES:
                wanted = parse_preamble(bytes(head))
        if len(head) == wanted:
            return parse_header(bytes(head)), rest
    parse_header(bytes(head))  # says what it is that ended too early
    raise _cut(len(head), wanted)


def _cut(size_bytes: int, wanted: int) -> TruncatedError:
    message = f"this KTB2 file ends after {size_bytes} bytes, within its header of {wanted}"
    return TruncatedError(message, hint="the file was cut; use another copy", size_bytes=size_bytes)


def _contradiction(what: str) -> TamperedError:
    message = f"the header of this KTB2 file contradicts itself: {what}"
    return TamperedError(message, kind="bad_header", hint="use another copy")
