"""
Candid types of the management canister ``aaaaa-aa``: what each method takes and gives.

Replies are supersets: strict clients refuse a record that lacks a field they know, and ignore fields they do not.

Source:
    ``ic.did`` of the developer documentation plus newer Rust types; internet-computer reference, C.2 and C.3.
"""

from __future__ import annotations

from typing import Final

import attrs

from ..candid import (
    BLOB,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    NAT,
    NAT64,
    NULL,
    PRINCIPAL,
    RESERVED,
    TEXT,
    CandidType,
    Opt,
    Record,
    Variant,
    Vec,
)

__all__ = ["METHODS", "MethodType"]


@attrs.frozen
class MethodType:
    """Argument record (`None`: no arguments) and result types of one method."""

    argument: CandidType | None
    results: tuple[CandidType, ...] = ()


_HASH = Record({"hash": BLOB})
_CANISTER: Final = Record({"canister_id": PRINCIPAL})
_VISIBILITY = Variant({"controllers": NULL, "public": NULL, "allowed_viewers": Vec(PRINCIPAL)})
_SETTINGS_FIELDS: Final[dict[str, CandidType]] = {
    "controllers": Vec(PRINCIPAL),
    "compute_allocation": NAT,
    "memory_allocation": NAT,
    "freezing_threshold": NAT,
    "reserved_cycles_limit": NAT,
    "minimum_incoming_canister_call_cycles": NAT,
    "log_visibility": _VISIBILITY,
    "snapshot_visibility": _VISIBILITY,
    "status_visibility": _VISIBILITY,
    "wasm_memory_limit": NAT,
    "wasm_memory_threshold": NAT,
    "environment_variables": Vec(Record({"name": TEXT, "value": TEXT})),
    "log_memory_limit": NAT,
}
_SETTINGS = Record({name: Opt(type_) for name, type_ in _SETTINGS_FIELDS.items()})
_DEFINITE_SETTINGS = Record(_SETTINGS_FIELDS)
_SENDER_VERSION: Final[dict[str, CandidType]] = {"sender_canister_version": Opt(NAT64)}

_INSTALL_MODE = Variant(
    {
        "install": NULL,
        "reinstall": NULL,
        "upgrade": Opt(
            Record(
                {
                    "skip_pre_upgrade": Opt(BOOL),
                    "wasm_memory_persistence": Opt(Variant({"keep": NULL, "replace": NULL})),
                }
            )
        ),
    }
)

_STATUS = Record(
    {
        "status": Variant({"running": NULL, "stopping": NULL, "stopped": NULL}),
        "ready_for_migration": BOOL,
        "version": NAT64,
        "settings": _DEFINITE_SETTINGS,
        "module_hash": Opt(BLOB),
        "memory_size": NAT,
        "memory_metrics": Record(
            {
                "wasm_memory_size": NAT,
                "stable_memory_size": NAT,
                "global_memory_size": NAT,
                "wasm_binary_size": NAT,
                "custom_sections_size": NAT,
                "canister_history_size": NAT,
                "wasm_chunk_store_size": NAT,
                "snapshots_size": NAT,
                "log_memory_store_size": NAT,
            }
        ),
        "cycles": NAT,
        "reserved_cycles": NAT,
        "idle_cycles_burned_per_day": NAT,
        "query_stats": Record(
            {
                "num_calls_total": NAT,
                "num_instructions_total": NAT,
                "request_payload_bytes_total": NAT,
                "response_payload_bytes_total": NAT,
            }
        ),
    }
)

_SOURCE = Variant({"taken_from_canister": RESERVED, "metadata_upload": RESERVED})
_CHANGE = Record(
    {
        "timestamp_nanos": NAT64,
        "canister_version": NAT64,
        "origin": Variant(
            {
                "from_user": Record({"user_id": PRINCIPAL}),
                "from_canister": Record({"canister_id": PRINCIPAL, "canister_version": Opt(NAT64)}),
            }
        ),
        "details": Variant(
            {
                "creation": Record({"controllers": Vec(PRINCIPAL), "environment_variables_hash": Opt(BLOB)}),
                "code_uninstall": NULL,
                "code_deployment": Record(
                    {"mode": Variant({"install": NULL, "reinstall": NULL, "upgrade": NULL}), "module_hash": BLOB}
                ),
                "load_snapshot": Record(
                    {
                        "from_canister_id": Opt(PRINCIPAL),
                        "snapshot_id": BLOB,
                        "canister_version": NAT64,
                        "taken_at_timestamp": NAT64,
                        "source": _SOURCE,
                    }
                ),
                "controllers_change": Record({"controllers": Vec(PRINCIPAL)}),
            }
        ),
    }
)
_INFO = Record(
    {
        "total_num_changes": NAT64,
        "recent_changes": Vec(_CHANGE),
        "module_hash": Opt(BLOB),
        "controllers": Vec(PRINCIPAL),
    }
)

_LOG_RANGE = Record({"start": NAT64, "end": NAT64})
_LOGS = Record(
    {"canister_log_records": Vec(Record({"idx": NAT64, "timestamp_nanos": NAT64, "content": BLOB}))},
)
_METRICS = Record(
    {
        "cycles_consumed": Record(
            {
                "memory": NAT,
                "compute_allocation": NAT,
                "ingress_induction": NAT,
                "instructions": NAT,
                "request_and_response_transmission": NAT,
                "uninstall": NAT,
                "canister_creation": NAT,
                "http_outcalls": NAT,
                "burned_cycles": NAT,
            }
        )
    }
)

_SNAPSHOT = Record({"id": BLOB, "taken_at_timestamp": NAT64, "total_size": NAT64})
_SNAPSHOT_ARGUMENT: Final[dict[str, CandidType]] = {"canister_id": PRINCIPAL, "snapshot_id": BLOB}
_GLOBALS = Vec(Variant({"i32": INT32, "i64": INT64, "f32": FLOAT32, "f64": FLOAT64, "v128": NAT}))
_SLICE = Record({"offset": NAT64, "size": NAT64})
_OFFSET = Record({"offset": NAT64})
_METADATA_FIELDS: Final[dict[str, CandidType]] = {
    "wasm_module_size": NAT64,
    "globals": _GLOBALS,
    "wasm_memory_size": NAT64,
    "stable_memory_size": NAT64,
    "certified_data": BLOB,
    "global_timer": Opt(Variant({"inactive": NULL, "active": NAT64})),
    "on_low_wasm_memory_hook_status": Opt(
        Variant({"condition_not_satisfied": NULL, "ready": NULL, "executed": NULL}),
    ),
}

METHODS: Final[dict[str, MethodType]] = {
    "create_canister": MethodType(Record({"settings": Opt(_SETTINGS), **_SENDER_VERSION}), (_CANISTER,)),
    "provisional_create_canister_with_cycles": MethodType(
        Record(
            {"amount": Opt(NAT), "settings": Opt(_SETTINGS), "specified_id": Opt(PRINCIPAL), **_SENDER_VERSION},
        ),
        (_CANISTER,),
    ),
    "provisional_top_up_canister": MethodType(Record({"canister_id": PRINCIPAL, "amount": NAT})),
    "update_settings": MethodType(Record({"canister_id": PRINCIPAL, "settings": _SETTINGS, **_SENDER_VERSION})),
    "install_code": MethodType(
        Record(
            {"mode": _INSTALL_MODE, "canister_id": PRINCIPAL, "wasm_module": BLOB, "arg": BLOB, **_SENDER_VERSION},
        )
    ),
    "install_chunked_code": MethodType(
        Record(
            {
                "mode": _INSTALL_MODE,
                "target_canister": PRINCIPAL,
                "store_canister": Opt(PRINCIPAL),
                "chunk_hashes_list": Vec(_HASH),
                "wasm_module_hash": BLOB,
                "arg": BLOB,
                **_SENDER_VERSION,
            }
        )
    ),
    "upload_chunk": MethodType(Record({"canister_id": PRINCIPAL, "chunk": BLOB}), (_HASH,)),
    "clear_chunk_store": MethodType(_CANISTER),
    "stored_chunks": MethodType(_CANISTER, (Vec(_HASH),)),
    "uninstall_code": MethodType(Record({"canister_id": PRINCIPAL, **_SENDER_VERSION})),
    "start_canister": MethodType(_CANISTER),
    "stop_canister": MethodType(_CANISTER),
    "delete_canister": MethodType(_CANISTER),
    "deposit_cycles": MethodType(_CANISTER),
    "canister_status": MethodType(_CANISTER, (_STATUS,)),
    "canister_info": MethodType(Record({"canister_id": PRINCIPAL, "num_requested_changes": Opt(NAT64)}), (_INFO,)),
    "canister_metadata": MethodType(Record({"canister_id": PRINCIPAL, "name": TEXT}), (Record({"value": BLOB}),)),
    "fetch_canister_logs": MethodType(
        Record(
            {
                "canister_id": PRINCIPAL,
                "filter": Opt(Variant({"by_idx": _LOG_RANGE, "by_timestamp_nanos": _LOG_RANGE})),
            }
        ),
        (_LOGS,),
    ),
    "canister_metrics": MethodType(_CANISTER, (_METRICS,)),
    "list_canisters": MethodType(None, (Record({"canisters": Vec(Record({"start": PRINCIPAL, "end": PRINCIPAL}))}),)),
    "raw_rand": MethodType(None, (BLOB,)),
    "subnet_info": MethodType(
        Record({"subnet_id": PRINCIPAL}), (Record({"replica_version": TEXT, "registry_version": NAT64}),)
    ),
    "take_canister_snapshot": MethodType(
        Record(
            {
                "canister_id": PRINCIPAL,
                "replace_snapshot": Opt(BLOB),
                "uninstall_code": Opt(BOOL),
                **_SENDER_VERSION,
            }
        ),
        (_SNAPSHOT,),
    ),
    "load_canister_snapshot": MethodType(Record({**_SNAPSHOT_ARGUMENT, **_SENDER_VERSION})),
    "list_canister_snapshots": MethodType(_CANISTER, (Vec(_SNAPSHOT),)),
    "delete_canister_snapshot": MethodType(Record(_SNAPSHOT_ARGUMENT)),
    "read_canister_snapshot_metadata": MethodType(
        Record(_SNAPSHOT_ARGUMENT),
        (
            Record(
                {
                    "source": _SOURCE,
                    "taken_at_timestamp": NAT64,
                    "wasm_chunk_store": Vec(_HASH),
                    "canister_version": NAT64,
                    **_METADATA_FIELDS,
                }
            ),
        ),
    ),
    "read_canister_snapshot_data": MethodType(
        Record(
            {
                **_SNAPSHOT_ARGUMENT,
                "kind": Variant(
                    {"wasm_module": _SLICE, "wasm_memory": _SLICE, "stable_memory": _SLICE, "wasm_chunk": _HASH},
                ),
            }
        ),
        (Record({"chunk": BLOB}),),
    ),
    "upload_canister_snapshot_metadata": MethodType(
        Record({"canister_id": PRINCIPAL, "replace_snapshot": Opt(BLOB), **_METADATA_FIELDS}),
        (Record({"snapshot_id": BLOB}),),
    ),
    "upload_canister_snapshot_data": MethodType(
        Record(
            {
                **_SNAPSHOT_ARGUMENT,
                "kind": Variant(
                    {"wasm_module": _OFFSET, "wasm_memory": _OFFSET, "stable_memory": _OFFSET, "wasm_chunk": NULL},
                ),
                "chunk": BLOB,
            }
        )
    ),
}
"""By method name."""
