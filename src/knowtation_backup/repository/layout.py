"""
Where the objects of a repository lie on a sink, and what their names say.

Names of packs, indexes, manifests and prune notes contain the SHA-256 of the stored bytes, so that what is stored under
a name can be checked without a key, and writing an object twice is harmless. The name of a tenant's key contains a hash
of its public half.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from typing import Final

from ..errors import IntegrityError
from ..model.moments import parse_stamp, stamp

__all__ = [
    "ACCESS_PREFIX",
    "ARCHIVE_PREFIX",
    "CONFIG_KEY",
    "INDEX_PREFIX",
    "PACK_PREFIX",
    "PRUNE_PREFIX",
    "SIDE_PREFIX",
    "TENANT_PREFIX",
    "access_key",
    "archive_id_at",
    "archive_id_of",
    "archive_key",
    "archive_stamp",
    "beside_archive",
    "check_named",
    "erasure_key_at",
    "erasure_named",
    "index_key",
    "is_prunable",
    "is_prune_note",
    "object_id",
    "pack_key",
    "probe_key",
    "prune_key",
    "prune_stamp",
    "tenant_key",
    "tenant_key_at",
    "tenant_key_id",
    "tenant_key_named",
    "tenant_key_prefix",
]

CONFIG_KEY: Final = "repository.json"
ACCESS_PREFIX: Final = "keys/"
PACK_PREFIX: Final = "packs/"
INDEX_PREFIX: Final = "indexes/"
ARCHIVE_PREFIX: Final = "archives/"
TENANT_PREFIX: Final = "tenants/"
PRUNE_PREFIX: Final = "prune/"
SIDE_PREFIX: Final = "side/"

_ARCHIVE_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{64})")
_ARCHIVE_SUFFIX: Final = ".archive"
_PRUNE: Final = re.compile(r"prune/([0-9]{8}T[0-9]{6}Z)-([0-9a-f]{64})\.prune")
_SIDE: Final = re.compile(rf"side/({_ARCHIVE_ID.pattern})/.+")
_PRUNABLE: Final = re.compile(
    r"packs/([0-9a-f]{2})/\1[0-9a-f]{62}\.pack|indexes/[0-9a-f]{64}\.index|prune/[0-9a-f]{32}\.probe"
)
_TENANT: Final = re.compile(r"tenants/([0-9a-f]{32})-([0-9a-f]{16})\.tenant")
_ERASURE: Final = re.compile(r"tenants/([0-9a-f]{32})-([0-9a-f]{16})\.erased")
_NAMED: Final = re.compile(
    r"(?:packs/[0-9a-f]{2}/|indexes/|archives/[0-9]{8}T[0-9]{6}Z-|prune/[0-9]{8}T[0-9]{6}Z-)([0-9a-f]{64})\.[a-z]+"
)


def object_id(*parts: bytes) -> bytes:
    """Return the id of an object: SHA-256 of its stored bytes, the *parts* joined."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def pack_key(pack_id: bytes) -> str:
    """Return where a pack lies."""
    return f"{PACK_PREFIX}{pack_id.hex()[:2]}/{pack_id.hex()}.pack"


def index_key(index_id: bytes) -> str:
    """Return where an index lies."""
    return f"{INDEX_PREFIX}{index_id.hex()}.index"


def archive_id_of(taken_at: dt.datetime, manifest: bytes) -> str:
    """Return the id of an archive: the moment of its content, and the SHA-256 of its stored manifest."""
    return f"{stamp(taken_at)}-{object_id(manifest).hex()}"


def archive_key(archive_id: str) -> str:
    """Return where the manifest of an archive lies."""
    return f"{ARCHIVE_PREFIX}{archive_id}{_ARCHIVE_SUFFIX}"


def archive_id_at(key: str) -> str | None:
    """Return the id of the archive whose manifest has this key; `None` when it is no such key."""
    name = key.removeprefix(ARCHIVE_PREFIX).removesuffix(_ARCHIVE_SUFFIX)
    return name if _ARCHIVE_ID.fullmatch(name) and archive_key(name) == key else None


def archive_stamp(archive_id: str) -> dt.datetime:
    """Return the moment an archive's id says, to the second."""
    return _stamp(_ARCHIVE_ID, archive_id)


def prune_key(at: dt.datetime, note_id: bytes) -> str:
    """Return where a prune note lies."""
    return f"{PRUNE_PREFIX}{stamp(at)}-{note_id.hex()}.prune"


def prune_stamp(key: str) -> dt.datetime:
    """Return the moment a prune note's name says, to the second, by the clock of the host that wrote it."""
    return _stamp(_PRUNE, key)


def is_prune_note(key: str) -> bool:
    """Whether a key is that of a prune note."""
    return _PRUNE.fullmatch(key) is not None


def probe_key(random_id: bytes) -> str:
    """Return where an object lies that is written to learn the store's time; 16 random bytes name it."""
    return f"{PRUNE_PREFIX}{random_id.hex()}.probe"


def is_prunable(key: str) -> bool:
    """
    Whether a prune may delete an object that no manifest names: a pack, an index, a probe, what lies beside an archive.

    Whoever holds a writer key can write a note that names anything at all.
    """
    return _PRUNABLE.fullmatch(key) is not None or beside_archive(key) is not None


def beside_archive(key: str) -> str | None:
    """Return the id of the archive beside which an object lies, a mark for example; `None` when it lies elsewhere."""
    found = _SIDE.fullmatch(key)
    return found[1] if found else None


def _stamp(pattern: re.Pattern[str], key: str) -> dt.datetime:
    found = pattern.fullmatch(key)
    if found is None:
        raise IntegrityError(f"{key!r:.200} is not the name of such an object", kind="bad_object_name")
    return parse_stamp(found[1])


def access_key(random_id: bytes) -> str:
    """Return where an access file lies; 16 random bytes name it."""
    return f"{ACCESS_PREFIX}{random_id.hex()}.access"


def tenant_key(tenant_id: bytes, public_key: bytes) -> str:
    """Return where the private key of a tenant lies."""
    return tenant_key_at(tenant_id, tenant_key_id(public_key))


def tenant_key_id(public_key: bytes) -> bytes:
    """Return the 8 bytes that name a key of a tenant."""
    return hashlib.sha256(public_key).digest()[:8]


def tenant_key_at(tenant_id: bytes, key_id: bytes) -> str:
    """Return where the private key of a tenant lies, by the id of the key."""
    return f"{tenant_key_prefix(tenant_id)}{key_id.hex()}.tenant"


def tenant_key_prefix(tenant_id: bytes) -> str:
    """Return what the names of all keys of a tenant begin with."""
    return f"{TENANT_PREFIX}{tenant_id.hex()}-"


def tenant_key_named(key: str) -> tuple[bytes, bytes] | None:
    """Return ids of tenant and key that the name of a tenant's key says; `None` when it is no such name."""
    return _named_ids(_TENANT, key)


def erasure_key_at(tenant_id: bytes, key_id: bytes) -> str:
    """Return where the notice lies that a key of a tenant was erased."""
    return f"{tenant_key_prefix(tenant_id)}{key_id.hex()}.erased"


def erasure_named(key: str) -> tuple[bytes, bytes] | None:
    """Return ids of tenant and key that the name of a notice says; `None` when it is no such name."""
    return _named_ids(_ERASURE, key)


def _named_ids(pattern: re.Pattern[str], key: str) -> tuple[bytes, bytes] | None:
    found = pattern.fullmatch(key)
    return (bytes.fromhex(found[1]), bytes.fromhex(found[2])) if found else None


def check_named(key: str, stored: bytes) -> None:
    """
    Require that an object is what its name says.

    Raises:
        IntegrityError: It is not, kind ``object_changed``.
    """
    found = _NAMED.fullmatch(key)
    if found is None or object_id(stored).hex() != found[1]:
        message = f"{key} is not what its name says: {len(stored)} bytes with another SHA-256"
        raise IntegrityError(message, kind="object_changed", hint="repair it from a replica", key=key)
