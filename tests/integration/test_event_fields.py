"""A run that meets nearly every event: each has exactly the fields the reference lists."""

import datetime as dt
import re
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest
from repository_stage import MOMENT, StagedSource

from knowtation_backup import (
    BackupOptions,
    BlobInfo,
    Event,
    ExportOptions,
    HubClient,
    KeepLast,
    Ktb2Codec,
    MemorySink,
    MirrorSink,
    ObservedSink,
    OperatorExporter,
    Outcome,
    Pipeline,
    PreviousArchive,
    PrivateKey,
    ReadBack,
    ReadOnlySink,
    Repository,
    RepositoryBackupOptions,
    RepositoryPipeline,
    RetryingSink,
)
from knowtation_backup.errors import IntegrityError, SinkError, SinkFullError, SinkPermissionError, SinkUnavailableError
from knowtation_backup.operations.repository.erasing import apply_erase_tenant, plan_erase_tenant
from knowtation_backup.operations.repository.locking import LOCK_AHEAD, apply_extend_locks, plan_extend_locks
from knowtation_backup.operations.repository.recipients import add_recipients
from knowtation_backup.operations.trash import plan_empty_trash
from knowtation_backup.sandbox import Answer, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed
from knowtation_backup.sinks.wrappers import SinkWrapper
from knowtation_backup.testing.faults import FaultSink
from knowtation_backup.testing.sources import FakeSource

pytestmark = pytest.mark.sandbox

PAGE = (Path(__file__).parent.parent.parent / "docs" / "reference" / "events.md").read_text()
ROW = re.compile(r"^\| `(?P<name>[a-z_]+\.[a-z_]+)` \| (?P<fields>[^|]*) \|", re.MULTILINE)
KEY = "an operator key, long and random"
CANISTERS = ("ic", "facts", "snapshot", "download", "upload")


def _unreachable(_operation: str) -> SinkUnavailableError:
    return SinkUnavailableError("planned")


class _NoRoomForManifests(SinkWrapper):
    def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        if key.endswith("/manifest.json") or key.startswith("archives/"):
            raise SinkFullError("planned")
        return super()._put(key, chunks)


class _KeepsPacks(SinkWrapper):
    def _delete(self, key: str) -> None:
        if key.startswith("packs/"):
            raise SinkPermissionError("planned")
        super()._delete(key)


def _visit_stores(sink: MemorySink, told: list[Event]) -> None:
    """Do what concerns keys, copies, several places and files of other tools."""
    reading = Pipeline(sink=ReadOnlySink(sink), observer=told.append)
    assert reading.verify_all().reports
    retrying = RetryingSink(FaultSink(sink, fail_at=0, error=_unreachable), observer=told.append, sleep=lambda _: None)
    assert list(retrying.list())

    place = MemorySink()
    broken = FaultSink(MemorySink(), fail_from=0, error=_unreachable)
    mirror = MirrorSink({"one": place, "two": broken}, quorum=1, tolerate_unreachable=1, observer=told.append)
    one, two = PrivateKey.generate("x25519"), PrivateKey.generate("x25519")
    sealed = Pipeline(
        source=FakeSource(), sink=mirror, codec=Ktb2Codec(seal_to=one.public_key), observer=told.append
    ).backup()
    watched = ObservedSink(place, told.append)
    assert not watched.lock_of(next(place.list()).key).versioned
    with pytest.raises(SinkError):
        watched.retain_until(next(place.list()).key, MOMENT)
    observed = Pipeline(sink=ObservedSink(place, told.append), observer=told.append)
    observed.rewrap(sealed.archive_id, open_with=one, seal_to=two.public_key)
    full = _NoRoomForManifests(place)
    with pytest.raises(SinkFullError):
        attrs.evolve(observed, sink=full).rewrap(sealed.archive_id, open_with=one, seal_to=two.public_key)
    with pytest.raises(SinkFullError):
        observed.copy_to(_NoRoomForManifests(other := MemorySink()), sealed.archive_id)
    observed.copy_to(other, sealed.archive_id)
    at_once = attrs.evolve(observed, trash_grace=dt.timedelta(0))
    at_once.apply(at_once.plan_delete(sealed.archive_id))
    for number, payload in enumerate((b'{"format_version":2,"notes":[]}', b"not sealed at all")):
        place.put(f"canister-export-default-20260408T15302{number}Z.json", [payload])
    report = observed.adopt_all()
    assert (len(report.adopted), len(report.failed)) == (1, 1), str(report)


def _visit_repositories(told: list[Event], directory: Path) -> None:
    """Do what concerns repositories: copy, damage, heal, restore, thin out, keys."""
    now = MOMENT
    sink, owner = MemorySink(clock=lambda: now, locks=True), PrivateKey.generate("x25519")
    repository = Repository.create(sink, seal_to=owner.public_key, tenant_keys=True)
    add_recipients(repository, PrivateKey.generate("x25519").public_key, opens_with=owner, observer=told.append)
    records = {"notes": {(b"anna", b"note"): b"a note"}}
    made = StagedSource(images={"heap.bin": bytes(range(256)) * 256}, records=records, kind="export")
    pipeline = RepositoryPipeline(
        repository=repository,
        sources={"hub": made},
        trash_grace=dt.timedelta(0),
        observer=told.append,
        clock=lambda: now,
    )
    (old,) = (member.report.archive_id for member in pipeline.backup().members if member.report)
    full = attrs.evolve(repository, sink=_NoRoomForManifests(sink))
    assert attrs.evolve(pipeline, repository=full).backup().failed
    replica = attrs.evolve(repository, sink=MemorySink())
    pipeline.replicate(replica.sink)

    pack = next(info.key for info in sink.list("packs/"))
    stored = b"".join(sink.read(pack))
    sink.delete(pack)
    sink.put(pack, [stored[:20]])
    with pytest.raises(IntegrityError):
        pipeline.restore(old, directory / "broken")
    keeping = attrs.evolve(pipeline, repository=attrs.evolve(repository, sink=_KeepsPacks(sink)))
    assert not keeping.apply_repair(keeping.plan_repair(replica), replica).healed
    assert pipeline.apply_repair(pipeline.plan_repair(replica), replica).healed == (pack,)
    assert attrs.evolve(pipeline, repository=attrs.evolve(repository, sink=ReadOnlySink(sink))).verify_all().ok
    pipeline.restore(old, directory / "whole")

    now += dt.timedelta(days=1)
    later = attrs.evolve(made, taken_at=now)
    attrs.evolve(pipeline, sources={"hub": later}, options=RepositoryBackupOptions(full=True)).backup()
    pipeline.apply(pipeline.plan_delete(old))
    now += repository.config.grace
    pipeline.apply(pipeline.plan_empty_trash())
    pipeline.apply_prune(pipeline.plan_prune())
    now += repository.config.grace
    assert keeping.apply_prune(keeping.plan_prune()).refused
    sink.retain_until(pack, now + dt.timedelta(hours=1))
    assert pipeline.apply_prune(pipeline.plan_prune()).locked
    now += dt.timedelta(hours=1)
    assert pipeline.apply_prune(pipeline.plan_prune()).deleted_objects
    plan = plan_extend_locks(repository, now=now)
    assert apply_extend_locks(repository, plan, observer=told.append).outcome is Outcome.OK
    reading = attrs.evolve(repository, sink=ReadOnlySink(sink))
    assert apply_extend_locks(reading, plan, observer=told.append).outcome is Outcome.PARTIAL
    now += LOCK_AHEAD
    assert apply_erase_tenant(repository, plan_erase_tenant(repository, "anna"), observer=told.append).removed


def test_told_fields_are_those_of_the_reference(tmp_path: Path) -> None:
    told: list[Event] = []
    sink = MemorySink()
    moments = [dt.datetime(2026, 4, day, tzinfo=dt.UTC) for day in (1, 2, 3, 4)]
    with SandboxNetwork() as network:
        hub = SandboxHub.deploy(network, operator_key=KEY)
        planted = seed(hub, SeedPlan(tenants=2, notes=1, proposals=1))
        client = HubClient(hub.base_url(), operator_key=KEY, transport=network.transport(), sleep=lambda _seconds: None)

        def pipeline(day: int, options: ExportOptions) -> Pipeline:
            return Pipeline(
                source=OperatorExporter(client, options),
                sink=sink,
                options=BackupOptions(read_back=ReadBack.CONTENT),
                retention=KeepLast(limit=1),
                observer=told.append,
                clock=lambda: moments[day],
            )

        network.faults.add(Answer(status=503), headers={"x-user-id": planted.user_ids[0]})
        first = pipeline(0, ExportOptions(on_error="continue"))
        incomplete = first.backup().archive_id
        network.faults.clear()
        previous = PreviousArchive(first.details(incomplete).capture, lambda: first.read(incomplete))
        last = pipeline(1, ExportOptions(previous=previous))
        last.backup()
        full = FaultSink(MemorySink(), fail_at=2, error=lambda _operation: SinkFullError("full"))
        with pytest.raises(SinkFullError):
            Pipeline(source=OperatorExporter(client), sink=full, observer=told.append).backup()
    _visit_stores(sink, told)
    _visit_repositories(told, tmp_path)
    sink.delete(f"side/{incomplete}/details.json")
    assert not last.verify(incomplete).ok
    last.apply(last.plan_forget())
    last.apply(plan_empty_trash(sink, now=moments[3], grace=dt.timedelta(0)))

    documented: dict[str, list[set[str]]] = {}
    for match in ROW.finditer(PAGE):
        documented.setdefault(match["name"], []).append(set(re.findall(r"`([a-z_]+)`", match["fields"])))
    told = [event for event in told if not event.name.startswith("fake.")]
    # Told for mainnet's hosts only, and where canisters are not read through a hub, which has tests of its own.
    elsewhere = {name for name in documented if name.split(".")[0] in CANISTERS} | {"hub.raw_host"}
    assert {event.name for event in told} == documented.keys() - elsewhere
    assert [event for event in told if set(event.fields) not in documented[event.name]] == []
