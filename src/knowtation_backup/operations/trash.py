"""
The trash: archives that were forgotten and are still there.

What lies in it is never ``latest``, takes no place under any policy, and comes back whole with `undelete`. It is
emptied by a plan of its own, after a grace in which a mistake, or a theft of the credentials that write backups, can be
noticed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from ..contracts import ArchiveSink, Clock, utc_now
from ..errors import BlobNotFoundError, ConfigurationError
from ..model.marks import Mark, MarkVerb
from ..model.moments import iso_ms, utc_of
from ..model.plans import ArchiveInfo, ArchiveState, ForgetAction, ForgetDecision, ForgetPlan
from ..model.signatures import SignaturePolicy
from ..retention.common import counts, pin, untouchable
from ..retention.durations import show_duration
from .catalog import list_archives
from .forget import TRASH_GRACE, action_for
from .marks import list_marks, mark_names, put_mark, read_standing

__all__ = ["plan_empty_trash", "undelete"]


def plan_empty_trash(
    sink: ArchiveSink,
    *,
    now: dt.datetime,
    grace: dt.timedelta = TRASH_GRACE,
    last_too: bool = False,
    signatures: SignaturePolicy | None = None,
) -> ForgetPlan:
    """
    Return a plan whose application removes what has been in the trash long enough; nothing happens.

    The grace begins when the mark of the trash was made, or when the store says that it was written, whichever is
    later: whoever can only create blobs cannot date it back to have archives removed early. Where the store knows no
    times, the mark's own date must do.

    Args:
        sink: Where the archives are.
        now: The present moment.
        grace: How long an archive stays in the trash; 0 empties all of it.
        last_too: Whether to remove the last complete archive of a series as well.
        signatures: Whose archives count.

    Raises:
        ConfigurationError: *grace* is negative.
        SinkUnavailableError: The store could not be reached.
    """
    action_for(grace)
    listed = list_archives(sink, signatures=signatures)
    return emptying_plan(sink, listed, now=now, grace=grace, last_too=last_too)


def emptying_plan(
    sink: ArchiveSink, listed: Iterable[ArchiveInfo], *, now: dt.datetime, grace: dt.timedelta, last_too: bool = False
) -> ForgetPlan:
    """Return a plan that removes, of the archives of a listing, those that were in the trash for *grace*."""
    now = utc_of(now)
    listed = list(listed)
    alive = {info.series for info in listed if counts(info)}
    decisions = tuple(
        _judge(info, trashed_since(sink, info), now, grace, last=info.series not in alive and not last_too)
        if info.managed and info.standing.trashed_at is not None
        else untouchable(info) or ForgetDecision(archive=info, keep=True, reason="not in the trash", rules=("alive",))
        for info in listed
    )
    return ForgetPlan(made_at=now, decisions=decisions, action=ForgetAction.DELETE, last_too=last_too)


def _judge(
    info: ArchiveInfo, since: dt.datetime | None, now: dt.datetime, grace: dt.timedelta, *, last: bool
) -> ForgetDecision:
    """Decide on an archive that is in the trash."""
    keep, rule, reason = True, "trash", f"in the trash since {iso_ms(since)}" if since else "leaving the trash"
    pinned = pin(info, now=now)
    if pinned:
        rule, reason = "pin", pinned
    elif since is None:
        pass
    elif grace and now - since < grace:
        reason = f"{reason}, less than {show_duration(grace)}"
    elif last and info.state is ArchiveState.COMPLETE:
        rule = "last"
        reason = "no complete archive of its series is outside the trash: undelete it, or ask for the last too"
    else:
        keep = False
    return ForgetDecision(archive=info, keep=keep, reason=reason, rules=(rule,))


def trashed_since(sink: ArchiveSink, info: ArchiveInfo) -> dt.datetime | None:
    """Return the moment an archive came into the trash, as late as mark and store have it; `None` when it left it."""
    noted = info.standing.trashed_at
    moments = [noted] if noted else []
    for name in mark_names(info.keys):
        if name.verb is MarkVerb.TRASHED and name.made_at == noted:
            try:
                moments.append(sink.stat(name.key).modified_at or name.made_at)
            except BlobNotFoundError:
                return None
    return max(moments, default=None)


def undelete(sink: ArchiveSink, archive_id: str, *, clock: Clock = utc_now) -> Mark:
    """
    Bring an archive back from the trash.

    Args:
        sink: Where the archive is.
        archive_id: The whole id.
        clock: Dates the mark.

    Raises:
        ConfigurationError: It is not in the trash (``not_in_trash``).
        SinkPermissionError: Creating is refused.
        SinkUnavailableError: The store could not be reached.
    """
    if read_standing(sink, list_marks(sink, archive_id)).trashed_at is None:
        message = f"{archive_id} is not in the trash"
        hint = "list the trash; what was removed cannot come back"
        raise ConfigurationError(message, kind="not_in_trash", hint=hint, archive_id=archive_id)
    return put_mark(sink, archive_id, MarkVerb.UNDELETED, clock=clock)
