"""The owners of one section of records while it is written: whose records must be stored anew, and with which key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from .drafts import DraftTable, IndexWriter
from .keys import WriterKey
from .tables import TenantTable
from .tenants import TenantSealer, TenantSealers

__all__ = ["SectionOwners"]

_TABLE_TENANTS: Final = 1 << 16
"""Of one table: 3 MiB."""


class SectionOwners:
    """
    The keys of the owners of a section, one owner after another. An empty owner is nobody's and has no key.

    Args:
        keys: Make ids.
        sealers: The keys there are; `None`: tenants have none.
        known: Public keys of the parent's section, by the id of the tenant.
        chain: The tables they are in.
    """

    def __init__(
        self,
        keys: WriterKey,
        sealers: TenantSealers | None,
        known: Mapping[bytes, bytes],
        chain: Sequence[DraftTable],
    ) -> None:
        self._keys = keys
        self._sealers = sealers
        self._known = known
        self._chain = chain
        self._tenant_id = b""
        self._public_key: bytes | None = None
        self._seen: dict[bytes, bytes] = {}
        self._new: dict[bytes, bytes] = {}

    @property
    def apart(self) -> bool:
        """Whether records of two owners may not share a frame."""
        return self._sealers is not None

    def enter(self, owner: bytes) -> bool:
        """
        Turn to an owner; return whether what the parent has of it can be used.

        What is sealed to a key that is gone would be lost: of a tenant that was erased everything is stored again.
        """
        self._tenant_id = b""
        if self._sealers is None or not owner:
            return True
        self._tenant_id = tenant_id = self._keys.tenant_id(owner)
        key = self._known.get(tenant_id)
        self._public_key = key if key is not None and self._sealers.is_there(tenant_id, key) else None
        if self._public_key is None:
            return False
        self._seen[tenant_id] = self._public_key
        return True

    def sealer(self) -> TenantSealer | None:
        """Return what seals records of the owner at hand."""
        if self._sealers is None or not self._tenant_id:
            return None
        found = self._sealers.sealer(self._tenant_id, self._public_key)
        if self._public_key is None:
            self._new[self._tenant_id] = self._seen[self._tenant_id] = found.public_key.raw
        return found

    def tables(self, indexes: IndexWriter, max_chain: int) -> tuple[DraftTable, ...]:
        """Return the tables of the public keys: the parent's and one with new ones, or all anew."""
        chain, new = tuple(self._chain), self._new
        if new and len(chain) >= max_chain + len(self._seen) // _TABLE_TENANTS:
            chain, new = (), self._seen
        ids = sorted(new)
        parts = (ids[at : at + _TABLE_TENANTS] for at in range(0, len(ids), _TABLE_TENANTS))
        tables = (TenantTable({tenant_id: new[tenant_id] for tenant_id in part}) for part in parts)
        return (*chain, *(indexes.add(table.to_bytes()) for table in tables))
