"""
The steps by which blobs become an archive: take a name, put blobs, look at them again, and the manifest last.

What an interruption leaves behind, at any moment: blobs under this archive's own keys, each complete or absent, and no
manifest. They are listed as unfinished. Nothing is ever overwritten or deleted, so the writer needs no right to.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import json
import secrets
from collections.abc import Iterable
from typing import Any

import attrs

from ..codecs.signing import SigningKey
from ..contracts import ArchiveSink, Codec, Observer, ignore_events
from ..errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    DigestMismatchError,
    IntegrityError,
    SinkError,
    TruncatedError,
)
from ..model.blobs import BlobRef
from ..model.events import Event
from ..model.manifest import STARTED_NAME, Manifest, manifest_key, side_key
from ..model.moments import iso_ms
from .metering import Meter
from .naming import ArtifactName
from .read import open_blob
from .signatures import put_signatures

__all__ = ["ArchiveWriter", "Written", "generator", "same_plain"]

STARTED_FORMAT = "knowtation-backup-started"
_MAX_NUMBER = 999


@attrs.frozen(kw_only=True)
class Written:
    """One blob that was published, and the plain bytes that went in."""

    ref: BlobRef
    plain_bytes: int
    plain_sha256: str


def _check_signers(_writer: object, _field: attrs.Attribute[Any], value: Iterable[Any]) -> None:
    """Refuse at once what would be found out only when everything but the manifest was written."""
    for key in value:
        if not isinstance(key, SigningKey):
            message = f"a {type(key).__name__} cannot sign"
            hint = "pass a list of SigningKey; SigningKey.load reads one from its file"
            raise ConfigurationError(message, kind="bad_signing_key", hint=hint)


@attrs.frozen(kw_only=True)
class ArchiveWriter:
    """Writes one archive after the other to a sink; holds nothing between calls."""

    sink: ArchiveSink
    codec: Codec | None = None
    """What `put` sends blobs through."""
    signing_keys: tuple[SigningKey, ...] = attrs.field(default=(), repr=False, validator=_check_signers)
    """Who signs manifests."""
    observer: Observer = attrs.field(default=ignore_events, repr=False)

    def tell(self, name: str, **fields: object) -> None:
        """Tell the observer."""
        self.observer(Event(name=name, fields=fields))

    def reserve(self, *, name: str, suffix: str, taken_at: dt.datetime, kind: str, source_id: str) -> str:
        """
        Take a name nobody else has and return the archive's id.

        Before anything is streamed: a stream cannot be read a second time, so a clash must not wait until publishing.
        The marker is create-only: of two writers in the same second one gets the next number.

        Args:
            name: Start of the artifact's name.
            suffix: Its end, with that of the codec.
            taken_at: Becomes the stamp.
            kind: Kind of the payload.
            source_id: What was read.

        Raises:
            SinkError: Every number is taken (``no_free_name``), or the store fails.
        """
        for number in range(_MAX_NUMBER + 1):
            key = ArtifactName(name=name, taken_at=taken_at, suffix=suffix, number=number).key
            if self.sink.is_free(key):
                started = _started(key, kind=kind, source_id=source_id, taken_at=taken_at)
                with contextlib.suppress(BlobExistsError):
                    self.sink.put(side_key(key, STARTED_NAME), [started])
                    return key
        message = f"{_MAX_NUMBER + 1} archives of {name} bear the stamp of this second in {self.sink.location}"
        raise SinkError(message, kind="no_free_name", hint="wait a second; check the clock")

    def put(self, key: str, chunks: Iterable[bytes]) -> Written:
        """
        Send a plain stream through the codec and publish it.

        Raises:
            TruncatedError: The sink stored fewer bytes than were sent.
            SinkError: Storing failed; nothing is under *key*.
        """
        plain = Meter(chunks)
        stored = Meter(self.codec.seal(plain)) if self.codec else plain
        info = self.sink.put(key, stored)
        if not (plain.exhausted and stored.exhausted) or info.size_bytes != stored.size_bytes:
            message = f"{key} has {info.size_bytes} bytes in {self.sink.location}, {stored.size_bytes} were sent"
            raise TruncatedError(message, key=key)
        ref = BlobRef(key=key, size_bytes=stored.size_bytes, sha256=stored.sha256)
        self.tell("backup.stored", key=key, size_bytes=ref.size_bytes, plain_bytes=plain.size_bytes)
        return Written(ref=ref, plain_bytes=plain.size_bytes, plain_sha256=plain.sha256)

    def check_size(self, ref: BlobRef) -> None:
        """
        Look whether a blob that was put is there with its size.

        Raises:
            IntegrityError: It is gone (``blob_vanished``), or has another size (`TruncatedError`, ``size_mismatch``).
        """
        try:
            found = self.sink.stat(ref.key).size_bytes
        except BlobNotFoundError as error:
            message = f"{ref.key} was written and is not in {self.sink.location}"
            raise IntegrityError(message, kind="blob_vanished", key=ref.key) from error
        if found != ref.size_bytes:
            message = f"{ref.key} has {found} bytes in {self.sink.location}, {ref.size_bytes} were written"
            raise TruncatedError(message, kind="size_mismatch", key=ref.key)

    def check_content(self, written: Written, codec: Codec | None) -> None:
        """
        Read a blob that was put, open it with *codec*, and compare it with what went in.

        Raises:
            DigestMismatchError: It opens to other bytes.
            IntegrityError: What is stored is not what was sent.
            DecryptionError: *codec* does not open it.
        """
        ref = written.ref
        opened = Meter(open_blob(self.sink, ref, codec, unchecked=True))  # judged, and passed to nobody
        opened.drain()
        if not same_plain(written, opened):
            message = f"{ref.key} opens to other bytes than were sealed"
            raise DigestMismatchError(message, hint="report this", key=ref.key)
        self.tell("backup.read_back", key=ref.key, size_bytes=ref.size_bytes)

    def finish(self, manifest: Manifest) -> None:
        """
        Publish the signatures, if any, and then the manifest: from now on there is an archive.

        Raises:
            TruncatedError: It was not stored whole.
            SinkError: Storing failed.
        """
        data = manifest.to_bytes()
        if self.signing_keys:
            put_signatures(self.sink, manifest.archive_id, data, self.signing_keys)
        if self.sink.put(manifest_key(manifest.archive_id), [data]).size_bytes != len(data):
            message = f"the manifest of {manifest.archive_id} was not stored whole"
            raise TruncatedError(message, archive_id=manifest.archive_id)


def same_plain(written: Written, opened: Meter) -> bool:
    """Return whether what was opened is what went in."""
    return (opened.size_bytes, opened.sha256) == (written.plain_bytes, written.plain_sha256)


def generator() -> str:
    """Return name and version of this library, as manifests record it."""
    return f"knowtation-backup {importlib.metadata.version('knowtation-backup')}"


def _started(key: str, *, kind: str, source_id: str, taken_at: dt.datetime) -> bytes:
    value = {
        "format": STARTED_FORMAT,
        "format_version": 1,
        "artifact": key,
        "kind": kind,
        "source_id": source_id,
        "taken_at": iso_ms(taken_at),
        "generator": generator(),
        "nonce": secrets.token_hex(8),  # so that no writer takes another's marker of the same moment for its own
    }
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()
