"""A small Internet Computer in one process: one subnet, its management canister, HTTP interface and gateway."""

from __future__ import annotations

import functools
import hashlib
import itertools
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from . import candid, storage
from .clock import SandboxClock
from .execution.engine import Engine
from .faults import FaultPlan
from .management.canister import ManagementCanister
from .management.context import ManagementOptions
from .messages import ANONYMOUS, MANAGEMENT_CANISTER, Answer, Call, Rejected, Replied, RequestState
from .protocol.certification import FIRST_CANISTER, Certifier
from .protocol.front import FrontDoor
from .protocol.gateway import Gateway, GatewayOptions
from .protocol.http_api import HttpApi
from .protocol.server import SandboxServer
from .protocol.transport import SandboxTransport
from .replica.replica import Replica
from .request_log import RequestLog

if TYPE_CHECKING:
    from .execution.engine import Isolation
    from .state import Canister

__all__ = ["SandboxNetwork"]

_EXPIRY_NS: Final = 240 * 1_000_000_000
_POLL_SECONDS: Final = 0.01
_CACHE_NAME: Final = "compiled"
_DEFAULT_CYCLES: Final = 100_000_000_000_000

_CREATE_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    "amount": candid.Opt(candid.NAT),
    "specified_id": candid.Opt(candid.PRINCIPAL),
}
_VARIANT_INSTALL: Final[Mapping[str, candid.CandidType]] = {"install": candid.NULL}
_INSTALL_FIELDS: Final[Mapping[str, candid.CandidType]] = {
    "mode": candid.Variant(_VARIANT_INSTALL),
    "canister_id": candid.PRINCIPAL,
    "wasm_module": candid.BLOB,
    "arg": candid.BLOB,
}
_CONTROLLERS: Final[Mapping[str, candid.CandidType]] = {"controllers": candid.Opt(candid.Vec(candid.PRINCIPAL))}
_UPDATE_SETTINGS: Final[Mapping[str, candid.CandidType]] = {
    "canister_id": candid.PRINCIPAL,
    "settings": candid.Record(_CONTROLLERS),
}
_CREATED_FIELDS: Final[Mapping[str, candid.CandidType]] = {"canister_id": candid.PRINCIPAL}


class SandboxNetwork:
    """
    A network of one subnet that executes real canister Wasm and signs with its own root key.

    Use it as a context manager, or call `close`. All methods may be called from several threads; messages are executed
    one at a time.

    Args:
        directory: Where the state is kept: loaded now when it is there, saved by `save` and `close`. `None` forgets.
            One network at a time: another one that opens it gets a `ConfigurationError`.
        delegation: Whether the subnet has its own key with a delegation of the root key, as on mainnet.
        isolation: How messages are isolated, see `Engine`.
        faults: What goes wrong on purpose; can be changed later through ``faults``.
        gateway: Behaviour of the HTTP gateway.
        management: Switches of the management canister: checkpoint delay, heap delta limit, first balance.
        key_seed: Keys are derived from it. The default gives the same root key in every process.
        call_wait_seconds: How long synchronous call endpoints wait for an outcome before they answer 202.
        cache_directory: Where compiled modules are kept between processes; they are machine code and trusted when read
            back, so it must be as private as the program itself. `None`: in the network's directory, if it has one.
        tick_seconds: Real time between rounds, in which timers and heartbeats run; `None` leaves rounds to `tick`.

    Attributes:
        clock: The network's time; ``clock.advance`` moves it.
        faults: Rules for requests, see `FaultPlan`.
        requests: The record of requests, see `RequestLog`.
        operator: Principal that creates and controls canisters unless others are named.
    """

    def __init__(  # noqa: PLR0913 - configuration by keyword
        self,
        *,
        directory: Path | None = None,
        delegation: bool = True,
        isolation: Isolation = "auto",
        faults: FaultPlan | None = None,
        gateway: GatewayOptions | None = None,
        management: ManagementOptions | None = None,
        key_seed: bytes = b"",
        call_wait_seconds: float = 10.0,
        cache_directory: Path | None = None,
        tick_seconds: float | None = 0.1,
    ) -> None:
        self.clock: SandboxClock = SandboxClock()
        self.faults: FaultPlan = faults or FaultPlan()
        self.requests: RequestLog = RequestLog()
        self.operator: bytes = hashlib.sha224(b"knowtation sandbox operator").digest() + b"\x02"
        self._directory = directory
        self._numbers = itertools.count()
        self._servers: list[SandboxServer] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._certifier = Certifier(clock=self.clock, seed=key_seed, delegation=delegation)
        self._directory_lock = storage.DirectoryLock(directory) if directory is not None else None
        self._engine = Engine(
            self.clock,
            subnet_id=self._certifier.subnet_id,
            root_key_der=self._certifier.root_key_der,
            isolation=isolation,
            cache_directory=directory / _CACHE_NAME if cache_directory is None and directory else cache_directory,
        )
        self.replica: Replica = Replica(
            self.clock,
            self._engine,
            subnet_id=self._certifier.subnet_id,
        )
        self.replica.data_certificate = self._data_certificate
        self._management = ManagementCanister(self.replica, options=management)
        self.replica.management = self._management
        if directory is not None:
            self._load(directory)
        self._front = FrontDoor(
            api=HttpApi(
                replica=self.replica,
                certifier=self._certifier,
                clock=self.clock,
                call_wait_seconds=call_wait_seconds,
            ),
            gateway=Gateway(replica=self.replica, clock=self.clock, options=gateway),
            faults=self.faults,
            requests=self.requests,
        )
        self._ticker: threading.Thread | None = None
        if tick_seconds is not None:
            rounds = functools.partial(self._run_rounds, tick_seconds)
            self._ticker = threading.Thread(target=rounds, name="sandbox-rounds", daemon=True)
            self._ticker.start()

    @property
    def root_key(self) -> bytes:
        """The network's root key in DER form, 133 bytes."""
        return self._certifier.root_key_der

    @property
    def subnet_id(self) -> bytes:
        """Principal of the subnet."""
        return self._certifier.subnet_id

    @property
    def canisters(self) -> Mapping[bytes, Canister]:
        """The canisters by raw id; for looking only."""
        return self.replica.canisters

    def transport(self) -> SandboxTransport:
        """Return an `httpx` transport that reaches interface and gateway without a socket."""
        return SandboxTransport(self._front)

    def serve(self, port: int = 0, *, ssl_context: ssl.SSLContext | None = None) -> SandboxServer:
        """
        Start a server on 127.0.0.1; close it, or the network, to end it.

        Args:
            port: 0 for a free one.
            ssl_context: Serve TLS with this context.

        Raises:
            ConfigurationError: The port cannot be opened.
        """
        server = SandboxServer(self._front, port=port, ssl_context=ssl_context)
        with self._lock:
            self._servers.append(server)
        return server

    def create_canister(
        self,
        wasm: bytes = b"",
        arg: bytes = b"",
        controllers: Sequence[bytes] = (),
        cycles: int = _DEFAULT_CYCLES,
        *,
        specified_id: bytes | None = None,
    ) -> bytes:
        """
        Create a canister, install *wasm*, and return its id.

        Args:
            wasm: Module, plain or gzip, of any size the network allows; empty leaves the canister empty.
            arg: Candid for its init function.
            controllers: Who controls it in the end; the network's operator when empty.
            cycles: Its first balance.
            specified_id: The id it shall have; the next free one when `None`.

        Raises:
            Rejected: The network refused a step; a canister may exist already.
        """
        wanted = {"amount": cycles, "specified_id": specified_id}
        created = self._manage("provisional_create_canister_with_cycles", FIRST_CANISTER, _CREATE_FIELDS, wanted)
        (fields,) = candid.decode(created, [candid.Record(_CREATED_FIELDS)])
        canister_id: bytes = fields["canister_id"]
        about: dict[str, object] = {"canister_id": canister_id}
        if wasm:
            install = {**about, "mode": ("install", None), "wasm_module": wasm, "arg": arg}
            self._manage("install_code", canister_id, _INSTALL_FIELDS, install)
        if controllers:
            settings = {**about, "settings": {"controllers": list(controllers)}}
            self._manage("update_settings", canister_id, _UPDATE_SETTINGS, settings)
        return canister_id

    def update(self, canister_id: bytes, method: str, arg: bytes, sender: bytes = ANONYMOUS) -> bytes:
        """
        Call an update method in process, as *sender*, and return the Candid reply.

        For the management canister (``b""``), *arg* names the canister.

        Raises:
            Rejected: The network or the canister said no.
        """
        return self._call(canister_id, canister_id, method, arg, sender)

    def query(self, canister_id: bytes, method: str, arg: bytes, sender: bytes = ANONYMOUS) -> bytes:
        """
        Call a query method in process, as *sender*, and return the Candid reply.

        Raises:
            Rejected: The network or the canister said no.
        """
        return _data(self.replica.query(self._new_call(canister_id, canister_id, method, arg, sender)))

    def tick(self) -> None:
        """Run one round now: timers that are due, heartbeats, what waits for time to pass."""
        self.replica.tick()

    def save(self) -> None:
        """Write the state to the network's directory, if it has one."""
        if self._directory is not None:
            storage.save(self.replica, self._directory)

    def close(self) -> None:
        """
        End servers and rounds, save the state, and give back all memory. Idempotent.

        Calls that only wait for their turn are executed before; what still waits for time to pass (a stop, a
        best-effort call) is not kept.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        with self._lock:
            servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        if self._ticker is not None:
            self._ticker.join()
        try:
            if self._directory is not None:
                self.replica.run_queued()
            self.save()
        finally:
            self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, directory: Path) -> None:
        try:
            storage.load(self.replica, directory)
        except BaseException:
            self._free()
            raise

    def _free(self) -> None:
        """Give back all memory and the directory now; afterwards the network knows no canister."""
        with self.replica.lock:
            self._management.close()
            self._engine.close()
            for canister in self.replica.canisters.values():
                if canister.code is not None:
                    canister.code.heap.close()
                    canister.code.stable.close()
            self.replica.canisters.clear()
        if self._directory_lock is not None:
            self._directory_lock.release()

    def _run_rounds(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            self.replica.tick()

    def _data_certificate(self, canister_id: bytes) -> bytes:
        return self._certifier.data_certificate(canister_id, self.replica.canisters[canister_id].certified_data)

    def _manage(
        self, method: str, effective_id: bytes, fields: Mapping[str, candid.CandidType], values: Mapping[str, object]
    ) -> bytes:
        arg = candid.encode([candid.Record(fields)], [dict(values)])
        return self._call(MANAGEMENT_CANISTER, effective_id, method, arg, self.operator)

    def _call(self, canister_id: bytes, effective_id: bytes, method: str, arg: bytes, sender: bytes) -> bytes:
        call = self._new_call(canister_id, effective_id, method, arg, sender)
        status = self.replica.call(call)
        while status.state in (RequestState.RECEIVED, RequestState.PROCESSING):
            time.sleep(_POLL_SECONDS)
            self.replica.tick()
            status = self.replica.request_status(call.request_id) or status
        return _data(status.answer)

    def _new_call(self, canister_id: bytes, effective_id: bytes, method: str, arg: bytes, sender: bytes) -> Call:
        now = self.clock.now_ns()
        return Call(
            request_id=hashlib.sha256(f"in process {next(self._numbers)} {now}".encode()).digest(),
            sender=sender,
            canister_id=canister_id,
            effective_canister_id=effective_id,
            method=method,
            arg=arg,
            ingress_expiry=now + _EXPIRY_NS,
            size_bytes=len(arg),
        )


def _data(answer: Answer | None) -> bytes:
    match answer:
        case Replied(data):
            return data
        case Rejected():
            raise answer
    raise Rejected("IC0202", "The reply is no longer available.")
