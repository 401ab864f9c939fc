"""
Files of age (age-encryption.org/v1), which the program ``age`` and many others read and write. Extra ``age``.

The format is that of the package `pyrage`; what is added here is streaming as generators, key ids, limits and errors.
Binary files are written and read, no armored ones.

A chunk of 64 KiB is released once its own tag held, so what comes before an error is genuine, and only the end of the
iteration without an error says that it was all. Recipients are X25519 or SSH keys: a later quantum computer opens such
files. KTB2 has a hybrid that holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from .._checks import between
from .._engine.chunking import stopping
from ..contracts import EncryptionCodec, ReadBlob
from ..errors import (
    BackupError,
    ConfigurationError,
    DecryptionError,
    NoMatchingKeyError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from ..model.manifest import CodecSpec
from ._turns import in_turns
from ._whole import PIECE_BYTES, collect
from .age_keys import AgeIdentity, AgeRecipient, pyrage
from .keys import Passphrase

__all__ = ["AgeCodec", "AgeIdentity", "AgeOptions", "AgeRecipient", "age_key_check"]

_NAME: Final = "age"
_MAGIC: Final = b"age-encryption.org/v1\n"
_ANY_VERSION: Final = b"age-encryption.org/"
_ARMOR: Final = b"-----BEGIN AGE"
_MAX_HEADER_BYTES: Final = 256 << 10
_HEADER_END = re.compile(rb"\n--- [A-Za-z0-9+/]{43}\n")
_SCRYPT = re.compile(rb"\n-> scrypt [A-Za-z0-9+/]{1,64} ([0-9]{1,3})\n")
_NONCE_BYTES: Final = 16
_TAG_BYTES: Final = 16
_NO_KEY: Final = "No matching keys found"
_NOT_OPENED: Final = "Decryption failed"
_CUT: Final = "truncated"


@attrs.frozen(kw_only=True)
class AgeOptions:
    """Bounds of files that are sealed with a passphrase; those for recipients are streamed and need none."""

    limit_bytes: int = attrs.field(default=256 << 20, validator=between(1 << 10, 1 << 32))
    """Largest plaintext. It is held in memory, sealed and opened at once."""
    max_work_factor: int = attrs.field(default=20, validator=between(10, 30))
    """Files whose scrypt asks for more are refused; each step doubles. 20 takes 1 GiB of memory and some seconds."""


class AgeCodec(EncryptionCodec):
    """
    Seals and opens age files.

    A host that only writes needs recipients and nothing secret. A few MiB of memory whatever the size; with a
    passphrase the whole message, because that is how the package offers it.

    Args:
        seal_to: Recipients (values or texts), each of which will open what is sealed; or one passphrase, alone, as the
            format demands; none for a codec that only opens.
        open_with: Identities and passphrases; by default the passphrase of *seal_to*.
        options: `None` means the defaults.

    Raises:
        ConfigurationError: A value of another kind, a passphrase beside something else (``bad_recipient``), a text that
            is no key (``bad_key_text``), or `pyrage` is not installed (``missing_extra``).
    """

    suffix = ".age"

    def __init__(
        self,
        *,
        seal_to: AgeRecipient | Passphrase | str | Iterable[AgeRecipient | Passphrase | str] = (),
        open_with: AgeIdentity | Passphrase | Iterable[AgeIdentity | Passphrase] | None = None,
        options: AgeOptions | None = None,
    ) -> None:
        pyrage()
        self._options = options or AgeOptions()
        self._seal_to = _sealing_keys(seal_to)
        if open_with is None:
            open_with = [key for key in self._seal_to if isinstance(key, Passphrase)]
        self._identities, self._passphrases = _opening_keys(open_with)

    def __repr__(self) -> str:
        """Return class and keys, which show their ids."""
        return f"AgeCodec(seal_to={list(self._seal_to)!r}, open_with={[*self._identities, *self._passphrases]!r})"

    @property
    def spec(self) -> CodecSpec:
        """``age`` and the ids of the recipients, or of the identities when there are none; passphrases have none."""
        recipients = [key for key in self._seal_to if isinstance(key, AgeRecipient)]
        keys: Sequence[AgeRecipient | AgeIdentity] = recipients if self._seal_to else self._identities
        return CodecSpec(name=_NAME, key_ids=_ids(keys))

    @property
    def opens(self) -> tuple[CodecSpec, ...]:
        """``age`` and the ids of the identities."""
        return (CodecSpec(name=_NAME, key_ids=_ids(self._identities)),)

    def for_spec(self, spec: CodecSpec) -> EncryptionCodec | None:
        """
        Return this codec if it might open what *spec* describes.

        A codec without anything to open with returns itself too, so that opening says what is missing.
        """
        if spec.name != _NAME:
            return None
        unsure = not spec.key_ids or bool(self._passphrases) or not self._identities
        return self if unsure or set(_ids(self._identities)) & set(spec.key_ids) else None

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """
        Yield an age file.

        Raises:
            ConfigurationError: The codec has nobody to seal to (``no_recipient``), or a passphrase and more than
                ``limit_bytes`` (``payload_too_large``).
        """
        if not self._seal_to:
            message = "this codec has no recipient to seal to"
            raise ConfigurationError(message, kind="no_recipient", hint="pass seal_to=")
        first = self._seal_to[0]
        if isinstance(first, Passphrase):
            return self._seal_whole(chunks, first)
        recipients = [key.vendor_key for key in self._seal_to if isinstance(key, AgeRecipient)]
        return in_turns(iter(chunks), lambda reader, writer: pyrage().encrypt_io(reader, writer, recipients))

    def _seal_whole(self, chunks: Iterable[bytes], passphrase: Passphrase) -> Iterator[bytes]:
        limit = self._options.limit_bytes
        text = collect(chunks, limit)
        if text is None:
            message = (
                f"age with a passphrase holds the whole message in memory; this payload has more than {limit} bytes"
            )
            hint = "seal large data with KTB2 or to age recipients, or raise AgeOptions.limit_bytes"
            raise ConfigurationError(message, kind="payload_too_large", hint=hint, limit_bytes=limit)
        yield from _pieces(pyrage().passphrase.encrypt(bytes(text), passphrase.text))

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """
        Yield the plaintext, each chunk once its tag held. One pass.

        Args:
            read: Starts reading the sealed bytes; called once.

        Raises:
            UnsupportedFormatError: Not a binary age file of version 1 (``bad_magic``, ``armored``), or with a
                passphrase and larger than ``limit_bytes`` (``payload_too_large``).
            NoMatchingKeyError: None of the identities or passphrases opens it.
            DecryptionError: scrypt asks for more than ``max_work_factor`` (``excessive_parameters``).
            TamperedError: Header or chunks were changed. A cut within a chunk looks the same.
            TruncatedError: The file ends in the header, or between two chunks.
        """
        with stopping(read()) as stream:
            head, header_bytes = _read_header(stream)
            if _work_factor(head[:header_bytes]) is None:
                yield from self._open_stream(head, stream)
            else:
                self._check_work(head[:header_bytes])
                yield from self._open_whole(head, stream)

    def _open_stream(self, head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
        if not self._identities:
            message = "this age file is for recipients, and no identity was given"
            raise NoMatchingKeyError(message, hint="pass AgeIdentity.from_text(…) in open_with=")
        identities = [identity.vendor_key for identity in self._identities]
        library = pyrage()
        try:
            yield from in_turns(
                _chained(head, stream), lambda reader, writer: library.decrypt_io(reader, writer, identities)
            )
        except library.DecryptError as error:
            raise _header_error(error, given=_ids(self._identities)) from error
        except OSError as error:
            if isinstance(error, BackupError):
                raise  # from the store, and an OSError only by inheritance
            raise _payload_error(error) from error
        # What was read must be all there is; the reader of archives compares its digest at the end.
        if next(filter(None, stream), b""):
            raise TamperedError("something follows the last chunk of the age file", kind="trailing_data")

    def _check_work(self, header: bytes) -> None:
        factor, most = _work_factor(header) or 0, self._options.max_work_factor
        if factor > most:
            message = f"the passphrase is stretched by scrypt with a work factor of {factor}, more than {most}"
            hint = "raise AgeOptions.max_work_factor if the file is genuine"
            raise DecryptionError(message, kind="excessive_parameters", hint=hint, work_factor=factor)

    def _open_whole(self, head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
        if not self._passphrases:
            message = "this age file is sealed with a passphrase, and none was given"
            raise NoMatchingKeyError(message, hint="pass a Passphrase in open_with=")
        limit = self._options.limit_bytes
        # Of each 64 KiB chunk, 16 bytes are its tag.
        sealed = collect(_chained(head, stream), limit + (limit >> 10) + _MAX_HEADER_BYTES)
        if sealed is None:
            message = f"this age file holds more than {limit} bytes, which would have to be in memory"
            hint = "raise AgeOptions.limit_bytes, or open it with the age program"
            raise UnsupportedFormatError(message, kind="payload_too_large", hint=hint, limit_bytes=limit)
        yield from _pieces(_opened(bytes(sealed), self._passphrases))


def age_key_check(
    read: ReadBlob, keys: Iterable[AgeIdentity | Passphrase], *, options: AgeOptions | None = None
) -> tuple[AgeIdentity | Passphrase, ...]:
    """
    Return which of *keys* open an age file, in their order, reading its header only.

    An identity that is returned has authenticated the header. A passphrase costs as much as opening does.

    Raises:
        BackupError: As `AgeCodec.open`, for the header; but no key that fits is an empty tuple.
    """
    with stopping(read()) as stream:
        head, header_bytes = _read_header(stream)
    # An empty message behind the header: only its first tag can be wrong, once the header held.
    head = head[:header_bytes] + bytes(_NONCE_BYTES + _TAG_BYTES)
    found: list[AgeIdentity | Passphrase] = []
    for key in keys:
        codec = AgeCodec(open_with=key, options=options)
        try:
            for _ in codec.open(lambda: iter([head])):
                pass
        except NoMatchingKeyError:
            continue
        except TamperedError as error:
            if error.kind != "tampered":
                raise
        found.append(key)
    return tuple(found)


def _read_header(stream: Iterator[bytes]) -> tuple[bytes, int]:
    """Return what was read, header and nonce at least, and how much of it the header is; at most one chunk more."""
    head = bytearray()
    end = 0
    for chunk in stream:
        looked = max(len(head) - 64, 0)  # the end is one line
        head += chunk
        found = None if end else _HEADER_END.search(head, looked, _MAX_HEADER_BYTES)
        end = found.end() if found else end
        if len(head) >= (end + _NONCE_BYTES if end else _MAX_HEADER_BYTES):
            break
    if not head.startswith(_MAGIC[: len(head)]):
        raise _foreign(bytes(head))
    if end and len(head) >= end + _NONCE_BYTES:
        return bytes(head), end
    if not end and len(head) >= _MAX_HEADER_BYTES:
        message = f"the header of this age file does not end within {_MAX_HEADER_BYTES} bytes"
        raise TamperedError(message, kind="bad_header", hint="use another copy")
    message = f"this age file ends in its header, after {len(head)} bytes"
    raise TruncatedError(message, hint="the file was cut; use another copy", size_bytes=len(head))


def _foreign(head: bytes) -> UnsupportedFormatError:
    if head.startswith(_ARMOR):
        hint = "take off the armor: base64 -d without the first and the last line"
        return UnsupportedFormatError("this age file is armored; binary ones are read", kind="armored", hint=hint)
    if head.startswith(_ANY_VERSION):
        message = f"this age file has the version {head[len(_ANY_VERSION) : 40].split()[:1]!r}; this release reads v1"
        return UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
    message = f"these bytes are not an age file: they start with {head[:4].hex()}"
    return UnsupportedFormatError(message, kind="bad_magic", hint="is this file sealed at all?")


def _work_factor(header: bytes) -> int | None:
    """Return log2 of scrypt's N when a passphrase opens the file, else `None`."""
    found = _SCRYPT.search(header)
    return int(found[1]) if found else None


def _opened(sealed: bytes, passphrases: Iterable[Passphrase]) -> bytes:
    library = pyrage()
    for passphrase in passphrases:
        try:
            opened: bytes = library.passphrase.decrypt(sealed, passphrase.text)
        except library.DecryptError as error:
            if str(error) == _NOT_OPENED:
                continue
            if "MAC" in str(error) or "eader" in str(error):
                raise _header_error(error, given=()) from error
            raise _payload_error(error) from error
        return opened
    message = "none of the passphrases opens this age file"
    raise NoMatchingKeyError(message, hint="try the other passphrases you have; else another copy")


def _header_error(error: Exception, *, given: tuple[str, ...]) -> BackupError:
    if str(error) == _NO_KEY:
        message = f"none of the {len(given)} identities opens this age file: {', '.join(given)}"
        return NoMatchingKeyError(message, hint="use the identity of one of its recipients", given=given)
    message = f"the header of this age file was changed, or is not as documented: {error}"
    return TamperedError(message, kind="header_tampered", hint="use another copy")


def _payload_error(error: Exception) -> BackupError:
    if _CUT in str(error):
        return TruncatedError("this age file ends before its last chunk", hint="the file was cut; use another copy")
    message = "a chunk of this age file does not open: it was changed, or the file was cut within it"
    return TamperedError(message, hint="use another copy")


def _chained(head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from stream


def _pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def _ids(keys: Iterable[AgeRecipient | AgeIdentity]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key.key_id for key in keys))


def _sealing_keys(keys: Any) -> tuple[AgeRecipient | Passphrase, ...]:
    listed = [keys] if isinstance(keys, (AgeRecipient, Passphrase, str)) else list(keys)
    parsed = [AgeRecipient.from_text(key) if isinstance(key, str) else key for key in listed]
    for key in parsed:
        if not isinstance(key, (AgeRecipient, Passphrase)):
            message = f"cannot seal an age file to a {type(key).__name__}"
            hint = "an AgeRecipient, its text, or a Passphrase; of an AgeIdentity, its recipient"
            raise ConfigurationError(message, kind="bad_recipient", hint=hint)
    if any(isinstance(key, Passphrase) for key in parsed) and len(parsed) > 1:
        message = "an age file with a passphrase can have nothing else that opens it"
        raise ConfigurationError(message, kind="bad_recipient", hint="KTB2 can have both")
    return tuple(dict.fromkeys(parsed))


def _opening_keys(keys: Any) -> tuple[tuple[AgeIdentity, ...], tuple[Passphrase, ...]]:
    listed = [keys] if isinstance(keys, (AgeIdentity, Passphrase)) else list(keys)
    for key in listed:
        if not isinstance(key, (AgeIdentity, Passphrase)):
            message = f"cannot open an age file with a {type(key).__name__}"
            hint = "an AgeIdentity or a Passphrase"
            raise ConfigurationError(message, kind="bad_recipient", hint=hint)
    unique = list(dict.fromkeys(listed))
    identities = tuple(key for key in unique if isinstance(key, AgeIdentity))
    return identities, tuple(key for key in unique if isinstance(key, Passphrase))
