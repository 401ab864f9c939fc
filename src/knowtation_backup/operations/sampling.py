"""Check a part of an archive's content, so that several runs together cover everything."""

from __future__ import annotations

import hashlib

import attrs

from ..contracts import ArchiveSink, Codec
from ..model.blobs import BlobRef
from ..model.reports import Sample

__all__ = ["SampledBlobs", "is_in_part"]


def is_in_part(archive_id: str, sample: Sample) -> bool:
    """Whether an archive that can only be read whole is one of this part; it is one of exactly one part."""
    digest = hashlib.sha256(archive_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % sample.of == sample.part - 1


@attrs.frozen(kw_only=True)
class SampledBlobs:
    """Checks single chunks of blobs whose container authenticates them one by one."""

    sink: ArchiveSink
    sample: Sample

    @classmethod
    def of(cls, sink: ArchiveSink, codec: Codec | None, sample: Sample) -> SampledBlobs | None:
        """Return a checker for what went through *codec*, `None` when its blobs can only be read whole."""
        del sink, codec, sample
        return None

    def check(self, ref: BlobRef) -> int:
        """Check this part of a blob; return how many stored bytes were read."""
        raise NotImplementedError
