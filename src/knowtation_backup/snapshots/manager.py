"""
`SnapshotManager`: every operation on canister snapshots, none of which leaves a running canister stopped.

However an operation ends after a stop was attempted, the canister is started again: see `Downtime`. What a killed
process leaves behind is finished by `SnapshotManager.recover`, or by the next operation on that canister.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..contracts import Clock, Observer, ignore_events, utc_now
from ..errors import BackupError, ConfigurationError, PlanStaleError, RejectedError
from ..ic.management import ManagementCanister
from ..model.canisters import Snapshot
from ..model.ids import Principal, SnapshotId
from .download import DownloadOptions, DownloadReport, SnapshotStream
from .download import download as download_snapshot
from .download import stream as stream_snapshot
from .journal import DowntimeJournal, network_name
from .loading import Expected, HealthCheck, load_snapshot
from .preflight import SnapshotPreflight, check_canister
from .recovering import recover_all
from .reports import LoadReport, RecoverReport, RestoreReport, Taken, TakeReport
from .requests import (
    CanisterId,
    CanisterIds,
    ids_of,
    replacement,
    require_confirmed,
    seconds_of,
    terminating_signals,
)
from .restoring import restore_directory
from .retention import SnapshotList, SnapshotPlan, plan_snapshots
from .site import Site, SnapshotOptions, may_still_run
from .taking import take_each, take_group
from .upload import SnapshotReader, UploadOptions, UploadReport, abandon_upload
from .upload import upload as upload_snapshot

__all__ = ["CanisterIds", "SnapshotManager", "SnapshotOptions"]


class SnapshotManager:
    """
    Takes, lists, loads, deletes, downloads, uploads and restores snapshots of canisters, as one controller.

    Thread-safe; operations on one canister exclude each other, also between processes that use the same journal.

    Args:
        management: The network, asked as a controller of the canisters.
        journal: Directory where is written down what is about to be stopped: on a local disk that survives a restart,
            one for all processes that work on the same canisters.
        options: How operations wait, retry and judge.
        observer: Told what happens.
        clock: The present moment.
        monotonic: Seconds, for deadlines and downtimes.
        sleep: Waits between attempts.
    """

    def __init__(  # noqa: PLR0913 - one argument per independent part, nearly all optional
        self,
        management: ManagementCanister,
        *,
        journal: DowntimeJournal | Path | str,
        options: SnapshotOptions | None = None,
        observer: Observer = ignore_events,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._site = Site(
            management=management,
            network=network_name(management.agent.root_key),
            caller=management.agent.sender,
            journal=journal if isinstance(journal, DowntimeJournal) else DowntimeJournal(journal),
            options=options or SnapshotOptions(),
            observer=observer,
            clock=clock,
            monotonic=monotonic,
            sleep=sleep,
        )

    def __repr__(self) -> str:
        return f"SnapshotManager({self._site.management.agent!r}, journal={str(self._site.journal.directory)!r})"

    # -- looking -------------------------------------------------------------------------------------------------------

    def preflight(self, canister_ids: CanisterIds, *, new_snapshots: int = 1) -> SnapshotPreflight:
        """
        Check whether snapshots of canisters could be taken now; changes nothing.

        Args:
            canister_ids: Which.
            new_snapshots: How many each would get.
        """
        checked = [check_canister(self._site, item, new_snapshots=new_snapshots) for item in ids_of(canister_ids)]
        return SnapshotPreflight(canisters=tuple(checked))

    def list(self, canister_id: CanisterId) -> SnapshotList:
        """Return the snapshots of a canister, certified, oldest first."""
        principal = Principal.parse(canister_id)
        return SnapshotList(canister_id=principal, snapshots=self._site.management.list_snapshots(principal))

    # -- taking and deleting -------------------------------------------------------------------------------------------

    def take(  # noqa: PLR0913 - what, and under which conditions
        self,
        canister_ids: CanisterIds,
        *,
        confirm: CanisterIds,
        group: bool = False,
        replace: SnapshotId | str | None = None,
        max_downtime: dt.timedelta | None = None,
        on_taken: Callable[[Taken], None] | None = None,
    ) -> TakeReport:
        """
        Stop canisters, take a snapshot of each, and start them again.

        Canisters are stopped strictly one after the other, in the order given; those that were stopped before stay so.
        With several, a failure stays with its canister and is in the report; with one, it is raised.

        Args:
            canister_ids: Which; duplicates count once.
            confirm: The same ids again: these canisters will be down for seconds.
            group: Stop all, take all, start all in reverse order, and keep either all snapshots or none.
            replace: A snapshot that the new one takes the place of, or ``"oldest"``: the oldest, if there is no room.
            max_downtime: When a canister (a group: all together) is down for longer, it is started without a snapshot.
            on_taken: Called with each result once the canister runs again, for example to begin its download. What it
                raises ends the operation.

        Raises:
            ConfigurationError: Kind ``not_confirmed``, or arguments that do not go together; nothing was asked.
            SourceError: Kinds ``low_cycles``, ``snapshot_cap``, ``canister_stopping``, ``canister_empty``: nothing was
                stopped. Kind ``downtime_exceeded``. Kind ``canister_down``: a canister could not be started again; this
                is raised at once, whatever else is left to do.
            RejectedError: Kind ``not_controller``, with the command that helps.
            SourceUnavailableError: Kind ``canister_busy``: another operation works on it.
            OutcomeUnknownError: A snapshot may have been taken; those that appeared are ``snapshots_left``.
        """
        ids = ids_of(canister_ids)
        require_confirmed(ids, confirm)
        replaced = replacement(replace)
        if group and replaced is not None:
            message = "a group cannot replace snapshots: what was replaced is gone, even if the group then fails"
            raise ConfigurationError(message, kind="bad_option", hint="delete old snapshots first", option="replace")
        if isinstance(replaced, SnapshotId) and len(ids) > 1:
            message = f"snapshot {replaced} belongs to one canister, not to {len(ids)}"
            raise ConfigurationError(message, kind="bad_option", hint='use replace="oldest"', option="replace")
        seconds = seconds_of(max_downtime)
        if not group:
            return take_each(self._site, ids, replace=replaced, max_seconds=seconds, on_taken=on_taken)
        report = take_group(self._site, ids, max_seconds=seconds)
        if on_taken is not None:
            for result in report.results:
                on_taken(result)
        return report

    def delete(self, canister_id: CanisterId, snapshot_id: SnapshotId | str, *, confirm: CanisterIds) -> Snapshot:
        """
        Delete a snapshot from the chain, for ever; return what was deleted.

        Args:
            canister_id: Whose.
            snapshot_id: Which.
            confirm: The canister's id again.

        Raises:
            ConfigurationError: Kind ``not_confirmed``. Kind ``snapshot_in_use``: it holds the state from before an
                operation that is not finished.
            RejectedError: Kind ``snapshot_not_found``.
        """
        principal, wanted = Principal.parse(canister_id), SnapshotId.parse(snapshot_id)
        require_confirmed((principal,), confirm)
        if wanted in self._protected(principal):
            message = f"snapshot {wanted} holds the state of canister {principal} from before an unfinished operation"
            raise ConfigurationError(message, kind="snapshot_in_use", hint="call SnapshotManager.recover() first")
        found = self._find(principal, wanted)
        self._delete(principal, wanted)
        return found

    def _delete(self, canister_id: Principal, snapshot_id: SnapshotId) -> None:
        try:
            self._site.management.delete_snapshot(canister_id, snapshot_id)
        except BackupError as error:
            # Gone between listing and deleting: by us, if an answer was lost, or by somebody else; gone it is.
            gone = isinstance(error, RejectedError) and error.certified and error.kind == "snapshot_not_found"
            if not gone and (not may_still_run(error) or self.list(canister_id).find(snapshot_id) is not None):
                raise
        self._site.tell("snapshot.deleted", canister_id=str(canister_id), snapshot_id=str(snapshot_id))

    def plan_retention(
        self,
        canister_id: CanisterId,
        *,
        keep: int,
        only_downloaded: Collection[SnapshotId | str] | None = None,
    ) -> SnapshotPlan:
        """
        Plan which of a canister's snapshots stay on chain; nothing happens before `apply`.

        Args:
            canister_id: Whose.
            keep: How many of the newest stay, 1 to 9.
            only_downloaded: Snapshots of which a verified copy is kept elsewhere: no others go. `None` asks for none.
        """
        principal = Principal.parse(canister_id)
        copies = None if only_downloaded is None else frozenset(map(SnapshotId.parse, only_downloaded))
        return plan_snapshots(
            self.list(principal),
            keep=keep,
            now=self._site.clock(),
            downloaded=copies,
            protected=self._protected(principal),
        )

    def apply(self, plan: SnapshotPlan) -> tuple[Snapshot, ...]:
        """
        Delete what a plan says, oldest first; return what was deleted.

        Raises:
            PlanStaleError: The canister no longer has exactly the snapshots planned for; nothing was deleted.
        """
        present = self.list(plan.canister_id)
        if frozenset(present.ids) != plan.ids:
            message = f"canister {plan.canister_id} no longer has the snapshots that were planned for"
            raise PlanStaleError(message, hint="plan again", canister_id=str(plan.canister_id))
        for item in plan.deleted:
            self._delete(plan.canister_id, item.snapshot_id)
        return plan.deleted

    # -- loading -------------------------------------------------------------------------------------------------------

    def roll_back(  # noqa: PLR0913 - what, and under which conditions
        self,
        canister_id: CanisterId,
        snapshot_id: SnapshotId | str,
        *,
        confirm: CanisterIds,
        safety_snapshot: bool = True,
        health_check: HealthCheck | None = None,
        max_downtime: dt.timedelta | None = None,
    ) -> LoadReport:
        """
        Stop a canister, bring back the state of one of its snapshots, and start it.

        Everything newer than the snapshot is gone from the canister; the safety snapshot still has it. When anything
        fails after the load was sent, the safety snapshot is loaded before the canister is started.

        Args:
            canister_id: Which.
            snapshot_id: Taken of it, or uploaded to it.
            confirm: The canister's id again.
            safety_snapshot: Whether the state from before is kept in a snapshot; needs room for one.
            health_check: Called with the canister's id when it runs again. When it returns `False` or raises, the
                safety snapshot is loaded, and the report says so. If the process dies meanwhile, what was loaded stays.
            max_downtime: When this is used up, the operation gives up and starts the canister; a load that was sent is
                waited for.

        Raises:
            BackupError: The canister is as it was before; notes and context say what is left. Kinds as in `take`, and
                ``not_loadable``, ``restore_mismatch``.
        """
        principal, wanted = Principal.parse(canister_id), SnapshotId.parse(snapshot_id)
        require_confirmed((principal,), confirm)
        found = self._find(principal, wanted)
        metadata = self._site.management.read_snapshot_metadata(principal, wanted).metadata
        return load_snapshot(
            self._site,
            principal,
            wanted,
            taken_at=found.taken_at,
            expected=Expected.of(metadata),
            safety_snapshot=safety_snapshot,
            max_seconds=seconds_of(max_downtime),
            health_check=health_check,
        )

    load = roll_back

    def clone(  # noqa: PLR0913 - from, to, and under which conditions
        self,
        source_id: CanisterId,
        snapshot_id: SnapshotId | str,
        target_id: CanisterId,
        *,
        confirm: CanisterIds,
        directory: str | os.PathLike[str] | None = None,
        safety_snapshot: bool = True,
        health_check: HealthCheck | None = None,
        max_downtime: dt.timedelta | None = None,
    ) -> LoadReport | RestoreReport:
        """
        Put the state of one canister into another.

        On one subnet the snapshot is loaded directly. Otherwise it is downloaded and uploaded, by way of *directory*.

        Args:
            source_id: Whose snapshot.
            snapshot_id: Which.
            target_id: The canister that gets the state.
            confirm: The target's id again.
            directory: Where the snapshot goes on its way between subnets; stays there.
            safety_snapshot: As in `roll_back`.
            health_check: As in `roll_back`.
            max_downtime: As in `roll_back`.

        Raises:
            ConfigurationError: Kind ``other_subnet``: the canisters are not on one subnet, and no directory was given.
            BackupError: As in `roll_back`.
        """
        source, target = Principal.parse(source_id), Principal.parse(target_id)
        wanted = SnapshotId.parse(snapshot_id)
        require_confirmed((target,), confirm)
        self._find(source, wanted)
        if self._subnet(source) == self._subnet(target):
            metadata = self._site.management.read_snapshot_metadata(source, wanted).metadata
            return load_snapshot(
                self._site,
                target,
                wanted,
                taken_at=None,
                expected=Expected.of(metadata),
                safety_snapshot=safety_snapshot,
                max_seconds=seconds_of(max_downtime),
                health_check=health_check,
            )
        if directory is None:
            message = f"canisters {source} and {target} are on different subnets; a snapshot is loaded within one only"
            hint = "pass directory=, by way of which it is downloaded and uploaded"
            raise ConfigurationError(message, kind="other_subnet", hint=hint)
        self.download(source, wanted, directory)
        return self.restore(
            directory,
            target,
            confirm=target,
            safety_snapshot=safety_snapshot,
            health_check=health_check,
            max_downtime=max_downtime,
        )

    def restore(  # noqa: PLR0913 - what, and under which conditions
        self,
        directory: str | os.PathLike[str],
        canister_id: CanisterId,
        *,
        confirm: CanisterIds,
        safety_snapshot: bool = True,
        health_check: HealthCheck | None = None,
        max_downtime: dt.timedelta | None = None,
        upload_options: UploadOptions | None = None,
    ) -> RestoreReport:
        """
        Put a downloaded snapshot back into its canister, or into another one, in seven steps.

        Validate the files, open them, upload them and read them back while the canister still runs; then stop it and
        take a safety snapshot, load, verify, start. Code and memory come back in the one step ``load``, which is all or
        nothing.

        Args:
            directory: As written by `download`, ``icp`` or ``dfx``.
            canister_id: The target.
            confirm: Its id again.
            safety_snapshot: As in `roll_back`; two snapshots are added then.
            health_check: As in `roll_back`.
            max_downtime: As in `roll_back`; the upload is no downtime.
            upload_options: How to upload.

        Raises:
            IntegrityError: The files are not a whole snapshot; nothing was sent.
            BackupError: The canister is as it was before. The uploaded snapshot, which a second run can load with
                `roll_back`, is ``uploaded`` in the context.
        """
        principal = Principal.parse(canister_id)
        require_confirmed((principal,), confirm)
        return restore_directory(
            self._site,
            directory,
            principal,
            safety_snapshot=safety_snapshot,
            max_seconds=seconds_of(max_downtime),
            health_check=health_check,
            upload_options=upload_options or UploadOptions(),
        )

    # -- moving bytes --------------------------------------------------------------------------------------------------

    def download(
        self,
        canister_id: CanisterId,
        snapshot_id: SnapshotId | str,
        directory: str | os.PathLike[str],
        *,
        options: DownloadOptions | None = None,
        restart: bool = False,
    ) -> DownloadReport:
        """Write a snapshot into a new directory, resumable and verified; see `knowtation_backup.snapshots.download`."""
        return download_snapshot(
            self._site.management,
            Principal.parse(canister_id),
            SnapshotId.parse(snapshot_id),
            directory,
            options=options,
            restart=restart,
            observer=self._site.observer,
            monotonic=self._site.monotonic,
        )

    def stream(
        self, canister_id: CanisterId, snapshot_id: SnapshotId | str, *, options: DownloadOptions | None = None
    ) -> SnapshotStream:
        """Return a snapshot as ordered, verified chunks, which never touch a disk."""
        return stream_snapshot(
            self._site.management,
            Principal.parse(canister_id),
            SnapshotId.parse(snapshot_id),
            options=options,
            observer=self._site.observer,
            monotonic=self._site.monotonic,
        )

    def upload(
        self,
        source: SnapshotReader | str | os.PathLike[str],
        canister_id: CanisterId,
        *,
        options: UploadOptions | None = None,
        replace: SnapshotId | str | None = None,
        safety_copy: SnapshotReader | None = None,
    ) -> UploadReport:
        """
        Upload a directory, or what else can be read, as a new snapshot, and read it back; nothing is loaded.

        See `knowtation_backup.snapshots.upload` for the arguments and what is raised; the same call goes on with an
        upload that was interrupted.
        """
        return upload_snapshot(
            self._site.management,
            source,
            Principal.parse(canister_id),
            options=options or UploadOptions(),
            replace=None if replace is None else SnapshotId.parse(replace),
            safety_copy=safety_copy,
            observer=self._site.observer,
            monotonic=self._site.monotonic,
        )

    def abandon_upload(self, directory: str | os.PathLike[str], canister_id: CanisterId) -> SnapshotId | None:
        """Delete what an upload of *directory* that was interrupted has left on chain; return what was deleted."""
        return abandon_upload(self._site.management, directory, Principal.parse(canister_id))

    # -- after a crash -------------------------------------------------------------------------------------------------

    def recover(self, *, wait: bool = True) -> RecoverReport:
        """
        Finish what operations that died left behind: start what was running, roll back half a load, name snapshots.

        May be called at any time, from any process with the same journal, and twice; what a living operation works on
        is left alone. Call it when the host or service starts.

        Args:
            wait: Whether to watch canisters whose operation died in the last minutes: a stop that was sent may take
                effect after the start. Otherwise they are reported as ``settling``, and it is to be called again.
        """
        return recover_all(self._site, wait=wait)

    def terminating_signals(
        self, signals: Sequence[signal.Signals] = (signal.SIGTERM,)
    ) -> contextlib.AbstractContextManager[None]:
        """
        Let signals that would kill the process end a block by `SystemExit`, so that canisters are started.

        For the main thread; without it the library changes no signal handlers. Ctrl-C is an exception anyway.

        Args:
            signals: Which.
        """
        return terminating_signals(signals)

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _find(self, canister_id: Principal, snapshot_id: SnapshotId) -> Snapshot:
        found = self.list(canister_id).find(snapshot_id)
        if found is None:
            message = f"canister {canister_id} has no snapshot {snapshot_id}"
            hint = "list the canister's snapshots: it may have been replaced or deleted"
            raise RejectedError(message, kind="snapshot_not_found", hint=hint, canister_id=str(canister_id))
        return found

    def _protected(self, canister_id: Principal) -> tuple[SnapshotId, ...]:
        entry = self._site.journal.find(canister_id, self._site.network)
        return () if entry is None or entry.safety is None else (entry.safety,)

    def _subnet(self, canister_id: Principal) -> Principal | None:
        return self._site.management.agent.read_state(canister_id, [(b"time",)]).subnet_id
