"""Settings of canisters: from Candid, back to Candid, limits."""

from __future__ import annotations

import copy
from typing import Any, Final

import attrs

from .. import accounting
from ..messages import Rejected
from ..state import Canister, CanisterSettings, Visibility

__all__ = ["apply_settings", "initial_settings", "settings_value"]

_MAX_CONTROLLERS: Final = 10
_MAX_VIEWERS: Final = 10
_MAX_VARIABLES: Final = 20
_MAX_VARIABLE_CHARACTERS: Final = 128
_MIN_LOG_BYTES: Final = 4 << 10
_MAX_LOG_BYTES: Final = 2 << 20
_U64: Final = (1 << 64) - 1

# Name in the error text and upper bound, both inclusive.
_RANGES: Final[dict[str, tuple[str, int]]] = {
    "compute_allocation": ("ComputeAllocation", 100),
    "memory_allocation": ("MemoryAllocation", (1 << 48) - 1),
    "freezing_threshold": ("FreezingThreshold", _U64),
    "reserved_cycles_limit": ("ReservedCyclesLimit", (1 << 128) - 1),
    "minimum_incoming_canister_call_cycles": ("MinimumIncomingCanisterCallCycles", (1 << 128) - 1),
    "wasm_memory_limit": ("WasmMemoryLimit", (1 << 48) - 1),
    "wasm_memory_threshold": ("WasmMemoryThreshold", (1 << 48) - 1),
}
_VISIBILITIES: Final = ("log_visibility", "snapshot_visibility", "status_visibility")


def initial_settings(given: dict[str, Any] | None, caller: bytes) -> CanisterSettings:
    """
    Return the settings of a new canister; its creator controls it unless *given* names controllers.

    Raises:
        Rejected: IC0504, IC0408, IC0406.
    """
    settings = CanisterSettings(controllers=[caller])
    _merge(settings, given or {})
    return settings


def apply_settings(canister: Canister, given: dict[str, Any]) -> None:
    """
    Change those settings of *canister* that *given* names; all or none.

    Raises:
        Rejected: IC0504, IC0408, IC0406 for invalid values; IC0530, IC0531, IC0540 when the balance or the reserve
            forbids them.
    """
    settings = copy.deepcopy(canister.settings)
    _merge(settings, given)
    if settings.reserved_cycles_limit < canister.reserved_cycles:
        raise Rejected(
            "IC0540",
            f"Cannot set the reserved cycles limit {settings.reserved_cycles_limit} below the reserved cycles balance "
            f"of the canister {canister.reserved_cycles}.",
        )
    _require_allocations_covered(canister, settings)
    canister.settings = settings


def settings_value(settings: CanisterSettings) -> dict[str, Any]:
    """Return definite settings as a Candid value."""
    value = attrs.asdict(settings, recurse=False)
    for name in _VISIBILITIES:
        visibility: Visibility = value[name]
        viewers = list(visibility.viewers) if visibility.kind == "allowed_viewers" else None
        value[name] = (visibility.kind, viewers)
    value["environment_variables"] = [
        {"name": name, "value": text} for name, text in settings.environment_variables.items()
    ]
    return value


def _merge(settings: CanisterSettings, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is None:
            continue
        if name == "controllers":
            settings.controllers = _controllers(value)
        elif name in _VISIBILITIES:
            setattr(settings, name, _visibility(value))
        elif name == "environment_variables":
            settings.environment_variables = _variables(value)
        elif name == "log_memory_limit":
            settings.log_memory_limit = _log_memory_limit(value)
        else:
            label, maximum = _RANGES[name]
            if value > maximum:
                raise _invalid(f"{label} expected to be in the range of [0..{maximum}], got {value}")
            setattr(settings, name, value)


def _invalid(reason: str) -> Rejected:
    return Rejected("IC0504", f"Could not validate the settings: {reason}")


def _controllers(value: list[bytes]) -> list[bytes]:
    if len(value) > _MAX_CONTROLLERS:
        raise _invalid(f"Invalid settings: 'controllers' length exceeds maximum size allowed of {_MAX_CONTROLLERS}.")
    return sorted(set(value))


def _visibility(value: tuple[str, Any]) -> Visibility:
    kind, viewers = value
    if kind != "allowed_viewers":
        return Visibility(kind)
    if len(viewers) > _MAX_VIEWERS:
        raise Rejected(
            "IC0408", f"Error decoding candid: The number of elements exceeds maximum allowed {_MAX_VIEWERS}"
        )
    return Visibility(kind, tuple(sorted(set(viewers))))


def _variables(value: list[dict[str, str]]) -> dict[str, str]:
    if len(value) > _MAX_VARIABLES:
        raise Rejected("IC0408", f"Too many environment variables: {len(value)} (max: {_MAX_VARIABLES})")
    result: dict[str, str] = {}
    for item in value:
        name, text = item["name"], item["value"]
        if len(name.encode()) > _MAX_VARIABLE_CHARACTERS:
            raise Rejected(
                "IC0408",
                f'Environment variable name "{name}" exceeds the maximum allowed length of {_MAX_VARIABLE_CHARACTERS}.',
            )
        if len(text.encode()) > _MAX_VARIABLE_CHARACTERS:
            raise Rejected(
                "IC0408",
                f'Environment variable value "{text}" exceeds the maximum allowed length of '
                f"{_MAX_VARIABLE_CHARACTERS}.",
            )
        if name in result:
            raise Rejected("IC0408", f'Duplicate environment variable name "{name}".')
        result[name] = text
    return result


def _log_memory_limit(value: int) -> int:
    if value < _MIN_LOG_BYTES:
        raise Rejected(
            "IC0406", f"The canister log memory limit {value} is too low. It must be at least {_MIN_LOG_BYTES}."
        )
    if value > _MAX_LOG_BYTES:
        raise Rejected(
            "IC0406", f"The canister log memory limit {value} is too high. It must be at most {_MAX_LOG_BYTES}."
        )
    return value


def _require_allocations_covered(canister: Canister, settings: CanisterSettings) -> None:
    for name, code, label in (
        ("compute_allocation", "IC0530", "compute allocation"),
        ("memory_allocation", "IC0531", "memory allocation"),
    ):
        wanted = getattr(settings, name)
        if wanted <= getattr(canister.settings, name):
            continue
        missing = accounting.freezing_balance(canister, settings=settings) - canister.cycles
        if missing > 0:
            raise Rejected(
                code,
                f"Cannot increase {label} to {wanted} due to insufficient cycles. "
                f"At least {missing} additional cycles are required.",
            )
