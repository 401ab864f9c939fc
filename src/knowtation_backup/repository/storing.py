"""Putting and getting whole objects whose names say what they are."""

from __future__ import annotations

from ..contracts import ArchiveSink
from ..errors import BlobExistsError, ConfigurationError, IntegrityError
from .layout import check_named

__all__ = ["MAX_OBJECT_BYTES", "get_object", "put_object"]

MAX_OBJECT_BYTES = 64 << 20
"""What a reader takes into memory at most; writers stay far below."""


def put_object(sink: ArchiveSink, key: str, *parts: bytes, read_back: bool = False) -> None:
    """
    Create an object whose name contains the hash of its bytes, the *parts* joined; one there already is the same.

    A store may have kept an object although its answer was lost, so that a second attempt finds it there.

    Args:
        sink: Where to.
        key: Its name.
        parts: Its bytes.
        read_back: Whether it is read again, whole, and compared with its name.

    Raises:
        IntegrityError: Another object has this name: it was damaged, or put there by somebody else; or what was read
            back is not what was sent.
        SinkError: Storing failed.
    """
    try:
        sink.put(key, parts)
    except BlobExistsError:
        found, size = sink.stat(key).size_bytes, sum(map(len, parts))
        if found != size:
            message = f"{key} is there already with {found} bytes instead of {size}"
            raise IntegrityError(message, kind="object_changed", hint="repair it from a replica", key=key) from None
    if read_back:
        get_object(sink, key)


def get_object(sink: ArchiveSink, key: str) -> bytes:
    """
    Return an object that is what its name says.

    Raises:
        IntegrityError: It is not.
        BlobNotFoundError: There is none.
        SinkError: Reading failed.
    """
    try:
        stored = sink.read_all(key, limit_bytes=MAX_OBJECT_BYTES)
    except ConfigurationError as error:
        if error.kind != "blob_too_large":
            raise
        message = f"{key} has more bytes than any object of a repository"
        raise IntegrityError(message, kind="object_changed", hint="repair it from a replica", key=key) from error
    check_named(key, stored)
    return stored
