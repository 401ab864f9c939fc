"""
Run by test_snapshot_faults: snapshot operations that are killed at each of their calls.

``URL ROOT_KEY DIRECTORY OPERATION CANISTER CANISTER`` forks, for every call an operation makes, a child that kills
itself with SIGKILL right before it is sent, or right after; then checks in further children that what is left is
recovered and that the operation then completes. Prints how many calls there were.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import httpx

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.canisters import RunState
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.snapshots.journal import DowntimeJournal
from knowtation_backup.snapshots.manager import SnapshotManager


@attrs.define(eq=False)
class Killing(httpx.BaseTransport):
    """Kills the process at the call number *number*."""

    inner: httpx.BaseTransport
    number: int | None = None
    after: bool = False
    calls: int = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/call"):
            return self.inner.handle_request(request)
        number, self.calls = self.calls, self.calls + 1
        if number == self.number and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        response = self.inner.handle_request(request)
        if number == self.number:
            response.read()
            os.kill(os.getpid(), signal.SIGKILL)
        return response


@attrs.define(eq=False)
class Process:
    """What one process has: a connection, a manager, and a clock that is wound forward instead of waiting."""

    management: ManagementCanister
    manager: SnapshotManager
    transport: Killing
    journal: DowntimeJournal
    ids: list[Principal]

    def snapshots(self, canister_id: Principal) -> set[SnapshotId]:
        return set(self.manager.list(canister_id).ids)

    def counted(self) -> int:
        """Return the state of the first canister."""
        reply = self.management.agent.query(self.ids[0], "get", b"DIDL\x00\x00")
        return int.from_bytes(reply[-8:], "little")

    def running(self, canister_id: Principal) -> bool:
        return self.management.canister_status(canister_id, certified=True).run_state is RunState.RUNNING


def process(arguments: list[str], number: int | None, *, after: bool) -> Process:
    url, root_key, directory, _operation, *ids = arguments
    slept = 0.0

    def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds

    transport = Killing(httpx.HTTPTransport(), number, after)
    agent = Agent(url, root_key=root_key, transport=transport, retry=RetryPolicy(attempts=3, first_delay_seconds=0.01))
    management = ManagementCanister(agent)
    journal = DowntimeJournal(Path(directory) / "journal")
    manager = SnapshotManager(management, journal=journal, monotonic=lambda: time.monotonic() + slept, sleep=sleep)
    return Process(management, manager, transport, journal, [Principal(bytes.fromhex(item)) for item in ids])


def run(operation: str, here: Process) -> None:
    first, second = here.ids
    if operation == "take":
        here.manager.take(first, confirm=first)
    elif operation == "group":
        here.manager.take([first, second], confirm=[first, second], group=True)
    elif operation == "restore":
        here.manager.restore(here.journal.directory.parent / "snapshot", first, confirm=first)
    else:
        wanted = here.manager.list(first).ids[0]
        here.manager.roll_back(first, wanted, confirm=first)


def clean(operation: str, here: Process) -> None:
    """Leave what the operation needs, and nothing else."""
    for canister_id in here.ids:
        for snapshot_id in here.manager.list(canister_id).ids[int(operation == "load") :]:
            here.manager.delete(canister_id, snapshot_id, confirm=canister_id)
    directory = here.journal.directory.parent / "snapshot"
    if operation == "restore" and not directory.exists():
        (taken,) = here.manager.take(here.ids[0], confirm=here.ids[0]).snapshots.values()
        here.manager.download(here.ids[0], taken, directory)
        here.manager.delete(here.ids[0], taken, confirm=here.ids[0])
    if operation == "load" and not len(here.manager.list(here.ids[0])):
        here.manager.take(here.ids[0], confirm=here.ids[0])
    here.management.agent.call(here.ids[0], "inc", b"DIDL\x00\x00")
    (here.journal.directory.parent / "counted").write_text(str(here.counted()))


def recovered(operation: str, here: Process) -> None:
    """Check what a killed process left, and that it is recovered, once and for all."""
    journaled = {entry.canister_id for entry in here.journal.entries()}
    for canister_id in here.ids:
        assert here.running(canister_id) or canister_id in journaled, "stopped, and nobody knows"
    half_loaded = any(entry.pending == "load" for entry in here.journal.entries())
    known = {item: {SnapshotId(raw) for raw in _known(here, item)} for item in here.ids}
    report = here.manager.recover()
    assert report.ok, str(report)
    assert here.manager.recover().results == ()
    # An upload that was interrupted is named by its own journal, beside the directory.
    told = str(report) + "".join(path.read_text() for path in here.journal.directory.parent.glob("*.upload*"))
    for canister_id in here.ids:
        assert here.running(canister_id)
        if canister_id in journaled:
            for snapshot_id in here.snapshots(canister_id) - known[canister_id]:
                assert str(snapshot_id) in told, "a snapshot that nobody names"
    if half_loaded:
        assert here.counted() == int((here.journal.directory.parent / "counted").read_text()), "half a load was left"
    if operation == "group":
        assert len({len(here.snapshots(item)) for item in here.ids}) == 1, "a part of a group was kept"
    run(operation, here)
    assert all(map(here.running, here.ids))
    assert here.journal.entries() == ()
    clean(operation, here)


def _known(here: Process, canister_id: Principal) -> list[bytes]:
    entries = [entry for entry in here.journal.entries() if entry.canister_id == canister_id]
    return [item.raw for entry in entries for item in entry.snapshots_before]


def forked(work: Callable[[], Any]) -> int:
    """Run *work* in a child; return how it ended."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - told by the status
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(arguments: list[str]) -> int:
    operation = arguments[3]
    if forked(lambda: clean(operation, process(arguments, None, after=False))):
        return 1
    for number in range(100):
        killed = False
        # Right after one call is nearly right before the next one: in long operations it stands for both.
        for after in (False, True) if operation == "take" or number == 0 else (True,):
            status = forked(lambda: run(operation, process(arguments, number, after=after)))  # noqa: B023 - at once
            killed = os.WIFSIGNALED(status)
            if not killed and status:
                return 1
            if forked(lambda: recovered(operation, process(arguments, None, after=False))):
                print("after killing", "after" if after else "before", "call", number, file=sys.stderr)  # noqa: T201
                return 1
        if not killed:
            print(number)  # noqa: T201 - how it reports
            return 0
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
