"""Signed archives of a repository: what a holder of the writer key writes is not taken for one of ours."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

import attrs
import pytest
from repository_stage import MOMENT, Aged, StagedSource, contents, new_repository

from knowtation_backup.codecs.signing import SigningKey, sign_archive_id
from knowtation_backup.contracts import utc_now
from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    IntegrityError,
    PlanStaleError,
    SignatureError,
    SinkUnavailableError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.plans import ArchiveInfo, ArchiveState
from knowtation_backup.model.reports import VerifyLevel
from knowtation_backup.model.sections import PAGE_BYTES
from knowtation_backup.model.signatures import MAX_SIGNATURE_BYTES, SignaturePolicy
from knowtation_backup.operations.repository.backup import back_up
from knowtation_backup.operations.repository.catalog import find, list_archives
from knowtation_backup.operations.repository.consolidating import consolidate
from knowtation_backup.operations.repository.copying import copy
from knowtation_backup.operations.repository.differences import diff
from knowtation_backup.operations.repository.erasing import plan_erase_tenant
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash, plan_forget
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.operations.repository.repairing import apply_repair, plan_repair
from knowtation_backup.operations.repository.replicating import replicate
from knowtation_backup.operations.repository.restoring import restore_stream
from knowtation_backup.operations.repository.signing import sign_archive
from knowtation_backup.operations.repository.timeline import as_of
from knowtation_backup.operations.repository.verifying import verify, verify_all
from knowtation_backup.operations.repository.waste import measure_waste
from knowtation_backup.repository.layout import archive_key
from knowtation_backup.repository.notes import NotedObject, PruneNote, put_note
from knowtation_backup.repository.repository import Repository
from knowtation_backup.repository.signing import signature_key
from knowtation_backup.retention.policy import KeepPolicy
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

DAY = dt.timedelta(days=1)
KEY, OTHER = SigningKey.generate(), SigningKey.generate()
TRUSTED = SignaturePolicy(trusted=[KEY.verify_key])


def content(day: int, pages: int = 40) -> StagedSource:
    image = b"".join(bytes([n + 1, day if n == 3 else 0]) * (PAGE_BYTES // 2) for n in range(pages))
    return StagedSource(images={"heap.bin": image}, files={"module.wasm": b"module"}, taken_at=MOMENT + day * DAY)


def signed_repository(days: int = 1, *, key: SigningKey = KEY, policy: SignaturePolicy = TRUSTED) -> Repository:
    repository = attrs.evolve(new_repository(MemorySink()), signatures=policy, signing_keys=key)
    for day in range(days):
        back_up(repository, content(day))
    return repository


def writer_of(repository: Repository, *keys: SigningKey) -> Repository:
    """The repository as a stolen writer key opens it."""
    return Repository.open_with(repository.sink, repository.writer_key, signing_keys=keys)


def stored(repository: Repository) -> dict[str, bytes]:
    assert isinstance(repository.sink, MemorySink)
    return repository.sink.contents()


def info_of(repository: Repository, archive_id: str) -> ArchiveInfo:
    return next(info for info in list_archives(repository) if info.archive_id == archive_id)


def replace(repository: Repository, key: str, data: bytes) -> None:
    repository.sink.delete(key)
    repository.sink.put(key, (data,))


# -- writing --------------------------------------------------------------------------------------------------------


def test_the_signature_is_stored_before_the_manifest() -> None:
    inner = MemorySink(permissions="lrw")
    sink = FaultSink(inner)
    repository = attrs.evolve(new_repository(sink), signing_keys=KEY)
    archive_id = back_up(repository, content(0)).archive_id
    written = [operation[4:] for operation in sink.operations if operation.startswith("put ")]
    assert written[-2:] == [signature_key(archive_id), archive_key(archive_id)]
    assert inner.contents()[signature_key(archive_id)] == sign_archive_id(archive_id, [KEY])
    assert KEY.seed.hex() not in repr(repository)
    assert "SigningKey" not in repr(repository)


def test_without_a_key_nothing_is_signed_and_nothing_asked_for() -> None:
    repository = new_repository(MemorySink())
    archive_id = back_up(repository, content(0)).archive_id
    assert signature_key(archive_id) not in stored(repository)
    assert not info_of(repository, archive_id).is_signed
    assert verify(repository, archive_id).ok


def test_several_keys_sign_while_readers_change_from_one_to_the_other() -> None:
    repository = attrs.evolve(new_repository(MemorySink()), signing_keys=[KEY, OTHER])
    archive_id = back_up(repository, content(0)).archive_id
    for key in (KEY, OTHER):
        reader = attrs.evolve(repository, signatures=SignaturePolicy(trusted=[key.verify_key]))
        assert verify(reader, archive_id).ok


@pytest.mark.parametrize("moment", list(FaultMoment))
def test_whatever_fails_no_archive_is_there_without_its_signature(moment: FaultMoment) -> None:
    number = 0
    while True:
        repository = new_repository(MemorySink())
        faulty = FaultSink(repository.sink, fail_at=number, moment=moment)
        writer = attrs.evolve(repository, sink=faulty, signing_keys=KEY)
        try:
            back_up(writer, content(0))
        except SinkUnavailableError:
            pass
        else:
            break
        number += 1
        assert all(signature_key(archive_id) in stored(repository) for archive_id in repository.archive_ids())
    assert number


# -- a forged archive -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "kind"), [((), "unsigned"), ((OTHER,), "unknown_signer")])
def test_what_a_stolen_writer_key_writes_is_refused_everywhere(keys: tuple[SigningKey, ...], kind: str) -> None:
    repository = signed_repository(2)
    genuine = find(repository).archive_id
    forged = back_up(writer_of(repository, *keys), content(9)).archive_id

    with pytest.raises(SignatureError) as caught:
        repository.manifest(forged)
    assert caught.value.kind == kind
    with pytest.raises(SignatureError):
        b"".join(restore_stream(repository, forged, "heap.bin"))
    assert find(repository).archive_id == genuine
    assert find(repository.trusting_anybody).archive_id == forged
    assert as_of(repository, MOMENT + 99 * DAY).archive.archive_id == genuine
    with pytest.raises(SignatureError):
        diff(repository, genuine, forged)
    with pytest.raises(SignatureError):
        consolidate(repository, forged)
    assert info_of(repository, forged).state is ArchiveState.DAMAGED
    assert info_of(repository, forged).is_signed == bool(keys)
    assert info_of(repository, genuine).is_signed
    assert "signed" in str(info_of(repository, genuine))

    report = verify_all(repository, record=False)
    assert [(finding.code, finding.where) for one in report.failed for finding in one.findings] == [
        (kind, signature_key(forged))
    ]
    assert [damage.key for damage in report.objects] == [signature_key(forged)]

    later = back_up(repository, content(10))
    assert later.manifest.parent == genuine
    assert [(w.code, w.where) for w in later.warnings] == [("archives_refused", forged)]
    assert "1 archive(s) are refused" in later.warnings[0].message
    assert contents(repository, later.archive_id).keys() == contents(repository, genuine).keys()


def test_a_forged_archive_takes_no_place_of_a_genuine_one() -> None:
    repository = signed_repository(2)
    genuine = set(repository.archive_ids())
    forger = writer_of(repository)
    for day in range(5, 9):
        back_up(forger, content(day))
    policy = KeepPolicy(last=2, min_keep=0)
    kept = {one.archive_id for one in plan_forget(repository, policy, now=MOMENT + 9 * DAY).kept}
    assert genuine <= kept
    fooled = {one.archive_id for one in plan_forget(repository.trusting_anybody, policy, now=MOMENT + 9 * DAY).kept}
    assert not genuine & fooled


def test_nothing_of_a_refused_archive_is_read_when_verifying() -> None:
    repository = signed_repository()
    forged = back_up(writer_of(repository), content(9)).archive_id
    replace(repository, archive_key(forged), b"hostile")
    (report,) = [one for one in verify_all(repository, record=False).reports if one.archive_id == forged]
    assert [finding.code for finding in report.findings] == ["unsigned"]


def test_a_signature_fits_no_other_archive() -> None:
    repository = signed_repository()
    genuine = find(repository).archive_id
    forged = back_up(writer_of(repository), content(9)).archive_id
    repository.sink.put(signature_key(forged), (stored(repository)[signature_key(genuine)],))
    with pytest.raises(SignatureError, match="does not fit the archive"):
        repository.manifest(forged)
    # under another date neither
    again = forged.replace("20260310", "20270310")
    assert again != forged
    repository.sink.put(archive_key(again), (stored(repository)[archive_key(forged)],))
    repository.sink.put(signature_key(again), (stored(repository)[signature_key(genuine)],))
    with pytest.raises(SignatureError, match="does not fit"):
        repository.manifest(again)


def test_an_archive_that_is_not_there_is_not_called_unsigned() -> None:
    with pytest.raises(BlobNotFoundError):
        signed_repository().manifest(f"20260301T120000Z-{'0' * 64}")


def test_a_signature_that_is_missing_of_an_archive_that_goes_is_no_damage() -> None:
    repository = signed_repository(2)
    gone = repository.archive_ids()[0]

    class Going(FaultSink):
        """The archive is removed when its signature is read again, after its manifest was."""

        def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
            if key == signature_key(gone) and f"read {key}" in self.operations:
                repository.sink.delete(archive_key(gone))
                repository.sink.delete(key)
            return super()._read(key, start, size_bytes)

    sinks = attrs.evolve(repository, sink=Going(repository.sink))
    report = verify_all(sinks, record=False)
    assert report.ok
    assert gone not in [one.archive_id for one in report.reports]


@pytest.mark.parametrize("data", [b"", b"{}", bytes(MAX_SIGNATURE_BYTES + 1)])
def test_a_damaged_signature_is_found_with_and_without_a_policy(data: bytes) -> None:
    repository = signed_repository()
    (archive_id,) = repository.archive_ids()
    replace(repository, signature_key(archive_id), data)
    for reader in (repository, repository.trusting_anybody):
        (finding,) = verify(reader, archive_id, level=VerifyLevel.STRUCTURE, record=False).findings
        assert (finding.code, finding.where) == ("bad_signature", signature_key(archive_id))
    assert repository.trusting_anybody.manifest(archive_id).kind
    with pytest.raises(SignatureError):
        repository.manifest(archive_id)


def test_unsigned_archives_may_be_read_and_reported() -> None:
    repository = signed_repository(policy=SignaturePolicy(trusted=[KEY.verify_key], unsigned="report"))
    unsigned = back_up(writer_of(repository), content(3)).archive_id
    assert find(repository).archive_id == unsigned
    report = verify(repository, unsigned, record=False)
    assert [finding.code for finding in report.findings] == ["unsigned"]
    assert report.bytes_read  # the rest is looked at as well


def test_older_archives_are_signed_once_they_are_verified() -> None:
    repository = signed_repository(0)
    archive_id = back_up(writer_of(repository), content(0)).archive_id
    with pytest.raises(ConfigurationError, match="no key to sign with"):
        sign_archive(writer_of(repository), archive_id)
    sign_archive(repository, archive_id)
    assert verify(repository, archive_id).ok
    sign_archive(repository, archive_id)  # the same again
    with pytest.raises(BlobExistsError):
        sign_archive(attrs.evolve(repository, signing_keys=OTHER), archive_id)
    with pytest.raises(BlobNotFoundError):
        sign_archive(repository, f"20260301T120000Z-{'0' * 64}")
    replace(repository, archive_key(archive_id), b"changed")
    with pytest.raises(IntegrityError):
        sign_archive(repository, archive_id)


# -- copies ---------------------------------------------------------------------------------------------------------


def test_replicas_carry_signatures_before_manifests() -> None:
    repository = signed_repository(2)
    inner = MemorySink(permissions="lrw")
    sink = FaultSink(inner)
    replicate(repository, sink)
    replica = attrs.evolve(repository, sink=inner)
    assert stored(replica) == stored(repository)
    written = [operation[4:] for operation in sink.operations if operation.startswith("put ")]
    for archive_id in repository.archive_ids():
        assert written.index(signature_key(archive_id)) < written.index(archive_key(archive_id))


def test_a_replica_gets_signatures_that_came_later_and_no_forged_archive() -> None:
    repository = signed_repository(0)
    late = back_up(writer_of(repository), content(0)).archive_id
    sink = MemorySink()
    assert list(replicate(repository.trusting_anybody, sink).copied) == [late]
    sign_archive(repository, late)
    forged = back_up(writer_of(repository), content(5)).archive_id
    report = replicate(repository, sink)
    assert report.present == (late,)
    assert [(one.archive_id, one.error.kind) for one in report.failed] == [(forged, "unsigned")]
    assert verify(attrs.evolve(repository, sink=sink), late).ok


def test_a_damaged_signature_is_not_copied() -> None:
    repository = signed_repository().trusting_anybody
    (archive_id,) = repository.archive_ids()
    replace(repository, signature_key(archive_id), b"{}")
    report = replicate(repository, MemorySink())
    assert [one.error.kind for one in report.failed] == ["bad_signature"]


def test_copies_under_other_keys_are_signed_anew_or_said_not_to_be() -> None:
    repository = signed_repository()
    (archive_id,) = repository.archive_ids()
    unsigned = new_repository(MemorySink())
    report = copy(repository, unsigned)
    (finding,) = report.findings
    assert (finding.code, finding.where) == ("signature_dropped", archive_id)
    assert "signature_dropped" in str(report)
    assert not list_archives(unsigned)[0].is_signed

    policy = SignaturePolicy(trusted=[OTHER.verify_key])
    target = attrs.evolve(new_repository(MemorySink()), signing_keys=OTHER, signatures=policy)
    report = copy(repository, target)
    assert report.findings == ()
    assert verify(target, report.copied[archive_id]).ok


# -- repair, forget, prune --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, b"{}", sign_archive_id("another", [KEY])])
def test_repair_brings_signatures_back(data: bytes | None) -> None:
    repository = signed_repository()
    (archive_id,) = repository.archive_ids()
    sink = MemorySink()
    replicate(repository, sink)
    genuine = stored(repository)[signature_key(archive_id)]
    repository.sink.delete(signature_key(archive_id))
    if data is not None:
        repository.sink.put(signature_key(archive_id), (data,))
    replica = attrs.evolve(repository, sink=sink)
    plan = plan_repair(repository, replica)
    assert apply_repair(repository, replica, plan).healed == (signature_key(archive_id),)
    assert stored(repository)[signature_key(archive_id)] == genuine


def test_repair_prefers_a_trusted_signature_and_makes_none_up() -> None:
    repository = signed_repository()
    (archive_id,) = repository.archive_ids()
    sink = MemorySink()
    replicate(repository, sink)
    for place in (repository.sink, sink):
        place.delete(signature_key(archive_id))
    repository.sink.put(signature_key(archive_id), (sign_archive_id(archive_id, [OTHER]),))
    replica = attrs.evolve(repository, sink=sink)
    (step,) = plan_repair(repository, replica).hopeless
    assert step.damage.code == "unknown_signer"
    sink.put(signature_key(archive_id), (sign_archive_id(archive_id, [KEY]),))
    apply_repair(repository, replica, plan_repair(repository, replica))
    assert verify(repository, archive_id).ok


def test_signatures_stay_in_the_trash_and_go_with_the_archive() -> None:
    repository = signed_repository(2)
    older, newer = repository.archive_ids()
    apply_forget(repository, plan_delete(repository, [older], now=MOMENT + 9 * DAY), clock=lambda: MOMENT + 9 * DAY)
    assert signature_key(older) in stored(repository)
    assert repository.manifest(older).kind
    aged = attrs.evolve(repository, sink=Aged(repository.sink, dt.timedelta(days=40)))
    apply_forget(aged, plan_empty_trash(aged, now=utc_now()))
    assert not any(older in key for key in stored(repository))
    assert signature_key(newer) in stored(repository)


def test_prune_keeps_signatures_with_their_archive_and_removes_orphans() -> None:
    repository = signed_repository()
    (archive_id,) = repository.archive_ids()

    class Failing(FaultSink):
        def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
            if key.startswith("archives/"):
                raise SinkUnavailableError("the store is gone")
            return super()._put(key, chunks)

    failing = Failing(repository.sink)
    with pytest.raises(SinkUnavailableError):
        back_up(attrs.evolve(repository, sink=failing), content(4))
    orphans = {key for key in stored(repository) if key.endswith("/manifest.sig")} - {signature_key(archive_id)}
    assert len(orphans) == 1
    apply_prune(repository, plan_prune(repository))
    aged = attrs.evolve(repository, sink=Aged(repository.sink, dt.timedelta(days=40)))
    apply_prune(aged, plan_prune(aged))
    assert not orphans & stored(repository).keys()
    assert verify(repository, archive_id).ok


def test_pruning_heeds_archives_that_nobody_trusted_signed() -> None:
    repository = signed_repository()
    forged = back_up(writer_of(repository), content(9)).archive_id
    plan = plan_prune(repository)
    assert plan.archives == 2
    assert plan.marking == ()
    assert measure_waste(repository).packs
    assert contents(repository.trusting_anybody, forged)


def test_erasing_finds_a_tenant_in_archives_that_nobody_trusted_signed() -> None:
    repository = attrs.evolve(new_repository(MemorySink(), tenant_keys=True), signatures=TRUSTED, signing_keys=KEY)
    source = StagedSource(records={"notes": {(b"ann", b"a"): b"secret"}}, kind="export")
    back_up(repository, source)
    back_up(writer_of(repository), attrs.evolve(source, taken_at=MOMENT + DAY))
    assert {one.archive_id for one in plan_erase_tenant(repository, b"ann").archives} == set(repository.archive_ids())


def test_copies_rely_on_what_archives_in_the_target_need_whoever_signed_them() -> None:
    repository = signed_repository(0)
    archive_id = back_up(writer_of(repository), content(0)).archive_id
    sink = MemorySink()
    replicate(repository.trusting_anybody, sink)
    replica = attrs.evolve(repository, sink=sink)
    key = next(key for key, _ in replica.trusting_anybody.manifest(archive_id).objects())
    put_note(sink, replica.writer_key, PruneNote(made_at=MOMENT, objects=(NotedObject(key, 1),)))
    later = back_up(repository.trusting_anybody, content(1)).archive_id
    assert list(copy(repository, replica, [later]).copied) == [later]


def test_publishing_counts_the_time_that_signing_takes() -> None:
    repository = signed_repository(0)
    now = [0.0]

    class Slow(FaultSink):
        def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
            if key.endswith("manifest.sig"):
                now[0] += repository.config.grace_seconds
            return super()._put(key, chunks)

    slow = attrs.evolve(repository, sink=Slow(repository.sink))
    with pytest.raises(PlanStaleError, match="more than half"):
        back_up(slow, content(0), monotonic=lambda: now[0])
    assert repository.archive_ids() == []
