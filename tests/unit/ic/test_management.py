"""The management canister without a network: what is asked, and how replies of older and newer networks are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ic import candid as ic_py
from icp_candid import candid as icp_py_core  # type: ignore[import-untyped]  # it brings no types

from knowtation_backup.errors import CertificateError, ConfigurationError, RejectedError, SourceError
from knowtation_backup.ic import management_types as types
from knowtation_backup.ic.candid_values import label
from knowtation_backup.ic.cbor import encode as encode_cbor
from knowtation_backup.ic.hash_tree import Absent, Found, Unknown
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.ic.wire import buffers_of
from knowtation_backup.model.canisters import (
    GlobalKind,
    GlobalValue,
    LogRecord,
    RunState,
    SectionName,
    Slice,
    SnapshotMetadata,
    StoredChunk,
)
from knowtation_backup.model.ids import ANONYMOUS, MANAGEMENT_CANISTER, Principal, SnapshotId
from knowtation_backup.sandbox import candid
from knowtation_backup.sandbox.management.types import METHODS

CANISTER = Principal.parse("bkyz2-fmaaa-aaaaa-qaaaq-cai")
SNAPSHOT = SnapshotId(bytes(8) + CANISTER.raw)
OTHER_SNAPSHOT = SnapshotId(b"\x01" * 18)
NOTHING = b"DIDL\x00\x00"
FROM_J = "4449444c016c01b3c4b1f204680100010a00000000000000010101"
"""Reference, J: ``{canister_id}`` for ``rrkah-…``."""


@attrs.frozen
class Asked:
    """One request as the agent got it."""

    kind: str
    canister_id: Principal
    method: str
    arg: bytes
    options: dict[str, Any]

    def fields(self) -> dict[str, Any]:
        """Return the argument as the network reads it."""
        value: dict[str, Any]
        (value,) = candid.decode(self.arg, [METHODS[self.method].argument or candid.NULL])
        return value


@attrs.frozen
class FakeReply:
    reply: memoryview


@attrs.define
class FakeAgent:
    """Answers everything with one reply."""

    reply: bytes = NOTHING
    leaves: dict[bytes, Any] = attrs.field(factory=dict)
    error: Exception | None = None
    asked: list[Asked] = attrs.field(factory=list)

    def call(self, canister_id: Principal, method: str, arg: Any, **options: Any) -> FakeReply:
        return FakeReply(memoryview(self._answer("call", canister_id, method, arg, options)))

    def query(self, canister_id: Principal, method: str, arg: Any, **options: Any) -> bytes:
        return self._answer("query", canister_id, method, arg, options)

    def read_state(self, canister_id: Principal, paths: Sequence[Sequence[bytes]], **options: Any) -> FakeAgent:
        self.asked.append(Asked("read_state", canister_id, "", repr(paths).encode(), options))
        return self

    def lookup(self, *path: bytes) -> Any:
        return self.leaves[path[-1]]

    def _answer(self, kind: str, canister_id: Principal, method: str, arg: Any, options: dict[str, Any]) -> bytes:
        self.asked.append(Asked(kind, canister_id, method, b"".join(buffers_of(arg)), options))
        if self.error is not None:
            raise self.error
        return self.reply


def management(agent: FakeAgent) -> ManagementCanister:
    return ManagementCanister(agent)  # type: ignore[arg-type]  # of the agent's shape


def reply_of(method: str, value: Any, *, without: Sequence[str] = ()) -> bytes:
    """Return a reply as the network gives it, or as an older one did that left fields out."""
    (kind,) = METHODS[method].results
    if isinstance(kind, candid.Record):
        kind = candid.Record(tuple(each for each in kind.fields if each.key not in without))
    return candid.encode([kind], [value])


SNAPSHOT_VALUE = {"id": SNAPSHOT.raw, "taken_at_timestamp": 1_800_000_000_123_456_789, "total_size": 7}
METADATA = SnapshotMetadata(
    wasm_module_size=11,
    wasm_memory_size=65_536,
    stable_memory_size=131_072,
    globals=(
        GlobalValue(GlobalKind.I32, 0xFFFFFFFF),
        GlobalValue(GlobalKind.I64, (1 << 64) - 7),
        GlobalValue(GlobalKind.F32, 0x3FC00000),
        GlobalValue(GlobalKind.F64, 0x7FF0000000000000),
        GlobalValue(GlobalKind.V128, (1 << 128) - 1),
    ),
    wasm_chunk_store=(hashlib.sha256(b"x").digest(),),
    certified_data=b"certified",
    taken_at_ns=1_800_000_000_123_456_789,
    canister_version=12,
    source="taken_from_canister",
    global_timer=1_900_000_000_000_000_000,
    on_low_wasm_memory_hook_status="ready",
)
METADATA_VALUE = {
    "source": ("taken_from_canister", None),
    "taken_at_timestamp": METADATA.taken_at_ns,
    "wasm_module_size": 11,
    "globals": [("i32", -1), ("i64", -7), ("f32", 1.5), ("f64", float("inf")), ("v128", (1 << 128) - 1)],
    "wasm_memory_size": 65_536,
    "stable_memory_size": 131_072,
    "wasm_chunk_store": [{"hash": METADATA.wasm_chunk_store[0]}],
    "canister_version": 12,
    "certified_data": b"certified",
    "global_timer": ("active", METADATA.global_timer),
    "on_low_wasm_memory_hook_status": ("ready", None),
}
STATUS_VALUE = {
    "status": ("stopping", None),
    "ready_for_migration": False,
    "version": 5,
    "settings": {
        "controllers": [ANONYMOUS.raw, CANISTER.raw],
        "compute_allocation": 1,
        "memory_allocation": 2,
        "freezing_threshold": 3,
        "reserved_cycles_limit": 1 << 100,
        "minimum_incoming_canister_call_cycles": 0,
        "log_visibility": ("public", None),
        "snapshot_visibility": ("allowed_viewers", [ANONYMOUS.raw]),
        "status_visibility": ("controllers", None),
        "wasm_memory_limit": 6,
        "wasm_memory_threshold": 7,
        "environment_variables": [{"name": "A", "value": "b"}],
        "log_memory_limit": 4096,
    },
    "module_hash": b"h" * 32,
    "memory_size": 10,
    "memory_metrics": {
        name: number
        for number, name in enumerate(
            (
                *("wasm_memory_size", "stable_memory_size", "global_memory_size", "wasm_binary_size"),
                *("custom_sections_size", "canister_history_size", "wasm_chunk_store_size", "snapshots_size"),
                "log_memory_store_size",
            )
        )
    },
    "cycles": (1 << 127) + 1,
    "reserved_cycles": 8,
    "idle_cycles_burned_per_day": 9,
    "query_stats": {
        "num_calls_total": 1,
        "num_instructions_total": 2,
        "request_payload_bytes_total": 3,
        "response_payload_bytes_total": 4,
    },
}
PART = Slice(SectionName.STABLE_MEMORY, 4, 3)
Method = Callable[[ManagementCanister], object]
METHODS_ASKED: dict[str, tuple[str, bool, bytes, Method]] = {
    "take_canister_snapshot": (
        "call",
        False,
        reply_of("take_canister_snapshot", SNAPSHOT_VALUE),
        lambda it: it.take_snapshot(CANISTER),
    ),
    "load_canister_snapshot": ("call", False, NOTHING, lambda it: it.load_snapshot(CANISTER, SNAPSHOT)),
    "list_canister_snapshots": (
        "call",
        True,
        reply_of("list_canister_snapshots", [SNAPSHOT_VALUE]),
        lambda it: it.list_snapshots(CANISTER),
    ),
    "delete_canister_snapshot": ("call", False, NOTHING, lambda it: it.delete_snapshot(CANISTER, SNAPSHOT)),
    "read_canister_snapshot_metadata": (
        "call",
        True,
        reply_of("read_canister_snapshot_metadata", METADATA_VALUE),
        lambda it: it.read_snapshot_metadata(CANISTER, SNAPSHOT),
    ),
    "read_canister_snapshot_data": (
        "call",
        True,
        reply_of("read_canister_snapshot_data", {"chunk": b"abc"}),
        lambda it: it.read_snapshot_data(CANISTER, SNAPSHOT, PART),
    ),
    "upload_canister_snapshot_metadata": (
        "call",
        False,
        reply_of("upload_canister_snapshot_metadata", {"snapshot_id": SNAPSHOT.raw}),
        lambda it: it.upload_snapshot_metadata(CANISTER, METADATA),
    ),
    "upload_canister_snapshot_data": (
        "call",
        True,
        NOTHING,
        lambda it: it.upload_snapshot_data(CANISTER, SNAPSHOT, PART, b"abc"),
    ),
    "canister_status": (
        "query",
        False,
        reply_of("canister_status", STATUS_VALUE),
        lambda it: it.canister_status(CANISTER),
    ),
    "start_canister": ("call", True, NOTHING, lambda it: it.start(CANISTER)),
    "stop_canister": ("call", False, NOTHING, lambda it: it.stop(CANISTER)),
    "update_settings": ("call", False, NOTHING, lambda it: it.update_settings(CANISTER, controllers=[ANONYMOUS])),
    "fetch_canister_logs": (
        "query",
        False,
        reply_of("fetch_canister_logs", {"canister_log_records": []}),
        lambda it: it.fetch_logs(CANISTER),
    ),
}


@pytest.mark.parametrize(("method", "case"), METHODS_ASKED.items(), ids=list(METHODS_ASKED))
def test_each_method_asks_the_network_about_the_canister(method: str, case: tuple[str, bool, bytes, Method]) -> None:
    kind, repeatable, reply, ask = case
    agent = FakeAgent(reply)
    ask(management(agent))
    (asked,) = agent.asked
    assert (asked.kind, asked.canister_id, asked.method) == (kind, MANAGEMENT_CANISTER, method)
    assert asked.options["effective_canister_id"] == CANISTER
    assert asked.options.get("repeatable", False) is repeatable
    assert asked.fields()["canister_id"] == CANISTER.raw
    for library in (ic_py, icp_py_core):
        value = library.decode(asked.arg)[0]["value"]
        found = {str(name).strip("_"): each for name, each in value.items()}
        assert found[str(label("canister_id"))].bytes == CANISTER.raw


def test_options_reach_the_agent() -> None:
    agent = FakeAgent()
    management(agent).start(CANISTER, deadline_seconds=5.0, cancellation=None, on_retry=None)
    assert agent.asked[0].options["deadline_seconds"] == 5.0
    assert {"cancellation", "on_retry"} <= agent.asked[0].options.keys()


def test_the_argument_of_a_canister_is_that_of_the_reference() -> None:
    assert types.canister_arg(Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")).hex() == FROM_J


# --- arguments ------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_taken_in_place_of_another() -> None:
    agent = FakeAgent(reply_of("take_canister_snapshot", SNAPSHOT_VALUE))
    taken = management(agent).take_snapshot(CANISTER, replace=OTHER_SNAPSHOT, uninstall_code=True)
    assert (taken.snapshot_id, taken.taken_at_ns, taken.size_bytes) == (SNAPSHOT, 1_800_000_000_123_456_789, 7)
    assert agent.asked[0].fields() == {
        "canister_id": CANISTER.raw,
        "replace_snapshot": OTHER_SNAPSHOT.raw,
        "uninstall_code": True,
        "sender_canister_version": None,
    }


def test_the_metadata_that_was_read_is_what_an_upload_announces() -> None:
    agent = FakeAgent(reply_of("upload_canister_snapshot_metadata", {"snapshot_id": OTHER_SNAPSHOT.raw}))
    assert management(agent).upload_snapshot_metadata(CANISTER, METADATA, replace=SNAPSHOT) == OTHER_SNAPSHOT
    fields = agent.asked[0].fields()
    assert fields.pop("canister_id") == CANISTER.raw
    assert fields.pop("replace_snapshot") == SNAPSHOT.raw
    assert fields == {name: METADATA_VALUE[name] for name in fields}
    assert METADATA_VALUE.keys() - fields.keys() == {
        *("source", "taken_at_timestamp", "canister_version", "wasm_chunk_store")
    }


@pytest.mark.parametrize(
    ("timer", "written"), [(None, None), ("inactive", ("inactive", None)), (0, ("active", 0))], ids=str
)
def test_a_timer_is_announced_as_it_was(timer: int | str | None, written: object) -> None:
    agent = FakeAgent(reply_of("upload_canister_snapshot_metadata", {"snapshot_id": SNAPSHOT.raw}))
    metadata = attrs.evolve(METADATA, global_timer=timer, on_low_wasm_memory_hook_status=None)
    management(agent).upload_snapshot_metadata(CANISTER, metadata)
    fields = agent.asked[0].fields()
    assert fields["global_timer"] == written
    assert fields["on_low_wasm_memory_hook_status"] is None
    assert fields["replace_snapshot"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"globals": (None,)},
        {"globals": (GlobalValue(GlobalKind.I32, 1 << 32),)},
        {"globals": (GlobalValue(GlobalKind.V128, -1),)},
        {"global_timer": "soon"},
        {"global_timer": 1 << 64},
        {"on_low_wasm_memory_hook_status": "perhaps"},
        {"stable_memory_size": -1},
        {"wasm_module_size": 1 << 64},
    ],
    ids=str,
)
def test_metadata_that_cannot_be_said_is_not_sent(changes: dict[str, Any]) -> None:
    agent = FakeAgent()
    with pytest.raises(ConfigurationError) as refused:
        management(agent).upload_snapshot_metadata(CANISTER, attrs.evolve(METADATA, **changes))
    assert refused.value.kind == "unknown_metadata"
    assert not agent.asked


def test_settings_that_are_not_given_are_not_sent() -> None:
    agent = FakeAgent()
    values: dict[str, Any] = {
        "freezing_threshold": 0,
        "log_visibility": "public",
        "snapshot_visibility": (ANONYMOUS,),
        "status_visibility": "controllers",
        "environment_variables": {"A": "b"},
    }
    management(agent).update_settings(CANISTER, values=values)
    settings = agent.asked[0].fields()["settings"]
    assert {name: value for name, value in settings.items() if value is not None} == {
        "freezing_threshold": 0,
        "log_visibility": ("public", None),
        "snapshot_visibility": ("allowed_viewers", [ANONYMOUS.raw]),
        "status_visibility": ("controllers", None),
        "environment_variables": [{"name": "A", "value": "b"}],
    }


def test_what_the_status_says_can_be_set_again() -> None:
    agent = FakeAgent(reply_of("canister_status", STATUS_VALUE))
    seen = management(agent).canister_status(CANISTER).settings
    management(agent).update_settings(CANISTER, controllers=seen.controllers, values=seen.values)
    assert agent.asked[1].fields()["settings"] == STATUS_VALUE["settings"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("freezing_treshold", 1),
        ("controllers", (ANONYMOUS,)),
        ("memory_allocation", -1),
        ("memory_allocation", True),
        ("memory_allocation", "5"),
        ("log_visibility", "everybody"),
        ("log_visibility", ("2vxsx-fae",)),
        ("environment_variables", {"A": 1}),
        ("environment_variables", [("A", "b")]),
    ],
)
def test_settings_the_interface_does_not_have_are_refused(name: str, value: object) -> None:
    agent = FakeAgent()
    with pytest.raises(ConfigurationError) as refused:
        management(agent).update_settings(CANISTER, values={name: value})
    assert (refused.value.kind, agent.asked) == ("bad_setting", [])


def test_a_refused_environment_is_not_quoted() -> None:
    with pytest.raises(ConfigurationError) as refused:
        management(FakeAgent()).update_settings(
            CANISTER, values={"environment_variables": {"TOKEN": "hunter2", "PORT": 80}}
        )
    assert "hunter2" not in str(refused.value)


# --- replies --------------------------------------------------------------------------------------------------------


def test_metadata_is_read_to_the_last_bit() -> None:
    agent = FakeAgent(reply_of("read_canister_snapshot_metadata", METADATA_VALUE))
    read = management(agent).read_snapshot_metadata(CANISTER, SNAPSHOT)
    assert read.metadata == METADATA
    assert bytes(read.reply.reply) == agent.reply


def test_metadata_of_networks_before_timers_and_hooks_is_read() -> None:
    dropped = ("global_timer", "on_low_wasm_memory_hook_status", "source")
    agent = FakeAgent(reply_of("read_canister_snapshot_metadata", METADATA_VALUE, without=dropped))
    expected = attrs.evolve(METADATA, global_timer=None, on_low_wasm_memory_hook_status=None, source=None)
    assert management(agent).read_snapshot_metadata(CANISTER, SNAPSHOT).metadata == expected


@pytest.mark.parametrize("missing", ["globals", "wasm_chunk_store", "certified_data", "stable_memory_size"])
def test_metadata_without_a_part_of_the_data_is_refused(missing: str) -> None:
    with pytest.raises(SourceError) as refused:
        types.snapshot_metadata_of(reply_of("read_canister_snapshot_metadata", METADATA_VALUE, without=[missing]))
    assert refused.value.kind == "bad_candid"


def _metadata_reply(**changes: tuple[Any, Any]) -> bytes:
    """Return metadata with some fields of another type and value."""
    (kind,) = METHODS["read_canister_snapshot_metadata"].results
    assert isinstance(kind, candid.Record)
    fields = {str(each.key): each.type for each in kind.fields} | {name: each[0] for name, each in changes.items()}
    value = METADATA_VALUE | {name: each[1] for name, each in changes.items()}
    return candid.encode([candid.Record(fields)], [value])


def test_what_newer_networks_add_to_metadata_is_read_past() -> None:
    new = candid.Variant({"brand_new": candid.NULL})
    globals_type = candid.Vec(candid.Variant({"i32": candid.INT32, "i256": candid.NAT}))
    reply = _metadata_reply(
        source=(new, ("brand_new", None)),
        global_timer=(candid.Opt(new), ("brand_new", None)),
        on_low_wasm_memory_hook_status=(candid.Opt(new), ("brand_new", None)),
        globals=(globals_type, [("i256", 5), ("i32", 5)]),
        something=(candid.TEXT, "else"),
    )
    read = types.snapshot_metadata_of(reply)
    assert (read.source, read.global_timer, read.on_low_wasm_memory_hook_status) == (None, None, None)
    assert read.globals == (None, GlobalValue(GlobalKind.I32, 5))


def test_variants_that_hold_nothing_or_anything_are_read_alike() -> None:
    source = candid.Variant({"taken_from_canister": candid.NULL, "metadata_upload": candid.NULL})
    read = types.snapshot_metadata_of(_metadata_reply(source=(source, ("metadata_upload", None))))
    assert read.source == "metadata_upload"
    optional = types.snapshot_metadata_of(_metadata_reply(source=(candid.Opt(source), ("metadata_upload", None))))
    assert optional.source == "metadata_upload"
    inactive = candid.Opt(candid.Variant({"inactive": candid.NULL}))
    read = types.snapshot_metadata_of(_metadata_reply(global_timer=(inactive, ("inactive", None))))
    assert read.global_timer == "inactive"


@pytest.mark.parametrize("bits", [0x7FA00001, 0xFFC00000, 0x80000000])
def test_floats_keep_every_bit_both_ways(bits: int) -> None:
    wide = bits << 32 | 1
    metadata = attrs.evolve(METADATA, globals=(GlobalValue(GlobalKind.F32, bits), GlobalValue(GlobalKind.F64, wide)))
    arg = types.metadata_upload_arg(CANISTER, metadata, replace=None)
    assert bits.to_bytes(4, "little") in arg
    # What is sent has all the fields of what is read that matter here, and the same types.
    reply = arg
    with pytest.raises(SourceError):  # but for the time
        types.snapshot_metadata_of(reply)
    value = types._only(reply)[label("globals")]
    assert tuple(map(types._global, value)) == metadata.globals


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (candid.Variant({"i32": candid.INT64}), ("i32", 1 << 40)),
        (candid.Variant({"f32": candid.FLOAT64}), ("f32", 1.5)),
        (candid.Variant({"v128": candid.NAT}), ("v128", 1 << 128)),
        (candid.Variant({"i32": candid.TEXT}), ("i32", "5")),
        (candid.Variant({"i32": candid.BOOL}), ("i32", True)),
    ],
    ids=["large", "wide", "huge", "text", "truth"],
)
def test_globals_that_do_not_fit_their_kind_are_refused(kind: Any, value: Any) -> None:
    with pytest.raises(SourceError, match="does not fit its kind"):
        types.snapshot_metadata_of(_metadata_reply(globals=(candid.Vec(kind), [value])))


def test_the_status_is_read_in_whole() -> None:
    agent = FakeAgent(reply_of("canister_status", STATUS_VALUE))
    status = management(agent).canister_status(CANISTER)
    assert (status.canister_id, status.run_state, status.certified) == (CANISTER, RunState.STOPPING, False)
    assert (status.cycles, status.memory_size_bytes, status.version) == ((1 << 127) + 1, 10, 5)
    assert (status.reserved_cycles, status.idle_cycles_burned_per_day) == (8, 9)
    assert status.module_hash == b"h" * 32
    assert status.memory_metrics == STATUS_VALUE["memory_metrics"]
    assert status.query_stats == STATUS_VALUE["query_stats"]
    assert status.settings.controllers == (ANONYMOUS, CANISTER)
    assert status.settings.values == {
        **{name: value for name, value in STATUS_VALUE["settings"].items() if isinstance(value, int)},  # type: ignore[attr-defined]
        "log_visibility": "public",
        "snapshot_visibility": (ANONYMOUS,),
        "status_visibility": "controllers",
        "environment_variables": {"A": "b"},
    }


def test_a_certified_status_is_asked_of_the_subnet() -> None:
    agent = FakeAgent(reply_of("canister_status", STATUS_VALUE))
    assert management(agent).canister_status(CANISTER, certified=True).certified is True
    assert (agent.asked[0].kind, agent.asked[0].options["repeatable"]) == ("call", True)


def test_the_status_of_a_network_that_says_the_least_is_read() -> None:
    least = candid.Record(
        {
            "status": candid.Variant({"running": candid.NULL}),
            "settings": candid.Record({"controllers": candid.Vec(candid.PRINCIPAL)}),
            "cycles": candid.NAT,
            "memory_size": candid.NAT,
        }
    )
    value = {"status": ("running", None), "settings": {"controllers": []}, "cycles": 1, "memory_size": 2}
    status = types.canister_status_of(candid.encode([least], [value]), CANISTER, certified=False)
    assert (status.run_state, status.cycles, status.memory_size_bytes) == (RunState.RUNNING, 1, 2)
    assert (status.version, status.module_hash, status.reserved_cycles) == (None, None, None)
    assert (dict(status.memory_metrics), dict(status.query_stats), dict(status.settings.values)) == ({}, {}, {})


def test_settings_that_nobody_knows_yet_are_kept() -> None:
    settings = candid.Record(
        {
            "controllers": candid.Vec(candid.PRINCIPAL),
            "brand_new": candid.Record({"name": candid.BLOB, "b": candid.Vec(candid.NAT)}),
            "log_visibility": candid.Variant({"friends": candid.NULL}),
            "status_visibility": candid.Opt(candid.TEXT),
            "share": candid.FLOAT64,
            "choice": candid.Variant({"public": candid.NAT}),
        }
    )
    value: dict[str, Any] = {
        "controllers": [],
        "brand_new": {"name": b"n", "b": [1, 2]},
        "log_visibility": ("friends", None),
        "status_visibility": None,
        "share": 0.5,
        "choice": ("public", 3),
    }
    kind = candid.Record(
        {
            "status": candid.Variant({"stopped": candid.NULL}),
            "settings": settings,
            "cycles": candid.NAT,
            "memory_size": candid.NAT,
        }
    )
    reply = candid.encode([kind], [{"status": ("stopped", None), "settings": value, "cycles": 1, "memory_size": 2}])
    status = types.canister_status_of(reply, CANISTER, certified=False)
    assert status.settings.values == {
        f"_{label('brand_new')}": {"name": b"n", f"_{label('b')}": (1, 2)},
        "log_visibility": f"_{label('friends')}",
        f"_{label('share')}": 0.5,
        f"_{label('choice')}": {"public": 3},
    }


@pytest.mark.parametrize("missing", ["status", "settings", "cycles", "memory_size"])
def test_a_status_without_what_every_network_says_is_refused(missing: str) -> None:
    reply = reply_of("canister_status", STATUS_VALUE, without=[missing])
    with pytest.raises(SourceError) as refused:
        types.canister_status_of(reply, CANISTER, certified=False)
    assert refused.value.kind == "bad_candid"


@pytest.mark.parametrize(
    "read",
    [types.snapshot_of, types.snapshots_of, types.snapshot_id_of, types.snapshot_metadata_of, types.log_records_of],
)
@pytest.mark.parametrize("kind", [candid.TEXT, candid.Record({"id": candid.TEXT}), candid.Vec(candid.TEXT), None])
def test_replies_of_another_form_are_refused(read: Callable[[bytes], object], kind: Any) -> None:
    values = {"Primitive": "text", "Record": {"id": "x"}, "Vec": ["x"]}
    reply = NOTHING if kind is None else candid.encode([kind], [values[type(kind).__name__]])
    with pytest.raises(SourceError) as refused:
        read(reply)
    assert refused.value.kind == "bad_candid"


def test_an_empty_snapshot_id_is_refused() -> None:
    with pytest.raises(SourceError, match="too short"):
        types.snapshot_of(reply_of("take_canister_snapshot", SNAPSHOT_VALUE | {"id": b""}))


def test_log_lines_are_read() -> None:
    records = [{"idx": 1, "timestamp_nanos": 2, "content": b"line"}]
    agent = FakeAgent(reply_of("fetch_canister_logs", {"canister_log_records": records}))
    assert management(agent).fetch_logs(CANISTER) == (LogRecord(index=1, at_ns=2, content=b"line"),)


def test_a_chunk_is_a_view_into_its_reply() -> None:
    agent = FakeAgent(reply_of("read_canister_snapshot_data", {"chunk": b"abc"}))
    part = StoredChunk(hashlib.sha256(b"abc").digest())
    data = management(agent).read_snapshot_data(CANISTER, SNAPSHOT, part)
    assert bytes(data.chunk) == b"abc"
    assert data.chunk.obj is agent.reply
    assert "abc" not in repr(data)


NAMES = sorted(
    {
        str(each.key)
        for method in ("canister_status", "read_canister_snapshot_metadata", "fetch_canister_logs")
        for kind in METHODS[method].results
        if isinstance(kind, candid.Record)
        for each in kind.fields
    }
    | {"id", "hash", "controllers", "snapshot_id", "total_size", "name", "value", "idx", "timestamp_nanos", "content"}
    | {"environment_variables", "log_visibility"}
)
CASES = ["i32", "f32", "v128", "running", "active", "taken_from_canister", "allowed_viewers", "brand_new"]
SIMPLE = st.one_of(
    st.tuples(st.just(candid.NAT), st.integers(0, 1 << 130)),
    st.tuples(st.just(candid.INT), st.integers(-(1 << 70), 1 << 70)),
    st.tuples(st.just(candid.BOOL), st.booleans()),
    st.tuples(st.just(candid.FLOAT64), st.floats()),
    st.tuples(st.just(candid.TEXT), st.text(max_size=3)),
    st.tuples(st.just(candid.BLOB), st.binary(max_size=70)),
    st.tuples(st.just(candid.PRINCIPAL), st.binary(max_size=29)),
    st.tuples(st.just(candid.RESERVED), st.none()),
)


def _composed(inner: st.SearchStrategy[tuple[Any, Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Records with the names of the interface, variants with its cases, and lists: of anything."""
    records = st.dictionaries(st.sampled_from(NAMES), inner, max_size=12).map(
        lambda fields: (
            candid.Record({name: kind for name, (kind, _) in fields.items()}),
            {name: value for name, (_, value) in fields.items()},
        )
    )
    variants = st.tuples(st.sampled_from(CASES), inner).map(
        lambda case: (candid.Variant({case[0]: case[1][0]}), (case[0], case[1][1]))
    )
    lists = inner.map(lambda typed: (candid.Vec(typed[0]), [typed[1]]))
    return st.one_of(records, records, variants, lists)


@given(st.recursive(SIMPLE, _composed, max_leaves=20))
@settings(max_examples=300, deadline=None)
def test_any_reply_is_read_or_refused(typed: tuple[Any, Any]) -> None:
    reply = candid.encode([typed[0]], [typed[1]])
    readers: list[Callable[[bytes], object]] = [
        types.snapshot_of,
        types.snapshots_of,
        types.snapshot_id_of,
        types.snapshot_metadata_of,
        types.log_records_of,
        lambda data: types.canister_status_of(data, CANISTER, certified=False),
    ]
    for read in readers:
        try:
            read(reply)
        except SourceError as error:
            if error.kind != "bad_candid":
                raise


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_status_in_which_one_field_is_strange_is_read_or_refused(data: st.DataObject) -> None:
    (whole,) = METHODS["canister_status"].results
    assert isinstance(whole, candid.Record)
    name = data.draw(st.sampled_from(sorted(str(each.key) for each in whole.fields)))
    kind, value = data.draw(st.recursive(SIMPLE, _composed, max_leaves=6))
    fields = {str(each.key): each.type for each in whole.fields} | {name: kind}
    reply = candid.encode([candid.Record(fields)], [STATUS_VALUE | {name: value}])
    try:
        status = types.canister_status_of(reply, CANISTER, certified=False)
    except SourceError as error:
        if error.kind != "bad_candid":
            raise
    else:
        assert status.cycles >= 0


@pytest.mark.parametrize("name", ["taken_at_timestamp", "total_size"])
def test_numbers_beyond_64_bits_are_refused_where_there_are_none(name: str) -> None:
    kind = candid.Record({"id": candid.BLOB, "taken_at_timestamp": candid.NAT, "total_size": candid.NAT})
    reply = candid.encode([kind], [SNAPSHOT_VALUE | {name: 1 << 64}])
    with pytest.raises(SourceError, match="does not fit 64 bits"):
        types.snapshot_of(reply)
    latest = types.snapshot_of(candid.encode([kind], [SNAPSHOT_VALUE | {name: (1 << 64) - 1}]))
    assert latest.taken_at.year in (2027, 2554)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["IC0536", "IC0407"])
def test_networks_without_status_queries_are_named_and_not_worked_around(code: str) -> None:
    refusal = RejectedError("no", kind="method_not_found", error_code=code, reject_code=5, certified=False)
    agent = FakeAgent(error=refusal)
    with pytest.raises(RejectedError, match="certified=True") as refused:
        management(agent).canister_status(CANISTER)
    assert refused.value.kind == "status_query_unsupported"
    assert refused.value.context["error_code"] == code
    assert len(agent.asked) == 1


def test_other_refusals_of_the_status_stay_what_they_are() -> None:
    refusal = RejectedError("no", kind="not_controller", error_code="IC0512", certified=False)
    with pytest.raises(RejectedError) as refused:
        management(FakeAgent(error=refusal)).canister_status(CANISTER)
    assert refused.value is refusal


# --- what anybody may know ------------------------------------------------------------------------------------------


def found(value: bytes) -> Found:
    return Found(memoryview(value))


def test_controllers_and_module_are_read_from_the_state() -> None:
    leaves = {b"controllers": found(encode_cbor([ANONYMOUS.raw, CANISTER.raw])), b"module_hash": found(b"h" * 32)}
    agent = FakeAgent(leaves=leaves)
    info = management(agent).public_info(CANISTER, deadline_seconds=3.0)
    assert (info.canister_id, info.controllers, info.module_hash) == (CANISTER, (ANONYMOUS, CANISTER), b"h" * 32)
    assert agent.asked[0].canister_id == CANISTER
    assert agent.asked[0].options == {"deadline_seconds": 3.0}


def test_a_canister_without_code_has_no_module() -> None:
    agent = FakeAgent(leaves={b"controllers": found(encode_cbor([])), b"module_hash": Absent()})
    info = management(agent).public_info(CANISTER)
    assert (info.controllers, info.module_hash) == ((), None)


def test_a_canister_that_certainly_is_not_there_is_refused() -> None:
    agent = FakeAgent(leaves={b"controllers": Absent(), b"module_hash": Absent()})
    with pytest.raises(RejectedError) as refused:
        management(agent).public_info(CANISTER)
    assert (refused.value.kind, refused.value.certified) == ("canister_not_found", True)


@pytest.mark.parametrize(
    "leaves",
    [
        {b"controllers": Unknown(), b"module_hash": Absent()},
        {b"controllers": found(encode_cbor([])), b"module_hash": Unknown()},
        {b"controllers": found(b"\xff"), b"module_hash": Absent()},
        {b"controllers": found(encode_cbor([1_000_000_000])), b"module_hash": Absent()},
        {b"controllers": found(encode_cbor({"a": 1})), b"module_hash": Absent()},
        {b"controllers": found(encode_cbor([b"x" * 30])), b"module_hash": Absent()},
    ],
    ids=["pruned controllers", "pruned module", "no CBOR", "numbers", "a map", "too long"],
)
def test_a_certificate_that_does_not_tell_is_refused(leaves: dict[bytes, Any]) -> None:
    with pytest.raises(CertificateError):
        management(FakeAgent(leaves=leaves)).public_info(CANISTER)
