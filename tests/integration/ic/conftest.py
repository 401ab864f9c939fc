"""A network with a counter canister, behind a boundary node that tests can make cheat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from ic_boundary import Boundary

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.ic.agent import Agent
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import SandboxNetwork

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def counter_wasm() -> bytes:
    return bytes(wasmtime.wat2wasm((DATA / "counter.wat").read_text()))


@pytest.fixture
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork(tick_seconds=None, call_wait_seconds=2.0) as running:
        yield running


@pytest.fixture
def counter(network: SandboxNetwork, counter_wasm: bytes) -> Principal:
    return Principal(network.create_canister(counter_wasm))


@pytest.fixture
def boundary(network: SandboxNetwork) -> Boundary:
    return Boundary(network.transport())


@pytest.fixture
def agent(network: SandboxNetwork, boundary: Boundary) -> Iterator[Agent]:
    """An agent that trusts the network and reaches it through the boundary; it does not really wait."""
    with Agent(
        "http://127.0.0.1:1",
        root_key=network.root_key,
        transport=boundary,
        retry=RetryPolicy(attempts=3, first_delay_seconds=0.01),
        sleep=lambda _seconds: None,
    ) as opened:
        yield opened
