"""System API: stable memory, time, certified data, counters, identity, environment, prices, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import accounting
from ..messages import Rejected
from ..state import CanisterStatus
from .ic0 import Ic0Table, contract_violation, trapped
from .message import Mode

if TYPE_CHECKING:
    from .stable import StableMemory
    from .system_api import SystemApi

FUNCTIONS: Ic0Table = Ic0Table()
table: Ic0Table = FUNCTIONS

MAX_CERTIFIED_DATA_BYTES = 32
_MAX_STABLE32_PAGES = 1 << 16
_STATUS_NUMBERS = {CanisterStatus.RUNNING: 1, CanisterStatus.STOPPING: 2, CanisterStatus.STOPPED: 3}

# Prices on a 13-node subnet, in cycles (internet-computer reference, D.9, and the network's price list).
_MAX_RESPONSE_BYTES = 2 << 20
_MESSAGE_INSTRUCTIONS = 40_000_000_000
_OUTCALL_FEE = 49_140_000
_OUTCALL_REQUEST_BYTE_FEE = 5_200
_OUTCALL_RESPONSE_BYTE_FEE = 10_400
_UNKNOWN_KEY = 2


def _stable(api: SystemApi) -> StableMemory:
    if api.stable is None:
        text = "stable memory used outside a message"
        raise trapped(text)
    return api.stable


@table("-> i64", "*s")
def stable64_size(api: SystemApi) -> int:
    """Size in Wasm pages."""
    return _stable(api).size_pages


@table("i64 -> i64", "*s")
def stable64_grow(api: SystemApi, pages: int) -> int:
    """Grow; the old size or -1."""
    return _stable(api).grow(pages)


@table("i64 i64 i64 ->", "*s")
def stable64_write(api: SystemApi, offset: int, source: int, size: int) -> None:
    """Copy heap to stable memory."""
    stable = _stable(api)
    _check_stable(stable, offset, size)
    stable.write(offset, api.read(source, size))


@table("i64 i64 i64 ->", "*s")
def stable64_read(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy stable memory to heap."""
    stable = _stable(api)
    _check_stable(stable, offset, size)
    api.write(target, stable.image.read(offset, size))


@table("-> i32", "*s", memory32_only=True)
def stable_size(api: SystemApi) -> int:
    """Size in Wasm pages, up to 4 GiB."""
    return _stable32(api).size_pages


@table("i32 -> i32", "*s", memory32_only=True)
def stable_grow(api: SystemApi, pages: int) -> int:
    """Grow up to 4 GiB; the old size or -1."""
    stable = _stable32(api)
    return -1 if stable.size_pages + pages > _MAX_STABLE32_PAGES else stable.grow(pages)


@table("i32 i32 i32 ->", "*s", memory32_only=True)
def stable_write(api: SystemApi, offset: int, source: int, size: int) -> None:
    """Copy heap to stable memory."""
    _stable32(api)
    stable64_write(api, offset, source, size)


@table("i32 i32 i32 ->", "*s", memory32_only=True)
def stable_read(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy stable memory to heap."""
    _stable32(api)
    stable64_read(api, target, offset, size)


def _stable32(api: SystemApi) -> StableMemory:
    stable = _stable(api)
    if stable.size_pages > _MAX_STABLE32_PAGES:
        text = "32 bit stable memory api used on a memory larger than 4GB"
        raise trapped(text)
    return stable


def _check_stable(stable: StableMemory, offset: int, size: int) -> None:
    if offset + size > stable.image.size_bytes:
        text = "stable memory out of bounds"
        raise trapped(text)


@table("-> I", "I G U RQ Ry Rt C T")
def root_key_size(api: SystemApi) -> int:
    """Size of the DER root key."""
    return len(api.environment.root_key_der)


@table("I I I ->", "I G U RQ Ry Rt C T")
def root_key_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the DER root key."""
    api.copy_slice("root_key_copy", api.environment.root_key_der, target, offset, size)


@table("I I ->", "I G U Ry Rt T")
def certified_data_set(api: SystemApi, source: int, size: int) -> None:
    """Set the certified data from the end of this message on."""
    if size > MAX_CERTIFIED_DATA_BYTES:
        text = f"ic0.certified_data_set: the data of {size} bytes is larger than {MAX_CERTIFIED_DATA_BYTES}"
        raise contract_violation(text)
    api.certified_data = api.read(source, size)


@table("-> i32", "*")
def data_certificate_present(api: SystemApi) -> int:
    """Whether this is a query with a certificate."""
    return int(api.message.certificate is not None and api.mode in {Mode.QUERY, Mode.COMPOSITE_QUERY})


@table("-> I", "NRQ CQ")
def data_certificate_size(api: SystemApi) -> int:
    """Size of the certificate."""
    return len(_certificate(api))


@table("I I I ->", "NRQ CQ")
def data_certificate_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the certificate."""
    api.copy_slice("data_certificate_copy", _certificate(api), target, offset, size)


def _certificate(api: SystemApi) -> bytes:
    if api.message.certificate is None:
        text = "ic0.data_certificate: no certificate is available in this query"
        raise contract_violation(text)
    if api.certificate is None:
        api.certificate = api.message.certificate()
    return api.certificate


@table("-> i64", "*")
def time(api: SystemApi) -> int:
    """Nanoseconds since the epoch, constant within a message."""
    return api.time_ns


@table("i64 -> i64", "I G U Ry Rt C T")
def global_timer_set(api: SystemApi, value: int) -> int:
    """Set the timer (0: off); the previous value."""
    previous = api.timer
    api.global_timer = value
    return previous


@table("i32 -> i64", "*s")
def performance_counter(api: SystemApi, counter: int) -> int:
    """Instructions of this message (0) or of the call context (1)."""
    if counter > 1:
        text = f"ic0.performance_counter: counter type {counter} is not supported"
        raise contract_violation(text)
    return api.instructions() + (api.message.context_instructions if counter else 0)


@table("I I -> i32", "*s")
def is_controller(api: SystemApi, source: int, size: int) -> int:
    """Whether a principal controls the canister."""
    if size > 29:
        text = f"ic0.is_controller: a principal has at most 29 bytes, not {size}"
        raise contract_violation(text)
    return int(api.read(source, size) in api.canister.settings.controllers)


@table("-> i32", "*s")
def in_replicated_execution(api: SystemApi) -> int:
    """Whether effects of this message can last."""
    return int(api.replicated)


@table("-> I", "*")
def canister_self_size(api: SystemApi) -> int:
    """Size of the canister's own id."""
    return len(api.canister.canister_id)


@table("I I I ->", "*")
def canister_self_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the canister's own id."""
    api.copy_slice("canister_self_copy", api.canister.canister_id, target, offset, size)


@table("-> I", "*")
def subnet_self_size(api: SystemApi) -> int:
    """Size of the subnet id."""
    return len(api.environment.subnet_id)


@table("I I I ->", "*")
def subnet_self_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the subnet id."""
    api.copy_slice("subnet_self_copy", api.environment.subnet_id, target, offset, size)


@table("-> i32", "*")
def canister_status(api: SystemApi) -> int:
    """1 running, 2 stopping, 3 stopped."""
    return _STATUS_NUMBERS[api.canister.status]


@table("-> i64", "*")
def canister_version(api: SystemApi) -> int:
    """The canister's version."""
    return api.canister.version if api.message.version is None else api.message.version


@table("-> I", "*")
def env_var_count(api: SystemApi) -> int:
    """Number of environment variables."""
    return len(api.canister.settings.environment_variables)


@table("I -> I", "*")
def env_var_name_size(api: SystemApi, index: int) -> int:
    """Size of a variable's name."""
    return len(_variable_name(api, index))


@table("I I I I ->", "*")
def env_var_name_copy(api: SystemApi, index: int, target: int, offset: int, size: int) -> None:
    """Copy a variable's name."""
    api.copy_slice("env_var_name_copy", _variable_name(api, index), target, offset, size)


@table("I I -> i32", "*")
def env_var_name_exists(api: SystemApi, source: int, size: int) -> int:
    """Whether a variable is set."""
    return int(_text(api, source, size) in api.canister.settings.environment_variables)


@table("I I -> I", "*")
def env_var_value_size(api: SystemApi, source: int, size: int) -> int:
    """Size of a variable's value."""
    return len(_variable_value(api, source, size))


@table("I I I I I ->", "*")
def env_var_value_copy(  # noqa: PLR0913, PLR0917 - type of the interface
    api: SystemApi, name_source: int, name_size: int, target: int, offset: int, size: int
) -> None:
    """Copy a variable's value."""
    api.copy_slice("env_var_value_copy", _variable_value(api, name_source, name_size), target, offset, size)


def _variable_name(api: SystemApi, index: int) -> bytes:
    names = sorted(api.canister.settings.environment_variables)
    if index >= len(names):
        text = f"environment variable index {index} out of bounds ({len(names)} are set)"
        raise contract_violation(text)
    return names[index].encode()


def _variable_value(api: SystemApi, source: int, size: int) -> bytes:
    name = _text(api, source, size)
    variables = api.canister.settings.environment_variables
    if name not in variables:
        text = f"environment variable {name!r} is not set"
        raise contract_violation(text)
    return variables[name].encode()


def _text(api: SystemApi, source: int, size: int) -> str:
    try:
        return api.read(source, size).decode()
    except UnicodeDecodeError:
        text = "the name of an environment variable is not UTF-8"
        raise contract_violation(text) from None


@table("i64 i64 I ->", "*s")
def cost_call(api: SystemApi, method_name_size: int, payload_size: int, target: int) -> None:
    """Cycles a call needs at the time it is made, its largest possible answer included."""
    execution = accounting.execution_cost(_MESSAGE_INSTRUCTIONS, wasm64=api.memory64)
    size = method_name_size + payload_size + _MAX_RESPONSE_BYTES
    api.write_u128(target, accounting.CALL_FEE + size * accounting.CALL_BYTE_FEE + execution)


@table("I ->", "*s")
def cost_create_canister(api: SystemApi, target: int) -> None:
    """Price of a canister."""
    api.write_u128(target, accounting.CREATION_FEE)


@table("i64 i64 I ->", "*s")
def cost_http_request(api: SystemApi, request_size: int, max_response_size: int, target: int) -> None:
    """Price of an HTTP outcall (which the sandbox does not offer)."""
    variable = request_size * _OUTCALL_REQUEST_BYTE_FEE + max_response_size * _OUTCALL_RESPONSE_BYTE_FEE
    api.write_u128(target, _OUTCALL_FEE + variable)


@table("I I i32 I -> i32", "*s")
def cost_sign_with_ecdsa(api: SystemApi, source: int, size: int, _curve: int, _target: int) -> int:
    """Price of a threshold signature: the sandbox has no chain keys, so no key name is known."""
    api.read(source, size)
    return _UNKNOWN_KEY


@table("I I i32 I -> i32", "*s")
def cost_sign_with_schnorr(api: SystemApi, source: int, size: int, _algorithm: int, _target: int) -> int:
    """Like `cost_sign_with_ecdsa`."""
    api.read(source, size)
    return _UNKNOWN_KEY


@table("I I i32 I -> i32", "*s")
def cost_vetkd_derive_key(api: SystemApi, source: int, size: int, _curve: int, _target: int) -> int:
    """Like `cost_sign_with_ecdsa`."""
    api.read(source, size)
    return _UNKNOWN_KEY


@table("I I ->", "*s")
def debug_print(api: SystemApi, source: int, size: int) -> None:
    """Append a record to the canister's log."""
    api.logs.append((api.time_ns, api.read(source, size)))


@table("I I ->", "*s")
def trap(api: SystemApi, source: int, size: int) -> None:
    """End the message and undo it."""
    text = api.read(source, size).decode(errors="replace")
    raise Rejected("IC0503", f"Canister called `ic0.trap` with message: '{text}'")
