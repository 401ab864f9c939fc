"""
Compare a payload with the details recorded when it was written, and cut single tenants out of it.

Details are a JSON object. The keys used here, all others are ignored::

    payload_sha256, payload_size_bytes      over the opened payload
    content_root                            see `records`
    counts    {tenants, vaults, notes, proposals}
    tenants   [{user_id, status, offset, size_bytes, sha256, content_root, vaults, notes, proposals}]

where ``[offset, offset + size_bytes)`` are the bytes of the tenant's object inside the plain payload, and ``sha256`` is
their digest. Tenants of status ``failed`` or ``absent`` are not in the payload and have none of this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from ..errors import BackupError, DigestMismatchError, ManifestError, TruncatedError
from ..model.reports import Finding
from .reader import ExportReader, ReadLimits

__all__ = ["TenantSegment", "TenantSegments", "verify_payload"]

_COUNTS = ("tenants", "vaults", "notes", "proposals")
_NOT_IN_PAYLOAD = ("failed", "absent")


class _Hashed:
    """Passes chunks on, hashing them, and remembers an error of their source."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.digest = hashlib.sha256()
        self.size_bytes = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self.digest.update(chunk)
                self.size_bytes += len(chunk)
                yield chunk
        except Exception as error:
            self.failure = error
            raise


def verify_payload(
    chunks: Iterable[bytes], details: Mapping[str, Any], *, user_id: str = "", limits: ReadLimits | None = None
) -> list[Finding]:
    """
    Read a plain payload once and return every way in which it differs from its details.

    Findings: ``payload_size``, ``payload_digest``, ``payload_unreadable`` (names the tenant being read; then no counts
    or roots are compared), ``counts``, ``content_root``, ``tenant_missing``, ``tenant_unexpected``, ``tenant_content``
    (these name their tenant), and ``details_incomplete`` when the details lack something to compare with. An empty list
    means all is as recorded.

    Args:
        chunks: The opened payload; what it raises passes through, so *unreadable* is never reported as *damaged*.
        details: As recorded at the time of writing.
        user_id: The tenant given when a payload that names none was written.
        limits: Protection against hostile files.
    """
    stream = _Hashed(chunks)
    source = iter(stream)
    reader = ExportReader(source, user_id=user_id, limits=limits)
    findings: list[Finding] = []
    try:
        reader.read_all()
    except BackupError as error:
        if stream.failure is not None:
            raise
        where = reader.current_tenant or "payload"
        findings.append(Finding(code="payload_unreadable", where=where, message=str(error)))
    for _ in source:  # what the reader left: the digest covers every byte
        pass
    findings = _compare_bytes(stream, details) + findings
    if reader.finished:
        findings += _compare_content(reader, details)
    return findings


def _compare_bytes(stream: _Hashed, details: Mapping[str, Any]) -> list[Finding]:
    return [
        *_compare("payload_size", "payload", details, "payload_size_bytes", stream.size_bytes),
        *_compare("payload_digest", "payload", details, "payload_sha256", stream.digest.hexdigest()),
    ]


def _compare_content(reader: ExportReader, details: Mapping[str, Any]) -> list[Finding]:
    counts = details.get("counts")
    recorded = counts if isinstance(counts, Mapping) else {}
    findings = [f for name in _COUNTS for f in _compare("counts", name, recorded, name, reader.counts[name])]
    findings += _compare("content_root", "payload", details, "content_root", reader.content_root)
    listed = details.get("tenants")
    if not isinstance(listed, list):
        return [*findings, _incomplete("details", "tenants")]
    expected = {item.get("user_id"): item for item in listed if isinstance(item, Mapping) and _has_bytes(item)}
    for tenant in reader.tenants:
        item = expected.pop(tenant.user_id, None)
        if item is None:
            message = "this tenant is in the payload but not in its details"
            findings.append(Finding(code="tenant_unexpected", where=tenant.user_id, message=message))
        else:
            findings += _compare("tenant_content", tenant.user_id, item, "content_root", tenant.content_root)
    message = "this tenant is in the details but not in the payload"
    findings += [Finding(code="tenant_missing", where=str(name), message=message) for name in expected]
    return findings


def _has_bytes(tenant: Mapping[str, Any]) -> bool:
    """Tell whether a tenant of the details is in the payload; those that could not be read are listed as well."""
    return tenant.get("status") not in _NOT_IN_PAYLOAD


def _compare(code: str, where: str, recorded: Mapping[str, Any], key: str, found: int | str) -> list[Finding]:
    value = recorded.get(key)
    if value is None:
        return [_incomplete(where, key)]
    if value == found:
        return []
    return [Finding(code=code, where=where, message=f"{key} is {found}, recorded was {str(value)[:80]}")]


def _incomplete(where: str, key: str) -> Finding:
    return Finding(code="details_incomplete", where=where, message=f"the details do not record {key}")


@attrs.frozen(kw_only=True)
class TenantSegment:
    """The bytes of one tenant's object inside a full export."""

    user_id: str
    raw: bytes = attrs.field(repr=False)


class TenantSegments:
    """
    Iterates over the raw tenant objects of a full export, each proven by its recorded digest.

    Memory: one tenant. Use it to take finished tenants from an earlier, incomplete export.

    Args:
        chunks: The plain payload.
        details: Its details; ``tenants`` in ascending order of ``offset``.
        only: The tenants wanted, or `None` for all.

    Raises:
        ManifestError: The details are not as documented; before anything is read.

    Raises (while iterating):
        TruncatedError: The payload ends before a recorded tenant does.
        DigestMismatchError: A tenant's bytes are not those recorded; the error names it.
    """

    def __init__(
        self, chunks: Iterable[bytes], details: Mapping[str, Any], *, only: Iterable[str] | None = None
    ) -> None:
        self._chunks = chunks
        self._ranges = _ranges(details)
        self._only = None if only is None else frozenset(only)

    def __iter__(self) -> Iterator[TenantSegment]:
        source = iter(self._chunks)
        buffer, position = b"", 0  # position of the buffer's first byte in the payload
        for wanted in self._ranges:
            if self._only is not None and wanted.user_id not in self._only:
                continue
            while position + len(buffer) <= wanted.offset:
                position, buffer = position + len(buffer), _next_chunk(source, wanted.user_id)
            parts, size = [buffer[wanted.offset - position :]], position + len(buffer) - wanted.offset
            while size < wanted.size_bytes:
                position, buffer = position + len(buffer), _next_chunk(source, wanted.user_id)
                parts.append(buffer)
                size += len(buffer)
            raw = b"".join(parts)[: wanted.size_bytes]
            if hashlib.sha256(raw).hexdigest() != wanted.sha256:
                message = "the bytes of a tenant differ from those recorded"
                raise DigestMismatchError(message, user_id=wanted.user_id)
            yield TenantSegment(user_id=wanted.user_id, raw=raw)


@attrs.frozen
class _Range:
    user_id: str
    offset: int
    size_bytes: int
    sha256: str


def _ranges(details: Mapping[str, Any]) -> list[_Range]:
    listed = details.get("tenants")
    ranges: list[_Range] = []
    end = 0
    for item in listed if isinstance(listed, list) else (None,):
        facts = item if isinstance(item, dict) else {}
        if not _has_bytes(facts):
            continue
        values = [facts.get(name) for name in ("user_id", "offset", "size_bytes", "sha256")]
        match values:
            case [str(user_id), int(offset), int(size), str(digest)] if offset >= end and size > 0:
                ranges.append(_Range(user_id, offset, size, digest))
                end = offset + size
            case _:
                raise ManifestError("the details do not say where tenants lie", hint="read the whole payload instead")
    return ranges


def _next_chunk(source: Iterator[bytes], user_id: str) -> bytes:
    chunk = next(source, None)
    if chunk is None:
        raise TruncatedError("the payload ends before a recorded tenant does", user_id=user_id)
    return chunk
