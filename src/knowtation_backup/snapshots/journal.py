"""
What is written down before a canister is stopped, so that any later process can start it again.

A directory with one small JSON file per canister that an operation has stopped, or is about to. A file appears
complete and on the disk before the stop is sent, and goes when a subnet has certified that the canister runs. Beside
it lies a lock, held by the operation as long as its process lives: the operating system takes it back from a killed
one, so nobody has to guess from process numbers whether an entry is alive.

Keep the directory on a local disk that survives a restart of the host, one for all processes that work on the same
canisters.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import attrs

from .._engine.local_files import open_directory, os_errors_translated, sync_directory, temporary_name
from ..errors import ConfigurationError, IntegrityError, SourceUnavailableError
from ..model.ids import Principal, SnapshotId
from ..model.json_input import check_nesting

__all__ = ["DowntimeEntry", "DowntimeJournal", "network_name"]

_FORMAT: Final = "knowtation-downtime-1"
_SUFFIX: Final = ".json"
_LOCK_SUFFIX: Final = ".lock"
_MAX_BYTES: Final = 1 << 20
_NETWORK_DIGITS: Final = 16


def network_name(root_key: bytes) -> str:
    """Return a short name of the network with this root key: local networks use the same canister ids as others."""
    return hashlib.sha256(root_key).hexdigest()[:_NETWORK_DIGITS]


@attrs.frozen(kw_only=True)
class DowntimeEntry:
    """One canister that is, or may be, stopped on our account, and what was about to be done with it."""

    canister_id: Principal
    network: str
    """See `network_name`."""
    operation: str
    """``take``, ``group``, ``load`` or ``restore``."""
    was_running: bool
    began_at: dt.datetime
    group: tuple[Principal, ...] = ()
    """All canisters of the operation, where they belong together."""
    snapshots_before: tuple[SnapshotId, ...] = ()
    """What the canister had; everything beyond that came during or after the operation."""
    pending: str = ""
    """The call that may have been executed: ``take``, ``safety`` or ``load``; empty when its outcome is known."""
    taken: SnapshotId | None = None
    target: SnapshotId | None = None
    """The snapshot being loaded."""
    safety: SnapshotId | None = None
    """Holds the state from before a load, until that is known to be good."""
    version: int | None = None
    """The canister's version when it was stopped and nothing was loaded yet; a load adds one."""
    settled_at: dt.datetime | None = None
    """Until then a call sent before a crash may still be executed: a canister that runs may yet be stopped."""
    host: str = attrs.field(factory=socket.gethostname)
    process: int = attrs.field(factory=os.getpid)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {
            "format": _FORMAT,
            "canister_id": str(self.canister_id),
            "network": self.network,
            "operation": self.operation,
            "was_running": self.was_running,
            "began_at": self.began_at.isoformat(),
            "group": [str(member) for member in self.group],
            "snapshots_before": [str(snapshot) for snapshot in self.snapshots_before],
            "pending": self.pending,
            "taken": _text(self.taken),
            "target": _text(self.target),
            "safety": _text(self.safety),
            "version": self.version,
            "settled_at": self.settled_at.isoformat() if self.settled_at else None,
            "host": self.host,
            "process": self.process,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the entry that `to_json` wrote; raises `ValueError` and its like for anything else."""
        if value["format"] != _FORMAT:
            message = f"unknown format {value['format']!r:.40}"
            raise ValueError(message)
        settled = value["settled_at"]
        return cls(
            canister_id=Principal.parse(value["canister_id"]),
            network=str(value["network"]),
            operation=str(value["operation"]),
            was_running=bool(value["was_running"]),
            began_at=dt.datetime.fromisoformat(value["began_at"]),
            group=tuple(map(Principal.parse, value["group"])),
            snapshots_before=tuple(map(SnapshotId.parse, value["snapshots_before"])),
            pending=str(value["pending"]),
            taken=_id(value["taken"]),
            target=_id(value["target"]),
            safety=_id(value["safety"]),
            version=None if value["version"] is None else int(value["version"]),
            settled_at=dt.datetime.fromisoformat(settled) if settled else None,
            host=str(value["host"]),
            process=int(value["process"]),
        )


def _text(snapshot: SnapshotId | None) -> str | None:
    return None if snapshot is None else str(snapshot)


def _id(value: str | None) -> SnapshotId | None:
    return None if value is None else SnapshotId.parse(value)


class DowntimeJournal:
    """
    The entries of one directory.

    Args:
        directory: Made with mode 0700 when it is first needed.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory: Path = Path(directory).absolute()

    def __repr__(self) -> str:
        return f"DowntimeJournal({str(self.directory)!r})"

    def check(self) -> None:
        """Write and remove a file; raises a `SinkError` when that fails: then nothing may be stopped."""
        with self._opened() as directory:
            name = temporary_name()
            try:
                self._put(directory, name, b"{}")
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=directory)

    @contextlib.contextmanager
    def lock(self, canister_id: Principal, network: str) -> Iterator[None]:
        """
        Hold the canister for one operation.

        Raises:
            SourceUnavailableError: Kind ``canister_busy``: another operation holds it, here or in another process.
        """
        with self._opened() as directory:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            held = os.open(_name(canister_id, network) + _LOCK_SUFFIX, flags, 0o600, dir_fd=directory)
        try:
            _take_lock(held, canister_id)
            yield
        finally:
            os.close(held)

    def write(self, entry: DowntimeEntry) -> None:
        """Put *entry* in place of an older one about its canister; on return it is on the disk."""
        data = json.dumps(entry.to_json(), indent=2).encode()
        with self._opened() as directory:
            temporary = temporary_name()
            try:
                self._put(directory, temporary, data)
                name = _name(entry.canister_id, entry.network) + _SUFFIX
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            sync_directory(directory)

    def remove(self, entry: DowntimeEntry) -> None:
        """Forget the entry about a canister; it need not exist."""
        with self._opened() as directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_name(entry.canister_id, entry.network) + _SUFFIX, dir_fd=directory)
            sync_directory(directory)

    def find(self, canister_id: Principal, network: str) -> DowntimeEntry | None:
        """Return the entry about a canister, if there is one."""
        with self._opened() as directory:
            return self._read(directory, _name(canister_id, network) + _SUFFIX)

    def entries(self) -> tuple[DowntimeEntry, ...]:
        """
        Return all entries, by canister.

        Raises:
            IntegrityError: Kind ``journal_damaged``: a file is not what was written.
        """
        entries, damaged = self.read()
        if damaged:
            raise next(iter(damaged.values()))
        return entries

    def read(self) -> tuple[tuple[DowntimeEntry, ...], dict[str, IntegrityError]]:
        """Return all entries that can be read, and by the names of their files why others cannot."""
        if not self.directory.is_dir():
            return (), {}
        entries: list[DowntimeEntry] = []
        damaged: dict[str, IntegrityError] = {}
        with self._opened() as directory:
            listing = os.listdir(directory)  # noqa: PTH208 - of a descriptor
            for name in sorted(name for name in listing if name.endswith(_SUFFIX) and name[0] != "."):
                try:
                    entry = self._read(directory, name)
                except IntegrityError as error:
                    damaged[name] = error
                else:
                    entries.extend([] if entry is None else [entry])
        return tuple(entries), damaged

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with os_errors_translated(f"using the downtime journal {self.directory}"):
            directory = open_directory(self.directory, create=True)
            try:
                yield directory
            finally:
                os.close(directory)

    @staticmethod
    def _put(directory: int, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, directory: int, name: str) -> DowntimeEntry | None:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(_MAX_BYTES)
        try:
            check_nesting(data)
            entry = DowntimeEntry.from_json(json.loads(data))
            if name != _name(entry.canister_id, entry.network) + _SUFFIX:
                raise ValueError("an entry of another name")  # noqa: TRY301 - damaged like the others
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            message = f"{self.directory / name} is not an entry of a downtime journal"
            hint = "look whether the canister it is named after runs, start it, then remove the file"
            raise IntegrityError(message, kind="journal_damaged", hint=hint, path=name) from error
        return entry


def _name(canister_id: Principal, network: str) -> str:
    if not network.isalnum():
        message = f"{network!r:.40} is not the name of a network"
        raise ConfigurationError(message, kind="bad_option", option="network")
    return f"{canister_id}@{network}"


def _take_lock(descriptor: int, canister_id: Principal) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            with os_errors_translated(f"locking canister {canister_id} in the downtime journal"):
                raise
        message = f"another operation works on canister {canister_id}"
        hint = "wait for it; if its process is dead the lock is free at once"
        context = {"canister_id": str(canister_id)}
        raise SourceUnavailableError(message, kind="canister_busy", hint=hint, **context) from error
