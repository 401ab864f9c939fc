"""
Stop, keep a safety snapshot, load, verify, start: and back to the safety snapshot when anything goes wrong after that.

Loading is not repeated blindly: a load whose answer got lost is waited out while the canister is still stopped, so
that it cannot take effect later, over what users have written since.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import attrs

from ..errors import BackupError, IntegrityError, InternalError, RejectedError, SourceError, SourceUnavailableError
from ..model.canisters import CanisterStatus, Snapshot, SnapshotMetadata
from ..model.ids import Principal, SnapshotId
from ..model.reports import Finding
from .downtime import Downtime
from .preflight import CanisterPreflight, check_canister
from .recovering import deleted, load_settled, recover_leftover
from .reports import LoadReport, Step
from .site import Site, may_still_run
from .taking import new_entry, take_certainly

__all__ = ["Expected", "HealthCheck", "load_snapshot"]

HealthCheck = Callable[[Principal], object]
"""Called with the id of the running canister; says that it is not well by returning `False` or raising."""

_ATTEMPTS = 3


@attrs.frozen(kw_only=True)
class Expected:
    """What a canister must be after a load; what is `None` is not compared."""

    module_hash: bytes | None = None
    wasm_memory_size: int | None = None
    stable_memory_size: int | None = None

    @classmethod
    def of(cls, metadata: SnapshotMetadata, module_hash: bytes | None = None) -> Expected:
        """Return what the metadata of a snapshot lets expect."""
        return cls(
            module_hash=module_hash,
            wasm_memory_size=metadata.wasm_memory_size,
            stable_memory_size=metadata.stable_memory_size,
        )

    def check(self, status: CanisterStatus) -> None:
        """Raise `IntegrityError`, kind ``restore_mismatch``, unless a certified *status* is as expected."""
        sizes = status.memory_metrics
        for name, wanted, present in (
            ("module hash", _hex(self.module_hash), _hex(status.module_hash)),
            ("wasm_memory_size", self.wasm_memory_size, sizes.get("wasm_memory_size")),
            ("stable_memory_size", self.stable_memory_size, sizes.get("stable_memory_size")),
        ):
            if wanted is not None and present is not None and wanted != present:
                message = f"after the load, canister {status.canister_id} has the {name} {present}, not {wanted}"
                hint = "the state from before is brought back, where there is a safety snapshot"
                raise IntegrityError(message, kind="restore_mismatch", hint=hint, canister_id=str(status.canister_id))


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


@attrs.define(kw_only=True)
class _Load:
    """One load; `run` once, with the canister's lock held."""

    site: Site
    canister_id: Principal
    snapshot_id: SnapshotId
    taken_at: dt.datetime | None
    operation: str
    wants_safety: bool
    expected: Expected
    max_seconds: float | None
    steps: list[Step] = attrs.field(factory=list)
    safety: Snapshot | None = None
    uncertain_since: float | None = None
    """When a load was sent whose outcome is unknown; none of them was before that."""
    executed: bool = False
    """Whether a load was, or may have been, executed."""
    version: int | None = None
    rolled_back: bool = False
    module_hash: bytes | None = None
    """Of what was loaded, as the subnet certifies it."""

    def run(self, checked: CanisterPreflight) -> tuple[Downtime, dt.datetime]:
        """Load; returns the guard after everything was started, and the moment of the stop."""
        entry = new_entry(
            self.site,
            checked,
            self.operation,
            pending="safety" if self.wants_safety else "load",
            target=self.snapshot_id,
        )
        downtime = Downtime(self.site, [entry], max_seconds=self.max_seconds)
        downtime.undo = self._undo
        downtime.after_start = self._tidy
        stopped_at = self.site.clock()
        try:
            with downtime:
                downtime.stop(self.canister_id)
                stopped_at = self.site.clock()
                self._step("stop", "stopped" if entry.was_running else "was stopped before")
                if self.wants_safety:
                    self._take_safety(downtime, entry.snapshots_before)
                self.version = self.site.status(self.canister_id).version
                downtime.note(
                    self.canister_id,
                    pending="load",
                    version=self.version,
                    safety=None if self.safety is None else self.safety.snapshot_id,
                    settled_at=self.site.settled_at(),
                )
                downtime.left_seconds(1.0)
                self._load(self.snapshot_id, downtime)
                self._step("load", f"snapshot {self.snapshot_id}")
                status = self.site.status(self.canister_id)
                self.expected.check(status)
                self.module_hash = status.module_hash
                self._step("verify", "module and memory sizes are those of the snapshot")
                downtime.note(self.canister_id, pending="")
        except BaseException as error:
            self._explain(error, downtime)
            raise
        self._step("start", "running" if entry.was_running else "left stopped")
        return downtime, stopped_at

    def _step(self, name: str, result: str) -> None:
        self.steps.append(Step(name=name, at=self.site.clock(), result=result))
        self.site.tell("snapshot.step", canister_id=str(self.canister_id), step=name, result=result)

    def _take_safety(self, downtime: Downtime, before: tuple[SnapshotId, ...]) -> None:
        seconds = downtime.left_seconds(self.site.options.call_seconds)

        def late() -> bool:
            found = self.site.new_snapshots(self.canister_id, before)
            for item in found:
                deleted(self.site, self.canister_id, item.snapshot_id)
            return bool(found)

        try:
            self.safety = take_certainly(self.site, self.canister_id, before=before, deadline_seconds=seconds)
        except BaseException as error:
            if may_still_run(error):
                downtime.watch(self.canister_id, late)
            raise
        self.site.tell("snapshot.safety", canister_id=str(self.canister_id), snapshot_id=str(self.safety.snapshot_id))

    def _load(self, snapshot_id: SnapshotId, downtime: Downtime | None = None) -> None:
        """Load into the stopped canister; a lost answer is settled before the load is repeated."""
        site = self.site
        end = site.monotonic() + site.options.loadable_seconds
        stubborn_until = site.monotonic() + (site.options.start_seconds if downtime is None else 0)
        lost = 0
        while True:
            try:
                self._send(snapshot_id)
            except RejectedError as error:
                left = end - site.monotonic()
                if error.kind != "not_loadable" or may_still_run(error) or left <= 0:
                    raise
                wait = min(site.options.loadable_poll_seconds, left)
                site.tell("snapshot.not_loadable", canister_id=str(self.canister_id), delay_seconds=wait)
            except BackupError as error:
                lost += 1
                # On the way back nothing is gained by giving up while the network is out of reach.
                waits = isinstance(error, SourceUnavailableError) and site.monotonic() < stubborn_until
                if lost >= _ATTEMPTS and not waits:
                    raise
                self._settle()
                wait = site.delay(lost)
            else:
                return
            site.sleep(wait if downtime is None else downtime.left_seconds(wait))
            if downtime is not None:
                downtime.left_seconds(1.0)

    def _send(self, snapshot_id: SnapshotId) -> None:
        site = self.site
        if self.executed:
            self.version = site.status(self.canister_id).version
        self.uncertain_since = site.monotonic()
        try:
            # Not shortened by a budget: what is abandoned early may take effect late.
            site.management.load_snapshot(self.canister_id, snapshot_id, deadline_seconds=site.options.call_seconds)
        except BackupError as error:
            if not may_still_run(error):
                self.uncertain_since = None
            raise
        self.executed, self.uncertain_since = True, None

    def _settle(self) -> None:
        """Wait until a load whose answer got lost was executed, or never will be."""
        if self.uncertain_since is None:
            return
        self.executed = True
        until = self.uncertain_since + self.site.options.settle_seconds
        load_settled(self.site, self.canister_id, version=self.version, until=until)
        self.uncertain_since = None

    def _undo(self) -> None:
        """Bring the state from before back, unless it never went."""
        self._settle()
        if not self.executed or self.safety is None:
            return
        self._load(self.safety.snapshot_id)
        self.rolled_back = True
        self.site.tell(
            "snapshot.rolled_back", canister_id=str(self.canister_id), snapshot_id=str(self.safety.snapshot_id)
        )

    def _tidy(self, failed: bool) -> None:  # noqa: FBT001 - the guard's hook
        """Delete a safety snapshot that nobody needs: the load never happened, or was undone."""
        needed = self.executed and not self.rolled_back
        if (
            failed
            and self.safety is not None
            and not needed
            and deleted(self.site, self.canister_id, self.safety.snapshot_id)
        ):
            self.safety = None

    def _explain(self, error: BaseException, downtime: Downtime) -> None:
        if self.rolled_back:
            note = f"canister {self.canister_id} is back at the state from before"
        elif self.executed and self.safety is None and error is not None:
            note = f"canister {self.canister_id} may hold snapshot {self.snapshot_id}; there was no safety snapshot"
        else:
            note = "" if self.executed else f"nothing was loaded into canister {self.canister_id}"
        if note:
            error.add_note(note)
        if self.safety is not None:
            error.add_note(f"safety snapshot {self.safety.snapshot_id} of canister {self.canister_id} is kept")
        for finding in downtime.findings:
            error.add_note(finding.message)
        if isinstance(error, BackupError):
            error.context.update(canister_id=str(self.canister_id), rolled_back=self.rolled_back)
            if self.safety is not None:
                error.context["safety_snapshot"] = str(self.safety.snapshot_id)


def load_snapshot(  # noqa: PLR0913 - the parts of a load
    site: Site,
    canister_id: Principal,
    snapshot_id: SnapshotId,
    *,
    taken_at: dt.datetime | None,
    expected: Expected,
    operation: str = "load",
    safety_snapshot: bool = True,
    max_seconds: float | None = None,
    health_check: HealthCheck | None = None,
) -> LoadReport:
    """
    Load a snapshot that is on the subnet into a canister.

    Args:
        site: The parts.
        canister_id: The target.
        snapshot_id: Of the target itself, or of another canister on its subnet.
        taken_at: When it was taken, for saying what is lost; `None` for one of another canister.
        expected: What is verified before the start.
        operation: For the journal.
        safety_snapshot: Whether the state from before is kept.
        max_seconds: Downtime budget.
        health_check: Asked when the canister runs again; when it says no, the safety snapshot is loaded.

    Raises:
        BackupError: Nothing was loaded, or the state from before is back; notes and context say which.
    """
    with site.journal.lock(canister_id, site.network):
        recover_leftover(site, canister_id)
        checked = check_canister(site, canister_id, new_snapshots=int(safety_snapshot), needs_code=False)
        if checked.error is not None:
            raise checked.error
        if checked.status is None:
            message = f"canister {canister_id} was not checked"
            raise InternalError(message)
        empty = checked.status.module_hash is None
        load = _Load(
            site=site,
            canister_id=canister_id,
            snapshot_id=snapshot_id,
            taken_at=taken_at,
            operation=operation,
            wants_safety=safety_snapshot and not empty,
            expected=expected,
            max_seconds=max_seconds,
        )
        downtime, stopped_at = load.run(checked)
        findings = [*checked.findings, *downtime.findings]
        if safety_snapshot and empty:
            message = f"canister {canister_id} was empty, so there is no state from before to go back to"
            findings.append(Finding(code="no_safety_snapshot", where=str(canister_id), message=message))
        if not empty and load.module_hash != checked.status.module_hash:
            message = (
                f"the code of canister {canister_id} is another one now: module {_hex(load.module_hash)}, "
                f"before {_hex(checked.status.module_hash)}"
            )
            findings.append(Finding(code="code_changed", where=str(canister_id), message=message))
        report = LoadReport(
            canister_id=canister_id,
            snapshot_id=snapshot_id,
            safety_snapshot=load.safety,
            lost=None if taken_at is None else max(dt.timedelta(0), stopped_at - taken_at),
            downtime_seconds=downtime.seconds(canister_id),
            was_running=checked.status.run_state.value == "running",
            steps=tuple(load.steps),
            findings=tuple(findings),
        )
        site.tell(
            "snapshot.loaded",
            canister_id=str(canister_id),
            snapshot_id=str(snapshot_id),
            downtime_seconds=round(report.downtime_seconds, 3),
        )
        if health_check is None:
            return report
        try:
            return _checked(site, report, health_check)
        except BaseException as error:
            _name_loaded(error, report)
            raise


def _name_loaded(error: BaseException, report: LoadReport) -> None:
    """Say what a canister holds, and where its former state is, when it is not known whether it is well."""
    error.add_note(f"canister {report.canister_id} was loaded with snapshot {report.snapshot_id} before that")
    if report.safety_snapshot is None:
        return
    safety = str(report.safety_snapshot.snapshot_id)
    error.add_note(f"the state from before the load is snapshot {safety}: roll_back() to it, if need be")
    if isinstance(error, BackupError):
        error.context["safety_snapshot"] = safety


def _checked(site: Site, report: LoadReport, health_check: HealthCheck) -> LoadReport:
    """Ask whether the loaded canister is well, and roll forward to the safety snapshot when it is not."""
    where = str(report.canister_id)
    if not report.was_running:
        message = f"canister {where} was stopped before and still is, so its health was not checked"
        finding = Finding(code="health_not_checked", where=where, message=message)
        return attrs.evolve(report, findings=(*report.findings, finding))
    error = _health_error(report.canister_id, health_check)
    if error is None:
        return attrs.evolve(report, healthy=True)
    site.tell("snapshot.unhealthy", canister_id=where, kind=error.kind)
    report = attrs.evolve(report, healthy=False, health_error=error)
    if report.safety_snapshot is None:
        return report
    back = _Load(
        site=site,
        canister_id=report.canister_id,
        snapshot_id=report.safety_snapshot.snapshot_id,
        taken_at=None,
        operation="load",
        wants_safety=False,
        expected=Expected(),
        max_seconds=None,
    )
    checked = check_canister(site, report.canister_id, new_snapshots=0, needs_code=False)
    if checked.status is None:
        raise checked.error or error
    downtime, _ = back.run(checked)
    seconds = report.downtime_seconds + downtime.seconds(report.canister_id)
    site.tell("snapshot.rolled_back", canister_id=where, snapshot_id=str(report.safety_snapshot.snapshot_id))
    return attrs.evolve(report, rolled_forward=True, downtime_seconds=seconds)


def _health_error(canister_id: Principal, health_check: HealthCheck) -> BackupError | None:
    try:
        verdict = health_check(canister_id)
    except BackupError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the caller's own code; whatever it raises means no
        return SourceError(
            f"the health check of canister {canister_id} raised {type(error).__name__}",
            kind="unhealthy",
            hint="call the health check by itself to see why",
        )
    if verdict is False:
        return SourceError(
            f"the health check of canister {canister_id} said no",
            kind="unhealthy",
            hint="look at the canister and its log",
        )
    return None
