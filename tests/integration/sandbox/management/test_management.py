"""Creating, changing, installing, starting, stopping and deleting canisters, and who may."""

import hashlib
from typing import Any

import attrs
import pytest
import wasmtime

from knowtation_backup.sandbox import principal
from knowtation_backup.sandbox.messages import Rejected
from knowtation_backup.sandbox.replica.replica import Misaddressed
from knowtation_backup.sandbox.state import CanisterStatus

UNKNOWN = bytes.fromhex("00000000000000ff0101")
INSTALL, REINSTALL, UPGRADE = ("install", None), ("reinstall", None), ("upgrade", None)


def text(canister_id: bytes) -> str:
    return principal.to_text(canister_id)


# Creating


def test_created_canisters_get_numbered_ids_and_their_cycles(subnet: Any) -> None:
    first, second = subnet.create(module=b""), subnet.create(module=b"", amount=5)
    assert first == bytes.fromhex("80000000001000000101")
    assert second == bytes.fromhex("80000000001000010101")
    assert subnet.canister(first).cycles == 100_000_000_000_000
    assert subnet.canister(second).cycles == 5
    assert subnet.status(first)["status"] == ("running", None)
    assert subnet.status(first)["version"] == 0


def test_any_specified_id_is_accepted_once(subnet: Any, alice: bytes) -> None:
    assert subnet.create(module=b"", specified_id=UNKNOWN) == UNKNOWN
    with pytest.raises(Rejected, match="already exists") as caught:
        subnet.create(module=b"", specified_id=UNKNOWN)
    assert caught.value.error_code == "IC0205"
    assert subnet.canister(UNKNOWN).settings.controllers == [alice]


def test_numbering_passes_over_specified_ids(subnet: Any) -> None:
    subnet.create(module=b"", specified_id=bytes.fromhex("80000000001000000101"))
    assert subnet.create(module=b"") == bytes.fromhex("80000000001000010101")


def test_creation_is_in_the_history(subnet: Any, alice: bytes, bob: bytes) -> None:
    settings = {"controllers": [bob, alice], "environment_variables": [{"name": "A", "value": "1"}]}
    canister_id = subnet.create(module=b"", settings=settings)
    info = subnet.query("canister_info", {"canister_id": canister_id, "num_requested_changes": 5})
    digest = hashlib.sha256(hashlib.sha256(b"A").digest() + hashlib.sha256(b"1").digest()).digest()
    assert info["total_num_changes"] == 1
    assert info["controllers"] == [alice, bob]
    (change,) = info["recent_changes"]
    assert change["origin"] == ("from_user", {"user_id": alice})
    assert change["details"] == ("creation", {"controllers": [alice, bob], "environment_variables_hash": digest})
    assert change["canister_version"] == 0


def test_canisters_create_canisters_for_a_fee(subnet: Any) -> None:
    parent = subnet.create()
    before = subnet.canister(parent).cycles
    created = subnet.forward(parent, "create_canister", {"settings": None}, cycles=True)["canister_id"]
    child = subnet.canister(created)
    assert child.settings.controllers == [parent]
    assert child.cycles == 500_000_000_000
    assert child.cycles_consumed == {"canister_creation": 500_000_000_000}
    assert before - subnet.canister(parent).cycles >= 1_000_000_000_000
    origin = child.history[0].origin
    assert origin[0] == "from_canister"
    assert origin[1]["canister_id"] == parent
    with pytest.raises(Rejected, match=r"requires a fee of 500000000000 .* only 0 cycles were received"):
        subnet.forward(parent, "create_canister", {"settings": None})


def test_refused_calls_refund_their_cycles(subnet: Any) -> None:
    canister_id = subnet.create()
    before = subnet.canister(canister_id).cycles
    with pytest.raises(Rejected, match="not found"):
        subnet.forward(canister_id, "deposit_cycles", {"canister_id": UNKNOWN}, cycles=True)
    assert before - subnet.canister(canister_id).cycles < 500_000_000_000


def test_cycles_are_deposited_and_topped_up(subnet: Any, bob: bytes) -> None:
    giver, taker = subnet.create(), subnet.create(module=b"", amount=7)
    subnet.forward(giver, "deposit_cycles", {"canister_id": taker}, cycles=True)
    assert subnet.canister(taker).cycles == 1_000_000_000_007
    subnet.call("provisional_top_up_canister", {"canister_id": taker, "amount": 3}, sender=bob)
    assert subnet.canister(taker).cycles == 1_000_000_000_010


# Access


CONTROLLED = [
    "update_settings",
    "install_code",
    "install_chunked_code",
    "upload_chunk",
    "clear_chunk_store",
    "stored_chunks",
    "uninstall_code",
    "start_canister",
    "stop_canister",
    "delete_canister",
    "canister_status",
    "canister_metrics",
    "take_canister_snapshot",
    "load_canister_snapshot",
    "list_canister_snapshots",
    "delete_canister_snapshot",
    "read_canister_snapshot_metadata",
    "read_canister_snapshot_data",
    "upload_canister_snapshot_metadata",
    "upload_canister_snapshot_data",
]


def argument_for(method: str, canister_id: bytes) -> dict[str, Any]:
    """Return an argument that decodes."""
    return {
        "canister_id": canister_id,
        "target_canister": canister_id,
        "settings": {},
        "mode": INSTALL,
        "wasm_module": b"",
        "arg": b"",
        "chunk_hashes_list": [],
        "wasm_module_hash": b"",
        "chunk": b"",
        "snapshot_id": bytes(8) + canister_id,
        "wasm_module_size": 1,
        "wasm_memory_size": 0,
        "stable_memory_size": 0,
        "globals": [],
        "certified_data": b"",
        "amount": 1,
        "kind": {
            "read_canister_snapshot_data": ("wasm_module", {"offset": 0, "size": 0}),
            "upload_canister_snapshot_data": ("wasm_chunk", None),
        }.get(method),
    }


@pytest.mark.parametrize("method", CONTROLLED)
def test_only_controllers_pass_the_ingress_filter(subnet: Any, bob: bytes, method: str) -> None:
    canister_id = subnet.create()
    before = subnet.canister(canister_id).cycles
    with pytest.raises(Rejected) as caught:
        subnet.try_call(method, argument_for(method, canister_id), sender=bob)
    assert caught.value.error_code == "IC0512"
    assert caught.value.message == f"Only controllers of canister {text(canister_id)} can call ic00 method {method}"
    assert subnet.canister(canister_id).cycles == before


@pytest.mark.parametrize("method", CONTROLLED)
def test_canisters_without_control_are_refused_when_executing(subnet: Any, method: str) -> None:
    caller, target = subnet.create(), subnet.create()
    with pytest.raises(Rejected) as caught:
        subnet.forward(caller, method, argument_for(method, target))
    assert caught.value.message.startswith(
        f"Only the controllers of the canister {text(target)} can control it.\nCanister's controllers: "
    )
    assert caught.value.message.endswith(f"Sender's ID: {text(caller)}")


@pytest.mark.parametrize("method", CONTROLLED)
def test_unknown_canisters_are_refused(subnet: Any, method: str) -> None:
    with pytest.raises(Rejected) as caught:
        subnet.try_call(method, argument_for(method, UNKNOWN))
    assert caught.value.error_code == "IC0301"
    assert caught.value.message == f"Canister {text(UNKNOWN)} not found"


@pytest.mark.parametrize("method", [*CONTROLLED, "provisional_top_up_canister"])
def test_the_url_must_name_the_canister_of_the_argument(subnet: Any, method: str) -> None:
    canister_id = subnet.create()
    with pytest.raises(Misaddressed, match="does not match effective canister id in URL"):
        subnet.try_call(method, argument_for(method, canister_id), effective=UNKNOWN)


def test_the_management_canister_itself_in_the_url_is_tolerated(subnet: Any) -> None:
    canister_id = subnet.create()
    assert subnet.call("canister_status", {"canister_id": canister_id}, effective=b"")["version"] == 1


def test_creating_is_possible_under_any_url(subnet: Any) -> None:
    created = subnet.call("provisional_create_canister_with_cycles", {}, effective=UNKNOWN)
    assert subnet.canister(created["canister_id"]).code is None


@pytest.mark.parametrize("method", CONTROLLED)
def test_undecodable_arguments_are_refused(subnet: Any, method: str) -> None:
    with pytest.raises(Rejected) as caught:
        subnet.try_call(method, b"not candid", effective=UNKNOWN)
    assert caught.value.error_code == "IC0408"
    assert caught.value.message == f"Failed to decode payload for ic00 method: {method}"


@pytest.mark.parametrize(
    "method", ["raw_rand", "canister_info", "canister_metadata", "create_canister", "deposit_cycles", "http_request"]
)
def test_some_methods_are_for_canisters(subnet: Any, method: str) -> None:
    with pytest.raises(Rejected) as caught:
        subnet.try_call(method, b"DIDL\x00\x00")
    assert caught.value.error_code == "IC0406"
    assert caught.value.message == f"Only canisters can call ic00 method {method}"


@pytest.mark.parametrize("method", ["fetch_canister_logs", "list_canisters"])
def test_some_methods_are_queries(subnet: Any, method: str) -> None:
    canister_id = subnet.create()
    with pytest.raises(Rejected) as caught:
        subnet.try_call(method, argument_for(method, canister_id))
    assert caught.value.error_code == "IC0406"
    with pytest.raises(Rejected, match="only accessible in non-replicated mode"):
        subnet.forward(canister_id, method, {"canister_id": canister_id})


def test_unknown_methods_are_refused(subnet: Any) -> None:
    with pytest.raises(Rejected, match="has no method 'shuffle_canister'") as caught:
        subnet.try_call("shuffle_canister", b"DIDL\x00\x00")
    assert caught.value.error_code == "IC0407"


def test_texts_are_cut_at_8_kib(subnet: Any) -> None:
    with pytest.raises(Rejected) as caught:
        subnet.try_call("ä" * 100_000, b"DIDL\x00\x00")
    assert len(caught.value.message.encode()) in (8191, 8192)


@pytest.mark.parametrize("method", ["http_request", "sign_with_ecdsa", "vetkd_derive_key", "bitcoin_get_balance"])
def test_what_the_sandbox_cannot_do_is_rejected(subnet: Any, method: str) -> None:
    canister_id = subnet.create()
    data = bytes([len(method)]) + method.encode() + b"DIDL\x00\x00"
    with pytest.raises(Rejected, match=r"not enabled on this subnet|no keys on this subnet"):
        subnet.update(canister_id, "forward", data)


@pytest.mark.parametrize(
    "method",
    [
        "take_canister_snapshot",
        "load_canister_snapshot",
        "list_canister_snapshots",
        "delete_canister_snapshot",
        "read_canister_snapshot_metadata",
        "read_canister_snapshot_data",
        "upload_canister_snapshot_metadata",
        "upload_canister_snapshot_data",
        "stop_canister",
        "nonsense",
    ],
)
def test_other_methods_are_no_queries(subnet: Any, method: str) -> None:
    canister_id = subnet.create()
    with pytest.raises(Rejected) as caught:
        subnet.query(method, argument_for(method, canister_id) if method != "nonsense" else {})
    assert caught.value.error_code == "IC0536"
    assert caught.value.message == f"Query method {method} not found."


def test_a_canister_controls_its_own_chunk_store_and_sees_its_status(subnet: Any) -> None:
    canister_id = subnet.create()
    subnet.forward(canister_id, "upload_chunk", {"canister_id": canister_id, "chunk": b"abc"})
    assert len(subnet.forward(canister_id, "stored_chunks", {"canister_id": canister_id})) == 1
    assert subnet.forward(canister_id, "canister_status", {"canister_id": canister_id})["status"] == ("running", None)


def test_given_sender_versions_must_be_true(subnet: Any) -> None:
    canister_id = subnet.create()
    argument = {"settings": None, "sender_canister_version": 12345}
    with pytest.raises(Rejected, match="sender canister version 12345"):
        subnet.forward(canister_id, "create_canister", argument, cycles=True)


# Settings


def test_all_settings_can_be_set_and_are_reported(subnet: Any, alice: bytes, bob: bytes) -> None:
    canister_id = subnet.create(module=b"")
    wanted = {
        "controllers": [alice, bob],
        "compute_allocation": 1,
        "memory_allocation": 1 << 30,
        "freezing_threshold": 1000,
        "reserved_cycles_limit": 7,
        "minimum_incoming_canister_call_cycles": 8,
        "log_visibility": ("public", None),
        "snapshot_visibility": ("allowed_viewers", [bob]),
        "status_visibility": ("controllers", None),
        "wasm_memory_limit": 1 << 20,
        "wasm_memory_threshold": 9,
        "environment_variables": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}],
        "log_memory_limit": 8192,
    }
    subnet.set(canister_id, **wanted)
    status = subnet.status(canister_id)
    assert status["settings"] == wanted
    assert status["version"] == 1
    assert subnet.history(canister_id)[-1] == ("controllers_change", {"controllers": [alice, bob]})
    subnet.set(canister_id, freezing_threshold=0)
    assert subnet.status(canister_id)["settings"] == wanted | {"freezing_threshold": 0}
    assert len(subnet.history(canister_id)) == 2


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        (
            {"controllers": [bytes([number]) for number in range(11)]},
            "IC0504",
            "settings: Invalid settings: 'controllers' length exceeds maximum size allowed of 10.",
        ),
        ({"compute_allocation": 101}, "IC0504", r"expected to be in the range of \[0..100\], got 101"),
        ({"memory_allocation": 1 << 48}, "IC0504", "MemoryAllocation expected"),
        ({"freezing_threshold": 1 << 64}, "IC0504", "FreezingThreshold expected"),
        ({"wasm_memory_limit": 1 << 48}, "IC0504", "WasmMemoryLimit expected"),
        (
            {"snapshot_visibility": ("allowed_viewers", [bytes([number]) for number in range(11)])},
            "IC0408",
            "maximum allowed 10",
        ),
        (
            {"environment_variables": [{"name": str(number), "value": ""} for number in range(21)]},
            "IC0408",
            r"Too many environment variables: 21 \(max: 20\)",
        ),
        ({"environment_variables": [{"name": "x" * 129, "value": ""}]}, "IC0408", "allowed length of 128"),
        ({"environment_variables": [{"name": "x", "value": "y" * 129}]}, "IC0408", "allowed length of 128"),
        ({"environment_variables": [{"name": "x", "value": ""}] * 2}, "IC0408", "Duplicate"),
        ({"log_memory_limit": 4095}, "IC0406", "too low. It must be at least 4096"),
        ({"log_memory_limit": (2 << 20) + 1}, "IC0406", "too high. It must be at most 2097152"),
        ({"compute_allocation": 100}, "IC0530", "Cannot increase compute allocation to 100 due to insufficient cycles"),
        ({"memory_allocation": 1 << 47}, "IC0531", "Cannot increase memory allocation"),
    ],
)  # fmt: skip
def test_invalid_settings_change_nothing(subnet: Any, settings: dict[str, Any], code: str, message: str) -> None:
    canister_id = subnet.create(module=b"")
    before = subnet.status(canister_id)
    with pytest.raises(Rejected, match=message) as caught:
        subnet.set(canister_id, **{"log_visibility": ("public", None), **settings})
    assert caught.value.error_code == code
    after = subnet.status(canister_id)
    assert after["settings"] == before["settings"]
    assert after["version"] == before["version"]


def test_the_reserve_cannot_exceed_its_limit(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    subnet.canister(canister_id).reserved_cycles = 100
    with pytest.raises(Rejected, match="below the reserved cycles balance") as caught:
        subnet.set(canister_id, reserved_cycles_limit=99)
    assert caught.value.error_code == "IC0540"


# Code


def test_code_is_installed_upgraded_and_reinstalled(subnet: Any) -> None:
    canister_id = subnet.create()
    digest = hashlib.sha256(subnet.counter).digest()
    subnet.update(canister_id, "inc")
    with pytest.raises(Rejected, match="Try installing with mode='reinstall'") as caught:
        subnet.install(canister_id, subnet.counter)
    assert caught.value.error_code == "IC0514"
    subnet.install(canister_id, subnet.counter, mode=UPGRADE)
    assert subnet.seen(canister_id).stable == 1
    assert subnet.seen(canister_id).count == 0
    subnet.install(canister_id, subnet.counter, mode=REINSTALL)
    assert subnet.seen(canister_id).stable == 0
    assert subnet.history(canister_id)[1:] == [
        ("code_deployment", {"mode": (mode, None), "module_hash": digest})
        for mode in ("install", "upgrade", "reinstall")
    ]
    status = subnet.status(canister_id)
    assert status["module_hash"] == digest
    assert status["version"] == 4
    assert status["memory_metrics"]["wasm_binary_size"] == len(subnet.counter)


def test_an_empty_canister_cannot_be_upgraded(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    with pytest.raises(Rejected, match="contains no Wasm module") as caught:
        subnet.install(canister_id, subnet.counter, mode=UPGRADE)
    assert caught.value.error_code == "IC0537"


def test_upgrade_options_reach_the_engine(subnet: Any) -> None:
    canister_id = subnet.create()
    options = {"skip_pre_upgrade": True, "wasm_memory_persistence": ("keep", None)}
    with pytest.raises(Rejected) as caught:  # not a module with enhanced orthogonal persistence
        subnet.install(canister_id, subnet.counter, mode=("upgrade", options))
    assert caught.value.error_code == "IC0504"
    assert "upgrade option" in caught.value.message


def test_invalid_modules_are_refused(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    with pytest.raises(
        Rejected, match=f"Error from Canister {text(canister_id)}: Canister's Wasm module is not valid"
    ) as caught:
        subnet.install(canister_id, b"not wasm")
    assert caught.value.error_code == "IC0505"
    assert subnet.canister(canister_id).code is None
    assert len(subnet.history(canister_id)) == 1


def chunked(subnet: Any, canister_id: bytes, **changes: Any) -> dict[str, Any]:
    middle = len(subnet.counter) // 2
    hashes = []
    for chunk in (subnet.counter[:middle], subnet.counter[middle:]):
        uploaded = subnet.call("upload_chunk", {"canister_id": canister_id, "chunk": chunk})
        assert uploaded == {"hash": hashlib.sha256(chunk).digest()}
        hashes.append(uploaded)
    return {
        "mode": INSTALL,
        "target_canister": canister_id,
        "store_canister": None,
        "chunk_hashes_list": hashes,
        "wasm_module_hash": hashlib.sha256(subnet.counter).digest(),
        "arg": b"",
        **changes,
    }


def test_code_is_installed_from_chunks(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    argument = chunked(subnet, canister_id)
    stored = subnet.call("stored_chunks", {"canister_id": canister_id})
    assert sorted(item["hash"] for item in stored) == sorted(item["hash"] for item in argument["chunk_hashes_list"])
    subnet.call("install_chunked_code", argument)
    assert subnet.seen(canister_id).count == 0
    assert subnet.status(canister_id)["memory_metrics"]["wasm_chunk_store_size"] == 2 << 20
    subnet.call("clear_chunk_store", {"canister_id": canister_id})
    assert subnet.call("stored_chunks", {"canister_id": canister_id}) == []


def test_chunks_may_lie_in_another_controlled_canister(subnet: Any, bob: bytes) -> None:
    store, target = subnet.create(module=b""), subnet.create(module=b"")
    argument = chunked(subnet, store, target_canister=target, store_canister=store)
    subnet.call("install_chunked_code", argument)
    assert subnet.seen(target).count == 0
    foreign = subnet.create(module=b"", sender=bob)
    with pytest.raises(Rejected) as caught:
        subnet.call("install_chunked_code", argument | {"target_canister": foreign}, sender=bob)
    assert caught.value.error_code == "IC0512"


def test_wrong_chunks_are_refused(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    argument = chunked(subnet, canister_id)
    with pytest.raises(Rejected, match="Error from Wasm chunk store: Wasm module hash") as caught:
        subnet.call("install_chunked_code", argument | {"wasm_module_hash": bytes(32)})
    assert caught.value.error_code == "IC0504"
    with pytest.raises(Rejected, match=f"Error from Wasm chunk store: Chunk hash {'00' * 32} was not found"):
        subnet.call("install_chunked_code", argument | {"chunk_hashes_list": [{"hash": bytes(32)}]})


def test_chunk_stores_have_limits(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    with pytest.raises(Rejected, match="Wasm chunk size 1048577 exceeds the maximum chunk size of 1048576") as caught:
        subnet.call("upload_chunk", {"canister_id": canister_id, "chunk": bytes((1 << 20) + 1)})
    assert caught.value.error_code == "IC0504"
    for number in range(100):
        subnet.call("upload_chunk", {"canister_id": canister_id, "chunk": bytes([number])})
    subnet.call("upload_chunk", {"canister_id": canister_id, "chunk": b"\x00"})  # there already
    with pytest.raises(Rejected, match="already reached maximum capacity of 104857600 bytes"):
        subnet.call("upload_chunk", {"canister_id": canister_id, "chunk": b"more"})


def test_uninstalling_leaves_an_empty_canister_with_its_snapshots(subnet: Any) -> None:
    canister_id = subnet.create()
    subnet.update(canister_id, "certify", b"root")
    subnet.call("upload_chunk", {"canister_id": canister_id, "chunk": b"abc"})
    subnet.call("take_canister_snapshot", {"canister_id": canister_id})
    version = subnet.status(canister_id)["version"]
    subnet.call("uninstall_code", {"canister_id": canister_id})
    status = subnet.status(canister_id)
    assert status["module_hash"] is None
    assert status["version"] == version + 1
    assert status["memory_metrics"]["wasm_chunk_store_size"] == 0
    assert subnet.canister(canister_id).certified_data == b""
    assert len(subnet.call("list_canister_snapshots", {"canister_id": canister_id})) == 1
    assert subnet.history(canister_id)[-1] == ("code_uninstall", None)


# Running


def test_stopping_and_starting_raise_the_version(subnet: Any) -> None:
    canister_id = subnet.create()
    subnet.call("stop_canister", {"canister_id": canister_id})
    status = subnet.status(canister_id)
    assert status["status"] == ("stopped", None)
    assert status["ready_for_migration"] is True
    assert status["version"] == 3
    with pytest.raises(Rejected) as caught:
        subnet.update(canister_id, "inc")
    assert caught.value.error_code == "IC0508"
    subnet.call("stop_canister", {"canister_id": canister_id})  # nothing more to do
    assert subnet.status(canister_id)["version"] == 3
    subnet.call("start_canister", {"canister_id": canister_id})
    assert subnet.status(canister_id)["version"] == 4
    subnet.update(canister_id, "inc")


@attrs.frozen
class Hanging:
    """A canister with an open call context: it waits for another one to stop, which waits for itself."""

    canister_id: bytes
    call_id: bytes


@pytest.fixture
def hanging(subnet: Any, alice: bytes) -> Hanging:
    canister_id = subnet.create()
    subnet.set(canister_id, controllers=[alice, canister_id])
    method = b"stop_canister"
    arg = bytes([len(method)]) + method + subnet.encode("stop_canister", {"canister_id": canister_id})
    call = subnet.message(canister_id, "forward", arg)
    assert subnet.replica.call(call).answer is None
    return Hanging(canister_id, call.request_id)


def test_stopping_waits_for_open_calls_and_starting_cancels_it(subnet: Any, hanging: Hanging) -> None:
    stop = subnet.new_call("stop_canister", {"canister_id": hanging.canister_id})
    assert subnet.replica.call(stop).answer is None
    assert subnet.status(hanging.canister_id)["status"] == ("stopping", None)
    with pytest.raises(Rejected) as caught:
        subnet.update(hanging.canister_id, "inc")
    assert caught.value.error_code == "IC0509"
    subnet.call("start_canister", {"canister_id": hanging.canister_id})
    answer = subnet.replica.request_status(stop.request_id).answer
    assert isinstance(answer, Rejected)
    assert answer.error_code == "IC0511"
    assert answer.message == f"Canister {text(hanging.canister_id)}'s stop request was cancelled."
    subnet.replica.tick()
    inner = subnet.replica.request_status(hanging.call_id).answer
    assert isinstance(inner, Rejected)
    assert "stop request was cancelled" in inner.message


def test_stopping_times_out_and_the_canister_stays_stopping(subnet: Any, hanging: Hanging) -> None:
    stop = subnet.new_call("stop_canister", {"canister_id": hanging.canister_id})
    assert subnet.replica.call(stop).answer is None
    subnet.replica.clock.advance(200)
    subnet.replica.tick()
    assert subnet.replica.request_status(stop.request_id).answer is None
    subnet.canister(hanging.canister_id).status = CanisterStatus.STOPPING
    subnet.replica.clock.advance(101)
    subnet.replica.tick()
    answer = subnet.replica.request_status(stop.request_id).answer
    assert isinstance(answer, Rejected)
    assert answer.error_code == "IC0206"


def test_a_stop_is_answered_when_the_last_call_ends(subnet: Any, alice: bytes) -> None:
    waiting, other = subnet.create(), subnet.create()
    subnet.set(other, controllers=[alice, waiting, other])
    method = b"stop_canister"
    # "other" waits for its own stop; "waiting" waits for the same.
    for canister_id in (other, waiting):
        arg = bytes([len(method)]) + method + subnet.encode("stop_canister", {"canister_id": other})
        assert subnet.replica.call(subnet.message(canister_id, "forward", arg)).answer is None
    stop = subnet.new_call("stop_canister", {"canister_id": waiting})
    assert subnet.replica.call(stop).answer is None
    subnet.call("start_canister", {"canister_id": other})
    subnet.replica.tick()
    assert not isinstance(subnet.replica.request_status(stop.request_id).answer, Rejected | None)
    assert subnet.status(waiting)["status"] == ("stopped", None)


def test_uninstalling_answers_open_calls(subnet: Any, hanging: Hanging) -> None:
    subnet.call("uninstall_code", {"canister_id": hanging.canister_id})
    answer = subnet.replica.request_status(hanging.call_id).answer
    assert isinstance(answer, Rejected)
    assert answer.message == "Canister has been uninstalled."


def test_deleting_needs_a_stopped_canister(subnet: Any, alice: bytes) -> None:
    canister_id = subnet.create()
    with pytest.raises(Rejected, match="must be stopped before it is deleted") as caught:
        subnet.call("delete_canister", {"canister_id": canister_id})
    assert caught.value.error_code == "IC0510"
    subnet.set(canister_id, controllers=[alice, canister_id])
    with pytest.raises(Rejected, match="cannot delete itself"):
        subnet.forward(canister_id, "delete_canister", {"canister_id": canister_id})
    taken = subnet.call("take_canister_snapshot", {"canister_id": canister_id})
    subnet.call("stop_canister", {"canister_id": canister_id})
    subnet.call("delete_canister", {"canister_id": canister_id})
    assert canister_id not in subnet.replica.canisters
    with pytest.raises(Rejected, match="not found"):
        subnet.status(canister_id)
    other = subnet.create()
    with pytest.raises(Rejected) as caught:
        subnet.call("load_canister_snapshot", {"canister_id": other, "snapshot_id": taken["id"]})
    assert caught.value.error_code == "IC0305"


# Looking


def test_status_visibility_admits_viewers(subnet: Any, bob: bytes) -> None:
    canister_id = subnet.create()
    subnet.set(canister_id, status_visibility=("allowed_viewers", [bob]))
    assert subnet.status(canister_id, sender=bob)["status"] == ("running", None)
    assert subnet.query("canister_status", {"canister_id": canister_id}, sender=bob)["version"] == 2
    with pytest.raises(Rejected, match="Only controllers"):
        subnet.status(canister_id, sender=b"\x04")
    subnet.set(canister_id, status_visibility=("public", None))
    assert subnet.status(canister_id, sender=b"\x04")["status"] == ("running", None)


def test_status_memory_adds_up(subnet: Any) -> None:
    canister_id = subnet.create()
    taken = subnet.call("take_canister_snapshot", {"canister_id": canister_id})
    status = subnet.status(canister_id)
    assert status["memory_size"] == sum(status["memory_metrics"].values())
    assert status["memory_metrics"]["snapshots_size"] == taken["total_size"]
    assert status["memory_metrics"]["wasm_memory_size"] == 131_072
    assert status["idle_cycles_burned_per_day"] == status["memory_size"] * 127_000 * 86_400 >> 30


def test_logs_are_for_those_the_setting_admits(subnet: Any, bob: bytes) -> None:
    canister_id = subnet.create()
    for number in range(3):
        subnet.update(canister_id, "print", f"line {number}".encode())
    records = subnet.query("fetch_canister_logs", {"canister_id": canister_id})["canister_log_records"]
    assert [record["content"] for record in records] == [b"line 0", b"line 1", b"line 2"]
    assert [record["idx"] for record in records] == [0, 1, 2]
    filtered = {"canister_id": canister_id, "filter": ("by_idx", {"start": 1, "end": 2})}
    (record,) = subnet.query("fetch_canister_logs", filtered)["canister_log_records"]
    assert record == records[1]
    since = {"start": records[1]["timestamp_nanos"], "end": (1 << 64) - 1}
    filtered = {"canister_id": canister_id, "filter": ("by_timestamp_nanos", since)}
    assert subnet.query("fetch_canister_logs", filtered)["canister_log_records"] == records[1:]
    with pytest.raises(Rejected) as caught:
        subnet.query("fetch_canister_logs", {"canister_id": canister_id}, sender=bob)
    assert caught.value.error_code == "IC0406"
    assert caught.value.message == f"Caller {text(bob)} is not allowed to query ic00 method fetch_canister_logs"
    subnet.set(canister_id, log_visibility=("public", None))
    assert subnet.query("fetch_canister_logs", {"canister_id": canister_id}, sender=bob)["canister_log_records"]


def test_metrics_say_what_cycles_were_spent_on(subnet: Any) -> None:
    canister_id = subnet.create()
    spent = subnet.query("canister_metrics", {"canister_id": canister_id})["cycles_consumed"]
    assert sum(spent.values()) == 100_000_000_000_000 - subnet.canister(canister_id).cycles
    assert spent["instructions"] > 0
    assert spent["ingress_induction"] > 0
    assert subnet.call("canister_metrics", {"canister_id": canister_id})["cycles_consumed"]["instructions"] > 0


def test_history_keeps_the_last_twenty_changes(subnet: Any, alice: bytes) -> None:
    canister_id = subnet.create(module=b"")
    for _ in range(25):
        subnet.set(canister_id, controllers=[alice])
    info = subnet.query("canister_info", {"canister_id": canister_id, "num_requested_changes": 100})
    assert info["total_num_changes"] == 26
    assert [change["canister_version"] for change in info["recent_changes"]] == list(range(6, 26))
    short = subnet.query("canister_info", {"canister_id": canister_id, "num_requested_changes": 2})
    assert short["recent_changes"] == info["recent_changes"][-2:]
    assert subnet.query("canister_info", {"canister_id": canister_id})["recent_changes"] == []


def test_canisters_ask_for_information_and_random_bytes(subnet: Any) -> None:
    caller = subnet.create()
    info = subnet.forward(caller, "canister_info", {"canister_id": caller, "num_requested_changes": 1})
    assert info["module_hash"] == hashlib.sha256(subnet.counter).digest()
    first, second = subnet.forward(caller, "raw_rand"), subnet.forward(caller, "raw_rand")
    assert len(first) == len(second) == 32
    assert first != second
    assert subnet.forward(caller, "subnet_info", {"subnet_id": b"subnet"})["registry_version"] == 1
    with pytest.raises(Rejected, match="not found"):
        subnet.forward(caller, "subnet_info", {"subnet_id": b"other"})
    with pytest.raises(Rejected, match="no metadata section with the name x"):
        subnet.forward(caller, "canister_metadata", {"canister_id": caller, "name": "x"})
    empty = subnet.create(module=b"")
    with pytest.raises(Rejected, match="has no Wasm module"):
        subnet.forward(caller, "canister_metadata", {"canister_id": empty, "name": "x"})


def test_canisters_are_listed_in_ranges(subnet: Any) -> None:
    first, second = subnet.create(module=b""), subnet.create(module=b"")
    subnet.create(module=b"", specified_id=UNKNOWN)
    assert subnet.query("list_canisters")["canisters"] == [
        {"start": UNKNOWN, "end": UNKNOWN},
        {"start": first, "end": second},
    ]


# Cycles


def test_ingress_is_paid_by_the_canister_it_is_about(subnet: Any) -> None:
    canister_id = subnet.create(module=b"")
    before = subnet.canister(canister_id).cycles
    call = subnet.new_call("canister_status", {"canister_id": canister_id})
    subnet.replica.call(call)
    assert before - subnet.canister(canister_id).cycles == 1_200_000 + 2_000 * call.size_bytes


def test_frozen_canisters_can_only_be_helped(subnet: Any) -> None:
    canister_id = subnet.create()
    subnet.canister(canister_id).cycles = 1000
    for method in ("canister_status", "take_canister_snapshot", "stop_canister"):
        with pytest.raises(Rejected, match="is out of cycles: please top up the canister with at least") as caught:
            subnet.try_call(method, argument_for(method, canister_id))
        assert caught.value.error_code == "IC0207"
    subnet.set(canister_id, freezing_threshold=0)
    assert subnet.canister(canister_id).cycles == 1000
    subnet.call("provisional_top_up_canister", {"canister_id": canister_id, "amount": 10**12})
    assert subnet.status(canister_id)["cycles"] > 9 * 10**11


def test_installing_is_paid_for(subnet: Any) -> None:
    canister_id = subnet.create(module=b"", amount=10**10)
    before = subnet.canister(canister_id).cycles
    subnet.install(canister_id, subnet.counter)
    spent = subnet.canister(canister_id).cycles_consumed["instructions"]
    assert spent > 5_000_000
    assert (
        spent + subnet.canister(canister_id).cycles_consumed["ingress_induction"]
        == before - subnet.canister(canister_id).cycles
    )
    poor = subnet.create(module=b"", amount=10**10)
    subnet.canister(poor).cycles = 8_000_000
    with pytest.raises(Rejected, match="out of cycles"):
        subnet.install(poor, subnet.counter)


def test_a_canister_that_cannot_pay_loses_code_and_snapshots(subnet: Any) -> None:
    canister_id = subnet.create()
    subnet.set(canister_id, compute_allocation=1)
    subnet.call("take_canister_snapshot", {"canister_id": canister_id})
    subnet.canister(canister_id).cycles = 10**9
    subnet.replica.clock.advance(50)
    subnet.replica.tick()
    assert subnet.canister(canister_id).code is not None
    subnet.replica.clock.advance(86_400)
    subnet.replica.tick()
    canister = subnet.canister(canister_id)
    assert canister.code is None
    assert canister.snapshots == {}
    assert canister.cycles == 0
    assert canister.settings.compute_allocation == 0


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ('(module (memory 1) (data (i32.const 70000) "x"))', "IC0505"),
        ("(module (table 1 funcref) (func $f) (elem (i32.const 5) $f))", "IC0505"),
        ("(module (memory 1) (table 4000000000 funcref))", "IC0507"),
    ],
)
def test_modules_that_cannot_start_are_refused(subnet: Any, module: str, code: str) -> None:
    canister_id = subnet.create()
    for mode in (("reinstall", None), ("upgrade", None)):
        with pytest.raises(Rejected) as caught:
            subnet.install(canister_id, bytes(wasmtime.wat2wasm(module)), mode=mode)
        assert caught.value.error_code == code
    subnet.update(canister_id, "inc")
    assert subnet.seen(canister_id).count == 1
