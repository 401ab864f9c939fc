"""Signature files, public keys and policies as values: one way to write each, and nothing else is read."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.errors import BackupError, ConfigurationError, SignatureError, UnsupportedFormatError
from knowtation_backup.model.signatures import Signature, SignatureFile, SignaturePolicy, VerifyKey

RAW = bytes(range(1, 33))
FILE = SignatureFile(signatures=(Signature(algorithm="ed25519", public_key=RAW, signature=bytes(64)),))


class TestVerifyKeys:
    @pytest.mark.parametrize(
        "text",
        [
            f"ed25519:{RAW.hex()}",
            RAW.hex(),
            RAW.hex().upper(),
            f"  ed25519:{RAW.hex()}\n",
            VerifyKey(raw=RAW).pem,
            VerifyKey(raw=RAW).pem.replace("\n", "\r\n"),
        ],
    )
    def test_every_text_form_is_read(self, text: str) -> None:
        assert VerifyKey.from_text(text) == VerifyKey(raw=RAW)

    def test_the_text_form_reads_back_and_the_id_is_short(self) -> None:
        key = VerifyKey(raw=RAW)
        assert VerifyKey.from_text(str(key)) == key
        assert repr(key) == f"VerifyKey('ed25519:{RAW.hex()}')"
        assert len(key.key_id) == 16
        assert key.key_id != VerifyKey(raw=RAW[::-1]).key_id

    @pytest.mark.parametrize(
        "text",
        [
            "",
            RAW.hex()[:-1],
            RAW.hex() + "0",
            f"x25519:{RAW.hex()}",
            "\u0661" * 64,
            VerifyKey(raw=RAW).pem.replace("PUBLIC", "PRIVATE"),
            VerifyKey(raw=RAW).pem.replace("MCow", "MCox"),
            "-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            VerifyKey.from_text(text)
        assert caught.value.kind == "bad_verify_key"

    @pytest.mark.parametrize("raw", [b"", RAW[:-1], "text", None])
    def test_a_key_has_32_bytes(self, raw: Any) -> None:
        with pytest.raises(ConfigurationError, match="32 bytes"):
            VerifyKey(raw=raw)


class TestFiles:
    def test_they_read_back(self) -> None:
        assert SignatureFile.from_bytes(FILE.to_bytes()) == FILE
        assert FILE.to_bytes().endswith(b"}\n")

    def test_unknown_fields_do_not_hinder(self) -> None:
        value = json.loads(FILE.to_bytes())
        value["comment"] = "later"
        value["signatures"][0]["made_at"] = "later"
        data = (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode()
        assert SignatureFile.from_bytes(data) == FILE

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data[:-1],
            lambda data: data + b"\n",
            lambda data: data.replace(b",", b", ", 1),
            lambda data: data.replace(RAW.hex().encode(), RAW.hex().upper().encode()),
            lambda data: data.replace(b"ed25519", b"\\u0065d25519"),
            lambda data: data.replace(b'{"format"', b'{"format":"x","format"'),
            lambda data: data.replace(b'"signatures":[', b'"signatures":[[],'),
            lambda data: data.replace(b'"signatures":[{', b'"signatures":{"a":{').replace(b"}]}", b"}}}"),
            lambda data: data.replace(b"knowtation-backup-signatures", b"knowtation-backup-archive"),
            lambda data: data.replace(b'version":1', b'version":true'),
            lambda data: data.replace(b'version":1', b'version":1.0'),
            lambda data: data.replace(b'version":1', b'version":1' + b"0" * 5000),
            lambda _data: b"",
            lambda _data: b"[]\n",
            lambda _data: b"\xff",
            lambda _data: b"[" * 5000,
            lambda _data: b"[" * 60_000,
            lambda _data: b" " * 70_000,
        ],
    )
    def test_other_ways_to_write_them_are_refused(self, change: Any) -> None:
        with pytest.raises(SignatureError) as caught:
            SignatureFile.from_bytes(change(FILE.to_bytes()))
        assert caught.value.kind == "bad_signature"

    def test_a_newer_version_is_named(self) -> None:
        with pytest.raises(UnsupportedFormatError, match="version 2; this release reads 1"):
            SignatureFile.from_bytes(FILE.to_bytes().replace(b'version":1', b'version":2'))

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes_end_in_our_errors(self, data: bytes) -> None:
        with pytest.raises(BackupError):
            SignatureFile.from_bytes(data)


class TestPolicies:
    def test_without_trusted_keys_nothing_is_asked_for(self) -> None:
        assert SignaturePolicy().for_unsigned == "allow"

    def test_with_trusted_keys_unsigned_archives_are_refused(self) -> None:
        policy = SignaturePolicy(trusted=(RAW.hex(),))
        assert policy.trusted == (VerifyKey(raw=RAW),)
        assert policy.for_unsigned == "refuse"
        assert SignaturePolicy(trusted=policy.trusted, unsigned="report").for_unsigned == "report"

    def test_one_key_need_not_be_in_a_list(self) -> None:
        key = VerifyKey(raw=RAW)
        assert SignaturePolicy(trusted=key).trusted == SignaturePolicy(trusted=str(key)).trusted == (key,)

    @pytest.mark.parametrize("unsigned", ["ignore", "", True, 1])
    def test_other_words_are_refused(self, unsigned: Any) -> None:
        with pytest.raises(ConfigurationError, match="refuse"):
            SignaturePolicy(unsigned=unsigned)

    def test_texts_that_are_no_keys_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="no Ed25519 public key"):
            SignaturePolicy(trusted=("alice",))
