"""Archives of a repository as listings, retention and people see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...model.marks import MarkName, Standing
from ...repository.layout import INDEX_PREFIX, PACK_PREFIX
from ...repository.manifest import ArchiveManifest
from ...repository.repository import ListedArchive, Repository
from ..marks import read_standing

__all__ = ["is_whole", "live_archives", "standings", "stored_sizes"]


def standings(repository: Repository) -> dict[str, Standing]:
    """Return what was noted of archives, by id; those of which nothing was noted are left out."""
    names: dict[str, list[MarkName]] = {}
    for info in repository.sink.list("side/"):
        name = MarkName.parse(info.key)
        if name is not None:
            names.setdefault(name.artifact, []).append(name)
    return {archive_id: read_standing(repository.sink, found) for archive_id, found in names.items()}


def live_archives(repository: Repository) -> Iterator[ListedArchive]:
    """Yield archives that are neither in the trash nor quarantined, oldest first."""
    noted = standings(repository)
    for found in repository.archives():
        standing = noted.get(found.archive_id)
        if standing is None or (standing.trashed_at is None and not standing.quarantined):
            yield found


def stored_sizes(repository: Repository) -> dict[str, int]:
    """Return the size of every pack and index of the store, by key; about 200 bytes of memory for each."""
    prefixes = (PACK_PREFIX, INDEX_PREFIX)
    return {info.key: info.size_bytes for prefix in prefixes for info in repository.sink.list(prefix)}


def is_whole(manifest: ArchiveManifest, present: Mapping[str, int]) -> bool:
    """Whether all packs and indexes of an archive are there, with their sizes."""
    return all(present.get(key) == size for key, size in manifest.objects())
