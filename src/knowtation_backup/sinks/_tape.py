"""A stream that can be played again from its beginning, as far as it was recorded."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Self

from .._engine.local_files import translate_os_error
from ..errors import BackupError

__all__ = ["Tape"]

_READ_SIZE = 1 << 20


class Tape:
    """
    Plays a stream while recording it; can be played again unless it grew beyond what may be kept.

    Nothing is read before somebody asks for it. Use as a context manager: leaving it removes the recording.

    Args:
        chunks: Read once, by whoever plays first that far.
        memory_bytes: How much is kept in memory.
        spool_directory: Where a file takes what is more; `None` keeps no more.
    """

    def __init__(
        self, chunks: Iterable[bytes], *, memory_bytes: int, spool_directory: str | os.PathLike[str] | None
    ) -> None:
        self._stream = iter(chunks)
        self._memory_bytes = memory_bytes
        self._spool_directory = spool_directory
        self._parts: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        """Bytes of the stream so far."""
        self.overflowed = False
        """Whether its beginning is gone, so that it cannot be played again."""
        self.exhausted = False
        """Whether the stream has come to its end."""
        self.broken = False
        """Whether the stream itself raised; then there is nothing to repeat."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._parts.clear()
        if self._file is not None:
            self._file.close()

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal digest of the stream so far."""
        return self._digest.hexdigest()

    def play(self) -> Iterator[bytes]:
        """Yield the stream from its beginning: what was recorded, then what is new."""
        yield from self._recorded()
        while True:
            try:
                chunk = next(self._stream)
            except StopIteration:
                self.exhausted = True
                return
            except BaseException:
                self.broken = True
                raise
            self._record(chunk)
            yield chunk

    def _recorded(self) -> Iterator[bytes]:
        if self._file is None:
            yield from tuple(self._parts)
            return
        end = self._file.tell()
        for offset in range(0, end, _READ_SIZE):
            self._file.seek(offset)
            part = self._file.read(min(_READ_SIZE, end - offset))
            self._file.seek(end)
            yield part

    def _record(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size_bytes += len(chunk)
        if self.overflowed:
            return
        if self._file is None and self.size_bytes <= self._memory_bytes:
            self._parts.append(chunk)
            return
        if self._spool_directory is None:
            self.overflowed = True
            self._parts.clear()
            return
        try:
            if self._file is None:
                # Without a name, readable by nobody else, and gone with this process however it ends.
                self._file = tempfile.TemporaryFile(dir=self._spool_directory)  # noqa: SIM115 - closed by __exit__
                self._file.writelines(self._parts)
                self._parts.clear()
            self._file.write(chunk)
        except OSError as error:
            self.broken = True
            if isinstance(error, BackupError):  # pragma: no cover - file objects raise plain ones
                raise
            raise translate_os_error(error, f"spooling to {os.fspath(self._spool_directory)}") from error
