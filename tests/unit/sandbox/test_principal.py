"""Principals between bytes and text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.sandbox import principal


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("", "aaaaa-aa"),
        ("04", "2vxsx-fae"),
        ("00000000000000010101", "rrkah-fqaaa-aaaaa-aaaaq-cai"),
        ("80000000001000010101", "bkyz2-fmaaa-aaaaa-qaaaq-cai"),
        ("00000000000000000101", "rwlgt-iiaaa-aaaaa-aaaaa-cai"),
        ("ffffffffffe000000101", "lxzze-o7777-77777-aaaaa-cai"),
    ],
)
def test_known_principals_translate_both_ways(data: str, text: str) -> None:
    assert principal.to_text(bytes.fromhex(data)) == text
    assert principal.from_text(text) == bytes.fromhex(data)


@given(st.binary(max_size=29))
def test_text_is_reversible(data: bytes) -> None:
    assert principal.from_text(principal.to_text(data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "aaaaa",
        "aaaaa-ab",  # checksum
        "AAAAA-AA",
        "aaaaaaa",  # hyphen missing
        "rrkah-fqaaa-aaaaa-aaaaq-caj",
        "rrkah-fqaaa-aaaaa-aaaaq-cai ",
        "1rkah-fqaaa-aaaaa-aaaaq-cai",
        "ärkah-fqaaa-aaaaa-aaaaq-cai",
        "a" * 64,
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        principal.from_text(text)


def test_thirty_bytes_are_no_principal() -> None:
    with pytest.raises(ConfigurationError):
        principal.to_text(bytes(30))


@given(st.text(max_size=70))
def test_arbitrary_text_parses_or_is_refused(text: str) -> None:
    try:
        data = principal.from_text(text)
    except ConfigurationError:
        return
    assert principal.to_text(data) == text
