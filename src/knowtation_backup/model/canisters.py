"""
What the management canister says about canisters and their snapshots, as values.

Every field a replica may leave out is `None` or empty when it did; names and units follow the interface.

Source:
    ``ic.did`` of the developer documentation; internet-computer reference, C.2, C.3, D and E.2.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import attrs

from .ids import Principal, SnapshotId

__all__ = [
    "CHUNK_BYTES",
    "MAX_SNAPSHOTS",
    "CanisterSettings",
    "CanisterStatus",
    "GlobalKind",
    "GlobalValue",
    "LogRecord",
    "PublicInfo",
    "RunState",
    "SectionName",
    "Slice",
    "Snapshot",
    "SnapshotMetadata",
    "SnapshotPart",
    "StoredChunk",
    "moment_of",
]

CHUNK_BYTES: Final = 2_000_000
"""Most bytes of a snapshot that one call reads, and that all known tools upload at once."""
MAX_SNAPSHOTS: Final = 10
"""Snapshots the network keeps for one canister."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def moment_of(nanoseconds: int) -> dt.datetime:
    """Return the moment so many nanoseconds after 1970, rounded down to microseconds."""
    return _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)


class RunState(enum.Enum):
    """Whether a canister takes messages."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


@attrs.frozen(kw_only=True)
class Snapshot:
    """A canister snapshot as the network lists it."""

    snapshot_id: SnapshotId
    taken_at_ns: int
    """Nanoseconds since 1970; exact, unlike `taken_at`."""
    size_bytes: int

    @property
    def taken_at(self) -> dt.datetime:
        """When it was taken, or its upload began."""
        return moment_of(self.taken_at_ns)


@attrs.frozen(kw_only=True)
class CanisterSettings:
    """Settings of a canister; a snapshot does not contain them."""

    controllers: tuple[Principal, ...] = ()
    values: Mapping[str, Any] = attrs.field(factory=dict)
    """All others under the interface's names: numbers, a visibility (``"controllers"``, ``"public"`` or a tuple of
    principals), ``environment_variables`` as a mapping of texts. Names a newer replica adds are kept."""


@attrs.frozen(kw_only=True)
class CanisterStatus:
    """What ``canister_status`` says; only controllers may ask."""

    canister_id: Principal
    run_state: RunState
    settings: CanisterSettings
    cycles: int
    memory_size_bytes: int
    module_hash: bytes | None
    version: int | None = None
    reserved_cycles: int | None = None
    idle_cycles_burned_per_day: int | None = None
    memory_metrics: Mapping[str, int] = attrs.field(factory=dict)
    """``wasm_memory_size``, ``stable_memory_size``, ``snapshots_size`` and so on, in bytes."""
    query_stats: Mapping[str, int] = attrs.field(factory=dict)
    certified: bool
    """Whether the answer was signed by the subnet, and not by one node alone."""


@attrs.frozen(kw_only=True)
class PublicInfo:
    """What anybody may read of a canister from the certified state."""

    canister_id: Principal
    controllers: tuple[Principal, ...]
    module_hash: bytes | None
    """`None` for a canister without code."""


@attrs.frozen(kw_only=True)
class LogRecord:
    """One line of a canister's log."""

    index: int
    at_ns: int
    content: bytes


class SectionName(enum.Enum):
    """The byte streams of a snapshot; the Wasm chunk store comes beside them, chunk by chunk."""

    WASM_MODULE = "wasm_module"
    WASM_MEMORY = "wasm_memory"
    STABLE_MEMORY = "stable_memory"


@attrs.frozen
class Slice:
    """The bytes ``[offset, offset + size_bytes)`` of a section."""

    section: SectionName
    offset: int
    size_bytes: int

    def __str__(self) -> str:
        """Return a short name for messages."""
        return f"{self.section.value} from {self.offset} ({self.size_bytes} bytes)"


@attrs.frozen
class StoredChunk:
    """A chunk of the Wasm chunk store, at most 1 MiB, named by the SHA-256 of its bytes."""

    sha256: bytes

    def __str__(self) -> str:
        """Return a short name for messages."""
        return f"Wasm chunk {self.sha256.hex()}"


SnapshotPart: TypeAlias = Slice | StoredChunk
"""What one call reads or writes."""


class GlobalKind(enum.Enum):
    """Type of an exported Wasm global."""

    I32 = "i32"
    I64 = "i64"
    F32 = "f32"
    F64 = "f64"
    V128 = "v128"


@attrs.frozen
class GlobalValue:
    """A Wasm global. ``bits`` are its raw bits as an unsigned number, so that no NaN loses its payload."""

    kind: GlobalKind
    bits: int


@attrs.frozen(kw_only=True)
class SnapshotMetadata:
    """What ``read_canister_snapshot_metadata`` says; with the sections, all there is of a snapshot."""

    wasm_module_size: int
    wasm_memory_size: int
    stable_memory_size: int
    globals: tuple[GlobalValue | None, ...] = ()
    """`None` stands for a kind this release does not know."""
    wasm_chunk_store: tuple[bytes, ...] = ()
    """SHA-256 of each stored chunk."""
    certified_data: bytes = b""
    taken_at_ns: int = 0
    canister_version: int = 0
    source: str | None = None
    """``taken_from_canister``, ``metadata_upload``, or `None` for something newer."""
    global_timer: int | str | None = None
    """Nanoseconds since 1970 when active, else ``"inactive"``; `None` for snapshots from before April 2025."""
    on_low_wasm_memory_hook_status: str | None = None

    def section_size(self, section: SectionName) -> int:
        """Return the bytes a section has."""
        sizes = {
            SectionName.WASM_MODULE: self.wasm_module_size,
            SectionName.WASM_MEMORY: self.wasm_memory_size,
            SectionName.STABLE_MEMORY: self.stable_memory_size,
        }
        return sizes[section]

    @property
    def size_bytes(self) -> int:
        """Bytes of the three sections together; the chunk store is not counted, its chunks have no recorded size."""
        return sum(map(self.section_size, SectionName))

    def parts(self, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[SnapshotPart]:
        """Yield everything there is to transfer: module, heap and stable memory in offset order, then the chunks."""
        for section in SectionName:
            size = self.section_size(section)
            for offset in range(0, size, chunk_bytes):
                yield Slice(section, offset, min(chunk_bytes, size - offset))
        yield from map(StoredChunk, self.wasm_chunk_store)
