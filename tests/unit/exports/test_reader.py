"""Reading payloads: every version, every order, every damage."""

from __future__ import annotations

import contextlib
import copy
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowtation_backup._engine.canonical import dumps
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    ExportError,
    IntegrityError,
    SourceUnavailableError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.exports.reader import ExportReader, PayloadHeader, ReadLimits
from knowtation_backup.exports.records import ContentRoot, RecordKind, TenantContent, note_record, verify_proof
from knowtation_backup.hub.schema import Note

Pieces = Callable[..., list[bytes]]


def rebuilt(reader: ExportReader) -> list[dict[str, Any]]:
    """Return the list of users as a full export would hold it, from entries."""
    users: list[dict[str, Any]] = []
    for entry in reader:
        if entry.kind is RecordKind.TENANT:
            users.append({"user_id": entry.user_id, "vaults": [], "proposals": []})
        elif entry.kind is RecordKind.VAULT:
            users[-1]["vaults"].append({"vault_id": entry.vault_id, "notes": []})
        elif entry.note is not None:
            assert entry.vault_id == users[-1]["vaults"][-1]["vault_id"]
            users[-1]["vaults"][-1]["notes"].append(entry.note.to_json())
        else:
            users[-1]["proposals"].append(entry.proposal)
        assert entry.user_id == users[-1]["user_id"]
    return users


@pytest.mark.parametrize("size", [1, 7, 1000, 10**9])
def test_reads_a_full_export(full: dict[str, Any], pieces: Pieces, size: int) -> None:
    if size == 1:
        full["users"][0]["vaults"][0]["notes"].pop()  # the large note, for the sake of time
    reader = ExportReader(pieces(full, size))
    assert rebuilt(reader) == full["users"]
    assert reader.header == PayloadHeader(format_version=4, kind=full["kind"], exported_at=full["exported_at"])
    assert reader.header.exported_moment is not None
    assert reader.header.exported_moment.isoformat() == "2026-04-08T15:30:22.123000+00:00"
    notes = sum(len(vault["notes"]) for user in full["users"] for vault in user["vaults"])
    assert reader.counts == {"tenants": 3, "vaults": 4, "notes": notes, "proposals": 2}
    assert reader.findings == ()


def test_root_is_that_of_the_content(full: dict[str, Any], pieces: Pieces) -> None:
    root = ContentRoot()
    for user in full["users"]:
        tenant = TenantContent(user["user_id"])
        for vault in user["vaults"]:
            tenant.add_vault(vault["vault_id"])
            tenant.add_notes(vault["vault_id"], [Note(**note) for note in vault["notes"]])
        for proposal in user["proposals"]:
            tenant.add_proposal(proposal)
        root.add(tenant.digest())
    reader = ExportReader(pieces(full)).read_all()
    assert reader.content_root == root.hexdigest()
    assert [tenant.user_id for tenant in reader.tenants] == ["google:1", "github:2", "ü:3"]
    assert reader.counts == root.counts


def test_reads_a_single_vault(single: dict[str, Any], pieces: Pieces) -> None:
    reader = ExportReader(pieces(single), user_id="google:1")
    vaults = [{"vault_id": "work", "notes": single["notes"]}]
    assert rebuilt(reader) == [{"user_id": "google:1", "vaults": vaults, "proposals": single["proposals"]}]
    assert reader.header.format_version == 2


def test_reads_a_snapshot_of_version_1(pieces: Pieces) -> None:
    head = {"format_version": 1, "kind": "knowtation-hosted-backup", "exported_at": "x", "vault_id": ""}
    snapshot = {**head, "proposals": [{}]}
    reader = ExportReader(pieces(snapshot))
    assert rebuilt(reader) == [{"user_id": "", "vaults": [{"vault_id": "default", "notes": []}], "proposals": [{}]}]
    assert reader.header.exported_moment is None


def reordered(value: Any) -> Any:
    """Return *value* with the keys of every object but notes and proposals reversed and unknown ones added."""
    if isinstance(value, list):
        return [reordered(item) for item in value]
    if isinstance(value, dict) and not {"path", "proposal_id"} & value.keys():
        turned = {key: reordered(item) for key, item in reversed(value.items())}
        return {"extra": [{"x": "]"}, 1.5], **turned, "more": None}
    return value


@pytest.mark.parametrize("indent", [None, 3])
def test_key_order_white_space_and_unknown_keys_do_not_matter(
    full: dict[str, Any], single: dict[str, Any], pieces: Pieces, indent: int | None
) -> None:
    for payload in (full, single):
        expected = ExportReader(pieces(payload), user_id="u").read_all()
        text = json.dumps(reordered(payload), indent=indent).encode()
        found = ExportReader(pieces(b"\xef\xbb\xbf \n" + text + b"\n"), user_id="u").read_all()
        assert found.content_root == expected.content_root
        assert found.header == expected.header


def test_odd_notes_are_adapted_and_named(full: dict[str, Any], pieces: Pieces) -> None:
    full["users"][1]["vaults"][0]["notes"] = [{"path": "odd.md", "frontmatter": {"a": 1}, "body": "x", "z": 1}]
    reader = ExportReader(pieces(full))
    assert rebuilt(reader)[1]["vaults"][0]["notes"] == [{"path": "odd.md", "frontmatter": '{"a":1}', "body": "x"}]
    assert [(f.code, f.where) for f in reader.findings] == [("note_adapted", "github:2/default/odd.md")]


@pytest.mark.parametrize("version", [0, 3, 5, "4", None, 4.5, True])
def test_unknown_versions_are_refused_naming_the_known(full: dict[str, Any], pieces: Pieces, version: object) -> None:
    full["format_version"] = version
    with pytest.raises(UnsupportedFormatError, match="1, 2 and 4"):
        ExportReader(pieces(full)).read_all()


def test_missing_version_is_refused(full: dict[str, Any], pieces: Pieces) -> None:
    del full["format_version"]
    with pytest.raises(UnsupportedFormatError, match="names no format version"):
        ExportReader(pieces(full)).read_all()


def test_a_foreign_kind_is_refused(full: dict[str, Any], pieces: Pieces) -> None:
    full["kind"] = "someone-elses-export"
    with pytest.raises(UnsupportedFormatError, match="someone-elses"):
        ExportReader(pieces(full)).read_all()


def test_every_cut_is_named(single: dict[str, Any]) -> None:
    data = dumps(single)
    for size in range(1, len(data)):
        with pytest.raises(TruncatedError):
            ExportReader([data[:size]]).read_all()
    with pytest.raises(TruncatedError):
        ExportReader([]).read_all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda full: full.update(users={}),
        lambda full: full.pop("users"),
        lambda full: full["users"].append(5),
        lambda full: full["users"].append({"vaults": []}),
        lambda full: full["users"].append({"user_id": 5}),
        lambda full: full["users"][0]["vaults"].append({"notes": []}),
        lambda full: full["users"][0]["vaults"][0]["notes"].append({"body": ""}),
        lambda full: full["users"][0]["vaults"][0]["notes"].append({"path": "a", "frontmatter": 1, "body": ""}),
        lambda full: full["users"][0]["proposals"].append("p"),
        lambda full: full["users"][0].update(proposals=None),
    ],
)
def test_wrong_shapes_are_refused(
    full: dict[str, Any], pieces: Pieces, damage: Callable[[dict[str, Any]], object]
) -> None:
    damage(full)
    with pytest.raises(IntegrityError) as caught:
        ExportReader(pieces(full)).read_all()
    assert caught.value.kind == "bad_payload"


@pytest.mark.parametrize("data", [b"{} x", b'{"format_version":4,"format_version":4}', b'{"a" 1}', b'{"x":"\xff"}'])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        ExportReader([data]).read_all()
    assert caught.value.kind == "bad_payload"


def test_limits(full: dict[str, Any], pieces: Pieces) -> None:
    small = ReadLimits(element_bytes=200_000)
    with pytest.raises(IntegrityError) as caught:
        ExportReader(pieces(full), limits=small).read_all()
    assert caught.value.kind == "element_limit"
    full["users"][0]["proposals"][0]["deep"] = json.loads("[" * 300 + "]" * 300)
    with pytest.raises(IntegrityError, match="nested"):
        ExportReader(pieces(full)).read_all()


def test_a_failing_source_is_not_called_damaged(full: dict[str, Any], pieces: Pieces) -> None:
    def failing() -> Iterator[bytes]:
        yield pieces(full)[0]
        raise SourceUnavailableError("gone")

    with pytest.raises(SourceUnavailableError, match="gone"):
        ExportReader(failing()).read_all()

    def capture() -> Iterator[bytes]:
        yield pieces(full)[0]
        raise ExportError("pages do not add up")

    with pytest.raises(ExportError, match="add up"):
        ExportReader(capture()).read_all()


def test_roots_need_the_end_and_one_reading(full: dict[str, Any], pieces: Pieces) -> None:
    reader = ExportReader(pieces(full))
    next(iter(reader))
    for ask in (lambda: reader.content_root, lambda: reader.tenants, reader.read_all):
        with pytest.raises(ConfigurationError):
            ask()
    unhashed = ExportReader(pieces(full), hashing=False).read_all()
    assert unhashed.counts["tenants"] == 3
    with pytest.raises(ConfigurationError):
        _ = unhashed.content_root


def test_a_single_note_is_proven_alone(full: dict[str, Any], pieces: Pieces) -> None:
    reader = ExportReader(pieces(full), proof_tenant="google:1").read_all()
    record = note_record("google:1", "work", Note(path="n/7.md", frontmatter="{}", body="w" * 7))
    assert verify_proof(reader.content_root, record, reader.prove(record))
    with pytest.raises(ConfigurationError):
        reader.prove(note_record("google:1", "work", Note(path="n/7.md", frontmatter="{}", body="other")))
    with pytest.raises(ConfigurationError):
        ExportReader(pieces(full)).read_all().prove(record)


RECORDS = [
    b'{"type":"tenant","user_id":"u"}',
    b'{"type":"vault","user_id":"u","vault_id":"v"}',
    b'{"type":"note","user_id":"u","vault_id":"v","path":"p","frontmatter":"{}","body":"b"}',
    b'{"type":"proposal","user_id":"u","vault_id":"default","proposal":{"proposal_id":"q"}}',
]
FIRST = b'{"type":"export","exported_at":"2026-04-08T15:30:22.123Z"}'


@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_reads_records(pieces: Pieces, size: int) -> None:
    lines = b"".join(line + b"\n" for line in (FIRST, *RECORDS, b'{"type":"end","records":4}'))
    reader = ExportReader(pieces(lines, size))
    vaults = [{"vault_id": "v", "notes": [{"path": "p", "frontmatter": "{}", "body": "b"}]}]
    assert rebuilt(reader) == [{"user_id": "u", "vaults": vaults, "proposals": [{"proposal_id": "q"}]}]
    assert reader.header == PayloadHeader(exported_at="2026-04-08T15:30:22.123Z")
    bare = ExportReader(pieces(b"".join(line + b"\n" for line in RECORDS), size)).read_all()
    assert bare.content_root == reader.content_root


@pytest.mark.parametrize(
    "lines",
    [
        (FIRST, *RECORDS),
        (FIRST, *RECORDS[:-1], b'{"type":"end","records":4}'),
        (FIRST, *RECORDS, b'{"type":"end"}'),
    ],
)
def test_missing_records_are_noticed(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(TruncatedError):
        ExportReader([b"".join(line + b"\n" for line in lines)]).read_all()


def test_a_cut_record_is_noticed() -> None:
    with pytest.raises(TruncatedError):
        ExportReader([b"\n".join(RECORDS)]).read_all()


@pytest.mark.parametrize(
    "lines",
    [
        (*RECORDS, b'{"type":"end","records":4}'),
        (FIRST, *RECORDS, b'{"type":"end","records":4}', RECORDS[0]),
        (RECORDS[0], RECORDS[1].replace(b'"u"', b'"w"')),
        (RECORDS[0], b"{}"),
        (RECORDS[0], b""),
        (FIRST, RECORDS[1]),
    ],
)
def test_misplaced_records_are_refused(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(IntegrityError):
        ExportReader([b"".join(line + b"\n" for line in lines)]).read_all()


def test_long_records_are_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        ExportReader([RECORDS[0] + b"\n", b"x" * 2000], limits=ReadLimits(element_bytes=1000)).read_all()
    assert caught.value.kind == "element_limit"


def test_memory_is_flat() -> None:
    """A payload of 60 MB with one large tenant is read in a few MB."""
    note = dumps({"path": "notes/some.md", "frontmatter": "{}", "body": "x" * 3000})

    def text() -> Iterator[bytes]:
        head = {"format_version": 4, "kind": "knowtation-operator-full-export", "exported_at": "x"}
        yield dumps(head)[:-1] + b',"users":[{"user_id":"u","vaults":[{"vault_id":"v","notes":[' + note
        for _ in range(20_000):
            yield b"," + note
        yield b']}],"proposals":[]}]}'

    tracemalloc.start()
    try:
        reader = ExportReader(text()).read_all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.counts["notes"] == 20_001
    assert peak < 16 << 20


PARTS = [
    *(b'{"format_version":4', b',"users":[', b'{"user_id":"u"', b',"vaults":[', b'{"vault_id":"v"', b',"notes":['),
    *(b'{"path":"p","frontmatter":"","body":""}', b",", b"]", b"}", b"]}", b'"proposals":[', b" "),
]


@given(st.binary(max_size=200) | st.lists(st.sampled_from(PARTS), max_size=30).map(b"".join))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BackupError):
        ExportReader([data]).read_all()


@given(st.data())
def test_damaged_payloads_are_read_or_refused(data: st.DataObject) -> None:
    vaults = [{"vault_id": "v", "notes": [{"path": "a", "frontmatter": "{}", "body": "é"}]}]
    users = [{"user_id": "u", "vaults": vaults, "proposals": [{"proposal_id": "p"}]}]
    payload = bytearray(dumps({"format_version": 4, "exported_at": "x", "users": users}))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(BackupError):
        ExportReader([bytes(payload)]).read_all()


def test_entries_give_their_records(full: dict[str, Any], pieces: Pieces) -> None:
    reader = ExportReader(pieces(copy.deepcopy(full)))
    kinds = {entry.record().kind: entry.record().user_id for entry in reader}
    assert set(kinds) == set(RecordKind)
