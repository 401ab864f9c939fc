"""
Read a user's own GitHub backup: Markdown beside ``.knowtation/backup/v1/snapshot.json`` (contracts 2.1, version 1).

A note file is the body alone when its front matter was empty or ``{}`` (it is read back as ``{}``, the hub's default),
else a line ``---``, the front matter, a line ``---``, an empty line, the body. A body that itself looks like that
cannot be told apart, except in trees written by `portable`, whose ``paths.json`` says where the front matter ends and
which path a file had.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from .._checks import at_least
from .._engine.canonical import JsonError, loads
from ..errors import ConfigurationError, IntegrityError, SourceError
from ..hub.schema import Note
from ..model.reports import Finding
from .portable import PATHS_FORMAT, PATHS_NAME, SNAPSHOT_NAME
from .reader import Entry, ExportReader, PayloadHeader, ReadLimits
from .records import RecordKind

__all__ = ["FolderLimits", "GithubBackup", "split_markdown"]

_MARKDOWN = (".md", ".markdown")
_OPENING = b"---\n"
_CLOSING = b"\n---\n\n"


@attrs.frozen(kw_only=True)
class FolderLimits:
    """What a hostile or mistaken directory may cost."""

    file_bytes: int = attrs.field(default=64 << 20, validator=at_least(1))
    files: int = attrs.field(default=1_000_000, validator=at_least(1))
    depth: int = attrs.field(default=64, validator=at_least(1))


def split_markdown(content: bytes) -> tuple[str, str]:
    """
    Return front matter and body of a Markdown file: the inverse of `markdown`.

    Raises:
        IntegrityError: The file is not UTF-8 (nor WTF-8).
    """
    end = content.find(_CLOSING, len(_OPENING)) if content.startswith(_OPENING) else -1
    if end < 0:
        return "{}", _text(content)
    return _text(content[len(_OPENING) : end]), _text(content[end + len(_CLOSING) :])


class GithubBackup:
    """
    Iterates over the entries of a directory, once per call: the tenant, its vault, the notes by path, the proposals.

    Symbolic links and anything that is not a regular file are never followed or read; `findings` names them.

    Args:
        directory: The root of the repository's working tree, or one vault of a tree written by `write_tree`.
        user_id: The tenant the backup belongs to; the files do not say.
        limits: Protection against hostile directories.

    Raises (while iterating):
        ConfigurationError: There is no snapshot file.
        UnsupportedFormatError, TruncatedError, IntegrityError: A file is not as documented, or beyond a limit.
        SourceError: A file or directory could not be read.
    """

    def __init__(self, directory: str | os.PathLike[str], *, user_id: str, limits: FolderLimits | None = None) -> None:
        self._root = Path(directory)
        self._user_id = user_id
        self._limits = limits or FolderLimits()
        self._header = PayloadHeader()
        self._findings: list[Finding] = []

    @property
    def header(self) -> PayloadHeader:
        """What the snapshot file says of itself, known once iteration has begun."""
        return self._header

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was left out, and why."""
        return tuple(self._findings)

    def __iter__(self) -> Iterator[Entry]:
        self._findings.clear()
        if not (self._root / SNAPSHOT_NAME).is_file():
            message = f"there is no {SNAPSHOT_NAME} in {self._root}"
            raise ConfigurationError(message, kind="not_a_github_backup", hint="name the root of the repository")
        limits = ReadLimits(element_bytes=self._limits.file_bytes)
        snapshot = ExportReader((self._read(SNAPSHOT_NAME),), user_id=self._user_id, limits=limits, hashing=False)
        for entry in snapshot:
            self._header = snapshot.header
            if self._header.format_version != 1:
                found = self._header.format_version
                raise IntegrityError(f"the snapshot file has version {found}, not 1", kind="bad_payload")
            yield entry
            if entry.kind is RecordKind.VAULT:
                vault_id = entry.vault_id
                for note in self._notes():
                    yield Entry(kind=RecordKind.NOTE, user_id=self._user_id, vault_id=vault_id, note=note)

    def _notes(self) -> Iterator[Note]:
        listed = self._listed()
        for number, name in enumerate(self._files("", 0), 1):
            if number > self._limits.files:
                raise IntegrityError(f"the directory holds more than {self._limits.files} files", kind="folder_limit")
            facts = listed.pop(name, None)
            if facts is not None:
                yield _listed_note(facts, self._read(name))
            elif name.lower().endswith(_MARKDOWN):
                frontmatter, body = split_markdown(self._read(name))
                yield Note(path=name, frontmatter=frontmatter, body=body)
            else:
                self._leave_out("not_markdown", name, "the file is neither Markdown nor listed")
        for name in listed:
            raise IntegrityError(f"a listed note is missing: {name!r:.200}", kind="missing_note")

    def _listed(self) -> dict[str, Mapping[str, Any]]:
        if not (self._root / PATHS_NAME).is_file():
            return {}
        try:
            value = loads(self._read(PATHS_NAME))
            if value["format"] == PATHS_FORMAT and value["format_version"] == 1:
                return {item["file"]: item for item in value["notes"]}
        except (JsonError, KeyError, TypeError) as error:
            raise IntegrityError(f"{PATHS_NAME} is not as documented", kind="bad_paths") from error
        raise IntegrityError(f"{PATHS_NAME} is of an unknown format", kind="bad_paths")

    def _files(self, prefix: str, depth: int) -> Iterator[str]:
        """Yield relative names of regular files, sorted; Git's own and ``.knowtation`` are left out."""
        if depth > self._limits.depth:
            raise IntegrityError(f"directories nest deeper than {self._limits.depth} levels", kind="folder_limit")
        try:
            with os.scandir(self._root / prefix) as listing:
                found = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            raise SourceError(f"a directory cannot be read: {error.strerror}", kind="unreadable") from error
        for item in found:
            name = f"{prefix}{item.name}"
            if item.name.lower() == ".git" or name == ".knowtation":
                continue
            if item.is_dir(follow_symlinks=False):
                yield from self._files(f"{name}/", depth + 1)
            elif item.is_file(follow_symlinks=False):
                yield name
            else:
                self._leave_out("not_a_file", name, "a symbolic link or device is never followed")

    def _read(self, name: str) -> bytes:
        """Read a regular file below the root; no part of the path may be a symbolic link."""
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        path = self._root
        try:
            for part in Path(name).parent.parts:
                path /= part
                if path.is_symlink():
                    raise IntegrityError(f"{name!r:.200} leads through a symbolic link", kind="symbolic_link")
            with os.fdopen(os.open(self._root / name, flags), "rb") as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise IntegrityError(f"{name!r:.200} is not a regular file", kind="not_a_file")
                content = stream.read(self._limits.file_bytes + 1)
        except OSError as error:
            message = f"{name!r:.200} cannot be read: {error.strerror}"
            raise SourceError(message, kind="unreadable") from error
        if len(content) > self._limits.file_bytes:
            raise IntegrityError(f"{name!r:.200} is larger than {self._limits.file_bytes} bytes", kind="folder_limit")
        return content

    def _leave_out(self, code: str, where: str, message: str) -> None:
        if len(self._findings) < 1000:
            self._findings.append(Finding(code=code, where=where, message=message))


def _listed_note(facts: Mapping[str, Any], content: bytes) -> Note:
    match facts:
        case {"path": str(path), "frontmatter_bytes": 0, "frontmatter": str(frontmatter)}:
            return Note(path=path, frontmatter=frontmatter, body=_text(content))
        case {"path": str(path), "frontmatter_bytes": int(size)} if content[4 + size : 10 + size] == _CLOSING:
            return Note(path=path, frontmatter=_text(content[4 : 4 + size]), body=_text(content[10 + size :]))
        case _:
            # Edited since: what stands in the file counts.
            frontmatter, body = split_markdown(content)
            original = facts.get("path")
            if not isinstance(original, str):
                raise IntegrityError(f"{PATHS_NAME} lacks a path", kind="bad_paths")
            return Note(path=original, frontmatter=frontmatter, body=body)


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"a note is not UTF-8 at byte {error.start}", kind="bad_text") from error
