"""Parts of an export: a tenant, a vault, a note, a proposal, and no more is read than they need."""

from pathlib import Path
from typing import Any

import attrs
import pytest
from export_stage import payload, stored_export, user
from repository_stage import MOMENT, StagedSource, new_repository

from knowtation_backup._engine.canonical import dumps
from knowtation_backup.errors import (
    BlobNotFoundError,
    ConfigurationError,
    ErasedTenantError,
    IntegrityError,
)
from knowtation_backup.exports.convert import full_export
from knowtation_backup.exports.portable import write_tree
from knowtation_backup.exports.reader import ExportReader
from knowtation_backup.exports.records import RecordKind
from knowtation_backup.exports.sections import ExportFileSource
from knowtation_backup.operations.repository import stored_export as exports_of
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.restoring import restore_directory, restore_stream
from knowtation_backup.operations.repository.selecting import restore_records
from knowtation_backup.operations.repository.stored_export import ExportForm, owner_of
from knowtation_backup.repository.layout import TENANT_PREFIX
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink


@pytest.fixture
def repository() -> Repository:
    return new_repository(MemorySink())


def plain(source: Any) -> Any:
    return ExportReader(full_export(source)).read_all()


def test_everything_comes_back_with_its_root(repository: Repository, tmp_path: Path) -> None:
    archive_id = stored_export(repository, tmp_path, user("ann"), user("bob"))
    wanted = ExportReader([(tmp_path / "payload.json").read_bytes()]).read_all().content_root
    assert plain(restore_records(repository, archive_id)).content_root == wanted
    for form in ExportForm:
        restore_directory(repository, archive_id, tmp_path / form.value, form=form)
        written = (tmp_path / form.value / f"records{form.suffix}").read_bytes()
        assert ExportReader([written]).read_all().content_root == wanted
        assert b"".join(restore_stream(repository, archive_id, "records", form=form)) == written


def test_a_tenant_a_vault_a_note_a_proposal(repository: Repository, tmp_path: Path) -> None:
    archive_id = stored_export(repository, tmp_path, user("ann"), user("bob"))

    def counts(*where: str, **more: str) -> dict[RecordKind, int]:
        found = list(restore_records(repository, archive_id, *where, **more))
        assert {entry.user_id for entry in found} == {"bob"}
        return {kind: sum(entry.kind is kind for entry in found) for kind in RecordKind}

    tenant, vault, note, proposal = RecordKind
    assert counts("bob") == {tenant: 1, vault: 2, note: 6, proposal: 2}
    assert counts("bob", "work") == {tenant: 1, vault: 1, note: 3, proposal: 2}
    assert counts("bob", "home") == {tenant: 1, vault: 1, note: 3, proposal: 0}
    assert counts("bob", "work", path="n1.md") == {tenant: 1, vault: 1, note: 1, proposal: 0}
    assert counts("bob", proposal_id="p1") == {tenant: 1, vault: 0, note: 0, proposal: 1}
    assert counts("bob", "work", proposal_id="p1") == {tenant: 1, vault: 1, note: 0, proposal: 1}


def test_a_tenant_is_an_export_of_its_own(repository: Repository, tmp_path: Path) -> None:
    users = user("ann"), user("bob")
    archive_id = stored_export(repository, tmp_path, *users)
    wanted = ExportReader([dumps(payload(users[1]))]).read_all()
    found = plain(restore_records(repository, archive_id, "bob"))
    assert (found.content_root, found.header) == (wanted.content_root, wanted.header)
    report = write_tree(restore_records(repository, archive_id, "bob", "work"), tmp_path / "tree")
    assert (report.tenants, report.vaults, report.notes) == (1, 1, 3)


def test_of_several_of_one_name_the_first_comes_and_with_the_vault_all(repository: Repository, tmp_path: Path) -> None:
    ann = user("ann")
    ann["proposals"] += [{"proposal_id": "p1", "vault_id": "work", "n": n} for n in range(3)]
    ann["vaults"][0]["notes"] += [ann["vaults"][0]["notes"][1]] * 2
    archive_id = stored_export(repository, tmp_path, ann)
    found = list(restore_records(repository, archive_id, "ann", "work", proposal_id="p1"))
    assert [entry.proposal for entry in found if entry.proposal] == [ann["proposals"][1]]
    found = list(restore_records(repository, archive_id, "ann", proposal_id="p1"))
    assert sum(entry.proposal is not None for entry in found) == 4
    found = list(restore_records(repository, archive_id, "ann", "work"))
    assert sum(entry.note is not None for entry in found) == 5


@pytest.mark.parametrize(
    "wanted",
    [
        {"tenant": "cid"},
        {"tenant": "ann", "vault": "nowhere"},
        {"tenant": "ann", "vault": "work", "path": "nothing.md"},
        {"tenant": "ann", "vault": "work", "path": "N1.md"},
        {"tenant": "ann", "vault": "home", "proposal_id": "p1"},
        {"tenant": "ann", "proposal_id": "p9"},
    ],
)
def test_what_is_not_there_is_said(repository: Repository, tmp_path: Path, wanted: dict[str, str]) -> None:
    archive_id = stored_export(repository, tmp_path, user("ann"))
    with pytest.raises(BlobNotFoundError) as caught:
        list(restore_records(repository, archive_id, **wanted))
    assert caught.value.kind == "no_such_record"


@pytest.mark.parametrize(
    "wanted",
    [{"vault": "work"}, {"tenant": "a", "path": "n"}, {"tenant": "a", "vault": "v", "path": "n", "proposal_id": "p"}],
)
def test_what_is_not_named_whole_is_refused(repository: Repository, tmp_path: Path, wanted: dict[str, str]) -> None:
    archive_id = stored_export(repository, tmp_path, user("ann"))
    with pytest.raises(ConfigurationError):
        restore_records(repository, archive_id, **wanted)


def test_archives_without_an_export_are_named(repository: Repository) -> None:
    archive_id = back_up(repository, StagedSource(files={"a": b"a"})).archive_id
    with pytest.raises(ConfigurationError) as caught:
        restore_records(repository, archive_id, "ann")
    assert caught.value.kind == "no_export"
    archive_id = back_up(repository, StagedSource(records={"records": {(b"o", b"n"): b"{}"}})).archive_id
    with pytest.raises(ConfigurationError) as caught:
        restore_records(repository, archive_id, "ann")
    assert caught.value.kind == "no_export"


def test_only_what_is_wanted_is_read(repository: Repository, tmp_path: Path) -> None:
    users = [user(f"user{n}", notes=8, size=150_000, proposals=0) for n in range(6)]
    archive_id = stored_export(repository, tmp_path, *users)
    counting = FaultSink(repository.sink)

    def packs(*where: str, **more: str) -> set[str]:
        counting.operations.clear()
        list(restore_records(attrs.evolve(repository, sink=counting), archive_id, *where, **more))
        return {operation for operation in counting.operations if "packs/" in operation}

    everything = len(packs())
    assert everything >= 3
    assert len(packs("user0")) < everything
    assert len(packs("user0", "work", path="n1.md")) <= 3  # header, its vault and tenant, itself


def test_a_tenant_of_a_lone_surrogate_is_found(repository: Repository, tmp_path: Path) -> None:
    archive_id = stored_export(repository, tmp_path, user("a\ud800b"))
    assert len(list(restore_records(repository, archive_id, "a\ud800b", "work", path="n0.md"))) == 3


def test_another_root_than_was_recorded_is_an_error(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_id = stored_export(repository, tmp_path, user("ann"))
    monkeypatch.setattr(exports_of, "read_details", lambda *_: {"capture": {"content_root": "00"}})
    with pytest.raises(IntegrityError) as caught:
        restore_directory(repository, archive_id, tmp_path / "here")
    assert caught.value.kind == "root_changed"
    assert not (tmp_path / "here").exists()


def test_erased_tenants_are_left_out_and_named(tmp_path: Path) -> None:
    repository = new_repository(MemorySink(), tenant_keys=True)
    archive_id = stored_export(repository, tmp_path, user("ann"), user("bob"))
    apply_erase_tenant(repository, plan_erase_tenant(repository, owner_of("ann")))
    entries = restore_records(repository, archive_id)
    assert {entry.user_id for entry in entries} == {"bob"}
    assert [finding.code for finding in entries.findings] == ["tenant_erased"]
    report = restore_directory(repository, archive_id, tmp_path / "here")
    assert [finding.code for finding in report.warnings] == ["tenant_erased"]
    assert (report.exit_code, "left out" in str(report)) == (3, True)
    assert len(list(restore_records(repository, archive_id, "bob"))) == 11
    with pytest.raises(ErasedTenantError):
        list(restore_records(repository, archive_id, "ann"))


def test_tenants_whose_keys_are_lost_are_left_out_and_named(tmp_path: Path) -> None:
    sink = MemorySink()
    repository = new_repository(sink, tenant_keys=True)
    archive_id = stored_export(repository, tmp_path, user("ann"), user("bob"))
    lost = repository.writer_key.tenant_id(owner_of("ann")).hex()
    for info in list(sink.list(f"{TENANT_PREFIX}{lost}")):
        sink.delete(info.key)
    report = restore_directory(repository, archive_id, tmp_path / "here")
    assert [finding.code for finding in report.warnings] == ["tenant_key_lost"]
    assert report.exit_code == 3


def test_an_export_that_does_not_say_when_it_was_made_is_dated_by_its_archive(
    repository: Repository, tmp_path: Path
) -> None:
    path = tmp_path / "payload.json"
    path.write_bytes(dumps(payload(user("ann"), exported_at=None)))
    source = ExportFileSource(path=path, source_id="hub")
    archive_id = back_up(repository, source, clock=lambda: MOMENT).archive_id
    assert plain(restore_records(repository, archive_id)).header.exported_moment == MOMENT
