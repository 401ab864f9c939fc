"""Verifying many archives: what concerns one does not keep the others from being looked at."""

import datetime as dt
import json
from typing import Any

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.contracts import Clock, Codec
from knowtation_backup.errors import (
    BlobNotFoundError,
    IntegrityError,
    NoMatchingKeyError,
    OperationCancelledError,
    SinkUnavailableError,
)
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import manifest_key
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.reports import Coverage, Outcome, Sample, VerifyAllReport, VerifyLevel, jsonable
from knowtation_backup.model.selection import ArchiveFilter
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.operations.marks import put_mark, quarantine
from knowtation_backup.operations.verify import verify
from knowtation_backup.operations.verify_all import find_good, verify_all
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SEALED = Ktb1Codec(EncryptionKey.generate())
SOURCE = FakeSource()


def filled(days: int = 4, codec: Codec | None = SEALED, **more: Any) -> tuple[MemorySink, list[str]]:
    """A sink with one archive per day, oldest first."""
    sink = MemorySink()
    moments = [MOMENT + day * DAY for day in range(days)]
    return sink, [backup(SOURCE, sink, codec, clock=at(moment), **more).archive_id for moment in moments]


def at(moment: dt.datetime) -> Clock:
    return lambda: moment


def damage(sink: MemorySink, key: str) -> None:
    data = sink.contents()[key]
    sink.delete(key)
    sink.put(key, [data[:-1] + bytes([data[-1] ^ 1])])


def judged(report: VerifyAllReport) -> list[str]:
    return [item.archive_id for item in report.reports]


def test_all_archives_are_looked_at_newest_first() -> None:
    sink, ids = filled()
    events: list[Event] = []
    report = verify_all(sink, codec=SEALED, observer=events.append, clock=lambda: MOMENT)
    assert judged(report) == ids[::-1]
    assert report.ok
    assert report.outcome is Outcome.OK
    assert report.bytes_read == sum(item.bytes_read for item in report.reports) > 0
    progress = [event.fields for event in events if event.name == "verify.progress"]
    assert [(item["archives_done"], item["archives_total"]) for item in progress] == [(n, 4) for n in (1, 2, 3, 4)]
    assert progress[-1]["bytes_read"] == report.bytes_read
    report.raise_for_findings()


def test_a_damaged_archive_is_a_finding_and_the_others_are_good() -> None:
    sink, ids = filled()
    damage(sink, ids[1])
    damage(sink, manifest_key(ids[2]))
    report = verify_all(sink, codec=SEALED)
    assert len(report.reports) == 4
    assert {item.archive_id for item in report.failed} == {ids[1], ids[2]}
    assert (report.outcome, report.exit_code) == (Outcome.DIFFERENT, 4)
    assert "digest_mismatch" in str(report)
    with pytest.raises(IntegrityError, match="failed verification"):
        report.raise_for_findings()
    assert json.dumps(jsonable(report))


def test_an_archive_sealed_with_another_key_is_not_judged() -> None:
    sink, ids = filled()
    other = backup(SOURCE, sink, Ktb1Codec(EncryptionKey.generate()), clock=lambda: MOMENT + 9 * DAY).archive_id
    report = verify_all(sink, codec=SEALED)
    assert judged(report) == ids[::-1]
    assert [(item.archive_id, item.error.kind) for item in report.unverified] == [(other, "no_matching_key")]
    assert (report.ok, report.exit_code) == (False, 3)
    assert f"NOT JUDGED {other}" in str(report)
    with pytest.raises(NoMatchingKeyError):
        report.raise_for_findings()


def test_an_unreachable_store_is_raised_at_every_operation() -> None:
    inner, _ = filled(days=2)
    counting = FaultSink(inner)
    assert verify_all(counting, codec=SEALED).ok
    for number in range(len(counting.operations)):
        with pytest.raises(SinkUnavailableError):
            verify_all(FaultSink(inner, fail_at=number), codec=SEALED)


def test_what_is_removed_meanwhile_is_no_failure() -> None:
    sink, ids = filled()
    archives = list_archives(sink)
    for key in list(sink.contents()):
        if ids[0] in key:
            sink.delete(key)
    report = verify_all(sink, archives, codec=SEALED)
    assert report.vanished == (ids[0],)
    assert report.ok
    assert len(report.reports) == 3


def test_unfinished_trashed_and_foreign_files_are_left_alone() -> None:
    sink, ids = filled()
    sink.delete(manifest_key(ids[0]))
    put_mark(sink, ids[1], MarkVerb.TRASHED, {"reason": "test"}, clock=lambda: MOMENT + 10 * DAY)
    sink.put("operator-full-export-20200101T000000Z.json", [b"{}"])
    assert judged(verify_all(sink, codec=SEALED)) == [ids[3], ids[2]]
    wanted = ArchiveFilter(include_trashed=True, until=MOMENT + 2 * DAY)
    assert judged(verify_all(sink, wanted, codec=SEALED)) == [ids[1]]
    assert judged(verify_all(sink, list_archives(sink)[-1:], codec=SEALED)) == []


def test_options_reach_every_archive() -> None:
    key = SigningKey.generate()
    sink, ids = filled(signing_keys=[key])
    stranger = backup(SOURCE, sink, SEALED, clock=lambda: MOMENT + 9 * DAY).archive_id
    policy = SignaturePolicy(trusted=(key.verify_key,))
    report = verify_all(
        sink, codec=SEALED, policy=policy, record=True, level=VerifyLevel.PRESENCE, clock=lambda: MOMENT
    )
    assert all(item.recorded and item.level is VerifyLevel.PRESENCE for item in report.reports)
    assert [item.archive_id for item in report.failed] == [stranger]
    listed = {info.archive_id: info.standing for info in list_archives(sink)}
    assert listed[stranger].failed_at == MOMENT
    assert listed[ids[0]].verified_at is None


def test_all_parts_of_a_sample_cover_every_archive_once() -> None:
    sink, ids = filled(days=9)
    covered = [
        item.archive_id
        for part in (1, 2, 3)
        for item in verify_all(sink, codec=SEALED, sample=Sample(part=part, of=3)).reports
        if item.covered is Coverage.WHOLE
    ]
    assert sorted(covered) == sorted(ids)


def test_an_observer_can_stop_it() -> None:
    sink, _ = filled()

    def stop(event: Event) -> None:
        if event.name == "verify.progress":
            raise OperationCancelledError("enough")

    with pytest.raises(OperationCancelledError):
        verify_all(sink, codec=SEALED, observer=stop)


class TestFindingAnother:
    def test_the_newest_older_verified_archive_is_proposed(self) -> None:
        sink, ids = filled(days=5)
        for archive_id in (ids[0], ids[1], ids[2], ids[4]):
            verify(sink, archive_id, codec=SEALED, record=True)
        quarantine(sink, ids[2], reason="odd")
        archives = {info.archive_id: info for info in list_archives(sink)}
        assert find_good(list(archives.values()), archives[ids[3]]).archive_id == ids[1]
        assert find_good(list(archives.values()), archives[ids[1]]).archive_id == ids[0]
        with pytest.raises(BlobNotFoundError, match="complete and verified") as caught:
            find_good(list(archives.values()), archives[ids[0]])
        assert caught.value.kind == "no_such_archive"

    def test_another_series_is_none(self) -> None:
        sink, _ = filled(days=1)
        other = backup(attrs.evolve(SOURCE, source_id="other"), sink, SEALED, clock=lambda: MOMENT + DAY).archive_id
        verify_all(sink, codec=SEALED, record=True)
        archives = {info.archive_id: info for info in list_archives(sink)}
        with pytest.raises(BlobNotFoundError):
            find_good(list(archives.values()), archives[other])
