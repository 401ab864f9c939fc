"""A downloaded snapshot directory as a source for a repository, whoever wrote it: ``icp``, ``dfx`` or we."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from .._engine.digesting import BackgroundDigest
from .._engine.local_files import os_errors_translated
from ..contracts import Observer, ignore_events
from ..errors import ConfigurationError, IntegrityError, InternalError
from ..ic.cbor import CborError, CborReader
from ..model.canisters import SectionName, Slice, SnapshotMetadata, StoredChunk, moment_of
from ..model.ids import Principal
from ..model.reports import CaptureResult
from ..model.sections import FileSection, ImageSection, Section
from .directory import SnapshotDirectory
from .facts import FACTS_FILE
from .layout import DIGESTS_FILE, METADATA_NAME, open_read_only, part_file, section_files
from .provenance_records import PROVENANCE_FILE, malformed, read_provenance
from .source import SNAPSHOT_KIND

__all__ = ["SnapshotDirectorySource", "canister_in_evidence"]

_READ_BYTES: Final = 1 << 17
"""What a repository looks at together; small enough to stay in the processor's cache on its way."""
_BESIDE: Final = (PROVENANCE_FILE, DIGESTS_FILE, FACTS_FILE)
"""Files of ours that belong to the snapshot though the network does not know them."""
_HEAD_BYTES: Final = 4096
"""Many times what the first item of a file of provenance takes."""


def _principal(value: Principal | str | None) -> Principal | None:
    return None if value is None else Principal.parse(value)


@attrs.frozen(kw_only=True)
class SnapshotDirectorySource:
    """
    A `SectionSource`: sizes, chunks and module are checked first, as `SnapshotDirectory.open` says.

    Args:
        path: The directory.
        canister_id: Whose snapshot it is. `None` believes ``provenance.cbor``, whose signatures only
            `verify_provenance` looks at; a directory without that file, as ``icp`` and ``dfx`` write it, does not say.
        check_digests: Whether ``SHA256SUMS``, if there is one, is compared before anything is stored; reads everything
            once more.
        digests: Whether the SHA-256 of every file is put into the archive's details, as `CanisterSource` does: ids and
            roots are keyed, so that nothing else of an archive can be compared across repositories. A thread beside
            hashes 1 GB in about a second; a backup in which little has changed takes twice as long.
    """

    path: Path = attrs.field(converter=Path)
    canister_id: Principal | None = attrs.field(default=None, converter=_principal)
    check_digests: bool = False
    digests: bool = False

    def capture_sections(
        self,
        *,
        taken_at: dt.datetime,
        observer: Observer = ignore_events,  # noqa: ARG002 - nothing to tell
    ) -> _DirectoryCapture:
        """
        Begin a capture; the metadata is read and the directory checked.

        Raises:
            BlobNotFoundError: There is no such directory.
            ConfigurationError: Neither the directory nor *canister_id* says whose snapshot it is, kind
                ``canister_not_named``.
            IntegrityError: It is not whole; `DigestMismatchError`: a file is not what was downloaded. Its evidence is
                of another canister (``provenance_mismatch``), or cannot be read (``provenance_malformed``).
            SinkError: It cannot be read.
        """
        with SnapshotDirectory.open(self.path) as directory:
            if self.check_digests:
                directory.check_digests()
            metadata = directory.metadata
        moment = moment_of(metadata.taken_at_ns) if metadata.taken_at_ns else taken_at
        return _DirectoryCapture(path=self.path, source_id=str(self._whose()), taken_at=moment, hashing=self.digests)

    def _whose(self) -> Principal:
        told = _named_by_evidence(self.path)
        whose = told if self.canister_id is None else self.canister_id
        if whose is None:
            message = f"nothing says whose snapshot {self.path} is: only our own downloads do"
            raise ConfigurationError(message, kind="canister_not_named", hint="pass canister_id=", path=str(self.path))
        if told not in {None, whose}:
            message = f"{self.path} is to be a snapshot of {whose}, and its evidence is about {told}"
            hint = "correct canister_id=, or restore the file that came from another directory"
            raise IntegrityError(message, kind="provenance_mismatch", hint=hint, path=str(self.path))
        return whose


@attrs.define(kw_only=True)
class _DirectoryCapture:
    """One reading of a directory; a `SectionCapture`."""

    path: Path
    source_id: str
    """The canister's id."""
    taken_at: dt.datetime
    hashing: bool
    kind: str = attrs.field(default=SNAPSHOT_KIND, init=False)
    _digests: dict[str, BackgroundDigest] = attrs.field(factory=dict, init=False)
    _metadata: SnapshotMetadata | None = attrs.field(default=None, init=False)

    def sections(self) -> Generator[Section, None, None]:
        """Yield all files of the directory that belong to the snapshot."""
        with SnapshotDirectory.open(self.path) as directory:
            metadata = directory.metadata
            yield FileSection(name=METADATA_NAME, chunks=self._passing(METADATA_NAME, (directory.metadata_bytes,)))
            for section, name, size, _written in section_files(metadata):
                if not (self.path / name).exists():
                    continue  # an empty section, whose file some tools leave out
                chunks = self._passing(name, _slices(directory, section, size))
                if section is SectionName.WASM_MODULE:
                    yield FileSection(name=name, chunks=chunks)
                else:
                    yield ImageSection(name=name, size_bytes=size, chunks=chunks)
            for sha256 in metadata.wasm_chunk_store:
                part = StoredChunk(sha256)
                name = part_file(part)
                yield FileSection(name=name, chunks=self._passing(name, (directory.read(part),)))
            for name in _BESIDE:
                if (self.path / name).exists():
                    yield FileSection(name=name, chunks=self._passing(name, _file(self.path, name)))
            self._metadata = metadata

    def _passing(self, name: str, chunks: Iterable[bytes]) -> Iterable[bytes]:
        """Return the same chunks, hashed on their way by another thread if that is wanted."""
        if not self.hashing:
            return chunks
        digest = self._digests[name] = BackgroundDigest()
        return _hashed(chunks, digest)

    def result(self) -> CaptureResult:
        """Return what was found."""
        metadata = self._metadata
        if metadata is None:
            raise InternalError("a capture has a result only when it was read to its end")
        details: dict[str, Any] = {"canister_id": self.source_id, "directory": self.path.name}
        if self.hashing:
            details["digests"] = {name: self._digests[name].hexdigest() for name in sorted(self._digests)}
        return CaptureResult(complete=True, counts={"snapshot_bytes": metadata.size_bytes}, details=details)


def _hashed(chunks: Iterable[bytes], digest: BackgroundDigest) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _slices(directory: SnapshotDirectory, section: SectionName, size: int) -> Iterator[bytes]:
    for offset in range(0, size, _READ_BYTES):
        yield directory.read(Slice(section, offset, min(_READ_BYTES, size - offset)))


def canister_in_evidence(head: bytes) -> Principal:
    """
    Return whose snapshot a file of provenance says it is about; no signature is looked at.

    Args:
        head: How the file begins; 4096 bytes are enough.

    Raises:
        IntegrityError: It cannot be read, kind ``provenance_malformed``.
    """
    head = head[:_HEAD_BYTES]
    try:
        reader = CborReader(head, deepest=1)
        reader.item()
    except CborError as error:
        raise malformed(f"its head: {error}") from None
    return read_provenance(head[: reader.position]).head.canister_id


def _named_by_evidence(directory: Path) -> Principal | None:
    """Return whose snapshot ``provenance.cbor`` says it is about, `None` without that file; only its head is read."""
    if not (directory / PROVENANCE_FILE).exists():
        return None
    with contextlib.closing(_file(directory, PROVENANCE_FILE)) as chunks:
        return canister_in_evidence(next(chunks, b""))


def _file(directory: Path, name: str) -> Generator[bytes, None, None]:
    doing = f"reading {name} in {directory}"
    with os_errors_translated(doing):
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            file_fd = open_read_only(name, directory_fd)
        finally:
            os.close(directory_fd)
    try:
        while True:
            with os_errors_translated(doing):
                data = os.read(file_fd, _READ_BYTES)
            if not data:
                return
            yield data
    finally:
        os.close(file_fd)
