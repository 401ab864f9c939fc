"""Keeping the books of one capture: what was read of whom, what is missing, and the proof over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..errors import ExportError
from ..model.reports import CaptureResult, Finding, SideFile
from .records import ContentRoot, TenantDigest
from .tenants import Problem, RawReply, Remark

__all__ = ["CAPTURE_FORMAT", "CAPTURE_VERSION", "CaptureBook", "TenantEntry"]

CAPTURE_FORMAT = "knowtation-backup-capture"
CAPTURE_VERSION = 1
_MAX_FINDINGS = 1000
_MAX_FAILURES = 10_000
_RAW_OVERHEAD_BYTES = 1000
"""Counted for each malformed reply, so that a hub full of empty ones comes to an end, too."""


@attrs.frozen(kw_only=True)
class TenantEntry:
    """
    One tenant in the details of a capture.

    ``status`` is ``complete``, ``partial`` (some of it is missing, see the failures), ``failed`` (nothing of it is in
    the payload), or ``absent`` (asked for beside the index, and without content).
    """

    user_id: str
    status: str
    listed: bool
    offset: int = 0
    """Where the tenant's bytes begin in the plain payload; separators between tenants belong to none."""
    size_bytes: int = 0
    sha256: str = ""
    digest: TenantDigest | None = None
    partial_vaults: Sequence[str] = ()
    copied_from: str = ""
    """When a resumed capture took this tenant over: the moment of the earlier one."""

    def to_json(self) -> dict[str, Any]:
        """Return the object details hold."""
        value: dict[str, Any] = {"user_id": self.user_id, "status": self.status, "listed": self.listed}
        if self.digest is not None:
            value |= {"offset": self.offset, "size_bytes": self.size_bytes, "sha256": self.sha256}
            value |= self.digest.to_json() | {"user_id": self.user_id}
        if self.partial_vaults:
            value["partial_vaults"] = list(self.partial_vaults)
        if self.copied_from:
            value["copied_from"] = self.copied_from
        return value


class CaptureBook:
    """
    Collects facts in the order of the payload; one thread only.

    Lists of findings and failures are cut at 1,000 and 10,000 entries, with counts of what was left out.
    """

    def __init__(self, *, raw_replies_bytes: int) -> None:
        self._raw_limit = raw_replies_bytes
        self._raw_bytes = 0
        self._tenants: list[TenantEntry] = []
        self._root = ContentRoot()
        self._records = 0
        self._failures: list[dict[str, str]] = []
        self._failure_count = 0
        self._warnings: list[Finding] = []
        self._warning_counts: dict[str, int] = {}
        self._remarks: list[dict[str, Any]] = []
        self._side_files: list[SideFile] = []
        self._unparseable: list[dict[str, str]] = []
        self.proposals_without_id = 0

    @property
    def records(self) -> int:
        """Records in all tenants so far."""
        return self._records

    @property
    def counts(self) -> Mapping[str, int]:
        """Totals of the payload so far."""
        return self._root.counts

    @property
    def problems(self) -> int:
        """How many things could not be read so far."""
        return self._failure_count

    def tenant(self, entry: TenantEntry) -> None:
        """Note a tenant that was dealt with."""
        self._tenants.append(entry)
        if entry.digest is not None:
            self._root.add(entry.digest)
            self._records += entry.digest.records

    def problem(self, user_id: str, problem: Problem) -> None:
        """Note something that could not be read."""
        self._failure_count += 1
        if len(self._failures) < _MAX_FAILURES:
            self._failures.append({"user_id": user_id, **attrs.asdict(problem)})
        where = "/".join(part for part in (user_id, problem.vault_id, problem.name) if part)
        self.warn(Finding(code="not_read", where=where, message=f"{problem.what}: {problem.kind}: {problem.message}"))

    def remark(self, remark: Remark) -> None:
        """Note something an operator should know."""
        self.warn(remark.finding)
        if remark.facts and len(self._remarks) < _MAX_FAILURES:
            self._remarks.append({"code": remark.finding.code, **remark.facts})

    def warn(self, finding: Finding) -> None:
        """Add a warning, or only count it when there are too many."""
        self._warning_counts[finding.code] = self._warning_counts.get(finding.code, 0) + 1
        if len(self._warnings) < _MAX_FINDINGS:
            self._warnings.append(finding)

    def raw(self, user_id: str, reply: RawReply) -> None:
        """
        Keep a malformed reply for a side file.

        Raises:
            ExportError: Kind ``raw_replies_too_large``: more than the options allow to be held.
        """
        self._raw_bytes += len(reply.content) + _RAW_OVERHEAD_BYTES
        if self._raw_bytes > self._raw_limit:
            message = f"malformed replies take more than {self._raw_limit} bytes ({len(self._side_files)} kept so far)"
            hint = "raise raw_replies_bytes of ExportOptions; the replies are held in memory until the end"
            raise ExportError(message, kind="raw_replies_too_large", hint=hint, user_id=user_id)
        name = f"raw-{len(self._side_files) + 1:04d}.txt"
        self._side_files.append(SideFile(name=name, content=reply.content))
        ids = {"user_id": user_id, "vault_id": reply.vault_id, "proposal_id": reply.proposal_id}
        self._unparseable.append({**ids, "side_file": name})
        message = f"proposal {reply.proposal_id} is not valid JSON; its preview is in the payload, all of it in {name}"
        self.warn(Finding(code="proposal_unparseable", where=f"{user_id}/{reply.vault_id}", message=message))

    def keep(self, file: SideFile) -> None:
        """Add another side file."""
        self._side_files.append(file)

    def result(self, *, complete: bool, facts: Mapping[str, Any]) -> CaptureResult:
        """Return the result; *facts* are added to the details."""
        status_counts = {
            f"{status}_tenants": sum(entry.status == status for entry in self._tenants)
            for status in ("partial", "failed")
        }
        counts = {
            **self.counts,
            **status_counts,
            "unparseable_proposals": len(self._unparseable),
            "proposals_without_id": self.proposals_without_id,
        }
        details = {
            "format": CAPTURE_FORMAT,
            "format_version": CAPTURE_VERSION,
            **facts,
            "content_root": self._root.hexdigest(),
            "counts": dict(counts),
            "tenants": [entry.to_json() for entry in self._tenants],
            "failures": self._failures,
            "failure_count": self._failure_count,
            "unparseable": self._unparseable,
            "remarks": self._remarks,
            "warning_counts": dict(sorted(self._warning_counts.items())),
        }
        return CaptureResult(
            complete=complete and not self._failure_count,
            counts=counts,
            details=details,
            side_files=tuple(self._side_files),
            warnings=tuple(self._warnings),
        )
