"""The sandbox's Candid against vectors of other implementations, the subtyping rules, and hostile bytes."""

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.sandbox import candid
from knowtation_backup.sandbox.candid import CandidError, Opt, Record, Some, Variant, Vec
from knowtation_backup.sandbox.management.types import METHODS

CANISTER = bytes.fromhex("00000000000000010101")
CANISTER_ARGUMENT = bytes.fromhex("4449444c016c01b3c4b1f204680100010a00000000000000010101")
UPLOAD_HEAD = bytes.fromhex(
    "4449444c046c04ed8c8bae0401d4c2a7b80402b3c4b1f20468b6b897890f016d7b6b04a79fc97e03fccbfb9d0503"
    "c586d3970903d2c7b5c00f7f6c0193affe8106780100"
)

FIELD_IDS = {
    "canister_id": 1313628723, "kind": 1191829844, "snapshot_id": 4045790262, "wasm_module": 265441191,
    "replace_snapshot": 435757295, "wasm_memory": 1405019644, "uninstall_code": 2590416362,
    "stable_memory": 2465514309, "sender_canister_version": 3599109322, "wasm_chunk": 4161627090, "id": 23515,
    "offset": 1614780307, "taken_at_timestamp": 3569147778, "size": 1280549057, "total_size": 1926775388,
    "hash": 1158164430, "source": 842117339, "chunk": 1170392685,
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), FIELD_IDS.items())
def test_field_names_hash_as_specified(name: str, number: int) -> None:
    assert candid.field_id(name) == number


def test_canister_argument_is_encoded_like_everybody_does() -> None:
    type_ = Record({"canister_id": candid.PRINCIPAL})
    assert candid.encode([type_], [{"canister_id": CANISTER}]) == CANISTER_ARGUMENT
    assert candid.decode(CANISTER_ARGUMENT, [type_]) == ({"canister_id": CANISTER},)


def test_upload_argument_of_the_rust_client_is_read() -> None:
    type_ = METHODS["upload_canister_snapshot_data"].argument
    assert type_ is not None
    chunk = bytes(range(256)) * 3
    # Fields in the order of their numbers: chunk, kind, canister_id, snapshot_id; kind 1 is wasm_memory.
    kind = b"\x01" + (4096).to_bytes(8, "little")
    data = UPLOAD_HEAD + b"\x80\x06" + chunk + kind + b"\x01\x0a" + CANISTER + b"\x12" + bytes(18)
    (value,) = candid.decode(data, [type_])
    assert value == {
        "canister_id": CANISTER,
        "snapshot_id": bytes(18),
        "kind": ("wasm_memory", {"offset": 4096}),
        "chunk": chunk,
    }


@pytest.mark.parametrize(
    ("type_", "value", "encoded"),
    [
        # One example per type, spaces between table, types and value.
        (candid.BOOL, True, "0001 7e 01"),
        (candid.NAT, 0x80, "0001 7d 8001"),
        (candid.NAT, 1 << 64, "0001 7d 80808080808080808002"),
        (candid.INT, -1, "0001 7c 7f"),
        (candid.INT, 64, "0001 7c c000"),
        (candid.INT, -129, "0001 7c ff7e"),
        (candid.NAT16, 0x0102, "0001 7a 0201"),
        (candid.INT64, -2, "0001 74 feffffffffffffff"),
        (candid.FLOAT32, 1.5, "0001 73 0000c03f"),
        (candid.FLOAT64, -0.5, "0001 72 000000000000e0bf"),
        (candid.TEXT, "☃", "0001 71 03e29883"),
        (candid.NULL, None, "0001 7f"),
        (candid.RESERVED, None, "0001 70"),
        (candid.PRINCIPAL, b"", "0001 68 0100"),
        (Opt(candid.NAT), None, "016e7d01 00 00"),
        (Opt(candid.NAT), 7, "016e7d01 00 0107"),
        (Vec(candid.INT), [1, -1], "016d7c01 00 02017f"),
        (candid.BLOB, b"hi", "016d7b01 00 026869"),
        (Record({0: candid.INT, 1: candid.TEXT}), {0: 42, 1: "x"}, "016c02007c017101 00 2a0178"),
        (Variant({0: candid.NULL, 1: candid.NAT}), (1, 5), "016b02007f017d01 00 0105"),
        (candid.Func((candid.TEXT,), (candid.NAT,), (1,)), (b"\x04", "m"), "016a0171017d010101 00 01 010104 016d"),
        (candid.Service({"m": candid.Func()}), b"\x04", "02 6901016d01 6a000000 01 00 010104"),
    ],
)  # fmt: skip
def test_each_type_has_its_bytes(type_: candid.CandidType, value: Any, encoded: str) -> None:
    data = b"DIDL" + bytes.fromhex(encoded)
    assert candid.encode([type_], [value]) == data
    assert candid.decode(data, [type_]) == (value,)


def read(written: candid.CandidType, value: Any, expected: candid.CandidType) -> Any:
    return candid.decode(candid.encode([written], [value]), [expected])[0]


@pytest.mark.parametrize(
    ("written", "value", "expected", "result"),
    [
        (candid.NAT, 5, candid.INT, 5),
        (candid.NAT, 5, Opt(candid.NAT), 5),
        (candid.NAT, 5, Opt(candid.TEXT), None),
        (candid.NULL, None, Opt(candid.TEXT), None),
        (candid.RESERVED, None, Opt(candid.TEXT), None),
        (Opt(candid.NAT), 5, Opt(candid.TEXT), None),
        (Opt(candid.NAT), 5, Opt(candid.INT), 5),
        (candid.TEXT, "x", candid.RESERVED, None),
        (Vec(candid.NAT8), b"abc", candid.RESERVED, None),
        (Record({"a": candid.NAT, "b": candid.TEXT}), {"a": 1, "b": "x"}, Record({"a": candid.NAT}), {"a": 1}),
        (Record({"a": candid.NAT}), {"a": 1}, Record({"a": candid.NAT, "z": Opt(candid.NAT)}), {"a": 1, "z": None}),
        (Record({}), {}, Record({"n": candid.NULL, "r": candid.RESERVED}), {"n": None, "r": None}),
        (Variant({"a": candid.NULL}), ("a", None), Variant({"a": candid.NULL, "b": candid.NAT}), ("a", None)),
        (
            Variant({"a": candid.NULL, "c": candid.NULL}),
            ("c", None),
            Opt(Variant({"a": candid.NULL})),
            None,
        ),
        (Opt(Opt(candid.NAT)), Some(None), Opt(Opt(candid.NAT)), Some(None)),
        (Opt(candid.NULL), Some(None), Opt(candid.NULL), Some(None)),
        (Opt(candid.NULL), None, Opt(candid.NULL), None),
        (candid.NAT, 1, Opt(Opt(candid.NAT)), None),
    ],
)
def test_subtypes_are_read(written: candid.CandidType, value: Any, expected: candid.CandidType, result: Any) -> None:
    assert read(written, value, expected) == result


@pytest.mark.parametrize(
    ("written", "value", "expected"),
    [
        (candid.INT, 5, candid.NAT),
        (candid.NAT8, 5, candid.NAT),
        (candid.TEXT, "x", candid.BLOB),
        (Opt(candid.NAT), 5, candid.NAT),
        (Record({}), {}, Record({"a": candid.NAT})),
        (Variant({"a": candid.NULL, "b": candid.NULL}), ("a", None), Variant({"a": candid.NULL})),
        (candid.PRINCIPAL, b"", candid.Service()),
        (candid.Func((), (), (1,)), (b"", "m"), candid.Func()),
        (candid.Func((), (), ()), (b"", "m"), candid.Func((), (candid.NAT,))),
    ],
)
def test_other_types_are_refused(written: candid.CandidType, value: Any, expected: candid.CandidType) -> None:
    with pytest.raises(CandidError):
        read(written, value, expected)


def test_functions_are_contravariant_in_their_arguments() -> None:
    takes_int = candid.Func((candid.INT,), (candid.NAT,))
    takes_nat = candid.Func((candid.NAT,), (candid.INT,))
    assert read(takes_int, (b"", "m"), takes_nat) == (b"", "m")
    with pytest.raises(CandidError):
        read(takes_nat, (b"", "m"), takes_int)


def test_missing_arguments_are_null_where_that_is_allowed_and_more_are_skipped() -> None:
    data = candid.encode([candid.NAT, candid.BLOB, Vec(candid.TEXT)], [1, b"skipped", ["also", "this"]])
    assert candid.decode(data, [candid.NAT]) == (1,)
    assert candid.decode(candid.encode([], []), [Opt(candid.NAT), candid.NULL]) == (None, None)
    with pytest.raises(CandidError, match="missing"):
        candid.decode(candid.encode([], []), [candid.NAT])


def test_missing_optional_fields_may_be_left_out_when_writing() -> None:
    type_ = Record({"a": candid.NAT, "b": Opt(candid.NAT)})
    assert read(type_, {"a": 1}, type_) == {"a": 1, "b": None}


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (candid.NAT, -1),
        (candid.NAT8, 256),
        (candid.INT8, -129),
        (candid.TEXT, b"bytes"),
        (candid.TEXT, "\ud800"),
        (candid.PRINCIPAL, bytes(30)),
        (candid.EMPTY, None),
        (Record({"a": candid.NAT}), {}),
        (Variant({"a": candid.NULL}), ("b", None)),
        (Vec(candid.NAT), 5),
        (candid.FLOAT32, 1e300),
        (Opt(Opt(candid.NAT)), 5),
    ],
)
def test_values_that_do_not_fit_are_refused(type_: candid.CandidType, value: Any) -> None:
    with pytest.raises(CandidError):
        candid.encode([type_], [value])


# A list: type List = opt record { 0: nat; 1: List }
def recursive_list() -> Opt:
    cell = Opt(candid.NULL)
    cell.inner = Record({0: candid.NAT, 1: cell})
    return cell


def test_recursive_types_round_trip_and_compare() -> None:
    value = {0: 1, 1: {0: 2, 1: None}}
    data = candid.encode([recursive_list()], [value])
    assert candid.decode(data, [recursive_list()]) == (value,)
    types, values = candid.decode_untyped(data)
    assert values == (value,)
    assert candid.encode(types, values) == data


def test_untyped_values_say_the_same_again() -> None:
    type_ = METHODS["canister_info"].results[0]
    value = {
        "total_num_changes": 1,
        "recent_changes": [],
        "module_hash": b"\x00" * 32,
        "controllers": [b"\x04"],
    }
    data = candid.encode([type_], [value])
    types, values = candid.decode_untyped(data)
    again = candid.encode(types, values)
    assert candid.decode(again, [type_]) == (value,)
    assert values[0][candid.field_id("controllers")] == [b"\x04"]


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "4449444d0000",
        "4449444c",
        "4449444c00",
        "4449444c0001",  # type missing
        "4449444c00017d",  # value missing
        "4449444c00017d80",  # number cut
        "4449444c000000",  # trailing byte
        "4449444c00017e02",  # boolean 2
        "4449444c016e7d010002",  # option tag 2
        "4449444c00016f",  # value of type empty
        "4449444c0100",  # type table entry 0
        "4449444c00010100",  # type index out of the table
        "4449444c0001670000",  # unknown opcode
        "4449444c016c02017d007d01000000",  # fields out of order
        "4449444c016c02007d007d01000000",  # field twice
        "4449444c016b01007f010001",  # alternative 1 of 1
        "4449444c0001680000",  # opaque principal
        "4449444c000168011e" + "00" * 30,  # principal of 30 bytes
        "4449444c00017101ff",  # not UTF-8
        "4449444c016a00000104010000",  # function mode 4
        "4449444cffffffff0f",  # 4 billion types
        "4449444c016cffffffff0f",  # 4 billion fields
        "4449444c016d7b0100ffffffff0f",  # 4 GB blob that is not there
        "4449444c00017d" + "80" * 2000 + "00",  # number of 2000 bytes
    ],
)
def test_malformed_bytes_are_refused(encoded: str) -> None:
    data = bytes.fromhex(encoded)
    with pytest.raises(CandidError):
        candid.decode_untyped(data)
    with pytest.raises(CandidError):
        candid.decode(data, [candid.RESERVED, candid.RESERVED])


@pytest.mark.parametrize(
    ("inner", "table"),
    [
        ("vec null", "016d7f"),
        ("vec reserved", "016d70"),
        ("vec record {}", "026d016c00"),
        ("vec record {null x 30}", "026d01" + "6c1e" + "".join(f"{number:02x}7f" for number in range(30))),
        ("vec vec null", "026d016d7f"),
    ],
)
def test_vectors_of_nothing_do_not_take_for_ever(inner: str, table: str) -> None:
    data = b"DIDL" + bytes.fromhex(table) + bytes.fromhex("0100ffffffff0f") + bytes.fromhex("ffffffff0f") * 10
    started = time.monotonic()
    with pytest.raises(CandidError):
        candid.decode_untyped(data)
    with pytest.raises(CandidError):
        candid.decode(data, [Vec(Record({"a": Opt(candid.NAT)}))])
    assert time.monotonic() - started < 10, inner


@pytest.mark.parametrize("wrapper", ["6e", "6d"])
def test_endless_types_are_refused(wrapper: str) -> None:
    # type T = opt T, or vec T: a value can be as deep as the message is long.
    data = b"DIDL" + bytes.fromhex(f"01{wrapper}000100") + b"\x01" * 100_000
    with pytest.raises(CandidError):
        candid.decode_untyped(data)
    with pytest.raises(CandidError):
        candid.decode(data, [candid.RESERVED])


def test_a_record_that_contains_itself_is_refused() -> None:
    with pytest.raises(CandidError):
        candid.decode_untyped(bytes.fromhex("4449444c016c0100000100"))


@settings(max_examples=400)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_refused(tail: bytes) -> None:
    for data in (tail, b"DIDL" + tail, b"DIDL\x01" + tail, UPLOAD_HEAD + tail):
        try:
            types, values = candid.decode_untyped(data)
        except CandidError:
            continue
        candid.encode(types, values)


@settings(max_examples=200)
@given(st.data())
def test_damaged_messages_decode_or_are_refused(data: st.DataObject) -> None:
    message = bytearray(CANISTER_ARGUMENT)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(4, len(message) - 1))] = data.draw(st.integers(0, 255))
    for method in ("canister_status", "read_canister_snapshot_data", "update_settings"):
        type_ = METHODS[method].argument
        assert type_ is not None
        try:
            candid.decode(bytes(message), [type_])
        except CandidError:
            continue


LEAVES: list[tuple[candid.CandidType, st.SearchStrategy[Any]]] = [
    (candid.BOOL, st.booleans()),
    (candid.NAT, st.integers(0, 1 << 90)),
    (candid.INT, st.integers(-(1 << 90), 1 << 90)),
    (candid.NAT64, st.integers(0, (1 << 64) - 1)),
    (candid.INT32, st.integers(-(1 << 31), (1 << 31) - 1)),
    (candid.FLOAT64, st.floats(allow_nan=False)),
    (candid.FLOAT32, st.floats(width=32, allow_nan=False)),
    (candid.TEXT, st.text(max_size=8)),
    (candid.BLOB, st.binary(max_size=8)),
    (candid.PRINCIPAL, st.binary(max_size=29)),
    (candid.NULL, st.none()),
]
Typed = tuple[candid.CandidType, st.SearchStrategy[Any]]


def composite(children: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    def option(child: Typed) -> Typed:
        inner, values = child
        if isinstance(inner, Opt) or inner is candid.NULL:
            values = values.map(Some)
        return Opt(inner), st.none() | values

    def record(fields: dict[str, Typed]) -> Typed:
        return Record({name: type_ for name, (type_, _) in fields.items()}), st.fixed_dictionaries(
            {name: values for name, (_, values) in fields.items()}
        )

    def variant(fields: dict[str, Typed]) -> Typed:
        return Variant({name: type_ for name, (type_, _) in fields.items()}), st.one_of(
            [st.tuples(st.just(name), values) for name, (_, values) in fields.items()]
        )

    named = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), children, min_size=1, max_size=4)
    return st.one_of(
        children.map(option),
        children.map(lambda child: (Vec(child[0]), st.lists(child[1], max_size=4))),
        named.map(record),
        named.map(variant),
    )


@settings(max_examples=150)
@given(st.data())
def test_values_survive_the_round_trip(data: st.DataObject) -> None:
    type_, values = data.draw(st.recursive(st.sampled_from(LEAVES), composite, max_leaves=8))
    value = data.draw(values)
    assert candid.decode(candid.encode([type_], [value]), [type_]) == (value,)


def test_not_a_number_stays_so() -> None:
    assert math.isnan(read(candid.FLOAT64, math.nan, candid.FLOAT64))


def test_large_blobs_are_not_looked_at_byte_by_byte() -> None:
    type_ = Record({"chunk": candid.BLOB, "skipped": candid.BLOB})
    blob = bytes(32 << 20)
    started = time.perf_counter()
    data = candid.encode([type_], [{"chunk": memoryview(blob), "skipped": blob}])
    (value,) = candid.decode(data, [Record({"chunk": candid.BLOB})])
    elapsed = time.perf_counter() - started
    assert value == {"chunk": blob}
    # One Python step per byte takes well over a second here; copies take some milliseconds.
    assert elapsed < 1


def many_fields(last: str) -> list[candid.CandidType]:
    return [candid.Record({**{f"field{number}": candid.NAT for number in range(9)}, last: candid.TEXT})]


def test_known_type_tables_change_nothing() -> None:
    """Tables with the same beginning, a cut one, and one that goes on differently than the known one."""
    value = {f"field{number}": number for number in range(9)}
    wholes = [candid.encode(many_fields(last), [{**value, last: "x"}]) for last in ("zzz", "zzzz", "zzzzz")]
    for data in wholes * 2:
        types, values = candid.decode_untyped(data)
        assert "x" in values[0].values()
        assert candid.encode(types, values) == data
        assert candid.decode(data, many_fields("absent")[:0]) == ()
        assert candid.wire_types(data)[0] is types[0]
        for end in range(len(data)):
            with pytest.raises(candid.CandidError):
                candid.decode_untyped(data[:end])
        with pytest.raises(candid.CandidError, match="follow"):
            candid.decode_untyped(data + b"x")


def test_large_type_tables_are_read_like_small_ones() -> None:
    fields = {f"field{number}": candid.Opt(candid.NAT) for number in range(1000)}
    data = candid.encode([candid.Record(fields)], [{"field7": 7}])
    for _ in range(2):
        (value,) = candid.decode(data, [candid.Record({"field7": candid.Opt(candid.NAT)})])
        assert value == {"field7": 7}
    assert candid.wire_types(data)[0] is not candid.wire_types(data)[0]
