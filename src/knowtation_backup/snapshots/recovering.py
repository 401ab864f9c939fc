"""Finishing what a process that died left behind: starting canisters, settling snapshots, rolling back half a load."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from ..errors import BackupError, ConfigurationError, IntegrityError, RejectedError, SourceUnavailableError
from ..model.canisters import RunState, Snapshot
from ..model.ids import Principal, SnapshotId
from .downtime import start_canister
from .journal import DowntimeEntry
from .reports import Recovered, RecoverReport
from .site import LIFE_SECONDS, Site

__all__ = ["deleted", "load_settled", "recover_all", "recover_leftover"]

_LOAD_ATTEMPTS = 3


def deleted(site: Site, canister_id: Principal, snapshot_id: SnapshotId) -> bool:
    """Delete a snapshot and return whether it is gone; a failure is for the report, not for the caller."""
    try:
        site.management.delete_snapshot(canister_id, snapshot_id)
    except BackupError as error:
        return isinstance(error, RejectedError) and error.certified and error.kind == "snapshot_not_found"
    site.tell("snapshot.deleted", canister_id=str(canister_id), snapshot_id=str(snapshot_id))
    return True


def load_settled(site: Site, canister_id: Principal, *, version: int | None, until: float) -> None:
    """
    Wait while a load whose outcome is unknown may still be executed.

    A load adds one to the version of a stopped canister, and nothing else does: once that is seen, waiting is over.
    """
    while (left := until - site.monotonic()) > 0:
        try:
            now = site.status(canister_id).version
        except BackupError:
            now = None
        if now is not None and version is not None and now > version:
            return
        site.sleep(min(left, site.options.settle_poll_seconds))


def recover_leftover(site: Site, canister_id: Principal) -> Recovered | None:
    """
    Finish what an operation that died left of a canister whose lock is held.

    Raises:
        SourceError: It cannot be finished.
    """
    entry = site.journal.find(canister_id, site.network)
    if entry is None:
        return None
    result = _Recovery(site, entry, wait=True).run()
    if result.error is not None:
        raise result.error
    return result


def recover_all(site: Site, *, wait: bool) -> RecoverReport:
    """Finish what operations that died left, canister by canister."""
    results = []
    entries, damaged = site.journal.read()
    for entry in entries:
        if entry.network != site.network:
            continue
        try:
            with site.journal.lock(entry.canister_id, site.network):
                present = site.journal.find(entry.canister_id, site.network)
                if present is not None:  # not finished by another process meanwhile
                    results.append(_Recovery(site, present, wait=wait).run())
        except SourceUnavailableError as error:
            if error.kind != "canister_busy":
                raise
            results.append(Recovered(canister_id=entry.canister_id, operation=entry.operation, action="busy"))
    results.extend(_damaged(site, damaged))
    report = RecoverReport(results=tuple(results))
    for result in results:
        site.tell("snapshot.recovered", canister_id=str(result.canister_id), action=result.action)
    return report


def _damaged(site: Site, damaged: Mapping[str, IntegrityError]) -> Iterator[Recovered]:
    # Nobody can say whether that canister was running: a person must look.
    for name, error in damaged.items():
        text, _, network = Path(name).stem.partition("@")
        with contextlib.suppress(ConfigurationError):  # not named after a canister: not ours
            if network == site.network:
                canister_id = Principal.parse(text)
                yield Recovered(canister_id=canister_id, operation="unknown", action="failed", error=error)


@attrs.define
class _Recovery:
    """One entry, whose lock is held; `run` once."""

    site: Site
    entry: DowntimeEntry
    wait: bool
    rolled_back_to: SnapshotId | None = None
    gone: list[SnapshotId] = attrs.field(factory=list)

    def run(self) -> Recovered:
        """Bring the canister to where it was, and forget the entry when that is certain."""
        entry = self.entry
        try:
            state = self.site.status(entry.canister_id).run_state
        except BackupError as error:
            if isinstance(error, RejectedError) and self._is_gone():
                self.site.journal.remove(entry)
                return self._result("gone")
            if not entry.was_running:
                return self._result("failed", error=error)
            state = RunState.STOPPED  # the only way to be sure that it runs is to start it
        failure = self._roll_back(state)
        new: tuple[SnapshotId, ...] = ()
        try:
            action = self._start(state)
            settled = self._settle()
            new = self._tidy()
        except BackupError as error:
            failure = failure or error
        if failure is not None:
            return self._result("failed", error=failure, new=new)
        if not settled:
            return self._result("settling", new=new)
        self.site.journal.remove(entry)
        return self._result(action, new=new)

    def _start(self, state: RunState) -> str:
        """Start what was running, and return what was done."""
        canister_id = self.entry.canister_id
        if not self.entry.was_running:
            return "left_stopped"
        if state is RunState.RUNNING:
            return "running"
        try:
            start_canister(self.site, canister_id)
        except BackupError as error:
            attempts = error.context.get("attempts", 0)
            self.site.tell("snapshot.canister_down", canister_id=str(canister_id), attempts=attempts)
            raise
        return "started"

    def _result(self, action: str, *, error: BackupError | None = None, new: tuple[SnapshotId, ...] = ()) -> Recovered:
        return Recovered(
            canister_id=self.entry.canister_id,
            operation=self.entry.operation,
            action=action,
            error=error,
            new_snapshots=new,
            deleted_snapshots=tuple(self.gone),
            rolled_back_to=self.rolled_back_to,
        )

    def _is_gone(self) -> bool:
        """Whether the subnet certifies that there is no such canister any more."""
        try:
            self.site.management.public_info(self.entry.canister_id)
        except BackupError as error:
            return error.kind == "canister_not_found" and bool(error.context.get("certified"))
        return False

    def _end(self) -> float:
        """Return the moment from which on nothing the dead process sent can be executed any more."""
        if self.entry.settled_at is None:
            return self.site.monotonic()
        left = (self.entry.settled_at - self.site.clock()) / dt.timedelta(seconds=1)
        return self.site.monotonic() + max(0.0, min(left, LIFE_SECONDS, self.site.options.settle_seconds))

    def _roll_back(self, state: RunState) -> BackupError | None:
        """Load the safety snapshot, if a load was under way and had not been found good; not into what runs already."""
        entry = self.entry
        if entry.pending != "load" or entry.safety is None or state is RunState.RUNNING:
            return None
        load_settled(self.site, entry.canister_id, version=entry.version, until=self._end())
        failure: BackupError | None = None
        for _ in range(_LOAD_ATTEMPTS):
            try:
                self.site.management.load_snapshot(
                    entry.canister_id, entry.safety, deadline_seconds=self.site.options.call_seconds
                )
            except BackupError as error:
                failure = error
                self.site.sleep(self.site.options.first_delay_seconds)
            else:
                self.rolled_back_to = entry.safety
                self.site.tell(
                    "snapshot.rolled_back", canister_id=str(entry.canister_id), snapshot_id=str(entry.safety)
                )
                return None
        return failure

    def _settle(self) -> bool:
        """Wait until nothing can take effect any more; `False` when that takes longer and is not wanted."""
        entry, end = self.entry, self._end()
        while (left := end - self.site.monotonic()) > 0:
            if not self.wait:
                return False
            if entry.was_running and self.site.status(entry.canister_id).run_state is not RunState.RUNNING:
                start_canister(self.site, entry.canister_id)
            self.site.sleep(min(left, self.site.options.settle_poll_seconds))
        if entry.was_running and self.site.status(entry.canister_id).run_state is not RunState.RUNNING:
            start_canister(self.site, entry.canister_id)
        return True

    def _tidy(self) -> tuple[SnapshotId, ...]:
        """Return the canister's new snapshots, after deleting those of a group that did not become complete."""
        entry = self.entry
        new = self.site.new_snapshots(entry.canister_id, entry.snapshots_before)
        if entry.operation == "group" and self._withdrawing():
            new = tuple(item for item in new if not self._withdrawn(item, alone=len(new) == 1))
        return tuple(item.snapshot_id for item in new)

    def _withdrawn(self, item: Snapshot, *, alone: bool) -> bool:
        # Of several new ones it is not certain which is ours: then they are named, and none is deleted.
        if not alone or not deleted(self.site, self.entry.canister_id, item.snapshot_id):
            return False
        self.gone.append(item.snapshot_id)
        return True

    def _withdrawing(self) -> bool:
        """Whether the snapshots of the group go, because one is missing; decided once, and written down for all."""
        if self.entry.pending == "withdraw":
            return True
        others = [member for member in self.entry.group if member != self.entry.canister_id]
        if not self._missing(self.entry.canister_id) and not any(map(self._missing, others)):
            return False
        self.entry = attrs.evolve(self.entry, pending="withdraw")
        self.site.journal.write(self.entry)
        for member in others:
            # One that is busy is being finished by another process, which finds the same.
            with contextlib.suppress(SourceUnavailableError), self.site.journal.lock(member, self.site.network):
                other = self.site.journal.find(member, self.site.network)
                if other is not None and other.group == self.entry.group:
                    self.site.journal.write(attrs.evolve(other, pending="withdraw"))
        return True

    def _missing(self, member: Principal) -> bool:
        other = self.site.journal.find(member, self.site.network)
        if other is None or other.group != self.entry.group:
            return False  # finished already
        return not self.site.new_snapshots(member, other.snapshots_before)
