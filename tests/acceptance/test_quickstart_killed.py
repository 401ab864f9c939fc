"""The README's first command, interrupted in the middle of its backup, leaves nothing that looks like an archive."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from knowtation_backup import ArchiveState, FsspecSink, Pipeline, VerifyLevel
from knowtation_backup.operations.read import read_manifest

pytestmark = pytest.mark.sandbox

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"
PATIENCE_SECONDS = 60


def _start(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own example
        [sys.executable, str(QUICKSTART), str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _wait_for_the_backup(child: subprocess.Popen[str], directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(directory.glob("side/*/started.json")):
        assert child.poll() is None, "the example ended before its backup began"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _assert_nothing_half_written(directory: Path) -> list[ArchiveState]:
    """Check what is visible under final names; return the states of what is listed."""
    pipeline = Pipeline(sink=FsspecSink(directory))
    archives = pipeline.list()
    for info in archives:
        if info.state is not ArchiveState.UNFINISHED:
            assert pipeline.verify(info.archive_id, level=VerifyLevel.PRESENCE).ok
            stored = (directory / info.archive_id).read_bytes()
            assert hashlib.sha256(stored).hexdigest() == read_manifest(pipeline.sink, info.archive_id).artifact.sha256
    published = {path.name for path in directory.glob("operator-full-export-*")}
    assert published == {info.archive_id for info in archives if info.state is ArchiveState.COMPLETE}
    return [info.state for info in archives]


@pytest.mark.parametrize(
    ("kill", "after_seconds"), [(signal.SIGKILL, 0.0), (signal.SIGINT, 0.0), (signal.SIGKILL, 0.3)]
)
def test_interrupted_in_the_middle_of_the_backup(tmp_path: Path, kill: signal.Signals, after_seconds: float) -> None:
    with _start(tmp_path) as child:
        try:
            _wait_for_the_backup(child, tmp_path)
            time.sleep(after_seconds)
            child.send_signal(kill)
            _, errors = child.communicate(timeout=PATIENCE_SECONDS)
        finally:
            child.kill()
    states = _assert_nothing_half_written(tmp_path)
    if after_seconds and child.returncode != -kill:
        assert child.returncode == 0, errors  # a fast machine was done by then
    elif not after_seconds:
        assert child.returncode == -kill, errors
        assert states == [ArchiveState.UNFINISHED]
    if kill is signal.SIGINT:
        assert list(FsspecSink(tmp_path).leftovers()) == [], "it could still tidy up"


def test_the_next_run_finishes_beside_what_a_dead_one_left(tmp_path: Path) -> None:
    with _start(tmp_path) as child:
        try:
            _wait_for_the_backup(child, tmp_path)
        finally:
            child.kill()
    with _start(tmp_path) as child:
        output, errors = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 0, errors
    assert "verified      ok" in output
    assert sorted(_assert_nothing_half_written(tmp_path), key=lambda state: state.value) == [
        ArchiveState.COMPLETE,
        ArchiveState.UNFINISHED,
    ]
