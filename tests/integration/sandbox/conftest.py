"""A network with the hand-written counter canister of ``tests/data``."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

from knowtation_backup.sandbox import SandboxNetwork

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session")
def counter_wasm() -> bytes:
    return bytes(wasmtime.wat2wasm((DATA / "counter.wat").read_text()))


@pytest.fixture
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork() as running:
        yield running


@pytest.fixture
def counter(network: SandboxNetwork, counter_wasm: bytes) -> bytes:
    return network.create_canister(counter_wasm)
