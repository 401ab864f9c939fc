"""Comparing archives of a repository with one another and with what is there now."""

import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

import attrs
import pytest
from export_stage import export_source, note, stored_export, user
from repository_stage import StagedSource, limited, new_repository

from knowtation_backup.errors import BlobNotFoundError, ConfigurationError, ExportError, TruncatedError
from knowtation_backup.exports.records import RecordKind, note_record
from knowtation_backup.hub.schema import Note
from knowtation_backup.model.ids import Principal
from knowtation_backup.model.reports import Outcome, jsonable
from knowtation_backup.model.sections import PAGE_BYTES, ImageSection, RecordSection, SectionRecord
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.difference_reports import Change, RepositoryDiff
from knowtation_backup.operations.repository.differences import diff, diff_live
from knowtation_backup.repository.layout import PACK_PREFIX, TENANT_PREFIX
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.snapshots.facts import CanisterFacts
from knowtation_backup.testing.faults import FaultSink

CHAOS = random.Random(5)  # noqa: S311 - content of tests
HOUR = dt.timedelta(hours=1)


def noise(pages: int) -> bytes:
    return CHAOS.randbytes(pages * PAGE_BYTES)


@pytest.fixture
def repository() -> Repository:
    return new_repository(MemorySink())


def as_writer(repository: Repository, sink: Any = None) -> Repository:
    return Repository.open_with(sink or repository.sink, repository.writer_key)


def both(repository: Repository, before: StagedSource, after: StagedSource) -> list[RepositoryDiff]:
    """What archives say, with either key, and what the source of the later one says now; they must agree."""
    first = back_up(repository, before).archive_id
    second = back_up(repository, after).archive_id
    assert isinstance(repository.sink, MemorySink)
    looking = limited(repository.sink, "lr")
    found = [
        diff(repository, first, second),
        diff(as_writer(repository, looking), first, second),
        diff_live(attrs.evolve(repository, sink=looking), first, after),
        diff_live(as_writer(repository, looking), first, after),
    ]
    for one in found:
        assert (one.before, one.after) in {(first, second), (first, "live")}
        assert sorted(one.images, key=str) == sorted(found[0].images, key=str)
        assert sorted(one.files, key=str) == sorted(found[0].files, key=str)
        assert (one.outcome, one.exit_code) == (found[0].outcome, int(found[0].outcome))
        json.dumps(jsonable(one))
    return found


# -- images -----------------------------------------------------------------------------------------------------------


def test_the_same_is_the_same(repository: Repository) -> None:
    source = StagedSource(images={"heap": noise(3)}, files={"module": b"m"}, records={"r": {(b"o", b"n"): b"v"}})
    for found in both(repository, source, source):
        assert found.outcome is Outcome.OK
        assert "the same" in str(found)
        assert len(str(found).splitlines()) == 1


@pytest.mark.parametrize("seed", range(8))
def test_pages_are_counted_like_a_model_does(repository: Repository, seed: int) -> None:
    chaos = random.Random(seed)  # noqa: S311 - content of tests
    before = [chaos.choice([bytes(PAGE_BYTES), chaos.randbytes(PAGE_BYTES)]) for _ in range(chaos.randrange(1, 200))]
    after = [chaos.choice([page, page, page, bytes(PAGE_BYTES), chaos.randbytes(PAGE_BYTES)]) for page in before]
    after = after[: chaos.randrange(1, 200)] + [chaos.randbytes(PAGE_BYTES)] * chaos.randrange(40)
    tail = chaos.randbytes(chaos.choice([0, 100]))
    images = b"".join(before), b"".join(after) + tail
    pages = [[image[n : n + PAGE_BYTES] for n in range(0, len(image), PAGE_BYTES)] for image in images]
    (image,) = both(repository, StagedSource(images={"i": images[0]}), StagedSource(images={"i": images[1]}))[0].images
    assert image.changed_pages == sum(old != new for old, new in zip(*pages, strict=False))
    assert image.added_pages == max(0, len(pages[1]) - len(pages[0]))
    assert image.removed_pages == max(0, len(pages[0]) - len(pages[1]))
    assert (image.before_bytes, image.after_bytes) == (len(images[0]), len(images[1]))
    assert image.changed_bytes == (image.changed_pages + image.added_pages + image.removed_pages) * PAGE_BYTES
    assert (image.change is Change.SAME) == (images[0] == images[1])


def test_a_size_alone_is_a_difference(repository: Repository) -> None:
    found = both(repository, StagedSource(images={"i": b"x"}), StagedSource(images={"i": b"x\0"}))
    assert {one.images[0].changed_pages for one in found} == {0}
    assert found[0].outcome is Outcome.DIFFERENT


def test_images_come_and_go(repository: Repository) -> None:
    found = both(repository, StagedSource(images={"a": noise(2)}), StagedSource(images={"b": noise(3)}))[0]
    old, new = sorted(found.images, key=lambda image: image.name)
    assert (old.change, old.removed_pages, old.changed_pages, old.after_bytes) == (Change.REMOVED, 2, 0, None)
    assert (new.change, new.added_pages, new.changed_pages, new.before_bytes) == (Change.ADDED, 3, 0, None)


def test_no_pack_is_read_for_images(repository: Repository) -> None:
    first = back_up(repository, StagedSource(images={"i": noise(50)})).archive_id
    second = back_up(repository, StagedSource(images={"i": noise(60)})).archive_id
    counting = FaultSink(repository.sink)
    diff(attrs.evolve(repository, sink=counting), first, second)
    assert not [operation for operation in counting.operations if PACK_PREFIX in operation]


def test_a_section_of_another_kind_went_and_came(repository: Repository) -> None:
    found = both(repository, StagedSource(images={"x": noise(1)}), StagedSource(files={"x": b"file"}))[0]
    assert [image.change for image in found.images] == [Change.REMOVED]
    assert [file.change for file in found.files] == [Change.ADDED]


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_are_compared_whole(repository: Repository) -> None:
    before = {"wasm_module.bin": b"one", "same": noise(600), "gone": b"", "metadata.json": b"1"}
    after = {"wasm_module.bin": b"two", "same": before["same"], "new": b"new", "metadata.json": b"2"}
    for found in both(repository, StagedSource(files=before), StagedSource(files=after)):
        assert {file.name: file.change for file in found.files} == {
            "wasm_module.bin": Change.CHANGED,
            "same": Change.SAME,
            "gone": Change.REMOVED,
            "new": Change.ADDED,
            "metadata.json": Change.CHANGED,
        }
        assert found.module_changed
        assert "same:" not in str(found)


def test_what_tells_of_the_capture_does_not_count(repository: Repository) -> None:
    before = StagedSource(files={"metadata.json": b"1", "wasm_module.bin": b"w"})
    after = StagedSource(files={"metadata.json": b"2", "wasm_module.bin": b"w"}, details={"number": 2})
    for found in both(repository, before, after):
        assert (found.outcome, found.module_changed) == (Outcome.OK, False)
        assert "metadata.json: changed" in str(found)


# -- records ----------------------------------------------------------------------------------------------------------


def changed_export() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    ann, bob, cid = user("ann"), user("bob"), user("cid")
    later = json.loads(json.dumps(ann))
    later["vaults"][0]["notes"][0]["body"] = "other words"
    later["vaults"][0]["notes"].append(note("new.md", "new"))
    del later["vaults"][1]["notes"][2]
    later["proposals"][1]["status"] = "approved"
    return [ann, bob, cid], [later, cid, user("dot")]


@pytest.mark.parametrize("against", ["archive", "live"])
def test_notes_and_proposals_are_named(repository: Repository, tmp_path: Path, against: str) -> None:
    before, after = changed_export()
    first = stored_export(repository, tmp_path, *before)
    if against == "live":
        found = diff_live(repository, first, export_source(tmp_path, *after))
    else:
        found = diff(repository, first, stored_export(repository, tmp_path, *after))
    (records,) = found.records
    ann = {(one.change, one.kind, one.vault_id, one.name): one for one in records.records if one.user_id == "ann"}
    assert set(ann) == {
        (Change.CHANGED, RecordKind.NOTE, "work", "n0.md"),
        (Change.ADDED, RecordKind.NOTE, "work", "new.md"),
        (Change.REMOVED, RecordKind.NOTE, "home", "n2.md"),
        (Change.CHANGED, RecordKind.PROPOSAL, "work", "p1"),
    }
    proposal = ann[Change.CHANGED, RecordKind.PROPOSAL, "work", "p1"]
    assert (proposal.before_status, proposal.after_status) == ("proposed", "approved")
    assert "proposed -> approved" in str(found)
    new = ann[Change.ADDED, RecordKind.NOTE, "work", "new.md"]
    line = note_record("ann", "work", Note(path="new.md", frontmatter="{}", body="new")).line
    assert (new.before_bytes, new.after_bytes) == (None, len(line))
    tenants = {tenant.user_id: (tenant.added, tenant.removed, tenant.changed) for tenant in records.tenants}
    assert tenants == {"ann": (1, 1, 2), "bob": (0, 11, 0), "dot": (11, 0, 0)}
    assert (records.added, records.removed, records.changed) == (12, 12, 2)
    assert records.counts(Change.CHANGED) == {RecordKind.NOTE: 1, RecordKind.PROPOSAL: 1}
    assert records.counts(Change.REMOVED)[RecordKind.TENANT] == 1
    assert found.outcome is Outcome.DIFFERENT
    json.dumps(jsonable(found))


@pytest.mark.parametrize("against", ["archive", "live"])
def test_a_writer_key_counts(repository: Repository, tmp_path: Path, against: str) -> None:
    before, after = changed_export()
    first = stored_export(repository, tmp_path, *before)
    second = stored_export(repository, tmp_path, *after)
    wanted = diff(repository, first, second).records[0]
    for looking in (as_writer(repository), repository):
        if against == "live":
            found = diff_live(looking, first, export_source(tmp_path, *after), names=False).records[0]
        else:
            found = diff(looking, first, second, names=False).records[0]
        assert found.records == ()
        assert {tenant.user_id for tenant in found.tenants} == {None}
        assert [attrs.evolve(tenant, user_id=None) for tenant in wanted.tenants] == list(found.tenants)
    with_writer = diff(as_writer(repository), first, second).records[0]
    assert with_writer == found


def test_the_moment_of_an_export_is_no_difference(repository: Repository, tmp_path: Path) -> None:
    ann = user("ann")
    first = stored_export(repository, tmp_path, ann)
    second = stored_export(repository, tmp_path, ann, exported_at="2026-04-09T15:30:22.123Z")
    assert diff(repository, first, second).outcome is Outcome.OK
    later = export_source(tmp_path, ann, exported_at="2026-04-10T15:30:22.123Z")
    assert diff_live(repository, first, later).outcome is Outcome.OK


def test_only_what_differs_is_opened(repository: Repository, tmp_path: Path) -> None:
    users = [user(f"user{n}", notes=8, size=150_000, proposals=0) for n in range(6)]
    first = stored_export(repository, tmp_path, *users)
    users[3]["vaults"][0]["notes"][0]["body"] = "short"
    second = stored_export(repository, tmp_path, *users)
    counting = FaultSink(repository.sink)
    diff(attrs.evolve(repository, sink=counting), first, second)
    read = {operation for operation in counting.operations if PACK_PREFIX in operation}
    assert len(read) == 2 < len(repository.manifest(second).packs)


def test_records_that_are_no_export_are_counted(repository: Repository) -> None:
    before = StagedSource(records={"things": {(b"a", b"1"): b"x", (b"a", b"2"): b"y", (b"b", b"1"): b"z"}})
    after = StagedSource(records={"things": {(b"a", b"1"): b"X", (b"a", b"3"): b"y", (b"b", b"1"): b"z"}})
    for found in both(repository, before, after):
        (records,) = found.records
        assert (records.added, records.removed, records.changed) == (1, 1, 1)
        assert len(records.tenants) == 1
        assert records.records == ()


def test_erased_tenants_have_no_names(tmp_path: Path) -> None:
    sink = MemorySink()
    repository = new_repository(sink, tenant_keys=True)
    first = stored_export(repository, tmp_path, user("ann"), user("bob"))
    second = stored_export(repository, tmp_path, user("ann"))
    assert {one.user_id for one in diff(repository, first, second).records[0].records} == {"ann", "bob"}
    for info in list(sink.list(TENANT_PREFIX)):
        sink.delete(info.key)
    found = diff(repository, first, second).records[0]
    assert (found.records, found.removed) == ((), 11)


# -- facts ------------------------------------------------------------------------------------------------------------


def facts(**more: Any) -> bytes:
    plain = {"canister_id": Principal.parse("aaaaa-aa"), "captured_at": dt.datetime(2026, 5, 1, tzinfo=dt.UTC)}
    return CanisterFacts(**{**plain, "controllers": (), "module_hash": b"\1" * 32, **more}).to_bytes()


def test_drift_of_a_canister_is_a_difference(repository: Repository) -> None:
    before = StagedSource(files={"facts.json": facts()})
    after = StagedSource(files={"facts.json": facts(module_hash=b"\2" * 32)})
    first = back_up(repository, before).archive_id
    second = back_up(repository, after).archive_id
    for found in (diff(repository, first, second), diff_live(repository, first, after)):
        assert found.facts is not None
        assert [change.name for change in found.facts.drift] == ["module_hash"]
        assert (found.outcome, "module_hash" in str(found)) == (Outcome.DIFFERENT, True)
    blind = diff(as_writer(repository), first, second)
    assert (blind.facts, blind.outcome) == (None, Outcome.OK)  # of two moments; no content differs


@pytest.mark.parametrize(
    ("other", "code"),
    [(b"no facts", "facts_unreadable"), (facts(canister_id=Principal.parse("2vxsx-fae")), "facts_not_compared")],
)
def test_facts_that_cannot_be_compared_are_named(repository: Repository, other: bytes, code: str) -> None:
    first = back_up(repository, StagedSource(files={"facts.json": facts()})).archive_id
    second = back_up(repository, StagedSource(files={"facts.json": other})).archive_id
    found = diff(repository, first, second)
    assert [finding.code for finding in found.warnings] == [code]
    assert found.outcome is Outcome.PARTIAL


# -- what is there now ------------------------------------------------------------------------------------------------


def test_another_source_is_refused(repository: Repository) -> None:
    first = back_up(repository, StagedSource(files={"a": b"a"})).archive_id
    with pytest.raises(ConfigurationError) as caught:
        diff_live(repository, first, StagedSource(files={"a": b"a"}, source_id="bbbbb-bb"))
    assert caught.value.kind == "other_source"
    with pytest.raises(BlobNotFoundError):
        diff(repository, first, first[:-1] + "0")


def test_an_incomplete_capture_is_no_proof_of_sameness(repository: Repository) -> None:
    first = back_up(repository, StagedSource(files={"a": b"a"})).archive_id
    found = diff_live(repository, first, StagedSource(files={"a": b"a"}, complete=False))
    assert (found.outcome, "INCOMPLETE" in str(found)) == (Outcome.PARTIAL, True)


class Wrong(StagedSource):
    """Says one size and has another, or has one record twice."""

    def sections(self) -> Any:
        yield ImageSection(name="heap", size_bytes=5000, chunks=(b"x" * 4000,))


class Twice(StagedSource):
    """Has one record twice."""

    def sections(self) -> Any:
        yield RecordSection(name="r", batches=([SectionRecord(b"o", b"n", b"1"), SectionRecord(b"o", b"n", b"2")],))


@pytest.mark.parametrize(("source", "error"), [(Wrong(), TruncatedError), (Twice(), ExportError)])
def test_a_source_that_contradicts_itself_is_refused(
    repository: Repository, source: StagedSource, error: type[Exception]
) -> None:
    first = back_up(repository, StagedSource(images={"heap": b"x"})).archive_id
    with pytest.raises(error):
        diff_live(repository, first, source)
