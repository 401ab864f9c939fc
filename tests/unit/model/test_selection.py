"""Which archives a filter wants."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.marks import Standing
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.model.selection import ArchiveFilter, filter_archives

MOMENT = dt.datetime(2026, 4, 8, 15, 30, tzinfo=dt.UTC)


def archive(**changes: Any) -> ArchiveInfo:
    facts: dict[str, Any] = {
        "archive_id": "operator-full-export-20260408T153000Z.json",
        "state": ArchiveState.COMPLETE,
        "series": "operator-full-export@hub",
        "taken_at": MOMENT,
        "size_bytes": 1,
        "keys": (),
        "kind": "knowtation-operator-full-export",
        "source_id": "hub",
        "backup_tags": ("nightly", "pre-upgrade"),
    }
    return ArchiveInfo(**facts | changes)


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        ({"kind": "knowtation-operator-full-export"}, {"kind": "other"}),
        ({"source_id": "hub"}, {"source_id": ""}),
        ({"series": "operator-full-export@hub"}, {"series": "other"}),
        ({"tags": ["nightly"]}, {"backup_tags": ()}),
        ({"tags": ["nightly", "pre-upgrade"]}, {"standing": Standing(removed_tags=("nightly",))}),
        ({"states": ["complete"]}, {"state": ArchiveState.DAMAGED}),
        ({"states": [ArchiveState.COMPLETE, ArchiveState.INCOMPLETE]}, {"state": ArchiveState.UNFINISHED}),
        ({"since": MOMENT}, {"taken_at": MOMENT - dt.timedelta(milliseconds=1)}),
        ({"until": MOMENT + dt.timedelta(milliseconds=1)}, {"taken_at": MOMENT + dt.timedelta(milliseconds=1)}),
        ({"verified": False}, {"standing": Standing(verified_at=MOMENT)}),
        ({"quarantined": False}, {"standing": Standing(quarantined=True)}),
        ({"managed": True}, {"managed": False}),
        ({}, {"standing": Standing(trashed_at=MOMENT)}),
    ],
)
def test_every_condition_must_hold(wanted: dict[str, Any], changes: dict[str, Any]) -> None:
    condition = ArchiveFilter(**wanted)
    assert condition.matches(archive())
    assert not condition.matches(archive(**changes))
    assert filter_archives([archive(**changes), archive()], condition) == [archive()]


def test_tags_given_later_count() -> None:
    assert ArchiveFilter(tags=["kept"]).matches(archive(standing=Standing(tags=("kept",))))


def test_the_trash_is_shown_when_asked_for() -> None:
    assert ArchiveFilter(include_trashed=True).matches(archive(standing=Standing(trashed_at=MOMENT)))


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ({"states": ["fine"]}, "bad_option"),
        ({"tags": ["two words"]}, "bad_tag"),
        ({"since": MOMENT.replace(tzinfo=None)}, "naive_datetime"),
        ({"until": MOMENT.replace(tzinfo=None)}, "naive_datetime"),
    ],
)
def test_impossible_conditions_are_refused(wanted: dict[str, Any], kind: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ArchiveFilter(**wanted)
    assert caught.value.kind == kind
