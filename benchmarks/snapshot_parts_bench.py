"""
What one chunk of a snapshot costs apart from the network.

``blob``: finding the chunk in a reply, and framing one for an upload, against the packaged Candid libraries. The time
of ic-py grows with the square of the size (minutes for two megabytes), so that it gets small chunks only.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from ic import candid as ic_py
from icp_candid import candid as icp_py_core  # type: ignore[import-untyped]  # it brings no types

from _harness import Row, median_seconds, publish
from knowtation_backup.ic.candid import snapshot_chunk, upload_data_arg
from knowtation_backup.model.canisters import SectionName, Slice
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.sandbox import candid
from knowtation_backup.sandbox.management.types import METHODS

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
SNAPSHOT = SnapshotId(bytes(8) + CANISTER.raw)
SIZES = (20_000, 200_000, 2_000_000)
IC_PY_BYTES = 200_000
"""Largest chunk that ic-py is asked to read."""


def measure_blob(runs: int) -> list[Row]:
    """Return rows for reading and writing chunks of several sizes."""
    rows: list[Row] = []
    for size in SIZES:
        chunk = os.urandom(size)
        reply = candid.encode(METHODS["read_canister_snapshot_data"].results, [{"chunk": chunk}])
        part = Slice(SectionName.STABLE_MEMORY, 0, size)
        head, view, tail = upload_data_arg(CANISTER, SNAPSHOT, part, chunk)
        if snapshot_chunk(reply) != chunk or view.obj is not chunk:
            raise RuntimeError("a chunk was changed or copied")
        read = median_seconds(lambda: snapshot_chunk(reply), runs=runs)  # noqa: B023 - called at once
        written = median_seconds(lambda: upload_data_arg(CANISTER, SNAPSHOT, part, chunk), runs=runs)  # noqa: B023
        libraries: dict[str, Any] = {"icp-py-core": icp_py_core}
        if size <= IC_PY_BYTES:
            libraries["ic-py"] = ic_py
        for name, library in libraries.items():
            few = 1 if name == "ic-py" else runs
            theirs = median_seconds(lambda: library.decode(reply), runs=few, warmup=0)  # noqa: B023
            rows.append(_row("read", size, read, theirs, name))
            encode = _encoder(library, chunk)
            if _meaning(head + chunk + tail) != _meaning(encode()):
                raise RuntimeError(f"{name} writes another argument")
            theirs = median_seconds(encode, runs=few, warmup=0)
            rows.append(_row("write", size, written, theirs, name))
    return rows


def _meaning(argument: bytes) -> tuple[Any, ...]:
    kind = METHODS["upload_canister_snapshot_data"].argument
    return candid.decode(argument, [kind] if kind else [])


def _encoder(library: Any, chunk: bytes) -> Callable[[], bytes]:
    """Return what writes the argument of an upload with one of the packaged libraries."""
    types = library.Types
    offset = types.Record({"offset": types.Nat64})
    kinds = {"wasm_module": offset, "wasm_memory": offset, "stable_memory": offset, "wasm_chunk": types.Null}
    blob = types.Vec(types.Nat8)
    kind = types.Record(
        {"canister_id": types.Principal, "snapshot_id": blob, "kind": types.Variant(kinds), "chunk": blob}
    )
    is_ic_py = library is ic_py
    value = {
        "canister_id": str(CANISTER),
        "snapshot_id": list(SNAPSHOT.raw) if is_ic_py else SNAPSHOT.raw,
        "kind": {"stable_memory": {"offset": 0}},
        "chunk": list(chunk) if is_ic_py else chunk,
    }
    return lambda: bytes(library.encode([{"type": kind, "value": value}]))


def _row(what: str, size: int, ours: float, theirs: float, name: str) -> Row:
    case = f"blob of {size:,} bytes, {what}"
    return Row(case=case, metric="time", ours=ours * 1e3, unit="ms", reference=theirs * 1e3, reference_name=name)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=51, help="of each case; the median counts")
    arguments = parser.parse_args()
    publish("snapshot_parts", measure_blob(arguments.runs))


if __name__ == "__main__":
    main()
