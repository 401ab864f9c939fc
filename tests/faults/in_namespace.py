"""Run by test_real_disks: store archives on a real tiny file system, print what happened as JSON."""

import json
import subprocess
import sys
from pathlib import Path

from knowtation_backup.errors import BackupError
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sources import FakeSource


def attempt(sink: FsspecSink, size_bytes: int) -> dict[str, object]:
    source = FakeSource(payload=(bytes(65_536),) * (size_bytes // 65_536))
    try:
        report = Pipeline(source=source, sink=sink).backup()
    except BackupError as error:
        facts = {name: value for name, value in error.context.items() if isinstance(value, int)}
        return {"error": type(error).__name__, "kind": error.kind, "hint": error.hint, **facts}
    return {"archive": report.archive_id}


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)  # noqa: S603, S607 - wherever this system keeps it


def main(mount_point: Path) -> None:
    mount("-t", "tmpfs", "-o", "size=2m", "none", str(mount_point))
    sink = FsspecSink(mount_point / "archives")
    results: dict[str, object] = {"fits": attempt(sink, 1 << 20), "full": attempt(sink, 4 << 20)}
    results["files"] = sorted(str(path.relative_to(mount_point)) for path in mount_point.rglob("*") if path.is_file())
    pipeline = Pipeline(sink=sink)
    results["states"] = [info.state.value for info in pipeline.list()]
    complete = next(info for info in pipeline.list() if info.state is ArchiveState.COMPLETE)
    results["verified"] = pipeline.verify(complete.archive_id).ok
    mount("-o", "remount,ro", str(mount_point))
    results["read-only"] = attempt(sink, 65_536)
    results["still readable"] = pipeline.verify(complete.archive_id).ok
    print(json.dumps(results))  # noqa: T201 - how it reports


if __name__ == "__main__":
    main(Path(sys.argv[1]))
