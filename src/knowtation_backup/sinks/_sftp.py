"""
Blobs on an SFTP server, through fsspec's file system and the paramiko client inside it.

fsspec's own way to rename overwrites (``posix-rename@openssh.com``), and its files and directories get whatever mode
the server likes. So a blob is written under a hidden name with mode 0600, flushed where the server can
(``fsync@openssh.com``), and published by a hard link (``hardlink@openssh.com``), which fails when the name is taken.
Servers without hard links are asked for a plain rename, which the protocol forbids to overwrite
(draft-ietf-secsh-filexfer-02, section 6.5), though not every server looks and renames in one step.

A paramiko client must not be used by two threads at once: one reads, and drops, the other's replies. Therefore one lock
around every exchange. Chunks are exchanged in many requests on their way at once, and every reply is awaited before the
lock is left: paramiko's own pipelining loses the errors of writes, and its prefetching leaves a thread to fail alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .._engine.local_files import is_temporary, temporary_name, translate_os_error
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    TruncatedError,
)
from ..model.blobs import BlobInfo, SinkCapabilities, check_key
from ._store import Leftover

__all__ = ["SFTP_URLS", "SftpStore", "sftp_connecting", "sftp_settings"]

SFTP_URLS: Final = ("sftp://", "ssh://")

_EXTENDED: Final = 200
"""``SSH_FXP_EXTENDED``: the request by which servers offer more than the protocol has."""

_READ: Final = 5
_WRITE: Final = 6
_STATUS: Final = 101
"""``SSH_FXP_READ``, ``SSH_FXP_WRITE``, ``SSH_FXP_STATUS``."""

_REQUEST_SIZE: Final = 32_768
"""What every server takes and gives in one request (section 3 of the draft)."""

_EXCHANGE_SIZE: Final = 2 << 20
"""Bytes written or read while the lock is held; 64 requests of 32 KiB on their way at once."""

_FIRST_READ: Final = 1 << 18
"""Bytes of the first exchange of a read, doubled by each that follows: many reads end soon."""

_ATTEMPTS: Final = 10
"""How often a directory that somebody tidied away under our feet is made again."""


def sftp_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the options for fsspec's file system: what it takes, and known hosts only unless the caller says otherwise.

    By itself it would trust whatever host key comes first, and send the password there.

    Raises:
        ConfigurationError: This fsspec has no such choice (``fsspec_too_old``).
    """
    from fsspec.implementations import sftp  # noqa: PLC0415 - needs paramiko, which few need
    from paramiko import HostKeys, MissingHostKeyPolicy, SSHException  # noqa: PLC0415

    class KnownHosts(MissingHostKeyPolicy):
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:  # noqa: ARG002 - by paramiko
            known = HostKeys()
            for path in (Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")):
                with contextlib.suppress(OSError):
                    known.load(str(path))
            if not known.check(hostname, key):
                message = f"{hostname} and its {key.get_name()} key are not among the known hosts"
                raise SSHException(message)

    if not hasattr(sftp, "HOST_KEY_POLICIES"):
        message = "the fsspec that is installed trusts every SFTP server, whatever its host key"
        hint = "install knowtation-backup[sftp], or make the file system yourself and pass it"
        raise ConfigurationError(message, kind="fsspec_too_old", hint=hint)
    # It passes on to paramiko what it does not know, also the options of every file system.
    settings = {name: value for name, value in given.items() if name != "use_listings_cache"}
    settings.setdefault("host_key_policy", KnownHosts())
    return settings


@contextlib.contextmanager
def sftp_connecting(url: str) -> Iterator[None]:
    """Translate what connecting raises; fsspec connects when its file system is made. Quotes nothing of *url*."""
    try:
        yield
    except (ValueError, ImportError, TypeError):
        raise
    except Exception as error:
        if not url.startswith(SFTP_URLS) or isinstance(error, BackupError):
            raise
        raise _connection_error(error) from error


def _connection_error(error: Exception) -> BackupError:
    from paramiko import AuthenticationException, BadHostKeyException  # noqa: PLC0415 - see above

    message = f"connecting to an SFTP server failed: {str(error)[:200]}"
    if isinstance(error, AuthenticationException):
        return SinkPermissionError(message, hint="check user name, key and password")
    if isinstance(error, BadHostKeyException) or "among the known hosts" in message:
        hint = "compare the key with the server's, then add it to ~/.ssh/known_hosts"
        return SinkError(message, kind="unknown_host_key", hint=hint)
    return SinkUnavailableError(message, hint="check host, port and network")


class SftpStore:
    """
    Keys below *root* on an SFTP server; blobs 0600, directories 0700, made when first needed.

    A connection that broke is made again by the next operation.

    Args:
        filesystem: fsspec's ``SFTPFileSystem``.
        root: Absolute path on the server, without a final slash.
        owned: Whether `close` ends the connection.
    """

    def __init__(self, filesystem: Any, root: str, *, owned: bool = False) -> None:
        self._fs = filesystem
        self._owned = owned
        self._broken = False
        self._root = root.rstrip("/")
        self._lock = threading.RLock()
        self._hard_links = self._probe_hard_links()

    def _probe_hard_links(self) -> bool:
        """Ask for a link to something that is not there: servers that know links say exactly that."""
        absent = f"{self._root}/{temporary_name()}"
        try:
            self._extended("hardlink@openssh.com", absent, absent + "2")
        except FileNotFoundError:
            return True
        except Exception:  # noqa: BLE001 - whatever it says, links cannot be relied on
            return False
        return False  # pragma: no cover - a link to nothing

    @property
    def capabilities(self) -> SinkCapabilities:
        """Create-only where the server has hard links; not durable, since no server is told to flush a directory."""
        return SinkCapabilities(create_only=self._hard_links, durable=False)

    @property
    def location(self) -> str:
        """Host and path."""
        return f"sftp://{self._fs.host}{self._root}"

    def close(self) -> None:
        """End the connection, if it is ours."""
        if self._owned:
            with self._lock, contextlib.suppress(Exception):
                self._fs.client.close()

    # -- the connection -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self, doing: str, file: Any = None) -> Iterator[Any]:
        """
        Hold the client, connected, and translate what it raises; never wrapped around the caller's chunks.

        With *file*, it is the client that opened it: handles mean nothing, or another file, on a later connection.
        """
        with self._lock, self._translated(doing):
            self._connect_again_if_broken()
            if file is not None and file.sftp is not self._fs.ftp:
                message = f"{doing} failed: the connection broke meanwhile"
                raise SinkUnavailableError(message, hint="try again")
            try:
                yield self._fs.ftp
            except (OSError, BackupError):
                raise  # what the server said; or a socket that is closed, which the next session sees
            except BaseException:
                # In the middle of an exchange nobody knows which replies are still to come.
                self._broken = True
                raise

    def _connect_again_if_broken(self) -> None:
        transport = self._fs.client.get_transport()
        alive = transport is not None and transport.is_active() and not self._fs.ftp.get_channel().closed
        if alive and not self._broken:
            return
        with contextlib.suppress(Exception):
            self._fs.client.close()
        try:
            self._fs._connect()  # noqa: SLF001 - fsspec has no public name for it
        except Exception as error:
            raise _connection_error(error) from error
        self._broken = False

    @staticmethod
    @contextlib.contextmanager
    def _translated(doing: str) -> Iterator[None]:
        try:
            yield
        except BackupError:
            raise
        except OSError as error:
            text = str(error).lower()
            if error.errno is None and ("no space" in text or "quota" in text):
                message = f"{doing} failed: {text[:200]}"
                raise SinkFullError(message, hint="free space, or use another place") from error
            raise translate_os_error(error, doing) from error
        except Exception as error:  # what paramiko raises is of classes of its own, or EOFError
            message = f"{doing} failed: {type(error).__name__}: {str(error)[:200]}"
            raise SinkUnavailableError(message, hint="try again; check credentials and network") from error

    def _extended(self, name: str, *arguments: Any) -> None:
        self._fs.ftp._request(_EXTENDED, name, *arguments)  # noqa: SLF001 - how paramiko itself sends extensions

    # -- the store ----------------------------------------------------------------------------------------------------

    def put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        """Write under a hidden name, flush, publish."""
        doing = f"writing {key} in {self.location}"
        path = self._path(key)
        with self._session(doing) as client:
            if _entry(client, path) is not None:
                message = f"there is a blob {key} in {self.location} already"
                raise BlobExistsError(message, hint="published blobs are never overwritten", key=key)
            temporary, file = self._new_file(client, path.rpartition("/")[0])
        size_bytes = 0
        published = False
        try:
            for piece in _gathered(chunks):
                with self._session(doing, file) as client:
                    _write(client, file, size_bytes, piece)
                size_bytes += len(piece)
            with self._session(doing, file) as client:
                with contextlib.suppress(OSError):  # not every server can
                    self._extended("fsync@openssh.com", file.handle)
                file.close()
                published = self._publish(client, temporary, path, key)
        finally:
            if not published:
                self._discard(file, temporary)
        info = self.stat(key)
        if info.size_bytes != size_bytes:
            message = f"{key} in {self.location} has {info.size_bytes} bytes after {size_bytes} were written"
            raise TruncatedError(message, key=key)
        return info

    def _new_file(self, client: Any, folder: str) -> tuple[str, Any]:
        temporary = f"{folder}/{temporary_name()}"
        for attempt in range(_ATTEMPTS):
            _make_directories(client, folder)
            try:
                file = client.open(temporary, "wbx", bufsize=0)
                break
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
        file.chmod(0o600)
        return temporary, file

    def _publish(self, client: Any, temporary: str, path: str, key: str) -> bool:
        try:
            if self._hard_links:
                try:
                    self._extended("hardlink@openssh.com", temporary, path)
                except OSError:
                    if _entry(client, path) is not None:
                        raise
                    # The server knows hard links, the disk behind it does not: from now on nothing is promised.
                    self._hard_links = False
                else:
                    with contextlib.suppress(OSError):
                        client.remove(temporary)
                    return True
            client.rename(temporary, path)
        except OSError as error:
            if _entry(client, path) is None:
                raise
            raise BlobExistsError(f"another writer took {key} in {self.location}", key=key) from error
        return True

    def _discard(self, file: Any, temporary: str) -> None:
        # Where it cannot be removed, the leftover is found by its name later.
        with contextlib.suppress(Exception), self._session("discarding", file):
            file.close()
        with contextlib.suppress(Exception), self._session("discarding") as client:
            client.remove(temporary)

    def read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        """Yield a range of a regular file."""
        doing = f"reading {key} in {self.location}"
        end = self.stat(key).size_bytes
        if size_bytes is not None:
            end = min(end, start + size_bytes)
        if start >= end:
            return
        with self._session(doing) as client:
            file = client.open(self._path(key), "rb")
        try:
            exchange = _FIRST_READ
            while start < end:
                size = min(exchange, end - start)
                exchange = min(exchange * 2, _EXCHANGE_SIZE)
                with self._session(doing, file) as client:
                    part = _read(client, file, start, size)
                if len(part) != size:
                    message = f"{key} in {self.location} ended at byte {start + len(part)}, expected {end}"
                    raise TruncatedError(message, key=key, offset=start + len(part))
                start += size
                yield part
        finally:
            with contextlib.suppress(Exception), self._session(doing, file):
                file.close()

    def stat(self, key: str) -> BlobInfo:
        """Return the facts of a regular file."""
        with self._session(f"looking at {key} in {self.location}") as client:
            facts = _entry(client, self._path(key))
        if facts is None or not stat.S_ISREG(facts.st_mode or 0):
            what = "no blob" if facts is None else "no regular file, so no blob,"
            raise BlobNotFoundError(f"there is {what} {key} in {self.location}", key=key)
        return _info(key, facts)

    def walk(self, prefix: str) -> Iterator[BlobInfo]:
        """Walk only the directories that can hold keys with this prefix."""
        folder = prefix.rpartition("/")[0]
        try:
            base = check_key(folder) if folder else ""
        except ConfigurationError:
            return  # no valid key starts with it
        for path, facts in self._walk(base):
            if path.startswith(prefix):
                with contextlib.suppress(ConfigurationError):  # a foreign file that no key can name
                    yield _info(check_key(path), facts)

    def _walk(self, folder: str) -> Iterator[tuple[str, Any]]:
        """Yield path and facts of regular files, sorted by path; hidden directories are left out."""
        path = self._path(folder) if folder else self._root or "/"
        entries: list[tuple[str, Any]] = []
        with self._session(f"listing {self.location}") as client:
            try:
                entries = [(facts.filename, facts) for facts in client.listdir_attr(path)]
            except FileNotFoundError:
                return
            except OSError:
                facts = _entry(client, path)
                if folder and facts is not None and not stat.S_ISDIR(facts.st_mode or 0):
                    return  # a file in place of a directory: no keys there
                raise
        # With its slash a directory sorts exactly where the keys below it belong.
        entries.sort(key=lambda entry: entry[0] + "/" if stat.S_ISDIR(entry[1].st_mode or 0) else entry[0])
        for name, facts in entries:
            below = f"{folder}/{name}" if folder else name
            if stat.S_ISREG(facts.st_mode or 0):
                yield below, facts
            elif stat.S_ISDIR(facts.st_mode or 0) and not name.startswith("."):
                yield from self._walk(below)

    def delete(self, key: str) -> None:
        """Remove a regular file, and the directories it leaves empty."""
        self.stat(key)
        with self._session(f"deleting {key} in {self.location}") as client:
            client.remove(self._path(key))
            parts = key.split("/")
            with contextlib.suppress(OSError):  # not empty, or not ours to remove
                for depth in range(len(parts) - 1, 0, -1):
                    client.rmdir(self._path("/".join(parts[:depth])))

    def leftovers(self) -> Iterator[Leftover]:
        """Yield hidden files of interrupted writes."""
        for path, facts in self._walk(""):
            if is_temporary(path.rpartition("/")[2]):
                info = _info(path, facts)
                yield Leftover(path=path, size_bytes=info.size_bytes, modified_at=info.modified_at)

    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove a hidden file of an interrupted write."""
        if not is_temporary(leftover.path.rpartition("/")[2]):
            raise ConfigurationError(f"{leftover.path!r} is not a temporary file", kind="bad_key")
        with (
            contextlib.suppress(BlobNotFoundError),
            self._session(f"deleting {leftover.path} in {self.location}") as client,
        ):
            client.remove(self._path(leftover.path))

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def _entry(client: Any, path: str) -> Any | None:
    """Return the facts of what is there itself, without following symbolic links."""
    try:
        return client.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None


def _make_directories(client: Any, folder: str) -> None:
    if not folder or _entry(client, folder) is not None:
        return
    _make_directories(client, folder.rpartition("/")[0])
    try:
        client.mkdir(folder, 0o700)
    except OSError:
        if _entry(client, folder) is None:  # otherwise another writer was faster
            raise


def _gathered(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Join small chunks and cut large ones, so that every exchange is worth its wait."""
    pending = bytearray()
    for chunk in chunks:
        pending += chunk
        while len(pending) >= _EXCHANGE_SIZE:
            yield bytes(pending[:_EXCHANGE_SIZE])
            del pending[:_EXCHANGE_SIZE]
    if pending:
        yield bytes(pending)


class _Replies:
    """Takes the replies to requests that are on their way together, in whatever order they come."""

    def __init__(self) -> None:
        self.by_number: dict[int, tuple[int, Any]] = {}

    def _async_response(self, kind: int, message: Any, number: int) -> None:
        self.by_number[number] = (kind, message)


def _exchange(client: Any, requests: Iterable[tuple[Any, ...]]) -> list[Any]:
    """
    Send all *requests*, await every reply, and return them in the order of the requests.

    Uses what paramiko's own prefetching is made of.

    Returns:
        One message each; `None` for a read beyond the end.

    Raises:
        OSError: What the server said of the first request that failed.
        EOFError: The connection broke.
    """
    replies = _Replies()
    numbers = [client._async_request(replies, *request) for request in requests]  # noqa: SLF001 - see above
    while len(replies.by_number) < len(numbers):
        client._read_response()  # noqa: SLF001
    messages: list[Any] = []
    for number in numbers:
        kind, message = replies.by_number[number]
        try:
            if kind == _STATUS:
                client._convert_status(message)  # noqa: SLF001 - raises unless it says that all is well
            messages.append(message)
        except EOFError:
            messages.append(None)
    return messages


def _write(client: Any, file: Any, offset: int, piece: bytes) -> None:
    from paramiko.sftp import int64  # noqa: PLC0415 - needs paramiko, which few need

    with memoryview(piece) as view:
        _exchange(
            client,
            (
                (_WRITE, file.handle, int64(offset + at), bytes(view[at : at + _REQUEST_SIZE]))
                for at in range(0, len(view), _REQUEST_SIZE)
            ),
        )


def _read(client: Any, file: Any, offset: int, size_bytes: int) -> bytes:
    """Return the bytes of a range; fewer when the file ends before."""
    from paramiko.sftp import int64  # noqa: PLC0415 - see above

    found = bytearray(size_bytes)
    wanted = [(at, min(_REQUEST_SIZE, size_bytes - at)) for at in range(0, size_bytes, _REQUEST_SIZE)]
    while wanted:
        requests = [(_READ, file.handle, int64(offset + at), size) for at, size in wanted]
        replies = _exchange(client, requests)
        if None in replies:
            return b""
        parts = [reply.get_string() for reply in replies]
        for (at, _), part in zip(wanted, parts, strict=True):
            found[at : at + len(part)] = part
        # A server may give less than was asked for.
        wanted = [
            (at + len(part), size - len(part))
            for (at, size), part in zip(wanted, parts, strict=True)
            if len(part) < size
        ]
    return bytes(found)


def _info(key: str, facts: Any) -> BlobInfo:
    moment = None if facts.st_mtime is None else dt.datetime.fromtimestamp(facts.st_mtime, dt.UTC)
    return BlobInfo(key=key, size_bytes=int(facts.st_size or 0), modified_at=moment)
