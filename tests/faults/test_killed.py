"""
A backup over SFTP that is killed with SIGKILL before any of its requests leaves nothing half-written.

The same for every system call on a local directory is in ``tests/integration/test_kill.py``.
"""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import sftp_server as servers

from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.operations.verify import verify
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sources import FakeSource

CHILD = str(Path(__file__).parent / "killed_over_sftp.py")
ARTIFACT = "operator-full-export-20260408T000000Z.json"
MOMENT = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)


def require_whole(root: Path) -> tuple[list[ArchiveState], int]:
    """Check what one killed child left, run again, and return the states and the number of leftovers found."""
    sink = FsspecSink(root)  # the server's own disk, looked at directly
    archives = list_archives(sink)
    keys = {info.key for info in sink.list()}
    if ARTIFACT in keys:
        assert (root / ARTIFACT).read_bytes() == b"x" * 60_000 + b"y" * 60_000
    for info in archives:
        assert info.archive_id == ARTIFACT
        if info.state is ArchiveState.COMPLETE:
            assert verify(sink, info.archive_id).findings == ()
    assert bool(keys) == bool(archives), "everything that is there is named"
    report = backup(FakeSource(), sink, clock=lambda: MOMENT + dt.timedelta(hours=1))
    assert verify(sink, report.archive_id).findings == ()
    leftovers = list(sink.leftovers())
    # The hidden name of a killed writer, or also its published other name, if it died between the two.
    assert len(leftovers) <= 1
    sink.remove_leftovers(now=dt.datetime.now(dt.UTC) + dt.timedelta(days=2))
    assert list(sink.leftovers()) == []
    assert {info.key for info in sink.list()} > keys
    return [info.state for info in archives], len(leftovers)


def test_killed_before_every_single_request(tmp_path: Path) -> None:
    program = [servers.OPENSSH, "-e"] if servers.OPENSSH else None
    with servers.sftp_server(program=program) as server:
        done = subprocess.run(  # noqa: S603 - our own
            [sys.executable, CHILD, str(tmp_path), json.dumps(server.options)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    assert calls > 40
    seen = [require_whole(tmp_path / f"{number:03d}") for number in range(calls + 1)]
    # The archive comes into being at one moment, and not before.
    states = [state for state, _ in seen]
    assert [] in states
    assert [ArchiveState.UNFINISHED] in states
    first = states.index([ArchiveState.COMPLETE])
    assert all(state == [ArchiveState.COMPLETE] for state in states[first:])
    assert all(state != [ArchiveState.COMPLETE] for state in states[:first])
    assert sum(count for _, count in seen) >= 10, "killed writers leave hidden files, and those are found"
    assert seen[-1] == ([ArchiveState.COMPLETE], 0)
