"""
Compare two archives, or an archive with what is there now; nothing is stored.

Tables alone say what differs, so that a writer key is enough and unchanged content is never read. With read keys the
records that differ are opened, for their names, and so are facts of the canister.
"""

from __future__ import annotations

from typing import Final

import attrs

from ...contracts import Clock, Observer, SectionSource, ignore_events, utc_now
from ...errors import ConfigurationError
from ...model.sections import FileSection, ImageSection, RecordSection
from ...repository.keys import ReadKeys
from ...repository.manifest import ArchiveManifest
from ...repository.repository import Repository
from .backup import DETAILS_SECTION
from .comparison import FACTS_FILE, Comparison, Side
from .difference_reports import RepositoryDiff

__all__ = ["diff", "diff_live"]

LIVE: Final = "live"


def diff(repository: Repository, before: str, after: str, *, names: bool = True) -> RepositoryDiff:
    """
    Compare two archives, of whatever sources.

    With a writer key: pages, files, and records by tenants and counts. With read keys also which records differ, how
    large they are, what became of proposals, and what changed of a canister.

    Memory: about 100 bytes for each record of both sides, and for each that differs its name.

    Args:
        repository: A writer key is enough.
        before: Id of the earlier archive.
        after: Id of the later one.
        names: Whether to open what differs, if the keys at hand can.

    Raises:
        BlobNotFoundError: There is no such archive, or something of it is missing.
        IntegrityError: Something is not what was backed up; `SinkError`: it cannot be read.
    """
    side = Side.of(repository, before)
    other = Side.of(repository, after, indexes=side.indexes)
    run = Comparison(repository=repository, side=side, names=names and isinstance(repository.keys, ReadKeys))
    for name in _names(side.manifest, other.manifest):
        run.archived(name, other)
    complete = side.manifest.complete and other.manifest.complete
    return run.report(after, complete=complete, facts=run.facts_of(side), facts_after=run.facts_of(other))


def diff_live(  # noqa: PLR0913 - the last three have defaults
    repository: Repository,
    archive_id: str,
    source: SectionSource,
    *,
    names: bool = True,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> RepositoryDiff:
    """
    Compare an archive with what its source holds now: it is captured, compared as it streams, and not kept.

    Nothing is written to the repository. Memory as `diff`, and the values of records that differ.

    Args:
        repository: A writer key is enough.
        archive_id: The archive.
        source: What to read; of the same kind as the archive's.
        names: See `diff`.
        observer: Told what the source tells.
        clock: Dates the capture.

    Raises:
        SourceError: Reading the source failed.
        ConfigurationError: The source is of another kind or has another id than the archive's, kind ``other_source``.
        BackupError: As `diff`.
    """
    side = Side.of(repository, archive_id)
    run = Comparison(repository=repository, side=side, names=names and isinstance(repository.keys, ReadKeys))
    capture = source.capture_sections(taken_at=clock(), observer=observer)
    there = (side.manifest.kind, side.manifest.source_id)
    if (capture.kind, capture.source_id) != there:
        message = f"the archive is of {' '.join(there)}, the source is {capture.kind} {capture.source_id}"
        raise ConfigurationError(message, kind="other_source", hint="compare an archive with its own source")
    seen: set[str] = set()
    facts: bytes | None = None
    for section in capture.sections():
        seen.add(section.name)
        match section:
            case ImageSection():
                run.live_image(section)
            case RecordSection():
                run.live_records(section)
            case FileSection(name=name) if name == FACTS_FILE:
                facts = b"".join(map(bytes, section.chunks))
                run.live_file(attrs.evolve(section, chunks=(facts,)))
            case FileSection():
                run.live_file(section)
    result = capture.result()
    for extra in result.side_files:
        seen.add(extra.name)
        run.live_file(FileSection(name=extra.name, chunks=(extra.content,)))
    for name in _names(side.manifest, None):
        if name not in seen:
            run.archived(name, None)
    run.warnings += result.warnings
    complete = side.manifest.complete and result.complete
    return run.report(LIVE, complete=complete, facts=run.facts_of(side), facts_after=run.parsed(facts, LIVE))


def _names(before: ArchiveManifest, after: ArchiveManifest | None) -> list[str]:
    sections = (*before.sections, *(after.sections if after is not None else ()))
    return [name for name in dict.fromkeys(section.name for section in sections) if name != DETAILS_SECTION]
