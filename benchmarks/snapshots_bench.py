"""
Snapshot transfers against the released ``icp``: the same network process, the same snapshot, the same run.

``snapshots_bench.py [MiB] [LATENCY_MS ...]``; 512 MiB of stable memory, without and with 300 ms per request, unless
said otherwise. Ours runs in a fresh process each time; its time is that of the call, every certificate verified,
evidence and digests written, files flushed to the disk. Sandbox and client share the processors of this machine, so
that a slow sandbox hides what a client could do. ``icp`` is looked for where the tests of peers find it; without it
there is no reference.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from _harness import Measured, Row, in_fresh_process, publish
from _icp import Icp, find, write_identity
from _noise import noise_wasm, take_argument
from _snapshot_upload import measure_upload
from knowtation_backup.ic.agent import Agent
from knowtation_backup.ic.identity import identity_from_pem_file
from knowtation_backup.ic.management import ManagementCanister
from knowtation_backup.model.ids import Principal, SnapshotId
from knowtation_backup.sandbox import SandboxProcess
from knowtation_backup.snapshots.download import DownloadOptions, download
from knowtation_backup.snapshots.provenance import verify_provenance

RUNS = 3
FILL_BYTES = 1 << 21
NOTHING = b"DIDL\0\0"
CANISTERS = 3


@attrs.frozen(kw_only=True)
class Stage:
    """One network with canisters that have a snapshot each."""

    network: SandboxProcess
    icp: Icp | None
    pem: Path
    canisters: tuple[Principal, ...]
    work: Path

    def reset(self, name: str) -> Path:
        """Return a place where nothing is."""
        place = self.work / name
        for path in (place, place.with_name(f"{name}.partial")):
            shutil.rmtree(path, ignore_errors=True)
        return place

    def set_latency(self, seconds: float) -> None:
        """Delay every request from now on."""
        self.network.call("faults.set_latency", seconds)


def snapshot_of(canister: Principal) -> SnapshotId:
    """Return the id of a canister's first snapshot."""
    return SnapshotId(bytes(8) + canister.raw)


@contextlib.contextmanager
def stage(size_bytes: int) -> Iterator[Stage]:
    """Run a network; three canisters of *size_bytes* of stable memory, all noise."""
    with tempfile.TemporaryDirectory() as name, SandboxProcess(delegation=True) as network:
        work = Path(name)
        pem = work / "identity.pem"
        write_identity(pem)
        controller = identity_from_pem_file(pem).sender
        binary = find()
        icp = None
        if binary is not None:
            icp = Icp.prepared(binary, work / "home", pem, url=network.url, root_key=network.root_key)
        canisters = []
        for _ in range(CANISTERS):
            canister = network.create_canister(noise_wasm(), controllers=(controller.raw,), cycles=10**18)
            for _ in range(size_bytes // FILL_BYTES):
                network.update(canister, "fill", NOTHING)
            network.update(b"", "take_canister_snapshot", take_argument(canister), sender=controller.raw)
            canisters.append(Principal(canister))
        yield Stage(network=network, icp=icp, pem=pem, canisters=tuple(canisters), work=work)


def download_once(  # noqa: PLR0913, PLR0917 - what crosses into the other process
    url: str,
    root_key: bytes,
    pem: str,
    canister: str,
    place: str,
    file_digests: bool = True,  # noqa: FBT001, FBT002
) -> float:
    """Download with ours; in a process of its own."""
    start = time.perf_counter()
    with Agent(url, identity=identity_from_pem_file(pem), root_key=root_key) as agent:
        canister_id = Principal.parse(canister)
        options = DownloadOptions(file_digests=file_digests)
        download(ManagementCanister(agent), canister_id, snapshot_of(canister_id), place, options=options)
    return time.perf_counter() - start


def download_all(url: str, root_key: bytes, pem: str, canisters: list[str], places: list[str]) -> float:
    """Download from several canisters at once, in one process of its own."""
    start = time.perf_counter()
    threads = [
        threading.Thread(target=download_once, args=(url, root_key, pem, canister, place))
        for canister, place in zip(canisters, places, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not all(Path(place).exists() for place in places):
        message = "a download failed"
        raise RuntimeError(message)
    return time.perf_counter() - start


def measure_download(scene: Stage, latency: float, size_bytes: int) -> Iterator[Row]:
    """One canister: median of several runs in turn, so that both sides meet the same weather."""
    scene.set_latency(latency)
    canister = scene.canisters[0]
    arguments = (scene.network.url, scene.network.root_key, str(scene.pem), str(canister))
    ours: list[Measured] = []
    bare: list[Measured] = []
    theirs = []
    for _ in range(RUNS):
        if scene.icp is not None:
            place = scene.reset("theirs")
            which = (str(canister), str(snapshot_of(canister)))
            theirs.append(scene.icp.run("canister", "snapshot", "download", *which, "-o", str(place)))
        bare.append(in_fresh_process(download_once, *arguments, str(scene.reset("ours")), False))  # noqa: FBT003
        ours.append(in_fresh_process(download_once, *arguments, str(scene.reset("ours"))))
    case = f"download, {size_bytes >> 20} MiB, {latency * 1000:.0f} ms latency"
    seconds = statistics.median(each.value for each in ours)
    reference: dict[str, Any] = {}
    peaks: dict[str, Any] = {}
    if theirs:
        their_seconds = statistics.median(each.wall_seconds for each in theirs)
        reference = {"reference": their_seconds, "reference_name": "icp"}
        peaks = {"reference": max(each.peak_bytes for each in theirs) / 1e6, "reference_name": "icp"}
        yield Row(case=case, metric="times as fast as icp", ours=their_seconds / seconds, unit="x")
        compare(scene.work / "ours", scene.work / "theirs")
    yield Row(case=case, metric="wall time", ours=seconds, unit="s", **reference)
    seconds = statistics.median(each.value for each in bare)
    yield Row(case=case, metric="wall time without SHA256SUMS", ours=seconds, unit="s", **reference)
    yield Row(case=case, metric="processor time", ours=statistics.median(e.cpu_seconds for e in ours), unit="s")
    yield Row(case=case, metric="peak memory", ours=max(e.peak_bytes for e in ours) / 1e6, unit="MB", **peaks)


def compare(ours: Path, theirs: Path) -> None:
    """Require that both wrote the same data."""
    for path in ours.rglob("*.bin"):
        if path.read_bytes() != (theirs / path.relative_to(ours)).read_bytes():
            message = f"{path.name} differs"
            raise RuntimeError(message)


def measure_several(scene: Stage, latency: float, size_bytes: int) -> Iterator[Row]:
    """All canisters at once."""
    scene.set_latency(latency)
    case = f"download, {CANISTERS} canisters of {size_bytes >> 20} MiB at once, {latency * 1000:.0f} ms latency"
    names = [str(canister) for canister in scene.canisters]
    places = [str(scene.reset(f"ours-{number}")) for number in range(CANISTERS)]
    ours = in_fresh_process(download_all, scene.network.url, scene.network.root_key, str(scene.pem), names, places)
    for place in places:
        shutil.rmtree(place)
    reference: dict[str, Any] = {}
    if scene.icp is not None:
        start = time.perf_counter()
        running = [
            scene.icp.start(
                "canister", "snapshot", "download", str(canister), str(snapshot_of(canister)),
                "-o", str(scene.reset(f"theirs-{number}")),
            )
            for number, canister in enumerate(scene.canisters)
        ]  # fmt: skip
        for process in running:
            output, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(output)
        reference = {"reference": time.perf_counter() - start, "reference_name": "3 icp"}
        yield Row(case=case, metric="times as fast as icp", ours=reference["reference"] / ours.value, unit="x")
    yield Row(case=case, metric="wall time", ours=ours.value, unit="s", **reference)
    yield Row(case=case, metric="peak memory", ours=ours.peak_bytes / 1e6, unit="MB")


def measure_proof(scene: Stage) -> Iterator[Row]:
    """What evidence costs, and what checking it costs."""
    place = scene.work / "ours"
    start = time.perf_counter()
    report = verify_provenance(place, root_key=scene.network.root_key)
    seconds = time.perf_counter() - start
    share = 100 * report.evidence_bytes / report.size_bytes
    case = "provenance"
    yield Row(case=case, metric="evidence per part", ours=report.evidence_bytes / report.parts, unit="bytes")
    yield Row(case=case, metric="evidence of the data", ours=share, unit="%")
    yield Row(case=case, metric="offline check", ours=report.size_bytes / 1e6 / seconds, unit="MB/s")


def main() -> None:
    """Measure and publish."""
    arguments = [float(argument) for argument in sys.argv[1:]]
    size_bytes = int(arguments[0]) << 20 if arguments else 512 << 20
    latencies = [each / 1000 for each in arguments[1:]] or [0.0, 0.3]
    rows: list[Row] = []
    with stage(size_bytes) as scene:
        for latency in latencies:
            rows += measure_download(scene, latency, size_bytes)
        rows += measure_proof(scene)
        if scene.icp is not None:
            for latency in latencies:
                scene.set_latency(latency)
                rows += measure_upload(
                    scene.icp,
                    url=scene.network.url,
                    root_key=scene.network.root_key,
                    pem=scene.pem,
                    canister=str(scene.canisters[0]),
                    directory=scene.work / "theirs",
                    latency_seconds=latency,
                )
        shutil.rmtree(scene.work / "theirs", ignore_errors=True)
        for latency in latencies:
            rows += measure_several(scene, latency, size_bytes)
    publish("snapshots", rows)


if __name__ == "__main__":
    main()
