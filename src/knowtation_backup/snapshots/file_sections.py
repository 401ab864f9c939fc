"""
Files of a snapshot that come one after another, out of a tar file or from a store, as sections of a repository.

`SnapshotDirectory` checks a directory before it is read. Here the files are seen once and in any order, so the same is
checked while they pass, and the rest when the last one has passed: whoever stores sections publishes after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from .._engine.digesting import BackgroundDigest
from ..errors import IntegrityError
from ..model.canisters import SectionName, SnapshotMetadata, StoredChunk
from ..model.sections import FileSection, ImageSection, Section
from .directory import MAX_WASM_CHUNK_BYTES, MODULE_STARTS
from .layout import CHUNK_STORE, ICP_DOWNLOAD_PROGRESS, METADATA_NAME, part_file, section_file, section_files
from .metadata import MAX_METADATA_BYTES, parse_metadata

__all__ = ["SnapshotFiles"]

_IMAGES: Final = frozenset({section_file(SectionName.WASM_MEMORY), section_file(SectionName.STABLE_MEMORY)})
_MODULE: Final = section_file(SectionName.WASM_MODULE)
_HEAD_BYTES: Final = 4
_HINT: Final = "download the snapshot again, or use another copy"


class SnapshotFiles:
    """
    The files of one snapshot; call `section` for each and `check` after the last.

    Memory: ``metadata.json``, and a few MB of what is being hashed by a thread beside.

    Args:
        origin: Where they come from, for messages.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._sizes: dict[str, int] = {}
        self._heads: dict[str, bytes] = {}
        self._digests: dict[str, BackgroundDigest] = {}
        self.left_out: list[str] = []
        """Hidden files, which belong to the tool that wrote the directory: locks, progress of uploads."""

    def section(self, name: str, size_bytes: int, chunks: Iterable[bytes]) -> Section | None:
        """
        Return a file as a section, `None` for a hidden one, which is left out.

        Args:
            name: Relative to the snapshot's directory.
            size_bytes: Of the file.
            chunks: Its content; read while the section is.

        Raises:
            IntegrityError: The file was there before (``snapshot_file_twice``), or ``icp`` had not finished this
                download (``snapshot_unfinished``).
            ConfigurationError: It can be no file of a directory, kind ``bad_section_name``.
        """
        if name == ICP_DOWNLOAD_PROGRESS:
            message = (
                f"icp has not finished the download in {self._origin}: files have their full length and hold zeros"
            )
            raise IntegrityError(message, kind="snapshot_unfinished", hint="finish it, then import it")
        if name.rpartition("/")[2].startswith("."):
            self.left_out.append(name)
            return None
        if name in self._sizes:
            message = f"{self._origin} holds {name:.200} twice: readers disagree on which of them counts"
            raise IntegrityError(message, kind="snapshot_file_twice", hint=_HINT)
        passing = self._passing(name, chunks)
        if name in _IMAGES:
            section: Section = ImageSection(name=name, size_bytes=size_bytes, chunks=passing)
        else:
            section = FileSection(name=name, chunks=passing)
        self._sizes[name] = 0
        return section

    def _passing(self, name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        kept = MAX_METADATA_BYTES + 1 if name == METADATA_NAME else _HEAD_BYTES
        digest = self._digests[name] = BackgroundDigest()
        head = b""
        for chunk in chunks:
            if len(head) < kept:
                head += chunk[: kept - len(head)]
                self._heads[name] = head
            digest.update(chunk)
            self._sizes[name] += len(chunk)
            yield chunk

    def check(self) -> SnapshotMetadata:
        """
        Return the metadata after comparing it with all files that have passed.

        Raises:
            IntegrityError: The files are no whole snapshot: one is missing (``snapshot_file_missing``) or has another
                size than the metadata says (``snapshot_file_size``), a Wasm chunk does not hash to its name
                (``snapshot_chunk_hash``) or is not named (``snapshot_chunk_surplus``), the module is none
                (``snapshot_not_wasm``), or the metadata cannot be read (``snapshot_metadata``).
        """
        if METADATA_NAME not in self._sizes:
            hint = "pack the content of the directory: tar -cf snapshot.tar -C <directory> ."
            raise self._missing(METADATA_NAME, hint)
        metadata = parse_metadata(self._heads.get(METADATA_NAME, b""))
        for _section, name, size, _written in section_files(metadata):
            found = self._sizes.get(name)
            if found is None and size:
                raise self._missing(name)
            if found not in {None, size}:
                message = f"{name} in {self._origin} has {found} bytes instead of the {size} that the metadata says"
                raise IntegrityError(message, kind="snapshot_file_size", hint=_HINT)
        if not self._heads.get(_MODULE, b"").startswith(MODULE_STARTS):
            message = f"{_MODULE} in {self._origin} begins neither like a Wasm module nor like a compressed one"
            raise IntegrityError(message, kind="snapshot_not_wasm", hint=_HINT)
        self._check_chunks({part_file(StoredChunk(sha256)): sha256 for sha256 in metadata.wasm_chunk_store})
        return metadata

    def _check_chunks(self, wanted: Mapping[str, bytes]) -> None:
        for name, sha256 in wanted.items():
            if name not in self._sizes:
                raise self._missing(name)
            if self._sizes[name] > MAX_WASM_CHUNK_BYTES:
                message = f"{name} in {self._origin} has {self._sizes[name]} bytes and may have {MAX_WASM_CHUNK_BYTES}"
                raise IntegrityError(message, kind="snapshot_file_size", hint=_HINT)
            if self._digests[name].hexdigest() != sha256.hex():
                message = f"{name} in {self._origin} does not hash to its name"
                raise IntegrityError(message, kind="snapshot_chunk_hash", hint=_HINT)
        surplus = sorted(name for name in self._sizes.keys() - wanted.keys() if name.startswith(f"{CHUNK_STORE}/"))
        if surplus:
            message = f"{surplus[0]:.200} in {self._origin} is no chunk that the metadata names"
            raise IntegrityError(message, kind="snapshot_chunk_surplus", hint=_HINT)

    def _missing(self, name: str, hint: str = _HINT) -> IntegrityError:
        return IntegrityError(f"{name} is missing in {self._origin}", kind="snapshot_file_missing", hint=hint)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every file that has passed, in lower-case hexadecimal, by name; sorted."""
        return {name: self._digests[name].hexdigest() for name in sorted(self._digests)}
