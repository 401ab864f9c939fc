"""
The forms a payload can have: how pieces of content become its bytes.

A form has two sides. Worker threads *render* one piece each (a vault, a note, a proposal); the consumer *joins* the
pieces in order and adds what stands between them. Rendering keeps no state, joining knows only where it is.

Full export, version 4 (contracts 2.1), compact JSON without trailing newline::

    {"format_version":4,"kind":…,"exported_at":…,"users":[
      {"user_id":…,"vaults":[{"vault_id":…,"notes":[…]},…],"proposals":[…]},…]}

Single vault, version 2::

    {"format_version":2,"kind":…,"exported_at":…,"vault_id":…,"notes":[…],"proposals":[…]}

Records: one canonical record per line (see `records`), between ``{"type":"export",…}`` and ``{"type":"end",…}``.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterable, Iterator, Sequence

import attrs

from .._engine.canonical import dumps
from ..hub.schema import Note, Proposal
from .decoding import VaultNotes
from .options import normalise_vault_id
from .records import Record, note_record, proposal_record, tenant_record, vault_record

__all__ = ["Form", "FullForm", "Part", "PartKind", "RecordsForm", "SingleVaultForm"]


_PIECE_BYTES = 64 * 1024


class PartKind(enum.Enum):
    """What a part is, which decides what stands before it."""

    VAULT = "vault"
    VAULT_OPEN = "vault_open"
    NOTE = "note"
    PROPOSAL = "proposal"
    LINES = "lines"


@attrs.frozen(kw_only=True)
class Part:
    """One rendered piece of a tenant; never empty of meaning, whole in itself."""

    kind: PartKind
    chunks: Sequence[bytes] = attrs.field(repr=False)
    """
    The bytes, in pieces of about 64 KiB.

    One piece of several MB each would be taken from and returned to the heap of another thread again and again, which
    leaves holes that add up to several times the content.
    """

    @property
    def size_bytes(self) -> int:
        """Size of all pieces."""
        return sum(map(len, self.chunks))


class Form(abc.ABC):
    """One form of payload; a fresh object for each capture, because joining has state."""

    kind: str
    name: str
    suffix: str
    version: int | None
    sorted: bool = False
    """Whether vaults, notes and proposals are to come in the order of their records."""

    # -- rendering, in any thread -------------------------------------------------------------------------------------

    def vault_heads(self, user_id: str, vault_ids: Sequence[str]) -> Part | None:
        """Return what names all vaults of a tenant before their content, if the form has that."""
        del user_id, vault_ids
        return None

    @abc.abstractmethod
    def vault(self, user_id: str, vault_id: str, content: VaultNotes) -> Part:
        """Render a whole vault."""

    @abc.abstractmethod
    def vault_open(self, user_id: str, vault_id: str) -> Part:
        """Render the beginning of a vault whose notes come one by one."""

    @abc.abstractmethod
    def note(self, user_id: str, vault_id: str, note: Note) -> Part:
        """Render one note of an opened vault."""

    @abc.abstractmethod
    def proposal(self, user_id: str, proposal: Proposal) -> Part:
        """Render one proposal."""

    # -- joining, in the consumer's thread ----------------------------------------------------------------------------

    @abc.abstractmethod
    def begin(self, exported_at: str) -> bytes:
        """Return what comes first."""

    @abc.abstractmethod
    def separator(self) -> bytes:
        """Return what comes before the next tenant."""

    @abc.abstractmethod
    def tenant_begin(self, user_id: str) -> bytes:
        """Return the beginning of a tenant."""

    @abc.abstractmethod
    def join(self, part: Part) -> Iterator[bytes]:
        """Yield a part with what stands before it."""

    @abc.abstractmethod
    def tenant_end(self) -> bytes:
        """Return the end of a tenant."""

    @abc.abstractmethod
    def end(self, records: int) -> bytes:
        """Return what comes last; *records* is the number of records in all tenants."""


class FullForm(Form):
    """Format version 4: every tenant."""

    kind = "knowtation-operator-full-export"
    name = "operator-full-export"
    suffix = ".json"
    version: int | None = 4

    def __init__(self) -> None:
        self._tenants = 0
        self._vaults = 0
        self._open = False
        self._notes = 0
        self._proposals = 0
        self._in_proposals = False

    def vault(self, user_id: str, vault_id: str, content: VaultNotes) -> Part:
        """Render ``{"vault_id":…,"notes":[…]}``."""
        del user_id
        head = (b'{"vault_id":', dumps(vault_id), b',"notes":[')
        return Part(kind=PartKind.VAULT, chunks=_packed((*head, *_separated(content.rows), b"]}")))

    def vault_open(self, user_id: str, vault_id: str) -> Part:
        """Render ``{"vault_id":…,"notes":[``."""
        del user_id
        return Part(kind=PartKind.VAULT_OPEN, chunks=(b'{"vault_id":', dumps(vault_id), b',"notes":['))

    def note(self, user_id: str, vault_id: str, note: Note) -> Part:
        """Render the note object."""
        del user_id, vault_id
        return Part(kind=PartKind.NOTE, chunks=(note.to_bytes(),))

    def proposal(self, user_id: str, proposal: Proposal) -> Part:
        """Render the proposal object."""
        del user_id
        return Part(kind=PartKind.PROPOSAL, chunks=(dumps(proposal),))

    def begin(self, exported_at: str) -> bytes:
        """Return the head up to ``"users":[``."""
        head = {"format_version": self.version, "kind": self.kind, "exported_at": exported_at}
        return dumps(head)[:-1] + b',"users":['

    def separator(self) -> bytes:
        """Return a comma, except before the first tenant."""
        self._tenants += 1
        return b"," if self._tenants > 1 else b""

    def tenant_begin(self, user_id: str) -> bytes:
        """Return the tenant up to ``"vaults":[``."""
        self._vaults = self._proposals = 0
        self._open = self._in_proposals = False
        return dumps({"user_id": user_id})[:-1] + b',"vaults":['

    def join(self, part: Part) -> Iterator[bytes]:
        """Yield commas and brackets as needed, then the part."""
        if part.kind is PartKind.NOTE:
            if self._notes:
                yield b","
            self._notes += 1
        elif part.kind is PartKind.PROPOSAL:
            yield self._to_proposals()
            if self._proposals:
                yield b","
            self._proposals += 1
        else:
            yield self._close_vault()
            if self._vaults:
                yield b","
            self._vaults += 1
            self._open = part.kind is PartKind.VAULT_OPEN
            self._notes = 0
        yield from part.chunks

    def tenant_end(self) -> bytes:
        """Return the closing brackets."""
        return self._to_proposals() + b"]}"

    def end(self, records: int) -> bytes:
        """Return the closing brackets."""
        del records
        return b"]}"

    def _close_vault(self) -> bytes:
        if self._open:
            self._open = False
            return b"]}"
        return b""

    def _to_proposals(self) -> bytes:
        if self._in_proposals:
            return b""
        closing = self._close_vault()
        self._in_proposals = True
        return closing + b'],"proposals":['


class SingleVaultForm(FullForm):
    """Format version 2, the legacy export of a single vault; exactly one tenant with one vault."""

    kind = "knowtation-operator-vault-export"
    suffix = ".json"
    version: int | None = 2

    def __init__(self, vault_id: str) -> None:
        super().__init__()
        self._vault_id = vault_id
        self.name: str = f"canister-export-{normalise_vault_id(vault_id)}"

    def vault(self, user_id: str, vault_id: str, content: VaultNotes) -> Part:
        """Render the notes separated by commas."""
        del user_id, vault_id
        return Part(kind=PartKind.VAULT, chunks=_packed(_separated(content.rows)))

    def vault_open(self, user_id: str, vault_id: str) -> Part:
        """Render nothing: the list of notes is open already."""
        del user_id, vault_id
        return Part(kind=PartKind.VAULT_OPEN, chunks=())

    def begin(self, exported_at: str) -> bytes:
        """Return the head up to ``"notes":[``."""
        head = {
            "format_version": self.version,
            "kind": self.kind,
            "exported_at": exported_at,
            "vault_id": self._vault_id,
        }
        return dumps(head)[:-1] + b',"notes":['

    def tenant_begin(self, user_id: str) -> bytes:
        """Return nothing: the payload names no tenant."""
        super().tenant_begin(user_id)
        return b""

    def tenant_end(self) -> bytes:
        """Return the closing bracket of the proposals."""
        return self._to_proposals() + b"]"

    def end(self, records: int) -> bytes:
        """Return the closing bracket."""
        del records
        return b"}"

    def _close_vault(self) -> bytes:
        return b""


class RecordsForm(Form):
    """One canonical record per line, tenants by id, records in their own order."""

    kind = "knowtation-backup-records"
    name = "records-export"
    suffix = ".ndjson"
    version: int | None = None
    sorted = True

    def __init__(self) -> None:
        self._last = b""

    def vault_heads(self, user_id: str, vault_ids: Sequence[str]) -> Part | None:
        """Render the records of all vaults of a tenant."""
        return _lines([vault_record(user_id, vault_id) for vault_id in vault_ids])

    def vault(self, user_id: str, vault_id: str, content: VaultNotes) -> Part:
        """Render the records of all notes."""
        return _lines([note_record(user_id, vault_id, note) for note in content.notes])

    def vault_open(self, user_id: str, vault_id: str) -> Part:
        """Render nothing: the vault's record stands further up."""
        del user_id, vault_id
        return Part(kind=PartKind.LINES, chunks=())

    def note(self, user_id: str, vault_id: str, note: Note) -> Part:
        """Render the record of a note."""
        return _lines([note_record(user_id, vault_id, note)])

    def proposal(self, user_id: str, proposal: Proposal) -> Part:
        """Render the record of a proposal."""
        return _lines([proposal_record(user_id, proposal)])

    def begin(self, exported_at: str) -> bytes:
        """Return the first line."""
        return dumps({"type": "export", "exported_at": exported_at}) + b"\n"

    def separator(self) -> bytes:
        """Return nothing."""
        return b""

    def tenant_begin(self, user_id: str) -> bytes:
        """Return the tenant's record."""
        return tenant_record(user_id).line + b"\n"

    def join(self, part: Part) -> Iterator[bytes]:
        """Yield the lines."""
        yield from part.chunks

    def tenant_end(self) -> bytes:
        """Return nothing."""
        return b""

    def end(self, records: int) -> bytes:
        """Return the last line, which tells a complete file from a cut one."""
        return dumps({"type": "end", "records": records}) + b"\n"


def _lines(records: list[Record]) -> Part:
    ordered = sorted(records, key=lambda record: (record.sort_key, record.leaf_hash))
    return Part(kind=PartKind.LINES, chunks=_packed(record.line + b"\n" for record in ordered))


def _separated(rows: Iterable[bytes]) -> Iterator[bytes]:
    separator = b""
    for row in rows:
        yield separator
        yield row
        separator = b","


def _packed(parts: Iterable[bytes]) -> tuple[bytes, ...]:
    """Join neighbours up to about 64 KiB."""
    packed: list[bytes] = []
    pending: list[bytes] = []
    size = 0
    for part in parts:
        pending.append(part)
        size += len(part)
        if size >= _PIECE_BYTES:
            packed.append(b"".join(pending))
            pending, size = [], 0
    packed.append(b"".join(pending))
    return tuple(packed)
