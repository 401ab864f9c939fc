"""
Exporting the attestation ledger of a hub: every record, and the proof that nothing earlier was rewritten (HUB-22).

The ledger is append-only, so an earlier export must be a prefix of a later one. The details of each capture hold the
number of records and the SHA-256 over their canonical JSON lines; the next capture hashes its own first records and
compares. Reads are queries, see `ic.query` for what those are worth.

Payload, compact JSON without trailing newline, kind ``knowtation-attestation-export``::

    {"format_version":1,"kind":…,"exported_at":…,"canister_id":…,"records":[
      {"id":…,"action":…,"path":…,"timestamp":…,"content_hash":…,"sig":…,"seq":…,"stored_at":…},…]}
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from ic import candid
from ic.candid import Types

from .._checks import at_least
from .._engine.canonical import dumps
from ..contracts import Observer, ignore_events
from ..errors import ConfigurationError, ExportError, IntegrityError
from ..ic.query import QueryClient, principal_bytes
from ..model.events import Event
from ..model.moments import iso_ms
from ..model.reports import CaptureResult, Finding
from .book import CAPTURE_FORMAT, CAPTURE_VERSION

__all__ = ["ATTESTATION_KIND", "AttestationExporter", "LedgerPrefix"]

ATTESTATION_KIND = "knowtation-attestation-export"
_PAGE = 100
"""The most the ledger returns at once (contracts 1.11)."""
_TEXTS = ("id", "action", "path", "timestamp", "content_hash", "sig")
_RECORD = Types.Record({**dict.fromkeys((*_TEXTS, "stored_at"), Types.Text), "seq": Types.Nat})
_LIST = Types.Record({"records": Types.Vec(_RECORD), "total": Types.Nat})
_STATS = Types.Record({"total": Types.Nat, "next_seq": Types.Nat})


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

    ``previous`` is what the last export proved; `None` when there was none.
    """

    client: QueryClient
    canister_id: str = attrs.field()
    previous: LedgerPrefix | None = None

    @canister_id.validator
    def _check_canister_id(self, _attribute: object, value: str) -> None:
        principal_bytes(value)

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> AttestationCapture:
        """Begin a capture; nothing is asked before its chunks are read."""
        return AttestationCapture(self, taken_at, observer)


class AttestationCapture:
    """One export of a ledger under way; see `Capture` for the contract."""

    kind = ATTESTATION_KIND
    name = "attestation-export"
    suffix = ".json"

    def __init__(self, exporter: AttestationExporter, taken_at: dt.datetime, observer: Observer) -> None:
        self._exporter = exporter
        self._exported_at = iso_ms(taken_at)
        self.taken_at = taken_at
        self.source_id: str = exporter.canister_id
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
            SourceError: Reading failed, see `QueryClient.query`.
        """
        if self._started:
            raise ConfigurationError("a capture can be read once", kind="capture_consumed")
        self._started = True
        before = self._ask("getStats", [], _STATS)
        head = {
            "format_version": 1,
            "kind": self.kind,
            "exported_at": self._exported_at,
            "canister_id": self.source_id,
        }
        yield dumps(head)[:-1] + b',"records":['
        total = before["total"]
        while self._records < total:
            page = self._ask("listAttestations", [self._records, _PAGE], _LIST)
            if page["total"] < total or not page["records"]:
                message = f"the ledger announced {total} records and ends after {self._records}"
                raise ExportError(message, kind="ledger_short")
            total = page["total"]
            yield b"".join(self._take(record) for record in page["records"])
            self._tell("export.progress", records=self._records, total=total)
        yield b"]}"
        self._finish(before, self._ask("getStats", [], _STATS))

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
        previous = self._exporter.previous
        if previous is not None and self._records == previous.records:
            self._compare(previous)
        return separator + row

    def _compare(self, previous: LedgerPrefix) -> None:
        if self._digest.hexdigest() != previous.sha256:
            message = f"the first {previous.records} records of the ledger are not those of the earlier export"
            hint = "the ledger is append-only: compare both exports and the canister's upgrade history"
            raise IntegrityError(message, kind="ledger_rewritten", hint=hint, records=previous.records)

    def _finish(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        previous = self._exporter.previous
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
        details = {
            "format": CAPTURE_FORMAT,
            "format_version": CAPTURE_VERSION,
            "payload": {"kind": self.kind, "format_version": 1, "exported_at": self._exported_at},
            "source_id": self.source_id,
            "certified": False,
            "ledger": {
                "records": self._records,
                "sha256": self._digest.hexdigest(),
                "first_seq": self._first_seq,
                "prefix_of_earlier": None if previous is None else previous.records,
                "stats_before": dict(before),
                "stats_after": dict(after),
            },
        }
        self._result = CaptureResult(
            complete=True, counts={"records": self._records}, details=details, warnings=warnings
        )
        self._tell("export.finished", complete=True, records=self._records)

    def _tell(self, name: str, **fields: Any) -> None:
        self._observer(Event(name=name, fields=fields))

    def _ask(self, method: str, numbers: list[int], expected: Any) -> Mapping[str, Any]:
        arg = candid.encode([{"type": Types.Nat, "value": number} for number in numbers])
        reply = self._exporter.client.query(self.source_id, method, arg)
        try:
            (answer,) = candid.decode(reply, expected)
            return _checked(answer["value"], method)
        except ExportError:
            raise
        except Exception as error:  # the library raises whatever its parsing stumbles over
            raise ExportError(f"the reply of {method} is not the expected Candid", kind="bad_reply") from error


def _checked(value: Any, method: str) -> Mapping[str, Any]:
    """Return the record of a reply after a look at its types: one replica sent it, and nothing is signed."""
    numbers = [value["total"]]
    texts: list[Any] = []
    if method == "getStats":
        numbers.append(value["next_seq"])
    else:
        for record in value["records"]:
            numbers.append(record["seq"])
            texts += [record[name] for name in (*_TEXTS, "stored_at")]
    if all(type(number) is int and number >= 0 for number in numbers) and all(type(text) is str for text in texts):
        return dict(value)
    raise ExportError(f"the reply of {method} holds values of other types", kind="bad_reply")
