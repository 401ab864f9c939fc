"""
Values of the management canister from and to Candid.

Older replicas leave fields out, newer ones add some: nothing is required that a canister's owner can do without, and
names nobody knows are kept under ``_`` and their number.

Source:
    ``ic.did`` of the developer documentation; internet-computer reference, C.2 and C.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ..errors import ConfigurationError
from ..model.canisters import (
    CanisterSettings,
    CanisterStatus,
    GlobalKind,
    GlobalValue,
    LogRecord,
    RunState,
    Snapshot,
    SnapshotMetadata,
)
from ..model.ids import Principal, SnapshotId
from .candid_types import (
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
    TEXT,
    Opt,
    Record,
    Type,
    Variant,
    Vec,
    encode,
)
from .candid_values import FloatBits, VariantValue, bad_candid, decode, field, label
from .wire import Buffer

__all__ = [
    "canister_arg",
    "canister_status_of",
    "log_records_of",
    "metadata_upload_arg",
    "snapshot_arg",
    "snapshot_id_of",
    "snapshot_metadata_of",
    "snapshot_of",
    "snapshots_of",
    "take_arg",
    "update_settings_arg",
]

_VISIBILITY: Final = Variant({"controllers": NULL, "public": NULL, "allowed_viewers": Vec(PRINCIPAL)})
_SETTINGS: Final[Mapping[str, Type]] = {
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
_HOOKS: Final = ("condition_not_satisfied", "ready", "executed")
_GLOBALS: Final = {"i32": INT32, "i64": INT64, "f32": FLOAT32, "f64": FLOAT64, "v128": NAT}
_GLOBAL_BITS: Final = {"i32": 32, "i64": 64, "f32": 32, "f64": 64, "v128": 128}
_CANISTER: Final = Record({"canister_id": PRINCIPAL})
_METADATA: Final = Record(
    {
        "canister_id": PRINCIPAL,
        "replace_snapshot": Opt(BLOB),
        "wasm_module_size": NAT64,
        "globals": Vec(Variant(_GLOBALS)),
        "wasm_memory_size": NAT64,
        "stable_memory_size": NAT64,
        "certified_data": BLOB,
        "global_timer": Opt(Variant({"inactive": NULL, "active": NAT64})),
        "on_low_wasm_memory_hook_status": Opt(Variant(dict.fromkeys(_HOOKS, NULL))),
    }
)
_MAX_U64: Final = (1 << 64) - 1
_NAMES: Final[Mapping[int, str]] = {
    label(name): name
    for name in (
        *_SETTINGS,
        *("controllers", "public", "allowed_viewers", "name", "value"),
        *("running", "stopping", "stopped"),
        *("taken_from_canister", "metadata_upload"),
        *("inactive", "active", *_HOOKS, *_GLOBALS),
        *("wasm_memory_size", "stable_memory_size", "global_memory_size", "wasm_binary_size", "custom_sections_size"),
        *("canister_history_size", "wasm_chunk_store_size", "snapshots_size", "log_memory_store_size"),
        *("num_calls_total", "num_instructions_total", "request_payload_bytes_total", "response_payload_bytes_total"),
    )
}


# --- arguments ------------------------------------------------------------------------------------------------------


def canister_arg(canister_id: Principal) -> bytes:
    """Return the argument of the methods that take a canister only."""
    return encode(_CANISTER, {"canister_id": canister_id})


def snapshot_arg(canister_id: Principal, snapshot_id: SnapshotId) -> bytes:
    """Return the argument of the methods that take a canister and a snapshot."""
    kind = Record({"canister_id": PRINCIPAL, "snapshot_id": BLOB})
    return encode(kind, {"canister_id": canister_id, "snapshot_id": snapshot_id.raw})


def take_arg(canister_id: Principal, *, replace: SnapshotId | None, uninstall_code: bool) -> bytes:
    """Return the argument of ``take_canister_snapshot``; networks that know less ignore ``uninstall_code``."""
    fields: dict[str, Type] = {"canister_id": PRINCIPAL, "replace_snapshot": Opt(BLOB)}
    value = {"canister_id": canister_id, "replace_snapshot": replace.raw if replace else None}
    if uninstall_code:
        fields["uninstall_code"] = Opt(BOOL)
        return encode(Record(fields), {**value, "uninstall_code": True})
    return encode(Record(fields), value)


def metadata_upload_arg(canister_id: Principal, metadata: SnapshotMetadata, *, replace: SnapshotId | None) -> bytes:
    """
    Return the argument of ``upload_canister_snapshot_metadata``.

    Raises:
        ConfigurationError: Kind ``unknown_metadata``: it holds something this release does not know, or a number that
            does not fit.
    """
    timer, hook = metadata.global_timer, metadata.on_low_wasm_memory_hook_status
    if hook is not None and hook not in _HOOKS:
        raise _unknown_metadata(f"hook status {hook!r:.80}")
    value = {
        "canister_id": canister_id,
        "replace_snapshot": replace.raw if replace else None,
        "wasm_module_size": _u64(metadata.wasm_module_size),
        "globals": [_global_case(position, each) for position, each in enumerate(metadata.globals)],
        "wasm_memory_size": _u64(metadata.wasm_memory_size),
        "stable_memory_size": _u64(metadata.stable_memory_size),
        "certified_data": metadata.certified_data,
        "global_timer": _timer_case(timer),
        "on_low_wasm_memory_hook_status": (hook, None) if hook is not None else None,
    }
    return encode(_METADATA, value)


def _timer_case(timer: int | str | None) -> tuple[str, int | None] | None:
    if timer is None:
        return None
    if timer == "inactive":
        return "inactive", None
    if not isinstance(timer, int):
        raise _unknown_metadata(f"global timer {timer!r:.80}")
    return "active", _u64(timer)


def _global_case(position: int, value: GlobalValue | None) -> tuple[str, int]:
    if value is None:
        raise _unknown_metadata(f"global {position}, of an unknown kind")
    if not 0 <= value.bits < 1 << _GLOBAL_BITS[value.kind.value]:
        raise _unknown_metadata(f"global {position}, which does not fit an {value.kind.value}")
    return value.kind.value, value.bits


def _u64(number: int) -> int:
    if not 0 <= number <= _MAX_U64:
        raise _unknown_metadata(f"{number}, which does not fit 64 bits")
    return number


def _unknown_metadata(what: str) -> ConfigurationError:
    message = f"the metadata of a snapshot cannot be uploaded: it holds {what}"
    hint = "the snapshot may be of a newer network: look for a newer release"
    return ConfigurationError(message, kind="unknown_metadata", hint=hint)


def update_settings_arg(
    canister_id: Principal, *, controllers: Sequence[Principal] | None, values: Mapping[str, Any]
) -> bytes:
    """
    Return the argument of ``update_settings``; what is not given stays as it is.

    Raises:
        ConfigurationError: Kind ``bad_setting``: a name or value the interface does not have.
    """
    fields: dict[str, Type] = {}
    settings: dict[str, Any] = {}
    if controllers is not None:
        fields["controllers"], settings["controllers"] = Opt(Vec(PRINCIPAL)), list(controllers)
    for name, value in values.items():
        if name not in _SETTINGS:
            raise _bad_setting(name, value, "no setting of this name is known")
        fields[name], settings[name] = Opt(_SETTINGS[name]), _setting_value(name, value)
    kind = Record({"canister_id": PRINCIPAL, "settings": Record(fields)})
    return encode(kind, {"canister_id": canister_id, "settings": settings})


def _setting_value(name: str, value: Any) -> Any:
    if _SETTINGS[name] is NAT:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _bad_setting(name, value, "it must be a whole number")
        return value
    if _SETTINGS[name] is _VISIBILITY:
        if value in ("controllers", "public"):
            return value, None
        if isinstance(value, (tuple, list)) and all(isinstance(each, Principal) for each in value):
            return "allowed_viewers", value
        raise _bad_setting(name, value, "it must be 'controllers', 'public' or principals")
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise _bad_setting(name, value, "it must be a mapping of texts")
    return [{"name": each, "value": text} for each, text in value.items()]


def _bad_setting(name: str, value: object, hint: str) -> ConfigurationError:
    # Values of environment variables may be secrets.
    shown = "of this form" if isinstance(value, Mapping) else f"{value!r:.80}"
    return ConfigurationError(f"setting {name!r:.80} cannot be {shown}", kind="bad_setting", hint=hint, option=name)


# --- replies --------------------------------------------------------------------------------------------------------


def snapshot_of(reply: Buffer) -> Snapshot:
    """Return the snapshot in a reply of ``take_canister_snapshot``; raises `SourceError` as all of these do."""
    return _snapshot(_only(reply))


def snapshots_of(reply: Buffer) -> tuple[Snapshot, ...]:
    """Return the snapshots in a reply of ``list_canister_snapshots``."""
    return tuple(map(_snapshot, _list(_only(reply), "snapshots")))


def snapshot_id_of(reply: Buffer) -> SnapshotId:
    """Return the new id in a reply of ``upload_canister_snapshot_metadata``."""
    return _snapshot_id(_only(reply), "snapshot_id")


def snapshot_metadata_of(reply: Buffer) -> SnapshotMetadata:
    """
    Return the metadata in a reply of ``read_canister_snapshot_metadata``.

    Timer, hook and source may be missing, as in snapshots from before April 2025; nothing that is data may.
    """
    value = _only(reply)
    source = _case(field(value, "source"))[0]
    hook = _case(field(value, "on_low_wasm_memory_hook_status"))[0]
    stored = _list(field(value, "wasm_chunk_store"), "stored chunks")
    return SnapshotMetadata(
        wasm_module_size=_nat64(value, "wasm_module_size"),
        wasm_memory_size=_nat64(value, "wasm_memory_size"),
        stable_memory_size=_nat64(value, "stable_memory_size"),
        globals=tuple(map(_global, _list(field(value, "globals"), "globals"))),
        wasm_chunk_store=tuple(_blob(each, "hash") for each in stored),
        certified_data=_blob(value, "certified_data"),
        taken_at_ns=_nat64(value, "taken_at_timestamp"),
        canister_version=_nat64(value, "canister_version"),
        source=source if source in ("taken_from_canister", "metadata_upload") else None,
        global_timer=_timer(field(value, "global_timer")),
        on_low_wasm_memory_hook_status=hook if hook in _HOOKS else None,
    )


def canister_status_of(reply: Buffer, canister_id: Principal, *, certified: bool) -> CanisterStatus:
    """Return the status in a reply of ``canister_status``."""
    value = _only(reply)
    state, _ = _case(field(value, "status"))
    if state not in {each.value for each in RunState}:
        raise bad_candid("the state of the canister is unknown")
    module_hash = field(value, "module_hash")
    return CanisterStatus(
        canister_id=canister_id,
        run_state=RunState(state),
        settings=_canister_settings(field(value, "settings")),
        cycles=_nat(value, "cycles"),
        memory_size_bytes=_nat(value, "memory_size"),
        module_hash=bytes(module_hash) if isinstance(module_hash, memoryview) else None,
        version=_optional_nat(value, "version"),
        reserved_cycles=_optional_nat(value, "reserved_cycles"),
        idle_cycles_burned_per_day=_optional_nat(value, "idle_cycles_burned_per_day"),
        memory_metrics=_numbers(field(value, "memory_metrics")),
        query_stats=_numbers(field(value, "query_stats")),
        certified=certified,
    )


def log_records_of(reply: Buffer) -> tuple[LogRecord, ...]:
    """Return the lines in a reply of ``fetch_canister_logs``."""
    records = _list(field(_only(reply), "canister_log_records"), "log records")
    return tuple(
        LogRecord(index=_nat64(each, "idx"), at_ns=_nat64(each, "timestamp_nanos"), content=_blob(each, "content"))
        for each in records
    )


def _only(reply: Buffer) -> Any:
    values = decode(reply)
    if not values:
        raise bad_candid("it is empty")
    return values[0]  # more results than known are none of our business


def _snapshot(value: object) -> Snapshot:
    return Snapshot(
        snapshot_id=_snapshot_id(value, "id"),
        taken_at_ns=_nat64(value, "taken_at_timestamp"),
        size_bytes=_nat64(value, "total_size"),
    )


def _snapshot_id(value: object, name: str) -> SnapshotId:
    try:
        return SnapshotId(_blob(value, name))
    except ConfigurationError:
        raise bad_candid("a snapshot id is too short or too long") from None


def _global(value: object) -> GlobalValue | None:
    kind, content = _case(value)
    if kind not in _GLOBALS:
        return None
    size = _GLOBAL_BITS[kind]
    bits = content.bits if isinstance(content, FloatBits) and content.width == size else content
    if isinstance(bits, bool) or not isinstance(bits, int) or bits >> size not in (0, -1):
        raise bad_candid("a global does not fit its kind")
    return GlobalValue(GlobalKind(kind), bits % (1 << size))


def _timer(value: object) -> int | str | None:
    case, content = _case(value)
    if case == "active" and isinstance(content, int) and content >= 0:
        return content
    return "inactive" if case == "inactive" else None


def _canister_settings(value: object) -> CanisterSettings:
    controllers = _list(field(value, "controllers"), "controllers")
    if not isinstance(value, dict) or not all(isinstance(each, Principal) for each in controllers):
        raise bad_candid("the controllers of the canister are missing")
    values: dict[str, Any] = {}
    for number, each in value.items():
        name = _NAMES.get(number, f"_{number}")
        if name == "controllers" or each is None:
            continue
        if name == "environment_variables":
            values[name] = dict(_variables(each))
        elif _SETTINGS.get(name) is _VISIBILITY:
            values[name] = _visibility(each)
        else:
            values[name] = _plain(each)
    return CanisterSettings(controllers=tuple(controllers), values=values)


def _variables(value: object) -> Iterator[tuple[str, str]]:
    for each in _list(value, "environment variables"):
        name, text = field(each, "name"), field(each, "value")
        if not isinstance(name, str) or not isinstance(text, str):
            raise bad_candid("an environment variable is no text")
        yield name, text


def _visibility(value: object) -> Any:
    case, viewers = _case(value)
    if case == "allowed_viewers" and isinstance(viewers, list) and all(isinstance(each, Principal) for each in viewers):
        return tuple(viewers)
    return _plain(value)


def _numbers(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {_NAMES.get(number, f"_{number}"): each for number, each in value.items() if _is_number(each)}


def _case(value: object) -> tuple[str | None, Any]:
    """Return name and content of a variant; ``_`` and its number where the name is unknown, `None` for no variant."""
    if not isinstance(value, VariantValue):
        return None, None
    return _NAMES.get(value.number, f"_{value.number}"), value.value


def _plain(value: Any) -> Any:
    """Return what is known of a value whose meaning is not: names instead of numbers, bytes instead of views."""
    match value:
        case memoryview():
            return bytes(value)
        case FloatBits():
            return float(value)
        case VariantValue():
            name, content = _case(value)
            return name if content is None else {name: _plain(content)}
        case list():
            return tuple(map(_plain, value))
        case dict():
            return {_NAMES.get(number, f"_{number}"): _plain(each) for number, each in value.items()}
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad_candid(f"{what} are no list")
    return value


def _nat(record: object, name: str) -> int:
    number = _optional_nat(record, name)
    if number is None:
        raise bad_candid(f"{name} is missing")
    return number


def _nat64(record: object, name: str) -> int:
    number = _nat(record, name)
    if number > _MAX_U64:
        raise bad_candid(f"{name} does not fit 64 bits")
    return number


def _optional_nat(record: object, name: str) -> int | None:
    number = field(record, name)
    return int(number) if _is_number(number) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _blob(record: object, name: str) -> bytes:
    blob = field(record, name)
    if not isinstance(blob, memoryview):
        raise bad_candid(f"{name} is missing")
    return bytes(blob)
