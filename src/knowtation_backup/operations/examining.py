"""Read the payload of a file that another tool wrote to its end, and say what it is."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping
from typing import Any

import attrs

from ..errors import TruncatedError, UnsupportedFormatError
from ..exports.book import CAPTURE_FORMAT, CAPTURE_VERSION
from ..exports.entries import KINDS
from ..exports.reader import ExportReader, ReadLimits
from ..model.reports import Finding
from .metering import Meter
from .naming import ForeignName
from .recognising import Form, is_export
from .unfolding import Unfolded

__all__ = ["VAULT_EXPORT_KIND", "Examined", "examine"]

VAULT_EXPORT_KIND = KINDS[2]
_SINGLE = frozenset({KINDS[1], KINDS[2]})
_RECORDS = "knowtation-backup-records"
_NAMED = {
    Form.TAR: frozenset({"duskmantle-state", "quri-backup"}),
    Form.ZIP: frozenset({"agentvault-encrypted-zip", "agentvault-full-backup"}),
    Form.JSON: frozenset({"agentvault-archive"}),
}
"""Kinds that a name may add to a form which says nothing more of itself."""


@attrs.frozen(kw_only=True)
class Examined:
    """What reading a payload to its end told."""

    kind: str
    payload_bytes: int
    payload_sha256: str
    counts: Mapping[str, int] = attrs.field(factory=dict)
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """For the capture's details."""
    exported_at: dt.datetime | None = None
    user_id: str = ""
    vault_id: str = ""
    warnings: tuple[Finding, ...] = ()

    def capture(self, source_id: str) -> dict[str, Any]:
        """Return what details record of the capture."""
        value = {
            "format": CAPTURE_FORMAT,
            "format_version": CAPTURE_VERSION,
            "source_id": source_id,
            "counts": dict(self.counts),
            **self.facts,
        }
        if self.user_id:
            value |= {"user_id": self.user_id, "vault_id": self.vault_id}
        return value


def examine(name: str, unfolded: Unfolded, *, kind: str, user_id: str, limits: ReadLimits) -> Examined:
    """
    Read a payload to its end.

    Args:
        name: Of the file: of some forms it says of what kind they are.
        unfolded: What it is.
        kind: What to call it without looking inside; empty to look.
        user_id: The tenant of payloads that name none.
        limits: What a hostile file may cost.

    Raises:
        UnsupportedFormatError: Nothing we know (``unknown_content``), or of a newer version.
        IntegrityError: It is damaged, cut or empty.
        BackupError: As reading and opening raise.
    """
    payload = Meter(unfolded.read())
    with contextlib.closing(payload):
        opaque = kind or _opaque_kind(name, unfolded)
        if not opaque:
            return _examine_export(payload, unfolded.inside.kind, user_id, limits)
        if not kind:
            for _ in unfolded.expand(payload):
                pass
        payload.drain()
        return Examined(
            kind=opaque,
            payload_bytes=payload.size_bytes,
            payload_sha256=payload.sha256,
            facts={"payload": {"kind": opaque, "size_bytes": payload.size_bytes}},
        )


def _opaque_kind(file_name: str, unfolded: Unfolded) -> str:
    """Return the kind of a payload that is kept by its digest; empty for what an `ExportReader` is to read."""
    inside = unfolded.inside
    if inside.form is Form.EMPTY:
        raise TruncatedError(f"{file_name} holds nothing", hint="take another copy", key=file_name)
    name = ForeignName.parse(file_name)
    if name is not None and not inside.kind and name.kind in _NAMED.get(inside.form, ()):
        return name.kind
    if inside.form in {Form.JSON, Form.RECORDS}:
        return "" if not inside.kind or is_export(inside.kind) else inside.kind
    if inside.form in {Form.TAR, Form.ZIP}:
        return str(inside.form.value)
    message = f"{file_name} holds nothing that this release knows"
    hint = "to keep it by its digest alone, say of which kind it is"
    raise UnsupportedFormatError(message, kind="unknown_content", hint=hint, key=file_name)


def _examine_export(payload: Meter, expected_kind: str, user_id: str, limits: ReadLimits) -> Examined:
    reader = ExportReader(payload, user_id=user_id, limits=limits)
    vault_id = ""
    if expected_kind in {"", *_SINGLE}:
        for entry in reader:
            vault_id = vault_id or entry.vault_id
    else:
        reader.read_all()  # much faster than one entry at a time
    payload.drain()
    header = reader.header
    kind = _RECORDS if header.format_version is None else KINDS[header.format_version]
    return Examined(
        kind=kind,
        payload_bytes=payload.size_bytes,
        payload_sha256=payload.sha256,
        counts=reader.counts,
        facts={
            "payload": {
                "kind": kind,
                "format_version": header.format_version,
                "exported_at": header.exported_at,
                "size_bytes": payload.size_bytes,
            },
            "content_root": reader.content_root,
            "tenants": [{"status": "complete", **tenant.to_json()} for tenant in reader.tenants],
        },
        exported_at=header.exported_moment,
        user_id=user_id if kind in _SINGLE else "",
        vault_id=vault_id if kind in _SINGLE else "",
        warnings=reader.findings,
    )
