"""
Names of artifacts: ``<name>-<stamp>[-NN]<suffix>``, and those other tools gave theirs.

The globs that consumers collect with (``operator-full-export-*``, ``canister-export-*``) match every name made here and
no side file (contracts 2.2, STO-15).
"""

from __future__ import annotations

import datetime as dt
import re

import attrs

from ..errors import BackupError, ConfigurationError
from ..model.blobs import check_key
from ..model.moments import parse_stamp, stamp

__all__ = ["ArtifactName", "StateArchiveName"]

_NAME = re.compile(r"(?P<name>[^/]+?)-(?P<stamp>[0-9]{8}T[0-9]{6}Z)(?:-(?P<number>[0-9]{2,3}))?(?P<suffix>\.[^/]+)")
_STATE_ARCHIVE = re.compile(r"(?P<name>km-backup|backup)-(?P<middle>[^/]*)\.(?:tgz|tar\.gz)", re.IGNORECASE)
_LOCAL_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z?")


@attrs.frozen(kw_only=True)
class ArtifactName:
    """The parts of an artifact's key; ``number`` 0 means there was no clash."""

    name: str
    taken_at: dt.datetime
    suffix: str
    number: int = 0

    @property
    def key(self) -> str:
        """The key made of the parts; raises `ConfigurationError` when they make no valid one."""
        clash = f"-{self.number:02d}" if self.number else ""
        key = check_key(f"{self.name}-{stamp(self.taken_at)}{clash}{self.suffix}")
        if not _NAME.fullmatch(key):
            raise ConfigurationError(f"{key!r} is not <name>-<stamp><suffix>", kind="bad_artifact_name")
        return key

    @property
    def is_knowtation(self) -> bool:
        """Whether the Knowtation tools write files of such names."""
        known = self.name == "operator-full-export" or self.name.startswith("canister-export-")
        return known and self.suffix in {".json", ".json.enc"}

    @classmethod
    def parse(cls, key: str) -> ArtifactName | None:
        """Return the parts of *key*, to the second, or `None` when it is no artifact's key."""
        match = _NAME.fullmatch(key)
        if match is None:
            return None
        try:
            taken_at = parse_stamp(match["stamp"])
        except BackupError:
            return None
        return cls(name=match["name"], taken_at=taken_at, suffix=match["suffix"], number=int(match["number"] or 0))


@attrs.frozen(kw_only=True)
class StateArchiveName:
    """
    A state archive of the Duskmantle gateway (contracts 5.2 and 5.3).

    ``managed`` is whether pruning may count and remove it: only ``km-backup-*`` in exactly that case. ``taken_at`` is
    `None` without a stamp; a stamp without ``Z`` was local time and is read as UTC, for want of the zone.
    """

    name: str
    managed: bool
    taken_at: dt.datetime | None

    @classmethod
    def parse(cls, key: str) -> StateArchiveName | None:
        """Return what *key* says, or `None` when it is no such archive's name."""
        match = _STATE_ARCHIVE.fullmatch(key)
        if match is None or not match["name"].islower():
            return None
        taken_at = None
        if _LOCAL_STAMP.fullmatch(match["middle"]):
            try:
                taken_at = parse_stamp(match["middle"].rstrip("Z") + "Z")
            except BackupError:
                taken_at = None
        return cls(name=match["name"], managed=match["name"] == "km-backup", taken_at=taken_at)
