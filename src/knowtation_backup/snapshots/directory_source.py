"""A downloaded snapshot directory as a source for a repository, whoever wrote it: ``icp``, ``dfx`` or we."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import attrs

from .._engine.local_files import os_errors_translated
from ..contracts import Observer, ignore_events
from ..errors import InternalError
from ..model.canisters import SectionName, Slice, SnapshotMetadata, StoredChunk, moment_of
from ..model.ids import Principal
from ..model.reports import CaptureResult
from ..model.sections import FileSection, ImageSection, Section
from .directory import SnapshotDirectory
from .layout import DIGESTS_FILE, METADATA_NAME, open_read_only, part_file, section_files
from .provenance_records import PROVENANCE_FILE
from .source import SNAPSHOT_KIND

__all__ = ["SnapshotDirectorySource"]

_READ_BYTES: Final = 1 << 17
"""What a repository looks at together; small enough to stay in the processor's cache on its way."""
_BESIDE: Final = (PROVENANCE_FILE, DIGESTS_FILE, "facts.json")
"""Files of ours that belong to the snapshot though the network does not know them."""


def _principal(value: Principal | str) -> Principal:
    return Principal.parse(value)


@attrs.frozen(kw_only=True)
class SnapshotDirectorySource:
    """
    A `SectionSource`: sizes, chunks and module are checked first, as `SnapshotDirectory.open` says.

    Args:
        path: The directory.
        canister_id: Whose snapshot it is; the directory itself does not say.
        check_digests: Whether ``SHA256SUMS``, if there is one, is compared before anything is stored; reads everything
            once more.
    """

    path: Path = attrs.field(converter=Path)
    canister_id: Principal = attrs.field(converter=_principal)
    check_digests: bool = False

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
            IntegrityError: It is not whole; `DigestMismatchError`: a file is not what was downloaded.
            SinkError: It cannot be read.
        """
        with SnapshotDirectory.open(self.path) as directory:
            if self.check_digests:
                directory.check_digests()
            metadata = directory.metadata
        moment = moment_of(metadata.taken_at_ns) if metadata.taken_at_ns else taken_at
        return _DirectoryCapture(source=self, taken_at=moment)


@attrs.define(kw_only=True)
class _DirectoryCapture:
    """One reading of a directory; a `SectionCapture`."""

    source: SnapshotDirectorySource
    taken_at: dt.datetime
    kind: str = attrs.field(default=SNAPSHOT_KIND, init=False)
    _metadata: SnapshotMetadata | None = attrs.field(default=None, init=False)

    @property
    def source_id(self) -> str:
        """The canister's id."""
        return str(self.source.canister_id)

    def sections(self) -> Generator[Section, None, None]:
        """Yield all files of the directory that belong to the snapshot."""
        with SnapshotDirectory.open(self.source.path) as directory:
            metadata = directory.metadata
            yield FileSection(name=METADATA_NAME, chunks=(directory.metadata_bytes,))
            for section, name, size, _written in section_files(metadata):
                if not (self.source.path / name).exists():
                    continue  # an empty section, whose file some tools leave out
                chunks = _slices(directory, section, size)
                if section is SectionName.WASM_MODULE:
                    yield FileSection(name=name, chunks=chunks)
                else:
                    yield ImageSection(name=name, size_bytes=size, chunks=chunks)
            for sha256 in metadata.wasm_chunk_store:
                part = StoredChunk(sha256)
                yield FileSection(name=part_file(part), chunks=(directory.read(part),))
            for name in _BESIDE:
                if (self.source.path / name).exists():
                    yield FileSection(name=name, chunks=_file(self.source.path, name))
            self._metadata = metadata

    def result(self) -> CaptureResult:
        """Return what was found."""
        metadata = self._metadata
        if metadata is None:
            raise InternalError("a capture has a result only when it was read to its end")
        details = {"canister_id": self.source_id, "directory": self.source.path.name}
        return CaptureResult(complete=True, counts={"snapshot_bytes": metadata.size_bytes}, details=details)


def _slices(directory: SnapshotDirectory, section: SectionName, size: int) -> Iterator[bytes]:
    for offset in range(0, size, _READ_BYTES):
        yield directory.read(Slice(section, offset, min(_READ_BYTES, size - offset)))


def _file(directory: Path, name: str) -> Iterator[bytes]:
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
