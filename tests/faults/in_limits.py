"""Run by test_real_disks: store an archive larger than a file may be here, print what happened as JSON."""

import json
import resource
import signal
import sys
from pathlib import Path

from knowtation_backup.errors import BackupError
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sources import FakeSource


def main(root: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        Pipeline(source=FakeSource(payload=(bytes(65_536),) * 32), sink=FsspecSink(root)).backup()
        result: dict[str, object] = {}
    except BackupError as error:
        result = {"error": type(error).__name__, "kind": error.kind, "hint": error.hint}
    print(json.dumps(result))  # noqa: T201 - how it reports


if __name__ == "__main__":
    main(Path(sys.argv[1]))
