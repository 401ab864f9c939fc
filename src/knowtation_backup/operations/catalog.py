"""
List archives from the store alone, and find one by a short name.

Nothing is remembered between calls and no index file exists, so nothing can disagree with the store.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import attrs

from ..contracts import ArchiveSink
from ..errors import BlobNotFoundError, ConfigurationError, IntegrityError, UnsupportedFormatError
from ..model.blobs import BlobInfo
from ..model.json_input import check_nesting
from ..model.manifest import SIDE_PREFIX, STARTED_NAME, Manifest, manifest_key, side_key
from ..model.plans import ArchiveInfo, ArchiveState
from .naming import ArtifactName, StateArchiveName
from .read import read_manifest

__all__ = ["find_archive", "list_archives", "resolve_archive"]

_LATEST = re.compile(r"latest(?:-(?P<back>[0-9]{1,4}))?(?::(?P<series>.+))?")
_LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MAX_STARTED_BYTES = 64 << 10
_MAX_CANDIDATES = 10


def list_archives(sink: ArchiveSink) -> list[ArchiveInfo]:
    """
    Return everything on a sink that is, was or should have become an archive, newest first.

    One listing, and one small read per archive. Damaged and unfinished ones are shown as such. Files of other tools
    that look like archives are listed too: artifacts of the Knowtation tools (unmanaged, `ArchiveState.UNFINISHED`
    because no manifest vouches for them) and state archives of the Duskmantle gateway (``km-backup-*`` managed,
    ``backup-*`` not; empty ones damaged). All other files are ignored.

    Raises:
        SinkUnavailableError: The store could not be reached; an unreachable archive is never listed as damaged.
        SinkPermissionError: Listing or reading is refused.
    """
    found = {info.key: info for info in sink.list()}
    ours: dict[str, list[BlobInfo]] = {}
    for key, info in found.items():
        archive_id, _, name = key.removeprefix(SIDE_PREFIX).partition("/")
        if key.startswith(SIDE_PREFIX) and name and ArtifactName.parse(archive_id):
            ours.setdefault(archive_id, []).append(info)
    view = _StoreView(sink=sink, found=found)
    listed = [view.describe(archive_id, side) for archive_id, side in ours.items()]
    listed += [_foreign(info) for key, info in found.items() if key not in ours]
    return sorted(
        (info for info in listed if info is not None),
        key=lambda info: info.age_key,
        reverse=True,
    )


@attrs.frozen(kw_only=True)
class _StoreView:
    """What one listing of the store showed."""

    sink: ArchiveSink
    found: Mapping[str, BlobInfo]

    def describe(self, archive_id: str, side: Sequence[BlobInfo]) -> ArchiveInfo | None:
        """Describe the archive of this id, of which there is at least one side file; `None` when it is gone by now."""
        if manifest_key(archive_id) in self.found:
            return self._with_manifest(archive_id, side)
        series = self._started_series(archive_id)
        return _archive(archive_id, ArchiveState.UNFINISHED, self._blobs(archive_id, side), series=series)

    def _blobs(self, archive_id: str, side: Sequence[BlobInfo]) -> list[BlobInfo]:
        """
        Return the blobs of an archive in the order to delete them.

        The manifest goes first: from then on there is no archive. The marker goes last: until then an interrupted
        removal is seen to be ours.
        """
        ranks = {manifest_key(archive_id): 0, side_key(archive_id, STARTED_NAME): 3}
        artifact = [self.found[archive_id]] if archive_id in self.found else []
        return sorted(
            [*side, *artifact], key=lambda info: (ranks.get(info.key, 2 if info in artifact else 1), info.key)
        )

    def _with_manifest(self, archive_id: str, side: Sequence[BlobInfo]) -> ArchiveInfo | None:
        blobs = self._blobs(archive_id, side)
        try:
            manifest = read_manifest(self.sink, archive_id)
        except BlobNotFoundError:
            return None  # removed since the listing
        except (IntegrityError, UnsupportedFormatError):
            return _archive(archive_id, ArchiveState.DAMAGED, blobs, series=self._started_series(archive_id))
        if not self._all_there(manifest):
            state = ArchiveState.DAMAGED
        else:
            state = ArchiveState.COMPLETE if manifest.complete else ArchiveState.INCOMPLETE
        series = _series(archive_id, manifest.source_id)
        return _archive(archive_id, state, blobs, series=series, manifest=manifest)

    def _all_there(self, manifest: Manifest) -> bool:
        refs = (manifest.artifact, *manifest.side)
        return all(ref.key in self.found and self.found[ref.key].size_bytes == ref.size_bytes for ref in refs)

    def _started_series(self, archive_id: str) -> str:
        """Return the series as the marker names it; without a readable one no complete archive shares it."""
        try:
            data = self.sink.read_all(side_key(archive_id, STARTED_NAME), limit_bytes=_MAX_STARTED_BYTES)
            check_nesting(data)
            source_id = json.loads(data)["source_id"]
        except (BlobNotFoundError, ConfigurationError, ValueError, KeyError, TypeError, RecursionError):
            source_id = "unknown"
        return _series(archive_id, str(source_id))


def _series(archive_id: str, source_id: str) -> str:
    name = ArtifactName.parse(archive_id)
    return f"{name.name if name else archive_id}@{source_id}"


def _archive(
    archive_id: str,
    state: ArchiveState,
    blobs: Sequence[BlobInfo],
    *,
    series: str,
    manifest: Manifest | None = None,
) -> ArchiveInfo:
    name = ArtifactName.parse(archive_id)
    return ArchiveInfo(
        archive_id=archive_id,
        state=state,
        number=name.number if name else 0,
        series=series,
        taken_at=_moment(archive_id, manifest, blobs),
        size_bytes=sum(info.size_bytes for info in blobs),
        keys=tuple(info.key for info in blobs),
    )


def _moment(archive_id: str, manifest: Manifest | None, blobs: Iterable[BlobInfo]) -> dt.datetime:
    """Return the stamp in the name, to the millisecond where the manifest agrees with it (RET-14)."""
    name = ArtifactName.parse(archive_id)
    if name is None:
        return max((info.modified_at for info in blobs if info.modified_at), default=_LONG_AGO)
    if manifest is not None and manifest.taken_at.replace(microsecond=0) == name.taken_at:
        return manifest.taken_at
    return name.taken_at


def _foreign(info: BlobInfo) -> ArchiveInfo | None:
    """Describe an archive that another tool wrote; `None` for any other file."""
    state_archive = StateArchiveName.parse(info.key)
    if state_archive is not None:
        return ArchiveInfo(
            archive_id=info.key,
            state=ArchiveState.COMPLETE if info.size_bytes else ArchiveState.DAMAGED,
            series=state_archive.name,
            taken_at=state_archive.taken_at or info.modified_at or _LONG_AGO,
            size_bytes=info.size_bytes,
            keys=(info.key,),
            managed=state_archive.managed,
        )
    artifact = ArtifactName.parse(info.key)
    if artifact is None or not artifact.is_knowtation:
        return None
    listed = _archive(info.key, ArchiveState.UNFINISHED, [info], series=artifact.name)
    return attrs.evolve(listed, managed=False)


def find_archive(archives: Sequence[ArchiveInfo], text: str = "latest") -> ArchiveInfo:
    """
    Return the archive that *text* names.

    Args:
        archives: As `list_archives` returned, newest first.
        text: ``latest`` (the newest complete archive of ours), ``latest-1`` (the one before), ``latest:<series>`` or
            ``latest-1:<series>``, an id, or the beginning of exactly one id.

    Raises:
        BlobNotFoundError: There is no such archive.
        ConfigurationError: Several archives begin so; the candidates are named.
    """
    match = _LATEST.fullmatch(text)
    if match:
        usable = [
            info
            for info in archives
            if info.state is ArchiveState.COMPLETE and info.has_manifest and match["series"] in {None, info.series}
        ]
        back = int(match["back"] or 0)
        if back < len(usable):
            return usable[back]
        message = f"there are {len(usable)} complete archives, so no {text!r}"
        others = sum(info.has_manifest for info in archives) - len(usable)
        hint = f"{others} archives are incomplete, damaged or of another series: name one by its id" if others else ""
        raise BlobNotFoundError(message, kind="no_such_archive", hint=hint)
    exact = [info for info in archives if info.archive_id == text]
    candidates = exact or [info for info in archives if text and info.archive_id.startswith(text)]
    if not candidates:
        raise BlobNotFoundError(f"there is no archive {text!r}", kind="no_such_archive", hint="list the archives")
    if len(candidates) > 1:
        named = ", ".join(info.archive_id for info in candidates[:_MAX_CANDIDATES])
        message = f"{len(candidates)} archives begin with {text!r}: {named}"
        raise ConfigurationError(message, kind="ambiguous_archive", hint="give more of the id")
    return candidates[0]


def resolve_archive(sink: ArchiveSink, text: str = "latest") -> str:
    """Return the id of the archive that *text* names, as `find_archive`; a whole id needs no listing."""
    if ArtifactName.parse(text):
        with contextlib.suppress(BlobNotFoundError, ConfigurationError):
            sink.stat(manifest_key(text))
            return text
    return find_archive(list_archives(sink), text).archive_id
