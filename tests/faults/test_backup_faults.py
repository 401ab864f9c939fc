"""Whatever operation fails, in whatever way: no half archive, nothing lost, and the next run finishes."""

import datetime as dt
import itertools
from pathlib import Path

import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import SinkUnavailableError
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import SideFile
from knowtation_backup.operations.backup import BackupOptions, ReadBack
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
CODEC = Ktb1Codec(EncryptionKey.generate())
SOURCE = FakeSource(payload=(b"x" * 300_000,) * 3, side_files=(SideFile(name="raw-0001.txt", content=b"raw"),))


def pipeline(sink: ArchiveSink, clock: "itertools.count[int]", *, content: bool = False) -> Pipeline:
    return Pipeline(
        source=SOURCE,
        sink=sink,
        codec=CODEC,
        options=BackupOptions(read_back=ReadBack.CONTENT if content else ReadBack.SIZES),
        clock=lambda: START + dt.timedelta(hours=next(clock)),
    )


@pytest.mark.parametrize("place", ["memory", "local"])
@pytest.mark.parametrize("moment", list(FaultMoment))
@pytest.mark.parametrize("kind", [SinkUnavailableError, KeyboardInterrupt])
def test_operation_k_fails_for_every_k(
    tmp_path: Path, place: str, moment: FaultMoment, kind: type[BaseException]
) -> None:
    counting = FaultSink(MemorySink(permissions="lrw"))
    pipeline(counting, itertools.count(), content=True).backup()
    total = len(counting.operations)
    assert total == 15

    for number in range(total):
        inner: ArchiveSink = FsspecSink(tmp_path / str(number)) if place == "local" else MemorySink(permissions="lrw")
        clock = itertools.count()
        old = pipeline(inner, clock).backup().archive_id
        faulty = FaultSink(inner, fail_at=number, moment=moment, error=kind)
        with pytest.raises(kind):
            pipeline(faulty, clock, content=True).backup()

        working = pipeline(inner, clock)
        states = {info.archive_id: info.state for info in working.list()}
        assert states.pop(old) is ArchiveState.COMPLETE
        # Complete only when the answer to the very last write was lost; then it is whole.
        last_write = faulty.operations[-1].startswith("put") and faulty.operations[-1].endswith("manifest.json")
        allowed = {ArchiveState.COMPLETE} if last_write and moment is FaultMoment.AFTER else {ArchiveState.UNFINISHED}
        assert set(states.values()) <= allowed, faulty.operations[-1]
        for archive_id in [old, *(found for found, state in states.items() if state is ArchiveState.COMPLETE)]:
            assert working.verify(archive_id).ok

        new = working.backup().archive_id
        assert working.verify(new).ok
        assert b"".join(working.read(new)) == b"".join(SOURCE.payload)
        if isinstance(inner, FsspecSink):
            assert list(inner.leftovers()) == []
