"""The ``icp`` command: the whole life of a canister, and what it makes of faults."""

import hashlib
import json
import re
from importlib import resources

import pytest
from icp_command import Icp

from knowtation_backup.sandbox import (
    Answer,
    AnswerLater,
    SandboxNetwork,
    StaleCertificate,
    Tamper,
    candid,
)
from knowtation_backup.sandbox.principal import from_text, to_text

pytestmark = [pytest.mark.peers, pytest.mark.sandbox]

MINTING = bytes.fromhex("00000000000000040101")
LEDGER = bytes.fromhex("00000000021000020101")


@pytest.fixture
def created(icp: Icp, network: SandboxNetwork, minting_wasm: bytes, ledger_wasm: bytes) -> str:
    """A canister made with ``icp canister create``, which asks the two ledger canisters of a full network."""
    subnets = candid.encode([candid.Vec(candid.PRINCIPAL)], [[network.subnet_id]])
    network.create_canister(minting_wasm, subnets, specified_id=MINTING)
    network.create_canister(ledger_wasm, specified_id=LEDGER)
    return icp.canister("create", "--detached", "-q")


def install(icp: Icp, canister: str, wasm: bytes) -> None:
    module = icp.home / "module.wasm"
    module.write_bytes(wasm)
    icp.canister("install", canister, "--wasm", str(module), "--mode", "install", "-y")


def test_the_life_of_a_canister(icp: Icp, created: str, counter_wasm: bytes, network: SandboxNetwork) -> None:
    install(icp, created, counter_wasm)
    assert icp.canister("call", created, "inc", "()") == "(1 : nat64)"
    assert icp.canister("call", created, "inc", "()") == "(2 : nat64)"
    assert icp.canister("call", created, "get", "()", "--query") == "(2 : nat64)"
    assert "IC0503" in icp.canister("call", created, "boom", "()", ok=False)
    assert "IC0406" in icp.canister("call", created, "refuse", "()", ok=False)
    assert "service :" in icp.canister("metadata", created, "candid:service")
    assert icp.canister("metadata", created, "notes") == "for controllers"
    assert "on purpose" in icp.canister("logs", created)

    status = json.loads(icp.canister("status", created, "--json"))
    assert status["status"] == "Running"
    assert status["module_hash"] == "0x" + hashlib.sha256(counter_wasm).hexdigest()

    # Snapshots: taken, listed, downloaded, uploaded, restored, deleted.
    icp.canister("stop", created)
    assert "IC0508" in icp.canister("call", created, "inc", "()", ok=False)
    taken = json.loads(icp.snapshot("create", created, "--json"))
    assert json.loads(icp.snapshot("list", created, "--json")) == {"snapshots": [taken]}
    directory = icp.home / "snapshot"
    icp.snapshot("download", created, taken["snapshot_id"], "-o", str(directory))
    metadata = json.loads((directory / "metadata.json").read_text())
    assert (directory / "wasm_module.bin").read_bytes() == counter_wasm
    assert metadata["source"] == {"taken_from_canister": None}
    assert metadata["globals"] == [{"i64": 2}]
    assert (directory / "wasm_memory.bin").stat().st_size == metadata["wasm_memory_size"] == 40 * 65536
    uploaded = json.loads(icp.snapshot("upload", created, "-i", str(directory), "--json"))["snapshot_id"]
    icp.canister("start", created)
    assert icp.canister("call", created, "inc", "()") == "(3 : nat64)"
    icp.canister("stop", created)
    icp.snapshot("restore", created, uploaded)
    icp.canister("start", created)
    assert icp.canister("call", created, "get", "()", "--query") == "(2 : nat64)"
    icp.snapshot("delete", created, taken["snapshot_id"])
    (left,) = json.loads(icp.snapshot("list", created, "--json"))["snapshots"]
    assert left["snapshot_id"] == uploaded

    icp.canister("settings", "update", created, "--freezing-threshold", "40d")
    icp.canister("stop", created)
    icp.canister("delete", created, "--no-recover-cycles")
    assert set(network.canisters) == {MINTING, LEDGER}


def test_a_snapshot_of_several_megabytes(icp: Icp, network: SandboxNetwork) -> None:
    """The Motoko hub, installed in chunks: its module and heap take several requests each way, in parallel."""
    wasm = (resources.files("knowtation_backup.sandbox.hub") / "wasm" / "hub.wasm").read_bytes()
    bare = Icp(icp.binary, icp.home)
    operator = from_text(bare.run("identity", "principal", "--identity", "operator"))
    canister = to_text(network.create_canister(wasm, controllers=[operator]))
    icp.canister("stop", canister)
    first = json.loads(icp.snapshot("create", canister, "--json"))["snapshot_id"]
    directory = icp.home / "hub"
    icp.snapshot("download", canister, first, "-o", str(directory))
    second = json.loads(icp.snapshot("upload", canister, "-i", str(directory), "--json"))["snapshot_id"]
    again = icp.home / "again"
    icp.snapshot("download", canister, second, "-o", str(again))
    assert (directory / "wasm_memory.bin").stat().st_size > 4_000_000
    for name in ("wasm_module.bin", "wasm_memory.bin", "stable_memory.bin"):
        assert (directory / name).read_bytes() == (again / name).read_bytes(), name
    icp.snapshot("restore", canister, second)
    icp.canister("start", canister)


def test_it_polls_after_202_and_repeats_after_429(icp: Icp, network: SandboxNetwork, counter: bytes) -> None:
    network.faults.add(AnswerLater(1.0), endpoint="call", limit=1)
    network.faults.add(Answer(status=429), endpoint="call", nth=2)
    assert icp.canister("call", to_text(counter), "inc", "()") == "(1 : nat64)"
    assert network.requests.counts["read_state"] > 1
    assert icp.canister("call", to_text(counter), "inc", "()") == "(2 : nat64)"
    assert network.requests.counts["call"] == 3


@pytest.mark.parametrize(
    ("fault", "endpoint", "method"),
    [
        (Tamper("reply"), "call", "inc"),
        (Tamper("signature"), "call", "inc"),
        (StaleCertificate(3600), "call", "inc"),
        (Tamper("reply"), "query", "get"),
        (Tamper("signature"), "query", "get"),
    ],
)
def test_it_notices_what_is_wrong(  # noqa: PLR0917 - fixtures and cases
    icp: Icp, network: SandboxNetwork, counter: bytes, fault: Tamper | StaleCertificate, endpoint: str, method: str
) -> None:
    extra = ("--query",) if endpoint == "query" else ()
    network.faults.add(fault, endpoint=endpoint)  # type: ignore[arg-type] # a literal of the table
    said = icp.canister("call", to_text(counter), method, "()", *extra, ok=False)
    assert re.search(r"(?i)certificate|signature", said), said


def test_it_refuses_another_root_key(icp: Icp, counter: bytes) -> None:
    with SandboxNetwork(key_seed=b"another") as other:
        icp.target = (*icp.target[:3], other.root_key.hex(), *icp.target[4:])
    assert "Certificate verification failed" in icp.canister("call", to_text(counter), "inc", "()", ok=False)


def test_it_fetches_the_root_key(icp: Icp, counter: bytes) -> None:
    icp.target = (*icp.target[:3], "fetch", *icp.target[4:])
    assert icp.canister("call", to_text(counter), "inc", "()") == "(1 : nat64)"
