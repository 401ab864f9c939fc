"""Running the real ``icp`` command."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import attrs


@attrs.define
class Icp:
    """Runs the command with a home and an identity of its own."""

    binary: Path
    home: Path
    target: tuple[str, ...] = ()

    def run(self, *arguments: str, ok: bool = True) -> str:
        """Return what the command printed (standard error for failures)."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "ICP_HOME": str(self.home),
            "DO_NOT_TRACK": "1",
        }
        done = subprocess.run(  # noqa: S603 - the peer under test
            [self.binary, *arguments, *self.target],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout.strip() if ok else done.stderr

    def canister(self, *arguments: str, ok: bool = True) -> str:
        return self.run("canister", *arguments, ok=ok)

    def snapshot(self, *arguments: str) -> str:
        return self.run("canister", "snapshot", *arguments)
