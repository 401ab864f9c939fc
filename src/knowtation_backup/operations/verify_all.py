"""
Verify many archives, and find the one to use instead of a bad one.

One that is damaged, or that no key fits, does not keep the others from being looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..contracts import ArchiveSink, Clock, Codec, Observer, ignore_events, utc_now
from ..errors import BackupError, BlobNotFoundError, OperationCancelledError, SinkUnavailableError
from ..model.events import Event
from ..model.plans import ArchiveInfo, ArchiveState
from ..model.reports import Sample, Unverified, VerifyAllReport, VerifyLevel, VerifyReport
from ..model.selection import ArchiveFilter
from ..model.signatures import SignaturePolicy
from .catalog import list_archives
from .verify import PayloadChecker, verify

__all__ = ["find_good", "verify_all"]


def verify_all(  # noqa: PLR0913 - those of `verify`, and which archives
    sink: ArchiveSink,
    archives: Iterable[ArchiveInfo] | ArchiveFilter | None = None,
    *,
    level: VerifyLevel = VerifyLevel.CONTENT,
    codec: Codec | None = None,
    payload_checker: PayloadChecker | None = None,
    sample: Sample | None = None,
    policy: SignaturePolicy | None = None,
    record: bool = False,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
) -> VerifyAllReport:
    """
    Check several archives, one after the other, each as `verify` does.

    What concerns one archive only (another key, a missing package, a refused read) is in the report, and the others
    are looked at.

    Args:
        sink: Where they are.
        archives: As `list_archives` returned them, or which of those. `None` means all but those in the trash. Without
            a manifest there is nothing to check: files of other tools say nothing of themselves, and unfinished
            backups may still be running.
        level: See `verify`, and so for all others.
        codec: Opens sealed archives.
        payload_checker: Judges payloads.
        sample: One part of all content; run part 1 to *of* on consecutive days.
        policy: Whose archives may be opened.
        record: Whether to note each result beside its archive.
        observer: Told what happens; ``verify.progress`` after each archive.
        clock: Dates the reports.

    Raises:
        SinkUnavailableError: The store could not be reached: says nothing about the archives.
        SinkPermissionError: Listing is refused.
    """
    if archives is None or isinstance(archives, ArchiveFilter):
        archives = list_archives(sink, archives or ArchiveFilter())
    chosen = [info for info in archives if info.has_manifest]
    reports: list[VerifyReport] = []
    unverified: list[Unverified] = []
    vanished: list[str] = []
    for number, info in enumerate(chosen, 1):
        try:
            report = verify(
                sink,
                info.archive_id,
                level=level,
                codec=codec,
                payload_checker=payload_checker,
                sample=sample,
                policy=policy,
                record=record,
                observer=observer,
                clock=clock,
            )
        except (SinkUnavailableError, OperationCancelledError):
            raise
        except BlobNotFoundError:
            vanished.append(info.archive_id)
        except BackupError as error:
            unverified.append(Unverified(archive_id=info.archive_id, error=error))
        else:
            reports.append(report)
        observer(
            Event(
                name="verify.progress",
                fields={
                    "archives_done": number,
                    "archives_total": len(chosen),
                    "archive_id": info.archive_id,
                    "bytes_read": sum(report.bytes_read for report in reports),
                },
            )
        )
    return VerifyAllReport(reports=tuple(reports), unverified=tuple(unverified), vanished=tuple(vanished))


def find_good(archives: Sequence[ArchiveInfo], bad: ArchiveInfo) -> ArchiveInfo:
    """
    Return the archive to use instead of a bad one: the newest older one of its series whose whole content proved good.

    Args:
        archives: As `list_archives` returned them.
        bad: The one that cannot be used.

    Raises:
        BlobNotFoundError: There is none (``no_such_archive``).
    """
    older = (
        info
        for info in archives
        if info.series == bad.series
        and info.age_key < bad.age_key
        and info.state is ArchiveState.COMPLETE
        and info.standing.verified_at is not None
        and not info.standing.spoken_against
    )
    found = max(older, key=lambda info: info.age_key, default=None)
    if found is None:
        message = f"no archive of {bad.series} before {bad.archive_id} is complete and verified"
        hint = "verify older ones with record=True, or look for another copy of this one"
        raise BlobNotFoundError(message, kind="no_such_archive", hint=hint, archive_id=bad.archive_id)
    return found
