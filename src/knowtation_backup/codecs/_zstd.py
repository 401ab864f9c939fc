"""
zstd: independent frames of 4 MiB with size and checksum, compressed and opened by several threads (RFC 8878).

Joined frames are one file to every zstd tool. A frame that says its size, and is no larger than 8 MiB, is gathered
block by block and opened in a thread; any other is opened as a stream. Either way the blocks are walked here, so a
stream that is cut, or followed by something else, is told from a damaged one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from .._engine.ahead import map_ahead
from .._engine.chunking import even
from ..errors import UnsupportedFormatError
from ._streams import Input, cut, damaged, not_this, require

__all__ = ["MAGIC", "MAX_WINDOW_BYTES", "expand", "filler", "pack", "pack_auto", "package"]

MAGIC: Final = b"\x28\xb5\x2f\xfd"
MAX_WINDOW_BYTES: Final = 128 << 20
"""What the zstd program accepts without being asked to."""

_PIECE_BYTES: Final = 4 << 20
_WHOLE_BYTES: Final = 8 << 20
_STEP_BYTES: Final = 256 << 10
_STRETCH_BYTES: Final = 256 << 10
_SAMPLE_BYTES: Final = 1 << 10
_SAMPLES: Final = 4
_RUN_STRETCHES: Final = 2  # a frame for less would cost more than it saves
_LEAST_SAVING: Final = 0.98
_STORED_LEVEL: Final = -(1 << 17)  # zstd's fastest: copies what it does not see to repeat, and adds the checksum
_SKIPPABLE: Final = b"\x50\x2a\x4d\x18"
_SKIPPABLE_NUMBERS: Final = range(0x184D2A50, 0x184D2A60)
_UNKNOWN_SIZE: Final = (1 << 64) - 1
_BLOCKS_PER_FRAME: Final = 4096


def package() -> Any:
    """Return the vendor's module; raises `ConfigurationError` when it is not installed."""
    return require("zstandard", "zstd")


class _Compressors(threading.local):
    """One compressor per thread and level: they cannot be shared."""

    def __init__(self) -> None:
        self._by_level: dict[int, Any] = {}

    def frame(self, data: bytes | memoryview, level: int) -> bytes:
        compressor = self._by_level.get(level)
        if compressor is None:
            zstandard = package()
            compressor = self._by_level[level] = zstandard.ZstdCompressor(level=level, write_checksum=True)
        frame: bytes = compressor.compress(data)
        return frame


def pack(chunks: Iterable[bytes], *, level: int, workers: int) -> Iterator[tuple[int, bytes]]:
    """Yield stored parts, each with the number of plain bytes it stands for."""
    compressors = _Compressors()
    return _packed(chunks, lambda piece: compressors.frame(piece, level), workers)


def pack_auto(chunks: Iterable[bytes], *, level: int, workers: int) -> Iterator[tuple[int, bytes]]:
    """Do as `pack` does, but leave stretches as they are whose samples do not compress."""
    compressors = _Compressors()

    def frames(piece: bytes) -> bytes:
        view = memoryview(piece)
        return b"".join(
            compressors.frame(view[start:end], level if compressible else _STORED_LEVEL)
            for start, end, compressible in _runs(view, compressors)
        )

    return _packed(chunks, frames, workers)


def _packed(chunks: Iterable[bytes], frames: Callable[[bytes], bytes], workers: int) -> Iterator[tuple[int, bytes]]:
    def work(piece: bytes) -> tuple[int, bytes]:
        return len(piece), frames(piece)

    anything = False
    for result in map_ahead(work, even(chunks, _PIECE_BYTES), workers=workers):
        anything = True
        yield result
    if not anything:
        yield 0, frames(b"")


def _runs(piece: memoryview, compressors: _Compressors) -> Iterator[tuple[int, int, bool]]:
    """Yield start, end and whether to compress, of runs of stretches of one kind."""
    verdicts = [
        _compresses(piece[start : start + _STRETCH_BYTES], compressors)
        for start in range(0, len(piece), _STRETCH_BYTES)
    ] or [True]
    begin = 0
    while begin < len(verdicts):
        end = begin + 1
        # A short run of stretches that do not compress joins what is around it.
        while end < len(verdicts) and _kind(verdicts, end) == _kind(verdicts, begin):
            end += 1
        yield begin * _STRETCH_BYTES, min(end * _STRETCH_BYTES, len(piece)), _kind(verdicts, begin)
        begin = end


def _kind(verdicts: list[bool], index: int) -> bool:
    """Return whether the stretch is to be compressed."""
    if verdicts[index]:
        return True
    first = last = index
    while first and not verdicts[first - 1]:
        first -= 1
    while last + 1 < len(verdicts) and not verdicts[last + 1]:
        last += 1
    return len(verdicts) > last - first + 1 < _RUN_STRETCHES


def _compresses(stretch: memoryview, compressors: _Compressors) -> bool:
    if len(stretch) <= _SAMPLES * _SAMPLE_BYTES:
        sample = stretch.tobytes()
    else:
        step = (len(stretch) - _SAMPLE_BYTES) // (_SAMPLES - 1)
        sample = b"".join(stretch[n * step : n * step + _SAMPLE_BYTES] for n in range(_SAMPLES))
    return len(compressors.frame(sample, 1)) < _LEAST_SAVING * len(sample)


def filler(size_bytes: int) -> bytes:
    """Return at least *size_bytes* that stand for nothing: a skippable frame."""
    return _SKIPPABLE + size_bytes.to_bytes(4, "little") + bytes(size_bytes)


def expand(chunks: Iterable[bytes], *, workers: int) -> Iterator[bytes]:
    """Yield the plain bytes of all frames; skippable frames are passed over."""
    walk = _Walk(Input("zstd", chunks))
    decompressors = _Decompressors()
    while True:
        for parts in map_ahead(decompressors.parts, walk.whole_frames(), workers=workers):
            yield from parts
        frame, walk.other = walk.other, None
        if frame is None:
            break
        yield from decompressors.stream(frame)
    if not walk.frames:
        raise cut("zstd")


class _Frame:
    """One frame under way: hands out its stored bytes block by block, and knows where it ends."""

    def __init__(self, source: Input, header: bytes, parameters: Any) -> None:
        self._source = source
        self._parts: list[bytes | memoryview] = [header]
        self._checksum_bytes = 4 if parameters.has_checksum else 0
        size: int = parameters.content_size
        self.size_bytes: int | None = None if size == _UNKNOWN_SIZE else size
        self.ended = False

    def gather(self) -> bytes | None:
        """Return the whole frame, `None` when it turns out to be no ordinary one; then it is to be streamed."""
        if self.size_bytes is None or self.size_bytes > _WHOLE_BYTES:
            return None
        held = 0
        while not self.ended:
            self._parts += (part := self._blocks())
            held += sum(map(len, part))
            if len(self._parts) > 2 * _BLOCKS_PER_FRAME or held > 2 * _WHOLE_BYTES:
                return None
        return b"".join(self._parts)

    def read(self, _size: int = -1) -> bytes:
        """Return the next stored bytes, nothing at the end; the vendor's reader calls this."""
        if not self._parts and not self.ended:
            self._parts = self._blocks()
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def _blocks(self) -> list[bytes | memoryview]:
        """Take one block with its header, and the checksum behind the last; large ones are not copied yet."""
        head = self._source.take(3)
        field = int.from_bytes(head, "little")
        body = self._source.views(1 if field >> 1 & 3 == 1 else field >> 3)
        if not field & 1:
            return [head, *body]
        self.ended = True
        return [head, *body, self._source.take(self._checksum_bytes)]


class _Walk:
    """Finds the frames of a stream."""

    def __init__(self, source: Input) -> None:
        self._source = source
        self.frames = 0
        self.other: _Frame | None = None
        """Set when `whole_frames` stopped before a frame that has to be streamed."""

    def whole_frames(self) -> Iterator[tuple[bytes, int]]:
        """Yield frames that are complete in memory, with their plain size, up to the first that is not to be."""
        while (frame := self._next()) is not None:
            whole = frame.gather()
            if whole is None or frame.size_bytes is None:
                self.other = frame
                return
            yield whole, frame.size_bytes

    def _next(self) -> _Frame | None:
        while magic := self._source.upto(4):
            if int.from_bytes(magic, "little") in _SKIPPABLE_NUMBERS and len(magic) == 4:
                self.frames += 1
                self._source.skip(int.from_bytes(self._source.take(4), "little"))
                continue
            if not MAGIC.startswith(magic):
                raise damaged("zstd", "something follows its end") if self.frames else not_this("zstd", magic)
            self.frames += 1
            return self._begin(magic)
        return None

    def _begin(self, magic: bytes) -> _Frame:
        if len(magic) < 4:
            raise cut("zstd")
        zstandard = package()
        try:
            header = magic + self._source.take(1)
            # The least that tells the length; of what comes behind the header nothing may be taken.
            header += self._source.take(zstandard.frame_header_size(header) - len(header))
            parameters = zstandard.get_frame_parameters(header)
        except zstandard.ZstdError as error:
            raise damaged("zstd", error) from error
        if parameters.window_size > MAX_WINDOW_BYTES or parameters.dict_id:
            needs = "a dictionary" if parameters.dict_id else f"a window of {parameters.window_size} bytes"
            raise UnsupportedFormatError(
                f"the zstd stream needs {needs}",
                kind="compression_parameters",
                hint="compress it again without --long, --ultra or dictionary",
            )
        return _Frame(self._source, header, parameters)


class _Decompressors(threading.local):
    """One decompressor per thread: they cannot be shared."""

    def __init__(self) -> None:
        zstandard = package()
        self._zstandard = zstandard
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)

    def parts(self, item: tuple[bytes, int]) -> list[bytes]:
        """Open a whole frame."""
        frame, size_bytes = item
        # In steps, not at once: the allocator gives such pieces back and forth without asking the system for pages.
        parts: list[bytes] = []
        held = 0
        for part in self._read(frame):
            held += len(part)
            if held > size_bytes:
                break
            parts.append(part)
        if held != size_bytes:
            raise damaged("zstd", "a frame is not of the size it says")
        return parts

    def stream(self, frame: _Frame) -> Iterator[bytes]:
        """Open a frame while it is read."""
        held = 0
        for part in self._read(frame):
            held += len(part)
            yield part
        if not frame.ended or frame.size_bytes not in {None, held}:
            raise damaged("zstd", "a frame ends before its blocks do")

    def _read(self, source: object) -> Iterator[bytes]:
        reader = self._decompressor.stream_reader(source)
        try:
            while part := reader.read(_STEP_BYTES):
                yield part
        except self._zstandard.ZstdError as error:
            raise damaged("zstd", error) from error
