"""Streams that are measured while they flow: size and digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .._engine.digesting import BackgroundDigest

__all__ = ["Meter"]


class Meter:
    """
    Passes chunks on and knows how many bytes and which digest went through.

    Iterating is possible once; an iteration that was stopped early is continued by the next. Large streams are hashed
    by a thread beside the consumer's, at most a few MB behind it.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._digest = BackgroundDigest()
        self.size_bytes: int = 0
        """Bytes that went through so far."""
        self.exhausted: bool = False
        """Whether the last chunk went through."""

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal digest of what went through so far; waits for it."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self.exhausted = True
            raise
        self._digest.update(chunk)
        self.size_bytes += len(chunk)
        return chunk

    def drain(self) -> None:
        """Let everything that is left flow by."""
        for _ in self:
            pass

    def close(self) -> None:
        """Tell the source of the chunks that no more are wanted."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
