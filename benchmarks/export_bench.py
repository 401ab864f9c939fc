"""
Exports: how much faster than one request at a time, and how much memory a large one needs.

``concurrency``
    1,000 tenants with one vault and two proposals each on a real hub canister that answers with 50 ms latency.
    Reference: the same reads, one request at a time over one kept-alive connection, as the existing exporter does.
``memory``
    A 2 GB export, sealed and stored on disk, from a loopback hub of generated notes; peak memory of the whole process.
``pipeline``
    The same 2 GB. Reference: receiving the same replies with plain httpx and writing them to a file, nothing else.

``python benchmarks/export_bench.py --quick`` measures a tenth of everything.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from _harness import Row, in_fresh_process, publish, serve_in_child
from _synthetic_hub import main as serve_synthetic_hub
from knowtation_backup import (
    EncryptionKey,
    ExportOptions,
    ExportReader,
    FsspecSink,
    HubClient,
    Ktb1Codec,
    MemorySink,
    OperatorExporter,
    Pipeline,
)
from knowtation_backup.sandbox import FaultPlan, SandboxNetwork
from knowtation_backup.sandbox.hub import SandboxHub, SeedPlan, seed

KEY = "benchmark operator key of more than 32 characters"
LATENCY_SECONDS = 0.05
CONCURRENCY = 32
VAULT_BYTES = 2_000_000


def serve_sandbox_hub(pipe: Any, tenants: int) -> None:
    """Serve a seeded hub canister until *pipe* closes."""
    faults = FaultPlan()
    with SandboxNetwork(faults=faults) as network, network.serve() as server:
        hub = SandboxHub.deploy(network, operator_key=KEY)
        seed(hub, SeedPlan.many_tenants(tenants, proposals=2))
        faults.latency_seconds = LATENCY_SECONDS
        pipe.send(hub.base_url(server))
        try:
            pipe.recv()
        except EOFError:
            return


def one_at_a_time(url: str) -> tuple[float, int, bytes]:
    """Read everything with one request after another; return seconds, requests and the payload they make."""
    start, requests = time.perf_counter(), 0
    with httpx.Client(base_url=url, timeout=60) as client:

        def get(path: str, **headers: str) -> Any:
            nonlocal requests
            requests += 1
            return client.get(path, headers=headers).raise_for_status().json()

        users: list[str] = []
        cursor = ""
        while True:
            page = get(f"/api/v1/operator/export?cursor={cursor}&limit=200", **{"X-Operator-Export-Key": KEY})
            users += page["user_ids"]
            cursor = page["next_cursor"]
            if page["done"]:
                break
        exported: list[dict[str, Any]] = []
        for user in users:
            vaults: list[dict[str, Any]] = []
            proposals: list[Any] = []
            for vault in get("/api/v1/vaults", **{"X-User-Id": user})["vaults"]:
                headers = {"X-User-Id": user, "X-Vault-Id": vault["id"]}
                vaults.append({"vault_id": vault["id"], "notes": get("/api/v1/export", **headers)["notes"]})
                ids = [quote(stub["proposal_id"], safe="") for stub in get("/api/v1/proposals", **headers)["proposals"]]
                proposals += [get(f"/api/v1/proposals/{proposal_id}", **headers) for proposal_id in ids]
            exported.append({"user_id": user, "vaults": vaults, "proposals": proposals})
    seconds = time.perf_counter() - start
    payload = {"format_version": 4, "kind": "knowtation-operator-full-export", "exported_at": "", "users": exported}
    return seconds, requests, json.dumps(payload, separators=(",", ":")).encode()


def concurrent_export(url: str, concurrency: int) -> tuple[float, str, dict[str, int]]:
    """Export with the library; return seconds, content root and counts."""
    start = time.perf_counter()
    with HubClient(url, operator_key=KEY) as client:
        source = OperatorExporter(client, ExportOptions(concurrency=concurrency))
        pipeline = Pipeline(source=source, sink=MemorySink())
        pipeline.backup()
    seconds = time.perf_counter() - start
    reader = ExportReader(pipeline.read()).read_all()
    return seconds, reader.content_root, dict(reader.counts)


def sealed_export(url: str, directory: str) -> tuple[int, int]:
    """Export, seal and store; return payload and stored bytes."""
    with HubClient(url, operator_key=KEY) as client:
        sink = FsspecSink(directory)
        pipeline = Pipeline(source=OperatorExporter(client), sink=sink, codec=Ktb1Codec(EncryptionKey.generate()))
        report = pipeline.backup()
    if not report.manifest.complete:
        sys.exit("the export is incomplete")
    return report.payload_bytes, report.manifest.artifact.size_bytes


def plain_download(url: str, directory: str, tenants: int) -> int:
    """Receive the same vault replies and write them to a file."""
    total = 0
    with httpx.Client(base_url=url, timeout=60) as client, (Path(directory) / "plain").open("wb") as file:
        for number in range(tenants):
            with client.stream("GET", "/api/v1/export", headers={"X-User-Id": f"tenant:{number:06d}"}) as reply:
                for part in reply.iter_raw():
                    total += file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return total


def measure_concurrency(tenants: int) -> list[Row]:
    """Compare with one request at a time, and require identical content."""
    url, stop = serve_in_child(serve_sandbox_hub, tenants)
    try:
        seconds, root, counts = concurrent_export(url, CONCURRENCY)
        reference, requests, payload = one_at_a_time(url)
    finally:
        stop()
    other = ExportReader([payload]).read_all()
    if (root, counts) != (other.content_root, dict(other.counts)) or counts["tenants"] != tenants:
        sys.exit(f"the exports differ: {root} {counts}, and one at a time {other.content_root} {dict(other.counts)}")
    case = f"{tenants} tenants, {requests} requests, 50 ms latency, concurrency {CONCURRENCY}"
    return [
        Row(case=case, metric="wall time", ours=seconds, unit="s", reference=reference, reference_name="one at a time"),
        Row(case=case, metric="speed-up", ours=reference / seconds, unit="x"),
    ]


def measure_large(tenants: int) -> list[Row]:
    """Measure memory and throughput of a large sealed export."""
    directory = tempfile.mkdtemp(prefix="knowtation-bench-")
    url, stop = serve_in_child(serve_synthetic_hub, tenants, VAULT_BYTES)
    try:
        export = in_fresh_process(sealed_export, url, directory)
        plain = in_fresh_process(plain_download, url, directory, tenants)
    finally:
        stop()
        shutil.rmtree(directory)
    payload_bytes, _ = export.value
    case = f"{payload_bytes / 1e9:.2f} GB export, sealed, to disk"
    rate, plain_rate = payload_bytes / 1e6 / export.wall_seconds, plain.value / 1e6 / plain.wall_seconds
    return [
        Row(case=case, metric="peak memory", ours=export.peak_bytes / 1e6, unit="MB"),
        Row(
            case=case,
            metric="throughput",
            ours=rate,
            unit="MB/s",
            reference=plain_rate,
            reference_name="httpx to a file",
        ),
        Row(case=case, metric="processor time", ours=export.cpu_seconds, unit="s"),
    ]


if __name__ == "__main__":
    share = 10 if "--quick" in sys.argv else 1
    publish("export", [*measure_large(1000 // share), *measure_concurrency(1000 // share)])
