"""Backup sets: every source gets its archive or its error, on whatever executor."""

import datetime as dt
import functools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from repository_stage import (
    MOMENT,
    StagedSource,
    contents,
    new_repository,
    numbered_source,
    open_stored,
    unreachable_source,
)

from knowtation_backup.contracts import SectionSource
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions
from knowtation_backup.operations.repository.many import back_up_set
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink

EXPORT = "knowtation-operator-full-export"


def test_a_failure_stays_with_its_source() -> None:
    repository = new_repository(MemorySink())
    report = back_up_set(repository, {"one": numbered_source(1), "lost": unreachable_source, "two": numbered_source(2)})
    assert [member.name for member in report.members] == ["one", "lost", "two"]
    assert [member.name for member in report.failed] == ["lost"]
    assert report.outcome is Outcome.PARTIAL
    assert "lost: FAILED: the hub does not answer" in str(report)
    for member, number in ((report.members[0], 1), (report.members[2], 2)):
        assert member.report is not None
        assert member.report.manifest.set_id == report.set_id
        assert contents(repository, member.report.archive_id)["stable_memory.bin"] == bytes([number + 1]) * 10_000


def test_a_set_without_any_archive_failed() -> None:
    report = back_up_set(new_repository(MemorySink()), {"lost": unreachable_source})
    assert (report.outcome, report.exit_code) == (Outcome.FAILED, 1)


def test_a_bug_ends_the_set() -> None:
    def broken() -> SectionSource:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        back_up_set(new_repository(MemorySink()), {"broken": broken})


def test_names_must_be_those_of_sources() -> None:
    repository = new_repository(MemorySink())
    with pytest.raises(ConfigurationError, match="no source is called hub"):
        back_up_set(repository, {"one": numbered_source(1)}, pillars=[("one", "hub")])
    with pytest.raises(ConfigurationError, match="needs a source"):
        back_up_set(repository, {})


@pytest.mark.parametrize(
    ("export", "codes"),
    [
        (StagedSource(kind=EXPORT, source_id="hub"), []),
        (StagedSource(kind=EXPORT, source_id="hub", taken_at=MOMENT + dt.timedelta(hours=2)), ["pillars_apart"]),
        (StagedSource(kind=EXPORT, source_id="hub", complete=False), ["pillar_incomplete"]),
        (StagedSource(kind="agentvault", source_id="hub"), ["pillar_kind"]),
        (unreachable_source, ["pillar_missing"]),
    ],
)
def test_both_pillars_are_compared(export: StagedSource, codes: list[str]) -> None:
    sources = {"snapshot": numbered_source(1), "export": export}
    report = back_up_set(new_repository(MemorySink()), sources, pillars=[("snapshot", "export")])
    assert [finding.code for finding in report.findings] == codes


HUB, OTHER = "rrkah-fqaaa-aaaaa-aaaaq-cai", "ryjl3-tyaaa-aaaaa-aaaba-cai"


@pytest.mark.parametrize(
    ("snapshot", "export", "codes"),
    [
        (HUB, HUB, []),
        (HUB, f"{HUB}/0a1b2c3d", []),
        (HUB, "hub.example.org", []),
        (HUB, OTHER, ["pillars_differ"]),
        (HUB, f"{OTHER}/0a1b2c3d", ["pillars_differ"]),
    ],
)
def test_pillars_are_of_one_hub(snapshot: str, export: str, codes: list[str]) -> None:
    sources = {"s": StagedSource(source_id=snapshot), "e": StagedSource(kind=EXPORT, source_id=export)}
    report = back_up_set(new_repository(MemorySink()), sources, pillars=[("s", "e")])
    assert [finding.code for finding in report.findings] == codes
    assert all(HUB in finding.message and OTHER in finding.message for finding in report.findings)


def run_in_other_processes(place: Path, executor: object) -> None:
    repository = new_repository(FsspecSink(place))
    sources = {f"canister-{number}": functools.partial(numbered_source, number) for number in range(6)}
    report = back_up_set(
        functools.partial(open_stored, str(place), repository.read_keys),
        {**sources, "lost": unreachable_source},
        executor=executor,  # type: ignore[arg-type]  # dask's is one by its methods
        options=RepositoryBackupOptions(tags=("nightly",)),
    )
    assert [member.name for member in report.failed] == ["lost"]
    assert len(repository.archive_ids()) == 6
    for number, member in enumerate(report.members[:6]):
        assert member.report is not None
        assert member.report.manifest.tags == ("nightly",)
        assert contents(repository, member.report.archive_id)["stable_memory.bin"] == bytes([number + 1]) * 10_000


def test_other_processes_do_the_work(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        run_in_other_processes(tmp_path / "repository", executor)


@pytest.fixture
def dask_executor() -> Iterator[object]:
    import distributed  # noqa: PLC0415 - takes a second

    with (
        distributed.LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client.get_executor()


@pytest.mark.filterwarnings("default")  # what the scheduler's own libraries warn of is not ours
def test_dask_does_the_work(tmp_path: Path, dask_executor: object) -> None:
    run_in_other_processes(tmp_path / "repository", dask_executor)
