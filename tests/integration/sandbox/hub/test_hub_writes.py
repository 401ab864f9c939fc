"""Writing and deleting notes and vaults, and how request bodies are read (contracts 1.9)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.sandbox.hub.conftest import Api, error_code

BAD_REQUEST = (400, "BAD_REQUEST")


def batch(*items: dict[str, Any]) -> dict[str, Any]:
    return {"notes": list(items)}


# One note


def test_a_note_is_created_and_overwritten(api: Api) -> None:
    reply = api.post("/api/v1/notes", {"path": "a.md", "body": "1", "frontmatter": "t: 1\n"})
    assert (reply.status_code, reply.text) == (200, '{"path":"a.md","written":true}')
    api.post("/api/v1/notes", {"path": "a.md", "body": "2"})
    assert api.notes() == {"a.md": ("{}", "2")}


@pytest.mark.parametrize("body", ["", "{}", '{"body":"x"}', '{"path":"","body":"x"}', '{"path":1,"body":"x"}', "[]"])
def test_a_note_needs_a_path(api: Api, body: str) -> None:
    assert error_code(api.post("/api/v1/notes", body)) == BAD_REQUEST
    assert api.vaults() == ["default"]


@pytest.mark.parametrize("body", ['{"path":"a.md"}', '{"path":"a.md","body":null,"frontmatter":"x"}'])
def test_a_missing_body_stores_the_whole_request(api: Api, body: str) -> None:
    assert api.post("/api/v1/notes", body).status_code == 200
    assert api.notes()["a.md"][1] == body


def test_an_empty_body_is_stored_empty(api: Api) -> None:
    api.post("/api/v1/notes", {"path": "a.md", "body": "", "frontmatter": ""})
    assert api.notes() == {"a.md": ("", "")}


def test_a_body_that_is_not_utf_8_is_refused(api: Api) -> None:
    assert error_code(api.post("/api/v1/notes", b'{"path":"a.md","body":"\xff"}')) == BAD_REQUEST


# How bodies are read


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (r"\"quoted\" \\ \n \r \t", '"quoted" \\ \n \r \t'),
        (r"\\n \\\" \\\\", '\\n \\" \\\\'),
        (r"\u0041 \u00e9 \ud83d\ude00", r"\u0041 \u00e9 \ud83d\ude00"),
        (r"\b \f \/ \x", r"\b \f \/ \x"),
        ("raw \x00 \x01 \x1f \n \r \t \x7f", "raw \x00 \x01 \x1f \n \r \t \x7f"),
        ("é 日本 😀 \u2028", "é 日本 😀 \u2028"),
        (r"{\"path\":\"not this\"}", '{"path":"not this"}'),
        ("}{][", "}{]["),
    ],
)
def test_escapes_of_strings(api: Api, sent: str, stored: str) -> None:
    assert api.post("/api/v1/notes", f'{{"path":"a.md","body":"{sent}","frontmatter":"{sent}"}}').status_code == 200
    assert api.notes() == {"a.md": (stored, stored)}


def test_what_a_careful_client_sends_comes_back_exactly(api: Api) -> None:
    text = "".join(map(chr, range(0x250)))
    api.post("/api/v1/notes", {"path": text, "body": text, "frontmatter": text})
    assert api.notes() == {text: (text, text)}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"path":"1","path":"2","body":"b"}', {"1": ("{}", "b")}),
        ('{"frontmatter":{"path":"inner","body":"inner"},"path":"outer","body":"outer"}',
         {"inner": ('{"path":"inner","body":"inner"}', "inner")}),
        ('{"x":{"y":[{"path":"deep"}]},"path":"outer","body":"b"}', {"deep": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter":{"path":"p","body":"q"}}', {"a": ('{"path":"p","body":"q"}', "b")}),
        ('{"path":"a","body":"b","frontmatter":"{\\"k\\":1}"}', {"a": ('{"k":1}', "b")}),
        ('{"path":"a","body":"b","frontmatter":{}}', {"a": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter":{"k":"}\\"{" , "l":{"m":{}}}}',
         {"a": ('{"k":"}\\"{" , "l":{"m":{}}}', "b")}),
        ('{"path":"a","body":"b","frontmatter":{"k":"\\u00e9\\n"}}', {"a": ('{"k":"\\u00e9\\n"}', "b")}),
        ('{"path":"a","body":"b","frontmatter":null}', {"a": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter":[1]}', {"a": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter":7}', {"a": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter":{"k":1}', {"a": ('{"k":1}', "b")}),
        ('{"path":"a","body":"b","frontmatter":{"k":1', {"a": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter":"k', {"a": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter" : "k"}', {"a": ("{}", "b")}),
        ('{"path":"a","body":"b","frontmatter": "k"}', {"a": ("{}", "b")}),
        ('before {"path":"a","body":"b"} after', {"a": ("{}", "b")}),
    ],
)  # fmt: skip
def test_bodies_are_scanned_and_not_parsed(api: Api, body: str, expected: dict[str, tuple[str, str]]) -> None:
    assert api.post("/api/v1/notes", body).status_code == 200
    assert api.notes() == expected


@pytest.mark.parametrize("body", ['{"path" :"a","body":"b"}', '{"path": "a","body":"b"}', '{"path":"a', '{"path":'])
def test_a_key_counts_only_without_space_and_with_an_end(api: Api, body: str) -> None:
    assert error_code(api.post("/api/v1/notes", body)) == BAD_REQUEST


def test_a_spaced_body_key_counts_as_missing(api: Api) -> None:
    sent = '{"path":"a.md", "body": "b"}'
    api.post("/api/v1/notes", sent)
    assert api.notes()["a.md"][1] == sent


# Batches


def test_a_batch_is_written(api: Api) -> None:
    items = batch({"path": "a", "body": "A", "frontmatter": {"k": 1}}, {"path": "b"}, {"path": "c", "body": "C"})
    assert api.post("/api/v1/notes/batch", items).text == '{"imported":3,"written":true}'
    assert api.notes() == {"a": ('{"k":1}', "A"), "b": ("{}", ""), "c": ("{}", "C")}


def test_in_a_batch_a_later_duplicate_wins(api: Api) -> None:
    reply = api.post("/api/v1/notes/batch", batch({"path": "a", "body": "1"}, {"path": "a", "body": "2"}))
    assert reply.json() == {"imported": 2, "written": True}
    assert api.notes() == {"a": ("{}", "2")}


def test_a_batch_holds_100_notes(api: Api) -> None:
    items = [{"path": f"n{number:03}", "body": "x"} for number in range(101)]
    assert error_code(api.post("/api/v1/notes/batch", batch(*items))) == BAD_REQUEST
    assert api.notes() == {}
    assert api.post("/api/v1/notes/batch", batch(*items[:100])).json()["imported"] == 100
    assert len(api.notes()) == 100


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        '{"notes":{}}',
        '{"notes":"x"}',
        '{"notes":[',
        '{"notes":[{"path":"a"}',
        '{"notes":[{"path":"a"},',
        '{"notes":[{"path":"a"},]}',
        '{"notes":[{"path":"a"} {"path":"b"}]}',
        '{"notes":[{"path":"a"},1]}',
        '{"notes":[{"path":"a","body":"never closed}]}',
        '{"notes":[{"path":"a"},{"body":"no path"}]}',
        '{"notes":[{"path":"a"},{"path":""}]}',
    ],
)
def test_a_bad_batch_writes_nothing(api: Api, body: str) -> None:
    assert error_code(api.post("/api/v1/notes/batch", body)) == BAD_REQUEST
    assert api.get("/api/v1/notes").json()["total"] == 0


@pytest.mark.parametrize("body", ['{"notes":[]}', '{"notes":[ ]}'])
def test_an_empty_batch_is_fine(api: Api, body: str) -> None:
    assert api.post("/api/v1/notes/batch", body).json() == {"imported": 0, "written": True}


def test_items_of_a_batch_may_be_spaced(api: Api) -> None:
    assert api.post("/api/v1/notes/batch", '{"notes":[ {"path":"a"} ,\n\t{"path":"b"} ]}').json()["imported"] == 2


def test_each_item_of_a_batch_is_read_for_itself(api: Api) -> None:
    api.post("/api/v1/notes/batch", '{"notes":[{"path":"a"},{"path":"b","body":"B","frontmatter":"F"}]}')
    assert api.notes() == {"a": ("{}", ""), "b": ("F", "B")}


# Deleting


def test_a_note_is_deleted(api: Api) -> None:
    api.write("dir/a b.md")
    reply = api.delete("/api/v1/notes/dir/a%20b.md")
    assert (reply.status_code, reply.text) == (200, '{"path":"dir/a b.md","deleted":true}')
    assert error_code(api.delete("/api/v1/notes/dir/a%20b.md")) == (404, "NOT_FOUND")


def test_deleting_needs_the_right_vault(api: Api) -> None:
    api.write("a.md", vault="work")
    assert api.delete("/api/v1/notes/a.md").status_code == 404
    assert api.notes("work") == {"a.md": ("{}", "")}


@pytest.mark.parametrize("prefix", ["dir", "dir/", "dir//"])
def test_deleting_by_prefix(api: Api, prefix: str) -> None:
    for path in ("dir", "dir/a", "dir/sub/b", "dir-2/c", "dir.md", "di", "other/dir/d"):
        api.write(path)
    open_ones = [api.propose("dir"), api.propose("dir/x")]
    kept = [api.propose("dir-2/x"), api.propose("di")]
    closed = api.propose("dir/y")
    api.step(closed, "discard", {})
    reply = api.post("/api/v1/notes/delete-by-prefix", {"path_prefix": prefix})
    assert reply.text == '{"deleted":3,"paths":["dir","dir/a","dir/sub/b"],"proposals_discarded":2}'
    assert list(api.notes()) == ["di", "dir-2/c", "dir.md", "other/dir/d"]
    assert [api.proposal(proposal_id)["status"] for proposal_id in open_ones] == ["discarded"] * 2
    assert [api.proposal(proposal_id)["status"] for proposal_id in kept] == ["proposed"] * 2


def test_deleting_an_unknown_prefix_deletes_nothing(api: Api) -> None:
    reply = api.post("/api/v1/notes/delete-by-prefix", {"path_prefix": "none"})
    assert reply.json() == {"deleted": 0, "paths": [], "proposals_discarded": 0}


def test_deleting_by_prefix_stays_in_its_vault(api: Api) -> None:
    api.write("dir/a", vault="work")
    proposal_id = api.propose("dir/b", vault="work")
    assert api.post("/api/v1/notes/delete-by-prefix", {"path_prefix": "dir"}).json()["deleted"] == 0
    assert api.notes("work") == {"dir/a": ("{}", "")}
    assert api.proposal(proposal_id, vault="work")["status"] == "proposed"


@pytest.mark.parametrize("prefix", ["..", "../a", "a/..", "a/../b", "", "/"])
def test_bad_prefixes_are_refused(api: Api, prefix: str) -> None:
    api.write("a/b")
    assert error_code(api.post("/api/v1/notes/delete-by-prefix", {"path_prefix": prefix})) == BAD_REQUEST
    assert list(api.notes()) == ["a/b"]


def test_a_missing_prefix_is_refused(api: Api) -> None:
    assert error_code(api.post("/api/v1/notes/delete-by-prefix", "{}")) == BAD_REQUEST


def test_dots_in_names_are_no_segments(api: Api) -> None:
    api.write("a..b/c")
    assert api.post("/api/v1/notes/delete-by-prefix", {"path_prefix": "a..b"}).json()["deleted"] == 1


def test_a_vault_is_deleted_with_its_proposals(api: Api) -> None:
    api.write("a.md", vault="work")
    api.write("b.md")
    for _ in range(2):
        api.propose(vault="work")
    kept = api.propose()
    reply = api.delete("/api/v1/vaults/work")
    assert (reply.status_code, reply.text) == (200, '{"ok":true,"deleted_vault_id":"work","proposals_removed":2}')
    assert api.vaults() == ["default"]
    assert api.notes("work") == {}
    assert api.get("/api/v1/proposals", vault="work").json()["total"] == 0
    assert api.proposal(kept)["status"] == "proposed"


def test_the_vault_default_cannot_be_deleted(api: Api) -> None:
    api.write("a.md")
    assert error_code(api.delete("/api/v1/vaults/default")) == BAD_REQUEST
    assert list(api.notes()) == ["a.md"]


def test_an_unknown_vault_cannot_be_deleted(api: Api) -> None:
    assert error_code(api.delete("/api/v1/vaults/none")) == (404, "NOT_FOUND")


def test_writes_of_a_megabyte_are_read(api: Api) -> None:
    body = 'line "quoted"\n' * 80_000
    assert api.post("/api/v1/notes", {"path": "big.md", "body": body}).status_code == 200
    assert api.notes() == {"big.md": ("{}", body)}
