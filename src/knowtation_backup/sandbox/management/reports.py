"""The management canister's methods that only look: status, information, logs, metrics, random bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs

from .. import accounting, principal
from ..messages import Rejected
from ..state import CanisterStatus, Change
from .context import Handler, ManagementContext, Reply
from .settings import settings_value

if TYPE_CHECKING:
    from ..replica.replica import ManagementRequest

__all__ = ["QueryHandler", "Reports"]

QueryHandler = Callable[[bytes, dict[str, Any]], tuple[Any, ...]]
"""Caller and argument to result values."""

_MAX_LOG_REPLY_BYTES: Final = 2_000_000
_REPLICA_VERSION: Final = "knowtation-sandbox"


class Reports:
    """Handlers for calls and for queries."""

    def __init__(self, context: ManagementContext) -> None:
        self._context = context

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers of calls by method name."""
        return {
            "canister_status": lambda request, argument: Reply(self.status(request.caller, argument)),
            "canister_info": lambda request, argument: Reply(self.info(request.caller, argument)),
            "canister_metadata": self.metadata,
            "canister_metrics": lambda request, argument: Reply(self.metrics(request.caller, argument)),
            "raw_rand": lambda _request, _argument: Reply((os.urandom(32),)),
            "subnet_info": self.subnet_info,
        }

    def queries(self) -> dict[str, QueryHandler]:
        """Return the handlers of queries by method name."""
        return {
            "canister_status": self.status,
            "canister_info": self.info,
            "canister_metrics": self.metrics,
            "fetch_canister_logs": self.logs,
            "list_canisters": self.canisters,
        }

    def status(self, caller: bytes, argument: dict[str, Any]) -> tuple[Any, ...]:
        """Return everything about a canister, to those its status visibility admits and to itself."""
        canister = self._context.canister(argument["canister_id"])
        if caller != canister.canister_id and not self._context.may_view(
            canister, canister.settings.status_visibility, caller
        ):
            raise self._context.controllers_only(canister, caller)
        metrics = accounting.memory_usage(canister)
        total = metrics.pop("total")
        return (
            {
                "status": (canister.status.value, None),
                "ready_for_migration": canister.status is CanisterStatus.STOPPED,
                "version": canister.version,
                "settings": settings_value(canister.settings),
                "module_hash": canister.code.module.hash if canister.code else None,
                "memory_size": total,
                "memory_metrics": metrics,
                "cycles": canister.cycles,
                "reserved_cycles": canister.reserved_cycles,
                "idle_cycles_burned_per_day": accounting.idle_cycles_burned_per_day(canister),
                "query_stats": attrs.asdict(canister.query_stats),
            },
        )

    def info(self, _caller: bytes, argument: dict[str, Any]) -> tuple[Any, ...]:
        """Return history, module hash and controllers; public."""
        canister = self._context.canister(argument["canister_id"])
        wanted = argument["num_requested_changes"] or 0
        recent = canister.history[-wanted:] if wanted else []
        return (
            {
                "total_num_changes": canister.total_changes,
                "recent_changes": [_change_value(change) for change in recent],
                "module_hash": canister.code.module.hash if canister.code else None,
                "controllers": list(canister.settings.controllers),
            },
        )

    def metadata(self, request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Return a custom section; private ones only to controllers."""
        canister = self._context.canister(argument["canister_id"])
        text, name = principal.to_text(canister.canister_id), argument["name"]
        if canister.code is None:
            raise Rejected("IC0406", f"The canister {text} has no Wasm module and hence no metadata is available.")
        section = canister.code.module.custom_sections.get(name)
        if section is None or not (section.public or request.caller in canister.settings.controllers):
            raise Rejected("IC0406", f"The canister {text} has no metadata section with the name {name}.")
        return Reply(({"value": section.content},))

    def metrics(self, caller: bytes, argument: dict[str, Any]) -> tuple[Any, ...]:
        """Return cycles consumed by use case, to controllers."""
        consumed = self._context.controlled(argument["canister_id"], caller).cycles_consumed
        return ({"cycles_consumed": {name: consumed.get(name, 0) for name in accounting.USE_CASES}},)

    def logs(self, caller: bytes, argument: dict[str, Any]) -> tuple[Any, ...]:
        """Return log records, newest last, to those the log visibility admits."""
        canister = self._context.canister(argument["canister_id"])
        if not self._context.may_view(canister, canister.settings.log_visibility, caller):
            raise Rejected(
                "IC0406",
                f"Caller {principal.to_text(caller)} is not allowed to query ic00 method fetch_canister_logs",
            )
        records = list(canister.logs)
        if argument["filter"] is not None:
            kind, bounds = argument["filter"]
            field = "idx" if kind == "by_idx" else "timestamp_nanos"
            records = [item for item in records if bounds["start"] <= getattr(item, field) < bounds["end"]]
        size_bytes, first = 0, len(records)
        while first > 0 and size_bytes + len(records[first - 1].content) <= _MAX_LOG_REPLY_BYTES:
            first -= 1
            size_bytes += len(records[first].content)
        return ({"canister_log_records": [attrs.asdict(item) for item in records[first:]]},)

    def canisters(self, _caller: bytes, _argument: dict[str, Any]) -> tuple[Any, ...]:
        """Return all canister ids as ranges; in the sandbox everybody counts as a subnet's admin."""
        ranges: list[dict[str, bytes]] = []
        for canister_id in sorted(self._context.replica.canisters):
            if ranges and _follows(ranges[-1]["end"], canister_id):
                ranges[-1]["end"] = canister_id
            else:
                ranges.append({"start": canister_id, "end": canister_id})
        return ({"canisters": ranges},)

    def subnet_info(self, _request: ManagementRequest, argument: dict[str, Any]) -> Reply:
        """Return the version of this subnet."""
        subnet_id = argument["subnet_id"]
        if subnet_id != self._context.replica.subnet_id:
            raise Rejected("IC0404", f"Subnet {principal.to_text(subnet_id)} not found.")
        return Reply(({"replica_version": _REPLICA_VERSION, "registry_version": 1},))


def _follows(previous: bytes, canister_id: bytes) -> bool:
    """Tell whether two ids in the usual form have neighbouring numbers."""
    usual = len(previous) == len(canister_id) == 10 and previous[8:] == canister_id[8:] == b"\x01\x01"
    return usual and int.from_bytes(previous[:8], "big") + 1 == int.from_bytes(canister_id[:8], "big")


def _change_value(change: Change) -> dict[str, Any]:
    return {
        "timestamp_nanos": change.timestamp_nanos,
        "canister_version": change.canister_version,
        "origin": change.origin,
        "details": change.details,
    }
