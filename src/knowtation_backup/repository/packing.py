"""
The way of content into the store: frames are compressed and sealed side by side, gathered into packs, and put.

    jobs (one thread, in order) ─> seal (threads) ─> packs ─> put (threads) ─> settled jobs, in order

A job that comes out has been stored, and knows where. Jobs without content pass through in their place, so that what
comes before one is stored when it comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

import attrs

from .._engine.ahead import map_ahead, processors
from ..contracts import ArchiveSink
from .frames import Compressor, FileHead, FileKind
from .keys import WriterKey
from .layout import object_id, pack_key
from .manifest import ObjectRef
from .storing import put_object
from .tables import FrameRef
from .tenants import TenantSealer, store_keys

__all__ = ["PACK_BYTES", "Job", "Packer"]

PACK_BYTES = 8 << 20
"""Plain content of a pack, after which another one is begun."""
_PUTS = 6
"""Objects on their way at once: three were measured to be too few for a store that is 20 ms away."""


@attrs.define(eq=False)
class Job:
    """
    One frame on its way, or a mark between frames.

    Args:
        content: Parts of the plain content, joined by a worker; empty for a mark.
        items: Pages or records in it.
        tenant: Seals the content before the pack does; its key is stored before the pack.
        settled: Called in the consumer's thread, in order, once everything up to here is stored.
    """

    content: list[bytes | memoryview] = attrs.field(factory=list, repr=False)
    items: int = 0
    tenant: TenantSealer | None = None
    settled: Callable[[FrameRef | None], None] | None = None
    head: FileHead | None = attrs.field(default=None, init=False)
    """Head, number and last are the packer's: where the frame comes to lie."""
    number: int = attrs.field(default=0, init=False)
    last: bool = attrs.field(default=False, init=False)

    @property
    def size_bytes(self) -> int:
        """Of the plain content."""
        return sum(map(len, self.content))


@attrs.define(eq=False)
class _Pack:
    """A finished pack and the jobs that are settled once it is stored."""

    parts: list[bytes]
    jobs: list[tuple[Job, int, int]]
    """Each with offset and length; marks have length 0."""


class Packer:
    """
    Seals and stores the jobs of one archive.

    Memory: about nine packs of 8 MiB while the store is slow, and a frame for each processor.

    Args:
        sink: Where to.
        keys: What to seal with.
        compressor: Used by several threads.
        read_back: Whether every pack is read again.
    """

    def __init__(self, sink: ArchiveSink, keys: WriterKey, compressor: Compressor, *, read_back: bool = False) -> None:
        self._read_back = read_back
        self._sink = sink
        self._keys = keys
        self._compressor = compressor
        self.packs: list[ObjectRef] = []
        """What was stored, in order."""

    def run(self, jobs: Iterable[Job]) -> None:
        """
        Store everything; returns when all jobs are settled.

        Raises:
            SinkError: Storing failed.
            BackupError: What *jobs* raised, after everything before it was stored.
        """
        sealed = map_ahead(self._seal, _numbered(jobs, self._keys), workers=processors())
        for pack, reference in map_ahead(self._put, _packs(sealed), workers=_PUTS):
            if reference is not None:
                self.packs.append(reference)
            for job, offset, length in pack.jobs:
                if job.settled is None:
                    continue
                if reference is None or not length:
                    job.settled(None)
                else:
                    job.settled(FrameRef(reference.object_id, job.number, offset, length, job.items))

    def _seal(self, job: Job) -> tuple[Job, tuple[bytes, ...]]:
        head = job.head
        if head is None:
            return job, ()
        content = b"".join(job.content)
        job.content = []
        body = self._compressor.body(content)
        del content
        if job.tenant is not None:
            body = job.tenant.seal(body, head)
        return job, head.seal_parts(job.number, body, last=job.last)

    def _put(self, pack: _Pack) -> tuple[_Pack, ObjectRef | None]:
        if not pack.parts:
            return pack, None
        store_keys(job.tenant for job, _, _ in pack.jobs)
        parts, pack.parts = pack.parts, []
        pack_id = object_id(*parts)
        put_object(self._sink, pack_key(pack_id), *parts, read_back=self._read_back)
        return pack, ObjectRef(pack_id, sum(map(len, parts)))


def _numbered(jobs: Iterable[Job], keys: WriterKey) -> Generator[Job, None, None]:
    """Give each frame its place in a pack; one behind, since the last frame of a pack is sealed as such."""
    held: list[Job] = []
    head: FileHead | None = None
    number = size = 0
    try:
        for job in jobs:
            if not job.content:
                held.append(job)
                continue
            if held and held[0].content:
                held[0].last = size >= PACK_BYTES
                if held[0].last:
                    head = None
            yield from held
            if head is None:
                head, number, size = FileHead.new(FileKind.PACK, keys), 0, 0
            job.head, job.number = head, number
            number += 1
            size += job.size_bytes
            held = [job]
        if held and held[0].content:
            held[0].last = True
        yield from held
    finally:
        _close(jobs)


def _packs(sealed: Iterator[tuple[Job, tuple[bytes, ...]]]) -> Iterator[_Pack]:
    pack = _Pack([], [])
    offset = 0
    try:
        for job, frame in sealed:
            if not frame:
                pack.jobs.append((job, 0, 0))
                if not pack.parts:  # nothing to wait for
                    yield pack
                    pack = _Pack([], [])
                continue
            if not pack.parts:
                head = job.head.stored if job.head else b""
                pack.parts.append(head)
                offset = len(head)
            length = sum(map(len, frame))
            pack.parts += frame
            pack.jobs.append((job, offset, length))
            offset += length
            if job.last:
                yield pack
                pack = _Pack([], [])
        if pack.jobs:
            yield pack
    finally:
        _close(sealed)


def _close(items: object) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()
