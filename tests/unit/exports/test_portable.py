"""Trees of Markdown files and single files: safe, complete or not at all, nothing overwritten."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.errors import (
    BlobExistsError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SourceUnavailableError,
    TruncatedError,
)
from knowtation_backup.exports import portable
from knowtation_backup.exports.convert import records_export
from knowtation_backup.exports.github import GithubBackup
from knowtation_backup.exports.portable import PATHS_NAME, SNAPSHOT_NAME, markdown, write_file, write_tree
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.hub.schema import Note

Pieces = Callable[..., list[bytes]]

HOSTILE = [
    *("../../escape.md", "/abs.md", "C:\\x.md", "con", "A.md", "a.md", "a.md/b.md", "\ud800.md", "", "..", "."),
    *(".git/hooks/post-checkout", ".knowtation/paths.json", ".knowtation/backup/v1/snapshot.json", "x" * 400, "a.md"),
    "x\x00y",
]


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("frontmatter", "content", "size"),
    [
        ("", b"body", 0),
        ("{}", b"body", 0),
        ("{ }", b"---\n{ }\n---\n\nbody", 3),
        ("a: é\r\nb: 1", "---\na: é\r\nb: 1\n---\n\nbody".encode(), 11),
    ],
)
def test_front_matter_rule(frontmatter: str, content: bytes, size: int) -> None:
    assert markdown(Note(path="a", frontmatter=frontmatter, body="body")) == (content, size)


def test_writes_a_tree(full: dict[str, Any], pieces: Pieces, tmp_path: Path) -> None:
    target = tmp_path / "tree"
    report = write_tree(ExportReader(pieces(full)), target)
    assert (report.tenants, report.vaults, report.notes, report.proposals, report.renamed) == (3, 4, 53, 2, 0)
    listing = loads((target / "export.json").read_bytes())
    places = {(item["user_id"], item["vault_id"]): target / item["directory"] for item in listing["vaults"]}
    assert set(places) == {("google:1", name) for name in ("default", "empty", "work")} | {("github:2", "default")}
    assert listing["counts"] == {"tenants": 3, "vaults": 4, "notes": 53, "proposals": 2}
    default = places["google:1", "default"]
    assert files(default) == {"a.md", "b.md", "big.md", PATHS_NAME, SNAPSHOT_NAME}
    assert (default / "b.md").read_text("utf-8") == 'quote " and },{"path":"x"}],"y'
    snapshot = loads((places["google:1", "work"] / SNAPSHOT_NAME).read_bytes())
    assert snapshot == {
        "format_version": 1,
        "kind": "knowtation-hosted-backup",
        "exported_at": full["exported_at"],
        "vault_id": "work",
        "proposals": [{"proposal_id": "prop-1", "vault_id": "work"}],
    }
    assert names(tmp_path) == ["tree"]
    if os.name == "posix":
        assert stat.S_IMODE(target.stat().st_mode) == 0o700
        assert stat.S_IMODE((default / "a.md").stat().st_mode) == 0o600


def test_hostile_paths_stay_inside_and_come_back(pieces: Pieces, tmp_path: Path) -> None:
    notes = [{"path": path, "frontmatter": "{}", "body": f"{number}"} for number, path in enumerate(HOSTILE)]
    notes += [
        {"path": "plain.md", "frontmatter": "", "body": "---\nlooks like\n---\n\nfront matter"},
        {"path": "early.md", "frontmatter": "a\n---\n\nb", "body": "c"},
        {"path": "surrogate.md", "frontmatter": "\ud800", "body": "\udfff\x00\r\n"},
    ]
    user = {"user_id": "../u", "vaults": [{"vault_id": "../v", "notes": notes}], "proposals": []}
    payload = {"format_version": 4, "exported_at": "x", "users": [user]}
    target = tmp_path / "inner" / "tree"
    target.parent.mkdir()
    report = write_tree(ExportReader(pieces(payload)), target)
    assert report.notes == len(notes)
    assert files(tmp_path) == {f"inner/tree/{name}" for name in files(target)}
    place = target / loads((target / "export.json").read_bytes())["vaults"][0]["directory"]
    assert place.resolve().is_relative_to(target.resolve())
    assert len(files(place)) == len(notes) + 2
    found = [entry.note.to_json() for entry in GithubBackup(place, user_id="u") if entry.note]
    assert sorted(found, key=dumps) == sorted(notes, key=dumps)


def test_records_form_gives_the_same_tree(full: dict[str, Any], pieces: Pieces, tmp_path: Path) -> None:
    write_tree(ExportReader(pieces(full)), tmp_path / "a")
    write_file(records_export(ExportReader(pieces(full))), tmp_path / "records.ndjson")
    write_tree(ExportReader([(tmp_path / "records.ndjson").read_bytes()]), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_payload_that_fails_leaves_nothing(full: dict[str, Any], tmp_path: Path) -> None:
    data = dumps(full)
    with pytest.raises(TruncatedError):
        write_tree(ExportReader([data[: len(data) // 2]]), tmp_path / "tree")
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["directory", "file", "link", "dangling"])
def test_nothing_existing_is_touched(full: dict[str, Any], pieces: Pieces, tmp_path: Path, kind: str) -> None:
    target, other = tmp_path / "target", tmp_path / "other"
    other.mkdir()
    match kind:
        case "directory":
            target.mkdir()
        case "file":
            target.write_bytes(b"mine")
        case "link":
            target.symlink_to(other)
        case _:
            target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BlobExistsError):
        write_tree(ExportReader(pieces(full)), target)
    with pytest.raises(BlobExistsError):
        write_file([b"x"], target)
    assert names(tmp_path) == ["other", "target"]
    assert names(other) == []
    assert kind != "file" or target.read_bytes() == b"mine"


def test_writes_a_file_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.ndjson"
    assert write_file([b"ab", b"", b"c"], target) == 3
    assert target.read_bytes() == b"abc"

    def failing() -> Iterator[bytes]:
        yield b"x"
        raise SourceUnavailableError("gone")

    with pytest.raises(SourceUnavailableError):
        write_file(failing(), tmp_path / "b")
    assert names(tmp_path) == ["a.ndjson"]


def test_without_hard_links_the_name_is_still_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "a"
    assert write_file([b"one"], target) == 3
    with pytest.raises(BlobExistsError):
        write_file([b"two"], target)
    assert target.read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), SinkFullError),
        (PermissionError(13, "Permission denied"), SinkPermissionError),
        (OSError(5, "Input/output error"), SinkError),
    ],
)
def test_errors_of_the_system_are_named(
    full: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: type[SinkError]
) -> None:
    real = portable._create

    def fail(path: Path) -> Any:
        if path.name == "big.md":
            raise error
        return real(path)

    monkeypatch.setattr(portable, "_create", fail)
    with pytest.raises(expected) as caught:
        write_tree(ExportReader([dumps(full)]), tmp_path / "tree")
    assert type(caught.value) is expected
    assert names(tmp_path) == []


def test_a_missing_parent_is_named(full: dict[str, Any], pieces: Pieces, tmp_path: Path) -> None:
    with pytest.raises(SinkError):
        write_tree(ExportReader(pieces(full)), tmp_path / "no" / "tree")
    with pytest.raises(SinkError):
        write_file([b"x"], tmp_path / "no" / "file")
