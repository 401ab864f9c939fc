"""What a monitor of canisters has to see: cycles that fall, a canister that freezes, and what happens in the end."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import wasmtime

from knowtation_backup.sandbox import Rejected, SandboxNetwork

pytestmark = pytest.mark.sandbox

ANONYMOUS = b"\x04"
DAY = 86_400
HEARTBEAT = '(module (memory 1) (func (export "canister_heartbeat")))'


@pytest.fixture
def network() -> Iterator[SandboxNetwork]:
    """Time and rounds pass when the test says so."""
    with SandboxNetwork(tick_seconds=None) as running:
        yield running


@pytest.fixture
def canister(network: SandboxNetwork, counter_wasm: bytes) -> bytes:
    return network.create_canister(counter_wasm, controllers=[ANONYMOUS])


def pass_time(network: SandboxNetwork, seconds: float) -> None:
    network.clock.advance(seconds)
    network.tick()


def look(ic: Any, canister_id: bytes) -> dict[str, Any]:
    """Return the status, asked for by a query, which costs nothing."""
    return dict(ic.manage("canister_status", {"canister_id": canister_id}, query=True))


def spent(ic: Any, canister_id: bytes) -> dict[str, int]:
    return dict(ic.manage("canister_metrics", {"canister_id": canister_id}, query=True)["cycles_consumed"])


def test_cycles_fall_with_use_and_every_one_is_accounted_for(ic: Any, canister: bytes) -> None:
    before, metrics = look(ic, canister)["cycles"], spent(ic, canister)
    ic.query(canister, "get")
    assert look(ic, canister)["cycles"] == before
    ic.update(canister, "inc")
    with pytest.raises(Rejected):
        ic.update(canister, "boom")
    ic.manage("take_canister_snapshot", {"canister_id": canister})
    now = spent(ic, canister)
    paid = {name: now[name] - metrics[name] for name in now if now[name] != metrics[name]}
    assert set(paid) == {"ingress_induction", "instructions"}
    assert paid["ingress_induction"] > 3 * 1_200_000
    assert paid["instructions"] > 2_000_000_000
    assert before - look(ic, canister)["cycles"] == sum(paid.values())


def test_cycles_fall_with_time_as_fast_as_the_status_says(ic: Any, network: SandboxNetwork, canister: bytes) -> None:
    before, metrics = look(ic, canister), spent(ic, canister)
    pass_time(network, 10 * DAY)
    after = look(ic, canister)
    burned = before["cycles"] - after["cycles"]
    assert burned == pytest.approx(10 * before["idle_cycles_burned_per_day"], rel=1e-4)
    assert spent(ic, canister)["memory"] - metrics["memory"] == burned
    ic.manage("take_canister_snapshot", {"canister_id": canister})
    grown = look(ic, canister)
    assert grown["memory_metrics"]["snapshots_size"] > 40 * 65_536
    assert grown["idle_cycles_burned_per_day"] > 1.9 * after["idle_cycles_burned_per_day"]
    settings = {"compute_allocation": 1}
    ic.manage("update_settings", {"canister_id": canister, "settings": settings})
    before = look(ic, canister)
    pass_time(network, DAY)
    assert before["cycles"] - look(ic, canister)["cycles"] == pytest.approx(
        before["idle_cycles_burned_per_day"], rel=1e-4
    )
    assert spent(ic, canister)["compute_allocation"] >= DAY * 10_000_000


def test_heartbeats_cost_while_a_canister_runs(ic: Any, network: SandboxNetwork) -> None:
    beating = network.create_canister(bytes(wasmtime.wat2wasm(HEARTBEAT)), controllers=[ANONYMOUS])
    before = look(ic, beating)["cycles"]
    for _ in range(10):
        network.tick()
    assert 10 * 5_000_000 < before - look(ic, beating)["cycles"] < 10 * 5_010_000
    ic.manage("stop_canister", {"canister_id": beating})
    before = look(ic, beating)["cycles"]
    network.tick()
    assert look(ic, beating)["cycles"] == before


def test_a_frozen_canister_keeps_its_state_and_serves_nobody(ic: Any, network: SandboxNetwork, canister: bytes) -> None:
    ic.update(canister, "inc")
    threshold = 100 * 365 * DAY
    daily = look(ic, canister)["idle_cycles_burned_per_day"]
    network.replica.canisters[canister].cycles = daily * 1000
    ic.manage("update_settings", {"canister_id": canister, "settings": {"freezing_threshold": threshold}})
    with pytest.raises(Rejected, match="out of cycles") as update:
        ic.update(canister, "inc")
    with pytest.raises(Rejected, match="frozen") as query:
        ic.query(canister, "get")
    assert (update.value.error_code, query.value.error_code) == ("IC0207", "IC0207")
    with network.serve() as server, httpx.Client(base_url=server.gateway_url(canister)) as web:
        reply = web.get("/")
        assert (reply.status_code, reply.headers["x-ic-error-cause"]) == (503, "canister_frozen")
        needed = threshold // DAY * daily
        ic.manage("provisional_top_up_canister", {"canister_id": canister, "amount": 2 * needed})
        assert web.get("/").status_code == 200
    assert ic.update(canister, "inc")[-8:] == (2).to_bytes(8, "little")


def test_a_canister_without_cycles_loses_code_and_snapshots(ic: Any, network: SandboxNetwork, canister: bytes) -> None:
    ic.manage("take_canister_snapshot", {"canister_id": canister})
    status = look(ic, canister)
    settings = {"compute_allocation": 1}
    ic.manage("update_settings", {"canister_id": canister, "settings": settings})
    days = look(ic, canister)["cycles"] // look(ic, canister)["idle_cycles_burned_per_day"]
    pass_time(network, (days - 1) * DAY)
    assert look(ic, canister)["module_hash"] == status["module_hash"]
    assert look(ic, canister)["memory_metrics"]["snapshots_size"] == status["memory_metrics"]["snapshots_size"]
    pass_time(network, 3 * DAY)
    gone = look(ic, canister)
    assert (gone["cycles"], gone["module_hash"], gone["memory_metrics"]["snapshots_size"]) == (0, None, 0)
    assert gone["settings"]["controllers"] == [ANONYMOUS]
    ic.manage("provisional_top_up_canister", {"canister_id": canister, "amount": 10**13})
    assert ic.manage("list_canister_snapshots", {"canister_id": canister}) == []


def test_logs_tell_why_a_message_failed_and_when(ic: Any, network: SandboxNetwork, canister: bytes) -> None:
    times = []
    for _ in range(3):
        times.append(network.clock.now_ns())
        with pytest.raises(Rejected):
            ic.update(canister, "boom")
        network.clock.advance(10)
    records = ic.manage("fetch_canister_logs", {"canister_id": canister}, query=True)["canister_log_records"]
    assert [record["idx"] for record in records] == [0, 1, 2]
    for record, at in zip(records, times, strict=True):
        assert b"on purpose" in record["content"]
        assert at <= record["timestamp_nanos"] < at + 10 * 10**9
