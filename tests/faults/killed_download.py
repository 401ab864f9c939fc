"""
Run by test_download_killed: downloads that are killed.

``URL ROOT_KEY CANISTER SNAPSHOT DIRECTORY KILLS MODE`` downloads once undisturbed. Then, for so many points drawn by a
seed, it forks a child that downloads and kills itself with SIGKILL right before one of its writes to the disk, and
another one that goes on with what is left. With the mode ``each`` every kill has a download of its own; with ``one``
all of them meet the same download, one after the other. Prints for each download the last point, the bytes that all its
processes received, and whether the directory is the same.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import httpx

from knowtation_backup.errors import BackupError
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.connections import LargeAnswers
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.snapshots.download import DIGESTS_FILE, DownloadOptions, download
from knowtation_backup.snapshots.provenance import PROVENANCE_FILE, verify_provenance


@attrs.define(eq=False)
class Counting(httpx.BaseTransport):
    """Notes the size of each answer in a file, where it survives the process."""

    inner: httpx.BaseTransport
    counter: int

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self.inner.handle_request(request)
        os.write(self.counter, int(response.headers["content-length"]).to_bytes(8, "big"))
        return response


@attrs.frozen
class Job:
    """One snapshot to download."""

    url: str
    root_key: bytes
    canister: Principal
    snapshot: SnapshotId
    root: Path

    def download(self, place: Path, counter: Path) -> None:
        counter_fd = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        transport = Counting(LargeAnswers(ssl_context=None), counter_fd)
        with Agent(self.url, root_key=self.root_key, transport=transport) as agent:
            options = DownloadOptions(concurrency=1)
            download(ManagementCanister(agent), self.canister, self.snapshot, place, options=options)

    def forked(self, place: Path, counter: Path, kill_before: int | None = None) -> int:
        """Download in a child and return how it ended, as `os.waitpid` says."""
        child = os.fork()
        if child == 0:
            if kill_before is not None:
                os.pwrite = killing(os.pwrite, kill_before)
            try:
                self.download(place, counter)
            except BackupError as error:
                print(error, flush=True)  # noqa: T201 - read by the test
                os._exit(2)
            os._exit(0)
        return os.waitpid(child, 0)[1]


def killing(real: Callable[..., int], number: int) -> Callable[..., int]:
    """Return a function that kills the process right before its call *number*."""
    made = 0

    def call(*args: Any) -> int:
        nonlocal made
        if made == number:
            os.kill(os.getpid(), signal.SIGKILL)
        made += 1
        return real(*args)

    return call


def contents(place: Path) -> dict[str, bytes]:
    """Return all files but those that hold nonces and times of the requests."""
    files = (path for path in place.rglob("*") if path.is_file() and path.name not in {PROVENANCE_FILE, DIGESTS_FILE})
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def main(job: Job, kills: int, *, one: bool) -> None:
    writes = 0
    real = os.pwrite

    def counting(*args: Any) -> int:
        nonlocal writes
        writes += 1
        return real(*args)

    os.pwrite = counting
    reference = job.root / "reference"
    job.download(reference, job.root / "reference.count")
    os.pwrite = real
    wanted = contents(reference)
    drawn = random.Random(20)  # noqa: S311 - the same points each time
    if one:
        points = [[drawn.randrange(2 * writes // (kills + 1)) for _ in range(kills)]]
    else:
        points = [[drawn.randrange(writes)] for _ in range(kills)]
    for number, before in enumerate(points):
        place, counter = job.root / f"{number:02d}", job.root / f"{number:02d}.count"
        for point in before:
            status = job.forked(place, counter, kill_before=point)
            assert os.WIFSIGNALED(status), status
            assert not place.exists()
        assert job.forked(place, counter) == 0
        if number % 5 == 0:
            assert verify_provenance(place, root_key=job.root_key).canister_id == job.canister
        sizes = counter.read_bytes()
        received = sum(int.from_bytes(sizes[start : start + 8], "big") for start in range(0, len(sizes), 8))
        size = sum(map(len, wanted.values()))
        print(before[-1], received, size, contents(place) == wanted, flush=True)  # noqa: T201 - read by the test


if __name__ == "__main__":
    url, root_key, canister, snapshot, root, kills, mode = sys.argv[1:]
    main(
        Job(url, bytes.fromhex(root_key), Principal.parse(canister), SnapshotId.parse(snapshot), Path(root)),
        int(kills),
        one=mode == "one",
    )
