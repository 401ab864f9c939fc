"""An archive in a second place: the same bytes, the manifest last, and finished by repeating what was interrupted."""

import datetime as dt
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.codecs.signing import SigningKey
from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    DigestMismatchError,
    SignatureError,
    SinkPermissionError,
    SinkUnavailableError,
    TruncatedError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import manifest_key, side_key
from knowtation_backup.model.marks import MAX_MARK_BYTES
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import Outcome, SideFile
from knowtation_backup.model.signatures import SignaturePolicy
from knowtation_backup.operations import marks
from knowtation_backup.operations.backup import ReadBack, backup
from knowtation_backup.operations.catalog import find_archive, list_archives
from knowtation_backup.operations.copy import copy_archive
from knowtation_backup.operations.forget import apply_forget, plan_delete
from knowtation_backup.operations.sign import sign_archive
from knowtation_backup.operations.verify import verify
from knowtation_backup.pipeline import Pipeline
from knowtation_backup.sinks.fsspec import FsspecSink
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

START = dt.datetime(2026, 4, 8, 15, 30, 22, 123000, dt.UTC)
KEY = Ktb1Codec(EncryptionKey.generate())
SIGNER = SigningKey.generate()
SOURCE = FakeSource(payload=(b"x" * 70_000,) * 3, side_files=(SideFile(name="raw-0001.txt", content=b"raw" * 100),))


def clock() -> dt.datetime:
    return START


@pytest.fixture
def here() -> MemorySink:
    return MemorySink()


@pytest.fixture
def there() -> MemorySink:
    """A place whose rights do not include deleting."""
    return MemorySink(permissions="lrw")


def stored(sink: ArchiveSink) -> str:
    """Back up, sealed and signed, and pin it."""
    archive_id = backup(SOURCE, sink, KEY, signing_keys=(SIGNER,), clock=clock).archive_id
    marks.pin(sink, archive_id, clock=clock)
    return archive_id


def state(sink: ArchiveSink, archive_id: str) -> ArchiveState:
    return find_archive(list_archives(sink), archive_id).state


class _NeverLast(MemorySink):
    """Takes one byte away from the stream of the artifact, or swaps what it holds."""

    def __init__(self, *, stop_early: bool) -> None:
        super().__init__()
        self._stop_early = stop_early

    def _put(self, key: str, chunks: Iterator[bytes]) -> BlobInfo:  # type: ignore[override]
        if self._stop_early:
            return super()._put(key, [next(iter(chunks))[:-1]])
        data = b"".join(chunks)
        return super()._put(key, [bytes(len(data))])


def test_a_copy_has_the_same_blobs_and_needs_no_key(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    report = copy_archive(here, there, archive_id)
    assert there.contents() == here.contents()
    assert set(report.copied) == set(here.contents())
    assert report.copied[0] == side_key(archive_id, "started.json")
    assert report.copied[-1] == manifest_key(archive_id)
    assert report.copied_bytes == sum(map(len, here.contents().values()))
    assert (report.present, report.outcome, report.archive_id) == ((), Outcome.OK, archive_id)
    assert str(report).startswith(f"{archive_id}: {len(report.copied)} blobs (")
    assert verify(there, archive_id, codec=KEY, policy=SignaturePolicy(trusted=(SIGNER.verify_key,))).ok
    assert find_archive(list_archives(there), archive_id).standing.pinned


def test_copying_again_writes_nothing(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    first = copy_archive(here, there, archive_id)
    second = copy_archive(here, there, archive_id)
    assert (second.copied, second.copied_bytes) == ((), 0)
    assert {*second.present} == {key for key in first.copied if "/marks/" not in key}
    assert "were there" in str(second)


@pytest.mark.parametrize("moment", FaultMoment)
@pytest.mark.parametrize(("faulty_side", "place"), [("source", "memory"), ("target", "memory"), ("target", "local")])
def test_wherever_it_breaks_nothing_is_complete_and_a_second_run_finishes(
    tmp_path: Path, moment: FaultMoment, place: str, faulty_side: str
) -> None:
    here = MemorySink()
    archive_id = stored(here)

    def run(target: ArchiveSink, fail_at: int | None) -> FaultSink:
        faulty = FaultSink(here if faulty_side == "source" else target, fail_at=fail_at, moment=moment)
        source, target = (faulty, target) if faulty_side == "source" else (here, faulty)
        try:
            copy_archive(source, target, archive_id)
        except SinkUnavailableError:
            assert fail_at is not None
        else:
            # Who looks at a listing or a read that had only one item has heard all of it.
            assert fail_at is None
        return faulty

    total = len(run(MemorySink(), None).operations)
    assert total > 8
    for number in range(total):
        inner = FsspecSink(tmp_path / str(number)) if place == "local" else MemorySink(permissions="lrw")
        faulty = run(inner, number)
        found = [info.state for info in list_archives(inner)]
        last = next((key for key in reversed(faulty.operations) if key.startswith(("put ", "read "))), "")
        after_the_manifest = faulty_side == "target" and last.endswith("/manifest.json")
        if last.startswith("put ") and moment is not FaultMoment.AFTER:
            after_the_manifest = False
        allowed = {ArchiveState.COMPLETE, ArchiveState.UNFINISHED} if after_the_manifest else {ArchiveState.UNFINISHED}
        assert set(found) <= allowed, faulty.operations[-1]
        copy_archive(here, inner, archive_id)
        assert {info.key: inner.read_all(info.key, limit_bytes=1 << 20) for info in inner.list()} == here.contents()
        assert verify(inner, archive_id, codec=KEY).ok


def test_damaged_bytes_are_not_copied(there: MemorySink) -> None:
    here = MemorySink()
    archive_id = stored(here)
    data = bytearray(here.contents()[archive_id])
    data[-1] ^= 1
    here.delete(archive_id)
    here.put(archive_id, [bytes(data)])
    with pytest.raises(DigestMismatchError):
        copy_archive(here, there, archive_id)
    assert archive_id not in there.contents()
    assert state(there, archive_id) is ArchiveState.UNFINISHED


def test_a_missing_or_unfinished_archive_is_not_copied(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    here.delete(manifest_key(archive_id))
    with pytest.raises(BlobNotFoundError):
        copy_archive(here, there, archive_id)
    assert there.contents() == {}


def test_another_archive_of_the_same_name_is_left_alone(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    assert stored(there) == archive_id
    before = there.contents()
    with pytest.raises(BlobExistsError) as caught:
        copy_archive(here, there, archive_id)
    assert (caught.value.kind, caught.value.context["key"]) == ("copy_differs", side_key(archive_id, "started.json"))
    assert there.contents() == before


@pytest.mark.parametrize("there_bytes", [b"", b"other", b"x" * 300_000])
def test_other_bytes_under_the_name_are_refused(here: MemorySink, there: MemorySink, there_bytes: bytes) -> None:
    archive_id = stored(here)
    there.put(archive_id, [there_bytes])
    with pytest.raises(BlobExistsError, match="has other bytes than in"):
        copy_archive(here, there, archive_id)
    assert state(there, archive_id) is not ArchiveState.COMPLETE


def test_a_file_that_was_carried_there_before_is_taken(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    there.put(archive_id, [here.contents()[archive_id]])
    assert copy_archive(here, there, archive_id).present == (archive_id,)
    assert verify(there, archive_id, codec=KEY).ok


def test_an_archive_without_a_marker_is_copied_as_it_is(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    here.delete(side_key(archive_id, "started.json"))
    copy_archive(here, there, archive_id)
    assert there.contents() == here.contents()


def test_what_a_store_swaps_is_found_when_it_is_read_back(here: MemorySink) -> None:
    archive_id = stored(here)
    with pytest.raises(DigestMismatchError, match="has other bytes now"):
        copy_archive(here, _NeverLast(stop_early=False), archive_id)
    assert copy_archive(here, _NeverLast(stop_early=False), archive_id, read_back=ReadBack.SIZES).copied


def test_a_store_that_stops_early_is_found_out(here: MemorySink) -> None:
    archive_id = stored(here)
    target = _NeverLast(stop_early=True)
    with pytest.raises(TruncatedError):
        copy_archive(here, target, archive_id)
    assert manifest_key(archive_id) not in target.contents()


def test_read_back_says_which_blobs_are_read(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    counted = FaultSink(there)
    copy_archive(here, counted, archive_id, read_back=ReadBack.SIZES)
    assert not any(operation.startswith("read ") for operation in counted.operations)
    with pytest.raises(ConfigurationError):
        copy_archive(here, there, archive_id, read_back="all")  # type: ignore[arg-type]


def test_signatures_and_marks_that_came_later_follow(here: MemorySink, there: MemorySink) -> None:
    archive_id = backup(SOURCE, here, clock=clock).archive_id
    copy_archive(here, there, archive_id)
    sign_archive(here, archive_id, (SIGNER,))
    marks.tag(here, archive_id, "kept")
    marks.quarantine(here, archive_id, reason="odd")
    report = copy_archive(here, there, archive_id)
    assert len(report.copied) == 3
    standing = find_archive(list_archives(there), archive_id).standing
    assert standing.quarantined
    assert there.contents() == here.contents()


def test_what_is_said_of_the_bytes_in_one_place_stays_there(here: MemorySink, there: MemorySink) -> None:
    archive_id = backup(SOURCE, here, clock=clock).archive_id
    verify(here, archive_id, record=True)
    copy_archive(here, there, archive_id)
    standing = find_archive(list_archives(there), archive_id).standing
    assert (standing.verified_at, standing.failed_at) == (None, None)


def test_a_failed_verification_follows_while_it_is_the_last_word(here: MemorySink) -> None:
    archive_id = backup(SOURCE, here, clock=clock).archive_id
    data = here.contents()[side_key(archive_id, "details.json")]
    here.delete(side_key(archive_id, "details.json"))
    verify(here, archive_id, record=True)
    here.put(side_key(archive_id, "details.json"), [data])
    doubted, good = MemorySink(), MemorySink()
    copy_archive(here, doubted, archive_id)
    assert find_archive(list_archives(doubted), archive_id).standing.failed_at is not None
    verify(here, archive_id, record=True)
    copy_archive(here, good, archive_id)
    assert find_archive(list_archives(good), archive_id).standing.failed_at is None


def test_an_archive_in_the_trash_is_not_copied_nor_is_its_copy_there_brought_up(
    here: MemorySink, there: MemorySink
) -> None:
    archive_id = backup(SOURCE, here, clock=clock).archive_id
    copy_archive(here, there, archive_id)
    for source, target in ((here, there), (there, here)):
        plan = plan_delete(here, [archive_id], now=START, last_too=True)
        if source is here:
            apply_forget(here, plan, clock=clock)
        with pytest.raises(ConfigurationError) as caught:
            copy_archive(source, target, archive_id)
        assert caught.value.kind == "in_trash"


def test_a_mark_too_large_to_be_genuine_says_as_much_in_the_copy(here: MemorySink, there: MemorySink) -> None:
    archive_id = backup(SOURCE, here, clock=clock).archive_id
    mark = marks.tag(here, archive_id, "kept", clock=clock)
    here.delete(mark.name.key)
    here.put(mark.name.key, [bytes(MAX_MARK_BYTES * 2)])
    copy_archive(here, there, archive_id)
    assert len(there.contents()[mark.name.key]) == MAX_MARK_BYTES + 1
    (copied,) = marks.read_marks(there, archive_id)
    assert copied.damage


def test_the_policy_says_whose_archives_are_copied(here: MemorySink, there: MemorySink) -> None:
    archive_id = backup(SOURCE, here, clock=clock).archive_id
    with pytest.raises(SignatureError):
        copy_archive(here, there, archive_id, policy=SignaturePolicy(trusted=(SIGNER.verify_key,)))
    assert there.contents() == {}


def test_who_may_only_create_copies_too(here: MemorySink) -> None:
    archive_id = stored(here)

    class Blind(MemorySink):
        def _stat(self, key: str) -> BlobInfo:
            if "\0" not in key and key not in self.contents():
                raise SinkPermissionError(f"looking at {key} is refused")
            return super()._stat(key)

        def _list(self, prefix: str) -> Iterator[BlobInfo]:
            raise SinkPermissionError(f"listing {prefix} is refused")

    blind = Blind()
    copy_archive(here, blind, archive_id)
    assert blind.contents() == here.contents()
    assert copy_archive(here, blind, archive_id).copied == ()


def test_two_that_copy_at_once_both_finish(here: MemorySink) -> None:
    archive_id = stored(here)

    class Slow(MemorySink):
        def is_free(self, key: str) -> bool:
            free = super().is_free(key)
            if free:
                self.put(key, [here.contents()[key]])  # the other one is faster
            return free

    slow = Slow()
    assert copy_archive(here, slow, archive_id).copied == ()
    assert slow.contents() == here.contents()


def test_memory_is_bounded(tmp_path: Path) -> None:
    here, there = FsspecSink(tmp_path / "here"), FsspecSink(tmp_path / "there")
    archive_id = backup(FakeSource(payload=(bytes(1 << 20),) * 48), here, clock=clock).archive_id
    tracemalloc.start()
    try:
        copy_archive(here, there, archive_id)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20


def test_events_say_what_happens(here: MemorySink, there: MemorySink) -> None:
    archive_id = stored(here)
    events: list[Event] = []
    with pytest.raises(SinkUnavailableError):
        copy_archive(here, FaultSink(there, fail_at=5), archive_id, observer=events.append)
    assert events[0] == Event(name="copy.started", fields={"archive_id": archive_id})
    assert events[-1] == Event(name="copy.failed", fields={"archive_id": archive_id, "error": "sink_unavailable"})
    events.clear()
    report = copy_archive(here, there, archive_id, observer=events.append)
    names = [event.name for event in events]
    assert set(names) == {"copy.started", "copy.present", "backup.stored", "backup.read_back", "copy.finished"}
    assert events[-1].fields == {
        "archive_id": archive_id,
        "copied": len(report.copied),
        "present": len(report.present),
        "copied_bytes": report.copied_bytes,
    }


def test_a_pipeline_copies_the_latest(here: MemorySink, there: MemorySink) -> None:
    stored(here)
    mirror = MirrorSink({"one": there, "two": FaultSink(MemorySink(), fail_from=6)}, quorum=1)
    report = Pipeline(sink=here).copy_to(mirror, read_back=ReadBack.SIZES)
    assert report.outcome is Outcome.PARTIAL
    assert [result.ok for result in report.targets] == [True, False]
    assert state(there, report.archive_id) is ArchiveState.COMPLETE
