"""The mirror: several targets at once, with a quorum, and nothing half anywhere."""

import datetime as dt
import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import (
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
    TruncatedError,
)
from knowtation_backup.model.blobs import BlobInfo
from knowtation_backup.model.events import Event
from knowtation_backup.model.plans import ArchiveState
from knowtation_backup.model.reports import Outcome, TargetResult
from knowtation_backup.operations.backup import backup
from knowtation_backup.operations.catalog import list_archives
from knowtation_backup.operations.verify import verify
from knowtation_backup.sinks._fanout import AbortedError
from knowtation_backup.sinks.memory import MemorySink
from knowtation_backup.sinks.mirror import MirrorSink
from knowtation_backup.sinks.wrappers import AppendOnlySink, SinkWrapper
from knowtation_backup.testing.faults import FaultMoment, FaultSink
from knowtation_backup.testing.sources import FakeSource

ARCHIVE = "operator-full-export-20260408T000000Z.json"
MANIFEST = f"side/{ARCHIVE}/manifest.json"


class PlannedError(Exception):
    """Raised by a stream on purpose."""


def failing(results: tuple[TargetResult, ...]) -> dict[str, str]:
    return {result.target: result.error.kind for result in results if result.error is not None}


def no_threads() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("fan-out")]


class TestWriting:
    def test_one_pass_over_the_stream_reaches_every_target(self) -> None:
        targets = {name: MemorySink() for name in ("local", "s3", "usb")}
        mirror = MirrorSink(targets)
        asked = []

        def chunks() -> Iterator[bytes]:
            for number in range(50):
                asked.append(number)
                yield bytes([number]) * 10_000

        assert mirror.put(ARCHIVE, chunks()).size_bytes == 500_000
        assert asked == list(range(50))
        assert len({sink.contents()[ARCHIVE] for sink in targets.values()}) == 1
        assert [(r.target, r.ok) for r in mirror.target_results(ARCHIVE)] == [
            ("local", True),
            ("s3", True),
            ("usb", True),
        ]
        assert mirror.target_results("another") == ()
        assert no_threads()

    def test_a_slow_target_slows_the_stream_and_memory_stays_bounded(self) -> None:
        made = 0
        window_is_full = threading.Event()
        leads: list[int] = []

        class Slow(SinkWrapper):
            def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
                def held() -> Iterator[bytes]:
                    for taken, chunk in enumerate(chunks):
                        assert window_is_full.wait(20)
                        leads.append(made - taken)
                        yield chunk

                return self._inner.put(key, held())

        def chunks() -> Iterator[bytes]:
            nonlocal made
            for _ in range(100):
                made += 1
                if made == 18:  # 16 MiB wait, one is in the target's hands, and this one
                    window_is_full.set()
                yield bytes(1 << 20)

        mirror = MirrorSink({"slow": Slow(MemorySink()), "fast": MemorySink()})
        assert mirror.put("a", chunks()).size_bytes == 100 << 20
        assert 17 <= max(leads) <= 18

    def test_a_target_that_fails_is_left_out_for_the_rest_of_its_archive_alone(self) -> None:
        good, bad = MemorySink(), MemorySink()
        events: list[Event] = []
        mirror = MirrorSink({"bad": FaultSink(bad, fail_at=1), "good": good}, quorum=1, observer=events.append)
        for key in (f"side/{ARCHIVE}/started.json", ARCHIVE, MANIFEST, "another-archive"):
            mirror.put(key, [key.encode()])
        assert list(good.contents()) == sorted([f"side/{ARCHIVE}/started.json", ARCHIVE, MANIFEST, "another-archive"])
        assert list(bad.contents()) == sorted([f"side/{ARCHIVE}/started.json", "another-archive"])
        assert failing(mirror.target_results(ARCHIVE)) == {"bad": "sink_unavailable"}
        assert failing(mirror.target_results("another-archive")) == {}
        assert [(event.name, dict(event.fields)) for event in events] == [
            ("mirror.target_failed", {"target": "bad", "key": ARCHIVE, "error": "sink_unavailable"})
        ]

    def test_below_the_quorum_nothing_more_is_read_or_written_and_the_reasons_are_named(self) -> None:
        full = FaultSink(MemorySink(), fail_at=0, error=lambda _operation: SinkFullError("no space left"))
        good = MemorySink()
        mirror = MirrorSink({"local": full, "s3": good})

        def chunks() -> Iterator[bytes]:
            yield from ()
            pytest.fail("the stream was read")

        with pytest.raises(SinkError, match="no space left") as caught:
            mirror.put(ARCHIVE, chunks())
        assert caught.value.kind == "quorum_not_met"
        assert caught.value.context["targets"] == {"local": "no_space"}
        assert caught.value.context["stored"] == []
        with pytest.raises(SinkError) as caught:
            mirror.put(MANIFEST, [b"the manifest"])
        assert caught.value.kind == "quorum_not_met"
        assert good.contents() == {}, "no manifest anywhere"
        assert no_threads()

    def test_a_target_that_breaks_in_the_middle_ends_a_stream_that_can_no_longer_meet_the_quorum(self) -> None:
        good, bad = MemorySink(), FaultSink(MemorySink(), fail_at=0, moment=FaultMoment.DURING)
        read: list[int] = []

        def chunks() -> Iterator[bytes]:
            for number in range(1000):
                read.append(number)
                yield bytes(1 << 20)

        with pytest.raises(SinkError, match="2 must have it"):
            MirrorSink({"good": good, "bad": bad}).put(ARCHIVE, chunks())
        assert len(read) < 100, "hours of streaming for nothing"
        assert good.contents() == {}

    def test_losing_the_quorum_with_the_manifest_says_where_it_is(self) -> None:
        first, second = MemorySink(), MemorySink()
        mirror = MirrorSink({"local": first, "s3": FaultSink(second, fail_at=1, moment=FaultMoment.AFTER)})
        mirror.put(ARCHIVE, [b"x"])
        with pytest.raises(SinkError, match="local stored it") as caught:
            mirror.put(MANIFEST, [b"the manifest"])
        assert caught.value.context["stored"] == ["local"]
        assert failing(mirror.target_results(ARCHIVE)) == {"s3": "sink_unavailable"}

    def test_what_the_stream_raises_passes_and_publishes_nowhere(self) -> None:
        targets = {"a": MemorySink(), "b": MemorySink()}
        events: list[Event] = []

        def chunks() -> Iterator[bytes]:
            yield b"half"
            raise PlannedError

        mirror = MirrorSink(targets, observer=events.append)
        with pytest.raises(PlannedError):
            mirror.put(ARCHIVE, chunks())
        assert [sink.contents() for sink in targets.values()] == [{}, {}]
        assert failing(mirror.target_results(ARCHIVE)) == {}
        assert events == []
        assert no_threads()

    def test_only_targets_see_how_their_stream_was_ended(self) -> None:
        seen: list[BaseException] = []

        class Watching(SinkWrapper):
            def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
                try:
                    return self._inner.put(key, chunks)
                except AbortedError as error:
                    seen.append(error)
                    raise

        def chunks() -> Iterator[bytes]:
            yield b"x"
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            MirrorSink({"a": Watching(MemorySink()), "b": MemorySink()}).put("a", chunks())
        assert len(seen) == 1

    def test_a_bug_in_a_target_is_not_taken_for_a_failure_of_the_store(self) -> None:
        buggy = FaultSink(MemorySink(), fail_at=0, error=lambda _operation: TypeError("a bug"))
        good = MemorySink()
        with pytest.raises(TypeError, match="a bug"):
            MirrorSink({"buggy": buggy, "good": good}, quorum=1).put("a", [b"x"])
        assert good.contents() == {}

    @pytest.mark.parametrize("taken_on", ["a", "b"])
    @pytest.mark.parametrize("quorum", [1, 2])
    def test_a_key_that_is_taken_on_one_target_is_taken(self, taken_on: str, quorum: int) -> None:
        targets = {"a": MemorySink(), "b": MemorySink()}
        targets[taken_on].put("key", [b"old"])
        mirror = MirrorSink(targets, quorum=quorum)

        def chunks() -> Iterator[bytes]:
            yield from ()
            pytest.fail("the stream was read")

        with pytest.raises(BlobExistsError) as caught:
            mirror.put("key", chunks())
        assert caught.value.context["taken"] == [taken_on]
        assert {name: list(sink.contents()) for name, sink in targets.items() if name != taken_on} == {
            name: [] for name in targets if name != taken_on
        }
        assert not mirror.is_free("key")
        assert failing(mirror.target_results("key")) == {}, "another name will do: the target is fine"

    def test_of_racing_writers_one_wins_on_every_target(self) -> None:
        for _ in range(20):
            targets = {"a": MemorySink(), "b": MemorySink(), "c": MemorySink()}
            barrier = threading.Barrier(4)
            won: list[int] = []

            def write(number: int, barrier: threading.Barrier, won: list[int], targets: dict[str, MemorySink]) -> None:
                def chunks() -> Iterator[bytes]:
                    barrier.wait(10)
                    yield bytes([number])

                try:
                    MirrorSink(targets).put("key", chunks())
                except BlobExistsError:
                    return
                won.append(number)

            threads = [threading.Thread(target=write, args=(n, barrier, won, targets)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(won) == 1
            assert {sink.contents()["key"] for sink in targets.values()} == {bytes(won)}

    def test_a_target_that_stores_less_than_was_sent_has_failed(self) -> None:
        class Short(SinkWrapper):
            def _put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
                return self._inner.put(key, [b"".join(chunks)[:-1]])

        mirror = MirrorSink({"short": Short(MemorySink()), "good": MemorySink()}, quorum=1)
        assert mirror.put("a", [b"12345"]).size_bytes == 5
        (result,) = (r for r in mirror.target_results("a") if not r.ok)
        assert result.target == "short"
        assert isinstance(result.error, TruncatedError)


class TestReading:
    def test_reads_fail_over_in_the_middle_and_yield_no_byte_twice(self) -> None:
        data = bytes(range(256)) * 20_000
        one, two = MemorySink(), MemorySink()
        for sink in (one, two):
            sink.put("a", [data])
        mirror = MirrorSink({"one": FaultSink(one, fail_at=0, moment=FaultMoment.DURING), "two": two})
        assert b"".join(mirror.read("a", start=3)) == data[3:]

    def test_a_blob_that_only_a_later_target_has_is_found(self) -> None:
        one, two = MemorySink(), MemorySink()
        two.put("a", [b"x"])
        mirror = MirrorSink({"one": one, "two": two})
        assert b"".join(mirror.read("a")) == b"x"
        assert mirror.stat("a").size_bytes == 1
        assert [info.key for info in mirror.list()] == ["a"]

    def test_absent_is_said_only_when_every_target_said_so(self) -> None:
        down = FaultSink(MemorySink(), fail_from=0)
        for tolerated, error in ((0, SinkUnavailableError), (1, BlobNotFoundError)):
            mirror = MirrorSink({"down": down, "up": MemorySink()}, quorum=1, tolerate_unreachable=tolerated)
            acts: tuple[Callable[[], object], ...] = (lambda: list(mirror.read("a")), lambda: mirror.stat("a"))  # noqa: B023
            for act in acts:
                with pytest.raises(error):
                    act()
        with pytest.raises(BlobNotFoundError):
            MirrorSink({"one": MemorySink(), "two": MemorySink()}).stat("a")

    def test_a_key_may_seem_free_while_a_target_is_down_if_a_quorum_is_not(self) -> None:
        down = FaultSink(MemorySink(), fail_from=0)
        assert MirrorSink({"down": down, "up": MemorySink()}, quorum=1).is_free("a")
        with pytest.raises(SinkUnavailableError):
            MirrorSink({"down": down, "up": MemorySink()}).is_free("a")

    def test_other_errors_are_not_failed_over_unless_asked(self) -> None:
        refusing, good = MemorySink(permissions="w"), MemorySink()
        for sink in (refusing, good):
            sink.put("a", [b"x"])
        targets = {"refusing": refusing, "good": good}
        with pytest.raises(SinkPermissionError):
            list(MirrorSink(targets).read("a"))
        mirror = MirrorSink(targets, fail_over=(SinkPermissionError, SinkUnavailableError, BlobNotFoundError))
        assert b"".join(mirror.read("a")) == b"x"

    def test_listing_is_the_sorted_union(self) -> None:
        one, two = MemorySink(), MemorySink()
        for key in "acdf":
            one.put(key, [b"1"])
        for key in "abdeg":
            two.put(key, [b"22"])
        found = list(MirrorSink({"one": one, "two": two}).list())
        assert [info.key for info in found] == list("abcdefg")
        assert [info.size_bytes for info in found] == [1, 2, 1, 1, 2, 1, 2], "the first target that has it speaks"

    @pytest.mark.parametrize("moment", list(FaultMoment))
    def test_a_listing_without_a_target_needs_permission(self, moment: FaultMoment) -> None:
        one, two = MemorySink(), MemorySink()
        for sink in (one, two):
            for key in "abc":
                sink.put(key, [b"x"])
        events: list[Event] = []

        def mirror(tolerated: int) -> MirrorSink:
            broken = FaultSink(one, fail_at=0, moment=moment)
            targets = {"one": broken, "two": two}
            return MirrorSink(targets, tolerate_unreachable=tolerated, observer=events.append)

        with pytest.raises(SinkUnavailableError, match="one cannot be listed"):
            list(mirror(0).list())
        assert [info.key for info in mirror(1).list()] == ["a", "b", "c"]
        assert [event.fields["target"] for event in events] == ["one"]


class TestDeleting:
    def test_deleting_removes_what_any_target_has(self) -> None:
        one, two = MemorySink(), MemorySink()
        two.put("a", [b"x"])
        mirror = MirrorSink({"one": one, "two": two})
        mirror.delete("a")
        assert two.contents() == {}
        with pytest.raises(BlobNotFoundError):
            mirror.delete("a")

    def test_a_target_that_cannot_delete_fails_the_whole_and_the_others_are_done(self) -> None:
        kept, other = MemorySink(), MemorySink()
        for sink in (kept, other):
            sink.put("a", [b"x"])
        with pytest.raises(SinkPermissionError) as caught:
            MirrorSink({"kept": AppendOnlySink(kept), "other": other}).delete("a")
        assert caught.value.context["targets"] == {"kept": "sink_permission"}
        assert (list(kept.contents()), list(other.contents())) == (["a"], [])


class TestWhatItSays:
    def test_capabilities_are_those_the_targets_have_together(self) -> None:
        class With(SinkWrapper):
            def __init__(self, **facts: bool) -> None:
                super().__init__(MemorySink())
                self.facts = facts

            @property
            def capabilities(self):  # type: ignore[no-untyped-def] # noqa: ANN202
                import attrs  # noqa: PLC0415

                return attrs.evolve(super().capabilities, **self.facts)

        def said(quorum: int, *targets: ArchiveSink) -> tuple[bool, bool, bool]:
            found = MirrorSink({str(n): sink for n, sink in enumerate(targets)}, quorum=quorum).capabilities
            return found.create_only, found.durable, found.deletable

        durable, not_durable = With(durable=True), With(durable=False)
        assert said(2, durable, durable) == (True, True, True)
        assert said(1, durable, durable) == (False, True, True), "two writers may each have a target of their own"
        assert said(2, durable, not_durable) == (True, True, True)
        assert said(2, durable, not_durable, not_durable) == (True, False, True)
        assert said(2, durable, With(create_only=False)) == (False, True, True)
        assert said(2, durable, With(deletable=False)) == (True, True, False)

    def test_repr_and_location_name_every_target(self) -> None:
        mirror = MirrorSink({"local": MemorySink(), "s3": MemorySink()})
        assert mirror.location == "mirror of local (memory), s3 (memory)"
        assert "quorum=2" in repr(mirror)
        assert list(mirror.targets) == ["local", "s3"]

    @pytest.mark.parametrize(
        ("targets", "options"),
        [
            ([], {}),
            (["a"], {"quorum": 0}),
            (["a"], {"quorum": 2}),
            (["a"], {"quorum": True}),
            (["a", "b"], {"tolerate_unreachable": 2}),
            (["a", "b"], {"tolerate_unreachable": -1}),
        ],
    )
    def test_impossible_options_are_refused(self, targets: list[str], options: dict[str, int]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            MirrorSink({name: MemorySink() for name in targets}, **options)  # type: ignore[arg-type]
        assert caught.value.kind == "bad_option"

    def test_results_are_remembered_for_the_last_thousand_archives(self) -> None:
        mirror = MirrorSink({"a": MemorySink()})
        for number in range(1001):
            mirror.put(f"archive-{number}", [b"x"])
        assert mirror.target_results("archive-0") == ()
        assert mirror.target_results("archive-1000") != ()


class TestLocks:
    UNTIL = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    EARLIER = UNTIL - dt.timedelta(days=1)

    def test_all_targets_with_locks_are_locked_and_the_others_left_alone(self) -> None:
        one, two, plain = MemorySink(locks=True), MemorySink(locks=True), MemorySink()
        mirror = MirrorSink({"plain": plain, "one": one, "two": two})
        assert mirror.capabilities.locks
        mirror.put("a", [b"x"])
        two.retain_until("a", self.EARLIER)
        found = mirror.lock_of("a")
        assert (found.until, found.last_until) == (None, self.EARLIER), "one copy can be deleted, and one cannot"
        assert mirror.retain_until("a", self.EARLIER - dt.timedelta(days=1)).last_until == self.EARLIER
        assert mirror.retain_until("a", self.UNTIL) == one.lock_of("a") == two.lock_of("a")
        assert plain.contents() == one.contents()

    def test_targets_that_lack_the_blob_do_not_count(self) -> None:
        one, two, plain = MemorySink(locks=True), MemorySink(locks=True), MemorySink()
        mirror = MirrorSink({"plain": plain, "one": one, "two": two})
        one.put("a", [b"x"])
        assert mirror.retain_until("a", self.UNTIL).until == self.UNTIL
        plain.put("b", [b"x"])
        assert mirror.retain_until("b", self.UNTIL).until is None
        with pytest.raises(BlobNotFoundError):
            mirror.lock_of("c")

    def test_a_target_that_cannot_be_asked_is_not_passed_over(self) -> None:
        one, two = MemorySink(locks=True), MemorySink(locks=True)
        mirror = MirrorSink({"one": one, "two": FaultSink(two, fail_from=0)}, quorum=1, tolerate_unreachable=1)
        one.put("a", [b"x"])
        with pytest.raises(SinkUnavailableError):
            mirror.retain_until("a", self.UNTIL)
        with pytest.raises(SinkUnavailableError):
            mirror.lock_of("a")

    def test_without_locks_anywhere_nothing_can_be_locked(self) -> None:
        mirror = MirrorSink({"one": MemorySink()})
        mirror.put("a", [b"x"])
        assert not mirror.capabilities.locks
        with pytest.raises(SinkError, match="no locks"):
            mirror.retain_until("a", self.UNTIL)


def test_a_backup_to_a_mirror_reports_each_target_and_is_partial_when_one_failed() -> None:
    local, s3 = MemorySink(permissions="lrw"), MemorySink(permissions="lrw")
    mirror = MirrorSink({"local": local, "s3": FaultSink(s3, fail_from=2)}, quorum=1)
    report = backup(FakeSource(), mirror, clock=lambda: dt.datetime(2026, 4, 8, tzinfo=dt.UTC))
    assert report.outcome is Outcome.PARTIAL
    assert report.exit_code == 3
    assert failing(report.targets) == {"s3": "sink_unavailable"}
    assert verify(local, report.archive_id).findings == ()
    assert {info.state for info in list_archives(s3)} <= {ArchiveState.UNFINISHED}
    assert "FAILED" in str(report)
