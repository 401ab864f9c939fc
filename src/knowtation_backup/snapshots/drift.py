"""What changed between two looks at a canister, and which of it an operator must know."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..errors import ConfigurationError
from ..model.canisters import CanisterStatus
from ..model.ids import Principal
from ..model.moments import iso_ms
from ..model.reports import Outcome

if TYPE_CHECKING:
    from .facts import CanisterFacts

__all__ = ["ChangeKind", "FactChange", "FactsDiff", "diff_facts"]

_MISSING: Final = "not there"
_SHOWN: Final = 200


def _plain_value(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            plain: Any = value
        case bytes():
            plain = value.hex()
        case tuple():
            plain = tuple(map(_plain_value, value))
        case _:
            plain = str(value)
    return plain


class ChangeKind(enum.Enum):
    """What a change is about. All but `HARMLESS` are drift: somebody did something."""

    CODE = "code"
    CONTROLLERS = "controllers"
    SETTINGS = "settings"
    RUN_STATE = "run_state"
    SNAPSHOTS = "snapshots"
    """A snapshot that was there is gone."""
    HARMLESS = "harmless"
    """What changes by itself: cycles, memory, counters, snapshots that were added, settings the network invented."""


@attrs.frozen(kw_only=True)
class FactChange:
    """
    One thing that is not as it was.

    ``before`` and ``after`` are plain: numbers, texts, tuples of texts; `None` stands for what was not there. Of
    environment variables, which may hold secrets, they only say how long the value is.
    """

    kind: ChangeKind
    name: str
    before: Any = attrs.field(converter=_plain_value)
    after: Any = attrs.field(converter=_plain_value)

    def __str__(self) -> str:
        """Return one line."""
        name = self.name if self.name.isprintable() else repr(self.name)
        return f"{self.kind.value}: {name}: {_shown(self.before)} -> {_shown(self.after)}"


@attrs.frozen(kw_only=True)
class FactsDiff:
    """Every difference between two `CanisterFacts` of one canister."""

    canister_id: Principal
    before_at: dt.datetime
    after_at: dt.datetime
    changes: tuple[FactChange, ...]
    not_compared: tuple[str, ...] = ()
    """What one side does not know, because its reader was no controller, or might not list snapshots."""

    @property
    def drift(self) -> tuple[FactChange, ...]:
        """The changes an operator must know."""
        return tuple(change for change in self.changes if change.kind is not ChangeKind.HARMLESS)

    def of(self, kind: ChangeKind) -> tuple[FactChange, ...]:
        """Return the changes of one kind."""
        return tuple(change for change in self.changes if change.kind is kind)

    @property
    def outcome(self) -> Outcome:
        """`DIFFERENT` when there is drift, `PARTIAL` when something could not be compared, else `OK`."""
        return Outcome.DIFFERENT if self.drift else Outcome.PARTIAL if self.not_compared else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line per change, drift first."""
        drift = self.drift
        head = f"{self.canister_id} from {iso_ms(self.before_at)} to {iso_ms(self.after_at)}: "
        lines = [head + (f"{len(drift)} change(s) to look at" if drift else "no drift")]
        lines += [f"  {change}" for change in (*drift, *self.of(ChangeKind.HARMLESS))]
        return "\n".join([*lines, *(f"  not compared: {name}" for name in self.not_compared)])


def diff_facts(before: CanisterFacts, after: CanisterFacts) -> FactsDiff:
    """
    Compare two looks at one canister.

    Raises:
        ConfigurationError: They are of different canisters (``other_canister``).
    """
    if before.canister_id != after.canister_id:
        message = f"facts of {before.canister_id} cannot be compared with those of {after.canister_id}"
        raise ConfigurationError(message, kind="other_canister", hint="compare two captures of one canister")
    changes: list[FactChange] = []
    not_compared: list[str] = []
    _code(before.module_hash, after.module_hash, changes)
    _controllers(before.controllers, after.controllers, changes)
    if before.status is not None and after.status is not None:
        changes += _status(before.status, after.status)
    else:
        not_compared.append("status")
    if before.snapshots is not None and after.snapshots is not None:
        earlier = {item.snapshot_id: item for item in before.snapshots}
        later = {item.snapshot_id: item for item in after.snapshots}
        for snapshot_id in sorted(earlier.keys() | later.keys()):
            old, new = earlier.get(snapshot_id), later.get(snapshot_id)
            if old != new:
                kind = ChangeKind.HARMLESS if old is None else ChangeKind.SNAPSHOTS
                name = f"snapshots.{snapshot_id}"
                changes.append(FactChange(kind=kind, name=name, before=_sized(old), after=_sized(new)))
    else:
        not_compared.append("snapshots")
    return FactsDiff(
        canister_id=before.canister_id,
        before_at=before.captured_at,
        after_at=after.captured_at,
        changes=tuple(changes),
        not_compared=tuple(not_compared),
    )


def _code(before: bytes | None, after: bytes | None, changes: list[FactChange]) -> None:
    if before != after:
        changes.append(FactChange(kind=ChangeKind.CODE, name="module_hash", before=before, after=after))


def _controllers(before: tuple[Principal, ...], after: tuple[Principal, ...], changes: list[FactChange]) -> None:
    for controller in sorted({*before} ^ {*after}):
        old, new = (controller if controller in side else None for side in (before, after))
        changes.append(FactChange(kind=ChangeKind.CONTROLLERS, name="controllers", before=old, after=new))


def _status(before: CanisterStatus, after: CanisterStatus) -> Iterator[FactChange]:
    if before.run_state is not after.run_state:
        yield FactChange(
            kind=ChangeKind.RUN_STATE, name="run_state", before=before.run_state.value, after=after.run_state.value
        )
    yield from _settings(before.settings.values, after.settings.values)
    for name in ("cycles", "reserved_cycles", "memory_size_bytes", "idle_cycles_burned_per_day", "version"):
        yield from _plain(name, getattr(before, name), getattr(after, name))
    for group in ("memory_metrics", "query_stats"):
        old, new = getattr(before, group), getattr(after, group)
        for name in sorted(old.keys() | new.keys()):
            yield from _plain(f"{group}.{name}", old.get(name), new.get(name))


def _plain(name: str, before: Any, after: Any) -> Iterator[FactChange]:
    if before != after:
        yield FactChange(kind=ChangeKind.HARMLESS, name=name, before=before, after=after)


def _settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[FactChange]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if name not in before or name not in after:
            # A setting that appears or goes is the doing of another replica version: all settings always have a value.
            yield from _plain(f"settings.{name}", old, new)
        elif name == "environment_variables" and isinstance(old, Mapping) and isinstance(new, Mapping):
            for variable in sorted(old.keys() | new.keys()):
                if old.get(variable) != new.get(variable):
                    hidden = (_hidden(side.get(variable)) for side in (old, new))
                    full = f"settings.{name}.{variable}"
                    yield FactChange(kind=ChangeKind.SETTINGS, name=full, before=next(hidden), after=next(hidden))
        elif _comparable(old) != _comparable(new):
            yield FactChange(kind=ChangeKind.SETTINGS, name=f"settings.{name}", before=old, after=new)


def _hidden(value: str | None) -> str | None:
    return None if value is None else f"a text of {len(value)} characters"


def _comparable(value: Any) -> Any:
    """Return a value in which the order of viewers does not count."""
    viewers = isinstance(value, tuple) and all(isinstance(item, Principal) for item in value)
    return frozenset(value) if viewers else value


def _sized(snapshot: Any) -> str | None:
    return None if snapshot is None else f"{snapshot.size_bytes} bytes of {iso_ms(snapshot.taken_at)}"


def _shown(value: Any) -> str:
    if value is None:
        return _MISSING
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "nobody"
    text = f"{value:_}" if isinstance(value, int) else value if str(value).isprintable() else repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
