"""
The manifest: the last blob of an archive, and the only one that makes it exist.

It is canonical JSON in clear text beside a possibly sealed artifact, so it says nothing about content beyond totals;
everything else (per-tenant facts, content root, plaintext digest) is in the archive's details, sealed like the payload.

Layout of one archive on a sink, in the order it is written::

    side/<artifact>/started.json                         reserves the name and marks the blobs as ours
    <name>-<stamp>[-NN].json[.enc]                       the artifact, as the Knowtation tools know it
    side/<artifact>/details.json[.enc]                   what the capture found, see `ArchiveDetails`
    side/<artifact>/raw-0001.txt[.enc]                   untruncated malformed replies, if any
    side/<artifact>/manifest.sig                         signatures over the manifest, if it is signed
    side/<artifact>/manifest.json                        this file
    side/<artifact>/marks/…                              what was noted of the archive since, see `model.marks`
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from ..errors import ConfigurationError, ManifestError, UnsupportedFormatError
from .blobs import BlobRef, check_key
from .json_input import check_nesting, typed
from .moments import iso_ms, parse_iso

__all__ = [
    "DETAILS_NAME",
    "MANIFEST_FORMAT",
    "MANIFEST_NAME",
    "REWRAPPED_FROM",
    "SIDE_PREFIX",
    "SIGNATURE_NAME",
    "STARTED_NAME",
    "CodecSpec",
    "Manifest",
    "archive_of",
    "check_tags",
    "manifest_key",
    "side_key",
]

MANIFEST_FORMAT = "knowtation-backup-archive"
MANIFEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
STARTED_NAME = "started.json"
DETAILS_NAME = "details.json"
SIDE_PREFIX = "side/"
REWRAPPED_FROM = "rewrapped_from"
"""The field among `Manifest.extra` that names the archive an archive was re-wrapped from."""

_TAG = re.compile(r"[A-Za-z0-9_.:+-]{1,64}")


def side_key(artifact_key: str, name: str) -> str:
    """Return the key of the side file *name* of an artifact."""
    return f"{SIDE_PREFIX}{artifact_key}/{name}"


def manifest_key(artifact_key: str) -> str:
    """Return the key of the manifest of an artifact."""
    return side_key(artifact_key, MANIFEST_NAME)


def archive_of(key: str) -> str:
    """Return the id of the archive that a blob belongs to by its key: an artifact's own key, or a side file's."""
    if not key.startswith(SIDE_PREFIX):
        return key
    return key.removeprefix(SIDE_PREFIX).partition("/")[0]


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """
    Return *tags* sorted and without repetition.

    Raises:
        ConfigurationError: A tag is not 1 to 64 letters, digits, ``_``, ``.``, ``:``, ``+`` or ``-``, or there is one
            text instead of several.
    """
    if isinstance(tags, str):  # whose letters would be taken for tags
        raise ConfigurationError(f"the one text {tags!r:.80} is no list of tags", kind="bad_tag", hint="pass a list")
    given: list[Any] = list(tags)
    for tag in given:
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            hint = "use 1 to 64 letters, digits, '_', '.', ':', '+' or '-'"
            raise ConfigurationError(f"{tag!r:.80} is not a tag", kind="bad_tag", hint=hint)
    return tuple(sorted(set(given)))


@attrs.frozen(kw_only=True)
class CodecSpec:
    """One reversible transform that stored bytes went through."""

    name: str
    key_ids: tuple[str, ...] = ()
    """Name the keys that open it, any one of them, without revealing them; empty when the transform has none."""


@attrs.frozen(kw_only=True)
class Manifest:
    """
    What makes stored blobs an archive.

    ``counts`` are totals only (tenants, vaults, notes, proposals, failed_tenants, ...). ``codecs`` are in the order
    they were applied. ``extra`` keeps unknown fields of newer writers, so that rewriting loses nothing.
    """

    artifact: BlobRef
    side: tuple[BlobRef, ...] = ()
    """Details first, then raw replies."""
    kind: str
    source_id: str
    taken_at: dt.datetime
    finished_at: dt.datetime
    complete: bool
    codecs: tuple[CodecSpec, ...] = ()
    counts: Mapping[str, int] = attrs.field(factory=dict)
    tags: tuple[str, ...] = ()
    """Words the backup was given, sorted; see `check_tags`."""
    generator: str = ""
    extra: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def archive_id(self) -> str:
        """The artifact's key: readable, unique on its sink, and sortable by time within one kind."""
        return self.artifact.key

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no white space, UTF-8, a final newline."""
        value: dict[str, Any] = {
            **self.extra,
            "format": MANIFEST_FORMAT,
            "format_version": MANIFEST_VERSION,
            "artifact": attrs.asdict(self.artifact),
            "side": [attrs.asdict(ref) for ref in self.side],
            "kind": self.kind,
            "source_id": self.source_id,
            "taken_at": iso_ms(self.taken_at),
            "finished_at": iso_ms(self.finished_at),
            "complete": self.complete,
            "codecs": [{"name": spec.name, "key_ids": list(spec.key_ids)} for spec in self.codecs],
            "counts": dict(self.counts),
            "tags": list(self.tags),
            "generator": self.generator,
        }
        return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """
        Parse a manifest written by any release of format version 1.

        Raises:
            ManifestError: Not JSON, a field is missing or of the wrong type, or a key is unsafe.
            UnsupportedFormatError: A manifest of a newer format version.
        """
        try:
            check_nesting(data)
            value = json.loads(data)
            if b"\\u" in data:
                json.dumps(value, ensure_ascii=False).encode()  # half a character can be escaped, but not written again
            if value["format"] != MANIFEST_FORMAT:
                raise _damaged(f"its format is {value['format']!r:.80}")
            if value["format_version"] != MANIFEST_VERSION:
                message = f"the manifest has format version {value['format_version']!r:.20}; this release reads 1"
                raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
            for key in ("format", "format_version"):
                value.pop(key)
            return cls(
                artifact=_blob_ref(value.pop("artifact")),
                side=tuple(_blob_ref(item) for item in value.pop("side")),
                kind=typed(value.pop("kind"), str),
                source_id=typed(value.pop("source_id"), str),
                taken_at=parse_iso(typed(value.pop("taken_at"), str)),
                finished_at=parse_iso(typed(value.pop("finished_at"), str)),
                complete=typed(value.pop("complete"), bool),
                codecs=tuple(_codec_spec(item) for item in value.pop("codecs")),
                counts={typed(k, str): typed(v, int) for k, v in value.pop("counts").items()},
                tags=check_tags([typed(tag, str) for tag in value.pop("tags", [])]),
                generator=typed(value.pop("generator"), str),
                extra=value,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ConfigurationError):
                raise _damaged(error.message) from error
            raise _damaged(f"{type(error).__name__} at {str(error)[:80]!r}") from error


def _damaged(reason: str) -> ManifestError:
    return ManifestError(f"the manifest cannot be read: {reason}", hint="restore it from another copy of the archive")


def _codec_spec(value: Any) -> CodecSpec:
    if "key_ids" in value:
        key_ids = tuple(typed(key_id, str) for key_id in typed(value["key_ids"], list))
    else:  # manifests written before a codec could have several keys
        key_id = value.get("key_id")
        key_ids = () if key_id is None else (typed(key_id, str),)
    return CodecSpec(name=typed(value["name"], str), key_ids=key_ids)


def _blob_ref(value: Any) -> BlobRef:
    size = typed(value["size_bytes"], int)
    digest = typed(value["sha256"], str)
    if size < 0 or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        message = "a blob reference has an impossible size or digest"
        raise ValueError(message)
    return BlobRef(key=check_key(typed(value["key"], str)), size_bytes=size, sha256=digest)
