"""
Waste: frames of packs that no archive needs any more, while others of the same packs are needed.

Pruning deletes whole packs only. What is counted here comes free when the archives that need the rest are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ...repository.claims import piece_frames
from ...repository.manifest import ArchiveManifest, FileTable, ImageTables
from ...repository.reading import IndexReader
from ...repository.repository import Repository
from ...repository.tables import FrameRef

__all__ = ["PartlyUsed", "Waste", "measure_waste"]


@attrs.frozen(kw_only=True)
class PartlyUsed:
    """A pack of which some frames are not needed."""

    pack_id: bytes
    size_bytes: int
    wasted_bytes: int


@attrs.frozen(kw_only=True)
class Waste:
    """How much of the packs that are needed is not."""

    packs: int
    pack_bytes: int
    partly_used: tuple[PartlyUsed, ...]
    """The most wasteful first."""

    @property
    def wasted_bytes(self) -> int:
        """All together; frames are counted as needed when any table names them."""
        return sum(pack.wasted_bytes for pack in self.partly_used)

    def __str__(self) -> str:
        """Return one line for people."""
        share = 100 * self.wasted_bytes / self.pack_bytes if self.pack_bytes else 0
        return (
            f"{self.wasted_bytes:,} of {self.pack_bytes:,} bytes ({share:.1f} %) are wasted, "
            f"in {len(self.partly_used)} of {self.packs} packs"
        )


def measure_waste(repository: Repository) -> Waste:
    """
    Return how much of packs is wasted: reads every manifest and index once, and no content.

    Memory: about 200 bytes for every frame of the repository, which is 1 MiB of content.

    Args:
        repository: A writer key is enough.

    Raises:
        IntegrityError: A manifest or an index cannot be read.
        SinkUnavailableError: The store could not be reached.
    """
    used = _Used(IndexReader(repository.sink, repository.keys))
    sizes: dict[bytes, int] = {}
    for listed in repository.trusting_anybody.archives():  # as `prune` reads them
        if listed.manifest is None:
            if listed.error is not None:
                raise listed.error
            continue
        used.note(listed.manifest)
        sizes.update((ref.object_id, ref.size_bytes) for ref in listed.manifest.packs)
    partly = [
        PartlyUsed(pack_id=pack_id, size_bytes=size, wasted_bytes=wasted)
        for pack_id, size in sizes.items()
        if (wasted := size - used.head_bytes - sum(used.frames.get(pack_id, {}).values())) > 0
    ]
    partly.sort(key=lambda pack: pack.wasted_bytes, reverse=True)
    return Waste(packs=len(sizes), pack_bytes=sum(sizes.values()), partly_used=tuple(partly))


class _Used:
    """Which frames are needed."""

    def __init__(self, reader: IndexReader) -> None:
        self._reader = reader
        self._tables: set[tuple[bytes, int]] = set()
        self.frames: dict[bytes, dict[int, int]] = {}
        """Length of every needed frame, by pack and number."""
        self.head_bytes = 0
        """Before the first frame of a pack; the same in all of them, nearly."""

    def note(self, manifest: ArchiveManifest) -> None:
        for section in manifest.sections:
            if isinstance(section, FileTable):
                self._frames(piece_frames(manifest, section))
                continue
            for ref in {ref for segment in section.segments for ref in segment.tables}:
                index_id = manifest.indexes[ref.index].object_id
                if (index_id, ref.frame) in self._tables:
                    continue
                self._tables.add((index_id, ref.frame))
                if isinstance(section, ImageTables):
                    self._frames(self._reader.page_table(index_id, ref.frame).frames)
                else:
                    self._frames(self._reader.record_table(index_id, ref.frame).frames)

    def _frames(self, frames: Iterable[FrameRef]) -> None:
        for frame in frames:
            self.frames.setdefault(frame.pack_id, {})[frame.number] = frame.length
            if frame.number == 0:
                self.head_bytes = frame.offset
