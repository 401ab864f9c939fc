"""What a backup stores of records: those that are new or changed, and not those that are as they were once before."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pytest
from repository_stage import MOMENT, Records, StagedSource, contents, new_repository

from knowtation_backup.operations.repository.backup import RepositoryBackupReport, back_up
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink

RANDOM = random.Random(13)  # noqa: S311 - content


class Days:
    """A source of records that is backed up day by day."""

    def __init__(self, **config: Any) -> None:
        self.repository: Repository = new_repository(MemorySink(), **config)
        self.stored: dict[str, set[bytes]] = {}

    def __call__(self, records: Records) -> RepositoryBackupReport:
        moment = MOMENT + dt.timedelta(days=len(self.stored))
        report = back_up(self.repository, StagedSource(records={"notes": records}, kind="export", taken_at=moment))
        self.stored[report.archive_id] = set(records.values())
        return report

    def check(self) -> None:
        for archive_id, values in self.stored.items():
            assert contents(self.repository, archive_id)["notes"] == values
        report = verify_all(self.repository, record=False)
        assert (report.ok, report.erased_records) == (True, 0), str(report)


def _notes(count: int = 300) -> dict[tuple[bytes, bytes], bytes]:
    return {(b"anna", b"note %d" % n): RANDOM.randbytes(1000) for n in range(count)}


def _counts(report: RepositoryBackupReport) -> tuple[int, int]:
    return report.sections[0].changed, report.sections[0].stored


def test_what_goes_back_to_an_earlier_value_or_comes_back_is_not_stored_again() -> None:
    day = Days()
    first = _notes()
    name = (b"anna", b"note 7")
    edited = first | {key: RANDOM.randbytes(1000) for key in list(first)[:100]}
    assert _counts(day(first)) == (300, 300)
    assert _counts(day(edited)) == (100, 100)
    back = day(first)
    assert _counts(back) == (100, 0)
    assert back.new_bytes < 20_000
    assert _counts(day({key: value for key, value in first.items() if key != name})) == (1, 0)
    assert _counts(day(first)) == (1, 0)
    assert _counts(day(edited | {name: b"something else"})) == (100, 1)
    # a value that only another record has is stored: records of exports say themselves whose they are
    assert _counts(day(first | {(b"anna", b"copy"): first[name]})) == (101, 1)
    day.check()


@pytest.mark.parametrize("max_chain", [1, 2, 5])
def test_archives_are_right_however_records_go_back_and_forth(max_chain: int) -> None:
    day = Days(max_chain=max_chain)
    values = [RANDOM.randbytes(RANDOM.choice([1, 40, 900])) for _ in range(6)]
    records: dict[tuple[bytes, bytes], bytes] = {}
    for _ in range(12):
        for _ in range(8):
            name = (RANDOM.choice([b"anna", b"ben"]), b"note %d" % RANDOM.randrange(12))
            if RANDOM.random() < 0.3:
                records.pop(name, None)
            else:
                records[name] = RANDOM.choice(values)
        day(dict(records))
    day.check()


def test_what_may_be_sealed_to_a_key_that_is_gone_is_stored_again() -> None:
    day = Days(tenant_keys=True)
    first = _notes(3)
    edited = {key: value + b"!" for key, value in first.items()}
    day(first)
    apply_erase_tenant(day.repository, plan_erase_tenant(day.repository, b"anna"))
    day.stored.clear()
    day(edited)
    assert _counts(day(first)) == (3, 3)
    for archive_id, values in day.stored.items():
        assert contents(day.repository, archive_id)["notes"] == values
