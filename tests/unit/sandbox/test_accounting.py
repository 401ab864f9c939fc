"""Prices, balances and memory of a canister."""

import attrs
import pytest

from knowtation_backup.sandbox import accounting
from knowtation_backup.sandbox.execution.images import MemoryImage
from knowtation_backup.sandbox.messages import Rejected
from knowtation_backup.sandbox.state import Canister, CanisterSettings, Change, LogRecord, Snapshot

GIB = 1 << 30
DAY = 86_400


@pytest.fixture
def canister() -> Canister:
    return Canister(
        canister_id=bytes.fromhex("00000000000000010101"),
        settings=CanisterSettings(controllers=[b"\x04"]),
        created_at=0,
        cycles=10**12,
    )


def snapshot(heap: int = 0, stable: int = 0, module: int = 0) -> Snapshot:
    return Snapshot(
        snapshot_id=bytes(18),
        taken_at=0,
        uploaded=True,
        module=bytes(module),
        heap=MemoryImage(heap),
        stable=MemoryImage(stable),
        global_values=(),
        chunk_store={},
        canister_version=0,
        certified_data=b"abc",
        global_timer=None,
        hook_status=None,
    )


def test_prices_are_those_of_thirteen_nodes() -> None:
    assert accounting.ingress_cost(1000) == 1_200_000 + 2_000_000
    assert accounting.execution_cost(7, wasm64=False) == 5_000_007
    assert accounting.execution_cost(7, wasm64=True) == 5_000_014


def test_uploading_a_gibibyte_costs_about_two_trillion() -> None:
    chunks, rest = divmod(GIB, 2_000_000)
    total = chunks * accounting.ingress_cost(2_000_300) + accounting.ingress_cost(rest + 300)
    assert total == pytest.approx(2.15e12, rel=0.01)


def test_storage_costs_329_billion_per_gibibyte_and_month(canister: Canister) -> None:
    canister.snapshots[b"a"] = snapshot(stable=GIB)
    assert accounting.idle_cycles_burned_per_day(canister) * 30 == pytest.approx(329e9, rel=0.01)


def test_a_charge_is_recorded_by_use_and_stops_at_zero(canister: Canister) -> None:
    assert accounting.charge(canister, accounting.INSTRUCTIONS, 100) == 100
    assert accounting.charge(canister, accounting.INSTRUCTIONS, 2 * 10**12) == 10**12 - 100
    assert canister.cycles == 0
    assert canister.cycles_consumed == {"instructions": 10**12}


def test_snapshots_raise_the_freezing_balance(canister: Canister) -> None:
    assert accounting.freezing_balance(canister) == 0
    canister.snapshots[b"a"] = snapshot(heap=GIB)
    balance = accounting.freezing_balance(canister)
    assert balance == pytest.approx(30 * accounting.idle_cycles_burned_per_day(canister), rel=1e-6)
    canister.reserved_cycles = 1000
    assert accounting.freezing_balance(canister) == balance - 1000
    canister.settings.freezing_threshold = 0
    assert accounting.freezing_balance(canister) == 0


def test_a_memory_allocation_is_paid_whether_used_or_not(canister: Canister) -> None:
    canister.settings.memory_allocation = GIB
    allocated = accounting.idle_cycles_burned_per_day(canister)
    assert allocated == 127_000 * DAY
    canister.snapshots[b"a"] = snapshot(heap=GIB // 2)
    assert accounting.idle_cycles_burned_per_day(canister) == allocated
    canister.settings.compute_allocation = 1
    assert accounting.idle_cycles_burned_per_day(canister) == allocated + 10_000_000 * DAY


def test_memory_has_its_parts_and_their_sum(canister: Canister) -> None:
    canister.snapshots[b"a"] = snapshot(heap=65_536, stable=131_072, module=100)
    canister.chunk_store[b"h"] = b"small"
    canister.logs.append(LogRecord(idx=0, timestamp_nanos=0, content=b"12345"))
    details = ("controllers_change", {"controllers": [b"", b""]})
    canister.history.append(Change(timestamp_nanos=0, canister_version=0, origin=("", {}), details=details))
    usage = accounting.memory_usage(canister)
    assert usage["snapshots_size"] == 65_536 + 131_072 + 100 + 3
    assert usage["wasm_chunk_store_size"] == 1 << 20
    assert usage["log_memory_store_size"] > 5
    assert usage["canister_history_size"] > 60
    assert usage["wasm_memory_size"] == usage["stable_memory_size"] == 0
    assert usage.pop("total") == sum(usage.values())


def test_time_is_charged_in_whole_seconds_and_nothing_is_lost(canister: Canister) -> None:
    canister.snapshots[b"a"] = snapshot(heap=GIB)
    per_second = sum(accounting._idle_cost(canister, 1))
    for now in range(0, 10_000_000_000, 300_000_000):
        assert accounting.charge_idle(canister, now)
    assert canister.cycles == 10**12 - 9 * per_second
    assert canister.cycles_consumed["memory"] == 9 * per_second


def test_reserved_cycles_pay_memory_first(canister: Canister) -> None:
    canister.snapshots[b"a"] = snapshot(heap=GIB)
    canister.reserved_cycles = 100
    assert accounting.charge_idle(canister, 1_000_000_000)
    assert canister.reserved_cycles == 0
    assert 10**12 - canister.cycles == canister.cycles_consumed["memory"] - 100


def test_a_canister_that_cannot_pay_is_told_of(canister: Canister) -> None:
    canister.snapshots[b"a"] = snapshot(heap=GIB)
    canister.cycles = 1_000_000
    assert not accounting.charge_idle(canister, 3600 * 10**9)
    assert canister.cycles == 0


def test_frozen_canisters_are_refused_and_not_charged(canister: Canister) -> None:
    accounting.charge_ingress(canister, 100)
    balance = canister.cycles
    canister.cycles = cost = accounting.ingress_cost(100)
    canister.snapshots[b"a"] = snapshot(heap=GIB)
    missing = accounting.freezing_balance(canister)
    with pytest.raises(Rejected) as caught:
        accounting.charge_ingress(canister, 100)
    assert caught.value.error_code == "IC0207"
    assert caught.value.message == (
        "Canister rrkah-fqaaa-aaaaa-aaaaq-cai is out of cycles: "
        f"please top up the canister with at least {missing} additional cycles"
    )
    assert canister.cycles == cost
    with pytest.raises(Rejected, match="it's frozen"):
        accounting.require_unfrozen_for_query(canister)
    canister.cycles = balance
    accounting.require_unfrozen_for_query(canister)


def test_settings_can_be_priced_before_they_apply(canister: Canister) -> None:
    settings = attrs.evolve(canister.settings, compute_allocation=10)
    assert accounting.freezing_balance(canister, settings=settings) == 10 * 10_000_000 * 2_592_000
    assert accounting.freezing_balance(canister, extra_bytes=GIB) == 127_000 * 2_592_000
