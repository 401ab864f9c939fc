"""
Give content back in forms that need neither the hub nor this library: Markdown files, lines of JSON, single tenants.

A Markdown tree looks like this; each vault's directory is at the same time a user's GitHub backup (see `github`)::

    export.json                                    when it was exported, counts, which directory is whose
    <tenant>/<vault>/<note path>                   front matter between --- lines, an empty line, the body
    <tenant>/<vault>/.knowtation/paths.json        original path of every file
    <tenant>/<vault>/.knowtation/backup/v1/snapshot.json     the vault's proposals

Names are made safe by `names`. Text that UTF-8 cannot hold (lone surrogates) is written as WTF-8.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import attrs

from .._engine.canonical import dumps
from ..errors import BlobExistsError, ConfigurationError, SinkError, SinkFullError, SinkPermissionError
from ..hub.schema import Note
from .convert import EntrySource
from .names import SafeNames
from .reader import KINDS, Entry
from .records import RecordKind

__all__ = ["PATHS_FORMAT", "PATHS_NAME", "SNAPSHOT_NAME", "TreeReport", "markdown", "write_file", "write_tree"]

SNAPSHOT_NAME = ".knowtation/backup/v1/snapshot.json"
PATHS_NAME = ".knowtation/paths.json"
PATHS_FORMAT = "knowtation-backup-paths"
TREE_FORMAT = "knowtation-backup-tree"


@attrs.frozen(kw_only=True)
class TreeReport:
    """What `write_tree` wrote."""

    directory: Path
    tenants: int
    vaults: int
    notes: int
    proposals: int
    renamed: int
    """Notes whose file name differs from their path."""


def markdown(note: Note) -> tuple[bytes, int]:
    """
    Return the Markdown file of a note and the length of its front matter in bytes (0 when none is written).

    Source: contracts 2.1. Front matter that is empty or ``{}`` is left out.
    """
    body = note.body.encode("utf-8", "surrogatepass")
    if note.frontmatter in ("", "{}"):
        return body, 0
    frontmatter = note.frontmatter.encode("utf-8", "surrogatepass")
    return b"---\n%b\n---\n\n%b" % (frontmatter, body), len(frontmatter)


def write_tree(source: EntrySource, directory: str | os.PathLike[str]) -> TreeReport:
    """
    Write every tenant's notes and proposals as files.

    The tree is built under a temporary name beside its place and appears there complete or not at all. Files are
    readable by their owner only, symbolic links are never followed, nothing existing is changed.

    Memory: the proposals of one tenant and the paths of one vault.

    Args:
        source: What to write.
        directory: Where the tree is to appear; it must not exist, its parent must.

    Raises:
        BlobExistsError: There is something at *directory* already.
        SinkError: Writing failed; subclasses say whether space or permission was missing.
    """
    target = Path(directory)
    if os.path.lexists(target):
        raise BlobExistsError(f"{target} exists already", hint="choose a new directory")
    with _translated(target):
        building = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".partial", dir=target.parent))
        try:
            report = _Tree(building).write(source, target)
            building.rename(target)  # refused by the system when the target has come to hold something meanwhile
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    return report


def write_file(chunks: Iterable[bytes], path: str | os.PathLike[str]) -> int:
    """
    Write a stream to a new file, complete or not at all, and return its size in bytes.

    For the output of `records_export`, `full_export`, `tenant_exports` and `vault_export`.

    Raises:
        BlobExistsError: The file exists already.
        SinkError: Writing failed; subclasses say whether space or permission was missing.
    """
    target = Path(path)
    with _translated(target):
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".partial", dir=target.parent)
        try:
            size = 0
            with os.fdopen(handle, "wb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
                    size += len(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            _publish(Path(temporary), target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return size


class _Tree:
    """The tree being built."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._renamed = 0
        self._counts = dict.fromkeys(RecordKind, 0)
        self._vault: _Vault | None = None
        self._tenant = root
        self._tenant_names = SafeNames()
        self._tenant_names.add_segment("export.json")
        self._tenant_names.add_segment("tenants.tmp")
        self._vault_names = SafeNames()
        self._vaults: dict[str, Path] = {}
        self._proposals: dict[str, list[bytes]] = {}

    def write(self, source: EntrySource, target: Path) -> TreeReport:
        listing = self._root / "tenants.tmp"
        with _create(listing) as tenants:
            try:
                self._entries(source, tenants)
            finally:
                self._close_vault()
        head = {"format": TREE_FORMAT, "format_version": 1, "exported_at": source.header.exported_at}
        counts = {f"{kind.value}s": count for kind, count in self._counts.items()}
        with _create(self._root / "export.json") as stream, listing.open("rb") as tenants:
            stream.write(dumps({**head, "counts": counts})[:-1] + b',"vaults":[')
            shutil.copyfileobj(tenants, stream)
            stream.write(b"]}\n")
        listing.unlink()
        return TreeReport(directory=target, renamed=self._renamed, **counts)

    def _entries(self, source: EntrySource, listing: BinaryIO) -> None:
        user_id: str | None = None
        for entry in source:
            self._counts[entry.kind] += 1
            if entry.kind is RecordKind.TENANT:
                self._end_tenant(user_id, source, listing)
                user_id = entry.user_id
                self._tenant = self._root / self._tenant_names.add_segment(user_id)
                self._vault_names = SafeNames()
            elif entry.kind is RecordKind.VAULT:
                self._directory(entry.vault_id)
            elif entry.note is not None:
                self._note(entry, entry.note)
            elif entry.proposal is not None:
                self._directory(entry.vault_id)
                self._proposals.setdefault(entry.vault_id, []).append(dumps(entry.proposal))
        self._end_tenant(user_id, source, listing)

    def _directory(self, vault_id: str) -> Path:
        if vault_id not in self._vaults:
            directory = self._tenant / self._vault_names.add_segment(vault_id)
            (directory / SNAPSHOT_NAME).parent.mkdir(mode=0o700, parents=True)
            self._vaults[vault_id] = directory
        return self._vaults[vault_id]

    def _note(self, entry: Entry, note: Note) -> None:
        directory = self._directory(entry.vault_id)
        if self._vault is None or self._vault.directory != directory:
            self._close_vault()
            self._vault = _Vault(directory)
        self._renamed += self._vault.add(note)

    def _close_vault(self) -> None:
        if self._vault is not None:
            self._vault.close()
            self._vault = None

    def _end_tenant(self, user_id: str | None, source: EntrySource, listing: BinaryIO) -> None:
        self._close_vault()
        exported_at = source.header.exported_at
        for vault_id, directory in self._vaults.items():
            head = {"format_version": 1, "kind": KINDS[1], "exported_at": exported_at, "vault_id": vault_id}
            proposals = b",".join(self._proposals.get(vault_id, ()))
            with _create(directory / SNAPSHOT_NAME) as stream:
                stream.write(dumps(head)[:-1] + b',"proposals":[' + proposals + b"]}")
            place = directory.relative_to(self._root).as_posix()
            comma = b",\n" if listing.tell() else b"\n"
            listing.write(comma + dumps({"user_id": user_id, "vault_id": vault_id, "directory": place}))
        self._vaults, self._proposals = {}, {}


class _Vault:
    """The notes of one vault, written one by one beside the list of their paths."""

    def __init__(self, directory: Path) -> None:
        if (directory / PATHS_NAME).exists():
            raise ConfigurationError("the notes of a vault do not stand together", kind="bad_entry_order")
        self.directory = directory
        self._names = SafeNames()
        self._paths = _create(directory / PATHS_NAME)
        self._paths.write(dumps({"format": PATHS_FORMAT, "format_version": 1})[:-1] + b',"notes":[')
        self._comma = b"\n"

    def add(self, note: Note) -> bool:
        """Write a note; tell whether its file has another name than the note."""
        name = self._names.add(note.path)
        file = self.directory / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content, frontmatter_bytes = markdown(note)
        with _create(file) as stream:
            stream.write(content)
        facts: dict[str, str | int] = {"file": name, "path": note.path, "frontmatter_bytes": frontmatter_bytes}
        if not frontmatter_bytes:
            facts["frontmatter"] = note.frontmatter
        self._paths.write(self._comma + dumps(facts))
        self._comma = b",\n"
        return name != note.path

    def close(self) -> None:
        self._paths.write(b"]}\n")
        self._paths.close()


def _publish(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # unlike a rename, fails when the name is taken
    except FileExistsError:
        raise
    except OSError:  # no hard links here: take the name first, then replace what is still empty
        _create(target).close()
        temporary.replace(target)


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o600), "wb")


@contextlib.contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        if isinstance(error, BlobExistsError):
            raise
        raise BlobExistsError(f"{target} exists already", hint="choose a new name") from error
    except PermissionError as error:
        if isinstance(error, SinkPermissionError):
            raise
        raise SinkPermissionError(f"{target} may not be written") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SinkFullError(f"no space is left for {target}", hint="free space and write again") from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BlobExistsError(f"{target} exists already", hint="choose a new name") from error
        raise SinkError(f"{target} could not be written: {error.strerror or type(error).__name__}") from error
