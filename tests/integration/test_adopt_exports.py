"""Exports of a real hub, left without manifests as the existing tools leave theirs, are adopted whole."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from knowtation_backup import (
    AdoptOptions,
    ArchiveState,
    BackupSource,
    Codec,
    CodecChain,
    Compression,
    EncryptionKey,
    FsspecSink,
    HubClient,
    Ktb1Codec,
    OperatorExporter,
    Pipeline,
    VaultExporter,
)
from knowtation_backup.operations.adopt import adopt_all
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

pytestmark = pytest.mark.sandbox

OPERATOR_KEY = "operator key of the integration tests, long enough"
NOW = dt.datetime(2026, 4, 8, 15, 30, 22, 123_000, dt.UTC)
CODEC = Ktb1Codec(EncryptionKey.generate())


@pytest.fixture(scope="module")
def client() -> Iterator[HubClient]:
    with SandboxNetwork() as network:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY)
        seed(hub, SeedPlan.showcase(oversized=False, seed=5))
        with HubClient(hub.base_url(), operator_key=OPERATOR_KEY, transport=network.transport()) as client:
            yield client


@attrs.frozen(kw_only=True)
class Left:
    """A backup of ours, and its bare artifact in another directory."""

    ours: Pipeline
    theirs: Pipeline
    archive_id: str


def leave(source: BackupSource, folder: Path, codec: Codec | None) -> Left:
    ours = Pipeline(source=source, sink=FsspecSink(folder / "ours"), codec=codec, clock=lambda: NOW)
    archive_id = ours.backup().archive_id
    (folder / "theirs").mkdir()
    (folder / "theirs" / archive_id).write_bytes((folder / "ours" / archive_id).read_bytes())
    theirs = Pipeline(sink=FsspecSink(folder / "theirs"), codec=codec, clock=lambda: NOW)
    return Left(ours=ours, theirs=theirs, archive_id=archive_id)


@pytest.mark.parametrize(
    "codec", [None, CODEC, CodecChain(Compression("zstd"), CODEC)], ids=["plain", "sealed", "compressed"]
)
def test_a_full_export_is_adopted_with_the_facts_its_own_backup_recorded(
    client: HubClient, tmp_path: Path, codec: Codec | None
) -> None:
    left = leave(OperatorExporter(client), tmp_path, codec)
    recorded, known = left.ours.manifest(), left.ours.details()
    adoption = left.theirs.adopt(left.archive_id, AdoptOptions(source_id=recorded.source_id))
    assert adoption.manifest.artifact == recorded.artifact
    assert adoption.manifest.codecs == recorded.codecs
    assert adoption.manifest.taken_at == recorded.taken_at
    assert adoption.manifest.counts.items() <= recorded.counts.items()
    assert adoption.manifest.counts["notes"] > 10
    details = left.theirs.details()
    assert (details.payload_bytes, details.payload_sha256) == (known.payload_bytes, known.payload_sha256)
    assert details.capture["content_root"] == known.capture["content_root"]
    assert left.theirs.verify().ok
    (info,), (original,) = left.theirs.list(), left.ours.list()
    assert (info.series, info.taken_at, info.kind, info.state) == (
        original.series,
        original.taken_at,
        original.kind,
        ArchiveState.COMPLETE,
    )


def test_a_vault_joins_the_series_of_its_backups(client: HubClient, tmp_path: Path) -> None:
    user_id = client.index_page().user_ids[0]
    left = leave(VaultExporter(client, user_id=user_id, vault_id="default"), tmp_path, CODEC)
    recorded = left.ours.manifest()
    hub = recorded.source_id.partition("/")[0]
    adoption = left.theirs.adopt(left.archive_id, AdoptOptions(source_id=hub, user_id=user_id))
    assert adoption.manifest.source_id == recorded.source_id
    assert left.theirs.details().capture["content_root"] == left.ours.details().capture["content_root"]
    assert left.theirs.verify().ok


def test_a_whole_directory_is_adopted_at_once(client: HubClient, tmp_path: Path) -> None:
    left = leave(OperatorExporter(client), tmp_path, CODEC)
    data = (tmp_path / "theirs" / left.archive_id).read_bytes()
    for day in range(1, 4):
        (tmp_path / "theirs" / f"operator-full-export-2026040{day}T073000Z.json.enc").write_bytes(data)
    (tmp_path / "theirs" / "operator-full-export-20260405T073000Z.json.enc").write_bytes(data[:-1])
    report = adopt_all(left.theirs.sink, CODEC)
    assert (len(report.adopted), len(report.failed)) == (4, 1)
    assert left.theirs.latest().archive_id == left.archive_id
    verdict = left.theirs.verify_all()
    assert (len(verdict.reports), verdict.exit_code) == (4, 0)
    assert [info.archive_id for info in left.theirs.list() if not info.managed] == [report.failed[0].archive_id]
