"""
A downloaded snapshot goes back into a canister, in seven steps: validate, open, upload, stop, load, verify, start.

Everything that takes long happens while the canister still runs. Code and memory come back in the one step ``load``,
which the network does whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

from ..errors import BackupError
from ..model.canisters import SectionName, Slice
from ..model.ids import Principal
from .directory import SnapshotDirectory
from .loading import Expected, HealthCheck, load_snapshot
from .preflight import check_canister
from .reports import RestoreReport, Step
from .site import Site
from .upload import UploadOptions, upload

__all__ = ["restore_directory"]

_PIECE_BYTES: Final = 1 << 20


def restore_directory(  # noqa: PLR0913 - what, and under which conditions
    site: Site,
    directory: str | os.PathLike[str],
    canister_id: Principal,
    *,
    safety_snapshot: bool,
    max_seconds: float | None,
    health_check: HealthCheck | None,
    upload_options: UploadOptions,
) -> RestoreReport:
    """Restore; see `SnapshotManager.restore`."""
    steps: list[Step] = []

    def step(name: str, result: str) -> None:
        steps.append(Step(name=name, at=site.clock(), result=result))
        site.tell("snapshot.step", canister_id=str(canister_id), step=name, result=result)

    with SnapshotDirectory.open(directory) as opened:
        metadata = opened.metadata
        recorded = "all digests" if opened.check_digests() else "digests of chunks"
        step("validate", f"{metadata.size_bytes:,} bytes, sizes and {recorded} are right")
        module_hash = _module_hash(opened)
        step("open", f"module {module_hash.hex()}")
    # Two snapshots may be added, and for both there must be room before the long upload.
    checked = check_canister(site, canister_id, new_snapshots=1 + int(safety_snapshot), needs_code=False)
    if checked.error is not None:
        raise checked.error
    uploaded = upload(
        site.management,
        directory,
        canister_id,
        options=upload_options,
        observer=site.observer,
        monotonic=site.monotonic,
    )
    step("upload", f"snapshot {uploaded.snapshot_id}, {uploaded.compared_bytes:,} bytes read back")
    try:
        report = load_snapshot(
            site,
            canister_id,
            uploaded.snapshot_id,
            taken_at=None,
            expected=Expected.of(metadata, module_hash),
            operation="restore",
            safety_snapshot=safety_snapshot,
            max_seconds=max_seconds,
            health_check=health_check,
        )
    except BaseException as error:
        if isinstance(error, BackupError):
            error.context["uploaded"] = str(uploaded.snapshot_id)
        error.add_note(f"the uploaded snapshot {uploaded.snapshot_id} of canister {canister_id} is kept")
        raise
    return RestoreReport(load=report, uploaded=uploaded.snapshot_id, steps=(*steps, *report.steps))


def _module_hash(opened: SnapshotDirectory) -> bytes:
    digest = hashlib.sha256()
    size = opened.metadata.wasm_module_size
    for offset in range(0, size, _PIECE_BYTES):
        digest.update(opened.read(Slice(SectionName.WASM_MODULE, offset, min(_PIECE_BYTES, size - offset))))
    return digest.digest()
