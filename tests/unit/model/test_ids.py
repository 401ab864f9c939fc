"""Names: principals and snapshot ids, as texts and as bytes."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ic.principal import Principal as IcPyPrincipal
from icp_principal.principal import Principal as IcpPyCorePrincipal  # type: ignore[import-untyped]

from knowtation_backup.errors import BackupError, ConfigurationError
from knowtation_backup.model.ids import ANONYMOUS, MANAGEMENT_CANISTER, Principal, SnapshotId

VECTORS = [
    ("", "aaaaa-aa"),
    ("04", "2vxsx-fae"),
    ("00000000000000010101", "rrkah-fqaaa-aaaaa-aaaaq-cai"),
    ("80000000001000010101", "bkyz2-fmaaa-aaaaa-qaaaq-cai"),
    ("00000000000000000101", "rwlgt-iiaaa-aaaaa-aaaaa-cai"),
    ("ffffffffffe000000101", "lxzze-o7777-77777-aaaaa-cai"),
]
SECP256K1_KEY = (
    "3056301006072a8648ce3d020106052b8104000a034200"
    "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
)
RAW = st.binary(max_size=29)


@pytest.mark.parametrize(("raw", "text"), VECTORS)
def test_the_principals_of_the_reference(raw: str, text: str) -> None:
    principal = Principal(bytes.fromhex(raw))
    assert str(principal) == text
    assert Principal.parse(text) == principal
    assert repr(principal) == f"Principal({text!r})"


def test_the_two_principals_that_everybody_knows() -> None:
    assert str(MANAGEMENT_CANISTER) == "aaaaa-aa"
    assert str(ANONYMOUS) == "2vxsx-fae"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (
            "302a300506032b65700321003b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29",
            "535yc-uxytb-gfk7h-tny7p-vjkoe-i4krp-3qmcl-uqfgr-cpgej-yqtjq-rqe",
        ),
        (
            SECP256K1_KEY,
            "vh5jj-2v5av-uunuh-hbba5-pss3b-vrzng-7dqdp-xcku3-zj2tc-36shc-bqe",
        ),
    ],
)
def test_principals_of_keys(key: str, text: str) -> None:
    assert str(Principal.self_authenticating(bytes.fromhex(key))) == text
    assert IcPyPrincipal.self_authenticating(key).to_str() == text


@given(RAW)
def test_a_principal_survives_its_text(raw: bytes) -> None:
    principal = Principal(raw)
    assert Principal.parse(str(principal)) == principal
    assert Principal.parse(raw) == Principal.parse(memoryview(raw)) == Principal.parse(bytearray(raw)) == principal
    assert pickle.loads(pickle.dumps(principal)) == principal  # noqa: S301 - made just now
    assert hash(Principal(raw)) == hash(principal)


@given(RAW)
def test_other_clients_write_principals_alike(raw: bytes) -> None:
    text = str(Principal(raw))
    assert IcPyPrincipal(bytes=raw).to_str() == text
    assert IcpPyCorePrincipal(raw).to_str() == text
    assert Principal.parse(IcPyPrincipal(bytes=raw)) == Principal(raw)
    assert Principal.parse(IcpPyCorePrincipal(raw)) == Principal(raw)


@given(RAW, RAW)
def test_principals_are_ordered_by_their_bytes(one: bytes, other: bytes) -> None:
    assert (Principal(one) < Principal(other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "aaaaa",
        "aaaaaaa",
        "AAAAA-AA",
        "aaaaa-aa ",
        " aaaaa-aa",
        "aaaaa-aa\n",
        "aaaaa--aa",
        "aaaa-aaa",
        "aaaaa-ab",
        "rrkah-fqaaa-aaaaa-aaaaq-caj",
        "rrkah-fqaaa-aaaaa-aaaaq",
        "rrkahfqaaaaaaaaaaaaqcai",
        "rrkah-fqaaa-aaaaa-aaaaq-cai=",
        "rrkah-fqaa1-aaaaa-aaaaq-cai",
        "\uff52rkah-fqaaa-aaaaa-aaaaq-cai",
        "\u017frkah-fqaaa-aaaaa-aaaaq-cai",
        "a" * 10_000,
        "\ud800",
    ],
)
def test_texts_that_name_no_principal_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Principal.parse(text)
    assert caught.value.kind == "bad_principal"
    assert len(caught.value.message) < 200


@given(st.text(max_size=70) | st.text("abcdefghijklmnopqrstuvwxyz234567-", max_size=70))
def test_any_text_is_a_principal_in_its_one_form_or_refused(text: str) -> None:
    try:
        principal = Principal.parse(text)
    except BackupError:
        return
    assert str(principal) == text


@given(RAW, st.integers(0, 62), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567-"))
def test_one_wrong_character_is_noticed(raw: bytes, place: int, character: str) -> None:
    text = str(Principal(raw))
    place %= len(text)
    changed = text[:place] + character + text[place + 1 :]
    if changed != text:
        with pytest.raises(ConfigurationError):
            Principal.parse(changed)


@pytest.mark.parametrize("value", [None, 5, 1.5, object(), [], bytes(30), bytearray(30)])
def test_values_that_name_no_principal_are_refused(value: object) -> None:
    with pytest.raises(ConfigurationError):
        Principal.parse(value)


@pytest.mark.parametrize("raw", [bytes(30), "aaaaa-aa", None, bytearray(3), memoryview(b"")])
def test_a_principal_is_made_of_bytes(raw: object) -> None:
    with pytest.raises(ConfigurationError):
        Principal(raw)  # type: ignore[arg-type]


@given(st.binary(min_size=1, max_size=64))
def test_a_snapshot_id_survives_its_text(raw: bytes) -> None:
    snapshot_id = SnapshotId(raw)
    assert str(snapshot_id) == raw.hex()
    assert SnapshotId.parse(str(snapshot_id)) == SnapshotId.parse(raw) == SnapshotId.parse(snapshot_id) == snapshot_id
    assert repr(snapshot_id) == f"SnapshotId({raw.hex()!r})"


@pytest.mark.parametrize("value", ["", "0", "xy", "00" * 65, b"", bytes(65), None, 5, "\uff100", "zz" * 9, "0x00"])
def test_values_that_name_no_snapshot_are_refused(value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SnapshotId.parse(value)  # type: ignore[arg-type]
    assert caught.value.kind == "bad_snapshot_id"


@pytest.mark.parametrize("text", ["00 01", " 0001", "0001\n", "\t0001", "00\u00a001"])
def test_a_snapshot_id_holds_no_blanks(text: str) -> None:
    with pytest.raises(ConfigurationError):
        SnapshotId.parse(text)


def test_a_snapshot_id_may_be_copied_in_capitals() -> None:
    assert SnapshotId.parse("00AB") == SnapshotId(b"\x00\xab")
