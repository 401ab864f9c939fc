"""One subnet of the sandbox: ingress filter, request history, rounds, and the door to the management canister."""

from __future__ import annotations

import collections
import contextlib
import heapq
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from .. import accounting
from ..execution.effects import from_canister, out_of_memory
from ..execution.message import Message, Mode
from ..messages import (
    MANAGEMENT_CANISTER,
    Answer,
    Call,
    Rejected,
    Replied,
    RequestState,
    RequestStatus,
)
from ..state import Canister, CanisterStatus
from .call_context import Request
from .queries import Queries
from .scheduler import Scheduler, check_running, not_found

if TYPE_CHECKING:
    from ..clock import SandboxClock
    from ..execution.engine import Engine

__all__ = ["Management", "ManagementRequest", "Misaddressed", "Replica"]

HISTORY_NS = 300_000_000_000
"""How long the history keeps a request after its expiry."""
MAX_HISTORY_REPLY_BYTES = 256 << 20
"""Replies the history keeps in all; the oldest are dropped first, and their requests become "done"."""
STOP_TIMEOUT_NS = 300_000_000_000
HEAP_DELTA_BYTES_PER_SECOND = 75 << 20
MAX_MESSAGES_PER_CALL = 10_000
"""Messages one call may set off before it is answered with "processing"; `tick` goes on with the rest."""
MAX_CLOSING_MESSAGES = 50_000
"""Messages executed at the end, some seconds of work; a canister that calls itself for ever must not prevent it."""


@attrs.frozen(kw_only=True)
class ManagementRequest:
    """One call of the management canister, from a user or from a canister."""

    caller: bytes
    method: str
    arg: bytes = attrs.field(repr=False)
    cycles: int
    """Cycles attached by a calling canister; 0 for users."""
    from_canister: bytes | None
    """Id of the calling canister, `None` for users."""
    sender_canister_version: int | None
    """Version of the calling canister when it made the call, `None` for users."""
    ingress: Call | None
    """The user's call, `None` for canisters."""
    respond: Callable[[Answer, int], None] = attrs.field(repr=False)
    """Takes the answer and the cycles to refund. Call exactly once, now or later (a deferred stop)."""


class Misaddressed(Rejected):
    """A management call sent under another canister's URL than the one it is about; over HTTP it is a plain 400."""


class Management(Protocol):
    """What the replica needs of the management canister. Every method runs under the replica's execution lock."""

    def check_ingress(self, call: Call) -> None:
        """Raise `Rejected` or `Misaddressed` when the filter refuses *call*; charges the induction of accepted ones."""

    def execute(self, request: ManagementRequest) -> None:
        """Execute *request*; raising `Rejected` is the same as answering with it and refunding all cycles."""

    def query(self, call: Call) -> bytes:
        """Answer a query of the management canister with Candid bytes, or raise `Rejected`."""

    def out_of_cycles(self, canister: Canister) -> None:
        """Uninstall a canister that cannot pay its idle cost, and delete its snapshots (reference, D.7)."""


@attrs.frozen
class _Wait:
    on_done: Callable[[], None]
    on_timeout: Callable[[], None]
    until_ns: int


class Replica:
    """
    A subnet that executes one message at a time. All public methods may be called from any thread.

    Two attributes are set after construction: ``management`` and ``data_certificate`` (canister id to certificate
    bytes, asked for only when a query wants it). Whoever reads or changes ``canisters`` from outside holds ``lock``.

    Args:
        clock: The subnet's time.
        engine: Runs the messages.
        subnet_id: Raw principal.
    """

    management: Management
    data_certificate: Callable[[bytes], bytes]

    def __init__(self, clock: SandboxClock, engine: Engine, *, subnet_id: bytes) -> None:
        self.clock = clock
        self.engine = engine
        self.subnet_id = subnet_id
        self.lock: contextlib.AbstractContextManager[bool] = threading.RLock()
        self.canisters: dict[bytes, Canister] = {}
        self._history: dict[bytes, RequestStatus] = {}
        self._forget_after: list[tuple[int, bytes]] = []
        """Time and request id, as a heap: every round looks at the first only, however many requests there were."""
        self._replies: collections.deque[bytes] = collections.deque()
        self._reply_bytes = 0
        self._waits: dict[bytes, list[_Wait]] = {}
        self._drained_at = clock.now_ns()
        self._scheduler = Scheduler(
            clock=clock, engine=engine, canisters=self.canisters, management=self._to_management
        )
        self._scheduler.on_idle = self._idle
        self._queries = Queries(engine, self.canisters, self._certificate)

    def call(self, call: Call) -> RequestStatus:
        """
        Accept an ingress call and run it as far as possible now.

        A request id already known is answered from the history and not executed again. Replied or rejected means done;
        processing means that it waits (a deferred stop, a best-effort call) or set off very many messages: later calls
        and `tick` go on with it.

        Raises:
            Rejected: The ingress filter refuses; nothing was executed and nothing is remembered.
        """
        with self.lock:
            known = self._history.get(call.request_id)
            if known is not None:
                return known
            self._check_ingress(call)
            self._history[call.request_id] = RequestStatus(
                state=RequestState.PROCESSING, sender=call.sender, canister_id=call.canister_id
            )
            heapq.heappush(self._forget_after, (call.ingress_expiry + HISTORY_NS, call.request_id))
            self._scheduler.submit(
                Request(
                    receiver=call.canister_id,
                    method=call.method,
                    arg=call.arg,
                    caller=call.sender,
                    respond=lambda answer, _refund: self._finish(call, answer),
                    ingress=call,
                )
            )
            self._scheduler.run(
                until=lambda: self._history[call.request_id].answer is not None, max_messages=MAX_MESSAGES_PER_CALL
            )
            return self._history[call.request_id]

    def query(self, call: Call) -> Answer:
        """Answer a query of a canister or of the management canister; refusals are answers too."""
        with self.lock:
            if call.canister_id != MANAGEMENT_CANISTER:
                return self._queries.run(call.canister_id, call.method, call.arg, call.sender)
            try:
                return Replied(self.management.query(call))
            except Rejected as refusal:
                return refusal.with_traceback(None)

    def request_status(self, request_id: bytes) -> RequestStatus | None:
        """Return what the history knows of a request, `None` when it is unknown or forgotten."""
        with self.lock:
            return self._history.get(request_id)

    def tick(self) -> None:
        """
        Run one round.

        Charges idle costs, forgets old requests, ends stops that took too long, runs due timers, one heartbeat per
        canister and then what is queued.
        """
        with self.lock:
            now = self.clock.now_ns()
            self._drain_heap_delta(now)
            for canister in list(self.canisters.values()):
                if not accounting.charge_idle(canister, now):
                    self.management.out_of_cycles(canister)
            self._forget(now)
            while self._replies and self._replies[0] not in self._history:
                self._replies.popleft()
            self._scheduler.expire()
            self._time_out_waits(now)
            for canister in list(self.canisters.values()):
                if canister.status is not CanisterStatus.RUNNING:
                    continue
                if canister.global_timer and canister.global_timer <= now:
                    canister.global_timer = 0
                    self._scheduler.run_hook(canister, "canister_global_timer")
                self._scheduler.run_hook(canister, "canister_heartbeat")
            self._run_queued(MAX_MESSAGES_PER_CALL)

    def run_queued(self) -> None:
        """Execute what only waits for its turn, up to `MAX_CLOSING_MESSAGES`: a network calls this before it ends."""
        with self.lock:
            self._run_queued(MAX_CLOSING_MESSAGES)

    def _run_queued(self, max_messages: int) -> None:
        self._scheduler.run(until=lambda: False, max_messages=max_messages)

    def open_call_contexts(self, canister_id: bytes) -> int:
        """Count the calls the canister has accepted and not finished."""
        with self.lock:
            return self._scheduler.open_contexts(canister_id)

    def reject_open_contexts(self, canister_id: bytes, answer: Answer) -> None:
        """Answer all unanswered calls of a canister with *answer* and forget its callbacks (uninstall, delete)."""
        with self.lock:
            self._scheduler.reject_contexts(canister_id, answer)

    def when_no_contexts(self, canister_id: bytes, on_done: Callable[[], None], on_timeout: Callable[[], None]) -> None:
        """
        Call *on_done* as soon as the canister has no open call context, at once if that is so now.

        After five minutes of sandbox time `tick` calls *on_timeout* instead (answer it with IC0206).
        """
        with self.lock:
            if not self._scheduler.open_contexts(canister_id):
                on_done()
                return
            wait = _Wait(on_done, on_timeout, self.clock.now_ns() + STOP_TIMEOUT_NS)
            self._waits.setdefault(canister_id, []).append(wait)

    def forget_waits(self, canister_id: bytes) -> None:
        """Drop what `when_no_contexts` registered (a start cancels a stop; the caller answers with IC0511)."""
        with self.lock:
            self._waits.pop(canister_id, None)

    def _certificate(self, canister_id: bytes) -> bytes:
        return self.data_certificate(canister_id)

    def _check_ingress(self, call: Call) -> None:
        """Apply the ingress filter and charge the induction."""
        if call.canister_id == MANAGEMENT_CANISTER:
            self._drain_heap_delta(self.clock.now_ns())
            self.management.check_ingress(call)
            return
        canister = self.canisters.get(call.canister_id)
        if canister is None:
            raise not_found(call.canister_id)
        check_running(canister)
        cost = accounting.ingress_cost(call.size_bytes)
        accounting.require_cycles(canister, cost)
        self._inspect(canister, call)
        accounting.charge(canister, accounting.INGRESS_INDUCTION, cost)

    def _inspect(self, canister: Canister, call: Call) -> None:
        """Ask the canister whether it wants the message."""
        if canister.code is None or "canister_inspect_message" not in canister.code.module.hooks:
            return
        message = Message(
            mode=Mode.INSPECT,
            entry="canister_inspect_message",
            caller=call.sender,
            arg=call.arg,
            method=call.method,
            may_answer=False,
        )
        outcome = self.engine.execute(canister, message)
        if outcome.failure is not None:
            raise outcome.failure
        if not outcome.accepted:
            raise from_canister(canister, Rejected("IC0406", "Canister rejected the message"))

    def _finish(self, call: Call, answer: Answer) -> None:
        state = RequestState.REPLIED if isinstance(answer, Replied) else RequestState.REJECTED
        self._history[call.request_id] = attrs.evolve(self._history[call.request_id], state=state, answer=answer)
        self._reply_bytes += _size(answer)
        self._replies.append(call.request_id)
        while self._reply_bytes > MAX_HISTORY_REPLY_BYTES and len(self._replies) > 1:
            self._drop_reply(self._replies.popleft())

    def _forget(self, now: int) -> None:
        waiting = []
        while self._forget_after and self._forget_after[0][0] < now:
            after, request_id = heapq.heappop(self._forget_after)
            if self._history[request_id].state is RequestState.PROCESSING:
                waiting.append((after, request_id))  # it must be found by whoever polls for it
                continue
            self._drop_reply(request_id)
            del self._history[request_id]
        for each in waiting:
            heapq.heappush(self._forget_after, each)

    def _drop_reply(self, request_id: bytes) -> None:
        status = self._history.get(request_id)
        if status is not None and isinstance(status.answer, Replied):
            self._reply_bytes -= _size(status.answer)
            self._history[request_id] = attrs.evolve(status, state=RequestState.DONE, answer=None)

    def _to_management(self, request: Request) -> None:
        from_user = request.ingress is not None
        try:
            self.management.execute(
                ManagementRequest(
                    caller=request.caller,
                    method=request.method,
                    arg=request.arg,
                    cycles=request.cycles,
                    from_canister=None if from_user else request.caller,
                    sender_canister_version=request.sender_version,
                    ingress=request.ingress,
                    respond=request.respond,
                )
            )
        except Rejected as refusal:
            request.respond(refusal.with_traceback(None), request.cycles)
        except (OSError, MemoryError) as error:
            # Snapshots are what fills a machine. Whoever asked is told, and nobody waits for ever.
            request.respond(out_of_memory(error), request.cycles)

    def _idle(self, canister_id: bytes) -> None:
        for wait in self._waits.pop(canister_id, []):
            wait.on_done()

    def _time_out_waits(self, now: int) -> None:
        for canister_id, waits in list(self._waits.items()):
            late = [wait for wait in waits if wait.until_ns <= now]
            remaining = [wait for wait in waits if wait.until_ns > now]
            if remaining:
                self._waits[canister_id] = remaining
            else:
                del self._waits[canister_id]
            for wait in late:
                wait.on_timeout()

    def _drain_heap_delta(self, now: int) -> None:
        drained = (now - self._drained_at) * HEAP_DELTA_BYTES_PER_SECOND // 1_000_000_000
        self._drained_at = now
        for canister in self.canisters.values():
            canister.heap_delta_debit = max(0, canister.heap_delta_debit - drained)


def _size(answer: Answer) -> int:
    return len(answer.data) if isinstance(answer, Replied) else 0
