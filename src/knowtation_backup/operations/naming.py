"""
Names of artifacts: ``<name>-<stamp>[-NN]<suffix>``, and those other tools gave theirs.

The globs that consumers collect with (``operator-full-export-*``, ``canister-export-*``) match every name made here and
no side file (contracts 2.2, STO-15).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re

import attrs

from ..errors import BackupError, ConfigurationError
from ..model.blobs import check_key
from ..model.moments import parse_iso, parse_stamp, stamp

__all__ = ["ArtifactName", "ForeignName", "StateArchiveName"]

_NAME = re.compile(r"(?P<name>[^/]+?)-(?P<stamp>[0-9]{8}T[0-9]{6}Z)(?:-(?P<number>[0-9]{2,3}))?(?P<suffix>\.[^/]+)")
_STATE_ARCHIVE = re.compile(r"(?P<name>km-backup|backup)-(?P<middle>[^/]*)\.(?:tgz|tar\.gz)", re.IGNORECASE)
_LOCAL_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z?")
_WRAPPED = re.compile(r"\.(?:json|ndjson)(?:\.(?:gz|zst|br|xz))?(?:\.(?:enc|age|ktb2))?")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_VAULT_NAME = "canister-export-"
_KINDS = {
    "operator-full-export": "knowtation-operator-full-export",
    "records-export": "knowtation-backup-records",
    "attestation-export": "knowtation-attestation-export",
}
_VAULT_KIND = "knowtation-operator-vault-export"
_AGENT_TIME = r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})T(?P<time>[0-9]{2}-[0-9]{2}-[0-9]{2})-(?P<ms>[0-9]{3})Z"
_AGENT_FILE = re.compile(rf"(?P<agent>[^/]+)-{_AGENT_TIME}(?P<suffix>\.[^/]+|-full\.zip)")
_AGENT_KINDS = {
    ".json": "agentvault-manifest",
    "-full.zip": "agentvault-full-backup",
    ".zip.enc": "agentvault-encrypted-zip",
    ".thoughtform-bundle.json.gz": "agentvault-thoughtform-bundle",
}
_ACCOUNT_SUFFIX = ".hypervault-snapshot.json.gz"
_AGENT_ARCHIVE = re.compile(r"archive-(?P<ms>[0-9]{12,14})-[0-9a-f]{8}\.json")
_QURI_ARCHIVE = re.compile(r"(?P<day>[0-9]{8})_(?P<time>[0-9]{6})\.tar\.gz")


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
        """Whether files of such names are written by the Knowtation tools, or by us; compressed or sealed as well."""
        return bool(self.kind and _WRAPPED.fullmatch(self.suffix))

    @property
    def kind(self) -> str:
        """Kind of the payload that files of such names hold; empty for other names."""
        return _VAULT_KIND if self.name.startswith(_VAULT_NAME) else _KINDS.get(self.name, "")

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


@attrs.frozen(kw_only=True)
class ForeignName:
    """
    What the name of a file says when no manifest of ours is beside it.

    Known are artifacts of the Knowtation tools (contracts 2.2), state archives of the Duskmantle gateway (5.2), files
    of AgentVault (6.2) and compressed backups of QURI (4.2). A name proves nothing: `recognise` looks at the bytes.
    """

    series: str
    kind: str
    """What such a file holds, for listings."""
    taken_at: dt.datetime | None = None
    """The moment in the name; those of QURI and some of Duskmantle were local time and are read as UTC."""
    number: int = 0
    managed: bool = False
    """Whether pruning may count and remove it although nothing vouches for it (contracts 5.3)."""

    @classmethod
    def parse(cls, key: str) -> ForeignName | None:
        """Return what *key* says, or `None` when no known tool gives such names."""
        state_archive = StateArchiveName.parse(key)
        if state_archive is not None:
            kind, moment = "duskmantle-state", state_archive.taken_at
            return cls(series=state_archive.name, kind=kind, taken_at=moment, managed=state_archive.managed)
        artifact = ArtifactName.parse(key)
        if artifact is not None and artifact.is_knowtation:
            return cls(series=artifact.name, kind=artifact.kind, taken_at=artifact.taken_at, number=artifact.number)
        return cls._agentvault(key) or cls._quri(key)

    @classmethod
    def _agentvault(cls, key: str) -> ForeignName | None:
        match = _AGENT_FILE.fullmatch(key)
        if match is not None and match["suffix"] in _AGENT_KINDS:
            text = f"{match['day']}T{match['time'].replace('-', ':')}.{match['ms']}Z"
            with contextlib.suppress(BackupError):
                return cls(series=match["agent"], kind=_AGENT_KINDS[match["suffix"]], taken_at=parse_iso(text))
        if key.endswith(_ACCOUNT_SUFFIX) and "/" not in key and key != _ACCOUNT_SUFFIX:
            return cls(series="hypervault-snapshot", kind="agentvault-account-snapshot")
        match = _AGENT_ARCHIVE.fullmatch(key)
        if match is not None:
            moment = _EPOCH + dt.timedelta(milliseconds=int(match["ms"]))
            return cls(series="archive", kind="agentvault-archive", taken_at=moment)
        return None

    @classmethod
    def _quri(cls, key: str) -> ForeignName | None:
        match = _QURI_ARCHIVE.fullmatch(key)
        if match is not None:
            with contextlib.suppress(BackupError):
                moment = parse_stamp(f"{match['day']}T{match['time']}Z")
                return cls(series="quri", kind="quri-backup", taken_at=moment)
        return None
