"""
A network in virtual time with counter canisters, seen through a transport on which the k-th management call goes wrong.

Waiting moves the network's clock instead of the real one, so deadlines of minutes pass at once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import cbor2
import httpx
import wasmtime

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.events import Event
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.sandbox import SandboxNetwork
from knowtation_backup.sandbox.messages import Rejected
from knowtation_backup.snapshots.manager import SnapshotManager, SnapshotOptions

ANONYMOUS = b"\x04"
SECOND = bytes(range(29))
"""Another controller, so that nobody is the only one."""
DATA = Path(__file__).parents[1] / "data"
NOTHING = b"DIDL\x00\x00"
OUTAGE_SECONDS = 400.0
"""Longer than a call can live and than its deadline."""
LATE_SECONDS = 100.0

FAULTS = (
    "refused",
    "reset_before",
    "reset_after",
    "outage_before",
    "outage_after",
    "late",
    "denied",
    "busy",
    "interrupted",
)
"""``denied``: whoever passes requests on refuses one in the network's name, and delivers it later."""
DENIAL = cbor2.dumps(
    {"status": "non_replicated_rejection", "reject_code": 4, "reject_message": "no", "error_code": "IC0406"}
)


def counter_wasm() -> bytes:
    """Return the hand-written counter of ``tests/data``, with little memory."""
    text = (DATA / "counter.wat").read_text()
    return bytes(wasmtime.wat2wasm(text.replace("(memory $memory 40)", "(memory $memory 2)")))


@attrs.define(eq=False)
class FaultyTransport(httpx.BaseTransport):
    """Passes requests on; *fault* befalls the management call number *number*, counted by distinct envelopes."""

    inner: httpx.BaseTransport
    network: SandboxNetwork
    fault: str = ""
    number: int | None = None
    calls: list[str] = attrs.field(factory=list)
    """Methods of the distinct calls so far."""
    _seen: dict[bytes, int] = attrs.field(factory=dict)
    _struck: bool = False
    _gone_until: float = 0.0
    _held: tuple[float, httpx.Request] | None = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def arm(self, fault: str, number: int) -> None:
        """Count from here on, and strike once."""
        self.fault, self.number, self._struck = fault, number, False
        self.calls.clear()
        self._seen.clear()

    def disarm(self) -> None:
        """Let everything pass."""
        self.number = None
        self._gone_until = 0.0
        self.calls.clear()
        self._seen.clear()

    def deliver(self) -> None:
        """Let the network execute a message that was held back, once its moment has come."""
        if self._held is not None and self._now() >= self._held[0]:
            (_, request), self._held = self._held, None
            self.inner.handle_request(request).read()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.deliver()
        if self._now() < self._gone_until:
            message = "the network is out of reach"
            raise httpx.ConnectError(message)
        if not request.url.path.endswith("/call"):
            return self.inner.handle_request(request)
        body = request.read()
        key = hashlib.sha256(body).digest()
        with self._lock:
            fresh = key not in self._seen
            number = self._seen.setdefault(key, len(self._seen))
            if fresh:
                self.calls.append(_method(body))
        if number != self.number or self._struck:
            return self.inner.handle_request(request)
        self._struck = True
        return self._strike(request)

    def _strike(self, request: httpx.Request) -> httpx.Response:
        match self.fault:
            case "refused":
                with refusing(self.network):
                    return self.inner.handle_request(request)
            case "busy":
                return httpx.Response(429, text="overloaded", headers={"retry-after": "3"})
            case "reset_before" | "outage_before":
                pass
            case "late":
                self._hold(request)
            case "denied":
                self._hold(request)
                return httpx.Response(200, content=DENIAL, headers={"content-type": "application/cbor"})
            case "interrupted":
                self.inner.handle_request(request).read()
                raise KeyboardInterrupt
            case _:
                self.inner.handle_request(request).read()
        if self.fault in {"outage_before", "outage_after", "late"}:
            self._gone_until = self._now() + OUTAGE_SECONDS
        message = "reset on purpose"
        raise httpx.ReadError(message)

    def _hold(self, request: httpx.Request) -> None:
        later = httpx.Request("POST", request.url, content=request.read(), headers=request.headers)
        self._held = (self._now() + LATE_SECONDS, later)

    def _now(self) -> float:
        return self.network.clock.now_ns() / 1e9


def _method(body: bytes) -> str:
    marker = b"\x6bmethod_name"
    start = body.index(marker) + len(marker)
    head = body[start]
    if head & 0x1F < 24:
        return body[start + 1 : start + 1 + (head & 0x1F)].decode()
    return body[start + 2 : start + 2 + body[start + 1]].decode()


@contextlib.contextmanager
def refusing(network: SandboxNetwork) -> Iterator[None]:
    """Let the management canister refuse everything, with a certificate."""

    def refuse(_request: Any, _argument: Any) -> None:
        code, text = "IC0406", "refused on purpose"
        raise Rejected(code, text)

    handlers = network._management._handlers
    saved = dict(handlers)
    handlers.update(dict.fromkeys(saved, refuse))
    try:
        yield
    finally:
        handlers.update(saved)


@attrs.define(eq=False)
class SnapshotStage:
    """One network, one manager, and what they did."""

    network: SandboxNetwork
    transport: FaultyTransport
    journal: Path
    wasm: bytes
    events: list[Event] = attrs.field(factory=list)
    agent: Agent = attrs.field(init=False)
    manager: SnapshotManager = attrs.field(init=False)

    def canister(self, count: int = 0, *, wasm: bytes | None = None, **options: Any) -> Principal:
        """Create a counter that has counted so far."""
        options.setdefault("controllers", (ANONYMOUS, SECOND))
        created = Principal(self.network.create_canister(self.wasm if wasm is None else wasm, **options))
        self.count(created, count)
        return created

    def count(self, canister_id: Principal, times: int) -> None:
        for _ in range(times):
            self.network.update(canister_id.raw, "inc", NOTHING)

    def counted(self, canister_id: Principal) -> int:
        """Return the counter's state, whether it runs or not."""
        code = self.network.canisters[canister_id.raw].code
        assert code is not None
        return code.global_values[0].bits

    def running(self, canister_id: Principal) -> bool:
        return self.network.canisters[canister_id.raw].status.value == "running"

    def snapshots(self, canister_id: Principal) -> set[SnapshotId]:
        return set(map(SnapshotId, self.network.canisters[canister_id.raw].snapshots))

    @property
    def management(self) -> ManagementCanister:
        return ManagementCanister(self.agent)

    def now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.network.clock.now_ns() / 1e9, dt.UTC)

    def monotonic(self) -> float:
        return self.network.clock.now_ns() / 1e9

    def sleep(self, seconds: float) -> None:
        """Let time pass for everybody."""
        self.network.clock.advance(seconds)
        self.transport.deliver()
        self.network.tick()

    def names(self) -> list[str]:
        return [event.name for event in self.events]


def new_manager(stage: SnapshotStage, **options: Any) -> SnapshotManager:
    """Return a manager as a new process would have it: same journal, same network."""
    return SnapshotManager(
        ManagementCanister(stage.agent),
        journal=stage.journal,
        options=SnapshotOptions(**options),
        observer=stage.events.append,
        clock=stage.now,
        monotonic=stage.monotonic,
        sleep=stage.sleep,
    )


@contextlib.contextmanager
def snapshot_stage(directory: Path, wasm: bytes, **network_options: Any) -> Iterator[SnapshotStage]:
    """Run a network; everything ends with the block."""
    options = {"tick_seconds": None, "call_wait_seconds": 0.2} | network_options
    with SandboxNetwork(**options) as network:
        transport = FaultyTransport(network.transport(), network)
        stage = SnapshotStage(network, transport, directory / "journal", wasm)
        with Agent(
            "http://127.0.0.1:1",
            root_key=network.root_key,
            transport=transport,
            retry=RetryPolicy(attempts=4),
            clock=stage.now,
            monotonic=stage.monotonic,
            sleep=stage.sleep,
        ) as agent:
            stage.agent = agent
            stage.manager = new_manager(stage)
            yield stage
