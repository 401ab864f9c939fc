"""
The tar file of a snapshot as sections: what `CanisterSource` writes, or ``tar -cf snapshot.tar .`` in a directory.

A member that is no file of its own could be passed over, and the archive would seem complete without it; one with a
name that leads elsewhere could be restored there. So whatever is neither file nor directory is refused.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from typing import IO, Final, cast

from ..._engine.chunking import even
from ...errors import BackupError, IntegrityError, InternalError
from ...model.sections import Section
from ...snapshots.file_sections import SnapshotFiles

__all__ = ["tar_sections"]

_READ_BYTES: Final = 1 << 17
_KINDS: Final = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def tar_sections(payload: Iterator[bytes], files: SnapshotFiles, name: str) -> Iterator[Section]:
    """
    Yield the files of a tar file as sections; each is to be read before the next one is asked for.

    The payload is read to its end, so that codecs around it have compared everything.

    Args:
        payload: The tar file, expanded.
        files: Checks what it holds; `SnapshotFiles.check` is called after the last one.
        name: Of the tar file, for messages.

    Raises:
        IntegrityError: It is no tar file, or cut (``bad_payload``); a member is neither file nor directory
            (``snapshot_not_a_file``), has a name that leaves the directory (``snapshot_file_name``), or is there twice;
            it is no whole snapshot, as `SnapshotFiles.check` says.
    """
    stream = _Stream(payload)
    with _translated(name), tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
        while (member := archive.next()) is not None:
            path = _path(member, name)
            if member.isdir():
                continue  # sections make their own
            file = archive.extractfile(member) if member.isreg() else None
            if file is None:
                kind = _KINDS.get(member.type, "neither file nor directory")
                message = f"{path!r:.200} in {name} is {kind}"
                hint = "pack the files themselves: tar --dereference --hard-dereference"
                raise IntegrityError(message, kind="snapshot_not_a_file", hint=hint)
            section = files.section(path, member.size, _content(file, name))
            if section is not None:
                yield section
    stream.drain()
    files.check()


def _content(file: IO[bytes], name: str) -> Iterator[bytes]:
    # Read by whoever has the section, not by the loop above: what `tarfile` raises then is to be translated here.
    with _translated(name):
        while chunk := file.read(_READ_BYTES):
            yield chunk


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except BackupError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, LookupError) as error:  # the last three of hostile headers
        message = f"{name} is no tar file of a snapshot, or cut: {type(error).__name__}"
        raise IntegrityError(message, kind="bad_payload", hint="use another copy") from error


def _path(member: tarfile.TarInfo, name: str) -> str:
    """Return where a member lies below the directory; as ``tar -cf x .`` writes it, it begins with ``./``."""
    parts = member.name.split("/")
    if member.name.startswith("/") or "\\" in member.name or ".." in parts:
        message = f"{member.name!r:.200} in {name} leaves the directory"
        raise IntegrityError(message, kind="snapshot_file_name", hint="pack the directory again, or use another copy")
    return "/".join(part for part in parts if part not in {"", "."})


class _Stream:
    """What `tarfile` reads from: the chunks, in the sizes it asks for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = even(chunks, tarfile.RECORDSIZE)

    def read(self, size: int) -> bytes:
        """Return the next record; the last may be shorter."""
        if size != tarfile.RECORDSIZE:  # pragma: no cover - streams are read by records
            raise InternalError(f"a tar stream is read by {size} bytes")
        return next(self._chunks, b"")

    def drain(self) -> None:
        """Read what is left, zeros with which tar files are filled up."""
        for _ in self._chunks:
            pass
