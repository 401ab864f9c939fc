"""The secrets of the sandbox's hub: set, rotated and switched off by its controller, and shown nowhere."""

from __future__ import annotations

import datetime as dt
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from knowtation_backup import Agent, Event, HubClient, HubSecrets, generate_secret
from knowtation_backup.errors import (
    BackupError,
    ConfigurationError,
    OutcomeUnknownError,
    RejectedError,
    SourceError,
    SourceUnavailableError,
)
from knowtation_backup.ic.identity import AnonymousIdentity, Identity, KeyIdentity
from knowtation_backup.ic.limits import AgentTimeouts
from knowtation_backup.model.ids import Principal
from knowtation_backup.sandbox import Answer, ResetAfterExecution, ResetBeforeExecution, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub

pytestmark = pytest.mark.sandbox

OLD = "the operator key that was in force before"
NEW = "the operator key that will be in force soon"
GATEWAY = "the secret that gateways have to send along"
CONTROLLER = KeyIdentity(ed25519.Ed25519PrivateKey.from_private_bytes(b"c" * 32))
STRANGER = KeyIdentity(ed25519.Ed25519PrivateKey.from_private_bytes(b"s" * 32))
SET_OPERATOR = "admin_set_operator_export_secret"


@attrs.define
class Time:
    """Time that passes by waiting only."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@attrs.frozen(kw_only=True)
class Place:
    network: SandboxNetwork
    hub: SandboxHub
    events: list[Event] = attrs.field(factory=list)

    def agent(self, identity: Identity = CONTROLLER) -> Agent:
        time = Time()
        return Agent(
            "http://127.0.0.1",
            identity=identity,
            root_key=self.network.root_key,
            transport=self.network.transport(),
            timeouts=AgentTimeouts(call_seconds=30),
            observer=self.events.append,
            sleep=time.sleep,
            monotonic=time,
        )

    def secrets(self, identity: Identity = CONTROLLER, **options: Any) -> HubSecrets:
        return HubSecrets(self.agent(identity), Principal(self.hub.hub_id), **options)

    def status(self, key: str | None, gateway_secret: str | None = None) -> str:
        """Return what an exporter meets at the hub."""
        transport = self.network.transport()
        with HubClient(
            self.hub.base_url(), operator_key=key, gateway_secret=gateway_secret, transport=transport
        ) as client:
            return client.preflight().status


@pytest.fixture(scope="module")
def shared() -> Iterator[SandboxHub]:
    with SandboxNetwork() as network:
        yield SandboxHub.deploy(network, operator_key=OLD, controller=CONTROLLER.sender.raw)


@pytest.fixture
def place(shared: SandboxHub) -> Place:
    shared.network.faults.clear()
    shared.set_operator_key(OLD)
    shared.set_gateway_secret("")
    return Place(network=shared.network, hub=shared)


def test_hub_20_a_secret_is_set_and_checked(place: Place) -> None:
    report = place.secrets().set_operator_secret(NEW)
    assert (report.name, report.secret) == ("operator", NEW)
    assert abs(report.changed_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    assert report.update[0].startswith("KNOWTATION_OPERATOR_EXPORT_KEY")
    assert (place.status(NEW), place.status(OLD)) == ("ok", "operator_key")


def test_hub_20_rotation_checks_both_secrets_and_says_what_to_do(place: Place) -> None:
    secrets = place.secrets(max_age=dt.timedelta(days=30))
    report = secrets.rotate_operator_secret(NEW, old=OLD)
    assert report.old_refused is True
    assert report.rotate_by == report.changed_at + dt.timedelta(days=30)
    assert not report.is_due(report.changed_at + dt.timedelta(days=29))
    assert report.is_due(report.changed_at + dt.timedelta(days=30))
    assert "KNOWTATION_OPERATOR_EXPORT_KEY" in str(report)
    assert NEW not in str(report) + repr(report)
    assert secrets.check(NEW).ok
    assert secrets.check(OLD).status == "operator_key"


def test_hub_20_rotation_asks_the_address_of_exporters_too(place: Place) -> None:
    with place.network.serve() as server:
        report = place.secrets().rotate_operator_secret(NEW, probe=place.hub.base_url(server))
    assert report.probe is not None
    assert report.probe.ok
    assert report.old_refused is None


def test_hub_20_nothing_is_changed_when_the_old_secret_is_another(place: Place) -> None:
    with pytest.raises(RejectedError) as caught:
        place.secrets().rotate_operator_secret(NEW, old="x" * 40)
    assert caught.value.kind == "operator_key"
    assert place.status(OLD) == "ok"


@pytest.mark.parametrize(
    ("secret", "kind"),
    [("", "bad_secret"), ("short", "weak_secret"), ("a" * 31, "weak_secret"), ("a\n" * 40, "bad_secret")],
)
def test_hub_20_weak_secrets_are_refused_before_anything_is_sent(place: Place, secret: str, kind: str) -> None:
    before = place.network.requests.total
    for change in (place.secrets().set_operator_secret, place.secrets().set_gateway_secret):
        with pytest.raises(ConfigurationError) as caught:
            change(secret)
        assert caught.value.kind == kind
        assert not secret or secret not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        place.secrets().rotate_operator_secret(NEW, old=NEW)
    assert caught.value.kind == "same_secret"
    assert place.network.requests.total == before


def test_hub_20_generated_secrets_are_strong_and_differ() -> None:
    made = {generate_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(secret) for secret in made} == {43}
    assert all(secret.isascii() and secret == secret.strip() for secret in made)


@pytest.mark.parametrize("identity", [STRANGER, AnonymousIdentity()], ids=["stranger", "anonymous"])
def test_hub_20_others_than_controllers_are_told_so(place: Place, identity: Identity) -> None:
    with pytest.raises(RejectedError) as caught:
        place.secrets(identity).set_operator_secret(NEW)
    assert (caught.value.kind, caught.value.certified) == ("not_controller", True)
    assert str(identity.sender) in caught.value.hint
    assert place.status(OLD) == "ok"


def test_hub_20_features_are_switched_off_by_name_only(place: Place) -> None:
    secrets = place.secrets()
    report = secrets.disable_operator_export()
    assert (report.secret, report.rotate_by) == (None, None)
    assert "switched off" in str(report)
    assert place.status(OLD) == "not_configured"
    assert secrets.check(OLD).status == "not_configured"
    secrets.set_operator_secret(NEW)
    assert place.status(NEW) == "ok"


def test_hub_20_the_gateway_secret(place: Place) -> None:
    secrets = place.secrets()
    report = secrets.set_gateway_secret(GATEWAY)
    assert report.update[0].startswith("CANISTER_AUTH_SECRET")
    assert place.status(OLD) == "gateway_auth"
    assert place.status(OLD, GATEWAY) == "ok"
    assert secrets.check_gateway(GATEWAY).ok
    assert secrets.check_gateway("x" * 40).status == "gateway_auth"
    assert secrets.check(OLD).ok  # the new gateway secret is known by now
    assert place.secrets().check(OLD).status == "gateway_auth"
    assert place.secrets(gateway_secret=GATEWAY).rotate_operator_secret(NEW, old=OLD).old_refused
    secrets.disable_gateway_auth()
    assert place.status(NEW) == "ok"


@pytest.mark.parametrize("fault", [ResetBeforeExecution(), ResetAfterExecution(), Answer(status=503)])
def test_hub_20_lost_answers_do_not_matter(place: Place, fault: Any) -> None:
    place.network.faults.add(fault, endpoint="call", canister_method=SET_OPERATOR, limit=2)
    assert place.secrets().set_operator_secret(NEW).secret == NEW
    assert place.status(NEW) == "ok"


def test_hub_20_without_any_answer_a_read_with_the_new_secret_decides(place: Place) -> None:
    place.network.faults.add(ResetAfterExecution(), endpoint="call", canister_method=SET_OPERATOR)
    place.network.faults.add(Answer(status=503), endpoint="read_state")
    report = place.secrets().set_operator_secret(NEW)
    assert report.secret == NEW
    assert place.status(NEW) == "ok"


def test_hub_20_what_nobody_knows_is_said_to_be_unknown(place: Place) -> None:
    place.network.faults.add(ResetBeforeExecution(), endpoint="call", canister_method=SET_OPERATOR)
    place.network.faults.add(Answer(status=503), endpoint="read_state")
    with pytest.raises(OutcomeUnknownError) as caught:
        place.secrets().set_operator_secret(NEW)
    assert caught.value.kind == "secret_unknown"
    assert place.status(OLD) == "ok"


def test_hub_20_a_network_that_is_down_changes_nothing(place: Place) -> None:
    place.network.faults.add(Answer(status=503), endpoint="call")
    with pytest.raises(SourceUnavailableError):
        place.secrets().set_operator_secret(NEW)
    assert place.secrets().check(OLD).status == "overloaded"
    place.network.faults.clear()
    assert place.status(OLD) == "ok"


def test_hub_20_a_hub_that_ignores_the_change_is_noticed(place: Place) -> None:
    # Made up: the change is executed, and the read afterwards answers as if another key were in force.
    secrets = place.secrets()
    secrets._report = lambda operator_key: place.secrets().check("x" * 40)  # type: ignore[method-assign]  # noqa: ARG005
    with pytest.raises(SourceError) as caught:
        secrets.set_operator_secret(NEW)
    assert caught.value.kind == "secret_not_in_force"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda place: place.network.faults.add(Answer(status=400, text=f"no {NEW}"), endpoint="call"),
        lambda place: place.network.faults.add(Answer(status=503, text=f"{OLD} {NEW}"), endpoint="call"),
        lambda place: place.network.faults.add(ResetBeforeExecution(), endpoint="call", canister_method=SET_OPERATOR),
        lambda _place: None,
    ],
)
def test_hub_20_secrets_are_shown_nowhere(place: Place, spoil: Callable[[Place], object]) -> None:
    secrets = place.secrets(STRANGER, gateway_secret=GATEWAY)
    spoil(place)
    with pytest.raises(BackupError) as caught:
        secrets.set_operator_secret(NEW)
    shown = [
        repr(secrets),
        str(secrets.check(OLD)),
        repr(caught.value.context),
        str(pickle.loads(pickle.dumps(caught.value))),  # noqa: S301 - our own
        *map(repr, place.events),
        "".join(traceback.format_exception(caught.value)),
    ]
    for secret in (OLD, NEW, GATEWAY):
        assert not [text for text in shown if secret in text]


def test_hub_20_ids_and_ages_are_checked(place: Place) -> None:
    with place.agent() as agent:
        for options in ({"hub_canister_id": "x"}, {"max_age": dt.timedelta()}, {"gateway_secret": " "}):
            given: dict[str, Any] = {"hub_canister_id": "aaaaa-aa"} | options
            with pytest.raises(ConfigurationError):
                HubSecrets(agent, **given)
