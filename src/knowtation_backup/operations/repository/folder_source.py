"""
A folder of another tool on a sink as a source for a repository: every file, and compared with what the tool says of it.

Snapshots are checked as `SnapshotFiles` says, and with ``SHA256SUMS`` where it is. QURI's manifests may name digests,
those of AgentVault name every file.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

import attrs

from ..._engine.digesting import BackgroundDigest
from ...contracts import ArchiveSink, Observer, SectionCapture, ignore_events
from ...errors import ConfigurationError, DigestMismatchError, IntegrityError, InternalError
from ...model.json_input import check_nesting, check_values, typed
from ...model.reports import CaptureResult, Finding
from ...model.sections import FileSection, Section
from ...snapshots.file_sections import SnapshotFiles
from ...snapshots.layout import DIGESTS_FILE
from ...snapshots.source import SNAPSHOT_KIND
from .stored_folders import (
    AGENTVAULT_MANIFEST,
    QURI_KIND,
    StoredFolder,
    snapshot_moment,
    whose_snapshot,
)

__all__ = ["StoredFolderSource"]

_MAX_SMALL_BYTES: Final = 16 << 20
_QURI_MANIFEST: Final = "MANIFEST.txt"
_DIGEST_LINE: Final = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<file>\S+)\s*")


@attrs.frozen(kw_only=True)
class StoredFolderSource:
    """
    A `SectionSource`: one folder of another tool on a sink.

    Args:
        sink: Where it is.
        folder: Which, as `find_folders` returned it.
        source_id: What it is a backup of; of a snapshot, where neither its evidence nor the folder's name says it.
    """

    sink: ArchiveSink
    folder: StoredFolder
    source_id: str = ""

    def capture_sections(
        self,
        *,
        taken_at: dt.datetime,
        observer: Observer = ignore_events,  # noqa: ARG002 - nothing to tell
    ) -> SectionCapture:
        """
        Begin a capture; of a snapshot its metadata and the head of its evidence are read.

        Raises:
            ConfigurationError: Nothing says whose snapshot it is, kind ``canister_not_named``.
            IntegrityError: Metadata or evidence cannot be read, or name and evidence differ.
            SinkError: The sink could not be read.
        """
        folder = self.folder
        source_id, moment = self.source_id or folder.series or folder.name, folder.named_at
        if folder.kind == SNAPSHOT_KIND:
            source_id = str(whose_snapshot(folder, self.sink) or self.source_id)
            if not source_id:
                message = f"nothing says whose snapshot {folder.path} is"
                hint = "pass source_id=, or call the folder <canister>-<stamp>-<snapshot id>"
                raise ConfigurationError(message, kind="canister_not_named", hint=hint, path=folder.path)
            moment = snapshot_moment(folder.metadata(self.sink)) or moment
        return _FolderCapture(source=self, kind=folder.kind, source_id=source_id, taken_at=moment or taken_at)


@attrs.define(kw_only=True)
class _FolderCapture:
    """One reading of a folder; a `SectionCapture`."""

    source: StoredFolderSource
    kind: str
    source_id: str
    taken_at: dt.datetime
    _digests: dict[str, str] | None = attrs.field(default=None, init=False)
    _warnings: list[Finding] = attrs.field(factory=list, init=False)

    def sections(self) -> Generator[Section, None, None]:
        """Yield every file, then compare what was read with what the tool says of it."""
        if self.kind == SNAPSHOT_KIND:
            files = SnapshotFiles(self.source.folder.path)
            for name, size_bytes in self._files():
                section = files.section(name, size_bytes, self._read(name))
                if section is not None:
                    yield section
            files.check()
            digests = files.digests()
            self._compare_sums(digests)
        else:
            passed: dict[str, BackgroundDigest] = {}
            for name, _size_bytes in self._files():
                passed[name] = BackgroundDigest()
                yield FileSection(name=name, chunks=_hashed(self._read(name), passed[name]))
            digests = {name: digest.hexdigest() for name, digest in passed.items()}
            if self.kind == QURI_KIND:
                self._compare_quri(digests)
            else:
                self._compare_agentvault(digests)
        self._digests = digests

    def _files(self) -> Iterator[tuple[str, int]]:
        start = len(self.source.folder.path) + 1
        for info in self.source.folder.files:
            yield info.key[start:], info.size_bytes

    def _read(self, name: str) -> Iterator[bytes]:
        return self.source.sink.read(self.source.folder.file_key(name))

    def _small(self, name: str) -> bytes:
        return self.source.sink.read_all(self.source.folder.file_key(name), limit_bytes=_MAX_SMALL_BYTES)

    def _compare_sums(self, digests: Mapping[str, str]) -> None:
        if DIGESTS_FILE not in digests:
            message = (
                "there are no digests beside it, so that a download which icp or dfx never finished is not noticed"
            )
            self._warnings.append(Finding(code="snapshot_unproven", where=self.source.folder.path, message=message))
            return
        for name, digest in _lines(self._small(DIGESTS_FILE)).items():
            if digests.get(name, digest) != digest:
                message = f"{self.source.folder.path}/{name} is not what {DIGESTS_FILE} says"
                hint = "download the snapshot again, or use another copy"
                raise DigestMismatchError(message, kind="snapshot_file_digest", hint=hint, path=name)

    def _compare_quri(self, digests: Mapping[str, str]) -> None:
        """Warn, as reading such a folder does: older manifests have no digests, and the files are what there is."""
        if _QURI_MANIFEST not in digests:
            self._warnings.append(
                Finding(code="manifest_missing", where=_QURI_MANIFEST, message="there is no manifest")
            )
            return
        for name, digest in _lines(self._small(_QURI_MANIFEST)).items():
            if name not in digests:
                message = "the manifest names it, and it is not there"
                self._warnings.append(Finding(code="metadata_file_missing", where=name, message=message))
            elif digests[name] != digest:
                message = "it is not what the manifest says"
                self._warnings.append(Finding(code="metadata_digest", where=name, message=message))

    def _compare_agentvault(self, digests: Mapping[str, str]) -> None:
        path = self.source.folder.path
        named, checksum = _agentvault_files(self._small(AGENTVAULT_MANIFEST), path)
        for name, digest in named.items():
            if name not in digests:
                message = f"{name:.200} is missing in {path}: its manifest names it"
                hint = "use another copy; sinks do not show hidden files, nor names with blanks or other characters"
                raise IntegrityError(message, kind="folder_file_missing", hint=hint, path=path)
            if digests[name] != digest:
                message = f"{name:.200} in {path} is not what the manifest says"
                raise DigestMismatchError(message, kind="folder_file_digest", hint="use another copy", path=path)
        if checksum != hashlib.sha256("".join(sorted(named.values())).encode()).hexdigest():
            message = f"the checksum of all files of {path} is not that of its manifest: a file may have been left out"
            raise DigestMismatchError(message, kind="folder_file_digest", hint="use another copy", path=path)

    def result(self) -> CaptureResult:
        """Return what was found."""
        if self._digests is None:
            raise InternalError("a capture has a result only when it was read to its end")
        folder = self.source.folder
        details: dict[str, Any] = {"folder": folder.path, "digests": self._digests}
        counts = {"folder_files": len(folder.files), "folder_bytes": sum(info.size_bytes for info in folder.files)}
        return CaptureResult(complete=True, counts=counts, details=details, warnings=tuple(self._warnings))


def _hashed(chunks: Iterator[bytes], digest: BackgroundDigest) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _lines(data: bytes) -> dict[str, str]:
    """Return digests by name, from lines as ``sha256sum`` prints them; other lines are passed over."""
    matches = map(_DIGEST_LINE.fullmatch, data.decode("utf-8", "replace").splitlines())
    return {match["file"]: match["digest"] for match in matches if match is not None}


def _agentvault_files(data: bytes, path: str) -> tuple[dict[str, str], str]:
    """Return digests by name, and the checksum of all; see contracts 6.2."""
    try:
        check_nesting(data)
        check_values(data)
        value = typed(json.loads(data), dict)
        files = [typed(item, dict) for item in typed(value["files"], list)]
        named = {typed(item["relativePath"], str): typed(item["checksum"], str).lower() for item in files}
        return named, typed(value["checksum"], str).lower()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{AGENTVAULT_MANIFEST} of {path} is not what AgentVault writes: {type(error).__name__}"
        raise IntegrityError(message, kind="bad_folder_manifest", hint="use another copy", path=path) from error
