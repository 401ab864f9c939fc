"""Exports in a repository: entries of an archive's records, all or some of one tenant, and the forms they are given."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

import attrs

from ...errors import BlobNotFoundError, ConfigurationError, IntegrityError
from ...exports.convert import EntrySource, full_export, records_export
from ...exports.records import Record, RecordKind, parse_record, tenant_record
from ...exports.sections import HEADER_SECTION, StoredEntries, parse_header
from ...model.json_input import typed
from ...model.moments import iso_ms
from ...model.reports import Finding
from ...repository.content import ArchiveReader, ReadRecord
from ...repository.keys import WriterKey
from ...repository.manifest import ArchiveManifest, FileTable, RecordTables
from .backup import DETAILS_SECTION
from .details import read_details

__all__ = ["ExportForm", "RecordChoice", "StoredExport", "owner_of"]


class ExportForm(enum.Enum):
    """How the records of an export are written."""

    RECORDS = "records"
    """Lines of canonical JSON, a header line before them and a count after them."""
    FULL = "full"
    """One JSON document of format version 4, as the hub exports it."""

    @property
    def suffix(self) -> str:
        """What the name of the file ends with."""
        return ".ndjson" if self is ExportForm.RECORDS else ".json"

    def chunks(self, source: EntrySource) -> Iterator[bytes]:
        """Return the bytes of an export in this form."""
        return records_export(source) if self is ExportForm.RECORDS else full_export(source)


def owner_of(user_id: str) -> bytes:
    """Return the owner of a tenant's records."""
    return user_id.encode("utf-8", "surrogatepass")


@attrs.frozen(kw_only=True)
class RecordChoice:
    """Which records of an export are wanted: of a tenant all, of one vault, or one note or proposal."""

    user_id: str
    vault_id: str | None = None
    path: str | None = None
    """Of a note, with its vault."""
    proposal_id: str | None = None

    def __attrs_post_init__(self) -> None:
        """Check that together they name one thing."""
        if self.path is not None and (self.vault_id is None or self.proposal_id is not None):
            message = "a note is named by tenant, vault and path"
            raise ConfigurationError(message, kind="bad_option", hint="pass the vault, and no proposal")

    def __str__(self) -> str:
        """Return it for people."""
        parts = (self.user_id, self.vault_id, self.path, self.proposal_id and f"proposal {self.proposal_id}")
        return "/".join(part for part in parts if part is not None)

    def takes(self, record: Record) -> bool:
        """Whether a record of this tenant is wanted; that of the tenant itself always is, it holds the id alone."""
        if record.kind is RecordKind.TENANT:
            return True
        if self.vault_id is not None and record.vault_id != self.vault_id:
            return False
        if record.kind is RecordKind.VAULT:
            return self.proposal_id is None or self.vault_id is not None
        if self.path is not None:
            return record.kind is RecordKind.NOTE and record.name == self.path
        return self.proposal_id is None or (record.kind is RecordKind.PROPOSAL and record.name == self.proposal_id)

    def keys(self, keys: WriterKey) -> frozenset[bytes] | None:
        """Return the keys of the records that are wanted; `None` when only their values can tell."""
        name = self.path if self.path is not None else self.proposal_id
        if self.vault_id is None or name is None:
            return None
        tenant = tenant_record(self.user_id)
        vault = attrs.evolve(tenant, kind=RecordKind.VAULT, vault_id=self.vault_id)
        kind = RecordKind.NOTE if self.path is not None else RecordKind.PROPOSAL
        named = attrs.evolve(vault, kind=kind, name=name)
        owner = owner_of(self.user_id)
        return frozenset(keys.record_key(owner, record.sort_key) for record in (tenant, vault, named))


@attrs.define(kw_only=True)
class StoredExport:
    """The records of one archive that holds an export."""

    manifest: ArchiveManifest
    reader: ArchiveReader
    keys: WriterKey
    findings: list[Finding] = attrs.field(factory=list, init=False)
    """What is missing, known once entries were iterated: tenants whose key was destroyed, or is lost."""

    def entries(self, tables: RecordTables, choice: RecordChoice | None = None) -> StoredEntries:
        """
        Return the entries, all of them compared with the content root that the export had; to be iterated once.

        Args:
            tables: Of the section.
            choice: What of them; `None`: everything.

        Raises (some while iterating):
            BlobNotFoundError: There is no such tenant, vault, note or proposal: kind ``no_such_record``.
            ErasedTenantError: The tenant that was asked for was erased, or its key is lost.
            IntegrityError: Something is not what was backed up.
        """
        header = self.manifest.section(HEADER_SECTION)
        if not isinstance(header, FileTable):
            message = f"{tables.name} is no export: the archive has no {HEADER_SECTION}"
            raise ConfigurationError(message, kind="no_export", hint="restore the section as it is")
        head = parse_header(b"".join(self.reader.file(header)))
        if head.exported_at is None:
            head = attrs.evolve(head, exported_at=iso_ms(self.manifest.taken_at))
        if choice is not None:
            return StoredEntries((self._chosen(tables, choice),), head)
        return StoredEntries(self._tenants(tables), head, content_root=self._content_root, findings=self.findings)

    def _tenants(self, tables: RecordTables) -> Iterator[Iterator[bytes]]:
        for group in self.reader.records(tables, on_erased=self._erased(tables), on_lost=self._lost(tables)):
            yield (record.value for record in group)

    def _erased(self, tables: RecordTables) -> Callable[[bytes, int], None]:
        def note(owner_key: bytes, count: int) -> None:
            message = f"{count} record(s) are left out: their tenant was erased"
            where = f"{tables.name}/{owner_key.hex()}"
            self.findings.append(Finding(code="tenant_erased", where=where, message=message))

        return note

    def _lost(self, tables: RecordTables) -> Callable[[bytes, int], None]:
        def note(owner_key: bytes, count: int) -> None:
            message = f"{count} record(s) are left out: the key of their tenant is lost; repair it from a replica"
            where = f"{tables.name}/{owner_key.hex()}"
            self.findings.append(Finding(code="tenant_key_lost", where=where, message=message))

        return note

    def _chosen(self, tables: RecordTables, choice: RecordChoice) -> Iterator[bytes]:
        owner = owner_of(choice.user_id)
        wanted = choice.keys(self.keys)
        found: list[tuple[Record, ReadRecord]] = []
        for group in self.reader.records(tables, owner=owner, wanted=wanted):
            found += [(parsed, record) for record in group if choice.takes(parsed := parse_record(record.value)[0])]
        kinds = {record.kind for record, _ in found} - {RecordKind.TENANT}
        if choice.path is not None or choice.proposal_id is not None:
            kinds.discard(RecordKind.VAULT)
        if not found or ((choice.vault_id is not None or choice.proposal_id is not None) and not kinds):
            message = f"{tables.name} has no {choice!s:.200}"
            raise BlobNotFoundError(message, kind="no_such_record", hint="names are compared exactly")
        yield from (record.value for _, record in found)

    def _content_root(self) -> str | None:
        if self.findings:
            return None  # without tenants whose keys are gone it is another one
        table = self.manifest.section(DETAILS_SECTION)
        if not isinstance(table, FileTable):
            return None
        try:
            root = typed(read_details(self.reader, table)["capture"], dict).get("content_root")
            return None if root is None else typed(root, str)
        except (KeyError, TypeError) as error:
            raise IntegrityError("the details of an export have no capture", kind="details_unreadable") from error
