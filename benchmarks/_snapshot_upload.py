"""
The upload half of ``snapshots_bench.py``: ours, alone and with everything read back, against ``icp``.

The network, its latency and the directory are the caller's. What was uploaded is deleted again after each run.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import attrs

from _harness import Row, in_fresh_process
from _icp import Icp
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.identity import identity_from_pem_file
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.snapshots.upload import UploadOptions, upload

_SNAPSHOT_ID = re.compile(r'"snapshot_id"\s*:\s*"([0-9a-f]+)"')
"""In what the command prints, progress and all."""


@attrs.frozen(kw_only=True)
class Times:
    """What one upload of ours took."""

    upload_seconds: float
    read_back_seconds: float
    total_seconds: float


def measure_upload(  # noqa: PLR0913 - where, what, and as whom
    icp: Icp, *, url: str, root_key: bytes, pem: Path, canister: str, directory: Path, latency_seconds: float
) -> list[Row]:
    """
    Upload *directory* with ``icp`` and with ours, and return the rows.

    Args:
        icp: Prepared for this network, with the key of *pem*.
        url: Of the network, which delays every request by *latency_seconds* already.
        root_key: DER.
        pem: Key of a controller.
        canister: Who gets the snapshots, as text.
        directory: As ``icp`` or ours wrote it.
        latency_seconds: For the name of the case.
    """
    theirs = icp.run("canister", "snapshot", "upload", canister, "-i", str(directory), "--json")
    _delete(url, root_key, str(pem), canister, _SNAPSHOT_ID.findall(theirs.output)[-1])
    ours = in_fresh_process(upload_once, url, root_key, str(pem), canister, str(directory))
    times: Times = ours.value
    case = f"upload, {latency_seconds * 1000:.0f} ms latency"
    reference: dict[str, Any] = {"reference": theirs.wall_seconds, "reference_name": "icp"}
    peaks: dict[str, Any] = {"reference": theirs.peak_bytes / 1e6, "reference_name": "icp"}
    sending = times.total_seconds - times.read_back_seconds
    return [
        Row(case=case, metric="wall time, sending", ours=sending, unit="s", **reference),
        Row(case=case, metric="wall time, with everything compared", ours=times.total_seconds, unit="s", **reference),
        Row(case=case, metric="peak memory", ours=ours.peak_bytes / 1e6, unit="MB", **peaks),
    ]


def upload_once(url: str, root_key: bytes, pem: str, canister: str, directory: str) -> Times:
    """Upload with ours, read back and compare, delete again; in a process of its own."""
    start = time.perf_counter()
    with Agent(url, identity=identity_from_pem_file(pem), root_key=root_key) as agent:
        management, canister_id = ManagementCanister(agent), Principal.parse(canister)
        report = upload(management, directory, canister_id, options=UploadOptions())
        total = time.perf_counter() - start
        management.delete_snapshot(canister_id, report.snapshot_id)
    return Times(upload_seconds=report.upload_seconds, read_back_seconds=report.read_back_seconds, total_seconds=total)


def _delete(url: str, root_key: bytes, pem: str, canister: str, snapshot_id: str) -> None:
    with Agent(url, identity=identity_from_pem_file(pem), root_key=root_key) as agent:
        ManagementCanister(agent).delete_snapshot(Principal.parse(canister), SnapshotId.parse(snapshot_id))
