"""
Tenants with keys of their own: their records are sealed to them before they are sealed like all others.

The private half of each key is an object of its own, `tenants/`, sealed to the repository key. Deleting it closes what
was sealed to it for ever, in every archive and every copy of the packs. A notice in its place says that this was wanted
(`erasures`); a key that is missing without one was lost.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import attrs

from .._engine.ahead import map_ahead
from ..codecs.hpke import open_sealed, seal_to
from ..codecs.keys import KeyKind, PrivateKey, PublicKey
from ..contracts import ArchiveSink
from ..errors import (
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    ErasedTenantError,
    IntegrityError,
    TamperedError,
)
from .erasures import read_erasure
from .frames import FileHead, FileKind, content_of, open_file, seal_small
from .keys import ID_BYTES, ReadKeys, WriterKey
from .layout import TENANT_PREFIX, erasure_named, tenant_key_at, tenant_key_id, tenant_key_named
from .storing import put_object

__all__ = ["TenantOpener", "TenantSealer", "TenantSealers", "open_tenant_key", "store_keys"]

_KEY_ID_BYTES: Final = 8
_NAME_BYTES: Final = ID_BYTES + _KEY_ID_BYTES
_MARKERS: Final = 2
"""What is added to the marker of a body that is sealed to a tenant."""
_RAW_BYTES: Final = 32
_MAX_OBJECT_BYTES: Final = 64 << 10
_CACHED_KEYS: Final = 1 << 14
_PUTS: Final = 8
"""Keys of tenants that are stored at once, for each pack that needs them."""


class TenantSealer:
    """
    Seals to one key of a tenant. Thread-safe.

    Args:
        tenant_id: Whose.
        public_key: The key.
        store: Stores its private half; `None`: that was done long ago.
    """

    def __init__(self, tenant_id: bytes, public_key: PublicKey, private_key: PrivateKey | None = None) -> None:
        self.public_key = public_key
        self._name = tenant_id + tenant_key_id(public_key.raw)
        self._private_key = private_key
        self._lock = threading.Lock()
        self._to: tuple[ArchiveSink, WriterKey] | None = None

    @classmethod
    def new(cls, tenant_id: bytes, sink: ArchiveSink, keys: WriterKey) -> TenantSealer:
        """Make a key; `store` must run before anything that is sealed to it is stored."""
        private_key = PrivateKey.generate(KeyKind.X25519)
        sealer = cls(tenant_id, private_key.public_key, private_key)
        sealer._to = (sink, keys)
        return sealer

    def store(self) -> None:
        """Store the private half unless it is there; this process knows it until then, and no longer."""
        with self._lock:  # others that need it wait until it is there
            if self._to is None or self._private_key is None:
                return
            sink, keys = self._to
            content = self._name[:ID_BYTES] + self._private_key.raw
            stored = seal_small(FileKind.TENANT_KEY, keys, [content])
            put_object(sink, tenant_key_at(self._name[:ID_BYTES], self._name[ID_BYTES:]), stored)
            self._to = self._private_key = None

    def seal(self, body: bytes, head: FileHead) -> bytes:
        """Return the body of a frame of the file of *head* that only this tenant's key opens."""
        sealed = seal_to(self.public_key, body[1:], info=head.bound + self._name)
        return b"%c%b%b" % (body[0] + _MARKERS, self._name, sealed)


def store_keys(tenants: Iterable[TenantSealer | None]) -> None:
    """Store the private halves of new keys, several at once."""
    new = dict.fromkeys(tenant for tenant in tenants if tenant is not None)
    for _ in map_ahead(TenantSealer.store, new, workers=_PUTS):
        pass


class TenantSealers:
    """
    The keys of tenants while an archive is written: those there are, and new ones.

    Memory: 100 bytes for each tenant of the repository. To be used by one thread.

    Args:
        sink: Where private halves are; is listed once.
        keys: What new ones are sealed with.
    """

    def __init__(self, sink: ArchiveSink, keys: WriterKey) -> None:
        self._sink = sink
        self._keys = keys
        self._there: set[bytes] = set()
        self._noticed: set[bytes] = set()
        for info in sink.list(TENANT_PREFIX):
            if (named := tenant_key_named(info.key)) is not None:
                self._there.add(b"".join(named))
            elif (named := erasure_named(info.key)) is not None:
                self._noticed.add(b"".join(named))
        self._sealers: dict[bytes, TenantSealer] = {}
        self.lost: set[bytes] = set()
        """Tenants that were asked for whose key is gone, and no notice says that it was erased."""

    def is_there(self, tenant_id: bytes, public_key: bytes) -> bool:
        """Whether what is sealed to a key can be opened, and may be; else it was erased, or is lost."""
        key_id = tenant_key_id(public_key)
        name = tenant_id + key_id
        if name in self._noticed and read_erasure(self._sink, self._keys, tenant_id, key_id) is not None:
            return False  # also when a store has not let go of the key yet
        if name not in self._there:
            self.lost.add(tenant_id)
        return name in self._there

    def sealer(self, tenant_id: bytes, known: bytes | None) -> TenantSealer:
        """Return what seals to a tenant: to its *known* key, or to one that is made for this archive."""
        name = tenant_id if known is None else tenant_id + known
        found = self._sealers.get(name)
        if found is None:
            if known is None:
                found = TenantSealer.new(tenant_id, self._sink, self._keys)
            else:
                found = TenantSealer(tenant_id, _public_key(known))
            self._sealers[name] = found
        return found


def _public_key(raw: bytes) -> PublicKey:
    try:
        return PublicKey(kind=KeyKind.X25519, raw=raw)
    except ConfigurationError as error:
        raise IntegrityError("a table holds a key of a tenant that is none", kind="bad_table") from error


@attrs.frozen(eq=False)
class TenantOpener:
    """
    Opens what is sealed to tenants. Thread-safe.

    Args:
        sink: Where private halves are.
        keys: What opens these.
    """

    _sink: ArchiveSink
    _keys: ReadKeys = attrs.field(repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    _found: OrderedDict[bytes, PrivateKey | None] = attrs.field(factory=OrderedDict, init=False, repr=False)
    _erased: set[bytes] = attrs.field(factory=set, init=False, repr=False)
    """Those not there of which a notice says why."""

    def content_of(self, body: bytes, head: FileHead) -> bytes:
        """
        Return the content of a body, whether it is sealed to a tenant or not.

        Raises:
            ErasedTenantError: It is, and the tenant's key is gone: erased, or lost (kind ``tenant_key_lost``).
            IntegrityError: Body or key contradict themselves; `TamperedError`: they were changed.
        """
        if not body or body[0] - _MARKERS not in {0, 1}:
            return content_of(body)
        if len(body) < 1 + _NAME_BYTES:
            raise IntegrityError("a frame is too short to be sealed to a tenant", kind="bad_object")
        name = body[1 : 1 + _NAME_BYTES]
        private_key = self._private_key(name)
        if private_key is None:
            raise self._gone(name)
        content = open_sealed(private_key, body[1 + _NAME_BYTES :], info=head.bound + name)
        if content is None:
            message = f"a frame does not open with the key of tenant {name[:ID_BYTES].hex()}"
            raise TamperedError(message, kind="frame_tampered", hint="repair the object from a replica")
        return content_of(b"%c%b" % (body[0] - _MARKERS, content))

    def _gone(self, name: bytes) -> ErasedTenantError:
        tenant_id = name[:ID_BYTES].hex()
        if name in self._erased:
            message = f"tenant {tenant_id} was erased: its key was destroyed, and nobody can open its records"
            return ErasedTenantError(message, tenant_id=tenant_id)
        message = f"the key of tenant {tenant_id} is lost: there is neither the key nor a notice that it was erased"
        key = tenant_key_at(name[:ID_BYTES], name[ID_BYTES:])
        hint = "repair it from a replica, or plan to erase the tenant if that is what was wanted"
        return ErasedTenantError(message, kind="tenant_key_lost", hint=hint, tenant_id=tenant_id, key=key)

    def _private_key(self, name: bytes) -> PrivateKey | None:
        with self._lock:
            if name in self._found:
                self._found.move_to_end(name)
                return self._found[name]
        key = self._read(name)
        with self._lock:
            self._found[name] = key
            if len(self._found) > _CACHED_KEYS:
                self._found.popitem(last=False)
        return key

    def _read(self, name: bytes) -> PrivateKey | None:
        key = tenant_key_at(name[:ID_BYTES], name[ID_BYTES:])
        try:
            stored = b"".join(self._sink.read(key, size_bytes=_MAX_OBJECT_BYTES))
        except BlobNotFoundError:
            if read_erasure(self._sink, self._keys, name[:ID_BYTES], name[ID_BYTES:]) is not None:
                with self._lock:
                    self._erased.add(name)
            return None
        return open_tenant_key(key, stored, self._keys)


def open_tenant_key(key: str, stored: bytes, keys: ReadKeys) -> PrivateKey:
    """
    Return the private key of a tenant from an object of `tenants/`, once it proved to be what its name says.

    Raises:
        IntegrityError: It is not, kind ``object_changed``; its context has the key of the object.
    """
    named = tenant_key_named(key)
    try:
        content = b"".join(open_file(FileKind.TENANT_KEY, stored, keys))
    except (IntegrityError, DecryptionError) as error:
        # Also when another key is asked for: what is sealed to a tenant is younger than its key, and was opened.
        message = f"{key} was changed: {error.message}"
        raise IntegrityError(message, kind="object_changed", hint="copy it from a replica", key=key) from error
    raw = content[ID_BYTES:]
    if named is not None and content[:ID_BYTES] == named[0] and len(raw) == len(content) - ID_BYTES == _RAW_BYTES:
        private_key = PrivateKey(kind=KeyKind.X25519, raw=raw)
        if tenant_key_id(private_key.public_key.raw) == named[1]:
            return private_key
    message = f"{key} holds another key than its name says"
    raise IntegrityError(message, kind="object_changed", hint="copy it from a replica", key=key)
