"""The JavaScript agent: it verifies certificates and query signatures, and notices faults."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knowtation_backup.sandbox import Answer, AnswerLater, SandboxNetwork, SandboxServer, StaleCertificate, Tamper
from knowtation_backup.sandbox.principal import to_text

pytestmark = [pytest.mark.peers, pytest.mark.sandbox]

Agent = Callable[..., dict[str, Any]]


@pytest.fixture
def agent(  # noqa: PLR0917 - fixtures
    node: str, node_modules: Path, network: SandboxNetwork, server: SandboxServer, counter_wasm: bytes, tmp_path: Path
) -> Agent:
    """Runs a scenario of ``agent.cjs``."""
    module = tmp_path / "counter.wasm"
    module.write_bytes(counter_wasm)
    environment = {
        "PATH": os.environ["PATH"],
        "PEER_MODULES": str(node_modules),
        "PEER_URL": server.url,
        "PEER_ROOT_KEY": network.root_key.hex(),
        "PEER_WASM": str(module),
    }

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(  # noqa: S603 - the peer under test
            [node, Path(__file__).parent / "agent.cjs", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return outcome

    return run


def test_calls_and_queries(agent: Agent, counter: bytes, network: SandboxNetwork) -> None:
    outcome = agent("calls", to_text(counter))
    assert outcome == {"value": [1, 1, True, True, 2, 2, True, True]}
    assert network.requests.counts["call"] == 4


def test_rejects_name_their_cause(agent: Agent, counter: bytes) -> None:
    error = agent("trap", to_text(counter))["error"]
    assert "IC0503" in error
    assert "on purpose" in error


def test_certified_state(agent: Agent, counter: bytes, counter_wasm: bytes, network: SandboxNetwork) -> None:
    state = agent("state", to_text(counter))["value"]
    assert 0 <= state.pop("age") < 60_000
    assert state.pop("candid").startswith("service : {")
    assert state == {
        "module_hash": hashlib.sha256(counter_wasm).hexdigest(),
        "controllers": [to_text(network.operator)],
        "nodes": 1,
    }


def test_the_life_of_a_canister(agent: Agent) -> None:
    life = agent("management")["value"]
    assert life.pop("total_size") > 40 * 65536
    assert life == {"value": 1, "listed": 1, "status": ["stopped"]}


def test_it_polls_after_202_and_repeats_after_429(agent: Agent, network: SandboxNetwork, counter: bytes) -> None:
    network.faults.add(AnswerLater(1.0), endpoint="call", nth=1)
    assert agent("inc", to_text(counter)) == {"value": 1}
    network.faults.add(Answer(status=429), endpoint="call", limit=1)
    assert agent("inc", to_text(counter)) == {"value": 2}


def test_it_synchronises_its_clock(agent: Agent, network: SandboxNetwork, counter: bytes) -> None:
    """After a refusal for its expiry the agent reads the network's time and tries again."""
    network.clock.advance(400)
    assert agent("inc", to_text(counter)) == {"value": 1}
    assert network.requests.counts["call"] > 1


@pytest.mark.parametrize(
    ("fault", "scenario"),
    [
        (Tamper("reply"), "inc"),
        (Tamper("signature"), "inc"),
        (StaleCertificate(3600), "inc"),
        (Tamper("reply"), "get"),
        (Tamper("signature"), "get"),
    ],
)
def test_it_notices_what_is_wrong(
    agent: Agent, network: SandboxNetwork, counter: bytes, fault: Tamper | StaleCertificate, scenario: str
) -> None:
    network.faults.add(fault, endpoint="call" if scenario == "inc" else "query")
    error = agent(scenario, to_text(counter))["error"].lower()
    assert any(word in error for word in ("certificate", "signature", "verif")), error
