"""Single sealed files of every format, opened by whatever key fits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from typing_extensions import Buffer

from knowtation_backup.codecs.encv1 import EncV1Codec
from knowtation_backup.codecs.files import decrypt_file, decrypt_to_stream
from knowtation_backup.codecs.keyring import RingKey
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec
from knowtation_backup.contracts import EncryptionCodec
from knowtation_backup.errors import (
    BackupError,
    BlobExistsError,
    ConfigurationError,
    NoMatchingKeyError,
    SinkUnavailableError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)

KEY = EncryptionKey(raw=bytes(range(32)))
WORDS = Passphrase(text="correct horse")
PAIR = PrivateKey.generate()
C = 4096
KTB2 = Ktb2Codec(
    seal_to=[KEY, WORDS, PAIR.public_key],
    chunk_bytes=C,
    kdf=Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1),
)
TEXT = bytes(range(256)) * 40


def sealed(codec: EncryptionCodec, path: Path) -> Path:
    path.write_bytes(b"".join(codec.seal([TEXT])))
    return path


@pytest.mark.parametrize("key", [KEY, WORDS, PAIR, [EncryptionKey(raw=bytes(32)), PAIR], KTB2])
def test_a_ktb2_file_is_opened_by_any_of_its_keys(tmp_path: Path, key: EncryptionKey) -> None:
    source = sealed(KTB2, tmp_path / "a.ktb2")
    assert decrypt_file(source, tmp_path / "a", key) == len(TEXT)
    assert (tmp_path / "a").read_bytes() == TEXT
    stream = io.BytesIO()
    assert decrypt_to_stream(source, stream, key) == len(TEXT)
    assert stream.getvalue() == TEXT


def test_the_first_bytes_say_the_format(tmp_path: Path) -> None:
    keys: list[RingKey] = [WORDS, KEY]
    for codec in (Ktb1Codec(KEY), EncV1Codec(WORDS), KTB2):
        source = sealed(codec, tmp_path / codec.spec.name)
        assert decrypt_file(source, tmp_path / f"{codec.spec.name}.plain", keys) == len(TEXT)


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        (lambda data: data[:-1], KEY, TamperedError),
        (lambda data: data[: -(len(TEXT) % C + 16)], KEY, TruncatedError),
        (lambda data: data, EncryptionKey(raw=bytes(32)), NoMatchingKeyError),
        (lambda data: data, PrivateKey.generate(), NoMatchingKeyError),
        (lambda data: b"%PDF" + data, KEY, UnsupportedFormatError),
    ],
)
def test_a_file_that_does_not_open_leaves_no_file(
    tmp_path: Path, change: object, key: EncryptionKey, expected: type[BackupError]
) -> None:
    assert callable(change)
    source = sealed(KTB2, tmp_path / "a.ktb2")
    source.write_bytes(change(source.read_bytes()))
    with pytest.raises(expected):
        decrypt_file(source, tmp_path / "a", key)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ktb2"]


def test_a_stream_has_verified_chunks_when_an_error_comes(tmp_path: Path) -> None:
    source = sealed(KTB2, tmp_path / "a.ktb2")
    source.write_bytes(source.read_bytes()[:-1])
    stream = io.BytesIO()
    with pytest.raises(TamperedError):
        decrypt_to_stream(source, stream, KEY)
    assert stream.getvalue() == TEXT[: 2 * C]


@pytest.mark.parametrize("text", [b'{"format_version":4}', b' \n{"a":1}' + bytes(40)])
def test_an_export_that_was_never_sealed_is_not_taken_for_a_missing_passphrase(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    rings: list[list[RingKey]] = [[KEY], [PAIR], [KEY, PAIR]]
    for keys in rings:
        with pytest.raises(UnsupportedFormatError, match="begins like JSON") as caught:
            decrypt_file(tmp_path / "a.json", tmp_path / "a", keys)
        assert caught.value.kind == "bad_magic"


def test_a_target_that_exists_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"precious")
    with pytest.raises(BlobExistsError):
        decrypt_file(tmp_path / "absent", tmp_path / "a", KEY)
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BlobExistsError):
        decrypt_file(sealed(KTB2, tmp_path / "a.ktb2"), tmp_path / "b", KEY)
    assert not (tmp_path / "nowhere").exists()


class _Full(io.RawIOBase):
    """A stream that does not block and takes nothing."""

    def write(self, data: Buffer, /) -> int | None:
        del data
        return None  # as the documentation of RawIOBase says


def test_a_stream_that_takes_nothing_is_not_asked_for_ever(tmp_path: Path) -> None:
    source = sealed(KTB2, tmp_path / "a.ktb2")
    with pytest.raises(SinkUnavailableError, match="takes no more"):
        decrypt_to_stream(source, cast("BinaryIO", _Full()), KEY)


def test_a_stream_is_flushed_and_left_open(tmp_path: Path) -> None:
    source = sealed(KTB2, tmp_path / "a.ktb2")
    with (tmp_path / "a").open("wb", buffering=1 << 20) as stream:
        decrypt_to_stream(source, stream, KEY)
        assert (tmp_path / "a").read_bytes() == TEXT
        stream.write(b"more")


def test_what_opens_nothing_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        decrypt_file(sealed(KTB2, tmp_path / "a"), tmp_path / "b", [PAIR.public_key])  # type: ignore[list-item]
