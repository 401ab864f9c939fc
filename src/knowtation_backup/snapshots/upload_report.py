"""How an upload runs, and what it brought."""

from __future__ import annotations

from typing import Any

import attrs

from .._checks import above, at_least, between, optional, whole_number
from ..model.ids import Principal, SnapshotId
from ..model.reports import Finding
from .cost import CostEstimate, CyclesPrices

__all__ = ["UploadOptions", "UploadReport"]


@attrs.frozen(kw_only=True)
class UploadOptions:
    """How a snapshot is uploaded. The defaults lose nothing without notice."""

    concurrency: int = attrs.field(default=72, validator=between(1, 256))
    """Most parts on their way up at once; fewer while the network complains. Each takes about 2 MB of memory."""
    read_concurrency: int = attrs.field(default=112, validator=between(1, 256))
    """Most parts that are read back at once; they wait outside of memory."""
    read_back: bool = True
    """Whether all parts are read again and compared: where a part was lost there are zeros, and nobody says so."""
    deadline_seconds: float | None = attrs.field(default=None, validator=optional(above(0)))
    """For everything together; the journal lets a later upload go on."""
    call_seconds: float = attrs.field(default=900.0, validator=above(0))
    """For one part with all its repetitions; a canister that has written much is slowed down for minutes."""
    max_cycles: int | None = attrs.field(default=None, validator=optional(whole_number(0)))
    """Refuse when the estimate is higher."""
    prices: CyclesPrices = attrs.field(factory=CyclesPrices)
    progress_seconds: float = attrs.field(default=1.0, validator=at_least(0))
    """Least time between two events of progress."""


@attrs.frozen(kw_only=True)
class UploadReport:
    """An upload that succeeded."""

    canister_id: Principal
    snapshot_id: SnapshotId
    size_bytes: int
    sent_bytes: int
    """Less than `size_bytes` when an earlier attempt was continued, more when parts had to be sent again."""
    compared_bytes: int
    """Read back from the network, certified, and equal."""
    repaired_parts: int
    """Parts that were not there when read back, and were sent again."""
    calls: int
    retries: int
    """Of calls that send; each waited for a while."""
    lowest_concurrency: int
    upload_seconds: float
    read_back_seconds: float
    estimate: CostEstimate
    read_back_estimate: CostEstimate | None = None
    replaced: SnapshotId | None = None
    """The snapshot that is gone now."""
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        """Return a few lines for people."""
        again = f"; {self.repaired_parts} parts sent again" if self.repaired_parts else ""
        sent = f"{self.sent_bytes:,} of {self.size_bytes:,} bytes sent in {self.upload_seconds:.1f} s"
        lines = [
            f"snapshot {self.snapshot_id} of canister {self.canister_id}: {sent}",
            f"read back and equal: {self.compared_bytes:,} bytes in {self.read_back_seconds:.1f} s{again}",
            str(self.estimate),
        ]
        if self.replaced is not None:
            lines.append(f"replaced: {self.replaced}")
        return "\n".join([*lines, *(finding.message for finding in self.findings)])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        back = self.read_back_estimate
        return {
            "canister_id": str(self.canister_id),
            "snapshot_id": str(self.snapshot_id),
            "size_bytes": self.size_bytes,
            "sent_bytes": self.sent_bytes,
            "compared_bytes": self.compared_bytes,
            "repaired_parts": self.repaired_parts,
            "calls": self.calls,
            "retries": self.retries,
            "lowest_concurrency": self.lowest_concurrency,
            "upload_seconds": round(self.upload_seconds, 3),
            "read_back_seconds": round(self.read_back_seconds, 3),
            "estimate": self.estimate.to_json(),
            "read_back_estimate": None if back is None else back.to_json(),
            "replaced": None if self.replaced is None else str(self.replaced),
            "findings": [attrs.asdict(finding) for finding in self.findings],
        }
