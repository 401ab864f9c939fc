"""
Unmodified third-party clients against the sandbox.

npm packages are looked for in ``tests/peers/node_modules`` (``npm install`` in this folder) or below the directory
named by ``KNOWTATION_BACKUP_PEERS``. Without them the tests that need them are skipped; where ``CI`` is set they fail.
"""

import json
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import wasmtime
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from icp_command import Icp

from knowtation_backup.sandbox import SandboxNetwork, SandboxServer

HERE = Path(__file__).parent


def unavailable(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder with the npm packages at the pinned versions."""
    pinned: dict[str, str] = json.loads((HERE / "package.json").read_text())["dependencies"]
    named = os.environ.get("KNOWTATION_BACKUP_PEERS")
    places = [HERE / "node_modules", *([Path(named), Path(named) / "node_modules"] if named else [])]
    for place in places:
        found = {name: place / name / "package.json" for name in pinned}
        if not all(path.exists() for path in found.values()):
            continue
        versions = {name: json.loads(path.read_text())["version"] for name, path in found.items()}
        if versions == pinned:
            return place.resolve()
    unavailable(f"npm packages {pinned} not found: run 'npm install' in tests/peers or set KNOWTATION_BACKUP_PEERS")
    raise AssertionError


@pytest.fixture(scope="session")
def node() -> str:
    path = shutil.which("node")
    if path is None:
        unavailable("node is not installed")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def python_peers() -> dict[str, str]:
    """Versions of the Python clients, as installed."""
    return {name: metadata.version(name) for name in ("ic-py", "icp-py-core", "cbor2")}


def wat(name: str) -> bytes:
    return bytes(wasmtime.wat2wasm((HERE.parent / "data" / f"{name}.wat").read_text()))


@pytest.fixture(scope="session")
def counter_wasm() -> bytes:
    return wat("counter")


@pytest.fixture(scope="session")
def ledger_wasm() -> bytes:
    return wat("cycles_ledger")


@pytest.fixture(scope="session")
def minting_wasm() -> bytes:
    return wat("minting")


@pytest.fixture(params=[True, False], ids=["delegation", "root"])
def network(request: pytest.FixtureRequest) -> Iterator[SandboxNetwork]:
    with SandboxNetwork(delegation=request.param) as running:
        yield running


@pytest.fixture
def server(network: SandboxNetwork) -> Iterator[SandboxServer]:
    with network.serve() as running:
        yield running


@pytest.fixture
def counter(network: SandboxNetwork, counter_wasm: bytes) -> bytes:
    return network.create_canister(counter_wasm)


@pytest.fixture(scope="session")
def state_wasm() -> bytes:
    return wat("state")


@pytest.fixture
def icp(node_modules: Path, tmp_path: Path, network: SandboxNetwork, server: SandboxServer) -> Icp:
    home = tmp_path / "icp-home"
    home.mkdir()
    command = Icp(node_modules / "@icp-sdk" / "icp-cli-linux-x64" / "bin" / "icp", home)
    key = ec.derive_private_key(0xC0FFEE, ec.SECP256K1())
    pem = home / "identity.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    command.run("settings", "update-check", "disabled")
    command.run("settings", "telemetry", "false")
    command.run("identity", "import", "operator", "--from-pem", str(pem), "--storage", "plaintext")
    command.target = ("-n", server.url, "-k", network.root_key.hex(), "--identity", "operator")
    return command
