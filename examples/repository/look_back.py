"""
Look back: list, diff, diff of one note, history of a note, as of a moment, what is missing.

    python examples/repository/look_back.py
"""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path

from _days import START, export_file, three_days


def main(directory: Path) -> None:
    """Ask everything that can be asked without restoring."""
    pipeline = three_days(directory)
    print("-- list")
    for archive in pipeline.list():
        print(archive)

    print("-- diff: from the first day to the last")
    print(pipeline.diff("latest-2", "latest"))
    print(pipeline.diff_note("google:1", "default", "plan.md", "latest-2", "latest"))

    print("-- diff_live: from the last archive to what the hub would export now")
    print(pipeline.diff_live("latest", export_file(directory, 0)))

    print("-- history of one note")
    for version in pipeline.history("google:1", "default", "plan.md").versions:
        print(version)

    print("-- as_of: what was there at noon of the second day")
    print(pipeline.as_of(START + dt.timedelta(days=1, hours=4)))

    print("-- missing: what has no backup of the fourth day, of all that there should be")
    fourth = START + dt.timedelta(days=3)
    print(pipeline.missing(fourth, expected=["canister-snapshot@bnz7o-iuaaa-aaaaa-qaaaa-cai"]))


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp(prefix="knowtation-backup-")))
