"""Empty sinks of every kind, as many as a test wants."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sftp_server as servers
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import S3Server
from s3fs import S3FileSystem

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.sinks.s3_options import S3Options

MakeSink = Callable[[], ArchiveSink]


@pytest.fixture(scope="module")
def sftp_sinks() -> Iterator[servers.SinkAt]:
    program = [servers.OPENSSH, "-e"] if servers.OPENSSH else None
    with servers.sftp_server(program=program) as server, servers.connection(server) as sinks:
        yield sinks


@pytest.fixture(scope="module")
def s3_sinks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], FsspecSink]]:
    with S3Server(tmp_path_factory.mktemp("s3") / "server") as server:
        bucket = server.make_bucket("faults")
        filesystem = S3FileSystem(**server.storage_options(), skip_instance_cache=True, use_listings_cache=False)
        options = S3Options(conditional=True)
        yield lambda prefix: FsspecSink(filesystem, f"{bucket}/{prefix}", s3=options, sleep=lambda _seconds: None)
        S3FileSystem.close_session(filesystem.loop, filesystem._s3creator)


@pytest.fixture
def make_sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeSink]:
    """Makes empty sinks at the place that is the parameter."""
    numbers = itertools.count()
    token = uuid.uuid4().hex
    match request.param:
        case "memory":
            yield lambda: MemorySink(permissions="lrw")
        case "fsspec memory":
            yield lambda: FsspecSink(f"memory:///{token}/{next(numbers)}")
            MemoryFileSystem().rm(f"/{token}", recursive=True)
        case "local":
            yield lambda: FsspecSink(tmp_path / str(next(numbers)))
        case "mirror":
            yield lambda: MirrorSink(
                {
                    "one": MemorySink(permissions="lrw"),
                    "other": FsspecSink(f"memory:///{token}/{next(numbers)}"),
                }
            )
            MemoryFileSystem().rm(f"/{token}", recursive=True)
        case "sftp":
            sinks = request.getfixturevalue("sftp_sinks")
            yield lambda: sinks(tmp_path / str(next(numbers)))
        case "s3":
            buckets = request.getfixturevalue("s3_sinks")
            yield lambda: buckets(f"{token}/{next(numbers)}")
        case other:  # pragma: no cover - a mistake in a test
            raise AssertionError(other)
