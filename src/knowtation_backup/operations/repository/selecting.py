"""Restore part of an export from a repository: one tenant, one vault, one note or proposal; nothing else is read."""

from __future__ import annotations

from ...errors import ConfigurationError
from ...exports.sections import RECORDS_SECTION, StoredEntries
from ...repository.content import ArchiveReader
from ...repository.manifest import ArchiveManifest, RecordTables
from ...repository.repository import Repository
from .stored_export import RecordChoice, StoredExport

__all__ = ["records_of", "restore_records"]


def restore_records(  # noqa: PLR0913 - what of the export
    repository: Repository,
    archive_id: str,
    tenant: str | None = None,
    vault: str | None = None,
    *,
    path: str | None = None,
    proposal_id: str | None = None,
) -> StoredEntries:
    """
    Return entries of an export, to be iterated once: give them to `full_export`, `write_tree` and their like.

    Only the frames in which the wanted records lie are fetched and opened; tables are read whole. Entries of a tenant
    begin with that of the tenant, entries of a vault and notes have that of their vault before them, so that they are
    exports of their own. Every record is compared with its id; everything together with the export's content root.
    `StoredEntries.findings` says afterwards which tenants were left out, since they were erased.
    Of several records of one vault and name, which hubs do not make on purpose, the first one comes; the vault has all.

    Args:
        repository: Open to be read.
        archive_id: Which archive.
        tenant: Id of a tenant, as the hub has it; `None`: all.
        vault: Id of one vault of that tenant; `None`: all.
        path: Of one note in that vault.
        proposal_id: Of one proposal, instead; without a vault, those of all vaults that have this id.

    Raises (what is about content while iterating):
        BlobNotFoundError: There is no such archive, or it has no such tenant, vault, note or proposal: the latter of
            kind ``no_such_record``.
        ConfigurationError: The archive holds no export (``no_export``), the repository is open to be written only
            (``write_only``), or what is wanted is not named whole.
        ErasedTenantError: The tenant was erased.
        IntegrityError: A record is not what was backed up; `DecryptionError`: it does not open.
        SinkError: Reading failed.
    """
    keys = repository.read_keys
    choice: RecordChoice | None = None
    if tenant is not None:
        choice = RecordChoice(user_id=tenant, vault_id=vault, path=path, proposal_id=proposal_id)
    elif (vault, path, proposal_id) != (None, None, None):
        message = "vaults, notes and proposals are those of a tenant"
        raise ConfigurationError(message, kind="bad_option", hint="pass the tenant")
    manifest = repository.manifest(archive_id)
    reader = ArchiveReader(repository.sink, keys, manifest, tenant_sink=repository.tenant_sink)
    export = StoredExport(manifest=manifest, reader=reader, keys=repository.writer_key)
    return export.entries(records_of(manifest), choice)


def records_of(manifest: ArchiveManifest) -> RecordTables:
    """
    Return where the records of an export lie.

    Raises:
        ConfigurationError: The archive holds no export, kind ``no_export``.
    """
    tables = manifest.section(RECORDS_SECTION)
    if not isinstance(tables, RecordTables):
        message = f"an archive of {manifest.kind} holds no export"
        raise ConfigurationError(message, kind="no_export", hint="name an archive of an export")
    return tables
