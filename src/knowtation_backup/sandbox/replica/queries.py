"""Answers queries: plain ones in one execution, composite ones over a tree of query calls on the subnet."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from .. import accounting
from ..execution.effects import from_canister
from ..execution.message import Message, Mode, Outcome, OutgoingCall
from ..messages import Answer, Rejected, Replied
from ..state import Canister
from .scheduler import check_running, find_method, not_found

if TYPE_CHECKING:
    from ..execution.engine import Engine
    from ..execution.sessions import QuerySession

__all__ = ["Queries"]

MAX_DEPTH = 6
"""Canisters below each other in the tree of a composite query."""
_TREE_INSTRUCTIONS_FACTOR = 4
"""A whole tree may use this many times the instructions of one query; each call counts as some, so that trees end."""
_CALL_INSTRUCTIONS = 5_000_000


@attrs.define
class _Budget:
    instructions: int


class Queries:
    """
    Query execution of one subnet. Used under the replica's lock.

    Args:
        engine: Runs the messages.
        canisters: By raw id.
        data_certificate: Canister id to certificate; called only when a canister asks for it.
    """

    def __init__(
        self, engine: Engine, canisters: Mapping[bytes, Canister], data_certificate: Callable[[bytes], bytes]
    ) -> None:
        self._engine = engine
        self._canisters = canisters
        self._data_certificate = data_certificate

    def run(self, canister_id: bytes, method: str, arg: bytes, caller: bytes) -> Answer:
        """Answer a query of a user."""
        budget = _Budget(self._engine.limits.query * _TREE_INSTRUCTIONS_FACTOR)
        return self._run(canister_id, method, arg, caller, budget, depth=0)

    def _run(  # noqa: PLR0913 - a call has these parts
        self, canister_id: bytes, method: str, arg: bytes, caller: bytes, budget: _Budget, *, depth: int
    ) -> Answer:
        if depth > MAX_DEPTH:
            return Rejected("IC0525", f"Composite query calls are nested deeper than the allowed {MAX_DEPTH} calls.")
        try:
            canister = self._ready(canister_id)
            kind, entry = find_method(canister, method, "query")
        except Rejected as refusal:
            return refusal.with_traceback(None)
        message = Message(
            mode=Mode.QUERY if kind == "query" else Mode.COMPOSITE_QUERY,
            entry=entry,
            caller=caller,
            arg=arg,
            certificate=functools.partial(self._data_certificate, canister_id),
        )
        if kind == "query":
            outcome = self._engine.execute(canister, message)
            answer, instructions = _answer(canister, outcome), outcome.instructions
            budget.instructions -= instructions
        else:
            before = budget.instructions
            answer = self._composite(canister, message, budget, depth=depth)
            instructions = before - budget.instructions
        stats = canister.query_stats
        stats.num_calls_total += 1
        stats.num_instructions_total += instructions
        stats.request_payload_bytes_total += len(arg)
        stats.response_payload_bytes_total += len(answer.data if isinstance(answer, Replied) else answer.message)
        return answer

    def _ready(self, canister_id: bytes) -> Canister:
        canister = self._canisters.get(canister_id)
        if canister is None:
            raise not_found(canister_id)
        check_running(canister)
        accounting.require_unfrozen_for_query(canister)
        return canister

    def _composite(self, canister: Canister, message: Message, budget: _Budget, *, depth: int) -> Answer:
        """Run a composite query with its calls, in order, until it answers or nothing is left to wait for."""
        try:
            session = self._engine.query_session(canister)
        except Rejected as refusal:
            return refusal.with_traceback(None)
        try:
            outcome = session.execute(message)
            budget.instructions -= outcome.instructions
            calls = collections.deque(outcome.calls)
            used = outcome.instructions
            while calls and outcome.answer is None and session.usable:
                if budget.instructions <= 0:
                    text = "Composite query calls used more instructions than one tree of calls may."
                    return Rejected("IC0526", text)
                budget.instructions -= _CALL_INSTRUCTIONS
                call = calls.popleft()
                answer = self._run(call.callee, call.method, call.arg, canister.canister_id, budget, depth=depth + 1)
                outcome = self._callback(session, message, call, answer, used)
                budget.instructions -= outcome.instructions
                used += outcome.instructions
                calls.extend(outcome.calls)
            return _answer(canister, outcome)
        finally:
            session.close()

    @staticmethod
    def _callback(session: QuerySession, query: Message, call: OutgoingCall, answer: Answer, used: int) -> Outcome:
        replied = isinstance(answer, Replied)
        message = Message(
            mode=Mode.COMPOSITE_REPLY_CALLBACK if replied else Mode.COMPOSITE_REJECT_CALLBACK,
            entry=call.on_reply if replied else call.on_reject,
            caller=query.caller,
            arg=answer.data if isinstance(answer, Replied) else b"",
            reject=answer if isinstance(answer, Rejected) else None,
            context_instructions=used,
        )
        outcome = session.execute(message)
        if outcome.failure is not None and call.on_cleanup is not None and session.usable:
            cleanup = attrs.evolve(message, mode=Mode.COMPOSITE_CLEANUP, entry=call.on_cleanup, arg=b"")
            outcome.instructions += session.execute(cleanup).instructions
        return outcome


def _answer(canister: Canister, outcome: Outcome) -> Answer:
    if outcome.failure is not None:
        return outcome.failure
    if outcome.answer is not None:
        return outcome.answer
    return from_canister(canister, Rejected("IC0506", "Canister did not reply to the call"))
