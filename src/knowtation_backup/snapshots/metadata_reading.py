"""
Reading QURI's metadata directories: those of `back_up_metadata`, and older ones, which hold whatever ``dfx`` printed.

Source:
    contracts 4.2 and 4.3.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from ..errors import BackupError, ConfigurationError, UnsupportedFormatError
from ..model.ids import Principal
from ..model.reports import Finding, Outcome
from . import project_files
from .facts import MAX_FACTS_BYTES, CanisterFacts
from .status_text import MAX_TEXT_BYTES, StatusText, parse_status

__all__ = ["MetadataBackup", "MetadataEntry", "read_metadata"]

_MANIFEST: Final = "MANIFEST.txt"
_KINDS: Final = ("status", "info", "metrics")
_FILE: Final = re.compile(
    r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}?)_(?P<kind>status|info|metrics|facts)\.(txt|json)"
)
_CANISTER: Final = re.compile(r"- (?P<name>[^:\s]{1,100}): (?P<id>[a-z0-9-]{1,63})\s*")
_DIGEST: Final = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<file>[A-Za-z0-9_][A-Za-z0-9_.-]{0,120})\s*")
_FACT: Final = re.compile(r"(?P<key>Backup Date|Network): (?P<value>.{0,200})")
_MAX_FILES: Final = 100_000


@attrs.frozen(kw_only=True)
class MetadataEntry:
    """What a directory holds of one canister."""

    name: str
    canister_id: Principal | None
    found: tuple[str, ...]
    """Which of ``status``, ``info`` and ``metrics`` are there; a restore needs one at least."""
    status: StatusText | None = None
    """What the status file, or else the information file, says; `None` when both hold no status."""
    facts: CanisterFacts | None = None


@attrs.frozen(kw_only=True)
class MetadataBackup:
    """What a directory holds, and what is wrong with it."""

    directory: Path
    date: str | None
    """As the manifest says; existing ones are in local time."""
    network: str | None
    entries: tuple[MetadataEntry, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `DIFFERENT` when something was found."""
        return Outcome.DIFFERENT if self.findings else Outcome.OK

    def __getitem__(self, name: str) -> MetadataEntry:
        """Return what is there of a canister; raises `ConfigurationError` (``unknown_canister``)."""
        for entry in self.entries:
            if name in {entry.name, str(entry.canister_id)}:
                return entry
        known = ", ".join(entry.name for entry in self.entries[:20]) or "none"
        message = f"{self.directory.name} holds nothing of {name!r:.80}"
        raise ConfigurationError(message, kind="unknown_canister", hint=f"it has: {known}")

    def __str__(self) -> str:
        """Return a line per canister and finding."""
        lines = [f"{self.directory.name}: {len(self.entries)} canister(s), {self.date or 'no date'}"]
        lines += [f"  {entry.name}: {len(entry.found)} of 3 files" for entry in self.entries]
        return "\n".join([*lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


def read_metadata(directory: str | Path) -> MetadataBackup:
    """
    Read a metadata directory of this library or of the QURI scripts.

    Raises:
        ConfigurationError: It is no directory, cannot be read, or holds no status of any canister
            (``bad_canister_file``).
    """
    place = Path(directory)
    try:
        names = sorted(item.name for item, _ in zip(place.iterdir(), range(_MAX_FILES), strict=False))
    except OSError as error:
        raise project_files.bad_file(place.name, error.strerror or type(error).__name__) from error
    files: dict[str, set[str]] = {}
    for name in names:
        if (match := _FILE.fullmatch(name)) is not None:
            files.setdefault(match["name"], set()).add(match["kind"])
    if not files:
        raise project_files.bad_file(place.name, "it holds no status, information or metrics of a canister")
    findings: list[Finding] = []
    manifest = _manifest_lines(place, findings)
    ids = {match["name"]: match["id"] for line in manifest if (match := _CANISTER.fullmatch(line))}
    facts = {match["key"]: match["value"] for line in manifest if (match := _FACT.fullmatch(line))}
    findings += _differing(place, manifest)
    entries = tuple(_entry(place, name, ids.get(name), kinds, findings) for name, kinds in files.items())
    return MetadataBackup(
        directory=place,
        date=facts.get("Backup Date"),
        network=facts.get("Network"),
        entries=entries,
        findings=tuple(findings),
    )


def _manifest_lines(place: Path, findings: list[Finding]) -> list[str]:
    if not (place / _MANIFEST).exists():
        findings.append(Finding(code="manifest_missing", where=_MANIFEST, message="there is no manifest"))
        return []
    return project_files.read_small(place / _MANIFEST, MAX_TEXT_BYTES).decode("utf-8", "replace").splitlines()


def _differing(place: Path, manifest: list[str]) -> Iterator[Finding]:
    """Yield a finding for each file that is not what the manifest says; older manifests say nothing."""
    digests: Mapping[str, str] = {m["file"]: m["digest"] for line in manifest if (m := _DIGEST.fullmatch(line))}
    for name, digest in digests.items():
        try:
            data = project_files.read_small(place / name, MAX_FACTS_BYTES)
        except ConfigurationError as error:
            yield Finding(code="metadata_file_missing", where=name, message=error.message)
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            yield Finding(code="metadata_digest", where=name, message="it is not what the manifest says")


def _entry(place: Path, name: str, known_id: str | None, kinds: set[str], findings: list[Finding]) -> MetadataEntry:
    status: StatusText | None = None
    for kind in ("status", "info"):
        if status is None and kind in kinds:
            status = _printed(place, f"{name}_{kind}", findings)
    facts: CanisterFacts | None = None
    if "facts" in kinds:
        try:
            facts = CanisterFacts.from_bytes(project_files.read_small(place / f"{name}_facts.json", MAX_FACTS_BYTES))
        except BackupError as error:
            findings.append(Finding(code="facts_unreadable", where=f"{name}_facts.json", message=error.message))
    return MetadataEntry(
        name=name,
        canister_id=_id(known_id) or (facts.canister_id if facts else status.canister_id if status else None),
        found=tuple(kind for kind in _KINDS if kind in kinds),
        status=status,
        facts=facts,
    )


def _printed(place: Path, stem: str, findings: list[Finding]) -> StatusText | None:
    path = next((path for ending in ("txt", "json") if (path := place / f"{stem}.{ending}").exists()), None)
    if path is None:
        return None
    try:
        return parse_status(project_files.read_small(path, MAX_TEXT_BYTES))
    except (UnsupportedFormatError, ConfigurationError) as error:
        # The scripts keep what the tool printed, also when that was an error.
        findings.append(Finding(code="status_unreadable", where=path.name, message=error.message))
        return None


def _id(text: str | None) -> Principal | None:
    try:
        return None if text is None else Principal.parse(text)
    except ConfigurationError:
        return None
