"""Facts of canisters from the sandbox network: what a controller sees, what others see, drift, settings put back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

from knowtation_backup._engine.cancellation import Cancellation
from knowtation_backup._engine.retrying import RetryPolicy
from knowtation_backup.errors import (
    BackupError,
    CertificateError,
    ConfigurationError,
    OperationCancelledError,
    PlanStaleError,
    RejectedError,
)
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.canisters import RunState
from knowtation_backup.model.events import Event
from knowtation_backup.model.ids import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from knowtation_backup.model.reports import Outcome
from knowtation_backup.sandbox import Answer, SandboxNetwork, Tamper
from knowtation_backup.sandbox.faults import Action
from knowtation_backup.snapshots.drift import ChangeKind, diff_facts
from knowtation_backup.snapshots.facts import CanisterFacts, capture_all, capture_facts
from knowtation_backup.snapshots.registry import CanisterEntry, CanisterRegistry
from knowtation_backup.snapshots.settings_plan import apply_settings, plan_settings

pytestmark = pytest.mark.sandbox

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def counter_wasm() -> bytes:
    return bytes(wasmtime.wat2wasm((DATA / "counter.wat").read_text()))


@pytest.fixture
def network() -> Iterator[SandboxNetwork]:
    with SandboxNetwork(tick_seconds=None, call_wait_seconds=2.0) as running:
        yield running


@pytest.fixture
def management(network: SandboxNetwork) -> Iterator[ManagementCanister]:
    """Asks as the anonymous user, who controls what the tests make."""
    with Agent(
        "http://127.0.0.1:1",
        root_key=network.root_key,
        transport=network.transport(),
        retry=RetryPolicy(attempts=2, first_delay_seconds=0.01),
        sleep=lambda _seconds: None,
    ) as agent:
        yield ManagementCanister(agent)


@pytest.fixture
def ours(network: SandboxNetwork, counter_wasm: bytes) -> Principal:
    return Principal(network.create_canister(counter_wasm, controllers=[ANONYMOUS.raw]))


@pytest.fixture
def theirs(network: SandboxNetwork, counter_wasm: bytes) -> Principal:
    return Principal(network.create_canister(counter_wasm, controllers=[b"\x2a\x01"]))


def test_a_controller_sees_everything_certified(management: ManagementCanister, ours: Principal) -> None:
    with pytest.raises(RejectedError, match="on purpose"):
        management.agent.call(ours, "boom", b"DIDL\x00\x00")
    management.stop(ours)
    snapshot = management.take_snapshot(ours)
    facts = capture_facts(management, str(ours))
    assert (facts.access, facts.certified, facts.findings) == ("controller", True, ())
    assert facts.controllers == (ANONYMOUS,)
    assert facts.snapshots == (snapshot,)
    assert facts.status is not None
    assert facts.status.run_state is RunState.STOPPED
    assert facts.status.module_hash == facts.module_hash
    assert facts.status.settings.values["freezing_threshold"] == 2_592_000
    assert facts.status.memory_metrics["snapshots_size"] > 0
    assert facts.logs is not None
    assert "on purpose" in facts.logs[-1].content.decode()
    assert CanisterFacts.from_bytes(facts.to_bytes()) == facts


def test_a_cheap_look_asks_one_node_and_says_so(
    management: ManagementCanister, ours: Principal, network: SandboxNetwork
) -> None:
    facts = capture_facts(management, ours, certified=False, logs=False)
    assert not facts.certified
    assert facts.logs is None
    assert network.requests.counts["call"] == 1  # the list of snapshots
    assert capture_facts(management, ours).module_hash == facts.module_hash


def test_who_is_no_controller_gets_what_is_public_and_is_told(
    management: ManagementCanister, theirs: Principal
) -> None:
    facts = capture_facts(management, theirs)
    assert (facts.access, facts.certified) == ("public", True)
    assert facts.controllers == (Principal(b"\x2a\x01"),)
    assert facts.module_hash is not None
    assert (facts.status, facts.snapshots, facts.logs) == (None, None, None)
    assert [finding.code for finding in facts.findings] == [
        "public_facts_only",
        "snapshots_unreadable",
        "logs_unreadable",
    ]
    assert "public_facts_only" in str(facts)


def test_a_canister_that_is_not_there_is_an_error(management: ManagementCanister) -> None:
    with pytest.raises(RejectedError):
        capture_facts(management, Principal(bytes(7) + b"\x99\x01\x01"))


def test_a_canister_without_code_has_facts(management: ManagementCanister, network: SandboxNetwork) -> None:
    empty = Principal(network.create_canister(controllers=[ANONYMOUS.raw]))
    assert capture_facts(management, empty).module_hash is None


def test_what_somebody_changed_is_drift(
    management: ManagementCanister, ours: Principal, network: SandboxNetwork
) -> None:
    management.stop(ours)
    snapshot = management.take_snapshot(ours)
    management.start(ours)
    before = capture_facts(management, ours)
    management.agent.call(ours, "inc", b"DIDL\x00\x00")
    assert diff_facts(before, capture_facts(management, ours)).drift == ()

    management.delete_snapshot(ours, snapshot.snapshot_id)
    values = {"freezing_threshold": 60, "environment_variables": {"STAGE": "x"}}
    management.update_settings(ours, controllers=[ANONYMOUS, MANAGEMENT_CANISTER], values=values)
    management.stop(ours)
    network.canisters[ours.raw].code = None
    diff = diff_facts(before, capture_facts(management, ours))
    assert [change.kind for change in diff.drift] == [
        ChangeKind.CODE,
        ChangeKind.CONTROLLERS,
        ChangeKind.RUN_STATE,
        ChangeKind.SETTINGS,
        ChangeKind.SETTINGS,
        ChangeKind.SNAPSHOTS,
    ]
    assert diff.exit_code == 4


def test_several_canisters_are_looked_at_and_failures_stay_apart(
    management: ManagementCanister, ours: Principal, theirs: Principal
) -> None:
    absent = Principal(bytes(7) + b"\x99\x01\x01")
    registry = CanisterRegistry(
        CanisterEntry(name=name, canister_id=canister)
        for name, canister in (("theirs", theirs), ("absent", absent), ("ours", ours))
    )
    events: list[Event] = []
    fleet = capture_all(management, registry, observer=events.append)
    assert [item.name for item in fleet.items] == ["theirs", "absent", "ours"]
    assert fleet.outcome is Outcome.PARTIAL
    assert [item.name for item in fleet.failed] == ["absent"]
    assert fleet["ours"].access == "controller"
    assert fleet["theirs"].access == "public"
    with pytest.raises(RejectedError):
        fleet["absent"]
    told = {event.fields["name"]: (event.name, event.fields.get("access")) for event in events}
    assert {frozenset(event.fields) for event in events} == {
        frozenset({"canister_id", "name", "access"}),
        frozenset({"canister_id", "name", "error"}),
    }
    assert told == {
        "ours": ("facts.captured", "controller"),
        "theirs": ("facts.captured", "public"),
        "absent": ("facts.failed", None),
    }


def test_ids_name_themselves(management: ManagementCanister, ours: Principal) -> None:
    fleet = capture_all(management, [str(ours)], workers=1)
    assert fleet.outcome is Outcome.OK
    assert fleet[str(ours)].canister_id == ours


def test_a_cancelled_look_ends(management: ManagementCanister, ours: Principal) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(OperationCancelledError):
        capture_all(management, [ours], cancellation=cancellation)


@pytest.mark.parametrize("fault", [Tamper("reply"), Tamper("signature"), Answer(status=500)])
def test_a_lie_or_an_outage_is_no_reason_to_fall_back(
    management: ManagementCanister, ours: Principal, network: SandboxNetwork, fault: Action
) -> None:
    network.faults.add(fault, endpoint="call")
    with pytest.raises(BackupError) as caught:
        capture_facts(management, ours)
    assert not isinstance(caught.value, RejectedError)
    if isinstance(fault, Tamper):
        assert isinstance(caught.value, CertificateError)


# Settings.


def test_settings_are_put_back_and_read_back(management: ManagementCanister, ours: Principal) -> None:
    values = {
        "freezing_threshold": 86_400,
        "log_visibility": (MANAGEMENT_CANISTER,),
        "environment_variables": {"STAGE": "x"},
        "snapshot_visibility": "public",
    }
    management.update_settings(ours, values=values)
    saved = capture_facts(management, ours)
    management.update_settings(
        ours,
        values={"freezing_threshold": 60, "log_visibility": "public", "environment_variables": {}},
        controllers=[ANONYMOUS, MANAGEMENT_CANISTER],
    )
    plan = plan_settings(saved, capture_facts(management, ours))
    assert [change.name for change in plan.changes] == ["environment_variables", "freezing_threshold", "log_visibility"]
    report = apply_settings(management, plan, confirm=str(ours))
    assert (report.outcome, report.differing) == (Outcome.OK, ())
    after = capture_facts(management, ours)
    assert after.controllers == (MANAGEMENT_CANISTER, ANONYMOUS)  # not asked for
    assert after.status is not None
    assert saved.status is not None
    assert after.status.settings.values == saved.status.settings.values

    everything = plan_settings(saved, after, controllers=True)
    assert apply_settings(management, everything, confirm=str(ours)).applied == everything.changes
    assert diff_facts(saved, capture_facts(management, ours)).drift == ()
    assert apply_settings(management, plan_settings(saved, saved), confirm=ours).applied == ()


def test_a_plan_needs_the_id_and_the_settings_it_was_made_for(
    management: ManagementCanister, ours: Principal, network: SandboxNetwork
) -> None:
    saved = capture_facts(management, ours)
    management.update_settings(ours, values={"freezing_threshold": 60})
    plan = plan_settings(saved, capture_facts(management, ours))
    calls = network.requests.counts["call"]
    with pytest.raises(ConfigurationError) as caught:
        apply_settings(management, plan, confirm="yes")
    assert caught.value.kind == "not_confirmed"
    assert network.requests.counts["call"] == calls
    management.update_settings(ours, values={"freezing_threshold": 61})
    with pytest.raises(PlanStaleError, match="freezing_threshold"):
        apply_settings(management, plan, confirm=str(ours))


def test_nobody_is_locked_out_by_accident(management: ManagementCanister, ours: Principal) -> None:
    management.update_settings(ours, controllers=[ANONYMOUS, MANAGEMENT_CANISTER])
    now = capture_facts(management, ours)
    saved = CanisterFacts.from_bytes(now.to_bytes().replace(b'"2vxsx-fae"', b'"aaaaa-aa"'))
    plan = plan_settings(saved, now, controllers=True)
    with pytest.raises(ConfigurationError) as caught:
        apply_settings(management, plan, confirm=str(ours))
    assert caught.value.kind == "would_lose_control"
    assert capture_facts(management, ours).controllers == now.controllers
    assert apply_settings(management, plan, confirm=str(ours), lose_control=True).outcome is Outcome.OK
    assert capture_facts(management, ours).access == "public"
