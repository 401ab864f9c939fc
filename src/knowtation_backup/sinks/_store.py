"""What `FsspecSink` asks of the kinds of places behind it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Protocol

import attrs

from ..model.blobs import BlobInfo, SinkCapabilities

__all__ = ["Leftover", "Store"]


@attrs.frozen(kw_only=True)
class Leftover:
    """A temporary file or unfinished upload that an interrupted `put` left behind; never part of any archive."""

    path: str
    """Where it is, relative to the sink."""
    size_bytes: int
    modified_at: dt.datetime | None
    upload_id: str = ""
    """Which upload, where a store keeps several of one path."""


class Store(Protocol):
    """One place for blobs. Keys are checked; errors are `BackupError` only; see `ArchiveSink` for the rules."""

    @property
    def capabilities(self) -> SinkCapabilities:
        """What this place guarantees."""

    @property
    def location(self) -> str:
        """Where it is, without credentials."""

    def put(self, key: str, chunks: Iterable[bytes]) -> BlobInfo:
        """Publish a new blob, complete or not at all."""

    def read(self, key: str, start: int, size_bytes: int | None) -> Iterator[bytes]:
        """Yield a range of a blob."""

    def stat(self, key: str) -> BlobInfo:
        """Return size and time of a blob."""

    def walk(self, prefix: str) -> Iterator[BlobInfo]:
        """Yield the blobs below a prefix, sorted."""

    def delete(self, key: str) -> None:
        """Remove a blob."""

    def leftovers(self) -> Iterator[Leftover]:
        """Yield temporary files of interrupted writes."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove one of them; gone already is fine."""
