"""Sandbox state on disk: complete, exact, and whole whenever the process dies."""

import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    IntegrityError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    UnsupportedFormatError,
)
from knowtation_backup.sandbox import storage
from knowtation_backup.sandbox.execution.images import MemoryImage
from knowtation_backup.sandbox.execution.wasm_module import WasmModule
from knowtation_backup.sandbox.state import Canister, CanisterStatus


@pytest.fixture
def reopen(subnet: Any) -> Iterator[Any]:
    """Return a function that loads a directory into a new subnet."""
    made: list[Any] = []

    def load(directory: pathlib.Path) -> Any:
        again = subnet.fresh()
        made.append(again)
        storage.load(again.replica, directory)
        return again

    yield load
    for item in made:
        item.management.close()
        item.replica.engine.close()


def content(image: MemoryImage) -> tuple[int, dict[int, bytes]]:
    """Return size and the pages that are not zero, without reading holes."""
    page = 4096
    numbers = {number for start, end in image.extents() for number in range(start // page, -(-end // page))}
    pages = {number: image.read(number * page, page) for number in sorted(numbers)}
    return image.size_bytes, {number: data for number, data in pages.items() if any(data)}


def plain(value: Any) -> Any:
    """Return a value that compares by content."""
    if isinstance(value, MemoryImage):
        value = content(value)
    elif isinstance(value, WasmModule):
        value = value.data
    elif attrs.has(type(value)):
        value = {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    elif isinstance(value, dict):
        value = {key: plain(item) for key, item in value.items()}
    elif isinstance(value, list | tuple | collections.deque):
        value = type(value)(map(plain, value))
    return value


def state(subnet: Any) -> dict[bytes, Any]:
    return {canister_id: plain(canister) for canister_id, canister in subnet.replica.canisters.items()}


def fill(subnet: Any, bob: bytes) -> bytes:
    """Make one of everything; return the canister that counts."""
    canister_id: bytes = subnet.create()
    for _ in range(3):
        subnet.update(canister_id, "inc")
    subnet.update(canister_id, "certify", b"root")
    subnet.update(canister_id, "print", b"logged")
    subnet.update(canister_id, "timer", (1 << 62).to_bytes(8, "little"))
    subnet.seen(canister_id)
    subnet.call("upload_chunk", {"canister_id": canister_id, "chunk": b"a chunk"})
    taken = subnet.call("take_canister_snapshot", {"canister_id": canister_id})["id"]
    announced = {
        "canister_id": canister_id,
        "wasm_module_size": 5,
        "wasm_memory_size": 65_536,
        "stable_memory_size": 1 << 30,
        "globals": [("v128", 1 << 100), ("f32", 0.5)],
        "certified_data": b"",
        "global_timer": ("inactive", None),
    }
    uploaded = subnet.call("upload_canister_snapshot_metadata", announced)["snapshot_id"]
    for kind in (("wasm_memory", {"offset": 9}), ("stable_memory", {"offset": (1 << 30) - 5}), ("wasm_chunk", None)):
        argument = {"canister_id": canister_id, "snapshot_id": uploaded, "kind": kind, "chunk": b"12345"}
        subnet.call("upload_canister_snapshot_data", argument)
    other = subnet.create(module=subnet.other)
    subnet.call("load_canister_snapshot", {"canister_id": other, "snapshot_id": taken})
    subnet.call("stop_canister", {"canister_id": other})
    subnet.create(module=b"", specified_id=b"\x07\x01\x01", sender=bob)
    subnet.set(
        canister_id,
        log_visibility=("allowed_viewers", [bob]),
        environment_variables=[{"name": "A", "value": "ä"}],
    )
    subnet.canister(other).reserved_cycles = 1 << 100
    return canister_id


def test_everything_comes_back(subnet: Any, bob: bytes, reopen: Any, tmp_path: pathlib.Path) -> None:
    canister_id = fill(subnet, bob)
    storage.save(subnet.replica, tmp_path)
    again = reopen(tmp_path)
    image = again.canister(canister_id).snapshots[(1).to_bytes(8, "big") + canister_id].stable
    assert image.size_bytes == 1 << 30
    assert image.read((1 << 30) - 5, 5) == b"12345"
    before = state(subnet)
    assert state(again) == before
    assert again.management.next_canister == subnet.management.next_canister
    assert again.create(module=b"") not in before


def test_every_field_of_a_canister_is_kept(subnet: Any, reopen: Any, tmp_path: pathlib.Path) -> None:
    canister_id = subnet.create(module=b"")
    canister = subnet.canister(canister_id)
    for field in attrs.fields(Canister):
        if field.type in ("int", int):
            setattr(canister, field.name, 1234)
        if field.type in ("bytes", bytes) and field.name != "canister_id":
            setattr(canister, field.name, b"1234")
    canister.hook_status = "executed"
    canister.cycles_consumed = {"memory": 1 << 70}
    canister.query_stats.num_calls_total = 5
    canister.status = CanisterStatus.STOPPED
    storage.save(subnet.replica, tmp_path)
    assert state(reopen(tmp_path)) == state(subnet)


def test_canisters_go_on_where_they_were(subnet: Any, bob: bytes, reopen: Any, tmp_path: pathlib.Path) -> None:
    canister_id = fill(subnet, bob)
    storage.save(subnet.replica, tmp_path)
    again = reopen(tmp_path)
    assert attrs.astuple(again.seen(canister_id)) == (3, 3, -10, 3)
    again.update(canister_id, "inc")
    assert attrs.astuple(again.seen(canister_id)) == (4, 4, -11, 4)
    taken = bytes(8) + canister_id
    again.call("load_canister_snapshot", {"canister_id": canister_id, "snapshot_id": taken})
    assert again.seen(canister_id).count == 3
    assert subnet.seen(canister_id).count == 3
    storage.save(again.replica, tmp_path)
    assert reopen(tmp_path).seen(canister_id).count == 3


def test_an_empty_directory_holds_nothing(reopen: Any, tmp_path: pathlib.Path) -> None:
    assert reopen(tmp_path).replica.canisters == {}
    assert reopen(tmp_path / "missing").replica.canisters == {}


def test_only_an_empty_replica_can_be_loaded_into(subnet: Any, tmp_path: pathlib.Path) -> None:
    subnet.create(module=b"")
    storage.save(subnet.replica, tmp_path)
    with pytest.raises(ConfigurationError):
        storage.load(subnet.replica, tmp_path)


def test_holes_stay_holes_and_only_the_owner_reads(subnet: Any, bob: bytes, tmp_path: pathlib.Path) -> None:
    fill(subnet, bob)
    storage.save(subnet.replica, tmp_path / "state")
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 1 << 30
    assert sum(path.stat().st_blocks * 512 for path in files) < 4 << 20
    for path in (tmp_path / "state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_time_never_goes_back(subnet: Any, reopen: Any, tmp_path: pathlib.Path) -> None:
    subnet.replica.clock.advance(1000)
    saved = subnet.replica.clock.now_ns()
    storage.save(subnet.replica, tmp_path)
    again = reopen(tmp_path)
    assert again.replica.clock.now_ns() > saved
    assert abs(again.replica.clock.offset_ns - 1000 * 10**9) < 10**6


def test_a_stopping_canister_comes_back_stopped(subnet: Any, reopen: Any, tmp_path: pathlib.Path) -> None:
    canister_id = subnet.create()
    subnet.canister(canister_id).status = CanisterStatus.STOPPING
    storage.save(subnet.replica, tmp_path)
    assert reopen(tmp_path).status(canister_id)["status"] == ("stopped", None)


def test_one_generation_remains(subnet: Any, reopen: Any, tmp_path: pathlib.Path) -> None:
    subnet.create()
    (tmp_path / "generation-7").mkdir()
    (tmp_path / "generation-7" / "rubbish").write_bytes(b"")
    for _ in range(3):
        storage.save(subnet.replica, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CURRENT", "generation-10"]
    assert state(reopen(tmp_path)) == state(subnet)


class Killed(BaseException):
    """Ends a save at a chosen step, as losing the process would."""


STEPS = ["fsync", "open", "mkdir", "replace", "copy_file_range", "ftruncate", "rmdir", "unlink"]


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException]) -> list[str]:
    """Make the *at*-th file system operation fail; returns the names of the operations that ran."""
    done: list[str] = []

    def counted(name: str) -> Any:
        original = getattr(os, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            if len(done) == at:
                done.append(f"{name} fails")
                raise error()
            done.append(name)
            return original(*args, **kwargs)

        return operation

    for name in STEPS:
        monkeypatch.setattr(os, name, counted(name))
    return done


def test_dying_at_any_step_leaves_the_old_or_the_new_state(
    subnet: Any, reopen: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canister_id = subnet.create()
    subnet.call("take_canister_snapshot", {"canister_id": canister_id})
    old = tmp_path / "old"
    storage.save(subnet.replica, old)
    subnet.update(canister_id, "inc")
    outcomes = set()
    for step in range(10_000):
        directory = tmp_path / str(step)
        shutil.copytree(old, directory)
        with monkeypatch.context() as patch:
            done = interrupt(patch, step, Killed)
            try:
                storage.save(subnet.replica, directory)
            except Killed:
                finished = False
            else:
                finished = True
        again = reopen(directory)
        outcomes.add((finished, again.seen(canister_id).count))
        again.update(canister_id, "inc")
        storage.save(again.replica, directory)
        assert len(list(directory.iterdir())) == 2, done
        if finished:
            break
    assert step > 20
    assert outcomes == {(False, 0), (False, 1), (True, 1)}


FAULTS = [
    (28, SinkFullError),
    (13, SinkPermissionError),
    (30, SinkPermissionError),
    (5, SinkUnavailableError),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[1].__name__)
def test_failing_at_any_step_is_named_and_keeps_the_state(
    subnet: Any,
    reopen: Any,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: tuple[int, type[BackupError]],
) -> None:
    number, error = fault
    canister_id = subnet.create()
    storage.save(subnet.replica, tmp_path)
    subnet.update(canister_id, "inc")
    for step in range(1, 100, 3):
        with monkeypatch.context() as patch:
            interrupt(patch, step, lambda: OSError(number, os.strerror(number)))
            try:
                storage.save(subnet.replica, tmp_path)
            except error:
                pass
            else:
                break
        count = reopen(tmp_path).seen(canister_id).count
        assert count == 1 or len(list(tmp_path.glob("generation-*"))) == 1
    assert step > 6


KILLED = """
    import sys
    sys.path.insert(0, sys.argv[2])
    from conftest import new_subnet
    from knowtation_backup.sandbox import storage
    subnet = new_subnet()
    canister_id = subnet.create()
    while True:
        subnet.update(canister_id, "inc")
        storage.save(subnet.replica, sys.argv[1])
        print(subnet.seen(canister_id).count, flush=True)
"""


@pytest.mark.parametrize("delay_lines", [1, 9])
def test_a_killed_process_leaves_its_last_save(reopen: Any, tmp_path: pathlib.Path, delay_lines: int) -> None:
    here = str(pathlib.Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), here]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own interpreter
        assert process.stdout is not None
        for _ in range(delay_lines):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    last = int(rest[-1]) if rest else last
    again = reopen(tmp_path)
    (canister_id,) = again.replica.canisters
    assert again.seen(canister_id).count in (last, last + 1)


def damaged(directory: pathlib.Path, pattern: str, change: Callable[[bytes], bytes | None]) -> None:
    path = next(directory.rglob(pattern))
    data = change(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("CURRENT", lambda _: b""),
        ("CURRENT", lambda _: b"[]"),
        ("CURRENT", lambda _: b"{}"),
        ("state.cbor", lambda data: data[:-1]),
        ("state.cbor", lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:]),
        ("state.cbor", lambda _: None),
        ("*.blob", lambda data: data + b"x"),
        ("*.blob", lambda _: None),
        ("*.image", lambda data: data[:-1]),
        ("*.image", lambda _: None),
    ],
)
def test_damage_is_named(
    subnet: Any, reopen: Any, tmp_path: pathlib.Path, pattern: str, change: Callable[[bytes], bytes | None]
) -> None:
    subnet.create()
    storage.save(subnet.replica, tmp_path)
    damaged(tmp_path, pattern, change)
    with pytest.raises(IntegrityError):
        reopen(tmp_path)


def test_newer_formats_are_refused(subnet: Any, reopen: Any, tmp_path: pathlib.Path) -> None:
    storage.save(subnet.replica, tmp_path)
    pointer = json.loads((tmp_path / "CURRENT").read_bytes())
    (tmp_path / "CURRENT").write_text(json.dumps(pointer | {"format": 2}))
    with pytest.raises(UnsupportedFormatError):
        reopen(tmp_path)
