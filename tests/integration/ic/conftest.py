"""A network with a counter canister, behind a boundary node that tests can make cheat, in a time that they move."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import wasmtime
from ic_boundary import Boundary

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.ic.agent import Agent
from knowtation_backup.model.events import Event
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import SandboxNetwork

DATA = Path(__file__).parents[2] / "data"
NOTHING = b"DIDL\x00\x00"


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


@attrs.define
class Story:
    """Time that passes only where an agent waits, for it and the network alike, and what the agent told meanwhile."""

    network: SandboxNetwork
    seconds: float = 0.0
    pauses: list[float] = attrs.field(factory=list)
    events: list[Event] = attrs.field(factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds
        self.network.clock.advance(seconds)

    def monotonic(self) -> float:
        return self.seconds

    def clock(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.network.clock.now_ns() / 10**9, dt.UTC)

    def told(self, name: str) -> list[dict[str, object]]:
        return [dict(event.fields) for event in self.events if event.name == name]


@pytest.fixture
def story(network: SandboxNetwork) -> Story:
    return Story(network)


@pytest.fixture
def agent(network: SandboxNetwork, boundary: Boundary, story: Story) -> Iterator[Agent]:
    """An agent that trusts the network and reaches it through the boundary."""
    with Agent(
        "http://127.0.0.1:1",
        root_key=network.root_key,
        transport=boundary,
        retry=RetryPolicy(attempts=3),
        observer=story.events.append,
        sleep=story.sleep,
        random=lambda: 1.0,
        clock=story.clock,
        monotonic=story.monotonic,
    ) as opened:
        yield opened


@attrs.frozen
class Counts:
    """Looks past all boundaries."""

    network: SandboxNetwork
    counter: Principal

    def __call__(self) -> int:
        """Return how often the counter was really increased."""
        return int.from_bytes(self.network.query(self.counter.raw, "get", NOTHING)[-8:], "little")


@pytest.fixture
def count(network: SandboxNetwork, counter: Principal) -> Counts:
    return Counts(network, counter)
