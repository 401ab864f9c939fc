import gzip
import hashlib
import re

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.sandbox.execution.wasm_binary import encode_name, encode_u32, parse, serialize
from knowtation_backup.sandbox.execution.wasm_module import GlobalSlot, parse_wasm_module, rewrite
from knowtation_backup.sandbox.messages import Rejected

CANISTER = """(module
  (import "ic0" "msg_reply" (func $reply))
  (type $other (func (param i32 i64) (result f64)))
  (memory (export "mem") i64 3 9)
  (table (export "table") 4 funcref)
  (global $constant (export "version") i32 (i32.const 5))
  (global $hidden (mut i64) (i64.const -7))
  (global $shown (export "shown") (mut f32) (f32.const 1.5))
  (global $wide (mut v128) (v128.const i64x2 1 2))
  (global $unseen i32 (i32.const 1))
  (func $start (global.set $hidden (i64.const 1)))
  (start $start)
  (func (export "canister_init"))
  (func (export "canister_heartbeat"))
  (func (export "canister_update set"))
  (func (export "canister_query get"))
  (func (export "canister_composite_query deep one"))
  (func (export "helper") (param i32))
  (data (i64.const 0) "abc"))"""


def compiled(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def custom(name: str, content: bytes) -> bytes:
    body = encode_name(name) + content
    return b"\0" + encode_u32(len(body)) + body


def reason(data: bytes) -> str:
    with pytest.raises(Rejected) as info:
        parse_wasm_module(data)
    assert info.value.error_code == "IC0505"
    return info.value.message


def test_module_facts_are_read() -> None:
    data = compiled(CANISTER)

    module = parse_wasm_module(data)

    assert module.hash == hashlib.sha256(data).digest()
    assert module.data == data
    assert module.memory64
    assert module.memory_minimum_bytes == 3 * 65_536
    assert module.has_start
    assert module.methods == {"set": "update", "get": "query", "deep one": "composite_query"}
    assert module.hooks == {"canister_init", "canister_heartbeat"}
    assert [(item.module, item.name) for item in module.imports] == [("ic0", "msg_reply")]


def test_globals_are_exported_ones_in_export_order_then_hidden_mutable_ones() -> None:
    assert parse_wasm_module(compiled(CANISTER)).global_slots == (
        GlobalSlot(index=0, kind="i32", mutable=False),
        GlobalSlot(index=2, kind="f32", mutable=True),
        GlobalSlot(index=1, kind="i64", mutable=True),
        GlobalSlot(index=3, kind="v128", mutable=True),
    )


def test_gzip_is_accepted_and_hashed_as_sent() -> None:
    plain = compiled(CANISTER)
    packed = gzip.compress(plain)

    module = parse_wasm_module(packed)

    assert module.hash == hashlib.sha256(packed).digest()
    assert module.data == packed
    assert rewrite(module) == rewrite(parse_wasm_module(plain))


def test_custom_sections_have_visibility_and_size() -> None:
    data = compiled("(module)") + custom("icp:public candid:service", b"service : {}")
    data += custom("icp:private enhanced-orthogonal-persistence", b"") + custom("name", b"ignored")

    module = parse_wasm_module(data)

    assert set(module.custom_sections) == {"candid:service", "enhanced-orthogonal-persistence"}
    assert module.custom_sections["candid:service"].public
    assert module.custom_sections["candid:service"].content == b"service : {}"
    assert not module.custom_sections["enhanced-orthogonal-persistence"].public
    assert module.enhanced_orthogonal_persistence
    assert module.custom_sections_size_bytes == 14 + 12 + 31
    assert not parse_wasm_module(compiled("(module)")).enhanced_orthogonal_persistence


def test_rewritten_module_is_valid_and_exports_what_the_engine_needs() -> None:
    changed = rewrite(parse_wasm_module(compiled(CANISTER)))

    config = wasmtime.Config()
    config.wasm_memory64 = True
    module = wasmtime.Module(wasmtime.Engine(config), changed)
    names = {item.name for item in module.exports}
    assert {"canister_start", "__sandbox_memory", "__sandbox_table"} <= names
    assert {"__sandbox_get_globals", "__sandbox_set_globals", "canister_update set", "mem"} <= names
    assert parse(changed).start == -1


def test_empty_module_needs_no_rewriting() -> None:
    data = compiled("(module)")

    assert rewrite(parse_wasm_module(data)) == data


def test_sections_survive_parsing_and_writing() -> None:
    data = compiled(CANISTER)

    assert serialize(parse(data).sections) == data[: len(serialize(parse(data).sections))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '(module (func (export "canister_update x") (param i32)))',
            "Expected return type \\[\\] and parameters \\[\\]",
        ),
        ('(module (func (export "canister_init") (result i32) (i32.const 0)))', "for 'canister_init'"),
        ('(module (func (export "canister_update x")) (func (export "canister_query x")))', "Duplicate export 'x'"),
        ('(module (func (export "canister_start")))', "canister_start is reserved"),
        ('(module (import "a" "b" (memory 1)))', "only functions can be imported"),
        ("(module (memory 1) (memory 1))", "multiple memories"),
        ("(module (global (mut externref) (ref.null extern)))", "cannot be part of a canister's state"),
    ],
)
def test_modules_against_the_rules_are_refused(text: str, expected: str) -> None:
    assert re.search(expected, reason(compiled(text)))


def test_things_that_are_not_modules_are_refused() -> None:
    assert "bad magic number" in reason(b"")
    assert "bad magic number" in reason(b"not wasm at all")
    assert "gzip" in reason(gzip.compress(compiled(CANISTER))[:-20])
    assert "past the end" in reason(compiled(CANISTER)[:-3])


def test_limits_of_the_network_are_enforced() -> None:
    many_globals = "(module" + "(global (mut i32) (i32.const 0))" * 1001 + ")"
    long_names = "(module" + "".join(f'(func (export "canister_query {i:0100}"))' for i in range(201)) + ")"
    sections = b"".join(custom(f"icp:public s{i}", b"") for i in range(17))

    assert "1001 globals" in reason(compiled(many_globals))
    assert "bytes of exported method names" in reason(compiled(long_names))
    assert "17 custom sections" in reason(compiled("(module)") + sections)
    assert "custom sections of" in reason(compiled("(module)") + custom("icp:public s", bytes(1 << 20)))
    assert "duplicate custom section" in reason(compiled("(module)") + custom("icp:public s", b"") * 2)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(tail: bytes) -> None:
    for data in (tail, b"\0asm\x01\0\0\0" + tail):
        try:
            parse_wasm_module(data)
        except Rejected as refusal:
            assert refusal.error_code == "IC0505"  # noqa: PT017 - both outcomes are fine


@given(st.data())
def test_damaged_modules_never_raise_anything_else(draw: st.DataObject) -> None:
    data = bytearray(compiled(CANISTER))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        module = parse_wasm_module(bytes(data))
    except Rejected as refusal:
        assert refusal.error_code == "IC0505"  # noqa: PT017 - both outcomes are fine
    else:
        rewrite(module)
