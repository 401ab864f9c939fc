"""
Note something of an archive, and read what was noted: pins, tags, notes, verification, quarantine, trash.

Every mark is one small create-only blob, see `model.marks`; nothing here overwrites or deletes.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..contracts import ArchiveSink, Clock, utc_now
from ..errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    UnsupportedFormatError,
)
from ..model.manifest import check_tags, side_key
from ..model.marks import MARKS_FOLDER, MAX_MARK_BYTES, Mark, MarkName, MarkVerb, Standing, is_whole
from ..model.moments import iso_ms, utc_of
from ..model.reports import VerifyLevel, VerifyReport

__all__ = [
    "annotate",
    "list_marks",
    "mark_names",
    "needed_marks",
    "pin",
    "put_mark",
    "quarantine",
    "read_mark",
    "read_marks",
    "read_standing",
    "record_verification",
    "release",
    "tag",
    "unpin",
    "untag",
]

_MILLISECOND = dt.timedelta(milliseconds=1)
_MAX_ATTEMPTS = 5
_PINS = frozenset({MarkVerb.PINNED, MarkVerb.UNPINNED})
_RESULTS = frozenset({MarkVerb.VERIFIED, MarkVerb.CHECKED, MarkVerb.FAILED})
_ALL_MATTER = frozenset({MarkVerb.TAGGED, MarkVerb.UNTAGGED, MarkVerb.NOTED})


def new_nonce() -> str:
    """Return 8 random hexadecimal digits."""
    return secrets.token_hex(4)


def put_mark(  # noqa: PLR0913 - the last two have defaults
    sink: ArchiveSink,
    archive_id: str,
    verb: MarkVerb,
    values: Mapping[str, Any] | None = None,
    *,
    clock: Clock = utc_now,
    nonce: Callable[[], str] = new_nonce,
) -> Mark:
    """
    Publish a mark; one listing of the archive's marks, and one new blob.

    It is dated by the clock, but always later than every mark the archive has: what is noted last holds, also when two
    marks are made in one millisecond or a clock went back. Whether there is such an archive is not looked at.

    Args:
        sink: Where the archive is.
        archive_id: As `list_archives` names it.
        verb: What happened.
        values: See `MarkVerb`.
        clock: Dates the mark, to the millisecond.
        nonce: Returns 8 hexadecimal digits that tell apart what two hosts note in one millisecond.

    Raises:
        ConfigurationError: The archive's id or the values cannot be those of a mark (``bad_mark``), or a mark is dated
            so far in the future that none can follow (``mark_from_the_future``).
        SinkPermissionError: Listing or creating is refused.
        SinkUnavailableError: The store could not be reached; the mark may have been made, and may be made again.
    """
    if verb is MarkVerb.VERIFIED and not is_whole(values or {}):
        message = "only the whole content can be marked as verified"
        raise ConfigurationError(message, kind="bad_mark", hint="what proved good in part is 'checked'")
    earlier = list_marks(sink, archive_id)
    for _ in range(_MAX_ATTEMPTS):
        made_at = _next_moment(clock(), earlier)
        name = MarkName(artifact=archive_id, made_at=made_at, verb=verb, nonce=nonce())
        if MarkName.parse(name.key) != name:
            message = f"{archive_id!r:.200} cannot be marked"
            raise ConfigurationError(message, kind="bad_mark", hint="pass the id of an archive", archive_id=archive_id)
        mark = Mark(name=name, values=dict(values or {}))
        try:
            sink.put(name.key, [mark.to_bytes()])
        except BlobExistsError:
            continue  # somebody marked in the same millisecond with the same nonce
        return mark
    raise BlobExistsError(f"{_MAX_ATTEMPTS} marks of {archive_id} were taken by others", archive_id=archive_id)


def _next_moment(now: dt.datetime, earlier: list[MarkName]) -> dt.datetime:
    moment = utc_of(now)
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    if not earlier:
        return moment
    try:
        return max(moment, earlier[-1].made_at + _MILLISECOND)
    except OverflowError as error:
        message = f"no mark can follow {earlier[-1].key}"
        hint = "its date is wrong: look who wrote it, and remove that blob"
        raise ConfigurationError(message, kind="mark_from_the_future", hint=hint, key=earlier[-1].key) from error


def mark_names(keys: Iterable[str]) -> list[MarkName]:
    """Return the marks among the keys of an archive, oldest first; other keys are ignored."""
    return sorted((name for key in keys if (name := MarkName.parse(key))), key=lambda name: name.order)


def list_marks(sink: ArchiveSink, archive_id: str) -> list[MarkName]:
    """Return the marks of an archive, oldest first; one listing, nothing is read."""
    return mark_names(info.key for info in sink.list(side_key(archive_id, f"{MARKS_FOLDER}/")))


def needed_marks(names: Iterable[MarkName]) -> list[MarkName]:
    """
    Return the marks whose content says more than their key, and still matters: oldest first.

    These are the last pin unless it was undone, tags and notes. Verification, quarantine and trash are in the keys.
    """
    ordered = sorted(names, key=lambda name: name.order)
    needed = [name for name in ordered if name.verb in _ALL_MATTER]
    pins = [name for name in ordered if name.verb in _PINS]
    if pins and pins[-1].verb is MarkVerb.PINNED:
        needed.append(pins[-1])
    return sorted(needed, key=lambda name: name.order)


def read_mark(sink: ArchiveSink, name: MarkName) -> Mark | None:
    """
    Return one mark with its values, `None` when it is gone by now; a damaged one says so in `Mark.damage`.

    Raises:
        SinkUnavailableError: The store could not be reached; an unreachable mark is never called damaged.
        SinkPermissionError: Reading is refused.
    """
    try:
        return Mark.from_bytes(name, sink.read_all(name.key, limit_bytes=MAX_MARK_BYTES))
    except BlobNotFoundError:
        return None
    except (IntegrityError, UnsupportedFormatError) as error:
        return Mark(name=name, damage=error.message)
    except ConfigurationError as error:
        if error.kind != "blob_too_large":
            raise
        return Mark(name=name, damage=error.message)


def read_marks(sink: ArchiveSink, archive_id: str) -> list[Mark]:
    """
    Return everything that was noted of an archive, oldest first: one listing, and one read per mark.

    Raises:
        SinkUnavailableError: The store could not be reached.
        SinkPermissionError: Listing or reading is refused.
    """
    found = (read_mark(sink, name) for name in list_marks(sink, archive_id))
    return [mark for mark in found if mark is not None]


def read_standing(sink: ArchiveSink, names: Iterable[MarkName]) -> Standing:
    """Return what the marks called *names* say together; reads only those of `needed_marks`."""
    names = list(names)
    needed = set(needed_marks(names))
    marks = (read_mark(sink, name) if name in needed else Mark(name=name) for name in names)
    return Standing.of(mark for mark in marks if mark is not None)


def record_verification(
    sink: ArchiveSink, report: VerifyReport, *, parts_add_up: bool = False, clock: Clock = utc_now
) -> Mark:
    """
    Note the result of a verification beside the archive: ``verified``, ``checked`` or ``failed``.

    Codes of findings are noted, never their messages: those may quote sealed content.

    Args:
        sink: Where the archive is.
        report: The result.
        parts_add_up: Whether all parts of a sample prove what a whole check does. They are gathered then, from one
            ``checked`` to the next, and the one that completes them is ``verified``.
        clock: Dates the mark.
    """
    content, sample = report.level is VerifyLevel.CONTENT, report.sample
    parts: list[int] = []
    if content and sample is not None and report.ok and parts_add_up:
        parts = sorted({sample.part} | _good_parts(sink, report.archive_id, sample.of))
    whole = content and (sample is None or len(parts) == sample.of)
    verb = MarkVerb.FAILED if not report.ok else MarkVerb.VERIFIED if whole else MarkVerb.CHECKED
    told = report.sample if verb is not MarkVerb.VERIFIED else None
    values: dict[str, Any] = {
        "level": report.level.value,
        "part": told.part if told else None,
        "of": told.of if told else None,
        "findings": sorted({finding.code for finding in report.findings}),
    }
    if parts:
        values["parts"] = parts
    return put_mark(sink, report.archive_id, verb, values, clock=clock)


def _good_parts(sink: ArchiveSink, archive_id: str, of: int) -> set[int]:
    """Return which of so many parts of the content proved good since all of them did, or something was wrong."""
    results = [name for name in list_marks(sink, archive_id) if name.verb in _RESULTS]
    for name in reversed(results):
        if name.verb is not MarkVerb.CHECKED:
            break
        mark = read_mark(sink, name)
        if mark is not None and mark.values.get("level") == VerifyLevel.CONTENT.value and mark.values.get("of") == of:
            noted = mark.values.get("parts")
            found = noted if isinstance(noted, list) else [mark.values.get("part")]
            return {part for part in found if isinstance(part, int) and 1 <= part <= of}
    return set()


def pin(sink: ArchiveSink, archive_id: str, *, until: dt.datetime | None = None, clock: Clock = utc_now) -> Mark:
    """
    Keep an archive whatever the rules of retention say, for ever or *until* a moment.

    Raises:
        ConfigurationError: *until* is over already (``pin_in_the_past``), or has no time zone.
    """
    if until is not None and utc_of(until) <= clock():
        message = f"a pin until {iso_ms(until)} would hold nothing: that is over"
        raise ConfigurationError(message, kind="pin_in_the_past", hint="is the year right?", archive_id=archive_id)
    return put_mark(sink, archive_id, MarkVerb.PINNED, {"until": iso_ms(until) if until else None}, clock=clock)


def unpin(sink: ArchiveSink, archive_id: str, *, clock: Clock = utc_now) -> Mark:
    """Leave an archive to the rules of retention again."""
    return put_mark(sink, archive_id, MarkVerb.UNPINNED, clock=clock)


def tag(sink: ArchiveSink, archive_id: str, *tags: str, clock: Clock = utc_now) -> Mark:
    """Give an archive tags; raises `ConfigurationError` for words that `check_tags` refuses."""
    return put_mark(sink, archive_id, MarkVerb.TAGGED, {"tags": list(check_tags(tags))}, clock=clock)


def untag(sink: ArchiveSink, archive_id: str, *tags: str, clock: Clock = utc_now) -> Mark:
    """Take tags away, also those the backup itself was given."""
    return put_mark(sink, archive_id, MarkVerb.UNTAGGED, {"tags": list(check_tags(tags))}, clock=clock)


def annotate(sink: ArchiveSink, archive_id: str, notes: Mapping[str, str | None], *, clock: Clock = utc_now) -> Mark:
    """Add notes by name to an archive, readable without a key; `None` removes one, the others stay."""
    given: Mapping[Any, Any] = notes
    if not all(isinstance(name, str) and isinstance(text, str | None) for name, text in given.items()):
        raise ConfigurationError("notes are texts by name", kind="bad_mark", hint="pass None to remove one")
    return put_mark(sink, archive_id, MarkVerb.NOTED, {"notes": dict(notes)}, clock=clock)


def quarantine(sink: ArchiveSink, archive_id: str, *, reason: str = "", clock: Clock = utc_now) -> Mark:
    """Keep an archive for analysis: it stays readable by its id, but is never ``latest`` and never counts."""
    return put_mark(sink, archive_id, MarkVerb.QUARANTINED, {"reason": reason}, clock=clock)


def release(sink: ArchiveSink, archive_id: str, *, clock: Clock = utc_now) -> Mark:
    """End the quarantine of an archive."""
    return put_mark(sink, archive_id, MarkVerb.RELEASED, clock=clock)
