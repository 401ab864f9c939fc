"""Whatever operation fails, in whatever way: no half archive, nothing lost, and the next run finishes."""

import contextlib
import datetime as dt
import itertools
from collections.abc import Callable

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import BackupError, SinkUnavailableError
from knowtation_backup.model.manifest import manifest_key
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import SideFile, TargetResult
from knowtation_backup.operations.backup import BackupOptions, ReadBack
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.sinks.retrying import RetryingSink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

MakeSink = Callable[[], ArchiveSink]

START = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
CODEC = Ktb1Codec(EncryptionKey.generate())
LARGE = FakeSource(payload=(b"x" * 100_000,) * 3, side_files=(SideFile(name="raw-0001.txt", content=b"raw"),))
SMALL = FakeSource(payload=(b"x" * 50_000,) * 3)


@attrs.frozen(kw_only=True)
class Runs:
    """Backups of one source to one place, an hour apart."""

    source: FakeSource = LARGE
    read_back: ReadBack = ReadBack.CONTENT
    hours: "itertools.count[int]" = attrs.field(factory=itertools.count)

    def pipeline(self, sink: ArchiveSink) -> Pipeline:
        return Pipeline(
            source=self.source,
            sink=sink,
            codec=CODEC,
            options=BackupOptions(read_back=self.read_back),
            clock=lambda: START + dt.timedelta(hours=float(next(self.hours))),
        )

    def operations(self) -> int:
        counting = FaultSink(MemorySink(permissions="lrw"))
        self.pipeline(counting).backup()
        return len(counting.operations)

    def require_sound(self, sink: ArchiveSink) -> dict[str, ArchiveState]:
        """Check that nothing under a final name is incomplete, and return the archives."""
        pipeline = self.pipeline(sink)
        states = {info.archive_id: info.state for info in pipeline.list()}
        keys = {info.key for info in sink.list()}
        for archive_id, state in states.items():
            if manifest_key(archive_id) in keys:
                assert state is ArchiveState.COMPLETE
                assert pipeline.verify(archive_id, record=False).findings == ()
            else:
                assert state is ArchiveState.UNFINISHED
                if archive_id in keys:
                    opened = CODEC.open(lambda key=archive_id: sink.read(key))  # type: ignore[misc]
                    assert b"".join(opened) == b"".join(self.source.payload)
        assert {key.removeprefix("side/").partition("/")[0] for key in keys} == states.keys(), "everything is named"
        return states

    def require_next_run(self, sink: ArchiveSink) -> None:
        pipeline = self.pipeline(sink)
        archive_id = pipeline.backup().archive_id
        assert pipeline.verify(archive_id, record=False).findings == ()
        assert b"".join(pipeline.read(archive_id)) == b"".join(self.source.payload)


QUICK = ["memory", "fsspec memory", "mirror"]
SLOW = ["local", "sftp", "s3"]
"""Every operation waits for a disk or a server: these get a backup of fewer operations."""


@pytest.mark.parametrize("moment", list(FaultMoment))
@pytest.mark.parametrize(
    ("make_sink", "kind"),
    [
        *((place, SinkUnavailableError) for place in (*QUICK, *SLOW)),
        *((place, KeyboardInterrupt) for place in ("memory", "mirror")),
    ],
    indirect=["make_sink"],
)
def test_operation_k_fails_for_every_k(
    request: pytest.FixtureRequest, make_sink: MakeSink, moment: FaultMoment, kind: type[BaseException]
) -> None:
    slow = any(place in request.node.callspec.id for place in SLOW)
    small = Runs(source=SMALL, read_back=ReadBack.SIZES)
    total = (small if slow else Runs()).operations()
    assert total >= 7
    for number in range(total):
        runs = Runs(source=SMALL, read_back=ReadBack.SIZES) if slow else Runs()
        inner = make_sink()
        old = "" if slow else runs.pipeline(inner).backup().archive_id
        faulty = FaultSink(inner, fail_at=number, moment=moment, error=kind)
        survived = False
        with contextlib.suppress(kind):
            survived = bool(runs.pipeline(faulty).backup().archive_id)
        puts = [operation.removeprefix("put ") for operation in faulty.operations if operation.startswith("put ")]
        states = runs.require_sound(inner)
        if old:
            assert states.pop(old) is ArchiveState.COMPLETE
        # Complete only when what failed came after the manifest, or was the answer to its writing.
        last = puts[-1] if puts else ""
        lost_answer = moment is FaultMoment.AFTER and last.endswith("/manifest.json")
        finished = survived or lost_answer or "/marks/" in faulty.operations[-1]
        allowed = {ArchiveState.COMPLETE} if finished else {ArchiveState.UNFINISHED}
        assert set(states.values()) <= allowed, faulty.operations[-1]
        if finished or len(puts) > 1:
            assert len(states) == 1, "what was begun is found and named"
        runs.require_next_run(inner)
        if isinstance(inner, FsspecSink):
            assert list(inner.leftovers()) == []


@pytest.mark.parametrize("moment", list(FaultMoment))
@pytest.mark.parametrize("quorum", [1, 2])
@pytest.mark.parametrize("first", [True, False], ids=["first target", "second target"])
@pytest.mark.parametrize("lasting", [True, False], ids=["gone for good", "once"])
def test_operation_k_of_one_target_fails_for_every_k(
    moment: FaultMoment,
    quorum: int,
    *,
    first: bool,
    lasting: bool,
) -> None:
    runs = Runs(source=SMALL)
    for number in itertools.count():
        good, bad = MemorySink(permissions="lrw"), MemorySink(permissions="lrw")
        at, since = (None, number) if lasting else (number, None)
        faulty = FaultSink(bad, fail_at=at, fail_from=since, moment=moment)
        named = {"faulty": faulty, "good": good} if first else {"good": good, "faulty": faulty}
        mirror = MirrorSink(named, quorum=quorum)
        results: tuple[TargetResult, ...] = ()
        try:
            report = runs.pipeline(mirror).backup()
            results = report.targets
            archive_id = report.archive_id
            assert archive_id in good.contents()
            assert manifest_key(archive_id) in good.contents()
        except BackupError as error:
            if quorum == 1:
                raise AssertionError(str(error)) from error
        # No target alone ever holds a manifest whose blobs it lacks, nor half a blob.
        on_good, on_bad = runs.require_sound(good), runs.require_sound(bad)
        for result in results:
            held = on_good if result.target == "good" else on_bad
            if result.ok:
                assert held == {archive_id: ArchiveState.COMPLETE}
            else:
                assert result.target == "faulty"
                assert result.error is not None
        runs.require_next_run(MirrorSink({"good": good, "bad": bad}))
        if number >= len(faulty.operations):
            assert number >= 5, "the fault was somewhere in the backup before"
            break


@pytest.mark.parametrize("moment", list(FaultMoment))
def test_a_retrying_sink_survives_a_fault_of_every_operation(moment: FaultMoment) -> None:
    runs = Runs()
    for number in range(runs.operations()):
        store = MemorySink(permissions="lrw")
        faulty = FaultSink(store, fail_at=number, moment=moment)
        report = runs.pipeline(RetryingSink(faulty, sleep=lambda _seconds: None)).backup()
        assert report.warnings == ()
        assert runs.require_sound(store) == {report.archive_id: ArchiveState.COMPLETE}
