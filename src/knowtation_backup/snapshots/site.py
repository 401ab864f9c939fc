"""What every snapshot operation works with: the management canister, the journal, limits, clocks, the observer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

import attrs

from .._checks import above, at_least, between, whole_number
from ..contracts import Clock, Observer
from ..errors import BackupError, OutcomeUnknownError, RejectedError, SourceError
from ..ic.management import ManagementCanister
from ..model.canisters import CanisterStatus, Snapshot
from ..model.events import Event
from ..model.ids import Principal, SnapshotId
from .cost import CyclesPrices
from .journal import DowntimeJournal

__all__ = ["LIFE_SECONDS", "Site", "SnapshotOptions", "may_still_run"]

LIFE_SECONDS: Final = 300
"""No signed call is executed later than this after it was made."""


@attrs.frozen(kw_only=True)
class SnapshotOptions:
    """How snapshot operations wait, retry and judge. The defaults are those for a canister in production."""

    stop_seconds: float = attrs.field(default=330.0, validator=above(0))
    """For stopping; the network itself gives up after 300 s and says so."""
    call_seconds: float = attrs.field(default=360.0, validator=at_least(LIFE_SECONDS))
    """For taking and loading; longer than a call can live, so that its outcome is certain."""
    start_attempts: int = attrs.field(default=5, validator=whole_number(1))
    """How often starting may be refused; a network out of reach is tried until the time is over."""
    start_seconds: float = attrs.field(default=900.0, validator=above(0))
    """For all attempts to start one canister, whatever deadline the operation had."""
    start_call_seconds: float = attrs.field(default=150.0, validator=above(0))
    """For one attempt."""
    first_delay_seconds: float = attrs.field(default=1.0, validator=at_least(0))
    max_delay_seconds: float = attrs.field(default=30.0, validator=at_least(0))
    settle_seconds: float = attrs.field(default=float(LIFE_SECONDS), validator=at_least(0))
    """How long a call whose outcome is unknown is watched for taking effect late. A signed call lives so long."""
    settle_poll_seconds: float = attrs.field(default=10.0, validator=above(0))
    loadable_seconds: float = attrs.field(default=900.0, validator=at_least(0))
    """How long to wait for the network's next checkpoint, which uploaded and foreign snapshots need."""
    loadable_poll_seconds: float = attrs.field(default=20.0, validator=above(0))
    prices: CyclesPrices = attrs.field(factory=CyclesPrices)
    margin_cycles: int = attrs.field(default=100_000_000_000, validator=whole_number(0))
    """What a canister must keep above its freezing reserve."""
    dominate_share: float = attrs.field(default=0.5, validator=between(0, 1))
    """Share of a canister's memory above which its snapshots are said to dominate the burn."""


@attrs.frozen(kw_only=True)
class Site:
    """The parts of one manager. Thread-safe: its parts are."""

    management: ManagementCanister
    network: str
    caller: Principal
    journal: DowntimeJournal
    options: SnapshotOptions
    observer: Observer
    clock: Clock
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]

    def tell(self, name: str, /, **fields: Any) -> None:
        """Tell the observer."""
        self.observer(Event(name=name, fields=fields))

    def status(self, canister_id: Principal, *, deadline_seconds: float | None = None) -> CanisterStatus:
        """Return what a canister's subnet certifies: one lying node could make us leave it stopped."""
        return self.management.canister_status(canister_id, certified=True, deadline_seconds=deadline_seconds)

    def new_snapshots(self, canister_id: Principal, before: tuple[SnapshotId, ...]) -> tuple[Snapshot, ...]:
        """Return the snapshots a canister has beyond those *before*."""
        return tuple(
            item for item in self.management.list_snapshots(canister_id) if item.snapshot_id not in frozenset(before)
        )

    def settled_at(self) -> dt.datetime:
        """Return the moment from which on nothing that an operation begun now sends can be executed any more."""
        return self.clock() + dt.timedelta(
            seconds=self.options.stop_seconds + self.options.call_seconds + self.options.settle_seconds
        )

    def delay(self, failed: int) -> float:
        """Return how long to wait after so many failures."""
        return min(self.options.max_delay_seconds, self.options.first_delay_seconds * 2.0 ** min(failed - 1, 30))


def may_still_run(error: BaseException) -> bool:
    """
    Whether the call that ended with *error* may have been executed, or may yet be.

    A refusal that nobody signed settles nothing: whoever passes requests on could refuse one and deliver it later.
    """
    if isinstance(error, RejectedError):
        return not error.certified
    if isinstance(error, OutcomeUnknownError):
        return True
    if isinstance(error, BackupError):
        return bool(error.context.get("may_have_run")) or not isinstance(error, SourceError)
    return True
