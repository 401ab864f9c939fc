"""Reading back: checked before the first byte, every failure by its own name."""

import datetime as dt
from collections.abc import Iterator

import pytest

from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.contracts import EncryptionCodec
from knowtation_backup.errors import (
    BackupError,
    BlobNotFoundError,
    ConfigurationError,
    DigestMismatchError,
    ManifestError,
    NoMatchingKeyError,
    SinkUnavailableError,
    TruncatedError,
)
from knowtation_backup.model.manifest import manifest_key
from knowtation_backup.model.reports import SideFile
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.read import read, read_details, read_manifest, read_side_file
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
SEALED = Ktb1Codec(EncryptionKey.generate())
SOURCE = FakeSource(
    payload=(b"x" * 1_500_000, b"y" * 700_000), side_files=(SideFile(name="raw-0001.txt", content=b"not json"),)
)
PAYLOAD = b"".join(SOURCE.payload)
CODECS = pytest.mark.parametrize("codec", [None, SEALED], ids=["plain", "sealed"])


def make(codec: EncryptionCodec | None) -> tuple[MemorySink, str]:
    sink = MemorySink()
    return sink, backup(SOURCE, sink, codec, clock=lambda: MOMENT).archive_id


def replace(sink: MemorySink, key: str, data: bytes) -> None:
    sink.delete(key)
    sink.put(key, [data])


def released_before(sink: MemorySink, archive_id: str, codec: EncryptionCodec | None) -> tuple[bytes, BackupError]:
    parts: list[bytes] = []
    with pytest.raises(BackupError) as caught:
        parts.extend(read(sink, archive_id, codec))
    return b"".join(parts), caught.value


@CODECS
def test_payload_details_and_side_files_come_back(codec: EncryptionCodec | None) -> None:
    sink, archive_id = make(codec)
    assert b"".join(read(sink, archive_id, codec)) == PAYLOAD
    manifest = read_manifest(sink, archive_id)
    assert read_details(sink, manifest, codec).capture == SOURCE.details
    assert read_details(sink, manifest, codec).payload_bytes == len(PAYLOAD)
    assert read_side_file(sink, manifest, "raw-0001.txt", codec, limit_bytes=100) == b"not json"


@CODECS
@pytest.mark.parametrize("position", [0, 2, 10, 1_000_000, -1])
def test_a_flipped_bit_releases_nothing_and_is_a_digest_mismatch(codec: EncryptionCodec | None, position: int) -> None:
    sink, archive_id = make(codec)
    data = bytearray(sink.contents()[archive_id])
    data[position] ^= 1
    replace(sink, archive_id, bytes(data))
    released, error = released_before(sink, archive_id, codec)
    assert released == b""
    assert type(error) is DigestMismatchError
    assert error.context["key"] == archive_id


@CODECS
@pytest.mark.parametrize("size", [0, 3, 20, 31, 1_000_000, -1])
def test_a_cut_file_releases_nothing_and_is_truncated(codec: EncryptionCodec | None, size: int) -> None:
    sink, archive_id = make(codec)
    replace(sink, archive_id, sink.contents()[archive_id][:size])
    released, error = released_before(sink, archive_id, codec)
    assert released == b""
    assert type(error) is TruncatedError
    assert error.context["key"] == archive_id


@CODECS
def test_a_missing_artifact_is_not_found(codec: EncryptionCodec | None) -> None:
    sink, archive_id = make(codec)
    sink.delete(archive_id)
    released, error = released_before(sink, archive_id, codec)
    assert released == b""
    assert type(error) is BlobNotFoundError


def test_plain_bytes_that_change_between_the_passes_are_noticed_at_the_end() -> None:
    sink, archive_id = make(None)
    chunks = read(sink, archive_id)
    first = next(chunks)
    data = bytearray(sink.contents()[archive_id])
    data[-1] ^= 1

    class Swapped(FaultSink):
        reads = 0

        def _read(self, key: str, start: int, size_bytes: int | None):  # type: ignore[no-untyped-def]  # noqa: ANN202
            if key == archive_id:
                self.reads += 1
                if self.reads == 2:
                    replace(sink, archive_id, bytes(data))
            return super()._read(key, start, size_bytes)

    assert first
    with pytest.raises(DigestMismatchError):
        list(read(Swapped(sink), archive_id))


def test_the_wrong_key_is_known_before_any_sealed_byte_is_read() -> None:
    sink, archive_id = make(SEALED)
    other = Ktb1Codec(EncryptionKey.generate())
    counting = FaultSink(sink)
    with pytest.raises(NoMatchingKeyError) as caught:
        list(read(counting, archive_id, other))
    assert caught.value.context == {"wanted": SEALED.spec.key_ids, "given": other.spec.key_ids}
    assert counting.operations == [f"read {manifest_key(archive_id)}"]
    with pytest.raises(NoMatchingKeyError, match="no key was given"):
        list(read(sink, archive_id))


def test_a_codec_at_hand_does_not_hinder_reading_an_unsealed_archive() -> None:
    sink, archive_id = make(None)
    assert b"".join(read(sink, archive_id, SEALED)) == PAYLOAD


def test_a_manifest_of_another_archive_is_refused() -> None:
    sink, archive_id = make(None)
    data = sink.contents()[manifest_key(archive_id)].replace(b"side/operator", b"side/operatox")
    replace(sink, manifest_key(archive_id), data)
    with pytest.raises(ManifestError) as caught:
        read_manifest(sink, archive_id)
    assert caught.value.kind == "manifest_of_another_archive"


def test_unknown_archives_and_side_files_are_not_found() -> None:
    sink, archive_id = make(SEALED)
    with pytest.raises(BlobNotFoundError, match="no finished archive"):
        list(read(sink, "nothing", SEALED))
    with pytest.raises(BlobNotFoundError, match="no side file raw-0002"):
        read_side_file(sink, read_manifest(sink, archive_id), "raw-0002.txt", SEALED, limit_bytes=100)


def test_side_files_beyond_the_limit_are_refused() -> None:
    sink, archive_id = make(None)
    manifest = read_manifest(sink, archive_id)
    with pytest.raises(ConfigurationError):
        read_side_file(sink, manifest, "details.json", limit_bytes=-4096)


@CODECS
@pytest.mark.parametrize("moment", list(FaultMoment))
def test_an_unreachable_store_is_never_called_damaged(codec: EncryptionCodec | None, moment: FaultMoment) -> None:
    inner, archive_id = make(codec)
    counting = FaultSink(inner)
    list(read(counting, archive_id, codec))
    assert len(counting.operations) == 3
    for number in range(3):
        with pytest.raises(SinkUnavailableError):
            list(read(FaultSink(inner, fail_at=number, moment=moment), archive_id, codec))


def test_of_a_blob_that_is_too_long_only_one_byte_too_many_is_read() -> None:
    sizes: list[int | None] = []

    class Watched(MemorySink):
        def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
            sizes.append(size_bytes)
            return super()._read(key, start, size_bytes)

    sink = Watched()
    ref = backup(FakeSource(), sink).manifest.artifact
    data, info = sink._blobs[ref.key]
    sink._blobs[ref.key] = (data + bytes(1000), info)
    sizes.clear()
    with pytest.raises(DigestMismatchError, match="more than the"):
        b"".join(read(sink, ref.key))
    assert sizes[1:] == [ref.size_bytes + 1]


def test_what_is_only_compressed_is_checked_before_the_first_byte() -> None:
    sink = MemorySink()
    codec = Compression("gzip")
    ref = backup(FakeSource(payload=tuple(bytes([i]) * 100_000 for i in range(50))), sink, codec).manifest.artifact
    data, info = sink._blobs[ref.key]
    sink._blobs[ref.key] = (data[:-5] + bytes(5), info)  # the checksum at the end
    with pytest.raises(DigestMismatchError):
        next(read(sink, ref.key))
