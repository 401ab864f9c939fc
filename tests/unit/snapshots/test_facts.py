"""Facts of canisters as JSON, what changed between two looks, and what putting settings back would do."""

import datetime as dt
import json
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup.errors import BackupError, ConfigurationError, IntegrityError, UnsupportedFormatError
from knowtation_backup.model.canisters import CanisterSettings, CanisterStatus, LogRecord, RunState, Snapshot
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.model.reports import Finding, Outcome, jsonable
from knowtation_backup.snapshots.drift import ChangeKind, diff_facts
from knowtation_backup.snapshots.facts import CanisterFacts, FleetFacts, FleetItem
from knowtation_backup.snapshots.settings_plan import plan_settings

HUB, OWNER, OTHER = (Principal(number.to_bytes(8, "big") + b"\x01\x01") for number in (1, 2, 3))
MOMENT = dt.datetime(2026, 11, 21, 6, 0, 0, 123_000, tzinfo=dt.UTC)
SNAPSHOT = Snapshot(snapshot_id=SnapshotId(b"\x01" * 18), taken_at_ns=1_790_000_000_123_456_789, size_bytes=1 << 33)
VALUES: dict[str, Any] = {
    "compute_allocation": 0,
    "freezing_threshold": 2_592_000,
    "reserved_cycles_limit": 2**128 - 1,
    "log_visibility": (OWNER, OTHER),
    "snapshot_visibility": "controllers",
    "environment_variables": {"STAGE": "prod-secret", "$odd": "x"},
}
FACTS = CanisterFacts(
    canister_id=HUB,
    captured_at=MOMENT,
    controllers=(OWNER, OTHER),
    module_hash=b"\xab" * 32,
    status=CanisterStatus(
        canister_id=HUB,
        run_state=RunState.RUNNING,
        settings=CanisterSettings(controllers=(OWNER, OTHER), values=VALUES),
        cycles=10**30 + 7,
        memory_size_bytes=1 << 40,
        module_hash=b"\xab" * 32,
        version=2**64 - 1,
        reserved_cycles=0,
        memory_metrics={"wasm_memory_size": 65536},
        query_stats={"num_calls_total": 3},
        certified=True,
    ),
    snapshots=(SNAPSHOT,),
    logs=(LogRecord(index=0, at_ns=1, content=b"hi"), LogRecord(index=1, at_ns=2, content=b"\xff\x00")),
    findings=(Finding(code="a", where="b", message="c"),),
)
PUBLIC = CanisterFacts(canister_id=HUB, captured_at=MOMENT, controllers=(OWNER,), module_hash=None)


def with_settings(**changes: Any) -> CanisterFacts:
    assert FACTS.status is not None
    values = {name: value for name, value in {**VALUES, **changes}.items() if value is not None}
    settings = CanisterSettings(controllers=FACTS.controllers, values=values)
    return attrs.evolve(FACTS, status=attrs.evolve(FACTS.status, settings=settings))


def with_status(**changes: Any) -> CanisterFacts:
    assert FACTS.status is not None
    return attrs.evolve(FACTS, status=attrs.evolve(FACTS.status, **changes))


# JSON.


@pytest.mark.parametrize("facts", [FACTS, PUBLIC, attrs.evolve(FACTS, logs=None, snapshots=None)])
def test_facts_survive_json_without_loss(facts: CanisterFacts) -> None:
    data = facts.to_bytes()
    assert CanisterFacts.from_bytes(data) == facts
    assert CanisterFacts.from_bytes(data).to_bytes() == data
    assert b"1000000000000000000000000000007" in FACTS.to_bytes()


def test_the_json_form_says_what_it_is() -> None:
    value = json.loads(FACTS.to_bytes())
    assert (value["format"], value["format_version"]) == ("knowtation-canister-facts", 1)
    assert (value["access"], value["certified"]) == ("controller", True)
    assert value["status"]["settings"]["log_visibility"] == [str(OWNER), str(OTHER)]
    assert value["logs"][1] == {"index": 1, "at_ns": 2, "base64": "/wA="}
    assert json.loads(PUBLIC.to_bytes())["access"] == "public"


def test_a_moment_is_kept_to_the_millisecond() -> None:
    facts = attrs.evolve(PUBLIC, captured_at=MOMENT.replace(microsecond=123_999))
    assert facts == CanisterFacts.from_bytes(facts.to_bytes()) == PUBLIC


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary(max_size=40)
    | st.binary(max_size=29).map(Principal)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.sampled_from(["new_setting", "new_visibility", "environment_variables"]), ODD)
def test_settings_of_newer_networks_survive(name: str, value: object) -> None:
    facts = with_settings(**{name: value})
    assert CanisterFacts.from_bytes(facts.to_bytes()) == facts


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": "else"}, IntegrityError),
        ({"format_version": 2}, UnsupportedFormatError),
        ({"canister_id": "x"}, IntegrityError),
        ({"captured_at": "yesterday"}, IntegrityError),
        ({"controllers": None}, IntegrityError),
        ({"controllers": [7]}, IntegrityError),
        ({"module_hash": "zz"}, IntegrityError),
        ({"access": "public"}, IntegrityError),
        ({"certified": False}, IntegrityError),
        ({"status": {}}, IntegrityError),
        ({"status": None}, IntegrityError),
        ({"snapshots": [{"snapshot_id": ""}]}, IntegrityError),
        ({"logs": [{"index": 1, "at_ns": 1, "base64": "!"}]}, IntegrityError),
        ({"logs": [{"index": True, "at_ns": 1, "text": ""}]}, IntegrityError),
        ({"findings": [1]}, IntegrityError),
    ],
)
def test_damaged_facts_are_refused(change: dict[str, object], error: type[BackupError]) -> None:
    with pytest.raises(error):
        CanisterFacts.from_bytes(json.dumps(json.loads(FACTS.to_bytes()) | change).encode())


def test_facts_that_speak_of_another_canister_are_refused() -> None:
    value = json.loads(FACTS.to_bytes())
    value["status"]["canister_id"] = str(OWNER)
    with pytest.raises(IntegrityError, match="another canister"):
        CanisterFacts.from_bytes(json.dumps(value).encode())


@settings(deadline=None)
@given(st.binary(max_size=100), st.integers(0, 2000), st.integers(0, 255))
def test_any_bytes_are_read_or_refused(noise: bytes, position: int, byte: int) -> None:
    damaged = bytearray(FACTS.to_bytes())
    damaged[position % len(damaged)] = byte
    for data in (noise, bytes(damaged), bytes(damaged[: position % len(damaged)])):
        try:
            CanisterFacts.from_bytes(data)
        except BackupError as error:
            refused: BackupError | None = error
        else:
            refused = None
        assert refused is None or isinstance(refused, IntegrityError | UnsupportedFormatError)


def test_facts_are_readable() -> None:
    text = str(FACTS)
    assert "running, 1_000_000_000_000_000_000_000_000_000_007 cycles" in text
    assert "environment_variables: 'STAGE', '$odd'" in text
    assert f"log_visibility: {OWNER} {OTHER}" in text
    assert "(public)" in str(PUBLIC)
    assert "not certified" in str(with_status(certified=False))


# Drift.


def test_the_same_facts_do_not_differ() -> None:
    diff = diff_facts(FACTS, attrs.evolve(FACTS, captured_at=MOMENT + dt.timedelta(days=1)))
    assert diff.changes == diff.drift == ()
    assert diff.outcome is Outcome.OK
    assert "no drift" in str(diff)


@pytest.mark.parametrize(
    ("after", "kind", "names"),
    [
        (attrs.evolve(FACTS, module_hash=None), ChangeKind.CODE, ["module_hash"]),
        (attrs.evolve(FACTS, controllers=(OTHER, HUB)), ChangeKind.CONTROLLERS, ["controllers", "controllers"]),
        (with_settings(freezing_threshold=1), ChangeKind.SETTINGS, ["settings.freezing_threshold"]),
        (with_settings(log_visibility="public"), ChangeKind.SETTINGS, ["settings.log_visibility"]),
        (
            with_settings(environment_variables={"STAGE": "test", "NEW": ""}),
            ChangeKind.SETTINGS,
            [f"settings.environment_variables.{name}" for name in ("$odd", "NEW", "STAGE")],
        ),
        (with_status(run_state=RunState.STOPPED), ChangeKind.RUN_STATE, ["run_state"]),
        (attrs.evolve(FACTS, snapshots=()), ChangeKind.SNAPSHOTS, [f"snapshots.{SNAPSHOT.snapshot_id}"]),
    ],
)
def test_what_an_operator_must_know_is_drift(after: CanisterFacts, kind: ChangeKind, names: list[str]) -> None:
    diff = diff_facts(FACTS, after)
    assert [(change.kind, change.name) for change in diff.drift] == [(kind, name) for name in names]
    assert diff.of(kind) == diff.drift
    assert (diff.outcome, diff.exit_code) == (Outcome.DIFFERENT, 4)


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (with_status(cycles=1, version=5), ["cycles", "version"]),
        (
            with_status(memory_metrics={"snapshots_size": 1}),
            ["memory_metrics.snapshots_size", "memory_metrics.wasm_memory_size"],
        ),
        (with_status(query_stats={"num_calls_total": 4}), ["query_stats.num_calls_total"]),
        (with_settings(status_visibility="public"), ["settings.status_visibility"]),
        (with_settings(log_visibility=None), ["settings.log_visibility"]),
        (with_settings(log_visibility=(OTHER, OWNER)), []),
        (attrs.evolve(FACTS, controllers=(OTHER, OWNER)), []),
        (
            attrs.evolve(FACTS, snapshots=(SNAPSHOT, attrs.evolve(SNAPSHOT, snapshot_id=SnapshotId(b"\x02")))),
            ["snapshots.02"],
        ),
    ],
)
def test_what_changes_by_itself_is_no_drift(after: CanisterFacts, names: list[str]) -> None:
    diff = diff_facts(FACTS, after)
    assert [change.name for change in diff.changes] == names
    assert diff.drift == ()
    assert diff.outcome is Outcome.OK


def test_what_one_side_does_not_know_is_said() -> None:
    diff = diff_facts(FACTS, attrs.evolve(PUBLIC, controllers=FACTS.controllers, module_hash=FACTS.module_hash))
    assert diff.changes == ()
    assert diff.not_compared == ("status", "snapshots")
    assert diff.outcome is Outcome.PARTIAL
    assert "not compared: snapshots" in str(diff)


def test_facts_of_two_canisters_are_not_compared() -> None:
    with pytest.raises(ConfigurationError) as caught:
        diff_facts(FACTS, attrs.evolve(FACTS, canister_id=OWNER))
    assert caught.value.kind == "other_canister"


def test_a_change_is_one_line_whatever_the_values_hold() -> None:
    forged = with_settings(environment_variables={"STAGE\n  code: x": "", "$odd": "y" * 5000}, new="\n" * 9)
    diff = diff_facts(FACTS, forged)
    assert len(str(diff).splitlines()) == 1 + len(diff.changes)
    assert max(map(len, str(diff).splitlines())) < 500


def test_values_of_environment_variables_are_not_shown() -> None:
    after = with_settings(environment_variables={"STAGE": "new-secret"})
    diff = diff_facts(FACTS, after)
    plan = plan_settings(FACTS, after)
    shown = (FACTS, after, diff, diff.changes, plan, plan.changes, FleetItem(name="a", canister_id=HUB, facts=FACTS))
    assert not [value for value in shown if "secret" in str(value) + repr(value)]
    assert "STAGE: a text of 11 characters -> a text of 10 characters" in str(diff)
    assert b"prod-secret" in FACTS.to_bytes()


def test_a_difference_has_a_json_form() -> None:
    after = attrs.evolve(with_settings(log_visibility=()), module_hash=None)
    value = json.loads(json.dumps(jsonable(diff_facts(FACTS, after))))
    assert value["canister_id"] == str(HUB)
    assert value["changes"] == [
        {"kind": "code", "name": "module_hash", "before": "ab" * 32, "after": None},
        {"kind": "settings", "name": "settings.log_visibility", "before": [str(OWNER), str(OTHER)], "after": []},
    ]


# Settings.


def test_a_plan_names_what_differs_and_leaves_controllers_alone() -> None:
    saved = with_settings(freezing_threshold=1, new_setting=7, log_visibility=(OTHER, OWNER))
    current = attrs.evolve(FACTS, controllers=(OWNER,))
    plan = plan_settings(saved, current)
    assert [(change.name, change.now, change.wanted) for change in plan.changes] == [
        ("freezing_threshold", 2_592_000, 1)
    ]
    assert [finding.code for finding in plan.findings] == ["setting_unknown", "controllers_differ"]
    assert "2_592_000 -> 1" in str(plan)
    with_controllers = plan_settings(saved, current, controllers=True)
    assert [change.name for change in with_controllers.changes] == ["controllers", "freezing_threshold"]


def test_equal_settings_are_an_empty_plan() -> None:
    assert plan_settings(FACTS, FACTS).empty


def test_settings_of_another_canister_are_named_as_such() -> None:
    other = attrs.evolve(FACTS, canister_id=OTHER)
    assert [finding.code for finding in plan_settings(FACTS, other).findings] == ["settings_of_another"]


@pytest.mark.parametrize(("saved", "current"), [(PUBLIC, FACTS), (FACTS, PUBLIC)])
def test_public_facts_are_no_plan(saved: CanisterFacts, current: CanisterFacts) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan_settings(saved, current)
    assert caught.value.kind == "settings_unknown"


# Several canisters.


@pytest.mark.parametrize(
    ("good", "public", "bad", "outcome"),
    [
        (2, 0, 0, Outcome.OK),
        (1, 1, 0, Outcome.PARTIAL),
        (1, 0, 1, Outcome.PARTIAL),
        (0, 1, 1, Outcome.PARTIAL),
        (0, 0, 2, Outcome.FAILED),
        (0, 0, 0, Outcome.OK),
    ],
)
def test_the_outcome_says_how_many_were_read(good: int, public: int, bad: int, outcome: Outcome) -> None:
    items = [FleetItem(name="a", canister_id=HUB, facts=FACTS)] * good
    items += [FleetItem(name="p", canister_id=HUB, facts=PUBLIC)] * public
    items += [FleetItem(name="b", canister_id=OTHER, error=IntegrityError("broken"))] * bad
    fleet = FleetFacts(items=tuple(items))
    assert (fleet.outcome, fleet.exit_code) == (outcome, int(outcome))
    assert str(fleet).count("FAILED") == bad
    if bad:
        with pytest.raises(IntegrityError, match="broken"):
            fleet["b"]
    with pytest.raises(ConfigurationError, match="no canister is called zz"):
        fleet["zz"]
