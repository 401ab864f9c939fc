"""Reading notes, vaults and the operator index (contracts 1.4, 1.5, 1.7, 1.8)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.sandbox.hub.conftest import Api, error_code

INDEX_KEYS = ["format_version", "kind", "exported_at_ns", "user_ids", "next_cursor", "done"]


def seed(api: Api, user_id: str, vault_id: str = "default", **notes: str) -> None:
    entries = [{"path": path, "frontmatter": "{}", "body": body} for path, body in notes.items()]
    vault: dict[str, Any] = {"user_id": user_id, "vault_id": vault_id, "create_vault": True, "notes": entries}
    api.hub.seed_vaults([vault | {"proposals": []}])


# Notes


def test_an_export_is_all_notes_with_exactly_three_keys(api: Api) -> None:
    api.post("/api/v1/notes", {"path": "b.md", "body": "B", "frontmatter": '{"t":1}'})
    api.write("a.md", "A")
    assert api.get("/api/v1/export").text == (
        '{"notes":[{"path":"a.md","frontmatter":"{}","body":"A"},'
        '{"path":"b.md","frontmatter":"{\\"t\\":1}","body":"B"}]}'
    )


def test_the_list_of_notes_has_a_total(api: Api) -> None:
    api.write("a.md", "A")
    assert api.get("/api/v1/notes").text == '{"notes":[{"path":"a.md","frontmatter":"{}","body":"A"}],"total":1}'


@pytest.mark.parametrize("query", ["?limit=1", "?offset=1&limit=0", "?path=a.md", "?"])
def test_query_parameters_of_lists_are_ignored(api: Api, query: str) -> None:
    api.write("a.md")
    api.write("b.md")
    for path in ("export", "notes"):
        assert len(api.get(f"/api/v1/{path}{query}").json()["notes"]) == 2


def test_one_note_by_path(api: Api) -> None:
    api.write("dir/a b.md", "A")
    for encoded in ("dir/a%20b.md", "dir%2Fa%20b.md", "dir%2fa%20b.md", "dir/a%20b.md/"):
        assert api.get(f"/api/v1/notes/{encoded}").json() == {"path": "dir/a b.md", "frontmatter": "{}", "body": "A"}


@pytest.mark.parametrize("path", ["none.md", "a", "a.md.md", "A.md", "%61.md.", ".md"])
def test_a_note_that_is_not_there_is_not_found(api: Api, path: str) -> None:
    api.write("a.md")
    assert error_code(api.get(f"/api/v1/notes/{path}")) == (404, "NOT_FOUND")


def test_empty_tenants_read_as_empty(api: Api) -> None:
    assert api.get("/api/v1/export").text == '{"notes":[]}'
    assert api.get("/api/v1/notes").text == '{"notes":[],"total":0}'
    assert api.get("/api/v1/proposals").text == '{"proposals":[],"total":0}'


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, range(0x20))),
        '"\\/',
        "\x7f\x80\u2028\ufeff",
        "é日😀\U0010ffff",
        "\r\n",
        "\\u0041 \\n",
        "",
        "\x00",
    ],
)
def test_texts_are_exported_exactly(api: Api, text: str) -> None:
    seed(api, api.user, **{f"x{text}": text})
    assert api.notes() == {f"x{text}": ("{}", text)}


def test_front_matter_is_text(api: Api) -> None:
    api.post("/api/v1/notes", '{"path":"a.md","body":"","frontmatter":{"a": [1, 2] }}')
    assert api.notes()["a.md"][0] == '{"a": [1, 2] }'


# The trap of paths beyond ASCII: %XX is decoded byte by byte as Latin-1


def test_a_note_with_a_non_ascii_path_is_only_in_the_export(api: Api) -> None:
    api.write("é.md", "hard to reach")
    for method in ("GET", "DELETE"):
        assert error_code(api.request(method, "/api/v1/notes/%C3%A9.md")) == (404, "NOT_FOUND")
    assert api.notes() == {"é.md": ("{}", "hard to reach")}


def test_its_encoded_path_names_the_note_of_the_bytes_as_characters(api: Api) -> None:
    api.write("Ã©.md", "reached by accident")
    assert api.get("/api/v1/notes/%C3%A9.md").json()["body"] == "reached by accident"


def test_malformed_percent_signs_stand_for_themselves(api: Api) -> None:
    api.write("100%.md", "percent")
    api.write("%zz%4", "also")
    headers = {"x-user-id": api.user}
    assert api.candid("GET", "/api/v1/notes/100%.md", headers)["status_code"] == 200
    assert api.candid("GET", "/api/v1/notes/%zz%4", headers)["status_code"] == 200


# Vaults


def test_a_tenant_without_vaults_has_the_vault_default(api: Api) -> None:
    assert api.get("/api/v1/vaults").text == '{"vaults":[{"id":"default","label":"default"}]}'


def test_vault_labels_are_the_ids(api: Api) -> None:
    api.write("a.md", vault="work")
    assert api.get("/api/v1/vaults").text == '{"vaults":[{"id":"work","label":"work"}]}'


def test_a_vault_stays_when_its_last_note_goes(api: Api) -> None:
    api.write("a.md", vault="work")
    assert api.delete("/api/v1/notes/a.md", vault="work").status_code == 200
    assert api.vaults() == ["work"]


def test_reading_makes_no_vault(empty_api: Api) -> None:
    for path in ("export", "notes", "notes/a.md", "vaults", "proposals"):
        empty_api.get(f"/api/v1/{path}", vault="work")
    assert empty_api.vaults() == ["default"]
    assert empty_api.index().json()["user_ids"] == []


# The operator index


def test_the_index_has_the_keys_of_the_contract(empty_api: Api) -> None:
    page = empty_api.index().json()
    assert list(page) == INDEX_KEYS
    assert (page["format_version"], page["kind"]) == (3, "knowtation-operator-user-index")
    assert page["exported_at_ns"].isdigit()
    assert len(page["exported_at_ns"]) == 19
    assert (page["user_ids"], page["next_cursor"], page["done"]) == ([], "", True)


@pytest.mark.parametrize(
    ("query", "ids", "next_cursor", "done"),
    [
        ("", "abc", "", True),
        ("?limit=2", "ab", "2", False),
        ("?limit=2&cursor=2", "c", "", True),
        ("?cursor=1&limit=1", "b", "2", False),
        ("?limit=3", "abc", "", True),
        ("?limit=0", "a", "1", False),
        ("?limit=-1", "abc", "", True),
        ("?limit=abc", "abc", "", True),
        ("?limit=", "abc", "", True),
        ("?limit=1.5", "abc", "", True),
        ("?limit=2x", "abc", "", True),
        ("?limit=99999999999999999999", "abc", "", True),
        ("?cursor=", "abc", "", True),
        ("?cursor=x", "abc", "", True),
        ("?cursor=-1", "abc", "", True),
        ("?cursor=3", "", "", True),
        ("?cursor=99", "", "", True),
        ("?cursor=99999999999999999999", "", "", True),
        ("?cursor=2&limit=500", "c", "", True),
        ("?unknown=1&limit=1", "a", "1", False),
    ],
)
def test_pages_of_the_index(empty_api: Api, query: str, ids: str, next_cursor: str, *, done: bool) -> None:
    for user_id in "cab":
        seed(empty_api, user_id)
    page = empty_api.index(query).json()
    assert ("".join(page["user_ids"]), page["next_cursor"], page["done"]) == (ids, next_cursor, done)


@pytest.mark.parametrize(("query", "size"), [("", 100), ("?limit=501", 500), ("?limit=500", 500), ("?limit=499", 499)])
def test_limits_of_the_index(empty_api: Api, query: str, size: int) -> None:
    vault = {"vault_id": "default", "create_vault": True, "notes": [], "proposals": []}
    empty_api.hub.seed_vaults([{"user_id": f"u{number:04}"} | vault for number in range(520)])
    page = empty_api.index(query).json()
    assert (len(page["user_ids"]), page["next_cursor"], page["done"]) == (size, str(size), False)
    assert page["user_ids"][0] == "u0000"


def test_the_index_sorts_ids_as_text(empty_api: Api) -> None:
    ids = ["google:9", "google:10", "Google:1", "é", "z", "\U0001f600", "\uffff", "a", "", '"quoted"']
    for user_id in ids:
        seed(empty_api, user_id)
    assert empty_api.index().json()["user_ids"] == sorted(ids, key=str.encode)


def test_a_first_note_puts_its_tenant_into_the_index(empty_api: Api) -> None:
    empty_api.write("a.md")
    assert empty_api.index().json()["user_ids"] == [empty_api.user]


def test_proposals_alone_put_nobody_into_the_index(empty_api: Api) -> None:
    empty_api.propose()
    assert empty_api.index().json()["user_ids"] == []
    assert empty_api.vaults() == ["default"]
    assert empty_api.get("/api/v1/proposals").json()["total"] == 1


def test_a_tenant_stays_in_the_index_when_its_vaults_go(empty_api: Api) -> None:
    empty_api.write("a.md", vault="work")
    assert empty_api.delete("/api/v1/vaults/work").status_code == 200
    assert empty_api.index().json()["user_ids"] == [empty_api.user]
    assert empty_api.vaults() == ["default"]
