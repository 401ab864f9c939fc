"""
The parts a pipeline is made of, as contracts.

An abstract base class where we enforce something for every implementer (`ArchiveSink`, `EncryptionCodec`); a protocol
where callers bring their own object (`BackupSource`, `Capture`, `RetentionPolicy`, `Observer`, `Clock`).
"""

from __future__ import annotations

import abc
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from .errors import BlobNotFoundError, ConfigurationError, SinkError
from .model.blobs import BlobInfo, BlobLock, SinkCapabilities, check_key
from .model.events import Event
from .model.manifest import CodecSpec
from .model.moments import iso_ms, utc_of
from .model.plans import ArchiveInfo, ForgetPlan
from .model.reports import CaptureResult, TargetResult
from .model.sections import Section

__all__ = [
    "ArchiveSink",
    "BackupSource",
    "Capture",
    "Clock",
    "Codec",
    "CompressionCodec",
    "EncryptionCodec",
    "Observer",
    "ReadBlob",
    "RetentionPolicy",
    "SectionCapture",
    "SectionSource",
    "ignore_events",
    "utc_now",
]

Clock = Callable[[], dt.datetime]
"""Returns the present moment as an aware UTC datetime."""

ReadBlob = Callable[[], Iterator[bytes]]
"""Starts reading one stored blob from its beginning; may be called again for a second pass."""


def utc_now() -> dt.datetime:
    """Return the present moment, the default `Clock`."""
    return dt.datetime.now(dt.UTC)


class Observer(Protocol):
    """Told what happens. Called from worker threads; must be quick; what it raises cancels the operation."""

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""


def ignore_events(_event: Event, /) -> None:
    """Do nothing: the default `Observer`."""


class Capture(Protocol):
    """One read of a source: streamed once, in order, then asked what it found."""

    @property
    def kind(self) -> str:
        """Kind of the payload, for example ``knowtation-operator-full-export``."""

    @property
    def name(self) -> str:
        """Start of the artifact's name, for example ``operator-full-export``."""

    @property
    def suffix(self) -> str:
        """End of the artifact's name with its dot, for example ``.json``."""

    @property
    def source_id(self) -> str:
        """What was read, stable over time and free of secrets: a canister id or host name."""

    @property
    def taken_at(self) -> dt.datetime:
        """The moment the capture began; also the stamp in names."""

    def chunks(self) -> Iterator[bytes]:
        """
        Yield the payload, at most a few MB at a time. May be called once.

        Raises:
            SourceError: Reading failed; nothing that was yielded may be published.
        """

    def result(self) -> CaptureResult:
        """Return what was found; valid once `chunks` is exhausted."""


@runtime_checkable
class BackupSource(Protocol):
    """Something that can be captured: a hub, later a canister."""

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> Capture:
        """Begin a capture; no bytes are read before its chunks are."""


class SectionCapture(Protocol):
    """One read of a source for a repository: sections in order, each read once, then asked what it found."""

    @property
    def kind(self) -> str:
        """Kind of what is captured, for example ``canister-snapshot``; with `source_id` it names a series."""

    @property
    def source_id(self) -> str:
        """What was read, stable over time and free of secrets: a canister id or host name."""

    @property
    def taken_at(self) -> dt.datetime:
        """The moment the content is of: of the snapshot, or the beginning of the export."""

    def sections(self) -> Iterator[Section]:
        """
        Yield the sections, each with another name; each is read to its end before the next is asked for.

        Whoever stops early closes the iterator.

        Raises:
            SourceError: Reading failed; nothing that was yielded may be published.
        """

    def result(self) -> CaptureResult:
        """Return what was found; valid once `sections` is exhausted."""


@runtime_checkable
class SectionSource(Protocol):
    """Something that can be captured into a repository."""

    def capture_sections(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> SectionCapture:
        """Begin a capture; nothing is read before its sections are."""


class RetentionPolicy(Protocol):
    """Which archives to keep. Pure: no clock and no input or output inside."""

    def plan(self, archives: Sequence[ArchiveInfo], *, now: dt.datetime) -> ForgetPlan:
        """Decide on every archive, with a reason for each."""


class Codec(abc.ABC):
    """
    A reversible transform of whole blobs as streams; `CodecChain` joins several.

    One instance may be used by several threads at once.
    """

    suffix: str = ""
    """Appended to the names of stored blobs, with its dot."""

    @property
    @abc.abstractmethod
    def specs(self) -> tuple[CodecSpec, ...]:
        """What a manifest records, in the order applied when sealing."""

    @abc.abstractmethod
    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the stored form of a plain stream. Whoever stops early closes the iterator."""

    @abc.abstractmethod
    def open(self, read: ReadBlob) -> Iterator[bytes]:
        """
        Yield the plain stream of a stored blob. Whoever stops early closes the iterator.

        Args:
            read: Starts reading the stored bytes; called as often as the format needs passes.

        Raises:
            UnsupportedFormatError: The bytes are not of this format.
            TruncatedError: The blob ends early.
            IntegrityError: The blob is damaged.
            DecryptionError: The key does not fit, or sealed bytes were changed.
        """


class CompressionCodec(Codec):
    """Makes blobs smaller; anybody can undo it, so it comes before encryption."""


class EncryptionCodec(Codec):
    """
    Seals and opens whole blobs.

    Implementations must not release a plaintext byte that has not been authenticated, and keep their key out of
    ``repr``, errors and logs.
    """

    suffix: str = ".enc"

    @property
    @abc.abstractmethod
    def spec(self) -> CodecSpec:
        """What a manifest records of this codec."""

    @property
    def specs(self) -> tuple[CodecSpec, ...]:
        """The one `spec`."""
        return (self.spec,)

    @property
    def opens(self) -> tuple[CodecSpec, ...]:
        """The formats it opens, each with the ids of the keys held here: what messages say was given."""
        return (self.spec,)

    def for_spec(self, spec: CodecSpec) -> EncryptionCodec | None:
        """
        Return the codec that opens what *spec* describes with keys held here, `None` when there is none.

        The base answers for its own format: itself, unless both sides name keys and have none in common.
        """
        if spec.name != self.spec.name:
            return None
        ours = set(self.spec.key_ids)
        return self if not ours or not spec.key_ids or ours & set(spec.key_ids) else None


class ArchiveSink(abc.ABC):
    """
    Where blobs go. Knows nothing of archives.

    Every published key is written once, complete, or not at all. Public methods check keys and translate errors; the
    abstract ``_put``, ``_read`` ... do the work and may raise `OSError` or the vendor's errors only through
    `_translate`.
    """

    @property
    @abc.abstractmethod
    def capabilities(self) -> SinkCapabilities:
        """What this sink guarantees."""

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """Where the sink is, for people, without credentials."""

    def target_results(self, archive_id: str) -> tuple[TargetResult, ...]:  # noqa: ARG002 - for those that have several
        """Return how each target fared with the blobs of an archive; nothing unless the sink has several targets."""
        return ()

    def is_free(self, key: str) -> bool:
        """
        Return whether *key* seems to be free; only `put` decides.

        A sink with several targets may answer although some cannot be reached, where `stat` could not say for sure.

        Raises:
            SinkUnavailableError: The store could not be reached.
            SinkPermissionError: Looking is refused.
        """
        try:
            self.stat(key)
        except BlobNotFoundError:
            return True
        return False

    def put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        """
        Publish a new blob from a stream, complete or not at all.

        An exception from *chunks* passes through and leaves nothing behind under *key*.

        Args:
            key: See `check_key`.
            chunks: The bytes, in order, of any sizes.

        Raises:
            BlobExistsError: The key is taken.
            SinkFullError: No space is left.
            SinkPermissionError: Writing is refused.
            SinkUnavailableError: The store could not be reached.
        """
        return self._put(check_key(key), chunks)

    def read(self, key: str, *, start: int = 0, size_bytes: int | None = None) -> Iterator[bytes]:
        """
        Yield the bytes ``[start, start + size_bytes)`` of a blob, to its end when *size_bytes* is `None`.

        Raises:
            BlobNotFoundError: There is no such blob.
            SinkPermissionError: Reading is refused.
            SinkUnavailableError: The store could not be reached.
        """
        if start < 0 or (size_bytes is not None and size_bytes < 0):
            message = f"cannot read {size_bytes} bytes from offset {start} of {key}"
            raise ConfigurationError(message, kind="bad_range")
        return self._read(check_key(key), start, size_bytes)

    def read_all(self, key: str, *, limit_bytes: int) -> bytes:
        """
        Return a whole small blob.

        Raises:
            ConfigurationError: The blob is larger than *limit_bytes*; nothing beyond the limit was kept.
        """
        parts: list[bytes] = []
        total = 0
        for part in self.read(key):
            total += len(part)
            if total > limit_bytes:
                message = f"blob {key} is larger than the {limit_bytes} bytes expected"
                raise ConfigurationError(message, kind="blob_too_large", key=key)
            parts.append(part)
        return b"".join(parts)

    def stat(self, key: str) -> BlobInfo:
        """Return size and time of a blob; raises `BlobNotFoundError` when there is none."""
        return self._stat(check_key(key))

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Yield every published blob whose key starts with *prefix*, sorted by key; temporary files are left out."""
        return self._list(prefix)

    def delete(self, key: str) -> None:
        """Remove a blob; raises `BlobNotFoundError` when there is none."""
        self._delete(check_key(key))

    def lock_of(self, key: str) -> BlobLock:
        """
        Return how long the store keeps a blob, whatever anybody asks of it; nothing where a sink has no locks.

        Raises:
            BlobNotFoundError: There is no such blob.
            SinkPermissionError: Asking is refused.
            SinkUnavailableError: The store could not be reached.
        """
        return self._lock_of(check_key(key))

    def retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        """
        Lock a blob until a moment, or longer if it is locked longer already; return how it is locked now.

        Args:
            key: See `check_key`.
            until: Aware; a store that counts seconds takes the next whole one. Nobody may be able to shorten it.

        Raises:
            BlobNotFoundError: There is no such blob.
            ConfigurationError: The moment has no time zone.
            SinkError: The sink has no locks, or the bucket none, kind ``no_object_lock``.
            SinkPermissionError: Locking is refused.
            SinkUnavailableError: The store could not be reached.
        """
        return self._retain_until(check_key(key), utc_of(until))

    def _lock_of(self, key: str) -> BlobLock:  # noqa: ARG002 - for those that have locks
        return BlobLock()

    def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        message = f"{self.location} has no locks: {key} cannot be kept until {iso_ms(until)}"
        raise SinkError(message, kind="no_object_lock", hint="use a bucket with Object Lock", key=key)

    @abc.abstractmethod
    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo: ...

    @abc.abstractmethod
    def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]: ...

    @abc.abstractmethod
    def _stat(self, key: str) -> BlobInfo: ...

    @abc.abstractmethod
    def _list(self, prefix: str) -> Iterator[BlobInfo]: ...

    @abc.abstractmethod
    def _delete(self, key: str) -> None: ...
