"""Object Lock of a real S3 server: asked for, extended with retention, and respected by a prune."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
from botocore.exceptions import ClientError
from repository_stage import MOMENT, Aged, StagedSource, contents, new_repository
from s3_server import S3Server
from tcp_proxy import TcpProxy

from knowtation_backup.errors import BlobNotFoundError, SinkError, SinkPermissionError
from knowtation_backup.model.blobs import BlobLock
from knowtation_backup.model.reports import Outcome
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash
from knowtation_backup.operations.repository.locking import apply_extend_locks, plan_extend_locks
from knowtation_backup.operations.repository.prune_reports import PruneReport
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.repository.layout import archive_key
from knowtation_backup.repository.repository import Repository
from knowtation_backup.retention.keep import KeepLast
from knowtation_backup.sinks.fsspec import FsspecSink

MakeSink = Callable[..., FsspecSink]
DAY = dt.timedelta(days=1)
GRACE = 3 * DAY
FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def locking(server: S3Server) -> str:
    """A bucket with Object Lock, and so with versions."""
    return server.make_bucket("bucket-with-locks", ObjectLockEnabledForBucket=True)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def facts(server: S3Server, bucket: str, key: str) -> Mapping[str, Any]:
    head: Mapping[str, Any] = server.client().head_object(Bucket=bucket, Key=key)
    return head


def require_kept(server: S3Server, bucket: str, key: str) -> None:
    """Require that the store itself refuses to remove the version that is there."""
    version = facts(server, bucket, key)["VersionId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        server.client().delete_object(Bucket=bucket, Key=key, VersionId=version)


def test_locks_are_asked_for_and_extended(server: S3Server, make_sink: MakeSink, locking: str, prefix: str) -> None:
    sink = make_sink(place=f"{locking}/{prefix}")
    assert sink.capabilities.locks
    sink.put("a", [b"x"])
    assert sink.lock_of("a") == BlobLock(versioned=True)
    soon, later = now() + DAY, now() + 30 * DAY
    asked = soon - dt.timedelta(seconds=1) + dt.timedelta(microseconds=1)
    assert sink.retain_until("a", asked) == BlobLock(until=soon, versioned=True), "the next whole second"
    assert sink.lock_of("a") == BlobLock(until=soon, versioned=True)
    assert facts(server, locking, f"{prefix}/a")["ObjectLockMode"] == "GOVERNANCE"
    assert sink.retain_until("a", later).until == later
    assert sink.retain_until("a", soon).until == later, "a lock never gets shorter"
    assert sink.lock_of("a").until == later
    require_kept(server, locking, f"{prefix}/a")
    for act in (sink.lock_of, lambda key: sink.retain_until(key, later)):
        with pytest.raises(BlobNotFoundError):
            act("b")
    server.client().put_object_legal_hold(Bucket=locking, Key=f"{prefix}/a", LegalHold={"Status": "ON"})
    assert sink.lock_of("a").legal_hold


def test_the_mode_of_a_lock_stays(server: S3Server, make_sink: MakeSink, locking: str, prefix: str) -> None:
    strict = {"object_lock_mode": "compliance", "object_lock_for": DAY}
    compliant = make_sink(place=f"{locking}/{prefix}", **strict)
    plain = make_sink(place=f"{locking}/{prefix}")
    compliant.put("a", [b"x"])
    plain.put("b", [b"x"])
    for key in ("a", "b"):
        assert plain.lock_of(key).holds(now()) == (key == "a")
    later = now() + 2 * DAY
    plain.retain_until("a", later)
    compliant.retain_until("b", later)
    plain.put("c", [b"x"])
    plain.retain_until("c", later)
    compliant.retain_until("c", later + DAY)
    modes = {key: facts(server, locking, f"{prefix}/{key}")["ObjectLockMode"] for key in ("a", "b", "c")}
    assert modes == {"a": "COMPLIANCE", "b": "COMPLIANCE", "c": "GOVERNANCE"}
    assert plain.lock_of("a").until == later


def test_a_bucket_without_locks_is_asked_once(make_sink: MakeSink, proxy: TcpProxy) -> None:
    sink = make_sink(through=proxy)
    sink.put("a", [b"x"])
    assert sink.lock_of("a") == BlobLock()
    proxy.heads.clear()
    assert sink.lock_of("a") == BlobLock()
    assert [head.split(" ")[0] for head in proxy.heads] == ["HEAD"]
    with pytest.raises(SinkError) as caught:
        sink.retain_until("a", now() + DAY)
    assert caught.value.kind == "no_object_lock"


def test_credentials_without_the_rights_are_told_which(
    server: S3Server, make_sink: MakeSink, locking: str, prefix: str
) -> None:
    make_sink(place=f"{locking}/{prefix}").put("a", [b"x"])
    sink = make_sink(who=server.writer, place=f"{locking}/{prefix}")
    with pytest.raises(SinkPermissionError) as caught:
        sink.lock_of("a")
    assert "s3:GetObjectRetention" in caught.value.hint
    make_sink(place=f"{locking}/{prefix}").retain_until("a", now() + DAY)
    with pytest.raises(SinkPermissionError) as caught:
        sink.retain_until("a", now() + 2 * DAY)
    assert "s3:PutObjectRetention" in caught.value.hint


def source(day: int) -> StagedSource:
    heap = b"".join(b"%d %d" % (page, day * (page % 9 == day)) + bytes(4090) for page in range(300))
    return StagedSource(images={"heap.bin": heap}, taken_at=MOMENT + day * DAY)


def full_source(day: int) -> StagedSource:
    return StagedSource(images={"heap.bin": bytes([day]) * 5000}, taken_at=MOMENT + day * DAY)


def test_what_newer_archives_build_on_outlives_its_first_lock(
    server: S3Server, make_sink: MakeSink, locking: str, prefix: str
) -> None:
    """The locks set at writing end; the base of the chain was forgotten, and is still kept by the store."""
    place = f"{locking}/{prefix}"
    briefly = {"object_lock_mode": "compliance", "object_lock_for": dt.timedelta(seconds=4)}
    repository = new_repository(make_sink(place=place, **briefly))
    first, second = (back_up(repository, source(day)).archive_id for day in range(2))
    ended = now() + dt.timedelta(seconds=5)
    assert repository.manifest(second).parent == first
    policy = KeepLast(limit=1)
    plan = plan_extend_locks(repository, policy, now=now())
    assert [archive.archive_id for archive in plan.archives] == [second]
    assert apply_extend_locks(repository, plan).outcome is Outcome.OK
    needed = {archive_key(second), "repository.json", *(key for key, _ in repository.manifest(second).objects())}
    assert {each.key for each in plan.objects} == needed
    shared = needed & {key for key, _ in repository.manifest(first).objects()}
    assert any(key.startswith("packs/") for key in shared)
    time.sleep(max(0.0, (ended - dt.datetime.now(dt.UTC)).total_seconds()))
    client = server.client()
    stored = [info.key for info in repository.sink.list()]
    for key in needed:
        require_kept(server, locking, f"{prefix}/{key}")
        assert repository.sink.lock_of(key).until == plan.until
    for key in set(stored) - needed:
        version = facts(server, locking, f"{prefix}/{key}")["VersionId"]
        client.delete_object(Bucket=locking, Key=f"{prefix}/{key}", VersionId=version)
    assert {info.key for info in repository.sink.list()} == needed
    assert contents(repository, second)["heap.bin"] == source(1).images["heap.bin"]
    assert plan_extend_locks(repository, policy, now=plan.made_at).objects == ()


def staged_for_pruning(sink: FsspecSink) -> tuple[Repository, int]:
    """Return a repository in which one full archive was forgotten and noted, and the size of what is due."""
    repository = new_repository(sink)
    options = RepositoryBackupOptions(full=True)
    first = back_up(repository, full_source(1), options=options).archive_id
    back_up(repository, full_source(2), options=options)
    due = sum(size for _, size in repository.manifest(first).objects())
    apply_forget(repository, plan_delete(repository, [first], now=MOMENT))
    later = attrs.evolve(repository, sink=Aged(sink, 2 * GRACE))
    apply_forget(later, plan_empty_trash(later, now=FAR))
    assert apply_prune(repository, plan_prune(repository)).marked_bytes == due
    return later, due


def prune(repository: Repository) -> PruneReport:
    return apply_prune(repository, plan_prune(repository))


def test_a_prune_leaves_alone_what_is_locked_and_says_until_when(
    server: S3Server, make_sink: MakeSink, locking: str, prefix: str
) -> None:
    sink = make_sink(place=f"{locking}/{prefix}")
    repository, due = staged_for_pruning(sink)
    plan = plan_prune(repository)
    assert (plan.hidden_bytes, plan.freed_bytes, plan.locked) == (due, 0, ())
    keys = [noted.key for note in plan.due for noted in note.objects]
    until = now() + dt.timedelta(seconds=5)
    for key in keys:
        sink.retain_until(key, until)
    report = prune(repository)
    assert (report.outcome, report.deleted_objects, report.freed_bytes, report.hidden_bytes) == (Outcome.OK, 0, 0, 0)
    assert (report.locked_bytes, report.locked_until) == (due, until)
    assert set(keys) <= {info.key for info in sink.list()}
    time.sleep(max(0.0, (until - dt.datetime.now(dt.UTC)).total_seconds()) + 1)
    report = prune(repository)
    assert (report.deleted_objects, report.freed_bytes, report.hidden_bytes) == (len(keys), 0, due)
    assert not set(keys) & {info.key for info in sink.list()}
    versions = server.client().list_object_versions(Bucket=locking, Prefix=f"{prefix}/")["Versions"]
    assert {f"{prefix}/{key}" for key in keys} <= {version["Key"] for version in versions}


def test_only_what_is_gone_counts_as_freed(server: S3Server, make_sink: MakeSink, prefix: str) -> None:
    repository, due = staged_for_pruning(make_sink())
    report = prune(repository)
    assert (report.freed_bytes, report.hidden_bytes, report.findings) == (due, 0, ())
    bucket = server.make_bucket("bucket-with-versions")
    server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    repository, due = staged_for_pruning(make_sink(place=f"{bucket}/{prefix}"))
    report = prune(repository)
    assert (report.freed_bytes, report.hidden_bytes, report.findings) == (0, due, ())
    assert "only hidden" in str(report)
