"""KTB1: byte-compatible both ways, streaming, and no plaintext byte before it is proven."""

import io
import json
import os
import random
import secrets
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Buffer

from knowtation_backup.codecs import ktb1
from knowtation_backup.codecs.files import decrypt_file, decrypt_to_stream
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "ktb1").glob("*.json"))
KEY = EncryptionKey(raw=bytes(range(32)))
CODEC = Ktb1Codec(KEY)
OTHER_CODEC = Ktb1Codec(EncryptionKey(raw=bytes(32)))
MIB = 1 << 20


def seal(text: bytes) -> bytes:
    return b"".join(CODEC.seal([text]))


def open_bytes(sealed: bytes, codec: Ktb1Codec = CODEC) -> bytes:
    return b"".join(codec.open(lambda: iter([sealed])))


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    vector = json.loads(path.read_text(encoding="utf-8"))
    codec = Ktb1Codec(EncryptionKey.from_hex(vector["key"]))
    sealed = bytes.fromhex(vector["sealed"])
    released = bytearray()
    try:
        for piece in codec.open(lambda: iter([sealed])):
            released += piece
        outcome = "ok"
    except BackupError as error:
        outcome = error.kind
    assert outcome == vector["outcome"]
    assert released.hex() == vector["released"]


def test_there_are_vectors() -> None:
    assert len(GOLDEN) >= 8


def test_sealing_gives_the_bytes_of_the_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda size: bytes(range(0xA0, 0xA0 + size)))
    assert seal('{"hello":"wörld"}'.encode()).hex() == (
        "4b544231a0a1a2a3a4a5a6a7a8a9aaab9d3a144829a76d9d5847f010b108acba52d1164ad71499967a91b06d94e732e14e2c"
    )


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, MIB - 1, MIB, MIB + 1, 2 * MIB + 16, 2 * MIB + 17])
def test_any_other_aes_gcm_agrees(size: int) -> None:
    text = bytes(i % 251 for i in range(size))
    sealed = seal(text)
    assert AESGCM(KEY.raw).decrypt(sealed[4:16], sealed[16:], None) == text
    theirs = b"KTB1" + bytes(12) + AESGCM(KEY.raw).encrypt(bytes(12), text, None)
    assert open_bytes(theirs) == text


@given(
    text=st.binary(max_size=300),
    plain_cut=st.integers(1, 40),
    sealed_cut=st.integers(1, 40),
)
def test_chunks_may_fall_anywhere(text: bytes, plain_cut: int, sealed_cut: int) -> None:
    sealed = b"".join(CODEC.seal([b"", *cut(text, plain_cut), b""]))
    assert len(sealed) == len(text) + 32
    assert b"".join(CODEC.open(lambda: iter([b"", *cut(sealed, sealed_cut), b""]))) == text


@pytest.mark.parametrize("size", [1, 1000, MIB - 1, MIB, MIB + 16, MIB + 17, 3 * MIB])
def test_large_chunks_may_fall_anywhere(size: int) -> None:
    text = bytes(range(256)) * (10 * 1024 + 1)
    sealed = b"".join(CODEC.seal(cut(text, size))) if size > 1 else seal(text)
    pieces = list(CODEC.open(lambda: iter(cut(sealed, max(size, 1000)))))
    assert b"".join(pieces) == text
    assert max(map(len, pieces)) <= MIB


def test_every_file_has_its_own_iv() -> None:
    assert len({seal(b"same")[4:16] for _ in range(100)}) == 100


def test_every_flipped_bit_is_noticed_before_anything_is_released() -> None:
    sealed = seal(b"attack at dawn, the usual place")
    for position in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[position] ^= 1 << bit
            expected = UnsupportedFormatError if position < 4 else TamperedError
            with pytest.raises(expected):
                next(CODEC.open(lambda changed=bytes(changed): iter([changed])))  # type: ignore[misc]


def test_every_cut_is_noticed() -> None:
    sealed = seal(b"attack at dawn")
    for size in range(len(sealed)):
        with pytest.raises((TruncatedError, TamperedError)) as caught:
            open_bytes(sealed[:size])
        assert isinstance(caught.value, TruncatedError if size < 32 else TamperedError), size


def test_a_longer_file_is_noticed() -> None:
    with pytest.raises(TamperedError):
        open_bytes(seal(b"attack at dawn") + b"\x00")


def test_a_changed_last_byte_of_a_large_file_releases_nothing() -> None:
    sealed = bytearray(seal(bytes(3 * MIB)))
    sealed[-1] ^= 1
    released: list[bytes] = []
    with pytest.raises(TamperedError):
        released.extend(CODEC.open(lambda: iter(cut(bytes(sealed), 100_000))))
    assert released == []


@pytest.mark.parametrize("position", [16, MIB + 100, 2 * MIB + 16])
def test_bytes_changed_between_the_passes_are_never_released(position: int) -> None:
    text = bytes(range(256)) * (12 * 1024)
    sealed = seal(text)
    changed = bytearray(sealed)
    changed[position] ^= 1
    passes = iter([sealed, bytes(changed)])
    released: list[bytes] = []
    with pytest.raises(TamperedError) as caught:
        released.extend(CODEC.open(lambda: iter(cut(next(passes), 70_000))))
    assert caught.value.kind == "changed_while_reading"
    assert len(b"".join(released)) == (position - 16) // MIB * MIB
    assert text.startswith(b"".join(released))


@pytest.mark.parametrize("change", ["shorter", "longer", "iv"])
def test_a_file_replaced_between_the_passes_is_noticed(change: str) -> None:
    text = bytes(range(256)) * (12 * 1024)
    sealed = seal(text)
    other = {"shorter": sealed[:-1], "longer": sealed + b"\x00", "iv": seal(text)}[change]
    passes = iter([sealed, other])
    released: list[bytes] = []
    with pytest.raises(TamperedError):
        released.extend(CODEC.open(lambda: iter([next(passes)])))
    assert text.startswith(b"".join(released))


def test_a_wrong_key_says_so_and_names_its_id() -> None:
    other = EncryptionKey.generate()
    with pytest.raises(TamperedError, match="wrong key, or the sealed bytes were changed") as caught:
        open_bytes(seal(b"text"), Ktb1Codec(other))
    assert caught.value.context["key_id"] == other.key_id
    assert other.raw.hex() not in str(caught.value)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_escape_as_anything_else(data: bytes) -> None:
    for candidate in (data, b"KTB1" + data):
        with pytest.raises(BackupError):
            open_bytes(candidate)


def test_more_than_gcm_allows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ktb1.MAX_PLAINTEXT_BYTES == 64 * 2**30 - 32
    fits = seal(bytes(100))
    too_long = seal(bytes(101))
    monkeypatch.setattr(ktb1, "MAX_PLAINTEXT_BYTES", 100)
    assert len(seal(bytes(100))) == 132
    with pytest.raises(ConfigurationError) as caught:
        list(CODEC.seal([bytes(60), bytes(41)]))
    assert caught.value.kind == "payload_too_large"
    assert open_bytes(fits) == bytes(100)
    with pytest.raises(UnsupportedFormatError):
        open_bytes(too_long)


def test_both_ways_need_the_same_memory_for_any_size() -> None:
    chunk = bytes(MIB)

    def sealed() -> Iterator[bytes]:
        iv = bytes(12)
        yield b"KTB1" + iv
        yield body
        for _ in range(31):
            yield body

    def peak(work: Callable[[], Iterable[bytes]]) -> int:
        tracemalloc.start()
        for _ in work():
            pass
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(lambda: CODEC.seal(chunk for _ in range(32))) < 4 * MIB
    body = bytes(MIB)

    def first_pass() -> Iterator[bytes]:
        with pytest.raises(TamperedError):
            yield from CODEC.open(sealed)

    assert peak(first_pass) < 8 * MIB


def test_repr_and_spec_name_the_key_by_its_id() -> None:
    assert KEY.key_id in repr(CODEC)
    assert KEY.raw.hex() not in repr(CODEC)
    assert (CODEC.spec.name, CODEC.spec.key_ids, CODEC.suffix) == ("ktb1", (KEY.key_id,), ".enc")


def test_a_reader_that_stops_early_ends_the_read() -> None:
    ended: list[str] = []
    text = bytes(3 * MIB)
    sealed = seal(text)

    def read() -> Iterator[bytes]:
        try:
            yield from cut(sealed, 100_000)
        finally:
            ended.append("ended")

    opened = CODEC.open(read)
    next(opened)
    opened.close()  # type: ignore[attr-defined]
    assert ended == ["ended", "ended"]


class _Trickle(io.RawIOBase):
    """A stream that takes a few bytes at a time, as pipes do."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        part = bytes(data)[:100_000]
        self.taken += part
        return len(part)


class TestDecryptToStream:
    def test_gives_the_plaintext_and_leaves_the_stream_open(self, tmp_path: Path) -> None:
        (tmp_path / "a.enc").write_bytes(seal(b"text"))
        stream = io.BytesIO()
        assert decrypt_to_stream(tmp_path / "a.enc", stream, KEY) == 4
        assert stream.getvalue() == b"text"

    def test_a_stream_may_take_few_bytes_at_a_time(self, tmp_path: Path) -> None:
        text = random.Random(1).randbytes(3 * MIB + 5)  # noqa: S311 - not a secret
        (tmp_path / "a.enc").write_bytes(seal(text))
        stream = _Trickle()
        assert decrypt_to_stream(tmp_path / "a.enc", cast("BinaryIO", stream), KEY) == len(text)
        assert stream.taken == text

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (seal(bytes(2 * MIB))[:-1], TamperedError),
            (seal(b"text")[:31], TruncatedError),
            (b'{"format_version":4}' + bytes(100), UnsupportedFormatError),
            (b"".join(OTHER_CODEC.seal([bytes(2 * MIB)])), TamperedError),
        ],
        ids=["cut", "short", "not sealed", "another key"],
    )
    def test_writes_nothing_on_failure(self, tmp_path: Path, data: bytes, expected: type[BackupError]) -> None:
        (tmp_path / "a.enc").write_bytes(data)
        stream = io.BytesIO()
        with pytest.raises(expected):
            decrypt_to_stream(tmp_path / "a.enc", stream, KEY)
        assert stream.getvalue() == b""

    def test_names_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BlobNotFoundError, match=r"reading .*absent"):
            decrypt_to_stream(tmp_path / "absent", io.BytesIO(), KEY)

    def test_a_reader_that_went_away_has_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.enc").write_bytes(seal(b"text"))
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb", buffering=0) as stream, pytest.raises(SinkUnavailableError, match="stream"):  # noqa: PTH123 - a descriptor
            decrypt_to_stream(tmp_path / "a.enc", cast("BinaryIO", stream), KEY)

    def test_a_full_device_has_a_name(self, tmp_path: Path) -> None:
        (tmp_path / "a.enc").write_bytes(seal(b"text"))
        with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(SinkFullError):  # noqa: PTH123 - a device
            decrypt_to_stream(tmp_path / "a.enc", cast("BinaryIO", stream), KEY)


class TestDecryptFile:
    def test_gives_the_plaintext_privately(self, tmp_path: Path) -> None:
        (tmp_path / "a.enc").write_bytes(seal(b"text"))
        assert decrypt_file(tmp_path / "a.enc", tmp_path / "a", KEY) == 4
        assert (tmp_path / "a").read_bytes() == b"text"
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (seal(bytes(2 * MIB))[:-1], TamperedError),
            (seal(b"text")[:31], TruncatedError),
            (b'{"format_version":4}' + bytes(100), UnsupportedFormatError),
            (b"", TruncatedError),
            (b"".join(OTHER_CODEC.seal([b"text"])), TamperedError),
        ],
        ids=["cut", "short", "not sealed", "empty", "another key"],
    )
    def test_leaves_nothing_behind_on_failure(self, tmp_path: Path, data: bytes, expected: type[BackupError]) -> None:
        (tmp_path / "a.enc").write_bytes(data)
        with pytest.raises(expected):
            decrypt_file(tmp_path / "a.enc", tmp_path / "a", KEY)
        assert [path.name for path in tmp_path.iterdir()] == ["a.enc"]

    def test_never_overwrites(self, tmp_path: Path) -> None:
        (tmp_path / "a.enc").write_bytes(seal(b"text"))
        (tmp_path / "a").write_bytes(b"precious")
        with pytest.raises(BlobExistsError):
            decrypt_file(tmp_path / "a.enc", tmp_path / "a", KEY)
        assert (tmp_path / "a").read_bytes() == b"precious"

    def test_names_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BlobNotFoundError, match=r"reading .*absent"):
            decrypt_file(tmp_path / "absent", tmp_path / "a", KEY)
        (tmp_path / "a.enc").write_bytes(seal(b"text"))
        with pytest.raises(BlobNotFoundError, match="writing"):
            decrypt_file(tmp_path / "a.enc", tmp_path / "no" / "a", KEY)

    def test_a_refused_read_is_a_permission_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_args: object, **_kwargs: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(SinkPermissionError):
            decrypt_file(tmp_path / "a.enc", tmp_path / "a", KEY)


@settings(max_examples=50)
@given(text=st.binary(max_size=64), flip=st.integers(0, 10_000))
def test_no_changed_file_opens(text: bytes, flip: int) -> None:
    sealed = bytearray(seal(text))
    sealed[(flip // 8) % len(sealed)] ^= 1 << flip % 8
    with pytest.raises(BackupError):
        open_bytes(bytes(sealed))
