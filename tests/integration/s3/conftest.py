"""A real S3 server for this worker, and sinks on it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from s3_server import Identity, S3Server
from s3fs import S3FileSystem
from tcp_proxy import TcpProxy

from knowtation_backup.sinks._s3_client import client_settings
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.s3_options import S3Options

pytest.register_assert_rewrite("knowtation_backup.testing.sinks")

MakeSink = Callable[..., FsspecSink]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture(scope="session")
def bucket(server: S3Server) -> str:
    """One for all tests that need no rules of their own: the server takes half a second for the first write to one."""
    return server.make_bucket("shared-bucket")


@pytest.fixture(scope="session")
def filesystem(server: S3Server) -> Iterator[S3FileSystem]:
    """One session for all tests that need no way of their own, since making one is slow."""
    yield from _filesystem(server.storage_options())


@pytest.fixture(scope="session")
def shared_proxy(server: S3Server) -> Iterator[TcpProxy]:
    with TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def proxied_filesystem(server: S3Server, shared_proxy: TcpProxy) -> Iterator[S3FileSystem]:
    yield from _filesystem(server.storage_options(endpoint_url=shared_proxy.url))


def _filesystem(options: dict[str, Any]) -> Iterator[S3FileSystem]:
    settings = client_settings(S3Options(), options)
    filesystem = S3FileSystem(**settings, skip_instance_cache=True, use_listings_cache=False)
    yield filesystem
    if filesystem._s3 is not None:
        S3FileSystem.close_session(filesystem.loop, filesystem._s3creator)


@pytest.fixture
def proxy(shared_proxy: TcpProxy) -> Iterator[TcpProxy]:
    shared_proxy.heads.clear()
    yield shared_proxy
    shared_proxy.rules = []


@pytest.fixture
def prefix() -> str:
    return f"some/{uuid.uuid4().hex}"


@pytest.fixture
def make_sink(
    server: S3Server, bucket: str, filesystem: S3FileSystem, proxied_filesystem: S3FileSystem, prefix: str
) -> Iterator[MakeSink]:
    """Make sinks with a prefix of their own, which are closed at the end and never sleep."""
    made: list[FsspecSink] = []

    def make(
        *,
        who: Identity | None = None,
        through: TcpProxy | None = None,
        storage_options: dict[str, Any] | None = None,
        place: str = f"{bucket}/{prefix}",
        keywords: dict[str, Any] | None = None,
        **options: Any,
    ) -> FsspecSink:
        facts = {"s3": S3Options(**{"conditional": True, **options}), "sleep": lambda _: None, **(keywords or {})}
        if who is None and storage_options is None:
            return FsspecSink(proxied_filesystem if through else filesystem, place, **facts)
        address = {"endpoint_url": through.url} if through else {}
        settings = {**server.storage_options(who), **address, **(storage_options or {})}
        sink = FsspecSink(f"s3://{place}", storage_options=settings, **facts)
        made.append(sink)
        return sink

    yield make
    for sink in made:
        sink.close()
