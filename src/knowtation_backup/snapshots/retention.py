"""
Which of a canister's snapshots stay on chain: a pure plan to look at, applied by `SnapshotManager.apply`.

The network keeps ten per canister, and each costs memory. The newest stay; older ones go, and where copies kept
elsewhere are named, only those of which there is a verified one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import attrs

from ..errors import ConfigurationError
from ..model.canisters import MAX_SNAPSHOTS, Snapshot
from ..model.ids import Principal, SnapshotId
from ..model.moments import iso_ms

__all__ = ["SnapshotDecision", "SnapshotList", "SnapshotPlan", "plan_snapshots"]


def _sorted(found: Iterable[Snapshot]) -> tuple[Snapshot, ...]:
    return tuple(sorted(found, key=lambda item: (item.taken_at_ns, item.snapshot_id)))


@attrs.frozen(kw_only=True)
class SnapshotList:
    """The snapshots of one canister as its subnet certified them, oldest first."""

    canister_id: Principal
    snapshots: tuple[Snapshot, ...] = attrs.field(converter=_sorted)

    def __iter__(self) -> Iterator[Snapshot]:
        """Yield the snapshots, oldest first."""
        return iter(self.snapshots)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.snapshots)

    @property
    def ids(self) -> tuple[SnapshotId, ...]:
        """Their ids, oldest first."""
        return tuple(item.snapshot_id for item in self.snapshots)

    @property
    def size_bytes(self) -> int:
        """What they take of the canister's memory."""
        return sum(item.size_bytes for item in self.snapshots)

    @property
    def full(self) -> bool:
        """Whether the network allows no further one."""
        return len(self.snapshots) >= MAX_SNAPSHOTS

    def find(self, snapshot_id: SnapshotId) -> Snapshot | None:
        """Return one of them."""
        return next((item for item in self.snapshots if item.snapshot_id == snapshot_id), None)

    def __str__(self) -> str:
        """Return one line per snapshot with size and time."""
        lines = [f"{item.snapshot_id}  {iso_ms(item.taken_at)}  {item.size_bytes:>15,} B" for item in self.snapshots]
        head = f"canister {self.canister_id}: {len(lines)} of at most {MAX_SNAPSHOTS} snapshots"
        return "\n".join([head, *lines])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {
            "canister_id": str(self.canister_id),
            "snapshots": [
                {
                    "snapshot_id": str(item.snapshot_id),
                    "taken_at": iso_ms(item.taken_at),
                    "taken_at_ns": item.taken_at_ns,
                    "size_bytes": item.size_bytes,
                }
                for item in self.snapshots
            ],
        }


@attrs.frozen(kw_only=True)
class SnapshotDecision:
    """What happens to one snapshot, and why."""

    snapshot: Snapshot
    keep: bool
    reason: str


@attrs.frozen(kw_only=True)
class SnapshotPlan:
    """
    What stays on chain and what goes, oldest first; nothing has happened yet.

    Applying refuses with `PlanStaleError` when the canister no longer has exactly the snapshots planned for.
    """

    canister_id: Principal
    made_at: dt.datetime
    decisions: tuple[SnapshotDecision, ...]

    @property
    def deleted(self) -> tuple[Snapshot, ...]:
        """The snapshots that go, oldest first."""
        return tuple(item.snapshot for item in self.decisions if not item.keep)

    @property
    def kept(self) -> tuple[Snapshot, ...]:
        """The snapshots that stay, oldest first."""
        return tuple(item.snapshot for item in self.decisions if item.keep)

    @property
    def ids(self) -> frozenset[SnapshotId]:
        """All snapshots that were planned for."""
        return frozenset(item.snapshot.snapshot_id for item in self.decisions)

    def __str__(self) -> str:
        """Return one line per snapshot with its reason, and one that says what applying would do."""
        lines = [
            f"{'keep  ' if item.keep else 'DELETE'} {item.snapshot.snapshot_id}: {item.reason}"
            for item in self.decisions
        ]
        freed = sum(item.size_bytes for item in self.deleted)
        gone = f"applying would delete {len(self.deleted)} snapshot(s) of {self.canister_id}, {freed:,} bytes"
        return "\n".join([*lines, f"{gone}; {len(self.kept)} kept"])


def plan_snapshots(
    listing: SnapshotList,
    *,
    keep: int,
    now: dt.datetime,
    downloaded: Collection[SnapshotId] | None = None,
    protected: Sequence[SnapshotId] = (),
) -> SnapshotPlan:
    """
    Decide on every snapshot of a canister.

    Args:
        listing: What it has.
        keep: How many of the newest stay, 1 to 9: room for one more must be left.
        now: The moment of planning.
        downloaded: Snapshots of which a verified copy is kept elsewhere; no other one goes. `None` asks for no copies.
        protected: These stay whatever their age.

    Raises:
        ConfigurationError: *keep* is out of range.
    """
    given: Any = keep
    if type(given) is not int or not 1 <= given < MAX_SNAPSHOTS:
        message = f"{keep!r:.40} snapshots cannot be kept on chain"
        hint = f"keep 1 to {MAX_SNAPSHOTS - 1}: the network allows {MAX_SNAPSHOTS}, and the next one needs room"
        raise ConfigurationError(message, kind="bad_option", hint=hint, option="keep")
    newest = frozenset(listing.ids[-keep:])

    def decide(item: Snapshot) -> SnapshotDecision:
        if item.snapshot_id in newest:
            return SnapshotDecision(snapshot=item, keep=True, reason=f"one of the newest {keep}")
        if item.snapshot_id in protected:
            return SnapshotDecision(snapshot=item, keep=True, reason="an unfinished operation needs it")
        if downloaded is not None and item.snapshot_id not in downloaded:
            return SnapshotDecision(snapshot=item, keep=True, reason="no verified copy of it is known elsewhere")
        copied = "" if downloaded is None else ", and a verified copy is kept elsewhere"
        return SnapshotDecision(snapshot=item, keep=False, reason=f"older than the newest {keep}{copied}")

    return SnapshotPlan(canister_id=listing.canister_id, made_at=now, decisions=tuple(map(decide, listing)))
