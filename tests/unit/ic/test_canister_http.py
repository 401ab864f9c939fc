"""HTTP messages of canisters: the bytes other implementations write and read, streaming tokens, and hostile replies."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ic import candid as ic_py

from knowtation_backup.errors import ExportError
from knowtation_backup.ic.canister_http import decode_http_response, decode_streaming_chunk, http_request_arg
from knowtation_backup.sandbox import candid
from knowtation_backup.sandbox.protocol import gateway_messages

HEADERS = candid.Vec(candid.Record({0: candid.TEXT, 1: candid.TEXT}))
PLAIN: dict[str, candid.CandidType] = {
    "status_code": candid.NAT16,
    "headers": HEADERS,
    "body": candid.BLOB,
    "upgrade": candid.Opt(candid.BOOL),
}
TOKEN = candid.Record({"key": candid.TEXT, "index": candid.NAT, "token": candid.Opt(candid.NAT8)})
CALLBACK = candid.Record({"callback": candid.Func((TOKEN,), (candid.RESERVED,), (1,)), "token": TOKEN})
STREAMED = candid.Record(PLAIN | {"streaming_strategy": candid.Opt(candid.Variant({"Callback": CALLBACK}))})
STREAMING_ARG = (
    "4449444c0b6c05a2f5ed880401c6a4a19806029ce9c6990604b09699e20c059aa1b2f90c7a6d7b6d036c02007101716e7e6e066b01e5abe1"
    "c505076c02f985aea10108c5b39af8070a6c039f93c60271f985aea1010992b6d2f00b7d6e7b6a01080170010101080161010703"
)
"""What a stored question holds: the types as they came, and the token."""


def reply(**fields: Any) -> bytes:
    value = {"status_code": 200, "headers": [{0: "A", 1: "b"}], "body": b"hello", "upgrade": None} | fields
    return candid.encode([candid.Record(PLAIN)], [value])


@given(st.text(), st.lists(st.tuples(st.text(), st.text())), st.binary())
def test_requests_are_those_of_the_gateway(url: str, headers: list[tuple[str, str]], body: bytes) -> None:
    message = {"method": "GET", "url": url, "headers": [{0: name, 1: text} for name, text in headers], "body": body}
    assert http_request_arg("GET", url, headers, body) == gateway_messages.encode_update(message)


def test_the_requests_that_evidence_was_made_with_never_change() -> None:
    headers = [("x-user-id", "u1"), ("accept", "application/json")]
    assert http_request_arg("GET", "/api/v1/x?a=é", headers).hex() == (
        "4449444c046c04efd6e40271e1edeb4a71a2f5ed880401c6a4a19806026d7b6d036c020071017101000e2f6170692f76312f783f613dc3a9"
        "03474554000209782d757365722d696402753106616363657074106170706c69636174696f6e2f6a736f6e"
    )


def test_another_decoder_reads_the_request() -> None:
    header = ic_py.Types.Tuple(ic_py.Types.Text, ic_py.Types.Text)
    blob = ic_py.Types.Vec(ic_py.Types.Nat8)
    texts = dict.fromkeys(("method", "url"), ic_py.Types.Text)
    expected = ic_py.Types.Record(texts | {"headers": ic_py.Types.Vec(header), "body": blob})
    (argument,) = ic_py.decode(http_request_arg("GET", "/x", [("x-user-id", "é")], b"1"), expected)
    value = argument["value"]
    assert (value["method"], value["url"], value["body"]) == ("GET", "/x", [49])
    assert [list(pair) for pair in value["headers"]] == [["x-user-id", "é"]]


@given(st.integers(100, 999), st.binary(max_size=200), st.sampled_from([None, True, False]))
def test_responses_are_read(status: int, body: bytes, upgrade: bool | None) -> None:  # noqa: FBT001 - drawn
    response = decode_http_response(reply(status_code=status, body=body, upgrade=upgrade))
    assert (response.status, bytes(response.body), response.upgrade) == (status, body, bool(upgrade))
    assert response.header("a") == "b"
    assert response.header("c") == ""
    assert response.streaming is None


def test_the_body_is_a_view_into_the_reply() -> None:
    data = reply(body=b"x" * 2_000_000)
    assert decode_http_response(data).body.obj is data


def test_a_streaming_token_is_handed_back_as_it_came() -> None:
    token = {"key": "a", "index": 3, "token": 7}
    chosen = ("Callback", {"callback": (b"\x01\x02", "more"), "token": token})
    fields = {"status_code": 200, "headers": [], "body": b"", "upgrade": None, "streaming_strategy": chosen}
    streaming = decode_http_response(candid.encode([STREAMED], [fields])).streaming
    assert streaming is not None
    assert (streaming.canister_id, streaming.method) == (b"\x01\x02", "more")
    assert streaming.arg.hex() == STREAMING_ARG
    (value,) = candid.decode(streaming.arg, [TOKEN])
    assert (value["key"], value["index"], value["token"] is None) == ("a", 3, False)
    assert gateway_messages.decode_response(candid.encode([STREAMED], [fields])).streaming is not None


@pytest.mark.parametrize("wrapped", [False, True])
def test_chunks_end_with_an_empty_token(wrapped: bool) -> None:  # noqa: FBT001 - parametrised
    chunk: candid.CandidType = candid.Record({"body": candid.BLOB, "token": candid.Opt(TOKEN)})
    more = {"body": b"1", "token": {"key": "a", "index": 4, "token": None}}
    kind = candid.Opt(chunk) if wrapped else chunk
    body, following = decode_streaming_chunk(candid.encode([kind], [more]))
    assert bytes(body) == b"1"
    assert following is not None
    assert candid.decode(following, [TOKEN])[0]["index"] == 4
    body, following = decode_streaming_chunk(candid.encode([kind], [{"body": b"2", "token": None}]))
    assert (bytes(body), following) == (b"2", None)


def test_an_empty_option_is_the_end() -> None:
    kind = candid.Opt(candid.Record({"body": candid.BLOB}))
    body, following = decode_streaming_chunk(candid.encode([kind], [None]))
    assert (bytes(body), following) == (b"", None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"DIDL",
        b"DIDL\x00\x00",
        b"DIDL\x00\x01\x71\x01x",
        b"DIDL\xff\xff\xff\x7f",
        b"DIDL\x01\x6d\x00\x01\x00\xff\xff\xff\xff\x7f",
        b"DIDL\x01\x6c\x01\x00\x00\x01\x00",
        b"DIDL\x02\x6c\x01\x00\x01\x6d\x7f\x01\x00\xff\xff\xff\xff\x7f",
        b"DIDL\x02\x6c\x02\x01\x71\x00\x71\x00\x01\x00",
        candid.encode([candid.Record({"status_code": candid.TEXT})], [{"status_code": "x"}]),
        reply(status_code=7),
        reply()[:-1],
    ],
)
def test_what_is_no_response_is_named(data: bytes) -> None:
    for decode in (decode_http_response, decode_streaming_chunk):
        if decode is decode_streaming_chunk and data == reply(status_code=7):
            continue
        with pytest.raises(ExportError) as caught:
            decode(data)
        assert caught.value.kind == "bad_reply"


@pytest.mark.parametrize(
    ("name", "kind", "value", "named"),
    [
        ("status_code", candid.TEXT, "200", "no status"),
        ("status_code", candid.FLOAT64, 200.0, "no status"),
        ("body", candid.TEXT, "hello", "no body"),
        ("headers", candid.TEXT, "A: b", "no headers"),
        ("headers", candid.Vec(candid.TEXT), ["A: b"], "not pairs"),
        ("headers", candid.Vec(candid.Record({0: candid.TEXT})), [{0: "A"}], "not pairs"),
        ("upgrade", candid.NAT, 1, "truth value"),
        ("streaming_strategy", candid.Variant({"Other": candid.NULL}), ("Other", None), "strategy is unknown"),
        (
            "streaming_strategy",
            candid.Variant({"Callback": TOKEN}),
            ("Callback", {"key": "a", "index": 3, "token": None}),
            "strategy is unknown",
        ),
    ],
)
def test_a_field_of_another_type_is_named(name: str, kind: candid.CandidType, value: Any, named: str) -> None:
    fields = {"status_code": 200, "headers": [], "body": b"", "upgrade": None, name: value}
    with pytest.raises(ExportError, match=named):
        decode_http_response(candid.encode([candid.Record(PLAIN | {name: kind})], [fields]))


@pytest.mark.parametrize(("kind", "value"), [(candid.TEXT, "x"), (candid.Record({"body": candid.TEXT}), {"body": "x"})])
def test_a_chunk_without_a_body_is_named(kind: candid.CandidType, value: Any) -> None:
    with pytest.raises(ExportError, match="no body"):
        decode_streaming_chunk(candid.encode([kind], [value]))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_return_or_raise_the_named_error(noise: bytes) -> None:
    for data in (noise, b"DIDL" + noise, reply() + noise):
        for decode in (decode_http_response, decode_streaming_chunk):
            with contextlib.suppress(ExportError):
                decode(data)


@given(st.integers(0, len(reply()) - 1), st.integers(1, 255))
def test_changed_replies_return_or_raise_the_named_error(at: int, change: int) -> None:
    data = bytearray(reply())
    data[at] ^= change
    with contextlib.suppress(ExportError):
        decode_http_response(bytes(data))
