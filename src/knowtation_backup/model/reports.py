"""What operations report: typed, printable as text, convertible to JSON-able values."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import attrs

from .._checks import whole_number
from ..errors import BackupError, ConfigurationError, IntegrityError
from .ids import Principal, SnapshotId
from .manifest import Manifest
from .moments import iso_ms
from .plans import ForgetAction

__all__ = [
    "BackupReport",
    "CaptureResult",
    "Coverage",
    "Finding",
    "ForgetReport",
    "Outcome",
    "Sample",
    "SideFile",
    "TargetResult",
    "Unverified",
    "VerifyAllReport",
    "VerifyLevel",
    "VerifyReport",
    "jsonable",
]


class Outcome(enum.IntEnum):
    """How an operation ended; the value is the exit code scripts are documented to use."""

    OK = 0
    FAILED = 1
    PARTIAL = 3
    DIFFERENT = 4
    REFUSED = 5


class VerifyLevel(enum.Enum):
    """
    How deep `verify` looks.

    ``structure``: the manifest reads and is self-consistent. ``presence``: every blob exists with its size.
    ``content``: every stored byte is read and hashed, opened, and the payload is checked against its details.
    """

    STRUCTURE = "structure"
    PRESENCE = "presence"
    CONTENT = "content"


class Coverage(enum.Enum):
    """
    How much of an archive's content a verification read.

    ``none``: level ``structure`` or ``presence``, or the archive belongs to another part of a sample, or may not be
    opened. ``stored``: every stored byte was compared with the name it lies under, and nothing was opened. ``part``:
    some chunks of every blob, or some packs of a repository. ``whole``: every byte.
    """

    NONE = "none"
    STORED = "stored"
    PART = "part"
    WHOLE = "whole"


@attrs.frozen(kw_only=True)
class Finding:
    """Something an operator should know: stable ``code``, the place, a sentence."""

    code: str
    where: str
    message: str


@attrs.frozen(kw_only=True)
class SideFile:
    """Bytes to be kept beside the payload, sealed the same way."""

    name: str
    content: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class CaptureResult:
    """
    What a capture knows once its last chunk was read.

    ``details`` is JSON-able and is stored sealed like the payload: per-tenant facts, failures, content root.
    """

    complete: bool
    counts: Mapping[str, int]
    details: Mapping[str, Any] = attrs.field(repr=False)
    side_files: tuple[SideFile, ...] = ()
    warnings: tuple[Finding, ...] = ()


@attrs.frozen(kw_only=True)
class TargetResult:
    """How one of several targets of a sink fared with one archive."""

    target: str
    location: str
    error: BackupError | None = None
    """Why the archive is not there, or not whole; `None` when it is."""

    @property
    def ok(self) -> bool:
        """Whether everything that was sent is there."""
        return self.error is None


@attrs.frozen(kw_only=True)
class BackupReport:
    """One finished backup: what was stored, where, and what to worry about."""

    manifest: Manifest
    payload_bytes: int
    """Size before compression and sealing."""
    payload_sha256: str
    duration_seconds: float
    warnings: tuple[Finding, ...] = ()
    targets: tuple[TargetResult, ...] = ()
    """One per target of a sink that has several; empty for a single one."""

    @property
    def archive_id(self) -> str:
        """Id of the archive, see `Manifest.archive_id`."""
        return self.manifest.archive_id

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `PARTIAL` when tenants or vaults are missing, or a target failed."""
        whole = self.manifest.complete and all(result.ok for result in self.targets)
        return Outcome.OK if whole else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in self.manifest.counts.items())
        stored = self.manifest.artifact.size_bytes
        lines = [
            f"{'complete' if self.manifest.complete else 'INCOMPLETE'} archive {self.archive_id}",
            f"  {counts}",
            f"  {self.payload_bytes} bytes raw, {stored} stored, {self.duration_seconds:.1f} s",
            *(f"  {r.target} ({r.location}): {'stored' if r.ok else f'FAILED: {r.error}'}" for r in self.targets),
            *(f"  warning {w.code} at {w.where}: {w.message}" for w in self.warnings),
        ]
        return "\n".join(lines)


@attrs.frozen(kw_only=True)
class Sample:
    """One part of a whole that is covered once in *of* runs: run with part 1, 2, ... *of*."""

    part: int = attrs.field(validator=whole_number(1))
    of: int = attrs.field(validator=whole_number(1))

    def __attrs_post_init__(self) -> None:
        """Refuse a part beyond the last."""
        if self.part > self.of:
            raise ConfigurationError(f"part {self.part} of {self.of} does not exist", kind="bad_sample")


@attrs.frozen(kw_only=True)
class VerifyReport:
    """What `verify` found; no findings means every check of the level passed."""

    archive_id: str
    level: VerifyLevel
    verified_at: dt.datetime
    bytes_read: int
    findings: tuple[Finding, ...] = ()
    sample: Sample | None = None
    """Which part of the content was asked for; `None` for all of it."""
    covered: Coverage = Coverage.NONE
    """How much of the content was read."""
    recorded: bool = False
    """Whether the result was noted beside the archive."""

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.findings

    @property
    def outcome(self) -> Outcome:
        """`OK` or `DIFFERENT`."""
        return Outcome.OK if self.ok else Outcome.DIFFERENT

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def raise_for_findings(self) -> None:
        """Raise an `IntegrityError` that names the findings, if there are any."""
        if self.findings:
            listed = "; ".join(f"{f.code} at {f.where}: {f.message}" for f in self.findings[:5])
            message = f"archive {self.archive_id} failed verification with {len(self.findings)} finding(s): {listed}"
            raise IntegrityError(message, archive_id=self.archive_id, codes=[f.code for f in self.findings])

    def __str__(self) -> str:
        """Return a few lines for people."""
        verdict = "ok" if self.ok else f"{len(self.findings)} finding(s)"
        depth = self.level.value
        if self.sample is not None:
            depth += f", part {self.sample.part} of {self.sample.of}"
        if self.level is VerifyLevel.CONTENT and self.covered is Coverage.NONE:
            depth += ", content not read"
        if self.covered is Coverage.STORED:
            depth += ", content not opened"
        lines = [f"verify {self.archive_id} ({depth}): {verdict}, {self.bytes_read} bytes read"]
        return "\n".join(lines + [f"  {f.code} at {f.where}: {f.message}" for f in self.findings])


@attrs.frozen(kw_only=True)
class Unverified:
    """An archive that could not be judged, and why: another key, a missing package, a refused read."""

    archive_id: str
    error: BackupError


@attrs.frozen(kw_only=True)
class VerifyAllReport:
    """What verifying several archives found."""

    reports: tuple[VerifyReport, ...]
    """One per archive that was judged, in the order asked for."""
    unverified: tuple[Unverified, ...] = ()
    """Archives nothing is known of."""
    vanished: tuple[str, ...] = ()
    """Ids of archives that were removed in the meantime."""

    @property
    def failed(self) -> tuple[VerifyReport, ...]:
        """The reports with findings."""
        return tuple(report for report in self.reports if not report.ok)

    @property
    def bytes_read(self) -> int:
        """Stored bytes read for all of them."""
        return sum(report.bytes_read for report in self.reports)

    @property
    def ok(self) -> bool:
        """Whether every archive was judged and none has findings."""
        return not self.failed and not self.unverified

    @property
    def outcome(self) -> Outcome:
        """`DIFFERENT` when something was found, else `PARTIAL` when something could not be judged, else `OK`."""
        return Outcome.DIFFERENT if self.failed else Outcome.PARTIAL if self.unverified else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def raise_for_findings(self) -> None:
        """Raise an `IntegrityError` for the first archive with findings, else why the first unjudged one was not."""
        for report in self.failed:
            report.raise_for_findings()
        for item in self.unverified:
            raise item.error

    def __str__(self) -> str:
        """Return a line per archive, and one per finding."""
        totals = f"{len(self.failed)} with findings, {len(self.unverified)} not judged, {self.bytes_read} bytes read"
        lines = [f"verified {len(self.reports)} archive(s): {totals}"]
        lines += [f"  NOT JUDGED {item.archive_id}: {item.error}" for item in self.unverified]
        return "\n".join(lines + [str(report) for report in self.reports])


@attrs.frozen(kw_only=True)
class ForgetReport:
    """What applying a forget plan did."""

    forgotten: tuple[str, ...]
    """Ids of the archives that are gone, or in the trash now, oldest first."""
    freed_bytes: int
    """What was removed; 0 when archives went to the trash."""
    action: ForgetAction = ForgetAction.DELETE
    """Whether they were removed or put into the trash."""

    @property
    def outcome(self) -> Outcome:
        """`OK`: a plan that cannot be applied whole raises."""
        return Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a few lines for people."""
        if self.action is ForgetAction.TRASH:
            lines = [f"moved {len(self.forgotten)} archive(s) to the trash; nothing was removed"]
        else:
            lines = [f"forgot {len(self.forgotten)} archive(s), {self.freed_bytes} bytes"]
        return "\n".join(lines + [f"  {archive_id}" for archive_id in self.forgotten])


def jsonable(value: Any) -> Any:
    """Return a report or any model value as plain dicts, lists, texts and numbers for `json.dumps`."""
    match value:
        case enum.Enum():
            plain: Any = value.value
        case dt.datetime():
            plain = iso_ms(value)
        case Principal() | SnapshotId() | PurePath():
            plain = str(value)
        case dt.timedelta():
            plain = value.total_seconds()
        case bytes():
            plain = value.hex()
        case BackupError():
            plain = {"kind": value.kind, "message": value.message, "hint": value.hint}
        case Mapping():
            plain = {str(key): jsonable(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            plain = [jsonable(item) for item in value]
        case _ if attrs.has(type(value)):
            plain = {f.name: jsonable(getattr(value, f.name)) for f in attrs.fields(type(value)) if f.repr}
        case _:
            plain = value
    return plain
