"""
The keys of a repository: what a writing host needs, what a reading one holds, and how ids are made.

A writer key cannot open content: it has the public half of the repository key. Whoever holds the secrets derives the
writer key from them, so that there is one way to write.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

import attrs
from blake3 import blake3

from ..codecs.hpke import open_sealed, seal_to
from ..codecs.keys import KeyKind, PrivateKey, PublicKey
from ..errors import ConfigurationError, NoMatchingKeyError, TamperedError
from ..model.sections import PAGE_BYTES

__all__ = ["ID_BYTES", "ZERO_ID", "ReadKeys", "WriterKey"]

ID_BYTES: Final = 16
"""Of ids of pages, records, pieces and tenants."""
ZERO_ID: Final = bytes(ID_BYTES)
"""The id of a page of zeros."""
_SECRET_BYTES: Final = 32
_OWNER_BYTES: Final = 8
_NAMES_CONTEXT: Final = "knowtation-backup repository v1 names"
"""Pages are hashed without a word of what they are, everything else under a key of its own."""


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
    generation: int
    """Which repository key seals now."""
    public_key: PublicKey
    """Of the repository: seals content."""
    id_key: bytes = attrs.field(repr=False, validator=_check_secret)
    index_key: bytes = attrs.field(repr=False, validator=_check_secret)
    _names_key: bytes = attrs.field(init=False, repr=False, eq=False)
    zero_hash: bytes = attrs.field(init=False, repr=False, eq=False)
    """What hashing a page of zeros gives; stands for `ZERO_ID`."""

    @_names_key.default
    def _make_names_key(self) -> bytes:
        return blake3(self.id_key, derive_key_context=_NAMES_CONTEXT).digest()

    @zero_hash.default
    def _make_zero_hash(self) -> bytes:
        return blake3(bytes(PAGE_BYTES), key=self.id_key).digest(ID_BYTES)

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
        return self.owner_key(owner) + self.name_key(owner, name)

    def name_key(self, owner: bytes, name: bytes) -> bytes:
        """Return the last 16 bytes of a record's key."""
        return self._id(b"record", len(owner).to_bytes(8, "big") + owner + name)

    def owner_key(self, owner: bytes) -> bytes:
        """Return the first 8 bytes of the keys of all records of an owner."""
        return self.tenant_id(owner)[:_OWNER_BYTES]

    def record_id(self, record_key: bytes, value: bytes) -> bytes:
        """Return the id of a record's value."""
        return self._id(b"value", record_key + value)

    def _id(self, what: bytes, data: bytes | memoryview) -> bytes:
        return blake3(b"".join((what, b"\x00", data)), key=self._names_key).digest(ID_BYTES)


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
        return cls(
            repository_id=secrets.token_bytes(ID_BYTES),
            private_keys={1: PrivateKey.generate(kind)},
            id_key=secrets.token_bytes(_SECRET_BYTES),
            index_key=secrets.token_bytes(_SECRET_BYTES),
        )

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
