"""Every management call against a network: what it does, and what the network says to those who may not or cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import wasmtime
from cryptography.hazmat.primitives.asymmetric import ed25519

from knowtation_backup.errors import RejectedError
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.candid import snapshot_read_arg
from knowtation_backup.ic.evidence import CallEvidence
from knowtation_backup.ic.identity import KeyIdentity
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.canisters import (
    CHUNK_BYTES,
    MAX_SNAPSHOTS,
    GlobalKind,
    GlobalValue,
    RunState,
    SectionName,
    Slice,
    SnapshotMetadata,
    StoredChunk,
)
from knowtation_backup.model.ids import ANONYMOUS, Principal, SnapshotId
from knowtation_backup.sandbox import SandboxNetwork, candid
from knowtation_backup.sandbox.management.types import METHODS

KEEPER = """
(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "debug_print" (func $print (param i32 i32)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (memory (export "memory") 1)
  (global (export "count") (mut i32) (i32.const -5))
  (global (export "long") (mut i64) (i64.const -9223372036854775807))
  (global (export "loud") (mut f32) (f32.const nan:0x200001))
  (global (export "payload") (mut f64) (f64.const -nan:0x4000000000001))
  (global (export "endless") (mut f64) (f64.const -inf))
  (global (mut v128) (v128.const i64x2 -2 1))
  (data (i32.const 0) "hello from the keeper")
  (func (export "canister_init")
    (drop (call $grow (i64.const 40)))
    (call $write (i64.const 2000000) (i64.const 0) (i64.const 21)))
  (func (export "canister_update say") (call $print (i32.const 0) (i32.const 21)) (call $reply))
)
"""
GLOBALS = (
    GlobalValue(GlobalKind.I32, (1 << 32) - 5),
    GlobalValue(GlobalKind.I64, (1 << 63) + 1),
    GlobalValue(GlobalKind.F32, 0x7FA00001),
    GlobalValue(GlobalKind.F64, 0xFFF4000000000001),
    GlobalValue(GlobalKind.F64, 0xFFF0000000000000),
    GlobalValue(GlobalKind.V128, (1 << 64) | (1 << 64) - 2),
)
EMPTY_MODULE = b"\x00asm\x01\x00\x00\x00"
TINY = SnapshotMetadata(wasm_module_size=8, wasm_memory_size=0, stable_memory_size=0)
NOTHING = b"DIDL\x00\x00"
STABLE_BYTES = 40 * 65_536


PART = Slice(SectionName.STABLE_MEMORY, 2_000_000, 21)


@attrs.frozen
class World:
    """A network with somebody who controls canisters there, and somebody who controls none."""

    network: SandboxNetwork
    management: ManagementCanister
    stranger: ManagementCanister
    wasm: bytes

    def canister(self, wasm: bytes | None = None) -> Principal:
        """Create a canister of the owner; without code for ``b""``."""
        owner = self.management.agent.sender.raw
        return Principal(self.network.create_canister(self.wasm if wasm is None else wasm, controllers=[owner]))

    def manage(self, method: str, canister_id: Principal, **fields: Any) -> Any:
        """Call a method that the library has no need of, as the owner."""
        types = METHODS[method]
        arg = candid.encode([types.argument or candid.NULL], [{"canister_id": canister_id.raw, **fields}])
        return self.network.update(b"", method, arg, sender=self.management.agent.sender.raw)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    wasm = bytes(wasmtime.wat2wasm(KEEPER))
    with SandboxNetwork(tick_seconds=None, call_wait_seconds=5.0) as network:

        def agent(seed: bytes) -> Agent:
            identity = KeyIdentity(ed25519.Ed25519PrivateKey.from_private_bytes(seed * 32))
            return Agent(
                "http://127.0.0.1:1", identity=identity, root_key=network.root_key, transport=network.transport()
            )

        with agent(b"o") as owner, agent(b"s") as stranger:
            yield World(network, ManagementCanister(owner), ManagementCanister(stranger), wasm)


@pytest.fixture
def management(world: World) -> ManagementCanister:
    return world.management


@pytest.fixture(scope="module")
def keeper(world: World) -> Principal:
    """A canister that tests only look at."""
    return world.canister()


@pytest.fixture(scope="module")
def snapshot(world: World, keeper: Principal) -> SnapshotId:
    """Of the keeper, with a chunk in its chunk store."""
    world.manage("upload_chunk", keeper, chunk=b"stored")
    return world.management.take_snapshot(keeper).snapshot_id


def refused(call: Callable[[], object], code: str) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        call()
    assert caught.value.context["error_code"] == code, caught.value
    return caught.value


# --- taking, listing, loading, deleting -----------------------------------------------------------------------------


def test_a_snapshot_is_taken_listed_loaded_and_deleted(world: World, management: ManagementCanister) -> None:
    canister = world.canister()
    taken = management.take_snapshot(canister)
    assert taken.snapshot_id.raw.endswith(canister.raw)
    assert taken.size_bytes > STABLE_BYTES
    assert management.list_snapshots(canister) == (taken,)
    version = management.canister_status(canister).version
    assert version is not None
    management.load_snapshot(canister, taken.snapshot_id)
    assert management.canister_status(canister).version == version + 1
    management.delete_snapshot(canister, taken.snapshot_id)
    assert management.list_snapshots(canister) == ()


def test_a_snapshot_takes_the_place_of_another(world: World, management: ManagementCanister) -> None:
    canister = world.canister()
    first = management.take_snapshot(canister)
    second = management.take_snapshot(canister, replace=first.snapshot_id)
    assert management.list_snapshots(canister) == (second,)
    assert second.snapshot_id != first.snapshot_id
    assert second.taken_at_ns >= first.taken_at_ns
    refused(lambda: management.take_snapshot(canister, replace=first.snapshot_id), "IC0305")


def test_the_code_goes_with_the_snapshot_when_asked_to(world: World, management: ManagementCanister) -> None:
    canister = world.canister()
    taken = management.take_snapshot(canister, uninstall_code=True)
    assert management.canister_status(canister).module_hash is None
    management.load_snapshot(canister, taken.snapshot_id)
    assert management.canister_status(canister).module_hash == hashlib.sha256(world.wasm).digest()


def test_a_canister_without_code_has_nothing_to_take(world: World, management: ManagementCanister) -> None:
    error = refused(lambda: management.take_snapshot(world.canister(b"")), "IC0406")
    assert error.certified


def test_there_are_ten_snapshots_at_most(world: World, management: ManagementCanister) -> None:
    canister = world.canister(EMPTY_MODULE)
    taken = [management.take_snapshot(canister) for _ in range(MAX_SNAPSHOTS)]
    error = refused(lambda: management.take_snapshot(canister), "IC0406")
    assert "maximum number of snapshots" in str(error)
    metadata = management.read_snapshot_metadata(canister, taken[0].snapshot_id).metadata
    refused(lambda: management.upload_snapshot_metadata(canister, metadata), "IC0406")
    replaced = management.take_snapshot(canister, replace=taken[3].snapshot_id)
    listed = [each.snapshot_id for each in management.list_snapshots(canister)]
    assert len(listed) == MAX_SNAPSHOTS
    assert replaced.snapshot_id in listed
    assert taken[3].snapshot_id not in listed


def test_snapshots_of_another_canister_are_loaded_by_who_controls_both(
    world: World, management: ManagementCanister, snapshot: SnapshotId
) -> None:
    other = world.canister(b"")
    management.load_snapshot(other, snapshot)
    assert management.canister_status(other).module_hash == hashlib.sha256(world.wasm).digest()
    refused(lambda: management.delete_snapshot(other, snapshot), "IC0406")


# --- reading --------------------------------------------------------------------------------------------------------


def test_metadata_tells_everything_to_the_last_bit(
    management: ManagementCanister, world: World, keeper: Principal, snapshot: SnapshotId
) -> None:
    read = management.read_snapshot_metadata(keeper, snapshot)
    metadata = read.metadata
    assert metadata.wasm_module_size == len(world.wasm)
    assert (metadata.wasm_memory_size, metadata.stable_memory_size) == (65_536, STABLE_BYTES)
    assert metadata.globals == GLOBALS
    assert metadata.wasm_chunk_store == (hashlib.sha256(b"stored").digest(),)
    assert (metadata.source, metadata.global_timer) == ("taken_from_canister", "inactive")
    assert metadata.taken_at_ns == management.list_snapshots(keeper)[0].taken_at_ns
    assert read.reply.time_ns > 0


def test_every_part_is_read_and_proved(
    management: ManagementCanister, world: World, keeper: Principal, snapshot: SnapshotId
) -> None:
    metadata = management.read_snapshot_metadata(keeper, snapshot).metadata
    sections: dict[SectionName, bytes] = dict.fromkeys(SectionName, b"")
    for part in metadata.parts():
        data = management.read_snapshot_data(keeper, snapshot, part)
        evidence = CallEvidence.of(data.reply)
        question = snapshot_read_arg(keeper, snapshot, part)
        evidence.check(arg=question, reply=data.reply.reply, root_key=world.network.root_key)
        if isinstance(part, StoredChunk):
            assert bytes(data.chunk) == b"stored"
        else:
            assert len(data.chunk) == part.size_bytes
            assert data.chunk.obj is data.reply.reply.obj  # one buffer from the connection to here
            sections[part.section] += bytes(data.chunk)
    assert sections[SectionName.WASM_MODULE] == world.wasm
    assert sections[SectionName.WASM_MEMORY].startswith(b"hello from the keeper")
    assert sections[SectionName.STABLE_MEMORY][2_000_000:2_000_021] == b"hello from the keeper"


@pytest.mark.parametrize(
    "part",
    [
        Slice(SectionName.STABLE_MEMORY, 0, CHUNK_BYTES + 1),
        Slice(SectionName.STABLE_MEMORY, STABLE_BYTES, 1),
        Slice(SectionName.WASM_MODULE, 1 << 40, 1),
    ],
    ids=str,
)
def test_slices_that_are_too_large_or_outside_are_refused(
    management: ManagementCanister, keeper: Principal, snapshot: SnapshotId, part: Slice
) -> None:
    assert refused(lambda: management.read_snapshot_data(keeper, snapshot, part), "IC0408").kind == "bad_argument"


def test_a_chunk_that_is_not_stored_is_refused(
    management: ManagementCanister, keeper: Principal, snapshot: SnapshotId
) -> None:
    refused(lambda: management.read_snapshot_data(keeper, snapshot, StoredChunk(bytes(32))), "IC0504")


# --- uploading ------------------------------------------------------------------------------------------------------


def test_what_was_read_is_uploaded_and_loaded_elsewhere(
    world: World, management: ManagementCanister, keeper: Principal, snapshot: SnapshotId
) -> None:
    metadata = management.read_snapshot_metadata(keeper, snapshot).metadata
    target = world.canister(b"")
    uploaded = management.upload_snapshot_metadata(target, metadata)
    for part in metadata.parts():
        chunk = management.read_snapshot_data(keeper, snapshot, part).chunk
        management.upload_snapshot_data(target, uploaded, part, chunk)
        management.upload_snapshot_data(target, uploaded, part, chunk)  # twice does no harm
    again = management.read_snapshot_metadata(target, uploaded).metadata
    changed: dict[str, Any] = {
        "source": "metadata_upload",
        "taken_at_ns": again.taken_at_ns,
        "canister_version": again.canister_version,
    }
    assert again == attrs.evolve(metadata, **changed)
    for part in metadata.parts():
        one, other = (
            management.read_snapshot_data(*whose, part).chunk for whose in ((keeper, snapshot), (target, uploaded))
        )
        assert one == other
    management.load_snapshot(target, uploaded)
    taken = management.take_snapshot(target).snapshot_id
    assert management.read_snapshot_metadata(target, taken).metadata.globals == GLOBALS


def test_an_upload_destroys_what_it_replaces_at_once(
    world: World, management: ManagementCanister, keeper: Principal, snapshot: SnapshotId
) -> None:
    metadata = management.read_snapshot_metadata(keeper, snapshot).metadata
    canister = world.canister()
    old = management.take_snapshot(canister).snapshot_id
    new = management.upload_snapshot_metadata(canister, metadata, replace=old)
    assert [each.snapshot_id for each in management.list_snapshots(canister)] == [new]


def test_snapshots_that_were_taken_cannot_be_written_to(
    management: ManagementCanister, keeper: Principal, snapshot: SnapshotId
) -> None:
    error = refused(lambda: management.upload_snapshot_data(keeper, snapshot, PART, bytes(21)), "IC0409")
    assert error.kind == "snapshot_immutable"


def test_uploads_beyond_the_end_are_refused(world: World, management: ManagementCanister) -> None:
    canister = world.canister(b"")
    uploaded = management.upload_snapshot_metadata(canister, TINY)
    refused(lambda: management.upload_snapshot_data(canister, uploaded, PART, bytes(21)), "IC0408")


@pytest.mark.parametrize(
    "changes", [{"wasm_module_size": 0}, {"stable_memory_size": 5}, {"certified_data": bytes(33)}], ids=str
)
def test_metadata_that_no_snapshot_can_have_is_refused(
    world: World, management: ManagementCanister, changes: dict[str, Any]
) -> None:
    metadata = attrs.evolve(TINY, **changes)
    error = refused(lambda: management.upload_snapshot_metadata(world.canister(b""), metadata), "IC0408")
    assert "invalid data" in str(error)


def test_no_global_loses_a_bit_on_its_way_there_and_back(world: World, management: ManagementCanister) -> None:
    values = (
        *GLOBALS,
        GlobalValue(GlobalKind.F32, 0x7F800001),
        GlobalValue(GlobalKind.F32, 0x80000000),
        GlobalValue(GlobalKind.F64, 0x7FF8000000000000),
        GlobalValue(GlobalKind.V128, (1 << 128) - 1),
    )
    canister = world.canister(b"")
    uploaded = management.upload_snapshot_metadata(canister, attrs.evolve(TINY, globals=values))
    assert management.read_snapshot_metadata(canister, uploaded).metadata.globals == values


@pytest.mark.parametrize("timer", [None, "inactive", 1_900_000_000_000_000_000])
def test_timers_and_hooks_are_announced(world: World, management: ManagementCanister, timer: int | str | None) -> None:
    canister = world.canister(b"")
    hook = None if timer is None else "executed"
    metadata = attrs.evolve(TINY, global_timer=timer, on_low_wasm_memory_hook_status=hook)
    uploaded = management.upload_snapshot_metadata(canister, metadata)
    read = management.read_snapshot_metadata(canister, uploaded).metadata
    assert read.global_timer == timer
    assert read.on_low_wasm_memory_hook_status == hook


# --- canisters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certified", [False, True])
def test_the_status_says_what_a_canister_is_and_has(world: World, keeper: Principal, certified: bool) -> None:  # noqa: FBT001
    status = world.management.canister_status(keeper, certified=certified)
    assert (status.canister_id, status.certified, status.run_state) == (keeper, certified, RunState.RUNNING)
    assert status.settings.controllers == (world.management.agent.sender,)
    assert status.module_hash == hashlib.sha256(world.wasm).digest()
    assert status.memory_size_bytes > STABLE_BYTES
    assert status.memory_metrics["stable_memory_size"] == STABLE_BYTES
    assert status.cycles > 10**12
    assert status.settings.values["log_visibility"] == "controllers"


def test_a_canister_is_stopped_and_started(world: World, management: ManagementCanister) -> None:
    canister = world.canister()
    management.stop(canister)
    management.stop(canister)
    assert management.canister_status(canister, certified=True).run_state is RunState.STOPPED
    error = refused(lambda: management.agent.call(canister, "say", NOTHING), "IC0508")
    assert error.kind == "canister_stopped"
    management.start(canister)
    management.start(canister)
    assert management.canister_status(canister).run_state is RunState.RUNNING


def test_settings_are_changed_as_the_status_shows_them(world: World, management: ManagementCanister) -> None:
    canister = world.canister()
    owner = management.agent.sender
    values: dict[str, Any] = {
        "compute_allocation": 1,
        "freezing_threshold": 60,
        "log_visibility": "public",
        "snapshot_visibility": (ANONYMOUS, world.stranger.agent.sender),
        "environment_variables": {"HUB": "1", "Ä": "ö"},
        "wasm_memory_limit": 1 << 31,
    }
    before = management.canister_status(canister).settings.values
    management.update_settings(canister, controllers=[owner, ANONYMOUS], values=values)
    after = management.canister_status(canister).settings
    assert set(after.controllers) == {owner, ANONYMOUS}
    assert after.values == {**before, **values}
    management.update_settings(canister, controllers=[owner], values=before)
    restored = management.canister_status(canister).settings
    assert (restored.controllers, restored.values) == ((owner,), before)


def test_whom_snapshots_are_shown_to_may_read_them(world: World, management: ManagementCanister) -> None:
    canister = world.canister()
    taken = management.take_snapshot(canister)
    refused(lambda: world.stranger.list_snapshots(canister), "IC0512")
    management.update_settings(canister, values={"snapshot_visibility": (world.stranger.agent.sender,)})
    assert world.stranger.list_snapshots(canister) == (taken,)
    assert bytes(world.stranger.read_snapshot_data(canister, taken.snapshot_id, PART).chunk) == b"hello from the keeper"


def test_the_log_is_read(world: World, management: ManagementCanister) -> None:
    canister = world.canister()
    assert management.fetch_logs(canister) == ()
    for _ in range(2):
        management.agent.call(canister, "say", NOTHING)
    first, second = management.fetch_logs(canister)
    assert (first.content, second.content) == (b"hello from the keeper",) * 2
    assert (first.index, second.index) == (0, 1)
    assert second.at_ns >= first.at_ns > 0
    refused(lambda: world.stranger.fetch_logs(canister), "IC0406")


def test_anybody_may_know_who_controls_a_canister(world: World, keeper: Principal) -> None:
    info = world.stranger.public_info(keeper)
    assert info.controllers == (world.management.agent.sender,)
    assert info.module_hash == hashlib.sha256(world.wasm).digest()
    assert world.stranger.public_info(world.canister(b"")).module_hash is None


# --- refusals -------------------------------------------------------------------------------------------------------

UNKNOWN_SNAPSHOT = bytes.fromhex("00000000000000ff")
CALLS: dict[str, Callable[[ManagementCanister, Principal, SnapshotId], object]] = {
    "take": lambda it, canister, _: it.take_snapshot(canister),
    "load": lambda it, canister, snapshot: it.load_snapshot(canister, snapshot),
    "list": lambda it, canister, _: it.list_snapshots(canister),
    "delete": lambda it, canister, snapshot: it.delete_snapshot(canister, snapshot),
    "read metadata": lambda it, canister, snapshot: it.read_snapshot_metadata(canister, snapshot),
    "read data": lambda it, canister, snapshot: it.read_snapshot_data(canister, snapshot, PART),
    "upload metadata": lambda it, canister, _: it.upload_snapshot_metadata(canister, TINY),
    "upload data": lambda it, canister, snapshot: it.upload_snapshot_data(canister, snapshot, PART, bytes(21)),
    "status": lambda it, canister, _: it.canister_status(canister),
    "certified status": lambda it, canister, _: it.canister_status(canister, certified=True),
    "start": lambda it, canister, _: it.start(canister),
    "stop": lambda it, canister, _: it.stop(canister),
    "settings": lambda it, canister, _: it.update_settings(canister, values={"freezing_threshold": 1}),
}
Call = Callable[[ManagementCanister, Principal, SnapshotId], object]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_strangers_are_refused(world: World, keeper: Principal, snapshot: SnapshotId, call: Call) -> None:
    assert refused(lambda: call(world.stranger, keeper, snapshot), "IC0512").kind == "not_controller"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_canisters_that_are_not_there_are_refused(world: World, snapshot: SnapshotId, call: Call) -> None:
    missing = Principal(bytes.fromhex("80000000001ffff00101"))
    error = refused(lambda: call(world.management, missing, snapshot), "IC0301")
    assert error.kind == "canister_not_found"


@pytest.mark.parametrize("name", ["load", "delete", "read metadata", "read data", "upload data"])
def test_snapshots_that_are_not_there_are_refused(world: World, keeper: Principal, name: str) -> None:
    unknown = SnapshotId(UNKNOWN_SNAPSHOT + keeper.raw)
    error = refused(lambda: CALLS[name](world.management, keeper, unknown), "IC0305")
    assert (error.kind, error.certified, error.reject_code) == ("snapshot_not_found", True, 3)


@pytest.mark.parametrize("name", ["delete", "read metadata", "read data", "upload data"])
def test_snapshots_of_another_canister_are_refused(world: World, snapshot: SnapshotId, name: str) -> None:
    refused(lambda: CALLS[name](world.management, world.canister(), snapshot), "IC0406")


def test_a_canister_certainly_not_there_has_no_controllers(world: World) -> None:
    missing = Principal(bytes.fromhex("80000000001ffff00101"))
    with pytest.raises(RejectedError) as caught:
        world.stranger.public_info(missing)
    assert caught.value.kind == "canister_not_found"
