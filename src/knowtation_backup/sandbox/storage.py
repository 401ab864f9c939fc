"""
The state of a replica in a directory: saved whole, found whole, whatever happens in between.

```
.lock                        empty; locked by the process that uses the directory
CURRENT                      JSON: format, name of the generation, SHA-256 of its state file
generation-<n>/state.cbor    every canister; sizes and file names of what is large
generation-<n>/<name>        one file per module, chunk, heap and stable memory; unwritten ranges are holes
```

A generation is written and synchronised first, then ``CURRENT`` is replaced in one step, then older generations are
removed. A process killed at any moment leaves the previous or the new state complete. Loading runs no Wasm.

Open calls, queues and the history of requests are not kept: whoever waited for an answer has lost it with the process.
A canister that was stopping is therefore stopped when it comes back. One network uses a directory at a time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import cbor2

from ..errors import (
    BackupError,
    ConfigurationError,
    IntegrityError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    SourceUnavailableError,
    UnsupportedFormatError,
)
from .execution.images import MemoryImage
from .management.canister import ManagementCanister
from .state import (
    Canister,
    CanisterSettings,
    CanisterStatus,
    Change,
    CodeState,
    GlobalValue,
    LogRecord,
    QueryStats,
    Snapshot,
    Visibility,
)

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from .execution.wasm_module import WasmModule
    from .replica.replica import Replica

__all__ = ["DirectoryLock", "load", "save"]

_FORMAT: Final = 1
_LOCK: Final = ".lock"
_CURRENT: Final = "CURRENT"
_PREFIX: Final = "generation-"
_STATE: Final = "state.cbor"
_VISIBILITIES: Final = ("log_visibility", "snapshot_visibility", "status_visibility")


class DirectoryLock:
    """
    Holds a directory for one network, until `release` or the end of the process, however it ends.

    The lock is advisory (``flock``) and belongs to the machine: shares between machines may not honour it. Systems
    without it (Windows) have no protection.

    Args:
        directory: Created when missing.

    Raises:
        ConfigurationError: Another network, of this process or of another one, uses the directory.
        SinkPermissionError: The directory cannot be written.
        SinkUnavailableError: Any other fault of the file system.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        root = pathlib.Path(directory)
        with _writing(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor: int | None = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(self._descriptor, root)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others use the directory. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _take(descriptor: int, root: pathlib.Path) -> None:
    if sys.platform == "win32":
        return
    with _writing(root):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"the sandbox state in {root} is in use by another network",
                hint="close it first, or give this one a directory of its own",
            ) from error


def save(replica: Replica, directory: str | os.PathLike[str]) -> None:
    """
    Write the state of *replica*; afterwards, and only then, it is what `load` finds.

    Holds the replica's execution lock meanwhile. Files are readable by their owner only: memories hold secrets.

    Args:
        replica: With a `ManagementCanister`.
        directory: Created when missing.

    Raises:
        SinkFullError: No space left; the previous state is intact.
        SinkPermissionError: The directory cannot be written; the previous state is intact.
        SinkUnavailableError: Any other fault of the file system; the previous state is intact.
    """
    root = pathlib.Path(directory)
    with replica.lock, _writing(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        generation = root / f"{_PREFIX}{_last_number(root) + 1}"
        try:
            _publish(root, generation, replica)
        except OSError:
            # The disk may be full: give back what cannot be used. Nothing points to it.
            shutil.rmtree(generation, ignore_errors=True)
            raise
        _synchronise(root)
        for path in root.glob(f"{_PREFIX}*"):
            if path != generation:
                shutil.rmtree(path, ignore_errors=True)  # the new state stands; the next save tries again


def _publish(root: pathlib.Path, generation: pathlib.Path, replica: Replica) -> None:
    """Write a generation and, in the last step, make it the current one."""
    generation.mkdir(mode=0o700)
    state = _Writer(generation).state(replica)
    _write(generation / _STATE, state)
    _synchronise(generation)
    pointer = {
        "format": _FORMAT,
        "generation": generation.name,
        "state_sha256": hashlib.sha256(state).hexdigest(),
    }
    temporary = root / f"{_CURRENT}.new"
    _write(temporary, json.dumps(pointer).encode())
    _synchronise(root)
    temporary.replace(root / _CURRENT)


def load(replica: Replica, directory: str | os.PathLike[str]) -> None:
    """
    Put the saved state into a fresh *replica*; does nothing when *directory* holds none.

    The clock is moved forward to the distance it had, and never stands before the moment of saving.

    Args:
        replica: Without canisters, with a `ManagementCanister`.
        directory: As given to `save`.

    Raises:
        ConfigurationError: The replica has canisters.
        UnsupportedFormatError: Written by a newer release.
        IntegrityError: The stored state is damaged.
        SourceUnavailableError: The directory cannot be read.
    """
    if replica.canisters:
        raise ConfigurationError("a state can only be loaded into a replica without canisters")
    root = pathlib.Path(directory)
    with replica.lock, _reading(root):
        try:
            pointer = json.loads((root / _CURRENT).read_bytes())
        except FileNotFoundError:
            return
        if pointer["format"] != _FORMAT:
            raise UnsupportedFormatError(
                f"sandbox state in {root} has format {pointer['format']}, this release reads {_FORMAT}"
            )
        generation = root / pointer["generation"]
        data = (generation / _STATE).read_bytes()
        if hashlib.sha256(data).hexdigest() != pointer["state_sha256"]:
            raise IntegrityError(f"sandbox state in {root} is damaged: the digest of {_STATE} does not match")
        _Reader(generation, replica).restore(cbor2.loads(data))


def _management(replica: Replica) -> ManagementCanister:
    management = replica.management
    if not isinstance(management, ManagementCanister):
        raise ConfigurationError("storage needs a replica whose management is a ManagementCanister")
    return management


def _last_number(root: pathlib.Path) -> int:
    numbers = [path.name.removeprefix(_PREFIX) for path in root.glob(f"{_PREFIX}*")]
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _write(path: pathlib.Path, data: bytes | bytearray) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _synchronise(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writing(root: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"sandbox state could not be saved in {root}: {error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SinkFullError(message, hint="free some space") from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise SinkPermissionError(message) from error
        raise SinkUnavailableError(message) from error


@contextmanager
def _reading(root: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BackupError:
        raise
    except FileNotFoundError as error:
        raise IntegrityError(f"sandbox state in {root} is damaged: {error}") from error
    except OSError as error:
        raise SourceUnavailableError(f"sandbox state in {root} could not be read: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, cbor2.CBORError) as error:
        raise IntegrityError(f"sandbox state in {root} is damaged: {error!r}") from error


class _Writer:
    """Turns values into plain ones, and large parts into files of a generation."""

    def __init__(self, generation: pathlib.Path) -> None:
        self._generation = generation
        self._images = 0

    def state(self, replica: Replica) -> bytes:
        clock = replica.clock
        return cbor2.dumps(
            {
                "clock_offset_ns": clock.offset_ns,
                "saved_at_ns": clock.now_ns(),
                "next_canister": _management(replica).next_canister,
                "canisters": [self._canister(canister) for canister in replica.canisters.values()],
            }
        )

    def _canister(self, canister: Canister) -> dict[str, Any]:
        special: dict[str, Callable[[Any], Any]] = {
            "settings": attrs.asdict,
            "status": lambda status: status.value,
            "code": lambda code: self._code(code) if code else None,
            "chunk_store": self._chunks,
            "snapshots": lambda snapshots: [self._snapshot(snapshot) for snapshot in snapshots.values()],
            "history": lambda history: [attrs.asdict(change) for change in history],
            "logs": lambda logs: [attrs.asdict(record) for record in logs],
            "query_stats": attrs.asdict,
        }
        return _plain(canister, special)

    def _snapshot(self, snapshot: Snapshot) -> dict[str, Any]:
        special: dict[str, Callable[[Any], Any]] = {
            "module": self._blob,
            "heap": self._image,
            "stable": self._image,
            "global_values": _plain_globals,
            "chunk_store": self._chunks,
        }
        return _plain(snapshot, special)

    def _code(self, code: CodeState) -> dict[str, Any]:
        return {
            "module": self._blob(code.module.data),
            "heap": self._image(code.heap),
            "stable": self._image(code.stable),
            "global_values": _plain_globals(code.global_values),
        }

    def _chunks(self, store: dict[bytes, bytes]) -> list[str]:
        return [self._blob(chunk) for chunk in store.values()]

    def _blob(self, data: bytes | bytearray) -> str:
        name = f"{hashlib.sha256(data).hexdigest()}.blob"
        path = self._generation / name
        if not path.exists():
            _write(path, data)
        return name

    def _image(self, image: MemoryImage) -> dict[str, Any]:
        name = f"{self._images}.image"
        self._images += 1
        image.save(self._generation / name)
        _synchronise(self._generation / name)
        return {"file": name, "size_bytes": image.size_bytes}


def _plain(value: Any, special: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    result = {}
    for field in attrs.fields(type(value)):
        item = getattr(value, field.name)
        result[field.name] = special[field.name](item) if field.name in special else item
    return result


def _plain_globals(values: list[GlobalValue] | tuple[GlobalValue, ...]) -> list[list[Any]]:
    return [[item.kind, item.bits] for item in values]


class _Reader:
    """The way back."""

    def __init__(self, generation: pathlib.Path, replica: Replica) -> None:
        self._generation = generation
        self._replica = replica
        self._modules: dict[str, WasmModule] = {}

    def restore(self, state: dict[str, Any]) -> None:
        canisters = [self._canister(item) for item in state["canisters"]]
        clock = self._replica.clock
        clock.advance(max(0, state["clock_offset_ns"] - clock.offset_ns) / 1e9)
        clock.advance(max(0, state["saved_at_ns"] - clock.now_ns()) / 1e9)
        _management(self._replica).next_canister = state["next_canister"]
        self._replica.canisters.update((canister.canister_id, canister) for canister in canisters)

    def _canister(self, state: dict[str, Any]) -> Canister:
        status = CanisterStatus(state["status"])
        state |= {
            "settings": _settings(state["settings"]),
            "status": CanisterStatus.STOPPED if status is CanisterStatus.STOPPING else status,
            "code": self._code(state["code"]) if state["code"] else None,
            "chunk_store": self._chunks(state["chunk_store"]),
            "snapshots": {item["snapshot_id"]: self._snapshot(item) for item in state["snapshots"]},
            "history": [_change(item) for item in state["history"]],
            "query_stats": QueryStats(**state["query_stats"]),
        }
        logs = state.pop("logs")
        canister = Canister(**state)
        canister.logs.extend(LogRecord(**item) for item in logs)
        return canister

    def _snapshot(self, state: dict[str, Any]) -> Snapshot:
        module = self._blob(state["module"])
        state |= {
            "module": bytearray(module) if state["uploaded"] else module,
            "heap": self._image(state["heap"]),
            "stable": self._image(state["stable"]),
            "global_values": tuple(_globals(state["global_values"])),
            "chunk_store": self._chunks(state["chunk_store"]),
        }
        return Snapshot(**state)

    def _code(self, state: dict[str, Any]) -> CodeState:
        name = state["module"]
        if name not in self._modules:
            self._modules[name] = self._replica.engine.parse_module(self._blob(name))
        return CodeState(
            module=self._modules[name],
            heap=self._image(state["heap"]),
            stable=self._image(state["stable"]),
            global_values=_globals(state["global_values"]),
        )

    def _chunks(self, names: list[str]) -> dict[bytes, bytes]:
        return {bytes.fromhex(name.partition(".")[0]): self._blob(name) for name in names}

    def _blob(self, name: str) -> bytes:
        data = (self._generation / name).read_bytes()
        if f"{hashlib.sha256(data).hexdigest()}.blob" != name:
            raise IntegrityError(f"sandbox state is damaged: the content of {name} does not match its name")
        return data

    def _image(self, state: dict[str, Any]) -> MemoryImage:
        image = MemoryImage.load(self._generation / state["file"])
        if image.size_bytes != state["size_bytes"]:
            raise IntegrityError(
                f"sandbox state is damaged: {state['file']} has {image.size_bytes} bytes, "
                f"expected {state['size_bytes']}"
            )
        return image


def _globals(values: list[list[Any]]) -> list[GlobalValue]:
    return [GlobalValue(kind, bits) for kind, bits in values]


def _settings(state: dict[str, Any]) -> CanisterSettings:
    for name in _VISIBILITIES:
        state[name] = Visibility(state[name]["kind"], tuple(state[name]["viewers"]))
    return CanisterSettings(**state)


def _change(state: dict[str, Any]) -> Change:
    """Return a history entry; pairs became lists on the way and are pairs again."""
    kind, details = state["details"]
    if details is not None:
        details = {name: tuple(item) if name in ("mode", "source") else item for name, item in details.items()}
    state |= {"origin": tuple(state["origin"]), "details": (kind, details)}
    return Change(**state)
