"""
Note something of archives of a repository: the verbs of ``operations.marks``, on archives that are there.

Marks lie beside archives of a repository as beside those that are files, readable without a key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from ...contracts import Clock, utc_now
from ...model.marks import Mark
from ...repository.repository import Repository
from .. import marks, trash
from .catalog import resolve

__all__ = ["annotate", "pin", "quarantine", "release", "tag", "undelete", "unpin", "untag"]

# All take for an archive what `find` takes, and raise as `find` and the verbs of `operations.marks` do.


def pin(repository: Repository, archive: str, *, until: dt.datetime | None = None, clock: Clock = utc_now) -> Mark:
    """Keep an archive whatever the rules of retention say, for ever or *until* a moment."""
    return marks.pin(repository.sink, resolve(repository, archive), until=until, clock=clock)


def unpin(repository: Repository, archive: str, *, clock: Clock = utc_now) -> Mark:
    """Leave an archive to the rules of retention again."""
    return marks.unpin(repository.sink, resolve(repository, archive), clock=clock)


def tag(repository: Repository, archive: str, *tags: str, clock: Clock = utc_now) -> Mark:
    """Give an archive tags."""
    return marks.tag(repository.sink, resolve(repository, archive), *tags, clock=clock)


def untag(repository: Repository, archive: str, *tags: str, clock: Clock = utc_now) -> Mark:
    """Take tags away, also those the backup itself was given."""
    return marks.untag(repository.sink, resolve(repository, archive), *tags, clock=clock)


def annotate(repository: Repository, archive: str, notes: Mapping[str, str | None], *, clock: Clock = utc_now) -> Mark:
    """Add notes by name, readable without a key; `None` removes one, the others stay."""
    return marks.annotate(repository.sink, resolve(repository, archive), notes, clock=clock)


def quarantine(repository: Repository, archive: str, *, reason: str = "", clock: Clock = utc_now) -> Mark:
    """Keep an archive for analysis: readable by its id, never ``latest``, never a parent, never counted."""
    return marks.quarantine(repository.sink, resolve(repository, archive), reason=reason, clock=clock)


def release(repository: Repository, archive: str, *, clock: Clock = utc_now) -> Mark:
    """End the quarantine of an archive."""
    return marks.release(repository.sink, resolve(repository, archive), clock=clock)


def undelete(repository: Repository, archive: str, *, clock: Clock = utc_now) -> Mark:
    """
    Bring an archive back from the trash.

    Raises:
        BlobNotFoundError: It is gone, kind ``no_such_archive``.
        ConfigurationError: It is not in the trash, kind ``not_in_trash``.
    """
    return trash.undelete(repository.sink, resolve(repository, archive), clock=clock)
