"""Backing up: names, order, what is stored, what is never done, and what failures leave."""

import datetime as dt
import hashlib
import json
from collections.abc import Iterator

import attrs
import pytest

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb1 import Ktb1Codec
from knowtation_backup.contracts import Observer, ignore_events
from knowtation_backup.errors import (
    BackupError,
    BlobExistsError,
    ConfigurationError,
    DigestMismatchError,
    IntegrityError,
    InternalError,
    SinkError,
    SinkUnavailableError,
    SourceUnavailableError,
    TruncatedError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.events import Event
from knowtation_backup.model.manifest import Manifest
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import Finding, Outcome, SideFile, jsonable
from knowtation_backup.operations.backup import BackupOptions, ReadBack, backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.testing.faults import FaultSink
from knowtation_backup.testing.sources import FakeCapture, FakeSource

MOMENT = dt.datetime(2026, 4, 8, 15, 30, 22, 123_000, tzinfo=dt.UTC)
STEM = "operator-full-export-20260408T153022Z"
KEY = EncryptionKey(raw=bytes(range(32)))
CODEC = Ktb1Codec(KEY)
SOURCE = FakeSource(
    payload=(b'{"format_version":4', b"", b',"users":[]}'),
    side_files=(SideFile(name="raw-0001.txt", content=b"not json"), SideFile(name="raw-0002.txt", content=b"")),
    warnings=(Finding(code="note_adapted", where="google:1/default", message="a field was missing"),),
)
PAYLOAD = b"".join(SOURCE.payload)


def clock() -> dt.datetime:
    return MOMENT


def test_what_is_stored_and_in_which_order() -> None:
    sink = FaultSink(MemorySink(permissions="lrw"))
    report = backup(SOURCE, sink, CODEC, clock=clock)
    assert [operation for operation in sink.operations if operation.startswith("put")] == [
        f"put side/{STEM}.json.enc/started.json",
        f"put {STEM}.json.enc",
        f"put side/{STEM}.json.enc/details.json.enc",
        f"put side/{STEM}.json.enc/raw-0001.txt.enc",
        f"put side/{STEM}.json.enc/raw-0002.txt.enc",
        f"put side/{STEM}.json.enc/manifest.json",
    ]
    assert report.archive_id == f"{STEM}.json.enc"
    assert report.outcome is Outcome.OK
    assert (report.payload_bytes, report.payload_sha256) == (len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest())
    assert report.warnings == SOURCE.warnings


def test_the_artifact_is_plain_ktb1_and_the_manifest_describes_stored_bytes() -> None:
    sink = MemorySink()
    report = backup(SOURCE, sink, CODEC, clock=clock)
    stored = sink.contents()
    assert b"".join(CODEC.open(lambda: iter([stored[f"{STEM}.json.enc"]]))) == PAYLOAD
    manifest = Manifest.from_bytes(stored[f"side/{STEM}.json.enc/manifest.json"])
    assert manifest == report.manifest
    for ref in (manifest.artifact, *manifest.side):
        assert (ref.size_bytes, ref.sha256) == (len(stored[ref.key]), hashlib.sha256(stored[ref.key]).hexdigest())
    assert (manifest.kind, manifest.source_id, manifest.complete) == ("fake", "fake-hub", True)
    assert (manifest.taken_at, manifest.finished_at) == (MOMENT, MOMENT)
    assert manifest.codecs == (CODEC.spec,)
    assert manifest.counts == {"tenants": 1, "notes": 2}
    assert manifest.generator.startswith("knowtation-backup ")


def test_without_a_codec_the_artifact_is_the_payload() -> None:
    sink = MemorySink()
    backup(SOURCE, sink, clock=clock)
    stored = sink.contents()
    assert stored[f"{STEM}.json"] == PAYLOAD
    details = json.loads(stored[f"side/{STEM}.json/details.json"])
    assert details["payload_sha256"] == hashlib.sha256(PAYLOAD).hexdigest()
    assert details["capture"] == SOURCE.details
    assert details["warnings"][0]["code"] == "note_adapted"
    assert stored[f"side/{STEM}.json/raw-0001.txt"] == b"not json"
    assert Manifest.from_bytes(stored[f"side/{STEM}.json/manifest.json"]).codecs == ()


def test_sealed_archives_show_nothing_of_the_content_in_the_clear() -> None:
    sink = MemorySink()
    backup(SOURCE, sink, CODEC, clock=clock)
    everything = b"".join([*sink.contents().values(), *(key.encode() for key in sink.contents())])
    for text in (b"google:1", PAYLOAD, b"not json", hashlib.sha256(PAYLOAD).hexdigest().encode(), b"note_adapted"):
        assert text not in everything


def test_an_incomplete_capture_is_stored_and_said_to_be_incomplete() -> None:
    sink = MemorySink()
    report = backup(attrs.evolve(SOURCE, complete=False), sink, clock=clock)
    assert report.outcome is Outcome.PARTIAL
    assert report.exit_code == 3
    assert [info.state for info in list_archives(sink)] == [ArchiveState.INCOMPLETE]


def test_a_clash_takes_the_next_number_and_the_globs_still_match() -> None:
    sink = MemorySink(permissions="lrw")
    ids = [backup(SOURCE, sink, CODEC, clock=clock).archive_id for _ in range(3)]
    assert ids == [f"{STEM}.json.enc", f"{STEM}-01.json.enc", f"{STEM}-02.json.enc"]
    assert [info.archive_id for info in list_archives(sink)] == ids[::-1]


def test_a_file_of_another_tool_is_never_touched() -> None:
    sink = MemorySink()
    sink.put(f"{STEM}.json", [b"theirs"])
    assert backup(SOURCE, sink, clock=clock).archive_id == f"{STEM}-01.json"
    assert sink.contents()[f"{STEM}.json"] == b"theirs"


def test_of_two_writers_in_one_second_each_gets_its_own_archive() -> None:
    sink = MemorySink(permissions="lrw")
    inner: list[str] = []

    class Racing(MemorySink):
        """Lets another backup run between looking for a name and taking it."""

        def _stat(self, key: str) -> BlobInfo:
            try:
                return sink._stat(key)
            finally:
                if not inner:
                    inner.append("running")
                    inner[0] = backup(SOURCE, sink, CODEC, clock=clock).archive_id

        _put = sink._put
        _read = sink._read
        _list = sink._list

    outer = backup(SOURCE, Racing(), CODEC, clock=clock).archive_id
    assert (inner[0], outer) == (f"{STEM}.json.enc", f"{STEM}-01.json.enc")
    assert [info.state for info in list_archives(sink)] == [ArchiveState.COMPLETE] * 2


def test_a_foreign_writer_between_reserving_and_publishing_wins_and_the_error_says_so() -> None:
    sink = MemorySink()

    @attrs.frozen(kw_only=True)
    class Overtaken(FakeSource):
        def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> FakeCapture:
            def spy(event: Event) -> None:
                if event.name == "fake.progress" and f"{STEM}.json" not in sink.contents():
                    sink.put(f"{STEM}.json", [b"theirs"])
                observer(event)

            return FakeCapture(source=self, taken_at=taken_at, observer=spy)

    with pytest.raises(BlobExistsError):
        backup(Overtaken(), sink, clock=clock)
    assert sink.contents()[f"{STEM}.json"] == b"theirs"


def test_when_every_number_is_taken_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowtation_backup.operations.writing._MAX_NUMBER", 2)
    sink = MemorySink()
    for _ in range(3):
        backup(SOURCE, sink, clock=clock)
    with pytest.raises(SinkError) as caught:
        backup(SOURCE, sink, clock=clock)
    assert caught.value.kind == "no_free_name"


@pytest.mark.parametrize(
    "error", [SourceUnavailableError("gone"), KeyboardInterrupt(), RuntimeError("bug"), SystemExit(1)]
)
def test_a_failing_capture_publishes_no_artifact_and_is_named_unfinished(error: BaseException) -> None:
    sink = MemorySink()
    events: list[Event] = []
    with pytest.raises(type(error)):
        backup(attrs.evolve(SOURCE, error=error), sink, CODEC, clock=clock, observer=events.append)
    assert list(sink.contents()) == [f"side/{STEM}.json.enc/started.json"]
    assert [(info.archive_id, info.state) for info in list_archives(sink)] == [
        (f"{STEM}.json.enc", ArchiveState.UNFINISHED)
    ]
    expected = error.kind if isinstance(error, BackupError) else type(error).__name__
    assert events[-1] == Event(name="backup.failed", fields={"archive_id": f"{STEM}.json.enc", "error": expected})


def test_a_sink_that_stops_reading_ends_the_capture() -> None:
    captures: list[FakeCapture] = []

    @attrs.frozen(kw_only=True)
    class Watched(FakeSource):
        def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> FakeCapture:
            captures.append(FakeCapture(source=self, taken_at=taken_at, observer=observer))
            return captures[-1]

    class StopsReading(MemorySink):
        def _put(self, key: str, chunks: object) -> BlobInfo:
            assert isinstance(chunks, Iterator | list)
            if isinstance(chunks, Iterator):
                next(chunks)
                next(chunks)
                raise SinkUnavailableError("full stop")
            return super()._put(key, chunks)

    with pytest.raises(SinkUnavailableError):
        backup(Watched(payload=(b"x",) * 10), StopsReading(), CODEC, clock=clock)
    assert captures[0].closed


@pytest.mark.parametrize("codec", [None, CODEC])
def test_a_sink_that_loses_bytes_is_caught_before_there_is_a_manifest(codec: Ktb1Codec | None) -> None:
    class Short(MemorySink):
        def _put(self, key: str, chunks: object) -> BlobInfo:
            assert isinstance(chunks, Iterator | list)
            data = b"".join(chunks)
            kept = data[:-1] if key.startswith(STEM) else data
            super()._put(key, [kept])
            return BlobInfo(key=key, size_bytes=len(data))

    sink = Short()
    with pytest.raises(TruncatedError) as caught:
        backup(SOURCE, sink, codec, clock=clock)
    assert caught.value.kind == "size_mismatch"
    assert [info.state for info in list_archives(sink)] == [ArchiveState.UNFINISHED]


def test_a_sink_that_loses_a_blob_is_caught() -> None:
    class Forgetful(MemorySink):
        def _put(self, key: str, chunks: object) -> BlobInfo:
            assert isinstance(chunks, Iterator | list)
            data = b"".join(chunks)
            if "raw-0001" in key:
                return BlobInfo(key=key, size_bytes=len(data))
            return super()._put(key, [data])

    with pytest.raises(IntegrityError) as caught:
        backup(SOURCE, Forgetful(), clock=clock)
    assert caught.value.kind == "blob_vanished"


@pytest.mark.parametrize("codec", [None, CODEC])
def test_reading_back_content_catches_what_sizes_cannot(codec: Ktb1Codec | None) -> None:
    class Flipping(MemorySink):
        def _put(self, key: str, chunks: object) -> BlobInfo:
            assert isinstance(chunks, Iterator | list)
            data = bytearray(b"".join(chunks))
            if key.startswith(STEM):
                data[len(data) // 2] ^= 1
            return super()._put(key, [bytes(data)])

    careless = backup(SOURCE, Flipping(), codec, clock=clock)
    assert careless.outcome is Outcome.OK
    sink = Flipping()
    with pytest.raises(DigestMismatchError):
        backup(SOURCE, sink, codec, clock=clock, options=BackupOptions(read_back=ReadBack.CONTENT))
    assert [info.state for info in list_archives(sink)] == [ArchiveState.UNFINISHED]


@pytest.mark.parametrize("codec", [None, CODEC])
def test_reading_back_content_of_a_good_sink_passes(codec: Ktb1Codec | None) -> None:
    events: list[str] = []
    options = BackupOptions(read_back=ReadBack.CONTENT)
    report = backup(
        SOURCE, MemorySink(), codec, clock=clock, options=options, observer=lambda event: events.append(event.name)
    )
    assert report.outcome is Outcome.OK
    assert events.count("backup.read_back") == 4


def test_an_impossible_name_is_refused_before_anything_is_read() -> None:
    sink = MemorySink()
    with pytest.raises(ConfigurationError):
        backup(attrs.evolve(SOURCE, name="a/b"), sink, clock=clock)
    assert sink.contents() == {}


@pytest.mark.parametrize("names", [("manifest.json",), ("started.json",), ("details.json",), ("a", "a")])
def test_side_files_cannot_pose_as_ours(names: tuple[str, ...]) -> None:
    sink = MemorySink()
    side_files = tuple(SideFile(name=name, content=b"{}") for name in names)
    with pytest.raises(InternalError):
        backup(attrs.evolve(SOURCE, side_files=side_files), sink, clock=clock)
    assert [info.state for info in list_archives(sink)] == [ArchiveState.UNFINISHED]


def test_what_observers_hear() -> None:
    events: list[Event] = []
    backup(SOURCE, MemorySink(), CODEC, clock=clock, observer=events.append)
    assert [event.name for event in events] == [
        "backup.started",
        "fake.progress",
        "fake.progress",
        "fake.progress",
        "backup.stored",
        "backup.stored",
        "backup.stored",
        "backup.stored",
        "backup.finished",
    ]
    assert events[-1].fields["archive_id"] == f"{STEM}.json.enc"


def test_an_observer_that_raises_cancels() -> None:
    sink = MemorySink()

    def cancel(event: Event) -> None:
        if event.name == "fake.progress":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(SOURCE, sink, clock=clock, observer=cancel)
    assert list(sink.contents()) == [f"side/{STEM}.json/started.json"]


def test_keys_show_nowhere() -> None:
    secret = KEY.raw.hex()
    sink = MemorySink()
    heard: list[str] = []

    def listen(event: Event) -> None:
        heard.append(repr(event) + json.dumps(jsonable(event)))

    report = backup(SOURCE, sink, CODEC, clock=clock, observer=listen)
    stored = b"".join(sink.contents().values())
    shown = [*heard, repr(report), str(report), json.dumps(jsonable(report)), repr(CODEC), repr(KEY)]
    for text in shown:
        assert secret not in text.lower()
        assert repr(KEY.raw)[2:-1] not in text
    assert KEY.raw not in stored
    assert secret.encode() not in stored.lower()


def test_memory_does_not_grow_with_the_payload() -> None:
    import tracemalloc  # noqa: PLC0415 - only this test traces

    class Discarding(MemorySink):
        def _put(self, key: str, chunks: object) -> BlobInfo:
            assert isinstance(chunks, Iterator | list)
            size_bytes = sum(map(len, chunks))
            super()._put(key, [])
            self._blobs[key] = (b"", BlobInfo(key=key, size_bytes=size_bytes))
            return self._blobs[key][1]

    @attrs.frozen(kw_only=True)
    class Large(FakeSource):
        def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> FakeCapture:
            return LargeCapture(source=self, taken_at=taken_at, observer=observer)

    class LargeCapture(FakeCapture):
        def chunks(self) -> Iterator[bytes]:
            for _ in range(64):
                yield bytes(1 << 20)
            self.closed = True

    tracemalloc.start()
    report = backup(Large(), Discarding(), CODEC, clock=clock)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.payload_bytes == 64 << 20
    assert peak < 8 << 20
