"""The contract over real SFTP servers."""

import pytest

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.testing.sinks import SinkContract


class TestSftp(SinkContract):
    large_bytes = (5 << 20) + 1  # beyond two exchanges of 2 MiB
    many_blobs = 150  # beyond the 100 names of one reply

    @pytest.fixture
    def sink(self, sink: FsspecSink) -> ArchiveSink:
        return sink
