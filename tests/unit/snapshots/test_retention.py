"""Which snapshots stay on chain: pure decisions, each with its reason."""

from __future__ import annotations

import datetime as dt

import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.canisters import Snapshot
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.snapshots.retention import SnapshotList, plan_snapshots

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
NOW = dt.datetime(2026, 4, 8, tzinfo=dt.UTC)


def listing(count: int) -> SnapshotList:
    """Snapshots 0 to count - 1, of which a larger number is newer; listed in another order."""
    items = [Snapshot(snapshot_id=SnapshotId(bytes([n])), taken_at_ns=n * 10**9, size_bytes=100) for n in range(count)]
    return SnapshotList(canister_id=CANISTER, snapshots=tuple(reversed(items)))


def ids(*numbers: int) -> tuple[SnapshotId, ...]:
    return tuple(SnapshotId(bytes([number])) for number in numbers)


def test_a_list_is_sorted_from_the_oldest_and_knows_when_it_is_full() -> None:
    found = listing(10)
    assert found.ids == ids(*range(10))
    assert (len(found), found.full, found.size_bytes) == (10, True, 1000)
    assert not listing(9).full
    assert found.find(SnapshotId(b"\x03")) == list(found)[3]
    assert found.find(SnapshotId(b"\x63")) is None
    assert "10 of at most 10 snapshots" in str(found)
    assert found.to_json()["snapshots"][0]["snapshot_id"] == "00"


def test_the_newest_stay() -> None:
    plan = plan_snapshots(listing(5), keep=2, now=NOW)
    assert [item.snapshot_id for item in plan.deleted] == list(ids(0, 1, 2))
    assert [item.snapshot_id for item in plan.kept] == list(ids(3, 4))
    assert plan.ids == frozenset(ids(*range(5)))
    assert "applying would delete 3 snapshot(s)" in str(plan)
    assert "older than the newest 2" in str(plan)


def test_fewer_than_allowed_all_stay() -> None:
    assert plan_snapshots(listing(3), keep=3, now=NOW).deleted == ()
    assert plan_snapshots(listing(0), keep=1, now=NOW).decisions == ()


def test_without_a_verified_copy_nothing_goes() -> None:
    plan = plan_snapshots(listing(4), keep=1, now=NOW, downloaded=ids(1, 3))
    assert [item.snapshot_id for item in plan.deleted] == list(ids(1))
    assert "no verified copy of it is known elsewhere" in str(plan)
    assert plan_snapshots(listing(4), keep=1, now=NOW, downloaded=()).deleted == ()


def test_what_an_unfinished_operation_needs_stays() -> None:
    plan = plan_snapshots(listing(4), keep=1, now=NOW, protected=ids(0))
    assert [item.snapshot_id for item in plan.deleted] == list(ids(1, 2))


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_room_for_one_more_must_be_left(keep: int) -> None:
    with pytest.raises(ConfigurationError, match="keep 1 to 9"):
        plan_snapshots(listing(4), keep=keep, now=NOW)
