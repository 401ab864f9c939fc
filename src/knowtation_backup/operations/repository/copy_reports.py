"""What copying archives between repositories reports."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import attrs

from ...model.reports import Finding, Outcome, Unverified

__all__ = ["LagReport", "RepositoryCopyReport"]


@attrs.frozen(kw_only=True)
class RepositoryCopyReport:
    """Archives that are in another repository, too."""

    source: str
    """Location they were copied from."""
    target: str
    """Location they were copied to."""
    copied: Mapping[str, str]
    """Ids of the archives that were copied, and those of the copies: the same unless keys differ."""
    present: tuple[str, ...] = ()
    """Ids of the archives that were there already."""
    failed: tuple[Unverified, ...] = ()
    """Archives that could not be copied, since they are damaged here or something of theirs is there; and why."""
    objects: int = 0
    """Objects that were written, manifests and access files included."""
    copied_bytes: int = 0
    stale: tuple[str, ...] = ()
    """Keys of access files and keys of tenants that are there and no longer here; nothing removes them but people."""
    findings: tuple[Finding, ...] = ()
    """What copies lack and people should know."""
    duration_seconds: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when an archive could not be copied."""
        return Outcome.PARTIAL if self.failed else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [
            f"copied {len(self.copied)} archive(s) from {self.source} to {self.target}, {len(self.present)} were there",
            f"  {self.objects} objects, {self.copied_bytes:,} bytes, {self.duration_seconds:.1f} s",
            *(f"  NOT COPIED {item.archive_id}: {item.error}" for item in self.failed),
            *(f"  {finding.code} {finding.where}: {finding.message}" for finding in self.findings),
            *(f"  only there: {key}; remove it if it was to go" for key in self.stale),
        ]
        return "\n".join(lines)


@attrs.frozen(kw_only=True)
class LagReport:
    """How far a replica is behind."""

    missing: tuple[str, ...]
    """Ids of archives that are not there, oldest content first."""
    oldest: dt.datetime | None
    """The moment the oldest of these is of; `None` when nothing is missing."""
    lag: dt.timedelta
    """How long ago that was: what would be lost with the first copy, counted back from now."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `DIFFERENT` when something is missing."""
        return Outcome.DIFFERENT if self.missing else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return one line for people."""
        if not self.missing:
            return "the replica has everything"
        return f"{len(self.missing)} archive(s) are not in the replica, the oldest of {self.oldest:%Y-%m-%d %H:%M}Z"
