"""
What is checked before a canister is stopped, each check reported by itself.

Everything is asked so that the canister's subnet certifies the answer, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from ..errors import BackupError, PlanStaleError, RejectedError, SourceError
from ..model.canisters import MAX_SNAPSHOTS, CanisterStatus, RunState
from ..model.ids import Principal, SnapshotId
from ..model.reports import Finding, Outcome
from .cost import FREE, freezing_reserve, storage_findings
from .retention import SnapshotList
from .site import Site

__all__ = ["CanisterPreflight", "Check", "SnapshotPreflight", "check_canister", "state_bytes"]


@attrs.frozen(kw_only=True)
class Check:
    """One check of one canister: ``access``, ``state``, ``code``, ``cycles``, ``cap``, ``journal`` or ``custody``."""

    name: str
    message: str
    error: BackupError | None = None
    """Why the operation must not begin; `None` when it may."""
    warning: Finding | None = None

    @property
    def ok(self) -> bool:
        """Whether this check lets the operation begin."""
        return self.error is None


@attrs.frozen(kw_only=True)
class CanisterPreflight:
    """What was found out about one canister."""

    canister_id: Principal
    checks: tuple[Check, ...]
    status: CanisterStatus | None = None
    """Certified; `None` when it could not be asked."""
    snapshots: SnapshotList | None = None

    @property
    def error(self) -> BackupError | None:
        """The first reason against beginning."""
        return next((check.error for check in self.checks if check.error is not None), None)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against it only a little."""
        return tuple(check.warning for check in self.checks if check.warning is not None)


@attrs.frozen(kw_only=True)
class SnapshotPreflight:
    """All checks of all canisters, in order."""

    canisters: tuple[CanisterPreflight, ...]

    def __iter__(self) -> Iterator[CanisterPreflight]:
        """Yield the canisters' reports."""
        return iter(self.canisters)

    @property
    def ok(self) -> bool:
        """Whether every check of every canister passed."""
        return all(item.error is None for item in self.canisters)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Warnings of all canisters."""
        return tuple(finding for item in self.canisters for finding in item.findings)

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `REFUSED`: an operation would not begin."""
        return Outcome.OK if self.ok else Outcome.REFUSED

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def raise_for_errors(self) -> None:
        """Raise the first reason against beginning, if there is one."""
        for item in self.canisters:
            if item.error is not None:
                raise item.error

    def __str__(self) -> str:
        """Return one line per check."""
        lines = []
        for item in self.canisters:
            for check in item.checks:
                verdict = "FAILED" if check.error else "warning" if check.warning else "ok"
                said = check.error or (check.warning.message if check.warning else check.message)
                lines.append(f"{item.canister_id}  {check.name:8} {verdict:8} {said}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {
            "ok": self.ok,
            "canisters": [
                {
                    "canister_id": str(item.canister_id),
                    "checks": [
                        {
                            "name": check.name,
                            "ok": check.ok,
                            "message": str(check.error) if check.error else check.message,
                            "kind": check.error.kind if check.error else None,
                            "warning": check.warning.code if check.warning else None,
                        }
                        for check in item.checks
                    ],
                }
                for item in self.canisters
            ],
        }


def state_bytes(status: CanisterStatus) -> int:
    """Return about how large a snapshot of the canister would be."""
    parts = ("wasm_memory_size", "stable_memory_size", "wasm_binary_size", "wasm_chunk_store_size")
    if any(name in status.memory_metrics for name in parts):
        return sum(status.memory_metrics.get(name, 0) for name in parts)
    return max(0, status.memory_size_bytes - status.memory_metrics.get("snapshots_size", 0))


def check_canister(
    site: Site,
    canister_id: Principal,
    *,
    new_snapshots: int = 1,
    replace: SnapshotId | str | None = None,
    needs_code: bool = True,
) -> CanisterPreflight:
    """
    Check whether an operation on one canister may begin.

    Args:
        site: The parts.
        canister_id: Which.
        new_snapshots: How many snapshots the operation adds.
        replace: The one that makes room, or ``"oldest"``.
        needs_code: Whether an empty canister is refused.
    """
    checks = [_journal(site)]
    try:
        status = site.status(canister_id)
        listing = SnapshotList(canister_id=canister_id, snapshots=site.management.list_snapshots(canister_id))
    except RejectedError as error:
        refusal = _no_access(canister_id, site.caller, error) if error.kind == "not_controller" else error
        return CanisterPreflight(
            canister_id=canister_id, checks=(_failed("access", refusal), *checks), status=None, snapshots=None
        )
    except BackupError as error:
        return CanisterPreflight(canister_id=canister_id, checks=(_failed("access", error), *checks))
    checks = [
        _access(status, site.caller),
        _state(status),
        *([_code(status)] if needs_code else []),
        _cycles(site, status, new_snapshots=new_snapshots),
        _cap(listing, new_snapshots=new_snapshots, replace=replace),
        *checks,
        _custody(status, site.caller),
        *_storage(site, status),
    ]
    return CanisterPreflight(canister_id=canister_id, checks=tuple(checks), status=status, snapshots=listing)


def _failed(name: str, error: BackupError) -> Check:
    return Check(name=name, message=error.message, error=error)


def _no_access(canister_id: Principal, caller: Principal, cause: BackupError | None) -> RejectedError:
    message = f"{caller} is not a controller of canister {canister_id}"
    hint = f"a controller adds it: icp canister settings update {canister_id} --add-controller {caller}"
    context = {"certified": True, "reject_code": 5} if cause is not None else {}
    error = RejectedError(message, kind="not_controller", hint=hint, canister_id=str(canister_id), **context)
    error.__cause__ = cause
    return error


def _access(status: CanisterStatus, caller: Principal) -> Check:
    if caller not in status.settings.controllers:
        return _failed("access", _no_access(status.canister_id, caller, None))
    return Check(name="access", message=f"{caller} is a controller")


def _state(status: CanisterStatus) -> Check:
    where = str(status.canister_id)
    if status.run_state is RunState.STOPPING:
        message = f"canister {where} is stopping on somebody else's account"
        hint = "wait until it has stopped, or start it: icp canister start " + where
        return _failed("state", SourceError(message, kind="canister_stopping", hint=hint, canister_id=where))
    if status.run_state is RunState.STOPPED:
        message = f"canister {where} is stopped already, and will stay so"
        warning = Finding(code="was_stopped", where=where, message=message)
        return Check(name="state", message=message, warning=warning)
    return Check(name="state", message="it is running")


def _code(status: CanisterStatus) -> Check:
    if status.module_hash is None:
        message = f"canister {status.canister_id} is empty; the network takes no snapshots of canisters without code"
        hint = "check the id; a canister without code has no state to keep"
        return _failed(
            "code", SourceError(message, kind="canister_empty", hint=hint, canister_id=str(status.canister_id))
        )
    return Check(name="code", message=f"its module is {status.module_hash.hex()}")


def _cycles(site: Site, status: CanisterStatus, *, new_snapshots: int) -> Check:
    # A canister with memory and no idle burn lives where nothing is charged.
    charged = status.idle_cycles_burned_per_day != 0
    prices = site.options.prices if charged else FREE
    size = state_bytes(status)
    reserve = freezing_reserve(status, extra_bytes=new_snapshots * size, prices=prices)
    work = (new_snapshots * prices.take(size).cycles) + prices.load(size).cycles
    needed = reserve + work + (site.options.margin_cycles if charged else 0)
    if status.cycles < needed:
        message = f"canister {status.canister_id} has {status.cycles:,} cycles; it should have {needed:,} before this"
        hint = (
            f"top it up with {needed - status.cycles:,}: {reserve:,} is its freezing reserve with what is added, "
            f"{work:,} the work"
        )
        context = {"canister_id": str(status.canister_id), "cycles": status.cycles, "needed_cycles": needed}
        return _failed("cycles", SourceError(message, kind="low_cycles", hint=hint, **context))
    return Check(name="cycles", message=f"{status.cycles:,} cycles, {needed:,} needed")


def _cap(listing: SnapshotList, *, new_snapshots: int, replace: SnapshotId | str | None) -> Check:
    where = str(listing.canister_id)
    if isinstance(replace, SnapshotId) and listing.find(replace) is None:
        message = f"canister {where} has no snapshot {replace} that could be replaced"
        return _failed("cap", PlanStaleError(message, kind="snapshot_not_found", hint="list its snapshots"))
    room = MAX_SNAPSHOTS - len(listing) + (replace is not None)
    if new_snapshots > room:
        message = (
            f"canister {where} has {len(listing)} of {MAX_SNAPSHOTS} snapshots: there is no room for {new_snapshots}"
        )
        hint = 'delete some: SnapshotManager.plan_retention; or let take() replace one: replace="oldest" or an id'
        return _failed("cap", SourceError(message, kind="snapshot_cap", hint=hint, canister_id=where))
    return Check(name="cap", message=f"{len(listing)} of {MAX_SNAPSHOTS} snapshots")


def _journal(site: Site) -> Check:
    try:
        site.journal.check()
    except BackupError as error:
        return _failed("journal", error)
    return Check(name="journal", message=f"{site.journal.directory} can be written")


def _custody(status: CanisterStatus, caller: Principal) -> Check:
    if status.settings.controllers == (caller,):
        where = str(status.canister_id)
        message = f"the backup identity {caller} is the only controller of {where}: whoever loses it loses the canister"
        return Check(
            name="custody", message=message, warning=Finding(code="only_controller", where=where, message=message)
        )
    return Check(name="custody", message="there are other controllers")


def _storage(site: Site, status: CanisterStatus) -> Sequence[Check]:
    found = storage_findings(status, dominate_share=site.options.dominate_share, prices=site.options.prices)
    return [Check(name="storage", message=finding.message, warning=finding) for finding in found]
