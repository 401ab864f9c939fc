"""Candid: chunks in and out without copies, general values as others read them, and bounds for any bytes."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ic import candid as ic_py
from icp_candid import candid as icp_py_core  # type: ignore[import-untyped]  # it brings no types

from knowtation_backup.errors import BackupError, ConfigurationError, SourceError
from knowtation_backup.ic import candid_types
from knowtation_backup.ic.candid import metadata_read_arg, snapshot_chunk, snapshot_read_arg, upload_data_arg
from knowtation_backup.ic.candid_values import MAX_MESSAGE_BYTES, FloatBits, FuncValue, RawValue, decode, field, label
from knowtation_backup.ic.wire import leb128
from knowtation_backup.model.canisters import SectionName, Slice, SnapshotPart, StoredChunk
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.sandbox import candid as other
from knowtation_backup.sandbox.management.types import METHODS

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
SNAPSHOT = SnapshotId(bytes.fromhex("0000000000000003ffffffffffe00000") + b"\x01\x01")
HEAD = (
    "4449444c046c04ed8c8bae0401d4c2a7b80402b3c4b1f20468b6b897890f016d7b6b04a79fc97e03fccbfb9d0503c586d3970903d2c7b5c00f"
    "7f6c0193affe8106780100"
)
"""Reference, J: of ``upload_canister_snapshot_data``, up to the length of the chunk."""

NUMBERS = {
    other.NAT: (0, 1 << 200),
    other.INT: (-(1 << 200), 1 << 200),
    **{
        kind: (0, (1 << bits) - 1)
        for kind, bits in ((other.NAT8, 8), (other.NAT16, 16), (other.NAT32, 32), (other.NAT64, 64))
    },
    **{
        kind: (-(1 << bits - 1), (1 << bits - 1) - 1)
        for kind, bits in ((other.INT8, 8), (other.INT16, 16), (other.INT32, 32), (other.INT64, 64))
    },
}
Typed = tuple[Any, Any]


def leaves() -> st.SearchStrategy[Typed]:
    """A type without parts, and a value of it."""
    numbers = [st.tuples(st.just(kind), st.integers(*bounds)) for kind, bounds in NUMBERS.items()]
    return st.one_of(
        *numbers,
        st.tuples(st.just(other.NULL), st.none()),
        st.tuples(st.just(other.BOOL), st.booleans()),
        st.tuples(st.just(other.TEXT), st.text(max_size=8)),
        st.tuples(st.just(other.FLOAT64), st.floats(allow_nan=False)),
        st.tuples(st.just(other.FLOAT32), st.floats(allow_nan=False, width=32)),
        st.tuples(st.just(other.BLOB), st.binary(max_size=8)),
        st.tuples(st.just(other.PRINCIPAL), st.binary(min_size=1, max_size=29)),
    )


def grown(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    names = st.sampled_from(["chunk", "kind", "status", "cycles", "a"])
    # ic-py takes records of the fields 0, 1, … for tuples; names avoid them.
    records = st.dictionaries(names, inner, min_size=1, max_size=3).map(
        lambda fields: (
            other.Record({name: kind for name, (kind, _) in fields.items()}),
            {name: value for name, (_, value) in fields.items()},
        )
    )
    variants = st.dictionaries(names, inner, min_size=1, max_size=3).flatmap(
        lambda cases: st.sampled_from(sorted(cases)).map(
            lambda name: (other.Variant({each: kind for each, (kind, _) in cases.items()}), (name, cases[name][1]))
        )
    )
    options = inner.flatmap(lambda typed: st.sampled_from([(other.Opt(typed[0]), None), (other.Opt(typed[0]), typed)]))
    vectors = inner.filter(lambda typed: typed[0] is not other.NAT8).flatmap(
        lambda typed: st.integers(0, 3).map(lambda count: (other.Vec(typed[0]), [typed[1]] * count))
    )
    return st.one_of(records, variants, options.map(lambda typed: _some(*typed)), vectors)


def _some(kind: Any, typed: Any) -> Typed:
    return kind, None if typed is None else typed[1]


def messages() -> st.SearchStrategy[Typed]:
    # An option of something that may itself be None has two readings in Python.
    return st.recursive(leaves(), grown, max_leaves=8).filter(lambda typed: not _ambiguous(typed[0]))


def _ambiguous(kind: Any) -> bool:
    match kind:
        case other.Opt(inner):
            return inner in (other.NULL, other.RESERVED) or isinstance(inner, other.Opt) or _ambiguous(inner)
        case other.Vec(inner):
            return _ambiguous(inner)
        case other.Record(fields) | other.Variant(fields):
            return any(_ambiguous(each.type) for each in fields)
    return False


def canonical(kind: Any, value: Any, *, how: str) -> Any:
    """Bring values of the four libraries into one form; *how* says whose they are."""
    result = value
    match kind:
        case other.Opt(inner):
            present = value if how == "peer" else [] if value is None else [value]
            result = [canonical(inner, each, how=how) for each in present]
        case other.Vec(inner):
            result = bytes(value) if inner is other.NAT8 else [canonical(inner, each, how=how) for each in value]
        case other.Record(fields):
            result = {each.id: canonical(each.type, _field(value, each, how), how=how) for each in fields}
        case other.Variant(cases):
            number, content = _case(value, how)
            result = number, canonical(next(each.type for each in cases if each.id == number), content, how=how)
        case other.PRINCIPAL:
            result = {"ours": lambda: value.raw, "given": lambda: value, "peer": lambda: value.bytes}[how]()
        case other.FLOAT32 | other.FLOAT64:
            result = struct.pack("<d", float(value))
    return result


def _field(value: Any, each: Any, how: str) -> Any:
    if how == "given":
        return value[each.key]
    for name in (each.id, f"_{each.id}", str(each.id), each.key):
        if name in value:
            return value[name]
    raise KeyError(each)


def _case(value: Any, how: str) -> tuple[int, Any]:
    if how == "ours":
        return value.number, value.value
    if how == "given":
        return other.field_id(value[0]), value[1]
    ((name, content),) = value.items()
    return int(str(name).strip("_")), content


@given(messages())
@settings(max_examples=200, deadline=None)
def test_values_are_read_as_they_were_written(typed: Typed) -> None:
    kind, value = typed
    data = other.encode([kind], [value])
    assert canonical(kind, decode(data)[0], how="ours") == canonical(kind, value, how="given")


@given(messages())
@settings(max_examples=100, deadline=None)
def test_other_libraries_read_the_same(typed: Typed) -> None:
    kind, value = typed
    data = other.encode([kind], [value])
    ours = canonical(kind, decode(data)[0], how="ours")
    for library in (ic_py, icp_py_core):
        assert canonical(kind, library.decode(data)[0]["value"], how="peer") == ours


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes, prefixed: bool) -> None:  # noqa: FBT001 - drawn
    _read_or_refused(b"DIDL" + data if prefixed else data)


@given(st.data(), messages())
@settings(max_examples=300, deadline=None)
def test_a_damaged_message_is_read_or_refused(data: st.DataObject, typed: Typed) -> None:
    message = bytearray(other.encode([typed[0]], [typed[1]]))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(4, len(message) - 1))] = data.draw(st.integers(0, 255))
    _read_or_refused(bytes(message[: data.draw(st.integers(0, len(message)))]))
    _read_or_refused(bytes(message))


def _read_or_refused(data: bytes) -> None:
    for read in (decode, snapshot_chunk):
        try:
            read(data)
        except BackupError as error:
            if error.kind != "bad_candid":
                raise


def leb(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


HOSTILE = {
    "a list of more nothings than there are grains of sand": b"DIDL\x01\x6d\x7f\x01\x00" + leb(1 << 60),
    "a list of a million and more nothings": b"DIDL\x01\x6d\x7f\x01\x00" + leb(1 << 20),
    "a list of lists without end": b"DIDL\x02\x6d\x01\x6d\x7f\x01\x00" + leb(1 << 10) + leb(1 << 19) * (1 << 10),
    "a list of records of many nothings": (
        b"DIDL\x02\x6d\x01\x6c" + leb(1000) + b"".join(leb(n) + b"\x7f" for n in range(1000)) + b"\x01\x00" + leb(9000)
    ),
    "a record that contains itself": b"DIDL\x01\x6c\x01\x00\x00\x01\x00",
    "options nested in options": b"DIDL\x01\x6e\x00\x01\x00" + b"\x01" * 5000 + b"\x00",
    "lists nested in lists": b"DIDL\x01\x6d\x00\x01\x00" + b"\x01" * 5000 + b"\x00",
    "a number of two million digits": b"DIDL\x00\x01\x7d" + b"\xff" * (2 << 20) + b"\x00",
    "a table of two million types": b"DIDL" + leb(2_000_000) + b"\x6e\x7f" * 2_000_000 + b"\x00",
    "a type with a million fields": (
        b"DIDL\x01\x6c" + leb(1_100_000) + b"".join(leb(n) + b"\x7f" for n in range(1_100_000)) + b"\x00"
    ),
    "more than a reply can have": b"DIDL\x01\x6d\x7b\x01\x00" + leb(MAX_MESSAGE_BYTES) + bytes(MAX_MESSAGE_BYTES),
    "a blob longer than its message": b"DIDL\x01\x6d\x7b\x01\x00" + leb(1 << 40) + b"abc",
    "a thousand arguments": b"DIDL\x00" + leb(1000) + b"\x7f" * 1000,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_asks_for_more_than_it_holds_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError) as refused:
        decode(data)
    assert refused.value.kind == "bad_candid"


MALFORMED = {
    "nothing": b"",
    "another format": b"DIDM\x00\x00",
    "bytes behind the end": b"DIDL\x00\x00\x00",
    "a type that is not there": b"DIDL\x00\x01\x05",
    "a primitive type that does not exist": b"DIDL\x00\x01\x60",
    "a primitive type in the table": b"DIDL\x01\x7f\x00",
    "a part of a type that is not there": b"DIDL\x01\x6e\x01\x00",
    "fields out of order": b"DIDL\x01\x6c\x02\x01\x7f\x00\x7f\x00",
    "a field twice": b"DIDL\x01\x6c\x02\x01\x7f\x01\x7f\x00",
    "a field number of more than 32 bits": b"DIDL\x01\x6c\x01" + leb(1 << 32) + b"\x7f\x00",
    "a case that is not there": b"DIDL\x01\x6b\x01\x00\x7f\x01\x00\x01",
    "a flag that is neither": b"DIDL\x00\x01\x7e\x02",
    "an opaque principal": b"DIDL\x00\x01\x68\x00",
    "a principal of 30 bytes": b"DIDL\x00\x01\x68\x01\x1e" + bytes(30),
    "a text that is not UTF-8": b"DIDL\x00\x01\x71\x01\xff",
    "a value of the empty type": b"DIDL\x00\x01\x6f",
    "a service of something else than functions": b"DIDL\x01\x69\x01\x01a\x7f\x00",
    "an opaque function": b"DIDL\x01\x6a\x00\x00\x00\x01\x00\x00",
    "references in a value of the future": b"DIDL\x01\x50\x00\x01\x00\x00\x01",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError) as refused:
        decode(data)
    assert refused.value.kind == "bad_candid"


def test_references_and_types_of_the_future_are_read_past() -> None:
    assert decode(b"DIDL\x00\x00") == []
    service, function = other.Service({"go": other.Func()}), other.Func((), (other.NAT,), (1,))
    kind = other.Record({"a": service, "b": function, "c": other.NAT})
    value = decode(other.encode([kind], [{"a": b"\x01", "b": (b"\x02", "go"), "c": 7}]))[0]
    assert field(value, "a") == Principal(b"\x01")
    assert field(value, "b") == FuncValue(Principal(b"\x02"), "go")
    assert field(value, "c") == 7
    assert decode(b"DIDL\x01\x50\x02ab\x02\x00\x7d\x03\x00xyz\x07") == [None, 7]


@pytest.mark.parametrize("bits", [0x7F800001, 0xFFC12345, 0x7F800000, 0x80000000, 1])
def test_no_float_loses_a_bit(bits: int) -> None:
    for width, more in ((32, bits), (64, bits << 32 | 1)):
        raw = more.to_bytes(width // 8, "little")
        assert decode(b"DIDL\x00\x01" + (b"\x73" if width == 32 else b"\x72") + raw) == [FloatBits(more, width)]


def test_the_bits_of_a_float_are_a_number() -> None:
    assert float(FloatBits(0x3FC00000, 32)) == 1.5
    assert math.isnan(float(FloatBits(0x7FF8000000000001, 64)))


def test_names_have_the_numbers_of_the_interface() -> None:
    assert (label("canister_id"), label("chunk"), label("id")) == (1313628723, 1170392685, 23515)
    assert field(None, "chunk") is None
    assert field({label("chunk"): 1}, "chunk") == 1


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_a_chunk_is_a_view_into_its_reply() -> None:
    reply = other.encode([other.Record({"chunk": other.BLOB})], [{"chunk": b"abc" * 700_000}])
    chunk = snapshot_chunk(memoryview(reply))
    assert bytes(chunk) == b"abc" * 700_000
    assert chunk.obj is reply


@pytest.mark.parametrize(
    "kind",
    [
        other.Record({"chunk": other.BLOB}),
        other.Record({"chunk": other.Opt(other.BLOB)}),
        other.Record({"chunk": other.BLOB, "note": other.TEXT}),
        other.Record({"a": other.Vec(other.NAT), "chunk": other.BLOB, "kind": other.Opt(other.TEXT)}),
    ],
    ids=["plain", "optional", "with a field behind", "with fields before"],
)
def test_a_chunk_is_found_whatever_comes_with_it(kind: Any) -> None:
    value = {"chunk": b"abc", "note": "n", "a": [1, 2], "kind": None}
    assert bytes(snapshot_chunk(other.encode([kind], [value]))) == b"abc"
    assert bytes(snapshot_chunk(other.encode([kind, other.TEXT], [value, "more"]))) == b"abc"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (other.Record({"chunk": other.Opt(other.BLOB)}), {"chunk": None}),
        (other.Record({"chunk": other.Vec(other.NAT16)}), {"chunk": [1]}),
        (other.Record({"chunk": other.TEXT}), {"chunk": "abc"}),
        (other.Record({"hash": other.BLOB}), {"hash": b"abc"}),
        (other.BLOB, b"abc"),
    ],
    ids=["none", "other numbers", "text", "another field", "no record"],
)
def test_a_reply_without_a_chunk_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(SourceError, match="it has no chunk"):
        snapshot_chunk(other.encode([kind], [value]))


def test_an_empty_reply_has_no_chunk() -> None:
    with pytest.raises(SourceError, match="it has no chunk"):
        snapshot_chunk(b"DIDL\x00\x00")


@given(st.binary(max_size=300))
@settings(max_examples=30, deadline=None)
def test_other_libraries_find_the_same_chunk(chunk: bytes) -> None:
    reply = other.encode([other.Record({"chunk": other.BLOB})], [{"chunk": chunk}])
    ours = bytes(snapshot_chunk(reply))
    for library in (ic_py, icp_py_core):
        (found,) = library.decode(reply)[0]["value"].values()
        assert bytes(found) == ours == chunk


PARTS: dict[str, SnapshotPart] = {
    "module": Slice(SectionName.WASM_MODULE, 0, 5),
    "heap": Slice(SectionName.WASM_MEMORY, 2_000_000, 5),
    "stable memory": Slice(SectionName.STABLE_MEMORY, (1 << 64) - 5, 5),
    "stored chunk": StoredChunk(bytes(range(32))),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_uploads_are_arguments_that_others_read(part: SnapshotPart) -> None:
    data = bytearray(b"12345")
    head, chunk, tail = upload_data_arg(CANISTER, SNAPSHOT, part, data)
    assert chunk.obj is data
    assert head == bytes.fromhex(HEAD) + b"\x05"
    whole = head + chunk + tail
    (read,) = other.decode(whole, [_argument("upload_canister_snapshot_data")])
    where = {"offset": part.offset} if isinstance(part, Slice) else None
    kind = part.section.value if isinstance(part, Slice) else "wasm_chunk"
    expected = {"canister_id": CANISTER.raw, "snapshot_id": SNAPSHOT.raw, "kind": (kind, where), "chunk": b"12345"}
    assert read == expected
    for library in (ic_py, icp_py_core):
        value = library.decode(whole)[0]["value"]
        found = {str(name).strip("_"): each for name, each in value.items()}
        assert bytes(found[str(label("chunk"))]) == b"12345"
        assert found[str(label("canister_id"))].bytes == CANISTER.raw


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_questions_for_data_are_arguments_that_others_read(part: SnapshotPart) -> None:
    (read,) = other.decode(snapshot_read_arg(CANISTER, SNAPSHOT, part), [_argument("read_canister_snapshot_data")])
    if isinstance(part, Slice):
        kind: Any = (part.section.value, {"offset": part.offset, "size": part.size_bytes})
    else:
        kind = ("wasm_chunk", {"hash": part.sha256})
    assert read == {"canister_id": CANISTER.raw, "snapshot_id": SNAPSHOT.raw, "kind": kind}


def _argument(method: str) -> Any:
    return METHODS[method].argument


def test_a_chunk_of_another_length_than_its_part_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"4 bytes are given for wasm_module from 0 \(5 bytes\)"):
        upload_data_arg(CANISTER, SNAPSHOT, PARTS["module"], b"1234")


@pytest.mark.parametrize(
    "part",
    [Slice(SectionName.WASM_MODULE, -1, 5), Slice(SectionName.WASM_MODULE, 1 << 64, 5), StoredChunk(b"short")],
    ids=["before the start", "beyond 64 bits", "a short name"],
)
def test_parts_that_cannot_be_are_refused(part: SnapshotPart) -> None:
    with pytest.raises(ConfigurationError):
        snapshot_read_arg(CANISTER, SNAPSHOT, part)


# Evidence in archives was made for these very bytes: a change here makes old evidence worthless.
READ = (
    "4449444c056c03d4c2a7b80401b3c4b1f20468b6b897890f046b04a79fc97e02fccbfb9d0502c586d3970902d2c7b5c00f03"
    "6c02c1c1cee2047893affe8106786c01cedfa0a804046d7b01000"
)
FROZEN = {
    "module": READ + "005000000000000000000000000000000010a00000000000000010101120000000000000003ffffffffffe000000101",
    "heap": READ + "1050000000000000080841e0000000000010a00000000000000010101120000000000000003ffffffffffe000000101",
    "stable memory": READ
    + "20500000000000000fbffffffffffffff010a00000000000000010101120000000000000003ffffffffffe000000101",
    "stored chunk": READ
    + "320000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f010a00000000000000010101120000000"
    + "000000003ffffffffffe000000101",
    "metadata": (
        "4449444c026c02b3c4b1f20468b6b897890f016d7b0100010a00000000000000010101120000000000000003ffffffffffe000000101"
    ),
}


def test_the_questions_that_archives_were_made_with_never_change() -> None:
    frozen = {name: snapshot_read_arg(CANISTER, SNAPSHOT, part).hex() for name, part in PARTS.items()} | {
        "metadata": metadata_read_arg(CANISTER, SNAPSHOT).hex()
    }
    assert frozen == FROZEN


@given(st.integers(0, 1 << 200))
def test_numbers_are_written_as_the_specification_says(number: int) -> None:
    assert candid_types.encode(candid_types.NAT, number) == other.encode([other.NAT], [number])


def test_messages_have_any_number_of_arguments() -> None:
    nat, pair = candid_types.NAT, candid_types.Record({0: candid_types.TEXT, 1: candid_types.NAT})
    others = other.Record({0: other.TEXT, 1: other.NAT})
    assert candid_types.encode_arguments() == b"DIDL\x00\x00"
    assert candid_types.encode_arguments((nat, 300), (nat, 100)) == other.encode([other.NAT, other.NAT], [300, 100])
    first, second = {0: "a", 1: 2}, {0: "", 1: 0}
    expected = other.encode([others, other.NAT, others], [first, 300, second])
    assert candid_types.encode_arguments((pair, first), (nat, 300), (pair, second)) == expected


def test_a_field_can_be_named_by_its_number() -> None:
    (pair,) = decode(other.encode([other.Record({0: other.TEXT, 1: other.NAT})], [{0: "a", 1: 2}]))
    assert (field(pair, 0), field(pair, 1), field(pair, 2)) == ("a", 2, None)


@given(messages(), st.booleans())
@settings(deadline=None)
def test_values_kept_raw_are_messages_of_the_same_value(drawn: Typed, nested: bool) -> None:  # noqa: FBT001 - drawn
    kind, value = drawn
    record = other.Record({"before": other.NAT, "kept": kind, "zero": other.TEXT})
    outer: Any = other.Vec(record) if nested else record
    content = {"before": 1, "kept": value, "zero": "x"}
    (read,) = decode(other.encode([outer], [[content] if nested else content]), raw=["kept"])
    found = read[0] if nested else read
    assert (field(found, "before"), field(found, "zero")) == (1, "x")
    kept = field(found, "kept")
    if isinstance(kind, other.Opt):
        assert (kept is None) == (value is None)
        kind = kind.inner
    if kept is not None:
        assert isinstance(kept, RawValue)
        assert other.decode(kept.message(), [kind]) == other.decode(other.encode([kind], [value]), [kind])


def test_values_kept_raw_are_checked_all_the_same() -> None:
    good = other.encode([other.Record({"kept": other.Vec(other.TEXT)})], [{"kept": ["ab"]}])
    (read,) = decode(good, raw=["kept"])
    assert field(read, "kept").data.obj is good
    for bad in (good[:-1], good + b"x", good[:-1] + b"\xff", good.replace(b"\x01\x02ab", b"\x09\x02ab")):
        with pytest.raises(SourceError):
            decode(bad, raw=["kept"])


def test_a_value_kept_raw_that_nests_without_end_is_refused() -> None:
    endless = b"DIDL\x01\x6c\x01" + leb128(label("kept")) + b"\x00\x01\x00"
    with pytest.raises(SourceError, match="too deep"):
        decode(endless, raw=["kept"])
