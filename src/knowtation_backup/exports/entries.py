"""What payloads consist of: their header, and entries that are tenants, vaults, notes and proposals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import attrs

from ..errors import ConfigurationError
from ..hub.schema import Note, Proposal, proposal_vault_of
from ..model.moments import parse_iso
from .records import Record, RecordKind, note_record, proposal_record, tenant_record, vault_record

__all__ = ["KINDS", "Entry", "PayloadHeader", "Run"]

KINDS: Mapping[int, str] = {
    1: "knowtation-hosted-backup",
    2: "knowtation-operator-vault-export",
    4: "knowtation-operator-full-export",
}
"""The payload versions that are read, and the kind each one names."""


@attrs.frozen(kw_only=True)
class PayloadHeader:
    """What a payload says of itself; `None` where it says nothing."""

    format_version: int | None = None
    """1, 2 or 4; `None` for the records form."""
    kind: str | None = None
    exported_at: str | None = None
    """As written, normally ISO with milliseconds."""

    @property
    def exported_moment(self) -> dt.datetime | None:
        """The moment of the export, or `None` when it is absent or not a date."""
        try:
            return parse_iso(self.exported_at) if self.exported_at else None
        except ConfigurationError:
            return None


@attrs.frozen(kw_only=True)
class Entry:
    """One tenant, vault, note or proposal of a payload."""

    kind: RecordKind
    user_id: str
    vault_id: str = ""
    note: Note | None = attrs.field(default=None, repr=False)
    proposal: Proposal | None = attrs.field(default=None, repr=False)

    def record(self) -> Record:
        """Return the canonical record of this entry."""
        if self.note is not None:
            return note_record(self.user_id, self.vault_id, self.note)
        if self.proposal is not None:
            return proposal_record(self.user_id, self.proposal)
        if self.kind is RecordKind.VAULT:
            return vault_record(self.user_id, self.vault_id)
        return tenant_record(self.user_id)


@attrs.frozen(kw_only=True)
class Run:
    """Consecutive entries of one kind, as they were decoded; a tenant or vault is one without items."""

    kind: RecordKind
    user_id: str
    vault_id: str = ""
    notes: Sequence[Note] = ()
    proposals: Sequence[Proposal] = ()

    def entries(self) -> Iterator[Entry]:
        """Yield the entries one by one."""
        user_id, vault_id = self.user_id, self.vault_id
        if self.kind is RecordKind.NOTE:
            for note in self.notes:
                yield Entry(kind=self.kind, user_id=user_id, vault_id=vault_id, note=note)
        elif self.kind is RecordKind.PROPOSAL:
            for proposal in self.proposals:
                own = proposal_vault_of(proposal)
                yield Entry(kind=self.kind, user_id=user_id, vault_id=own, proposal=proposal)
        else:
            yield Entry(kind=self.kind, user_id=user_id, vault_id=vault_id)
