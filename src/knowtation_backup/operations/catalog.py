"""
List archives from the store alone, and find one by a short name.

Nothing is remembered between calls and no index file exists, so nothing can disagree with the store.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

import attrs

from .._engine.prefetch import prefetch
from ..contracts import ArchiveSink
from ..errors import BlobNotFoundError, ConfigurationError
from ..model.manifest import manifest_key
from ..model.plans import ArchiveInfo, ArchiveState
from ..model.selection import ArchiveFilter, filter_archives
from ..model.signatures import SignaturePolicy
from .describing import StoreView

__all__ = ["find_archive", "list_archives", "resolve_archive", "resolve_file", "with_superseded"]

LIST_CONCURRENCY = 16
_LATEST = re.compile(r"latest(?:-(?P<back>[0-9]{1,4}))?(?::(?P<series>.+))?")
_SHORT_ID = re.compile(r"[0-9a-f]{4,8}")
_SHORT_ID_LENGTH = 8
_MAX_CANDIDATES = 10


def list_archives(
    sink: ArchiveSink,
    wanted: ArchiveFilter | None = None,
    *,
    signatures: SignaturePolicy | None = None,
    concurrency: int = LIST_CONCURRENCY,
) -> list[ArchiveInfo]:
    """
    Return everything on a sink that is, was or should have become an archive, newest first.

    One listing; then one small read per archive, and one per mark whose content matters (see `needed_marks`), several
    at once. Damaged and unfinished archives are shown as such, and damaged marks in `Standing.damaged`. Files of other
    tools that look like archives by their names are listed too, unread: those of Knowtation, AgentVault and QURI
    (unmanaged, `ArchiveState.UNFINISHED` because no manifest vouches for them; see `adopt`), and state archives of the
    Duskmantle gateway (``km-backup-*`` managed, ``backup-*`` not). Empty ones are damaged. All other files are ignored.

    Args:
        sink: Where to look.
        wanted: What to leave out; `None` returns all, also what is in the trash.
        signatures: Whose archives count. Those it refuses are listed as damaged, so that they are never ``latest`` and
            retention never keeps them in place of genuine ones. `None` does not look at signatures.
        concurrency: Most reads at once; 1 for stores that can do only one thing at a time.

    Raises:
        SinkUnavailableError: The store could not be reached; an unreachable archive is never listed as damaged.
        SinkPermissionError: Listing or reading is refused.
    """
    view = StoreView.of(sink, signatures)
    described = prefetch(view.describe, view.candidates(), workers=concurrency, window=4 * concurrency)
    listed = with_superseded([info for info in described if info is not None])
    listed.sort(key=lambda info: info.age_key, reverse=True)
    return listed if wanted is None else filter_archives(listed, wanted)


def with_superseded(listed: list[ArchiveInfo], *, verified: bool = False) -> list[ArchiveInfo]:
    """
    Say which archives were made anew as another that may take their place: one content counts once.

    Args:
        listed: All archives.
        verified: Whether only one whose whole content proved good takes the place of another.
    """
    heirs = {
        (info.rewrapped_from, info.series, info.taken_at): info.archive_id
        for info in listed
        if info.rewrapped_from and _is_usable(info) and (_is_good(info) or not verified)
    }
    if not heirs:
        return listed
    return [
        attrs.evolve(info, superseded_by=heirs.get((info.archive_id, info.series, info.taken_at), ""))
        for info in listed
    ]


def _is_usable(info: ArchiveInfo) -> bool:
    """Whether nothing known speaks against reading an archive."""
    return info.has_manifest and info.state is ArchiveState.COMPLETE and not info.standing.spoken_against


def find_archive(archives: Sequence[ArchiveInfo], text: str = "latest", *, verified: bool = False) -> ArchiveInfo:
    """
    Return the archive that *text* names.

    Args:
        archives: As `list_archives` returned, newest first.
        text: ``latest`` (the newest complete archive of ours that neither failed verification nor is in quarantine or
            in the trash),
            ``latest-1`` (the one before), ``latest:<series>`` or ``latest-1:<series>``, an id, a short id, or the
            beginning of exactly one of them (of a short id at least four digits).
        verified: Consider only archives whose whole content last proved good: ``latest`` is then the last good one.

    Raises:
        BlobNotFoundError: There is no such archive.
        ConfigurationError: Several archives begin so; the candidates are named.
    """
    match = _LATEST.fullmatch(text)
    if match:
        return _latest(archives, text, back=int(match["back"] or 0), series=match["series"], verified=verified)
    candidates = _named(archives, text)
    if not candidates:
        raise BlobNotFoundError(f"there is no archive {text!r}", kind="no_such_archive", hint="list the archives")
    if len(candidates) > 1:
        named = ", ".join(f"{info.archive_id} ({info.short_id})" for info in candidates[:_MAX_CANDIDATES])
        message = f"{len(candidates)} archives begin with {text!r}: {named}"
        raise ConfigurationError(message, kind="ambiguous_archive", hint="give more of the id")
    if verified and not _is_good(candidates[0]):
        message = f"the content of {candidates[0].archive_id} was not verified whole, or something was found since"
        raise BlobNotFoundError(message, kind="no_such_archive", hint="verify it, or ask without verified")
    return candidates[0]


def _named(archives: Sequence[ArchiveInfo], text: str) -> list[ArchiveInfo]:
    exact = [info for info in archives if info.archive_id == text]
    if exact or not text:
        return exact
    short = [info for info in archives if _SHORT_ID.fullmatch(text) and info.short_id.startswith(text)]
    if len(text) == _SHORT_ID_LENGTH and len(short) == 1:
        return short
    return [info for info in archives if info.archive_id.startswith(text) or info in short]


def _latest(
    archives: Sequence[ArchiveInfo], text: str, *, back: int, series: str | None, verified: bool
) -> ArchiveInfo:
    usable = [
        info
        for info in archives
        if _is_usable(info) and series in {None, info.series} and (_is_good(info) or not verified)
    ]
    if back < len(usable):
        return usable[back]
    quality = "complete and verified" if verified else "complete"
    where = f" of series {series!r:.200}" if series else ""
    message = f"there are {len(usable)} {quality} archives{where}, so no {text!r:.200}"
    others = sum(info.has_manifest for info in archives) - len(usable)
    hint = ""
    if others:
        why = "incomplete, damaged, failed verification, of another series, in quarantine or in the trash"
        hint = f"{others} archives are {why}{', or not verified' if verified else ''}: name one by its id"
    raise BlobNotFoundError(message, kind="no_such_archive", hint=hint)


def _is_good(info: ArchiveInfo) -> bool:
    return info.standing.verified_at is not None and info.state in {ArchiveState.COMPLETE, ArchiveState.INCOMPLETE}


def resolve_archive(
    sink: ArchiveSink, text: str = "latest", *, verified: bool = False, signatures: SignaturePolicy | None = None
) -> str:
    """Return the id of the archive that *text* names, as `find_archive`; a whole id needs no listing."""
    if not verified and not _LATEST.fullmatch(text) and not _SHORT_ID.fullmatch(text):
        with contextlib.suppress(BlobNotFoundError, ConfigurationError):
            sink.stat(manifest_key(text))
            return text
    return find_archive(list_archives(sink, signatures=signatures), text, verified=verified).archive_id


def resolve_file(sink: ArchiveSink, text: str) -> str:
    """Return the key of the artifact that *text* names, an archive's or not yet: a key on the sink, else an id."""
    with contextlib.suppress(BlobNotFoundError, ConfigurationError):
        return sink.stat(text).key
    return find_archive(list_archives(sink), text).archive_id
