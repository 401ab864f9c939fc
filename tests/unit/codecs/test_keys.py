"""Encryption keys: strict to parse, impossible to see."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.errors import ConfigurationError

HEX = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"


@pytest.mark.parametrize("text", [HEX, HEX.upper(), f"  {HEX}\r\n", f"\t{HEX.title()}\n"])
def test_64_digits_of_either_case_with_space_around_are_a_key(text: str) -> None:
    assert EncryptionKey.from_hex(text).raw == bytes(range(32))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 characters"),
        ("   ", "0 characters"),
        (HEX[:-1], "63 characters"),
        (HEX + "0", "65 characters"),
        (HEX[:-1] + "g", "other characters"),
        (HEX[:32] + " " + HEX[32:-1], "other characters"),
        ("\u0661" * 64, "other characters"),
        ("0x" + HEX, "66 characters"),
    ],
)
def test_anything_else_names_the_length_and_not_the_content(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        EncryptionKey.from_hex(text)
    assert caught.value.kind == "bad_key_text"
    if text.strip():
        assert text.strip() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@given(st.text(max_size=80))
def test_no_text_makes_a_short_key_or_another_error(text: str) -> None:
    try:
        key = EncryptionKey.from_hex(text)
    except ConfigurationError:
        return
    assert len(key.raw) == 32


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), bytearray(32), "x" * 32])
def test_raw_keys_are_32_bytes(raw: bytes) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EncryptionKey(raw=raw)
    assert caught.value.kind == "bad_key_length"


def test_a_key_shows_its_id_only() -> None:
    key = EncryptionKey.from_hex(HEX)
    for shown in (repr(key), str(key), f"{key}"):
        assert HEX not in shown
        assert repr(key.raw) not in shown
        assert key.key_id in shown


def test_the_id_is_short_stable_and_no_plain_hash_of_the_key() -> None:
    assert EncryptionKey.from_hex(HEX).key_id == "5d29cc6047cb7307"
    assert EncryptionKey.from_hex(HEX).key_id != EncryptionKey.from_hex(HEX[::-1]).key_id


def test_generated_keys_differ_and_survive_pickle() -> None:
    one, two = EncryptionKey.generate(), EncryptionKey.generate()
    assert one != two
    assert EncryptionKey.from_hex(one.raw.hex()) == one
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes
