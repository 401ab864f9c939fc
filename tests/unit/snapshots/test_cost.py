"""Estimates in cycles, held to the figures that the reference gives."""

from __future__ import annotations

import datetime as dt

import pytest

from knowtation_backup.errors import ConfigurationError
from knowtation_backup.model.canisters import CanisterSettings, CanisterStatus, RunState, SnapshotMetadata
from knowtation_backup.model.ids import Principal
from knowtation_backup.snapshots.cost import (
    FREE,
    CyclesPrices,
    StorageShare,
    freezing_reserve,
    storage_findings,
)

GIB = 1 << 30
CANISTER = Principal.parse("rrkah-fqaaa-aaaaa-aaaaq-cai")


def status(*, memory: int = 100, snapshots: int = 0, idle: int | None = 86_400, reserved: int = 0) -> CanisterStatus:
    return CanisterStatus(
        canister_id=CANISTER,
        run_state=RunState.RUNNING,
        settings=CanisterSettings(values={"freezing_threshold": 1_000}),
        cycles=10**12,
        memory_size_bytes=memory,
        module_hash=None,
        reserved_cycles=reserved,
        idle_cycles_burned_per_day=idle,
        memory_metrics={"snapshots_size": snapshots},
        certified=True,
    )


def test_a_gibibyte_up_costs_about_two_trillion_and_down_some_billion_cycles() -> None:
    prices = CyclesPrices()
    up, down = prices.upload(GIB), prices.download(GIB)
    assert up.cycles == pytest.approx(2.155e12, rel=0.01)
    assert 4e9 < down.cycles < 6e9
    assert (up.calls, down.calls) == (538, 538)
    assert "about 2.16 T cycles" in str(up)


def test_storage_of_a_gibibyte_costs_about_329_billion_a_month() -> None:
    assert CyclesPrices().storage(GIB).cycles == pytest.approx(329.18e9, rel=0.001)
    assert CyclesPrices().storage(GIB, dt.timedelta(days=1)).operation == "storage for 1 days"


def test_prices_grow_with_the_nodes_of_a_subnet_and_local_networks_are_free() -> None:
    assert CyclesPrices(nodes=34).take(GIB).cycles == pytest.approx(CyclesPrices().take(GIB).cycles * 34 / 13, rel=1e-6)
    assert [FREE.take(GIB).cycles, FREE.load(GIB).cycles, FREE.upload(GIB).cycles, FREE.storage(GIB).cycles] == [0] * 4


def test_metadata_gives_the_calls_of_each_section_and_counts_stored_chunks_whole() -> None:
    metadata = SnapshotMetadata(
        wasm_module_size=1, wasm_memory_size=65_536, stable_memory_size=2_000_001, wasm_chunk_store=(b"a" * 32,)
    )
    estimate = CyclesPrices().download(metadata)
    assert estimate.calls == 1 + 1 + 1 + 2 + 1
    assert estimate.size_bytes == metadata.size_bytes + (1 << 20)
    assert estimate.to_json()["operation"] == "download"


def test_the_freezing_reserve_is_the_idle_burn_of_the_threshold() -> None:
    assert freezing_reserve(status(idle=86_400)) == 1_000
    assert freezing_reserve(status(idle=86_400, reserved=400)) == 600
    assert freezing_reserve(status(idle=None)) == 0
    assert freezing_reserve(status(idle=86_400), extra_bytes=GIB) == 1_000 + 127_000_000


def test_snapshots_that_dominate_the_memory_are_named() -> None:
    assert storage_findings(status(memory=100, snapshots=50)) == ()
    (finding,) = storage_findings(status(memory=100, snapshots=51))
    assert finding.code == "snapshots_dominate_burn"
    assert "51%" in finding.message
    assert StorageShare.of(status(memory=0)).share == 0.0


def test_prices_are_checked() -> None:
    with pytest.raises(ConfigurationError):
        CyclesPrices(nodes=0)
