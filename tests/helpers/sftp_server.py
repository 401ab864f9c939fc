"""A real SSH server on loopback that serves files over SFTP: asyncssh's own server, or OpenSSH's program behind it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import attrs
import fsspec

from knowtation_backup.sinks.fsspec import FsspecSink

SinkAt = Callable[[Path], FsspecSink]

USER = "backup"
PASSWORD = "planted-sftp-password-0123456789"

OPENSSH = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh:/usr/libexec")
"""OpenSSH's SFTP server; Debian's package ``openssh-sftp-server`` has it."""


@attrs.frozen(kw_only=True)
class SftpServer:
    """Where it listens, and what a client needs."""

    port: int
    host_key: str
    """The public key, as in a file of known hosts."""
    drop: Callable[[], None]
    """Breaks every connection there is."""

    @property
    def options(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": USER,
            "password": PASSWORD,
            "look_for_keys": False,
            "allow_agent": False,
        }


class _Login(asyncssh.SSHServer):
    def __init__(self, connections: list[asyncssh.SSHServerConnection], program: list[str] | None) -> None:
        self._connections = connections
        self._program = program

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connections.append(conn)

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)

    def session_requested(self) -> Any:
        return _ProgramSession(self._program) if self._program else False


class _ProgramSession(asyncssh.SSHServerSession[bytes]):
    """Joins one SFTP session to a program's standard input and output."""

    def __init__(self, program: list[str]) -> None:
        self._program = program
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(self._serve()))

    def data_received(self, data: bytes, _datatype: int | None) -> None:
        self._inbox.put_nowait(data)

    def eof_received(self) -> bool:
        self._inbox.put_nowait(b"")
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self._inbox.put_nowait(b"")

    async def _serve(self) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*self._program, stdin=pipe, stdout=pipe)
        assert child.stdin is not None
        assert child.stdout is not None
        replies = asyncio.get_running_loop().create_task(self._pass_replies(child.stdout))
        with contextlib.suppress(ConnectionError):
            while data := await self._inbox.get():
                child.stdin.write(data)
                await child.stdin.drain()
        child.stdin.close()
        await child.wait()
        await replies

    async def _pass_replies(self, output: asyncio.StreamReader) -> None:
        while data := await output.read(65_536):
            if not self._channel.is_closing():
                self._channel.write(data)
        self._channel.close()


@contextlib.contextmanager
def sftp_server(*, program: list[str] | None = None, factory: Any = True) -> Iterator[SftpServer]:
    """
    Run a server until the block is left.

    Args:
        program: Serves each SFTP session on its standard input and output, such as ``[OPENSSH, "-e"]``.
        factory: asyncssh's own server otherwise: `True`, or a class derived from ``asyncssh.SFTPServer``.
    """
    connections: list[asyncssh.SSHServerConnection] = []
    loop = asyncio.new_event_loop()
    started: threading.Event = threading.Event()
    stopped = asyncio.Event()
    ports: list[int] = []

    key = asyncssh.generate_private_key("ssh-ed25519")

    async def serve() -> None:
        how: dict[str, Any] = {"encoding": None} if program else {"sftp_factory": factory}
        server = await asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[key], server_factory=lambda: _Login(connections, program), **how
        )
        ports.append(server.get_port())
        started.set()
        await stopped.wait()
        server.close()
        for connection in connections:
            connection.abort()
        await server.wait_closed()
        await asyncio.gather(*(connection.wait_closed() for connection in connections), return_exceptions=True)

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve())
            waiting = asyncio.all_tasks(loop)
            if waiting:
                loop.run_until_complete(asyncio.wait(waiting, timeout=5))
        finally:
            started.set()
            loop.close()

    def drop() -> None:
        done = threading.Event()

        def abort() -> None:
            for connection in connections:
                connection.abort()
            connections.clear()
            done.set()

        loop.call_soon_threadsafe(abort)
        assert done.wait(10)

    thread = threading.Thread(target=run, name="sftp-server")
    thread.start()
    assert started.wait(20)
    try:
        yield SftpServer(port=ports[0], host_key=key.export_public_key().decode().strip(), drop=drop)
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(20)


def open_sink(server: SftpServer, path: Path) -> FsspecSink:
    """Return a sink with a connection of its own; close it."""
    return FsspecSink(f"sftp://{path}", storage_options={**server.options, "host_key_policy": "auto_add"})


@contextlib.contextmanager
def connection(server: SftpServer) -> Iterator[SinkAt]:
    """Make sinks on one connection, which takes longer to open than most tests."""
    filesystem = fsspec.filesystem("sftp", **server.options, host_key_policy="auto_add", skip_instance_cache=True)
    try:
        yield lambda path: FsspecSink(filesystem, str(path))
    finally:
        filesystem.client.close()


class WithoutHardLinks(asyncssh.SFTPServer):
    """A server that knows no hard links, as many that do not run on POSIX systems."""

    def link(self, oldpath: bytes, newpath: bytes) -> None:  # noqa: ARG002 - asyncssh's signature
        raise asyncssh.SFTPOpUnsupported("Operation unsupported")


class ShortAnswers(asyncssh.SFTPServer):
    """A server that gives fewer bytes than it was asked for, which the protocol allows."""

    def read(self, file_obj: object, offset: int, size: int) -> Any:
        return super().read(file_obj, offset, min(size, 10_007))


class FullDisk(asyncssh.SFTPServer):
    """A server whose disk is full after the first megabyte of a file."""

    def write(self, file_obj: object, offset: int, data: bytes) -> Any:
        if offset + len(data) > 1 << 20:
            raise asyncssh.SFTPFailure("No space left on device")
        return super().write(file_obj, offset, data)
