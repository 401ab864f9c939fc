"""The files of a snapshot directory, as ``icp`` writes them, from plain values."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping

from knowtation_backup.model.canisters import SnapshotMetadata
from knowtation_backup.snapshots.metadata import metadata_json

__all__ = ["snapshot_files", "tar_of"]

_MODULE = b"\0asm\1\0\0\0" + bytes(range(256))
_CHUNK = b"a chunk of the store"


def snapshot_files(heap: bytes = b"heap" * 5000, stable: bytes = bytes(5000) + b"x" * 5000) -> dict[str, bytes]:
    """Return contents by names."""
    sha256 = hashlib.sha256(_CHUNK).digest()
    metadata = SnapshotMetadata(
        taken_at_ns=1_780_000_000_123_456_789,
        wasm_module_size=len(_MODULE),
        wasm_memory_size=len(heap),
        stable_memory_size=len(stable),
        globals=(),
        wasm_chunk_store=(sha256,),
        source="taken_from_canister",
    )
    return {
        "metadata.json": metadata_json(metadata),
        "wasm_module.bin": _MODULE,
        "wasm_memory.bin": heap,
        "stable_memory.bin": stable,
        f"wasm_chunk_store/{sha256.hex()}.bin": _CHUNK,
    }


def tar_of(members: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """Return a tar file; a `TarInfo` becomes a member as it is."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()
