"""What an earlier export held, so that the next one looks for it again although no list may show it any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from .entries import Entry
from .options import ExportOptions

__all__ = ["KnownContent"]


@attrs.frozen(kw_only=True)
class KnownContent:
    """
    Tenants, vaults and note paths seen in earlier exports (HUB-18, HUB-19).

    Memory: the ids and paths; pass *paths* = `False` to `of` where only hidden tenants and vaults matter.
    """

    vaults: Mapping[str, tuple[str, ...]] = attrs.field(repr=False)
    """Vault ids by tenant id; a tenant without vaults is known too."""
    paths: Mapping[tuple[str, str], tuple[str, ...]] = attrs.field(factory=dict, repr=False)
    """Note paths by tenant and vault."""

    @classmethod
    def of(cls, entries: Iterable[Entry], *, paths: bool = True) -> KnownContent:
        """
        Collect what *entries* name: an `ExportReader`, or several chained.

        Args:
            entries: Read to the end, once; ``ExportReader(..., hashing=False)`` is the fastest.
            paths: Whether to remember note paths.
        """
        vaults: dict[str, dict[str, None]] = {}
        found: dict[tuple[str, str], dict[str, None]] = {}
        for entry in entries:
            of_user = vaults.setdefault(entry.user_id, {})
            if entry.vault_id:
                of_user[entry.vault_id] = None
            if paths and entry.note is not None:
                found.setdefault((entry.user_id, entry.vault_id), {})[entry.note.path] = None
        return cls(
            vaults={user_id: tuple(ids) for user_id, ids in vaults.items()},
            paths={key: tuple(names) for key, names in found.items()},
        )

    def extend(self, options: ExportOptions | None = None) -> ExportOptions:
        """Return *options* that also look for everything known; a `known_paths` of their own stays."""
        options = options or ExportOptions()
        of_users = {user_id: options.extra_vaults_of.get(user_id, ()) + ids for user_id, ids in self.vaults.items()}
        return attrs.evolve(
            options,
            extra_users=(*options.extra_users, *self.vaults),
            extra_vaults_of={**options.extra_vaults_of, **of_users},
            known_paths=options.known_paths or self._paths_of,
        )

    def _paths_of(self, user_id: str, vault_id: str) -> tuple[str, ...]:
        return self.paths.get((user_id, vault_id), ())
