"""Layers of a file are undone one by one, and reads go on where looking stopped."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.compression import Compression
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.errors import BlobNotFoundError, IntegrityError, TruncatedError
from knowtation_backup.model.manifest import CodecSpec
from knowtation_backup.operations.recognising import Form
from knowtation_backup.operations.unfolding import StoredFile, unfold
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink

CODEC = Ktb1Codec(EncryptionKey.generate())
PAYLOAD = b'{"format_version":4,"users":[' + b" " * 3_000_000 + b"]}"


def stored(data: bytes) -> tuple[FaultSink, StoredFile]:
    inner = MemorySink()
    inner.put("file", [data])
    sink = FaultSink(inner)
    return sink, StoredFile(sink, "file")


def test_looking_and_reading_take_one_pass() -> None:
    sink, file = stored(PAYLOAD)
    unfolded = unfold(file, None, name="file")
    assert unfolded.inside.form is Form.JSON
    assert b"".join(unfolded.read()) == PAYLOAD
    assert sink.operations == ["read file"]
    ref = file.ref()
    assert (ref.size_bytes, ref.sha256) == (len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest())
    assert b"".join(unfolded.read()) == PAYLOAD
    assert sink.operations == ["read file"] * 2


def test_the_digest_covers_what_nobody_read() -> None:
    _, file = stored(PAYLOAD)
    unfold(file, None, name="file")
    assert file.ref().sha256 == hashlib.sha256(PAYLOAD).hexdigest()
    file.close()
    _, fresh = stored(PAYLOAD)
    assert fresh.ref().size_bytes == len(PAYLOAD)
    fresh.close()


def test_a_reader_that_stops_early_does_not_stop_the_digest() -> None:
    _, file = stored(PAYLOAD)
    reading = unfold(file, None, name="file").read()
    next(reading)
    reading.close()  # type: ignore[attr-defined]  # a generator
    assert file.ref().size_bytes == len(PAYLOAD)


def test_layers_are_named_in_the_order_they_were_applied() -> None:
    codec = CodecChain(Compression("xz"), CODEC)
    _, file = stored(b"".join(codec.seal([PAYLOAD])))
    unfolded = unfold(file, CODEC, name="file")
    assert unfolded.codecs == (CodecSpec(name="xz"), CODEC.spec)
    assert b"".join(unfolded.read()) == PAYLOAD


def test_what_is_no_payload_stays_compressed_and_can_be_checked() -> None:
    data = gzip.compress(b"notes" * 1000)
    _, file = stored(data)
    unfolded = unfold(file, None, name="file")
    assert (unfolded.codecs, unfolded.inside.form) == ((), Form.UNKNOWN)
    assert b"".join(unfolded.read()) == data
    assert b"".join(unfolded.expand(unfolded.read())) == b"notes" * 1000
    with pytest.raises(TruncatedError):
        list(unfolded.expand([data[:-4]]))


def test_brotli_is_tried_only_where_the_name_says_so() -> None:
    data = b"".join(Compression("brotli").seal([PAYLOAD]))
    _, file = stored(data)
    assert unfold(file, None, name="file").inside.form is Form.UNKNOWN
    _, file = stored(data)
    assert unfold(file, None, name="file.json.br").codecs == (CodecSpec(name="brotli"),)
    _, file = stored(b"not brotli at all")
    with pytest.raises(IntegrityError):
        unfold(file, None, name="file.json.br")


def test_a_file_that_is_gone() -> None:
    file = StoredFile(MemorySink(), "file")
    with pytest.raises(BlobNotFoundError):
        unfold(file, None, name="file")
    file.close()
