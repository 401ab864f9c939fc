"""Comparing one note of two archives, field by field and line by line."""

from pathlib import Path
from typing import Any

import pytest
from export_stage import stored_export, user
from repository_stage import new_repository

from knowtation_backup.errors import BlobNotFoundError
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.difference_reports import Change
from knowtation_backup.operations.repository.note_difference import NoteDiff, diff_note
from knowtation_backup.sinks.memory import MemorySink


def compared(directory: Path, old: dict[str, Any] | None, new: dict[str, Any] | None) -> NoteDiff:
    repository = new_repository(MemorySink())
    ids: list[str] = []
    for note in (old, new):
        ann = user("ann", notes=0, proposals=0)
        ann["vaults"][0]["notes"] = [{"path": "other.md", "frontmatter": "{}", "body": str(len(ids))}]
        ann["vaults"][0]["notes"] += [{"path": "a.md", "frontmatter": "{}", "body": "", **note}] if note else []
        ids.append(stored_export(repository, directory, ann, exported_at=f"2026-04-0{1 + len(ids)}T00:00:00.000Z"))
    return diff_note(repository, ids[0], ids[1], "ann", "work", "a.md")


def test_lines_are_compared(tmp_path: Path) -> None:
    found = compared(tmp_path, {"body": "one\ntwo\nthree"}, {"body": "one\n2\nthree"})
    assert (found.change, found.outcome, found.fields) == (Change.CHANGED, Outcome.DIFFERENT, ())
    assert found.lines[2:] == ("@@ -1,3 +1,3 @@", " one", "-two", "+2", " three")
    assert "ann/work/a.md: changed" in str(found)


def test_fields_of_front_matter_are_compared(tmp_path: Path) -> None:
    old = {"frontmatter": '{"title":"a","tags":["x"],"same":{"b":1,"a":2}}'}
    new = {"frontmatter": '{"same":{"a":2,"b":1},"title":"b","pinned":true}'}
    found = compared(tmp_path, old, new)
    assert {(one.name, one.before, one.after) for one in found.fields} == {
        ("title", '"a"', '"b"'),
        ("tags", '["x"]', None),
        ("pinned", None, "true"),
    }
    assert found.lines == ()
    assert 'title: "a" -> "b"' in str(found)


@pytest.mark.parametrize("front", ["title: yaml", "[1]", "{", "[" * 5000])
def test_other_front_matter_is_text(tmp_path: Path, front: str) -> None:
    found = compared(tmp_path, {"frontmatter": front}, {"frontmatter": '{"title":"b"}'})
    assert found.fields == ()
    assert f"-{front}" in found.lines
    assert '+{"title":"b"}' in found.lines


def test_the_same_is_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, {"body": "x"}, {"body": "x"})
    assert (found.change, found.outcome, found.lines) == (Change.SAME, Outcome.OK, ())


def test_notes_come_and_go(tmp_path: Path) -> None:
    found = compared(tmp_path, None, {"body": "new", "frontmatter": '{"a":1}'})
    assert (found.change, found.lines[-1], found.fields[0].before) == (Change.ADDED, "+new", None)
    found = compared(tmp_path, {"body": "old"}, None)
    assert (found.change, found.lines[-1]) == (Change.REMOVED, "-old")
    with pytest.raises(BlobNotFoundError) as caught:
        compared(tmp_path, None, None)
    assert caught.value.kind == "no_such_record"


def test_a_note_cannot_steer_a_terminal(tmp_path: Path) -> None:
    found = compared(tmp_path, {"body": "x"}, {"body": "\x1b[2J\r\u202e\ud800"})
    assert "+\x1b[2J\r\u202e\ud800" in found.lines
    assert str(found).splitlines()[-1] == "+\\x1b[2J\\r\\u202e\\ud800"
