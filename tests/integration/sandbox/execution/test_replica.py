"""Calls over several messages and canisters, the ingress filter, the history, and rounds."""

import threading
from typing import Any

import attrs
import pytest

from knowtation_backup.sandbox.messages import ANONYMOUS, Rejected, Replied, RequestState
from knowtation_backup.sandbox.state import CanisterStatus

pytestmark = pytest.mark.sandbox
REPLY, TRAPPING_REPLY, WRONG_TYPE, REFUND, NO_FUNCTION = 0, 3, 4, 5, 7


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def to(
    callee: Any, method: str, payload: bytes = b"", *, reply: int = REPLY, cycles: int = 0, timeout: int = 0
) -> bytes:
    """Argument of the test canister's `call`."""
    target: bytes = callee if isinstance(callee, bytes) else callee.canister_id
    name = method.encode()
    front = bytes([len(target)]) + target + bytes([len(name)]) + name + bytes([reply])
    return front + u64(cycles) + u64(timeout) + payload


# Calls between canisters


def test_a_call_to_another_canister_returns_its_reply(world: Any) -> None:
    caller, callee = world.canister(), world.canister()

    assert world.update(caller, "call", to(callee, "echo", b"payload")) == b"payload"

    assert world.counts(caller) == (3, 3, 3, 0)  # init, call, callback
    assert world.update(caller, "call", to(callee, "caller")) == caller.canister_id
    assert world.replica.open_call_contexts(caller.canister_id) == 0


def test_a_call_to_itself(world: Any) -> None:
    canister = world.canister()

    assert world.update(canister, "call", to(canister, "inc"))[:24] == u64(3) * 3

    assert world.counts(canister) == (4, 4, 4, 0)


def test_calls_through_a_chain_of_canisters(one: Any) -> None:
    canisters = [one.canister() for _ in range(4)]
    argument = to(canisters[3], "echo", b"deep")
    for canister in (canisters[2], canisters[1]):
        argument = to(canister, "call", argument)

    assert one.update(canisters[0], "call", argument) == b"deep"


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        ("inc_trap", 5, "boom!"),
        ("silent", 5, "did not reply"),
        ("refuse", 4, "boom!"),
        ("missing", 5, "no update method 'missing'"),
        ("call_query", 5, "Composite query cannot"),
    ],
)
def test_rejects_reach_the_reject_callback(world: Any, method: str, code: int, text: str) -> None:
    caller, callee = world.canister(), world.canister()

    answer = world.update(caller, "call", to(callee, method))

    assert answer[:8] == u64(code)
    assert text in answer[8:].decode()


def test_unknown_stopped_and_empty_callees_are_rejected(one: Any) -> None:
    caller, stopped, empty = one.canister(), one.canister(), one.empty()
    stopped.status = CanisterStatus.STOPPED

    assert one.update(caller, "call", to(b"\x00" * 8 + b"\x09\x01", "inc"))[8:].endswith(b" not found")
    assert one.update(caller, "call", to(stopped, "inc"))[8:].endswith(b"is stopped")
    assert b"no Wasm module" in one.update(caller, "call", to(empty, "inc"))


def test_a_trap_in_a_callback_undoes_only_the_callback_and_cleans_up(world: Any) -> None:
    caller, callee = world.canister(), world.canister()

    refusal = world.refused(caller, "call", to(callee, "inc", reply=TRAPPING_REPLY))

    assert refusal.error_code == "IC0503"
    assert world.counts(caller) == (2, 2, 2, 1)  # init and call stay; the callback is undone; one cleanup
    assert world.counts(callee) == (2, 2, 2, 0)


@pytest.mark.parametrize("reply", [WRONG_TYPE, NO_FUNCTION])
def test_callbacks_that_are_no_functions_trap(world: Any, reply: int) -> None:
    caller = world.canister()

    refusal = world.refused(caller, "call", to(caller, "inc", reply=reply))

    assert refusal.error_code == "IC0502"
    assert world.counts(caller)[3] == 1


def test_cycles_travel_and_what_is_not_accepted_returns(world: Any) -> None:
    caller, callee = world.canister(), world.canister()
    consumed = sum(caller.cycles_consumed.values())
    before, there = caller.cycles, callee.cycles

    assert world.update(caller, "call", to(callee, "accept_100", cycles=150, reply=REFUND)) == u64(50)

    paid = sum(caller.cycles_consumed.values()) - consumed
    assert caller.cycles == before - paid - 100
    assert callee.cycles == there - sum(callee.cycles_consumed.values()) + 100


def test_replicated_queries_accept_cycles_and_change_nothing_else(one: Any) -> None:
    caller, callee = one.canister(), one.canister()

    assert one.update(caller, "call", to(callee, "accept_100_query", cycles=150)) == u64(100)

    assert one.counts(callee) == (1, 1, 1, 0)
    assert callee.version == 2


def test_cycles_of_failed_calls_return(one: Any) -> None:
    caller, callee = one.canister(), one.canister()
    before = caller.cycles

    one.update(caller, "call", to(callee, "inc_trap", cycles=10**12))

    assert before - caller.cycles < 10**9


def test_more_cycles_than_there_are_cannot_be_sent(one: Any) -> None:
    caller, callee = one.canister(), one.canister()

    refusal = one.refused(caller, "call", to(callee, "inc", cycles=2 * 10**15))

    assert refusal.error_code == "IC0207"
    assert one.counts(caller) == (1, 1, 1, 0)


def test_calls_to_the_management_canister(one: Any) -> None:
    caller = one.canister()

    assert one.update(caller, "call", to(b"", "echo", b"hi")) == b"hi"
    assert one.update(caller, "call", to(b"", "echo", cycles=40, reply=REFUND)) == u64(20)
    assert b"no method nonsense" in one.update(caller, "call", to(b"", "nonsense"))


def test_a_call_waits_for_a_deferred_answer(one: Any) -> None:
    caller = one.canister()

    message = one.message(caller.canister_id, "call", to(b"", "later"))
    assert one.replica.call(message).state is RequestState.PROCESSING
    assert one.replica.open_call_contexts(caller.canister_id) == 1
    (request,) = one.management.waiting
    assert (request.from_canister, request.caller, request.ingress) == (caller.canister_id, caller.canister_id, None)
    request.respond(Replied(b"at last"), 0)
    one.replica.tick()

    assert one.replica.request_status(message.request_id).answer == Replied(b"at last")
    assert one.replica.open_call_contexts(caller.canister_id) == 0


def test_best_effort_calls_time_out_and_ignore_late_answers(one: Any) -> None:
    caller = one.canister()
    message = one.message(caller.canister_id, "call", to(b"", "later", timeout=10, cycles=500))
    one.replica.call(message)
    before = caller.cycles

    one.clock.advance(11)
    one.replica.tick()
    answer = one.replica.request_status(message.request_id).answer
    assert answer.data[:8] == u64(6)
    assert b"deadline" in answer.data
    one.management.waiting[0].respond(Replied(b"late"), 500)
    one.replica.tick()

    assert one.replica.request_status(message.request_id).answer is answer
    assert caller.cycles > before - 10**9


def test_uninstalling_under_open_calls_rejects_them(one: Any) -> None:
    caller = one.canister()
    message = one.message(caller.canister_id, "call", to(b"", "later"))
    one.replica.call(message)

    one.engine.uninstall(caller)
    one.replica.reject_open_contexts(caller.canister_id, Rejected("IC0508", "uninstalled"))
    one.engine.install(caller, one.module(), b"", b"")
    one.management.waiting[0].respond(Replied(b"late"), 0)
    one.replica.tick()

    assert one.replica.request_status(message.request_id).answer.message == "uninstalled"
    assert one.counts(caller) == (1, 1, 1, 0)  # the callback of the old code did not run


# Stopping


def test_stop_waits_for_open_calls(one: Any) -> None:
    canister = one.canister()
    events: list[str] = []

    def stop() -> None:
        one.replica.when_no_contexts(
            canister.canister_id, lambda: events.append("stopped"), lambda: events.append("late")
        )

    stop()
    assert events == ["stopped"]
    one.call(canister, "call", to(b"", "later"))
    stop()
    assert events == ["stopped"]
    one.management.waiting[0].respond(Replied(b""), 0)
    one.replica.tick()
    assert events == ["stopped", "stopped"]


def test_stop_gives_up_after_five_minutes(one: Any) -> None:
    canister = one.canister()
    events: list[str] = []
    one.call(canister, "call", to(b"", "later"))
    one.replica.when_no_contexts(canister.canister_id, lambda: events.append("stopped"), lambda: events.append("late"))

    one.clock.advance(299)
    one.replica.tick()
    assert events == []
    one.clock.advance(2)
    one.replica.tick()
    one.replica.tick()

    assert events == ["late"]


def test_forgotten_waits_stay_silent(one: Any) -> None:
    canister = one.canister()
    one.call(canister, "call", to(b"", "later"))
    one.replica.when_no_contexts(canister.canister_id, pytest.fail, pytest.fail)

    one.replica.forget_waits(canister.canister_id)
    one.management.waiting[0].respond(Replied(b""), 0)
    one.replica.tick()

    assert one.replica.open_call_contexts(canister.canister_id) == 0


def test_stopping_canisters_finish_calls_and_accept_none(one: Any) -> None:
    canister = one.canister()
    message = one.message(canister.canister_id, "call", to(b"", "later"))
    one.replica.call(message)
    canister.status = CanisterStatus.STOPPING

    with pytest.raises(Rejected) as info:
        one.call(canister, "inc")
    assert info.value.error_code == "IC0509"
    one.management.waiting[0].respond(Replied(b"done"), 0)
    one.replica.tick()

    assert one.replica.request_status(message.request_id).answer == Replied(b"done")


# Composite queries


def test_composite_queries_call_queries_and_keep_state_until_they_answer(world: Any) -> None:
    caller, callee = world.canister(), world.canister()

    assert world.query(caller, "call_query", to(callee, "echo_query", b"x")) == b"x"
    # The callee sees the committed state, also when it is the caller itself.
    assert world.query(caller, "call_query", to(caller, "get"))[:24] == u64(1) * 3
    assert world.counts(caller) == (1, 1, 1, 0)


def test_composite_queries_nest_up_to_a_limit(one: Any) -> None:
    canister = one.canister()

    def nested(depth: int) -> bytes:
        argument = to(canister, "echo_query", b"end")
        for _ in range(depth):
            argument = to(canister, "call_query", argument)
        return bytes(one.query(canister, "call_query", argument))

    assert nested(3) == b"end"
    assert b"nested deeper" in nested(8)


def test_composite_queries_cannot_call_updates(one: Any) -> None:
    caller = one.canister()

    assert b"no query method 'inc'" in one.query(caller, "call_query", to(caller, "inc"))


def test_a_trap_in_a_composite_callback_is_the_answer(world: Any) -> None:
    caller = world.canister()

    assert world.refused_query(caller, "call_query", to(caller, "get", reply=TRAPPING_REPLY)).error_code == "IC0503"
    assert world.counts(caller) == (1, 1, 1, 0)


# Ingress filter and history


def test_the_filter_refuses_before_anything_is_remembered(one: Any) -> None:
    canister, stopped, poor = one.canister(), one.canister(), one.canister()
    stopped.status = CanisterStatus.STOPPED
    poor.cycles = 1000
    unknown = attrs.evolve(canister, canister_id=b"\x00" * 8 + b"\x09\x01")

    for target, method, sender, code in (
        (unknown, "inc", b"\x01", "IC0301"),
        (stopped, "inc", b"\x01", "IC0508"),
        (poor, "inc", b"\x01", "IC0207"),
        (canister, "inc", ANONYMOUS, "IC0406"),
        (attrs.evolve(canister, canister_id=b""), "refused", b"\x01", "IC0512"),
    ):
        message = one.message(target.canister_id, method, sender=sender)
        with pytest.raises(Rejected) as info:
            one.replica.call(message)
        assert info.value.error_code == code
        assert one.replica.request_status(message.request_id) is None


def test_inspection_leaves_no_trace(one: Any) -> None:
    canister = one.canister()

    with pytest.raises(Rejected, match="rejected the message"):
        one.call(canister, "inc", sender=ANONYMOUS)

    assert one.counts(canister) == (1, 1, 1, 0)
    assert one.update(canister, "inc")[:8] == u64(2)


def test_a_repeated_request_is_answered_and_not_executed(one: Any) -> None:
    canister = one.canister()
    message = one.message(canister.canister_id, "inc")

    first = one.replica.call(message)
    again = one.replica.call(message)

    assert again is first
    assert first.state is RequestState.REPLIED
    assert first.sender == message.sender
    assert one.counts(canister) == (2, 2, 2, 0)


def test_history_forgets_five_minutes_after_expiry(one: Any) -> None:
    canister = one.canister()
    message = one.message(canister.canister_id, "inc")
    one.replica.call(message)

    one.clock.advance(240 + 299)
    one.replica.tick()
    assert one.replica.request_status(message.request_id) is not None
    one.clock.advance(2)
    one.replica.tick()

    assert one.replica.request_status(message.request_id) is None


def test_history_forgets_in_the_order_of_expiry_and_keeps_what_still_waits(one: Any) -> None:
    canister = one.canister()
    waiting = one.message(canister.canister_id, "call", to(b"", "later"))
    assert one.replica.call(waiting).state is RequestState.PROCESSING
    late, early = (one.message(canister.canister_id, "inc") for _ in range(2))
    early = attrs.evolve(early, ingress_expiry=early.ingress_expiry - 60 * 10**9)
    for message in (late, early):
        one.replica.call(message)

    def known() -> list[bool]:
        return [one.replica.request_status(each.request_id) is not None for each in (waiting, late, early)]

    one.clock.advance(180 + 301)
    one.replica.tick()
    assert known() == [True, True, False]
    one.clock.advance(60)
    one.replica.tick()
    assert known() == [True, False, False]
    (request,) = one.management.waiting
    request.respond(Replied(b"at last"), 0)
    one.replica.tick()  # executes the answer
    one.replica.tick()
    assert known() == [False, False, False]


def test_ingress_and_instructions_are_paid(one: Any) -> None:
    canister = one.canister()
    before = canister.cycles

    one.update(canister, "inc")

    consumed = canister.cycles_consumed
    assert consumed["ingress_induction"] == 1_200_000 + 200 * 2_000
    assert consumed["instructions"] > 5_000_000
    assert canister.cycles == before - sum(consumed.values())


def test_queries_of_frozen_and_stopped_canisters_are_refused(one: Any) -> None:
    canister = one.canister()
    canister.cycles = 0
    assert "frozen" in one.refused_query(canister, "get").message
    canister.status = CanisterStatus.STOPPED
    assert one.refused_query(canister, "get").error_code == "IC0508"


def test_query_statistics_are_counted(one: Any) -> None:
    canister = one.canister()

    one.query(canister, "echo_query", b"12345")
    one.query(canister, "echo_query", b"1")

    stats = canister.query_stats
    assert (stats.num_calls_total, stats.request_payload_bytes_total, stats.response_payload_bytes_total) == (2, 6, 6)
    assert stats.num_instructions_total > 10


def test_management_queries_and_calls_are_delegated(one: Any) -> None:
    assert one.replica.query(one.message(b"", "status")) == Replied(b"fine")
    assert one.replica.query(one.message(b"", "other")).message == "Query method not found."
    status = one.replica.call(one.message(b"", "echo", b"x"))
    assert status.answer == Replied(b"x")
    assert one.replica.call(one.message(b"", "nonsense")).answer.message == "no method nonsense"


# Rounds


def test_timers_fire_once_when_due(one: Any) -> None:
    canister = one.canister()
    due = one.clock.now_ns() + 10_000_000_000
    one.update(canister, "set_timer", u64(due))

    one.replica.tick()
    assert one.counts(canister)[0] == 1
    one.clock.advance(10)
    one.replica.tick()
    one.replica.tick()

    assert one.counts(canister)[0] == 2
    assert canister.global_timer == 0


def test_stopped_canisters_have_no_timers_and_keep_them(one: Any) -> None:
    canister = one.canister()
    one.update(canister, "set_timer", u64(1))
    canister.status = CanisterStatus.STOPPED
    one.replica.tick()
    assert canister.global_timer == 1

    canister.status = CanisterStatus.RUNNING
    one.replica.tick()
    assert one.counts(canister)[0] == 2


def test_heartbeats_run_every_round_and_may_call(one: Any) -> None:
    canister = one.canister(
        """(module
          (import "ic0" "msg_reply" (func $reply))
          (import "ic0" "msg_caller_size" (func $caller_size (result i32)))
          (import "ic0" "canister_self_size" (func $self_size (result i32)))
          (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
          (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
          (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
          (import "ic0" "call_perform" (func $call_perform (result i32)))
          (memory 1) (table 1 funcref) (elem (i32.const 0) $done)
          (data (i32.const 32) "note")
          (func (export "canister_heartbeat")
            (if (call $caller_size) (then unreachable))
            (call $self (i32.const 0) (i32.const 0) (call $self_size))
            (call $call_new (i32.const 0) (call $self_size) (i32.const 32) (i32.const 4)
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (drop (call $call_perform)))
          (func $done (param i32) (i32.store (i32.const 68) (i32.add (i32.load (i32.const 68)) (i32.const 1))))
          (func (export "canister_update note")
            (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1))) (call $reply))
          (func (export "canister_query get") (call $append (i32.const 64) (i32.const 8)) (call $reply)))"""
    )

    for _ in range(3):
        one.replica.tick()

    assert one.query(canister, "get") == b"\3\0\0\0\3\0\0\0"
    assert canister.version == 1 + 3 * 3
    assert one.replica.open_call_contexts(canister.canister_id) == 0


def test_heap_delta_is_counted_and_drains_with_time(one: Any) -> None:
    canister = one.canister()
    one.replica.tick()
    canister.heap_delta_debit = 0

    one.update(canister, "inc")
    assert canister.heap_delta_debit >= 4096
    canister.heap_delta_debit = 100 << 20
    one.clock.advance(1)
    one.replica.tick()
    assert 24 << 20 < canister.heap_delta_debit <= 25 << 20
    one.clock.advance(1)
    one.replica.tick()

    assert canister.heap_delta_debit == 0


def test_canisters_that_cannot_pay_are_handed_to_management(one: Any) -> None:
    canister = one.canister()
    canister.cycles = 5

    one.clock.advance(30 * 86_400)
    one.replica.tick()

    assert one.management.broke == [canister.canister_id]


def test_versions_grow_with_every_successful_message(one: Any) -> None:
    canister = one.canister()
    assert canister.version == 1

    assert one.update(canister, "seen_version") == u64(1)
    one.refused(canister, "inc_trap")
    one.query(canister, "get")
    one.update(canister, "call", to(canister, "inc"))

    assert canister.version == 1 + 1 + 3


def test_calls_from_many_threads_are_executed_one_by_one(one: Any) -> None:
    canister = one.canister()
    messages = [one.message(canister.canister_id, "inc") for _ in range(80)]

    def run(part: list[Any]) -> None:
        for message in part:
            one.replica.call(message)

    threads = [threading.Thread(target=run, args=(messages[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert one.counts(canister) == (81, 81, 81, 0)
