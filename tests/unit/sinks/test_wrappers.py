"""Sinks around sinks: what they refuse, repeat, slow down and tell."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    SourceUnavailableError,
)
from knowtation_backup.model.blobs import BlobInfo, BlobLock
from knowtation_backup.model.events import Event
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.sinks.retrying import RetryingSink
from knowtation_backup.sinks.wrappers import AppendOnlySink, ObservedSink, ReadOnlySink, SinkWrapper, ThrottledSink
from knowtation_backup.testing.faults import FaultMoment, FaultSink

CHUNKS = [b"one", b"two", b"three"]
WHOLE = b"onetwothree"


def untouched() -> Iterator[bytes]:
    pytest.fail("the stream was read")
    yield b""  # type: ignore[unreachable]  # makes it a generator


class TestRefusing:
    def test_read_only_refuses_to_write_and_delete_and_reads_no_stream(self) -> None:
        inner = MemorySink()
        inner.put("a", CHUNKS)
        sink = ReadOnlySink(inner)
        for act in (lambda: sink.put("b", untouched()), lambda: sink.delete("a")):
            with pytest.raises(SinkPermissionError) as caught:
                act()
            assert caught.value.kind == "sink_permission"
            assert "ReadOnlySink" in caught.value.message
        assert inner.contents() == {"a": WHOLE}
        assert b"".join(sink.read("a", start=3, size_bytes=3)) == b"two"
        assert [info.key for info in sink.list()] == ["a"]
        assert sink.stat("a").size_bytes == len(WHOLE)
        assert not sink.capabilities.deletable

    def test_append_only_refuses_to_delete_alone(self) -> None:
        inner = MemorySink()
        sink = AppendOnlySink(inner)
        sink.put("a", CHUNKS)
        with pytest.raises(SinkPermissionError):
            sink.delete("a")
        assert inner.contents() == {"a": WHOLE}
        assert not sink.capabilities.deletable
        assert sink.capabilities.create_only


UNTIL = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("wrap", [SinkWrapper, AppendOnlySink, RetryingSink, ThrottledSink, FaultSink])
def test_locks_are_passed_through(wrap: Callable[[ArchiveSink], ArchiveSink]) -> None:
    inner = MemorySink(locks=True)
    inner.put("a", CHUNKS)
    sink = wrap(inner)
    assert sink.capabilities.locks
    assert sink.lock_of("a") == BlobLock()
    assert sink.retain_until("a", UNTIL.astimezone(dt.timezone(dt.timedelta(hours=1)))) == BlobLock(until=UNTIL)
    assert sink.lock_of("a") == inner.lock_of("a") == BlobLock(until=UNTIL)
    assert sink.retain_until("a", UNTIL - dt.timedelta(days=1)).until == UNTIL, "a lock never gets shorter"
    with pytest.raises(SinkPermissionError):
        inner.delete("a")
    for act in (sink.lock_of, lambda key: sink.retain_until(key, UNTIL)):
        with pytest.raises(BlobNotFoundError):
            act("b")


def test_read_only_looks_at_locks_and_sets_none() -> None:
    inner = MemorySink(locks=True)
    inner.put("a", CHUNKS)
    inner.retain_until("a", UNTIL)
    sink = ReadOnlySink(inner)
    assert sink.lock_of("a").until == UNTIL
    with pytest.raises(SinkPermissionError, match="ReadOnlySink"):
        sink.retain_until("a", UNTIL + dt.timedelta(days=1))
    assert inner.lock_of("a").until == UNTIL


def test_locks_are_asked_and_set_again_after_a_lost_answer() -> None:
    inner = MemorySink(locks=True)
    inner.put("a", CHUNKS)
    faulty = FaultSink(inner, fail_at=0, moment=FaultMoment.AFTER)
    assert RetryingSink(faulty, sleep=lambda _: None).retain_until("a", UNTIL) == BlobLock(until=UNTIL)
    assert faulty.operations == ["retain a"] * 2
    faulty = FaultSink(inner, fail_at=0)
    assert RetryingSink(faulty, sleep=lambda _: None).lock_of("a") == BlobLock(until=UNTIL)
    assert faulty.operations == ["lock_of a"] * 2


def test_observed_locks_are_told() -> None:
    inner, told = MemorySink(locks=True), list[Event]()
    inner.put("a", CHUNKS)
    sink = ObservedSink(inner, told.append, clock=lambda: 0.0)
    sink.retain_until("a", UNTIL)
    sink.lock_of("a")
    with pytest.raises(BlobNotFoundError):
        sink.lock_of("b")
    retained = {"key": "a", "until": "2100-01-01T00:00:00.000Z", "seconds": 0.0, "error": None}
    assert told == [
        Event(name="sink.retain", fields=retained),
        Event(name="sink.lock_of", fields={"key": "a", "seconds": 0.0, "error": None}),
        Event(name="sink.lock_of", fields={"key": "b", "seconds": 0.0, "error": "blob_not_found"}),
    ]


def test_a_sink_without_locks_says_so() -> None:
    sink = MemorySink()
    sink.put("a", CHUNKS)
    assert not sink.capabilities.locks
    assert sink.lock_of("a") == BlobLock()
    with pytest.raises(SinkError) as caught:
        sink.retain_until("a", UNTIL)
    assert caught.value.kind == "no_object_lock"
    with pytest.raises(ConfigurationError):
        sink.retain_until("a", UNTIL.replace(tzinfo=None))


def test_a_lock_holds_until_its_end_and_a_hold_for_ever() -> None:
    assert not BlobLock().holds(UNTIL)
    assert BlobLock(until=UNTIL).holds(UNTIL - dt.timedelta(seconds=1))
    assert not BlobLock(until=UNTIL).holds(UNTIL)
    assert BlobLock(last_until=UNTIL).holds(UNTIL - dt.timedelta(seconds=1))
    assert BlobLock(legal_hold=True).holds(UNTIL)


@pytest.mark.parametrize(
    "wrap",
    [
        SinkWrapper,
        ReadOnlySink,
        AppendOnlySink,
        RetryingSink,
        ThrottledSink,
        lambda inner: ObservedSink(inner, lambda _event: None),
    ],
)
def test_wrappers_say_what_is_inside(wrap: Callable[[ArchiveSink], SinkWrapper]) -> None:
    inner = MirrorSink({"a": MemorySink(), "b": MemorySink()})
    inner.put("some-archive", [b"x"])
    sink = wrap(inner)
    assert sink.inner is inner
    assert sink.location == inner.location
    assert repr(inner) in repr(sink)
    assert [result.target for result in sink.target_results("some-archive")] == ["a", "b"]
    assert (sink.capabilities.create_only, sink.capabilities.durable) == (True, False)
    assert sink.is_free("other")
    assert not sink.is_free("some-archive")


class _Retried:
    """A retrying sink around one that fails as planned, and what it waited for and told."""

    def __init__(self, moment: FaultMoment, fail_at: int = 0, options: Mapping[str, Any] | None = None) -> None:
        self.store = MemorySink()
        self.faulty = FaultSink(self.store, fail_at=fail_at, moment=moment)
        self.waits: list[float] = []
        self.events: list[Event] = []
        self.sink = RetryingSink(
            self.faulty,
            RetryPolicy(attempts=3),
            sleep=self.waits.append,
            random=lambda: 0.5,
            observer=self.events.append,
            **(options or {}),
        )


class TestRetrying:
    @pytest.mark.parametrize("moment", list(FaultMoment))
    def test_looking_listing_reading_and_deleting_are_repeated(self, moment: FaultMoment) -> None:
        acts: dict[str, tuple[Callable[[ArchiveSink], object], object]] = {
            "stat": (lambda sink: sink.stat("a").size_bytes, len(WHOLE)),
            "list": (lambda sink: [info.key for info in sink.list()], ["a", "b", "c"]),
            "read": (lambda sink: b"".join(sink.read("a", start=1)), WHOLE[1:]),
            "delete": (lambda sink: sink.delete("a"), None),
        }
        for operation, (act, expected) in acts.items():
            made = _Retried(moment)
            for key in "abc":
                made.store.put(key, CHUNKS)
            assert act(made.sink) == expected
            assert made.waits == [0.25]
            assert [event.name for event in made.events] == ["sink.retry"]
            assert made.events[0].fields["operation"] == operation
            assert made.events[0].fields["kind"] == "sink_unavailable"
        assert "a" not in made.store.contents()

    def test_a_read_goes_on_at_the_byte_where_it_broke(self) -> None:
        class Breaking(SinkWrapper):
            starts: list[tuple[int, int | None]] = []  # noqa: RUF012 - of this test alone

            def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
                self.starts.append((start, size_bytes))
                yield b"".join(self._inner.read(key, start=start, size_bytes=min(2, size_bytes or 2)))
                raise SinkUnavailableError("planned")

        store = MemorySink()
        store.put("a", [bytes(range(11))])
        inner = Breaking(store)
        sink = RetryingSink(inner, RetryPolicy(attempts=2), sleep=lambda _seconds: None)
        assert b"".join(sink.read("a", start=1, size_bytes=9)) == bytes(range(1, 10)), "every step forward counts anew"
        assert inner.starts == [(1, 9), (3, 7), (5, 5), (7, 3), (9, 1)]

    def test_attempts_end(self) -> None:
        sink = RetryingSink(FaultSink(MemorySink(), fail_from=0), RetryPolicy(attempts=4), sleep=lambda _seconds: None)
        for act in (lambda: sink.stat("a"), lambda: list(sink.list()), lambda: sink.put("a", CHUNKS)):
            with pytest.raises(SinkUnavailableError) as caught:
                act()
            assert caught.value.context["attempts"] == 4

    @pytest.mark.parametrize("error", [SinkPermissionError, SinkFullError, KeyboardInterrupt])
    def test_other_errors_are_not_repeated(self, error: type[BaseException]) -> None:
        faulty = FaultSink(MemorySink(), fail_at=0, error=error)
        sink = RetryingSink(faulty, sleep=lambda _seconds: pytest.fail("waited"))
        with pytest.raises(error):
            sink.put("a", CHUNKS)
        assert len(faulty.operations) == 1

    @pytest.mark.parametrize("moment", list(FaultMoment))
    @pytest.mark.parametrize("kept", ["in memory", "in a file"])
    def test_a_put_is_repeated_from_its_beginning(self, moment: FaultMoment, kept: str, tmp_path: Path) -> None:
        in_file = {"repeat_bytes": 4, "spool_directory": tmp_path}
        made = _Retried(moment, options={} if kept == "in memory" else in_file)
        read = iter(CHUNKS)
        assert made.sink.put("a", read).size_bytes == len(WHOLE)
        assert made.store.contents() == {"a": WHOLE}
        puts = [operation for operation in made.faulty.operations if operation.startswith("put")]
        assert len(puts) == (1 if moment is FaultMoment.AFTER else 2), "our own success is recognised"
        assert list(tmp_path.iterdir()) == [], "the file has no name"

    def test_somebody_elses_blob_is_not_taken_for_ours(self) -> None:
        made = _Retried(FaultMoment.BEFORE)

        def overtaken(seconds: float) -> None:
            made.waits.append(seconds)
            made.store.put("a", [b"other bytes"])

        sink = RetryingSink(made.faulty, sleep=overtaken)
        with pytest.raises(BlobExistsError):
            sink.put("a", CHUNKS)
        assert made.store.contents() == {"a": b"other bytes"}

    def test_a_taken_key_is_refused_without_reading_the_stream(self) -> None:
        made = _Retried(FaultMoment.BEFORE, fail_at=99)
        made.store.put("a", [WHOLE])
        with pytest.raises(BlobExistsError):
            made.sink.put("a", untouched())

    def test_a_stream_beyond_the_limit_cannot_be_repeated_and_this_is_said(self) -> None:
        made = _Retried(FaultMoment.DURING, options={"repeat_bytes": 2})
        with pytest.raises(SinkUnavailableError, match="spool_directory") as caught:
            made.sink.put("a", CHUNKS)
        assert caught.value.context["repeatable"] is False
        assert made.waits == []
        assert made.store.contents() == {}

    def test_a_long_stream_that_arrived_although_the_answer_was_lost_counts(self) -> None:
        made = _Retried(FaultMoment.AFTER, options={"repeat_bytes": 2})
        assert made.sink.put("a", CHUNKS).size_bytes == len(WHOLE)

    def test_what_the_stream_raises_is_not_repeated_even_if_its_class_could_be(self) -> None:
        made = _Retried(FaultMoment.BEFORE, fail_at=99)

        def chunks() -> Iterator[bytes]:
            yield b"one"
            raise SourceUnavailableError("the hub is gone")

        with pytest.raises(SourceUnavailableError) as caught:
            made.sink.put("a", chunks())
        assert caught.value.__cause__ is None
        assert made.waits == []
        assert made.store.contents() == {}

    def test_a_spool_directory_that_is_not_there_is_an_error_of_ours(self, tmp_path: Path) -> None:
        sink = RetryingSink(MemorySink(), repeat_bytes=1, spool_directory=tmp_path / "absent")
        with pytest.raises(BlobNotFoundError, match="spooling to"):
            sink.put("a", CHUNKS)

    def test_impossible_options_are_refused(self) -> None:
        with pytest.raises(ConfigurationError):
            RetryingSink(MemorySink(), repeat_bytes=-1)


class _Time:
    """A clock that goes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class TestThrottled:
    def test_both_directions_take_as_long_as_their_rates_say(self) -> None:
        time = _Time()
        sink = ThrottledSink(
            MemorySink(),
            upload_bytes_per_second=1000,
            download_bytes_per_second=4000,
            burst_seconds=0,
            clock=time.clock,
            sleep=time.sleep,
        )
        sink.put("a", [bytes(6000), bytes(2000)])
        assert time.now == pytest.approx(8.0)
        assert b"".join(sink.read("a")) == bytes(8000)
        assert time.now == pytest.approx(10.0)

    def test_large_chunks_are_cut_so_that_bytes_flow_evenly(self) -> None:
        time = _Time()
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            time.sleep(seconds)

        sink = ThrottledSink(MemorySink(), upload_bytes_per_second=1000, burst_seconds=0, clock=time.clock, sleep=sleep)
        sink.put("a", [bytes(10_000)])
        assert max(waits) <= 0.25 + 1e-9

    def test_unused_time_is_caught_up_as_far_as_allowed(self) -> None:
        time = _Time()
        sink = ThrottledSink(
            MemorySink(), upload_bytes_per_second=1000, burst_seconds=2, clock=time.clock, sleep=time.sleep
        )
        sink.put("a", [bytes(2000)])
        assert time.now == 0
        time.now = 100
        sink.put("b", [bytes(3000)])
        assert time.now == pytest.approx(101)

    def test_all_streams_share_one_rate(self) -> None:
        time = _Time()
        sink = ThrottledSink(
            MemorySink(), download_bytes_per_second=100, burst_seconds=0, clock=time.clock, sleep=time.sleep
        )
        sink.put("a", [bytes(100)])
        assert time.now == 0, "no limit on this direction"
        first, second = sink.read("a"), sink.read("a")
        next(first)
        next(second)
        assert time.now == pytest.approx(0.5)

    @pytest.mark.parametrize("rate", [0, -1, True, "1"])
    def test_impossible_rates_are_refused(self, rate: float) -> None:
        with pytest.raises(ConfigurationError):
            ThrottledSink(MemorySink(), upload_bytes_per_second=rate)


class TestObserved:
    def test_every_operation_is_told_once_it_ended(self) -> None:
        events: list[Event] = []
        sink = ObservedSink(MemorySink(), events.append, clock=_Time().clock)
        sink.put("a", CHUNKS)
        assert b"".join(sink.read("a", start=3)) == WHOLE[3:]
        sink.stat("a")
        assert len(list(sink.list())) == 1
        sink.delete("a")
        told = {event.name: {k: v for k, v in event.fields.items() if k != "seconds"} for event in events}
        assert told == {
            "sink.put": {"key": "a", "size_bytes": 11, "error": None},
            "sink.read": {"key": "a", "start": 3, "size_bytes": 8, "error": None},
            "sink.stat": {"key": "a", "error": None},
            "sink.list": {"prefix": "", "blobs": 1, "error": None},
            "sink.delete": {"key": "a", "error": None},
        }

    def test_failures_are_told_by_kind(self) -> None:
        events: list[Event] = []
        sink = ObservedSink(MemorySink(permissions="lr"), events.append)
        acts: list[Callable[[], object]] = [
            lambda: sink.put("a", CHUNKS),
            lambda: sink.stat("a"),
            lambda: list(sink.read("a")),
            lambda: sink.delete("a"),
        ]
        for act in acts:
            with pytest.raises((SinkPermissionError, BlobNotFoundError)):
                act()
        assert [event.fields["error"] for event in events] == [
            "sink_permission",
            "blob_not_found",
            "blob_not_found",
            "sink_permission",
        ]

    def test_waiting_for_the_stream_and_its_reader_is_not_counted(self) -> None:
        time = _Time()
        events: list[Event] = []

        class Slow(SinkWrapper):
            def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
                for _ in chunks:
                    time.sleep(1)
                return BlobInfo(key=key, size_bytes=4)

            def _read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:  # noqa: ARG002
                for _ in range(3):
                    time.sleep(1)
                    yield b"x"

        def chunks() -> Iterator[bytes]:
            for _ in range(4):
                time.sleep(100)
                yield b"x"

        sink = ObservedSink(Slow(MemorySink()), events.append, clock=time.clock)
        sink.put("a", chunks())
        for _ in sink.read("a"):
            time.sleep(100)
        assert [event.fields["seconds"] for event in events] == [pytest.approx(4), pytest.approx(3)]

    def test_a_read_that_is_given_up_is_told_with_what_it_gave(self) -> None:
        events: list[Event] = []
        sink = ObservedSink(MemorySink(), events.append)
        sink.put("a", [bytes(3 << 20)])
        stream = sink.read("a")
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert events[-1].fields["size_bytes"] == 1 << 20
        assert events[-1].fields["error"] is None
