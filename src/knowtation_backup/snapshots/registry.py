"""
The canisters an operator looks after: names, ids, how much they matter, how often they are due.

Names become parts of file names, so they are plain. A registry is a value: reading it from the files of ``dfx`` and
``icp`` is the business of `project_files`.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from .._checks import checked_member, member_of
from .._engine import canonical
from ..errors import ConfigurationError
from ..model.ids import Principal
from ..model.moments import utc_of
from . import project_files

__all__ = ["CanisterEntry", "CanisterRegistry", "Criticality", "DueCanister"]

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MAX_CANISTERS: Final = 10_000
_FORMAT: Final = "knowtation-canister-registry"
_SLACK: Final = dt.timedelta(hours=1)
_QURI: Final = (
    ("rune-engine", "pkrpq-5qaaa-aaaah-aroda-cai", "high"),
    ("registry", "pnqje-qiaaa-aaaah-arodq-cai", "high"),
    ("bitcoin-integration", "yz6hf-qqaaa-aaaah-arn5a-cai", "medium"),
    ("identity-manager", "y67br-5iaaa-aaaah-arn5q-cai", "medium"),
)


class Criticality(enum.Enum):
    """How much the loss of a canister would hurt, and so how often it is backed up."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def cadence(self) -> dt.timedelta:
        """Time between two backups: a day, a week, or 30 days."""
        return {"high": dt.timedelta(days=1), "medium": dt.timedelta(days=7), "low": dt.timedelta(days=30)}[self.value]


def _principal(value: Principal | str | bytes) -> Principal:
    return Principal.parse(value)


def _checked_name(_instance: object, _attribute: object, value: Any) -> None:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        message = f"{value!r:.80} is not a name for a canister"
        hint = "letters, digits, '_', '-' and '.', at most 100, not starting with '-' or '.'"
        raise ConfigurationError(message, kind="bad_canister_name", hint=hint)


def _checked_cadence(_instance: object, _attribute: object, value: Any) -> None:
    if value is not None and (not isinstance(value, dt.timedelta) or value <= dt.timedelta(0)):
        message = f"CanisterEntry.own_cadence is {value!r:.80}"
        raise ConfigurationError(message, kind="bad_option", hint="it must be a positive timedelta, or None")


@attrs.frozen(kw_only=True)
class CanisterEntry:
    """
    One canister.

    Args:
        name: Short, safe in file names.
        canister_id: Text or `Principal`.
        criticality: Decides the cadence unless *own_cadence* is given.
        own_cadence: Time between two backups of this canister.
        network: Where it lives, as ``dfx`` and ``icp`` call it.
    """

    name: str = attrs.field(validator=_checked_name)
    canister_id: Principal = attrs.field(converter=_principal)
    criticality: Criticality = attrs.field(default=Criticality.HIGH, validator=member_of(Criticality))
    own_cadence: dt.timedelta | None = attrs.field(default=None, validator=_checked_cadence)
    network: str = attrs.field(default="ic", validator=_checked_name)

    @property
    def cadence(self) -> dt.timedelta:
        """Time between two backups."""
        return self.own_cadence or self.criticality.cadence

    def __str__(self) -> str:
        """Return ``name=id:criticality``, as `CanisterRegistry.from_text` reads it."""
        return f"{self.name}={self.canister_id}:{self.criticality.value}"


@attrs.frozen(kw_only=True)
class DueCanister:
    """A canister whose backup is due."""

    entry: CanisterEntry
    last: dt.datetime | None
    """The backup before, `None` when there is none."""
    overdue: dt.timedelta | None
    """How long it has been due; `None` when there is no earlier backup, or it bears a date in the future."""


def _as_entries(entries: Iterable[CanisterEntry]) -> tuple[CanisterEntry, ...]:
    return tuple(entries)


@attrs.frozen(repr=False)
class CanisterRegistry:
    """
    Canisters in the order an operator wants them handled; names and ids are unique.

    Args:
        entries: At most 10,000.
        unresolved: Names a project declares, for which no id is known on the chosen network.

    Raises:
        ConfigurationError: A name or an id appears twice (``duplicate_canister``), or there are too many.
    """

    entries: tuple[CanisterEntry, ...] = attrs.field(default=(), converter=_as_entries)
    unresolved: tuple[str, ...] = attrs.field(default=(), kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse what would make a lookup ambiguous."""
        if len(self.entries) > _MAX_CANISTERS:
            message = f"{len(self.entries)} canisters are more than the {_MAX_CANISTERS} a registry holds"
            raise ConfigurationError(message, kind="bad_registry")
        seen: dict[str, CanisterEntry] = {}
        for entry in self.entries:
            # An id that is the name of another canister would make the lookup of that text ambiguous.
            for key in {entry.name.casefold(), str(entry.canister_id)}:
                if key in seen:
                    message = f"{entry} and {seen[key]} share a name or an id"
                    hint = "give every canister its own name; case does not count, because of file names"
                    raise ConfigurationError(message, kind="duplicate_canister", hint=hint)
                seen[key] = entry

    # Where registries come from.

    @classmethod
    def quri(cls) -> CanisterRegistry:
        """Return the four canisters of QURI on mainnet (contracts 4.1)."""
        return cls(CanisterEntry(name=n, canister_id=i, criticality=Criticality(c)) for n, i, c in _QURI)

    @classmethod
    def knowtation(
        cls, *, hub: Principal | str, attestation: Principal | str | None = None, network: str = "ic"
    ) -> CanisterRegistry:
        """Return ``hub`` and ``attestation``, in the order in which the Knowtation snapshot helper handles them."""
        named = (("hub", hub), ("attestation", attestation))
        return cls(CanisterEntry(name=n, canister_id=i, network=network) for n, i in named if i is not None)

    @classmethod
    def from_text(cls, text: str, *, network: str = "ic") -> CanisterRegistry:
        """
        Return what a text such as an environment variable names.

        Args:
            text: ``name=id`` or ``name=id:criticality``, separated by commas or white space.
            network: Of all of them.

        Raises:
            ConfigurationError: It is not of that form, or names nothing.
        """
        if len(text) > project_files.MAX_FILE_BYTES:
            raise _not_text("it is too long")
        entries: list[CanisterEntry] = []
        for item in re.split(r"[,\s]+", text.strip().strip(",")):
            name, equals, rest = item.partition("=")
            canister_id, _, criticality = rest.partition(":")
            if not equals:
                raise _not_text(f"{item!r:.80} is not of the form name=id")
            if criticality and criticality not in {member.value for member in Criticality}:
                raise _not_text(f"{criticality!r:.40} is not high, medium or low")
            entries.append(
                CanisterEntry(
                    name=name, canister_id=canister_id, criticality=Criticality(criticality or "high"), network=network
                )
            )
        return cls(entries)

    @classmethod
    def from_canister_ids(
        cls,
        file: str | Path | bytes,
        *,
        network: str = "ic",
        criticality: Mapping[str, Criticality] | Criticality = Criticality.HIGH,
    ) -> CanisterRegistry:
        """
        Read dfx's ``canister_ids.json``, ``{name: {network: id}}``, or an id mapping of icp, ``{name: id}``.

        Args:
            file: Path, or the bytes of the file.
            network: Which ids to take; canisters that have none there are `unresolved`. A mapping of icp is for one
                environment already.
            criticality: Of all, or by name, `HIGH` for those not named.

        Raises:
            ConfigurationError: The file cannot be read (``bad_canister_file``), or names or ids repeat.
        """
        return cls._of(project_files.read_ids(file, network), network, criticality)

    @classmethod
    def from_project(
        cls,
        directory: str | Path,
        *,
        network: str = "ic",
        criticality: Mapping[str, Criticality] | Criticality = Criticality.HIGH,
    ) -> CanisterRegistry:
        """
        Read a project directory of ``icp`` or ``dfx``.

        With ``icp.yaml`` (needs the extra ``yaml``) the canisters it declares for the environment *network* have the
        ids below ``.icp``; with ``dfx.json``, those of ``canister_ids.json``, of ``.dfx/<network>`` and the remote
        ids in ``dfx.json`` itself; else ``canister_ids.json`` alone is read.

        Raises:
            ConfigurationError: There is none of them, or one cannot be read (``bad_canister_file``), or PyYAML is not
                installed (``missing_extra``).
        """
        return cls._of(project_files.read_project(Path(directory), network), network, criticality)

    @classmethod
    def from_json(cls, file: str | Path | bytes) -> CanisterRegistry:
        """Read what `to_json` wrote; raises `ConfigurationError` (``bad_canister_file``)."""
        value = project_files.load_json(file)
        where = project_files.name_of(file)
        if not isinstance(value, dict) or value.get("format") != _FORMAT or value.get("format_version") != 1:
            raise project_files.bad_file(where, f'it is not JSON with "format": "{_FORMAT}" of version 1')
        try:
            return cls(_entry_of(item) for item in value["canisters"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise project_files.bad_file(where, f"{type(error).__name__} in its list of canisters") from error

    @classmethod
    def _of(
        cls,
        ids: Mapping[str, str | None],
        network: str,
        criticality: Mapping[str, Criticality] | Criticality,
    ) -> CanisterRegistry:
        known = {} if isinstance(criticality, Criticality) else criticality
        for_all = criticality if isinstance(criticality, Criticality) else Criticality.HIGH
        return cls(
            (
                CanisterEntry(
                    name=name,
                    canister_id=canister_id,
                    criticality=checked_member(Criticality, known.get(name, for_all), f"the criticality of {name}"),
                    network=network,
                )
                for name, canister_id in ids.items()
                if canister_id is not None
            ),
            unresolved=tuple(name for name, canister_id in ids.items() if canister_id is None),
        )

    def to_json(self) -> bytes:
        """Return the registry as JSON, one entry per canister with everything that is known of it."""
        canisters = [
            {
                "name": entry.name,
                "id": str(entry.canister_id),
                "criticality": entry.criticality.value,
                "cadence_seconds": None if entry.own_cadence is None else int(entry.own_cadence.total_seconds()),
                "network": entry.network,
            }
            for entry in self.entries
        ]
        return canonical.dumps({"format": _FORMAT, "format_version": 1, "canisters": canisters}) + b"\n"

    # What is asked of them.

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in order."""
        return tuple(entry.name for entry in self.entries)

    def ids(self) -> tuple[str, ...]:
        """Return every id as text, in order: one per line is what scripts want."""
        return tuple(str(entry.canister_id) for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[CanisterEntry]:
        return iter(self.entries)

    def __contains__(self, wanted: object) -> bool:
        return self._find(wanted) is not None

    def __getitem__(self, wanted: str | Principal) -> CanisterEntry:
        """Return the canister of a name or id; raises `ConfigurationError` (``unknown_canister``)."""
        found = self._find(wanted)
        if found is None:
            known = ", ".join(self.names[:20]) or "none"
            message = f"no canister is called {wanted!s:.80}"
            if isinstance(wanted, str) and wanted in self.unresolved:
                message = f"the project declares {wanted}, but no id of it is known there"
            raise ConfigurationError(message, kind="unknown_canister", hint=f"known are: {known}")
        return found

    def _find(self, wanted: object) -> CanisterEntry | None:
        if isinstance(wanted, Principal):
            return next((entry for entry in self.entries if entry.canister_id == wanted), None)
        return next((entry for entry in self.entries if wanted in {entry.name, str(entry.canister_id)}), None)

    def select(self, wanted: str | Iterable[str | Principal] = "hub,attestation") -> CanisterRegistry:
        """
        Return the canisters asked for, in the order asked.

        Args:
            wanted: Names or ids, as an iterable or with commas between them. Blanks around them do not count, nor do
                repetitions.

        Raises:
            ConfigurationError: One is unknown (``unknown_canister``), or nothing is asked for
                (``no_canister_selected``).
        """
        items = wanted.split(",") if isinstance(wanted, str) else wanted
        trimmed = [item.strip() if isinstance(item, str) else item for item in items]
        found = dict.fromkeys(self[item] for item in trimmed if item != "")
        if not found:
            message = "no canister is selected"
            raise ConfigurationError(message, kind="no_canister_selected", hint="name one or more, or use all of them")
        return CanisterRegistry(found)

    def due(
        self,
        last_backups: Mapping[str, dt.datetime | None],
        now: dt.datetime,
        *,
        slack: dt.timedelta = _SLACK,
    ) -> tuple[DueCanister, ...]:
        """
        Return the canisters whose backup is due, high criticality first, then those due longest.

        Args:
            last_backups: By name or id, when the last good backup was taken; those missing or `None` are due.
            now: The moment to judge from.
            slack: How much too early a backup may be due, so that a job that runs at the same time every day does
                not find the last backup some seconds younger than a day.

        Raises:
            ConfigurationError: A moment has no time zone.
        """
        now = utc_of(now)
        found = [self._due(entry, last_backups, now, slack) for entry in self.entries]
        order = list(Criticality)

        def urgency(item: DueCanister) -> tuple[int, dt.timedelta]:
            return order.index(item.entry.criticality), dt.timedelta.min if item.overdue is None else -item.overdue

        return tuple(sorted((item for item in found if item is not None), key=urgency))

    @staticmethod
    def _due(
        entry: CanisterEntry, last_backups: Mapping[str, dt.datetime | None], now: dt.datetime, slack: dt.timedelta
    ) -> DueCanister | None:
        last = last_backups.get(entry.name) or last_backups.get(str(entry.canister_id))
        if last is None:
            return DueCanister(entry=entry, last=None, overdue=None)
        last = utc_of(last)
        if last > now + slack:  # a wrong clock must not put backups off
            return DueCanister(entry=entry, last=last, overdue=None)
        overdue = now - last - entry.cadence
        return DueCanister(entry=entry, last=last, overdue=overdue) if overdue >= -slack else None

    def __str__(self) -> str:
        """Return a line per canister."""
        lines = [
            f"{entry.name}  {entry.canister_id}  {entry.criticality.value}, {_every(entry.cadence)}, {entry.network}"
            for entry in self.entries
        ]
        return "\n".join([*lines, *(f"{name}  no id known" for name in self.unresolved)])

    def __repr__(self) -> str:
        return f"CanisterRegistry({', '.join(map(str, self.entries[:10]))}{', …' if len(self.entries) > 10 else ''})"


def _every(cadence: dt.timedelta) -> str:
    days, rest = divmod(cadence, dt.timedelta(days=1))
    return f"every {cadence}" if rest else "every day" if days == 1 else f"every {days} days"


def _entry_of(item: Mapping[str, Any]) -> CanisterEntry:
    seconds = item.get("cadence_seconds")
    return CanisterEntry(
        name=item["name"],
        canister_id=item["id"],
        criticality=Criticality(item.get("criticality", "high")),
        own_cadence=None if seconds is None else dt.timedelta(seconds=seconds),
        network=item.get("network", "ic"),
    )


def _not_text(why: str) -> ConfigurationError:
    message = f"this is no list of canisters: {why}"
    return ConfigurationError(message, kind="bad_registry", hint="write hub=<id>,attestation=<id>:medium")
