"""What an archive says of its capture: the last section, sealed like content."""

from __future__ import annotations

import json
from typing import Any, Final

from ...errors import IntegrityError
from ...model.json_input import check_nesting, check_values, typed
from ...repository.content import ArchiveReader
from ...repository.manifest import FileTable

__all__ = ["complete_tenants", "named_tenants", "read_details"]

_MAX_DETAILS_BYTES: Final = 256 << 20


def read_details(reader: ArchiveReader, table: FileTable) -> dict[str, Any]:
    """
    Return the details of an archive: ``capture`` holds what the source found.

    Raises:
        IntegrityError: They cannot be read, kind ``details_unreadable``, or are not what was backed up.
        SinkError: Reading failed.
    """
    if table.size_bytes > _MAX_DETAILS_BYTES:
        raise IntegrityError(f"{table.name} has {table.size_bytes} bytes", kind="details_unreadable")
    data = b"".join(reader.file(table))
    try:
        check_nesting(data)
        check_values(data)
        return typed(json.loads(data), dict)
    except (ValueError, TypeError, RecursionError) as error:
        message = f"{table.name} cannot be read: {type(error).__name__}"
        raise IntegrityError(message, kind="details_unreadable") from error


def named_tenants(details: dict[str, Any]) -> dict[str, str]:
    """Return the status of every tenant that details name: ``complete``, ``partial``, ``failed`` or ``absent``."""
    try:
        capture = typed(details.get("capture", {}), dict)
        entries = [typed(entry, dict) for entry in typed(capture.get("tenants", []), list)]
        return {typed(entry["user_id"], str): typed(entry["status"], str) for entry in entries}
    except (KeyError, TypeError) as error:
        message = f"details name no tenants that can be read: {type(error).__name__}"
        raise IntegrityError(message, kind="details_unreadable") from error


def complete_tenants(details: dict[str, Any]) -> frozenset[str]:
    """Return the tenants of which nothing is missing."""
    return frozenset(user_id for user_id, status in named_tenants(details).items() if status == "complete")
