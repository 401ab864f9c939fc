"""
The life of archives, end to end, between parts that are real: a hub executing in the sandbox, a disk, an S3 server.

The backup host holds public keys, a signing key and credentials that cannot delete; another host reads, with private
keys and a list of signers it trusts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from s3_server import S3Server
from stage import Stage, connect

from knowtation_backup import (
    ArchiveFilter,
    ArchiveState,
    BackupOptions,
    CodecChain,
    Compression,
    ExportReader,
    FsspecSink,
    KeepPolicy,
    Keyring,
    Ktb2Codec,
    MirrorSink,
    OperatorExporter,
    Outcome,
    Pipeline,
    PrivateKey,
    S3Options,
    Sample,
    SignaturePolicy,
    SigningKey,
    errors,
)

FIRST_DAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=4)
"""The last backup is taken today: stores date what they hold themselves, and the trash believes them."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@attrs.define
class Calendar:
    """A clock that a test turns."""

    now: dt.datetime = FIRST_DAY

    def __call__(self) -> dt.datetime:
        return self.now


def test_the_life_of_archives(  # noqa: PLR0915 - a life is one story
    stage: Stage, server: S3Server, tmp_path: Path
) -> None:
    calendar = Calendar()
    operator, auditor = PrivateKey.generate(), PrivateKey.generate()
    signer = SigningKey.generate()
    bucket = server.make_bucket("life-of-archives")
    server.forbid(bucket, server.writer, "s3:DeleteObject", "s3:DeleteObjectVersion")
    disk = FsspecSink(tmp_path / "disk")
    far = FsspecSink(
        f"s3://{bucket}/hub", storage_options=server.storage_options(server.writer), s3=S3Options(conditional=True)
    )
    with far, connect(stage.url) as client:
        # The backup host: public keys only, and nothing it does needs the right to delete.
        writing = Pipeline(
            source=OperatorExporter(client),
            sink=MirrorSink({"disk": disk, "far": far}),
            codec=CodecChain(Compression("zstd"), Ktb2Codec(seal_to=[operator.public_key, auditor.public_key])),
            signing_keys=(signer,),
            clock=calendar,
        )
        reports = []
        for day in range(5):
            calendar.now = FIRST_DAY + dt.timedelta(days=day)
            tags = ("pre-upgrade",) if day == 1 else ()
            reports.append(attrs.evolve(writing, options=BackupOptions(tags=tags)).backup())
        assert {report.outcome for report in reports} == {Outcome.OK}
        assert all([result.ok for result in report.targets] == [True, True] for report in reports)
        with pytest.raises(errors.NoMatchingKeyError):
            b"".join(writing.read())
        with pytest.raises(errors.SinkPermissionError):
            far.delete(reports[0].archive_id)

        # The reading host: keys and trust, no settings. It opens what lies on either place.
        for sink in (disk, far):
            reading = Pipeline(
                sink=sink,
                codec=Keyring([auditor]),
                signatures=SignaturePolicy(trusted=(signer.verify_key,)),
                retention=KeepPolicy(last=2, tags=("pre-upgrade",), min_keep=1),
                clock=calendar,
            )
            assert [info.archive_id for info in reading.list()] == [report.archive_id for report in reversed(reports)]
            export = ExportReader(reading.read())
            notes = sum(entry.note is not None for entry in export)
            assert notes == reports[-1].manifest.counts["notes"] > 0
            assert export.content_root == reading.details().capture["content_root"]

            # Two runs of a sample cover everything; only a whole verification counts for the floor.
            with pytest.raises(errors.BlobNotFoundError):
                reading.latest(verified=True)
            for part in (1, 2):
                assert reading.verify_all(sample=Sample(part=part, of=2)).ok
            assert reading.verify_all().ok
            assert reading.latest(verified=True).archive_id == reports[-1].archive_id
            assert [info.archive_id for info in reading.list(ArchiveFilter(tags=("pre-upgrade",)))] == [
                reports[1].archive_id
            ]

            # Thin out: a plan with reasons, a trash that needs no right to delete, and the way back.
            reading.pin(reports[0].archive_id)
            plan = reading.plan_forget()
            assert [info.archive_id for info in plan.forgotten] == [reports[2].archive_id]
            reading.apply(plan)
            assert reports[2].archive_id not in {info.archive_id for info in reading.list()}
            reading.undelete(reports[2].archive_id)
            assert reading.find(reports[2].archive_id[:40]).state is ArchiveState.COMPLETE
            reading.apply(reading.plan_forget())

        # A week later the disk is emptied by whoever may delete there; the far place refuses it.
        calendar.now += dt.timedelta(days=8)
        emptying = Pipeline(sink=disk, clock=calendar)
        emptying.apply(emptying.plan_empty_trash())
        assert [info.archive_id for info in emptying.list(ArchiveFilter(include_trashed=True))] == [
            reports[day].archive_id for day in (4, 3, 1, 0)
        ]
        there = Pipeline(sink=far, clock=calendar)
        with pytest.raises(errors.SinkPermissionError):
            there.apply(there.plan_empty_trash())
        assert len(there.list(ArchiveFilter(include_trashed=True))) == 5

        # The auditor leaves: archives get other recipients, and what is stored of the content does not change.
        rewrapped = attrs.evolve(emptying, signing_keys=(signer,)).rewrap(
            reports[4].archive_id, open_with=[operator], seal_to=[operator.public_key]
        )
        leaving = Pipeline(sink=disk, codec=Keyring([auditor]))
        with pytest.raises(errors.NoMatchingKeyError):
            b"".join(leaving.read(rewrapped.archive_id))
        staying = Pipeline(
            sink=disk, codec=Keyring([operator]), signatures=SignaturePolicy(trusted=(signer.verify_key,))
        )
        assert staying.verify(rewrapped.archive_id).ok


def test_a_place_that_is_down_fails_the_quorum_or_is_reported(stage: Stage, tmp_path: Path) -> None:
    nowhere = FsspecSink(
        "s3://bucket/prefix",
        storage_options={"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9"},
        s3=S3Options(conditional=True),
        sleep=lambda _: None,
    )
    with nowhere, connect(stage.url) as client:
        targets = {"disk": FsspecSink(tmp_path / "disk"), "far": nowhere}
        strict = Pipeline(source=OperatorExporter(client), sink=MirrorSink(targets))
        with pytest.raises(errors.SinkUnavailableError):
            strict.backup()
        assert Pipeline(sink=targets["disk"]).list() == ()
        lenient = attrs.evolve(strict, sink=MirrorSink(targets, quorum=1, tolerate_unreachable=1))
        report = lenient.backup()
        assert report.outcome is Outcome.PARTIAL
        assert [(result.target, result.ok) for result in report.targets] == [("disk", True), ("far", False)]
        assert Pipeline(sink=targets["disk"]).verify(report.archive_id).ok
