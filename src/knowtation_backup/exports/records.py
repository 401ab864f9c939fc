r"""
Canonical records and the content root: what an export says, independent of the order it was said in.

A record is one line of compact JSON (`canonical`) without its newline, keys in this order::

    {"type":"tenant","user_id":…}
    {"type":"vault","user_id":…,"vault_id":…}
    {"type":"note","user_id":…,"vault_id":…,"path":…,"frontmatter":…,"body":…}
    {"type":"proposal","user_id":…,"vault_id":…,"proposal":{…}}

Tenants and vaults have records of their own, so that losing an empty one shows. A proposal's object is kept as the hub
sent it; ``vault_id`` beside it is derived (a blank one counts as ``default``). Payloads that name no tenant use the
user id ``""``.

Records of a tenant sort by type in the order above, then by UTF-8 bytes of vault id, then of path or proposal id, then
by hash. The content root is a Merkle tree over them, H = SHA-256, every input starting with the context ``C`` =
``knowtation-content-v1`` and a tag byte, all numbers 8 bytes big-endian::

    leaf    = H(C ‖ 00 ‖ length of the line ‖ line)
    node    = H(C ‖ 01 ‖ left ‖ right)              an odd last node moves up unchanged
    tenant  = H(C ‖ 02 ‖ length of user id ‖ user id ‖ number of records ‖ top of the record tree)
    root    = H(C ‖ 03 ‖ number of tenants ‖ top of the tree over tenant hashes, sorted by user id, then hash)

The top of an empty tree is ``H(C ‖ 04)``. Text with lone surrogates is sorted and hashed as WTF-8 (``surrogatepass``).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from .._engine.canonical import JsonError, dumps, loads
from ..errors import BackupError, ConfigurationError, IntegrityError
from ..hub.schema import Note, Proposal, note_from_json, proposal_id_of, proposal_vault_of

__all__ = [
    "ContentRoot",
    "Proof",
    "Record",
    "RecordKind",
    "TenantContent",
    "TenantDigest",
    "note_lines",
    "note_record",
    "parse_record",
    "proposal_record",
    "tenant_record",
    "vault_record",
    "verify_proof",
]

_CONTEXT = b"knowtation-content-v1"
_LEAF = _CONTEXT + b"\x00"
_NODE = _CONTEXT + b"\x01"
_EMPTY = hashlib.sha256(_CONTEXT + b"\x04").digest()
_HASH_BYTES = 32


class RecordKind(enum.Enum):
    """What a record is about."""

    TENANT = "tenant"
    VAULT = "vault"
    NOTE = "note"
    PROPOSAL = "proposal"


_RANK = {kind: bytes([rank]) for rank, kind in enumerate(RecordKind)}


@attrs.frozen(kw_only=True)
class Record:
    """One canonical record: its line, and the parts it sorts by."""

    kind: RecordKind
    user_id: str
    vault_id: str = ""
    name: str = ""
    """Path of a note, id of a proposal, otherwise empty."""
    line: bytes = attrs.field(repr=False)
    """Compact JSON without newline."""

    @property
    def sort_key(self) -> bytes:
        """Bytes that order the records of one tenant; parts end with 00 01, a NUL inside becomes 00 FF."""
        return _RANK[self.kind] + _sortable(self.vault_id) + _sortable(self.name)

    @property
    def leaf_hash(self) -> bytes:
        """The leaf of this record in its tenant's tree, 32 bytes."""
        return _leaf_hash(self.line)


def tenant_record(user_id: str) -> Record:
    """Return the record that says a tenant exists."""
    line = dumps({"type": "tenant", "user_id": user_id})
    return Record(kind=RecordKind.TENANT, user_id=user_id, line=line)


def vault_record(user_id: str, vault_id: str) -> Record:
    """Return the record that says a vault exists."""
    line = dumps({"type": "vault", "user_id": user_id, "vault_id": vault_id})
    return Record(kind=RecordKind.VAULT, user_id=user_id, vault_id=vault_id, line=line)


def note_record(user_id: str, vault_id: str, note: Note) -> Record:
    """Return the record of one note."""
    line = _note_head(user_id, vault_id) + note.to_bytes()[1:]
    return Record(kind=RecordKind.NOTE, user_id=user_id, vault_id=vault_id, name=note.path, line=line)


def note_lines(user_id: str, vault_id: str, notes: Iterable[Note]) -> list[tuple[bytes, bytes]]:
    """Return sort key and line of the records of many notes: the same as one by one, in half the time."""
    head = _note_head(user_id, vault_id)
    key = _RANK[RecordKind.NOTE] + _sortable(vault_id)
    return [(key + _sortable(note.path), head + note.to_bytes()[1:]) for note in notes]


def proposal_record(user_id: str, proposal: Proposal) -> Record:
    """Return the record of one proposal, full or stand-in."""
    vault_id = proposal_vault_of(proposal)
    line = dumps({"type": "proposal", "user_id": user_id, "vault_id": vault_id, "proposal": proposal})
    name = proposal_id_of(proposal)
    return Record(kind=RecordKind.PROPOSAL, user_id=user_id, vault_id=vault_id, name=name, line=line)


def parse_record(line: bytes) -> tuple[Record, Note | Proposal | None]:
    """
    Return the record of one line and its note or proposal (`None` for tenants and vaults).

    Raises:
        IntegrityError: Not a record, or not written canonically, so that its hash would mean nothing.
    """
    try:
        value = loads(line)
        record, content = _record_of(value)
    except (JsonError, KeyError, TypeError, ValueError, BackupError) as error:
        raise IntegrityError(f"a record cannot be read: {type(error).__name__}", kind="bad_record") from error
    if record.line != line:
        raise IntegrityError("a record is not in canonical form", kind="bad_record", type=record.kind.value)
    return record, content


def _record_of(value: Any) -> tuple[Record, Note | Proposal | None]:
    kind = RecordKind(value["type"])
    user_id = _text(value["user_id"])
    if kind is RecordKind.TENANT:
        return tenant_record(user_id), None
    vault_id = _text(value["vault_id"])
    if kind is RecordKind.VAULT:
        return vault_record(user_id, vault_id), None
    if kind is RecordKind.NOTE:
        note, _ = note_from_json(value)
        return note_record(user_id, vault_id, note), note
    proposal: Proposal = dict(value["proposal"])
    return proposal_record(user_id, proposal), proposal


@attrs.frozen(kw_only=True)
class TenantDigest:
    """One tenant summed up: what details record and `ContentRoot` adds, independent of any order."""

    user_id: str
    content_root: str
    """The tenant hash, 64 lower-case hexadecimal digits."""
    records: int
    vaults: int
    notes: int
    proposals: int

    def to_json(self) -> dict[str, Any]:
        """Return the object details hold for this tenant."""
        return attrs.asdict(self)


class TenantContent:
    """
    Collects the records of one tenant.

    Memory is one small bytes object per record (sort key and hash, about 150 bytes), whatever the notes' size. The
    tenant's own record is added at the start. Not thread-safe: one thread per instance.
    """

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self._entries: list[bytes] = []
        self._counts = dict.fromkeys(RecordKind, 0)
        self.add(tenant_record(user_id))

    def add(self, record: Record) -> Record:
        """Add any record of this tenant and return it; raises `ConfigurationError` for another tenant's."""
        if record.user_id != self.user_id:
            raise ConfigurationError("a record belongs to another tenant", kind="wrong_tenant")
        self._entries.append(record.sort_key + record.leaf_hash)
        self._counts[record.kind] += 1
        return record

    def add_vault(self, vault_id: str) -> None:
        """Add a vault; call it once for each vault, also for empty ones."""
        self.add(vault_record(self.user_id, vault_id))

    def add_note(self, vault_id: str, note: Note) -> None:
        """Add a note of a vault."""
        self.add_notes(vault_id, (note,))

    def add_notes(self, vault_id: str, notes: Iterable[Note]) -> None:
        """Add many notes of one vault: the same as one by one, in half the time."""
        self.add_lines(RecordKind.NOTE, note_lines(self.user_id, vault_id, notes))

    def add_lines(self, kind: RecordKind, lines: Iterable[tuple[bytes, bytes]]) -> None:
        """Add records of one kind by sort key and line, which must be this tenant's and canonical."""
        entries = [key + _leaf_hash(line) for key, line in lines]
        self._entries += entries
        self._counts[kind] += len(entries)

    def add_proposal(self, proposal: Proposal) -> None:
        """Add a proposal, full or stand-in."""
        self.add(proposal_record(self.user_id, proposal))

    def digest(self) -> TenantDigest:
        """Return the summary of what was added so far."""
        top = _top(self._leaves())
        return TenantDigest(
            user_id=self.user_id,
            content_root=_tenant_hash(self.user_id, len(self._entries), top).hex(),
            records=len(self._entries),
            vaults=self._counts[RecordKind.VAULT],
            notes=self._counts[RecordKind.NOTE],
            proposals=self._counts[RecordKind.PROPOSAL],
        )

    def _leaves(self) -> list[bytes]:
        self._entries.sort()
        return [entry[-_HASH_BYTES:] for entry in self._entries]

    def path_of(self, record: Record) -> tuple[int, tuple[bytes, ...]]:
        """Return place and sibling hashes of *record* in this tenant's tree; `ConfigurationError` when absent."""
        try:
            index = self._leaves().index(record.leaf_hash)
        except ValueError as error:
            raise ConfigurationError("the tenant holds no such record", kind="no_such_record") from error
        return index, _siblings(self._leaves(), index)


class ContentRoot:
    """
    The root over all tenants of an export, added in any order.

    Memory is one hash and one user id per tenant.
    """

    def __init__(self, tenants: Iterable[TenantDigest] = ()) -> None:
        self._tenants: list[tuple[bytes, bytes]] = []
        self._counts = {"tenants": 0, "vaults": 0, "notes": 0, "proposals": 0}
        for tenant in tenants:
            self.add(tenant)

    def add(self, tenant: TenantDigest) -> None:
        """Add one tenant."""
        self._tenants.append((_utf8(tenant.user_id), bytes.fromhex(tenant.content_root)))
        self._counts["tenants"] += 1
        self._counts["vaults"] += tenant.vaults
        self._counts["notes"] += tenant.notes
        self._counts["proposals"] += tenant.proposals

    @property
    def counts(self) -> Mapping[str, int]:
        """Totals: ``tenants``, ``vaults``, ``notes``, ``proposals``."""
        return dict(self._counts)

    def hexdigest(self) -> str:
        """Return the root over what was added so far, 64 lower-case hexadecimal digits."""
        return _export_hash(len(self._tenants), _top(self._leaves())).hex()

    def _leaves(self) -> list[bytes]:
        self._tenants.sort()
        return [root for _, root in self._tenants]

    def prove(self, record: Record, tenant: TenantContent) -> Proof:
        """
        Return the proof that *record* is part of this export.

        Args:
            record: The record, one of *tenant*'s.
            tenant: All records of its tenant, already added here as a digest.

        Raises:
            ConfigurationError: The tenant lacks the record, or was not added.
        """
        digest = tenant.digest()
        try:
            index = self._leaves().index(bytes.fromhex(digest.content_root))
        except ValueError as error:
            raise ConfigurationError("the tenant is not part of this content root", kind="no_such_tenant") from error
        record_index, record_path = tenant.path_of(record)
        return Proof(
            record_index=record_index,
            record_count=digest.records,
            record_path=record_path,
            tenant_index=index,
            tenant_count=len(self._tenants),
            tenant_path=_siblings(self._leaves(), index),
        )


@attrs.frozen(kw_only=True)
class Proof:
    """Shows that one record belongs to a content root, and reveals nothing of the others but hashes and counts."""

    record_index: int
    record_count: int
    record_path: tuple[bytes, ...] = attrs.field(repr=False)
    """Sibling hashes from the leaf upwards."""
    tenant_index: int
    tenant_count: int
    tenant_path: tuple[bytes, ...] = attrs.field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object, hashes in hexadecimal."""
        value = attrs.asdict(self)
        for name in ("record_path", "tenant_path"):
            value[name] = [item.hex() for item in value[name]]
        return value

    @classmethod
    def from_json(cls, value: Any) -> Proof:
        """Return the proof of a JSON object; raises `IntegrityError` for anything `to_json` does not write."""
        try:
            return cls(
                record_index=_whole(value["record_index"]),
                record_count=_whole(value["record_count"]),
                record_path=tuple(map(bytes.fromhex, value["record_path"])),
                tenant_index=_whole(value["tenant_index"]),
                tenant_count=_whole(value["tenant_count"]),
                tenant_path=tuple(map(bytes.fromhex, value["tenant_path"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"a proof cannot be read: {type(error).__name__}", kind="bad_proof") from error


def verify_proof(content_root: str, record: Record, proof: Proof) -> bool:
    """
    Tell whether *proof* ties *record* to *content_root*.

    Args:
        content_root: 64 hexadecimal digits, as `ContentRoot.hexdigest` returns them.
        record: Rebuilt from the note or proposal itself, so that its hash is computed here.
        proof: As `ContentRoot.prove` returned it.
    """
    top = _climb(record.leaf_hash, proof.record_index, proof.record_count, proof.record_path)
    if top is None:
        return False
    tenant = _tenant_hash(record.user_id, proof.record_count, top)
    top = _climb(tenant, proof.tenant_index, proof.tenant_count, proof.tenant_path)
    return top is not None and _export_hash(proof.tenant_count, top).hex() == content_root


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("expected a whole number")
    return value


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _sortable(text: str) -> bytes:
    return _utf8(text).replace(b"\x00", b"\x00\xff") + b"\x00\x01"


def _note_head(user_id: str, vault_id: str) -> bytes:
    return dumps({"type": "note", "user_id": user_id, "vault_id": vault_id})[:-1] + b","


def _leaf_hash(line: bytes) -> bytes:
    digest = hashlib.sha256(_LEAF + len(line).to_bytes(8, "big"))
    digest.update(line)  # lines are long: not copied only to stand behind their length
    return digest.digest()


def _hash(tag: int, *parts: bytes) -> bytes:
    return hashlib.sha256(b"".join((_CONTEXT, bytes([tag]), *parts))).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _tenant_hash(user_id: str, records: int, top: bytes) -> bytes:
    name = _utf8(user_id)
    return _hash(0x02, len(name).to_bytes(8, "big"), name, records.to_bytes(8, "big"), top)


def _export_hash(tenants: int, top: bytes) -> bytes:
    return _hash(0x03, tenants.to_bytes(8, "big"), top)


def _next_level(level: Sequence[bytes]) -> list[bytes]:
    above = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        above.append(level[-1])
    return above


def _top(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return _EMPTY
    while len(leaves) > 1:
        leaves = _next_level(leaves)
    return leaves[0]


def _siblings(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    path: list[bytes] = []
    while len(leaves) > 1:
        sibling = index ^ 1
        if sibling < len(leaves):
            path.append(leaves[sibling])
        leaves = _next_level(leaves)
        index //= 2
    return tuple(path)


def _climb(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """Return the top of a tree of *count* leaves, or `None` when the proof has another shape."""
    if not 0 <= index < count < 2**63 or any(len(item) != _HASH_BYTES for item in path):
        return None
    remaining = list(reversed(path))
    while count > 1:
        if index ^ 1 < count:
            if not remaining:
                return None
            sibling = remaining.pop()
            leaf = _node(sibling, leaf) if index % 2 else _node(leaf, sibling)
        index //= 2
        count = (count + 1) // 2
    return None if remaining else leaf
