"""Streams cut into frames of one size, with the last one known as such, and bytes copied only where they must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["frames"]


def frames(pieces: Iterable[bytes | memoryview], size_bytes: int) -> Iterator[tuple[memoryview, bool]]:
    """
    Yield the stream in frames of *size_bytes*, each with whether it is the last.

    The last frame has 0 to *size_bytes* bytes, and none only when the stream has none. A frame that lies within one
    piece is a view of it; one that does not is gathered in a buffer. Either is valid until the next frame is asked for.
    """
    buffer = memoryview(b"")
    filled = 0
    held = memoryview(b"")  # up to one frame that nothing is known to follow; empty whenever the buffer is not
    for piece in pieces:
        if filled and (end := filled + len(piece)) <= size_bytes:  # nearly all of them, where they are small
            buffer[filled:end] = piece
            filled = end
            continue
        if not piece:
            continue
        if len(held) == size_bytes:
            yield held, False
        elif held:
            buffer = buffer or memoryview(bytearray(size_bytes))
            filled = len(held)
            buffer[:filled] = held
        held = memoryview(piece)
        if filled:
            taken = min(size_bytes - filled, len(held))
            buffer[filled : filled + taken] = held[:taken]
            filled += taken
            held = held[taken:]
            if not held:
                continue
            yield buffer, False
            filled = 0
        while len(held) > size_bytes:
            yield held[:size_bytes], False
            held = held[size_bytes:]
    yield (buffer[:filled] if filled else held), True
