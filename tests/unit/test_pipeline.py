"""The pipeline holds parts and offers the verbs."""

import datetime as dt
import itertools

import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.errors import BlobNotFoundError, ConfigurationError
from knowtation_backup.model.reports import VerifyLevel
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.memory import MemorySink
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
