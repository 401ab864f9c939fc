"""Records, roots and proofs."""

from __future__ import annotations

import attrs
import pytest

from knowtation_backup.errors import ConfigurationError, IntegrityError
from knowtation_backup.exports.records import (
    ContentRoot,
    Proof,
    Record,
    RecordKind,
    TenantContent,
    note_record,
    parse_record,
    proposal_record,
    tenant_record,
    vault_record,
    verify_proof,
)
from knowtation_backup.hub.schema import Note

NOTE = Note(path="é.md", frontmatter="{}", body='"\n')


def test_lines_are_compact_json_in_documented_key_order() -> None:
    assert tenant_record("u").line == b'{"type":"tenant","user_id":"u"}'
    assert vault_record("u", "v").line == b'{"type":"vault","user_id":"u","vault_id":"v"}'
    expected = '{"type":"note","user_id":"u","vault_id":"v","path":"é.md","frontmatter":"{}","body":"\\"\\n"}'
    assert note_record("u", "v", NOTE).line == expected.encode()
    proposal = {"z": 1, "proposal_id": "p", "vault_id": " "}
    line = b'{"type":"proposal","user_id":"u","vault_id":"default","proposal":{"z":1,"proposal_id":"p","vault_id":" "}}'
    assert proposal_record("u", proposal).line == line
    assert proposal_record("u", proposal).vault_id == "default"


def test_lines_parse_back() -> None:
    proposal = {"proposal_id": "p", "vault_id": "v", "n": 1}
    assert parse_record(note_record("u", "v", NOTE).line) == (note_record("u", "v", NOTE), NOTE)
    assert parse_record(proposal_record("u", proposal).line) == (proposal_record("u", proposal), proposal)
    assert parse_record(vault_record("u", "v").line) == (vault_record("u", "v"), None)
    assert parse_record(tenant_record("\ud800").line) == (tenant_record("\ud800"), None)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"type":"other","user_id":"u"}',
        b'{"type":"tenant"}',
        b'{"type":"tenant","user_id":1}',
        b'{"type":"tenant","user_id":"u"} ',
        b'{"user_id":"u","type":"tenant"}',
        b'{"type":"tenant","user_id":"\\u0061"}',
        b'{"type":"note","user_id":"u","vault_id":"v","path":"p","frontmatter":{},"body":""}',
        b'{"type":"proposal","user_id":"u","vault_id":"w","proposal":{"proposal_id":"p","vault_id":"v"}}',
        b'{"type":"proposal","user_id":"u","vault_id":"v","proposal":[]}',
    ],
)
def test_lines_that_are_not_canonical_are_refused(line: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_record(line)
    assert caught.value.kind == "bad_record"


def test_sort_order() -> None:
    ordered = [
        tenant_record("u"),
        vault_record("u", ""),
        vault_record("u", "a"),
        vault_record("u", "a\x00"),
        vault_record("u", "ab"),
        note_record("u", "a", Note(path="z", frontmatter="", body="")),
        note_record("u", "a\x00b", Note(path="a", frontmatter="", body="")),
        note_record("u", "ab", Note(path="", frontmatter="", body="")),
        note_record("u", "ab", Note(path="é", frontmatter="", body="")),
        note_record("u", "ab", Note(path="\U0001f600", frontmatter="", body="")),
        proposal_record("u", {"proposal_id": "p", "vault_id": "a"}),
    ]
    shuffled = ordered[::2] + ordered[-2::-2]
    assert sorted(shuffled, key=lambda record: record.sort_key) == ordered


def content(user_id: str, count: int) -> tuple[TenantContent, list[Record]]:
    tenant = TenantContent(user_id)
    notes = [Note(path=f"{n}.md", frontmatter="{}", body="x" * n) for n in range(count)]
    tenant.add_vault("v")
    tenant.add_notes("v", notes)
    return tenant, [
        tenant_record(user_id),
        vault_record(user_id, "v"),
        *(note_record(user_id, "v", note) for note in notes),
    ]


def test_adding_in_bulk_and_one_by_one_is_the_same() -> None:
    bulk, records = content("u", 9)
    single = TenantContent("u")
    for record in reversed(records[1:]):
        single.add(record)
    assert single.digest() == bulk.digest()
    assert (bulk.digest().records, bulk.digest().vaults, bulk.digest().notes) == (11, 1, 9)


def test_every_kind_of_change_changes_the_root() -> None:
    base = Note(path="p", frontmatter="f", body="b")
    roots = set()
    for user_id, vault_id, note in [
        ("u", "v", base),
        ("w", "v", base),
        ("u", "w", base),
        ("u", "v", Note(path="q", frontmatter="f", body="b")),
        ("u", "v", Note(path="p", frontmatter="g", body="b")),
        ("u", "v", Note(path="p", frontmatter="f", body="c")),
        ("u", "v", Note(path="p", frontmatter="fb", body="")),
    ]:
        tenant = TenantContent(user_id)
        tenant.add_note(vault_id, note)
        roots.add(ContentRoot([tenant.digest()]).hexdigest())
        tenant.add_note(vault_id, note)  # a repeated record counts
        roots.add(ContentRoot([tenant.digest()]).hexdigest())
        tenant.add_vault("empty")
        roots.add(ContentRoot([tenant.digest()]).hexdigest())
    assert len(roots) == 21


def test_a_record_of_another_tenant_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        TenantContent("u").add(tenant_record("w"))


def export(sizes: list[int]) -> tuple[ContentRoot, list[tuple[TenantContent, list[Record]]]]:
    tenants = [content(f"u{number}", size) for number, size in enumerate(sizes)]
    return ContentRoot(tenant.digest() for tenant, _ in tenants), tenants


@pytest.mark.parametrize("sizes", [[0], [1], [2, 0], [5, 1, 3], [1, 2, 3, 4, 5, 6, 7], [8] * 8])
def test_every_record_can_be_proven(sizes: list[int]) -> None:
    root, tenants = export(sizes)
    for tenant, records in tenants:
        for record in records:
            proof = root.prove(record, tenant)
            assert verify_proof(root.hexdigest(), record, proof)
            assert Proof.from_json(proof.to_json()) == proof


def test_proofs_do_not_hold_for_anything_else() -> None:
    root, tenants = export([5, 3, 4])
    tenant, records = tenants[1]
    record = records[3]
    proof = root.prove(record, tenant)
    forged = note_record("u1", "v", Note(path="1.md", frontmatter="{}", body="forged"))
    assert not verify_proof(root.hexdigest(), forged, proof)
    assert not verify_proof(root.hexdigest(), records[2], proof)
    assert not verify_proof("00" * 32, record, proof)
    assert not verify_proof(root.hexdigest(), attrs.evolve(record, user_id="u2"), proof)
    for change in (
        {"record_index": proof.record_index + 1},
        {"record_count": proof.record_count + 1},
        {"tenant_index": 0},
        {"tenant_count": 4},
        {"tenant_count": 2**64},
        {"record_index": -1},
        {"record_path": proof.record_path[:-1]},
        {"record_path": (*proof.record_path, b"\x00" * 32)},
        {"tenant_path": tuple(reversed(proof.tenant_path))},
        {"tenant_path": (b"short", *proof.tenant_path[1:])},
    ):
        assert not verify_proof(root.hexdigest(), record, attrs.evolve(proof, **change)), change


def test_an_inner_node_is_not_a_record() -> None:
    """Leaves and nodes are hashed under different tags, so that a node cannot be passed off as a record."""
    _, tenants = export([2])
    tenant, records = tenants[0]
    leaves = [record.leaf_hash for record in sorted(records, key=lambda record: record.sort_key)]
    fake = Record(kind=RecordKind.NOTE, user_id="u0", line=leaves[0] + leaves[1])
    assert fake.leaf_hash not in tenant.path_of(records[3])[1]


def test_proof_needs_the_record_and_its_tenant() -> None:
    root, tenants = export([2, 2])
    with pytest.raises(ConfigurationError) as caught:
        root.prove(tenants[0][1][0], tenants[1][0])
    assert caught.value.kind == "no_such_record"
    stranger, records = content("stranger", 1)
    with pytest.raises(ConfigurationError) as caught:
        root.prove(records[0], stranger)
    assert caught.value.kind == "no_such_tenant"


@pytest.mark.parametrize(
    "change", [{"record_index": True}, {"record_path": ["zz"]}, {"tenant_path": None}, {"tenant_count": "1"}]
)
def test_damaged_proofs_are_refused(change: dict[str, object]) -> None:
    root, tenants = export([2])
    value = root.prove(tenants[0][1][0], tenants[0][0]).to_json()
    with pytest.raises(IntegrityError):
        Proof.from_json({**value, **change})
    with pytest.raises(IntegrityError):
        Proof.from_json([])


def test_counts_and_the_empty_export() -> None:
    root, _ = export([2, 3])
    assert root.counts == {"tenants": 2, "vaults": 2, "notes": 5, "proposals": 0}
    assert ContentRoot().hexdigest() == ContentRoot([]).hexdigest()
    assert ContentRoot().hexdigest() != root.hexdigest()
