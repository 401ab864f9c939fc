"""
What an upload writes down, so that a later process goes on with it instead of leaving half a snapshot behind.

A text file with one JSON object per line, beside the snapshot directory unless another place is named::

    {"format": "knowtation-upload-1", "canister_id": …, "network": …, "metadata_sha256": …}
    {"beginning": […ids that were there before…]}
    {"snapshot_id": …}
    {"part": "wasm_memory", "offset": 2000000, "size": 2000000}
    {"chunk": …sha256…}

A line counts once it has its end; what a killed process left of the last one is cut off. Nothing is flushed to the
disk but the first three lines: a part that is forgotten is sent again, which does no harm. The file is locked while an
upload runs and removed when it has succeeded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, Final, Self

from .._engine.local_files import open_directory, os_errors_translated, sync_directory
from ..errors import ConfigurationError
from ..model.canisters import SectionName, Slice, SnapshotPart, StoredChunk
from ..model.ids import Principal, SnapshotId
from ..model.json_input import check_nesting
from .layout import pread_exactly, pwrite_all

__all__ = ["UploadJournal", "default_journal"]

_FORMAT: Final = "knowtation-upload-1"
_MAX_BYTES: Final = 256 << 20
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def default_journal(directory: Path, canister_id: Principal) -> Path:
    """Return where the journal of an upload lies unless another place is named: beside the directory."""
    return directory.with_name(f"{directory.name}.{canister_id}.upload")


class UploadJournal:
    """
    The journal of one upload; without a path it is only kept in memory. Use it as a context manager.

    Args:
        path: Of the file; the directory it is in must exist.
        canister_id: Which canister gets the snapshot.
        network: Name of the network, see `network_name`.
        metadata: What identifies the content; `None` for whatever the file is about.

    Raises:
        ConfigurationError: Another upload works with the file (``upload_busy``), or it is about something else
            (``other_upload``).
        SinkError: As the operating system says.
    """

    def __init__(self, path: Path | None, *, canister_id: Principal, network: str, metadata: bytes | None) -> None:
        self.path = path
        self.before: tuple[SnapshotId, ...] | None = None
        """Snapshots that were there when the upload began, if it did."""
        self.snapshot_id: SnapshotId | None = None
        self.done: set[SnapshotPart] = set()
        """Parts whose arrival a subnet has certified."""
        self._lock = threading.Lock()
        self._end = 0
        self._fd = -1
        if path is None:
            return
        head = {"format": _FORMAT, "canister_id": str(canister_id), "network": network}
        if metadata is not None:
            head["metadata_sha256"] = hashlib.sha256(metadata).hexdigest()
        with contextlib.ExitStack() as stack, os_errors_translated(f"opening the journal {path}"):
            self._fd = os.open(path, _FLAGS, 0o600)
            stack.callback(self.close)
            self._take_lock(path)
            self._restore(path, head)
            stack.pop_all()

    def _take_lock(self, path: Path) -> None:
        busy = ConfigurationError(f"another upload works with {path}", kind="upload_busy", hint="wait for it")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._fd), path.lstat()):
                return
        raise busy  # whoever held the lock has just finished and removed the file

    def _restore(self, path: Path, head: dict[str, str]) -> None:
        text = pread_exactly(self._fd, _MAX_BYTES, 0)
        lines = text.split(b"\n")[:-1]
        if not lines:
            os.ftruncate(self._fd, 0)
            self._append(head)
            os.fsync(self._fd)
            parent_fd = open_directory(path.absolute().parent)
            try:
                sync_directory(parent_fd)
            finally:
                os.close(parent_fd)
            return
        found = _parsed(lines[0])
        if any(found.get(name) != value for name, value in head.items()):
            raise ConfigurationError(
                f"{path} is about an upload of something else",
                kind="other_upload",
                hint="finish or abandon that upload first, or name another journal",
                path=str(path),
            )
        for line in lines[1:]:
            try:
                self._take_in(_parsed(line))
            except (ValueError, KeyError, TypeError):
                break  # a power cut may leave anything; what follows is done again
            self._end += len(line) + 1
        self._end += len(lines[0]) + 1
        os.ftruncate(self._fd, self._end)

    def _take_in(self, line: dict[str, Any]) -> None:
        if "part" in line:
            self.done.add(Slice(SectionName(line["part"]), int(line["offset"]), int(line["size"])))
        elif "chunk" in line:
            self.done.add(StoredChunk(bytes.fromhex(line["chunk"])))
        elif "snapshot_id" in line:
            self.snapshot_id = SnapshotId.parse(line["snapshot_id"])
            self.done.clear()
        else:
            self.before = tuple(SnapshotId.parse(item) for item in line["beginning"])
            self.snapshot_id = None
            self.done.clear()

    def beginning(self, before: tuple[SnapshotId, ...]) -> None:
        """Note that a snapshot is about to be begun."""
        self.before, self.snapshot_id = before, None
        self.done.clear()
        self._note({"beginning": [str(item) for item in before]}, durable=True)

    def began(self, snapshot_id: SnapshotId) -> None:
        """Note which snapshot was begun."""
        self.snapshot_id = snapshot_id
        self._note({"snapshot_id": str(snapshot_id)}, durable=True)

    def arrived(self, part: SnapshotPart) -> None:
        """Note that a part has arrived. May be called by several threads at once."""
        if isinstance(part, StoredChunk):
            line: dict[str, Any] = {"chunk": part.sha256.hex()}
        else:
            line = {"part": part.section.value, "offset": part.offset, "size": part.size_bytes}
        with self._lock:
            self.done.add(part)
            self._note(line)

    def _note(self, line: dict[str, Any], *, durable: bool = False) -> None:
        if self._fd < 0:
            return
        with os_errors_translated(f"writing the journal {self.path}"):
            self._append(line)
            if durable:
                os.fsync(self._fd)

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        pwrite_all(self._fd, data, self._end)
        self._end += len(data)

    def remove(self) -> None:
        """Remove the file: there is nothing left to go on with."""
        if self.path is not None:
            with os_errors_translated(f"removing the journal {self.path}"):
                self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        file_fd, self._fd = self._fd, -1
        if file_fd >= 0:
            os.close(file_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        check_nesting(line)
        tree = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}
