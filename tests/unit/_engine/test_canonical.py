"""Canonical JSON against the rules of ECMAScript and its own reader."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup._engine.canonical import MAX_DEPTH, JsonError, dumps, loads

TEXT = st.text(st.characters(codec=None, categories=None))  # lone surrogates and controls included
NUMBERS = st.integers() | st.decimals(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


def joined(value: Any) -> Any:
    """Return *value* with surrogate pairs held as two code points made one, as JavaScript sees them."""
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        case list():
            return [joined(item) for item in value]
        case dict():
            return {joined(key): joined(item) for key, item in value.items()}
        case _:
            return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, False, None]}, b'{"b":1,"a":[true,false,null]}'),
        ({}, b"{}"),
        ([], b"[]"),
        ((1, 2), b"[1,2]"),
        ('"\\/', b'"\\"\\\\/"'),
        ("\b\t\n\f\r\x00\x0b\x1f\x7f", b'"\\b\\t\\n\\f\\r\\u0000\\u000b\\u001f\x7f"'),
        ("é\u2028\U0001f600", '"é\u2028\U0001f600"'.encode()),
        ("a\ud83d", b'"a\\ud83d"'),
        ("\udfff\ud800", b'"\\udfff\\ud800"'),
        ("\ud83d\ude00", '"\U0001f600"'.encode()),
        ({"\ud800": {"x": [{}, []]}}, b'{"\\ud800":{"x":[{},[]]}}'),
        (12345678901234567890123, b"12345678901234567890123"),
        (-(2**63) - 1, b"-9223372036854775809"),
        (Decimal("1.10"), b"1.10"),
        (Decimal("1e400"), b"1E+400"),
        (1.0, b"1"),
        (-0.0, b"0"),
        (-1.5, b"-1.5"),
        (1e20, b"100000000000000000000"),
        (1e21, b"1e+21"),
        (1.5e300, b"1.5e+300"),
        (1e-6, b"0.000001"),
        (1e-7, b"1e-7"),
        (5e-324, b"5e-324"),
        (123.456, b"123.456"),
    ],
)
def test_writes_what_json_stringify_writes(value: Any, text: bytes) -> None:
    assert dumps(value) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN"), [Decimal("-Infinity")]])
def test_refuses_numbers_without_json_form(value: Any) -> None:
    with pytest.raises(JsonError, match="not finite"):
        dumps(value)


@pytest.mark.parametrize("value", [b"x", {1: 2}, {"a": {1, 2}}, [1.5, object()]])
def test_refuses_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(TypeError):
        dumps(value)


def test_refuses_to_write_endless_nesting() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(JsonError, match="nested"):
        dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b" ",
            b"{",
            b"[1,]",
            b'{"a":1,}',
            b"01",
            b"1.",
            b".5",
            b"-",
            b"+1",
            b"1e",
            b"NaN",
            b"Infinity",
            b"-Infinity",
        ),
        *(
            b"nul",
            b"'a'",
            b"{a:1}",
            b"1 2",
            b'"\x01"',
            b'"\\x"',
            b'"\\u12g4"',
            b"\x0b1",
            b"\xc2\xa01",
            b"\xef\xbb\xbf1",
        ),
        *(b'"\xff"', b'"\xed\xa0\x80"', b'["\\ud800", tru]', b"[" * 100_000, b"//", b'{"a" 1}', b"\x00"),
    ],
)
def test_refuses_what_json_parse_refuses(text: bytes) -> None:
    with pytest.raises(JsonError):
        loads(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b' {"a" : [ 1 , 2.50 ] }\n', {"a": [1, Decimal("2.50")]}),
        (b'{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
        (b'"\\ud83d\\ude00\\ude00"', "\U0001f600\ude00"),
        (b"-0", 0),
        (b"9" * 5000, Decimal("9" * 5000)),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b'{"__proto__":1,"":2}', {"__proto__": 1, "": 2}),
    ],
)
def test_reads_what_json_parse_reads(text: bytes, value: Any) -> None:
    assert loads(text) == value


def test_keeps_the_place_of_repeated_keys() -> None:
    assert list(loads(b'{"a":1,"b":2,"a":3}')) == ["a", "b"]


def test_limits_depth() -> None:
    deepest = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert dumps(loads(deepest)) == deepest
    with pytest.raises(JsonError, match="nested"):
        loads(b"[" + deepest + b"]")
    with pytest.raises(JsonError, match="nested"):
        loads(b'{"a":[{"b":1}]}', max_depth=2)
    assert loads(b'{"a":[{"b":1}]}', max_depth=3) == {"a": [{"b": 1}]}


def test_refuses_numbers_beyond_decimals() -> None:
    with pytest.raises(JsonError, match="range"):
        loads(b"1e9999999999999999999999")


def test_errors_never_quote_the_input() -> None:
    with pytest.raises(JsonError) as caught:
        loads(b'{"secret-content": oops}')
    assert "secret" not in str(caught.value)
    assert "oops" not in str(caught.value)


@given(VALUES)
def test_round_trip(value: Any) -> None:
    text = dumps(value)
    assert loads(text) == joined(value)
    assert dumps(loads(text)) == text


@given(VALUES)
def test_is_json_for_others_too(value: Any) -> None:
    assert json.loads(dumps(value), parse_float=Decimal) == joined(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_their_value(value: float) -> None:
    assert float(loads(dumps(value))) == value


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:0123.eE-+ \\untrfalsed\x01', max_size=60).map(str.encode))
def test_arbitrary_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        value = loads(data)
    except JsonError:
        return
    assert loads(dumps(value)) == value
