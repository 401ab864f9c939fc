"""Repair from replicas: what may go wrong meanwhile. That it heals everything is in ``tests/faults``."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, contents, new_repository

from knowtation_backup.codecs.keys import PrivateKey
from knowtation_backup.errors import PlanStaleError, SinkUnavailableError
from knowtation_backup.model.events import Event
from knowtation_backup.model.reports import Outcome
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.copying import copy
from knowtation_backup.operations.repository.repairing import apply_repair, plan_repair
from knowtation_backup.operations.repository.replicating import replicate
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository import packing
from knowtation_backup.repository.layout import archive_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink


@pytest.fixture(autouse=True)
def small_packs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PACK_BYTES", 32 << 10)
        yield


def pair() -> tuple[Repository, Repository]:
    """A repository and its replica."""
    repository = new_repository(MemorySink())
    for day in range(2):
        image = b"".join(bytes([n + 100 * day * (n < 3)]) * PAGE_BYTES for n in range(1, 60))
        back_up(repository, StagedSource(images={"heap.bin": image}, taken_at=MOMENT + dt.timedelta(days=day)))
    sink = MemorySink()
    replicate(repository, sink)
    return repository, attrs.evolve(repository, sink=sink)


def blobs(repository: Repository) -> dict[str, bytes]:
    assert isinstance(repository.sink, MemorySink)
    return repository.sink.contents()


def spoil(repository: Repository, key: str) -> None:
    stored = blobs(repository)[key]
    repository.sink.delete(key)
    repository.sink.put(key, [stored[:-1]])


def packs(repository: Repository) -> list[str]:
    return [key for key in blobs(repository) if key.startswith("packs/")]


def limited(repository: Repository, permissions: str) -> Repository:
    sink = MemorySink(permissions=permissions)
    sink._blobs = repository.sink._blobs  # type: ignore[attr-defined]  # the same blobs, for somebody else
    return attrs.evolve(repository, sink=sink)


def test_nothing_is_planned_where_nothing_is_damaged() -> None:
    repository, replica = pair()
    plan = plan_repair(repository, replica)
    assert plan.steps == ()
    assert "nothing is to be repaired" in str(plan)
    report = apply_repair(repository, replica, plan)
    assert (report.healed, report.outcome) == ((), Outcome.OK)


def test_plans_are_for_people_and_planning_changes_nothing() -> None:
    repository, replica = pair()
    bad, missing = packs(repository)[:2]
    spoil(repository, bad)
    repository.sink.delete(missing)
    before = blobs(repository)
    plan = plan_repair(limited(repository, "lr"), limited(replica, "lr"))
    assert blobs(repository) == before
    text = str(plan)
    assert f"{bad}: size_mismatch, in" in text
    assert "remove it and create it again" in text
    assert f"{missing}: blob_not_found" in text
    events: list[Event] = []
    report = apply_repair(repository, replica, plan, observer=events.append)
    assert set(report.healed) == {bad, missing}
    assert report.copied_bytes == len(blobs(replica)[bad]) + len(blobs(replica)[missing])
    assert {event.fields["key"] for event in events if event.name == "repair.healed"} == {bad, missing}
    assert blobs(repository) == blobs(replica)


def test_a_report_at_hand_saves_verifying_again() -> None:
    repository, replica = pair()
    spoil(repository, packs(repository)[0])
    report = verify_all(repository, record=False)
    watched = FaultSink(repository.sink)
    plan = plan_repair(attrs.evolve(repository, sink=watched), replica, report=report)
    assert watched.operations == [f"read {packs(repository)[0]}"]
    assert len(plan.healing) == 1


def test_a_plan_that_is_no_longer_true_is_not_applied() -> None:
    repository, replica = pair()
    first, second = packs(repository)[:2]
    spoil(repository, first)
    spoil(repository, second)
    plan = plan_repair(repository, replica)
    repository.sink.delete(second)
    before = blobs(repository)
    with pytest.raises(PlanStaleError) as caught:
        apply_repair(repository, replica, plan)
    assert caught.value.context["keys"] == [second]
    assert blobs(repository) == before
    with pytest.raises(PlanStaleError):
        apply_repair(repository, [], plan_repair(repository, replica))


def test_without_the_right_to_delete_only_what_is_missing_comes_back() -> None:
    repository, replica = pair()
    bad, missing = packs(repository)[:2]
    spoil(repository, bad)
    repository.sink.delete(missing)
    plan = plan_repair(repository, replica)
    report = apply_repair(limited(repository, "lrw"), replica, plan)
    assert report.healed == (missing,)
    assert [key for key, _ in report.unhealed] == [bad]
    assert "NOT HEALED" in str(report)
    assert report.outcome is Outcome.PARTIAL
    assert [item.key for item in verify_all(repository, record=False).objects] == [bad]


def test_nothing_is_removed_before_the_good_bytes_are_in_hand() -> None:
    repository, replica = pair()
    bad = packs(repository)[0]
    spoil(repository, bad)
    plan = plan_repair(repository, replica)
    damaged = blobs(repository)
    spoil(replica, bad)  # since the plan was made
    report = apply_repair(repository, replica, plan)
    assert [key for key, _ in report.unhealed] == [bad]
    assert blobs(repository) == damaged
    with pytest.raises(SinkUnavailableError):
        apply_repair(repository, attrs.evolve(replica, sink=FaultSink(replica.sink, fail_at=0)), plan)
    assert blobs(repository) == damaged


@pytest.mark.parametrize("moment", list(FaultMoment))
@pytest.mark.parametrize("what", ["pack", "manifest"])
def test_a_repair_that_is_cut_off_anywhere_is_finished_by_the_next(moment: FaultMoment, what: str) -> None:
    whole, replica = pair()
    key = packs(whole)[0] if what == "pack" else archive_key(whole.archive_ids()[0])
    number = 0
    while True:
        repository = attrs.evolve(whole, sink=MemorySink())
        for other, data in blobs(replica).items():
            repository.sink.put(other, [data])
        spoil(repository, key)
        plan = plan_repair(repository, replica)
        faulty = FaultSink(repository.sink, fail_at=number, moment=moment)
        with contextlib.suppress(SinkUnavailableError):
            apply_repair(attrs.evolve(repository, sink=faulty), replica, plan)
        assert {k: v for k, v in blobs(repository).items() if k != key} == {
            k: v for k, v in blobs(replica).items() if k != key
        }
        apply_repair(repository, replica, plan_repair(repository, replica))
        copy(replica, repository)  # a manifest that is gone is no damage that anybody could see
        assert blobs(repository) == blobs(replica)
        if number >= len(faulty.operations):
            break
        number += 1
    assert number > 3


def test_what_was_written_wrong_cannot_be_healed() -> None:
    repository, replica = pair()
    report = verify_all(repository, record=False)
    damage = attrs.evolve(
        verify_all(damaged(repository), record=False).objects[0], key=packs(repository)[0], code="content_changed"
    )
    plan = plan_repair(repository, replica, report=attrs.evolve(report, objects=(damage,)))
    assert "no copy can have others" in plan.hopeless[0].reason
    assert contents(repository, repository.archive_ids()[0])


def damaged(repository: Repository) -> Repository:
    other = attrs.evolve(repository, sink=MemorySink())
    for key, data in blobs(repository).items():
        other.sink.put(key, [data])
    spoil(other, packs(other)[0])
    return other


def test_lost_access_files_come_back_from_a_replica() -> None:
    key = PrivateKey.generate("x25519")
    repository = Repository.create(MemorySink(), seal_to=key.public_key)
    back_up(repository, StagedSource(files={"a": b"b"}))
    replicate(repository, sink := MemorySink())
    (access,) = (name for name in blobs(repository) if name.startswith("keys/"))
    repository.sink.delete(access)
    report = verify_all(repository, record=False)
    assert [(damage.key, damage.code) for damage in report.objects] == [("keys/", "no_access_file")]
    assert not report.ok
    (hopeless,) = plan_repair(repository, ()).hopeless
    assert hopeless.reason == "no replica has one"
    replica = attrs.evolve(repository, sink=sink)
    assert apply_repair(repository, replica, plan_repair(repository, replica)).healed == (access,)
    assert Repository.open(repository.sink, key).archive_ids() == repository.archive_ids()
    # Whoever keeps the secrets elsewhere has no access files, and lacks nothing.
    assert verify_all(new_repository(MemorySink()), record=False).ok
