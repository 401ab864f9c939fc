"""Read archives back: the manifest, the details, and the payload as verified plaintext."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator

from ..codecs.chain import opener, seals
from ..contracts import ArchiveSink, Codec, ReadBlob
from ..errors import (
    BackupError,
    BlobNotFoundError,
    ConfigurationError,
    DecryptionError,
    DigestMismatchError,
    IntegrityError,
    ManifestError,
    TruncatedError,
    UnsupportedFormatError,
)
from ..model.blobs import BlobRef
from ..model.details import ArchiveDetails
from ..model.manifest import DETAILS_NAME, SIDE_PREFIX, Manifest, manifest_key, side_key
from ..model.signatures import SignaturePolicy
from .metering import Meter
from .signatures import require_signatures

__all__ = [
    "HEAD_BYTES",
    "MAX_DETAILS_BYTES",
    "codec_for",
    "head_of",
    "is_stored",
    "open_blob",
    "parse_manifest",
    "read",
    "read_details",
    "read_manifest",
    "read_manifest_bytes",
    "read_side_file",
]

MAX_MANIFEST_BYTES = 4 << 20
MAX_DETAILS_BYTES = 512 << 20
HEAD_BYTES = 320 << 10
"""Enough of a sealed file to hold all of its header, in whatever format."""
_LARGEST_HEADER_BYTES = 1 << 20
"""More than any container puts in front of a blob."""


def read_manifest(sink: ArchiveSink, archive_id: str, policy: SignaturePolicy | None = None) -> Manifest:
    """
    Return the manifest of an archive.

    Args:
        sink: Where the archive is.
        archive_id: As `list_archives` names it.
        policy: Whose archives are read; `None` does not look at signatures.

    Raises:
        BlobNotFoundError: There is no such archive, or it was never finished.
        SignatureError: The policy refuses it: ``unsigned``, ``unknown_signer``, ``bad_signature``.
        ManifestError: The manifest is damaged or belongs to another archive.
        UnsupportedFormatError: A newer release wrote it.
        SinkUnavailableError: The store could not be reached.
    """
    data = read_manifest_bytes(sink, archive_id)
    if policy is not None:
        require_signatures(sink, archive_id, data, policy)
    return parse_manifest(archive_id, data)


def is_stored(sink: ArchiveSink, key: str) -> bool:
    """Return whether a blob is there."""
    try:
        sink.stat(key)
    except BlobNotFoundError:
        return False
    return True


def head_of(sink: ArchiveSink, ref: BlobRef) -> ReadBlob:
    """Return what reads the beginning of a blob, with all of its header if it is sealed."""
    return lambda: sink.read(ref.key, size_bytes=min(HEAD_BYTES, ref.size_bytes))


def read_manifest_bytes(sink: ArchiveSink, archive_id: str) -> bytes:
    """Return the manifest as it is stored, for `parse_manifest`; raises like `read_manifest`."""
    try:
        return sink.read_all(manifest_key(archive_id), limit_bytes=MAX_MANIFEST_BYTES)
    except BlobNotFoundError as error:
        message = f"there is no finished archive {archive_id} in {sink.location}"
        raise BlobNotFoundError(message, hint="list the archives", archive_id=archive_id) from error
    except ConfigurationError as error:
        if error.kind != "blob_too_large":
            raise
        raise ManifestError(f"the manifest of {archive_id} is too large to be one", archive_id=archive_id) from error


def parse_manifest(archive_id: str, data: bytes) -> Manifest:
    """Return the manifest that was read for an archive, if it speaks of that one; raises like `read_manifest`."""
    manifest = Manifest.from_bytes(data)
    if manifest.archive_id != archive_id or not all(
        ref.key.startswith(f"{SIDE_PREFIX}{archive_id}/") for ref in manifest.side
    ):
        message = f"the manifest of {archive_id} names blobs of another archive ({manifest.archive_id})"
        raise ManifestError(message, kind="manifest_of_another_archive", archive_id=archive_id)
    if len({ref.key for ref in manifest.side}) != len(manifest.side):
        # Else a small manifest could have one large blob read thousands of times.
        raise ManifestError(f"the manifest of {archive_id} names a blob twice", archive_id=archive_id)
    return manifest


def codec_for(manifest: Manifest, codec: Codec | None) -> Codec | None:
    """
    Return the codec that opens the blobs of an archive, `None` when they are stored as they are.

    The manifest says what they went through; *codec* only holds the keys.

    Raises:
        NoMatchingKeyError: The archive is sealed with another key, or no key was given.
        UnsupportedFormatError: It went through something this release does not know.
        ConfigurationError: A package that its compression needs is not installed.
    """
    return opener(manifest.codecs, codec, what=f"archive {manifest.archive_id}")


def open_blob(sink: ArchiveSink, ref: BlobRef, codec: Codec | None, *, unchecked: bool = False) -> Generator[bytes]:
    """
    Yield the plaintext of one stored blob after its stored digest, and its tag if it is sealed, were checked.

    Reads the blob twice.

    Args:
        sink: Where it is.
        ref: What the manifest says of it.
        codec: As `codec_for` returned.
        unchecked: Whether a blob that is not sealed may be yielded while it is being checked, in one pass that ends
            with the error: for readers that do nothing with the bytes but judge them.

    Raises:
        BlobNotFoundError: The blob is gone.
        TruncatedError: It has fewer bytes than the manifest says.
        DigestMismatchError: It has other bytes than the manifest says.
        TamperedError: The stored bytes are as written and yet do not open.
        SinkUnavailableError: The store could not be reached.
    """
    passes = _Passes(sink, ref)
    try:
        read: ReadBlob = passes
        if not (unchecked or seals(codec)):  # nothing else vouches for the bytes before they are yielded
            passes.finish_first()
            read = passes.check_again
        yield from codec.open(read) if codec else read()
    except (UnsupportedFormatError, IntegrityError, DecryptionError) as error:
        # Say what is wrong with the stored bytes, if something is, rather than what opening made of them.
        try:
            passes.finish_first()
        except (TruncatedError, DigestMismatchError) as cause:
            raise cause from error
        raise
    finally:
        passes.close()


class _Passes:
    """
    Reads of one stored blob; the first ends with an error unless size and digest are those of the manifest.

    As a `ReadBlob` it can be called as often as opening needs.
    """

    def __init__(self, sink: ArchiveSink, ref: BlobRef) -> None:
        self._sink = sink
        self._ref = ref
        self._first: Meter | None = None
        self._error: IntegrityError | None = None
        self._settled = False

    def __call__(self) -> Iterator[bytes]:
        if self._first is None:
            self._first = Meter(self._read())
            return self._checked(self._first)
        return self._read()

    def _read(self) -> Iterator[bytes]:
        # One byte more than there should be: enough to see that there is more, however much that is.
        return self._sink.read(self._ref.key, size_bytes=self._ref.size_bytes + 1)

    def _checked(self, first: Meter) -> Iterator[bytes]:
        # Not `yield from`: whoever stops early would close the read, and `finish_first` could not go on.
        while (chunk := next(first, None)) is not None:
            yield chunk
        self.finish_first()

    def finish_first(self) -> None:
        """Read what is left of the first pass and check it; repeats its verdict."""
        if self._first is None:
            self()
        if self._first is not None and not self._settled:
            self._first.drain()
            self._settled = True
            self._error = _mismatch(self._ref, self._first)
        if self._error is not None:
            raise self._error

    def check_again(self) -> Iterator[bytes]:
        """Yield everything, and end with an error if the bytes are no longer those of the first pass."""
        again = Meter(self._read())
        with contextlib.closing(again):
            yield from again
            error = _mismatch(self._ref, again)
        if error is not None:
            raise error

    def close(self) -> None:
        if self._first is not None:
            self._first.close()


def _mismatch(ref: BlobRef, read: Meter) -> IntegrityError | None:
    hint = "use another copy of the archive"
    if read.size_bytes < ref.size_bytes:
        message = f"{ref.key} has {read.size_bytes} bytes, the manifest says {ref.size_bytes}"
        return TruncatedError(message, hint=hint, key=ref.key)
    if read.size_bytes > ref.size_bytes:
        message = f"{ref.key} has more than the {ref.size_bytes} bytes of the manifest"
        return DigestMismatchError(message, hint=hint, key=ref.key)
    if read.sha256 != ref.sha256:
        message = f"{ref.key} has {read.size_bytes} bytes of sha256 {read.sha256}, the manifest says {ref.sha256}"
        return DigestMismatchError(message, hint=hint, key=ref.key)
    return None


def read(
    sink: ArchiveSink, archive_id: str, codec: Codec | None = None, *, policy: SignaturePolicy | None = None
) -> Iterator[bytes]:
    """
    Yield the payload of an archive: plaintext that was checked before the first byte.

    Constant memory. What an interrupted iteration yielded is genuine but not all.

    Args:
        sink: Where the archive is.
        archive_id: As `list_archives` names it.
        codec: Opens sealed archives.
        policy: Whose archives are read; `None` does not look at signatures.

    Raises:
        BlobNotFoundError: There is no such archive, or its artifact is gone.
        SignatureError: The policy refuses it.
        IntegrityError: Stored bytes are not those that were written.
        DecryptionError: The key does not fit, or the sealed bytes were changed.
        SinkUnavailableError: The store could not be reached.
    """
    manifest = read_manifest(sink, archive_id, policy)
    yield from open_blob(sink, manifest.artifact, codec_for(manifest, codec))


def read_side_file(
    sink: ArchiveSink, manifest: Manifest, name: str, codec: Codec | None = None, *, limit_bytes: int
) -> bytes:
    """
    Return the plaintext of one side file.

    Args:
        sink: Where the archive is.
        manifest: Of the archive.
        name: Its name without the codec's suffix, for example ``details.json``.
        codec: Opens sealed archives.
        limit_bytes: Larger ones are refused.

    Raises:
        BlobNotFoundError: The manifest names no such side file, or it is gone.
        IntegrityError: Stored bytes are not those that were written.
        DecryptionError: The key does not fit, or the sealed bytes were changed.
    """
    opener = codec_for(manifest, codec)
    key = side_key(manifest.archive_id, name) + (opener.suffix if opener else "")
    ref = next((ref for ref in manifest.side if ref.key == key), None)
    if ref is None:
        raise BlobNotFoundError(f"archive {manifest.archive_id} has no side file {name}", key=key)
    if ref.size_bytes > limit_bytes + limit_bytes // 64 + _LARGEST_HEADER_BYTES:
        raise ConfigurationError(f"{key} is larger than the {limit_bytes} bytes expected", kind="blob_too_large")
    parts: list[bytes] = []
    total = 0
    with contextlib.closing(open_blob(sink, ref, opener)) as plain:
        for part in plain:
            total += len(part)
            if total > limit_bytes:  # of what comes out: compressed blobs grow
                message = f"{key} is larger than the {limit_bytes} bytes expected"
                raise ConfigurationError(message, kind="blob_too_large", key=key)
            parts.append(part)
    return b"".join(parts)


def read_details(sink: ArchiveSink, manifest: Manifest, codec: Codec | None = None) -> ArchiveDetails:
    """Return what the capture found; raises like `read_side_file`, and `IntegrityError` for malformed details."""
    try:
        data = read_side_file(sink, manifest, DETAILS_NAME, codec, limit_bytes=MAX_DETAILS_BYTES)
        return ArchiveDetails.from_bytes(data)
    except BackupError as error:
        error.context.setdefault("archive_id", manifest.archive_id)
        raise
