"""A hand-written test canister in both pointer widths, and a replica without HTTP around it."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from knowtation_backup.sandbox.clock import SandboxClock
from knowtation_backup.sandbox.execution.engine import Engine
from knowtation_backup.sandbox.execution.message import InstructionLimits
from knowtation_backup.sandbox.execution.page_tables import PageTables
from knowtation_backup.sandbox.execution.wasm_module import WasmModule
from knowtation_backup.sandbox.messages import Answer, Call, Rejected, Replied, RequestStatus
from knowtation_backup.sandbox.replica.replica import ManagementRequest, Replica
from knowtation_backup.sandbox.state import Canister, CanisterSettings

USER = b"\x01user\x02"
SUBNET = b"\x02subnet\x02"
CYCLES = 10**15

# Memory: 0 counter, 64 report, 128 texts, 256 scratch, 4096 argument buffer. Every `bump` changes heap, global and
# stable memory, so that each of the three can be seen to be rolled back.
TEMPLATE = """(module
  (import "ic0" "msg_arg_data_size" (func $arg_size (result {I})))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param {I} {I} {I})))
  (import "ic0" "msg_caller_size" (func $caller_size (result {I})))
  (import "ic0" "msg_caller_copy" (func $caller_copy (param {I} {I} {I})))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param {I} {I})))
  (import "ic0" "msg_reject" (func $reject (param {I} {I})))
  (import "ic0" "msg_reject_code" (func $reject_code (result i32)))
  (import "ic0" "msg_reject_msg_size" (func $reject_size (result {I})))
  (import "ic0" "msg_reject_msg_copy" (func $reject_copy (param {I} {I} {I})))
  (import "ic0" "accept_message" (func $accept))
  (import "ic0" "trap" (func $trap (param {I} {I})))
  (import "ic0" "debug_print" (func $print (param {I} {I})))
  (import "ic0" "stable64_size" (func $stable_size (result i64)))
  (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
  (import "ic0" "stable64_read" (func $stable_read (param i64 i64 i64)))
  (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
  (import "ic0" "certified_data_set" (func $certify (param {I} {I})))
  (import "ic0" "data_certificate_present" (func $certificate_present (result i32)))
  (import "ic0" "data_certificate_size" (func $certificate_size (result {I})))
  (import "ic0" "data_certificate_copy" (func $certificate_copy (param {I} {I} {I})))
  (import "ic0" "global_timer_set" (func $timer (param i64) (result i64)))
  (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "performance_counter" (func $performance (param i32) (result i64)))
  (import "ic0" "canister_version" (func $version (result i64)))
  (import "ic0" "is_controller" (func $is_controller (param {I} {I}) (result i32)))
  (import "ic0" "call_new" (func $call_new (param {I} {I} {I} {I} {I} {I} {I} {I})))
  (import "ic0" "call_data_append" (func $call_data (param {I} {I})))
  (import "ic0" "call_on_cleanup" (func $call_cleanup (param {I} {I})))
  (import "ic0" "call_cycles_add128" (func $call_cycles (param i64 i64)))
  (import "ic0" "call_with_best_effort_response" (func $call_timeout (param i32)))
  (import "ic0" "call_perform" (func $call_perform (result i32)))
  (import "ic0" "msg_cycles_accept128" (func $accept_cycles (param i64 i64 {I})))
  (import "ic0" "msg_cycles_refunded128" (func $refunded (param {I})))
  (memory (export "mem") {M} 2 {MAX})
  (table (export "table") 8 funcref)
  (elem (i32.const 0) $on_reply $on_reject $on_cleanup $on_reply_trap $wrong_type $on_reply_refund)
  (global $count (mut i64) (i64.const 0))
  (global $cleanups (export "cleanups") (mut i32) (i32.const 0))
  (global $fixed (export "fixed") i64 (i64.const 99))
  (data ({I}.const 128) "boom!")
  {START}

  (func $bump
    (i64.store ({I}.const 0) (i64.add (i64.load ({I}.const 0)) (i64.const 1)))
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (if (i64.eqz (call $stable_size)) (then (drop (call $stable_grow (i64.const 1)))))
    (call $stable_read (i64.const 256) (i64.const 0) (i64.const 8))
    (i64.store ({I}.const 256) (i64.add (i64.load ({I}.const 256)) (i64.const 1)))
    (call $stable_write (i64.const 0) (i64.const 256) (i64.const 8)))
  (func $report
    (i64.store ({I}.const 64) (i64.load ({I}.const 0)))
    (i64.store ({I}.const 72) (global.get $count))
    (i64.store ({I}.const 80) (i64.const 0))
    (if (i64.ne (call $stable_size) (i64.const 0))
      (then (call $stable_read (i64.const 80) (i64.const 0) (i64.const 8))))
    (i64.store ({I}.const 88) (i64.extend_i32_u (global.get $cleanups)))
    (call $append ({I}.const 64) ({I}.const 32))
    (call $reply))
  (func $load_arg (call $arg_copy ({I}.const 4096) ({I}.const 0) (call $arg_size)))
  (func $answer_u64 (param i64)
    (i64.store ({I}.const 64) (local.get 0))
    (call $append ({I}.const 64) ({I}.const 8))
    (call $reply))
  (func $boom (call $trap ({I}.const 128) ({I}.const 5)))

  (func (export "canister_init") (call $bump))
  (func (export "canister_pre_upgrade") (call $bump))
  (func (export "canister_post_upgrade")
    (call $load_arg)
    (call $bump)
    (if (i64.eq (i64.load ({I}.const 4096)) (i64.const 1)) (then (call $boom))))
  (func (export "canister_inspect_message")
    (call $bump)
    (call $caller_copy ({I}.const 4096) ({I}.const 0) (call $caller_size))
    (if (i32.ne (i32.load8_u ({I}.const 4096)) (i32.const 4)) (then (call $accept))))
  (func (export "canister_global_timer") (call $bump))
  (func (export "canister_on_low_wasm_memory") (global.set $cleanups (i32.const 1000)))

  (func (export "canister_update inc") (call $bump) (call $report))
  (func (export "canister_update inc_trap") (call $bump) (call $boom))
  (func (export "canister_update inc_unreachable") (call $bump) (unreachable))
  (func (export "canister_update spin") (call $bump) (loop $forever (br $forever)))
  (func (export "canister_query spin_query") (loop $forever (br $forever)))
  (func (export "canister_query get") (call $report))
  (func (export "canister_query peek") (call $bump) (call $report))
  (func (export "canister_update grow") (call $bump) (call $grow_and_touch) (call $answer_u64 (call $size)))
  (func (export "canister_update grow_trap") (call $bump) (call $grow_and_touch) (call $boom))
  (func (export "canister_query grow_query") (call $bump) (call $grow_and_touch) (call $answer_u64 (call $size)))
  (func (export "canister_query last_byte")
    (call $answer_u64 (i64.load8_u ({I}.sub (call $size_native) ({I}.const 1)))))
  (func $size_native (result {I}) ({I}.mul (memory.size) ({I}.const 65536)))
  (func $size (result i64) {SIZE64})
  (func $grow_and_touch
    (drop (memory.grow ({I}.const 3)))
    (i32.store8 ({I}.sub (call $size_native) ({I}.const 1)) (i32.const 7)))

  (func (export "canister_update echo") (call $echo))
  (func (export "canister_query echo_query") (call $echo))
  (func $echo
    (call $load_arg) (call $append ({I}.const 4096) (call $arg_size)) (call $reply))
  (func (export "canister_update caller")
    (call $caller_copy ({I}.const 4096) ({I}.const 0) (call $caller_size))
    (call $append ({I}.const 4096) (call $caller_size)) (call $reply))
  (func (export "canister_update controlled")
    (call $caller_copy ({I}.const 4096) ({I}.const 0) (call $caller_size))
    (call $answer_u64 (i64.extend_i32_u (call $is_controller ({I}.const 4096) (call $caller_size)))))
  (func (export "canister_update big") (call $big))
  (func (export "canister_query big_query") (call $big))
  (func $big (local $left i64)
    (call $load_arg)
    (local.set $left (i64.load ({I}.const 4096)))
    (loop $more
      (call $append ({I}.const 0) ({I}.const 65536))
      (local.set $left (i64.sub (local.get $left) (i64.const 1)))
      (br_if $more (i64.ne (local.get $left) (i64.const 0))))
    (call $reply))
  (func (export "canister_update silent") (call $bump))
  (func (export "canister_update refuse") (call $bump) (call $reject ({I}.const 128) ({I}.const 5)))
  (func (export "canister_update twice") (call $reply) (call $reply))
  (func (export "canister_update wrong_mode") (call $accept))
  (func (export "canister_query wrong_mode_query") (call $certify ({I}.const 0) ({I}.const 1)))
  (func (export "canister_update outside") (call $arg_copy ({I}.const 131070) ({I}.const 0) (call $arg_size)))
  (func (export "canister_update beyond_arg") (call $arg_copy ({I}.const 4096) ({I}.const 1) (call $arg_size)))
  (func (export "canister_update stable_outside")
    (call $stable_read (i64.const 0) (i64.const 0x7000000000) (i64.const 1)))
  (func (export "canister_update divide")
    (drop (i32.div_u (i32.const 1) (i32.wrap_i64 (i64.load ({I}.const 1024))))))
  (func (export "canister_update certify")
    (call $load_arg) (call $certify ({I}.const 4096) (call $arg_size)) (call $reply))
  (func (export "canister_query certificate")
    (if (i32.eqz (call $certificate_present)) (then (call $boom)))
    (call $certificate_copy ({I}.const 4096) ({I}.const 0) (call $certificate_size))
    (call $append ({I}.const 4096) (call $certificate_size)) (call $reply))
  (func (export "canister_update set_timer")
    (call $load_arg)
    (call $answer_u64 (call $timer (i64.load ({I}.const 4096)))))
  (func (export "canister_update set_timer_trap")
    (call $load_arg) (drop (call $timer (i64.load ({I}.const 4096))))
    (call $certify ({I}.const 128) ({I}.const 5)) (call $boom))
  (func (export "canister_update now") (call $answer_u64 (i64.sub (call $time) (call $time))))
  (func (export "canister_update used") (call $answer_u64 (call $performance (i32.const 0))))
  (func (export "canister_update seen_version") (call $answer_u64 (call $version)))
  (func (export "canister_update print") (call $load_arg) (call $print ({I}.const 4096) (call $arg_size)) (call $reply))
  (func (export "canister_update print_trap")
    (call $load_arg) (call $print ({I}.const 4096) (call $arg_size)) (call $boom))

  ;; call: [callee size][callee 10][name size][name][reply function][cycles, timeout: 8 each][payload]
  (func (export "canister_update call") (call $call))
  (func (export "canister_composite_query call_query") (call $call))
  (func $call (local $name {I}) (local $rest {I})
    (call $bump)
    (call $load_arg)
    (local.set $name ({I}.add ({I}.const 4097) ({I}.load8_u ({I}.const 4096))))
    (local.set $rest ({I}.add ({I}.add (local.get $name) ({I}.const 1)) ({I}.load8_u (local.get $name))))
    (call $call_new ({I}.const 4097) ({I}.load8_u ({I}.const 4096))
      ({I}.add (local.get $name) ({I}.const 1)) ({I}.load8_u (local.get $name))
      ({I}.load8_u (local.get $rest)) ({I}.const 7) ({I}.const 1) ({I}.const 7))
    (call $call_cleanup ({I}.const 2) ({I}.const 7))
    (call $call_data ({I}.add (local.get $rest) ({I}.const 17))
      ({I}.sub ({I}.add (call $arg_size) ({I}.const 4096)) ({I}.add (local.get $rest) ({I}.const 17))))
    (if (i64.ne (i64.load ({I}.add (local.get $rest) ({I}.const 1))) (i64.const 0))
      (then (call $call_cycles (i64.const 0) (i64.load ({I}.add (local.get $rest) ({I}.const 1))))))
    (if (i64.ne (i64.load ({I}.add (local.get $rest) ({I}.const 9))) (i64.const 0))
      (then (call $call_timeout (i32.load ({I}.add (local.get $rest) ({I}.const 9))))))
    (if (call $call_perform) (then (call $boom))))
  (func $on_reply (param {I})
    (if ({I}.ne (local.get 0) ({I}.const 7)) (then (unreachable)))
    (call $bump) (call $load_arg) (call $append ({I}.const 4096) (call $arg_size)) (call $reply))
  (func $on_reject (param {I})
    (call $bump)
    (i64.store ({I}.const 64) (i64.extend_i32_u (call $reject_code)))
    (call $reject_copy ({I}.const 4096) ({I}.const 0) (call $reject_size))
    (call $append ({I}.const 64) ({I}.const 8))
    (call $append ({I}.const 4096) (call $reject_size)) (call $reply))
  (func $on_cleanup (param {I}) (global.set $cleanups (i32.add (global.get $cleanups) (i32.const 1))))
  (func $on_reply_trap (param {I}) (call $bump) (call $boom))
  (func $wrong_type (param f32))
  (func $on_reply_refund (param {I})
    (call $refunded ({I}.const 64)) (call $append ({I}.const 64) ({I}.const 8)) (call $reply))
  (func (export "canister_update accept_100")
    (call $bump)
    (call $accept_cycles (i64.const 0) (i64.const 100) ({I}.const 64))
    (call $append ({I}.const 64) ({I}.const 8)) (call $reply))
  (func (export "canister_query accept_100_query")
    (call $bump)
    (call $accept_cycles (i64.const 0) (i64.const 100) ({I}.const 64))
    (call $append ({I}.const 64) ({I}.const 8)) (call $reply))
)"""


def module_text(bits: int, *, start: bool = False, max_pages: str = "") -> str:
    size64 = "(call $size_native)" if bits == 64 else "(i64.extend_i32_u (call $size_native))"
    text = TEMPLATE.replace("{I}", f"i{bits}").replace("{M}", "i64" if bits == 64 else "").replace("{SIZE64}", size64)
    begin = "(func $begin (i64.store8 ({I}.const 1) (i64.const 1))) (start $begin)".replace("{I}", f"i{bits}")
    return text.replace("{START}", begin if start else "").replace("{MAX}", max_pages)


class Management:
    """Records requests; answers `echo` at once, keeps `later` for the test."""

    def __init__(self) -> None:
        self.waiting: list[ManagementRequest] = []
        self.broke: list[bytes] = []

    def check_ingress(self, call: Call) -> None:
        if call.method == "refused":
            raise Rejected("IC0512", "not a controller")

    def execute(self, request: ManagementRequest) -> None:
        if request.method == "later":
            self.waiting.append(request)
        elif request.method == "echo":
            request.respond(Replied(request.arg), request.cycles // 2)
        else:
            raise Rejected("IC0407", f"no method {request.method}")

    def query(self, call: Call) -> bytes:
        if call.method != "status":
            raise Rejected("IC0536", "Query method not found.")
        return b"fine"

    def out_of_cycles(self, canister: Canister) -> None:
        self.broke.append(canister.canister_id)


class World:
    """A replica and short words for what tests do with it."""

    def __init__(self, isolation: str, bits: int, cache_directory: Path, **limits: int) -> None:
        self.bits = bits
        self.clock = SandboxClock()
        mapped = isolation != "copy"
        self.engine = Engine(
            self.clock,
            subnet_id=SUBNET,
            root_key_der=b"key",
            isolation="mapped" if mapped else "copy",
            cache_directory=cache_directory,
            limits=InstructionLimits(**{"update": 50_000_000, "query": 20_000_000, **limits}),
        )
        if isolation == "pagemap":
            assert self.engine._tables
            self.engine._tables.close()
            self.engine._tables = PageTables(scan=False)
        self.replica = Replica(self.clock, self.engine, subnet_id=SUBNET)
        self.management = Management()
        self.replica.management = self.management
        self.replica.data_certificate = lambda canister_id: b"certificate of " + canister_id
        self._numbers = itertools.count()

    def text(self, *, start: bool = False) -> str:
        return module_text(self.bits, start=start)

    def module(self, text: str | None = None) -> WasmModule:
        return self.engine.parse_module(bytes(wasmtime.wat2wasm(text or module_text(self.bits))))

    def empty(self, **settings: Any) -> Canister:
        number = len(self.replica.canisters)
        canister = Canister(
            canister_id=number.to_bytes(8, "big") + b"\x01\x01",
            settings=CanisterSettings(controllers=[USER], **settings),
            created_at=0,
            cycles=CYCLES,
            charged_until=self.clock.now_ns(),
        )
        self.replica.canisters[canister.canister_id] = canister
        return canister

    def canister(self, text: str | None = None, **settings: Any) -> Canister:
        canister = self.empty(**settings)
        self.engine.install(canister, self.module(text), b"", USER)
        return canister

    def message(self, canister_id: bytes, method: str, arg: bytes = b"", *, sender: bytes = USER) -> Call:
        return Call(
            request_id=next(self._numbers).to_bytes(32, "big"),
            sender=sender,
            canister_id=canister_id,
            effective_canister_id=canister_id,
            method=method,
            arg=arg,
            ingress_expiry=self.clock.now_ns() + 240_000_000_000,
            size_bytes=len(arg) + 200,
        )

    def call(self, canister: Canister, method: str, arg: bytes = b"", *, sender: bytes = USER) -> RequestStatus:
        return self.replica.call(self.message(canister.canister_id, method, arg, sender=sender))

    def update(self, canister: Canister, method: str, arg: bytes = b"", *, sender: bytes = USER) -> bytes:
        return data(self.call(canister, method, arg, sender=sender).answer)

    def refused(self, canister: Canister, method: str, arg: bytes = b"") -> Rejected:
        answer = self.call(canister, method, arg).answer
        assert isinstance(answer, Rejected), answer
        return answer

    def query(self, canister: Canister, method: str, arg: bytes = b"") -> bytes:
        return data(self.replica.query(self.message(canister.canister_id, method, arg)))

    def refused_query(self, canister: Canister, method: str, arg: bytes = b"") -> Rejected:
        answer = self.replica.query(self.message(canister.canister_id, method, arg))
        assert isinstance(answer, Rejected), answer
        return answer

    def counts(self, canister: Canister) -> tuple[int, ...]:
        """Counter in heap, in a global, in stable memory, and the number of cleanups."""
        return numbers(self.query(canister, "get"))


def data(answer: Answer | None) -> bytes:
    assert isinstance(answer, Replied), answer
    return answer.data


def numbers(raw: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(raw[start : start + 8], "little") for start in range(0, len(raw), 8))


@pytest.fixture(params=["mapped", "pagemap", "copy"])
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[64, 32], ids=["wasm64", "wasm32"])
def bits(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engines share compiled modules, so that each is compiled once."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def make_world(compiled: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(isolation: str = "mapped", bits: int = 64, **limits: int) -> World:
        worlds.append(World(isolation, bits, compiled, **limits))
        return worlds[-1]

    yield make
    for world in worlds:
        world.engine.close()


@pytest.fixture
def world(make_world: Callable[..., World], isolation: str, bits: int) -> World:
    """Every isolation in every pointer width."""
    return make_world(isolation, bits)


@pytest.fixture
def one(make_world: Callable[..., World]) -> World:
    """One world, for what does not depend on isolation or width."""
    return make_world()
