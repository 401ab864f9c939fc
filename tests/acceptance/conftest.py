"""A real hub in the sandbox, and a directory that already holds one good archive of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from stage import GATEWAY_SECRET, OPERATOR_KEY, Stage, Vault, connect

from knowtation_backup.sandbox import FaultPlan, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    faults = FaultPlan()
    with SandboxNetwork(faults=faults) as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY, gateway_secret=GATEWAY_SECRET)
        seed(hub, SeedPlan(tenants=3, vaults=2, notes=5, proposals=2))
        yield Stage(faults=faults, network=network, server=server, hub=hub)


@pytest.fixture(scope="session")
def good_archive(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Vault:
    directory = tmp_path_factory.mktemp("good")
    with connect(stage.url) as client:
        vault = Vault(directory=directory, archive_id="")
        report = vault.pipeline(client).backup()
    assert report.manifest.complete
    return attrs.evolve(vault, archive_id=report.archive_id)


@pytest.fixture
def vault(good_archive: Vault, tmp_path: Path) -> Vault:
    """Return a private copy of the good archive."""
    directory = tmp_path / "backups"
    shutil.copytree(good_archive.directory, directory)
    return attrs.evolve(good_archive, directory=directory)
