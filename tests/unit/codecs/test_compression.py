"""Compression: plain files of their kind, deterministic, bounded both ways, and nothing damaged passes."""

from __future__ import annotations

import contextlib
import functools
import gzip
import lzma
import random
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import brotli  # type: ignore[import-untyped]  # ships no type information
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup._engine.chunking import stopping
from knowtation_backup.codecs import _zstd
from knowtation_backup.codecs._streams import UnwrapLimits
from knowtation_backup.codecs.compression import Compression, compression_for
from knowtation_backup.contracts import CompressionCodec
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    IntegrityError,
    TruncatedError,
    UnsupportedFormatError,
)
from knowtation_backup.exports import unwrap
from knowtation_backup.model.manifest import CodecSpec

ALGORITHMS = ("gzip", "zstd", "brotli", "xz", "auto")
CHECKED = ("gzip", "zstd", "xz", "auto")
MIB = 1 << 20
WORDS = [f"{number:x}" for number in random.Random(5).sample(range(1 << 24), 3000)]  # noqa: S311 - filler text


@functools.cache
def text(size: int, seed: int = 1) -> bytes:
    words = random.Random(seed).choices(WORDS, k=max(1, size // 5))  # noqa: S311 - filler text
    return " ".join(words).encode()[:size]


def noise(size: int, seed: int = 2) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - filler


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def seal(codec: CompressionCodec, data: bytes, size: int = 1 << 16) -> bytes:
    return b"".join(codec.seal(cut(data, size)))


def unseal(codec: CompressionCodec, stored: bytes, size: int = 1 << 16) -> bytes:
    return b"".join(codec.open(lambda: iter(cut(stored, size))))


def stopped(stream: Iterator[bytes]) -> None:
    with stopping(stream):
        pass


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


MIXED = text(3 * MIB) + noise(MIB) + text(MIB)[::-1]
"""Several pieces of every algorithm but xz, some of them incompressible."""


# -- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("data", [b"", b"x", text(100_000), MIXED], ids=["empty", "one byte", "text", "mixed"])
def test_what_is_sealed_opens(algorithm: str, data: bytes) -> None:
    codec = Compression(algorithm, level=1)
    stored = seal(codec, data)
    assert unseal(codec, stored) == data
    assert len(stored) < 0.9 * len(data) or len(data) < 100


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_libraries_read_it(algorithm: str) -> None:
    data = text(3 * MIB)
    stored = seal(Compression(algorithm, level=1), data)
    plain = {
        "gzip": gzip.decompress,
        "zstd": lambda b: zstandard.ZstdDecompressor().stream_reader(b, read_across_frames=True).read(),
        "brotli": brotli.decompress,
        "xz": lzma.decompress,
    }[Compression(algorithm).specs[0].name](stored)
    assert plain == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_neither_chunks_nor_threads_change_the_bytes(algorithm: str) -> None:
    data = MIXED[3_000_000:4_500_000] if algorithm in {"xz", "brotli"} else MIXED
    level = 1 if algorithm in {"xz", "brotli"} else None
    first = seal(Compression(algorithm, level=level, threads=1), data, len(data))
    for threads_, size in ((1, 1000), (2, 65_537), (5, MIB)):
        assert seal(Compression(algorithm, level=level, threads=threads_), data, size) == first


def test_xz_streams_of_several_pieces_are_the_same_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowtation_backup.codecs._xz._PIECE_BYTES", 100_000)
    data = text(450_000)
    one = seal(Compression("xz", level=1, threads=1), data, 999)
    assert seal(Compression("xz", level=1, threads=3), data, 70_000) == one
    assert lzma.decompress(one) == data
    assert unseal(Compression("xz"), one, 10) == data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_higher_levels_are_smaller(algorithm: str) -> None:
    sentences = cut(text(60_000), 40)
    data = b"".join(random.Random(3).choices(sentences, k=20_000))  # noqa: S311 - filler text
    sizes = [len(seal(Compression(algorithm, level=level), data)) for level in (1, 9)]
    assert sizes[1] < sizes[0]


def test_the_default_levels_are_the_documented_ones() -> None:
    data = text(200_000)
    for algorithm, level in {"gzip": 6, "zstd": 3, "auto": 3, "brotli": 6, "xz": 6}.items():
        assert seal(Compression(algorithm), data) == seal(Compression(algorithm, level=level), data)


@pytest.mark.parametrize("algorithm", ["gzip", "zstd"])
def test_dividing_the_work_costs_little_size(algorithm: str) -> None:
    data = text(9 * MIB)
    whole = (
        len(gzip.compress(data, 6))
        if algorithm == "gzip"
        else len(zstandard.ZstdCompressor(level=3, threads=2).compress(data))
    )
    assert len(seal(Compression(algorithm), data)) < 1.01 * whole


# -- auto ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Bytes given to the compressor, by level."""
    given: dict[int, int] = {}
    real = _zstd._Compressors.frame
    lock = threading.Lock()

    def counting(self: _zstd._Compressors, data: bytes | memoryview, level: int) -> bytes:
        with lock:
            given[level] = given.get(level, 0) + len(data)
        return real(self, data, level)

    monkeypatch.setattr(_zstd._Compressors, "frame", counting)
    return given


def test_auto_does_not_compress_what_does_not_compress(compressed: dict[int, int]) -> None:
    data = noise(9 * MIB)
    stored = seal(Compression("auto"), data)
    assert len(data) < len(stored) < 1.001 * len(data)
    assert unseal(Compression("zstd"), stored) == data
    assert compressed.pop(_zstd._STORED_LEVEL) == len(data)
    assert compressed.pop(1) < 0.03 * len(data)  # the samples
    assert not compressed


def test_auto_compresses_what_does(compressed: dict[int, int]) -> None:
    data = text(9 * MIB)
    stored = seal(Compression("auto"), data)
    assert compressed[3] == len(data)
    assert _zstd._STORED_LEVEL not in compressed
    assert stored == seal(Compression("zstd"), data)


def test_auto_decides_for_each_stretch(compressed: dict[int, int]) -> None:
    data = text(2 * MIB) + noise(2 * MIB) + text(2 * MIB) + noise(200_000) + text(2 * MIB)
    stored = seal(Compression("auto"), data)
    assert compressed[_zstd._STORED_LEVEL] == 2 * MIB
    assert compressed[3] == len(data) - 2 * MIB
    assert len(stored) < 1.01 * len(seal(Compression("zstd"), data))
    assert unseal(Compression("auto"), stored, 999) == data


def test_auto_is_recorded_as_zstd() -> None:
    assert Compression("auto").specs == (CodecSpec(name="zstd"),)
    assert Compression("auto").suffix == ".zst"


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 10, -1, True, "6", 2.5])
def test_levels_outside_1_to_9_are_refused(level: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Compression\.level") as caught:
        Compression("gzip", level=level)
    assert caught.value.kind == "bad_option"


def test_other_options_are_checked_too() -> None:
    with pytest.raises(ConfigurationError, match=r"Compression\.algorithm is 'lz4'"):
        Compression("lz4")
    with pytest.raises(ConfigurationError, match=r"Compression\.threads is 0"):
        Compression("gzip", threads=0)


@pytest.mark.parametrize(
    ("algorithm", "module", "extra"),
    [("zstd", "zstandard", "zstd"), ("auto", "zstandard", "zstd"), ("brotli", "brotli", "brotli")],
)
def test_a_missing_package_is_named_before_anything_happens(
    algorithm: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"knowtation-backup\[{extra}\]") as caught:
        Compression(algorithm)
    assert caught.value.kind == "missing_extra"
    with pytest.raises(ConfigurationError, match=rf"knowtation-backup\[{extra}\]"):
        compression_for(extra)


@pytest.mark.parametrize(("name", "suffix"), [("gzip", ".gz"), ("zstd", ".zst"), ("brotli", ".br"), ("xz", ".xz")])
def test_a_manifests_name_finds_its_codec(name: str, suffix: str) -> None:
    found = compression_for(name)
    assert found is not None
    assert (found.specs, found.suffix) == ((CodecSpec(name=name),), suffix)


@pytest.mark.parametrize("name", ["auto", "", "ktb1", "GZIP", "lz4"])
def test_other_names_find_none(name: str) -> None:
    assert compression_for(name) is None


def test_the_limits_are_the_public_ones() -> None:
    assert unwrap.UnwrapLimits is UnwrapLimits


# -- opening what others wrote ---------------------------------------------------------------------------------------


def frames(*parts: bytes, checksum: bool = False) -> bytes:
    return b"".join(zstandard.ZstdCompressor(write_checksum=checksum).compress(part) for part in parts)


def streamed(data: bytes) -> bytes:
    """One frame that does not say its size."""
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return b"".join([*map(stream.compress, cut(data, 50_000)), stream.flush()])


@pytest.mark.parametrize("size", [1, 7, 100_000, 10**8])
def test_zstd_frames_of_every_kind_follow_each_other(size: int) -> None:
    a, b, large = text(100_000), noise(80_000), text(9 * MIB)
    skippable = b"\x5f\x2a\x4d\x18\x05\x00\x00\x00hello"
    if size < 100:
        large = a
    stored = skippable + frames(a, b"", b) + streamed(a) + skippable + frames(large, checksum=True) + frames(b)
    assert unseal(Compression("zstd"), stored, size) == a + b + a + large + b


def test_a_frame_of_many_small_blocks_is_streamed() -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    stream = compressor.compressobj(size=60_000)
    lines = cut(text(60_000), 6)
    stored = b"".join(stream.compress(line) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for line in lines)
    stored += stream.flush()
    assert zstandard.get_frame_parameters(stored).content_size == 60_000
    assert unseal(Compression("zstd"), stored, 1000) == b"".join(lines)


def test_gzip_members_and_padding_wherever_chunks_end() -> None:
    a, b = text(30_000), text(20_000, 3)
    stored = gzip.compress(a) + bytes(700) + gzip.compress(b) + gzip.compress(b"") + bytes(30)
    for size in (1, 512, 10**6):
        assert unseal(Compression("gzip"), stored, size) == a + b


def test_xz_streams_and_padding_wherever_chunks_end() -> None:
    a, b = text(30_000), text(20_000, 3)
    stored = lzma.compress(a) + bytes(8) + lzma.compress(b, check=lzma.CHECK_SHA256) + bytes(4)
    for size in (1, 512, 10**6):
        assert unseal(Compression("xz"), stored, size) == a + b
    for wrong in (bytes(3), bytes(5)):
        with pytest.raises(IntegrityError, match="padding"):
            unseal(Compression("xz"), lzma.compress(a) + wrong)


def test_brotli_ends_also_when_its_last_input_holds_much_output() -> None:
    """The vendor's `can_accept_more_data` is true too early there."""
    data = text(6 * MIB)
    stored = brotli.compress(data, quality=3)
    for size in (1000, 10**8):
        assert unseal(Compression("brotli"), stored, size) == data


def released_by(codec: CompressionCodec, stored: bytes, size: int = 50_000) -> tuple[bytes, BackupError]:
    """Open what is not to open; return what came before the error, and the error."""
    released = bytearray()
    try:
        for part in codec.open(lambda: iter(cut(stored, size))):
            released += part
    except BackupError as error:
        return bytes(released), error
    raise AssertionError("it opened")


# -- damage ----------------------------------------------------------------------------------------------------------


SMALL = text(3000) + noise(300)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_cut_is_refused(algorithm: str) -> None:
    codec = Compression(algorithm)
    stored = seal(codec, SMALL)
    for size in range(len(stored)):
        with pytest.raises(TruncatedError):
            unseal(codec, stored[:size])


@pytest.mark.parametrize("algorithm", CHECKED)
def test_every_changed_byte_is_refused_or_changes_nothing(algorithm: str) -> None:
    codec = Compression(algorithm)
    stored = bytearray(seal(codec, SMALL))
    harmless = 0
    for index in range(len(stored)):
        for change in (0x01, 0x80):
            stored[index] ^= change
            try:
                opened = unseal(codec, bytes(stored))
            except (IntegrityError, UnsupportedFormatError):
                pass
            else:
                assert opened == SMALL
                harmless += 1  # for example a bit of gzip's time, or one between two fields
            stored[index] ^= change
    assert harmless < 20


@pytest.mark.parametrize("algorithm", CHECKED)
def test_damage_in_a_later_piece_comes_after_what_was_before_it(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Compression(algorithm, level=1, threads=3)
    data = text(9 * MIB)
    if algorithm == "xz":
        monkeypatch.setattr("knowtation_backup.codecs._xz._PIECE_BYTES", MIB // 2)
        data = data[: 2 * MIB]
    stored = bytearray(seal(codec, data))
    stored[-40] ^= 1
    released, error = released_by(codec, bytes(stored))
    assert error.kind == "compressed_data"
    assert len(released) >= len(data) / 2
    if algorithm != "gzip":  # its checksum is at the very end
        assert data.startswith(released)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("garbage", [b"x", b"\x01" * 3, b"garbage!", b"\x28\xb5\x2f\xfd" + bytes(20)])
def test_what_follows_the_end_is_refused(algorithm: str, garbage: bytes) -> None:
    codec = Compression(algorithm)
    stored = seal(codec, SMALL) + garbage
    for size in (1, 10**6):
        with pytest.raises(IntegrityError):
            unseal(codec, stored, size)


@pytest.mark.parametrize("algorithm", CHECKED)
@pytest.mark.parametrize("data", [b"hello, world", b'{"a":1}', b"KTB1" + bytes(40), b"PK\x03\x04"])
def test_other_formats_are_not_called_damaged(algorithm: str, data: bytes) -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        unseal(Compression(algorithm), data, 1 << 16)
    assert caught.value.kind == "bad_magic"


def zstd_frame(header: bytes, *blocks: tuple[int, int, bytes], last: bool = True) -> bytes:
    """Write a frame by hand; blocks are type, size and body."""
    written = b"".join(
        (size << 3 | kind << 1 | (last and number == len(blocks) - 1)).to_bytes(3, "little") + body
        for number, (kind, size, body) in enumerate(blocks)
    )
    return b"\x28\xb5\x2f\xfd" + header + written


RAW, RLE = 0, 1


def test_frames_by_hand_are_frames() -> None:
    frame = zstd_frame(b"\x20\x05", (RAW, 2, b"ab"), (RLE, 3, b"c"))
    assert unseal(Compression("zstd"), frame) == b"abccc"


@pytest.mark.parametrize(
    "frame",
    [
        zstd_frame(b"\x20\x06", (RAW, 2, b"ab"), (RLE, 3, b"c")),
        zstd_frame(b"\x20\x04", (RAW, 2, b"ab"), (RLE, 3, b"c")),
        zstd_frame(b"\x20\x00", (RAW, 2, b"ab")),
        zstd_frame(b"\x20\x05", (3, 5, b"abcde")),
        zstd_frame(b"\x20\x05", (RAW, 1 << 18, bytes(1 << 18))),
        zstd_frame(b"\x28\x05", (RAW, 5, b"abcde")),
    ],
    ids=["more promised", "less promised", "nothing promised", "reserved block", "block too large", "reserved bit"],
)
def test_frames_that_contradict_themselves_are_refused(frame: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        unseal(Compression("zstd"), frame)
    assert caught.value.kind == "compressed_data"


@pytest.mark.parametrize(
    ("frame", "needs"),
    [
        (zstd_frame(b"\x00\x98", (RAW, 2, b"ab")), "a window of"),
        (zstd_frame(b"\x21\x07\x02", (RAW, 2, b"ab")), "a dictionary"),
    ],
)
def test_what_needs_too_much_memory_or_a_dictionary_is_refused(frame: bytes, needs: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=needs) as caught:
        unseal(Compression("zstd"), frame)
    assert caught.value.kind == "compression_parameters"


def test_an_xz_dictionary_that_is_too_large_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 256 << 20}]
    stored = bytearray(lzma.compress(b"x" * 100, filters=[{**filters[0], "dict_size": 1 << 20}]))
    at = stored.index(bytes([0x21, 1])) + 2  # the filter's one property is the dictionary's size
    stored[at] = 32  # 256 MiB
    header_bytes = (stored[12] + 1) * 4
    checksum = zlib.crc32(stored[12 : 12 + header_bytes - 4])
    stored[12 + header_bytes - 4 : 12 + header_bytes] = checksum.to_bytes(4, "little")
    with pytest.raises(IntegrityError, match=r"[Mm]emory"):
        unseal(Compression("xz"), bytes(stored))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ALGORITHMS),
    st.sampled_from([b"", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"\x0b", b"\x50\x2a\x4d\x18"]),
    st.binary(max_size=100),
    st.integers(1, 200),
)
def test_arbitrary_bytes_open_or_are_refused(algorithm: str, magic: bytes, data: bytes, size: int) -> None:
    with contextlib.suppress(BackupError):
        unseal(Compression(algorithm, threads=1), magic + data, size)


# -- bombs and bounds ------------------------------------------------------------------------------------------------


def bombs() -> Iterator[tuple[str, bytes]]:
    zeros = bytes(120 * MIB)
    yield "gzip", gzip.compress(zeros, 1)
    yield "brotli", brotli.compress(zeros, quality=1)
    yield "xz", lzma.compress(zeros, preset=0)
    yield "zstd", zstandard.ZstdCompressor().compress(zeros)
    yield "zstd", b"".join([zstandard.ZstdCompressor().compress(bytes(8 * MIB))] * 15)
    yield "zstd", streamed(zeros)


def test_bombs_are_refused_early_and_in_little_memory() -> None:
    limits = UnwrapLimits(ratio=10, allowance_bytes=MIB)
    for algorithm, bomb in bombs():
        codec = Compression(algorithm, limits=limits, threads=2)
        tracemalloc.start()
        released, error = released_by(codec, bomb, len(bomb))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert error.kind == "decompression_limit"
        assert len(released) <= limits.allowance_bytes + limits.ratio * len(bomb)
        assert peak < 45 * MIB, algorithm


@pytest.mark.parametrize("algorithm", ["gzip", "zstd", "auto", "xz"])
def test_what_compresses_beyond_the_limits_is_filled_up_and_opens(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "knowtation_backup.codecs.compression.UnwrapLimits", lambda: UnwrapLimits(ratio=50, allowance_bytes=MIB)
    )
    monkeypatch.setattr("knowtation_backup.codecs._xz._PIECE_BYTES", MIB)
    codec = Compression(algorithm, level=1, limits=UnwrapLimits(ratio=50, allowance_bytes=MIB))
    data = bytes(6 * MIB) + text(MIB) + bytes(20 * MIB)
    stored = seal(codec, data)
    for size in (50, 50_000):
        assert unseal(codec, stored, size) == data
    if algorithm == "gzip":
        assert gzip.decompress(stored) == data
    if algorithm == "xz":
        assert lzma.decompress(stored) == data
    if algorithm == "zstd":
        assert zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True).read() == data


class Endless:
    """A source that never ends and knows how much was taken of it."""

    def __init__(self, parts: Iterable[bytes] | None = None) -> None:
        self._parts = iter(parts) if parts is not None else None
        self._block = text(MIB)
        self.taken = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        part = next(self._parts) if self._parts is not None else self._block
        self.taken += len(part)
        return part

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("algorithm", ["gzip", "zstd", "brotli", "auto"])
def test_sealing_is_bounded_and_stops_when_told(algorithm: str) -> None:
    source = Endless()
    stream = Compression(algorithm, level=1, threads=2).seal(source)
    for _ in range(4):
        next(stream)
    stopped(stream)
    assert source.closed
    assert source.taken <= 40 * MIB
    assert threads() == []


@pytest.mark.parametrize("algorithm", ["gzip", "zstd", "brotli", "auto"])
def test_opening_is_one_pass_and_reads_nothing_after_closing(algorithm: str) -> None:
    codec = Compression(algorithm, level=1, threads=2)
    stored = seal(codec, text(4 * MIB) * 10)
    source = Endless(cut(stored, 100_000))
    opened: list[int] = []

    def read() -> Iterator[bytes]:
        opened.append(1)
        return source

    stream = codec.open(read)
    assert not opened
    next(stream)
    stopped(stream)
    assert source.closed
    assert opened == [1]
    assert source.taken < 0.6 * len(stored)
    assert threads() == []


class SourceFailedError(Exception):
    """Something of the caller's."""


def failing(data: list[bytes]) -> Iterator[bytes]:
    yield from data
    raise SourceFailedError


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_errors_of_the_source_pass_unchanged(algorithm: str) -> None:
    codec = Compression(algorithm, level=1)
    data = text(9 * MIB if algorithm != "xz" else MIB)
    with pytest.raises(SourceFailedError):
        list(codec.seal(failing(cut(data, MIB))))
    stored = seal(codec, data)
    with pytest.raises(SourceFailedError):
        list(codec.open(lambda: failing(cut(stored[:-10], 100_000))))
    with pytest.raises(SourceFailedError):
        list(codec.open(lambda: failing([])))


def test_sealing_and_opening_need_little_memory() -> None:
    codec = Compression("auto", threads=2)
    total = 64 * MIB
    block = text(4 * MIB)
    tracemalloc.start()
    opened = codec.open(lambda: codec.seal(block for _ in range(total // len(block))))
    assert sum(map(len, opened)) == total
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 * MIB


def test_one_codec_serves_several_threads() -> None:
    codec = Compression("zstd", threads=2)
    results: dict[int, bytes] = {}

    def work(seed: int) -> None:
        results[seed] = unseal(codec, seal(codec, text(5 * MIB)[seed:]))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == {seed: text(5 * MIB)[seed:] for seed in range(3)}
