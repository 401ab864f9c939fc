"""What snapshot operations report: typed, printable as text, convertible to JSON-able values."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs

from ..errors import BackupError
from ..model.canisters import Snapshot
from ..model.ids import Principal, SnapshotId
from ..model.moments import iso_ms
from ..model.reports import Finding, Outcome

__all__ = ["LoadReport", "RecoverReport", "Recovered", "RestoreReport", "Step", "TakeReport", "Taken"]


def _snapshot(item: Snapshot | None) -> dict[str, Any] | None:
    if item is None:
        return None
    return {"snapshot_id": str(item.snapshot_id), "taken_at": iso_ms(item.taken_at), "size_bytes": item.size_bytes}


def _failure(error: BackupError | None) -> dict[str, str] | None:
    return None if error is None else {"kind": error.kind, "message": str(error)}


def _findings(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
    return [attrs.asdict(finding) for finding in findings]


@attrs.frozen(kw_only=True)
class Taken:
    """How one canister fared."""

    canister_id: Principal
    was_running: bool
    snapshot: Snapshot | None = None
    """`None` when it failed."""
    replaced: SnapshotId | None = None
    """The snapshot that the new one took the place of."""
    downtime_seconds: float = 0.0
    """From before the stop was sent until the start was certified; 0 for a canister that was stopped before."""
    error: BackupError | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is a snapshot."""
        return self.error is None and self.snapshot is not None

    def __str__(self) -> str:
        """Return one line for people."""
        if self.snapshot is None:
            return f"{self.canister_id}  FAILED: {self.error}"
        down = f"{self.downtime_seconds:.1f} s down" if self.was_running else "stopped before, and still"
        return f"{self.canister_id}  {self.snapshot.snapshot_id}  {self.snapshot.size_bytes:,} bytes  {down}"


@attrs.frozen(kw_only=True)
class TakeReport:
    """What a take brought, per canister in the order they were asked for."""

    results: tuple[Taken, ...]
    group: bool = False
    """Whether all were stopped together; then there are either all snapshots or none."""

    @property
    def ok(self) -> bool:
        """Whether every canister has its snapshot."""
        return all(result.ok for result in self.results)

    @property
    def outcome(self) -> Outcome:
        """`OK`, `PARTIAL` when some canisters failed, `FAILED` when all did."""
        if self.ok:
            return Outcome.OK
        return Outcome.PARTIAL if any(result.ok for result in self.results) else Outcome.FAILED

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    @property
    def snapshots(self) -> dict[Principal, SnapshotId]:
        """Ids of the new snapshots by canister."""
        return {item.canister_id: item.snapshot.snapshot_id for item in self.results if item.snapshot is not None}

    def raise_for_failures(self) -> None:
        """Raise the first failure, if there is one."""
        for result in self.results:
            if result.error is not None:
                raise result.error

    def __str__(self) -> str:
        """Return one line per canister and per finding."""
        findings = [f"  {finding.message}" for result in self.results for finding in result.findings]
        return "\n".join([*map(str, self.results), *findings])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {
            "outcome": self.outcome.name.lower(),
            "group": self.group,
            "results": [
                {
                    "canister_id": str(item.canister_id),
                    "snapshot": _snapshot(item.snapshot),
                    "replaced": None if item.replaced is None else str(item.replaced),
                    "was_running": item.was_running,
                    "downtime_seconds": round(item.downtime_seconds, 3),
                    "error": _failure(item.error),
                    "findings": _findings(item.findings),
                }
                for item in self.results
            ],
        }


@attrs.frozen(kw_only=True)
class Step:
    """One step of a restore, with its moment and result."""

    name: str
    """``validate``, ``open``, ``upload``, ``stop``, ``load``, ``verify`` or ``start``."""
    at: dt.datetime
    result: str
    """What came of it, for people."""


@attrs.frozen(kw_only=True)
class LoadReport:
    """A canister after a snapshot was loaded into it."""

    canister_id: Principal
    snapshot_id: SnapshotId
    """What was loaded."""
    safety_snapshot: Snapshot | None
    """Holds the state from before; delete it when it is no longer needed. `None` when none was asked for."""
    lost: dt.timedelta | None
    """Changes made in this time before the stop are gone from the canister; `None` for a snapshot of another one."""
    downtime_seconds: float
    was_running: bool
    healthy: bool | None = None
    """What the health check said; `None` when there was none."""
    rolled_forward: bool = False
    """Whether the health check failed, and the canister is back at the safety snapshot."""
    health_error: BackupError | None = None
    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when the loaded state was not healthy."""
        return Outcome.PARTIAL if self.healthy is False else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        lines = [f"canister {self.canister_id} was loaded with snapshot {self.snapshot_id}"]
        if self.lost is not None:
            lines.append(f"lost: what changed in the {_duration(self.lost)} between that snapshot and the stop")
        if self.safety_snapshot is not None:
            lines.append(f"the state from before is snapshot {self.safety_snapshot.snapshot_id}")
        if self.rolled_forward:
            lines.append(f"NOT HEALTHY: {self.health_error}; the canister is back at the state from before")
        elif self.healthy is False:
            lines.append(f"NOT HEALTHY: {self.health_error}; there is no safety snapshot to go back to")
        lines.append(f"{self.downtime_seconds:.1f} s down" if self.was_running else "stopped before, and still")
        return "\n".join([*lines, *(finding.message for finding in self.findings)])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {
            "outcome": self.outcome.name.lower(),
            "canister_id": str(self.canister_id),
            "snapshot_id": str(self.snapshot_id),
            "safety_snapshot": _snapshot(self.safety_snapshot),
            "lost_seconds": None if self.lost is None else self.lost.total_seconds(),
            "downtime_seconds": round(self.downtime_seconds, 3),
            "was_running": self.was_running,
            "healthy": self.healthy,
            "rolled_forward": self.rolled_forward,
            "health_error": _failure(self.health_error),
            "steps": [{"name": step.name, "at": iso_ms(step.at), "result": step.result} for step in self.steps],
            "findings": _findings(self.findings),
        }


@attrs.frozen(kw_only=True)
class RestoreReport:
    """A canister after a downloaded snapshot was put back into it."""

    load: LoadReport
    uploaded: SnapshotId
    """The snapshot on chain that was uploaded and loaded; delete it when it is no longer needed."""
    steps: tuple[Step, ...]
    """All seven, with moment and result."""

    @property
    def outcome(self) -> Outcome:
        """See `LoadReport.outcome`."""
        return self.load.outcome

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return one line per step, and what the load says."""
        return "\n".join([*(f"{step.name:8} {iso_ms(step.at)}  {step.result}" for step in self.steps), str(self.load)])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        steps = [{"name": step.name, "at": iso_ms(step.at), "result": step.result} for step in self.steps]
        return {"uploaded": str(self.uploaded), **self.load.to_json(), "steps": steps}


@attrs.frozen(kw_only=True)
class Recovered:
    """What came of one entry of the journal."""

    canister_id: Principal
    operation: str
    action: str
    """``started``, ``running`` (it was already), ``left_stopped`` (it was stopped before), ``busy`` (a living operation
    holds it), ``settling`` (it runs, but a lost stop may still take effect: ask again), ``gone`` (the canister was
    deleted) or ``failed``."""
    new_snapshots: tuple[SnapshotId, ...] = ()
    """What the canister has beyond what it had when the operation began, and nobody deleted now."""
    deleted_snapshots: tuple[SnapshotId, ...] = ()
    """Members of a group that did not become complete, and safety copies that nobody needs."""
    rolled_back_to: SnapshotId | None = None
    """The safety snapshot that was loaded, because a load had not been found good."""
    error: BackupError | None = None
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        """Return one line for people."""
        said = [f"{self.canister_id}  {self.operation}: {self.action}"]
        if self.rolled_back_to is not None:
            said.append(f"rolled back to {self.rolled_back_to}")
        if self.new_snapshots:
            said.append("new snapshots: " + ", ".join(map(str, self.new_snapshots)))
        if self.deleted_snapshots:
            said.append("deleted: " + ", ".join(map(str, self.deleted_snapshots)))
        if self.error is not None:
            said.append(str(self.error))
        return "; ".join(said)


@attrs.frozen(kw_only=True)
class RecoverReport:
    """What `SnapshotManager.recover` found and did."""

    results: tuple[Recovered, ...]

    @property
    def down(self) -> tuple[Principal, ...]:
        """Canisters that were running before and could not be started, or of which nobody knows."""
        return tuple(item.canister_id for item in self.results if item.action == "failed")

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do."""
        return all(item.action not in {"failed", "busy", "settling"} for item in self.results)

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when something is left to do."""
        return Outcome.OK if self.ok else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return one line per canister."""
        return "\n".join(map(str, self.results)) or "nothing to recover"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {
            "outcome": self.outcome.name.lower(),
            "results": [
                {
                    "canister_id": str(item.canister_id),
                    "operation": item.operation,
                    "action": item.action,
                    "new_snapshots": list(map(str, item.new_snapshots)),
                    "deleted_snapshots": list(map(str, item.deleted_snapshots)),
                    "rolled_back_to": None if item.rolled_back_to is None else str(item.rolled_back_to),
                    "error": _failure(item.error),
                    "findings": _findings(item.findings),
                }
                for item in self.results
            ],
        }


def _duration(value: dt.timedelta) -> str:
    seconds = max(0, round(value.total_seconds()))
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    return f"{seconds} seconds"
