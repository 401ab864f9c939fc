"""
The time a canister is stopped on our account, guarded: it is running again whatever happens.

Before the stop is sent an entry is on the disk, see `DowntimeJournal`. However the block is left, what was running is
started, in reverse order, in a thread of its own: signal handlers run in the main thread only, so an interruption
reaches whoever waits, and not the work. The entry goes when the subnet has certified that the canister runs. What even
that cannot help, a killed process or a network that is gone, is left to `SnapshotManager.recover`.

A stop whose outcome is unknown may take effect after the start. Such a canister is watched until no signed call can
live any more, and started again if need be.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import attrs

from ..errors import BackupError, InternalError, SourceError, SourceUnavailableError
from ..model.canisters import RunState
from ..model.ids import Principal
from ..model.reports import Finding
from .journal import DowntimeEntry
from .site import Site, may_still_run

__all__ = ["Downtime", "start_canister", "uninterrupted"]

_LAST_LOOK_SECONDS: Final = 30.0
"""For asking whether a canister runs when nobody wants to wait any more; starting it has its own time."""


def uninterrupted(work: Callable[[], None]) -> BaseException | None:
    """
    Run *work* to its end, whatever interrupts the caller.

    Returns:
        The first interruption of the waiting, for the caller to raise; what *work* raises is raised.
    """
    done = threading.Event()
    once = threading.Lock()
    failures: list[BaseException] = []

    def run() -> None:
        if not once.acquire(blocking=False):
            return
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failures.append(error)
        finally:
            done.set()

    interruption: BaseException | None = None
    thread: threading.Thread | None = None
    while not done.is_set():
        try:
            if thread is None:
                thread = threading.Thread(target=run, name="knowtation-start", daemon=False)
                thread.start()
            done.wait()
        except RuntimeError:  # no more threads, or the interpreter is ending: then here
            run()
        except BaseException as error:  # noqa: BLE001 - raised by the caller, once the work is done
            interruption = interruption or error
    if failures:
        raise failures[0]
    return interruption


def start_canister(site: Site, canister_id: Principal) -> float:
    """
    Start a canister and have its subnet certify that it runs.

    A network that cannot be reached is tried until the time for starting is over, anything else five times.

    Returns:
        The moment, by the site's monotonic clock, of the certified answer to the start.

    Raises:
        SourceError: Kind ``canister_down``: every attempt failed.
    """
    options = site.options
    deadline = site.monotonic() + options.start_seconds
    attempts = refused = 0
    while True:
        attempts += 1
        seconds = max(1.0, min(options.start_call_seconds, deadline - site.monotonic()))
        error: Exception
        try:
            site.management.start(canister_id, deadline_seconds=seconds)
            moment = site.monotonic()
            state = site.status(canister_id, deadline_seconds=seconds).run_state
            if state is RunState.RUNNING:
                return moment
            error = SourceError(f"canister {canister_id} is {state.value} after its start")
        except Exception as failure:  # noqa: BLE001 - even a bug of ours must not end the attempts
            error = failure
        refused += not isinstance(error, SourceUnavailableError)
        left = deadline - site.monotonic()
        if refused >= options.start_attempts or left <= 0:
            raise _down_error([canister_id], attempts, error) from error
        site.sleep(min(site.delay(attempts), left))


def _down_error(canister_ids: Sequence[Principal], attempts: int, cause: BaseException | None) -> SourceError:
    names = ", ".join(map(str, canister_ids))
    message = f"DOWN: canister {names} was running, was stopped, and could not be started: {cause}"
    hint = f"start it now: icp canister start {canister_ids[0]}; or call SnapshotManager.recover() until it succeeds"
    context: dict[str, Any] = {"canister_ids": list(map(str, canister_ids)), "attempts": attempts}
    return SourceError(message, kind="canister_down", hint=hint, **context)


def _tried(work: Callable[[], object]) -> BackupError | None:
    """Do *work*, and return what it raised."""
    try:
        work()
    except BackupError as error:
        return error
    except Exception as error:  # noqa: BLE001 - not even a bug may stand in the way of a start
        return InternalError(f"{type(error).__name__}: {error}")
    return None


def _said_yes(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except BackupError:
        return False


@attrs.define
class _Member:
    entry: DowntimeEntry
    touched: bool = False
    """Whether the entry may be on the disk."""
    attempted: bool = False
    """Whether a stop may have been sent."""
    stopped_at: float | None = None
    running_at: float | None = None
    unsettled: bool = False
    """Whether a stop may still take effect."""
    watch: Callable[[], bool] | None = None
    """Tells whether another call whose outcome is unknown has taken effect."""
    down: BackupError | None = None


class Downtime:
    """
    A block in which canisters are stopped. One use, by one thread.

    Args:
        site: The parts.
        entries: What to write down of each canister, in the order of stopping; locks on them are the caller's.
        max_seconds: Downtime budget of all together; `None` for none.

    Attributes:
        undo: Called when the block failed, before anything is started; must bring back the state from before.
        after_start: Called when everything was started (told whether the block failed), before entries go.
        findings: What went wrong beside the error that is raised.
    """

    def __init__(self, site: Site, entries: Sequence[DowntimeEntry], *, max_seconds: float | None = None) -> None:
        self._site = site
        self._members = {entry.canister_id: _Member(entry) for entry in entries}
        self._max_seconds = max_seconds
        self._begun_at: float | None = None
        self.undo: Callable[[], None] | None = None
        self.after_start: Callable[[bool], None] | None = None
        self.findings: list[Finding] = []

    # -- inside the block ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Nothing is stopped yet."""
        return self

    def stop(self, canister_id: Principal) -> None:
        """
        Write down what is going to happen, then stop the canister, unless it was stopped before.

        Raises:
            BackupError: It was not stopped; leaving the block cancels what may be left of the attempt.
        """
        member = self._members[canister_id]
        member.touched = True  # first: an entry that is not needed is removed, one that is forgotten would stay
        member.entry = attrs.evolve(member.entry, settled_at=self._site.settled_at())
        self._site.journal.write(member.entry)
        if not member.entry.was_running:
            return
        self._site.tell("snapshot.canister_stopping", canister_id=str(canister_id), operation=member.entry.operation)
        if self._begun_at is None:
            self._begun_at = self._site.monotonic()
        member.stopped_at = self._site.monotonic()
        member.attempted = True
        try:
            self._site.management.stop(canister_id, deadline_seconds=self.left_seconds(self._site.options.stop_seconds))
        except BaseException as error:
            member.unsettled = may_still_run(error)
            raise
        self._site.tell(
            "snapshot.canister_stopped", canister_id=str(canister_id), seconds=self._since(member.stopped_at)
        )

    def note(self, canister_id: Principal, **changes: Any) -> None:
        """Change what is written down of a canister; on the disk when this returns."""
        member = self._members[canister_id]
        member.entry = attrs.evolve(member.entry, **changes)
        self._site.journal.write(member.entry)

    def watch(self, canister_id: Principal, seen: Callable[[], bool]) -> None:
        """Once everything runs, ask *seen* until it is true, or until nothing sent before can take effect any more."""
        self._members[canister_id].watch = seen

    def left_seconds(self, limit: float) -> float:
        """
        Return how long the next step may take, at most *limit*.

        Raises:
            SourceError: Kind ``downtime_exceeded``: the budget is used up.
        """
        if self._max_seconds is None or self._begun_at is None:
            return limit
        left = self._max_seconds - (self._site.monotonic() - self._begun_at)
        if left <= 0:
            message = f"the downtime budget of {self._max_seconds:g} s is used up; everything is started again"
            hint = "allow more with max_downtime=, or do it when less is stored"
            raise SourceError(message, kind="downtime_exceeded", hint=hint, max_downtime_seconds=self._max_seconds)
        return min(limit, left)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def seconds(self, canister_id: Principal) -> float:
        """Return how long a canister was down: from before the stop was sent until its start was certified."""
        member = self._members[canister_id]
        if member.stopped_at is None or member.running_at is None:
            return 0.0
        return max(0.0, member.running_at - member.stopped_at)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Start what was running.

        Raises:
            SourceError: Kind ``canister_down``: it could not be started.
        """
        try:
            interruption = uninterrupted(lambda: self._finish(failed=error is not None))
        finally:
            # Something is left only when the work itself was ended from outside.
            if any(member.touched for member in self._members.values()):
                uninterrupted(lambda: self._finish(failed=error is not None))
        self._raise_down(error)
        for member in self._members.values():
            if member.down is None and (member.unsettled or member.watch is not None):
                self._settle(member)
        self._raise_down(error)
        if interruption is not None and (error is None or isinstance(error, Exception)):
            raise interruption

    def _finish(self, *, failed: bool) -> None:
        members = [member for member in reversed(self._members.values()) if member.touched]
        undone = True
        if failed and self.undo is not None and members:
            undo, self.undo = self.undo, None
            wrong = _tried(undo)
            self._remark("rollback_failed", wrong)
            undone = wrong is None
        for member in members:
            if member.attempted:
                self._start(member)
        if self.after_start is not None and members:
            hook, self.after_start = self.after_start, None
            self._remark("cleanup_failed", _tried(lambda: hook(failed)))
        for member in members:
            member.touched = False
            if member.down is None and (undone or member.entry.was_running):
                self._remark("journal_stale", _tried(functools.partial(self._close, member)))

    def _start(self, member: _Member) -> None:
        canister_id = member.entry.canister_id
        try:
            member.running_at = start_canister(self._site, canister_id)
        except BackupError as error:
            member.down = error
            attempts = error.context.get("attempts", 0)
            wrong = _tried(
                lambda: self._site.tell("snapshot.canister_down", canister_id=str(canister_id), attempts=attempts)
            )
            self._remark("observer_failed", wrong)
        else:
            seconds = round(self.seconds(canister_id), 3)
            wrong = _tried(
                lambda: self._site.tell(
                    "snapshot.canister_started", canister_id=str(canister_id), downtime_seconds=seconds
                )
            )
            self._remark("observer_failed", wrong)

    def _close(self, member: _Member) -> None:
        # What is not settled stays written down while it is watched.
        if not member.unsettled and member.watch is None:
            self._site.journal.remove(member.entry)

    def _remark(self, code: str, wrong: BackupError | None) -> None:
        """Keep as a finding what must not stand in the way of a start."""
        if wrong is not None:
            where = ", ".join(map(str, self._members))
            self.findings.append(Finding(code=code, where=where, message=str(wrong)))

    def _settle(self, member: _Member) -> None:
        """Watch a canister until calls that got lost cannot take effect any more; may be interrupted."""
        site, canister_id = self._site, member.entry.canister_id
        seconds = site.options.settle_seconds
        try:
            site.tell("snapshot.settling", canister_id=str(canister_id), seconds=seconds)
            certain = self._watched(member)
        except BaseException as error:
            # Who interrupts the watching, too, gets one last look, and is told who goes on with it.
            uninterrupted(lambda: self._look_once(member))
            error.add_note(
                f"a call under way may still take effect on canister {canister_id}, for up to {seconds:g} s: "
                "call SnapshotManager.recover(), which watches it for so long"
            )
            self._raise_down(error)
            raise
        if certain and member.down is None:
            site.journal.remove(member.entry)

    def _watched(self, member: _Member) -> bool:
        """Return whether it was certain in the end that the canister runs."""
        site = self._site
        end = site.monotonic() + site.options.settle_seconds
        looks = 0
        while True:
            certain = not member.attempted or self._still_running(member)
            seen = member.watch is not None and _said_yes(member.watch)
            left = end - site.monotonic()
            if member.down is not None or left <= 0 or (certain and seen and not member.unsettled):
                return certain
            looks += (
                1  # often at first: what is late is mostly late by seconds, and the canister is down until we see it
            )
            site.sleep(min(site.delay(looks), site.options.settle_poll_seconds, left))

    def _look_once(self, member: _Member) -> None:
        if member.attempted:
            _tried(lambda: self._still_running(member, seconds=_LAST_LOOK_SECONDS))

    def _still_running(self, member: _Member, *, seconds: float | None = None) -> bool:
        try:
            status = self._site.status(member.entry.canister_id, deadline_seconds=seconds)
        except BackupError:
            return False
        if status.run_state is not RunState.RUNNING:
            interruption = uninterrupted(lambda: self._start(member))
            if interruption is not None:
                raise interruption
        return True

    def _raise_down(self, error: BaseException | None) -> None:
        down = {member.entry.canister_id: member.down for member in self._members.values() if member.down is not None}
        if not down:
            return
        cause = next(iter(down.values())).__cause__
        failure = _down_error(list(down), self._site.options.start_attempts, cause)
        if error is not None and not isinstance(error, Exception):
            if str(failure) not in getattr(error, "__notes__", ()):
                error.add_note(str(failure))  # an interruption stays one
            return
        raise failure from (error or cause)

    def _since(self, moment: float) -> float:
        return round(self._site.monotonic() - moment, 3)
