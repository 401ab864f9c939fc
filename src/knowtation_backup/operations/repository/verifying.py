"""
Verify archives of a repository: say everything that is wrong with stored bytes, and go on.

Structure first: manifests and tables, which a writer key reads. Then presence, by one listing. Then every pack once,
whichever archives share it. Wrong bytes become findings of every archive they belong to; what is no statement about the
bytes (an unreachable store, a refused read, the wrong key) is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..._checks import checked_member
from ...contracts import Clock, Observer, ignore_events, utc_now
from ...errors import BlobNotFoundError
from ...model.reports import Sample, VerifyLevel
from ...repository.repository import ListedArchive, Repository
from .catalog import standings
from .verify_reports import ArchiveVerifyReport, RepositoryVerifyReport
from .verify_run import Verification

__all__ = ["verify", "verify_all"]


def verify(  # noqa: PLR0913 - the last six have defaults
    repository: Repository,
    archive_id: str,
    *,
    level: VerifyLevel = VerifyLevel.CONTENT,
    sample: Sample | None = None,
    new_only: bool = False,
    record: bool = True,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> ArchiveVerifyReport:
    """
    Check one archive; see `verify_all`.

    Args:
        repository: Open to be read, or to be written only.
        archive_id: Which.
        level: How deep to look.
        sample: Reads only this part of its packs.
        new_only: Reads only packs that its parent does not name: what its backup stored, to be read back after it.
        record: Whether to note the result beside it.
        observer: Told what happens.
        clock: Dates the report.

    Raises:
        BlobNotFoundError: There is no such archive, or it was removed meanwhile, kind ``no_such_archive``.
        NoMatchingKeyError: A pack is what its name says, and sealed to another key than those at hand.
        SinkUnavailableError: The store could not be reached: says nothing about the archive.
        SinkPermissionError: Listing or reading is refused.
    """
    run = _run(repository, level, sample, observer)
    run.new_only = new_only
    run.check(repository.archives([archive_id]))
    found = run.report(clock, record=record)
    for unverified in found.unverified:
        raise unverified.error
    for report in found.reports:
        return report
    message = f"there is no archive {archive_id} in {repository.sink.location}"
    raise BlobNotFoundError(message, kind="no_such_archive", hint="list the archives", archive_id=archive_id)


def verify_all(  # noqa: PLR0913 - the last five have defaults
    repository: Repository,
    archive_ids: Iterable[str] | None = None,
    *,
    level: VerifyLevel = VerifyLevel.CONTENT,
    sample: Sample | None = None,
    record: bool = True,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> RepositoryVerifyReport:
    """
    Check archives; every level includes those before it.

    Signatures are looked at first: an archive that the repository's policy refuses gets a finding, and nothing of it is
    read; without a policy, signatures that are there must fit.

    ``structure`` proves that each manifest and all its tables are what their names say, that they agree, and that the
    tables give every section the root it had when it was backed up. ``presence``: every object they name is there,
    with its size. ``content``: every pack is what its name says, and with read keys also that every frame an archive
    needs opens, and every page, record and piece in it has its id. With a writer key nothing can be opened, and the
    coverage is `Coverage.STORED`.

    Memory: about 150 MB whatever the size of images, and 100 bytes for every pack.

    Args:
        repository: Open to be read, or to be written only.
        archive_ids: Which; `None` means all but those in the trash.
        level: How deep to look.
        sample: Reads only this part of the packs, chosen by their ids, for level ``content``: run part 1 to *of*, and
            everything was read. All manifests and tables are read every time.
        record: Whether to note each result beside its archive, where the store allows that. Only a whole content that
            was opened is noted as verified.
        observer: Told what happens.
        clock: Dates the reports.

    Raises:
        SinkUnavailableError: The store could not be reached: says nothing about the archives.
        SinkPermissionError: Listing or reading is refused.
    """
    run = _run(repository, level, sample, observer)
    run.config()
    run.check(_chosen(repository, archive_ids))
    return run.report(clock, record=record)


def _run(repository: Repository, level: VerifyLevel, sample: Sample | None, observer: Observer) -> Verification:
    return Verification(
        repository=repository,
        level=checked_member(VerifyLevel, level, "the level"),
        sample=None if sample is not None and sample.of == 1 else sample,
        observer=observer,
    )


def _chosen(repository: Repository, archive_ids: Iterable[str] | None) -> Iterator[ListedArchive]:
    if archive_ids is not None:
        return repository.archives([archive_ids] if isinstance(archive_ids, str) else archive_ids)
    trashed = {archive_id for archive_id, noted in standings(repository).items() if noted.trashed_at is not None}
    return repository.archives([one for one in repository.archive_ids() if one not in trashed])
