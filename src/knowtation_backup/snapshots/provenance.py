"""
Provenance: the subnet's signatures that say where a snapshot's bytes come from, kept in a file beside them.

A node answers each read of a snapshot with a certificate: the subnet's signature over the answer and over the id of the
question, which is a hash of everything asked. Kept without the data, which lies in the directory anyway, it is some
hundred bytes. Anybody can put question and answer together again years later, and check them offline with nothing but
the network's root key: these bytes are what the subnet of that canister certified for that snapshot at that time.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import itertools
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

from .._engine.local_files import os_errors_translated
from .._engine.prefetch import prefetch
from ..errors import DigestMismatchError, IntegrityError
from ..ic.cbor import Buffer
from ..ic.delegations import root_key_der
from ..ic.management_types import snapshot_metadata_of
from ..model.canisters import CHUNK_BYTES, SectionName, Slice, SnapshotMetadata, SnapshotPart, StoredChunk, moment_of
from ..model.ids import Principal, SnapshotId
from .directory import SnapshotDirectory
from .metadata import metadata_json
from .provenance_records import PROVENANCE_FILE, PartRecord, Provenance, malformed, read_provenance

__all__ = ["PROVENANCE_FILE", "ProvenanceReport", "check_provenance", "verify_provenance"]

_MOST_FILE_BYTES: Final = 1 << 31
_HINT_MIXED: Final = "look for mixed or changed files"


@attrs.frozen(kw_only=True)
class ProvenanceReport:
    """
    What was proved: that these bytes are the snapshot, as the subnet of the canister certified them.

    ``first_certified_at`` and ``last_certified_at`` enclose the times of all certificates; a snapshot does not change,
    so each of them holds for all.
    """

    canister_id: Principal
    snapshot_id: SnapshotId
    subnet_ids: tuple[Principal, ...]
    """Whose signatures: one subnet, unless the canister moved meanwhile. Empty: the root subnet alone."""
    taken_at: dt.datetime
    """When the snapshot was taken or its upload began, as the certified metadata says."""
    source: str | None
    """``metadata_upload``: the bytes were uploaded, so the network had them, but the canister did not make them."""
    first_certified_at: dt.datetime
    last_certified_at: dt.datetime
    parts: int
    size_bytes: int
    evidence_bytes: int

    def __str__(self) -> str:
        """Return two lines for people."""
        subnets = ", ".join(map(str, self.subnet_ids)) or "the root subnet"
        first, last = (f"{at:%Y-%m-%d %H:%M:%S}Z" for at in (self.first_certified_at, self.last_certified_at))
        what = f"snapshot {self.snapshot_id} of canister {self.canister_id}"
        return f"{what}, {self.size_bytes:,} bytes in {self.parts} parts\ncertified from {first} to {last} by {subnets}"


def check_provenance(  # noqa: PLR0913 - what is proved, from what
    provenance: Provenance,
    read: Callable[[SnapshotPart], Buffer],
    *,
    root_key: bytes | str,
    canister_id: Principal | str | None = None,
    snapshot_id: SnapshotId | str | None = None,
    workers: int = 2,
) -> tuple[SnapshotMetadata, ProvenanceReport]:
    """
    Prove that what *read* returns is the whole snapshot that *provenance* is about.

    Pure apart from *read*: no clock and no network. At most ``2 * workers`` parts are in memory.

    Args:
        provenance: As read from its file.
        read: Returns the bytes of a part; called by several threads.
        root_key: Of the network, in DER form or as hexadecimal digits.
        canister_id: The canister it must be of; `None` accepts any and says which in the report.
        snapshot_id: Likewise.
        workers: Threads.

    Returns:
        The certified metadata, and what was proved.

    Raises:
        CertificateError: A signature, a question or a part does not match; the context names the ``part``.
        IntegrityError: Kind ``provenance_mismatch``: it is about something else, or parts overlap. Kind
            ``provenance_incomplete``: for a part there is no evidence.
    """
    head, key = provenance.head, root_key_der(root_key)
    for what, found, wanted in (
        ("canister", head.canister_id, None if canister_id is None else Principal.parse(canister_id)),
        ("snapshot", head.snapshot_id, None if snapshot_id is None else SnapshotId.parse(snapshot_id)),
    ):
        if wanted is not None and found != wanted:
            message = f"the evidence is about {what} {found}, and not {wanted}"
            raise IntegrityError(message, kind="provenance_mismatch", hint=_HINT_MIXED)
    if provenance.metadata is None:
        raise IntegrityError("the evidence of the metadata is missing", kind="provenance_incomplete")
    times = [provenance.metadata.check(head, root_key=key)]
    metadata = snapshot_metadata_of(provenance.metadata.reply)
    missing = next(_missing(metadata, [record.part for record in provenance.parts]), None)
    if missing is not None:
        hint = "the file was cut; download again into the same directory to complete it"
        raise IntegrityError(f"there is no evidence of {missing}", kind="provenance_incomplete", hint=hint)

    def check(record: PartRecord) -> tuple[dt.datetime, int]:
        data = read(record.part)
        if isinstance(record.part, StoredChunk) and hashlib.sha256(data).digest() != record.part.sha256:
            message = f"{record.part} does not have the digest it is named by"
            raise DigestMismatchError(message, kind="chunk_digest", part=str(record.part))
        if isinstance(record.part, Slice) and len(data) != record.part.size_bytes:
            message = f"{record.part} has {len(data)} bytes"
            raise IntegrityError(message, kind="provenance_mismatch", part=str(record.part))
        return record.check(head, data, root_key=key), len(data)

    size = 0
    for at, length in prefetch(check, provenance.parts, workers=workers, window=2 * workers):
        times.append(at)
        size += length
    subnets = {each.subnet_id for each in provenance.delegations}
    used = {provenance.metadata.evidence.delegation, *(record.evidence.delegation for record in provenance.parts)}
    if set(provenance.delegations) - used:
        raise malformed("it holds a delegation that nothing refers to")
    return metadata, ProvenanceReport(
        canister_id=head.canister_id,
        snapshot_id=head.snapshot_id,
        subnet_ids=tuple(sorted(subnets)),
        taken_at=moment_of(metadata.taken_at_ns),
        source=metadata.source,
        first_certified_at=min(times),
        last_certified_at=max(times),
        parts=len(provenance.parts),
        size_bytes=size,
        evidence_bytes=provenance.size_bytes,
    )


def _missing(metadata: SnapshotMetadata, have: Iterable[SnapshotPart]) -> Iterator[SnapshotPart]:
    """
    Yield what is missing beside *have*, in order.

    Raises:
        IntegrityError: Kind ``provenance_mismatch``: parts overlap, or lie outside the snapshot.
    """
    parts = list(have)
    for section in SectionName:
        size = metadata.section_size(section)
        slices = sorted(
            (part.offset, part.size_bytes) for part in parts if isinstance(part, Slice) and part.section is section
        )
        reached = 0
        for offset, length in itertools.chain(slices, [(size, 0)]):
            if offset < reached or offset + length > size or (length == 0 and offset != size):
                message = f"parts of {section.value} overlap, are empty, or lie outside its {size} bytes"
                raise IntegrityError(message, kind="provenance_mismatch", hint="the evidence is of another snapshot")
            for start in range(reached, offset, CHUNK_BYTES):
                yield Slice(section, start, min(CHUNK_BYTES, offset - start))
            reached = offset + length
    chunks = [part.sha256 for part in parts if isinstance(part, StoredChunk)]
    if len(set(chunks)) != len(chunks) or not set(chunks) <= set(metadata.wasm_chunk_store):
        message = "Wasm chunks come twice, or do not belong to the snapshot"
        raise IntegrityError(message, kind="provenance_mismatch", hint="the evidence is of another snapshot")
    for digest in metadata.wasm_chunk_store:
        if digest not in set(chunks):
            yield StoredChunk(digest)


def verify_provenance(
    directory: str | os.PathLike[str],
    *,
    root_key: bytes | str,
    canister_id: Principal | str | None = None,
    snapshot_id: SnapshotId | str | None = None,
    workers: int = 2,
) -> ProvenanceReport:
    """
    Prove, offline, that a downloaded directory is what a canister's subnet certified as its snapshot.

    Pure apart from reading the directory: no clock and no network. Besides what `check_provenance` proves,
    ``metadata.json`` must be what the certified metadata gives, every byte, and the directory whole.

    Args:
        directory: With ``provenance.cbor`` in it.
        root_key: Of the network, in DER form, 133 bytes, or as 266 hexadecimal digits. It is all that is trusted.
        canister_id: The canister it must be of; `None` accepts any and says which in the report.
        snapshot_id: Likewise.
        workers: Threads.

    Raises:
        BlobNotFoundError: There is no such directory.
        CertificateError: A signature, a question or a part does not match; the context names the ``part``.
        IntegrityError: Kind ``provenance_missing``: there is no file of that name. Kinds ``provenance_malformed``,
            ``provenance_mismatch`` and ``provenance_incomplete``; and those of `SnapshotDirectory.open`.
        SinkError: It cannot be read.
    """
    with SnapshotDirectory.open(directory) as snapshot, _mapped(snapshot.path / PROVENANCE_FILE) as data:
        metadata, report = check_provenance(
            read_provenance(data),
            snapshot.read,
            root_key=root_key,
            canister_id=canister_id,
            snapshot_id=snapshot_id,
            workers=workers,
        )
        if snapshot.metadata_bytes != metadata_json(metadata):
            message = "metadata.json is not what the subnet certified"
            raise IntegrityError(message, kind="provenance_mismatch", hint=_HINT_MIXED)
        return report


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[Buffer]:
    with os_errors_translated(f"reading {path}"):
        try:
            file_fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            message = f"{path.parent} holds no evidence of where it comes from"
            hint = "only downloads of this library write it; download the snapshot again"
            raise IntegrityError(message, kind="provenance_missing", hint=hint) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise malformed("it is a symbolic link") from None
            raise
        try:
            size = os.fstat(file_fd).st_size
            if not 0 < size <= _MOST_FILE_BYTES:
                raise malformed(f"it has {size} bytes")
            mapped = mmap.mmap(file_fd, size, access=mmap.ACCESS_READ)
        finally:
            os.close(file_fd)
    with memoryview(mapped) as view:
        yield view
    with contextlib.suppress(BufferError):  # an error under way may still refer to it
        mapped.close()
