"""Cost of isolation: what is copied follows what a message touches, not the size of the heap."""

import os
from pathlib import Path
from typing import Any

import pytest

from knowtation_backup.sandbox.clock import SandboxClock
from knowtation_backup.sandbox.execution.engine import Engine

pytestmark = pytest.mark.sandbox
GIB = 1 << 30
PAGE = 4096

BIG = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i64 i64)))
  (memory i64 16384)
  (func $touch (param $step i64) (local $at i64)
    (loop $more
      (i64.store (local.get $at) (i64.add (i64.load (local.get $at)) (i64.const 1)))
      (local.set $at (i64.add (local.get $at) (local.get $step)))
      (br_if $more (i64.lt_u (local.get $at) (i64.const 0x40000000)))))
  (func $show (call $append (i64.const 0x3ff00000) (i64.const 8)) (call $reply))
  (func (export "canister_update sparse") (call $touch (i64.const 0x00100000)) (call $show))
  (func (export "canister_update one") (i64.store (i64.const 0) (i64.const 1)) (call $show))
  (func (export "canister_query read") (drop (i64.load (i64.const 0x20000000))) (call $show))
  (func (export "canister_query write") (call $touch (i64.const 0x10000000)) (call $show)))"""


@pytest.fixture(params=["mapped", "pagemap"])
def big(request: pytest.FixtureRequest, make_world: Any) -> Any:
    return make_world(request.param)


def test_queries_on_a_gigabyte_copy_nothing(big: Any) -> None:
    canister = big.canister(BIG)
    big.update(canister, "sparse")
    before = big.engine.statistics.bytes_committed

    for _ in range(20):
        assert big.query(canister, "read") == (1).to_bytes(8, "little")
        assert big.query(canister, "write") == (1).to_bytes(8, "little")

    assert big.engine.statistics.bytes_restored == 0
    assert big.engine.statistics.bytes_committed == before
    assert big.engine.statistics.rollbacks == 40


def test_updates_on_a_gigabyte_write_the_touched_pages(big: Any) -> None:
    canister = big.canister(BIG)
    assert canister.code.heap.size_bytes == GIB
    statistics = big.engine.statistics
    before = statistics.bytes_committed

    big.update(canister, "one")
    assert statistics.bytes_committed - before == PAGE
    big.update(canister, "sparse")

    assert statistics.bytes_committed - before == PAGE + 1024 * PAGE
    assert sum(end - start for start, end in canister.code.heap.extents()) == 1024 * PAGE


def test_a_gigabyte_heap_takes_no_memory_it_does_not_use(big: Any) -> None:
    canister = big.canister(BIG)
    big.update(canister, "one")

    assert os.fstat(canister.code.heap.fileno()).st_blocks * 512 < 1 << 20


def test_copying_isolation_restores_the_whole_heap(make_world: Any) -> None:
    world = make_world("copy")
    canister = world.canister()
    before = world.engine.statistics.bytes_restored

    world.query(canister, "peek")

    assert world.engine.statistics.bytes_restored - before == canister.code.heap.size_bytes


def test_instances_beyond_the_limit_are_dropped_and_made_again(one: Any) -> None:
    one.engine._max_instances = 2
    canisters = [one.canister() for _ in range(4)]

    for canister in canisters * 2:
        one.update(canister, "inc")

    assert len(one.engine._live) == 2
    assert [one.counts(canister)[0] for canister in canisters] == [3, 3, 3, 3]


def test_compiled_modules_are_kept_on_disk(one: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = one.module()
    directory = tmp_path / "compiled"

    def open_and_parse() -> None:
        engine = Engine(SandboxClock(), subnet_id=b"s", root_key_der=b"k", cache_directory=directory)
        engine.parse_module(module.data)
        engine.close()

    open_and_parse()
    (cached,) = directory.iterdir()
    monkeypatch.setattr("knowtation_backup.sandbox.execution.compiler.rewrite", None)  # compiling again would call it
    open_and_parse()
    monkeypatch.undo()

    cached.write_bytes(b"from another version")
    open_and_parse()
    assert cached.read_bytes() != b"from another version"
