"""Check a part of an archive's content, so that several runs together cover everything."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import attrs

from ..codecs.chain import CodecChain
from ..contracts import ArchiveSink, Codec
from ..model.blobs import BlobRef
from ..model.reports import Sample

__all__ = ["ChunkVerifier", "SampledBlobs", "is_in_part"]


@runtime_checkable
class ChunkVerifier(Protocol):
    """A codec whose container authenticates single chunks, as `Ktb2Codec` does."""

    def verify_chunks(
        self, read_range: Callable[[int, int], Iterator[bytes]], size_bytes: int, part: int = 1, of: int = 1
    ) -> int:
        """Authenticate one part of the chunks of a stored file; return how many of its bytes were read."""
        ...


def is_in_part(archive_id: str, sample: Sample) -> bool:
    """Whether an archive that can only be read whole is one of this part; it is one of exactly one part."""
    digest = hashlib.sha256(archive_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % sample.of == sample.part - 1


@attrs.frozen(kw_only=True)
class SampledBlobs:
    """Checks one part of the chunks of blobs whose container authenticates them one by one."""

    sink: ArchiveSink
    verifier: ChunkVerifier
    sample: Sample

    @classmethod
    def of(cls, sink: ArchiveSink, codec: Codec | None, sample: Sample) -> SampledBlobs | None:
        """Return a checker for what went through *codec*, `None` when its blobs can only be read whole."""
        outermost: object = codec.codecs[-1] if isinstance(codec, CodecChain) and codec.codecs else codec
        if not isinstance(outermost, ChunkVerifier):
            return None
        return cls(sink=sink, verifier=outermost, sample=sample)

    def check(self, ref: BlobRef) -> int:
        """
        Check this part of a blob that has the size the manifest says; return how many stored bytes were read.

        Raises:
            BackupError: As the codec does when it opens, or the sink when it reads.
        """

        def read_range(start: int, size_bytes: int) -> Iterator[bytes]:
            return self.sink.read(ref.key, start=start, size_bytes=size_bytes)

        return self.verifier.verify_chunks(read_range, ref.size_bytes, self.sample.part, self.sample.of)
