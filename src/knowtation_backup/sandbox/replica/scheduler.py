"""
Message queues of the sandbox: delivers requests and answers one at a time and keeps the call contexts.

One queue serves all canisters, first come first served, which keeps the order of calls between any two of them. A
message is executed completely before the next one starts.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import accounting, principal
from ..execution.effects import code_of, from_canister
from ..execution.message import Message, Mode, Outcome, OutgoingCall
from ..messages import MANAGEMENT_CANISTER, Answer, Rejected, Replied
from ..state import Canister, CanisterStatus
from .call_context import CallContext, PendingCall, Request

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from ..clock import SandboxClock
    from ..execution.engine import Engine

__all__ = ["Scheduler", "check_running", "find_method", "not_found"]

_ENTRIES = {"update": "canister_update ", "query": "canister_query ", "composite_query": "canister_composite_query "}


class Scheduler:
    """
    Queue, call contexts and callbacks of one subnet. Used under the replica's lock.

    Args:
        clock: For deadlines of best-effort calls.
        engine: Runs the messages.
        canisters: By raw id; shared with the replica.
        management: Takes requests to the management canister.
    """

    def __init__(
        self,
        *,
        clock: SandboxClock,
        engine: Engine,
        canisters: MutableMapping[bytes, Canister],
        management: Callable[[Request], None],
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._canisters = canisters
        self._management = management
        self._ready: collections.deque[Callable[[], None]] = collections.deque()
        self._contexts: dict[bytes, set[CallContext]] = {}
        self._waiting: dict[bytes, collections.Counter[bytes]] = {}
        self._best_effort: list[PendingCall] = []
        self.on_idle: Callable[[bytes], None] = lambda _: None
        """Called with a canister's id when its last call context closes."""

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self._ready.append(functools.partial(self._deliver, request))

    def run(self, *, until: Callable[[], bool], max_messages: int) -> None:
        """Execute queued messages until *until* holds, nothing is left, or *max_messages* have run."""
        while self._ready and max_messages > 0 and not until():
            max_messages -= 1
            self._ready.popleft()()

    def open_contexts(self, canister_id: bytes) -> int:
        """Count the open call contexts of a canister."""
        return len(self._contexts.get(canister_id, ()))

    def reject_contexts(self, canister_id: bytes, answer: Answer) -> None:
        """Answer all unanswered calls of a canister and forget its callbacks."""
        for context in list(self._contexts.get(canister_id, ())):
            context.closed = True
            if not context.answered:
                context.answer(answer)
            self._close(context)

    def run_hook(self, canister: Canister, hook: str) -> None:
        """Execute a heartbeat, timer or low-memory hook now; without effect when the canister has none."""
        if canister.code is None or hook not in canister.code.module.hooks:
            return
        context = CallContext(
            canister_id=canister.canister_id, caller=MANAGEMENT_CANISTER, cycles=0, deadline=0, respond=None
        )
        self._open(context)
        message = Message(
            mode=Mode.SYSTEM, entry=hook, may_answer=False, waiting_calls=self._waiting_calls(canister.canister_id)
        )
        self._execute(canister, context, message)
        self._settle(context, None)

    def expire(self) -> None:
        """Reject best-effort calls whose time is over."""
        now = self._clock.now_ns()
        remaining = []
        for pending in self._best_effort:
            if pending.done:
                continue
            if pending.expires_at is not None and pending.expires_at <= now:
                self._respond(pending, Rejected("IC0601", "Call deadline has expired."), 0)
            else:
                remaining.append(pending)
        self._best_effort = remaining

    def _deliver(self, request: Request) -> None:
        if request.receiver == MANAGEMENT_CANISTER:
            self._management(request)
            return
        try:
            canister = self._runnable(request)
            mode, entry = _replicated_method(canister, request.method)
        except Rejected as refusal:
            # Without the traceback: it would keep this frame alive as long as the request is remembered.
            request.respond(refusal.with_traceback(None), request.cycles)
            return
        self._run_low_memory_hook(canister)
        context = CallContext(
            canister_id=canister.canister_id,
            caller=request.caller,
            cycles=request.cycles,
            deadline=request.deadline,
            respond=request.respond,
        )
        self._open(context)
        message = Message(
            mode=mode,
            entry=entry,
            caller=request.caller,
            arg=request.arg,
            cycles_available=request.cycles,
            deadline=request.deadline,
            waiting_calls=self._waiting_calls(canister.canister_id),
        )
        outcome = self._execute(canister, context, message)
        self._settle(context, outcome.failure)

    def _runnable(self, request: Request) -> Canister:
        canister = self._canisters.get(request.receiver)
        if canister is None:
            raise not_found(request.receiver)
        check_running(canister)
        return canister

    def _run_low_memory_hook(self, canister: Canister) -> None:
        if canister.hook_status == "ready":
            canister.hook_status = "executed"
            self.run_hook(canister, "canister_on_low_wasm_memory")

    def _execute(self, canister: Canister, context: CallContext, message: Message) -> Outcome:
        """Run a message, pay for it, and let its calls and its answer go out."""
        outcome = self._engine.execute(canister, message)
        wasm64 = canister.code is not None and canister.code.module.memory64
        cost = accounting.execution_cost(outcome.instructions, wasm64=wasm64)
        accounting.charge(canister, accounting.INSTRUCTIONS, cost)
        canister.heap_delta_debit += outcome.bytes_written
        context.instructions += outcome.instructions
        context.cycles -= outcome.cycles_accepted
        for call in outcome.calls:
            self._send(canister, context, call)
        if outcome.answer is not None:
            context.answer(outcome.answer)
        return outcome

    def _send(self, canister: Canister, context: CallContext, call: OutgoingCall) -> None:
        now = self._clock.now_ns() if call.timeout_seconds is not None else 0
        expires_at = now + (call.timeout_seconds or 0) * 1_000_000_000 if call.timeout_seconds is not None else None
        pending = PendingCall(context=context, call=call, expires_at=expires_at)
        context.outstanding += 1
        self._waiting_calls(canister.canister_id)[call.callee] += 1
        if expires_at is not None:
            self._best_effort.append(pending)
        size = len(call.arg) + len(call.method.encode())
        accounting.charge(canister, accounting.TRANSMISSION, accounting.CALL_FEE + accounting.CALL_BYTE_FEE * size)
        self.submit(
            Request(
                receiver=call.callee,
                method=call.method,
                arg=call.arg,
                caller=canister.canister_id,
                cycles=call.cycles,
                deadline=expires_at or 0,
                respond=functools.partial(self._respond, pending),
                sender_version=canister.version,
            )
        )

    def _respond(self, pending: PendingCall, answer: Answer, refund: int) -> None:
        """Queue the answer of a call made by a canister; a second answer (after a timeout) only brings cycles back."""
        if pending.done:
            canister = self._canisters.get(pending.context.canister_id)
            if canister:
                canister.cycles += refund
            return
        pending.done = True
        self._ready.append(functools.partial(self._deliver_answer, pending, answer, refund))

    def _deliver_answer(self, pending: PendingCall, answer: Answer, refund: int) -> None:
        context, call = pending.context, pending.call
        canister = self._canisters.get(context.canister_id)
        waiting = self._waiting_calls(context.canister_id)
        waiting[call.callee] -= 1
        if not waiting[call.callee]:
            del waiting[call.callee]
        if canister is not None:
            canister.cycles += refund
            size = len(answer.data if isinstance(answer, Replied) else answer.message.encode())
            accounting.charge(canister, accounting.TRANSMISSION, accounting.CALL_BYTE_FEE * size)
        context.outstanding -= 1
        if canister is None or canister.code is None or context.closed:
            return
        replied = isinstance(answer, Replied)
        message = Message(
            mode=Mode.REPLY_CALLBACK if replied else Mode.REJECT_CALLBACK,
            entry=call.on_reply if replied else call.on_reject,
            caller=context.caller,
            arg=answer.data if isinstance(answer, Replied) else b"",
            reject=answer if isinstance(answer, Rejected) else None,
            cycles_available=context.cycles,
            cycles_refunded=refund,
            deadline=context.deadline,
            answered=context.answered,
            may_answer=context.respond is not None,
            context_instructions=context.instructions,
            waiting_calls=waiting,
        )
        outcome = self._execute(canister, context, message)
        if outcome.failure is not None and call.on_cleanup is not None:
            cleanup = Message(
                mode=Mode.CLEANUP,
                entry=call.on_cleanup,
                caller=context.caller,
                reject=message.reject,
                deadline=context.deadline,
                answered=context.answered,
                context_instructions=context.instructions,
                waiting_calls=waiting,
            )
            self._execute(canister, context, cleanup)
        self._settle(context, outcome.failure)

    def _settle(self, context: CallContext, failure: Rejected | None) -> None:
        """Answer a call nobody can answer any more, and close what is finished."""
        if context.outstanding or context.closed:
            return
        if not context.answered and context.respond is not None:
            name = principal.to_text(context.canister_id)
            context.answer(
                failure or Rejected("IC0506", f"Error from Canister {name}: Canister did not reply to the call")
            )
        self._close(context)

    def _open(self, context: CallContext) -> None:
        self._contexts.setdefault(context.canister_id, set()).add(context)

    def _close(self, context: CallContext) -> None:
        contexts = self._contexts.get(context.canister_id, set())
        contexts.discard(context)
        if not contexts:
            self._contexts.pop(context.canister_id, None)
            self.on_idle(context.canister_id)

    def _waiting_calls(self, canister_id: bytes) -> collections.Counter[bytes]:
        return self._waiting.setdefault(canister_id, collections.Counter())


def not_found(canister_id: bytes) -> Rejected:
    """Return the refusal for an unknown canister."""
    return Rejected("IC0301", f"Canister {principal.to_text(canister_id)} not found")


def check_running(canister: Canister) -> None:
    """
    Refuse calls to a canister that does not run.

    Raises:
        Rejected: IC0508 or IC0509.
    """
    if canister.status is CanisterStatus.RUNNING:
        return
    name = principal.to_text(canister.canister_id)
    if canister.status is CanisterStatus.STOPPED:
        raise Rejected("IC0508", f"Canister {name} is stopped")
    raise Rejected("IC0509", f"Canister {name} is stopping")


def find_method(canister: Canister, method: str, what: str) -> tuple[str, str]:
    """
    Find a method.

    Args:
        canister: Where.
        method: Its name.
        what: ``update`` or ``query``, for the text of the refusal.

    Returns:
        Kind (``update``, ``query``, ``composite_query``) and name of the Wasm export.

    Raises:
        Rejected: IC0537 without code, IC0536 without such a method.
    """
    kind = code_of(canister).module.methods.get(method)
    if kind is None or (what == "query" and kind == "update"):
        raise from_canister(canister, Rejected("IC0536", f"Canister has no {what} method '{method}'."))
    return kind, _ENTRIES[kind] + method


def _replicated_method(canister: Canister, method: str) -> tuple[Mode, str]:
    kind, entry = find_method(canister, method, "update")
    if kind == "composite_query":
        raise from_canister(canister, Rejected("IC0527", "Composite query cannot be called in replicated mode"))
    return (Mode.UPDATE if kind == "update" else Mode.REPLICATED_QUERY), entry
