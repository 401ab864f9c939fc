"""Exports as records of a repository: nothing is lost, and they can be written again."""

import datetime as dt
import gzip
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from repository_stage import new_repository

from knowtation_backup._engine.canonical import dumps
from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.errors import BlobNotFoundError, ExportError, IntegrityError, InternalError
from knowtation_backup.exports.convert import full_export, records_export
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.exports.sections import (
    HEADER_SECTION,
    RECORDS_SECTION,
    ExportFileSource,
    StoredEntries,
    parse_header,
)
from knowtation_backup.model.sections import FileSection, RecordSection, SectionRecord
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.copying import copy
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.manifest import FileTable, RecordTables
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


def written(path: Path, value: Any) -> Path:
    path.write_bytes(value if isinstance(value, bytes) else dumps(value))
    return path


def captured(source: ExportFileSource) -> tuple[list[SectionRecord], bytes, Any]:
    capture = source.capture_sections(taken_at=NOW)
    records: list[SectionRecord] = []
    header = b""
    for section in capture.sections():
        if isinstance(section, RecordSection):
            assert section.name == RECORDS_SECTION
            records += [record for batch in section.batches for record in batch]
        elif isinstance(section, FileSection):
            assert section.name == HEADER_SECTION
            header = b"".join(map(bytes, section.chunks))
    return records, header, capture


def by_tenant(records: Iterable[SectionRecord]) -> list[list[bytes]]:
    tenants: dict[bytes, list[bytes]] = {}
    for record in records:
        tenants.setdefault(record.owner, []).append(record.value)
    for values in tenants.values():
        random.Random(1).shuffle(values)  # noqa: S311 - an order that means nothing
    return list(tenants.values())


def test_an_export_comes_apart_and_together_again(tmp_path: Path, full: dict[str, Any]) -> None:
    path = written(tmp_path / "export.json", full)
    records, header, capture = captured(ExportFileSource(path=path, source_id="hub"))
    plain = ExportReader([path.read_bytes()]).read_all()
    result = capture.result()
    assert (capture.kind, capture.source_id) == ("knowtation-operator-full-export", "hub")
    assert capture.taken_at == dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
    assert result.details == {"content_root": plain.content_root}
    assert dict(result.counts) == dict(plain.counts)
    assert len({(record.owner, record.name) for record in records}) == len(records)
    entries = StoredEntries(by_tenant(records), parse_header(header), content_root=plain.content_root)
    again = ExportReader(full_export(entries)).read_all()
    assert (again.content_root, again.header) == (plain.content_root, plain.header)
    entries = StoredEntries(by_tenant(records), parse_header(header))
    assert ExportReader(records_export(entries)).read_all().content_root == plain.content_root
    assert entries.counts == dict(plain.counts)


def test_a_proposal_that_a_hub_holds_twice_is_kept_twice(tmp_path: Path, full: dict[str, Any]) -> None:
    full["users"][0]["proposals"] += [{"proposal_id": "prop-1", "vault_id": "work"}, {"proposal_id": "prop-1", "n": 1}]
    full["users"][0]["vaults"][0]["notes"].append(full["users"][0]["vaults"][0]["notes"][0])
    path = written(tmp_path / "export.json", full)
    records, header, capture = captured(ExportFileSource(path=path, source_id="hub"))
    assert len({(record.owner, record.name) for record in records}) == len(records)
    root = ExportReader([path.read_bytes()]).read_all().content_root
    assert capture.result().details["content_root"] == root
    again = full_export(StoredEntries(by_tenant(records), parse_header(header), content_root=root))
    assert ExportReader(again).read_all().content_root == root


def test_other_forms_are_read(tmp_path: Path, full: dict[str, Any], single: dict[str, Any]) -> None:
    codec = Ktb1Codec(EncryptionKey.generate())
    sealed = b"".join(codec.seal([dumps(full)]))
    lines = b"".join(records_export(ExportReader([dumps(full)])))
    root = ExportReader([dumps(full)]).read_all().content_root
    forms: dict[str, tuple[bytes, dict[str, Any], str, str]] = {
        "gzip": (gzip.compress(dumps(full)), {}, "knowtation-operator-full-export", root),
        "sealed": (sealed, {"codec": codec}, "knowtation-operator-full-export", root),
        "records": (lines, {}, "knowtation-backup-records", root),
        "single": (
            dumps(single),
            {"user_id": "me"},
            "knowtation-operator-vault-export",
            ExportReader([dumps(single)], user_id="me").read_all().content_root,
        ),
    }
    for name, (data, options, kind, wanted) in forms.items():
        path = written(tmp_path / name, data)
        _, _, capture = captured(ExportFileSource(path=path, source_id="hub", **options))
        assert (capture.kind, capture.result().details["content_root"]) == (kind, wanted), name


def test_the_content_root_can_be_left_out(tmp_path: Path, full: dict[str, Any]) -> None:
    path = written(tmp_path / "export.json", full)
    records, _, capture = captured(ExportFileSource(path=path, source_id="hub", content_root=False))
    assert capture.result().details == {}
    assert dict(capture.result().counts) == dict(ExportReader([path.read_bytes()]).read_all().counts)
    assert records == captured(ExportFileSource(path=path, source_id="hub"))[0]


def test_odd_payloads_are_refused(tmp_path: Path, full: dict[str, Any]) -> None:
    with pytest.raises(BlobNotFoundError):
        ExportFileSource(path=tmp_path / "none", source_id="hub").capture_sections(taken_at=NOW)
    full["users"].append(full["users"][0])
    with pytest.raises(ExportError) as caught:
        captured(ExportFileSource(path=written(tmp_path / "twice", full), source_id="hub"))
    assert caught.value.kind == "tenant_twice"
    unfinished = ExportFileSource(path=tmp_path / "twice", source_id="hub").capture_sections(taken_at=NOW)
    with pytest.raises(InternalError):
        unfinished.result()
    for header in (b"[]", b"{}", b'{"kind":', b"\xff"):
        with pytest.raises(IntegrityError):
            parse_header(header)


def test_records_that_are_not_all_there_are_noticed(tmp_path: Path, full: dict[str, Any]) -> None:
    records, header, capture = captured(ExportFileSource(path=written(tmp_path / "e", full), source_id="hub"))
    root = capture.result().details["content_root"]
    short = StoredEntries(by_tenant(records[:-1]), parse_header(header), content_root=root)
    with pytest.raises(IntegrityError) as caught:
        list(short)
    assert caught.value.kind == "root_changed"
    with pytest.raises(IntegrityError) as caught:
        list(StoredEntries([[b'{"type":"note"}']], parse_header(header)))
    assert caught.value.kind == "bad_record"
    without_tenant = [record for record in records if not record.value.startswith(b'{"type":"tenant"')]
    with pytest.raises(IntegrityError):
        list(StoredEntries(by_tenant(without_tenant), parse_header(header)))


def read_back(repository: Repository, archive_id: str) -> str:
    manifest = repository.manifest(archive_id)
    reader = ArchiveReader(repository.sink, repository.read_keys, manifest)
    header, tables = manifest.section(HEADER_SECTION), manifest.section(RECORDS_SECTION)
    assert isinstance(header, FileTable)
    assert isinstance(tables, RecordTables)
    tenants = ((record.value for record in group) for group in reader.records(tables))
    entries = StoredEntries(tenants, parse_header(b"".join(reader.file(header))))
    return ExportReader(full_export(entries)).read_all().content_root


def test_an_unchanged_note_costs_nothing_in_whatever_order_the_hub_tells_it(
    tmp_path: Path, full: dict[str, Any]
) -> None:
    repository = new_repository(MemorySink())
    first = back_up(repository, ExportFileSource(path=written(tmp_path / "1", full), source_id="hub"))
    full["users"].reverse()
    for user in full["users"]:
        user["vaults"].reverse()
        user["proposals"].reverse()
        for vault in user["vaults"]:
            vault["notes"].reverse()
    second = back_up(repository, ExportFileSource(path=written(tmp_path / "2", full), source_id="hub"))
    assert second.manifest.parent == first.archive_id
    records = next(section for section in second.sections if section.name == RECORDS_SECTION)
    assert (records.changed, records.stored) == (0, 0)
    full["users"][-1]["vaults"][-1]["notes"][0]["body"] += "!"
    third = back_up(repository, ExportFileSource(path=written(tmp_path / "3", full), source_id="hub"))
    records = next(section for section in third.sections if section.name == RECORDS_SECTION)
    assert (records.changed, records.stored) == (1, 1)
    for report, name in ((first, "1"), (second, "2"), (third, "3")):
        wanted = ExportReader([(tmp_path / name).read_bytes()]).read_all().content_root
        assert read_back(repository, report.archive_id) == wanted


def test_an_export_is_copied_to_a_repository_with_other_keys(tmp_path: Path, full: dict[str, Any]) -> None:
    full["users"][0]["proposals"] += [{"proposal_id": "prop-1", "vault_id": "work"}, {"proposal_id": "prop-1", "n": 1}]
    repository, other = new_repository(MemorySink()), new_repository(MemorySink())
    first = back_up(repository, ExportFileSource(path=written(tmp_path / "1", full), source_id="hub"))
    copied = copy(repository, other).copied[first.archive_id]
    assert read_back(other, copied) == read_back(repository, first.archive_id)
