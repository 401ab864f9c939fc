"""What acceptance tests share: a stage with a real hub on it, and a directory whose good archive must stay good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from knowtation_backup import (
    ArchiveState,
    EncryptionKey,
    FsspecSink,
    HubClient,
    Ktb1Codec,
    OperatorExporter,
    Pipeline,
    VerifyLevel,
)
from knowtation_backup.hub.limits import HubLimits, HubTimeouts
from knowtation_backup.sandbox import FaultPlan, SandboxNetwork, SandboxServer
from knowtation_backup.sandbox.hub import SandboxHub

OPERATOR_KEY = "planted-operator-key-0123456789abcdef"
GATEWAY_SECRET = "planted-gateway-secret-0123456789abcdef"
KEY_HEX = "5eed" * 16


@attrs.frozen(kw_only=True)
class Stage:
    """The hub and how to reach it."""

    faults: FaultPlan
    network: SandboxNetwork
    server: SandboxServer
    hub: SandboxHub

    @property
    def url(self) -> str:
        return self.hub.base_url(self.server)


@attrs.frozen(kw_only=True)
class Vault:
    """A directory with one good archive, and what must still hold after something went wrong."""

    directory: Path
    archive_id: str

    def pipeline(self, client: HubClient, *, directory: Path | None = None) -> Pipeline:
        return Pipeline(
            source=OperatorExporter(client),
            sink=FsspecSink(directory or self.directory),
            codec=Ktb1Codec(EncryptionKey.from_hex(KEY_HEX)),
        )

    def assert_unharmed(self) -> None:
        """The good archive verifies to the last byte, and nothing else claims to be one."""
        pipeline = Pipeline(sink=FsspecSink(self.directory), codec=Ktb1Codec(EncryptionKey.from_hex(KEY_HEX)))
        assert pipeline.verify(self.archive_id, level=VerifyLevel.CONTENT, record=False).findings == ()
        others = {info.state for info in pipeline.list() if info.archive_id != self.archive_id}
        assert others <= {ArchiveState.UNFINISHED}


def connect(url: str, **changes: Any) -> HubClient:
    """Return a client that does not wait long."""
    options: dict[str, Any] = {
        "operator_key": OPERATOR_KEY,
        "gateway_secret": GATEWAY_SECRET,
        "sleep": lambda _seconds: None,
        "timeouts": HubTimeouts(connect_seconds=2, read_seconds=2, total_seconds=3),
        "limits": HubLimits(reply_bytes=1_000_000, index_pages=50),
        **changes,
    }
    return HubClient(url, **options)
