"""What the ``icp`` command says of canisters, and the files in which it keeps their ids, are read by us."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from knowtation_backup.model.canisters import RunState
from knowtation_backup.model.ids import MANAGEMENT_CANISTER, Principal
from knowtation_backup.sandbox import SandboxNetwork, SandboxServer, candid
from knowtation_backup.snapshots.registry import CanisterRegistry
from knowtation_backup.snapshots.status_text import StatusText, parse_status, parse_statuses

pytestmark = [pytest.mark.peers, pytest.mark.sandbox]

MINTING = bytes.fromhex("00000000000000040101")
LEDGER = bytes.fromhex("00000000021000020101")
PROJECT = """
networks:
  - name: sandbox
    mode: connected
    url: {url}
    root-key: {root_key}
environments:
  - name: staging
    network: sandbox
  - name: part
    network: sandbox
    canisters: [second]
canisters:
  - name: counter
    build: &build
      steps:
        - type: script
          command: "true"
  - canisters/*
"""

Run = Callable[..., str]


@pytest.fixture
def icp(node_modules: Path, tmp_path: Path) -> Run:
    """Runs the command with a home and an identity of its own, and returns its standard output."""
    binary = node_modules / "@icp-sdk" / "icp-cli-linux-x64" / "bin" / "icp"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ICP_HOME": str(tmp_path), "DO_NOT_TRACK": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603 - the peer under test
            [binary, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    pem = ec.derive_private_key(0xC0FFEE, ec.SECP256K1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (tmp_path / "identity.pem").write_bytes(pem)
    run("settings", "update-check", "disabled")
    run("settings", "telemetry", "false")
    run("identity", "import", "operator", "--from-pem", str(tmp_path / "identity.pem"), "--storage", "plaintext")
    return run


def test_every_form_of_the_status_is_read(
    icp: Run, network: SandboxNetwork, server: SandboxServer, counter_wasm: bytes
) -> None:
    operator = Principal.parse(icp("identity", "principal", "--identity", "operator"))
    canister = Principal(network.create_canister(counter_wasm, controllers=[operator.raw]))
    target = ("-n", server.url, "-k", network.root_key.hex(), "--identity", "operator")
    changes = ("--add-environment-variable", "STAGE=production", "--add-log-viewer", "aaaaa-aa")
    icp("canister", "settings", "update", str(canister), *changes, *target)

    def read(*options: str) -> StatusText:
        return parse_status(icp("canister", "status", str(canister), *options, *target))

    status, printed = read("--json"), read()
    for form in (status, printed):
        assert (form.canister_id, form.run_state, form.controllers) == (canister, RunState.RUNNING, (operator,))
        assert form.settings["environment_variables"] == {"STAGE": "production"}
        assert form.settings["log_visibility"] == (MANAGEMENT_CANISTER,)
        assert form.settings["freezing_threshold"] == 2_592_000
        assert form.cycles is not None
        assert form.cycles > 10**13
        assert form.query_stats["num_calls_total"] == 0
    assert printed.settings == status.settings
    assert (printed.module_hash, printed.memory_size_bytes) == (status.module_hash, status.memory_size_bytes)

    public = read("--json", "--public")
    assert public.public_only
    assert (public.canister_id, public.controllers) == (canister, (operator,))
    assert public.module_hash == status.module_hash
    assert read("--public") == public

    network.canisters[canister.raw].code = None
    assert read("--json").has_code is False
    assert read().has_code is False


def test_a_project_of_icp_is_read_with_the_ids_it_keeps(  # noqa: PLR0917 - fixtures
    icp: Run,
    network: SandboxNetwork,
    server: SandboxServer,
    tmp_path: Path,
    minting_wasm: bytes,
    ledger_wasm: bytes,
) -> None:
    subnets = candid.encode([candid.Vec(candid.PRINCIPAL)], [[network.subnet_id]])
    network.create_canister(minting_wasm, subnets, specified_id=MINTING)
    network.create_canister(ledger_wasm, specified_id=LEDGER)
    (tmp_path / "icp.yaml").write_text(PROJECT.format(url=server.url, root_key=network.root_key.hex()))
    folder = tmp_path / "canisters" / "second"
    folder.mkdir(parents=True)
    (folder / "canister.yaml").write_text("name: second\nbuild: {steps: [{type: script, command: 'true'}]}\n")
    target = ("-e", "staging", "--identity", "operator")
    icp("canister", "create", "counter", *target)
    assert CanisterRegistry.from_project(tmp_path, network="staging").unresolved == ("second",)
    icp("canister", "create", "second", *target)

    registry = CanisterRegistry.from_project(tmp_path, network="staging")
    told = parse_statuses(icp("canister", "status", "--json", *target))
    assert {(entry.name, entry.canister_id) for entry in registry} == {(each.name, each.canister_id) for each in told}
    assert registry.names == ("counter", "second")
    assert CanisterRegistry.from_project(tmp_path, network="part").unresolved == ("second",)
    mapping = tmp_path / ".icp" / "data" / "mappings" / "staging.ids.json"
    assert CanisterRegistry.from_canister_ids(mapping, network="staging") == registry
