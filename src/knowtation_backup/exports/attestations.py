"""
Exporting the attestation ledger of a hub: every record, and the proof that nothing earlier was rewritten (HUB-22).

The ledger is append-only, so an earlier export must be a prefix of a later one. The details of each capture hold the
number of records and the SHA-256 over their canonical JSON lines; the next capture hashes its own first records and
compares. Reads are queries, answered and signed by one node each, or replicated calls that the subnet signs.

Payload, compact JSON without trailing newline, kind ``knowtation-attestation-export``::

    {"format_version":1,"kind":…,"exported_at":…,"canister_id":…,"records":[
      {"id":…,"action":…,"path":…,"timestamp":…,"content_hash":…,"sig":…,"seq":…,"stored_at":…},…]}
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs

from .._checks import at_least
from .._engine.canonical import dumps
from ..contracts import Observer, ignore_events
from ..errors import ConfigurationError, ExportError, IntegrityError, SourceError
from ..ic.agent import Agent
from ..ic.candid_types import NAT, encode_arguments
from ..ic.candid_values import decode, field
from ..model.events import Event
from ..model.ids import Principal
from ..model.moments import iso_ms
from ..model.reports import CaptureResult, Finding, SideFile
from .book import CAPTURE_FORMAT, CAPTURE_VERSION
from .certified import CertifiedReads
from .questions import Question

__all__ = ["ATTESTATION_KIND", "AttestationExporter", "LedgerPrefix"]

ATTESTATION_KIND = "knowtation-attestation-export"

AskMethod: TypeAlias = Callable[[str, bytes], bytes | memoryview]
"""Returns the Candid reply to a method and its argument."""

_PAGE = 100
"""The most the ledger returns at once (contracts 1.11)."""
_TEXTS = ("id", "action", "path", "timestamp", "content_hash", "sig")
_RECORD = {**dict.fromkeys((*_TEXTS, "stored_at"), str), "seq": int}
_STATS = {"total": int, "next_seq": int}


def _principal(value: Principal | str) -> Principal:
    return Principal.parse(value)


@attrs.frozen(kw_only=True)
class LedgerPrefix:
    """What an earlier export proved: so many records, with this digest."""

    records: int = attrs.field(validator=at_least(0))
    sha256: str

    @classmethod
    def from_details(cls, capture_details: Mapping[str, Any]) -> LedgerPrefix:
        """
        Return the prefix that an earlier capture's details record.

        Raises:
            IntegrityError: They are not those of an attestation export.
        """
        try:
            ledger = capture_details["ledger"]
            return cls(records=int(ledger["records"]), sha256=str(ledger["sha256"]))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("the details are not those of an attestation export", kind="details") from error


@attrs.frozen(kw_only=True)
class AttestationExporter:
    """
    Exports the ledger of one attestation canister; a `BackupSource`.

    Args:
        agent: Asks the canister; it may be anonymous, the ledger is public.
        canister_id: Of the ledger.
        previous: What the last export proved; `None` when there was none.
        certified: Ask by replicated calls, which the subnet signs, and keep the evidence in a side file for
            `verify_export_evidence`. Otherwise by queries: one node answers each, and signs that.
        evidence_bytes: Most evidence, which is held in memory until the end.
    """

    agent: Agent
    canister_id: Principal = attrs.field(converter=_principal)
    previous: LedgerPrefix | None = None
    certified: bool = False
    evidence_bytes: int = attrs.field(default=256 * 1024 * 1024, validator=at_least(1))

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> AttestationCapture:
        """Begin a capture; nothing is asked before its chunks are read."""
        reads = None
        ask: AskMethod = functools.partial(self.agent.query, self.canister_id)
        if self.certified:
            reads = CertifiedReads.begin(
                self.agent,
                self.canister_id,
                kind=ATTESTATION_KIND,
                exported_at=iso_ms(taken_at),
                limit_bytes=self.evidence_bytes,
            )
            ask = functools.partial(_certified, reads)
        return AttestationCapture(
            ask,
            canister_id=str(self.canister_id),
            taken_at=taken_at,
            previous=self.previous,
            observer=observer,
            reads=reads,
        )


def _certified(reads: CertifiedReads, method: str, arg: bytes) -> memoryview:
    return reads(Question(method=method, arg=arg), secrets={})


class AttestationCapture:
    """
    One export of a ledger under way; see `Capture` for the contract.

    Args:
        ask: Returns the Candid reply of a method of the ledger.
        canister_id: Of the ledger.
        taken_at: When the capture began.
        previous: As for `AttestationExporter`.
        observer: Told about progress.
        reads: Where the evidence is kept, for certified exports.
    """

    kind = ATTESTATION_KIND
    name = "attestation-export"
    suffix = ".json"

    def __init__(  # noqa: PLR0913 - the exporter above is the interface
        self,
        ask: AskMethod,
        *,
        canister_id: str,
        taken_at: dt.datetime,
        previous: LedgerPrefix | None = None,
        observer: Observer = ignore_events,
        reads: CertifiedReads | None = None,
    ) -> None:
        self._ask_method = ask
        self._reads = reads
        self._previous = previous
        self._exported_at = iso_ms(taken_at)
        self.taken_at = taken_at
        self.source_id: str = canister_id
        self._observer = observer
        self._started = False
        self._result: CaptureResult | None = None
        self._digest = hashlib.sha256()
        self._records = 0
        self._first_seq: int | None = None

    def result(self) -> CaptureResult:
        """Return what was found; raises `ConfigurationError` before the chunks are exhausted."""
        if self._result is None:
            raise ConfigurationError("a capture has a result once all its chunks were read", kind="capture_unfinished")
        return self._result

    def chunks(self) -> Iterator[bytes]:
        """
        Yield the payload, one page of records at a time.

        Raises:
            IntegrityError: Kind ``ledger_rewritten``: an earlier export is not a prefix; ``ledger_gap``: ``seq`` does
                not count up by one.
            ExportError: Pages or statistics do not add up.
            BackupError: Reading failed, see `Agent.query` and `Agent.call`.
        """
        if self._started:
            raise ConfigurationError("a capture can be read once", kind="capture_consumed")
        self._started = True
        before = self._stats()
        head = {
            "format_version": 1,
            "kind": self.kind,
            "exported_at": self._exported_at,
            "canister_id": self.source_id,
        }
        yield dumps(head)[:-1] + b',"records":['
        total = before["total"]
        while self._records < total:
            records, announced = self._page()
            if announced < total or not records:
                message = f"the ledger announced {total} records and ends after {self._records}"
                raise ExportError(message, kind="ledger_short")
            total = announced
            yield b"".join(map(self._take, records))
            self._tell("export.progress", records=self._records, total=total)
        yield b"]}"
        self._finish(before, self._stats())

    def _take(self, record: Mapping[str, Any]) -> bytes:
        seq = record["seq"]
        if self._first_seq is None:
            self._first_seq = seq
        if seq != self._first_seq + self._records:
            message = f"record {self._records} of the ledger has seq {seq}, expected {self._first_seq + self._records}"
            raise IntegrityError(message, kind="ledger_gap", hint="export again; if it persists, the ledger is damaged")
        row = dumps({name: record[name] for name in (*_TEXTS, "seq", "stored_at")})
        self._digest.update(row + b"\n")
        separator = b"," if self._records else b""
        self._records += 1
        previous = self._previous
        if previous is not None and self._records == previous.records:
            self._compare(previous)
        return separator + row

    def _compare(self, previous: LedgerPrefix) -> None:
        if self._digest.hexdigest() != previous.sha256:
            message = f"the first {previous.records} records of the ledger are not those of the earlier export"
            hint = "the ledger is append-only: compare both exports and the canister's upgrade history"
            raise IntegrityError(message, kind="ledger_rewritten", hint=hint, records=previous.records)

    def _finish(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        previous = self._previous
        if previous is not None and self._records < previous.records:
            message = f"the ledger has {self._records} records, the earlier export had {previous.records}"
            raise IntegrityError(message, kind="ledger_rewritten", records=self._records)
        if not before["total"] <= self._records <= after["total"]:
            message = f"{self._records} records were read; the statistics say {before['total']} to {after['total']}"
            raise ExportError(message, kind="ledger_short")
        following = after["next_seq"] - (after["total"] - self._records)
        if self._first_seq is not None and following != self._first_seq + self._records:
            message = f"the next seq should be {self._first_seq + self._records}, the statistics say {following}"
            raise IntegrityError(message, kind="ledger_gap")
        warnings: tuple[Finding, ...] = ()
        if after["total"] > self._records:
            grown = Finding(
                code="ledger_grew", where="ledger", message=f"{after['total'] - self._records} records came meanwhile"
            )
            warnings = (grown,)
        details: dict[str, Any] = {
            "format": CAPTURE_FORMAT,
            "format_version": CAPTURE_VERSION,
            "payload": {"kind": self.kind, "format_version": 1, "exported_at": self._exported_at},
            "source_id": self.source_id,
            "certified": self._reads is not None,
            "ledger": {
                "records": self._records,
                "sha256": self._digest.hexdigest(),
                "first_seq": self._first_seq,
                "prefix_of_earlier": None if previous is None else previous.records,
                "stats_before": dict(before),
                "stats_after": dict(after),
            },
        }
        side_files: tuple[SideFile, ...] = ()
        if self._reads is not None:
            details["certification"] = self._reads.details()
            side_files = (self._reads.side_file(),)
        self._result = CaptureResult(
            complete=True,
            counts={"records": self._records},
            details=details,
            side_files=side_files,
            warnings=warnings,
        )
        self._tell("export.finished", complete=True, records=self._records)

    def _tell(self, name: str, **fields: Any) -> None:
        self._observer(Event(name=name, fields=fields))

    def _stats(self) -> dict[str, Any]:
        return _fields(self._ask("getStats"), _STATS, "getStats")

    def _page(self) -> tuple[list[dict[str, Any]], int]:
        """Return the next records, and how many there are in all."""
        method = "listAttestations"
        answer = self._ask(method, self._records, _PAGE)
        found = _fields(answer, {"records": list, "total": int}, method)
        return [_fields(record, _RECORD, method) for record in found["records"]], found["total"]

    def _ask(self, method: str, *numbers: int) -> Any:
        reply = self._ask_method(method, encode_arguments(*((NAT, number) for number in numbers)))
        try:
            (answer,) = decode(reply)
        except (SourceError, ValueError) as error:
            raise ExportError(f"the reply of {method} is not the expected Candid", kind="bad_reply") from error
        return answer


def _fields(record: object, kinds: Mapping[str, type], method: str) -> dict[str, Any]:
    """Return fields of a reply after a look at their types: one replica sent it, and nothing is signed."""
    found = {name: field(record, name) for name in kinds}
    for name, kind in kinds.items():
        if type(found[name]) is not kind or (kind is int and found[name] < 0):
            raise ExportError(f"the reply of {method} holds values of other types", kind="bad_reply")
    return found
