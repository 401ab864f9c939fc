"""Downloads into directories and as streams: complete, bounded, told about, and refused where they must be."""

import hashlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from snapshot_source import SnapshotSource, snapshot_source

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup.errors import (
    BlobExistsError,
    CertificateError,
    InternalError,
    OperationCancelledError,
    RejectedError,
    SourceUnavailableError,
)
from knowtation_backup.model.events import Event
from knowtation_backup.model.ids import SnapshotId
from knowtation_backup.sandbox import Answer, Delay, ResetAfterExecution, ResetBeforeExecution, StaleCertificate, Tamper
from knowtation_backup.snapshots.directory import SnapshotDirectory
from knowtation_backup.snapshots.download import DIGESTS_FILE, DownloadOptions, DownloadReport, download, stream
from knowtation_backup.snapshots.provenance import PROVENANCE_FILE, verify_provenance

pytestmark = pytest.mark.sandbox

DATA = "read_canister_snapshot_data"
FEW = DownloadOptions(concurrency=4)


@pytest.fixture
def source() -> Iterator[SnapshotSource]:
    before = threading.active_count()
    with snapshot_source(pieces=2, chunks=2, sleep=lambda _seconds: None) as running:
        yield running
    assert threading.active_count() <= before


def fetch(source: SnapshotSource, place: Path, **options: object) -> DownloadReport:
    options.setdefault("options", FEW)
    return download(source.management, source.canister_id, source.snapshot_id, place, **options)  # type: ignore[arg-type]


def test_a_directory_is_complete_and_says_so(source: SnapshotSource, tmp_path: Path) -> None:
    events: list[Event] = []
    report = fetch(source, tmp_path / "s", observer=events.append)
    with SnapshotDirectory.open(tmp_path / "s") as directory:
        assert {f"{section.value}.bin": digest for section, digest in directory.digests().items()}.items() <= (
            report.digests.items()
        )
        size = directory.metadata.size_bytes
    taken = source.network.canisters[source.canister_id.raw].snapshots[source.snapshot_id.raw]
    assert taken is not None
    lines = (tmp_path / "s" / DIGESTS_FILE).read_text().splitlines()
    assert len(lines) == 1 + 1 + 3 + 2  # metadata, provenance, sections, chunks
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "s" / name).read_bytes()).hexdigest() == digest
    assert report.size_bytes == report.transferred_bytes > size
    assert report.resumed_bytes == 0
    assert report.evidence_bytes == (tmp_path / "s" / PROVENANCE_FILE).stat().st_size
    assert "every byte certified" in str(report)
    assert events[0].name == "download.started"
    assert [event.name for event in events][-2:] == ["download.progress", "download.finished"]
    assert events[-1].fields["transferred_bytes"] == report.transferred_bytes


def test_the_first_parts_are_asked_for_before_the_metadata_is_there(source: SnapshotSource, tmp_path: Path) -> None:
    many = DownloadOptions(concurrency=16)
    source.network.faults.add(Delay(0.3), endpoint="call", canister_method="read_canister_snapshot_metadata")
    asked: list[int] = []

    def note(event: Event) -> None:
        if event.name == "download.started":
            asked.append(source.network.requests.counts["call"])

    report = fetch(source, tmp_path / "s", options=many, observer=note)
    assert asked[0] >= 1 + 8  # the metadata, and of both memories four parts, most of which do not exist
    other = fetch(source, tmp_path / "other").digests
    assert {**report.digests, PROVENANCE_FILE: ""} == {**other, PROVENANCE_FILE: ""}
    proof = verify_provenance(tmp_path / "s", root_key=source.network.root_key)
    assert proof.size_bytes == report.size_bytes == report.transferred_bytes


def test_nothing_is_guessed_where_something_is_there_already(source: SnapshotSource, tmp_path: Path) -> None:
    cancellation = Cancellation()

    def cancel(event: Event) -> None:
        if event.name == "download.progress":
            cancellation.cancel()

    once = DownloadOptions(concurrency=1, progress_seconds=1e-9)
    with pytest.raises(OperationCancelledError):
        fetch(source, tmp_path / "s", options=once, observer=cancel, cancellation=cancellation)
    before = source.network.requests.counts["call"]
    report = fetch(source, tmp_path / "s", options=DownloadOptions())
    assert report.resumed_bytes > 0
    assert source.network.requests.counts["call"] - before == 1 + 8 - 1


def test_a_part_that_was_refused_too_early_is_asked_for_again(source: SnapshotSource, tmp_path: Path) -> None:
    source.network.faults.add(Answer(status=403), endpoint="call", canister_method=DATA, every=1, limit=4)
    report = fetch(source, tmp_path / "s", options=DownloadOptions(concurrency=16))
    assert report.size_bytes == report.transferred_bytes
    verify_provenance(tmp_path / "s", root_key=source.network.root_key)


def test_progress_is_told_no_more_often_than_asked_for(source: SnapshotSource, tmp_path: Path) -> None:
    events: list[Event] = []
    seconds = itertools.count()
    options = DownloadOptions(concurrency=1, progress_seconds=5)
    fetch(source, tmp_path / "s", options=options, observer=events.append, monotonic=lambda: float(next(seconds)))
    told = [event.fields for event in events if event.name == "download.progress"]
    assert len(told) >= 2
    moments = [fields["elapsed_seconds"] for fields in told]
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(moments[:-1]))
    assert all(fields["bytes_per_second"] > 0 for fields in told)
    assert told[-1]["eta_seconds"] == 0


def test_digests_of_files_can_be_left_out(source: SnapshotSource, tmp_path: Path) -> None:
    report = fetch(source, tmp_path / "s", options=DownloadOptions(concurrency=4, file_digests=False))
    assert report.digests == {}
    assert not (tmp_path / "s" / DIGESTS_FILE).exists()
    verify_provenance(tmp_path / "s", root_key=source.network.root_key)


def test_what_is_there_is_not_overwritten(source: SnapshotSource, tmp_path: Path) -> None:
    fetch(source, tmp_path / "s")
    with pytest.raises(BlobExistsError):
        fetch(source, tmp_path / "s")


def test_a_snapshot_that_does_not_exist_is_named(source: SnapshotSource, tmp_path: Path) -> None:
    missing = SnapshotId(b"\0" * 7 + b"\x09" + source.canister_id.raw)
    with pytest.raises(RejectedError) as caught:
        download(source.management, source.canister_id, missing, tmp_path / "s")
    assert caught.value.kind == "snapshot_not_found"
    assert str(missing) in str(caught.value)


def test_a_snapshot_deleted_meanwhile_leaves_what_was_read(source: SnapshotSource, tmp_path: Path) -> None:
    def delete(event: Event) -> None:
        if event.name == "download.started":
            source.management.delete_snapshot(source.canister_id, source.snapshot_id)

    with pytest.raises(RejectedError) as caught:
        fetch(source, tmp_path / "s", observer=delete)
    assert caught.value.kind == "snapshot_not_found"
    assert "deleted" in caught.value.hint
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "s.partial").exists()


def test_an_overloaded_network_gets_fewer_calls_and_is_waited_for(source: SnapshotSource, tmp_path: Path) -> None:
    source.network.faults.add(Answer(status=429), endpoint="call", canister_method=DATA, every=2, limit=5)
    report = fetch(source, tmp_path / "s")
    assert report.lowest_concurrency < 4
    assert verify_provenance(tmp_path / "s", root_key=source.network.root_key).parts == 8


@pytest.mark.parametrize("fault", [ResetBeforeExecution(), ResetAfterExecution(), Answer(status=503)])
def test_passing_failures_are_passed_over(source: SnapshotSource, tmp_path: Path, fault: object) -> None:
    source.network.faults.add(fault, endpoint="call", every=3, limit=4)  # type: ignore[arg-type] # one of the table
    assert fetch(source, tmp_path / "s").resumed_bytes == 0


@pytest.mark.parametrize(
    "fault", [Tamper("reply"), Tamper("signature"), StaleCertificate(3600)], ids=["reply", "signature", "stale"]
)
def test_what_is_not_genuine_is_refused_and_not_kept(source: SnapshotSource, tmp_path: Path, fault: object) -> None:
    rule = {"endpoint": "call", "canister_method": DATA, "nth": 4}
    source.network.faults.add(fault, **rule)  # type: ignore[arg-type] # one of the table
    one = DownloadOptions(concurrency=1)
    with pytest.raises(CertificateError):
        fetch(source, tmp_path / "s", options=one)
    assert not (tmp_path / "s").exists()
    report = fetch(source, tmp_path / "s", options=one)
    assert report.resumed_bytes > 0
    assert report.transferred_bytes + report.resumed_bytes == report.size_bytes
    verify_provenance(tmp_path / "s", root_key=source.network.root_key)


def test_a_cancelled_download_ends_and_goes_on_later(source: SnapshotSource, tmp_path: Path) -> None:
    cancellation = Cancellation()

    def cancel(event: Event) -> None:
        if event.name == "download.progress":
            cancellation.cancel()

    options = DownloadOptions(concurrency=1, progress_seconds=1e-9)
    with pytest.raises(OperationCancelledError):
        fetch(source, tmp_path / "s", options=options, observer=cancel, cancellation=cancellation)
    assert not (tmp_path / "s").exists()
    assert fetch(source, tmp_path / "s").resumed_bytes > 0


def test_a_deadline_ends_a_download(source: SnapshotSource, tmp_path: Path) -> None:
    seconds = itertools.count()
    options = DownloadOptions(concurrency=1, deadline_seconds=12)
    with pytest.raises(SourceUnavailableError) as caught:
        fetch(source, tmp_path / "s", options=options, monotonic=lambda: float(next(seconds)))
    assert caught.value.kind == "deadline"


def test_a_stream_left_early_ends_its_threads(source: SnapshotSource) -> None:
    with stream(source.management, source.canister_id, source.snapshot_id, options=FEW) as parts:
        first = next(iter(parts))
        assert first.part == next(parts.metadata.parts())
    with pytest.raises(InternalError):
        parts.result()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("snapshot-")]
