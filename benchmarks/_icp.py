"""The ``icp`` command as the reference of snapshot transfers: where it is, its identity, its figures."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from pathlib import Path

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

BINARY = Path("node_modules") / "@icp-sdk" / "icp-cli-linux-x64" / "bin" / "icp"
PEERS = Path(__file__).parent.parent / "tests" / "peers"


def find() -> Path | None:
    """Return the released command where the tests of peers look for it."""
    named = os.environ.get("KNOWTATION_BACKUP_PEERS")
    places = [PEERS, *([Path(named)] if named else [])]
    return next((place / BINARY for place in places if (place / BINARY).exists()), None)


def write_identity(path: Path) -> bytes:
    """
    Write an Ed25519 key as PEM, which both sides read, and return it.

    The network here checks the signature of every request on the processors that both sides use, and ECDSA over
    secp256k1 takes three times as long to check and ten times to make.
    """
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem)
    path.chmod(0o600)
    return pem


@attrs.frozen(kw_only=True)
class Figures:
    """What one run of the command needed."""

    wall_seconds: float
    peak_bytes: int
    output: str


@attrs.define
class Icp:
    """Runs the command with a home of its own."""

    binary: Path
    home: Path
    target: tuple[str, ...] = ()

    @classmethod
    def prepared(cls, binary: Path, home: Path, pem: Path, *, url: str, root_key: bytes) -> Icp:
        """Return the command with an identity imported and a network chosen."""
        home.mkdir(parents=True)
        command = cls(binary, home)
        command.run("settings", "update-check", "disabled")
        command.run("settings", "telemetry", "false")
        command.run("identity", "import", "operator", "--from-pem", str(pem), "--storage", "plaintext")
        command.target = ("-n", url, "-k", root_key.hex(), "--identity", "operator")
        return command

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command."""
        return subprocess.Popen(  # noqa: S603 - the reference we measure against
            [self.binary, *arguments, *self.target],
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "ICP_HOME": str(self.home), "DO_NOT_TRACK": "1"},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> Figures:
        """Run the command to its end; a failure raises with all it said."""
        start = time.perf_counter()
        process = self.start(*arguments)
        output = process.stdout.read() if process.stdout is not None else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if process.returncode:
            message = f"icp {' '.join(arguments)} failed: {output}"
            raise RuntimeError(message)
        return Figures(wall_seconds=wall, peak_bytes=_peak(usage), output=output.strip())


def _peak(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * 1024
