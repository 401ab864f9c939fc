"""The history of one note or proposal over the archives of a repository."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from export_stage import payload, stored_export, user
from repository_stage import StagedSource, new_repository

from knowtation_backup._engine.canonical import dumps
from knowtation_backup.errors import BlobNotFoundError, ConfigurationError
from knowtation_backup.exports.records import RecordKind
from knowtation_backup.exports.sections import ExportFileSource
from knowtation_backup.model.marks import MarkVerb
from knowtation_backup.model.reports import CaptureResult, Outcome, jsonable
from knowtation_backup.operations.marks import put_mark
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.history import history
from knowtation_backup.operations.repository.history_reports import Presence
from knowtation_backup.operations.repository.selecting import restore_records
from knowtation_backup.operations.repository.stored_export import owner_of
from knowtation_backup.repository.layout import INDEX_PREFIX, PACK_PREFIX, archive_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink

WHERE = ("ann", "work", "n0.md")


@pytest.fixture
def repository() -> Repository:
    return new_repository(MemorySink())


class Days:
    """An export that is stored day by day."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self.repository, self.directory = repository, directory
        self.ann, self.bob = user("ann"), user("bob")
        self.archives: list[str] = []

    def store(self) -> str:
        day = len(self.archives) + 1
        self.archives.append(
            stored_export(
                self.repository, self.directory, self.ann, self.bob, exported_at=f"2026-04-{day:02}T15:30:22.000Z"
            )
        )
        return self.archives[-1]

    def edit(self, body: str | None) -> None:
        notes: list[dict[str, Any]] = self.ann["vaults"][0]["notes"]
        notes[:] = [one for one in notes if one["path"] != "n0.md"]
        if body is not None:
            notes.append({"path": "n0.md", "frontmatter": "{}", "body": body})


@pytest.fixture
def days(repository: Repository, tmp_path: Path) -> Days:
    """Seven archives: not there, A, A, B, deleted, A again, A."""
    days = Days(repository, tmp_path)
    for body in (None, "A", "A", "B", None, "A", "A"):
        days.edit(body)
        days.store()
    return days


def test_versions_are_told_with_their_archives(days: Days) -> None:
    found = history(days.repository, *WHERE, contents=True)
    ids = days.archives
    assert [(span.presence, span.first, span.last, span.archives) for span in found.spans] == [
        (Presence.ABSENT, ids[0], ids[0], 1),
        (Presence.THERE, ids[1], ids[2], 2),
        (Presence.THERE, ids[3], ids[3], 1),
        (Presence.ABSENT, ids[4], ids[4], 1),
        (Presence.THERE, ids[5], ids[6], 2),
    ]
    notes = [span.entry.note for span in found.versions if span.entry is not None]
    assert [one.body for one in notes if one is not None] == ["A", "B", "A"]
    assert len({span.record_id for span in found.versions}) == 2
    assert (found.kind, found.series) == (RecordKind.NOTE, "knowtation-operator-full-export@hub")
    assert (found.outcome, found.exit_code, found.gaps) == (Outcome.OK, 0, ())
    assert len(str(found).splitlines()) == 6
    json.dumps(jsonable(found))
    for span in found.versions:
        (note,) = [e.note for e in restore_records(days.repository, span.first, *WHERE[:2], path=WHERE[2]) if e.note]
        assert span.entry is not None
        assert note == span.entry.note


def test_contents_come_only_when_asked_for(days: Days) -> None:
    found = history(days.repository, *WHERE)
    assert {span.entry for span in found.spans} == {None}
    assert all(span.size_bytes for span in found.versions)


def test_a_writer_key_tells_versions_apart(days: Days) -> None:
    writer = Repository.open_with(days.repository.sink, days.repository.writer_key)
    found = history(writer, *WHERE)
    with_keys = history(days.repository, *WHERE)
    assert found.spans == tuple(attrs.evolve(span, size_bytes=None) for span in with_keys.spans)
    with pytest.raises(ConfigurationError) as caught:
        history(writer, *WHERE, contents=True)
    assert caught.value.kind == "write_only"


def test_proposals_have_a_history_too(repository: Repository, tmp_path: Path) -> None:
    days = Days(repository, tmp_path)
    days.store()
    days.ann["proposals"][1]["status"] = "approved"
    days.store()
    found = history(repository, "ann", "work", proposal_id="p1")
    assert [span.status for span in found.spans] == ["proposed", "approved"]
    assert "approved" in str(found)


def test_each_index_is_read_once_and_each_version_opened_once(repository: Repository, tmp_path: Path) -> None:
    days = Days(repository, tmp_path)
    for number in range(12):
        if number % 4 == 0:
            days.edit(f"version {number}")
        days.bob["vaults"][0]["notes"][0]["body"] = f"other {number}"
        days.store()
    counting = FaultSink(repository.sink)
    found = history(attrs.evolve(repository, sink=counting), *WHERE)
    assert len(found.versions) == 3
    read = Counter(operation for operation in counting.operations if operation.startswith("read "))
    assert {operation: count for operation, count in read.items() if count > 1} == {}
    assert sum(INDEX_PREFIX in operation for operation in read) == 12
    assert sum(PACK_PREFIX in operation for operation in read) == 3


@pytest.mark.parametrize(
    "where", [("ann", "work", "never.md"), ("ann", "away", "n0.md"), ("cid", "work", "n0.md"), ("ann", "work", "N0.md")]
)
def test_what_never_was_is_said(days: Days, where: tuple[str, str, str]) -> None:
    with pytest.raises(BlobNotFoundError) as caught:
        history(days.repository, *where)
    assert caught.value.kind == "no_such_record"


def test_what_is_asked_for_is_named(days: Days) -> None:
    with pytest.raises(ConfigurationError):
        history(days.repository, "ann", "work")
    with pytest.raises(ConfigurationError):
        history(days.repository, "ann", "work", "n0.md", proposal_id="p0")


def test_other_series_are_left_out_or_asked_for(days: Days, tmp_path: Path) -> None:
    repository = days.repository
    back_up(repository, StagedSource(files={"a": b"a"}))
    assert sum(span.archives for span in history(repository, *WHERE).spans) == 7
    path = tmp_path / "other.json"
    path.write_bytes(dumps(payload(days.ann)))
    back_up(repository, ExportFileSource(path=path, source_id="other"))
    with pytest.raises(ConfigurationError) as caught:
        history(repository, *WHERE)
    assert caught.value.kind == "ambiguous_series"
    assert sum(span.archives for span in history(repository, *WHERE, source_id="hub").spans) == 7
    assert history(repository, *WHERE, source_id="other").series.endswith("@other")


# -- gaps -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Partly:
    """An export in which a tenant failed: nothing of it is there."""

    inner: ExportFileSource
    statuses: dict[str, str]

    def capture_sections(self, **more: Any) -> Any:
        capture = self.inner.capture_sections(**more)
        finish = capture.result

        def result() -> CaptureResult:
            entries = [{"user_id": name, "status": status} for name, status in self.statuses.items()]
            found = finish()
            return attrs.evolve(found, complete=False, details={**found.details, "tenants": entries})

        return _Capture(capture, result)


class _Capture:
    def __init__(self, inner: Any, result: Any) -> None:
        self.result = result
        self.kind, self.source_id, self.taken_at = inner.kind, inner.source_id, inner.taken_at
        self.sections = inner.sections


@pytest.mark.parametrize(
    ("status", "presence"),
    [("failed", Presence.UNKNOWN), ("partial", Presence.UNKNOWN), ("complete", Presence.ABSENT)],
)
def test_what_was_not_read_is_not_taken_for_deleted(
    days: Days, tmp_path: Path, status: str, presence: Presence
) -> None:
    path = tmp_path / "partly.json"
    path.write_bytes(dumps(payload(days.bob, exported_at="2026-04-20T15:30:22.000Z")))
    back_up(
        days.repository,
        Partly(ExportFileSource(path=path, source_id="hub"), {"ann": status, "bob": "complete"}),
        options=RepositoryBackupOptions(),
    )
    found = history(days.repository, *WHERE)
    assert found.spans[-1].presence is presence
    assert found.outcome is (Outcome.OK if presence is Presence.ABSENT else Outcome.PARTIAL)
    writer = Repository.open_with(days.repository.sink, days.repository.writer_key)
    assert history(writer, *WHERE).spans[-1].presence is Presence.UNKNOWN


def test_archives_that_cannot_be_read_are_gaps(days: Days) -> None:
    sink = days.repository.sink
    assert isinstance(sink, MemorySink)
    key = archive_key(days.archives[3])
    sink.delete(key)
    sink.put(key, (b"damaged",))
    found = history(days.repository, *WHERE)
    assert [span.presence for span in found.spans] == [
        Presence.ABSENT,
        Presence.THERE,
        Presence.UNREADABLE,
        Presence.ABSENT,
        Presence.THERE,
    ]
    assert (found.gaps[0].first, found.gaps[0].first_at, found.outcome) == (days.archives[3], None, Outcome.PARTIAL)
    assert "unreadable" in str(found)


def test_versions_that_cannot_be_opened_are_told_all_the_same(days: Days) -> None:
    sink = days.repository.sink
    assert isinstance(sink, MemorySink)
    known = {info.key for info in sink.list(PACK_PREFIX)}
    newest = {key for key, _ in days.repository.manifest(days.archives[3]).objects()} & known
    older = {key for key, _ in days.repository.manifest(days.archives[2]).objects()}
    for key in newest - older:
        sink.delete(key)
    found = history(days.repository, *WHERE)
    assert len(found.versions) == 3
    assert [span.size_bytes is None for span in found.versions] == [False, True, False]
    assert [finding.code for finding in found.warnings] == ["blob_not_found"]
    assert found.outcome is Outcome.PARTIAL


def test_erased_tenants_keep_their_dates(tmp_path: Path) -> None:
    days = Days(new_repository(MemorySink(), tenant_keys=True), tmp_path)
    days.store()
    apply_erase_tenant(days.repository, plan_erase_tenant(days.repository, owner_of("ann")))
    found = history(days.repository, *WHERE)
    assert [(span.first, span.size_bytes) for span in found.versions] == [(days.archives[0], None)]
    assert [finding.code for finding in found.warnings] == ["tenant_erased"]


def test_what_is_in_the_trash_is_passed_over(days: Days) -> None:
    put_mark(days.repository.sink, days.archives[3], MarkVerb.TRASHED, {"reason": "x"})
    assert [span.archives for span in history(days.repository, *WHERE).spans] == [1, 2, 1, 2]
