"""
A hub that fails now and then changes nothing; a tenant that fails always costs only itself.

Through `Pipeline`, sealed, onto a real file system, from a real canister over sockets (issue 2, section 5.3).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import GATEWAY_SECRET, KEY_HEX, OPERATOR_KEY, Stage, connect

from knowtation_backup import (
    ArchiveState,
    EncryptionKey,
    ExportOptions,
    FsspecSink,
    HubClient,
    KeepLast,
    Ktb1Codec,
    OperatorExporter,
    Outcome,
    Pipeline,
    PreviousArchive,
    jsonable,
)
from knowtation_backup.errors import SourceUnavailableError
from knowtation_backup.sandbox import Answer, FaultPlan, ResetBeforeExecution, Rule, SandboxNetwork, Truncate
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

pytestmark = pytest.mark.sandbox

TENANTS = 24
START = dt.datetime(2026, 4, 8, 7, 30, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def busy() -> Iterator[Stage]:
    faults = FaultPlan(seed=5)
    with SandboxNetwork(faults=faults) as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=OPERATOR_KEY, gateway_secret=GATEWAY_SECRET)
        seed(hub, SeedPlan(tenants=TENANTS, vaults=2, notes=2, proposals=2))
        yield Stage(faults=faults, network=network, server=server, hub=hub)


@pytest.fixture(autouse=True)
def no_faults_left(busy: Stage) -> Iterator[None]:
    yield
    busy.faults.clear()


def pipeline(client: HubClient, directory: Path, moment: dt.datetime, **options: Any) -> Pipeline:
    return Pipeline(
        source=OperatorExporter(client, ExportOptions(**options)),
        sink=FsspecSink(directory),
        codec=Ktb1Codec(EncryptionKey.from_hex(KEY_HEX)),
        retention=KeepLast(limit=2),
        clock=lambda: moment,
    )


def test_five_percent_faults_leave_no_trace_in_the_archive(busy: Stage, tmp_path: Path) -> None:
    with connect(busy.url) as client:
        calm = pipeline(client, tmp_path / "calm", START)
        expected = calm.backup()
        rules: list[Rule] = [
            busy.faults.add(action, endpoint="gateway", probability=0.0125)
            for action in (Answer(status=503), Answer(status=500), ResetBeforeExecution(), Truncate(keep=0.6))
        ]
        stormy = pipeline(client, tmp_path / "stormy", START, concurrency=16)
        report = stormy.backup()
    assert all(rule.applied for rule in rules), "every kind of fault happened"
    assert sum(rule.applied for rule in rules) >= 0.03 * rules[0].matched
    assert report.outcome is Outcome.OK
    assert b"".join(stormy.read()) == b"".join(calm.read())
    assert report.payload_sha256 == expected.payload_sha256
    assert stormy.details().capture["content_root"] == calm.details().capture["content_root"]
    assert stormy.details().capture["transfer"]["retries_by_kind"]
    assert stormy.verify().ok


def test_one_tenant_that_always_fails(busy: Stage, tmp_path: Path) -> None:
    with connect(busy.url) as client:
        before = pipeline(client, tmp_path, START)
        good = before.backup()
        victim = client.index_page().user_ids[7]
        busy.faults.add(Answer(status=500), endpoint="gateway", headers={"x-user-id": victim})

        with pytest.raises(SourceUnavailableError) as caught:
            pipeline(client, tmp_path, START + DAY).backup()
        assert caught.value.context["user_id"] == victim, "by default nothing is stored, and the tenant is named"

        later = [pipeline(client, tmp_path, START + n * DAY, on_error="continue") for n in (2, 3)]
        reports = [each.backup() for each in later]
    now = later[-1]

    # the rest is complete
    whole = {user["user_id"]: user for user in json.loads(b"".join(now.read(good.archive_id)))["users"]}
    stored = {user["user_id"]: user for user in json.loads(b"".join(now.read(reports[-1].archive_id)))["users"]}
    assert len(whole) == TENANTS
    assert stored == {user_id: user for user_id, user in whole.items() if user_id != victim}

    # the report names the tenant, for people and for programs
    for report in reports:
        assert (report.outcome, report.exit_code) == (Outcome.PARTIAL, 3)
        assert report.manifest.counts["failed_tenants"] == 1
        assert any(victim in warning.where for warning in report.warnings)
        assert victim in str(report)
        assert victim in json.dumps(jsonable(report))
        failures = now.details(report.archive_id).capture["failures"]
        assert [failure["user_id"] for failure in failures] == [victim]

    # retention and `latest` never prefer what is incomplete, however much newer
    assert [now.find(report.archive_id).state for report in reports] == [ArchiveState.INCOMPLETE] * 2
    assert now.latest().archive_id == good.archive_id
    plan = now.plan_forget()
    assert good.archive_id in {info.archive_id for info in plan.kept}
    now.apply(plan)
    assert now.verify(good.archive_id).ok


def test_complete_archives_push_out_incomplete_ones_and_never_the_reverse(busy: Stage, tmp_path: Path) -> None:
    with connect(busy.url) as client:
        first = pipeline(client, tmp_path, START).backup().archive_id
        victim = client.index_page().user_ids[0]
        busy.faults.add(Answer(status=503), endpoint="gateway", headers={"x-user-id": victim})
        partial = pipeline(client, tmp_path, START + DAY, on_error="continue").backup().archive_id
        busy.faults.clear()

        stored = pipeline(client, tmp_path, START + DAY)
        previous = PreviousArchive(stored.details(partial).capture, lambda: stored.read(partial))
        busy.network.requests.clear()
        resumed = pipeline(client, tmp_path, START + 2 * DAY, previous=previous)
        second = resumed.backup().archive_id
        asked = {seen.headers["x-user-id"] for seen in busy.network.requests.entries if "x-user-id" in seen.headers}
        assert asked == {victim}, "resuming reads only what is missing"

        last = pipeline(client, tmp_path, START + 3 * DAY)
        third = last.backup().archive_id
    plan = last.plan_forget()
    assert {info.archive_id for info in plan.kept} == {second, third}
    assert {info.archive_id for info in plan.forgotten} == {first, partial}
    last.apply(plan)
    assert [info.archive_id for info in last.list()] == [third, second]
    assert all(last.verify(archive_id).ok for archive_id in (second, third))
