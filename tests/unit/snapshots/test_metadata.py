"""``metadata.json``: the bytes icp writes, every spelling there was, and hostile texts."""

from __future__ import annotations

import json
import math
import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import IntegrityError
from knowtation_backup.model.canisters import GlobalKind, GlobalValue, SnapshotMetadata
from knowtation_backup.snapshots.metadata import FLOAT_BITS_KEY, MAX_METADATA_BYTES, metadata_json, parse_metadata

F32, F64, I32, I64, V128 = GlobalKind.F32, GlobalKind.F64, GlobalKind.I32, GlobalKind.I64, GlobalKind.V128

EXAMPLE = SnapshotMetadata(
    wasm_module_size=4_300_008,
    wasm_memory_size=2_621_440,
    stable_memory_size=0,
    globals=(
        GlobalValue(I32, 5),
        GlobalValue(I64, (1 << 64) - 7),
        GlobalValue(F64, 0x3FE0000000000000),
        GlobalValue(V128, (1 << 100) + 3),
    ),
    wasm_chunk_store=(bytes(range(32)),),
    certified_data=b"\x01\x02\x03",
    taken_at_ns=1_795_208_393_836_194_132,
    canister_version=9,
    source="taken_from_canister",
    global_timer=12345,
    on_low_wasm_memory_hook_status="condition_not_satisfied",
)

WRITTEN = """{
  "source": {
    "taken_from_canister": null
  },
  "taken_at_timestamp": 1795208393836194132,
  "wasm_module_size": 4300008,
  "globals": [
    {
      "i32": 5
    },
    {
      "i64": -7
    },
    {
      "f64": 0.5
    },
    {
      "v128": [
        3,
        0,
        0,
        16
      ]
    }
  ],
  "wasm_memory_size": 2621440,
  "stable_memory_size": 0,
  "wasm_chunk_store": [
    {
      "hash": [
        HASH
      ]
    }
  ],
  "canister_version": 9,
  "certified_data": [
    1,
    2,
    3
  ],
  "global_timer": {
    "active": 12345
  },
  "on_low_wasm_memory_hook_status": "condition_not_satisfied"
}""".replace("HASH", ",\n        ".join(map(str, range(32))))


def _bits(kind: GlobalKind, number: float) -> GlobalValue:
    layout, integer = ("<f", "<I") if kind is F32 else ("<d", "<Q")
    return GlobalValue(kind, struct.unpack(integer, struct.pack(layout, number))[0])


def _text_of(value: GlobalValue) -> str:
    data = metadata_json(attrs.evolve(EXAMPLE, globals=(value,))).decode()
    return data.split(f'"{value.kind.value}": ')[1].split("\n")[0]


def test_the_text_is_the_one_icp_writes() -> None:
    assert metadata_json(EXAMPLE).decode() == WRITTEN


def test_what_is_written_reads_back_as_it_was() -> None:
    assert parse_metadata(metadata_json(EXAMPLE)) == EXAMPLE


def test_empty_lists_stay_on_their_line() -> None:
    empty = attrs.evolve(
        EXAMPLE,
        globals=(GlobalValue(V128, 0),),
        wasm_chunk_store=(),
        certified_data=b"",
        source=None,
        global_timer=None,
    )
    text = metadata_json(empty).decode()
    for line in ('"v128": []', '"wasm_chunk_store": [],', '"source": null,', '"global_timer": null,'):
        assert line in text
    assert parse_metadata(text.encode()) == empty


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (1.5e-5, "0.000015"),
        (1e-6, "1e-6"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (123456789.125, "123456789.125"),
    ],
)
def test_doubles_are_written_as_rust_does(number: float, text: str) -> None:
    assert _text_of(_bits(F64, number)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.1, "0.1"),
        (16777216.0, "16777216.0"),
        (1e12, "1000000000000.0"),
        (1e13, "1e+13"),
        (3.4028235e38, "3.4028235e+38"),
        (1e-45, "1e-45"),
        (1.1754944e-38, "1.1754944e-38"),
        (9.8607613e-32, "9.8607613e-32"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
    ],
)
def test_single_floats_are_written_as_rust_does(number: float, text: str) -> None:
    assert _text_of(_bits(F32, number)) == text


@given(
    st.lists(
        st.one_of(
            st.builds(GlobalValue, st.just(I32), st.integers(0, (1 << 32) - 1)),
            st.builds(GlobalValue, st.just(I64), st.integers(0, (1 << 64) - 1)),
            st.builds(GlobalValue, st.just(F32), st.integers(0, (1 << 32) - 1)),
            st.builds(GlobalValue, st.just(F64), st.integers(0, (1 << 64) - 1)),
            st.builds(GlobalValue, st.just(V128), st.integers(0, (1 << 128) - 1)),
            st.none(),
        ),
        max_size=8,
    )
)
def test_no_bit_of_any_global_is_lost(values: list[GlobalValue | None]) -> None:
    metadata = attrs.evolve(EXAMPLE, globals=tuple(values))
    assert parse_metadata(metadata_json(metadata)) == metadata


def test_what_json_cannot_write_is_null_and_kept_beside_it() -> None:
    odd = GlobalValue(F64, 0x7FF8000000000001)
    infinite = _bits(F32, -math.inf)
    metadata = attrs.evolve(EXAMPLE, globals=(GlobalValue(I32, 1), odd, infinite))
    tree = json.loads(metadata_json(metadata))
    assert tree["globals"][1:] == [{"f64": None}, {"f32": None}]
    assert tree[FLOAT_BITS_KEY] == {"1": "7ff8000000000001", "2": "ff800000"}
    assert list(tree)[-1] == FLOAT_BITS_KEY
    assert parse_metadata(metadata_json(metadata)) == metadata


def test_a_null_without_its_bits_is_told_apart() -> None:
    metadata = attrs.evolve(EXAMPLE, globals=(GlobalValue(F64, 0x7FF8000000000001),))
    tree = json.loads(metadata_json(metadata))
    del tree[FLOAT_BITS_KEY]
    assert parse_metadata(json.dumps(tree).encode()).globals == (None,)


def test_older_spellings_are_read() -> None:
    tree = json.loads(WRITTEN)
    tree["exported_globals"] = tree.pop("globals")
    tree["main_memory_size"] = tree.pop("wasm_memory_size")
    assert parse_metadata(json.dumps(tree).encode()) == EXAMPLE


@pytest.mark.parametrize("value", [[3, 0, 0, 16], str((1 << 100) + 3), (1 << 100) + 3, [3, 0, 0, 16, 0, 0]])
def test_vectors_are_read_in_every_form(value: object) -> None:
    tree = json.loads(WRITTEN)
    tree["globals"][3] = {"v128": value}
    assert parse_metadata(json.dumps(tree).encode()) == EXAMPLE


def test_unknown_keys_and_kinds_are_no_obstacle() -> None:
    tree = json.loads(WRITTEN) | {"something_newer": [{}]}
    tree["globals"].append({"externref": 1})
    assert parse_metadata(json.dumps(tree).encode()).globals == (*EXAMPLE.globals, None)


def test_a_minimal_text_of_dfx_is_read() -> None:
    text = b"""{"source": {"metadata_upload": null}, "taken_at_timestamp": 1760000000000000000,
      "wasm_module_size": 1024,
      "globals": [], "wasm_memory_size": 65536, "stable_memory_size": 0, "wasm_chunk_store": [], "canister_version": 4,
      "certified_data": [], "global_timer": "inactive", "on_low_wasm_memory_hook_status": null}"""
    found = parse_metadata(text)
    assert found.source == "metadata_upload"
    assert found.global_timer == "inactive"
    assert found.on_low_wasm_memory_hook_status is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("wasm_module_size", -1),
        ("wasm_module_size", 1 << 64),
        ("wasm_module_size", 1.0),
        ("wasm_module_size", True),
        ("globals", None),
        ("globals", [{"i32": 1 << 31}]),
        ("globals", [{"i32": 1, "i64": 1}]),
        ("globals", [{"f32": 1e300}]),
        ("globals", [{"f64": "1"}]),
        ("globals", [{"v128": [1 << 32]}]),
        ("globals", [{"v128": [0] * 4 + [1]}]),
        ("globals", [{"v128": "-1"}]),
        ("globals", [7]),
        ("certified_data", [256]),
        ("certified_data", ["1"]),
        ("wasm_chunk_store", [{"hash": [1]}]),
        ("wasm_chunk_store", [{}]),
        ("source", 7),
        ("global_timer", "soon"),
        ("global_timer", {"active": -1}),
        ("on_low_wasm_memory_hook_status", "never"),
        ("on_low_wasm_memory_hook_status", ["ready"]),
        ("exported_globals", []),
        (FLOAT_BITS_KEY, []),
    ],
)
def test_wrong_values_are_refused(key: str, value: object) -> None:
    tree = json.loads(WRITTEN) | {key: value}
    with pytest.raises(IntegrityError, match=r"metadata\.json") as caught:
        parse_metadata(json.dumps(tree).encode())
    assert caught.value.kind == "snapshot_metadata"


@pytest.mark.parametrize("bits", ["7FF8000000000001", "7ff8", 1, "3fe0000000000000"])
def test_bits_that_are_none_are_refused(bits: object) -> None:
    tree = json.loads(WRITTEN) | {"globals": [{"f64": None}], FLOAT_BITS_KEY: {"0": bits}}
    with pytest.raises(IntegrityError):
        parse_metadata(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"{",
        WRITTEN.replace("0.5", "NaN").encode(),
        WRITTEN.replace("0.5", "1e999").encode(),
        WRITTEN.replace('"canister_version"', '"wasm_module_size"').encode(),
        b"[" * 100_000,
        b'{"wasm_module_size": ' + b"9" * 10_000 + b"}",
        b" " * (MAX_METADATA_BYTES + 1),
    ],
)
def test_other_texts_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_metadata(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_metadata(data)
