"""
The messages that carry snapshot data: framed without touching the bytes of a chunk.

Packaged libraries look at each byte of a blob, and need seconds to minutes for two megabytes. Here the reader takes a
blob as a view into the reply, whatever else the reply's types say, and the writer puts the caller's own view between
the few bytes before and behind it.

Source:
    internet-computer reference, C.3 and J.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import ConfigurationError
from ..model.canisters import SectionName, Slice, SnapshotPart, StoredChunk
from ..model.ids import Principal, SnapshotId
from .candid_types import BLOB, NAT64, NULL, PRINCIPAL, Record, Type, Variant, encode, encode_parts
from .candid_values import bad_candid, decode, field
from .wire import Buffer

__all__ = ["metadata_read_arg", "snapshot_chunk", "snapshot_read_arg", "upload_data_arg"]

_SLICE: Final = Record({"offset": NAT64, "size": NAT64})
_OFFSET: Final = Record({"offset": NAT64})
_SECTIONS: Final = tuple(section.value for section in SectionName)
_WHICH: Final[Mapping[str, Type]] = {"canister_id": PRINCIPAL, "snapshot_id": BLOB}
_READ_METADATA: Final = Record(_WHICH)
_READ_DATA: Final = Record(
    {
        **_WHICH,
        "kind": Variant({**dict.fromkeys(_SECTIONS, _SLICE), "wasm_chunk": Record({"hash": BLOB})}),
    }
)
_UPLOAD_DATA: Final = Record(
    {
        **_WHICH,
        "kind": Variant({**dict.fromkeys(_SECTIONS, _OFFSET), "wasm_chunk": NULL}),
        "chunk": BLOB,
    }
)
_MAX_U64: Final = (1 << 64) - 1
_HASH_BYTES: Final = 32


def snapshot_chunk(reply: Buffer) -> memoryview:
    """
    Return the chunk in a reply of ``read_canister_snapshot_data``, as a view into it.

    The types the reply brings may have more fields, or have it in an ``opt``, as newer networks might.

    Raises:
        SourceError: Kind ``bad_candid``: there is no chunk.
    """
    values = decode(reply)
    chunk = field(values[0], "chunk") if values else None
    if not isinstance(chunk, memoryview):
        raise bad_candid("it has no chunk")
    return chunk


def snapshot_read_arg(canister_id: Principal, snapshot_id: SnapshotId, part: SnapshotPart) -> bytes:
    """
    Return the argument of ``read_canister_snapshot_data`` for one part.

    These bytes are part of the archive format: kept evidence proves which question was answered by way of them, so
    that they must never change for the same part.

    Raises:
        ConfigurationError: The part cannot be asked for.
    """
    if isinstance(part, Slice):
        kind: tuple[str, object] = (part.section.value, {"offset": _u64(part.offset), "size": _u64(part.size_bytes)})
    else:
        kind = ("wasm_chunk", {"hash": _sha256(part)})
    return encode(_READ_DATA, {"canister_id": canister_id, "snapshot_id": snapshot_id.raw, "kind": kind})


def metadata_read_arg(canister_id: Principal, snapshot_id: SnapshotId) -> bytes:
    """
    Return the argument of ``read_canister_snapshot_metadata``.

    These bytes are part of the archive format, as those of `snapshot_read_arg`.
    """
    return encode(_READ_METADATA, {"canister_id": canister_id, "snapshot_id": snapshot_id.raw})


def upload_data_arg(
    canister_id: Principal, snapshot_id: SnapshotId, part: SnapshotPart, chunk: Buffer
) -> tuple[bytes, memoryview, bytes]:
    """
    Return the argument of ``upload_canister_snapshot_data``, in three parts; the middle one is *chunk* itself.

    The order of Candid puts the chunk before where it belongs.

    Raises:
        ConfigurationError: *chunk* has another length than the part says.
    """
    view = memoryview(chunk).cast("B")
    if isinstance(part, Slice):
        if view.nbytes != part.size_bytes:
            message = f"{view.nbytes} bytes are given for {part}"
            raise ConfigurationError(message, kind="bad_option", hint="a part is uploaded whole")
        kind: tuple[str, object] = (part.section.value, {"offset": _u64(part.offset)})
    else:
        kind = ("wasm_chunk", None)
    value = {"canister_id": canister_id, "snapshot_id": snapshot_id.raw, "kind": kind, "chunk": view}
    parts = encode_parts(_UPLOAD_DATA, value)
    middle = next(position for position, each in enumerate(parts) if each is view)
    return b"".join(parts[:middle]), view, b"".join(parts[middle + 1 :])


def _u64(number: int) -> int:
    if not 0 <= number <= _MAX_U64:
        raise ConfigurationError(f"{number} is no position in a snapshot", kind="bad_option", hint="it has 64 bits")
    return number


def _sha256(part: StoredChunk) -> bytes:
    if len(part.sha256) != _HASH_BYTES:
        message = f"a stored chunk is named by {_HASH_BYTES} bytes, not {len(part.sha256)}"
        raise ConfigurationError(message, kind="bad_option", hint="take it from the snapshot's metadata")
    return part.sha256
