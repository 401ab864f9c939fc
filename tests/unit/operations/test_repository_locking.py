"""Extending locks: until when each object is to be locked, and what stands in the way."""

import datetime as dt
from typing import Any

import attrs
import pytest
from repository_stage import MOMENT, StagedSource, needed_keys, new_repository

from knowtation_backup.codecs.keys import PrivateKey
from knowtation_backup.contracts import RetentionPolicy
from knowtation_backup.errors import ConfigurationError, SinkError, SinkPermissionError
from knowtation_backup.model.blobs import BlobLock
from knowtation_backup.model.events import Event
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository import marks
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete
from knowtation_backup.operations.repository.locking import LOCK_AHEAD, apply_extend_locks, plan_extend_locks
from knowtation_backup.operations.repository.recipients import add_recipients
from knowtation_backup.repository.layout import CONFIG_KEY, archive_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.retention.policy import KeepPolicy
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.sinks.wrappers import SinkWrapper

DAY = dt.timedelta(days=1)
NOW = MOMENT + 10 * DAY
LEAST = NOW + LOCK_AHEAD
LIMITED = [MOMENT + (38 + day) * DAY for day in (8, 5)]
"""When the younger archives are 38 days old."""


def store(repository: Repository, day: int, source_id: str = "aaaaa-aa") -> str:
    """Back up an image of which most is as the day before."""
    heap = b"".join(b"%d %d" % (page, day * (page % 9 == day)) + bytes(4090) for page in range(50))
    records = {"notes": {(b"ann", b"note"): b"note of day %d" % day}}
    source = StagedSource(images={"heap": heap}, records=records, source_id=source_id, taken_at=MOMENT + day * DAY)
    return back_up(repository, source).archive_id


def objects_of(repository: Repository, archive_id: str) -> set[str]:
    return {archive_key(archive_id), *(key for key, _ in repository.manifest(archive_id).objects())}


def ends(repository: Repository) -> dict[str, dt.datetime | None]:
    return {info.key: repository.sink.lock_of(info.key).until for info in repository.sink.list()}


def extend(
    repository: Repository, policy: RetentionPolicy | None = None, **options: dt.datetime | dt.timedelta
) -> None:
    plan = plan_extend_locks(repository, policy, **{"now": NOW, **options})  # type: ignore[arg-type]  # by name
    assert apply_extend_locks(repository, plan).outcome is Outcome.OK


def test_what_newer_archives_build_on_is_locked_for_as_long_as_they_need_it() -> None:
    repository = new_repository(MemorySink(locks=True), tenant_keys=True)
    first, second, third = (store(repository, day) for day in range(3))
    apply_forget(repository, plan_delete(repository, [first], now=NOW))
    marks.pin(repository, third, until=NOW + 300 * DAY)
    before = ends(repository)
    assert set(before.values()) == {None}
    plan = plan_extend_locks(repository, now=NOW)
    assert [(each.archive_id, each.until) for each in plan.archives] == [(third, NOW + 300 * DAY), (second, LEAST)]
    assert plan.until == NOW + 300 * DAY
    assert ends(repository) == before, "planning changes nothing"
    told: list[Event] = []
    report = apply_extend_locks(repository, plan, observer=told.append)
    assert report.extended_objects == len(plan.objects) == len(told)
    found = ends(repository)
    for key in objects_of(repository, third):
        assert found[key] == NOW + 300 * DAY
    shared = objects_of(repository, first) & objects_of(repository, third)
    assert any(key.startswith("packs/") for key in shared), "the base that was forgotten itself"
    for key in objects_of(repository, second) - objects_of(repository, third):
        assert found[key] == LEAST
    only = objects_of(repository, first) - objects_of(repository, second) - objects_of(repository, third)
    assert archive_key(first) in only
    assert {found[key] for key in only} == {None}
    assert found[CONFIG_KEY] == NOW + 300 * DAY
    tenants = [info.key for info in repository.sink.list("tenants/")]
    pins = [info.key for info in repository.sink.list(f"side/{third}/")]
    assert tenants
    assert pins
    assert {found[key] for key in tenants + pins} == {NOW + 300 * DAY}
    again = plan_extend_locks(repository, now=NOW)
    assert again.objects == ()
    assert again.held_objects == len(plan.objects)
    assert "extend the locks of 0 object(s)" in str(again)


def test_every_object_an_archive_needs_is_locked() -> None:
    sink = MemorySink(locks=True)
    owner = PrivateKey.generate("x25519")
    repository = Repository.create(sink, seal_to=owner.public_key)
    add_recipients(repository, PrivateKey.generate("x25519").public_key, opens_with=owner)
    for day in range(3):
        store(repository, day)
    extend(repository)
    locked = {key for key, until in ends(repository).items() if until == LEAST}
    assert locked == set(sink.contents())
    assert locked >= needed_keys(repository)
    assert sum(key.startswith("keys/") for key in locked) == 2


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (KeepLast(limit=2), [LEAST, LEAST, None, None]),
        (KeepPolicy(last=1, min_keep=0), [LEAST, None, None, None]),
        (KeepPolicy(within="60d", min_keep=0), [MOMENT + (60 + day) * DAY for day in (8, 5, 2, 0)]),
        (KeepPolicy(within="20d", min_keep=0), [LEAST] * 4),
        (KeepPolicy(last=1, within_daily="4d", min_keep=0), [LEAST, LEAST, None, None]),
        (KeepPolicy(last=1, within="50d", older_than="38d"), [*LIMITED, LEAST, LEAST]),
        (KeepPolicy(older_than="38d", tags=["x"]), [*LIMITED, LEAST, LEAST]),
    ],
)
def test_a_policy_says_what_is_locked_and_for_how_long(
    policy: RetentionPolicy, expected: list[dt.datetime | None]
) -> None:
    repository = new_repository(MemorySink(locks=True))
    ids = [store(repository, day) for day in (0, 2, 5, 8)][::-1]
    plan = plan_extend_locks(repository, policy, now=NOW)
    found = {each.archive_id: each.until for each in plan.archives}
    assert [found.get(archive_id) for archive_id in ids] == expected


def test_pins_without_end_and_quarantine_are_extended_from_run_to_run() -> None:
    repository = new_repository(MemorySink(locks=True))
    pinned, suspicious, newest = (store(repository, day) for day in range(3))
    marks.pin(repository, pinned)
    marks.quarantine(repository, suspicious)
    policy = KeepLast(limit=1)
    for now in (NOW, NOW + 7 * DAY):
        extend(repository, policy, now=now)
        found = ends(repository)
        assert {found[archive_key(each)] for each in (pinned, suspicious, newest)} == {now + LOCK_AHEAD}
    extend(repository, policy, until=NOW + 90 * DAY)
    assert ends(repository)[archive_key(pinned)] == NOW + 90 * DAY
    extend(repository, policy, ahead=DAY)
    assert ends(repository)[archive_key(pinned)] == NOW + 90 * DAY, "a lock never gets shorter"


def test_keys_of_tenants_on_a_sink_of_their_own_stay_deletable() -> None:
    tenants = MemorySink(locks=True)
    repository = new_repository(MemorySink(locks=True), tenant_keys=True, tenant_sink=tenants)
    store(repository, 0)
    (key,) = tenants.contents()
    repository.sink.put(key, [b"a copy that somebody made, and that an erasure has to reach"])
    extend(repository)
    assert tenants.lock_of(key).until is repository.sink.lock_of(key).until is None


def test_a_damaged_archive_is_named_and_hinders_no_other() -> None:
    sink = MemorySink(locks=True)
    repository = new_repository(sink)
    damaged, lacking, whole = (store(repository, day, f"source-{day}") for day in range(3))
    sink.delete(archive_key(damaged))
    sink.put(archive_key(damaged), [b"damaged"])
    (gone,) = (key for key in objects_of(repository, lacking) if key.startswith("indexes/"))
    sink.delete(gone)
    plan = plan_extend_locks(repository, now=NOW)
    assert {(finding.code, finding.where) for finding in plan.findings} == {
        ("object_changed", archive_key(damaged)),
        ("blob_not_found", gone),
    }
    report = apply_extend_locks(repository, plan)
    assert report.outcome is Outcome.PARTIAL
    assert "object_changed" in str(report)
    found = ends(repository)
    assert {found[key] for key in objects_of(repository, whole)} == {LEAST}
    assert found[archive_key(damaged)] == LEAST


def test_what_cannot_be_locked_is_named_and_the_rest_is() -> None:
    sink = MemorySink(locks=True)
    repository = new_repository(sink)
    archive_id = store(repository, 0)
    plan = plan_extend_locks(repository, now=NOW)

    class Refusing(SinkWrapper):
        def _retain_until(self, key: str, until: dt.datetime) -> BlobLock:
            if key.startswith("packs/"):
                raise SinkPermissionError("locking packs is refused")
            return super()._retain_until(key, until)

    gone = next(key for key in objects_of(repository, archive_id) if key.startswith("indexes/"))
    sink.delete(gone)
    told: list[Event] = []
    report = apply_extend_locks(attrs.evolve(repository, sink=Refusing(sink)), plan, observer=told.append)
    codes = {finding.where.split("/")[0]: finding.code for finding in report.refused}
    assert codes == {"packs": "sink_permission", "indexes": "blob_not_found"}
    assert report.outcome is Outcome.PARTIAL
    assert "NOT LOCKED packs/" in str(report)
    assert report.extended_objects == len(plan.objects) - len(report.refused)
    assert [event.name for event in told].count("lock.refused") == len(report.refused)
    assert ends(repository)[archive_key(archive_id)] == LEAST


def test_a_copy_without_a_lock_is_not_passed_over() -> None:
    """A target of a mirror that has the only copy of an object and no locks."""
    locking, plain = MemorySink(locks=True), MemorySink()
    repository = new_repository(MirrorSink({"plain": plain, "locking": locking}))
    store(repository, 0)
    lost = next(key for key in locking.contents() if key.startswith("packs/"))
    locking.delete(lost)
    report = apply_extend_locks(repository, plan_extend_locks(repository, now=NOW))
    assert [(finding.code, finding.where) for finding in report.refused] == [("not_locked", lost)]


def test_an_empty_repository_needs_nothing() -> None:
    plan = plan_extend_locks(new_repository(MemorySink(locks=True)), now=NOW)
    assert (plan.objects, plan.held_objects, plan.until) == ((), 0, None)


def test_impossible_wishes_are_refused() -> None:
    repository = new_repository(MemorySink(locks=True))
    wishes: list[dict[str, Any]] = [{"ahead": dt.timedelta(0)}, {"until": NOW}, {"until": NOW - DAY}]
    for options in wishes:
        with pytest.raises(ConfigurationError) as caught:
            plan_extend_locks(repository, now=NOW, **options)
        assert caught.value.kind == "bad_duration"
    with pytest.raises(SinkError) as refused:
        plan_extend_locks(new_repository(MemorySink()), now=NOW)
    assert refused.value.kind == "no_object_lock"
