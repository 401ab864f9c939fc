"""
Recognise folders on a sink that other tools wrote, from the names in a listing.

==========================================  =======================================================================
``**/metadata.json`` and                    a snapshot that ``icp``, ``dfx`` or we downloaded (contracts 3.4); the
``wasm_module.bin`` in one folder           Knowtation helper calls it ``<canister>-<stamp>-<snapshot id>`` (3.1)
``**/<YYYYMMDD_HHMMSS>/``                   a metadata backup of QURI (4.2): it has the status, information or
                                            metrics of a canister
``**/<agent or vault>-<time>/``             a cloud folder of AgentVault (6.2): it has a ``manifest.json``
==========================================  =======================================================================

A folder within a recognised one belongs to it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from ...contracts import ArchiveSink
from ...errors import BackupError, BlobNotFoundError, IntegrityError
from ...model.blobs import BlobInfo
from ...model.canisters import SnapshotMetadata, moment_of
from ...model.ids import Principal, SnapshotId
from ...model.manifest import SIDE_PREFIX
from ...model.moments import parse_stamp
from ...model.plans import ArchiveInfo, ArchiveState
from ...snapshots.directory_source import canister_in_evidence
from ...snapshots.layout import METADATA_NAME
from ...snapshots.metadata import MAX_METADATA_BYTES, parse_metadata
from ...snapshots.provenance_records import PROVENANCE_FILE
from ...snapshots.source import SNAPSHOT_KIND
from ..naming import ForeignName

__all__ = [
    "AGENTVAULT_FOLDER_KIND",
    "AGENTVAULT_MANIFEST",
    "QURI_KIND",
    "StoredFolder",
    "find_folders",
    "whose_snapshot",
]

QURI_KIND: Final = "quri-backup"
"""As of QURI's compressed backups."""
AGENTVAULT_FOLDER_KIND: Final = "agentvault-cloud-folder"
AGENTVAULT_MANIFEST: Final = "manifest.json"

_MODULE: Final = "wasm_module.bin"
_QURI_FILE: Final = re.compile(r"[^/]+_(?:status|info|metrics)\.(?:txt|json)")
_SNAPSHOT_FOLDER: Final = re.compile(r".+-(?P<stamp>[0-9]{8}T[0-9]{6}Z)-(?P<id>[0-9a-f]{2,128})")
_COUNTER_BYTES: Final = 8
_CANISTER_BYTES: Final = 10
_CANISTER_ENDS: Final = b"\1\1"
"""How the ids of all canisters of the network end."""
_HEAD_BYTES: Final = 4096
_LONG_AGO: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@attrs.frozen(kw_only=True)
class StoredFolder:
    """A folder of another tool."""

    path: str
    kind: str
    files: tuple[BlobInfo, ...]
    """Everything in it, sorted."""
    series: str = ""
    """What the name says of what it is a backup of; empty when it says nothing."""
    named_at: dt.datetime | None = None
    """The moment in the name; those of QURI were local time and are read as UTC."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def file_key(self, name: str) -> str:
        """Return the key of a file in it."""
        return f"{self.path}/{name}"

    def holds(self, name: str) -> bool:
        """Whether a file is in it."""
        return any(info.key == self.file_key(name) for info in self.files)

    def described(self, sink: ArchiveSink) -> ArchiveInfo:
        """
        Describe it as listings describe files of other tools; of a snapshot two small reads say what it is of.

        What cannot be understood is left open here: importing it says why.

        Raises:
            SinkError: The sink could not be read.
        """
        source_id, taken_at = "", self.named_at
        if self.kind == SNAPSHOT_KIND:
            with contextlib.suppress(IntegrityError, BlobNotFoundError):
                source_id = str(whose_snapshot(self, sink) or "")
            with contextlib.suppress(BackupError):
                taken_at = snapshot_moment(self.metadata(sink)) or taken_at
        times = [info.modified_at for info in self.files if info.modified_at is not None]
        return ArchiveInfo(
            archive_id=self.path,
            state=ArchiveState.UNFINISHED,  # no manifest of ours vouches for it
            series=self.series or self.name,
            taken_at=taken_at or max(times, default=_LONG_AGO),
            size_bytes=sum(info.size_bytes for info in self.files),
            keys=tuple(info.key for info in self.files),
            managed=False,
            kind=self.kind,
            source_id=source_id,
        )

    def metadata(self, sink: ArchiveSink) -> SnapshotMetadata:
        """
        Return the metadata of a snapshot.

        Raises:
            IntegrityError: It cannot be read, kind ``snapshot_metadata``.
            SinkError: The sink could not be read.
        """
        data = b""
        for chunk in sink.read(self.file_key(METADATA_NAME)):
            data += chunk
            if len(data) > MAX_METADATA_BYTES:
                break  # the parser says so
        return parse_metadata(data)


def snapshot_moment(metadata: SnapshotMetadata) -> dt.datetime | None:
    """Return when a snapshot was taken, as its metadata says; `None` when it does not."""
    return moment_of(metadata.taken_at_ns) if metadata.taken_at_ns else None


def whose_snapshot(folder: StoredFolder, sink: ArchiveSink) -> Principal | None:
    """
    Return the canister of a snapshot, as its evidence says, or else the snapshot id in the folder's name.

    Raises:
        IntegrityError: The evidence cannot be read (``provenance_malformed``), or is about another canister than the
            name (``provenance_mismatch``).
        SinkError: The sink could not be read.
    """
    named = _named(folder.name)
    if not folder.holds(PROVENANCE_FILE):
        return named
    told = canister_in_evidence(b"".join(sink.read(folder.file_key(PROVENANCE_FILE), size_bytes=_HEAD_BYTES)))
    if named not in {None, told}:
        message = f"the snapshot id in the name of {folder.path} is one of {named}, and the evidence is about {told}"
        hint = "correct the name, or restore the file that came from another directory"
        raise IntegrityError(message, kind="provenance_mismatch", hint=hint, path=folder.path)
    return told


def _named(name: str) -> Principal | None:
    """Return the canister whose snapshot id ends a name; today's ids are a counter and the canister's id."""
    match = _SNAPSHOT_FOLDER.fullmatch(name)
    if match is None or len(match["id"]) % 2:
        return None
    raw = SnapshotId.parse(match["id"]).raw
    if len(raw) != _COUNTER_BYTES + _CANISTER_BYTES or not raw.endswith(_CANISTER_ENDS):
        return None
    return Principal(raw[_COUNTER_BYTES:])


def find_folders(listed: Iterable[BlobInfo]) -> list[StoredFolder]:
    """Return the folders that a listing shows, sorted by path."""
    blobs = {info.key: info for info in sorted(listed, key=lambda info: info.key)}
    inside: dict[str, list[BlobInfo]] = {}
    for key, info in blobs.items():
        if not key.startswith(SIDE_PREFIX):
            for path in _above(key):
                inside.setdefault(path, []).append(info)
    found = [folder for path in sorted(inside) if (folder := _recognised(path, inside[path], blobs)) is not None]
    paths = {folder.path for folder in found}
    return [folder for folder in found if paths.isdisjoint(_above(folder.path))]


def _above(key: str) -> Iterator[str]:
    parts = key.split("/")
    for depth in range(1, len(parts)):
        yield "/".join(parts[:depth])


def _recognised(path: str, files: list[BlobInfo], blobs: Mapping[str, BlobInfo]) -> StoredFolder | None:
    name = path.rpartition("/")[2]
    held = tuple(files)
    if f"{path}/{METADATA_NAME}" in blobs and f"{path}/{_MODULE}" in blobs:
        return StoredFolder(path=path, kind=SNAPSHOT_KIND, files=held, named_at=_stamped(name))
    quri = ForeignName.parse(f"{name}.tar.gz")  # compressed, the folder would be called so
    if quri is not None and quri.kind == QURI_KIND:
        if any(_QURI_FILE.fullmatch(info.key[len(path) + 1 :]) for info in held):
            return StoredFolder(path=path, kind=QURI_KIND, files=held, series=quri.series, named_at=quri.taken_at)
        return None
    agent = ForeignName.parse(f"{name}.json")  # AgentVault names files and folders alike
    if agent is not None and agent.kind == "agentvault-manifest" and f"{path}/{AGENTVAULT_MANIFEST}" in blobs:
        kind = AGENTVAULT_FOLDER_KIND
        return StoredFolder(path=path, kind=kind, files=held, series=agent.series, named_at=agent.taken_at)
    return None


def _stamped(name: str) -> dt.datetime | None:
    match = _SNAPSHOT_FOLDER.fullmatch(name)
    if match is not None:
        with contextlib.suppress(BackupError):
            return parse_stamp(match["stamp"])
    return None
