"""The sink contract on a real S3 server."""

from collections.abc import Callable

import pytest

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sinks import SinkContract


class TestS3(SinkContract):
    @pytest.fixture
    def sink(self, make_sink: Callable[..., FsspecSink]) -> ArchiveSink:
        sink = make_sink()
        assert sink.capabilities.create_only, "the race tests must not be skipped"
        return sink
