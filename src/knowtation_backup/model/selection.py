"""Which archives of a listing are wanted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import attrs

from ..errors import ConfigurationError
from .manifest import check_tags
from .moments import utc_of
from .plans import ArchiveInfo, ArchiveState

__all__ = ["ArchiveFilter", "filter_archives"]


def _states(value: Iterable[ArchiveState | str]) -> frozenset[ArchiveState]:
    try:
        return frozenset(ArchiveState(item) for item in value)
    except ValueError as error:
        hint = f"the states are {', '.join(state.value for state in ArchiveState)}"
        raise ConfigurationError(str(error), kind="bad_option", hint=hint) from error


def _check_aware(_filter: ArchiveFilter, field: attrs.Attribute[dt.datetime | None], value: dt.datetime | None) -> None:
    if value is not None:
        try:
            utc_of(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{field.name}: {error.message}", kind=error.kind) from None


@attrs.frozen(kw_only=True)
class ArchiveFilter:
    """
    What an archive must be to be listed; every condition given must hold.

    Tenants are not among the conditions: who is in an archive is in its sealed details only.
    """

    kind: str | None = None
    """Kind of the payload, for example ``knowtation-operator-full-export``."""
    source_id: str | None = None
    series: str | None = None
    tags: tuple[str, ...] = attrs.field(default=(), converter=check_tags)
    """All of them must hold now."""
    states: frozenset[ArchiveState] = attrs.field(default=frozenset(), converter=_states)
    """Any one of them; none means all."""
    since: dt.datetime | None = attrs.field(default=None, validator=_check_aware)
    """Taken at this moment or later."""
    until: dt.datetime | None = attrs.field(default=None, validator=_check_aware)
    """Taken before this moment."""
    verified: bool | None = None
    """Whether the whole content last proved good; `None` for either."""
    quarantined: bool | None = None
    """`None` for either."""
    managed: bool | None = None
    """`False` for files of other tools alone; `None` for either."""
    include_trashed: bool = False

    def matches(self, archive: ArchiveInfo) -> bool:
        """Whether *archive* is wanted."""
        standing = archive.standing
        wanted = (
            (self.kind, archive.kind),
            (self.source_id, archive.source_id),
            (self.series, archive.series),
            (self.verified, standing.verified_at is not None),
            (self.quarantined, standing.quarantined),
            (self.managed, archive.managed),
        )
        return (
            all(want is None or want == found for want, found in wanted)
            and set(self.tags) <= set(archive.tags)
            and (not self.states or archive.state in self.states)
            and (self.since is None or archive.taken_at >= self.since)
            and (self.until is None or archive.taken_at < self.until)
            and (self.include_trashed or standing.trashed_at is None)
        )


def filter_archives(archives: Iterable[ArchiveInfo], wanted: ArchiveFilter) -> list[ArchiveInfo]:
    """Return the archives that *wanted* matches, in their order."""
    return [archive for archive in archives if wanted.matches(archive)]
