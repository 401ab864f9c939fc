"""A reading host needs keys, not settings: a ring opens every format, by the manifest or by the first bytes."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest

from knowtation_backup.codecs.age import AgeCodec, AgeIdentity
from knowtation_backup.codecs.chain import CodecChain, opener
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.encv1 import EncV1Codec
from knowtation_backup.codecs.keyring import Keyring, RingKey
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec
from knowtation_backup.contracts import Codec
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    NoMatchingKeyError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.model.manifest import CodecSpec

TEXT = bytes(i % 251 for i in range(300_000))
KEY, OTHER = EncryptionKey(raw=bytes(range(32))), EncryptionKey(raw=bytes(32))
PAIR, STRANGER = PrivateKey.generate(), PrivateKey.generate("x25519")
IDENTITY, OTHER_IDENTITY = AgeIdentity.generate(), AgeIdentity.generate()
SESAME, BARLEY = Passphrase(text="open sesame"), Passphrase(text="open barley")
QUICK = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)

SEALED: dict[str, Codec] = {
    "ktb1": Ktb1Codec(KEY),
    "ktb2 key": Ktb2Codec(seal_to=KEY),
    "ktb2 pair": Ktb2Codec(seal_to=PAIR.public_key),
    "ktb2 passphrase": Ktb2Codec(seal_to=SESAME, kdf=QUICK),
    "enc-v1": EncV1Codec(SESAME),
    "age": AgeCodec(seal_to=IDENTITY.recipient),
    "ktb1 compressed": CodecChain(Compression("gzip"), Ktb1Codec(KEY)),
    "enc-v1 compressed": CodecChain(Compression("zstd"), EncV1Codec(SESAME)),
}
EVERYTHING = Keyring([OTHER, BARLEY, STRANGER, IDENTITY, PAIR, SESAME, KEY])
STRANGERS = Keyring([OTHER, BARLEY, STRANGER, AgeIdentity.generate()])
FORMATS = pytest.mark.parametrize("codec", SEALED.values(), ids=SEALED)


def sealed(codec: Codec) -> bytes:
    return b"".join(codec.seal([TEXT]))


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def open_bytes(codec: Codec, data: bytes, size: int = 100_000) -> bytes:
    return b"".join(codec.open(lambda: cut(data, size)))


@FORMATS
def test_what_a_manifest_describes_is_opened(codec: Codec) -> None:
    found = opener(codec.specs, EVERYTHING, what="this")
    assert found is not None
    assert found.suffix == codec.suffix
    assert open_bytes(found, sealed(codec)) == TEXT


@FORMATS
def test_strangers_are_told_so(codec: Codec) -> None:
    with pytest.raises((NoMatchingKeyError, TamperedError)) as caught:
        open_bytes(opener(codec.specs, STRANGERS, what="this") or codec, sealed(codec))
    named = any(spec.key_ids for spec in codec.specs)
    assert not named or isinstance(caught.value, NoMatchingKeyError)


@FORMATS
def test_an_empty_ring_misses_a_key_and_not_a_format(codec: Codec) -> None:
    with pytest.raises(NoMatchingKeyError) as caught:
        opener(codec.specs, Keyring([]), what="this archive")
    assert "this archive is sealed" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in SEALED if "compressed" not in name])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_file_without_a_manifest_is_recognised(name: str, size: int) -> None:
    data = b"".join(SEALED[name].seal([b"text"]))
    assert open_bytes(EVERYTHING, data, size) == b"text"


def test_white_space_before_the_envelope_is_json() -> None:
    data = b" \r\n\t" + b"".join(EncV1Codec(SESAME).seal([b"text"]))
    assert open_bytes(EVERYTHING, data, 1) == b"text"


@pytest.mark.parametrize("name", ["ktb1", "enc-v1"])
def test_keys_without_a_name_are_tried_in_turn(name: str) -> None:
    """Also of empty plaintexts, which release nothing that could say that the key was right."""
    for text in (TEXT, b""):
        data = b"".join(SEALED[name].seal([text]))
        assert open_bytes(EVERYTHING, data) == text
        codec = EVERYTHING.for_spec(CodecSpec(name=name))
        assert codec is not None
        assert (codec.spec.name, codec.suffix) == (name, ".enc")
        assert open_bytes(codec, data) == text


@pytest.mark.parametrize("codec", [Ktb1Codec(EncryptionKey.generate()), EncV1Codec(Passphrase(text="open wheat"))])
def test_when_none_fits_nothing_is_released(codec: Codec) -> None:
    data = sealed(codec)
    with pytest.raises(TamperedError, match="none of the 2 keys"):
        next(EVERYTHING.open(lambda: iter([data])))


def test_the_first_pass_is_read_once_and_closed() -> None:
    started, ended = [], []
    data = sealed(SEALED["ktb2 key"])

    def read() -> Iterator[bytes]:
        started.append(True)
        try:
            yield from cut(data, 1000)
        finally:
            ended.append(True)

    opening = EVERYTHING.open(read)
    next(opening)
    opening.close()  # type: ignore[attr-defined]
    assert (len(started), len(ended)) == (1, 1)
    with pytest.raises(NoMatchingKeyError):
        list(Keyring(IDENTITY).open(read))
    assert (len(started), len(ended)) == (2, 2)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", TruncatedError),
        (b"KT", TruncatedError),
        (b"age-encryption.or", TruncatedError),
        (b"KTB1", TruncatedError),
        (b"PK\x03\x04", UnsupportedFormatError),
        (b" " * 100_000, UnsupportedFormatError),
        (b'{"format_version": 4}', UnsupportedFormatError),
    ],
)
def test_foreign_bytes_have_names(data: bytes, expected: type[BackupError]) -> None:
    with pytest.raises(expected):
        open_bytes(EVERYTHING, data)


def test_a_ring_seals_nothing() -> None:
    with pytest.raises(ConfigurationError) as caught:
        EVERYTHING.seal([b"text"])
    assert caught.value.kind == "cannot_seal"
    assert EVERYTHING.spec.name == "keyring"


def test_a_ring_shows_ids_alone() -> None:
    shown = f"{EVERYTHING!r} {EVERYTHING.for_spec(CodecSpec(name='ktb1'))!r} {EVERYTHING.spec} {EVERYTHING.opens}"
    for secret in (KEY.raw.hex(), str(KEY.raw), SESAME.text, IDENTITY.text, PAIR.to_text(), PAIR.raw.hex()):
        assert secret not in shown
    for key in (KEY, OTHER, PAIR, STRANGER, IDENTITY):
        assert key.key_id in shown


def test_the_key_that_a_manifest_names_is_taken() -> None:
    codec = EVERYTHING.for_spec(CodecSpec(name="ktb1", key_ids=(KEY.key_id,)))
    assert isinstance(codec, Ktb1Codec)
    assert codec.spec.key_ids == (KEY.key_id,)
    assert EVERYTHING.for_spec(CodecSpec(name="ktb1", key_ids=("0" * 16,))) is None
    assert EVERYTHING.for_spec(CodecSpec(name="unheard-of")) is None


def test_the_message_names_the_keys_that_were_given() -> None:
    with pytest.raises(NoMatchingKeyError, match=f"{KEY.key_id}; the key given is {OTHER.key_id}"):
        opener(Ktb1Codec(KEY).specs, STRANGERS, what="this")
    with pytest.raises(UnsupportedFormatError, match="unheard-of"):
        opener([CodecSpec(name="unheard-of")], EVERYTHING, what="this")


def test_the_message_names_keys_that_open_and_not_those_sealed_to() -> None:
    """A host that seals to Alice and holds Bob's key was given Bob's key."""
    pairs: list[tuple[Codec, PrivateKey | AgeIdentity, PrivateKey | AgeIdentity]] = [
        (Ktb2Codec(seal_to=PAIR.public_key, open_with=STRANGER), PAIR, STRANGER),
        (AgeCodec(seal_to=IDENTITY.recipient, open_with=OTHER_IDENTITY), IDENTITY, OTHER_IDENTITY),
    ]
    for codec, sealed_to, held in pairs:
        with pytest.raises(NoMatchingKeyError, match=f"{sealed_to.key_id}; the key given is {held.key_id}") as caught:
            opener(codec.specs, codec, what="this")
        assert caught.value.context["given"] == (held.key_id,)


def test_one_key_makes_a_ring_and_doubles_count_once() -> None:
    assert Keyring(KEY).keys == (KEY,)
    assert Keyring([KEY, SESAME, EncryptionKey(raw=KEY.raw), Passphrase(text=SESAME.text)]).keys == (KEY, SESAME)


@pytest.mark.parametrize("wrong", [PAIR.public_key, IDENTITY.recipient, "secret", b"secret", Ktb1Codec(KEY)])
def test_what_opens_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Keyring(cast("Iterable[RingKey]", [wrong]))
    assert caught.value.kind == "bad_ring_key"
    assert "secret" not in str(caught.value)
