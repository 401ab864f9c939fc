"""
`SinkContract`: what every `ArchiveSink` must do, as tests.

::

    class TestMySink(SinkContract):
        large_bytes = 20 << 20  # beyond the first part of an upload

        @pytest.fixture
        def sink(self, tmp_path: Path) -> ArchiveSink:
            return MySink(tmp_path)

What a sink does not promise in its `capabilities` is not asked of it: a sink that is not ``create_only`` may let two
racing writers both succeed, and one that is not ``deletable`` must refuse to delete.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from ..contracts import ArchiveSink
from ..errors import BackupError, BlobExistsError, BlobNotFoundError, ConfigurationError, SinkError, SinkPermissionError

__all__ = ["SinkContract"]

_BAD_KEYS = ["", "/", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.b", "a b", "a\\b", "ä", "a\x00", "x" * 901]


class _PlannedError(Exception):
    """Raised by a stream on purpose."""


class SinkContract:
    """Override the fixture ``sink`` with one that makes an empty sink allowed to do all it says it can."""

    large_bytes: ClassVar[int] = (9 << 20) + 1
    """Size of the large blob: set it beyond what the store takes in one request."""
    many_blobs: ClassVar[int] = 60
    """How many blobs are listed at once: set it beyond one page of the store's listing."""

    @pytest.fixture
    def sink(self) -> ArchiveSink:
        raise NotImplementedError

    @pytest.mark.parametrize(
        "chunks",
        [
            [],
            [b""],
            [b"x"],
            [b"", b"one", b"", b"two", b""],
            [bytes([i]) for i in range(256)],
            [b"a" * 300_000, b"b", b"c" * 1_500_000],
        ],
        ids=["nothing", "empty", "byte", "gaps", "single bytes", "large"],
    )
    def test_what_was_put_is_read_back(self, sink: ArchiveSink, chunks: list[bytes]) -> None:
        whole = b"".join(chunks)
        info = sink.put("folder/blob.bin", iter(chunks))
        assert (info.key, info.size_bytes) == ("folder/blob.bin", len(whole))
        assert b"".join(sink.read("folder/blob.bin")) == whole
        assert sink.stat("folder/blob.bin").size_bytes == len(whole)
        assert sink.read_all("folder/blob.bin", limit_bytes=len(whole)) == whole

    @pytest.mark.parametrize(
        ("start", "size_bytes"),
        [(0, 0), (0, 1), (0, None), (3, 4), (9, 1), (9, 5), (10, 1), (10, None), (11, 3), (500, None)],
    )
    def test_ranges_are_half_open_and_end_with_the_blob(
        self, sink: ArchiveSink, start: int, size_bytes: int | None
    ) -> None:
        sink.put("digits", [b"01234", b"56789"])
        end = None if size_bytes is None else start + size_bytes
        assert b"".join(sink.read("digits", start=start, size_bytes=size_bytes)) == b"0123456789"[start:end]

    def test_a_large_blob_comes_back_whole_and_in_ranges(self, sink: ArchiveSink) -> None:
        piece = hashlib.shake_256(b"large").digest(65_521)  # a prime: pieces never fall on the edge of a part
        whole = (piece * (self.large_bytes // len(piece) + 1))[: self.large_bytes]
        chunks = (whole[at : at + 700_001] for at in range(0, len(whole), 700_001))
        assert sink.put("large", chunks).size_bytes == len(whole)
        assert hashlib.sha256(b"".join(sink.read("large"))).digest() == hashlib.sha256(whole).digest()
        middle = len(whole) // 2 - 3
        assert b"".join(sink.read("large", start=middle, size_bytes=300_000)) == whole[middle : middle + 300_000]
        assert b"".join(sink.read("large", start=len(whole) - 5)) == whole[-5:]

    def test_many_blobs_are_listed_each_once(self, sink: ArchiveSink) -> None:
        keys = [f"many/{number:05d}" for number in range(self.many_blobs)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda key: sink.put(key, [key.encode()]), keys))
        assert [info.key for info in sink.list("many/")] == keys

    def test_many_readers_do_not_disturb_each_other(self, sink: ArchiveSink) -> None:
        blobs = {f"read/{number}": bytes([number]) * (100_000 + number) for number in range(4)}
        for key, data in blobs.items():
            sink.put(key, [data])

        def work(number: int) -> None:
            key = f"read/{number % 4}"
            for start in (0, 1, 70_000):
                assert b"".join(sink.read(key, start=start)) == blobs[key][start:]
                assert sink.stat(key).size_bytes == len(blobs[key])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    def test_listing_and_looking_agree(self, sink: ArchiveSink) -> None:
        written = [sink.put(key, [key.encode()]) for key in ("a", "b/c")]
        assert [sink.stat(info.key) for info in sink.list()] == list(sink.list())
        assert [(info.key, info.size_bytes) for info in sink.list()] == [(i.key, i.size_bytes) for i in written]

    def test_a_listing_may_be_given_up(self, sink: ArchiveSink) -> None:
        for number in range(5):
            sink.put(f"a/{number}", [b"x"])
        for _ in range(20):
            assert next(iter(sink.list())).key == "a/0"

    def test_what_it_can_do_is_said_once_and_for_all(self, sink: ArchiveSink) -> None:
        before = sink.capabilities
        sink.put("a", [b"x"])
        if before.deletable:
            sink.delete("a")
        else:
            with pytest.raises(SinkPermissionError):
                sink.delete("a")
            assert b"".join(sink.read("a")) == b"x"
        assert sink.capabilities == before

    def test_times_are_aware(self, sink: ArchiveSink) -> None:
        sink.put("a", [b"x"])
        moment = sink.stat("a").modified_at
        assert moment is None or moment.tzinfo is not None

    def test_listing_is_sorted_and_complete_and_cut_by_prefix(self, sink: ArchiveSink) -> None:
        keys = ["a-b", "a.b", "a/b", "a/b-c/d", "a/b.c", "a0", "b/c/d/e", "side/x.json/manifest.json", "B"]
        for key in reversed(keys):
            sink.put(key, [key.encode()])
        assert [info.key for info in sink.list()] == sorted(keys)
        assert [info.size_bytes for info in sink.list()] == [len(key) for key in sorted(keys)]
        for prefix in ("a", "a/", "a/b", "a/b-c/", "side/x.json/", "b/c", "zzz", "a/b/", "../", ".", "/", "//"):
            assert [info.key for info in sink.list(prefix)] == sorted(k for k in keys if k.startswith(prefix)), prefix

    def test_an_empty_sink_lists_nothing(self, sink: ArchiveSink) -> None:
        assert list(sink.list()) == []
        assert list(sink.list("side/")) == []

    def test_a_published_blob_is_never_overwritten(self, sink: ArchiveSink) -> None:
        assert sink.is_free("a")
        sink.put("a", [b"first"])
        assert not sink.is_free("a")

        touched: list[str] = []

        def chunks() -> Iterator[bytes]:
            touched.append("a taken key must be refused before the stream is read")
            yield b"second"

        with pytest.raises(BlobExistsError):
            sink.put("a", chunks())
        assert touched == []
        assert b"".join(sink.read("a")) == b"first"

    def test_a_writer_that_is_overtaken_loses(self, sink: ArchiveSink) -> None:
        if not sink.capabilities.create_only:
            pytest.skip("this sink says itself that it cannot promise this")

        def overtaken() -> Iterator[bytes]:
            yield b"slow"
            sink.put("a", [b"fast"])
            yield b"slow"

        with pytest.raises(BlobExistsError):
            sink.put("a", overtaken())
        assert [(info.key, info.size_bytes) for info in sink.list()] == [("a", 4)]
        assert b"".join(sink.read("a")) == b"fast"

    def test_of_many_writers_of_one_key_exactly_one_wins(self, sink: ArchiveSink) -> None:
        if not sink.capabilities.create_only:
            pytest.skip("this sink says itself that it cannot promise this")
        barrier = threading.Barrier(8)

        def write(number: int) -> int | None:
            def chunks() -> Iterator[bytes]:
                barrier.wait(timeout=10)
                yield bytes([number]) * 1000

            try:
                sink.put("contested/blob", chunks())
            except BlobExistsError:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [number for number in pool.map(write, range(8)) if number is not None]
        assert len(winners) == 1
        assert b"".join(sink.read("contested/blob")) == bytes(winners) * 1000

    def test_writers_of_different_keys_do_not_disturb_each_other(self, sink: ArchiveSink) -> None:
        def work(number: int) -> None:
            for turn in range(5):
                sink.put(f"shared/deep/{number}-{turn}", [bytes([number])] * 10)
                if turn % 2 and sink.capabilities.deletable:
                    sink.delete(f"shared/deep/{number}-{turn}")

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        turns = (0, 2, 4) if sink.capabilities.deletable else range(5)
        assert [info.key for info in sink.list()] == [f"shared/deep/{n}-{t}" for n in range(6) for t in turns]

    @pytest.mark.parametrize("failure", [_PlannedError, KeyboardInterrupt, GeneratorExit, OSError, BackupError])
    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_a_failing_stream_leaves_nothing_and_its_error_passes(
        self, sink: ArchiveSink, failure: type[BaseException], after: int
    ) -> None:
        def chunks() -> Iterator[bytes]:
            for _ in range(after):
                yield b"y" * 400_000
            raise failure("planned")

        with pytest.raises(failure, match="planned") as caught:
            sink.put("a/b", chunks())
        assert type(caught.value) is failure
        assert list(sink.list()) == []
        with pytest.raises(BlobNotFoundError):
            sink.stat("a/b")
        sink.put("a/b", [b"second try"])
        assert b"".join(sink.read("a/b")) == b"second try"

    def test_nobody_sees_a_blob_that_is_being_written(self, sink: ArchiveSink) -> None:
        seen: list[object] = []

        def look() -> None:
            seen.extend(sink.list())
            for act in (sink.stat, lambda key: list(sink.read(key))):
                with pytest.raises(BlobNotFoundError):
                    act("a/b")

        def chunks() -> Iterator[bytes]:
            look()
            yield b"x" * 500_000
            look()
            yield b"x"
            look()

        sink.put("a/b", chunks())
        assert seen == []
        assert sink.stat("a/b").size_bytes == 500_001

    def test_what_is_not_there_is_said_not_to_be_there(self, sink: ArchiveSink) -> None:
        sink.put("folder/blob", [b"x"])
        actions: list[Callable[[str], object]] = [sink.stat, lambda key: list(sink.read(key))]
        if sink.capabilities.deletable:
            actions.append(sink.delete)
        for key in ("absent", "folder", "folder/absent", "absent/absent"):
            for act in actions:
                with pytest.raises(BlobNotFoundError):
                    act(key)

    def test_deleting_removes_one_blob(self, sink: ArchiveSink) -> None:
        if not sink.capabilities.deletable:
            pytest.skip("this sink says itself that nothing is deleted here")
        for key in ("a/b/c", "a/b/d", "a/e"):
            sink.put(key, [b"x"])
        sink.delete("a/b/c")
        assert [info.key for info in sink.list()] == ["a/b/d", "a/e"]
        with pytest.raises(BlobNotFoundError):
            sink.delete("a/b/c")
        sink.delete("a/b/d")
        sink.put("a/b/c", [b"again"])
        assert [info.key for info in sink.list()] == ["a/b/c", "a/e"]

    @pytest.mark.parametrize("key", _BAD_KEYS)
    def test_unsafe_keys_are_refused_before_anything_happens(self, sink: ArchiveSink, key: str) -> None:
        actions: list[Callable[[], object]] = [
            lambda: sink.put(key, [b"x"]),
            lambda: list(sink.read(key)),
            lambda: sink.stat(key),
            lambda: sink.delete(key),
        ]
        for act in actions:
            with pytest.raises(ConfigurationError):
                act()
        assert list(sink.list()) == []

    @pytest.mark.parametrize(("start", "size_bytes"), [(-1, None), (0, -1)])
    def test_impossible_ranges_are_refused(self, sink: ArchiveSink, start: int, size_bytes: int | None) -> None:
        sink.put("a", [b"x"])
        with pytest.raises(ConfigurationError):
            sink.read("a", start=start, size_bytes=size_bytes)

    def test_a_blob_beyond_the_limit_is_refused(self, sink: ArchiveSink) -> None:
        sink.put("a", [b"12345"])
        with pytest.raises(ConfigurationError):
            sink.read_all("a", limit_bytes=4)

    def test_locks_are_kept_or_refused(self, sink: ArchiveSink) -> None:
        until = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=1)
        sink.put("a", [b"x"])
        assert sink.lock_of("a").until is None
        refusal = ""
        try:
            sink.retain_until("a", until)
        except SinkError as error:
            refusal = error.kind
        if refusal:
            assert refusal == "no_object_lock"
            assert sink.lock_of("a").until is None
            return
        assert sink.capabilities.locks
        assert sink.lock_of("a").until == until
        assert sink.retain_until("a", until - dt.timedelta(hours=1)).until == until
        assert sink.lock_of("a").until == until

    def test_a_read_may_be_given_up(self, sink: ArchiveSink) -> None:
        sink.put("a", [b"x" * 3_000_000])
        for _ in range(50):
            assert next(iter(sink.read("a"))).startswith(b"x")
        if sink.capabilities.deletable:
            sink.delete("a")

    def test_repr_and_location_say_where(self, sink: ArchiveSink) -> None:
        assert sink.location
        assert type(sink).__name__ in repr(sink)
