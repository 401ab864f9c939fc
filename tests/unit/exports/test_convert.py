"""Payloads written from entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from knowtation_backup._engine.canonical import dumps, loads
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.exports.convert import full_export, records_export, tenant_exports, vault_export
from knowtation_backup.exports.reader import ExportReader

Pieces = Callable[..., list[bytes]]


def test_a_full_export_is_reproduced(full: dict[str, Any], pieces: Pieces) -> None:
    assert b"".join(full_export(ExportReader(pieces(full)))) == dumps(full)


def test_an_export_without_tenants_is_valid(full: dict[str, Any], pieces: Pieces) -> None:
    full["users"] = []
    assert b"".join(full_export(ExportReader(pieces(full)))) == dumps(full)


def test_version_2_becomes_4(single: dict[str, Any], pieces: Pieces) -> None:
    reader = ExportReader(pieces(single), user_id="google:1")
    assert loads(b"".join(full_export(reader))) == {
        "format_version": 4,
        "kind": "knowtation-operator-full-export",
        "exported_at": single["exported_at"],
        "users": [
            {
                "user_id": "google:1",
                "vaults": [{"vault_id": "work", "notes": single["notes"]}],
                "proposals": single["proposals"],
            }
        ],
    }
    assert reader.finished


def test_version_2_needs_to_know_its_tenant(single: dict[str, Any], pieces: Pieces) -> None:
    with pytest.raises(ConfigurationError, match="user id"):
        list(full_export(ExportReader(pieces(single))))


def test_version_4_becomes_one_file_per_tenant(full: dict[str, Any], pieces: Pieces) -> None:
    written = {user_id: b"".join(chunks) for user_id, chunks in tenant_exports(ExportReader(pieces(full)))}
    assert written == {user["user_id"]: dumps({**full, "users": [user]}) for user in full["users"]}


@pytest.mark.parametrize(
    ("vault_id", "notes", "proposals"), [("default", 3, ["prop-1"]), ("work", 50, ["prop-1"]), ("empty", 0, [])]
)
def test_version_4_becomes_a_single_vault(
    full: dict[str, Any], pieces: Pieces, vault_id: str, notes: int, proposals: list[str]
) -> None:
    chunks = vault_export(ExportReader(pieces(full)), user_id="google:1", vault_id=vault_id, exported_at="now")
    value = loads(b"".join(chunks))
    assert list(value) == ["format_version", "kind", "exported_at", "vault_id", "notes", "proposals"]
    assert (value["format_version"], value["exported_at"], value["vault_id"]) == (2, "now", vault_id)
    source = next(vault for vault in full["users"][0]["vaults"] if vault["vault_id"] == vault_id)
    assert len(value["notes"]) == notes
    assert value["notes"] == source["notes"]
    assert [item["proposal_id"] for item in value["proposals"]] == proposals


def test_a_vault_that_is_not_there_is_refused(full: dict[str, Any], pieces: Pieces) -> None:
    with pytest.raises(ConfigurationError) as caught:
        vault_export(ExportReader(pieces(full)), user_id="github:2", vault_id="work")
    assert caught.value.kind == "no_such_vault"


def test_records_are_sorted_and_complete(full: dict[str, Any], pieces: Pieces) -> None:
    lines = b"".join(records_export(ExportReader(pieces(full)))).splitlines()
    expected = ExportReader(pieces(full)).read_all()
    assert loads(lines[0]) == {"type": "export", "exported_at": full["exported_at"]}
    assert loads(lines[-1]) == {"type": "end", "records": sum(expected.counts.values())}
    paths = [value["path"] for value in map(loads, lines) if value["type"] == "note"]
    assert paths == ["a.md", "b.md", "big.md", *sorted(f"n/{number}.md" for number in range(50))]
    again = ExportReader([line + b"\n" for line in lines])
    assert again.read_all().content_root == expected.content_root


def test_the_moment_must_be_known(full: dict[str, Any], pieces: Pieces) -> None:
    late = {key: full[key] for key in ("format_version", "users", "exported_at")}
    with pytest.raises(ConfigurationError) as caught:
        full_export(ExportReader(pieces(late)))
    assert caught.value.kind == "exported_at_unknown"
    written = b"".join(full_export(ExportReader(pieces(late)), exported_at=full["exported_at"]))
    assert written == dumps(full)


def test_vaults_named_before_all_notes_keep_theirs(pieces: Pieces) -> None:
    lines = [
        b'{"type":"tenant","user_id":"u"}',
        *(b'{"type":"vault","user_id":"u","vault_id":"%b"}' % vault for vault in (b"a", b"b", b"c", b"d")),
        b'{"type":"note","user_id":"u","vault_id":"b","path":"1","frontmatter":"","body":""}',
        b'{"type":"note","user_id":"u","vault_id":"b","path":"2","frontmatter":"","body":""}',
        b'{"type":"note","user_id":"u","vault_id":"c","path":"3","frontmatter":"","body":""}',
    ]
    data = b"".join(line + b"\n" for line in lines)
    value = loads(b"".join(full_export(ExportReader(pieces(data)), exported_at="now")))
    found = {vault["vault_id"]: [note["path"] for note in vault["notes"]] for vault in value["users"][0]["vaults"]}
    assert list(found.items()) == [("a", []), ("b", ["1", "2"]), ("c", ["3"]), ("d", [])]


def test_a_note_without_its_vault_is_refused() -> None:
    data = (
        b'{"type":"tenant","user_id":"u"}\n'
        b'{"type":"note","user_id":"u","vault_id":"b","path":"1","frontmatter":"","body":""}\n'
    )
    with pytest.raises(ConfigurationError, match="precedes"):
        list(full_export(ExportReader([data]), exported_at="now"))
