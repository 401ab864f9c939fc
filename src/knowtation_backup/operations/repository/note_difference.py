"""What changed in one note from one archive to another: fields of its front matter, and lines of its text."""

from __future__ import annotations

import contextlib
import difflib
import json
from typing import Any

import attrs

from ...errors import BlobNotFoundError
from ...hub.schema import Note
from ...model.json_input import check_nesting
from ...model.reports import Outcome
from ...repository.repository import Repository
from .difference_reports import Change, change_of
from .selecting import restore_records

__all__ = ["FieldChange", "NoteDiff", "diff_note"]

_MISSING = "-"


@attrs.frozen(kw_only=True)
class FieldChange:
    """A field of the front matter that is not as it was; `None` stands for what is not there."""

    name: str
    before: str | None
    """As JSON."""
    after: str | None

    def __str__(self) -> str:
        """Return one line."""
        return f"{_plain(self.name)}: {_plain(self.before or _MISSING)} -> {_plain(self.after or _MISSING)}"


@attrs.frozen(kw_only=True)
class NoteDiff:
    """One note on two sides."""

    before: str
    """Id of the earlier archive."""
    after: str
    user_id: str
    vault_id: str
    path: str
    change: Change
    fields: tuple[FieldChange, ...] = ()
    """Of the front matter, where it is a JSON object on both sides; elsewhere it is part of the text."""
    lines: tuple[str, ...] = attrs.field(default=(), repr=False)
    """Unified difference of the text."""

    @property
    def outcome(self) -> Outcome:
        """`OK` when it is the same, else `DIFFERENT`."""
        return Outcome.OK if self.change is Change.SAME else Outcome.DIFFERENT

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return the difference for people; characters that could steer a terminal are written out."""
        where = "/".join(map(_plain, (self.user_id, self.vault_id, self.path)))
        return "\n".join([f"{where}: {self.change.value}", *map(str, self.fields), *map(_plain, self.lines)])


def diff_note(  # noqa: PLR0913, PLR0917 - which note of which archives
    repository: Repository, before: str, after: str, tenant: str, vault: str, path: str, *, context: int = 3
) -> NoteDiff:
    """
    Compare one note of two archives, line by line.

    Args:
        repository: Open to be read.
        before: Id of the earlier archive.
        after: Id of the later one.
        tenant: As the hub has it.
        vault: Same.
        path: Same.
        context: Lines around changes.

    Raises:
        BlobNotFoundError: There is no such archive, or none of both has the note: kind ``no_such_record``.
        BackupError: As `restore_records`.
    """
    old = _note(repository, before, tenant, vault, path)
    new = _note(repository, after, tenant, vault, path)
    if old is None and new is None:
        message = f"neither archive has note {path!r:.200}"
        raise BlobNotFoundError(message, kind="no_such_record", hint="names are compared exactly")
    fields = _fields(old, new)
    old_text, new_text = (_lines(note, whole=fields is None) for note in (old, new))
    lines = difflib.unified_diff(old_text, new_text, before, after, lineterm="", n=context)
    return NoteDiff(
        before=before,
        after=after,
        user_id=tenant,
        vault_id=vault,
        path=path,
        change=change_of(old, new, same=old == new),
        fields=tuple(fields or ()),
        lines=tuple(lines),
    )


def _note(repository: Repository, archive_id: str, tenant: str, vault: str, path: str) -> Note | None:
    repository.manifest(archive_id)  # an archive that is not there is no archive without the note
    try:
        entries = list(restore_records(repository, archive_id, tenant, vault, path=path))
    except BlobNotFoundError as error:
        if error.kind != "no_such_record":
            raise
        return None
    return next(entry.note for entry in entries if entry.note is not None)


def _fields(old: Note | None, new: Note | None) -> list[FieldChange] | None:
    """Return the fields that differ; `None` when one side's front matter is no JSON object."""
    before, after = _frontmatter(old), _frontmatter(new)
    if before is None or after is None:
        return None
    names = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    return [FieldChange(name=name, before=before.get(name), after=after.get(name)) for name in names]


def _frontmatter(note: Note | None) -> dict[str, str] | None:
    if note is None or not note.frontmatter:
        return {}
    with contextlib.suppress(ValueError, RecursionError):
        check_nesting(note.frontmatter.encode("utf-8", "surrogatepass"))
        value: Any = json.loads(note.frontmatter)
        if isinstance(value, dict):
            return {name: json.dumps(field, sort_keys=True) for name, field in value.items()}
    return None


def _lines(note: Note | None, *, whole: bool) -> list[str]:
    if note is None:
        return []
    front = ["---", *note.frontmatter.split("\n"), "---"] if whole and note.frontmatter else []
    return [*front, *note.body.split("\n")]


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)
