"""A user's GitHub backup read from a working tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    IntegrityError,
    SourceError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.exports.convert import full_export
from knowtation_backup.exports.github import FolderLimits, GithubBackup, split_markdown
from knowtation_backup.exports.portable import PATHS_NAME, SNAPSHOT_NAME, markdown
from knowtation_backup.exports.records import RecordKind
from knowtation_backup.hub.schema import Note

SNAPSHOT = {
    "format_version": 1,
    "kind": "knowtation-hosted-backup",
    "exported_at": "2026-04-08T15:30:22.123Z",
    "vault_id": "work",
    "proposals": [{"proposal_id": "p", "vault_id": "work"}],
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    put(tmp_path, SNAPSHOT_NAME, dumps(SNAPSHOT))
    put(tmp_path, "b.md", b"just a body\r\n")
    put(tmp_path, "notes/é.MD", b"---\ntitle: x\n---\n\nthe body")
    put(tmp_path, "notes/.hidden.md", b"---\nno end")
    put(tmp_path, ".git/HEAD.md", b"not a note")
    put(tmp_path, "image.png", b"\x89PNG")
    return tmp_path


def put(root: Path, name: str, content: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def notes(backup: GithubBackup) -> dict[str, tuple[str, str]]:
    return {entry.note.path: (entry.note.frontmatter, entry.note.body) for entry in backup if entry.note}


def test_reads_a_repository(repo: Path) -> None:
    backup = GithubBackup(repo, user_id="google:1")
    entries = list(backup)
    kinds = [entry.kind for entry in entries]
    assert kinds == [RecordKind.TENANT, RecordKind.VAULT, *[RecordKind.NOTE] * 3, RecordKind.PROPOSAL]
    assert {entry.user_id for entry in entries} == {"google:1"}
    assert {entry.vault_id for entry in entries[1:]} == {"work"}
    assert notes(backup) == {
        "b.md": ("{}", "just a body\r\n"),
        "notes/.hidden.md": ("{}", "---\nno end"),
        "notes/é.MD": ("title: x", "the body"),
    }
    assert [(f.code, f.where) for f in backup.findings] == [("not_markdown", "image.png")]
    assert backup.header.exported_at == SNAPSHOT["exported_at"]


def test_becomes_a_full_export(repo: Path) -> None:
    value = loads(b"".join(full_export(GithubBackup(repo, user_id="google:1"))))
    (user,) = value["users"]
    assert (user["user_id"], user["vaults"][0]["vault_id"]) == ("google:1", "work")
    assert [note["path"] for note in user["vaults"][0]["notes"]] == ["b.md", "notes/.hidden.md", "notes/é.MD"]
    assert user["proposals"] == SNAPSHOT["proposals"]


def test_links_are_never_followed(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    put(outside, "secret.md", b"secret")
    (repo / "link.md").symlink_to(outside / "secret.md")
    (repo / "folder").symlink_to(outside)
    os.mkfifo(repo / "pipe.md")
    backup = GithubBackup(repo, user_id="u")
    assert "secret" not in repr(notes(backup))
    found = {(finding.code, finding.where) for finding in backup.findings}
    assert {("not_a_file", "link.md"), ("not_a_file", "folder"), ("not_a_file", "pipe.md")} <= found


def test_a_linked_snapshot_is_refused(repo: Path) -> None:
    (repo / SNAPSHOT_NAME).rename(repo / "elsewhere.json")
    (repo / SNAPSHOT_NAME).symlink_to(repo / "elsewhere.json")
    with pytest.raises(SourceError):
        list(GithubBackup(repo, user_id="u"))
    (repo / ".knowtation").rename(repo / "moved")
    (repo / ".knowtation").symlink_to(repo / "moved")
    with pytest.raises(IntegrityError) as caught:
        list(GithubBackup(repo, user_id="u"))
    assert caught.value.kind == "symbolic_link"


def test_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        list(GithubBackup(tmp_path, user_id="u"))
    assert caught.value.kind == "not_a_github_backup"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", TruncatedError),
        (b"{", TruncatedError),
        (b"nonsense", UnsupportedFormatError),
        (dumps({**SNAPSHOT, "format_version": 2, "kind": "knowtation-operator-vault-export"}), IntegrityError),
        (dumps({**SNAPSHOT, "format_version": 9}), UnsupportedFormatError),
        (dumps({**SNAPSHOT, "proposals": 5}), IntegrityError),
    ],
)
def test_other_snapshots_are_refused(repo: Path, content: bytes, expected: type[BackupError]) -> None:
    put(repo, SNAPSHOT_NAME, content)
    with pytest.raises(expected):
        list(GithubBackup(repo, user_id="u"))


@pytest.mark.parametrize("limits", [FolderLimits(file_bytes=500), FolderLimits(files=2), FolderLimits(depth=1)])
def test_limits(repo: Path, limits: FolderLimits) -> None:
    put(repo, "deep/er/x.md", b"x")
    put(repo, "large.md", b"x" * 501)
    with pytest.raises(IntegrityError) as caught:
        list(GithubBackup(repo, user_id="u", limits=limits))
    assert caught.value.kind == "folder_limit"


def test_notes_must_be_text(repo: Path) -> None:
    put(repo, "bad.md", b"\xff")
    with pytest.raises(IntegrityError) as caught:
        list(GithubBackup(repo, user_id="u"))
    assert caught.value.kind == "bad_text"


def listing(*items: dict[str, object]) -> bytes:
    return dumps({"format": "knowtation-backup-paths", "format_version": 1, "notes": list(items)})


def test_listed_files_have_their_own_path(repo: Path) -> None:
    put(
        repo,
        PATHS_NAME,
        listing(
            {"file": "b.md", "path": "../b", "frontmatter_bytes": 0, "frontmatter": ""},
            {"file": "notes/é.MD", "path": "x", "frontmatter_bytes": 99},
        ),
    )
    found = notes(GithubBackup(repo, user_id="u"))
    assert found["../b"] == ("", "just a body\r\n")
    assert found["x"] == ("title: x", "the body")  # edited since it was listed: what stands in the file counts


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "bad_paths"),
        (dumps({"format": "other", "format_version": 1, "notes": []}), "bad_paths"),
        (listing({"path": "x"}), "bad_paths"),
        (listing({"file": "b.md"}), "bad_paths"),
        (listing({"file": "gone.md", "path": "x"}), "missing_note"),
    ],
)
def test_damaged_listings_are_refused(repo: Path, content: bytes, kind: str) -> None:
    put(repo, PATHS_NAME, content)
    with pytest.raises(IntegrityError) as caught:
        list(GithubBackup(repo, user_id="u"))
    assert caught.value.kind == kind


TEXT = st.text(st.characters(codec=None, categories=None) | st.sampled_from("-\n{}"), max_size=20)


@given(TEXT.filter(lambda text: text not in ("", "{}")), TEXT)
def test_splitting_inverts_writing(frontmatter: str, body: str) -> None:
    content, _ = markdown(Note(path="a", frontmatter=frontmatter, body=body))
    if "\n---\n\n" not in f"{frontmatter}\n---\n":  # the one thing the form cannot say
        assert split_markdown(content) == (frontmatter, body)


@given(TEXT)
def test_bodies_alone_come_back(body: str) -> None:
    if not body.startswith("---\n"):
        assert split_markdown(markdown(Note(path="a", frontmatter="{}", body=body))[0]) == ("{}", body)


@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda data: b"---\n" + data + b"\n---\n\n" + data))
def test_arbitrary_files_split_or_are_refused(content: bytes) -> None:
    try:
        frontmatter, body = split_markdown(content)
    except IntegrityError:
        return
    assert (frontmatter + body).encode("utf-8", "surrogatepass") in {content, b"{}" + content} or b"---" in content
