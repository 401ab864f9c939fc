"""The streaming cursor: same values as parsing at once, however the text is cut."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup._engine.canonical import JsonError, dumps, loads
from knowtation_backup._engine.jsonstream import JsonCursor, JsonTooLargeError, JsonTruncatedError


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def cursor(data: bytes, *, size: int = 7, limit: int = 1 << 20) -> JsonCursor:
    return JsonCursor(cut(data, size), value_limit_bytes=limit)


def members(data: bytes) -> dict[str, Any]:
    walk = cursor(data)
    return {key: walk.value() for key in walk.members()}


def rows(data: bytes, *, size: int = 7) -> list[Any]:
    walk = cursor(data, size=size)
    decoder = msgspec.json.Decoder(list[dict[str, Any]])
    found = [row for run in walk.batches(decoder.decode, lambda raw: [walk.parse(raw)]) for row in run]
    walk.finish()
    return found


def test_walks_objects_and_arrays() -> None:
    walk = cursor(b'\xef\xbb\xbf { "a" : [ 1 , {"x":"]}"} , "t\\"u" , true ] , "b" : {} , "c":-1.5e3 } \n')
    found: dict[str, Any] = {}
    for key in walk.members():
        found[key] = [walk.value() for _ in walk.elements()] if key == "a" else walk.value()
    walk.finish()
    assert found == {"a": [1, {"x": "]}"}, 't"u', True], "b": {}, "c": -1500}


def test_offset_counts_bytes_taken() -> None:
    walk = cursor(b'[  "ab",1]', size=2)
    offsets = []
    for _ in walk.elements():
        raw = walk.raw()
        offsets.append((walk.offset - len(raw), raw))
    assert offsets == [(3, b'"ab"'), (8, b"1")]


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":[1', b'{"a":"x', b'{"a":"x\\', b'{"a":{"b"'],
)
def test_names_a_cut_text(text: bytes) -> None:
    with pytest.raises(JsonTruncatedError):
        members(text)


@pytest.mark.parametrize(
    "text",
    [b"[]", b'{"a" 1}', b'{"a":1,}', b"{a:1}", b'{"a":1 2}', b'{"a":}', b'{"a":1,"a":2}', b'{"a":1]', b'{"a":tru}'],
)
def test_refuses_malformed_objects(text: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        members(text)
    assert not isinstance(caught.value, JsonTruncatedError)


def test_refuses_what_follows_the_end() -> None:
    walk = cursor(b"{} x")
    assert list(walk.members()) == []
    with pytest.raises(JsonError, match="more after the end"):
        walk.finish()


@pytest.mark.parametrize(
    "value", [b'"' + b"x" * 5000 + b'"', b'["' + b"x" * 5000 + b'"]', b"[" + b"1," * 3000 + b"1]", b"1" * 5000]
)
def test_limits_single_values(value: bytes) -> None:
    with pytest.raises(JsonTooLargeError):
        cursor(value, limit=1000).raw()
    assert cursor(value, limit=100_000).raw() == value


def test_limits_depth_before_parsing() -> None:
    with pytest.raises(JsonError, match="nested"):
        cursor(b"[" * 100_000).raw()


TRICKY = st.sampled_from(
    ['},{"', '"}]', '}],"a', "\\", '\\"', "]}", "[", "{", "é", "\n", "x" * 300, '},{\\"', "\ud800"]
)
TEXTS = st.lists(TRICKY, max_size=6).map("".join)


@given(
    st.lists(
        st.dictionaries(TEXTS, TEXTS | st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=3), max_size=3),
        max_size=8,
    ),
    st.integers(min_value=1, max_value=40),
)
def test_batches_give_every_element_whatever_it_contains(values: list[Any], size: int) -> None:
    assert rows(dumps(values), size=size) == loads(dumps(values))


def test_batches_take_large_arrays_in_runs() -> None:
    values = [{"path": f"{n}.md", "body": "text " * 20} for n in range(20_000)]
    data = dumps(values)
    walk = cursor(data, size=100_000)
    decoder = msgspec.json.Decoder(list[dict[str, Any]])
    singles = 0

    def single(raw: bytes) -> list[dict[str, Any]]:
        nonlocal singles
        singles += 1
        return [loads(raw)]

    runs = list(walk.batches(decoder.decode, single))
    assert [row for run in runs for row in run] == values
    assert singles < 200  # only around the end of the array
    assert len(runs) < 400


@pytest.mark.parametrize(
    "text", [b'[{"a":1},]', b'[{"a":1} {"b":2}]', b'[{"a":1},{"b":}]', b'[{"a":1},{"b":2]', b'[,{"a":1}]']
)
def test_batches_refuse_malformed_arrays(text: bytes) -> None:
    with pytest.raises(JsonError):
        rows(text)


@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"1", b"a", b'"k":', b'},{"x']), max_size=40
    ).map(b"".join)
)
def test_arbitrary_bytes_are_read_as_by_the_parser_or_refused(data: bytes) -> None:
    walk = cursor(data, limit=1000)
    try:
        raw = walk.raw()
        value = walk.parse(raw)
        walk.finish()
    except JsonError:
        return
    assert value == loads(data.removeprefix(b"\xef\xbb\xbf"))


def test_memory_does_not_grow_with_the_text() -> None:
    element = dumps({"path": "a.md", "body": "x" * 2000})

    def text() -> Iterator[bytes]:
        yield b"[" + element
        for _ in range(20_000):
            yield b"," + element
        yield b"]"

    walk = JsonCursor(text(), value_limit_bytes=1 << 20)
    decoder = msgspec.json.Decoder(list[dict[str, Any]])
    tracemalloc.start()
    try:
        count = sum(len(run) for run in walk.batches(decoder.decode, lambda raw: [loads(raw)]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_001
    assert peak < 12 << 20  # of 40 MB
