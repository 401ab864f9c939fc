"""
Putting settings back: a snapshot does not contain them, so whoever restores one may want the settings of that day.

Plan, look, apply: the plan says what would change; applying reads the canister again, refuses when it is no longer as
planned, changes all of it in one call, and reads back. Controllers are put back only when asked for, because that can
lock the caller out for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from .._engine.cancellation import Cancellation
from ..errors import ConfigurationError, PlanStaleError
from ..model.canisters import CanisterSettings
from ..model.ids import Principal
from ..model.reports import Finding, Outcome
from .facts import CanisterFacts

if TYPE_CHECKING:
    from ..ic.management import ManagementCanister

__all__ = ["SettingChange", "SettingsPlan", "SettingsReport", "apply_settings", "plan_settings"]

RESTORABLE: Final = frozenset(
    {
        "compute_allocation",
        "memory_allocation",
        "freezing_threshold",
        "reserved_cycles_limit",
        "minimum_incoming_canister_call_cycles",
        "log_visibility",
        "snapshot_visibility",
        "status_visibility",
        "wasm_memory_limit",
        "wasm_memory_threshold",
        "environment_variables",
        "log_memory_limit",
    }
)
"""What ``update_settings`` takes besides controllers (``ic.did``)."""


@attrs.frozen(kw_only=True)
class SettingChange:
    """One setting that would be put back; its text form names environment variables without their values."""

    name: str
    now: Any = attrs.field(repr=False)
    wanted: Any = attrs.field(repr=False)

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.name}: {_shown(self.now)} -> {_shown(self.wanted)}"


@attrs.frozen(kw_only=True)
class SettingsPlan:
    """What putting settings back would change, and what it leaves alone."""

    canister_id: Principal
    changes: tuple[SettingChange, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes

    def __str__(self) -> str:
        """Return a line per change and finding."""
        head = f"{self.canister_id}: {len(self.changes)} setting(s) to put back"
        lines = [f"  {change}" for change in self.changes]
        return "\n".join([head, *lines, *(f"  {f.code} at {f.where}: {f.message}" for f in self.findings)])


@attrs.frozen(kw_only=True)
class SettingsReport:
    """What applying a plan did."""

    canister_id: Principal
    applied: tuple[SettingChange, ...]
    differing: tuple[str, ...] = ()
    """Settings that read back otherwise than they were written."""

    @property
    def outcome(self) -> Outcome:
        """`OK`, or `DIFFERENT` when the canister says something else than was written."""
        return Outcome.DIFFERENT if self.differing else Outcome.OK

    @property
    def exit_code(self) -> int:
        """The documented exit code for scripts."""
        return int(self.outcome)

    def __str__(self) -> str:
        """Return a line per setting."""
        lines = [f"{self.canister_id}: {len(self.applied)} setting(s) put back", *(f"  {c}" for c in self.applied)]
        return "\n".join(lines + [f"  DIFFERS: {name}" for name in self.differing])


def plan_settings(saved: CanisterFacts, current: CanisterFacts, *, controllers: bool = False) -> SettingsPlan:
    """
    Say what would have to change so that a canister has the settings it, or another one, had.

    Args:
        saved: The facts kept beside a snapshot.
        current: A look at the canister that is to get these settings; it may be another one.
        controllers: Also put back the controllers.

    Raises:
        ConfigurationError: One of them holds public facts only (``settings_unknown``).
    """
    if saved.status is None or current.status is None:
        side = "saved" if saved.status is None else "current"
        message = f"the {side} facts of {saved.canister_id} hold no settings"
        raise ConfigurationError(message, kind="settings_unknown", hint="capture the facts as a controller")
    old, new = current.status.settings.values, saved.status.settings.values
    where = str(current.canister_id)
    changes = [
        SettingChange(name=name, now=old.get(name), wanted=new[name])
        for name in sorted(new)
        if name in RESTORABLE and not _same(old.get(name), new[name])
    ]
    findings = [
        Finding(code="setting_unknown", where=where, message=f"{name} is of a newer network and cannot be put back")
        for name in sorted(new.keys() - RESTORABLE)
        if not _same(old.get(name), new[name])
    ]
    if not _same(current.controllers, saved.controllers):
        if controllers:
            changes.insert(0, SettingChange(name="controllers", now=current.controllers, wanted=saved.controllers))
        else:
            message = f"they were {_shown(saved.controllers)}; they stay as they are unless asked for"
            findings.append(Finding(code="controllers_differ", where=where, message=message))
    if saved.canister_id != current.canister_id:
        message = f"the settings are those of {saved.canister_id}"
        findings.append(Finding(code="settings_of_another", where=where, message=message))
    return SettingsPlan(canister_id=current.canister_id, changes=tuple(changes), findings=tuple(findings))


def apply_settings(
    management: ManagementCanister,
    plan: SettingsPlan,
    *,
    confirm: Principal | str,
    lose_control: bool = False,
    cancellation: Cancellation | None = None,
) -> SettingsReport:
    """
    Put settings back, all or none, and read back.

    Args:
        management: Calls as a controller.
        plan: What to change.
        confirm: The canister's id again: says that this canister is meant.
        lose_control: Allow controllers among which the caller is not.
        cancellation: Ends waiting.

    Raises:
        ConfigurationError: *confirm* is another id (``not_confirmed``), or the caller would no longer be a
            controller (``would_lose_control``).
        PlanStaleError: A setting is no longer as it was when the plan was made.
        RejectedError: The network refuses; nothing was changed.
    """
    if str(confirm) != str(plan.canister_id):
        message = f"changing the settings of {plan.canister_id} was not confirmed"
        raise ConfigurationError(message, kind="not_confirmed", hint="pass the canister's id as confirm=")
    if plan.empty:
        return SettingsReport(canister_id=plan.canister_id, applied=())
    wanted = {change.name: change.wanted for change in plan.changes}
    controllers: tuple[Principal, ...] | None = wanted.pop("controllers", None)
    if controllers is not None and management.agent.sender not in controllers and not lose_control:
        message = f"{management.agent.sender} would no longer be a controller of {plan.canister_id}"
        raise ConfigurationError(message, kind="would_lose_control", hint="leave controllers out, or lose_control=True")
    before = _values(management, plan.canister_id, cancellation)
    moved = [change.name for change in plan.changes if not _same(before.get(change.name), change.now)]
    if moved:
        message = f"{', '.join(moved)} of {plan.canister_id} changed since the plan was made"
        raise PlanStaleError(message, hint="look at the canister and plan again")
    management.update_settings(plan.canister_id, values=wanted, controllers=controllers, cancellation=cancellation)
    if controllers is not None and management.agent.sender not in controllers:
        return SettingsReport(canister_id=plan.canister_id, applied=plan.changes)  # nobody here may look any more
    after = _values(management, plan.canister_id, cancellation)
    differing = tuple(change.name for change in plan.changes if not _same(after.get(change.name), change.wanted))
    return SettingsReport(canister_id=plan.canister_id, applied=plan.changes, differing=differing)


def _values(
    management: ManagementCanister, canister_id: Principal, cancellation: Cancellation | None
) -> Mapping[str, Any]:
    status = management.canister_status(canister_id, certified=True, cancellation=cancellation)
    settings: CanisterSettings = status.settings
    return {**settings.values, "controllers": settings.controllers}


def _same(one: Any, other: Any) -> bool:
    """Compare two settings; the order of principals does not count."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return {*one} == {*other}
    return bool(one == other)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "nobody"
    if isinstance(value, Mapping):
        return ", ".join(map(repr, value)) or "none"
    return f"{value:_}" if isinstance(value, int) else "not there" if value is None else str(value)
