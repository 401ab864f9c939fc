"""Open single sealed files, without a pipeline: into a new file, or into a stream."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .._engine.chunking import stopping
from .._engine.local_files import NewFile, open_directory, os_errors_translated, read_range
from ..contracts import EncryptionCodec, ReadBlob
from ..errors import NoMatchingKeyError, UnsupportedFormatError
from .keyring import Keyring, RingKey
from .keys import Passphrase

__all__ = ["decrypt_file", "decrypt_to_stream"]


def decrypt_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    key: RingKey | Iterable[RingKey] | EncryptionCodec,
) -> int:
    """
    Open a sealed file into a new file and return its size in bytes.

    Nothing appears under *target* unless everything was authenticated and written; an existing file is never
    overwritten. The new file has mode 0600.

    Args:
        source: Sealed in any format that `Keyring` opens; its first bytes say which.
        target: The new file.
        key: One key, passphrase or private half, or several to try, or the codec to open with.

    Raises:
        UnsupportedFormatError: *source* is not sealed, or in no format that is known here.
        TruncatedError: *source* was cut.
        NoMatchingKeyError: None of the keys opens it.
        TamperedError: *source* was changed; where the format names no key, as KTB1, or a wrong key.
        BlobNotFoundError: There is no *source*, or no directory for *target*.
        BlobExistsError: There is a *target* already.
        SinkFullError: No space is left for *target*.
        SinkPermissionError: Reading or writing is refused.
        SinkUnavailableError: The device failed.
    """
    goal = Path(target).absolute()
    doing = f"writing {goal}"
    with contextlib.ExitStack() as stack:
        with os_errors_translated(doing):
            if goal.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            directory_fd = open_directory(goal.parent)
            stack.callback(os.close, directory_fd)
            file = stack.enter_context(NewFile(directory_fd, goal.name))
        for piece in _opened(source, key):
            with os_errors_translated(doing):
                file.write(piece)
        with os_errors_translated(doing):
            file.publish()
    return file.size_bytes


def decrypt_to_stream(
    source: str | os.PathLike[str], target: BinaryIO, key: RingKey | Iterable[RingKey] | EncryptionCodec
) -> int:
    """
    Open a sealed file into a binary stream, as ``sys.stdout.buffer``, and return the plaintext's size in bytes.

    Nothing that was not authenticated is written. KTB1 is authenticated whole before its first byte; KTB2 and age are
    chunk by chunk, so that an error may come after a genuine beginning. The stream is flushed and left open.

    Args:
        source: Sealed in any format that `Keyring` opens; its first bytes say which.
        target: Where the plaintext goes.
        key: One key, passphrase or private half, or several to try, or the codec to open with.

    Raises:
        UnsupportedFormatError: *source* is not sealed, or in no format that is known here.
        TruncatedError: *source* was cut.
        NoMatchingKeyError: None of the keys opens it.
        TamperedError: *source* was changed; where the format names no key, as KTB1, or a wrong key.
        BlobNotFoundError: There is no *source*.
        SinkFullError: No space is left behind the stream.
        SinkPermissionError: Reading or writing is refused.
        SinkUnavailableError: The device failed, or the reader of a pipe went away.
    """
    total = 0
    doing = "writing to the stream"
    for piece in _opened(source, key):
        with os_errors_translated(doing):
            _write_all(target, piece)
        total += len(piece)
    with os_errors_translated(doing):
        target.flush()
    return total


def _opened(source: str | os.PathLike[str], key: RingKey | Iterable[RingKey] | EncryptionCodec) -> Iterator[bytes]:
    read = _reader(source)
    if isinstance(key, EncryptionCodec):
        yield from key.open(read)
        return
    ring = Keyring(key)
    try:
        yield from ring.open(read)
    except NoMatchingKeyError:
        if any(isinstance(one, Passphrase) for one in ring.keys) or not _begins_like_json(read):
            raise
        # Far likelier an export that was never sealed than an enc-v1 file given to somebody without a passphrase.
        message = f"{Path(source)} begins like JSON: it is not sealed, or with a passphrase (enc-v1)"
        raise UnsupportedFormatError(message, kind="bad_magic", hint="if it is sealed, pass its passphrase") from None


def _begins_like_json(read: ReadBlob) -> bool:
    with stopping(read()) as pieces:
        return next(pieces, b"").lstrip().startswith(b"{")


def _write_all(target: BinaryIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        written = target.write(rest)
        if not written:  # an unbuffered stream takes what it can; one that does not block may take nothing
            raise BlockingIOError(errno.EAGAIN, "the stream takes no more bytes")
        rest = rest[written:]


def _reader(source: str | os.PathLike[str]) -> ReadBlob:
    origin = Path(source).absolute()

    def read() -> Iterator[bytes]:
        with os_errors_translated(f"reading {origin}"), origin.open("rb", buffering=0) as file:
            yield from read_range(file.fileno(), 0, None)

    return read
