"""
The keys of a repository: what a writing host needs, what a reading one holds, and how ids are made.

A writer key cannot open content: it has the public half of the repository key. Whoever holds the secrets derives the
writer key from them, so that there is one way to write.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
from blake3 import blake3

from .._checks import between
from ..codecs._key_files import create_private, read_private
from ..codecs.hpke import open_sealed, seal_to
from ..codecs.keys import KeyKind, PrivateKey, PublicKey, key_from_text, key_to_text
from ..errors import BlobExistsError, ConfigurationError, NoMatchingKeyError, TamperedError
from ..model.sections import PAGE_BYTES

__all__ = ["ID_BYTES", "MAX_GENERATION", "ZERO_ID", "ReadKeys", "WriterKey"]

ID_BYTES: Final = 16
"""Of ids of pages, records, pieces and tenants."""
ZERO_ID: Final = bytes(ID_BYTES)
"""The id of a page of zeros."""
MAX_GENERATION: Final = (1 << 16) - 1
"""Of repository keys; files of frames have two bytes for it."""
_SECRET_BYTES: Final = 32
_OWNER_BYTES: Final = 8
_NAMES_CONTEXT: Final = "knowtation-backup repository v1 names"
_VALUES_CONTEXT: Final = "knowtation-backup repository v1 values"
"""Pages and records are hashed without a word of what they are, each under a key of its own."""
_FOUNDING_CONTEXT: Final = b"knowtation-backup repository id v1\x00"
_FIRST: Final = 1
"""The generation a repository begins with."""
_GENERATION_BYTES: Final = 2
_WRITER_HEAD_BYTES: Final = ID_BYTES + _GENERATION_BYTES + 2 * _SECRET_BYTES


def _check_secret(_keys: object, field: attrs.Attribute[bytes], value: object) -> None:
    if not isinstance(value, bytes) or len(value) != _SECRET_BYTES:
        raise ConfigurationError(f"the {field.name} of a repository is {_SECRET_BYTES} bytes", kind="bad_key_length")


def _check_id(_keys: object, _field: attrs.Attribute[bytes], value: object) -> None:
    if not isinstance(value, bytes) or len(value) != ID_BYTES:
        raise ConfigurationError(f"a repository's id is {ID_BYTES} bytes", kind="bad_key_length")


@attrs.frozen(kw_only=True)
class WriterKey:
    """
    What a host needs to write: it recognises what it has seen, and opens no content.

    Secret all the same: it tells what is equal to what, and lists archives. In no ``repr``, error or log.
    """

    repository_id: bytes = attrs.field(validator=_check_id)
    generation: int = attrs.field(validator=between(_FIRST, MAX_GENERATION))
    """Which repository key seals now."""
    public_key: PublicKey
    """Of the repository: seals content."""
    id_key: bytes = attrs.field(repr=False, validator=_check_secret)
    index_key: bytes = attrs.field(repr=False, validator=_check_secret)
    _names_key: bytes = attrs.field(init=False, repr=False, eq=False)
    _values_key: bytes = attrs.field(init=False, repr=False, eq=False)
    zero_hash: bytes = attrs.field(init=False, repr=False, eq=False)
    """What hashing a page of zeros gives; stands for `ZERO_ID`."""

    @_names_key.default
    def _make_names_key(self) -> bytes:
        return blake3(self.id_key, derive_key_context=_NAMES_CONTEXT).digest()

    @_values_key.default
    def _make_values_key(self) -> bytes:
        return blake3(self.id_key, derive_key_context=_VALUES_CONTEXT).digest()

    @zero_hash.default
    def _make_zero_hash(self) -> bytes:
        return blake3(bytes(PAGE_BYTES), key=self.id_key).digest(ID_BYTES)

    def to_text(self) -> str:
        """Return the text form with a checksum, one secret line."""
        head = self.repository_id + self.generation.to_bytes(_GENERATION_BYTES, "big") + self.id_key + self.index_key
        return key_to_text("writer", self.public_key.kind, head + self.public_key.raw)

    @classmethod
    def from_text(cls, text: str) -> WriterKey:
        """
        Parse `to_text`; white space around it is ignored.

        Raises:
            ConfigurationError: Not such a text, or mistyped. The content is not repeated.
        """
        kind, raw = key_from_text("writer", text)
        if len(raw) < _WRITER_HEAD_BYTES:
            raise ConfigurationError("this is no writer key: it is too short", kind="bad_key_text")
        at = ID_BYTES + _GENERATION_BYTES
        return cls(
            repository_id=raw[:ID_BYTES],
            generation=int.from_bytes(raw[ID_BYTES:at], "big"),
            id_key=raw[at : at + _SECRET_BYTES],
            index_key=raw[at + _SECRET_BYTES : _WRITER_HEAD_BYTES],
            public_key=PublicKey(kind=kind, raw=raw[_WRITER_HEAD_BYTES:]),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write a new key file of mode 0600, complete or not at all; one that holds this key already is left alone.

        Raises:
            BlobExistsError: The file is there and holds something else; it is not touched.
            ConfigurationError: It is there and open to others, kind ``key_file_exposed``.
            SinkError: Writing failed.
        """
        text = f"# writes to repository {self.repository_id.hex()}, generation {self.generation}\n{self.to_text()}\n"
        create_private(path, lambda: text)
        if read_private(path) != text:
            message = f"{Path(path).absolute()} is there already, with another content"
            raise BlobExistsError(message, hint="key files are never overwritten; choose another path")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WriterKey:
        """
        Read a key file: `to_text`, after lines that start with ``#``.

        Raises:
            ConfigurationError: The file is open to others than its owner (``key_file_exposed``), or holds no key.
            BlobNotFoundError: There is no such file.
            SinkPermissionError: Reading is refused.
        """
        lines = [line for line in read_private(path).splitlines() if line.strip() and not line.startswith("#")]
        return cls.from_text("\n".join(lines))

    def seal(self, secret: bytes, *, info: bytes) -> bytes:
        """Seal a few bytes to the repository key."""
        return seal_to(self.public_key, secret, info=info)

    def unseal(self, _sealed: bytes, *, info: bytes, generation: int) -> bytes:  # noqa: ARG002 - the reader's signature
        """
        Refuse.

        Raises:
            NoMatchingKeyError: Always: a writer key opens no content.
        """
        message = "content opens with the repository's private key; at hand: a writer key"
        raise NoMatchingKeyError(message, hint="open the repository with the key of a recipient", generation=generation)

    def page_id(self, page: bytes | memoryview) -> bytes:
        """Return the id of one page that is not all zeros."""
        return blake3(page, key=self.id_key).digest(ID_BYTES)

    def page_ids(self, pages: memoryview) -> list[bytes]:
        """Return the id of each page of *pages*, whole pages; a page of zeros has `ZERO_ID`."""
        key = self.id_key
        zeros = self.zero_hash
        ids = [blake3(pages[at : at + PAGE_BYTES], key=key).digest(ID_BYTES) for at in range(0, len(pages), PAGE_BYTES)]
        if zeros in ids:
            return [ZERO_ID if each == zeros else each for each in ids]
        return ids

    def digest(self, what: bytes) -> blake3:
        """Return a running keyed hash, begun with what it is for."""
        return blake3(what + b"\x00", key=self._names_key)

    def piece_id(self, piece: bytes | memoryview) -> bytes:
        """Return the id of a piece of a file."""
        return self._id(b"piece", piece)

    def tenant_id(self, owner: bytes) -> bytes:
        """Return the id of a tenant."""
        return self._id(b"tenant", owner)

    def record_key(self, owner: bytes, name: bytes) -> bytes:
        """Return the 24 bytes records are sorted by: 8 of the owner, 16 of owner and name."""
        return self.owner_key(owner) + self.name_key(self.owner_secret(owner), name)

    def owner_secret(self, owner: bytes) -> bytes:
        """Return what keys the names of an owner's records: to be made once for many of them."""
        return blake3(b"record\x00" + owner, key=self._names_key).digest()

    @staticmethod
    def name_key(owner_secret: bytes, name: bytes) -> bytes:
        """Return the last 16 bytes of a record's key."""
        return blake3(name, key=owner_secret).digest(ID_BYTES)

    def owner_key(self, owner: bytes) -> bytes:
        """Return the first 8 bytes of the keys of all records of an owner."""
        return self.tenant_id(owner)[:_OWNER_BYTES]

    def record_id(self, value: bytes) -> bytes:
        """Return the id of a record's value."""
        return blake3(value, key=self._values_key).digest(ID_BYTES)

    def _id(self, what: bytes, data: bytes | memoryview) -> bytes:
        return blake3(b"".join((what, b"\x00", data)), key=self._names_key).digest(ID_BYTES)


def _founding_id(first: PrivateKey, id_key: bytes, index_key: bytes) -> bytes:
    """Return the id of the repository that was founded with these secrets: it commits to them."""
    founding = _FOUNDING_CONTEXT + first.kind.encode() + b"\x00" + first.raw + id_key + index_key
    return hashlib.sha256(founding).digest()[:ID_BYTES]


@attrs.frozen(kw_only=True)
class ReadKeys:
    """All secrets of a repository. In no ``repr``, error or log."""

    repository_id: bytes = attrs.field(validator=_check_id)
    private_keys: Mapping[int, PrivateKey] = attrs.field(repr=False)
    """Repository keys by generation; the highest one seals."""
    id_key: bytes = attrs.field(repr=False, validator=_check_secret)
    index_key: bytes = attrs.field(repr=False, validator=_check_secret)

    @classmethod
    def generate(cls, kind: KeyKind = KeyKind.MLKEM768_X25519) -> ReadKeys:
        """Make the secrets of a new repository."""
        private_key = PrivateKey.generate(kind)
        id_key, index_key = secrets.token_bytes(_SECRET_BYTES), secrets.token_bytes(_SECRET_BYTES)
        return cls(
            repository_id=_founding_id(private_key, id_key, index_key),
            private_keys={_FIRST: private_key},
            id_key=id_key,
            index_key=index_key,
        )

    @property
    def found_repository(self) -> bool:
        """
        Whether the repository's id follows from these secrets.

        Nobody can make secrets of which that holds without the first repository key. So an access file that somebody
        put into the store, sealed to a recipient's public key, is not taken for one of the repository's.
        """
        first = self.private_keys.get(_FIRST)
        return first is not None and _founding_id(first, self.id_key, self.index_key) == self.repository_id

    @property
    def writer_key(self) -> WriterKey:
        """What a host that must not read needs."""
        generation = max(self.private_keys)
        return WriterKey(
            repository_id=self.repository_id,
            generation=generation,
            public_key=self.private_keys[generation].public_key,
            id_key=self.id_key,
            index_key=self.index_key,
        )

    def rotated(self, kind: KeyKind = KeyKind.MLKEM768_X25519) -> ReadKeys:
        """Return these secrets with one more repository key, to which everything is sealed from now on."""
        generation = max(self.private_keys) + 1
        if generation > MAX_GENERATION:
            raise ConfigurationError("the repository key was rotated as often as can be", kind="bad_option")
        return attrs.evolve(self, private_keys={**self.private_keys, generation: PrivateKey.generate(kind)})

    def unseal(self, sealed: bytes, *, info: bytes, generation: int) -> bytes:
        """
        Open what `WriterKey.seal` sealed.

        Raises:
            NoMatchingKeyError: It was sealed to a repository key that these secrets do not have.
            TamperedError: It was changed.
        """
        key = self.private_keys.get(generation)
        if key is None:
            message = f"content is sealed to generation {generation} of the repository key, which this access lacks"
            raise NoMatchingKeyError(message, hint="use an access file made after the rotation", generation=generation)
        opened = open_sealed(key, sealed, info=info)
        if opened is None:
            message = "the key of an object does not open with the repository key"
            raise TamperedError(message, kind="frame_tampered", hint="repair the object from a replica")
        return opened
