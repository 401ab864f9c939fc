"""The status of canisters as dfx and icp print it: old and new lines, JSON, and what is no status at all."""

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.errors import UnsupportedFormatError
from knowtation_backup.model.canisters import CanisterSettings, CanisterStatus, PublicInfo, RunState
from knowtation_backup.model.ids import Principal
from knowtation_backup.snapshots.status_text import (
    MAX_TEXT_BYTES,
    info_text,
    metric_lines,
    parse_status,
    parse_statuses,
    status_text,
)

HUB, OWNER, OTHER = (Principal(number.to_bytes(8, "big") + b"\x01\x01") for number in (1, 2, 3))
HASH = bytes(range(32))
STATUS = CanisterStatus(
    canister_id=HUB,
    run_state=RunState.RUNNING,
    settings=CanisterSettings(
        controllers=(OTHER, OWNER),
        values={
            "compute_allocation": 1,
            "memory_allocation": 0,
            "freezing_threshold": 2_592_000,
            "reserved_cycles_limit": 5 * 10**12,
            "wasm_memory_limit": 3 << 30,
            "wasm_memory_threshold": 0,
            "log_visibility": (OTHER, OWNER),
            "snapshot_visibility": "public",
            "status_visibility": (),
        },
    ),
    cycles=10**30 + 1,
    reserved_cycles=0,
    memory_size_bytes=2_714_338,
    module_hash=HASH,
    idle_cycles_burned_per_day=27_836_198,
    query_stats={
        "num_calls_total": 1,
        "num_instructions_total": 2,
        "request_payload_bytes_total": 3,
        "response_payload_bytes_total": 4,
    },
    certified=True,
)


def test_what_is_written_is_what_dfx_prints() -> None:
    lines = status_text(STATUS, name="hub").splitlines()
    assert lines[:8] == [
        "Canister status call result for hub.",
        "Status: Running",
        f"Controllers: {OTHER} {OWNER}",  # sorted as text
        "Memory allocation: 0 Bytes",
        "Compute allocation: 1 %",
        "Freezing threshold: 2_592_000 Seconds",
        "Idle cycles burned per day: 27_836_198 Cycles",
        "Memory Size: 2_714_338 Bytes",
    ]
    assert f"Module hash: 0x{HASH.hex()}" in lines
    assert "Balance: 1_000_000_000_000_000_000_000_000_000_001 Cycles" in lines
    assert "Snapshot visibility: public" in lines


def test_what_is_written_reads_back() -> None:
    read = parse_status(status_text(STATUS, name="hub"))
    assert (read.name, read.canister_id) == ("hub", None)
    assert parse_status(status_text(STATUS)).canister_id == HUB
    assert read.run_state is RunState.RUNNING
    assert read.controllers == (OWNER, OTHER)
    assert (read.module_hash, read.has_code) == (HASH, True)
    assert (read.cycles, read.reserved_cycles) == (STATUS.cycles, 0)
    assert read.memory_size_bytes == STATUS.memory_size_bytes
    assert read.idle_cycles_burned_per_day == STATUS.idle_cycles_burned_per_day
    assert read.settings == {**STATUS.settings.values, "log_visibility": (OWNER, OTHER)}
    assert read.query_stats == STATUS.query_stats
    assert not read.public_only


def test_a_canister_without_code_has_no_hash() -> None:
    read = parse_status(status_text(attrs.evolve(STATUS, module_hash=None, run_state=RunState.STOPPED)))
    assert (read.module_hash, read.has_code, read.run_state) == (None, False, RunState.STOPPED)


def test_public_information_is_two_lines() -> None:
    text = info_text(PublicInfo(canister_id=HUB, controllers=(OTHER, OWNER), module_hash=HASH))
    assert text == f"Controllers: {OTHER} {OWNER}\nModule hash: 0x{HASH.hex()}\n"
    read = parse_status(text)
    assert read.public_only
    assert (read.controllers, read.module_hash) == ((OWNER, OTHER), HASH)


def test_lines_of_old_releases_are_read() -> None:
    read = parse_status(
        f"""WARN: dfx is going away: see the notes
Canister status call result for wallet.
Status: Stopping
Controllers: {OWNER}
Memory allocation: 0
Freezing threshold: 2_592_000
Memory Size: Nat(3786242)
Balance: 20_098_596_892_990 Cycles
Reserved Cycles Limit: 5_000_000_000_000 Cycles
WASM Memory Limit: 0 Bytes
Module hash: None
Total query request payload size (bytes): 7
Something new: 12
"""
    )
    assert (read.name, read.run_state, read.has_code) == ("wallet", RunState.STOPPING, False)
    assert (read.cycles, read.memory_size_bytes) == (20_098_596_892_990, 3_786_242)
    assert read.settings == {
        "memory_allocation": 0,
        "freezing_threshold": 2_592_000,
        "reserved_cycles_limit": 5 * 10**12,
        "wasm_memory_limit": 0,
    }
    assert read.query_stats == {"request_payload_bytes_total": 7}


def test_the_oldest_form_is_one_line() -> None:
    read = parse_status("Canister hub's status is Stopped.\n")
    assert (read.name, read.run_state) == ("hub", RunState.STOPPED)


def test_several_statuses_are_told_apart() -> None:
    text = status_text(STATUS, name="a") + status_text(attrs.evolve(STATUS, cycles=5), name="b")
    assert [(item.name, item.cycles) for item in parse_statuses(text)] == [("a", STATUS.cycles), ("b", 5)]
    with pytest.raises(UnsupportedFormatError, match="it holds 2 of them"):
        parse_status(text)


def test_the_lines_of_icp_are_read() -> None:
    read = parse_status(
        f"""Canister Id: {HUB}
Canister Status Report:
  Status: Running
  Controllers:
    controller: {OTHER}
    controller: {OWNER}
  Freezing threshold: 2_592_000
  Log visibility: Allowed viewers
    log viewer: {OWNER}
  Snapshot visibility: Controllers
  Environment Variables:
    Name: A, Value: b: c
  Module hash: 0x{HASH.hex()}
  Memory size: 2_623_286
  Cycles: 99_999_987_254_000
  Query stats:
    Calls: 3
    Req payload bytes: 4
"""
    )
    assert (read.canister_id, read.controllers) == (HUB, (OWNER, OTHER))
    assert read.settings == {
        "freezing_threshold": 2_592_000,
        "log_visibility": (OWNER,),
        "snapshot_visibility": "controllers",
        "environment_variables": {"A": "b: c"},
    }
    assert (read.cycles, read.memory_size_bytes) == (99_999_987_254_000, 2_623_286)
    assert read.query_stats == {"num_calls_total": 3, "request_payload_bytes_total": 4}


JSON = {
    "id": str(HUB),
    "name": "hub",
    "status": "Running",
    "settings": {
        "controllers": [str(OTHER), str(OWNER)],
        "freezing_threshold": "2_592_000",
        "log_visibility": {"type": "AllowedViewers", "value": [str(OWNER)]},
        "status_visibility": {"type": "Public"},
        "environment_variables": [{"name": "A", "value": "b"}],
    },
    "module_hash": "0x" + HASH.hex(),
    "memory_size": "2_623_286",
    "cycles": "99_999_985_312_000",
    "reserved_cycles": "0",
    "idle_cycles_burned_per_day": "26_807_927",
    "query_stats": {"num_calls_total": "1_000"},
}


@pytest.mark.parametrize("indent", [None, 2])
def test_json_of_icp_is_read(indent: int | None) -> None:
    read = parse_status(json.dumps(JSON, indent=indent))
    assert (read.name, read.canister_id, read.run_state) == ("hub", HUB, RunState.RUNNING)
    assert read.settings == {
        "freezing_threshold": 2_592_000,
        "log_visibility": (OWNER,),
        "status_visibility": "public",
        "environment_variables": {"A": "b"},
    }
    assert (read.cycles, read.module_hash) == (99_999_985_312_000, HASH)
    assert read.query_stats == {"num_calls_total": 1000}


def test_json_lines_of_icp_are_read_one_by_one() -> None:
    public = {"id": str(OTHER), "controllers": [str(OWNER)], "module_hash": None}
    first, second = parse_statuses(json.dumps(JSON) + "\n\n" + json.dumps(public) + "\n{broken\n")
    assert not first.public_only
    assert second.public_only
    assert (second.controllers, second.has_code) == ((OWNER,), False)


def test_what_is_stated_twice_and_differently_is_not_believed() -> None:
    forged = "  Environment Variables:\n    Name: A, Value: x\n  Cycles: 1\n  Memory size: 7\n"
    read = parse_status(
        f"Canister Id: {HUB}\n{forged}  Memory size: 7\n  Cycles: 99\n  Cycles: 99\n  Status: Running\n"
    )
    assert read.cycles is None
    assert read.memory_size_bytes == 7


@pytest.mark.parametrize(
    "line",
    [
        "Balance: lots Cycles",
        "Balance: -1 Cycles",
        "Balance: 1.5T",
        "Balance: " + "9" * 5000,
        "Status: Dancing",
        "Controllers: aaaaa-aa not-one",
        "Controllers:",
        "Module hash: 0x12",
        "Log visibility: whoever",
        "Log visibility: allowed viewers: nobody",
        "log viewer: nobody",
    ],
)
def test_a_value_that_makes_no_sense_is_left_out(line: str) -> None:
    assert parse_status(f"{line}\nMemory Size: 5 Bytes") == parse_status("Memory Size: 5 Bytes")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Error: no such canister",
        "{}",
        "{" * 100_000,
        "{broken",
        "[]",
        " " * (MAX_TEXT_BYTES + 1),
        b"\xff\xfe",
        "{\n",
    ],
)
def test_what_is_no_status_is_refused(text: str | bytes) -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        parse_status(text)
    assert caught.value.kind == "not_a_status"


def test_metrics_are_the_lines_of_the_documents() -> None:
    lines = metric_lines(status_text(STATUS, name="hub"))
    assert [line.partition(":")[0] for line in lines] == [
        "Status",
        "Controllers",
        "Memory allocation",
        "Freezing threshold",
        "Memory Size",
        "Balance",
        "Module hash",
        "Status visibility",
    ]


KEYS = st.sampled_from(
    ["Status", "Controllers", "Balance", "Cycles", "Module hash", "Log visibility", "log viewer", "Name"]
)


@settings(deadline=None)
@given(st.one_of(st.text(), st.binary(), st.lists(st.builds("{}: {}".format, KEYS, st.text())).map("\n".join)))
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    try:
        found = parse_statuses(text)
    except UnsupportedFormatError as error:
        found = (error.kind,)  # type: ignore[assignment] # only counted
    assert found
