"""
Run by test_kill: a backup that is going to be killed.

``slow ROOT`` stores one archive slowly and says ``chunk N`` on standard output as it goes. ``every ROOT`` forks, for
every operating system call a backup makes, a child that kills itself with SIGKILL right before that call, each in a
directory of its own, and prints how many there were.
"""

import datetime as dt
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.model.events import Event
from knowtation_backup.model.reports import SideFile
from knowtation_backup.operations.backup import backup
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sources import FakeSource

CODEC = Ktb1Codec(EncryptionKey(raw=bytes(range(32))))
SOURCE = FakeSource(payload=(b"x" * 65_536,) * 100, side_files=(SideFile(name="raw-0001.txt", content=b"raw"),))
SMALL = FakeSource(payload=(b"x" * 300_000, b"y" * 300_000), side_files=SOURCE.side_files)
MOMENT = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)
CALLS = ("open", "mkdir", "write", "fsync", "link", "unlink", "close", "stat")


def slow(root: Path) -> None:
    def tell(event: Event) -> None:
        if event.name == "fake.progress":
            print("chunk", event.fields["chunks"], flush=True)  # noqa: T201 - how the parent knows when to kill
            time.sleep(0.002)

    backup(SOURCE, FsspecSink(root), CODEC, observer=tell, clock=lambda: MOMENT)


def die_before(number: int) -> None:
    """Let the process be killed right before its call *number* of any of `CALLS`."""
    made = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            if made == number:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))


def every(root: Path) -> None:
    for number in range(1000):
        child = os.fork()
        if child == 0:
            sink = FsspecSink(root / f"{number:03d}")
            die_before(number)
            backup(SMALL, sink, CODEC, clock=lambda: MOMENT)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            print(number, os.WEXITSTATUS(status), flush=True)  # noqa: T201 - how it reports
            return


if __name__ == "__main__":
    {"slow": slow, "every": every}[sys.argv[1]](Path(sys.argv[2]))
