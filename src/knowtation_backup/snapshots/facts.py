"""
Canister facts: everything about a canister that a snapshot does not contain, kept beside it as ``facts.json``.

Status, settings, controllers, module hash, cycles, memory, the list of snapshots, the log. Who is no controller gets
what is public (controllers and module hash, from the certified state) and a finding that says so, never silently.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from .._engine import canonical
from .._engine.cancellation import Cancellation
from .._engine.prefetch import prefetch
from ..contracts import Clock, Observer, ignore_events, utc_now
from ..errors import (
    BackupError,
    ConfigurationError,
    IntegrityError,
    OperationCancelledError,
    RejectedError,
    UnsupportedFormatError,
)
from ..model.canisters import CanisterStatus, LogRecord, Snapshot
from ..model.events import Event
from ..model.ids import Principal
from ..model.json_input import check_values, typed
from ..model.moments import iso_ms, parse_iso, utc_of
from ..model.reports import Finding, Outcome
from . import facts_json
from .registry import CanisterRegistry

if TYPE_CHECKING:
    from ..ic.management import ManagementCanister

__all__ = ["FACTS_FILE", "CanisterFacts", "FleetFacts", "FleetItem", "capture_all", "capture_facts"]

FACTS_FILE: Final = "facts.json"
"""How the facts are called beside a snapshot."""
FACTS_FORMAT: Final = "knowtation-canister-facts"
FACTS_VERSION: Final = 1
MAX_FACTS_BYTES: Final = 64 << 20
"""A log holds a few MB at most; larger files are refused."""

_T = TypeVar("_T")


def _milliseconds(moment: dt.datetime) -> dt.datetime:
    """Return what the JSON form keeps of a moment."""
    utc = utc_of(moment)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


@attrs.frozen(kw_only=True)
class CanisterFacts:
    """
    One look at a canister.

    ``status``, ``snapshots`` and ``logs`` are `None` when they could not be read; ``findings`` say why.
    """

    canister_id: Principal
    captured_at: dt.datetime = attrs.field(converter=_milliseconds)
    controllers: tuple[Principal, ...]
    module_hash: bytes | None
    """SHA-256 of the installed module, `None` for a canister without code."""
    status: CanisterStatus | None = attrs.field(default=None, repr=False)
    """Its settings may hold secrets: whoever deploys decides what environment variables are for."""
    snapshots: tuple[Snapshot, ...] | None = None
    logs: tuple[LogRecord, ...] | None = attrs.field(default=None, repr=False)
    """Oldest first. Answered by one node alone: the network offers logs as a query only."""
    findings: tuple[Finding, ...] = ()

    @property
    def access(self) -> str:
        """``"controller"`` when the status could be read, else ``"public"``."""
        return "public" if self.status is None else "controller"

    @property
    def certified(self) -> bool:
        """Whether controllers, module hash and status were signed by the subnet, and not by one node alone."""
        return self.status is None or self.status.certified

    def to_bytes(self) -> bytes:
        """Return JSON, compact and the same for the same facts, with a final newline."""
        value = {
            "format": FACTS_FORMAT,
            "format_version": FACTS_VERSION,
            "canister_id": str(self.canister_id),
            "captured_at": iso_ms(self.captured_at),
            "access": self.access,
            "certified": self.certified,
            "controllers": [str(item) for item in self.controllers],
            "module_hash": None if self.module_hash is None else self.module_hash.hex(),
            "status": None if self.status is None else facts_json.status_value(self.status),
            "snapshots": None if self.snapshots is None else [facts_json.snapshot_value(s) for s in self.snapshots],
            "logs": None if self.logs is None else [facts_json.log_value(record) for record in self.logs],
            "findings": [attrs.asdict(finding) for finding in self.findings],
        }
        return canonical.dumps(value) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> CanisterFacts:
        """
        Read what `to_bytes` wrote, of any release of format version 1.

        Raises:
            IntegrityError: Not JSON, too large, or a field is missing or of the wrong type (``canister_facts``).
            UnsupportedFormatError: Facts of a newer version.
        """
        try:
            if len(data) > MAX_FACTS_BYTES:
                raise ValueError("too large")  # noqa: TRY301 - one place names what is damaged
            check_values(data)
            value = canonical.loads(data)
            if value["format"] != FACTS_FORMAT:
                raise ValueError("another format")  # noqa: TRY301 - same
            if value["format_version"] != FACTS_VERSION:
                message = f"the facts have format version {value['format_version']!r:.20}; this release reads 1"
                raise UnsupportedFormatError(message, hint="use a newer release of knowtation-backup")
            return cls._of(value)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = error.message if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}"
            raise IntegrityError(f"the canister facts cannot be read: {reason[:120]}", kind="canister_facts") from error

    @classmethod
    def _of(cls, value: Mapping[str, Any]) -> CanisterFacts:
        def optional(name: str, read: Callable[[Any], _T]) -> _T | None:
            return None if value[name] is None else read(value[name])

        facts = cls(
            canister_id=Principal.parse(typed(value["canister_id"], str)),
            captured_at=parse_iso(typed(value["captured_at"], str)),
            controllers=tuple(Principal.parse(typed(item, str)) for item in typed(value["controllers"], list)),
            module_hash=optional("module_hash", bytes.fromhex),
            status=optional("status", facts_json.status_of),
            snapshots=optional("snapshots", lambda items: tuple(map(facts_json.snapshot_of, typed(items, list)))),
            logs=optional("logs", lambda items: tuple(map(facts_json.log_of, typed(items, list)))),
            findings=tuple(
                Finding(**{name: typed(item[name], str) for name in ("code", "where", "message")})
                for item in typed(value["findings"], list)
            ),
        )
        if (facts.access, facts.certified) != (value["access"], value["certified"]):
            raise ValueError("access contradicts the status")
        if facts.status is not None and facts.status.canister_id != facts.canister_id:
            raise ValueError("the status is of another canister")
        return facts

    def __str__(self) -> str:
        """Return the facts for people, one per line; of environment variables the names only."""
        status = self.status
        trust = "" if self.certified else ", not certified"
        lines = [
            f"{self.canister_id} at {iso_ms(self.captured_at)} ({self.access}{trust})",
            f"  controllers: {' '.join(map(str, self.controllers))}",
            f"  module hash: {'none' if self.module_hash is None else self.module_hash.hex()}",
        ]
        if status is not None:
            lines += [
                f"  {status.run_state.value}, {status.cycles:_} cycles, {status.memory_size_bytes:_} bytes of memory",
                *(f"  {name}: {_setting(status.settings.values[name])}" for name in sorted(status.settings.values)),
            ]
        if self.snapshots is not None:
            lines += [f"  {len(self.snapshots)} snapshot(s)"]
            lines += [f"    {s.snapshot_id}: {s.size_bytes:_} bytes of {iso_ms(s.taken_at)}" for s in self.snapshots]
        if self.logs is not None:
            lines += [f"  {len(self.logs)} line(s) of log"]
        return "\n".join([*lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


def _setting(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "nobody"
    if isinstance(value, Mapping):
        return ", ".join(map(repr, value)) or "none"
    return str(value)


def capture_facts(  # noqa: PLR0913 - which canister, how deep, and the usual parts
    management: ManagementCanister,
    canister_id: Principal | str,
    *,
    logs: bool = True,
    certified: bool = True,
    now: dt.datetime | None = None,
    clock: Clock = utc_now,
    cancellation: Cancellation | None = None,
) -> CanisterFacts:
    """
    Look at a canister.

    Args:
        management: Calls as whoever looks; a controller sees most.
        canister_id: Which one.
        logs: Whether to read the log, too.
        certified: Ask for a status that the subnet signs. `False` asks one node, which is faster and free of cycles;
            networks that do not answer that are asked for a signed one after all.
        now: Dates the facts; the *clock* does when it is `None`.
        clock: See *now*.
        cancellation: Ends waiting.

    Raises:
        RejectedError: The canister does not exist, or a node refuses a controller.
        SourceUnavailableError: The network could not be reached.
        CertificateError: An answer does not verify.
    """
    wanted = Principal.parse(canister_id)
    moment = clock() if now is None else utc_of(now)
    findings: list[Finding] = []
    where = str(wanted)

    def attempt(read: Callable[[], _T], finding: Finding) -> _T | None:
        try:
            return read()
        except RejectedError as error:
            findings.append(attrs.evolve(finding, message=f"{finding.message}: {error.kind}"))
            return None

    status: CanisterStatus | None = None
    try:
        status = _status(management, wanted, certified, cancellation)
    except RejectedError as refusal:
        if refusal.kind != "not_controller":
            raise
        public = management.public_info(wanted, cancellation=cancellation)
        if management.agent.sender in public.controllers:
            raise  # the subnet certifies that we are one, so whoever refused was wrong: that is not to be hidden
        controllers, module_hash = public.controllers, public.module_hash
        message = f"{management.agent.sender} is no controller: only controllers and module hash are known"
        findings.append(Finding(code="public_facts_only", where=where, message=message))
    else:
        controllers, module_hash = status.settings.controllers, status.module_hash
    snapshots = attempt(
        lambda: management.list_snapshots(wanted, cancellation=cancellation),
        Finding(code="snapshots_unreadable", where=where, message="snapshots may not be listed"),
    )
    records = None
    if logs:
        records = attempt(
            lambda: management.fetch_logs(wanted, cancellation=cancellation),
            Finding(code="logs_unreadable", where=where, message="the log may not be read"),
        )
    return CanisterFacts(
        canister_id=wanted,
        captured_at=moment,
        controllers=controllers,
        module_hash=module_hash,
        status=status,
        snapshots=snapshots,
        logs=records,
        findings=tuple(findings),
    )


def _status(
    management: ManagementCanister,
    canister_id: Principal,
    certified: bool,  # noqa: FBT001 - private
    cancellation: Cancellation | None,
) -> CanisterStatus:
    try:
        return management.canister_status(canister_id, certified=certified, cancellation=cancellation)
    except RejectedError as refusal:
        if refusal.kind != "status_query_unsupported":
            raise
        return management.canister_status(canister_id, certified=True, cancellation=cancellation)


@attrs.frozen(kw_only=True)
class FleetItem:
    """How one of several canisters fared: either ``facts`` or ``error`` is there."""

    name: str
    canister_id: Principal
    facts: CanisterFacts | None = None
    error: BackupError | None = None

    @property
    def ok(self) -> bool:
        """Whether everything was read that a controller may read."""
        return self.facts is not None and self.facts.access == "controller"


@attrs.frozen(kw_only=True)
class FleetFacts:
    """One look at several canisters, in the order asked for."""

    items: tuple[FleetItem, ...]

    @property
    def failed(self) -> tuple[FleetItem, ...]:
        """Those of which nothing is known."""
        return tuple(item for item in self.items if item.facts is None)

    @property
    def outcome(self) -> Outcome:
        """`OK`; `FAILED` when nothing could be read; else `PARTIAL`, also when only public facts were to be had."""
        if all(item.ok for item in self.items):
            return Outcome.OK
        return Outcome.FAILED if len(self.failed) == len(self.items) else Outcome.PARTIAL

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __getitem__(self, name: str) -> CanisterFacts:
        """Return the facts of a canister; raises why there are none, or `ConfigurationError` (``unknown_canister``)."""
        for item in self.items:
            if name in {item.name, str(item.canister_id)}:
                if item.error is not None:
                    raise item.error
                if item.facts is not None:
                    return item.facts
        message = f"no canister is called {name!s:.80}"
        raise ConfigurationError(message, kind="unknown_canister", hint="use a name that was asked for")

    def __str__(self) -> str:
        """Return the facts of each, or why there are none."""
        return "\n".join(
            f"{item.name}: FAILED {item.canister_id}: {item.error}"
            if item.facts is None
            else f"{item.name}: {item.facts}"
            for item in self.items
        )


def capture_all(  # noqa: PLR0913 - those of `capture_facts`, and how many at once
    management: ManagementCanister,
    canisters: CanisterRegistry | Iterable[Principal | str],
    *,
    workers: int = 4,
    logs: bool = True,
    certified: bool = True,
    observer: Observer = ignore_events,
    clock: Clock = utc_now,
    cancellation: Cancellation | None = None,
) -> FleetFacts:
    """
    Look at several canisters at once. One that fails does not keep the others from being looked at.

    Args:
        management: See `capture_facts`, and so for all others.
        canisters: A registry, or ids, each of which names itself.
        workers: Most threads at once.
        logs: Whether to read logs.
        certified: Whether the subnet is to sign each status.
        observer: Told ``facts.captured`` and ``facts.failed``.
        clock: Dates them.
        cancellation: Ends the whole.

    Raises:
        OperationCancelledError: *cancellation* was raised.
        ConfigurationError: *workers* is below 1, or an id is none.
    """
    named = (
        [(entry.name, entry.canister_id) for entry in canisters]
        if isinstance(canisters, CanisterRegistry)
        else [(str(item), item) for item in map(Principal.parse, canisters)]
    )
    token = cancellation or Cancellation()

    def look(name_and_id: tuple[str, Principal]) -> FleetItem:
        name, canister_id = name_and_id
        fields = {"canister_id": str(canister_id), "name": name}
        try:
            facts = capture_facts(
                management, canister_id, logs=logs, certified=certified, clock=clock, cancellation=token
            )
        except OperationCancelledError:
            raise
        except BackupError as error:
            observer(Event(name="facts.failed", fields={**fields, "error": error.kind}))
            return FleetItem(name=name, canister_id=canister_id, error=error)
        observer(Event(name="facts.captured", fields={**fields, "access": facts.access}))
        return FleetItem(name=name, canister_id=canister_id, facts=facts)

    return FleetFacts(items=tuple(prefetch(look, named, workers=workers, window=max(workers, 1), cancellation=token)))
