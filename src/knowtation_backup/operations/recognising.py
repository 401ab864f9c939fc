"""
Recognise stored files by their first bytes, whatever they are called (VER-08).

Nothing is opened or unpacked here: what a sealed or compressed file holds is seen once its outer form is undone.
"""

from __future__ import annotations

import contextlib
import enum
from typing import Any

import attrs

from .._engine.canonical import JsonError
from .._engine.jsonstream import JsonCursor
from ..exports.entries import KINDS

__all__ = ["KNOWTATION_KIND", "MAX_SEEN_BYTES", "Form", "Recognised", "is_export", "recognise"]

MAX_SEEN_BYTES = 64 << 10
"""As much of a file as is looked at."""
KNOWTATION_KIND = "knowtation-"
"""How the kinds of all Knowtation payloads begin."""

_TAR_MAGIC_AT = 257
_RECORDS_KIND = "knowtation-backup-records"
_OPAQUE = frozenset({"knowtation-attestation-export"})
"""Payloads of Knowtation that no `ExportReader` reads."""
_AGENT_FORMATS = {
    "agentvault-full-backup-v1": "agentvault-full-backup",
    "agentvault-thoughtform-bundle-v1": "agentvault-thoughtform-bundle",
    "agentvault-hypervault-snapshot-v1": "agentvault-account-snapshot",
    "agentvault-arweave-bundle-v1": "agentvault-arweave-bundle",
}


class Form(enum.Enum):
    """What a file is, from the outside."""

    EMPTY = "empty"
    KTB1 = "ktb1"
    KTB2 = "ktb2"
    AGE = "age"
    ENC_V1 = "enc-v1"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    ZIP = "zip"
    TAR = "tar"
    JSON = "json"
    """One object, of Knowtation or any other."""
    RECORDS = "records"
    """Knowtation's records form, one JSON object per line."""
    UNKNOWN = "unknown"
    """None of these; brotli, which has no mark of its own, is among them."""


_SEALED = frozenset({Form.KTB1, Form.KTB2, Form.AGE, Form.ENC_V1})
_COMPRESSED = frozenset({Form.GZIP, Form.ZSTD, Form.XZ})
_MAGIC = {
    b"KTB1": Form.KTB1,
    b"KTB2": Form.KTB2,
    b"\x1f\x8b": Form.GZIP,
    b"\x28\xb5\x2f\xfd": Form.ZSTD,
    b"\xfd7zXZ\x00": Form.XZ,
    b"PK\x03\x04": Form.ZIP,
    b"PK\x05\x06": Form.ZIP,  # without members
    b"age-encryption.org/": Form.AGE,
    b"-----BEGIN AGE ENCRYPTED FILE-----": Form.AGE,
    b'{"type":"export"': Form.RECORDS,
    b'{"type":"tenant"': Form.RECORDS,
}


@attrs.frozen(kw_only=True)
class Recognised:
    """What the first bytes of a file tell."""

    form: Form
    kind: str = ""
    """Kind of the payload, when the file is one and says so early enough."""

    @property
    def codec(self) -> str:
        """Name of the codec that undoes a sealed or compressed form; empty for others."""
        return self.form.value if self.sealed or self.compressed else ""

    @property
    def sealed(self) -> bool:
        """Whether a key is needed to look further."""
        return self.form in _SEALED

    @property
    def compressed(self) -> bool:
        """Whether it can be undone without a key."""
        return self.form in _COMPRESSED


def is_export(kind: str) -> bool:
    """Whether payloads of this kind are what `ExportReader` reads."""
    return kind.startswith(KNOWTATION_KIND) and kind not in _OPAQUE


def recognise(head: bytes) -> Recognised:
    """
    Return what a file is that begins with *head*, up to `MAX_SEEN_BYTES` of it; never fails, whatever the bytes.

    Args:
        head: The first bytes. With fewer than 262 a tar archive is not seen.
    """
    head = head[:MAX_SEEN_BYTES]
    form = Form.UNKNOWN if head else Form.EMPTY
    if head[_TAR_MAGIC_AT:].startswith(b"ustar"):
        form = Form.TAR
    form = next((found for magic, found in _MAGIC.items() if head.startswith(magic)), form)
    if form is Form.RECORDS:
        return Recognised(form=form, kind=_RECORDS_KIND)
    if form is Form.UNKNOWN and head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").startswith(b"{"):
        facts = _first_members(head)
        if facts.get("version") == "enc-v1":
            return Recognised(form=Form.ENC_V1)
        return Recognised(form=Form.JSON, kind=_kind(facts))
    return Recognised(form=form)


def _kind(facts: dict[str, Any]) -> str:
    kind, version, form = facts.get("kind"), facts.get("format_version"), facts.get("format")
    if isinstance(kind, str) and kind.startswith(KNOWTATION_KIND):
        return kind
    if isinstance(form, str) and form in _AGENT_FORMATS:
        return _AGENT_FORMATS[form]
    if "agentName" in facts and facts.keys() & {"checksums", "components", "canisterState"}:
        return "agentvault-manifest"
    return KINDS.get(version, "") if type(version) is int and kind is None else ""


def _first_members(head: bytes) -> dict[str, Any]:
    """Return the first members of an object; those that are no single values, or cut, with `None`."""
    facts: dict[str, Any] = {}
    # Cut, as heads are, or damaged: whoever reads all of it will see.
    with contextlib.suppress(JsonError):
        cursor = JsonCursor([head], value_limit_bytes=MAX_SEEN_BYTES)
        for key in cursor.members():
            facts[key] = None
            if cursor.peek() in {b"{", b"["}:
                cursor.raw()
            else:
                facts[key] = cursor.value()
    return facts
