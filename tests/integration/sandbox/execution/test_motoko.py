"""Real Motoko with enhanced orthogonal persistence: its state lives in heap and globals, and its rules hold."""

from importlib import resources
from typing import Any

import attrs
import pytest

from knowtation_backup.sandbox.candid import decode, encode
from knowtation_backup.sandbox.candid.types import NAT, TEXT, Record
from knowtation_backup.sandbox.messages import Rejected
from knowtation_backup.sandbox.state import CodeState, GlobalValue

pytestmark = pytest.mark.sandbox
USER = b"\x01user\x02"
NO_ARGUMENT = b"DIDL\0\0"
ENTRY = Record(dict.fromkeys(("action", "content_hash", "id", "path", "sig", "timestamp"), TEXT))
STATS = Record({"next_seq": NAT, "total": NAT})


def wasm(name: str) -> bytes:
    return resources.files("knowtation_backup.sandbox.hub").joinpath("wasm", f"{name}.wasm").read_bytes()


@pytest.fixture(params=["mapped", "copy"])
def ledger(request: pytest.FixtureRequest, make_world: Any) -> Any:
    """A world whose only canister is the attestation ledger."""
    world = make_world(request.param, update=40_000_000_000, query=5_000_000_000)
    canister = world.empty()
    world.engine.install(canister, world.engine.parse_module(wasm("attestation")), NO_ARGUMENT, USER)
    return world


def store(world: Any, name: str) -> None:
    entry = {"action": "write", "content_hash": "00", "id": name, "path": "a.md", "sig": "", "timestamp": ""}
    world.update(only(world), "storeAttestation", encode([ENTRY], [entry]))


def total(world: Any) -> int:
    (stats,) = decode(world.query(only(world), "getStats", NO_ARGUMENT), [STATS])
    return int(stats["total"])


def only(world: Any) -> Any:
    (canister,) = world.replica.canisters.values()
    return canister


def copy_code(canister: Any) -> CodeState:
    code = canister.code
    return CodeState(
        module=code.module, heap=code.heap.copy(), stable=code.stable.copy(), global_values=list(code.global_values)
    )


def test_updates_and_queries_alternate(ledger: Any) -> None:
    for number in range(5):
        store(ledger, f"id {number}")
        assert total(ledger) == number + 1
        assert total(ledger) == number + 1


def test_module_is_recognised(ledger: Any) -> None:
    module = only(ledger).code.module

    assert module.memory64
    assert module.enhanced_orthogonal_persistence
    assert module.has_start
    assert module.methods["getStats"] == "query"
    assert module.custom_sections["candid:service"].content.startswith(b"type ")


def test_upgrade_keeps_the_heap_and_refuses_to_lose_it_unasked(ledger: Any) -> None:
    canister = only(ledger)
    store(ledger, "one")

    with pytest.raises(Rejected, match="Missing upgrade option"):
        ledger.engine.upgrade(canister, canister.code.module, NO_ARGUMENT, USER)
    assert total(ledger) == 1
    for _ in range(2):
        ledger.engine.upgrade(canister, canister.code.module, NO_ARGUMENT, USER, wasm_memory_persistence="keep")
        store(ledger, f"after {canister.version}")

    assert total(ledger) == 3
    ledger.engine.upgrade(canister, canister.code.module, NO_ARGUMENT, USER, wasm_memory_persistence="replace")
    assert total(ledger) == 0


def test_another_program_cannot_take_over_the_heap(ledger: Any) -> None:
    canister = only(ledger)
    store(ledger, "one")
    hub = ledger.engine.parse_module(wasm("hub"))

    with pytest.raises(Rejected) as info:
        ledger.engine.upgrade(canister, hub, NO_ARGUMENT, USER, wasm_memory_persistence="keep")

    assert info.value.error_code in {"IC0502", "IC0503"}
    store(ledger, "two")
    assert total(ledger) == 2


def test_a_loaded_copy_continues_where_it_was_taken(ledger: Any) -> None:
    canister = only(ledger)
    store(ledger, "one")
    code = copy_code(canister)
    store(ledger, "two")

    ledger.engine.load_code(canister, code, certified_data=b"")

    assert total(ledger) == 1
    store(ledger, "three")
    assert total(ledger) == 2


def test_a_copy_without_its_globals_does_not_work(ledger: Any) -> None:
    canister = only(ledger)
    store(ledger, "one")
    code = copy_code(canister)
    zeroed = attrs.evolve(code, global_values=[GlobalValue(value.kind, 0) for value in code.global_values])

    ledger.engine.load_code(canister, zeroed, certified_data=b"")

    assert ledger.refused_query(canister, "getStats", NO_ARGUMENT).error_code in {"IC0502", "IC0503"}


def test_queries_need_no_copy_of_the_heap(make_world: Any) -> None:
    world = make_world("mapped", update=40_000_000_000, query=5_000_000_000)
    canister = world.empty()
    world.engine.install(canister, world.engine.parse_module(wasm("attestation")), NO_ARGUMENT, USER)
    store(world, "one")
    before = attrs.asdict(world.engine.statistics)

    for _ in range(50):
        assert total(world) == 1

    after = attrs.asdict(world.engine.statistics)
    assert after.pop("rollbacks") == before.pop("rollbacks") + 50
    assert after == before
