"""
Statements of a content root for people who may not see the archive.

The manifest that is signed says nothing of the content, and the details that do are sealed. So whoever can open an
archive and holds a signing key states its root in a small file of its own: one line of canonical JSON, and one line of
signatures over `STATEMENT_CONTEXT` and the first line with its newline::

    {"artifact":…,"content_root":…,"format":"knowtation-backup-content","format_version":1,"source_id":…,"taken_at":…}
    {"format":"knowtation-backup-signatures",…}
"""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any, Final

import attrs

from ..errors import ConfigurationError, SignatureError, UnsupportedFormatError
from .details import ArchiveDetails
from .json_input import check_nesting, typed
from .moments import iso_ms, parse_iso

__all__ = ["MAX_STATEMENT_BYTES", "STATEMENT_CONTEXT", "ContentStatement"]

STATEMENT_CONTEXT: Final = b"knowtation-backup content v1\x00"
STATEMENT_FORMAT: Final = "knowtation-backup-content"
STATEMENT_VERSION: Final = 1
MAX_STATEMENT_BYTES: Final = 64 << 10

_ROOT = re.compile(r"[0-9a-f]{64}")


@attrs.frozen(kw_only=True)
class ContentStatement:
    """That an archive, taken from a source at a moment, has a content root."""

    artifact: str
    """Key of the artifact: the archive id."""
    source_id: str
    taken_at: dt.datetime
    content_root: str
    """64 lower-case hexadecimal digits, for `verify_proof`."""

    @classmethod
    def of(cls, details: ArchiveDetails) -> ContentStatement:
        """
        Return what the details of an archive say of its content.

        Raises:
            ConfigurationError: They hold no content root: the payload is not of a kind that has one.
        """
        root = details.capture.get("content_root")
        if not isinstance(root, str) or not _ROOT.fullmatch(root):
            raise ConfigurationError(f"{details.artifact} has no content root", kind="no_content_root")
        return cls(artifact=details.artifact, source_id=details.source_id, taken_at=details.taken_at, content_root=root)

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no white space, UTF-8, a final newline."""
        value = {
            "format": STATEMENT_FORMAT,
            "format_version": STATEMENT_VERSION,
            "artifact": self.artifact,
            "source_id": self.source_id,
            "taken_at": iso_ms(self.taken_at),
            "content_root": self.content_root,
        }
        return _canonical(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> ContentStatement:
        """
        Parse a statement without its signatures; only canonical bytes are read.

        Raises:
            SignatureError: Not a statement.
            UnsupportedFormatError: A statement of a newer format version.
        """
        try:
            check_nesting(data)
            value = json.loads(data)
            if value["format"] != STATEMENT_FORMAT:
                raise _damaged(f"its format is {value['format']!r:.80}")
            version = typed(value["format_version"], int)
            if version != STATEMENT_VERSION:
                message = f"the statement has format version {version}; this release reads 1"
                raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
            statement = cls(
                artifact=typed(value["artifact"], str),
                source_id=typed(value["source_id"], str),
                taken_at=parse_iso(typed(value["taken_at"], str)),
                content_root=typed(value["content_root"], str),
            )
            if not _ROOT.fullmatch(statement.content_root) or _canonical(value) != data:
                raise _damaged("it is not in canonical form")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(f"{type(error).__name__}") from error
        return statement


def _canonical(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def _damaged(reason: str) -> SignatureError:
    return SignatureError(f"the statement cannot be read: {reason}", kind="bad_signature", hint="get it again")
