"""
Archives of a repository as listings, retention and people see them: from the store alone, every time anew.

The values are those of archives that are files, so that policies, filters and names work on both.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Generator, Mapping, Sequence

from ...errors import BlobNotFoundError, ConfigurationError
from ...model.marks import Standing
from ...model.plans import ArchiveInfo, ArchiveState
from ...model.selection import ArchiveFilter, filter_archives
from ...repository.layout import (
    INDEX_PREFIX,
    PACK_PREFIX,
    SIDE_PREFIX,
    archive_key,
    archive_stamp,
    beside_archive,
)
from ...repository.manifest import ArchiveManifest
from ...repository.repository import ListedArchive, Repository
from ...repository.signing import signature_key
from ..catalog import find_archive, with_superseded
from ..describing import UNKNOWN_SOURCE
from ..marks import mark_names, read_standing

__all__ = ["find", "is_whole", "list_archives", "live_archives", "resolve", "series_of", "standings", "stored_sizes"]

_LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def list_archives(repository: Repository, wanted: ArchiveFilter | None = None) -> list[ArchiveInfo]:
    """
    Return every archive of a repository, newest first.

    Listings of the store, one read per manifest, one per mark whose content matters, and with a signature policy one
    per signature. An archive whose manifest cannot be read, or is refused by the policy, is shown as damaged, in a
    series of its own: it is never ``latest``, and takes no place of a genuine one. One of which objects are missing or
    have another size is shown as damaged, too. `ArchiveInfo.size_bytes` is what reading the archive needs.

    Args:
        repository: A writer key is enough.
        wanted: What to leave out; `None` returns all, also what is in the trash.

    Raises:
        SinkUnavailableError: The store could not be reached; an unreachable archive is never listed as damaged.
        SinkPermissionError: Listing or reading is refused.
    """
    # In this order: what an archive of the first listing names was there before, so the last one shows it.
    archive_ids = repository.archive_ids()
    beside = _beside(repository)
    present = stored_sizes(repository)
    listed = [
        _described(repository, found, beside.get(found.archive_id, []), present)
        for found in repository.archives(archive_ids)
    ]
    listed = with_superseded(listed, verified=True)
    listed.sort(key=lambda info: info.age_key, reverse=True)
    return listed if wanted is None else filter_archives(listed, wanted)


def _described(
    repository: Repository, found: ListedArchive, beside: Sequence[str], present: Mapping[str, int]
) -> ArchiveInfo:
    manifest = found.manifest
    marks = mark_names(beside)
    signed = signature_key(found.archive_id)
    keys = (archive_key(found.archive_id), *([signed] if signed in beside else []), *(name.key for name in marks))
    standing = read_standing(repository.sink, marks)
    if manifest is None:
        return ArchiveInfo(
            archive_id=found.archive_id,
            state=ArchiveState.DAMAGED,
            series=f"{found.archive_id}@{UNKNOWN_SOURCE}",
            taken_at=_stamped(found.archive_id),
            size_bytes=0,
            keys=keys,
            standing=standing,
            in_repository=True,
        )
    state = ArchiveState.COMPLETE if manifest.complete else ArchiveState.INCOMPLETE
    return ArchiveInfo(
        archive_id=found.archive_id,
        state=state if is_whole(manifest, present) else ArchiveState.DAMAGED,
        series=series_of(manifest.kind, manifest.source_id),
        taken_at=manifest.taken_at,
        size_bytes=manifest.size_bytes,
        keys=keys,
        kind=manifest.kind,
        source_id=manifest.source_id,
        backup_tags=manifest.tags,
        standing=standing,
        in_repository=True,
        number=round(manifest.finished_at.timestamp() * 1000),
        rewrapped_from=manifest.consolidated_from,
    )


def _stamped(archive_id: str) -> dt.datetime:
    with contextlib.suppress(ConfigurationError):  # anybody who may create objects can give one an impossible date
        return archive_stamp(archive_id)
    return _LONG_AGO


def series_of(kind: str, source_id: str) -> str:
    """Return the series that archives of one kind and source form; retention counts per series."""
    return f"{kind}@{source_id}"


def find(repository: Repository, text: str = "latest", *, verified: bool = False) -> ArchiveInfo:
    """
    Return the archive that *text* names: an id, a short id, the beginning of one, ``latest``, ``latest-1:<series>``.

    Args:
        repository: A writer key is enough.
        text: As `operations.catalog.find_archive` takes it.
        verified: Consider only archives whose whole content last proved good.

    Raises:
        BlobNotFoundError: There is no such archive, kind ``no_such_archive``.
        ConfigurationError: Several begin so, kind ``ambiguous_archive``.
    """
    return find_archive(list_archives(repository), text, verified=verified)


def resolve(repository: Repository, text: str) -> str:
    """Return the id of the archive that *text* names, as `find`; a whole id needs no listing."""
    with contextlib.suppress(BlobNotFoundError, ConfigurationError):
        repository.sink.stat(archive_key(text))
        return text
    return find(repository, text).archive_id


def standings(repository: Repository) -> dict[str, Standing]:
    """Return what was noted of archives, by id; those of which nothing was noted are left out."""
    noted = {archive_id: mark_names(keys) for archive_id, keys in _beside(repository).items()}
    return {archive_id: read_standing(repository.sink, names) for archive_id, names in noted.items() if names}


def _beside(repository: Repository) -> dict[str, list[str]]:
    """Return the keys of what lies beside archives, by id."""
    keys: dict[str, list[str]] = {}
    for info in repository.sink.list(SIDE_PREFIX):
        archive_id = beside_archive(info.key)
        if archive_id is not None:
            keys.setdefault(archive_id, []).append(info.key)
    return keys


def live_archives(repository: Repository, *, newest_first: bool = False) -> Generator[ListedArchive, None, None]:
    """
    Yield archives that are neither in the trash nor quarantined, oldest first unless *newest_first*.

    Marks are looked at first: what is yielded came into the trash later than this was begun, if it is there. Whoever
    stops early closes the generator.
    """
    noted = standings(repository)

    def lives(archive_id: str) -> bool:
        standing = noted.get(archive_id)
        return standing is None or (standing.trashed_at is None and not standing.quarantined)

    wanted = sorted(filter(lives, repository.archive_ids()), reverse=newest_first)
    with contextlib.closing(repository.archives(wanted)) as found:
        yield from found


def stored_sizes(repository: Repository) -> dict[str, int]:
    """Return the size of every pack and index of the store, by key; about 200 bytes of memory for each."""
    prefixes = (PACK_PREFIX, INDEX_PREFIX)
    return {info.key: info.size_bytes for prefix in prefixes for info in repository.sink.list(prefix)}


def is_whole(manifest: ArchiveManifest, present: Mapping[str, int]) -> bool:
    """Whether all packs and indexes of an archive are there, with their sizes."""
    return all(present.get(key) == size for key, size in manifest.objects())
