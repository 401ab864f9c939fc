"""Which keys open an archive, found out without reading its payload."""

import datetime as dt

import pytest

from knowtation_backup.codecs.age import AgeCodec, AgeIdentity
from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.encv1 import EncV1Codec
from knowtation_backup.codecs.keyring import Keyring, RingKey
from knowtation_backup.codecs.keys import EncryptionKey, Passphrase, PrivateKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.ktb2 import Argon2Parameters, Ktb2Codec, describe
from knowtation_backup.contracts import Codec
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    DigestMismatchError,
    TamperedError,
    TruncatedError,
)
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.keys import check_keys
from knowtation_backup.operations.read import read_manifest
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
SOURCE = FakeSource(payload=(b"x" * 1_000_000,) * 3)
KEY, PAIR, IDENTITY = EncryptionKey.generate(), PrivateKey.generate(), AgeIdentity.generate()
SESAME, BARLEY = Passphrase(text="open sesame"), Passphrase(text="open barley")
QUICK = Argon2Parameters(memory_kib=19 * 1024, iterations=2, lanes=1)
EVERY_KEY: tuple[RingKey, ...] = (
    EncryptionKey.generate(),
    KEY,
    PrivateKey.generate("x25519"),
    PAIR,
    AgeIdentity.generate(),
    IDENTITY,
    BARLEY,
    SESAME,
)


@pytest.mark.parametrize(
    ("codec", "opening"),
    [
        (Ktb1Codec(KEY), {KEY}),
        (EncV1Codec(SESAME), {SESAME}),
        (Ktb2Codec(seal_to=[KEY, PAIR.public_key, SESAME], kdf=QUICK), {KEY, PAIR, SESAME}),
        (Ktb2Codec(seal_to=PAIR.public_key), {PAIR}),
        (AgeCodec(seal_to=IDENTITY.recipient), {IDENTITY}),
        (CodecChain(Compression("gzip"), Ktb2Codec(seal_to=KEY)), {KEY}),
        (CodecChain(Compression("gzip"), Ktb1Codec(KEY)), {KEY}),
        (CodecChain(Ktb2Codec(seal_to=KEY), Ktb2Codec(seal_to=PAIR.public_key)), {PAIR}),
    ],
    ids=["ktb1", "enc-v1", "ktb2", "ktb2 pair", "age", "gzip ktb2", "gzip ktb1", "twice"],
)
def test_the_keys_that_open_are_found(codec: Codec, opening: set[RingKey]) -> None:
    sink = MemorySink()
    archive_id = backup(SOURCE, sink, codec, clock=lambda: START).archive_id
    watched = FaultSink(sink)
    report = check_keys(watched, archive_id, EVERY_KEY)
    assert [check.key for check in report.checks] == list(EVERY_KEY)
    assert {check.key for check in report.checks if check.opens} == opening
    assert report.opens
    assert report.codec == codec.specs[-1]
    assert not check_keys(sink, archive_id, [key for key in EVERY_KEY if key not in opening]).opens
    for secret in (KEY.raw.hex(), SESAME.text, IDENTITY.text, PAIR.to_text()):
        assert secret not in f"{report} {report!r}"
    assert str(report).count("opens it") == len(opening)


@pytest.mark.parametrize("name", ["ktb1", "enc-v1"])
def test_the_payload_is_not_read(name: str) -> None:
    sink = MemorySink()
    codec: Codec = Ktb1Codec(KEY) if name == "ktb1" else EncV1Codec(SESAME)
    archive_id = backup(SOURCE, sink, codec, clock=lambda: START).archive_id
    watched = FaultSink(sink)
    check_keys(watched, archive_id, EVERY_KEY)
    assert f"read {archive_id}" not in watched.operations


def test_an_archive_that_is_not_sealed_needs_no_key() -> None:
    sink = MemorySink()
    archive_id = backup(SOURCE, sink, Compression("gzip"), clock=lambda: START).archive_id
    report = check_keys(sink, archive_id, KEY)
    assert report.codec is None
    assert report.opens
    assert not report.checks[0].opens
    assert str(report) == f"{archive_id} is not sealed"


def test_damage_is_not_taken_for_another_key() -> None:
    sink = MemorySink()
    archive_id = backup(SOURCE, sink, Ktb1Codec(KEY), clock=lambda: START).archive_id
    details = read_manifest(sink, archive_id).side[0].key
    damaged = bytearray(sink.contents()[details])
    damaged[20] ^= 1
    sink.delete(details)
    sink.put(details, [bytes(damaged)])
    with pytest.raises(DigestMismatchError):
        check_keys(sink, archive_id, KEY)


@pytest.mark.parametrize("codec", [Ktb2Codec(seal_to=KEY), AgeCodec(seal_to=IDENTITY.recipient)], ids=["ktb2", "age"])
def test_a_changed_header_has_a_name(codec: Codec) -> None:
    sink = MemorySink()
    archive_id = backup(SOURCE, sink, codec, clock=lambda: START).archive_id
    whole = sink.contents()[archive_id]
    # A byte of the code over the header.
    at = whole.index(b"\n---") + 6 if isinstance(codec, AgeCodec) else describe(lambda: iter([whole])).header_bytes - 1
    for changed, expected in (
        (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], TamperedError),
        (whole[:50], TruncatedError),
    ):
        sink.delete(archive_id)
        sink.put(archive_id, [changed])
        with pytest.raises(expected):
            check_keys(sink, archive_id, [KEY, IDENTITY])


def test_an_archive_that_is_not_there() -> None:
    with pytest.raises(BlobNotFoundError):
        check_keys(MemorySink(), "operator-full-export-20260408T153022Z.json", KEY)


@pytest.mark.parametrize(
    "codec",
    [
        Keyring(KEY),
        Ktb2Codec(open_with=PAIR),
        AgeCodec(open_with=IDENTITY),
        CodecChain(Compression("gzip"), Keyring(KEY)),
    ],
    ids=["keyring", "ktb2", "age", "chain"],
)
def test_a_backup_with_a_codec_that_only_opens_writes_nothing(codec: Codec) -> None:
    sink = MemorySink()
    with pytest.raises(ConfigurationError) as caught:
        backup(SOURCE, sink, codec, clock=lambda: START)
    assert caught.value.kind in {"cannot_seal", "no_recipient"}
    assert sink.contents() == {}
