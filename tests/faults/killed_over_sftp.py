"""
Run by test_killed: forks, for every request a backup sends over SFTP, a child that kills itself right before it.

``killed_over_sftp.py ROOT OPTIONS`` gives each child a directory below ROOT, and prints how many there were. The last
one finishes its backup. Writes of chunks count as one request each time.
"""

import datetime as dt
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from knowtation_backup.operations.backup import backup
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sources import FakeSource

MOMENT = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
PAYLOAD = (b"x" * 60_000, b"y" * 60_000)
AT_ONCE = 8


def child(root: Path, options: dict[str, Any], number: int) -> None:
    sink = FsspecSink(f"sftp://{root}", storage_options={**options, "host_key_policy": "auto_add"})
    client = sink._store._fs.ftp  # type: ignore[attr-defined]
    send = client._send_packet
    sent = 0

    def dying(*packet: Any) -> None:
        nonlocal sent
        if sent == number:
            os.kill(os.getpid(), signal.SIGKILL)
        sent += 1
        send(*packet)

    client._send_packet = dying
    backup(FakeSource(payload=PAYLOAD), sink, clock=lambda: MOMENT)
    os._exit(0)


def main(root: Path, options: dict[str, Any]) -> None:
    for first in range(0, 1000, AT_ONCE):
        children = []
        for number in range(first, first + AT_ONCE):
            pid = os.fork()
            if pid == 0:
                try:
                    child(root / f"{number:03d}", options, number)
                finally:
                    os._exit(1)  # reached only by an error
            children.append((number, pid))
        codes = [(number, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for number, pid in children]
        finished = [number for number, code in codes if code == 0]
        if any(code not in {0, -signal.SIGKILL} for _, code in codes):
            sys.exit(f"children ended with {codes}")
        if finished:
            print(finished[0], flush=True)  # noqa: T201 - how it reports
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
