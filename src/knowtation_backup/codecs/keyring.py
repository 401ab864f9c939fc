"""
A ring of keys that opens whatever they fit: KTB1, KTB2, enc-v1 and age.

A host that reads needs keys, not settings: the manifest says which format and key an archive wants, and a file without
a manifest shows its format in its first bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from .._engine.chunking import stopping
from ..contracts import EncryptionCodec, ReadBlob
from ..errors import (
    ConfigurationError,
    DecryptionError,
    NoMatchingKeyError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from ..model.manifest import CodecSpec
from .age import AgeCodec, AgeOptions
from .age_keys import AgeIdentity
from .encv1 import EncV1Codec, EncV1Options
from .keys import EncryptionKey, Passphrase, PrivateKey
from .ktb1 import Ktb1Codec
from .ktb2 import Ktb2Codec

__all__ = ["Keyring", "RingKey"]

RingKey: TypeAlias = EncryptionKey | Passphrase | PrivateKey | AgeIdentity
"""What a ring can hold."""

_KTB1: Final = "ktb1"
_KTB2: Final = "ktb2"
_ENC_V1: Final = "enc-v1"
_AGE: Final = "age"
_MAGIC: Final = {b"KTB1": _KTB1, b"KTB2": _KTB2, b"{": _ENC_V1, b"age-encryption.org/": _AGE, b"-----BEGIN AGE": _AGE}
_HEAD_BYTES: Final = max(map(len, _MAGIC))
_WHITE: Final = b" \t\r\n"
_MAX_WHITE_BYTES: Final = 1 << 16


class Keyring(EncryptionCodec):
    """
    Opens what any of its keys opens, and seals nothing.

    ===================  ======================
    key                  opens
    ===================  ======================
    `EncryptionKey`      KTB1, KTB2
    `PrivateKey`         KTB2
    `AgeIdentity`        age
    `Passphrase`         KTB2, enc-v1, age
    ===================  ======================

    Where the key ids of a manifest leave a choice, and in files without a manifest, keys are tried one after the other:
    for KTB1 and enc-v1 each costs a pass over the whole file, because their files do not name a key.

    Args:
        keys: Of any kinds, in the order to try them.
        encv1: Bounds of enc-v1 files; `None` means the defaults.
        age: Bounds of age files with a passphrase; `None` means the defaults.

    Raises:
        ConfigurationError: A value that opens nothing (``bad_ring_key``).
    """

    suffix = ""

    def __init__(
        self, keys: RingKey | Iterable[RingKey], *, encv1: EncV1Options | None = None, age: AgeOptions | None = None
    ) -> None:
        self.keys: tuple[RingKey, ...] = _checked(keys)
        self._encv1 = encv1
        self._age = age

    def __repr__(self) -> str:
        """Return class and keys, which show their ids."""
        return f"Keyring({list(self.keys)!r})"

    @property
    def spec(self) -> CodecSpec:
        """``keyring`` and the ids of its keys; in no manifest, because nothing is sealed with it."""
        return CodecSpec(name="keyring", key_ids=_ids(self.keys))

    @property
    def opens(self) -> tuple[CodecSpec, ...]:
        """Every format, each with the ids of the keys for it."""
        return tuple(CodecSpec(name=name, key_ids=_ids(self._keys_for(name))) for name in (_KTB1, _KTB2, _ENC_V1, _AGE))

    def for_spec(self, spec: CodecSpec) -> EncryptionCodec | None:
        """Return the codec that opens what *spec* describes with keys of this ring, `None` when none of them fits."""
        keys = self._keys_for(spec.name)
        if spec.key_ids:
            # Passphrases have no id, so that those of one that opens it need not be among those named.
            keys = [key for key in keys if isinstance(key, Passphrase) or key.key_id in spec.key_ids]
        codecs = self._codecs(spec.name, keys)
        return _EachInTurn(codecs) if len(codecs) > 1 else next(iter(codecs), None)

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Refuse: a ring says with what to open, not how to seal."""
        del chunks
        message = "a keyring opens and does not seal"
        hint = "seal with Ktb2Codec, Ktb1Codec, AgeCodec or EncV1Codec"
        raise ConfigurationError(message, kind="cannot_seal", hint=hint)

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """
        Yield the plaintext of a file without a manifest, whose format its first bytes say.

        Raises:
            UnsupportedFormatError: None of the formats (``bad_magic``).
            NoMatchingKeyError: No key is for this format, or none of them opens it.
            TruncatedError: The file ends early.
            TamperedError: A wrong key, or changed bytes, where the format cannot tell; see each codec.
        """
        with stopping(read()) as stream:
            head = _head(stream)
            name = _format_of(head)
            codec = self.for_spec(CodecSpec(name=name))
            if codec is None:
                message = f"these bytes are sealed with {name}, and no key at hand is for that"
                raise NoMatchingKeyError(message, hint="add the key, passphrase or identity to the ring")
            yield from codec.open(_Resumed(head, stream, read))

    def _keys_for(self, name: str) -> list[RingKey]:
        kinds: dict[str, tuple[type[RingKey], ...]] = {
            _KTB1: (EncryptionKey,),
            _KTB2: (EncryptionKey, PrivateKey, Passphrase),
            _ENC_V1: (Passphrase,),
            _AGE: (AgeIdentity, Passphrase),
        }
        return [key for key in self.keys if isinstance(key, kinds.get(name, ()))]

    def _codecs(self, name: str, keys: Sequence[Any]) -> Sequence[EncryptionCodec]:
        if not keys:
            return ()
        if name == _KTB1:
            return [Ktb1Codec(key) for key in keys]
        if name == _ENC_V1:
            return [EncV1Codec(key, self._encv1) for key in keys]
        if name == _AGE:
            return [AgeCodec(open_with=keys, options=self._age)]
        return [Ktb2Codec(open_with=keys)]


class _EachInTurn(EncryptionCodec):
    """Codecs of one format that releases nothing before all of it verified, tried one after the other."""

    def __init__(self, codecs: Sequence[EncryptionCodec]) -> None:
        self._codecs = codecs
        self.suffix = codecs[0].suffix

    def __repr__(self) -> str:
        return f"_EachInTurn({list(self._codecs)!r})"

    @property
    def spec(self) -> CodecSpec:
        """The format and the ids of all keys."""
        ids = dict.fromkeys(key_id for codec in self._codecs for key_id in codec.spec.key_ids)
        return CodecSpec(name=self._codecs[0].spec.name, key_ids=tuple(ids))

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Seal with the first."""
        return self._codecs[0].seal(chunks)

    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """Yield the plaintext as the first codec has it that opens it."""
        refusal: DecryptionError | None = None
        for codec in self._codecs:
            with stopping(codec.open(read)) as plain:
                try:
                    first = next(plain, None)
                except TamperedError as error:
                    if error.kind != TamperedError.default_kind:
                        raise
                    refusal = error
                    continue
                if first is not None:
                    yield first
                    yield from plain
                return
        message = f"none of the {len(self._codecs)} keys opens it: they are others, or the sealed bytes were changed"
        raise TamperedError(message, hint="add the right key; else use another copy") from refusal


class _Resumed:
    """A `ReadBlob` whose first pass goes on where the format was looked for."""

    def __init__(self, head: bytes, stream: Iterator[bytes], read: ReadBlob) -> None:
        self._first: Iterator[bytes] | None = self._resume(head, stream)
        self._read = read

    @staticmethod
    def _resume(head: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
        yield head
        yield from stream

    def __call__(self) -> Iterator[bytes]:
        first, self._first = self._first, None
        return self._read() if first is None else first


def _checked(keys: Any) -> tuple[RingKey, ...]:
    single = isinstance(keys, (EncryptionKey, Passphrase, PrivateKey, AgeIdentity))
    listed = [keys] if single else list(keys)
    for key in listed:
        if not isinstance(key, (EncryptionKey, Passphrase, PrivateKey, AgeIdentity)):
            message = f"a {type(key).__name__} opens nothing"
            hint = "an EncryptionKey, a PrivateKey, an AgeIdentity or a Passphrase"
            raise ConfigurationError(message, kind="bad_ring_key", hint=hint)
    return tuple(dict.fromkeys(listed))


def _ids(keys: Iterable[RingKey]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key.key_id for key in keys if not isinstance(key, Passphrase)))


def _head(stream: Iterator[bytes]) -> bytes:
    head = b""
    for chunk in stream:
        head += chunk
        if len(head.lstrip(_WHITE)) >= _HEAD_BYTES or len(head) > _MAX_WHITE_BYTES:
            break
    return head


def _format_of(head: bytes) -> str:
    for magic, name in _MAGIC.items():
        if (head.lstrip(_WHITE) if name == _ENC_V1 else head).startswith(magic):
            return name
    if any(magic.startswith(head) for magic in _MAGIC):
        raise TruncatedError(
            f"{len(head)} bytes are too few to be sealed", hint="use another copy", size_bytes=len(head)
        )
    message = f"these bytes are not sealed in a known format: they start with {head[:4].hex()}"
    raise UnsupportedFormatError(message, kind="bad_magic", hint="is this file sealed at all?")
