"""
Settings, status and logs of canisters as JSON values, and back, without loss.

Numbers are JSON integers of any size. Principals in known places are text; in settings of newer replicas they are
``{"$principal": "aaaaa-aa"}``, bytes ``{"$bytes": "00ff"}``, floats ``{"$float": "0.5"}``, and a mapping one of whose
keys starts with ``$`` becomes ``{"$map": [[key, value], …]}``, so that nothing can be mistaken for something else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from ..model.canisters import CanisterSettings, CanisterStatus, LogRecord, RunState, Snapshot
from ..model.ids import Principal, SnapshotId
from ..model.json_input import typed

__all__ = [
    "log_of",
    "log_value",
    "setting_of",
    "setting_value",
    "snapshot_of",
    "snapshot_value",
    "status_of",
    "status_value",
]

_OPTIONAL_NUMBERS: Final = ("version", "reserved_cycles", "idle_cycles_burned_per_day")
_VISIBILITY: Final = "_visibility"


def status_value(status: CanisterStatus) -> dict[str, Any]:
    """Return the JSON value of a status."""
    settings = status.settings
    return {
        "canister_id": str(status.canister_id),
        "certified": status.certified,
        "run_state": status.run_state.value,
        "controllers": [str(item) for item in settings.controllers],
        "settings": {name: setting_value(name, settings.values[name]) for name in sorted(settings.values)},
        "module_hash": None if status.module_hash is None else status.module_hash.hex(),
        "cycles": status.cycles,
        "memory_size_bytes": status.memory_size_bytes,
        "memory_metrics": dict(sorted(status.memory_metrics.items())),
        "query_stats": dict(sorted(status.query_stats.items())),
        **{name: getattr(status, name) for name in _OPTIONAL_NUMBERS},
    }


def status_of(value: Mapping[str, Any]) -> CanisterStatus:
    """Return the status of a JSON value; raises `ValueError`, `TypeError`, `KeyError` or `AttributeError`."""
    digest = value["module_hash"]
    settings = typed(value["settings"], dict)
    return CanisterStatus(
        canister_id=Principal.parse(typed(value["canister_id"], str)),
        certified=typed(value["certified"], bool),
        run_state=RunState(value["run_state"]),
        settings=CanisterSettings(
            controllers=tuple(Principal.parse(typed(item, str)) for item in typed(value["controllers"], list)),
            values={name: setting_of(name, item) for name, item in settings.items()},
        ),
        module_hash=None if digest is None else bytes.fromhex(digest),
        cycles=typed(value["cycles"], int),
        memory_size_bytes=typed(value["memory_size_bytes"], int),
        memory_metrics={name: typed(item, int) for name, item in value["memory_metrics"].items()},
        query_stats={name: typed(item, int) for name, item in value["query_stats"].items()},
        **{name: None if value[name] is None else typed(value[name], int) for name in _OPTIONAL_NUMBERS},
    )


def snapshot_value(snapshot: Snapshot) -> dict[str, Any]:
    """Return the JSON value of a snapshot that the network lists."""
    return {
        "snapshot_id": str(snapshot.snapshot_id),
        "taken_at_ns": snapshot.taken_at_ns,
        "size_bytes": snapshot.size_bytes,
    }


def snapshot_of(value: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot of a JSON value; raises as `status_of`."""
    return Snapshot(
        snapshot_id=SnapshotId.parse(typed(value["snapshot_id"], str)),
        taken_at_ns=typed(value["taken_at_ns"], int),
        size_bytes=typed(value["size_bytes"], int),
    )


def log_value(record: LogRecord) -> dict[str, Any]:
    """Return the JSON value of a line of the log: as text where it is UTF-8, else in base64."""
    try:
        content = {"text": record.content.decode()}
    except UnicodeDecodeError:
        content = {"base64": base64.b64encode(record.content).decode("ascii")}
    return {"index": record.index, "at_ns": record.at_ns, **content}


def log_of(value: Mapping[str, Any]) -> LogRecord:
    """Return the line of the log of a JSON value; raises as `status_of`."""
    if "text" in value:
        content = typed(value["text"], str).encode()
    else:
        try:
            content = base64.b64decode(typed(value["base64"], str), validate=True)
        except binascii.Error as error:
            raise ValueError("no base64") from error
    return LogRecord(index=typed(value["index"], int), at_ns=typed(value["at_ns"], int), content=content)


def setting_value(name: str, value: Any) -> Any:
    """Return the JSON value of a setting; for names ending in ``_visibility`` a list holds principals as text."""
    if name.endswith(_VISIBILITY) and isinstance(value, tuple):
        viewers = all(isinstance(item, Principal) for item in value)
        return [str(viewer) for viewer in value] if viewers else {"$tuple": _plain(value)}
    return _plain(value)


def setting_of(name: str, value: Any) -> Any:
    """Return the setting of a JSON value; raises as `status_of`."""
    if name.endswith(_VISIBILITY) and isinstance(value, list):
        return tuple(Principal.parse(typed(viewer, str)) for viewer in value)
    return _rich(value)


def _plain(value: Any) -> Any:
    match value:
        case Principal():
            plain: Any = {"$principal": str(value)}
        case bytes():
            plain = {"$bytes": value.hex()}
        case float():
            plain = {"$float": repr(value)}
        case list() | tuple():
            plain = [_plain(item) for item in value]
        case Mapping():
            pairs = [(str(key), _plain(item)) for key, item in value.items()]
            tagged = any(key.startswith("$") for key, _ in pairs)
            plain = {"$map": [list(pair) for pair in pairs]} if tagged else dict(pairs)
        case _:
            plain = value
    return plain


def _rich(value: Any) -> Any:
    match value:
        case {"$principal": str(text)}:
            rich: Any = Principal.parse(text)
        case {"$bytes": str(text)}:
            rich = bytes.fromhex(text)
        case {"$float": str(text)}:
            rich = float(text)
        case {"$tuple": list(items)}:
            rich = _rich(items)
        case {"$map": list(pairs)}:
            rich = {typed(key, str): _rich(item) for key, item in pairs}
        case dict():
            rich = {key: _rich(item) for key, item in value.items()}
        case list():
            rich = tuple(_rich(item) for item in value)
        case _:
            rich = value
    return rich
