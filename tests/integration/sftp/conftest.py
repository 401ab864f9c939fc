"""Sinks on real SFTP servers: asyncssh's own, and OpenSSH's program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sftp_server as servers
from sftp_server import SinkAt

from knowtation_backup.sinks.fsspec import FsspecSink

pytest.register_assert_rewrite("knowtation_backup.testing.sinks")


@pytest.fixture(scope="module", params=["asyncssh", "openssh"])
def server(request: pytest.FixtureRequest) -> Iterator[servers.SftpServer]:
    program = None
    if request.param == "openssh":
        if servers.OPENSSH is None:
            pytest.skip("OpenSSH's sftp-server is not installed")
        program = [servers.OPENSSH, "-e"]
    with servers.sftp_server(program=program) as running:
        yield running


@pytest.fixture(scope="module")
def connected(server: servers.SftpServer) -> Iterator[SinkAt]:
    with servers.connection(server) as sinks:
        yield sinks


@pytest.fixture
def sink(connected: SinkAt, tmp_path: Path) -> FsspecSink:
    return connected(tmp_path / "not" / "made" / "yet")
