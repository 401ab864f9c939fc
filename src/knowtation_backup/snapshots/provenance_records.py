"""
The file ``provenance.cbor``: its items, written and read.

A sequence of CBOR maps (RFC 8742), described key by key on the format page: one head, one metadata record, one record
for each part in any order, and each delegation before the first record that needs it. Every item has one form only, so
that no byte can be changed without changing what it says.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self, TypeAlias

import attrs

from ..errors import CertificateError, ConfigurationError, IntegrityError
from ..ic.candid import metadata_read_arg, snapshot_read_arg
from ..ic.cbor import Buffer, CborError, CborReader, decode, encode
from ..ic.certificate import Certificate, Delegation
from ..ic.evidence import CallEvidence, CertifiedReply, DelegationBook
from ..ic.hash_tree import leaf_digest
from ..ic.wire import leb128
from ..model.canisters import SectionName, Slice, SnapshotPart, StoredChunk
from ..model.ids import MANAGEMENT_CANISTER, Principal, SnapshotId

__all__ = [
    "FORMAT",
    "PROVENANCE_FILE",
    "MetadataRecord",
    "PartEvidence",
    "PartRecord",
    "Provenance",
    "ProvenanceHead",
    "Recorder",
    "malformed",
    "read_provenance",
]

PROVENANCE_FILE: Final = "provenance.cbor"
FORMAT: Final = "knowtation-snapshot-provenance-1"

_METADATA_METHOD: Final = "read_canister_snapshot_metadata"
_DATA_METHOD: Final = "read_canister_snapshot_data"
_CHUNK_LABEL: Final = "wasm_chunk"
_SECTIONS: Final = {section.value: section for section in SectionName}
_DIGEST_BYTES: Final = 32
_MOST_HEAD_BYTES: Final = 256
_COMPARED_BYTES: Final = 64
_MOST_RECORD_ITEMS: Final = 64
_Items: TypeAlias = list[tuple[int, dict[str, Any]]]


@attrs.frozen(kw_only=True)
class ProvenanceHead:
    """What the records are about."""

    canister_id: Principal
    snapshot_id: SnapshotId


# -- writing -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class PartEvidence:
    """
    What proves one part, on its own: kept with each part until the whole is there.

    ``reply_head`` are the bytes of the reply in front of the data.
    """

    reply_head: bytes = attrs.field(repr=False)
    evidence: CallEvidence

    @classmethod
    def of(cls, part: SnapshotPart, reply: CertifiedReply, chunk: Buffer) -> Self:
        """Return the evidence of a verified reply that ends with *chunk*."""
        head_bytes = len(reply.reply) - len(chunk)
        if not 0 <= head_bytes <= _MOST_HEAD_BYTES or not _ends_with(reply.reply, head_bytes, chunk):
            message = f"the answer that holds {part} has other data behind it"
            raise IntegrityError(message, kind="provenance_unrecordable", hint="please report this network's answer")
        return cls(reply_head=bytes(reply.reply[:head_bytes]), evidence=CallEvidence.of(reply))

    def to_cbor(self) -> bytes:
        """Return it as bytes, delegation included."""
        return encode([self.reply_head, self.evidence.to_cbor()])

    @classmethod
    def from_cbor(cls, data: Buffer) -> Self:
        """Read what `to_cbor` returned; raises `CertificateError`."""
        match decode(data, deepest=1):
            case [memoryview() as reply_head, memoryview() as evidence]:
                return cls(reply_head=bytes(reply_head), evidence=CallEvidence.from_cbor(evidence))
        raise malformed("kept evidence is malformed")

    def holds(self, data: Buffer) -> bool:
        """Whether *data* has the certified digest; no signature is verified: enough to go on with one's own work."""
        return _holds(self.evidence, self.reply_head, data)


def _ends_with(reply: memoryview, head_bytes: int, chunk: Buffer) -> bool:
    """Whether *chunk*, a blob that was read from *reply*, is the end of it; does not compare every byte."""
    size = leb128(len(chunk))
    ends = _COMPARED_BYTES
    return (
        bytes(reply[:head_bytes]).endswith(size)
        and bytes(reply[head_bytes : head_bytes + ends]) == bytes(chunk[:ends])
        and bytes(reply[-ends:])[-len(chunk) :] == bytes(chunk[-ends:])
    )


class Recorder:
    """Makes the items of one file, in the order in which they are asked for."""

    def __init__(self, head: ProvenanceHead) -> None:
        self._head = head
        self._book = DelegationBook()

    def head(self) -> bytes:
        """Return the item every file begins with."""
        fields = {"canister_id": self._head.canister_id.raw, "snapshot_id": self._head.snapshot_id.raw}
        return encode({"format": FORMAT, **fields})

    def metadata(self, reply: CertifiedReply) -> bytes:
        """Return the record of the metadata, with the delegation before it where that is new."""
        before, evidence = self._noted(CallEvidence.of(reply))
        return before + encode({"metadata": bytes(reply.reply), "evidence": evidence})

    def part(self, part: SnapshotPart, proof: PartEvidence) -> bytes:
        """Return the record of one part, with the delegation before it where that is new."""
        before, evidence = self._noted(proof.evidence)
        return before + encode({"part": _part_list(part), "reply_head": proof.reply_head, "evidence": evidence})

    def _noted(self, evidence: CallEvidence) -> tuple[bytes, bytes]:
        known = len(self._book)
        record = evidence.to_cbor(self._book)
        if evidence.delegation is None or len(self._book) == known:
            return b"", record
        subnet_id, certificate = evidence.delegation.subnet_id.raw, evidence.delegation.certificate
        return encode({"delegation": known, "subnet_id": subnet_id, "certificate": certificate}), record


def _holds(evidence: CallEvidence, reply_head: bytes, data: Buffer) -> bool:
    tree = Certificate.parse(evidence.certificate).tree
    numbers = tree.labels(b"request_status")
    wanted = leaf_digest((reply_head, data))
    return len(numbers) == 1 and tree.digest_at(b"request_status", numbers[0], b"reply") == wanted


def _part_list(part: SnapshotPart) -> list[Any]:
    if isinstance(part, StoredChunk):
        return [_CHUNK_LABEL, part.sha256]
    return [part.section.value, part.offset, part.size_bytes]


# -- reading -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True, eq=False)
class MetadataRecord:
    """The certified metadata: the whole reply."""

    reply: bytes = attrs.field(repr=False)
    evidence: CallEvidence

    def check(self, head: ProvenanceHead, *, root_key: bytes) -> dt.datetime:
        """Return when the subnet certified the reply; raises `CertificateError`."""
        _require(self.evidence, head, _METADATA_METHOD)
        arg = metadata_read_arg(head.canister_id, head.snapshot_id)
        return self.evidence.check(arg=arg, reply=self.reply, root_key=root_key)


@attrs.frozen(kw_only=True, eq=False)
class PartRecord:
    """One certified part, without its data."""

    part: SnapshotPart
    reply_head: bytes = attrs.field(repr=False)
    evidence: CallEvidence

    def check(self, head: ProvenanceHead, data: Buffer, *, root_key: bytes) -> dt.datetime:
        """Return when the subnet certified that *data* is this part; raises `CertificateError`."""
        _require(self.evidence, head, _DATA_METHOD)
        arg = snapshot_read_arg(head.canister_id, head.snapshot_id, self.part)
        try:
            return self.evidence.check(arg=arg, reply=(self.reply_head, data), root_key=root_key)
        except CertificateError as error:
            context = {**error.context, "part": str(self.part)}
            raise CertificateError(
                f"{self.part}: {error.message}", kind=error.kind, hint=error.hint, **context
            ) from error


def _require(evidence: CallEvidence, head: ProvenanceHead, method: str) -> None:
    wanted = (MANAGEMENT_CANISTER, method, head.canister_id)
    if (evidence.canister_id, evidence.method_name, evidence.effective_canister_id) != wanted:
        message = f"evidence of {evidence.method_name!r:.60} stands where that of {method} should be"
        raise CertificateError(
            message, kind="evidence_question", hint="the file was changed, or put together from several"
        )


@attrs.frozen(kw_only=True, eq=False)
class Provenance:
    """A file as read; nothing of it is believed before it is checked."""

    head: ProvenanceHead
    metadata: MetadataRecord | None
    parts: tuple[PartRecord, ...] = attrs.field(repr=False)
    delegations: tuple[Delegation, ...] = attrs.field(repr=False)
    size_bytes: int


def read_provenance(data: Buffer) -> Provenance:
    """
    Read a file of provenance.

    Args:
        data: The whole file, which may be mapped into memory.

    Raises:
        IntegrityError: Kind ``provenance_malformed``.
    """
    items = _items(memoryview(data).cast("B"))
    if not items:
        raise malformed("it has no head")
    delegations = _delegations(items)
    book = DelegationBook(delegations)
    metadata: MetadataRecord | None = None
    parts: list[PartRecord] = []
    head = _head(items[0][1])
    for position, item in items[1:]:
        with _named(f"the item at byte {position}"):
            match item:
                case {"metadata": memoryview()} if metadata is None:
                    metadata = _metadata(item, book)
                case {"part": list()}:
                    parts.append(_part(item, book))
                case {"delegation": int()}:
                    pass
                case _:
                    raise CborError("it is of no known kind, or comes twice")
    return Provenance(head=head, metadata=metadata, parts=tuple(parts), delegations=delegations, size_bytes=len(data))


def _items(view: memoryview) -> _Items:
    items: _Items = []
    position = 0
    while position < len(view):
        with _named(f"the item at byte {position}"):
            reader = CborReader(view[position:], deepest=2, most_items=_MOST_RECORD_ITEMS)
            item = reader.item()
            if not isinstance(item, dict):
                raise CborError("it is not a map")
            if encode(item) != view[position : position + reader.position]:
                raise CborError("it is not in canonical form")
        items.append((position, item))
        position += reader.position
    return items


def _delegations(items: _Items) -> tuple[Delegation, ...]:
    numbered: dict[int, Delegation] = {}
    for position, item in items:
        if "delegation" in item:
            with _named(f"the item at byte {position}"):
                _exactly(item, "delegation", "subnet_id", "certificate")
                number = item["delegation"]
                if isinstance(number, bool) or not isinstance(number, int) or number in numbered:
                    raise CborError("its number is none, or comes twice")
                subnet_id, certificate = Principal(_raw(item["subnet_id"])), _raw(item["certificate"])
            numbered[number] = Delegation(subnet_id=subnet_id, certificate=certificate)
    if sorted(numbered) != list(range(len(numbered))) or len(set(numbered.values())) != len(numbered):
        raise malformed("delegations are missing or come twice")
    return tuple(numbered[number] for number in range(len(numbered)))


def malformed(what: str) -> IntegrityError:
    """Return the error for a file that is not one of provenance."""
    return IntegrityError(f"{PROVENANCE_FILE}: {what}", kind="provenance_malformed", hint="the file was cut or changed")


def _exactly(item: Mapping[str, Any], *names: str) -> None:
    if tuple(item) != names:
        raise CborError(f"its keys are not {', '.join(names)}")


def _raw(value: object) -> bytes:
    if not isinstance(value, memoryview):
        raise CborError("a byte string is missing")
    return bytes(value)


def _head(item: Mapping[str, Any]) -> ProvenanceHead:
    with _named("its head"):
        _exactly(item, "format", "canister_id", "snapshot_id")
        if item["format"] != FORMAT:
            raise CborError(f"it is of format {item['format']!r:.60}, and not {FORMAT}")
        return ProvenanceHead(
            canister_id=Principal(_raw(item["canister_id"])), snapshot_id=SnapshotId(_raw(item["snapshot_id"]))
        )


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except (CborError, ConfigurationError, CertificateError) as error:
        raise malformed(f"{what}: {error}") from None


def _metadata(item: Mapping[str, Any], book: DelegationBook) -> MetadataRecord:
    _exactly(item, "metadata", "evidence")
    evidence = CallEvidence.from_cbor(_raw(item["evidence"]), book)
    return MetadataRecord(reply=_raw(item["metadata"]), evidence=evidence)


def _part(item: Mapping[str, Any], book: DelegationBook) -> PartRecord:
    _exactly(item, "part", "reply_head", "evidence")
    head = _raw(item["reply_head"])
    if len(head) > _MOST_HEAD_BYTES:
        raise CborError("a reply head is too long")
    part: SnapshotPart
    match item["part"]:
        case [str(label), memoryview() as digest] if label == _CHUNK_LABEL and len(digest) == _DIGEST_BYTES:
            part = StoredChunk(bytes(digest))
        case [str(name), int(offset), int(size)] if name in _SECTIONS:
            part = Slice(_SECTIONS[name], offset, size)
        case _:
            raise CborError("it names no part")
    evidence = CallEvidence.from_cbor(_raw(item["evidence"]), book)
    return PartRecord(part=part, reply_head=head, evidence=evidence)
