"""Backing up with a signing key, with tags, and with a read-back that counts as verification."""

import datetime as dt
from collections.abc import Iterable
from typing import Any

import pytest

from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.errors import ConfigurationError, SignatureError, SinkUnavailableError
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.manifest import SIGNATURE_NAME, manifest_key, side_key
from knowtation_backup.model.marks import Mark, MarkName, MarkVerb
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations.backup import BackupOptions, ReadBack, backup
from knowtation_backup.operations.marks import list_marks
from knowtation_backup.operations.read import read, read_manifest
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, 123_000, tzinfo=dt.UTC)
KEY = SigningKey.from_hex("11" * 32)
OTHER = SigningKey.from_hex("22" * 32)
SOURCE = FakeSource()


def clock() -> dt.datetime:
    return MOMENT


def test_the_signature_is_written_before_the_manifest() -> None:
    faults = FaultSink(MemorySink())
    report = backup(SOURCE, faults, clock=clock, signing_keys=[KEY])
    puts = [operation for operation in faults.operations if operation.startswith("put ")]
    assert puts[-2:] == [
        f"put {side_key(report.archive_id, SIGNATURE_NAME)}",
        f"put {manifest_key(report.archive_id)}",
    ]


def test_a_signed_archive_is_read_by_those_who_trust_the_signer_and_by_no_one_else() -> None:
    sink = MemorySink()
    report = backup(SOURCE, sink, clock=clock, signing_keys=[KEY])
    trusting = SignaturePolicy(trusted=(KEY.verify_key,))
    assert b"".join(read(sink, report.archive_id, policy=trusting)) == b"".join(SOURCE.payload)
    with pytest.raises(SignatureError) as caught:
        read_manifest(sink, report.archive_id, SignaturePolicy(trusted=(OTHER.verify_key,)))
    assert caught.value.kind == "unknown_signer"


def test_an_unsigned_archive_is_refused_where_signatures_are_asked_for() -> None:
    sink = MemorySink()
    report = backup(SOURCE, sink, clock=clock)
    with pytest.raises(SignatureError) as caught:
        read_manifest(sink, report.archive_id, SignaturePolicy(trusted=(KEY.verify_key,)))
    assert caught.value.kind == "unsigned"


def test_tags_are_in_the_manifest() -> None:
    report = backup(SOURCE, MemorySink(), clock=clock, options=BackupOptions(tags=("pre-upgrade", "a")))
    assert report.manifest.tags == ("a", "pre-upgrade")
    with pytest.raises(ConfigurationError):
        BackupOptions(tags=("no spaces",))


def test_a_whole_read_back_counts_as_verification() -> None:
    sink = MemorySink()
    options = BackupOptions(read_back=ReadBack.CONTENT)
    report = backup(SOURCE, sink, clock=clock, options=options)
    assert [name.verb for name in list_marks(sink, report.archive_id)] == [MarkVerb.VERIFIED]
    sizes_only = backup(SOURCE, sink, clock=clock)
    assert list_marks(sink, sizes_only.archive_id) == []


def test_a_read_back_that_cannot_be_noted_is_a_warning_for_there_is_an_archive() -> None:
    class Forgetful(MemorySink):
        def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
            if "/marks/" in key:
                raise SinkUnavailableError("planned")
            return super()._put(key, chunks)

    sink = Forgetful()
    report = backup(SOURCE, sink, clock=clock, options=BackupOptions(read_back=ReadBack.CONTENT))
    assert [warning.code for warning in report.warnings] == ["not_recorded"]
    assert read_manifest(sink, report.archive_id) == report.manifest


@pytest.mark.parametrize("keys", ["a key's text", ["a key's text"], [b"seed" * 8]])
def test_what_cannot_sign_is_refused_before_anything_is_written(keys: Any) -> None:
    sink = MemorySink()
    with pytest.raises(ConfigurationError, match="cannot sign") as caught:
        backup(FakeSource(), sink, signing_keys=keys)
    assert caught.value.kind == "bad_signing_key"
    assert "key's text" not in str(caught.value)
    assert sink.contents() == {}


def test_a_backup_is_finished_although_its_result_cannot_be_noted() -> None:
    sink = MemorySink()
    moment = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
    archive_id = backup(FakeSource(), MemorySink(), clock=lambda: moment).archive_id
    last = dt.datetime(9999, 12, 31, 23, 59, 59, 999000, dt.UTC)
    planted = MarkName(artifact=archive_id, made_at=last, verb=MarkVerb.NOTED, nonce="0" * 8)
    sink.put(planted.key, [Mark(name=planted).to_bytes()])
    report = backup(FakeSource(), sink, options=BackupOptions(read_back=ReadBack.CONTENT), clock=lambda: moment)
    assert [warning.code for warning in report.warnings] == ["not_recorded"]
    assert report.archive_id == archive_id
