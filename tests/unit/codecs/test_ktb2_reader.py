"""Random access to KTB2 files: a slice is a slice, only its chunks are read, and parts prove what they read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ktb2_mini import File

from knowtation_backup.codecs.keys import EncryptionKey
from knowtation_backup.codecs.ktb2 import Ktb2Codec, ReadRange
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    NoMatchingKeyError,
    TamperedError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.sinks.memory import MemorySink

KEY = EncryptionKey(raw=bytes(range(32)))
C = 4096
FRAME = C + 16
CODEC = Ktb2Codec(seal_to=KEY, chunk_bytes=C)
TEXT = bytes(i * 7 % 251 for i in range(5 * C + 100))
HEADER = 32 + 108 + 32


def seal(text: bytes) -> bytes:
    return b"".join(CODEC.seal([text]))


class Store:
    """Stored bytes that note which of them were asked for."""

    def __init__(self, data: bytes, *, piece: int = 1000) -> None:
        self.data = data
        self.piece = piece
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, size: int) -> Iterator[bytes]:
        self.asked.append((start, size))
        part = self.data[start : start + size]
        for at in range(0, len(part), self.piece):
            yield part[at : at + self.piece]


def opened(data: bytes, start: int, length: int) -> bytes:
    return b"".join(CODEC.open_range(Store(data).read, len(data), start=start, length=length))


EDGES = (0, 1, C - 1, C, C + 1, 2 * C, 5 * C, len(TEXT) - 1, len(TEXT), len(TEXT) + 1, 9 * C)


@pytest.mark.parametrize("start", EDGES)
def test_any_range_equals_the_slice(start: int) -> None:
    data = seal(TEXT)
    reader = CODEC.reader(Store(data).read, len(data))
    assert reader.size_bytes == len(TEXT)
    for length in (*EDGES, 1 << 70):
        assert b"".join(reader.read(start, length)) == TEXT[start : start + length]


@pytest.mark.parametrize("size", [0, 1, C - 1, C, C + 1, 2 * C])
def test_files_of_any_size_are_read_anywhere(size: int) -> None:
    text, data = TEXT[:size], seal(TEXT[:size])
    for start in (0, 1, C - 1, C, 2 * C, 3 * C):
        assert opened(data, start, 100) == text[start : start + 100]
    assert CODEC.reader(Store(data).read, len(data)).size_bytes == size


def test_only_the_chunks_that_hold_the_range_are_read_and_the_header_once() -> None:
    data = seal(bytes(100 * C))
    store = Store(data)
    reader = CODEC.reader(store.read, len(data))
    assert store.asked == [(0, 8192)]
    assert b"".join(reader.read(50 * C + 10, 20)) == bytes(20)
    assert b"".join(reader.read(60 * C - 1, 2)) == bytes(2)
    assert b"".join(reader.read(7, 0)) == b""
    assert store.asked[1:] == [(HEADER + 50 * FRAME, FRAME), (HEADER + 59 * FRAME, 2 * FRAME)]


def test_a_header_larger_than_the_first_request_is_fetched_whole() -> None:
    keys = [EncryptionKey(raw=bytes([i]) * 32) for i in range(63)]
    file = File(file_key=bytes(32), file_id=bytes(16))
    for key in keys:
        file.add_key(key.raw, key.raw[:16])
    file.add_unknown(99, bytes(60_000))
    data = file.seal(TEXT)
    store = Store(data)
    reader = Ktb2Codec(open_with=keys[62]).reader(store.read, len(data))
    assert b"".join(reader.read(C, 10)) == TEXT[C : C + 10]
    assert len(store.asked) == 3


def test_a_sink_is_read_by_its_ranges() -> None:
    sink = MemorySink()
    info = sink.put("a.ktb2", CODEC.seal([TEXT]))

    def read_range(start: int, size: int) -> Iterator[bytes]:
        return sink.read("a.ktb2", start=start, size_bytes=size)

    assert b"".join(CODEC.open_range(read_range, info.size_bytes, start=3 * C, length=50)) == TEXT[3 * C : 3 * C + 50]
    assert CODEC.verify_chunks(read_range, info.size_bytes) >= info.size_bytes


def test_a_damaged_chunk_spoils_only_ranges_that_need_it() -> None:
    data = bytearray(seal(TEXT))
    data[HEADER + 2 * FRAME + 50] ^= 1
    reader = CODEC.reader(Store(bytes(data)).read, len(data))
    assert b"".join(reader.read(0, 2 * C)) == TEXT[: 2 * C]
    assert b"".join(reader.read(3 * C, 5 * C)) == TEXT[3 * C :]
    released: list[bytes] = []
    with pytest.raises(TamperedError) as caught:
        released.extend(reader.read(C, 2 * C))
    assert released == [TEXT[C : 2 * C]]
    assert caught.value.context["chunk"] == 2


def test_chunks_out_of_place_are_refused() -> None:
    data = seal(TEXT)
    a, b = HEADER + FRAME, HEADER + 2 * FRAME
    swapped = data[:a] + data[b : b + FRAME] + data[a:b] + data[b + FRAME :]
    for start in (C, 2 * C):
        with pytest.raises(TamperedError):
            opened(swapped, start, 1)


@pytest.mark.parametrize("chunks_left", [1, 3, 5])
def test_the_end_is_proven_and_not_taken_from_the_store(chunks_left: int) -> None:
    cut = seal(TEXT)[: HEADER + chunks_left * FRAME]
    reader = CODEC.reader(Store(cut).read, len(cut))
    assert b"".join(reader.read(0, 10 if chunks_left > 1 else 0)) == TEXT[: 10 if chunks_left > 1 else 0]
    for start, length in ((chunks_left * C - 1, 1), (chunks_left * C, 10), (99 * C, 1), (0, 99 * C)):
        with pytest.raises(TruncatedError, match="not its last"):
            list(reader.read(start, length))
    with pytest.raises(TruncatedError):
        reader.verify(1, 1)


def test_a_file_with_something_after_it_has_no_end() -> None:
    data = seal(TEXT[: 2 * C]) + bytes(40)
    with pytest.raises(TamperedError) as caught:
        opened(data, C, 1)
    assert caught.value.kind == "trailing_data"
    with pytest.raises(TamperedError):
        opened(data, 2 * C, 1)


@pytest.mark.parametrize("missing", [1, FRAME, 3 * FRAME])
def test_a_store_that_gives_less_than_it_says_is_found_out(missing: int) -> None:
    data = seal(TEXT)
    with pytest.raises(TruncatedError, match="the store gave"):
        b"".join(CODEC.open_range(Store(data[:-missing]).read, len(data), start=0, length=len(TEXT)))


@pytest.mark.parametrize(("start", "length"), [(0, len(TEXT)), (0, 5 * C), (2 * C, 2 * C), (2 * C, 9 * C)])
def test_a_store_that_stops_between_chunks_is_found_out(start: int, length: int) -> None:
    data = seal(TEXT)
    released: list[bytes] = []
    with pytest.raises(TruncatedError, match="the store gave"):
        released.extend(CODEC.open_range(Store(data[: HEADER + 3 * FRAME]).read, len(data), start=start, length=length))
    assert b"".join(released) == TEXT[start : 3 * C]


@pytest.mark.parametrize("more", [-10_000, -1, 1])
def test_a_store_that_gives_another_header_than_was_asked_is_found_out(more: int) -> None:
    data = seal(TEXT)
    for asked in (len(data), 100):
        reads: ReadRange = lambda start, size: iter([data[start : max(start, start + size + more)]])  # noqa: E731
        with pytest.raises(TruncatedError, match="the store gave"):
            CODEC.reader(reads, asked)


def test_a_store_that_gives_nothing_is_found_out() -> None:
    data = seal(TEXT)
    reader = CODEC.reader(lambda start, size: iter([data[:size]] if start == 0 else []), len(data))
    for use in (lambda: list(reader.read(C, 10)), reader.verify):
        with pytest.raises(TruncatedError):
            use()


def test_a_store_that_gives_more_than_was_asked_is_found_out() -> None:
    data = seal(TEXT)

    def generous(start: int, size: int) -> Iterator[bytes]:
        yield data[start : start + size + (5 if start else 0)]

    with pytest.raises(TruncatedError, match="the store gave"):
        list(CODEC.open_range(generous, len(data), start=C, length=C))


@pytest.mark.parametrize("size", [0, 3, 31, 100, HEADER, HEADER + 15, HEADER + FRAME + 16])
def test_files_cut_early_are_truncated(size: int) -> None:
    with pytest.raises(TruncatedError):
        opened(seal(TEXT)[:size], 0, 1)


def test_headers_are_checked_as_in_a_stream() -> None:
    data = seal(TEXT)
    with pytest.raises(UnsupportedFormatError):
        opened(b"KTB1" + data[4:], 0, 1)
    with pytest.raises(TamperedError):
        opened(data[: HEADER - 1] + bytes([data[HEADER - 1] ^ 1]) + data[HEADER:], 0, 1)
    with pytest.raises(NoMatchingKeyError):
        Ktb2Codec(open_with=EncryptionKey.generate()).reader(Store(data).read, len(data))


@pytest.mark.parametrize(("start", "length"), [(-1, 5), (5, -1)])
def test_negative_ranges_are_refused(start: int, length: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(seal(TEXT), start, length)
    assert caught.value.kind == "bad_range"


def test_a_negative_size_is_refused_before_anything_is_read() -> None:
    store = Store(seal(TEXT))
    with pytest.raises(ConfigurationError) as caught:
        CODEC.reader(store.read, -1)
    assert caught.value.kind == "bad_range"
    assert store.asked == []


# Samples


@pytest.mark.parametrize("of", [1, 2, 3, 6, 7, 50])
def test_all_parts_together_read_every_chunk(of: int) -> None:
    data = seal(TEXT)
    covered: set[int] = set()
    for part in range(1, of + 1):
        store = Store(data)
        read = CODEC.verify_chunks(store.read, len(data), part, of)
        assert read == sum(size for _, size in store.asked)
        assert len(store.asked) <= 3
        for start, size in store.asked[1:]:
            covered.update(range((start - HEADER) // FRAME, (start - HEADER + size - 1) // FRAME + 1))
    assert covered == set(range(6))


def test_a_part_reads_its_share_only() -> None:
    data = seal(bytes(100 * C))
    store = Store(data)
    assert CODEC.verify_chunks(store.read, len(data), 3, 10) == 8192 + 11 * FRAME


@pytest.mark.parametrize("position", range(6))
def test_damage_is_found_by_the_part_that_holds_it(position: int) -> None:
    data = bytearray(seal(TEXT))
    data[HEADER + position * FRAME + 5] ^= 1
    found = set()
    for part in (1, 2, 3):
        try:
            CODEC.verify_chunks(Store(bytes(data)).read, len(data), part, 3)
        except BackupError as error:
            assert isinstance(error, TamperedError)  # noqa: PT017 - the other parts pass
            found.add(part)
    assert found == ({1, 2, 3} if position == 5 else {position // 2 + 1})


def test_every_part_notices_a_missing_end() -> None:
    cut = seal(TEXT)[: HEADER + 4 * FRAME]
    for part in (1, 2, 3, 4):
        with pytest.raises(TruncatedError):
            CODEC.verify_chunks(Store(cut).read, len(cut), part, 4)


@pytest.mark.parametrize(("part", "of"), [(0, 1), (2, 1), (-1, 3), (1, 0)])
def test_parts_that_do_not_exist_are_refused(part: int, of: int) -> None:
    data = seal(TEXT)
    with pytest.raises(ConfigurationError) as caught:
        CODEC.verify_chunks(Store(data).read, len(data), part, of)
    assert caught.value.kind == "bad_sample"


def test_a_reader_may_be_given_any_range_function() -> None:
    data = seal(TEXT)
    whole: ReadRange = lambda start, size: iter([data[start : start + size]])  # noqa: E731 - as in the docstring
    assert b"".join(CODEC.reader(whole, len(data)).read(0, len(TEXT))) == TEXT
