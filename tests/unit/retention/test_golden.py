"""
Golden cases: archives and a moment in, decisions with their reasons out.

Each file is one scenario. An archive is ``{"at": <moment>, ...}``; what is left out is the usual: complete, of series
``s``, ours, never verified. ``every_hours`` and ``count`` make a row of archives, one after the other into the past.
Ids are series and moment. ``decisions`` lists everything, newest first; in long scenarios ``kept`` lists what stays.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from knowtation_backup.contracts import RetentionPolicy
from knowtation_backup.model.marks import Standing
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.retention.policy import KeepPolicy

FOLDER = Path(__file__).parent.parent.parent / "golden" / "retention"
MOMENTS = ("verified_at", "failed_at", "pinned_until", "trashed_at")


def policy_of(value: dict[str, Any]) -> RetentionPolicy:
    (name, options), *_ = value.items()
    makers: dict[str, Any] = {
        "keep": KeepPolicy,
        "quri": KeepPolicy.quri,
        "keep_last": KeepLast,
        "km": KeepLast.km,
    }
    return makers[name](**options)  # type: ignore[no-any-return] # every maker returns a policy


def archives_of(value: dict[str, Any]) -> Iterator[ArchiveInfo]:
    value = dict(value)
    newest = dt.datetime.fromisoformat(value.pop("at"))
    step, count = dt.timedelta(hours=value.pop("every_hours", 0)), value.pop("count", 1)
    series, number = value.pop("series", "s"), value.pop("number", 0)
    facts = {
        "state": ArchiveState(value.pop("state", "complete")),
        "managed": value.pop("managed", True),
        "backup_tags": tuple(value.pop("backup_tags", ())),
    }
    for name in MOMENTS:
        if name in value:
            value[name] = dt.datetime.fromisoformat(value[name])
    for name in ("tags", "removed_tags"):
        if name in value:
            value[name] = tuple(value[name])
    for index in range(count):
        taken_at = newest - index * step
        clash = f"-{number:02d}" if number else ""
        archive_id = f"{series}-{taken_at:%Y%m%dT%H%M%S}Z{clash}"
        yield ArchiveInfo(
            archive_id=archive_id,
            taken_at=taken_at,
            size_bytes=10,
            keys=(archive_id,),
            series=series,
            number=number,
            standing=Standing(**value),
            **facts,
        )


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    case = json.loads(path.read_text())
    archives = [info for value in case["archives"] for info in archives_of(value)]
    plan = policy_of(case["policy"]).plan(archives, now=dt.datetime.fromisoformat(case["now"]))
    if "decisions" in case:
        shown = [["keep" if d.keep else "FORGET", d.archive.archive_id, d.reason] for d in plan.decisions]
        assert shown == case["decisions"]
    if "kept" in case:
        assert [info.archive_id for info in plan.kept] == case["kept"]
    assert case["why"], "a scenario says what it shows"


def test_counts_and_lengths_mean_what_they_mean_to_restic() -> None:
    value = json.loads((FOLDER / "peers" / "restic-0.14.json").read_text())
    archives = [info for at in value["taken_at"] for info in archives_of({"at": at})]
    for case in value["cases"]:
        plan = KeepPolicy(**case["policy"], min_keep=0).plan(archives, now=archives[-1].taken_at)
        assert set(plan.kept) == {archives[index] for index in case["kept"]}, case["policy"]


def test_there_are_golden_cases() -> None:
    assert len(list(FOLDER.glob("*.json"))) >= 12
