"""The facade of a repository: archives by short names, and every option handed on."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, new_repository

from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.errors import ConfigurationError, TargetNotReadyError
from knowtation_backup.model.reports import Outcome
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.backup import ReadBack
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions
from knowtation_backup.repository_pipeline import RepositoryPipeline
from knowtation_backup.sinks.memory import MemorySink


def image(day: int) -> bytes:
    return b"".join(bytes([day, page]) * (PAGE_BYTES // 2) for page in range(20))


@pytest.fixture
def pipeline() -> RepositoryPipeline:
    """Two archives, of which the second shares nothing with the first but its file."""
    made = RepositoryPipeline(repository=new_repository(MemorySink()), clock=lambda: MOMENT)
    for day in (1, 2):
        source = StagedSource(
            images={"heap.bin": image(day)}, files={"code.wasm": b"code"}, taken_at=MOMENT + dt.timedelta(days=day)
        )
        full = RepositoryBackupOptions(full=True)
        assert attrs.evolve(made, sources={"canister": source}, options=full).backup().exit_code == 0
    return made


def test_archives_are_named_in_short(pipeline: RepositoryPipeline) -> None:
    newest, oldest = (info.archive_id for info in pipeline.list())
    assert pipeline.find().archive_id == newest
    assert pipeline.find("latest-1").archive_id == pipeline.find(oldest[:-3]).archive_id == oldest
    assert b"".join(pipeline.read("heap.bin", "latest-1")) == image(1)
    assert pipeline.diff("latest-1").before == oldest
    assert pipeline.diff("latest-1").outcome is Outcome.DIFFERENT


def test_restores_with_every_option(pipeline: RepositoryPipeline, tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(TargetNotReadyError):
        pipeline.restore("latest", target)
    plan = pipeline.plan_restore("latest", target, sections=["heap.bin"], details=True, replace=True)
    report = pipeline.apply_restore(plan)
    assert plan.replaces
    assert report.moved_aside == tmp_path / f"there.pre-restore-{MOMENT:%Y%m%dT%H%M%SZ}"
    assert {path.name for path in target.iterdir()} == {"heap.bin", "details.json"}
    assert (target / "heap.bin").read_bytes() == image(2)


def test_a_finished_archive_is_signed(pipeline: RepositoryPipeline) -> None:
    signer = SigningKey.generate()
    signing = attrs.evolve(pipeline, repository=attrs.evolve(pipeline.repository, signing_keys=signer))
    signing.sign(pipeline.find().archive_id)
    assert [info.is_signed for info in pipeline.list()] == [True, False]


def test_measures_what_a_used_pack_holds_in_vain(pipeline: RepositoryPipeline) -> None:
    assert pipeline.measure_waste().wasted_bytes == 0
    assert pipeline.measure_waste().packs == len(list(pipeline.repository.sink.list("packs/")))


def test_sources_are_known(pipeline: RepositoryPipeline) -> None:
    with pytest.raises(ConfigurationError, match="no source is called hub"):
        pipeline.backup("hub")


def test_series_that_were_never_seen_are_missing(pipeline: RepositoryPipeline) -> None:
    report = pipeline.missing(MOMENT, expected=["export@hub"])
    assert [found.series for found in report.found] == ["export@hub"]


def test_a_replica_is_read_back_and_marked_as_asked(pipeline: RepositoryPipeline) -> None:
    pipeline.pin("latest")
    replica = MemorySink()
    pipeline.replicate(replica, read_back=ReadBack.CONTENT, marks=False)
    copied = attrs.evolve(pipeline, repository=attrs.evolve(pipeline.repository, sink=replica))
    assert not any(info.standing.pinned for info in copied.list())
    pipeline.copy_to(copied.repository)
    assert copied.find().standing.pinned


def test_files_of_others_are_imported(pipeline: RepositoryPipeline) -> None:
    place = MemorySink()
    payload = b'{"format_version":2,"exported_at":"2026-04-08T15:30:20.000Z","user_id":"u","vault_id":"v","notes":[]}'
    place.put("canister-export-default-20260408T153020Z.json", [payload])
    plan = pipeline.plan_import(place, source_id="hub")
    report = pipeline.apply_import(place, plan)
    assert (len(report.imported), len(report.failed)) == (1, 0), str(report)
    assert pipeline.import_all(place, source_id="hub").present


def test_what_was_made_anew_is_the_latest_even_by_a_clock_that_stands_still(pipeline: RepositoryPipeline) -> None:
    for _ in range(4):  # ids are random, so that one try would be right by chance
        made = pipeline.consolidate()
        assert pipeline.find().archive_id == made.archive_id
