"""
What a store holds and what its manifests name, seen in an order that makes deleting the rest safe.

All manifests are read, or nothing is said: as long as one cannot be, nobody knows what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from ...errors import BackupError, PlanStaleError, RepositoryError
from ...model.blobs import BlobInfo
from ...repository.layout import (
    INDEX_PREFIX,
    PACK_PREFIX,
    PRUNE_PREFIX,
    SIDE_PREFIX,
    beside_archive,
    is_prunable,
)
from ...repository.repository import Repository
from .catalog import is_whole, stored_sizes

__all__ = ["Usage", "read_usage"]

_MAX_LISTINGS: Final = 20


@attrs.frozen(kw_only=True)
class Usage:
    """What is there, and what of it is needed. About 400 bytes of memory for every object."""

    stored: Mapping[str, BlobInfo] = attrs.field(repr=False)
    """What a prune may delete at all, by key; listed before the manifests were read."""
    archives: frozenset[str]
    named: Mapping[str, int] = attrs.field(repr=False)
    """Size of every pack and index that a manifest names, by key."""

    def is_used(self, key: str) -> bool:
        """Whether a manifest names an object, or the archive is there beside which it lies."""
        return key in self.named or beside_archive(key) in self.archives

    @property
    def unused(self) -> list[BlobInfo]:
        """What nobody needs, sorted by key."""
        return [info for key, info in sorted(self.stored.items()) if not self.is_used(key)]


def read_usage(repository: Repository) -> Usage:
    """
    List what is there, then read all manifests.

    Archives are listed at least twice, until a listing shows nothing that was not read: whenever one archive takes
    over objects from another, both are there for a while, so that one of them is seen.

    Raises:
        RepositoryError: A manifest cannot be read, or names objects that are missing, kind ``prune_refused``.
        SinkError: The store could not be reached, or refuses.
    """
    repository = repository.trusting_anybody  # whoever wrote a manifest: what it names may be needed
    prefixes = (PACK_PREFIX, INDEX_PREFIX, SIDE_PREFIX, PRUNE_PREFIX)
    stored = {info.key: info for prefix in prefixes for info in repository.sink.list(prefix) if is_prunable(info.key)}
    named: dict[str, int] = {}
    read: set[str] = set()
    for number in range(_MAX_LISTINGS):
        fresh = [archive_id for archive_id in repository.archive_ids() if archive_id not in read]
        if number and not fresh:
            break
        for listed in repository.archives(fresh):
            if listed.manifest is None:
                _refuse(repository, {listed.archive_id: listed.error})
                continue
            named.update(listed.manifest.objects())
            read.add(listed.archive_id)
    else:
        message = f"archives of {repository.sink.location} come and go all the time"
        raise PlanStaleError(message, hint="try again; find out who removes archives")
    if any(key not in stored or stored[key].size_bytes != size for key, size in named.items()):
        _check_whole(repository)
    return Usage(stored=stored, archives=frozenset(read), named=named)


def _check_whole(repository: Repository) -> None:
    """Look again: objects that were stored meanwhile are there now, archives that were removed are not."""
    archive_ids = repository.archive_ids()
    present = stored_sizes(repository)
    broken: dict[str, BackupError | None] = {
        listed.archive_id: listed.error
        for listed in repository.archives(archive_ids)
        if listed.manifest is None or not is_whole(listed.manifest, present)
    }
    if broken:
        _refuse(repository, broken)


def _refuse(repository: Repository, broken: Mapping[str, BackupError | None]) -> None:
    shown = ", ".join(
        f"{archive_id} ({error.message if error else 'objects of it are missing'})"
        for archive_id, error in list(broken.items())[:5]
    )
    message = f"nothing in {repository.sink.location} is deleted while archives are damaged: {shown}"
    hint = "repair them from a replica, or delete them and empty the trash"
    raise RepositoryError(message, kind="prune_refused", hint=hint, archive_ids=list(broken)[:20])
