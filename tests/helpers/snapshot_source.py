"""A network with one canister whose stable memory and chunk store are full of noise, and a snapshot of it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import wasmtime

from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.sandbox import SandboxNetwork, candid
from knowtation_backup.sandbox.management.types import METHODS

ANONYMOUS = b"\x04"
PIECE_BYTES = 1 << 21
"""What one call of ``fill`` adds to the stable memory."""

NOISE = Path(__file__).parents[1] / "data" / "noise.wat"


def noise_wasm() -> bytes:
    """Return a canister whose method ``fill`` adds two MiB of noise to its stable memory."""
    return bytes(wasmtime.wat2wasm(NOISE.read_text()))


def manage(network: Any, method: str, **fields: Any) -> None:
    """Call the management canister as the anonymous user; *network* may be a process."""
    argument = METHODS[method].argument
    assert argument is not None
    network.update(b"", method, candid.encode([argument], [fields]), sender=ANONYMOUS)


def prepare(network: Any, *, pieces: int = 1, chunks: int = 0, controller: bytes = ANONYMOUS) -> tuple[bytes, bytes]:
    """Create the canister, fill it, take a snapshot; return both ids. *network* may be a process."""
    canister: bytes = network.create_canister(noise_wasm(), controllers=[ANONYMOUS, controller], cycles=10**17)
    for _ in range(pieces):
        network.update(canister, "fill", b"DIDL\0\0")
    for number in range(chunks):
        chunk = random.Random(number).randbytes(70_000 + number)  # noqa: S311 - noise
        manage(network, "upload_chunk", canister_id=canister, chunk=chunk)
    manage(network, "take_canister_snapshot", canister_id=canister)
    return canister, bytes(8) + canister


@attrs.frozen(kw_only=True)
class SnapshotSource:
    """A snapshot and the way to it."""

    network: SandboxNetwork
    management: ManagementCanister
    canister_id: Principal
    snapshot_id: SnapshotId


@contextlib.contextmanager
def snapshot_source(
    *, pieces: int = 1, chunks: int = 0, delegation: bool = True, transport: Any = None, **agent_options: Any
) -> Iterator[SnapshotSource]:
    """Run a network in this process; *transport* wraps the one that leads to it."""
    with SandboxNetwork(delegation=delegation, tick_seconds=None) as network:
        canister, snapshot = prepare(network, pieces=pieces, chunks=chunks)
        inner: httpx.BaseTransport = network.transport()
        used = inner if transport is None else transport(inner)
        with Agent("http://127.0.0.1:1", root_key=network.root_key, transport=used, **agent_options) as agent:
            yield SnapshotSource(
                network=network,
                management=ManagementCanister(agent),
                canister_id=Principal(canister),
                snapshot_id=SnapshotId(snapshot),
            )
