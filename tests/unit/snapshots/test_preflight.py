"""Checks before a stop, one by one, on hand-made statuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from knowtation_backup.contracts import ignore_events, utc_now
from knowtation_backup.errors import BackupError, RejectedError, SourceUnavailableError
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.canisters import CanisterSettings, CanisterStatus, RunState, Snapshot
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.snapshots.journal import DowntimeJournal
from knowtation_backup.snapshots.preflight import CanisterPreflight, check_canister, state_bytes
from knowtation_backup.snapshots.site import Site, SnapshotOptions

CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")
CALLER = Principal(b"\x01\x02\x03")
OTHER = Principal(b"\x04\x05\x06")
STATUS = CanisterStatus(
    canister_id=CANISTER,
    run_state=RunState.RUNNING,
    settings=CanisterSettings(controllers=(CALLER, OTHER), values={"freezing_threshold": 86_400}),
    cycles=10**13,
    memory_size_bytes=1_000_000,
    module_hash=bytes(32),
    idle_cycles_burned_per_day=10**9,
    memory_metrics={"stable_memory_size": 400_000, "wasm_memory_size": 500_000},
    certified=True,
)


@attrs.define
class Answers:
    """What the management canister would say."""

    status: CanisterStatus | BackupError = STATUS
    snapshots: int = 0

    def canister_status(self, _canister_id: Principal, *, certified: bool, **_options: Any) -> CanisterStatus:
        assert certified, "one node alone must not be believed"
        if isinstance(self.status, BackupError):
            raise self.status
        return self.status

    def list_snapshots(self, _canister_id: Principal) -> tuple[Snapshot, ...]:
        return tuple(
            Snapshot(snapshot_id=SnapshotId(bytes([n])), taken_at_ns=n, size_bytes=1) for n in range(self.snapshots)
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(
        management=cast("ManagementCanister", Answers()),
        network="0" * 16,
        caller=CALLER,
        journal=DowntimeJournal(tmp_path / "journal"),
        options=SnapshotOptions(),
        observer=ignore_events,
        clock=utc_now,
        monotonic=lambda: 0.0,
        sleep=lambda _seconds: None,
    )


def checked(
    site: Site, status: CanisterStatus | BackupError = STATUS, snapshots: int = 0, **how: Any
) -> CanisterPreflight:
    management = cast("ManagementCanister", Answers(status=status, snapshots=snapshots))
    return check_canister(attrs.evolve(site, management=management), CANISTER, **how)


def kind(report: CanisterPreflight) -> str | None:
    return None if report.error is None else report.error.kind


def test_a_running_canister_with_cycles_and_room_may_be_stopped(site: Site) -> None:
    report = checked(site)
    assert kind(report) is None
    assert report.findings == ()
    assert [check.name for check in report.checks] == ["access", "state", "code", "cycles", "cap", "journal", "custody"]


def test_only_a_controller_may(site: Site) -> None:
    settings = attrs.evolve(STATUS.settings, controllers=(OTHER,))
    report = checked(site, attrs.evolve(STATUS, settings=settings))
    assert kind(report) == "not_controller"
    refusal = RejectedError("no", kind="not_controller", certified=True)
    report = checked(site, refusal)
    assert report.error is not None
    assert report.error.hint.endswith(f"icp canister settings update {CANISTER} --add-controller {CALLER}")
    assert report.error.__cause__ is refusal
    assert report.status is None


def test_an_unreachable_network_is_said_as_it_is(site: Site) -> None:
    assert kind(checked(site, SourceUnavailableError("gone"))) == "source_unavailable"


def test_the_only_controller_is_warned(site: Site) -> None:
    settings = attrs.evolve(STATUS.settings, controllers=(CALLER,))
    assert [finding.code for finding in checked(site, attrs.evolve(STATUS, settings=settings)).findings] == [
        "only_controller"
    ]


def test_states(site: Site) -> None:
    assert kind(checked(site, attrs.evolve(STATUS, run_state=RunState.STOPPING))) == "canister_stopping"
    stopped = checked(site, attrs.evolve(STATUS, run_state=RunState.STOPPED))
    assert kind(stopped) is None
    assert [finding.code for finding in stopped.findings] == ["was_stopped"]
    empty = attrs.evolve(STATUS, module_hash=None)
    assert kind(checked(site, empty)) == "canister_empty"
    assert kind(checked(site, empty, needs_code=False)) is None


def test_cycles_must_cover_the_reserve_the_work_and_a_margin(site: Site) -> None:
    assert site.options.margin_cycles == 10**11
    poor = checked(site, attrs.evolve(STATUS, cycles=10**11))
    assert kind(poor) == "low_cycles"
    assert poor.error is not None
    needed = poor.error.context["needed_cycles"]
    assert 10**11 + 10**9 < needed < 12 * 10**10
    assert kind(checked(site, attrs.evolve(STATUS, cycles=needed))) is None
    assert kind(checked(site, attrs.evolve(STATUS, cycles=needed - 1))) == "low_cycles"


def test_where_nothing_is_charged_no_cycles_are_needed(site: Site) -> None:
    assert kind(checked(site, attrs.evolve(STATUS, cycles=0, idle_cycles_burned_per_day=0))) is None


def test_room(site: Site) -> None:
    assert kind(checked(site, snapshots=9)) is None
    assert kind(checked(site, snapshots=10)) == "snapshot_cap"
    assert kind(checked(site, snapshots=9, new_snapshots=2)) == "snapshot_cap"
    assert kind(checked(site, snapshots=10, replace="oldest")) is None
    assert kind(checked(site, snapshots=10, replace=SnapshotId(b"\x03"))) is None
    assert kind(checked(site, snapshots=10, replace=SnapshotId(b"\x63"))) == "snapshot_not_found"
    assert kind(checked(site, snapshots=10, new_snapshots=0)) is None


def test_without_a_journal_nothing_may_be_stopped(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = attrs.evolve(site, journal=DowntimeJournal(tmp_path / "file"))
    report = checked(broken)
    assert kind(report) == "bad_path"
    assert [check.name for check in report.checks if not check.ok] == ["journal"]


def test_the_size_of_a_snapshot_is_estimated_from_what_is_known() -> None:
    assert state_bytes(STATUS) == 900_000
    assert state_bytes(attrs.evolve(STATUS, memory_metrics={"snapshots_size": 300_000})) == 700_000
