"""Shapes of hub replies: contracts 1.4 to 1.7."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.errors import ExportError
from knowtation_backup.hub.schema import (
    IndexPage,
    Note,
    is_unparseable,
    merge_proposals,
    parse_index,
    parse_notes,
    parse_proposal,
    parse_stubs,
    parse_vaults,
    proposal_vault_of,
)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["notes", "path", "body", "frontmatter", "vaults", "id", "user_ids", "proposals", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "page", "last"),
    [
        ({"user_ids": ["a", "b"], "next_cursor": "2", "done": False}, (("a", "b"), "2", False), False),
        ({"user_ids": [], "next_cursor": "", "done": True}, ((), "", True), True),
        ({"user_ids": ["a"], "next_cursor": " ", "done": False}, (("a",), "", False), True),
        ({"user_ids": "a", "done": False, "next_cursor": 2}, ((), "", False), True),
        ({}, ((), "", False), True),
    ],
)
def test_index_pages(value: Any, page: tuple[tuple[str, ...], str, bool], *, last: bool) -> None:
    parsed = parse_index(value)
    assert parsed == IndexPage(user_ids=page[0], next_cursor=page[1], done=page[2])
    assert parsed.last is last


@pytest.mark.parametrize("value", [[], None, "x", {"user_ids": ["a", 1]}])
def test_index_refuses_other_shapes(value: Any) -> None:
    with pytest.raises(ExportError) as caught:
        parse_index(value)
    assert caught.value.kind == "bad_reply"


@pytest.mark.parametrize(
    ("value", "vaults"),
    [
        ({"vaults": [{"id": "b", "label": "b"}, {"id": "a"}, {"id": "b"}]}, ("b", "a")),
        ({"vaults": [{"id": ""}, {"id": "  "}, {"label": "x"}, {"id": 3}, "y"]}, ("default",)),
        ({"vaults": [{"id": ""}, {"id": "work"}]}, ("work",)),
        ({"vaults": []}, ("default",)),
        ({"vaults": {"id": "a"}}, ("default",)),
        ({}, ("default",)),
    ],
)
def test_vault_default_rule(value: Any, vaults: tuple[str, ...]) -> None:
    assert parse_vaults(value) == vaults


def test_notes_are_kept_exactly() -> None:
    note = {"path": "é/\ud800.md", "frontmatter": '"{\\"a\\": 1}"', "body": "a\r\n\x00\udfff"}
    parsed = parse_notes({"notes": [note, {**note, "unknown": 1}], "total": 2})
    assert [item.to_json() for item in parsed.notes] == [note, note]
    assert parsed.findings == ()
    assert parsed.notes[0].to_bytes() == dumps(note)


def test_missing_list_of_notes_is_a_finding() -> None:
    parsed = parse_notes({"note": []}, where="google:1/default")
    assert parsed.notes == ()
    assert [(f.code, f.where) for f in parsed.findings] == [("notes_missing", "google:1/default")]


def test_odd_notes_are_adapted_with_a_finding() -> None:
    parsed = parse_notes({"notes": [{"path": "a", "frontmatter": {"b": 1}, "body": "x"}, {"path": "c"}]}, where="u/v")
    assert parsed.notes == (Note(path="a", frontmatter='{"b":1}', body="x"), Note(path="c", frontmatter="", body=""))
    assert [(f.code, f.where) for f in parsed.findings] == [("note_adapted", "u/v/a"), ("note_adapted", "u/v/c")]


@pytest.mark.parametrize(
    "note", [None, "a", {}, {"path": 1}, {"path": "a", "body": 1}, {"path": "a", "frontmatter": ["x"], "body": ""}]
)
def test_notes_refuse_other_shapes(note: Any) -> None:
    with pytest.raises(ExportError) as caught:
        parse_notes({"notes": [note]}, where="google:1/default")
    assert caught.value.context["where"] == "google:1/default"


def test_notes_hide_their_content() -> None:
    assert "secret" not in repr(Note(path="a.md", frontmatter="secret", body="secret"))


def test_stubs_without_id_are_counted() -> None:
    parsed = parse_stubs({"proposals": [{"proposal_id": "p1"}, {"proposal_id": ""}, {}, 5], "total": 4})
    assert parsed.stubs == ({"proposal_id": "p1"},)
    assert parsed.without_id == 3
    assert parse_stubs({}, where="u/v").findings[0].code == "proposals_missing"


def test_proposals_are_kept_verbatim() -> None:
    raw = b'{"z":1.50,"proposal_id":"p","unknown":{"n":12345678901234567890}}'
    parsed = parse_proposal(raw, proposal_id="p", stub={})
    assert parsed.raw is None
    assert dumps(parsed.proposal) == raw
    assert not is_unparseable(parsed.proposal)


@pytest.mark.parametrize("raw", [b'{"a": {"b":1}{"c":2}}', b"", b"[1]", b"\xff{", b'{"a":1'])
def test_malformed_proposals_become_the_documented_object(raw: bytes) -> None:
    stub = {"proposal_id": "p", "path": "a.md", "status": 7, "vault_id": "work", "intent": "x"}
    parsed = parse_proposal(raw, proposal_id="p", stub=stub)
    assert parsed.raw == raw
    assert list(parsed.proposal.items()) == [
        ("proposal_id", "p"),
        ("path", "a.md"),
        ("status", ""),
        ("vault_id", "work"),
        ("_knowtation_backup_json_unparseable", True),
        ("_knowtation_backup_upstream_preview", raw.decode("utf-8", "replace")),
    ]
    assert is_unparseable(parsed.proposal)


def test_preview_is_cut_at_4000_utf16_units() -> None:
    raw = ("x" * 3999 + "\U0001f600" * 10).encode()
    preview = parse_proposal(raw, proposal_id="p", stub={}).proposal["_knowtation_backup_upstream_preview"]
    assert preview == "x" * 3999 + "\ud83d"  # half a pair, as JavaScript's slice leaves it
    assert dumps(preview).endswith(b'\\ud83d"')


def test_merge_keeps_the_earlier_place_and_the_later_value() -> None:
    merged = merge_proposals(
        [
            {"proposal_id": "p1", "vault_id": "default", "n": 1},
            {"proposal_id": "p2", "vault_id": "default"},
            {"proposal_id": "p1", "vault_id": " ", "n": 2},
            {"proposal_id": "", "vault_id": "default"},
            {"vault_id": "default"},
        ]
    )
    assert merged.proposals == (
        {"proposal_id": "p1", "vault_id": " ", "n": 2},
        {"proposal_id": "p2", "vault_id": "default"},
    )
    assert merged.without_id == 2
    assert merged.collisions == ()


def test_merge_keeps_one_id_in_two_vaults() -> None:
    both = ({"proposal_id": "p1", "vault_id": "a"}, {"proposal_id": "p1", "vault_id": "b"})
    merged = merge_proposals(both)
    assert merged.proposals == both
    assert merged.collisions == ("p1",)


@pytest.mark.parametrize("vault_id", ["", "  ", None, 5])
def test_blank_vault_of_a_proposal_is_default(vault_id: Any) -> None:
    assert proposal_vault_of({"vault_id": vault_id}) == "default"
    assert proposal_vault_of({}) == "default"


@given(JSON)
def test_any_json_parses_or_is_refused(value: Any) -> None:
    for parse in (parse_index, parse_vaults, parse_notes, parse_stubs):
        try:
            parse(value)
        except ExportError as error:
            assert error.kind == "bad_reply"  # noqa: PT017 - either outcome is right


@given(st.binary(max_size=200))
def test_any_reply_becomes_a_proposal_that_can_be_written(raw: bytes) -> None:
    proposal = parse_proposal(raw, proposal_id="p", stub={"path": "\ud800"}).proposal
    assert loads(dumps(proposal)) == proposal
