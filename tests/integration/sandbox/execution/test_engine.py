"""One message on one canister: effects, isolation, limits. Runs in both widths under every isolation."""

from collections.abc import Callable
from typing import Any

import pytest

from knowtation_backup.sandbox.execution.message import Message, Mode
from knowtation_backup.sandbox.messages import Rejected

pytestmark = pytest.mark.sandbox


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def test_updates_last_in_heap_globals_and_stable_memory(world: Any) -> None:
    canister = world.canister()

    for _ in range(3):
        world.update(canister, "inc")

    assert world.counts(canister) == (4, 4, 4, 0)
    assert canister.code.heap.read(0, 8) == u64(4)
    assert canister.code.stable.read(0, 8) == u64(4)
    assert [value.bits for value in canister.code.global_values] == [0, 99, 4]


def test_queries_change_nothing(world: Any) -> None:
    canister = world.canister()

    seen = [world.query(canister, "peek")[:24] for _ in range(3)]

    assert seen == [u64(2) * 3] * 3
    assert world.counts(canister) == (1, 1, 1, 0)
    assert canister.version == 1


@pytest.mark.parametrize("method", ["inc_trap", "inc_unreachable", "spin", "grow_trap"])
def test_failed_updates_are_undone_completely(world: Any, method: str) -> None:
    canister = world.canister()
    size = canister.code.heap.size_bytes

    world.refused(canister, method)

    assert world.counts(canister) == (1, 1, 1, 0)
    assert canister.code.heap.size_bytes == size
    assert canister.version == 1
    world.update(canister, "inc")
    assert world.counts(canister) == (2, 2, 2, 0)


def test_growth_lasts_after_an_update_and_not_after_a_query(world: Any) -> None:
    canister = world.canister()
    pages = 65_536

    assert world.query(canister, "grow_query") == u64(5 * pages)
    assert canister.code.heap.size_bytes == 2 * pages
    assert world.query(canister, "last_byte") == u64(0)
    assert world.update(canister, "grow") == u64(5 * pages)
    assert world.query(canister, "last_byte") == u64(7)
    assert world.update(canister, "grow") == u64(8 * pages)
    world.refused(canister, "grow_trap")
    assert world.query(canister, "last_byte") == u64(7)
    assert canister.code.heap.size_bytes == 8 * pages
    assert canister.code.heap.read(5 * pages - 1, 1) == b"\7"


def test_state_survives_the_loss_of_the_instance(world: Any) -> None:
    canister = world.canister()
    world.update(canister, "grow")
    world.update(canister, "inc")

    world.engine._forget(canister)

    assert world.counts(canister) == (3, 3, 3, 0)
    assert world.query(canister, "last_byte") == u64(7)


@pytest.mark.parametrize(
    ("method", "code", "text"),
    [
        ("inc_trap", "IC0503", "Canister called `ic0.trap` with message: 'boom!'"),
        ("inc_unreachable", "IC0502", "Canister trapped: unreachable"),
        ("divide", "IC0502", "Canister trapped: integer division by 0"),
        ("outside", "IC0502", "Canister trapped: heap out of bounds"),
        ("stable_outside", "IC0502", "Canister trapped: stable memory out of bounds"),
        ("beyond_arg", "IC0504", "exceeds the data of 4 bytes"),
        ("silent", "IC0506", "Canister did not reply to the call"),
        ("refuse", "IC0406", "boom!"),
        ("twice", "IC0504", "the call is already replied"),
        ("wrong_mode", "IC0504", '"ic0.accept_message" cannot be executed in update mode'),
        ("spin", "IC0522", "exceeded the limit of 50000000 instructions"),
        ("missing", "IC0536", "Canister has no update method 'missing'."),
        ("call_query", "IC0527", "Composite query cannot be called in replicated mode"),
    ],
)
def test_failures_have_the_codes_and_texts_of_the_network(world: Any, method: str, code: str, text: str) -> None:
    canister = world.canister()

    refusal = world.refused(canister, method, b"1234")

    assert refusal.error_code == code
    assert text in refusal.message
    if method != "refuse":
        assert refusal.message.startswith("Error from Canister rwlgt-iiaaa-aaaaa-aaaaa-cai: ")


def test_queries_fail_with_their_own_limits(one: Any) -> None:
    canister = one.canister()

    assert "limit of 20000000 instructions" in one.refused_query(canister, "spin_query").message
    assert one.refused_query(canister, "wrong_mode_query").error_code == "IC0504"
    assert one.refused_query(canister, "inc").error_code == "IC0536"
    assert one.counts(canister) == (1, 1, 1, 0)


def test_argument_caller_and_reply_pass_through(world: Any) -> None:
    canister = world.canister()
    payload = bytes(range(256)) * 200

    assert world.update(canister, "echo", payload) == payload
    assert world.query(canister, "echo_query", payload) == payload
    assert world.update(canister, "echo") == b""
    assert world.update(canister, "caller", sender=b"\x01somebody\x02") == b"\x01somebody\x02"
    assert world.update(canister, "controlled") == u64(1)
    assert world.update(canister, "controlled", sender=b"\x01somebody\x02") == u64(0)


def test_replies_are_limited_to_two_and_three_mebibytes(world: Any) -> None:
    canister = world.canister()

    assert len(world.update(canister, "big", u64(32))) == 2 << 20
    assert "application payload size (2162688) cannot be larger" in world.refused(canister, "big", u64(33)).message
    assert len(world.query(canister, "big_query", u64(48))) == 3 << 20
    assert world.refused_query(canister, "big_query", u64(49)).error_code == "IC0504"
    assert world.refused(canister, "big_query", u64(33)).error_code == "IC0504"


def test_certified_data_and_timer_last_only_on_success(one: Any) -> None:
    canister = one.canister()

    one.update(canister, "certify", b"c" * 32)
    assert one.update(canister, "set_timer", u64(77)) == u64(0)
    one.refused(canister, "certify", b"c" * 33)
    one.refused(canister, "set_timer_trap", u64(99))

    assert canister.certified_data == b"c" * 32
    assert canister.global_timer == 77
    assert one.update(canister, "set_timer", u64(0)) == u64(77)
    assert canister.global_timer == 0


def test_queries_get_a_certificate_only_when_they_ask(one: Any) -> None:
    canister = one.canister()
    asked: list[bytes] = []

    def certificate(canister_id: bytes) -> bytes:
        asked.append(canister_id)
        return b"proof"

    one.replica.data_certificate = certificate

    one.query(canister, "get")
    assert asked == []
    assert one.query(canister, "certificate") == b"proof"
    assert asked == [canister.canister_id]
    assert one.refused(canister, "certificate").error_code == "IC0503"


def test_time_is_constant_and_instructions_are_counted(one: Any) -> None:
    canister = one.canister()

    assert one.update(canister, "now") == u64(0)
    used = int.from_bytes(one.update(canister, "used"), "little")
    assert 0 < used < 100
    outcome = one.engine.execute(canister, Message(mode=Mode.UPDATE, entry="canister_update inc"))
    assert 20 < outcome.instructions < 200


def test_logs_keep_what_was_printed_also_by_messages_that_trap(one: Any) -> None:
    canister = one.canister(log_memory_limit=60)

    one.update(canister, "print", b"hello")
    one.refused(canister, "print_trap", b"bye")
    texts = [record.content for record in canister.logs]
    assert texts == [b"bye", b"[TRAP]: Canister called `ic0.trap` with message: 'boom!'"]
    one.update(canister, "print", b"x" * 100)

    assert [(record.idx, record.content) for record in canister.logs] == [(3, b"x" * 60)]


def test_wasm_memory_limit_stops_growing_updates_only(one: Any) -> None:
    canister = one.canister(wasm_memory_limit=4 * 65_536)

    refusal = one.refused(canister, "grow")

    assert refusal.error_code == "IC0539"
    assert canister.code.heap.size_bytes == 2 * 65_536
    one.update(canister, "inc")
    assert one.counts(canister) == (2, 2, 2, 0)
    canister.settings.wasm_memory_limit = 0
    one.update(canister, "grow")


def test_low_memory_hook_runs_once_when_the_limit_comes_near(one: Any) -> None:
    canister = one.canister(wasm_memory_limit=10 * 65_536, wasm_memory_threshold=6 * 65_536)
    assert canister.hook_status == "condition_not_satisfied"

    one.update(canister, "grow")
    assert canister.hook_status == "ready"
    one.update(canister, "inc")

    assert canister.hook_status == "executed"
    assert one.counts(canister)[3] == 1000


def test_canister_without_code_says_so(one: Any) -> None:
    canister = one.empty()

    assert one.refused(canister, "inc").error_code == "IC0537"
    assert one.refused_query(canister, "get").error_code == "IC0537"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('(module (import "ic0" "nothing" (func)))', "function 'nothing' from 'ic0' that is not exported"),
        ('(module (import "env" "trap" (func)))', "function 'trap' from 'env'"),
        ('(module (import "ic0" "trap" (func (param i64))))', "Expected import of 'trap'"),
        ('(module (import "ic0" "stable_size" (func (result i32))) (memory i64 1))', "'stable_size'"),
    ],
)
def test_modules_with_foreign_imports_are_refused(one: Any, text: str, expected: str) -> None:
    with pytest.raises(Rejected, match=expected.replace("(", "\\(")) as info:
        one.module(text)
    assert info.value.error_code == "IC0505"


def test_invalid_instructions_are_refused(one: Any) -> None:
    with pytest.raises(Rejected, match="failed to validate") as info:
        one.engine.parse_module(b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x05\x01\x03\0\x6a\x0b")
    assert info.value.error_code == "IC0505"


def test_interrupted_host_functions_leave_nothing_behind(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    canister = one.canister()

    def interrupt(_data: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("knowtation_backup.sandbox.execution.ic0_messages.Replied", interrupt)
    with pytest.raises(KeyboardInterrupt):
        one.call(canister, "inc")
    monkeypatch.undo()

    assert one.counts(canister) == (1, 1, 1, 0)


def test_modules_without_memory_or_methods_can_be_installed(one: Any) -> None:
    canister = one.canister("(module)")

    assert canister.code.heap.size_bytes == 0
    assert one.refused(canister, "inc").error_code == "IC0536"


def test_two_engines_in_one_process_do_not_mix(make_world: Callable[..., Any]) -> None:
    left, right = make_world(), make_world("copy", 32)
    first, second = left.canister(), right.canister()

    left.update(first, "inc")

    assert left.counts(first) == (2, 2, 2, 0)
    assert right.counts(second) == (1, 1, 1, 0)
