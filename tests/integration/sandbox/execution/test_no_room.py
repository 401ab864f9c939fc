"""A machine without room for what a message has written: nothing of it is kept, and everybody gets an answer."""

import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from knowtation_backup.sandbox.execution.images import MemoryImage
from knowtation_backup.sandbox.messages import Rejected

pytestmark = pytest.mark.sandbox
MIB = 1 << 20

# Writes a page in every 256 KiB of 4 MiB of heap; the argument-free updates differ in what else they do.
PAGES = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i64 i64)))
  (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
  (import "ic0" "stable64_read" (func $stable_read (param i64 i64 i64)))
  (memory i64 64 128)
  (global $count (mut i64) (i64.const 0))
  (@custom "icp:private enhanced-orthogonal-persistence" "")
  (func $touch (param $to i64) (local $at i64)
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (loop $more
      (i64.store (local.get $at) (global.get $count))
      (local.set $at (i64.add (local.get $at) (i64.const 0x40000)))
      (br_if $more (i64.lt_u (local.get $at) (local.get $to)))))
  (func (export "canister_update heap") (call $touch (i64.const 0x400000)) (call $reply))
  (func (export "canister_update start") (call $touch (i64.const 0x80000)) (call $reply))
  (func (export "canister_update grow")
    (drop (memory.grow (i64.const 64))) (call $touch (i64.const 0x800000)) (call $reply))
  (func (export "canister_update stable_size") (drop (call $stable_grow (i64.const 24))) (call $reply))
  (func (export "canister_update stable")
    (global.set $count (i64.add (global.get $count) (i64.const 1)))
    (call $stable_write (i64.const 0) (i64.const 0x1000) (i64.const 0x180000))
    (call $reply))
  (func (export "canister_query read")
    (i64.store (i64.const 8) (global.get $count))
    (i64.store (i64.const 16) (memory.size))
    (call $append (i64.const 0) (i64.const 24))
    (call $reply))
  (func (export "canister_composite_query read_composite") (call $reply))
  (func (export "canister_post_upgrade") (call $touch (i64.const 0x400000))))"""


@contextmanager
def room_below(limit: int) -> Iterator[None]:
    """Let images hold nothing beyond *limit*, as a full machine would; sizes may be announced, as for sparse files."""

    def within(name: str) -> Any:
        original = getattr(os, name)

        def operation(descriptor: int, *arguments: Any) -> Any:
            offset, size = arguments if name == "posix_fallocate" else (arguments[1], len(arguments[0]))
            if offset + size > limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(descriptor, *arguments)

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for name in ("posix_fallocate", "pwrite"):
            patch.setattr(os, name, within(name))
        yield


@contextmanager
def files_below(size_bytes: int) -> Iterator[None]:
    """Limit the size of this process's files, anonymous ones among them; reserving does not notice that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def digest(image: MemoryImage) -> tuple[int, str]:
    return image.size_bytes, hashlib.sha256(image.read(0, image.size_bytes)).hexdigest()


@pytest.fixture
def world(make_world: Any, isolation: str) -> Any:
    return make_world(isolation)


@pytest.fixture
def canister(world: Any) -> Any:
    canister = world.canister(PAGES)
    world.update(canister, "start")
    world.update(canister, "stable_size")
    return canister


@pytest.mark.parametrize("method", ["heap", "grow", "stable"])
def test_a_message_without_room_leaves_the_canister_as_it_was(world: Any, canister: Any, method: str) -> None:
    before = digest(canister.code.heap), digest(canister.code.stable), canister.version, world.query(canister, "read")

    for _ in range(2):
        with room_below(MIB + 5 * 4096):
            refusal = world.refused(canister, method)
        assert refusal.error_code == "IC0507"
        assert "no room" in refusal.message
        now = digest(canister.code.heap), digest(canister.code.stable), canister.version, world.query(canister, "read")
        assert now == before

    assert world.replica.open_call_contexts(canister.canister_id) == 0
    world.update(canister, method)
    assert digest(canister.code.stable if method == "stable" else canister.code.heap) not in before[:2]
    assert world.query(canister, "read")[8:16] == (2).to_bytes(8, "little")


def test_stable_memory_that_cannot_grow_says_so(world: Any, canister: Any) -> None:
    with files_below(MIB):
        world.update(canister, "stable_size")
    assert canister.code.stable.size_bytes == 24 * 65_536


def test_an_upgrade_without_room_leaves_the_canister_as_it_was(world: Any, canister: Any) -> None:
    before = digest(canister.code.heap), world.query(canister, "read")
    with room_below(MIB + 5 * 4096), pytest.raises(Rejected) as caught:
        world.engine.upgrade(canister, canister.code.module, b"", b"\x04", wasm_memory_persistence="keep")
    assert caught.value.error_code == "IC0507"
    assert (digest(canister.code.heap), world.query(canister, "read")) == before
    world.update(canister, "heap")


@pytest.mark.parametrize("operation", ["message", "upgrade"])
def test_a_commit_that_breaks_off_costs_the_canister_its_code(one: Any, operation: str) -> None:
    canister = one.canister(PAGES)
    with files_below(MIB + 5 * 4096):
        if operation == "message":
            refusal = one.refused(canister, "heap")
        else:
            with pytest.raises(Rejected) as caught:
                one.engine.upgrade(canister, canister.code.module, b"", b"\x04", wasm_memory_persistence="keep")
            refusal = caught.value
    assert refusal.error_code == "IC0521"
    assert "Canister's memory is lost" in refusal.message
    assert one.refused(canister, "heap").error_code == "IC0537"
    one.engine.install(canister, one.module(PAGES), b"", b"\x04")
    one.update(canister, "heap")


def test_a_failing_instance_is_an_answer(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    canister = one.canister(PAGES)
    one.engine.close()  # drops the living instance

    def fail(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("knowtation_backup.sandbox.execution.engine.Instance", fail)
    assert one.refused(canister, "heap").error_code == "IC0507"
    assert one.refused_query(canister, "read").error_code == "IC0507"
    assert one.refused_query(canister, "read_composite").error_code == "IC0507"
    assert one.replica.open_call_contexts(canister.canister_id) == 0
