"""enc-v1: what AgentVault wrote opens, what we write looks the same, and no plaintext byte before it is proven."""

import base64
import contextlib
import hashlib
import json
import secrets
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.codecs.encv1 import EncV1Codec, EncV1Options
from knowtation_backup.codecs.keys import Passphrase
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    DecryptionError,
    IntegrityError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.model.manifest import CodecSpec

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "encv1").glob("*.json"))
PASSPHRASE = Passphrase(text="correct horse")
CODEC = EncV1Codec(PASSPHRASE)
QUICK = EncV1Codec(PASSPHRASE, EncV1Options(min_iterations=1))
"""Opens what the tests seal with one iteration; there is no way to seal so with the codec."""
MIB = 1 << 20
KEYS = ["version", "algorithm", "kdf", "iterations", "salt", "iv", "tag", "ciphertext"]


def quickly_sealed(text: bytes) -> bytes:
    """Seal with one iteration."""
    salt, iv = bytes(16), bytes(12)
    sealed = AESGCM(hashlib.pbkdf2_hmac("sha256", b"correct horse", salt, 1, 32)).encrypt(iv, text, None)
    values = ["enc-v1", "aes-256-gcm", "pbkdf2-sha256", 1]
    values += [base64.b64encode(part).decode() for part in (salt, iv, sealed[-16:], sealed[:-16])]
    return json.dumps(dict(zip(KEYS, values, strict=True)), indent=2).encode()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def open_bytes(sealed: bytes, codec: EncV1Codec = QUICK) -> bytes:
    return b"".join(codec.open(lambda: iter([sealed])))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    codec = EncV1Codec(Passphrase(text=vector["passphrase"]))
    released = bytearray()
    try:
        for piece in codec.open(lambda: iter([vector["sealed"].encode()])):
            released += piece
        outcome = "ok"
    except BackupError as error:
        outcome = error.kind
    assert outcome == vector["outcome"]
    assert released.hex() == vector["released"]


def test_there_are_vectors() -> None:
    assert len(GOLDEN) >= 30


def test_sealing_gives_the_text_of_the_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    randoms = {16: bytes(range(16)), 12: bytes(range(0xA0, 0xAC))}
    monkeypatch.setattr(secrets, "token_bytes", randoms.__getitem__)
    documented = json.loads(next(path for path in GOLDEN if path.stem == "documented").read_text())
    assert b"".join(CODEC.seal([b"he", b"", b"llo"])).decode() == documented["sealed"]


def test_the_key_is_that_of_the_documented_vector() -> None:
    key = hashlib.pbkdf2_hmac("sha256", b"correct horse", bytes(range(16)), 210_000, 32)
    assert key.hex() == "83195ff91afd0b9b4760d781cbab554d08bb6ca808d825235c20c8e94adb5c68"
    assert CODEC._derive(bytes(range(16)), 210_000) == key


def test_the_text_is_laid_out_as_agentvault_does() -> None:
    text = b"".join(CODEC.seal([b"x" * 100])).decode()
    members = json.loads(text)
    assert list(members) == KEYS
    assert text == json.dumps(members, indent=2)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 786_431, 786_432, 786_433, MIB, 3 * MIB + 1])
def test_any_size_comes_back(size: int) -> None:
    text = bytes(i % 251 for i in range(size))
    sealed = b"".join(CODEC.seal(cut(text, 100_000)))
    assert base64.b64decode(json.loads(sealed)["ciphertext"], validate=True) != text or not text
    pieces = list(CODEC.open(lambda: iter(cut(sealed, 65_537))))
    assert b"".join(pieces) == text
    assert max(map(len, pieces), default=0) <= MIB


def test_every_file_has_its_own_salt_and_iv() -> None:
    first, second = (json.loads(b"".join(CODEC.seal([b"same"]))) for _ in range(2))
    assert all(first[name] != second[name] for name in ("salt", "iv", "ciphertext"))


def test_more_iterations_are_written_and_read() -> None:
    sealed = b"".join(EncV1Codec(PASSPHRASE, EncV1Options(iterations=211_000)).seal([b"text"]))
    assert json.loads(sealed)["iterations"] == 211_000
    assert open_bytes(sealed, CODEC) == b"text"


def test_weak_files_are_refused_unless_told_otherwise() -> None:
    sealed = quickly_sealed(b"text")
    with pytest.raises(DecryptionError, match="min_iterations") as caught:
        open_bytes(sealed, CODEC)
    assert caught.value.kind == "weak_parameters"
    assert open_bytes(sealed, QUICK) == b"text"


@pytest.mark.parametrize(
    "options",
    [{"iterations": 209_999}, {"iterations": 10_000_001}, {"min_iterations": 0}, {"limit_bytes": 0}],
)
def test_options_out_of_bounds_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EncV1Options(**options)
    assert caught.value.kind == "bad_option"


def test_a_payload_above_the_limit_is_refused_when_sealing() -> None:
    codec = EncV1Codec(PASSPHRASE, EncV1Options(limit_bytes=2048))
    assert open_bytes(b"".join(codec.seal([bytes(1024)] * 2)), codec) == bytes(2048)
    with pytest.raises(ConfigurationError, match="KTB2 or age") as caught:
        list(codec.seal([bytes(1024), bytes(1025)]))
    assert caught.value.kind == "payload_too_large"


def test_a_file_above_the_limit_is_refused_without_holding_it() -> None:
    codec = EncV1Codec(PASSPHRASE, EncV1Options(limit_bytes=MIB))
    read, closed = 0, False

    def endless() -> Iterator[bytes]:
        nonlocal read, closed
        try:
            yield quickly_sealed(b"")[:-3]
            while True:
                read += 1
                yield b"A" * (64 << 10)
        finally:
            closed = True

    with pytest.raises(UnsupportedFormatError, match="limit_bytes") as caught:
        next(codec.open(endless))
    assert caught.value.kind == "payload_too_large"
    assert read < 30
    assert closed


def test_memory_stays_near_the_size_of_the_text() -> None:
    sealed = cut(quickly_sealed(bytes(12 * MIB)), MIB)
    tracemalloc.start()
    assert sum(map(len, QUICK.open(lambda: iter(sealed)))) == 12 * MIB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * 16 * MIB  # a growing buffer may have room for more than it holds


def test_every_cut_is_noticed() -> None:
    sealed = quickly_sealed(b"attack at dawn")
    for size in range(len(sealed)):
        with pytest.raises(TruncatedError):
            open_bytes(sealed[:size])


def test_every_flipped_bit_is_noticed_before_anything_is_released() -> None:
    sealed = quickly_sealed(b"attack at dawn, the usual place")
    for position in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[position] ^= 1 << bit
            if bytes(changed).split() == sealed.split():
                continue  # one white space for another means the same
            with pytest.raises((UnsupportedFormatError, IntegrityError, DecryptionError)):
                next(QUICK.open(lambda changed=bytes(changed): iter([changed])))  # type: ignore[misc]


@pytest.mark.parametrize(
    "hostile",
    [
        b"{" * MIB + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * MIB,
        b'{"version":"' + b"a" * MIB + b'"}',
        b'{"' + b"a" * MIB + b'":1}',
        b'{"iterations":' + b"9" * MIB + b"}",
        b'{"version":"\\u0065nc-v1"}',
        b'{"version":"\xff\xfe"}',
        b'{"a":' + b" " * MIB + b"}",
        b"{" + b",".join(b'"%d":1' % i for i in range(50_000)) + b"}",
        b"{}",
        b"{,}",
        b'{"version":"enc-v1",}',
    ],
    ids=lambda value: value[:16].decode("latin-1"),
)
def test_hostile_texts_are_errors(hostile: bytes) -> None:
    with pytest.raises((UnsupportedFormatError, IntegrityError)):
        open_bytes(hostile)


def test_a_text_of_many_members_costs_no_memory() -> None:
    text = b'{"version":"enc-v1",' + b",".join(b'"%x":1' % number for number in range(200_000)) + b"}"
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="more than 64 members"):
            open_bytes(text)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text)
    finally:
        tracemalloc.stop()


def test_members_of_newer_writers_are_passed_over() -> None:
    known = json.loads(quickly_sealed(b"text"))
    assert open_bytes(json.dumps(known | {f"new-{number}": "x" for number in range(56)}).encode()) == b"text"
    with pytest.raises(IntegrityError, match="more than 64 members"):
        open_bytes(json.dumps(known | {f"new-{number}": "x" for number in range(57)}).encode())


@settings(max_examples=200)
@given(data=st.binary(max_size=200), insert=st.integers(0, 300), genuine=st.booleans())
def test_arbitrary_bytes_open_or_are_errors(data: bytes, insert: int, *, genuine: bool) -> None:
    sealed = quickly_sealed(b"text")
    text = sealed[:insert] + data + sealed[insert:] if genuine else data
    with contextlib.suppress(BackupError):
        assert open_bytes(text) == b"text"


def test_the_passphrase_is_in_no_message_or_repr() -> None:
    assert repr(CODEC) == "EncV1Codec()"
    with pytest.raises(TamperedError) as caught:
        open_bytes(quickly_sealed(b"text"), EncV1Codec(Passphrase(text="sesame"), EncV1Options(min_iterations=1)))
    assert "sesame" not in f"{caught.value!r} {caught.value} {caught.value.context}"


def test_a_manifest_names_the_format_and_no_key() -> None:
    assert CODEC.spec == CodecSpec(name="enc-v1")
    assert CODEC.suffix == ".enc"
    assert CODEC.for_spec(CodecSpec(name="enc-v1")) is CODEC
    assert CODEC.for_spec(CodecSpec(name="ktb1")) is None
