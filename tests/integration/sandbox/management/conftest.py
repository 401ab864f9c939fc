"""One subnet with the real engine, driven in process, and a small canister that shows all its state."""

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import wasmtime

from knowtation_backup.sandbox import candid
from knowtation_backup.sandbox.clock import SandboxClock
from knowtation_backup.sandbox.execution.engine import Engine
from knowtation_backup.sandbox.management.canister import ManagementCanister
from knowtation_backup.sandbox.management.types import METHODS
from knowtation_backup.sandbox.messages import Answer, Call, Rejected, Replied
from knowtation_backup.sandbox.replica.replica import Replica
from knowtation_backup.sandbox.state import Canister

ALICE = b"\x01" * 28 + b"\x02"
BOB = b"\x02" * 28 + b"\x02"

COUNTER = """
(module
  (import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reject" (func $reject (param i32 i32)))
  (import "ic0" "msg_reject_msg_size" (func $reject_size (result i32)))
  (import "ic0" "msg_reject_msg_copy" (func $reject_copy (param i32 i32 i32)))
  (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
  (import "ic0" "stable64_read" (func $stable_read (param i64 i64 i64)))
  (import "ic0" "certified_data_set" (func $certify (param i32 i32)))
  (import "ic0" "global_timer_set" (func $timer (param i64) (result i64)))
  (import "ic0" "debug_print" (func $print (param i32 i32)))
  (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_data_append" (func $call_data (param i32 i32)))
  (import "ic0" "call_cycles_add128" (func $call_cycles (param i64 i64)))
  (import "ic0" "call_perform" (func $call_perform (result i32)))
  (memory (export "memory") 2)
  (table funcref (elem $on_reply $on_reject))
  (global $count (export "count") (mut i32) (i32.const 0))
  (global $fixed (export "fixed") f64 (f64.const 0.5))
  (global $hidden (mut i64) (i64.const -7))
  (data (i32.const 0) "abc")
  (func (export "canister_init") (drop (call $stable_grow (i64.const 1))))
  (func (export "canister_update inc")
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (global.set $hidden (i64.sub (global.get $hidden) (i64.const 1)))
    (i32.store (i32.const 100000) (global.get $count))
    (call $stable_write (i64.const 8) (i64.const 100000) (i64.const 4))
    (call $append (i32.const 100000) (i32.const 4))
    (call $reply))
  (func (export "canister_query read")
    (i32.store (i32.const 100004) (global.get $count))
    (i64.store (i32.const 100008) (global.get $hidden))
    (call $stable_read (i64.const 100016) (i64.const 8) (i64.const 4))
    (call $append (i32.const 100000) (i32.const 20))
    (call $reply))
  (func $take (result i32)
    (call $arg_copy (i32.const 1000) (i32.const 0) (call $arg_size))
    (call $arg_size))
  (func (export "canister_update certify") (call $certify (i32.const 1000) (call $take)) (call $reply))
  (func (export "canister_update timer")
    (drop (call $take))
    (drop (call $timer (i64.load (i32.const 1000))))
    (call $reply))
  (func (export "canister_update print") (call $print (i32.const 1000) (call $take)) (call $reply))
  (func $forward (param $cycles i64)
    (local $size i32) (local $name i32)
    (local.set $size (call $take))
    (local.set $name (i32.load8_u (i32.const 1000)))
    (call $call_new (i32.const 0) (i32.const 0) (i32.const 1001) (local.get $name)
      (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $call_data
      (i32.add (i32.const 1001) (local.get $name))
      (i32.sub (i32.sub (local.get $size) (i32.const 1)) (local.get $name)))
    (if (i64.ne (local.get $cycles) (i64.const 0))
      (then (call $call_cycles (i64.const 0) (local.get $cycles))))
    (drop (call $call_perform)))
  (func (export "canister_update forward") (call $forward (i64.const 0)))
  (func (export "canister_update forward_cycles") (call $forward (i64.const 1000000000000)))
  (func $on_reply (param i32) (call $append (i32.const 1000) (call $take)) (call $reply))
  (func $on_reject (param i32)
    (call $reject_copy (i32.const 1000) (i32.const 0) (call $reject_size))
    (call $reject (i32.const 1000) (call $reject_size)))
)
"""

OTHER = '(module (memory 1) (func (export "canister_query read")))'


@attrs.frozen
class Seen:
    """What the counter says of itself."""

    heap: int
    count: int
    hidden: int
    stable: int


@attrs.define
class Subnet:
    """Speaks to a replica as users do."""

    replica: Replica
    management: ManagementCanister
    counter: bytes = attrs.field(factory=lambda: bytes(wasmtime.wat2wasm(COUNTER)))
    other: bytes = attrs.field(factory=lambda: bytes(wasmtime.wat2wasm(OTHER)))
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    def call(self, method: str, argument: Any = None, *, sender: bytes = ALICE, effective: bytes | None = None) -> Any:
        """Call the management canister; raises `Rejected`."""
        answer = self.try_call(method, argument, sender=sender, effective=effective)
        if isinstance(answer, Rejected):
            raise answer
        assert isinstance(answer, Replied), f"{method} is still processing"
        values = candid.decode(answer.data, METHODS[method].results)
        return values[0] if values else None

    def try_call(
        self, method: str, argument: Any = None, *, sender: bytes = ALICE, effective: bytes | None = None
    ) -> Answer | None:
        """Return the answer so far; raises `Rejected` only from the ingress filter."""
        return self.replica.call(self.new_call(method, argument, sender=sender, effective=effective)).answer

    def new_call(
        self, method: str, argument: Any = None, *, sender: bytes = ALICE, effective: bytes | None = None
    ) -> Call:
        arg = self.encode(method, argument)
        if effective is None:
            fields = argument if isinstance(argument, dict) else {}
            effective = fields.get("canister_id") or fields.get("target_canister") or b""
        return self.message(b"", method, arg, sender=sender, effective=effective)

    @staticmethod
    def encode(method: str, argument: Any) -> bytes:
        type_ = METHODS[method].argument if method in METHODS else None
        if isinstance(argument, bytes):
            return argument
        return candid.encode([type_], [argument]) if type_ else candid.encode([], [])

    def message(
        self, canister_id: bytes, method: str, arg: bytes, *, sender: bytes = ALICE, effective: bytes | None = None
    ) -> Call:
        return Call(
            request_id=next(self._numbers).to_bytes(32, "big"),
            sender=sender,
            canister_id=canister_id,
            effective_canister_id=canister_id if effective is None else effective,
            method=method,
            arg=arg,
            ingress_expiry=self.replica.clock.now_ns() + 10**11,
            size_bytes=len(arg) + 200,
        )

    def query(self, method: str, argument: Any = None, *, sender: bytes = ALICE) -> Any:
        """Query the management canister; raises `Rejected`."""
        effective = (argument or {}).get("canister_id", b"")
        arg = self.encode(method, argument)
        answer = self.replica.query(self.message(b"", method, arg, sender=sender, effective=effective))
        if isinstance(answer, Rejected):
            raise answer
        return candid.decode(answer.data, METHODS[method].results)[0]

    def update(self, canister_id: bytes, method: str, arg: bytes = b"", *, sender: bytes = ALICE) -> bytes:
        """Call an ordinary canister; raises `Rejected`."""
        answer = self.replica.call(self.message(canister_id, method, arg, sender=sender)).answer
        if isinstance(answer, Rejected):
            raise answer
        assert isinstance(answer, Replied)
        return answer.data

    def forward(self, canister_id: bytes, method: str, argument: Any = None, *, cycles: bool = False) -> Any:
        """Let a counter call the management canister; rejects come back as IC0406."""
        arg = bytes([len(method)]) + method.encode() + self.encode(method, argument)
        data = self.update(canister_id, "forward_cycles" if cycles else "forward", arg)
        values = candid.decode(data, METHODS[method].results)
        return values[0] if values else None

    def create(self, *, module: bytes | None = None, sender: bytes = ALICE, **argument: Any) -> bytes:
        """Create a canister with the counter (or *module*, empty: none) and return its id."""
        argument = {"amount": None, "settings": None, "specified_id": None, **argument}
        created = self.call("provisional_create_canister_with_cycles", argument, sender=sender)
        canister_id: bytes = created["canister_id"]
        module = self.counter if module is None else module
        if module:
            self.install(canister_id, module, sender=sender)
        return canister_id

    def install(
        self, canister_id: bytes, module: bytes, *, mode: Any = ("install", None), sender: bytes = ALICE
    ) -> None:
        argument = {"mode": mode, "canister_id": canister_id, "wasm_module": module, "arg": b""}
        self.call("install_code", argument, sender=sender)

    def seen(self, canister_id: bytes) -> Seen:
        answer = self.replica.query(self.message(canister_id, "read", b""))
        assert isinstance(answer, Replied), answer
        heap, count, hidden, stable = struct.unpack("<iiqi", answer.data)
        return Seen(heap, count, hidden, stable)

    def status(self, canister_id: bytes, *, sender: bytes = ALICE) -> dict[str, Any]:
        return dict(self.call("canister_status", {"canister_id": canister_id}, sender=sender))

    def canister(self, canister_id: bytes) -> Canister:
        return self.replica.canisters[canister_id]

    def history(self, canister_id: bytes) -> list[Any]:
        info = self.query("canister_info", {"canister_id": canister_id, "num_requested_changes": 100})
        return [change["details"] for change in info["recent_changes"]]

    @staticmethod
    def fresh() -> "Subnet":
        """Return another subnet, empty; the caller closes it."""
        return new_subnet()

    def set(self, canister_id: bytes, *, sender: bytes = ALICE, **settings: Any) -> None:
        self.call("update_settings", {"canister_id": canister_id, "settings": settings}, sender=sender)


def new_subnet() -> Subnet:
    """Make an empty subnet."""
    clock = SandboxClock()
    engine = Engine(clock, subnet_id=b"subnet", root_key_der=b"root key")
    replica = Replica(clock, engine, subnet_id=b"subnet")
    replica.data_certificate = lambda _: b""
    management = ManagementCanister(replica)
    replica.management = management
    return Subnet(replica, management)


@pytest.fixture
def subnet() -> Iterator[Subnet]:
    made = new_subnet()
    yield made
    made.management.close()
    made.replica.engine.close()


@pytest.fixture
def alice() -> bytes:
    return ALICE


@pytest.fixture
def bob() -> bytes:
    return BOB
