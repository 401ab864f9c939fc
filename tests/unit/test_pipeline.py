"""The pipeline holds parts and offers the verbs."""

import datetime as dt
import itertools

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.errors import BlobNotFoundError, ConfigurationError, SignatureError
from knowtation_backup.model.reports import VerifyLevel
from knowtation_backup.model.selection import ArchiveFilter
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.wrappers import ReadOnlySink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)


def make(sink: MemorySink, key: EncryptionKey) -> Pipeline:
    days = itertools.count()
    return Pipeline(
        source=FakeSource(),
        sink=sink,
        codec=Ktb1Codec(key),
        retention=KeepLast(limit=2),
        clock=lambda: START + dt.timedelta(days=next(days)),
    )


def test_the_main_job() -> None:
    sink = MemorySink()
    pipeline = make(sink, EncryptionKey.generate())
    reports = [pipeline.backup() for _ in range(3)]
    ids = [report.archive_id for report in reports]
    assert len(pipeline.list()) == 3, "retention never runs by itself"
    assert [info.archive_id for info in pipeline.list()] == ids[::-1]
    assert pipeline.latest().archive_id == ids[-1]
    assert pipeline.verify().ok
    assert pipeline.verify(ids[0], level=VerifyLevel.PRESENCE).archive_id == ids[0]
    assert b"".join(pipeline.read()) == b"".join(FakeSource().payload)
    assert pipeline.details(ids[1]).artifact == ids[1]
    assert pipeline.manifest() == reports[-1].manifest
    assert Pipeline(sink=sink).manifest(ids[1][:-12]) == reports[1].manifest, "reading a manifest needs no key"
    plan = pipeline.plan_forget()
    assert [info.archive_id for info in plan.forgotten] == [ids[0]]
    assert pipeline.apply(plan).forgotten == (ids[0],)
    assert [info.archive_id for info in pipeline.list()] == ids[:0:-1]


def test_two_pipelines_know_nothing_of_each_other() -> None:
    one, two = (make(MemorySink(), EncryptionKey.generate()) for _ in range(2))
    one.backup()
    assert len(one.list()) == 1
    assert two.list() == ()


def test_a_pipeline_without_a_part_says_which() -> None:
    pipeline = Pipeline(sink=MemorySink())
    with pytest.raises(ConfigurationError, match="no source"):
        pipeline.backup()
    with pytest.raises(ConfigurationError, match="no retention"):
        pipeline.plan_forget()
    with pytest.raises(BlobNotFoundError):
        pipeline.latest()
    with pytest.raises(BlobNotFoundError):
        pipeline.manifest()
    with pytest.raises(BlobNotFoundError):
        list(pipeline.read())


def test_repr_shows_no_secret() -> None:
    key = EncryptionKey.generate()
    shown = repr(make(MemorySink(), key))
    assert key.raw.hex() not in shown
    assert repr(key.raw) not in shown
    assert key.key_id in shown


def test_every_note_of_an_archive_can_be_made_and_taken_back() -> None:
    pipeline = make(MemorySink(), EncryptionKey.generate())
    first, second = (pipeline.backup().archive_id for _ in range(2))
    pipeline.pin(first)
    assert pipeline.find(first).standing.pinned
    pipeline.unpin(first)
    assert not pipeline.find(first).standing.pinned
    pipeline.tag(first, "pre-upgrade", "b")
    pipeline.untag(first, "b")
    assert pipeline.find(first).tags == ("pre-upgrade",)
    assert [info.archive_id for info in pipeline.list(ArchiveFilter(tags=("pre-upgrade",)))] == [first]
    pipeline.annotate(first, {"ticket": "42"})
    assert pipeline.find(first).standing.notes == {"ticket": "42"}
    pipeline.quarantine(second, reason="looks wrong")
    assert pipeline.latest().archive_id == first
    pipeline.release(second)
    assert pipeline.latest().archive_id == second
    assert pipeline.find(pipeline.find(second).short_id).archive_id == second


def test_verification_is_noted_where_the_sink_allows_it() -> None:
    sink = MemorySink()
    pipeline = make(sink, EncryptionKey.generate())
    archive_id = pipeline.backup().archive_id
    with pytest.raises(BlobNotFoundError):
        pipeline.latest(verified=True)
    assert not pipeline.verify(record=False).recorded
    assert pipeline.verify().recorded
    assert pipeline.latest(verified=True).archive_id == archive_id
    assert pipeline.verify_all().ok
    assert not attrs.evolve(pipeline, sink=ReadOnlySink(sink)).verify().recorded


def test_what_was_forgotten_rests_in_the_trash_until_it_is_emptied() -> None:
    pipeline = make(MemorySink(), EncryptionKey.generate())
    ids = [pipeline.backup().archive_id for _ in range(3)]
    pipeline.apply(pipeline.plan_delete(ids[0]))
    assert ids[0] not in {info.archive_id for info in pipeline.list()}
    pipeline.undelete(ids[0])
    assert ids[0] in {info.archive_id for info in pipeline.list()}
    pipeline.apply(pipeline.plan_delete(ids[0]))
    at_once = attrs.evolve(pipeline, trash_grace=dt.timedelta(0))
    at_once.apply(at_once.plan_empty_trash())
    with pytest.raises(BlobNotFoundError):
        pipeline.find(ids[0])


def test_a_reader_that_trusts_a_signer_reads_only_what_that_one_signed() -> None:
    signer = SigningKey.generate()
    sink = MemorySink()
    unsigned = make(sink, EncryptionKey.generate())
    archive_id = unsigned.backup().archive_id
    trusting = attrs.evolve(unsigned, signing_keys=[signer], signatures=SignaturePolicy(trusted=(signer.verify_key,)))
    for act in (trusting.manifest, trusting.details, lambda text: b"".join(trusting.read(text))):
        with pytest.raises(SignatureError):
            act(archive_id)
    assert [finding.code for finding in trusting.verify(archive_id).findings] == ["unsigned"]
    trusting.sign(archive_id)
    assert trusting.verify(archive_id).ok
    assert b"".join(trusting.read(archive_id)) == b"".join(FakeSource().payload)


def test_files_of_other_tools_become_archives() -> None:
    sink = MemorySink()
    facts = '"format_version":4,"kind":"knowtation-operator-full-export","exported_at":"2026-04-08T15:30:22.123Z"'
    payload = ("{" + facts + ',"users":[]}').encode()
    for hour in (15, 16):
        sink.put(f"operator-full-export-20260408T{hour}3022Z.json", [payload])
    pipeline = Pipeline(sink=sink, clock=lambda: START)
    name = "operator-full-export-20260408T153022Z.json"
    assert pipeline.adopt(name).archive_id == name
    assert len(pipeline.adopt_all().adopted) == 1
    assert pipeline.verify_all().ok
    assert all(info.managed for info in pipeline.list())
