"""A snapshot in an archive: sealed and stored by a pipeline, taken apart by tar, and still proved."""

import datetime as dt
import subprocess
from pathlib import Path

import pytest
from snapshot_source import snapshot_source

from knowtation_backup import EncryptionKey, FsspecSink, Ktb2Codec, Pipeline
from knowtation_backup.errors import InternalError
from knowtation_backup.snapshots.provenance import verify_provenance
from knowtation_backup.snapshots.source import CanisterSource

pytestmark = pytest.mark.sandbox


@pytest.mark.parametrize("chunks", [0, 2])
def test_an_archive_holds_a_directory_that_is_proved(tmp_path: Path, chunks: int) -> None:
    with snapshot_source(pieces=2, chunks=chunks) as source:
        captured = CanisterSource(
            management=source.management, canister_id=source.canister_id, snapshot_id=source.snapshot_id
        )
        codec = Ktb2Codec(seal_to=EncryptionKey(raw=bytes(range(32))))
        pipeline = Pipeline(source=captured, sink=FsspecSink(tmp_path / "backups"), codec=codec)
        report = pipeline.backup()
        assert report.manifest.kind == "canister-snapshot"
        assert report.archive_id.startswith("canister-snapshot-")
        assert pipeline.verify(report.archive_id).ok
        payload = b"".join(pipeline.read(report.archive_id))
        (tmp_path / "out").mkdir()
        # Any tar program reads it; that of Python asks for a filter, but only from 3.11.4 on.
        subprocess.run(["tar", "-x", "-f", "-", "-C", str(tmp_path / "out")], input=payload, check=True)  # noqa: S603, S607
        proved = verify_provenance(tmp_path / "out", root_key=source.network.root_key, canister_id=source.canister_id)
        assert proved.snapshot_id == source.snapshot_id
        assert pipeline.details(report.archive_id).capture["snapshot_id"] == str(source.snapshot_id)


def test_a_capture_is_read_once() -> None:
    with snapshot_source() as source:
        capture = CanisterSource(
            management=source.management, canister_id=source.canister_id, snapshot_id=source.snapshot_id
        ).capture(taken_at=dt.datetime(2026, 11, 21, tzinfo=dt.UTC))
        with pytest.raises(InternalError):
            capture.result()
        for _ in capture.chunks():
            pass
        assert capture.result().complete
        with pytest.raises(InternalError):
            next(capture.chunks())
