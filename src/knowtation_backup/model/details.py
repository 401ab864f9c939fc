"""
The details of an archive: what the capture found, sealed like the payload.

They hold what must not be readable beside a sealed artifact (tenant ids, digests of the plaintext), and repeat what
the manifest says in the clear, so that a changed manifest or two exchanged archives are noticed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import attrs

from ..errors import ConfigurationError, IntegrityError, UnsupportedFormatError
from .json_input import check_nesting, check_values, typed
from .manifest import Manifest
from .moments import iso_ms, parse_iso
from .reports import Finding

__all__ = ["DETAILS_FORMAT", "ArchiveDetails"]

DETAILS_FORMAT = "knowtation-backup-details"
DETAILS_VERSION = 1


@attrs.frozen(kw_only=True)
class ArchiveDetails:
    """
    Facts about one archive that only the holder of the key may read.

    ``capture`` is what the source reported (`CaptureResult.details`): per-tenant facts, failures, content root.
    """

    artifact: str
    """Key of the artifact: the archive id."""
    kind: str
    source_id: str
    taken_at: dt.datetime
    complete: bool
    counts: Mapping[str, int]
    payload_bytes: int
    payload_sha256: str
    """Lower-case hexadecimal digest over the plaintext payload."""
    warnings: tuple[Finding, ...] = ()
    capture: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no white space, ASCII (ids may hold lone surrogates), a final newline."""
        value = attrs.asdict(self, recurse=False) | {
            "format": DETAILS_FORMAT,
            "format_version": DETAILS_VERSION,
            "taken_at": iso_ms(self.taken_at),
            "counts": dict(self.counts),
            "warnings": [attrs.asdict(warning) for warning in self.warnings],
            "capture": dict(self.capture),
        }
        return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> ArchiveDetails:
        """
        Parse details written by any release of format version 1.

        Raises:
            IntegrityError: Not JSON, or a field is missing or of the wrong type.
            UnsupportedFormatError: Details of a newer format version.
        """
        try:
            check_nesting(data)
            check_values(data)
            value = json.loads(data)
            if value["format"] != DETAILS_FORMAT:
                raise _damaged(f"their format is {value['format']!r:.80}")
            if value["format_version"] != DETAILS_VERSION:
                message = f"the details have format version {value['format_version']!r:.20}; this release reads 1"
                raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
            return cls(
                artifact=typed(value["artifact"], str),
                kind=typed(value["kind"], str),
                source_id=typed(value["source_id"], str),
                taken_at=parse_iso(typed(value["taken_at"], str)),
                complete=typed(value["complete"], bool),
                counts={name: typed(count, int) for name, count in value["counts"].items()},
                payload_bytes=typed(value["payload_bytes"], int),
                payload_sha256=typed(value["payload_sha256"], str),
                warnings=tuple(
                    Finding(**{name: typed(item[name], str) for name in ("code", "where", "message")})
                    for item in value["warnings"]
                ),
                capture=typed(value["capture"], dict),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ConfigurationError):
                raise _damaged(error.message) from error
            raise _damaged(f"{type(error).__name__} at {str(error)[:80]!r}") from error

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a payload is compared with: `capture`, ``counts``, ``payload_size_bytes`` and ``payload_sha256``."""
        return {
            **self.capture,
            "counts": self.counts,
            "payload_size_bytes": self.payload_bytes,
            "payload_sha256": self.payload_sha256,
        }

    def differences(self, manifest: Manifest) -> list[Finding]:
        """Return a finding for every field in which the clear manifest contradicts these details."""
        pairs = (
            ("artifact", self.artifact, manifest.archive_id),
            ("kind", self.kind, manifest.kind),
            ("source_id", self.source_id, manifest.source_id),
            ("taken_at", iso_ms(self.taken_at), iso_ms(manifest.taken_at)),
            ("complete", self.complete, manifest.complete),
            ("counts", dict(self.counts), dict(manifest.counts)),
        )
        return [
            Finding(
                code="manifest_contradicted",
                where=f"manifest.{name}",
                message=f"the manifest says {stated!r:.120}, the sealed details say {true!r:.120}",
            )
            for name, true, stated in pairs
            if true != stated
        ]


def _damaged(reason: str) -> IntegrityError:
    return IntegrityError(f"the details cannot be read: {reason}", kind="details")
