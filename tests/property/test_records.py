"""Laws of the content root: blind to order, sensitive to everything else, the same from every form of payload."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup._engine.canonical import dumps
from knowtation_backup.exports.convert import full_export, records_export
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.exports.records import ContentRoot, Proof, TenantContent, note_record, verify_proof
from knowtation_backup.hub.schema import Note

TEXT = st.text(st.characters(codec=None, categories=None), max_size=8)
NOTES = st.builds(Note, path=TEXT, frontmatter=TEXT, body=TEXT)
PROPOSALS = st.fixed_dictionaries(
    {"proposal_id": TEXT, "vault_id": st.sampled_from(["", "default", "v"])},
    optional={"extra": st.none() | st.integers() | TEXT | st.lists(TEXT, max_size=2)},
)


def vault(vault_id: str, notes: list[Note]) -> dict[str, Any]:
    return {"vault_id": vault_id, "notes": [note.to_json() for note in notes]}


def tenant(user_id: str, vaults: dict[str, list[Note]], proposals: list[dict[str, Any]]) -> dict[str, Any]:
    listed = [vault(vault_id, notes) for vault_id, notes in vaults.items()]
    return {"user_id": user_id, "vaults": listed, "proposals": proposals}


VAULTS = st.dictionaries(st.sampled_from(["default", "v", "w"]), st.lists(NOTES, max_size=4), max_size=3)
TENANTS = st.builds(tenant, TEXT.filter(bool), VAULTS, st.lists(PROPOSALS, max_size=3))
few = settings(max_examples=40)  # each example is a whole export
EXPORTS = st.lists(TENANTS, max_size=3, unique_by=lambda tenant: dumps(tenant["user_id"]))


def payload(users: list[dict[str, Any]]) -> bytes:
    kind = "knowtation-operator-full-export"
    return dumps({"format_version": 4, "kind": kind, "exported_at": "2026-04-08T15:30:22.123Z", "users": users})


def shuffled(users: list[dict[str, Any]], random: Random) -> list[dict[str, Any]]:
    """Return the same content in another order of tenants, vaults, notes, proposals and keys."""

    def mixed(items: Iterable[Any]) -> list[Any]:
        listed = list(items)
        random.shuffle(listed)
        return listed

    def mixed_vault(value: dict[str, Any]) -> dict[str, Any]:
        return dict(mixed({**value, "notes": mixed(value["notes"])}.items()))

    def mixed_tenant(value: dict[str, Any]) -> dict[str, Any]:
        vaults = mixed(mixed_vault(item) for item in value["vaults"])
        return dict(mixed({**value, "vaults": vaults, "proposals": mixed(value["proposals"])}.items()))

    return mixed(mixed_tenant(user) for user in users)


@few
@given(EXPORTS, st.randoms(use_true_random=False), st.integers(min_value=1, max_value=50))
def test_order_and_chunking_do_not_matter(users: list[dict[str, Any]], random: Random, size: int) -> None:
    data = payload(shuffled(users, random))
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    expected = ExportReader([payload(users)]).read_all()
    found = ExportReader(chunks).read_all()
    assert found.content_root == expected.content_root
    assert found.counts == expected.counts


@few
@given(EXPORTS)
def test_full_export_reproduces_bytes(users: list[dict[str, Any]]) -> None:
    assert b"".join(full_export(ExportReader([payload(users)]))) == payload(users)


@few
@given(EXPORTS)
def test_records_form_says_the_same(users: list[dict[str, Any]]) -> None:
    expected = ExportReader([payload(users)]).read_all()
    records = b"".join(records_export(ExportReader([payload(users)])))
    found = ExportReader([records]).read_all()
    assert found.content_root == expected.content_root
    back = ExportReader(full_export(ExportReader([records]))).read_all()
    assert back.content_root == expected.content_root
    assert b"".join(records_export(ExportReader([records]))) == records


@few
@given(EXPORTS, EXPORTS)
def test_different_content_has_different_roots(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    def said(users: list[dict[str, Any]]) -> list[bytes]:
        reader = ExportReader([payload(users)])
        return sorted(entry.record().line for entry in reader)

    same = said(one) == said(other)
    first = ExportReader([payload(one)]).read_all().content_root
    second = ExportReader([payload(other)]).read_all().content_root
    assert (first == second) is same


@few
@given(st.lists(st.lists(NOTES, min_size=1, max_size=6), min_size=1, max_size=5), st.data())
def test_proofs_hold(tenants: list[list[Note]], data: st.DataObject) -> None:
    contents = []
    for number, notes in enumerate(tenants):
        content = TenantContent(f"u{number}")
        content.add_notes("v", notes)
        contents.append(content)
    root = ContentRoot(content.digest() for content in contents)
    number = data.draw(st.integers(0, len(tenants) - 1))
    note = data.draw(st.sampled_from(tenants[number]))
    record = note_record(f"u{number}", "v", note)
    proof = Proof.from_json(root.prove(record, contents[number]).to_json())
    assert verify_proof(root.hexdigest(), record, proof)
    changed = note_record(f"u{number}", "v", Note(path=note.path, frontmatter=note.frontmatter, body=note.body + "!"))
    assert not verify_proof(root.hexdigest(), changed, proof)
