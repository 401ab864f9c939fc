"""
KTB2, our container for streams: AES-256-GCM chunk by chunk, for several keys, passphrases and recipients at once.

The bytes are described in ``docs/reference/ktb2.md``. Both directions stream in constant memory and one pass; a chunk
is released once its own tag held. `Ktb2Reader` opens any part of a stored file without the rest; `rewrap` gives a file
other recipients without sealing it again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from .._engine.chunking import stopping
from ..contracts import EncryptionCodec, ReadBlob
from ..errors import ConfigurationError, NoMatchingKeyError
from ..model.manifest import CodecSpec
from ._ktb2_header import FILE_ID_BYTES, MAX_EXPONENT, MAX_SLOTS, MIN_EXPONENT, FileKey, Header, read_header
from ._ktb2_payload import Payload
from ._slots import (
    MAX_PASSPHRASE_SLOTS,
    Argon2Parameters,
    OpeningKey,
    SealingKey,
    SlotInfo,
    describe_slot,
    make_slot,
    unwrap,
)
from .keys import EncryptionKey, Passphrase, PrivateKey, PublicKey
from .ktb2_reader import Ktb2Reader, ReadRange

__all__ = [
    "DEFAULT_CHUNK_BYTES",
    "Argon2Parameters",
    "Ktb2Codec",
    "Ktb2Description",
    "Ktb2Reader",
    "OpeningKey",
    "ReadRange",
    "SealingKey",
    "SlotInfo",
    "describe",
    "key_check",
    "rewrap",
]

DEFAULT_CHUNK_BYTES: Final = 1 << 18

_FILE_KEY_BYTES: Final = 32


class Ktb2Codec(EncryptionCodec):
    """
    Seals KTB2 files to some keys and opens them with others.

    A host that only writes needs public keys and nothing secret. About four chunks of memory whatever the size.

    Args:
        seal_to: Keys, passphrases and public keys, each of which will open what is sealed; none for a codec that only
            opens.
        open_with: Keys, passphrases and private keys; by default those of *seal_to* that work in both directions.
        chunk_bytes: Plaintext per chunk, a power of two from 4 KiB to 16 MiB; what a random access reads at least.
        kdf: What passphrases cost to try; recorded in every file.

    Raises:
        ConfigurationError: A private key to seal to, a public key to open with, too many keys, or a size that is not
            a power of two.
    """

    suffix = ".ktb2"

    def __init__(
        self,
        *,
        seal_to: SealingKey | Iterable[SealingKey] = (),
        open_with: OpeningKey | Iterable[OpeningKey] | None = None,
        chunk_bytes: int = DEFAULT_CHUNK_BYTES,
        kdf: Argon2Parameters | None = None,
    ) -> None:
        self._seal_to = _sealing_keys(seal_to)
        if open_with is None:
            open_with = [key for key in self._seal_to if not isinstance(key, PublicKey)]
        self._open_with = _opening_keys(open_with)
        self._exponent = _exponent(chunk_bytes)
        self._kdf = kdf or Argon2Parameters()

    def __repr__(self) -> str:
        """Return class and keys, which show their ids."""
        return f"Ktb2Codec(seal_to={list(self._seal_to)!r}, open_with={list(self._open_with)!r})"

    @property
    def spec(self) -> CodecSpec:
        """``ktb2`` and the ids of the keys sealed to, or of those at hand if there are none; passphrases have none."""
        keys: Sequence[SealingKey | OpeningKey] = self._seal_to or self._open_with
        return CodecSpec(name="ktb2", key_ids=_ids(keys))

    @property
    def opens(self) -> tuple[CodecSpec, ...]:
        """``ktb2`` and the ids of the keys at hand that open."""
        return (CodecSpec(name="ktb2", key_ids=_ids(self._open_with)),)

    def for_spec(self, spec: CodecSpec) -> EncryptionCodec | None:
        """
        Return this codec if it might open what *spec* describes.

        A codec without any opening key returns itself too, so that opening says what is missing.
        """
        if spec.name != self.spec.name:
            return None
        ours = set(_ids(self._open_with))
        unsure = not spec.key_ids or len(ours) < len(self._open_with) or not self._open_with
        return self if unsure or ours & set(spec.key_ids) else None

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """
        Yield header and chunks under a fresh file key.

        Raises:
            ConfigurationError: The codec has nobody to seal to, or the payload is larger than the format allows.
        """
        if not self._seal_to:
            message = "this codec has no key to seal to"
            raise ConfigurationError(message, kind="no_recipient", hint="pass seal_to=")
        return self._seal(chunks)

    def _seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        file_key = FileKey(secrets.token_bytes(_FILE_KEY_BYTES))
        file_id = secrets.token_bytes(FILE_ID_BYTES)
        header = _header(self._exponent, file_id, file_key, self._seal_to, self._kdf)
        yield header.sealed_with(file_key)
        with stopping(chunks) as plain:
            yield from Payload(header, file_key).seal(plain)

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """
        Yield the plaintext chunk by chunk, each once its tag held. One pass.

        Whatever is found wrong is raised after the chunks before it, so the end of the iteration without an error is
        what says that the plaintext was whole.

        Args:
            read: Starts reading the sealed bytes; called once.

        Raises:
            UnsupportedFormatError: Not KTB2, or of a later release.
            NoMatchingKeyError: None of the keys opens it.
            DecryptionError: A passphrase slot asks for too little or too much.
            TamperedError: Header or chunks were changed, or something follows the last one.
            TruncatedError: The file was cut.
        """
        with stopping(read()) as pieces:
            header, rest = read_header(pieces)
            file_key = self._unwrap(header)
            for _, plain in Payload(header, file_key).open(_chained(rest, pieces)):
                if plain:
                    yield plain

    def _unwrap(self, header: Header) -> FileKey:
        return _unwrapped(header, self._open_with)

    def reader(self, read_range: ReadRange, size_bytes: int) -> Ktb2Reader:
        """
        Return random access to a stored file, with its header read and authenticated.

        Args:
            read_range: Reads ``[start, start + size)`` of the stored bytes, for example
                ``lambda start, size: sink.read(key, start=start, size_bytes=size)``.
            size_bytes: Stored size, as the store says.

        Raises:
            BackupError: As `open`, for the header.
        """
        return Ktb2Reader(read_range, size_bytes, self._unwrap)

    def open_range(self, read_range: ReadRange, size_bytes: int, *, start: int, length: int) -> Iterator[bytes]:
        """
        Yield the plaintext ``[start, start + length)`` of a stored file, reading no other chunks.

        See `reader` for the arguments and `Ktb2Reader.read` for what is raised; use a reader for several ranges.
        """
        return self.reader(read_range, size_bytes).read(start, length)

    def verify_chunks(self, read_range: ReadRange, size_bytes: int, part: int = 1, of: int = 1) -> int:
        """
        Authenticate header, last chunk and one part of the chunks of a stored file; return how many bytes were read.

        See `reader` for the arguments and `Ktb2Reader.verify` for what is raised.
        """
        return self.reader(read_range, size_bytes).verify(part, of)


@attrs.frozen(kw_only=True)
class Ktb2Description:
    """What a header says to anybody, not authenticated."""

    file_id: str
    """Stays the same when a file is re-wrapped."""

    chunk_bytes: int
    header_bytes: int
    slots: tuple[SlotInfo, ...]


def describe(read: ReadBlob) -> Ktb2Description:
    """
    Say what opens a file, from its header alone and without any key.

    Raises:
        UnsupportedFormatError: Not KTB2, or of a later release.
        TruncatedError: The file ends within the header.
        TamperedError: The header contradicts itself.
    """
    header = _read_header(read)
    return Ktb2Description(
        file_id=header.file_id.hex(),
        chunk_bytes=header.chunk_bytes,
        header_bytes=header.size_bytes,
        slots=tuple(describe_slot(slot) for slot in header.slots),
    )


def key_check(read: ReadBlob, keys: OpeningKey | Iterable[OpeningKey]) -> tuple[OpeningKey, ...]:
    """
    Return which of *keys* open a file, in their order, reading its header only.

    A key that is returned has unwrapped the file key and authenticated the header.

    Raises:
        BackupError: As `Ktb2Codec.open`, for the header; but no key that fits is an empty tuple.
    """
    header = _read_header(read)
    found: list[OpeningKey] = []
    for key in _opening_keys(keys):
        with contextlib.suppress(NoMatchingKeyError):
            unwrap(header, [key])
            found.append(key)
    return tuple(found)


def rewrap(
    read: ReadBlob,
    *,
    open_with: OpeningKey | Iterable[OpeningKey],
    seal_to: SealingKey | Iterable[SealingKey],
    kdf: Argon2Parameters | None = None,
) -> Iterator[bytes]:
    """
    Yield a file with the same content for other keys: a new header, and the stored chunks as they are.

    Chunks are authenticated on the way, so that damage does not travel into the copy. The old file still opens for
    whom it was sealed to, and so does the new one for whoever kept its file key: delete the old one, and seal anew
    what must be closed to somebody who had access.

    Args:
        read: Starts reading the sealed bytes; called once.
        open_with: Keys of which one opens the file.
        seal_to: All keys that shall open the new one, not only those that are added.
        kdf: What passphrases cost to try.

    Raises:
        ConfigurationError: Nobody to seal to.
        BackupError: As `Ktb2Codec.open`.
    """
    recipients, keys = _sealing_keys(seal_to), _opening_keys(open_with)
    if not recipients:
        message = "a file without any key that opens it would be lost"
        raise ConfigurationError(message, kind="no_recipient", hint="pass seal_to=")
    return _rewrap(read, keys, recipients, kdf or Argon2Parameters())


def _rewrap(
    read: ReadBlob, keys: Sequence[OpeningKey], recipients: Sequence[SealingKey], kdf: Argon2Parameters
) -> Iterator[bytes]:
    with stopping(read()) as pieces:
        old, rest = read_header(pieces)
        file_key = _unwrapped(old, keys)
        new = _header(old.exponent, old.file_id, file_key, recipients, kdf)
        yield new.sealed_with(file_key)
        for frame, _ in Payload(old, file_key).open(_chained(rest, pieces)):
            yield bytes(frame)


def _header(
    exponent: int, file_id: bytes, file_key: FileKey, keys: Iterable[SealingKey], kdf: Argon2Parameters
) -> Header:
    slots = tuple(make_slot(key, file_key, file_id, kdf) for key in keys)
    return Header(exponent=exponent, file_id=file_id, slots=slots)


def _unwrapped(header: Header, keys: Sequence[OpeningKey]) -> FileKey:
    file_key, _ = unwrap(header, keys)
    return file_key


def _read_header(read: ReadBlob) -> Header:
    with stopping(read()) as pieces:
        header, _ = read_header(pieces)
    return header


def _chained(rest: memoryview, pieces: Iterator[bytes]) -> Iterator[bytes | memoryview]:
    yield rest
    yield from pieces


def _ids(keys: Iterable[SealingKey | OpeningKey]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key.key_id for key in keys if not isinstance(key, Passphrase)))


def _listed(keys: Any) -> list[Any]:
    return list(keys) if isinstance(keys, Iterable) else [keys]


def _sealing_keys(keys: SealingKey | Iterable[SealingKey]) -> tuple[SealingKey, ...]:
    listed = _listed(keys)
    for key in listed:
        if not isinstance(key, (EncryptionKey, Passphrase, PublicKey)):
            message = f"cannot seal to a {type(key).__name__}"
            hint = "an EncryptionKey, a Passphrase or a PublicKey; of a PrivateKey, its public_key"
            raise ConfigurationError(message, kind="bad_recipient", hint=hint)
    listed = list(dict.fromkeys(listed))
    passphrases = sum(isinstance(key, Passphrase) for key in listed)
    if len(listed) > MAX_SLOTS or passphrases > MAX_PASSPHRASE_SLOTS:
        message = f"{len(listed)} keys, {passphrases} of them passphrases, are too many for one file"
        hint = f"at most {MAX_SLOTS} and {MAX_PASSPHRASE_SLOTS}"
        raise ConfigurationError(message, kind="bad_recipient", hint=hint)
    return tuple(listed)


def _opening_keys(keys: OpeningKey | Iterable[OpeningKey]) -> tuple[OpeningKey, ...]:
    listed = _listed(keys)
    for key in listed:
        if not isinstance(key, (EncryptionKey, Passphrase, PrivateKey)):
            message = f"cannot open with a {type(key).__name__}"
            hint = "an EncryptionKey, a Passphrase or a PrivateKey"
            raise ConfigurationError(message, kind="bad_recipient", hint=hint)
    return tuple(dict.fromkeys(listed))


def _exponent(chunk_bytes: int) -> int:
    for exponent in range(MIN_EXPONENT, MAX_EXPONENT + 1):
        if chunk_bytes == 1 << exponent:
            return exponent
    message = f"Ktb2Codec.chunk_bytes is {chunk_bytes!r}"
    hint = f"it must be a power of two from {1 << MIN_EXPONENT:,} to {1 << MAX_EXPONENT:,}"
    raise ConfigurationError(message, kind="bad_option", hint=hint, option="Ktb2Codec.chunk_bytes")
