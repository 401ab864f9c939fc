"""System API: calls to other canisters, and cycles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .. import accounting, principal
from ..messages import Rejected
from .ic0 import Ic0Table, contract_violation
from .message import OutgoingCall, TableEntry

if TYPE_CHECKING:
    from .system_api import SystemApi

FUNCTIONS: Ic0Table = Ic0Table()
table: Ic0Table = FUNCTIONS

MAX_CALL_BYTES = 2 << 20
MAX_QUEUED_CALLS = 500
"""Calls between one sender and one receiver that wait for an answer."""
SYS_TRANSIENT = 2

_MAY_CALL = "U CQ Ry Rt CRy CRt T"
_MAY_SEND_CYCLES = "U Ry Rt T"
_MAY_ACCEPT = "U RQ Ry Rt"
_MAX_U64 = (1 << 64) - 1


@attrs.define
class CallUnderConstruction:
    """A call between ``call_new`` and ``call_perform``."""

    callee: bytes
    method: str
    on_reply: TableEntry
    on_reject: TableEntry
    on_cleanup: TableEntry | None = None
    arg: bytearray = attrs.field(factory=bytearray)
    cycles: int = 0
    timeout_seconds: int | None = None


@table("I I I I I I I I ->", _MAY_CALL)
def call_new(  # noqa: PLR0913, PLR0917 - type of the interface
    api: SystemApi,
    callee_source: int,
    callee_size: int,
    name_source: int,
    name_size: int,
    reply_function: int,
    reply_environment: int,
    reject_function: int,
    reject_environment: int,
) -> None:
    """Begin a call; one begun before and not performed is dropped, its cycles return."""
    if api.call:
        api.cycles_sent -= api.call.cycles
    callee = api.read(callee_source, callee_size)
    if callee_size > 29:
        text = f"ic0.call_new: a principal has at most 29 bytes, not {callee_size}"
        raise contract_violation(text)
    try:
        method = api.read(name_source, name_size).decode()
    except UnicodeDecodeError:
        text = "ic0.call_new: the method name is not UTF-8"
        raise contract_violation(text) from None
    api.call = CallUnderConstruction(
        callee,
        method,
        TableEntry(reply_function, reply_environment),
        TableEntry(reject_function, reject_environment),
    )


@table("I I ->", _MAY_CALL)
def call_on_cleanup(api: SystemApi, function: int, environment: int) -> None:
    """Set what runs when the callback traps."""
    call = _open_call(api, "call_on_cleanup")
    if call.on_cleanup:
        text = "ic0.call_on_cleanup can be called at most once between `ic0.call_new` and `ic0.call_perform`"
        raise contract_violation(text)
    call.on_cleanup = TableEntry(function, environment)


@table("I I ->", _MAY_CALL)
def call_data_append(api: SystemApi, source: int, size: int) -> None:
    """Append to the argument."""
    call = _open_call(api, "call_data_append")
    total = len(call.arg) + len(call.method.encode()) + size
    if total > MAX_CALL_BYTES:
        text = f"ic0.call_data_append: size of the call ({total}) exceeds {MAX_CALL_BYTES}"
        raise contract_violation(text)
    call.arg += api.read(source, size)


@table("i32 ->", _MAY_CALL)
def call_with_best_effort_response(api: SystemApi, timeout_seconds: int) -> None:
    """Accept that the answer may be lost; the network waits 300 s at most."""
    call = _open_call(api, "call_with_best_effort_response")
    if call.timeout_seconds is not None:
        text = "ic0.call_with_best_effort_response: a timeout is already set for this call"
        raise contract_violation(text)
    call.timeout_seconds = min(timeout_seconds, 300)


@table("i64 i64 ->", _MAY_SEND_CYCLES)
def call_cycles_add128(api: SystemApi, high: int, low: int) -> None:
    """Attach cycles."""
    _attach(api, "call_cycles_add128", high << 64 | low)


@table("i64 ->", _MAY_SEND_CYCLES, memory32_only=True)
def call_cycles_add(api: SystemApi, amount: int) -> None:
    """Attach cycles."""
    _attach(api, "call_cycles_add", amount)


@table("-> i32", _MAY_CALL)
def call_perform(api: SystemApi) -> int:
    """Queue the call; 2 when the canister cannot afford it or too many calls wait for the same callee."""
    call = _open_call(api, "call_perform")
    api.call = None
    waiting = api.message.waiting_calls.get(call.callee, 0) + sum(item.callee == call.callee for item in api.calls)
    below_threshold = api.replicated and api.balance < accounting.freezing_balance(api.canister)
    if waiting >= MAX_QUEUED_CALLS or below_threshold:
        api.cycles_sent -= call.cycles
        return SYS_TRANSIENT
    api.calls.append(
        OutgoingCall(
            callee=call.callee,
            method=call.method,
            arg=bytes(call.arg),
            cycles=call.cycles,
            on_reply=call.on_reply,
            on_reject=call.on_reject,
            on_cleanup=call.on_cleanup,
            timeout_seconds=call.timeout_seconds,
        )
    )
    return 0


def _open_call(api: SystemApi, name: str) -> CallUnderConstruction:
    if api.call is None:
        text = f"ic0.{name} called when no call is under construction."
        raise contract_violation(text)
    return api.call


def _attach(api: SystemApi, name: str, amount: int) -> None:
    call = _open_call(api, name)
    if amount > api.balance:
        text = (
            f"Canister {principal.to_text(api.canister.canister_id)} is out of cycles: "
            f"please top up the canister with at least {amount - api.balance} additional cycles"
        )
        raise Rejected("IC0207", text)
    call.cycles += amount
    api.cycles_sent += amount


@table("I ->", _MAY_ACCEPT)
def msg_cycles_available128(api: SystemApi, target: int) -> None:
    """Cycles sent along and not yet accepted."""
    api.write_u128(target, api.cycles_available)


@table("-> i64", _MAY_ACCEPT, memory32_only=True)
def msg_cycles_available(api: SystemApi) -> int:
    """Cycles sent along and not yet accepted."""
    return _as_u64(api.cycles_available)


@table("I ->", "Ry Rt")
def msg_cycles_refunded128(api: SystemApi, target: int) -> None:
    """Cycles that came back with the answer."""
    api.write_u128(target, api.message.cycles_refunded)


@table("-> i64", "Ry Rt", memory32_only=True)
def msg_cycles_refunded(api: SystemApi) -> int:
    """Cycles that came back with the answer."""
    return _as_u64(api.message.cycles_refunded)


@table("i64 i64 I ->", _MAY_ACCEPT)
def msg_cycles_accept128(api: SystemApi, high: int, low: int, target: int) -> None:
    """Accept up to an amount."""
    api.write_u128(target, _accept(api, high << 64 | low))


@table("i64 -> i64", _MAY_ACCEPT, memory32_only=True)
def msg_cycles_accept(api: SystemApi, amount: int) -> int:
    """Accept up to an amount."""
    return _accept(api, amount)


def _accept(api: SystemApi, amount: int) -> int:
    accepted = min(amount, api.cycles_available)
    api.cycles_accepted += accepted
    return accepted


@table("i64 i64 I ->", "I G U RQ Ry Rt C T")
def cycles_burn128(api: SystemApi, high: int, low: int, target: int) -> None:
    """Destroy cycles above the freezing threshold."""
    spare = max(0, api.balance - accounting.freezing_balance(api.canister))
    burned = min(high << 64 | low, spare)
    api.cycles_burned += burned
    api.write_u128(target, burned)


@table("I ->", "*")
def canister_cycle_balance128(api: SystemApi, target: int) -> None:
    """Cycles of the canister."""
    api.write_u128(target, api.balance)


@table("-> i64", "*", memory32_only=True)
def canister_cycle_balance(api: SystemApi) -> int:
    """Cycles of the canister."""
    return _as_u64(api.balance)


@table("I ->", "*")
def canister_liquid_cycle_balance128(api: SystemApi, target: int) -> None:
    """Cycles above the freezing threshold."""
    api.write_u128(target, max(0, api.balance - accounting.freezing_balance(api.canister)))


def _as_u64(amount: int) -> int:
    if amount > _MAX_U64:
        text = f"{amount} cycles do not fit in 64 bits; use the 128-bit function"
        raise contract_violation(text)
    return amount
