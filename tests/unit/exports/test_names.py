"""Safe file names for hostile paths."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup.exports.names import SafeNames

RESERVED = {"con", "prn", "aux", "nul", "com1", "lpt9", "com¹", "conin$", "git~1"}


@pytest.mark.parametrize("path", ["a.md", "notes/2024/January review.md", "é/日本.md", "no extension", "a-b_c (1).md"])
def test_safe_paths_keep_their_name(path: str) -> None:
    assert SafeNames().add(path) == path


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("../../etc/passwd", r"__/__/etc/passwd~[0-9a-f]{8}"),
        ("/abs.md", r"_/abs~[0-9a-f]{8}\.md"),
        ("C:\\x.md", r"C__x~[0-9a-f]{8}\.md"),
        ("NUL.txt", r"_NUL~[0-9a-f]{8}\.txt"),
        ("dir/aux/x.md", r"dir/_aux/x~[0-9a-f]{8}\.md"),
        (".git/config", r"_git/config~[0-9a-f]{8}"),
        (".knowtation/paths.json", r"_knowtation/paths~[0-9a-f]{8}\.json"),
        ("tail. ", r"tail~[0-9a-f]{8}\._"),
        ("a\x00b\x1b.md", r"a_b_~[0-9a-f]{8}\.md"),
        ("\ud800.md", r"_~[0-9a-f]{8}\.md"),
        ("gpj\u202e.md", r"gpj_~[0-9a-f]{8}\.md"),
        ("", r"_~[0-9a-f]{8}"),
        ("a//b", r"a/_/b~[0-9a-f]{8}"),
        ("x" * 500 + ".md", r"x{108}~[0-9a-f]{8}\.md"),
        ("a/" * 300 + "b.md", r"_moved/b~[0-9a-f]{24}\.md"),
    ],
)
def test_unsafe_paths_are_marked(path: str, pattern: str) -> None:
    name = SafeNames().add(path)
    assert re.fullmatch(pattern, name), name
    assert SafeNames().add(path) == name


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Note.md", "note.md"),
        ("é.md", "e\u0301.md"),
        ("straße", "STRASSE"),
        ("dir/x", "dir"),
        ("dir", "dir/x"),
        ("DIR", "dir/x"),
        ("\ufb01le", "file"),
        ("same", "same"),
    ],
)
def test_what_meets_on_some_systems_is_told_apart(first: str, second: str) -> None:
    names = SafeNames()
    assert names.add(first) == unicodedata.normalize("NFC", first)
    assert names.add(second) not in {first, second}


def test_segments_have_no_separator() -> None:
    assert re.fullmatch(r"a_b~[0-9a-f]{8}", SafeNames().add_segment("a/b"))
    assert SafeNames().add_segment("default") == "default"


PATHS = st.text(st.characters(codec=None, categories=None) | st.sampled_from("./\\:aA~éCON\x00"), max_size=30)


@given(st.lists(PATHS | st.sampled_from(["..", "con", "a", "A", "a/b", "A/B", "com1.x", "x" * 300]), max_size=12))
def test_names_are_safe_and_different(paths: list[str]) -> None:
    names = SafeNames()
    found = [names.add(path) for path in paths]
    folded = [unicodedata.normalize("NFKC", name.casefold()) for name in found]
    assert len(set(folded)) == len(folded)
    for name, key in zip(found, folded, strict=True):
        assert not any(other.startswith(f"{key}/") for other in folded)  # never a file where a directory is needed
        assert len(name.encode()) <= 400
        assert name == unicodedata.normalize("NFC", name)
        for segment in name.split("/"):
            assert 1 <= len(segment.encode()) <= 255
            assert not segment.startswith(".")
            assert not segment.endswith((".", " "))
            assert not re.search(r'[\x00-\x1f\x7f<>:"|?*\\]', segment)
            assert segment.partition(".")[0].lower() not in RESERVED
