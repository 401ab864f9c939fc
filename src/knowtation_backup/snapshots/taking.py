"""Stop, take, start: one canister after the other, or several at one moment."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from ..errors import BackupError, SourceError
from ..model.canisters import RunState, Snapshot
from ..model.ids import Principal, SnapshotId
from .downtime import Downtime
from .journal import DowntimeEntry
from .preflight import CanisterPreflight, check_canister
from .recovering import deleted, recover_leftover
from .reports import Taken, TakeReport
from .site import Site, may_still_run

__all__ = ["new_entry", "take_certainly", "take_each", "take_group"]


def new_entry(site: Site, checked: CanisterPreflight, operation: str, **more: Any) -> DowntimeEntry:
    """Return what is written down before a canister is stopped; *checked* must be without errors."""
    if checked.status is None or checked.snapshots is None:
        raise checked.error or SourceError(f"canister {checked.canister_id} was not checked")
    return DowntimeEntry(
        canister_id=checked.canister_id,
        network=site.network,
        operation=operation,
        was_running=checked.status.run_state is RunState.RUNNING,
        began_at=site.clock(),
        snapshots_before=checked.snapshots.ids,
        **more,
    )


def take_certainly(
    site: Site,
    canister_id: Principal,
    *,
    before: Sequence[SnapshotId],
    deadline_seconds: float,
    replace: SnapshotId | None = None,
) -> Snapshot:
    """
    Take a snapshot; where the answer got lost, look whether there is a new one.

    Raises:
        BackupError: There is none, or it is not certain; then ``may_have_run`` is in the context.
    """
    try:
        return site.management.take_snapshot(canister_id, replace=replace, deadline_seconds=deadline_seconds)
    except BackupError as error:
        if not may_still_run(error):
            raise
        error.context["may_have_run"] = True
        with contextlib.suppress(BackupError):
            found = site.new_snapshots(canister_id, tuple(before))
            if len(found) == 1:
                site.tell("snapshot.outcome_found", canister_id=str(canister_id), snapshot_id=str(found[0].snapshot_id))
                return found[0]
        raise


def take_each(
    site: Site,
    canister_ids: Sequence[Principal],
    *,
    replace: SnapshotId | str | None,
    max_seconds: float | None,
    on_taken: Callable[[Taken], None] | None,
) -> TakeReport:
    """Take a snapshot of each canister, strictly one after the other; a failure stays with its canister."""
    results: list[Taken] = []
    for canister_id in canister_ids:
        try:
            result = _take_one(site, canister_id, replace=replace, max_seconds=max_seconds)
        except BackupError as error:
            _name_taken(error, results)
            if len(canister_ids) == 1 or error.kind == "canister_down":
                raise  # the others are better left alone, when one could not be started
            result = Taken(canister_id=canister_id, was_running=bool(error.context.get("was_running")), error=error)
            site.tell("snapshot.failed", canister_id=str(canister_id), kind=error.kind)
        except BaseException as error:
            _name_taken(error, results)
            raise
        results.append(result)
        if result.ok and on_taken is not None:
            try:
                on_taken(result)
            except BaseException as error:
                _name_taken(error, results)
                raise
    return TakeReport(results=tuple(results))


def _name_taken(error: BaseException, results: Sequence[Taken]) -> None:
    """Name in an error what was taken before it: its report will never be seen."""
    taken = {str(item.canister_id): str(item.snapshot.snapshot_id) for item in results if item.snapshot is not None}
    if not taken:
        return
    if isinstance(error, BackupError):
        error.context["taken"] = taken
    else:
        error.add_note("taken before: " + ", ".join(f"{snapshot} of {name}" for name, snapshot in taken.items()))


def _take_one(
    site: Site, canister_id: Principal, *, replace: SnapshotId | str | None, max_seconds: float | None
) -> Taken:
    with site.journal.lock(canister_id, site.network):
        recover_leftover(site, canister_id)
        checked = check_canister(site, canister_id, replace=replace)
        if checked.error is not None:
            raise checked.error
        replaced = _replaced(checked, replace)
        entry = new_entry(site, checked, "take", pending="take")
        late: list[SnapshotId] = []

        def seen() -> bool:
            late[:] = [item.snapshot_id for item in site.new_snapshots(canister_id, entry.snapshots_before)]
            return bool(late)

        downtime = Downtime(site, [entry], max_seconds=max_seconds)
        try:
            with downtime:
                downtime.stop(canister_id)
                seconds = downtime.left_seconds(site.options.call_seconds)
                try:
                    snapshot = take_certainly(
                        site, canister_id, before=entry.snapshots_before, deadline_seconds=seconds, replace=replaced
                    )
                except BaseException as error:
                    if may_still_run(error):
                        downtime.watch(canister_id, seen)
                    raise
                late.append(snapshot.snapshot_id)  # named if anything fails from here on
        except BaseException as error:
            _name_late(site, error, entry, late)
            raise
    seconds = downtime.seconds(canister_id)
    taken = Taken(
        canister_id=canister_id,
        was_running=entry.was_running,
        snapshot=snapshot,
        replaced=replaced,
        downtime_seconds=seconds,
        findings=(*checked.findings, *downtime.findings),
    )
    site.tell(
        "snapshot.taken",
        canister_id=str(canister_id),
        snapshot_id=str(snapshot.snapshot_id),
        size_bytes=snapshot.size_bytes,
        downtime_seconds=round(seconds, 3),
    )
    return taken


def _name_late(site: Site, error: BaseException, entry: DowntimeEntry, late: Sequence[SnapshotId]) -> None:
    names = ", ".join(map(str, late))
    if isinstance(error, BackupError):
        error.context.update(canister_id=str(entry.canister_id), was_running=entry.was_running)
        if late:
            error.context["snapshots_left"] = list(map(str, late))
    if late:
        error.add_note(f"canister {entry.canister_id} has snapshots that the operation may have taken: {names}")
        with contextlib.suppress(Exception):
            site.tell("snapshot.unclear", canister_id=str(entry.canister_id), snapshot_ids=names)


def _replaced(checked: CanisterPreflight, replace: SnapshotId | str | None) -> SnapshotId | None:
    if replace is None or isinstance(replace, SnapshotId):
        return replace
    # "oldest" makes room where there is none, and deletes nothing needlessly.
    listing = checked.snapshots
    return listing.ids[0] if listing is not None and listing.full else None


@attrs.define
class _Group:
    site: Site
    entries: Sequence[DowntimeEntry]
    downtime: Downtime
    taken: dict[Principal, Snapshot] = attrs.field(factory=dict)
    uncertain: DowntimeEntry | None = None
    gone: set[Principal] = attrs.field(factory=set)
    left: dict[Principal, tuple[SnapshotId, ...]] = attrs.field(factory=dict)
    """What could not be deleted after a failure."""

    def take(self) -> None:
        """Stop all, take all."""
        for entry in self.entries:
            self.downtime.stop(entry.canister_id)
        for entry in self.entries:
            seconds = self.downtime.left_seconds(self.site.options.call_seconds)
            try:
                self.taken[entry.canister_id] = take_certainly(
                    self.site, entry.canister_id, before=entry.snapshots_before, deadline_seconds=seconds
                )
            except BaseException as error:
                self.uncertain = entry if may_still_run(error) else None
                raise

    def withdraw(self, failed: bool) -> None:  # noqa: FBT001 - the guard's hook
        """Keep none after a failure."""
        if not failed:
            return
        for canister_id, snapshot in self.taken.items():
            self._delete(canister_id, [snapshot.snapshot_id])
        if self.uncertain is not None:
            self.downtime.watch(self.uncertain.canister_id, functools.partial(self._late, self.uncertain))

    def _late(self, entry: DowntimeEntry) -> bool:
        found = self.site.new_snapshots(entry.canister_id, entry.snapshots_before)
        self._delete(entry.canister_id, [item.snapshot_id for item in found])
        return bool(found)

    def _delete(self, canister_id: Principal, snapshot_ids: Sequence[SnapshotId]) -> None:
        left = tuple(item for item in snapshot_ids if not deleted(self.site, canister_id, item))
        self.gone.add(canister_id)
        if left:
            self.left[canister_id] = left


def take_group(site: Site, canister_ids: Sequence[Principal], *, max_seconds: float | None) -> TakeReport:
    """
    Stop all canisters, take all snapshots, start all in reverse order; keep all snapshots or none.

    Raises:
        BackupError: Something failed; what could not be deleted again is in the context as ``snapshots_left``.
    """
    with contextlib.ExitStack() as locks:
        for canister_id in canister_ids:
            locks.enter_context(site.journal.lock(canister_id, site.network))
        for canister_id in canister_ids:
            recover_leftover(site, canister_id)
        checked = [check_canister(site, canister_id) for canister_id in canister_ids]
        for item in checked:
            if item.error is not None:
                raise item.error
        entries = [new_entry(site, item, "group", pending="take", group=tuple(canister_ids)) for item in checked]
        downtime = Downtime(site, entries, max_seconds=max_seconds)
        group = _Group(site, entries, downtime)
        downtime.after_start = group.withdraw
        try:
            with downtime:
                group.take()
        except BaseException as error:
            for entry in entries:
                _name_late(site, error, entry, group.left.get(entry.canister_id, ()))
            kept = {name: item for name, item in group.taken.items() if name not in group.gone}
            _name_taken(
                error, [Taken(canister_id=name, was_running=True, snapshot=item) for name, item in kept.items()]
            )
            if isinstance(error, BackupError) and group.left:
                named = {str(name): list(map(str, ids)) for name, ids in group.left.items()}
                error.context["snapshots_left"] = named
            raise
    return _group_report(site, checked, entries, group, downtime)


def _group_report(
    site: Site,
    checked: Sequence[CanisterPreflight],
    entries: Sequence[DowntimeEntry],
    group: _Group,
    downtime: Downtime,
) -> TakeReport:
    results = []
    for item, entry in zip(checked, entries, strict=True):
        snapshot, seconds = group.taken[entry.canister_id], downtime.seconds(entry.canister_id)
        results.append(
            Taken(
                canister_id=entry.canister_id,
                was_running=entry.was_running,
                snapshot=snapshot,
                downtime_seconds=seconds,
                findings=(*item.findings, *(downtime.findings if entry is entries[0] else ())),
            )
        )
        site.tell(
            "snapshot.taken",
            canister_id=str(entry.canister_id),
            snapshot_id=str(snapshot.snapshot_id),
            size_bytes=snapshot.size_bytes,
            downtime_seconds=round(seconds, 3),
        )
    return TakeReport(results=tuple(results), group=True)
