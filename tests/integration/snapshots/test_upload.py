"""Uploads over the sandbox: what arrives, what is lost on the way, and every call that may fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import httpx
import pytest
import wasmtime
from ic_boundary import Boundary

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import (
    BackupError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    OperationCancelledError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
)
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.canisters import MAX_SNAPSHOTS, SnapshotMetadata
from knowtation_backup.model.events import Event
from knowtation_backup.model.ids import ANONYMOUS, Principal, SnapshotId
from knowtation_backup.sandbox import (
    Answer,
    ManagementOptions,
    ResetAfterExecution,
    ResetBeforeExecution,
    SandboxNetwork,
    candid,
)
from knowtation_backup.sandbox.faults import Action
from knowtation_backup.snapshots.directory import NewSnapshotDirectory, SnapshotDirectory
from knowtation_backup.snapshots.upload import UploadOptions, UploadReport, abandon_upload, upload

DATA = Path(__file__).parents[2] / "data"
CHUNK = b"a chunk of the store" * 1000
OPTIONS = UploadOptions(concurrency=2, read_concurrency=4, progress_seconds=0)


@attrs.frozen
class Site:
    """A canister on a network, and a directory with its snapshot, which is gone on chain."""

    network: SandboxNetwork
    boundary: Boundary
    management: ManagementCanister
    canister: Principal
    path: Path
    state: bytes
    """What the canister answers."""

    def upload(self, **more: object) -> UploadReport:
        arguments: dict[str, object] = {"options": OPTIONS, **more}
        return upload(self.management, self.path, self.canister, **arguments)  # type: ignore[arg-type] # as `upload`

    def snapshots(self) -> list[SnapshotId]:
        return [SnapshotId(each) for each in self.network.canisters[self.canister.raw].snapshots]

    def loaded_state(self, snapshot_id: SnapshotId) -> bytes:
        self.network.update(self.canister.raw, "change", b"")
        self.management.stop(self.canister)
        self.management.load_snapshot(self.canister, snapshot_id)
        self.management.start(self.canister)
        return self.network.query(self.canister.raw, "get", b"")

    def journals(self) -> list[Path]:
        return list(self.path.parent.glob("*.upload"))

    def with_agent(self, agent: Agent) -> Site:
        return attrs.evolve(self, management=ManagementCanister(agent))


@pytest.fixture(scope="session")
def state_wasm() -> bytes:
    return bytes(wasmtime.wat2wasm((DATA / "state.wat").read_text()))


@pytest.fixture
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork(tick_seconds=None, call_wait_seconds=2.0) as running:
        yield running


def agent_for(network: SandboxNetwork, boundary: Boundary) -> Agent:
    """It does not really wait, and gives up soon."""
    return Agent(
        "http://127.0.0.1:1",
        root_key=network.root_key,
        transport=boundary,
        retry=RetryPolicy(attempts=3, first_delay_seconds=0.01),
        sleep=lambda _seconds: None,
    )


def prepared(network: SandboxNetwork, management: ManagementCanister, wasm: bytes, path: Path) -> Principal:
    canister = Principal(network.create_canister(wasm, controllers=[ANONYMOUS.raw]))
    fields = candid.Record({"canister_id": candid.PRINCIPAL, "chunk": candid.Vec(candid.NAT8)})
    network.update(b"", "upload_chunk", candid.encode([fields], [{"canister_id": canister.raw, "chunk": CHUNK}]))
    management.stop(canister)
    taken = management.take_snapshot(canister).snapshot_id
    metadata = management.read_snapshot_metadata(canister, taken).metadata
    with NewSnapshotDirectory(path, metadata) as new:
        for part in list(new.missing()):
            new.write(part, management.read_snapshot_data(canister, taken, part).chunk)
        new.publish()
    management.delete_snapshot(canister, taken)
    management.start(canister)
    return canister


@pytest.fixture
def site(network: SandboxNetwork, state_wasm: bytes, tmp_path: Path) -> Iterator[Site]:
    boundary = Boundary(network.transport())
    with agent_for(network, boundary) as agent:
        management = ManagementCanister(agent)
        path = tmp_path / "snapshot"
        canister = prepared(network, management, state_wasm, path)
        yield Site(network, boundary, management, canister, path, network.query(canister.raw, "get", b""))


# -- what arrives -----------------------------------------------------------------------------------------------------


def test_an_uploaded_snapshot_brings_the_state_back(site: Site) -> None:
    events: list[Event] = []
    report = site.upload(observer=events.append)
    size = 32 * 65_536 + 65_536 + (site.path / "wasm_module.bin").stat().st_size
    assert report.size_bytes == size
    assert report.sent_bytes == report.compared_bytes == size + len(CHUNK)
    assert report.repaired_parts == report.retries == 0
    assert report.estimate.cycles > 10**9
    assert site.snapshots() == [report.snapshot_id]
    assert site.loaded_state(report.snapshot_id) == site.state
    assert set(site.network.canisters[site.canister.raw].chunk_store.values()) == {CHUNK}
    assert site.journals() == []
    names = [event.name for event in events]
    assert list(dict.fromkeys(names)) == [
        "upload.started",
        "upload.began",
        "upload.progress",
        "upload.finished",
    ]
    assert str(report.snapshot_id) in str(report)
    assert json.loads(json.dumps(report.to_json()))["snapshot_id"] == str(report.snapshot_id)


def test_any_reader_can_be_the_source(site: Site) -> None:
    with SnapshotDirectory.open(site.path) as directory:

        class Reader:
            metadata = directory.metadata
            read = directory.read

        report = upload(site.management, Reader(), site.canister, options=OPTIONS)
    assert site.loaded_state(report.snapshot_id) == site.state
    assert site.journals() == []


def test_nothing_but_a_report_tells_that_it_was_not_read_back(site: Site) -> None:
    before = site.network.requests.counts["call"]
    report = site.upload(options=attrs.evolve(OPTIONS, read_back=False))
    parts = 5
    assert report.compared_bytes == 0
    assert report.read_back_estimate is None
    assert site.network.requests.counts["call"] - before == parts + 2  # the list, the metadata


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_damaged_directory_is_refused_before_anything_is_sent(site: Site) -> None:
    os.truncate(site.path / "stable_memory.bin", 100)
    before = site.network.requests.counts["call"]
    with pytest.raises(IntegrityError) as caught:
        site.upload()
    assert caught.value.kind == "snapshot_file_size"
    assert site.network.requests.counts["call"] == before
    with pytest.raises(BlobNotFoundError):
        upload(site.management, site.path / "nowhere", site.canister)


def test_a_global_without_value_is_named(site: Site) -> None:
    file = site.path / "metadata.json"
    tree = json.loads(file.read_bytes())
    tree["globals"][3] = {"f64": None}
    file.write_text(json.dumps(tree))
    with pytest.raises(ConfigurationError, match="global 3") as caught:
        site.upload()
    assert caught.value.kind == "snapshot_globals"


def test_what_costs_too_much_is_refused(site: Site) -> None:
    with pytest.raises(ConfigurationError) as caught:
        site.upload(options=attrs.evolve(OPTIONS, max_cycles=10**8))
    assert caught.value.kind == "too_expensive"
    assert site.snapshots() == []


def test_others_than_controllers_are_refused(site: Site, network: SandboxNetwork) -> None:
    foreign = Principal(network.create_canister(b""))
    with pytest.raises(RejectedError) as caught:
        upload(site.management, site.path, foreign, options=OPTIONS)
    assert caught.value.kind == "not_controller"


def test_a_deadline_ends_it_and_it_goes_on_later(site: Site) -> None:
    moments = iter(range(10**6))
    with pytest.raises(SourceUnavailableError) as caught:
        site.upload(options=attrs.evolve(OPTIONS, deadline_seconds=8), monotonic=lambda: float(next(moments)))
    assert caught.value.kind == "deadline"
    assert site.loaded_state(site.upload().snapshot_id) == site.state


def test_it_can_be_cancelled_and_goes_on_later(site: Site) -> None:
    cancellation = Cancellation()

    def watch(event: Event) -> None:
        if event.name == "upload.progress":
            cancellation.cancel()

    with pytest.raises(OperationCancelledError) as caught:
        site.upload(observer=watch, cancellation=cancellation)
    (half,) = site.snapshots()
    assert caught.value.context["snapshot_id"] == str(half)
    report = site.upload()
    assert report.snapshot_id == half
    assert site.loaded_state(half) == site.state


# -- what is lost -----------------------------------------------------------------------------------------------------


def lose(site: Site, *, times: int) -> Callable[[Event], None]:
    """After sending, put zeros where a part was."""
    left = [times]

    def watch(event: Event) -> None:
        done = event.fields.get("phase") == "send" and event.fields["done_bytes"] == event.fields["total_bytes"]
        if done and left[0]:
            left[0] -= 1
            (snapshot,) = site.network.canisters[site.canister.raw].snapshots.values()
            snapshot.heap.write(2_080_000, bytes(100))

    return watch


def test_zeros_where_a_part_was_lost_are_noticed_and_mended(site: Site) -> None:
    report = site.upload(observer=lose(site, times=1))
    assert report.repaired_parts == 1
    assert site.loaded_state(report.snapshot_id) == site.state


def test_what_stays_lost_is_an_error(site: Site) -> None:
    with pytest.raises(IntegrityError, match="wasm_memory from 2000000") as caught:
        site.upload(observer=lose(site, times=9))
    assert caught.value.kind == "upload_mismatch"
    (half,) = site.snapshots()
    assert caught.value.context["snapshot_id"] == str(half)


def test_a_lost_chunk_of_the_store_is_mended(site: Site) -> None:
    def watch(event: Event) -> None:
        if event.name == "upload.progress" and event.fields["phase"] == "send":
            (snapshot,) = site.network.canisters[site.canister.raw].snapshots.values()
            if not removed and snapshot.chunk_store:
                removed.append(True)
                snapshot.chunk_store.clear()

    removed: list[bool] = []
    report = site.upload(observer=watch)
    assert report.repaired_parts == 1
    assert site.loaded_state(report.snapshot_id) == site.state
    assert set(site.network.canisters[site.canister.raw].chunk_store.values()) == {CHUNK}


def test_other_bytes_in_the_directory_than_before_are_noticed(site: Site) -> None:
    """A file that changed between two attempts; what was taken over is read back even without ``read_back``."""
    rule = site.network.faults.add(Answer(status=400), canister_method="upload_canister_snapshot_data", nth=4)
    with pytest.raises(BackupError):
        site.upload(options=attrs.evolve(OPTIONS, concurrency=1))
    assert rule.applied == 1
    module = bytearray((site.path / "wasm_memory.bin").read_bytes())
    module[5] ^= 1
    (site.path / "wasm_memory.bin").write_bytes(module)
    report = site.upload(options=attrs.evolve(OPTIONS, read_back=False))
    assert report.repaired_parts == 1


def test_a_canister_that_has_written_much_is_waited_for(state_wasm: bytes, tmp_path: Path) -> None:
    """The network says so with one code for the metadata and with another one for the parts."""
    limit = 50 << 20
    with SandboxNetwork(tick_seconds=None, management=ManagementOptions(heap_delta_limit_bytes=limit)) as network:
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            network.clock.advance(seconds)

        with Agent(
            "http://127.0.0.1:1", root_key=network.root_key, transport=network.transport(), sleep=sleep
        ) as agent:
            management = ManagementCanister(agent)
            canister = prepared(network, management, state_wasm, tmp_path / "snapshot")

            def exhaust(event: Event) -> None:
                if event.name in {"upload.started", "upload.began"}:
                    network.canisters[canister.raw].heap_delta_debit = 300 << 20

            report = upload(management, tmp_path / "snapshot", canister, options=OPTIONS, observer=exhaust)
    assert report.retries >= 2
    assert len(waits) == report.retries
    assert report.lowest_concurrency == 1


# -- replacing --------------------------------------------------------------------------------------------------------


def fill(site: Site) -> list[SnapshotId]:
    """Let the canister have all the snapshots it may have."""
    tiny = SnapshotMetadata(wasm_module_size=8, wasm_memory_size=0, stable_memory_size=0, global_timer="inactive")
    for _ in range(MAX_SNAPSHOTS - len(site.snapshots())):
        site.management.upload_snapshot_metadata(site.canister, tiny)
    return site.snapshots()


def download(site: Site, snapshot_id: SnapshotId, path: Path) -> SnapshotDirectory:
    metadata = site.management.read_snapshot_metadata(site.canister, snapshot_id).metadata
    with NewSnapshotDirectory(path, metadata) as new:
        for part in list(new.missing()):
            new.write(part, site.management.read_snapshot_data(site.canister, snapshot_id, part).chunk)
        new.publish()
    return SnapshotDirectory.open(path)


def test_below_the_cap_the_old_one_goes_last(site: Site) -> None:
    old = site.upload().snapshot_id
    there: list[list[SnapshotId]] = []
    report = site.upload(replace=old, observer=lambda _event: there.append(site.snapshots()))
    assert old in there[-2]
    assert site.snapshots() == [report.snapshot_id]
    assert report.replaced == old


def test_the_old_one_stays_when_the_new_one_is_not_whole(site: Site) -> None:
    old = site.upload().snapshot_id
    site.network.faults.add(Answer(status=400), canister_method="upload_canister_snapshot_data", nth=3)
    with pytest.raises(BackupError):
        site.upload(replace=old)
    assert old in site.snapshots()


def test_at_the_cap_nothing_is_done_without_a_proven_copy(site: Site, tmp_path: Path) -> None:
    old = site.upload().snapshot_id
    full = fill(site)
    with pytest.raises(SourceError) as caught:
        site.upload()
    assert caught.value.kind == "snapshot_cap"
    with pytest.raises(SourceError) as caught:
        site.upload(replace=old)
    assert caught.value.kind == "replace_unsafe"
    with SnapshotDirectory.open(site.path) as other, pytest.raises(IntegrityError) as differs:
        site.upload(replace=old, safety_copy=other)  # of the snapshot that was taken, not of the one uploaded
    assert differs.value.kind == "safety_copy_differs"
    assert site.snapshots() == full
    with download(site, old, tmp_path / "copy") as copy:
        heap = tmp_path / "copy" / "wasm_memory.bin"
        data = heap.read_bytes()
        heap.write_bytes(data[:-1] + b"\1")
        with pytest.raises(IntegrityError):
            site.upload(replace=old, safety_copy=copy)
        assert site.snapshots() == full
        heap.write_bytes(data)
        report = site.upload(replace=old, safety_copy=copy)
    assert report.replaced == old
    assert site.snapshots() == [*full[1:], report.snapshot_id]
    assert site.loaded_state(report.snapshot_id) == site.state


def test_only_what_is_there_can_be_replaced(site: Site) -> None:
    with pytest.raises(RejectedError) as caught:
        site.upload(replace=SnapshotId(b"\0" * 18))
    assert caught.value.kind == "snapshot_not_found"
    with pytest.raises(ConfigurationError):
        site.upload(replace=SnapshotId(b"\0" * 18), options=attrs.evolve(OPTIONS, read_back=False))


# -- journals ---------------------------------------------------------------------------------------------------------


def interrupted(site: Site) -> SnapshotId:
    site.network.faults.add(Answer(status=400), canister_method="upload_canister_snapshot_data", nth=4)
    with pytest.raises(BackupError) as caught:
        site.upload()
    site.network.faults.clear()
    (half,) = site.snapshots()
    assert caught.value.context["snapshot_id"] == str(half)
    return half


@pytest.mark.parametrize("event", ["upload.started", "upload.began", "upload.progress"])
def test_who_interrupts_is_told_what_is_left(site: Site, event: str) -> None:
    """Ctrl-C carries no context; the snapshot that was begun is named in a note."""

    def interrupt(told: Event) -> None:
        if told.name == event:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        site.upload(observer=interrupt)
    notes = "".join(getattr(caught.value, "__notes__", []))
    assert [str(item) in notes and "abandon_upload" in notes for item in site.snapshots()] == [True] * (
        event != "upload.started"
    )
    assert site.upload().snapshot_id in site.snapshots()
    assert len(site.snapshots()) == 1


def test_what_was_begun_can_be_abandoned(site: Site) -> None:
    half = interrupted(site)
    assert abandon_upload(site.management, site.path, site.canister) == half
    assert site.snapshots() == []
    assert site.journals() == []
    assert abandon_upload(site.management, site.path, site.canister) is None
    site.upload()


def test_a_journal_is_not_used_for_something_else(site: Site) -> None:
    interrupted(site)
    (journal,) = site.journals()
    file = site.path / "metadata.json"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(ConfigurationError) as caught:
        site.upload()
    assert caught.value.kind == "other_upload"
    report = site.upload(journal=journal.with_name("another"))
    assert len(site.snapshots()) == 2
    assert site.loaded_state(report.snapshot_id) == site.state


def test_two_uploads_do_not_share_a_journal(site: Site) -> None:
    caught: list[str] = []

    def watch(event: Event) -> None:
        if event.name == "upload.began":
            with pytest.raises(ConfigurationError) as busy:
                site.upload()
            caught.append(busy.value.kind)

    site.upload(observer=watch)
    assert caught == ["upload_busy"]


def test_a_snapshot_that_is_gone_is_begun_anew(site: Site) -> None:
    half = interrupted(site)
    site.management.delete_snapshot(site.canister, half)
    report = site.upload()
    assert report.snapshot_id != half
    assert report.sent_bytes > report.size_bytes - 1
    assert site.loaded_state(report.snapshot_id) == site.state


@pytest.mark.parametrize("cut", [0, 1, 30, -1, -40])
def test_a_journal_that_was_cut_off_does_no_harm(site: Site, cut: int) -> None:
    half = interrupted(site)
    (journal,) = site.journals()
    data = journal.read_bytes()
    journal.write_bytes(data[:cut])
    report = site.upload()
    assert site.loaded_state(report.snapshot_id) == site.state
    assert set(site.snapshots()) <= {half, report.snapshot_id}


# -- every call fails in turn -----------------------------------------------------------------------------------------


CALLS = 13
"""Of an upload: list, metadata, five parts, metadata read, five parts read."""

FAULTS: dict[str, Action] = {
    "refused": Answer(status=400, text="no"),
    "overloaded": Answer(status=429),
    "lost request": ResetBeforeExecution(),
    "lost reply": ResetAfterExecution(),
}


def test_the_number_of_calls_is_known(site: Site) -> None:
    before = site.network.requests.counts["call"]
    report = site.upload()
    assert site.network.requests.counts["call"] - before == report.calls == CALLS


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_fails_once(site: Site, fault: str) -> None:
    """Refusals end the attempt; the rest is survived. There is never more than one snapshot."""
    for number in range(1, CALLS + 1):
        rule = site.network.faults.add(FAULTS[fault], endpoint="call", nth=number, limit=1)
        if fault == "refused":
            with pytest.raises(BackupError) as caught:
                site.upload()
            assert [caught.value.context.get("snapshot_id")] * (number > 2) == list(map(str, site.snapshots()))
        report = site.upload()
        assert rule.applied == 1
        site.network.faults.clear()
        assert site.snapshots() == [report.snapshot_id], number
        assert report.compared_bytes == report.size_bytes + len(CHUNK)
        assert site.journals() == []
        site.management.delete_snapshot(site.canister, report.snapshot_id)


@attrs.define
class Vanishing(httpx.BaseTransport):
    """A network that is gone from the n-th call on: before the call is executed, or after."""

    inner: httpx.BaseTransport
    last: int
    executes: bool
    calls: int = 0
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self.lock:
            self.calls += request.url.path.endswith("/call")
            gone, first = self.calls >= self.last, self.calls == self.last
        if gone and not (first and self.executes):
            raise httpx.ConnectError("gone")
        response = self.inner.handle_request(request)
        if gone:
            response.close()
            raise httpx.ReadTimeout("gone")
        return response


@pytest.mark.parametrize("executes", [False, True])
def test_the_network_goes_away_at_every_call(site: Site, executes: bool) -> None:  # noqa: FBT001 - a case
    """The attempt fails and names what there is; the next one goes on with it."""
    for number in range(1, CALLS + 1):
        seconds = [0.0]

        def sleep(duration: float, seconds: list[float] = seconds) -> None:
            seconds[0] += duration

        def monotonic(seconds: list[float] = seconds) -> float:
            return seconds[0]

        with (
            Agent(
                "http://127.0.0.1:1",
                root_key=site.network.root_key,
                transport=Vanishing(site.boundary, number, executes),
                retry=RetryPolicy(attempts=2, first_delay_seconds=0.5),
                sleep=sleep,
                monotonic=monotonic,
            ) as agent,
            pytest.raises(BackupError) as caught,
        ):
            site.with_agent(agent).upload()
        halves = site.snapshots()
        assert len(halves) == (number > 2 or (executes and number == 2)), number
        if number > 2:
            assert caught.value.context["snapshot_id"] == str(halves[0])
        report = site.upload()
        assert site.snapshots() == [report.snapshot_id], number
        assert halves in ([], [report.snapshot_id])
        assert report.findings == ()
        site.management.delete_snapshot(site.canister, report.snapshot_id)


KILLED = """
import os, signal, sys, threading
from pathlib import Path
import httpx
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.ids import Principal
from knowtation_backup.snapshots.upload import UploadOptions, upload

url, root_key, canister, path, calls = sys.argv[1:]
canister = Principal.parse(canister)

class Killing(httpx.BaseTransport):
    def __init__(self, last, executes):
        self.inner, self.last, self.executes = httpx.HTTPTransport(), last, executes
        self.calls, self.lock = 0, threading.Lock()

    def handle_request(self, request):
        with self.lock:
            self.calls += 1
            last = self.calls == self.last
        if last and not self.executes:
            os.kill(os.getpid(), signal.SIGKILL)
        response = self.inner.handle_request(request)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return response

def attempt(last, executes):
    with Agent(url, root_key=root_key, transport=Killing(last, executes)) as agent:
        management = ManagementCanister(agent)
        report = upload(management, path, canister, options=UploadOptions(concurrency=2, read_concurrency=4))
        there = management.list_snapshots(canister)
        assert [each.snapshot_id for each in there] == [report.snapshot_id], there
        assert not report.findings
        assert not list(Path(path).parent.glob("*.upload"))
        management.delete_snapshot(canister, report.snapshot_id)

def forked(last, executes):
    child = os.fork()
    if child == 0:
        try:
            attempt(last, executes)
        except BaseException as error:
            print(last, executes, repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for number in range(1, int(calls) + 1):
    for executes in (False, True):
        assert forked(number, executes) == -signal.SIGKILL, number
        assert forked(0, False) == 0, number
"""


def test_the_process_is_killed_at_every_call(site: Site) -> None:
    """What it had begun is found and completed by the next one, to the last stray snapshot."""
    with site.network.serve() as server:
        arguments = [server.url, site.network.root_key.hex(), str(site.canister), str(site.path), str(CALLS)]
        done = subprocess.run(  # noqa: S603 - ourselves
            [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr
    assert site.snapshots() == []
