"""
What snapshots cost in cycles: estimates before the work, storage per day, and whether snapshots dominate the burn.

Pure arithmetic over published prices. Estimates are for planning: the network charges instructions we cannot see
(compiling a module at load, for example), and prices change by governance.

Source:
    internet-computer reference, D.9; developer documentation, "Cycles costs".
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import attrs

from .._checks import at_least, whole_number
from ..model.canisters import CHUNK_BYTES, CanisterStatus, SnapshotMetadata
from ..model.reports import Finding

__all__ = ["FREE", "CostEstimate", "CyclesPrices", "StorageShare", "freezing_reserve", "storage_findings"]

_REFERENCE_NODES: Final = 13
_GIB: Final = 1 << 30
_SECONDS_PER_DAY: Final = 86_400
_WASM_CHUNK_BYTES: Final = 1 << 20
_ENVELOPE_BYTES: Final = 600
"""Of a call without its chunk: key, signature, names and Candid head; more with delegations."""
_DEFAULT_FREEZING_SECONDS: Final = 2_592_000


def _shown(cycles: int) -> str:
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if cycles >= limit:
            return f"{cycles / limit:.2f} {unit}"
    return str(cycles)


@attrs.frozen(kw_only=True)
class CostEstimate:
    """Cycles an operation takes from the balance of the canister it is about."""

    operation: str
    calls: int = attrs.field(validator=whole_number(0))
    size_bytes: int = attrs.field(validator=whole_number(0))
    cycles: int = attrs.field(validator=whole_number(0))

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.operation}: about {_shown(self.cycles)} cycles ({self.size_bytes} bytes, {self.calls} calls)"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class CyclesPrices:
    """
    Prices of one subnet; the defaults are those of a 13-node application subnet.

    For other sizes set ``nodes``: everything is charged in proportion. System subnets and local networks are `FREE`.
    """

    nodes: int = attrs.field(default=_REFERENCE_NODES, validator=whole_number(1))
    ingress_base: int = attrs.field(default=1_200_000, validator=whole_number(0))
    ingress_per_byte: int = attrs.field(default=2_000, validator=whole_number(0))
    execution_base: int = attrs.field(default=5_000_000, validator=whole_number(0))
    per_instruction: float = attrs.field(default=1.0, validator=at_least(0))
    """2 for canisters of 64-bit Wasm, which today's Motoko compiles to."""
    snapshot_instructions: int = attrs.field(default=2_000_000_000, validator=whole_number(0))
    """Charged at each take, load, and start of an upload, beside one instruction per byte."""
    per_gib_second: int = attrs.field(default=127_000, validator=whole_number(0))

    def take(self, size_bytes: int) -> CostEstimate:
        """Estimate taking a snapshot of so many bytes."""
        return self._estimate("take", 1, 0, self.snapshot_instructions + size_bytes, size_bytes)

    def load(self, size_bytes: int) -> CostEstimate:
        """Estimate loading a snapshot of so many bytes; compiling its module comes on top."""
        return self._estimate("load", 1, 0, self.snapshot_instructions + size_bytes, size_bytes)

    def download(self, metadata: SnapshotMetadata | int, *, chunk_bytes: int = CHUNK_BYTES) -> CostEstimate:
        """Estimate reading a snapshot, given what is known of it: its metadata, or its size alone."""
        calls, size = _parts(metadata, chunk_bytes)
        instructions = calls * self.execution_base + size
        return self._estimate("download", calls + 1, 0, instructions, size, execution=0)

    def upload(self, metadata: SnapshotMetadata | int, *, chunk_bytes: int = CHUNK_BYTES) -> CostEstimate:
        """
        Estimate uploading a snapshot without reading it back; the bytes of the messages dominate.

        About 2.15 T cycles for 1 GiB, 500 times the price of a download. Reading back costs one `download` more.
        """
        calls, size = _parts(metadata, chunk_bytes)
        return self._estimate("upload", calls + 1, size, self.snapshot_instructions + 2 * size, size)

    def storage(self, size_bytes: int, duration: dt.timedelta = dt.timedelta(days=30)) -> CostEstimate:
        """Estimate keeping so many bytes on chain; they also raise the balance below which the canister freezes."""
        cycles = size_bytes * self.per_gib_second * max(0, round(duration.total_seconds())) // _GIB
        name = f"storage for {duration.total_seconds() / _SECONDS_PER_DAY:g} days"
        return CostEstimate(operation=name, calls=0, size_bytes=size_bytes, cycles=self._scaled(cycles))

    def _estimate(  # noqa: PLR0913 - what a price is made of
        self, name: str, calls: int, sent_bytes: int, instructions: int, size: int, *, execution: int | None = None
    ) -> CostEstimate:
        induction = calls * (self.ingress_base + self.ingress_per_byte * _ENVELOPE_BYTES)
        induction += self.ingress_per_byte * sent_bytes
        base = calls * (self.execution_base if execution is None else execution)
        cycles = self._scaled(induction + base + round(instructions * self.per_instruction))
        return CostEstimate(operation=name, calls=calls, size_bytes=size, cycles=cycles)

    def _scaled(self, cycles: int) -> int:
        return -(-cycles * self.nodes // _REFERENCE_NODES)


FREE: Final = CyclesPrices(
    ingress_base=0, ingress_per_byte=0, execution_base=0, per_instruction=0, snapshot_instructions=0, per_gib_second=0
)
"""Prices of system subnets and of most local networks."""


def _parts(metadata: SnapshotMetadata | int, chunk_bytes: int) -> tuple[int, int]:
    if isinstance(metadata, int):
        return -(-metadata // chunk_bytes), metadata
    chunks = len(metadata.wasm_chunk_store)
    return sum(1 for _ in metadata.parts(chunk_bytes=chunk_bytes)), metadata.size_bytes + chunks * _WASM_CHUNK_BYTES


def freezing_reserve(status: CanisterStatus, *, extra_bytes: int = 0, prices: CyclesPrices | None = None) -> int:
    """
    Return the balance below which a canister freezes: its idle burn for the time of its freezing threshold.

    Args:
        status: What the canister says of itself. Without an idle burn, as older networks answer, it is 0.
        extra_bytes: Memory it is about to use in addition, as a snapshot does.
        prices: Of the extra bytes.
    """
    threshold = status.settings.values.get("freezing_threshold", _DEFAULT_FREEZING_SECONDS)
    seconds = threshold if isinstance(threshold, int) else _DEFAULT_FREEZING_SECONDS
    idle = (status.idle_cycles_burned_per_day or 0) * seconds // _SECONDS_PER_DAY
    if extra_bytes:
        idle += (prices or CyclesPrices()).storage(extra_bytes, dt.timedelta(seconds=seconds)).cycles
    return max(0, idle - (status.reserved_cycles or 0))


@attrs.frozen(kw_only=True)
class StorageShare:
    """What snapshots take of a canister's idle burn."""

    snapshots_bytes: int
    memory_bytes: int
    cycles_per_day: int
    """Of the snapshots alone."""
    share: float
    """0 to 1, of the memory that is paid for."""

    @classmethod
    def of(cls, status: CanisterStatus, *, prices: CyclesPrices | None = None) -> StorageShare:
        """Return the share that a status shows."""
        used = status.memory_metrics.get("snapshots_size", 0)
        total = max(status.memory_size_bytes, used)
        per_day = (prices or CyclesPrices()).storage(used, dt.timedelta(days=1)).cycles
        share = used / total if total else 0.0
        return cls(snapshots_bytes=used, memory_bytes=total, cycles_per_day=per_day, share=share)


def storage_findings(
    status: CanisterStatus, *, dominate_share: float = 0.5, prices: CyclesPrices | None = None
) -> tuple[Finding, ...]:
    """
    Warn when a canister's snapshots take more of its memory, and so of its burn, than it takes itself.

    Args:
        status: What the canister says of itself.
        dominate_share: Share of the memory, 0 to 1, above which snapshots are said to dominate.
        prices: For the figure in the message.
    """
    share = StorageShare.of(status, prices=prices)
    if share.share <= dominate_share:
        return ()
    message = (
        f"snapshots are {share.share:.0%} of the memory that canister {status.canister_id} pays for: "
        f"{share.snapshots_bytes} bytes, about {_shown(share.cycles_per_day)} cycles a day; "
        "delete those that are kept elsewhere"
    )
    return (Finding(code="snapshots_dominate_burn", where=str(status.canister_id), message=message),)
