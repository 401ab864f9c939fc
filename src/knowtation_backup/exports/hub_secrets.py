"""
The secrets of a hub: set, checked, rotated and switched off, by a controller and without ever being shown.

Controllers set them by update calls; there is no way to read them back. So every change is followed by a certified read
with the new secret, which shows what is in force. Values are in no ``repr``, error, event or log; the message to the
network holds them, as do all later requests of exporters, so the nodes of the subnet can see them.
"""

from __future__ import annotations

import datetime as dt
import secrets as _random
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from .._engine.cancellation import Cancellation
from ..contracts import Clock, utc_now
from ..errors import BackupError, ConfigurationError, OutcomeUnknownError, RejectedError, SourceError
from ..hub.address import HubAddress
from ..hub.carrier import HubRequest
from ..hub.client import HubClient
from ..hub.encoding import secret_text
from ..hub.failures import reply_error
from ..hub.preflight import PreflightReport
from ..ic.agent import Agent
from ..ic.candid_types import TEXT, encode
from ..model.canisters import moment_of
from ..model.ids import Principal
from .questions import CalledHub, Question

__all__ = ["MIN_SECRET_CHARACTERS", "HubSecrets", "SecretReport", "generate_secret"]

MIN_SECRET_CHARACTERS: Final = 32
"""Shorter secrets are refused: their hash is in what the network signs, and whoever sees that could try them all."""

_SECRET_BYTES: Final = 32
_OPERATOR_METHOD: Final = "admin_set_operator_export_secret"
_GATEWAY_METHOD: Final = "admin_set_gateway_auth_secret"
_OPERATOR_HEADER: Final = "x-operator-export-key"
_GATEWAY_HEADER: Final = "x-gateway-auth"
_SECONDS: Final = 120.0
_REPLY_BYTES: Final = 4 << 20
_OTHER_HUB: Final = "check the canister id, and the hub's version"
_TRAPPED: Final = frozenset({"IC0502", "IC0503", "IC0406", "IC0512"})
_OPERATOR_PLACES: Final = (
    "KNOWTATION_OPERATOR_EXPORT_KEY of every exporter (schedules, containers, CI)",
    "the password manager or vault that keeps it",
)
_GATEWAY_PLACES: Final = (
    "CANISTER_AUTH_SECRET of the web gateway and the bridge, which fail until then",
    "gateway_secret= of every exporter",
    "the password manager or vault that keeps it",
)


def generate_secret() -> str:
    """Return a new secret of 256 random bits, as 43 characters that fit every header and environment variable."""
    return _random.token_urlsafe(_SECRET_BYTES)


@attrs.frozen(kw_only=True)
class SecretReport:
    """What was changed, and what is to be done now."""

    name: str
    """``operator`` or ``gateway``."""
    secret: str | None = attrs.field(repr=False)
    """Now in force; `None` when the feature was switched off."""
    changed_at: dt.datetime
    """When the network executed the change, as certified; by our clock when only the probe could tell."""
    rotate_by: dt.datetime | None
    """When the secret reaches the age at which to change it; keep it with your other reminders."""
    old_refused: bool | None = None
    """`True` once the former secret was tried and refused; `None` when it was not given."""
    probe: PreflightReport | None = None
    """What the hub answered at the address given."""
    update: tuple[str, ...] = ()
    """Where the new secret has to go."""

    def is_due(self, now: dt.datetime) -> bool:
        """Return whether the secret is older than it should get."""
        return self.rotate_by is not None and now >= self.rotate_by

    def __str__(self) -> str:
        """Return lines for people, without the secret."""
        what = "switched off" if self.secret is None else "set"
        lines = [f"the {self.name} secret was {what} at {self.changed_at:%Y-%m-%d %H:%M:%S} UTC"]
        if self.old_refused:
            lines.append("the former one is refused")
        if self.rotate_by is not None:
            lines.append(f"change it again by {self.rotate_by:%Y-%m-%d}")
        lines += [f"update {place}" for place in self.update]
        return "\n".join(lines)


class HubSecrets:
    """
    Sets and checks the secrets of one hub, as one of its controllers.

    Args:
        agent: Calls the hub; to change anything its identity must be a controller.
        hub_canister_id: The hub.
        gateway_secret: What the hub requires of every request at present, if anything.
        max_age: After which time reports ask for a change.
        clock: The present moment.

    Raises:
        ConfigurationError: The id or the secret cannot be used.
    """

    def __init__(
        self,
        agent: Agent,
        hub_canister_id: Principal | str,
        *,
        gateway_secret: str | None = None,
        max_age: dt.timedelta = dt.timedelta(days=90),
        clock: Clock = utc_now,
    ) -> None:
        self._agent = agent
        self._canister_id = Principal.parse(hub_canister_id)
        self._gateway_secret = secret_text(gateway_secret, "gateway_secret")
        if max_age <= dt.timedelta():
            raise ConfigurationError("max_age is not a time to come", kind="bad_option")
        self._max_age = max_age
        self._clock = clock

    def __repr__(self) -> str:
        return f"HubSecrets({str(self._canister_id)!r}, sender={str(self._agent.sender)!r})"

    # -- checking -----------------------------------------------------------------------------------------------------

    def check(self, secret: str) -> PreflightReport:
        """
        Tell whether the hub accepts an operator key, by a certified read of one index entry.

        Returns:
            Status ``ok``, ``operator_key`` (another one is in force), ``not_configured``, ``gateway_auth``, or the kind
            of what went wrong on the way.
        """
        return self._report(secret_text(secret, "operator key"))

    def check_gateway(self, secret: str) -> PreflightReport:
        """Tell the same of a gateway secret; ``ok`` also when the hub requires none."""
        return self._gateway_report(secret_text(secret, "gateway secret"))

    def _report(self, operator_key: str | None) -> PreflightReport:
        headers = {_OPERATOR_HEADER: operator_key, _GATEWAY_HEADER: self._gateway_secret}
        return self._probe("operator/export", "/api/v1/operator/export?limit=1", headers)

    def _gateway_report(self, gateway_secret: str | None) -> PreflightReport:
        # A tenant that does not exist: nobody's content is read.
        return self._probe("vaults", "/api/v1/vaults", {_GATEWAY_HEADER: gateway_secret, "x-user-id": "nobody"})

    def _probe(self, route: str, target: str, headers: Mapping[str, str | None]) -> PreflightReport:
        given = {name: value for name, value in headers.items() if value is not None}
        request = HubRequest(
            route=route,
            target=target,
            headers=tuple(given.items()),
            timeout_seconds=_SECONDS,
            cancellation=Cancellation(),
            on_retry=lambda _error: None,
        )
        address = str(self._canister_id)
        try:
            reply = CalledHub(self._ask, self._canister_id.raw, _REPLY_BYTES).carry(request)
            if not reply.ok:
                raise reply_error(reply, secrets=given.values(), now=self._clock())
        except BackupError as error:
            return PreflightReport(address=address, status=error.kind, message=error.message, hint=error.hint)
        return PreflightReport(address=address, status="ok", message="the hub accepts it, certified by its subnet")

    def _ask(self, question: Question, *, secrets: Mapping[str, str], request: HubRequest | None = None) -> memoryview:
        arg = question.full_arg(secrets)
        seconds = None if request is None else request.timeout_seconds
        return self._agent.call(
            self._canister_id, question.method, arg, repeatable=True, deadline_seconds=seconds
        ).reply

    # -- changing -----------------------------------------------------------------------------------------------------

    def set_operator_secret(self, secret: str) -> SecretReport:
        """
        Store the operator key of the hub, and check that it is in force.

        Raises:
            ConfigurationError: Kind ``weak_secret``: shorter than 32 characters. Kind ``bad_secret``: no header can
                carry it.
            RejectedError: Kind ``not_controller``.
            OutcomeUnknownError: The change may or may not take effect; `check` tells, after some minutes for sure.
            BackupError: What else `Agent.call` raises.
        """
        secret = _strong(secret, "operator secret")
        changed_at = self._set(_OPERATOR_METHOD, secret, lambda: self._report(secret), "ok")
        return self._reported("operator", secret, changed_at, _OPERATOR_PLACES)

    def set_gateway_secret(self, secret: str) -> SecretReport:
        """
        Store the secret every request must carry, and check that it is in force and requests without it are refused.

        The web gateway and all exporters fail until they have it. Raises like `set_operator_secret`.
        """
        secret = _strong(secret, "gateway secret")
        changed_at = self._set(_GATEWAY_METHOD, secret, lambda: self._gateway_report(secret), "ok")
        self._gateway_secret = secret
        without = self._gateway_report(None)
        if without.ok:
            message = f"hub {self._canister_id} still answers requests without the gateway secret"
            raise SourceError(message, kind="secret_not_in_force", hint=_OTHER_HUB)
        return self._reported("gateway", secret, changed_at, _GATEWAY_PLACES)

    def rotate_operator_secret(
        self, new: str, *, old: str | None = None, probe: HubAddress | str | None = None
    ) -> SecretReport:
        """
        Replace the operator key: set the new one, see it accepted and the old one refused.

        Exports under way with the old key fail from then on.

        Args:
            new: The new key, for example of `generate_secret`. Keep it before you call: nobody can read it back.
            old: The present key. With it, nothing is changed unless it is the one in force, and afterwards it is tried
                once more.
            probe: The address exporters use; then it is asked over HTTP, too.

        Raises:
            ConfigurationError: Kind ``same_secret``; otherwise as `set_operator_secret`.
            RejectedError: Kind ``operator_key``: *old* is not in force, and nothing was changed.
            SourceError: Kind ``secret_not_in_force``: *old* is still accepted.
        """
        new = _strong(new, "operator secret")
        old = secret_text(old, "old operator secret")
        if old is not None:
            if old == new:
                message = "the new operator secret is the old one"
                raise ConfigurationError(message, kind="same_secret", hint="generate_secret() makes another")
            before = self._report(old)
            if not before.ok:
                message = f"the old operator secret was not accepted, and nothing was changed: {before.message}"
                raise RejectedError(message, kind=before.status, hint=before.hint)
        report = self.set_operator_secret(new)
        if old is not None:
            after = self._report(old)
            if after.ok:
                message = f"hub {self._canister_id} still accepts the old operator secret"
                raise SourceError(message, kind="secret_not_in_force", hint=_OTHER_HUB)
            report = attrs.evolve(report, old_refused=after.status == "operator_key")
        if probe is not None:
            with HubClient(probe, operator_key=new, gateway_secret=self._gateway_secret) as hub:
                report = attrs.evolve(report, probe=hub.preflight())
        return report

    def disable_operator_export(self) -> SecretReport:
        """Take the operator key out of the hub: no export of all tenants works until one is set again."""
        changed_at = self._set(_OPERATOR_METHOD, "", lambda: self._report(generate_secret()), "not_configured")
        return self._reported("operator", None, changed_at, ())

    def disable_gateway_auth(self) -> SecretReport:
        """Let the hub answer requests without a gateway secret: anybody can then read as any tenant."""
        changed_at = self._set(_GATEWAY_METHOD, "", lambda: self._gateway_report(None), "ok")
        self._gateway_secret = None
        return self._reported("gateway", None, changed_at, ())

    def _set(self, method: str, value: str, probe: Callable[[], PreflightReport], expected: str) -> dt.datetime:
        """Call *method*, see that *probe* then has the status *expected*, and return when the change was made."""
        arg = encode(TEXT, value)
        try:
            changed_at = moment_of(self._agent.call(self._canister_id, method, arg).time_ns)
        except RejectedError as error:
            raise self._refusal(error, method) from None
        except OutcomeUnknownError as error:
            found = probe()
            if found.status == expected:
                return self._clock()
            message = f"whether {method} took effect is not known: {error.message}; at present: {found.message}"
            hint = "it may still take effect within five minutes: then check, and set it again if need be"
            raise OutcomeUnknownError(message, kind="secret_unknown", hint=hint, status=found.status) from None
        found = probe()
        if found.status != expected:
            message = f"{method} was executed, but a read then says: {found.status}: {found.message}"
            raise SourceError(message, kind="secret_not_in_force", hint=found.hint or _OTHER_HUB)
        return changed_at

    def _refusal(self, error: RejectedError, method: str) -> RejectedError:
        if error.context.get("error_code") not in _TRAPPED:
            return error
        message = f"hub {self._canister_id} refused {method} to {self._agent.sender}: {error.message}"
        hint = (
            "only controllers may set secrets: use a controller's identity, or let a controller add this one with "
            f"icp canister settings update --add-controller {self._agent.sender}"
        )
        return RejectedError(message, kind="not_controller", hint=hint, **error.context)

    def _reported(
        self, name: str, secret: str | None, changed_at: dt.datetime, update: tuple[str, ...]
    ) -> SecretReport:
        return SecretReport(
            name=name,
            secret=secret,
            changed_at=changed_at,
            rotate_by=None if secret is None else changed_at + self._max_age,
            update=update,
        )


def _strong(value: str, name: str) -> str:
    secret = secret_text(value, name)
    if secret is None or len(secret) < MIN_SECRET_CHARACTERS:
        message = f"the {name} has fewer than {MIN_SECRET_CHARACTERS} characters"
        hint = "generate_secret() makes one; to switch the feature off there are methods that say so"
        raise ConfigurationError(message, kind="weak_secret", hint=hint)
    return secret
