"""Repositories on a real S3 server: append-only credentials, Object Lock, and what a prune may and may not do there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import attrs
import pytest
from repository_stage import MOMENT, Aged, StagedSource, contents, needed_keys, new_repository
from s3_server import S3Server

from knowtation_backup.errors import BlobExistsError, SinkPermissionError
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.catalog import find, list_archives
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash, plan_forget
from knowtation_backup.operations.repository.marks import pin
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.operations.repository.verifying import verify_all
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.repository import Repository
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.fsspec import FsspecSink

MakeSink = Callable[..., FsspecSink]
GRACE = dt.timedelta(days=3)
FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
KEYS = ReadKeys.generate()
DELETING = ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutBucketVersioning", "s3:PutObjectRetention")


def source(day: int) -> StagedSource:
    heap = b"".join(b"%d %d" % (page, day * (page % 9 == day)) + bytes(4090) for page in range(300))
    records = {(b"ann", b"%d" % number): b"ann %d %d" % (number, day * (number == day)) for number in range(30)}
    moment = MOMENT + dt.timedelta(days=day)
    return StagedSource(images={"heap.bin": heap}, records={"notes": records}, taken_at=moment)


def require_sound(repository: Repository) -> None:
    for archive_id in repository.archive_ids():
        day = (repository.manifest(archive_id).taken_at - MOMENT).days
        assert contents(repository, archive_id).items() >= source(day).plain.items()


def aged(repository: Repository) -> Repository:
    """The same repository some time later."""
    return attrs.evolve(repository, sink=Aged(repository.sink, 2 * GRACE))


def prune(repository: Repository) -> Outcome:
    return apply_prune(repository, plan_prune(repository)).outcome


@pytest.fixture(scope="module")
def append_only(server: S3Server) -> str:
    """A bucket in which the writer may list, read and create, with versions that nobody of his kind removes."""
    bucket = server.make_bucket("append-only-repository")
    server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    server.forbid(bucket, server.writer, *DELETING)
    return bucket


def test_a_host_that_can_only_append_does_all_it_has_to(
    server: S3Server, make_sink: MakeSink, append_only: str, prefix: str
) -> None:
    place = f"{append_only}/{prefix}"
    operator = new_repository(make_sink(place=place), keys=KEYS)
    host = Repository.open_with(make_sink(who=server.writer, place=place), KEYS.writer_key)
    before: dict[str, str] = {}
    for day in range(4):
        report = back_up(host, source(day))
        assert bool(report.manifest.parent) == bool(day)
        after = {info.key: str(info) for info in host.sink.list()}
        assert after.items() >= before.items()
        before = after
    pin(host, "latest-1")
    plan = plan_forget(host, KeepLast(limit=1), now=MOMENT + dt.timedelta(days=4))
    assert len(apply_forget(host, plan).forgotten) == 2
    assert len(list_archives(host)) == 4
    require_sound(operator)
    verify_all(operator).raise_for_findings()
    # And what it must not do, it cannot.
    for key in before:
        with pytest.raises(SinkPermissionError):
            host.sink.delete(key)
        with pytest.raises(BlobExistsError):
            host.sink.put(key, (b"overwritten",))
    with pytest.raises(SinkPermissionError):
        plan_empty_trash(aged(host), now=FAR)
    versions = server.client().list_object_versions(Bucket=append_only, Prefix=f"{prefix}/")
    keys = [facts["Key"] for facts in versions["Versions"]]
    assert len(keys) == len(set(keys)), "nothing was ever written twice"
    assert not versions.get("DeleteMarkers")
    require_sound(operator)


def test_whoever_overwrites_past_the_library_is_found_out(
    server: S3Server, make_sink: MakeSink, append_only: str, prefix: str
) -> None:
    """This server has no policy against plain overwriting, as AWS has (``s3:if-none-match``); versions stay."""
    place = f"{append_only}/{prefix}"
    repository = new_repository(make_sink(place=place), keys=KEYS)
    archive_id = back_up(repository, source(0)).archive_id
    key = next(key for key, _ in repository.manifest(archive_id).objects() if key.startswith("packs/"))
    size = repository.sink.stat(key).size_bytes
    server.client(server.writer).put_object(Bucket=append_only, Key=f"{prefix}/{key}", Body=bytes(size))
    (damaged,) = verify_all(repository).objects
    assert (damaged.key, damaged.code, damaged.archives) == (key, "object_changed", (archive_id,))
    client = server.client()
    versions = client.list_object_versions(Bucket=append_only, Prefix=f"{prefix}/{key}")["Versions"]
    newest = next(facts["VersionId"] for facts in versions if facts["IsLatest"])
    client.delete_object(Bucket=append_only, Key=f"{prefix}/{key}", VersionId=newest)
    verify_all(repository).raise_for_findings()
    require_sound(repository)


def test_what_may_not_be_deleted_is_reported_and_stays_noted(
    server: S3Server, make_sink: MakeSink, append_only: str, prefix: str
) -> None:
    place = f"{append_only}/{prefix}"
    operator = new_repository(make_sink(place=place), keys=KEYS)
    first = back_up(operator, source(0)).archive_id
    back_up(operator, source(1), options=RepositoryBackupOptions(full=True))
    apply_forget(operator, plan_delete(operator, [first], now=MOMENT))
    later = aged(operator)
    assert apply_forget(later, plan_empty_trash(later, now=FAR)).forgotten == (first,)
    host = Repository.open_with(make_sink(who=server.writer, place=place), KEYS.writer_key)
    assert apply_prune(host, plan_prune(host)).marked_objects == 2  # noting is creating
    with pytest.raises(SinkPermissionError):
        plan_prune(aged(host))
    # Somebody who may remove notes and probes, and whose packs are locked by a policy.
    server.forbid(append_only, server.operator, "s3:DeleteObject")
    try:
        policy = server.client().get_bucket_policy(Bucket=append_only)["Policy"]
        locked = policy.replace(f"{append_only}/*", f"{append_only}/{prefix}/packs/*")
        server.client().put_bucket_policy(Bucket=append_only, Policy=locked)
        plan = plan_prune(later)
        assert len(plan.due) == 1
        report = apply_prune(later, plan)
        assert (report.outcome, report.deleted_objects) == (Outcome.PARTIAL, 1)
        assert "NOT DELETED packs/" in str(report)
    finally:
        server.client().delete_bucket_policy(Bucket=append_only)
    assert prune(later) is Outcome.OK
    assert {info.key for info in operator.sink.list()} == needed_keys(operator)
    require_sound(operator)


def test_the_whole_life_of_a_repository(make_sink: MakeSink) -> None:
    repository = new_repository(make_sink(), keys=KEYS, max_chain=2)
    ids = [back_up(repository, source(day)).archive_id for day in range(5)]
    assert find(repository, "latest").archive_id == ids[-1]
    plan = plan_forget(repository, KeepLast(limit=2), now=MOMENT + dt.timedelta(days=5))
    apply_forget(repository, plan)
    assert plan_empty_trash(repository, now=FAR).forgotten == ()
    later = aged(repository)
    plan = plan_empty_trash(later, now=FAR)
    assert apply_forget(later, plan).forgotten == tuple(ids[:3])
    assert prune(repository) is Outcome.OK
    assert plan_prune(repository).due == ()
    assert prune(later) is Outcome.OK
    assert {info.key for info in repository.sink.list()} == needed_keys(repository)
    assert repository.archive_ids() == sorted(ids[3:])
    require_sound(repository)


def test_locked_objects_can_be_brought_back(server: S3Server, make_sink: MakeSink, prefix: str) -> None:
    """Object Lock keeps versions: what somebody deletes is hidden, and not gone before its time."""
    bucket = server.make_bucket("locked-repository", ObjectLockEnabledForBucket=True)
    place = f"{bucket}/{prefix}"
    until = dt.timedelta(days=30)
    sink = make_sink(place=place, object_lock_mode="governance", object_lock_for=until)
    repository = new_repository(sink, keys=KEYS)
    for day in range(2):
        back_up(repository, source(day))
    client = server.client()
    keys = [info.key for info in sink.list()]
    for key in keys:
        facts = client.head_object(Bucket=bucket, Key=f"{prefix}/{key}")
        assert facts["ObjectLockMode"] == "GOVERNANCE"
        assert facts["ObjectLockRetainUntilDate"] > dt.datetime.now(dt.UTC) + until - dt.timedelta(hours=1)
    for key in keys:
        sink.delete(key)
    assert list(sink.list()) == []
    for facts in client.list_object_versions(Bucket=bucket, Prefix=f"{prefix}/")["DeleteMarkers"]:
        client.delete_object(Bucket=bucket, Key=facts["Key"], VersionId=facts["VersionId"])
    assert [info.key for info in sink.list()] == keys
    require_sound(repository)
    assert {info.key for info in sink.list()} == needed_keys(repository)
