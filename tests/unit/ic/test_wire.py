"""Request ids, envelopes and the little CBOR, against the specification's vectors and two other clients."""

import hashlib
import re
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ic.identity import Identity as IcPyIdentity
from ic.principal import Principal as IcPyPrincipal
from ic.utils import to_request_id as ic_py_request_id
from icp_agent.agent import to_request_id as icp_py_core_request_id  # type: ignore[import-untyped]

from knowtation_backup.errors import BackupError, CertificateError
from knowtation_backup.ic import cbor, wire
from knowtation_backup.ic.identity import AnonymousIdentity, identity_of

CONTENT: dict[str, Any] = {
    "request_type": "call",
    "sender": b"\x04",
    "ingress_expiry": 1_685_570_400_000_000_000,
    "canister_id": bytes.fromhex("00000000000004D2"),
    "method_name": "hello",
    "arg": bytes.fromhex("4449444C00FD2A"),
}
REQUEST_ID = bytes.fromhex("1d1091364d6bb8a6c16b203ee75467d59ead468f523eb058880ae8ec80e2b101")
VALUES = st.recursive(
    st.binary(max_size=40) | st.text(max_size=20) | st.integers(0, (1 << 64) - 1),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _plain(value: object) -> object:
    """Turn views into bytes, to compare."""
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def test_the_request_id_of_the_specification() -> None:
    assert wire.request_id(CONTENT) == REQUEST_ID


def test_an_argument_in_parts_has_the_same_id() -> None:
    plain = {name: value for name, value in CONTENT.items() if name != "arg"}
    arg = CONTENT["arg"]
    assert wire.request_id(plain, arg) == REQUEST_ID
    assert wire.request_id(plain, [arg[:3], memoryview(arg)[3:5], b"", bytearray(arg[5:])]) == REQUEST_ID


def test_the_hash_of_an_argument_is_enough_for_the_id() -> None:
    plain = {name: value for name, value in CONTENT.items() if name != "arg"}
    assert wire.request_id(plain, arg_sha256=hashlib.sha256(CONTENT["arg"]).digest()) == REQUEST_ID


def test_absent_fields_are_not_hashed() -> None:
    assert wire.request_id({**CONTENT, "nonce": None}) == REQUEST_ID
    assert wire.request_id({**CONTENT, "nonce": b""}) != REQUEST_ID


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        (
            {
                "status": "replied",
                "reply": {"arg": b"DIDL\0\0"},
                "request_id": REQUEST_ID,
                "timestamp": 1685570400000000000,
            },
            "8c7266db1acdf49f61bc35f78f0d226fd505181445eb0a5a58bb180a41436fac",
        ),
        (
            {
                "status": "rejected",
                "reject_code": 3,
                "reject_message": "no",
                "error_code": "IC0301",
                "request_id": REQUEST_ID,
                "timestamp": 1685570400000000000,
            },
            "8b5e4ef0220c94a5f067acc872a35f8f966533f18dc13863665e80f25a52204d",
        ),
    ],
)
def test_hashes_of_query_answers(fields: dict[str, Any], digest: str) -> None:
    assert wire.content_hash(fields).hex() == digest


@given(st.binary(max_size=64), st.text(max_size=20), st.integers(0, (1 << 64) - 1), st.lists(st.binary(), max_size=3))
def test_other_clients_agree_about_request_ids(arg: bytes, method: str, expiry: int, path: list[bytes]) -> None:
    content = {**CONTENT, "arg": arg, "method_name": method, "paths": [path, [b"time"]]}
    content["ingress_expiry"] = expiry
    assert icp_py_core_request_id(content) == wire.request_id(content)
    assert ic_py_request_id(content) == wire.request_id(content)


@pytest.mark.parametrize("value", [True, 1.5, None, object()])
def test_what_has_no_hash_is_a_bug_of_the_caller(value: object) -> None:
    with pytest.raises(TypeError):
        wire.content_hash({"list": [value]})


def test_an_envelope_is_what_other_clients_send() -> None:
    identity = IcPyIdentity(privkey="00" * 32)
    ours = identity_of(identity)
    arg = CONTENT["arg"]
    content = {**CONTENT, "sender": ours.sender.raw, "arg": [arg[:2], memoryview(arg)[2:]], "nonce": None}
    request = wire.signed_request(content, ours)
    key, signature = identity.sign(b"\x0aic-request" + request.request_id)
    sent = cbor2.loads(request.envelope.removeprefix(b"\xd9\xd9\xf7"))
    assert request.envelope.startswith(b"\xd9\xd9\xf7")
    assert sent == {
        "content": {**CONTENT, "sender": IcPyPrincipal.self_authenticating(key).bytes},
        "sender_pubkey": key,
        "sender_sig": signature,
    }
    assert wire.request_id(sent["content"]) == request.request_id
    assert "arg" not in request.content
    assert "ab" not in repr(wire.signed_request({**CONTENT, "arg": b"ab"}, AnonymousIdentity())).partition("id")[0]


@pytest.mark.parametrize("sizes", [(1,), (70_000,), (3, 70_000, 4), (70_000, 5, 80_000)])
def test_what_is_large_in_an_argument_is_not_copied(sizes: tuple[int, ...]) -> None:
    arg = [memoryview(bytes(size)) for size in sizes]
    request = wire.signed_request({**CONTENT, "arg": arg}, AnonymousIdentity())
    large = [part for part in request.parts if isinstance(part, memoryview)]
    assert [part.obj for part in large] == [part.obj for part in arg if len(part) > 1 << 16]
    assert cbor2.loads(request.envelope[3:]) == {"content": {**CONTENT, "arg": bytes(sum(sizes))}}
    assert len(request.parts) <= 2 * len(large) + 1


def test_an_anonymous_envelope_has_no_signature() -> None:
    request = wire.signed_request({**CONTENT, "nonce": b"n"}, AnonymousIdentity())
    assert cbor2.loads(request.envelope[3:]) == {"content": {**CONTENT, "nonce": b"n"}}


def test_a_read_has_no_argument() -> None:
    content = {"request_type": "read_state", "sender": b"\x04", "ingress_expiry": 1, "paths": [[b"time"], [b"a", b"b"]]}
    request = wire.signed_request(content, AnonymousIdentity())
    assert cbor2.loads(request.envelope[3:]) == {"content": content}
    assert request.request_id == wire.request_id(content)


@given(st.integers(0, (1 << 64) - 1))
def test_numbers_survive_leb128(number: int) -> None:
    assert wire.leb128_decode(wire.leb128(number)) == number


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x01\x01", b"\xff" * 10, b"\x80" * 9 + b"\x02", b"\x80" * 10 + b"\x01"]
)
def test_what_is_no_number_of_64_bits_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateError, match="number"):
        wire.leb128_decode(data)


@given(st.binary(max_size=12))
def test_any_bytes_are_a_number_or_refused(data: bytes) -> None:
    try:
        number = wire.leb128_decode(data)
    except BackupError:
        return
    assert 0 <= number < 1 << 64


@given(VALUES)
def test_cbor_is_what_the_library_makes_of_it(value: object) -> None:
    encoded = cbor.encode(value)
    assert encoded == cbor2.dumps(value)
    assert _plain(cbor.decode(encoded)) == value
    assert _plain(cbor.decode(cbor.SELF_DESCRIBED + encoded)) == value


@given(st.binary(max_size=80))
def test_any_bytes_are_cbor_or_refused(data: bytes) -> None:
    try:
        value = _plain(cbor.decode(data))
    except cbor.CborError:
        return
    assert cbor2.loads(data.removeprefix(cbor.SELF_DESCRIBED)) == value


def test_byte_strings_are_views_into_the_input() -> None:
    data = cbor2.dumps({"reply": bytes(100)})
    view = cbor.decode(data)["reply"]
    assert isinstance(view, memoryview)
    assert view.obj is data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too early"),
        (b"\x58\x05abcd", "too early"),
        (b"\x19\x01", "too early"),
        (b"\x5f\x41a\xff", "indefinite"),
        (b"\x1c", "indefinite or reserved"),
        (b"\x81" * 40 + b"\x00", "too deep"),
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", "too early"),
        (b"\x20", "unexpected kind"),
        (b"\xc2\x41\x01", "unexpected kind"),
        (b"\xf9\x3c\x00", "unexpected kind"),
        (b"\xa1\x01\x02", "text is missing"),
        (b"\xa2\x61a\x01\x61a\x02", "twice"),
        (b"\x61\xff", "UTF-8"),
        (b"\x00\x00", "follow"),
    ],
)
def test_what_is_no_plain_cbor_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(cbor.CborError, match=re.escape(why)):
        cbor.decode(data)


def test_values_beyond_the_number_allowed_are_refused() -> None:
    data = cbor2.dumps([0] * 100)
    assert cbor.decode(data, most_items=101)
    with pytest.raises(cbor.CborError, match="too many"):
        cbor.decode(data, most_items=100)


def test_simple_values() -> None:
    assert cbor.decode(cbor.encode([None, True, False])) == [None, True, False]
    with pytest.raises(TypeError):
        cbor.encode(1.5)
    with pytest.raises(cbor.CborError):
        cbor.encode(-1)
    with pytest.raises(cbor.CborError):
        cbor.encode(1 << 64)
