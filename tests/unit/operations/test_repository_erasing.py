"""Erasing a tenant: its records are gone from every archive, everybody else's are not, and nobody calls it damage."""

from __future__ import annotations

import datetime as dt
import itertools
import pickle

import attrs
import pytest
from repository_stage import MOMENT, Records, StagedSource, limited, new_repository

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    ConfigurationError,
    ErasedTenantError,
    PlanStaleError,
    SinkPermissionError,
    SinkUnavailableError,
)
from knowtation_backup.model.events import Event
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.catalog import standings
from knowtation_backup.operations.repository.copying import copy
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.repairing import apply_repair, plan_repair
from knowtation_backup.operations.repository.replicating import replicate
from knowtation_backup.operations.repository.verifying import verify, verify_all
from knowtation_backup.repository.content import ArchiveReader
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.layout import TENANT_PREFIX, tenant_key_named
from knowtation_backup.repository.manifest import RecordTables
from knowtation_backup.repository.repository import Repository, read_config
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink

KEYS = ReadKeys.generate()
ANNA, BEN = b"anna-the-tenant", b"ben-the-tenant"
_HOURS = itertools.count()


def _records(*owners: bytes, notes: int = 3) -> dict[tuple[bytes, bytes], bytes]:
    return {(owner, b"note %d" % n): b"%b|note %d|secret words" % (owner, n) for owner in owners for n in range(notes)}


def _archive(repository: Repository, records: Records, *, images: dict[str, bytes] | None = None) -> str:
    taken_at = MOMENT + dt.timedelta(hours=next(_HOURS))
    source = StagedSource(records={"notes": records}, images=images or {}, kind="export", taken_at=taken_at)
    return back_up(repository, source).archive_id


def _read(repository: Repository, archive_id: str, *, erased: dict[bytes, int] | None = None) -> set[bytes]:
    manifest = repository.manifest(archive_id)
    (tables,) = (section for section in manifest.sections if isinstance(section, RecordTables))
    reader = ArchiveReader(repository.sink, repository.read_keys, manifest, tenant_sink=repository.tenant_sink)
    told = erased.__setitem__ if erased is not None else None
    return {record.value for group in reader.records(tables, on_erased=told) for record in group}


def _tenant_keys(sink: ArchiveSink) -> list[str]:
    return [info.key for info in sink.list(TENANT_PREFIX) if tenant_key_named(info.key) is not None]


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


@pytest.fixture
def repository(sink: MemorySink) -> Repository:
    return new_repository(sink, keys=KEYS, tenant_keys=True)


def test_a_plan_destroys_nothing_and_applying_it_only_keys(repository: Repository, sink: MemorySink) -> None:
    archives = [_archive(repository, _records(ANNA, BEN)), _archive(repository, _records(ANNA, BEN, notes=5))]
    _archive(repository, _records(BEN))
    before = sink.contents()
    plan = plan_erase_tenant(repository, ANNA)
    assert sink.contents() == before
    assert [(each.archive_id, each.records) for each in plan.archives] == [(archives[0], 3), (archives[1], 5)]
    assert "CANNOT BE UNDONE" in str(plan)
    events: list[Event] = []
    report = apply_erase_tenant(repository, plan, observer=events.append, clock=lambda: MOMENT)
    assert set(before) - set(sink.contents()) == {each.key for each in report.removed}
    notices = sink.contents().keys() - before.keys()
    assert notices == {each.key.replace(".tenant", ".erased") for each in report.removed}
    assert {key: stored for key, stored in sink.contents().items() if key not in notices}.items() <= before.items()
    assert (report.erased, report.outcome, report.exit_code, report.erased_at) == (True, Outcome.OK, 0, MOMENT)
    assert report.archives == plan.archives
    assert [event.name for event in events] == ["tenant.key_destroyed"]


def test_others_are_restored_and_the_erased_are_named(repository: Repository) -> None:
    archive_id = _archive(repository, _records(ANNA, BEN))
    apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA.decode()))
    erased: dict[bytes, int] = {}
    assert _read(repository, archive_id, erased=erased) == set(_records(BEN).values())
    assert erased == {KEYS.writer_key.owner_key(ANNA): 3}
    with pytest.raises(ErasedTenantError):
        _read(repository, archive_id)


def test_verifying_finds_no_damage(repository: Repository) -> None:
    _archive(repository, _records(ANNA, BEN))
    apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA))
    report = verify_all(repository)
    assert report.ok
    assert report.outcome is Outcome.OK
    assert report.erased_records == 3
    assert "3 record(s) of erased tenants" in str(report)
    assert standings(repository)[report.reports[0].archive_id].verified_at is not None


def test_keys_that_are_lost_are_damage_until_a_replica_or_an_erasure(repository: Repository) -> None:
    archive_id = _archive(repository, _records(ANNA, BEN))
    _archive(repository, _records(BEN))
    replicate(repository, replica := MemorySink())
    lost = _tenant_keys(repository.sink)
    for key in lost:
        repository.sink.delete(key)
    report = verify_all(repository)
    assert report.outcome is Outcome.DIFFERENT
    assert [(item.key, item.code) for item in report.objects] == [(key, "tenant_key_lost") for key in lost]
    assert (report.erased_records, len(report.failed)) == (0, 2)
    assert standings(repository)[archive_id].verified_at is None
    one = verify(repository, archive_id)
    assert (one.ok, sum(loss.records for loss in one.losses)) == (False, 6)
    # either the keys come back
    other = Repository.open_with(replica, KEYS)
    plan = plan_repair(repository, other)
    assert [step.damage.key for step in plan.healing] == lost
    assert apply_repair(repository, other, plan).outcome is Outcome.OK
    assert verify_all(repository).ok
    # or somebody says that they are not missed
    for key in lost:
        repository.sink.delete(key)
    for owner in (ANNA, BEN):
        plan_to_erase = plan_erase_tenant(repository, owner)
        assert plan_to_erase.objects == ()
        apply_erase_tenant(repository, plan_to_erase)
    report = verify_all(repository)
    assert (report.ok, report.erased_records) == (True, 6)


def test_a_notice_is_written_everywhere_before_anything_is_destroyed(repository: Repository) -> None:
    _archive(repository, _records(ANNA))
    takes_nothing = MemorySink(permissions="lrd")
    with pytest.raises(SinkPermissionError):
        apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA, copies=[takes_nothing]))
    assert len(_tenant_keys(repository.sink)) == 1
    empty = MemorySink()  # a copy that lost its keys
    apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA, copies=[empty]))
    assert [name.endswith(".erased") for name in empty.contents()] == [True]


def test_a_key_that_a_store_keeps_is_not_used_again(repository: Repository) -> None:
    _archive(repository, _records(ANNA))
    kept = attrs.evolve(repository, sink=limited(repository.sink))  # type: ignore[arg-type]  # a memory sink
    report = apply_erase_tenant(kept, plan_erase_tenant(kept, ANNA))
    assert (report.erased, len(report.left)) == (False, 1)
    _archive(repository, _records(ANNA))
    assert len(_tenant_keys(repository.sink)) == 2
    # and is not copied to replicas
    replicate(repository, replica := MemorySink())
    assert _tenant_keys(replica) == [key for key in _tenant_keys(repository.sink) if key != report.left[0].key]


def test_a_writer_key_is_enough(repository: Repository) -> None:
    archive_id = _archive(repository, _records(ANNA))
    writer = Repository.open_with(repository.sink, KEYS.writer_key)
    apply_erase_tenant(writer, plan_erase_tenant(writer, ANNA))
    with pytest.raises(ErasedTenantError):
        _read(repository, archive_id)


def test_a_tenant_that_comes_back_can_be_erased_again(repository: Repository) -> None:
    first = _archive(repository, _records(ANNA))
    apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA))
    second = _archive(repository, _records(ANNA))
    assert _read(repository, second) == set(_records(ANNA).values())
    with pytest.raises(ErasedTenantError):
        _read(repository, first)
    report = apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA))
    assert len(report.removed) == 1
    with pytest.raises(ErasedTenantError):
        _read(repository, second)


def test_all_keys_of_a_tenant_go_whichever_source_made_them(repository: Repository) -> None:
    _archive(repository, _records(ANNA))
    other = StagedSource(records={"notes": _records(ANNA)}, kind="export", source_id="another hub")
    back_up(repository, other)
    plan = plan_erase_tenant(repository, ANNA)
    assert len(plan.objects) == 2
    apply_erase_tenant(repository, plan)
    assert not _tenant_keys(repository.sink)


def test_copies_made_earlier_are_closed_when_their_keys_go_too(repository: Repository) -> None:
    archive_id = _archive(repository, _records(ANNA, BEN))
    copies = [MemorySink(), MemorySink()]
    for each in copies:
        replicate(repository, each)
    apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA, copies=copies[:1]))
    for each, outcome in zip(copies, (set(), set(_records(ANNA).values())), strict=True):
        replica = Repository.open_with(each, KEYS)
        assert _read(replica, archive_id, erased={}) - set(_records(BEN).values()) == outcome
    # one that is brought up to date does not get the key back
    replicate(repository, copies[0])
    assert len(_tenant_keys(copies[0])) == 1


def test_keys_on_a_sink_of_their_own_beside_one_that_nobody_can_delete_from() -> None:
    packs, beside = MemorySink(permissions="lrw"), MemorySink()
    config = new_repository(MemorySink(), keys=KEYS, tenant_keys=True).config
    repository = Repository.create_with(packs, KEYS, config, tenant_sink=beside)
    archive_id = _archive(repository, _records(ANNA, BEN))
    replica = MemorySink()
    replicate(repository, replica)
    assert not _tenant_keys(packs)
    assert read_config(replica).tenants_elsewhere
    assert not _tenant_keys(replica)
    report = apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA))
    assert report.erased
    for sink in (packs, replica):
        opened = Repository.open_with(sink, KEYS, tenant_sink=beside)
        assert _read(opened, archive_id, erased={}) == set(_records(BEN).values())
        assert verify_all(opened, record=False).ok


def test_a_store_that_does_not_let_go(repository: Repository, sink: MemorySink) -> None:
    archive_id = _archive(repository, _records(ANNA))
    kept = MemorySink(permissions="lrw")
    for key, data in sink.contents().items():
        kept.put(key, (data,))
    stuck = attrs.evolve(repository, sink=kept)
    report = apply_erase_tenant(stuck, plan_erase_tenant(stuck, ANNA, copies=[sink]))
    assert (report.erased, report.outcome, len(report.left), len(report.removed)) == (False, Outcome.PARTIAL, 1, 1)
    assert "NOT ERASED" in str(report)
    assert _read(stuck, archive_id) == set(_records(ANNA).values())


def test_an_interruption_is_finished_by_planning_again(repository: Repository) -> None:
    _archive(repository, _records(ANNA))
    copies = [MemorySink(), MemorySink()]
    for each in copies:
        replicate(repository, each)
    plan = plan_erase_tenant(repository, ANNA, copies=copies)
    faulty = attrs.evolve(plan, sinks=(*plan.sinks[:2], FaultSink(copies[1], fail_from=3)))
    with pytest.raises(SinkUnavailableError):
        apply_erase_tenant(repository, faulty)
    with pytest.raises(PlanStaleError):
        apply_erase_tenant(repository, plan)
    again = plan_erase_tenant(repository, ANNA, copies=copies)
    assert len(again.objects) == 1
    assert apply_erase_tenant(repository, again).erased
    assert not any(_tenant_keys(sink) for sink in (repository.sink, *copies))
    assert plan_erase_tenant(repository, ANNA, copies=copies).objects == ()


def test_plans_are_applied_only_while_they_are_true(repository: Repository) -> None:
    _archive(repository, _records(ANNA))
    plan = plan_erase_tenant(repository, ANNA)
    back_up(repository, StagedSource(records={"notes": _records(ANNA)}, kind="export", source_id="another hub"))
    with pytest.raises(PlanStaleError):
        apply_erase_tenant(repository, plan)
    assert len(_tenant_keys(repository.sink)) == 2
    other = new_repository(MemorySink(), tenant_keys=True)
    with pytest.raises(ConfigurationError) as caught:
        apply_erase_tenant(other, plan)
    assert caught.value.kind == "wrong_repository"


def test_who_cannot_be_erased(repository: Repository) -> None:
    _archive(repository, _records(ANNA))
    with pytest.raises(ConfigurationError) as caught:
        plan_erase_tenant(repository, "somebody else")
    assert caught.value.kind == "no_such_tenant"
    with pytest.raises(ConfigurationError) as caught:
        plan_erase_tenant(new_repository(MemorySink()), ANNA)
    assert caught.value.kind == "no_tenant_keys"


def test_damaged_archives_do_not_stop_it_and_are_named(repository: Repository, sink: MemorySink) -> None:
    whole, damaged = _archive(repository, _records(ANNA)), _archive(repository, _records(ANNA, notes=4))
    key = f"archives/{damaged}.archive"
    stored = sink.contents()[key]
    sink.delete(key)
    sink.put(key, (stored[:-1],))
    plan = plan_erase_tenant(repository, ANNA)
    assert [each.archive_id for each in plan.archives] == [whole]
    assert [f.where for f in plan.findings if f.code == "archive_damaged"] == [damaged]
    assert apply_erase_tenant(repository, plan).erased


def test_reports_say_what_erasing_does_not_reach(repository: Repository) -> None:
    _archive(repository, _records(ANNA), images={"memory.bin": b"anna" * 4096})
    report = apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA))
    assert {f.code for f in report.findings} == {"images_not_erased", "files_not_erased", "other_copies"}


def test_the_name_is_nowhere_in_the_clear(repository: Repository, sink: MemorySink) -> None:
    _archive(repository, _records(ANNA, BEN))
    plan = plan_erase_tenant(repository, ANNA)
    report = apply_erase_tenant(repository, plan)
    shown = f"{plan!r}{plan}{report!r}{report}".encode()
    for data in (shown, pickle.dumps(report), *sink.contents().values(), *(key.encode() for key in sink.contents())):
        assert ANNA not in data
        assert ANNA.hex().encode() not in data
    # without the id key a name cannot be tried either: under another one the same name has another id
    assert ReadKeys.generate().writer_key.tenant_id(ANNA).hex() != report.tenant_id


def test_a_copy_under_other_keys_leaves_out_who_was_erased(repository: Repository) -> None:
    archive_id = _archive(repository, _records(ANNA, BEN))
    apply_erase_tenant(repository, plan_erase_tenant(repository, ANNA))
    target = new_repository(MemorySink(), tenant_keys=True)

    def identify(_section: str, value: bytes) -> list[tuple[bytes, bytes]]:
        owner, name, _ = value.split(b"|")
        return [(owner, name)]

    report = copy(repository, target, identify=identify)
    assert not report.failed
    assert _read(target, report.copied[archive_id]) == set(_records(BEN).values())


def test_a_copy_under_other_keys_is_not_made_of_an_archive_that_lost_keys(
    repository: Repository, sink: MemorySink
) -> None:
    archive_id = _archive(repository, _records(ANNA, BEN))
    for key in _tenant_keys(sink)[:1]:
        sink.delete(key)
    target = new_repository(MemorySink())
    report = copy(repository, target, identify=lambda _section, value: [tuple(value.split(b"|")[:2])])  # type: ignore[list-item]
    assert [(one.archive_id, one.error.kind) for one in report.failed] == [(archive_id, "tenant_key_lost")]
    assert target.archive_ids() == []


def test_replicas_say_where_their_keys_are(repository: Repository) -> None:
    archive_id = _archive(repository, _records(ANNA))
    replica, beside, other = MemorySink(), MemorySink(), MemorySink()
    replicate(repository, replica, tenant_sink=beside)
    opened = Repository.open_with(replica, KEYS, tenant_sink=beside)
    assert _read(opened, archive_id) == set(_records(ANNA).values())
    with pytest.raises(ConfigurationError) as caught:
        replicate(repository, replica)
    assert caught.value.kind == "tenant_sink_needed"
    assert replicate(repository, replica, tenant_sink=beside).objects == 0
    # a replica of that one which has the keys with it, and is brought up to date as it was made
    for tenant_sink in (other, None):
        replicate(opened, other, tenant_sink=tenant_sink)
        assert _read(Repository.open_with(other, KEYS), archive_id) == set(_records(ANNA).values())
    with pytest.raises(ConfigurationError) as caught:
        replicate(opened, other, tenant_sink=MemorySink())
    assert caught.value.kind == "tenant_sink_unexpected"
    with pytest.raises(ConfigurationError) as caught:
        replicate(new_repository(MemorySink()), MemorySink(), tenant_sink=beside)
    assert caught.value.kind == "no_tenant_keys"
