"""System API: the message being executed, its caller, and the answer to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..messages import Rejected, Replied
from .ic0 import Ic0Table, contract_violation

if TYPE_CHECKING:
    from .system_api import SystemApi

FUNCTIONS: Ic0Table = Ic0Table()
table: Ic0Table = FUNCTIONS

MAX_REPLY_BYTES = 2 << 20
MAX_QUERY_REPLY_BYTES = 3 << 20

_WITH_ARGUMENT = "I U RQ NRQ CQ Ry CRy F"
_WITH_CALLER_INFO = "U RQ NRQ CQ Ry Rt CRy CRt C CC F"
_WITH_REJECT_TEXT = "Rt CRt"
_MAY_ANSWER = "U RQ NRQ CQ Ry Rt CRy CRt"


@table("-> I", _WITH_ARGUMENT)
def msg_arg_data_size(api: SystemApi) -> int:
    """Size of the argument, or of the reply in a reply callback."""
    return len(api.message.arg)


@table("I I I ->", _WITH_ARGUMENT)
def msg_arg_data_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the argument."""
    api.copy_slice("msg_arg_data_copy", api.message.arg, target, offset, size)


@table("-> I", "*")
def msg_caller_size(api: SystemApi) -> int:
    """Size of the caller's principal."""
    return len(api.message.caller)


@table("I I I ->", "*")
def msg_caller_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the caller's principal."""
    api.copy_slice("msg_caller_copy", api.message.caller, target, offset, size)


@table("-> I", _WITH_CALLER_INFO)
def msg_caller_info_data_size(_api: SystemApi) -> int:
    """Size of the sender info; the sandbox passes none on."""
    return 0


@table("I I I ->", _WITH_CALLER_INFO)
def msg_caller_info_data_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the sender info: empty."""
    api.copy_slice("msg_caller_info_data_copy", b"", target, offset, size)


@table("-> I", _WITH_CALLER_INFO)
def msg_caller_info_signer_size(_api: SystemApi) -> int:
    """Size of the sender info's signer; there is none."""
    return 0


@table("I I I ->", _WITH_CALLER_INFO)
def msg_caller_info_signer_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the sender info's signer: empty."""
    api.copy_slice("msg_caller_info_signer_copy", b"", target, offset, size)


@table("-> i32", "Ry Rt CRy CRt C")
def msg_reject_code(api: SystemApi) -> int:
    """Reject code of the awaited call, 0 for a reply."""
    reject = api.message.reject
    return int(reject.code) if reject else 0


@table("-> I", _WITH_REJECT_TEXT)
def msg_reject_msg_size(api: SystemApi) -> int:
    """Size of the reject text."""
    return len(_reject_text(api))


@table("I I I ->", _WITH_REJECT_TEXT)
def msg_reject_msg_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the reject text."""
    api.copy_slice("msg_reject_msg_copy", _reject_text(api), target, offset, size)


def _reject_text(api: SystemApi) -> bytes:
    reject = api.message.reject
    return reject.message.encode() if reject else b""


@table("-> i64", "U RQ NRQ CQ Ry Rt CRy CRt C CC")
def msg_deadline(api: SystemApi) -> int:
    """Until when the caller waits, 0 for ever."""
    return api.message.deadline


@table("I I ->", _MAY_ANSWER)
def msg_reply_data_append(api: SystemApi, source: int, size: int) -> None:
    """Append to the reply."""
    _check_unanswered(api, "msg_reply_data_append")
    limit = MAX_REPLY_BYTES if api.replicated else MAX_QUERY_REPLY_BYTES
    total = len(api.reply_data) + size
    if total > limit:
        text = f"ic0.msg_reply_data_append: application payload size ({total}) cannot be larger than {limit}"
        raise contract_violation(text)
    api.reply_data += api.read(source, size)


@table("->", _MAY_ANSWER)
def msg_reply(api: SystemApi) -> None:
    """Answer with what was appended."""
    _check_unanswered(api, "msg_reply")
    api.answer = Replied(bytes(api.reply_data))
    api.answered = True


@table("I I ->", _MAY_ANSWER)
def msg_reject(api: SystemApi, source: int, size: int) -> None:
    """Answer with a reject."""
    _check_unanswered(api, "msg_reject")
    text = api.read(source, size)
    try:
        message = text.decode()
    except UnicodeDecodeError:
        violation = "ic0.msg_reject: invalid UTF-8 string provided"
        raise contract_violation(violation) from None
    api.answer = Rejected("IC0406", message)
    api.answered = True


@table("-> I", "F")
def msg_method_name_size(api: SystemApi) -> int:
    """Size of the inspected method's name."""
    return len(api.message.method.encode())


@table("I I I ->", "F")
def msg_method_name_copy(api: SystemApi, target: int, offset: int, size: int) -> None:
    """Copy the inspected method's name."""
    api.copy_slice("msg_method_name_copy", api.message.method.encode(), target, offset, size)


@table("->", "F")
def accept_message(api: SystemApi) -> None:
    """Let the inspected message pass."""
    if api.accepted:
        text = "ic0.accept_message: the function was already called"
        raise contract_violation(text)
    api.accepted = True


def _check_unanswered(api: SystemApi, name: str) -> None:
    if api.answered:
        text = f"ic0.{name}: the call is already replied"
        raise contract_violation(text)
