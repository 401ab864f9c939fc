"""
The sandbox network: calls per second, snapshot transfer, start-up, and what isolating a message costs.

The network runs in a process of its own; the client is the least that speaks the protocol (``_ic_wire``).
References, in the same run: a bare loopback server that sends bodies of the same size without doing anything, and the
portable ``copy`` isolation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import wasmtime
from aiohttp import web

from _harness import Row, median_seconds, publish, serve_in_child
from _ic_wire import ANONYMOUS, Agent, blob, field_id, leb, parallel
from knowtation_backup.sandbox import SandboxNetwork, SandboxProcess
from knowtation_backup.sandbox.hub import SandboxHub

CHUNK_BYTES = 2_000_000
MANAGEMENT = b""
EMPTY = b"DIDL\0\0"

COUNTER = """
(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i64 i64)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (memory (export "mem") i64 PAGES)
  (data (i64.const 8) "DIDL\\00\\00")
  (func $answer (call $append (i64.const 8) (i64.const 6)) (call $reply))
  (func (export "canister_update inc")
    (i64.store (i64.const 0) (i64.add (i64.load (i64.const 0)) (i64.const 1))) (call $answer))
  (func (export "canister_query get") (i64.store (i64.const 4096) (i64.const 7)) (call $answer))
  (func (export "canister_update fill") (local $i i64)
    (loop $next
      (i64.store (i64.add (i64.const 65536) (local.get $i)) (i64.mul (local.get $i) (i64.const 0x9E3779B97F4A7C15)))
      (local.set $i (i64.add (local.get $i) (i64.const 4096)))
      (br_if $next (i64.lt_u (local.get $i) (i64.const FILL))))
    (call $answer)))
"""


def module(heap_bytes: int) -> bytes:
    """Return a canister with a heap of the given size that can fill it."""
    text = COUNTER.replace("PAGES", str(heap_bytes // 65_536)).replace("FILL", str(heap_bytes - 131_072))
    return bytes(wasmtime.wat2wasm(text))


def serve_bodies(pipe: Any, size_bytes: int) -> None:
    """Answer every request with a body of *size_bytes*; the reference for transfers."""

    async def serve() -> None:
        body = bytes(size_bytes) + b"replied"

        async def answer(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(body=body, content_type="application/cbor")

        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/{tail:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        pipe.send("http://{}:{}".format(*runner.addresses[0][:2]))
        with contextlib.suppress(EOFError):
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await runner.cleanup()

    asyncio.run(serve())


def measure_calls() -> Iterator[Row]:
    """Small updates and queries on a small heap."""
    reference_url, stop = serve_in_child(serve_bodies, 500)
    with SandboxProcess() as network:
        canister = network.create_canister(module(1 << 20), controllers=(ANONYMOUS,))

        def update(agent: Agent) -> None:
            agent.call(canister, canister, "inc", EMPTY)

        def query(agent: Agent) -> None:
            agent.query(canister, "get", EMPTY)

        actions: list[tuple[str, Callable[[Agent], None]]] = [("update", update), ("query", query)]
        for name, action in actions:
            for threads in (1, 4):
                case = f"small {name}, {threads} connection(s)"
                jobs = [action] * 1000
                parallel(network.url, jobs[:50], threads)
                rate = len(jobs) / parallel(network.url, jobs, threads)[0]
                plain = len(jobs) / parallel(reference_url, jobs, threads)[0]
                yield Row(
                    case=case, metric="rate", ours=rate, unit="1/s", reference=plain, reference_name="bare aiohttp"
                )
    stop()


def read_argument(canister: bytes, snapshot: bytes, offset: int, size: int) -> bytes:
    """Return the Candid argument of ``read_canister_snapshot_data`` for a slice of the heap."""
    slice_type = _record(offset=0x78, size=0x78)
    kinds = _variant(wasm_memory=0)
    outer = _record(canister_id=0x68, snapshot_id=2, kind=1)
    types = b"\x04" + slice_type + kinds + b"\x6d\x7b" + outer
    numbers = {"offset": offset.to_bytes(8, "little"), "size": size.to_bytes(8, "little")}
    values = {
        "canister_id": b"\x01" + blob(canister),
        "snapshot_id": blob(snapshot),
        "kind": b"\x00" + _ordered(numbers),
    }
    return b"DIDL" + types + b"\x01\x03" + _ordered(values)


def upload_argument(canister: bytes, snapshot: bytes, offset: int, chunk: bytes) -> bytes:
    """Return the Candid argument of ``upload_canister_snapshot_data`` for a slice of the heap."""
    types = b"\x04" + _record(offset=0x78) + _variant(wasm_memory=0) + b"\x6d\x7b"
    types += _record(canister_id=0x68, snapshot_id=2, kind=1, chunk=2)
    values = {
        "canister_id": b"\x01" + blob(canister),
        "snapshot_id": blob(snapshot),
        "kind": b"\x00" + offset.to_bytes(8, "little"),
        "chunk": blob(chunk),
    }
    return b"DIDL" + types + b"\x01\x03" + _ordered(values)


def _record(**fields: int) -> bytes:
    return _composite(0x6C, fields)


def _variant(**fields: int) -> bytes:
    return _composite(0x6B, fields)


def _composite(code: int, fields: dict[str, int]) -> bytes:
    body = b"".join(leb(field_id(name)) + bytes([fields[name]]) for name in sorted(fields, key=field_id))
    return bytes([code]) + leb(len(fields)) + body


def _ordered(values: dict[str, bytes]) -> bytes:
    return b"".join(values[name] for name in sorted(values, key=field_id))


def take_argument(canister: bytes) -> bytes:
    """Return the Candid argument that holds nothing but a canister id."""
    return b"DIDL\x01" + _record(canister_id=0x68) + b"\x01\x00\x01" + blob(canister)


def metadata_argument(canister: bytes, module_bytes: int, heap_bytes: int) -> bytes:
    """Return the Candid argument of ``upload_canister_snapshot_metadata``."""
    types = b"\x03" + _composite(0x6B, {"i32": 0x75}) + b"\x6d\x00\x6d\x7b"
    fields = {
        "canister_id": (0x68, b"\x01" + blob(canister)),
        "wasm_module_size": (0x78, module_bytes.to_bytes(8, "little")),
        "globals": (1, b"\x00"),
        "wasm_memory_size": (0x78, heap_bytes.to_bytes(8, "little")),
        "stable_memory_size": (0x78, bytes(8)),
        "certified_data": (2, b"\x00"),
    }
    types = b"\x04" + types[1:] + _record(**{name: kind for name, (kind, _) in fields.items()})
    return b"DIDL" + types + b"\x01\x03" + _ordered({name: value for name, (_, value) in fields.items()})


def measure_snapshots(heap_bytes: int) -> Iterator[Row]:
    """Read a snapshot's heap in slices, and upload one."""
    reference_url, stop = serve_in_child(serve_bodies, CHUNK_BYTES)
    with SandboxProcess() as network:
        wasm = module(heap_bytes)
        canister = network.create_canister(wasm, controllers=(ANONYMOUS,), cycles=10**16)
        network.update(canister, "fill", EMPTY)
        network.update(MANAGEMENT, "take_canister_snapshot", take_argument(canister), sender=ANONYMOUS)
        snapshot = bytes(8) + canister
        offsets = range(0, heap_bytes, CHUNK_BYTES)

        def read(agent: Agent, *, offset: int) -> None:
            size = min(CHUNK_BYTES, heap_bytes - offset)
            arg = read_argument(canister, snapshot, offset, size)
            agent.call(MANAGEMENT, canister, "read_canister_snapshot_data", arg)

        for threads in (1, 2, 4):
            jobs: list[Callable[[Agent], None]] = [functools.partial(read, offset=offset) for offset in offsets]
            parallel(network.url, jobs[:20], threads)
            ours, received = min(parallel(network.url, jobs, threads) for _ in range(3))
            plain, plain_received = min(parallel(reference_url, jobs, threads) for _ in range(3))
            yield Row(
                case=f"snapshot read, {heap_bytes >> 20} MiB in 2 MB slices, {threads} connection(s)",
                metric="throughput",
                ours=received / 1e6 / ours,
                unit="MB/s",
                reference=plain_received / 1e6 / plain,
                reference_name="bare aiohttp",
            )
        network.update(
            MANAGEMENT, "upload_canister_snapshot_metadata", metadata_argument(canister, len(wasm), heap_bytes),
            sender=ANONYMOUS,
        )  # fmt: skip
        uploaded = (1).to_bytes(8, "big") + canister
        chunk = os.urandom(CHUNK_BYTES)

        def upload(agent: Agent, *, offset: int) -> None:
            data = chunk[: min(CHUNK_BYTES, heap_bytes - offset)]
            arg = upload_argument(canister, uploaded, offset, data)
            agent.call(MANAGEMENT, canister, "upload_canister_snapshot_data", arg)

        jobs = [functools.partial(upload, offset=offset) for offset in offsets]
        ours, _ = min(parallel(network.url, jobs, 2) for _ in range(3))
        yield Row(
            case=f"snapshot upload, {heap_bytes >> 20} MiB in 2 MB slices, 2 connections",
            metric="throughput",
            ours=heap_bytes / 1e6 / ours,
            unit="MB/s",
        )
    stop()


def measure_isolation(heap_bytes: int) -> Iterator[Row]:
    """Query and update on a small and a big heap, for both kinds of isolation."""
    seconds: dict[tuple[str, str, int], float] = {}
    for isolation in ("mapped", "copy"):
        for size in (1 << 20, heap_bytes):
            with SandboxNetwork(isolation=isolation) as network:
                canister = network.create_canister(module(size), cycles=10**16)
                network.update(canister, "fill", EMPTY)
                runs = 100 if isolation == "mapped" else 3
                for kind, call in (("query", network.query), ("update", network.update)):
                    method = {"query": "get", "update": "inc"}[kind]
                    once = median_seconds(functools.partial(call, canister, method, EMPTY), runs=runs)
                    seconds[isolation, kind, size] = once
    for kind in ("query", "update"):
        small, big = (seconds["mapped", kind, size] for size in (1 << 20, heap_bytes))
        case = f"{kind} on a heap of {heap_bytes >> 20} MiB, in process"
        yield Row(
            case=case, metric="latency", ours=big * 1e3, unit="ms", reference=small * 1e3,
            reference_name="the same on 1 MiB",
        )  # fmt: skip
        copied = seconds["copy", kind, heap_bytes] * 1e3
        yield Row(
            case=case, metric="latency", ours=big * 1e3, unit="ms", reference=copied, reference_name="copy isolation"
        )


def measure_start() -> Iterator[Row]:
    """From nothing to a served network, and to a hub canister that answers."""

    def start() -> None:
        with SandboxNetwork() as network, network.serve():
            pass

    yield Row(case="network with server", metric="start and stop", ours=median_seconds(start) * 1e3, unit="ms")

    def deploy() -> None:
        with SandboxNetwork() as network:
            SandboxHub.deploy(network, operator_key="k" * 40)

    yield Row(case="hub and ledger compiled, installed", metric="deploy", ours=median_seconds(deploy, runs=3), unit="s")
    start_at = time.perf_counter()
    with SandboxProcess():
        yield Row(case="network in a child process", metric="start", ours=time.perf_counter() - start_at, unit="s")


if __name__ == "__main__":
    big = 128 << 20 if "--quick" in sys.argv else 1 << 30
    rows = [*measure_start(), *measure_calls(), *measure_snapshots(min(big, 512 << 20)), *measure_isolation(big)]
    publish("sandbox", rows)
