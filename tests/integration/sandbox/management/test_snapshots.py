"""Canister snapshots: every rule, limit, code and text that clients may meet."""

import errno
import hashlib
import os
import struct
from typing import Any

import attrs
import pytest
import wasmtime

from knowtation_backup.sandbox import principal
from knowtation_backup.sandbox.execution.images import MemoryImage
from knowtation_backup.sandbox.management.context import ManagementOptions
from knowtation_backup.sandbox.management.snapshots import snapshot_text
from knowtation_backup.sandbox.messages import Rejected

UNKNOWN = bytes.fromhex("00000000000000ff0101")
PAGE = 65_536


def take(subnet: Any, canister_id: bytes, **argument: Any) -> dict[str, Any]:
    return dict(subnet.call("take_canister_snapshot", {"canister_id": canister_id, **argument}))


def load(subnet: Any, canister_id: bytes, snapshot_id: bytes, **options: Any) -> None:
    subnet.call("load_canister_snapshot", {"canister_id": canister_id, "snapshot_id": snapshot_id}, **options)


def listed(subnet: Any, canister_id: bytes, **options: Any) -> list[bytes]:
    snapshots = subnet.call("list_canister_snapshots", {"canister_id": canister_id}, **options)
    return [item["id"] for item in snapshots]


def delete(subnet: Any, canister_id: bytes, snapshot_id: bytes) -> None:
    subnet.call("delete_canister_snapshot", {"canister_id": canister_id, "snapshot_id": snapshot_id})


def metadata(subnet: Any, canister_id: bytes, snapshot_id: bytes, **options: Any) -> dict[str, Any]:
    argument = {"canister_id": canister_id, "snapshot_id": snapshot_id}
    return dict(subnet.call("read_canister_snapshot_metadata", argument, **options))


def read(subnet: Any, canister_id: bytes, snapshot_id: bytes, kind: str, **where: Any) -> bytes:
    argument = {"canister_id": canister_id, "snapshot_id": snapshot_id, "kind": (kind, where)}
    return bytes(subnet.call("read_canister_snapshot_data", argument)["chunk"])


def announce(subnet: Any, canister_id: bytes, **changes: Any) -> bytes:
    argument = {
        "canister_id": canister_id,
        "wasm_module_size": 1,
        "globals": [],
        "wasm_memory_size": 0,
        "stable_memory_size": 0,
        "certified_data": b"",
        **changes,
    }
    return bytes(subnet.call("upload_canister_snapshot_metadata", argument)["snapshot_id"])


def upload(  # noqa: PLR0917 - reads like the method
    subnet: Any, canister_id: bytes, snapshot_id: bytes, kind: str, offset: int | None, chunk: bytes
) -> None:
    where = None if offset is None else {"offset": offset}
    argument = {"canister_id": canister_id, "snapshot_id": snapshot_id, "kind": (kind, where), "chunk": chunk}
    subnet.call("upload_canister_snapshot_data", argument)


def transfer(subnet: Any, source: bytes, snapshot_id: bytes, target: bytes, **changes: Any) -> bytes:
    """Download a snapshot and upload it to another canister."""
    meta = metadata(subnet, source, snapshot_id) | changes
    copied = announce(subnet, target, **meta)
    for kind in ("wasm_module", "wasm_memory", "stable_memory"):
        for offset in range(0, meta[f"{kind}_size"], 50_000):
            size = min(50_000, meta[f"{kind}_size"] - offset)
            upload(
                subnet, target, copied, kind, offset, read(subnet, source, snapshot_id, kind, offset=offset, size=size)
            )
    for item in meta["wasm_chunk_store"]:
        upload(subnet, target, copied, "wasm_chunk", None, read(subnet, source, snapshot_id, "wasm_chunk", **item))
    return copied


def options(subnet: Any, **changes: Any) -> None:
    subnet.management.options = ManagementOptions(**changes)


@pytest.fixture
def counter(subnet: Any) -> bytes:
    """A canister that has counted to three."""
    canister_id: bytes = subnet.create()
    for _ in range(3):
        subnet.update(canister_id, "inc")
    return canister_id


# Take


def test_ids_are_counter_and_canister_and_never_used_twice(subnet: Any, counter: bytes) -> None:
    first = take(subnet, counter)["id"]
    assert first == bytes(8) + counter
    delete(subnet, counter, first)
    second = take(subnet, counter)["id"]
    assert second == (1).to_bytes(8, "big") + counter
    assert listed(subnet, counter) == [second]
    assert snapshot_text(second) == f"{principal.to_text(counter)}-1"


def test_taking_holds_the_state_and_leaves_the_canister_alone(subnet: Any, counter: bytes) -> None:
    subnet.update(counter, "certify", b"root")
    subnet.update(counter, "timer", struct.pack("<q", 1 << 62))
    subnet.call("upload_chunk", {"canister_id": counter, "chunk": b"a chunk"})
    before = subnet.status(counter)
    taken = take(subnet, counter)
    after = subnet.status(counter)
    assert after["version"] == before["version"]
    assert after["status"] == before["status"]
    assert subnet.history(counter)[-1][0] == "code_deployment"
    meta = metadata(subnet, counter, taken["id"])
    digest = hashlib.sha256(b"a chunk").digest()
    assert meta == {
        "source": ("taken_from_canister", None),
        "taken_at_timestamp": taken["taken_at_timestamp"],
        "wasm_module_size": len(subnet.counter),
        "globals": [("i32", 3), ("f64", 0.5), ("i64", -10)],
        "wasm_memory_size": 2 * PAGE,
        "stable_memory_size": PAGE,
        "wasm_chunk_store": [{"hash": digest}],
        "canister_version": before["version"],
        "certified_data": b"root",
        "global_timer": ("active", 1 << 62),
        "on_low_wasm_memory_hook_status": ("condition_not_satisfied", None),
    }
    expected = len(subnet.counter) + 3 * PAGE + 3 * 8 + (1 << 20) + len(b"root")
    assert taken["total_size"] == expected
    assert after["memory_metrics"]["snapshots_size"] == expected
    assert read(subnet, counter, taken["id"], "wasm_module", offset=0, size=len(subnet.counter)) == subnet.counter
    assert read(subnet, counter, taken["id"], "wasm_memory", offset=100_000, size=4) == struct.pack("<i", 3)
    assert read(subnet, counter, taken["id"], "stable_memory", offset=8, size=4) == struct.pack("<i", 3)
    assert read(subnet, counter, taken["id"], "wasm_chunk", hash=digest) == b"a chunk"


def test_a_snapshot_does_not_follow_the_canister(subnet: Any, counter: bytes) -> None:
    taken = take(subnet, counter)["id"]
    subnet.update(counter, "inc")
    assert read(subnet, counter, taken, "wasm_memory", offset=100_000, size=4) == struct.pack("<i", 3)
    assert read(subnet, counter, taken, "stable_memory", offset=8, size=4) == struct.pack("<i", 3)
    assert metadata(subnet, counter, taken)["globals"][0] == ("i32", 3)


def test_an_empty_canister_has_no_snapshots(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    with pytest.raises(Rejected) as caught:
        take(subnet, canister_id)
    assert caught.value.error_code == "IC0406"
    text = principal.to_text(canister_id)
    assert caught.value.message == f"Failed to create snapshot for empty canister {text}:"


def test_taking_can_uninstall(subnet: Any, counter: bytes) -> None:
    subnet.update(counter, "timer", struct.pack("<q", 1 << 62))
    version = subnet.status(counter)["version"]
    taken = take(subnet, counter, uninstall_code=True)["id"]
    status = subnet.status(counter)
    assert status["module_hash"] is None
    assert status["version"] == version + 1
    assert subnet.canister(counter).global_timer == 0
    assert subnet.history(counter)[-1] == ("code_uninstall", None)
    load(subnet, counter, taken)
    assert subnet.seen(counter).count == 3


def test_ten_snapshots_are_the_limit(subnet: Any, counter: bytes) -> None:
    for _ in range(10):
        last = take(subnet, counter)["id"]
    text = principal.to_text(counter)
    for attempt in (take, announce):
        with pytest.raises(Rejected) as caught:
            attempt(subnet, counter)
        assert caught.value.error_code == "IC0406"
        assert caught.value.message == f"Canister {text} has reached the maximum number of snapshots allowed: 10."
    replaced = take(subnet, counter, replace_snapshot=last)["id"]
    assert replaced != last
    assert listed(subnet, counter)[-1] == replaced
    assert len(listed(subnet, counter)) == 10


def test_replacing_needs_a_snapshot_of_the_same_canister(subnet: Any, counter: bytes) -> None:
    other = subnet.create()
    foreign = take(subnet, other)["id"]
    for attempt in (take, announce):
        with pytest.raises(Rejected) as caught:
            attempt(subnet, counter, replace_snapshot=foreign)
        assert caught.value.error_code == "IC0406"
        with pytest.raises(Rejected) as caught:
            attempt(subnet, counter, replace_snapshot=bytes(8) + counter)
        assert caught.value.error_code == "IC0305"
    assert listed(subnet, counter) == []
    assert listed(subnet, other) == [foreign]


# Load


def test_loading_brings_the_state_back_without_running_wasm(subnet: Any, counter: bytes) -> None:
    subnet.update(counter, "certify", b"old")
    subnet.call("upload_chunk", {"canister_id": counter, "chunk": b"a chunk"})
    taken = take(subnet, counter)
    before = subnet.status(counter)
    subnet.install(counter, subnet.other, mode=("reinstall", None))
    subnet.call("clear_chunk_store", {"canister_id": counter})
    version = subnet.status(counter)["version"]
    load(subnet, counter, taken["id"])
    after = subnet.status(counter)
    assert attrs.astuple(subnet.seen(counter)) == (3, 3, -10, 3)
    assert after["version"] == version + 1
    assert after["module_hash"] == before["module_hash"]
    assert after["memory_metrics"]["wasm_chunk_store_size"] == 1 << 20
    assert subnet.canister(counter).certified_data == b"old"
    assert subnet.history(counter)[-1] == (
        "load_snapshot",
        {
            "from_canister_id": None,
            "snapshot_id": taken["id"],
            "canister_version": before["version"],
            "taken_at_timestamp": taken["taken_at_timestamp"],
            "source": ("taken_from_canister", None),
        },
    )
    subnet.update(counter, "inc")
    assert subnet.seen(counter).count == 4
    load(subnet, counter, taken["id"])  # the snapshot is still whole
    assert subnet.seen(counter).count == 3


def test_loading_keeps_settings_status_logs_and_snapshots(subnet: Any, counter: bytes) -> None:
    taken = take(subnet, counter)["id"]
    take(subnet, counter)
    subnet.update(counter, "print", b"kept")
    subnet.set(counter, freezing_threshold=123)
    load(subnet, counter, taken)
    status = subnet.status(counter)
    assert status["settings"]["freezing_threshold"] == 123
    assert status["status"] == ("running", None)
    assert len(listed(subnet, counter)) == 2
    logs = subnet.query("fetch_canister_logs", {"canister_id": counter})["canister_log_records"]
    assert [record["content"] for record in logs] == [b"kept"]
    subnet.call("stop_canister", {"canister_id": counter})
    load(subnet, counter, taken)
    assert subnet.status(counter)["status"] == ("stopped", None)


def test_timers_stay_as_they_are_when_loading_a_taken_snapshot(subnet: Any, counter: bytes) -> None:
    subnet.update(counter, "timer", struct.pack("<q", 1 << 61))
    taken = take(subnet, counter)["id"]
    subnet.update(counter, "timer", struct.pack("<q", 1 << 62))
    load(subnet, counter, taken)
    assert subnet.canister(counter).global_timer == 1 << 62


@pytest.mark.parametrize(
    ("timer", "expected"), [(None, 1 << 62), (("inactive", None), 0), (("active", 1 << 61), 1 << 61)]
)
def test_timers_come_with_uploaded_snapshots_that_carry_them(
    subnet: Any, counter: bytes, timer: Any, expected: int
) -> None:
    taken = take(subnet, counter)["id"]
    copied = transfer(subnet, counter, taken, counter, global_timer=timer)
    subnet.update(counter, "timer", struct.pack("<q", 1 << 62))
    load(subnet, counter, copied)
    assert subnet.canister(counter).global_timer == expected


@pytest.mark.parametrize(
    ("hook", "satisfied", "named"),
    [
        ("ready", "false", "Ready"),
        ("executed", "false", "Executed"),
        ("condition_not_satisfied", "true", "ConditionNotSatisfied"),
    ],
)
def test_uploaded_hook_states_must_fit(subnet: Any, counter: bytes, hook: str, satisfied: str, named: str) -> None:
    copied = transfer(
        subnet, counter, take(subnet, counter)["id"], counter, on_low_wasm_memory_hook_status=(hook, None)
    )
    if satisfied == "true":
        subnet.set(counter, wasm_memory_limit=1 << 20, wasm_memory_threshold=1 << 20)
    with pytest.raises(Rejected) as caught:
        load(subnet, counter, copied)
    assert caught.value.error_code == "IC0408"
    assert caught.value.message == (
        f"Hook status ({named}) of uploaded snapshot is inconsistent with the canister's state "
        f"(hook condition satisfied: {satisfied})."
    )


def test_a_fitting_hook_state_is_loaded(subnet: Any, counter: bytes) -> None:
    subnet.set(counter, wasm_memory_limit=1 << 20, wasm_memory_threshold=1 << 20)
    taken = take(subnet, counter)["id"]
    copied = transfer(subnet, counter, taken, counter, on_low_wasm_memory_hook_status=("executed", None))
    load(subnet, counter, copied)
    assert subnet.canister(counter).hook_status == "executed"


@pytest.mark.parametrize(
    "change",
    [
        lambda globals_: globals_[:-1],
        lambda globals_: [*globals_, ("i32", 1)],
        lambda globals_: [("i64", 3), *globals_[1:]],
        lambda _: [],
    ],
)
def test_uploaded_globals_must_match_the_module(subnet: Any, counter: bytes, change: Any) -> None:
    taken = take(subnet, counter)["id"]
    globals_ = change(metadata(subnet, counter, taken)["globals"])
    copied = transfer(subnet, counter, taken, counter, globals=globals_)
    version = subnet.status(counter)["version"]
    with pytest.raises(Rejected) as caught:
        load(subnet, counter, copied)
    assert caught.value.error_code == "IC0408"
    assert caught.value.message == "Wasm exported globals of canister module and snapshot metadata do not match."
    assert subnet.seen(counter).count == 3
    assert subnet.status(counter)["version"] == version


def test_uploaded_modules_must_be_modules(subnet: Any, counter: bytes) -> None:
    snapshot_id = announce(subnet, counter, wasm_module_size=8)
    upload(subnet, counter, snapshot_id, "wasm_module", 0, b"not wasm")
    with pytest.raises(Rejected, match="Canister's Wasm module is not valid") as caught:
        load(subnet, counter, snapshot_id)
    assert caught.value.error_code == "IC0505"
    assert subnet.seen(counter).count == 3


def test_a_downloaded_and_uploaded_snapshot_is_the_same(subnet: Any, counter: bytes) -> None:
    subnet.update(counter, "certify", b"root")
    subnet.call("upload_chunk", {"canister_id": counter, "chunk": b"a chunk"})
    taken = take(subnet, counter)["id"]
    target = subnet.create(module=b"")
    copied = transfer(subnet, counter, taken, target)
    meta, original = metadata(subnet, target, copied), metadata(subnet, counter, taken)
    assert meta.pop("source") == ("metadata_upload", None)
    assert meta.pop("canister_version") == subnet.status(target)["version"]
    for name in meta:
        assert name == "taken_at_timestamp" or meta[name] == original[name]
    load(subnet, target, copied)
    assert attrs.astuple(subnet.seen(target)) == (3, 3, -10, 3)
    assert subnet.canister(target).certified_data == b"root"
    assert subnet.history(target)[-1][1]["source"] == ("metadata_upload", None)
    subnet.update(target, "inc")
    assert subnet.seen(target).count == 4


# Snapshots of other canisters


def test_a_foreign_snapshot_loads_for_whoever_controls_both(subnet: Any, counter: bytes) -> None:
    target = subnet.create(module=b"")
    taken = take(subnet, counter)["id"]
    load(subnet, target, taken)
    assert subnet.seen(target).count == 3
    assert subnet.history(target)[-1][1]["from_canister_id"] == counter


def test_a_foreign_snapshot_needs_its_controller(subnet: Any, counter: bytes, bob: bytes) -> None:
    target = subnet.create(module=b"", sender=bob)
    taken = take(subnet, counter)["id"]
    with pytest.raises(Rejected) as caught:
        load(subnet, target, taken, sender=bob)
    assert caught.value.error_code == "IC0406"
    assert caught.value.message == (
        f"Only a controller of the canister that snapshot {principal.to_text(counter)}-0 belongs to can load it on "
        f"canister {principal.to_text(target)}. Sender: {principal.to_text(bob)}."
    )


def test_foreign_snapshots_wait_for_a_checkpoint(subnet: Any, counter: bytes) -> None:
    options(subnet, checkpoint_delay_seconds=300)
    target = subnet.create(module=b"")
    taken = take(subnet, counter)["id"]
    with pytest.raises(Rejected) as caught:
        load(subnet, target, taken)
    assert caught.value.error_code == "IC0406"
    assert caught.value.message.startswith(
        f"Snapshot {principal.to_text(counter)}-0 is not currently loadable on the specified canister "
        f"{principal.to_text(target)}. Try again later."
    )
    load(subnet, counter, taken)  # its own canister may at once
    subnet.replica.clock.advance(300)
    load(subnet, target, taken)


def test_a_snapshot_of_a_stopped_canister_needs_no_checkpoint_but_an_upload_does(subnet: Any, counter: bytes) -> None:
    options(subnet, checkpoint_delay_seconds=300)
    target = subnet.create(module=b"")
    subnet.call("stop_canister", {"canister_id": counter})
    taken = take(subnet, counter)["id"]
    load(subnet, target, taken)
    copied = transfer(subnet, counter, taken, counter)
    with pytest.raises(Rejected, match="not currently loadable"):
        load(subnet, target, copied)
    load(subnet, counter, copied)
    subnet.replica.clock.advance(301)
    load(subnet, target, copied)


# Who may read


@pytest.mark.parametrize("visible", ["viewers", "public"])
def test_snapshot_visibility_lets_others_read_and_only_read(
    subnet: Any, counter: bytes, bob: bytes, visible: str
) -> None:
    taken = take(subnet, counter)["id"]
    setting = ("public", None) if visible == "public" else ("allowed_viewers", [bob])
    subnet.set(counter, snapshot_visibility=setting)
    assert listed(subnet, counter, sender=bob) == [taken]
    assert metadata(subnet, counter, taken, sender=bob)["wasm_memory_size"] == 2 * PAGE
    argument = {"canister_id": counter, "snapshot_id": taken, "kind": ("wasm_memory", {"offset": 0, "size": 3})}
    assert subnet.call("read_canister_snapshot_data", argument, sender=bob)["chunk"] == b"abc"
    for method in ("take_canister_snapshot", "load_canister_snapshot", "delete_canister_snapshot"):
        with pytest.raises(Rejected, match="Only controllers"):
            subnet.call(method, {"canister_id": counter, "snapshot_id": taken}, sender=bob)
    if visible == "viewers":
        with pytest.raises(Rejected, match="Only controllers"):
            listed(subnet, counter, sender=b"\x04")


# Read


def test_slices_are_limited_and_must_lie_inside(subnet: Any, counter: bytes) -> None:
    snapshot_id = announce(subnet, counter, stable_memory_size=40 * PAGE)
    assert read(subnet, counter, snapshot_id, "stable_memory", offset=5, size=2_000_000) == bytes(2_000_000)
    assert read(subnet, counter, snapshot_id, "stable_memory", offset=40 * PAGE, size=0) == b""
    with pytest.raises(Rejected) as caught:
        read(subnet, counter, snapshot_id, "stable_memory", offset=0, size=2_000_001)
    assert caught.value.error_code == "IC0408"
    assert caught.value.message == "Requested slice too large: 2000001 > 2000000"
    for kind, length in (("wasm_module", 1), ("wasm_memory", 0), ("stable_memory", 40 * PAGE)):
        for offset, size in ((length, 1), (length + 1, 0), (0, length + 1), ((1 << 64) - 1, 1)):
            if size > 2_000_000:
                continue
            with pytest.raises(Rejected) as caught:
                read(subnet, counter, snapshot_id, kind, offset=offset, size=size)
            assert caught.value.error_code == "IC0408"
            assert caught.value.message == (
                f"Invalid subslice into wasm module / main memory / stable memory: offset: {offset}, size: {size}"
            )
    with pytest.raises(Rejected, match="Error from Wasm chunk store") as caught:
        read(subnet, counter, snapshot_id, "wasm_chunk", hash=bytes(32))
    assert caught.value.error_code == "IC0504"


@pytest.mark.parametrize("method", ["metadata", "read", "delete", "upload"])
def test_ids_are_checked_everywhere(subnet: Any, counter: bytes, method: str) -> None:
    foreign = take(subnet, subnet.create())["id"]

    def use(snapshot_id: bytes) -> None:
        if method == "metadata":
            metadata(subnet, counter, snapshot_id)
        elif method == "read":
            read(subnet, counter, snapshot_id, "wasm_module", offset=0, size=1)
        elif method == "delete":
            delete(subnet, counter, snapshot_id)
        else:
            upload(subnet, counter, snapshot_id, "wasm_module", 0, b"x")

    text = principal.to_text(counter)
    with pytest.raises(Rejected) as caught:
        use((7).to_bytes(8, "big") + counter)
    assert caught.value.error_code == "IC0305"
    assert caught.value.message == f"Could not find the snapshot ID {text}-7 for canister {text}."
    with pytest.raises(Rejected) as caught:
        use(foreign)
    assert caught.value.error_code == "IC0406"
    assert caught.value.message == f"The snapshot {snapshot_text(foreign)} does not belong to canister {text}."
    for malformed in (b"", bytes(8), bytes(38)):
        with pytest.raises(Rejected) as caught:
            use(malformed)
        assert caught.value.error_code == "IC0408"


# Upload


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"wasm_module_size": 0}, "WasmModuleEmpty"),
        ({"wasm_module_size": (100 << 20) + 1}, "WasmModuleTooLarge"),
        ({"wasm_memory_size": PAGE + 1}, "WasmMemoryNotPageAligned"),
        ({"wasm_memory_size": (4 << 30) + PAGE}, "WasmMemoryTooLarge"),
        ({"stable_memory_size": 1}, "StableMemoryNotPageAligned"),
        ({"stable_memory_size": (500 << 30) + PAGE}, "StableMemoryTooLarge"),
        ({"globals": [("i32", 1)] * 1001}, "ExportedGlobalsTooLarge"),
        ({"certified_data": bytes(33)}, "CertifiedDataTooLarge"),
    ],
)
def test_announced_metadata_is_validated(subnet: Any, counter: bytes, changes: dict[str, Any], kind: str) -> None:
    with pytest.raises(Rejected) as caught:
        announce(subnet, counter, **changes)
    assert caught.value.error_code == "IC0408"
    assert caught.value.message == f"Snapshot Metadata contains invalid data: {kind}"
    assert listed(subnet, counter) == []


def test_uploads_start_as_zeros_and_may_come_in_any_order(subnet: Any, counter: bytes) -> None:
    snapshot_id = announce(subnet, counter, wasm_module_size=10, wasm_memory_size=PAGE, stable_memory_size=PAGE)
    for kind in ("wasm_memory", "stable_memory"):
        upload(subnet, counter, snapshot_id, kind, PAGE - 3, b"end")
        upload(subnet, counter, snapshot_id, kind, 1, b"begin")
        upload(subnet, counter, snapshot_id, kind, 1, b"BEG")
        assert read(subnet, counter, snapshot_id, kind, offset=0, size=8) == b"\0BEGin\0\0"
        assert read(subnet, counter, snapshot_id, kind, offset=PAGE - 4, size=4) == b"\0end"
    upload(subnet, counter, snapshot_id, "wasm_module", 4, b"abc")
    assert read(subnet, counter, snapshot_id, "wasm_module", offset=0, size=10) == bytes(4) + b"abc" + bytes(3)


@pytest.mark.parametrize("kind", ["wasm_module", "wasm_memory", "stable_memory"])
def test_uploads_must_lie_inside(subnet: Any, counter: bytes, kind: str) -> None:
    snapshot_id = announce(subnet, counter, wasm_module_size=PAGE, wasm_memory_size=PAGE, stable_memory_size=PAGE)
    with pytest.raises(Rejected) as caught:
        upload(subnet, counter, snapshot_id, kind, PAGE - 1, b"xy")
    assert caught.value.error_code == "IC0408"
    assert caught.value.message.endswith(f"offset: {PAGE - 1}, size: 2")


def test_taken_snapshots_cannot_be_changed(subnet: Any, counter: bytes) -> None:
    taken = take(subnet, counter)["id"]
    for kind, offset in (("wasm_memory", 0), ("wasm_chunk", None)):
        with pytest.raises(Rejected) as caught:
            upload(subnet, counter, taken, kind, offset, b"x")
        assert caught.value.error_code == "IC0409"
        assert caught.value.message == "Only canister snapshots created by metadata upload can be mutated."


def test_uploaded_chunks_are_limited(subnet: Any, counter: bytes) -> None:
    snapshot_id = announce(subnet, counter)
    with pytest.raises(Rejected, match="exceeds the maximum chunk size of 1048576") as caught:
        upload(subnet, counter, snapshot_id, "wasm_chunk", None, bytes((1 << 20) + 1))
    assert caught.value.error_code == "IC0504"
    for number in range(100):
        upload(subnet, counter, snapshot_id, "wasm_chunk", None, bytes([number]))
    with pytest.raises(Rejected, match="maximum capacity"):
        upload(subnet, counter, snapshot_id, "wasm_chunk", None, b"more")


def test_replacing_by_upload_drops_the_old_snapshot_at_once(subnet: Any, counter: bytes) -> None:
    taken = take(subnet, counter)["id"]
    copied = announce(subnet, counter, replace_snapshot=taken)
    assert listed(subnet, counter) == [copied]


@pytest.mark.parametrize(
    "value",
    [
        ("i32", -(1 << 31)),
        ("i64", (1 << 63) - 1),
        ("f32", -1.5),
        ("f64", float("inf")),
        ("f64", 5e-324),
        ("v128", (1 << 100) + 3),
    ],
)
def test_globals_come_back_as_they_went(subnet: Any, counter: bytes, value: tuple[str, Any]) -> None:
    snapshot_id = announce(subnet, counter, globals=[value])
    assert metadata(subnet, counter, snapshot_id)["globals"] == [value]


def test_the_heap_limit_follows_the_installed_module(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    with pytest.raises(Rejected, match="WasmMemoryTooLarge"):
        announce(subnet, canister_id, wasm_memory_size=5 << 30)
    subnet.canister(canister_id).cycles *= 1000
    subnet.install(canister_id, bytes(wasmtime.wat2wasm("(module (memory i64 1))")))
    snapshot_id = announce(subnet, canister_id, wasm_memory_size=5 << 30)
    upload(subnet, canister_id, snapshot_id, "wasm_memory", (5 << 30) - 3, b"end")
    assert read(subnet, canister_id, snapshot_id, "wasm_memory", offset=(5 << 30) - 4, size=4) == b"\0end"


# Limits on writing, and cycles


def test_heap_delta_is_limited_with_two_codes(subnet: Any, counter: bytes) -> None:
    taken = take(subnet, counter)["id"]
    uploaded = announce(subnet, counter)
    options(subnet, heap_delta_limit_bytes=1000)
    subnet.canister(counter).heap_delta_debit = 10_000_000_000_000
    text = principal.to_text(counter)
    for attempt in (
        lambda: take(subnet, counter),
        lambda: load(subnet, counter, taken),
        lambda: announce(subnet, counter),
    ):
        with pytest.raises(Rejected) as caught:
            attempt()
        assert caught.value.error_code == "IC0210"
        assert caught.value.message.startswith(f"Canister {text} is heap delta rate limited: current delta debit is ")
        assert caught.value.message.endswith(", but limit is 1000.")
    for attempt in (
        lambda: upload(subnet, counter, uploaded, "wasm_module", 0, b"x"),
        lambda: subnet.call("upload_chunk", {"canister_id": counter, "chunk": b"x"}),
    ):
        with pytest.raises(Rejected) as caught:
            attempt()
        assert caught.value.error_code == "IC0504"
        assert caught.value.message.startswith(
            "Error from Wasm chunk store: Canister is heap delta rate limited. Current delta debit: "
        )
        assert ", limit: 1000" in caught.value.message
    listed(subnet, counter)
    metadata(subnet, counter, taken)
    subnet.replica.clock.advance(10_000_000_000_000 / (75 << 20) + 1)
    load(subnet, counter, taken)


def test_snapshot_work_counts_as_written_bytes(subnet: Any, counter: bytes) -> None:
    options(subnet, heap_delta_limit_bytes=1 << 40)
    before = subnet.canister(counter).heap_delta_debit
    taken = take(subnet, counter)["id"]
    assert subnet.canister(counter).heap_delta_debit >= before + 3 * PAGE - (75 << 20)
    subnet.canister(counter).heap_delta_debit = 1 << 39
    load(subnet, counter, taken)
    assert subnet.canister(counter).heap_delta_debit > 1 << 38


def test_snapshots_cost_what_they_cost(subnet: Any, counter: bytes) -> None:
    def spent(method: str, argument: dict[str, Any]) -> int:
        canister = subnet.canister(counter)
        before, ingress = canister.cycles_consumed["instructions"], canister.cycles_consumed["ingress_induction"]
        subnet.call(method, {"canister_id": counter, **argument})
        assert canister.cycles_consumed["ingress_induction"] > ingress
        return int(canister.cycles_consumed["instructions"] - before)

    size = len(subnet.counter) + 3 * PAGE
    assert spent("take_canister_snapshot", {}) == 5_000_000 + 2_000_000_000 + size
    snapshot_id = listed(subnet, counter)[0]
    kind = ("wasm_memory", {"offset": 0, "size": 1000})
    assert spent("read_canister_snapshot_data", {"snapshot_id": snapshot_id, "kind": kind}) == 5_000_000 + 1000
    assert spent("load_canister_snapshot", {"snapshot_id": snapshot_id}) >= 5_000_000 + 2_000_000_000 + size
    upload_id = announce(subnet, counter)
    argument = {"snapshot_id": upload_id, "kind": ("wasm_chunk", None), "chunk": b"x"}
    assert spent("upload_canister_snapshot_data", argument) == 5_000_000 + (1 << 20)


def test_a_snapshot_must_be_affordable(subnet: Any, counter: bytes) -> None:
    subnet.canister(counter).cycles = 1_500_000_000
    with pytest.raises(Rejected, match=r"Canister snapshotting failed with: `Canister .* is out of cycles") as caught:
        take(subnet, counter)
    assert caught.value.error_code == "IC0207"
    subnet.canister(counter).cycles = 10_000_000_000
    with pytest.raises(
        Rejected, match=r"Canister cannot grow memory by \d+ bytes due to insufficient cycles"
    ) as caught:
        announce(subnet, counter, stable_memory_size=1 << 30)
    assert caught.value.error_code == "IC0532"
    assert listed(subnet, counter) == []


def test_deleting_frees_the_place(subnet: Any, counter: bytes) -> None:
    taken = take(subnet, counter)
    used = subnet.status(counter)["memory_size"]
    delete(subnet, counter, taken["id"])
    assert subnet.status(counter)["memory_size"] == used - taken["total_size"]
    with pytest.raises(Rejected, match="Could not find"):
        delete(subnet, counter, taken["id"])


def test_reinstalling_and_uninstalling_keep_snapshots(subnet: Any, counter: bytes) -> None:
    taken = take(subnet, counter)["id"]
    subnet.install(counter, subnet.other, mode=("reinstall", None))
    subnet.call("uninstall_code", {"canister_id": counter})
    assert listed(subnet, counter) == [taken]


def test_a_snapshot_the_machine_has_no_room_for_is_refused(subnet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    canister_id = subnet.create()
    subnet.update(canister_id, "inc")

    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(MemoryImage, "copy", fail)
        answer = subnet.try_call("take_canister_snapshot", {"canister_id": canister_id})
    assert (answer.error_code, "no room" in answer.message) == ("IC0507", True)
    assert subnet.call("list_canister_snapshots", {"canister_id": canister_id}) == []
    assert subnet.call("take_canister_snapshot", {"canister_id": canister_id})["id"][-10:] == canister_id
    assert subnet.seen(canister_id).count == 1
