"""
Describe archives: what the keys of one listing, a manifest and a few marks say of each.

Files of other tools are described by their names alone and never read.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from ..contracts import ArchiveSink
from ..errors import BlobNotFoundError, ConfigurationError, IntegrityError, UnsupportedFormatError
from ..model.blobs import BlobInfo
from ..model.json_input import check_nesting
from ..model.manifest import (
    REWRAPPED_FROM,
    SIDE_PREFIX,
    STARTED_NAME,
    Manifest,
    archive_of,
    manifest_key,
    side_key,
)
from ..model.marks import MarkName
from ..model.plans import ArchiveInfo, ArchiveState
from ..model.signatures import SignaturePolicy
from .marks import mark_names, read_standing
from .naming import ArtifactName, ForeignName, StateArchiveName
from .read import read_manifest

__all__ = ["StoreView"]

UNKNOWN_SOURCE = "unknown"
MAX_STARTED_BYTES = 64 << 10
_LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@attrs.frozen(kw_only=True)
class _Marker:
    """What ``started.json`` says; without a readable one no complete archive shares the series."""

    kind: str = ""
    source_id: str = ""


@attrs.frozen(kw_only=True)
class StoreView:
    """What one listing of a store showed; `describe` may be called from several threads."""

    sink: ArchiveSink
    found: Mapping[str, BlobInfo]
    sides: Mapping[str, Sequence[BlobInfo]]
    """Side files by the id they belong to."""
    signatures: SignaturePolicy | None = None
    """Archives it refuses are described as damaged."""

    @classmethod
    def of(cls, sink: ArchiveSink, signatures: SignaturePolicy | None = None) -> StoreView:
        """List a sink once."""
        found = {info.key: info for info in sink.list()}
        sides: dict[str, list[BlobInfo]] = {}
        for key, info in found.items():
            if key.startswith(SIDE_PREFIX) and key.count("/") > 1:
                sides.setdefault(archive_of(key), []).append(info)
        return cls(sink=sink, found=found, sides=sides, signatures=signatures)

    def candidates(self) -> Iterator[str]:
        """Yield the id of everything that may be an archive; `describe` knows which are."""
        yield from self.sides
        for key in self.found:
            if key not in self.sides and ForeignName.parse(key):
                yield key

    def describe(self, archive_id: str) -> ArchiveInfo | None:
        """
        Describe one of the `candidates`, `None` when it is nothing of ours or gone by now.

        Raises:
            SinkUnavailableError: The store could not be reached.
            SinkPermissionError: Reading is refused.
        """
        if manifest_key(archive_id) in self.found:
            return self._with_manifest(archive_id)
        side = self.sides.get(archive_id, ())
        foreign = ForeignName.parse(archive_id)
        if foreign is not None and archive_id in self.found and all(MarkName.parse(info.key) for info in side):
            return self._foreign(archive_id, foreign)
        named = foreign is not None or ArtifactName.parse(archive_id) is not None
        if not named and archive_id not in self.found and side_key(archive_id, STARTED_NAME) not in self.found:
            return None
        return attrs.evolve(self._without_manifest(archive_id), managed=self._is_ours(archive_id))

    def _is_ours(self, archive_id: str) -> bool:
        """
        Whether we wrote the artifact, if there is one: then our marker was there first.

        Else what lies beside it must not get it removed: whoever may create blobs can put a marker, or a manifest that
        does not read, beside any file. Where the store knows no times, a marker must do.
        """
        artifact, marker = self.found.get(archive_id), self.found.get(side_key(archive_id, STARTED_NAME))
        if artifact is None or marker is None:
            return artifact is None
        if artifact.modified_at is None or marker.modified_at is None:
            return True
        return marker.modified_at <= artifact.modified_at

    def _blobs(self, archive_id: str) -> list[BlobInfo]:
        """
        Return the blobs of an archive in the order to delete them.

        The manifest goes first: from then on there is no archive. Marks go after the artifact, so that what was in the
        trash is seen to be. The marker goes last: until then an interrupted removal is seen to be ours.
        """
        ranks = {manifest_key(archive_id): 0, archive_id: 2, side_key(archive_id, STARTED_NAME): 4}
        artifact = [self.found[archive_id]] if archive_id in self.found else []

        def rank(info: BlobInfo) -> tuple[int, str]:
            return ranks.get(info.key, 3 if MarkName.parse(info.key) else 1), info.key

        return sorted([*self.sides.get(archive_id, ()), *artifact], key=rank)

    def _archive(
        self,
        archive_id: str,
        state: ArchiveState,
        *,
        kind: str = "",
        source_id: str = "",
        manifest: Manifest | None = None,
    ) -> ArchiveInfo:
        blobs = self._blobs(archive_id)
        name = ArtifactName.parse(archive_id)
        foreign = ForeignName.parse(archive_id)
        keys = tuple(info.key for info in blobs)
        return ArchiveInfo(
            archive_id=archive_id,
            state=state,
            number=name.number if name else 0,
            series=_series(archive_id, kind, source_id or UNKNOWN_SOURCE),
            taken_at=_moment(archive_id, manifest, blobs),
            size_bytes=sum(info.size_bytes for info in blobs),
            keys=keys,
            kind=kind or (foreign.kind if foreign else ""),
            source_id=source_id,
            backup_tags=manifest.tags if manifest else (),
            rewrapped_from=str(manifest.extra.get(REWRAPPED_FROM, "")) if manifest else "",
            standing=read_standing(self.sink, mark_names(keys)),
        )

    def _with_manifest(self, archive_id: str) -> ArchiveInfo | None:
        try:
            manifest = read_manifest(self.sink, archive_id, self.signatures)
        except BlobNotFoundError:
            return None  # removed since the listing
        except (IntegrityError, UnsupportedFormatError):
            known = archive_id in self.found or ArtifactName.parse(archive_id) or ForeignName.parse(archive_id)
            if not known:
                return None  # nothing but its place speaks for an archive of ours
            marker = self._marker(archive_id)
            damaged = self._archive(archive_id, ArchiveState.DAMAGED, kind=marker.kind, source_id=marker.source_id)
            return attrs.evolve(damaged, managed=self._is_ours(archive_id))
        if not self._all_there(manifest):
            state = ArchiveState.DAMAGED
        else:
            state = ArchiveState.COMPLETE if manifest.complete else ArchiveState.INCOMPLETE
        return self._archive(archive_id, state, kind=manifest.kind, source_id=manifest.source_id, manifest=manifest)

    def _without_manifest(self, archive_id: str) -> ArchiveInfo:
        marker = self._marker(archive_id)
        return self._archive(archive_id, ArchiveState.UNFINISHED, kind=marker.kind, source_id=marker.source_id)

    def _foreign(self, archive_id: str, name: ForeignName) -> ArchiveInfo:
        """Describe a file that another tool wrote, from its name and our marks."""
        empty = self.found[archive_id].size_bytes == 0
        vouched = ArchiveState.COMPLETE if StateArchiveName.parse(archive_id) else ArchiveState.UNFINISHED
        listed = self._archive(archive_id, ArchiveState.DAMAGED if empty else vouched, kind=name.kind)
        return attrs.evolve(listed, series=name.series, managed=name.managed)

    def _all_there(self, manifest: Manifest) -> bool:
        refs = (manifest.artifact, *manifest.side)
        return all(ref.key in self.found and self.found[ref.key].size_bytes == ref.size_bytes for ref in refs)

    def _marker(self, archive_id: str) -> _Marker:
        key = side_key(archive_id, STARTED_NAME)
        if key not in self.found:
            return _Marker()
        try:
            data = self.sink.read_all(key, limit_bytes=MAX_STARTED_BYTES)
            check_nesting(data)
            value = json.loads(data)
            return _Marker(kind=str(value.get("kind", "")), source_id=str(value["source_id"]))
        except (BlobNotFoundError, ConfigurationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return _Marker()


def _series(archive_id: str, kind: str, source_id: str) -> str:
    state_archive = StateArchiveName.parse(archive_id)
    if state_archive is not None:
        return state_archive.name  # the same with and without a manifest, so that retention counts them together
    name = ArtifactName.parse(archive_id)
    if name is not None:
        return f"{name.name}@{source_id}"
    foreign = ForeignName.parse(archive_id)
    return f"{foreign.series if foreign else kind or archive_id}@{source_id}"


def _moment(archive_id: str, manifest: Manifest | None, blobs: Iterable[BlobInfo]) -> dt.datetime:
    """Return the stamp in the name, to the millisecond where the manifest agrees with it (RET-14)."""
    name = ArtifactName.parse(archive_id) or ForeignName.parse(archive_id)
    stamped = name.taken_at if name else None
    if manifest is not None and (stamped is None or manifest.taken_at.replace(microsecond=0) == stamped):
        return manifest.taken_at
    written = (info.modified_at for info in blobs if info.modified_at and not info.key.startswith(SIDE_PREFIX))
    return stamped or max(written, default=_LONG_AGO)
