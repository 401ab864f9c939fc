"""Install, reinstall, upgrade, uninstall, snapshot load: order of hooks, what is kept, what failure leaves."""

import hashlib
from typing import Any

import attrs
import pytest
import wasmtime

from knowtation_backup.sandbox.execution.images import MemoryImage
from knowtation_backup.sandbox.execution.wasm_binary import encode_name, encode_u32
from knowtation_backup.sandbox.messages import Rejected
from knowtation_backup.sandbox.state import CodeState, GlobalValue

pytestmark = pytest.mark.sandbox
USER = b"\x01user\x02"


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def persistent(world: Any, **options: Any) -> Any:
    """A module with the marker of enhanced orthogonal persistence."""
    text = wasmtime.wat2wasm(module_text(world, **options))
    body = encode_name("icp:private enhanced-orthogonal-persistence")
    return world.engine.parse_module(bytes(text) + b"\0" + encode_u32(len(body)) + body)


def module_text(world: Any, **options: Any) -> str:
    return str(world.text(**options))


def fingerprint(canister: Any) -> tuple[Any, ...]:
    code = canister.code
    return (
        code.module.hash,
        hashlib.sha256(code.heap.read(0, code.heap.size_bytes)).digest(),
        hashlib.sha256(code.stable.read(0, code.stable.size_bytes)).digest(),
        tuple(code.global_values),
        canister.version,
        canister.certified_data,
        canister.global_timer,
        canister.cycles,
    )


def test_install_runs_start_and_then_init(world: Any) -> None:
    canister = world.empty()

    used = world.engine.install(canister, world.module(module_text(world, start=True)), b"", USER)

    assert used > 0
    assert world.counts(canister) == (0x0101, 1, 1, 0)  # byte 1 was set by start, the rest by init
    assert canister.version == 1
    assert canister.last_install_at > 0


def test_failed_install_leaves_the_canister_empty(world: Any) -> None:
    canister = world.empty()
    module = world.module('(module (func (export "canister_init") unreachable))')

    with pytest.raises(Rejected, match="-cai: Canister trapped: unreachable") as info:
        world.engine.install(canister, module, b"", USER)

    assert info.value.error_code == "IC0502"
    assert canister.code is None
    assert canister.version == 0


def test_reinstall_forgets_everything(world: Any) -> None:
    canister = world.canister()
    world.update(canister, "grow")
    world.update(canister, "certify", b"x")
    world.update(canister, "set_timer", u64(5))
    world.update(canister, "print", b"x")

    world.engine.reinstall(canister, world.module(), b"", USER)

    assert world.counts(canister) == (1, 1, 1, 0)
    assert canister.code.heap.size_bytes == 2 * 65_536
    assert (canister.certified_data, canister.global_timer, len(canister.logs)) == (b"", 0, 0)


def test_classic_upgrade_keeps_stable_memory_only(world: Any) -> None:
    canister = world.canister()
    world.update(canister, "inc")
    world.update(canister, "certify", b"kept")
    world.update(canister, "set_timer", u64(5))
    version = canister.version

    world.engine.upgrade(canister, world.module(module_text(world, start=True)), bytes(8), USER)

    # Stable memory: init, inc, pre_upgrade, post_upgrade. Heap and global: only post_upgrade.
    assert world.counts(canister) == (0x0101, 1, 4, 0)
    assert canister.version == version + 1
    assert canister.certified_data == b"kept"
    assert canister.global_timer == 0


def test_skipping_pre_upgrade(world: Any) -> None:
    canister = world.canister()

    world.engine.upgrade(canister, world.module(), bytes(8), USER, skip_pre_upgrade=True)

    assert world.counts(canister) == (1, 1, 2, 0)


def test_persistent_upgrade_puts_the_memory_back_before_start_runs(world: Any) -> None:
    canister = world.empty()
    world.engine.install(canister, persistent(world), b"", USER)
    world.update(canister, "grow")

    world.engine.upgrade(canister, persistent(world, start=True), bytes(8), USER, wasm_memory_persistence="keep")

    # Heap: init, grow, pre_upgrade, start (byte 1), post_upgrade; the global starts anew.
    assert world.counts(canister) == (0x0104, 1, 4, 0)
    assert world.query(canister, "last_byte") == u64(7)
    world.update(canister, "inc")
    assert world.counts(canister) == (0x0105, 2, 5, 0)


@pytest.mark.parametrize("keep", [True, False], ids=["keep", "classic"])
def test_failed_upgrade_leaves_the_canister_as_it_was(world: Any, *, keep: bool) -> None:
    module = persistent(world) if keep else world.module()
    canister = world.empty()
    world.engine.install(canister, module, b"", USER)
    world.update(canister, "grow")
    world.update(canister, "set_timer", u64(5))
    before = fingerprint(canister)

    with pytest.raises(Rejected, match="boom!"):
        world.engine.upgrade(canister, module, u64(1), USER, wasm_memory_persistence="keep" if keep else None)

    assert fingerprint(canister) == before
    assert world.query(canister, "last_byte") == u64(7)
    world.update(canister, "inc")
    assert world.counts(canister) == (3, 3, 3, 0)


def test_failing_pre_upgrade_stops_the_upgrade(world: Any) -> None:
    text = module_text(world).replace(
        '(func (export "canister_pre_upgrade") (call $bump))',
        '(func (export "canister_pre_upgrade") (call $bump) (call $grow_and_touch) (call $boom))',
    )
    canister = world.canister(text)
    before = fingerprint(canister)

    with pytest.raises(Rejected, match="boom!"):
        world.engine.upgrade(canister, world.module(), bytes(8), USER)

    assert fingerprint(canister) == before
    assert world.counts(canister) == (1, 1, 1, 0)
    world.engine.upgrade(canister, world.module(), bytes(8), USER, skip_pre_upgrade=True)


def test_persistence_option_must_fit_the_modules(one: Any) -> None:
    canister = one.empty()
    one.engine.install(canister, persistent(one), b"", USER)

    with pytest.raises(Rejected, match="Missing upgrade option: Enhanced orthogonal persistence requires"):
        one.engine.upgrade(canister, persistent(one), bytes(8), USER)
    with pytest.raises(Rejected, match="Invalid upgrade option") as info:
        one.engine.upgrade(canister, one.module(), bytes(8), USER, wasm_memory_persistence="keep")
    assert info.value.error_code == "IC0504"
    assert one.counts(canister) == (1, 1, 1, 0)

    one.engine.upgrade(canister, persistent(one), bytes(8), USER, wasm_memory_persistence="replace")
    assert one.counts(canister) == (1, 1, 3, 0)


def test_uninstall_removes_code_and_state(one: Any) -> None:
    canister = one.canister()
    one.update(canister, "certify", b"x")

    one.engine.uninstall(canister)

    assert (canister.code, canister.certified_data, canister.version) == (None, b"", 3)
    assert one.refused(canister, "inc").error_code == "IC0537"
    one.engine.install(canister, one.module(), b"", USER)
    assert one.counts(canister) == (1, 1, 1, 0)


def copy_code(canister: Any) -> CodeState:
    code = canister.code
    return CodeState(
        module=code.module, heap=code.heap.copy(), stable=code.stable.copy(), global_values=list(code.global_values)
    )


def test_loaded_code_continues_where_the_copy_was_taken(world: Any) -> None:
    canister = world.canister()
    world.update(canister, "grow")
    code = copy_code(canister)
    for _ in range(3):
        world.update(canister, "grow")
    version = canister.version

    world.engine.load_code(canister, code, certified_data=b"then")

    assert world.counts(canister) == (2, 2, 2, 0)
    assert canister.code.heap.size_bytes == 5 * 65_536
    assert (canister.version, canister.certified_data) == (version + 1, b"then")
    world.update(canister, "inc")
    assert world.counts(canister) == (3, 3, 3, 0)


def test_code_can_be_loaded_into_an_empty_canister(one: Any) -> None:
    source, target = one.canister(), one.empty()
    one.update(source, "inc")

    one.engine.load_code(target, copy_code(source), certified_data=b"")

    assert one.counts(target) == (2, 2, 2, 0)


@pytest.mark.parametrize(
    "globals_",
    [
        [],
        [GlobalValue("i32", 0), GlobalValue("i64", 99)],
        [GlobalValue("i32", 0), GlobalValue("i64", 99), GlobalValue("i32", 2)],
    ],
)
def test_globals_that_do_not_fit_are_refused(one: Any, globals_: list[GlobalValue]) -> None:
    canister = one.canister()
    before = fingerprint(canister)

    with pytest.raises(Rejected, match="Wasm exported globals of canister module") as info:
        one.engine.load_code(canister, attrs.evolve(copy_code(canister), global_values=globals_), certified_data=b"")

    assert info.value.error_code == "IC0408"
    assert fingerprint(canister) == before


def test_a_heap_smaller_than_the_module_needs_is_refused(one: Any) -> None:
    canister = one.canister()
    code = attrs.evolve(copy_code(canister), heap=MemoryImage(65_536))

    with pytest.raises(Rejected, match="does not fit the canister module"):
        one.engine.load_code(canister, code, certified_data=b"")

    assert one.counts(canister) == (1, 1, 1, 0)


def test_floats_and_vectors_keep_their_bits(one: Any) -> None:
    text = """(module
      (import "ic0" "msg_reply" (func $reply))
      (global $f32 (mut f32) (f32.const nan:0x200001))
      (global $f64 (mut f64) (f64.const -0.0))
      (global $v128 (mut v128) (v128.const i64x2 1 -1))
      (func (export "canister_update touch") (global.set $f64 (f64.const -nan:0x4000000000001)) (call $reply)))"""
    canister = one.canister(text)
    assert [value.bits for value in canister.code.global_values] == [0x7FA00001, 1 << 63, 1 | ((1 << 64) - 1) << 64]

    code = copy_code(canister)
    code.global_values[0] = GlobalValue("f32", 0xFFC12345)
    one.engine.load_code(canister, code, certified_data=b"")
    one.update(canister, "touch")

    assert [value.bits for value in canister.code.global_values] == [
        0xFFC12345,
        0xFFF4000000000001,
        1 | ((1 << 64) - 1) << 64,
    ]
