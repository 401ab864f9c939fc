"""
A sandbox network in a process of its own, so that clients and network do not share an interpreter lock.

The child is a fresh interpreter connected by one socket pair. It answers requests to read attributes and call methods
of its network by name, and ends when the connection closes, so also when the parent dies.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Self

from ..errors import InternalError

__all__ = ["SandboxProcess", "serve_connection"]

_END_SECONDS: Final = 20.0
_START: Final = (
    "import sys\nfrom knowtation_backup.sandbox.process import serve_connection\nserve_connection(int(sys.argv[1]))"
)


class SandboxProcess:
    """
    A `SandboxNetwork` with its server in a child process; a context manager.

    Args:
        port: Port of the server, 0 for a free one.
        **options: Arguments of `SandboxNetwork`; they are pickled.

    Attributes:
        url: Base URL of the interface.
        root_key: DER root key.
    """

    def __init__(self, *, port: int = 0, **options: Any) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
            )
        self.url: str
        self.root_key: bytes
        self._connection = Connection(ours.detach())
        self._lock = threading.Lock()
        try:
            self._connection.send((port, options))
            self.url, self.root_key = self._receive()
        except BaseException:
            self.close()
            raise

    def call(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """
        Call a method of the child's network, or read an attribute, by its dotted name.

        Names start at the network (``"create_canister"``, ``"clock.advance"``, ``"faults.add"``, ``"requests.counts"``)
        or with ``server.``. Arguments and result are pickled: what comes back is a copy. Exceptions are raised here.
        """
        with self._lock:
            self._connection.send((name, arguments, keywords))
            return self._receive()

    def gateway_url(self, canister_id: bytes) -> str:
        """Return the base URL of a canister, see `SandboxServer.gateway_url`."""
        return str(self.call("server.gateway_url", canister_id))

    def create_canister(
        self, wasm: bytes, arg: bytes = b"", controllers: Sequence[bytes] = (), **options: Any
    ) -> bytes:
        """See `SandboxNetwork.create_canister`."""
        canister_id: bytes = self.call("create_canister", wasm, arg, controllers, **options)
        return canister_id

    def update(self, canister_id: bytes, method: str, arg: bytes, **options: Any) -> bytes:
        """See `SandboxNetwork.update`."""
        data: bytes = self.call("update", canister_id, method, arg, **options)
        return data

    def query(self, canister_id: bytes, method: str, arg: bytes, **options: Any) -> bytes:
        """See `SandboxNetwork.query`."""
        data: bytes = self.call("query", canister_id, method, arg, **options)
        return data

    @property
    def pid(self) -> int:
        """Process id of the child, for measurements."""
        return self._process.pid

    def close(self) -> None:
        """Let the child save its state and end; kill it when it does not. Idempotent."""
        self._connection.close()
        try:
            self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            good, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            message = "the sandbox process ended unexpectedly"
            raise InternalError(message, exit_status=self._process.poll()) from error
        if good:
            return value
        raise value


def serve_connection(descriptor: int) -> None:
    """Run in the child: serve one network until the parent closes the connection at *descriptor*."""
    from .network import SandboxNetwork  # noqa: PLC0415 - network imports the whole sandbox; the parent need not

    # Ctrl-C reaches the whole process group; the parent decides when the child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    with contextlib.ExitStack() as stack:
        try:
            port, options = connection.recv()
            network = stack.enter_context(SandboxNetwork(**options))
            server = stack.enter_context(network.serve(port))
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
            connection.send((False, error))
            return
        connection.send((True, (server.url, network.root_key)))
        while True:
            try:
                name, arguments, keywords = connection.recv()
            except (EOFError, ConnectionError):
                return
            start, path = (server, name.removeprefix("server.")) if name.startswith("server.") else (network, name)
            reply = _outcome(start, path, arguments, keywords)
            try:
                connection.send(reply)
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                message = f"the result of {name} cannot leave the sandbox process: {error}"
                connection.send((False, InternalError(message)))


def _outcome(start: Any, path: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[bool, Any]:
    try:
        value = functools.reduce(getattr, path.split("."), start)
        return True, value(*arguments, **keywords) if callable(value) else value
    except Exception as error:  # noqa: BLE001 - the parent raises it
        return False, error
