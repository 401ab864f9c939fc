"""A backup that is killed, at any moment, leaves no half-written artifact, and the next one finishes."""

import datetime as dt
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.operations.verify import verify
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sources import FakeSource

CHILD = str(Path(__file__).parent / "killed_child.py")
CODEC = Ktb1Codec(EncryptionKey(raw=bytes(range(32))))
MOMENT = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
ARTIFACT = "operator-full-export-20260408T000000Z.json.enc"


def require_whole(root: Path, payload: bytes) -> list[ArchiveState]:
    """Check that what is visible is whole, that the next backup finishes, and return what the dead one left."""
    sink = FsspecSink(root)
    before = list_archives(sink)
    states = [info.state for info in before]
    assert set(states) <= {ArchiveState.COMPLETE, ArchiveState.UNFINISHED}
    if ARTIFACT in {info.key for info in sink.list()}:
        assert b"".join(CODEC.open(lambda: sink.read(ARTIFACT))) == payload
    for info in before:
        if info.state is ArchiveState.COMPLETE:
            assert verify(sink, info.archive_id, codec=CODEC).ok
    report = backup(FakeSource(), sink, CODEC, clock=lambda: MOMENT)
    assert verify(sink, report.archive_id, codec=CODEC).ok
    leftovers = list(sink.leftovers())
    assert len(leftovers) <= 1
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    assert len(sink.remove_leftovers(now=later)) == len(leftovers)
    assert list(sink.leftovers()) == []
    assert verify(sink, report.archive_id, codec=CODEC).ok
    return states


def test_killed_before_every_single_call(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, CHILD, "every", str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    calls, exit_status = map(int, done.stdout.split())
    assert exit_status == 0
    assert calls > 60
    seen = [require_whole(tmp_path / f"{number:03d}", b"x" * 300_000 + b"y" * 300_000) for number in range(calls)]
    # The archive comes into being at one moment, and not before.
    assert [] in seen
    assert [ArchiveState.UNFINISHED] in seen
    first = seen.index([ArchiveState.COMPLETE])
    assert all(states == [ArchiveState.COMPLETE] for states in seen[first:])
    assert all(states != [ArchiveState.COMPLETE] for states in seen[:first])


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1, 37, 80])
def test_killed_from_outside_while_streaming(tmp_path: Path, kill: signal.Signals, after: int) -> None:
    with subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, CHILD, "slow", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == f"chunk {after}\n":
                break
        else:
            pytest.fail("the child ended before it could be killed")
        assert ARTIFACT not in {info.key for info in FsspecSink(tmp_path).list()}, "half an artifact is visible"
        child.send_signal(kill)
        child.stdout.read()
        assert child.wait(timeout=30) == -kill
    if kill is signal.SIGINT:  # the child could still tidy up
        assert list(FsspecSink(tmp_path).leftovers()) == []
    assert require_whole(tmp_path, b"x" * 6_553_600) == [ArchiveState.UNFINISHED]
