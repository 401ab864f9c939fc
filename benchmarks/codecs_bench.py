"""
Compression and sealing: whether the best shell pipeline is faster, or smaller.

``sealing``, ``opening``
    zstd at level 3 and KTB2, file to file. Reference: ``zstd -3 -T2 | openssl enc -aes-256-ctr`` and its reverse on the
    same file, run after run in turns. Processor time is user and system time of all processes.
``container``
    KTB2 alone over bytes in memory. Reference: AES-GCM of the same library over the same chunks, nothing else.
``algorithms``
    Each algorithm file to file at its default level. Reference: its program at the same level.
``backup``
    A whole backup into a local directory, digests of plain and stored bytes, ``fsync`` and all.
    Reference: the same pipeline with neither digests nor ``fsync``.

``python benchmarks/codecs_bench.py --megabytes 200 --runs 3`` measures less. Other work on the machine
disturbs wall time first: look at processor time then. The file is not called ``codecs.py``, which would hide
Python's module.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import os
import queue
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from _harness import Row, in_fresh_process, publish
from _realistic_export import write_export
from knowtation_backup import (
    Capture,
    CaptureResult,
    Compression,
    EncryptionKey,
    FsspecSink,
    Observer,
    Pipeline,
)
from knowtation_backup.codecs.chain import CodecChain
from knowtation_backup.codecs.ktb2 import DEFAULT_CHUNK_BYTES, Ktb2Codec
from knowtation_backup.contracts import Codec, ignore_events

KEY = EncryptionKey(raw=bytes(range(32)))
OPENSSL = f"openssl enc -aes-256-ctr -K {KEY.raw.hex()} -iv {bytes(16).hex()}"
SEAL = f"zstd -3 -T2 -q -c {{source}} | {OPENSSL} -out {{target}}"
OPEN = f"{OPENSSL} -d -in {{source}} | zstd -d -q -c > {{target}}"
PROGRAMS = {"gzip": "gzip -6", "zstd": "zstd -3 -T2 -q", "brotli": "brotli -q 6", "xz": "xz -6 -T2"}
SLOW_MEGABYTES = {"xz": 20, "brotli": 100, "gzip": 200}
READ_BYTES = 1 << 20
QUEUED_PARTS = 64


@attrs.frozen(kw_only=True)
class Run:
    """What one run took."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int = 0


def chain(algorithm: str | None = "zstd") -> Codec:
    """Return what is measured."""
    return CodecChain(*([Compression(algorithm)] if algorithm else []), Ktb2Codec(seal_to=KEY))


def parts_of(path: Path) -> Iterator[bytes]:
    """Read a file."""
    with path.open("rb", buffering=0) as file:
        while part := file.read(READ_BYTES):
            yield part


def write_all(path: Path, parts: Iterable[bytes]) -> int:
    """Write a file in a thread of its own, as the programs of a shell pipeline work beside one another."""
    size = 0
    waiting: queue.Queue[bytes | None] = queue.Queue(QUEUED_PARTS)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            while part := waiting.get():
                file.write(part)

    writer = threading.Thread(target=write)
    writer.start()
    for part in parts:
        size += len(part)
        if part:
            waiting.put(part)
    waiting.put(None)
    writer.join()
    return size


def unseal_to_nothing(source: Path) -> int:
    """Open what `seal` wrote, and forget it."""
    return sum(map(len, chain().open(lambda: parts_of(source))))


def seal(source: Path, target: Path) -> int:
    """Compress and seal a file."""
    return write_all(target, chain().seal(parts_of(source)))


def unseal(source: Path, target: Path) -> int:
    """Open what `seal` wrote."""
    return write_all(target, chain().open(lambda: parts_of(source)))


def compress(algorithm: str, source: Path, target: Path) -> int:
    """Compress a file."""
    return write_all(target, Compression(algorithm).seal(parts_of(source)))


def decompress(algorithm: str, source: Path, target: Path) -> int:
    """Open what `compress` wrote."""
    return write_all(target, Compression(algorithm).open(lambda: parts_of(source)))


@attrs.frozen(kw_only=True)
class FileSource:
    """A source whose payload is a file."""

    path: Path

    def capture(self, *, taken_at: dt.datetime, observer: Observer = ignore_events) -> Capture:
        """Begin."""
        del observer
        return FileCapture(path=self.path, taken_at=taken_at)


@attrs.frozen(kw_only=True)
class FileCapture:
    """One read of it."""

    path: Path
    taken_at: dt.datetime
    kind: str = "knowtation-operator-full-export"
    name: str = "operator-full-export"
    suffix: str = ".json"
    source_id: str = "benchmark"

    def chunks(self) -> Iterator[bytes]:
        """Yield the file."""
        return parts_of(self.path)

    def result(self) -> CaptureResult:
        """Return nothing found."""
        return CaptureResult(complete=True, counts={}, warnings=(), details={}, side_files=())


def whole_backup(source: Path, target: Path) -> int:
    """Back a file up as if it came from a hub."""
    pipeline = Pipeline(source=FileSource(path=source), sink=FsspecSink(os.fspath(target)), codec=chain())
    return pipeline.backup().manifest.artifact.size_bytes


def ours(function: Callable[..., Any], *arguments: Any) -> Run:
    """Run in a fresh process."""
    measured = in_fresh_process(processor_seconds, function, *arguments)
    return Run(wall_seconds=measured.wall_seconds, cpu_seconds=measured.value, peak_bytes=measured.peak_bytes)


def processor_seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the processor time of a call, that of starting the interpreter left out."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def shell(command: str) -> Run:
    """Run a pipeline of programs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True)  # noqa: S603, S607 - the reference
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_seconds=wall, cpu_seconds=cpu)


def in_turns(what: str, runs: int, target: Path, *actions: Callable[[], Run]) -> list[list[Run]]:
    """Run the actions one after the other, several times; what they write is removed, and disks come to rest."""
    print(f"\n{what}")
    results: list[list[Run]] = [[] for _ in actions]
    for _ in range(runs):
        for action, found in zip(actions, results, strict=True):
            remove(target)
            os.sync()
            found.append(run := action())
            print(f"{run.wall_seconds:8.2f} s, processor {run.cpu_seconds:.2f} s", end="", flush=True)
        print()
    return results


def remove(path: Path) -> None:
    """Remove a file or directory if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def rows(case: str, mine_and_theirs: list[list[Run]], name: str) -> list[Row]:
    """Return medians, with the extremes in the metric's name."""
    found: list[Row] = []
    for metric, field in (("wall time", "wall_seconds"), ("processor time", "cpu_seconds")):
        values = [[getattr(run, field) for run in group] for group in mine_and_theirs]
        spread = " / ".join(f"{min(group):.2f}-{max(group):.2f}" for group in values)
        medians = [statistics.median(group) for group in values]
        found.append(
            Row(
                case=case,
                metric=f"{metric} ({spread})",
                ours=medians[0],
                unit="s",
                reference=medians[1],
                reference_name=name,
            )
        )
    return found


def measure_pipeline(folder: Path, source: Path, runs: int) -> list[Row]:
    """Measure both directions of zstd and KTB2, the size, memory, and a whole backup."""
    sealed, reference, target = folder / "ours", folder / "theirs", folder / "target"
    size = source.stat().st_size
    seal(source, sealed)
    shell(SEAL.format(source=source, target=reference))
    case = f"{size / 1e9:.2f} GB, zstd -3, sealed"
    sizes = sealed.stat().st_size, reference.stat().st_size
    found = [
        Row(case=case, metric="size", ours=sizes[0] / 1e6, unit="MB", reference=sizes[1] / 1e6, reference_name="zstd")
    ]

    mine, theirs, backups = in_turns(
        "sealing, ours, theirs, whole backup",
        runs,
        target,
        lambda: ours(seal, source, target),
        lambda: shell(SEAL.format(source=source, target=target)),
        lambda: ours(whole_backup, source, target),
    )
    found += rows(f"sealing {case}", [mine, theirs], "zstd | openssl")
    found.append(peak(f"sealing {case}", mine))
    found += rows(f"backup {case}", [backups, theirs], "zstd | openssl")
    found.append(peak(f"backup {case}", backups))
    mine, theirs = in_turns(
        "opening, ours, theirs",
        runs,
        target,
        lambda: ours(unseal, sealed, target),
        lambda: shell(OPEN.format(source=reference, target=target)),
    )
    found += rows(f"opening {case}", [mine, theirs], "openssl | zstd")
    found.append(peak(f"opening {case}", mine))
    mine, theirs = in_turns(
        "opening to nothing, ours, theirs",
        runs,
        target,
        lambda: ours(unseal_to_nothing, sealed),
        lambda: shell(OPEN.format(source=reference, target=os.devnull)),
    )
    found += rows(f"opening to nothing {case}", [mine, theirs], "openssl | zstd")
    unseal(sealed, target)
    if any(a != b for a, b in itertools.zip_longest(parts_of(source), parts_of(target))):
        sys.exit("what was opened is not what was sealed")
    for path in (sealed, reference, target):
        remove(path)
    return found


def peak(case: str, runs: list[Run]) -> Row:
    """Return the most memory any run needed."""
    return Row(case=case, metric="peak memory", ours=max(run.peak_bytes for run in runs) / 1e6, unit="MB")


def measure_container(megabytes: int, runs: int) -> list[Row]:
    """Measure KTB2 against the cipher alone, in this process and in memory."""
    chunks = [secrets.token_bytes(DEFAULT_CHUNK_BYTES) for _ in range(256)]
    rounds = max(1, megabytes * 1_000_000 // (len(chunks) * DEFAULT_CHUNK_BYTES))
    codec = Ktb2Codec(seal_to=KEY)
    cipher = AESGCM(KEY.raw)
    nonce = bytes(12)
    sealed = list(codec.seal(chunks))
    messages = [cipher.encrypt(nonce, chunk, None) for chunk in chunks]

    def timed(action: Callable[[], Any]) -> Run:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            action()
        return Run(wall_seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)

    nowhere = Path(tempfile.gettempdir()) / secrets.token_hex(8)
    sealing = in_turns(
        "KTB2 sealing, AES-GCM",
        runs,
        nowhere,
        lambda: timed(lambda: [None for _ in codec.seal(chunks)]),
        lambda: timed(lambda: [None for chunk in chunks if cipher.encrypt(nonce, chunk, None)]),
    )
    opening = in_turns(
        "KTB2 opening, AES-GCM",
        runs,
        nowhere,
        lambda: timed(lambda: [None for _ in codec.open(lambda: iter(sealed))]),
        lambda: timed(lambda: [None for message in messages if cipher.decrypt(nonce, message, None)]),
    )
    size = f"{rounds * len(chunks) * DEFAULT_CHUNK_BYTES / 1e9:.2f} GB in memory"
    return [
        *rows(f"KTB2 sealing {size}", sealing, "AES-GCM"),
        *rows(f"KTB2 opening {size}", opening, "AES-GCM"),
    ]


def measure_algorithms(folder: Path, source: Path, runs: int) -> list[Row]:
    """Measure every algorithm against its program."""
    found: list[Row] = []
    packed, reference, target, part = folder / "ours", folder / "theirs", folder / "target", folder / "part"
    for algorithm, program in PROGRAMS.items():
        if shutil.which(program.split()[0]) is None:
            print(f"{program} is not installed: {algorithm} is left out")
            continue
        size = min(source.stat().st_size, SLOW_MEGABYTES.get(algorithm, 1000) * 1_000_000)
        with source.open("rb") as whole:
            part.write_bytes(whole.read(size))
        compress(algorithm, part, packed)
        shell(f"{program} -c < {part} > {reference}")
        case = f"{algorithm}, {size / 1e6:.0f} MB"
        sizes = packed.stat().st_size, reference.stat().st_size
        found.append(
            Row(
                case=case,
                metric="size",
                ours=sizes[0] / 1e6,
                unit="MB",
                reference=sizes[1] / 1e6,
                reference_name=program,
            )
        )
        packing = in_turns(
            f"{case}, sealing, ours, theirs",
            runs,
            target,
            lambda: ours(compress, algorithm, part, target),  # noqa: B023 - called within the round
            lambda: shell(f"{program} -c < {part} > {target}"),  # noqa: B023
        )
        opening = in_turns(
            f"{case}, opening, ours, theirs",
            runs,
            target,
            lambda: ours(decompress, algorithm, packed, target),  # noqa: B023
            lambda: shell(f"{program.split()[0]} -d -c < {reference} > {target}"),  # noqa: B023
        )
        found += rows(f"{case}, sealing", packing, program)
        found += rows(f"{case}, opening", opening, f"{program.split()[0]} -d")
        for what, group in (("sealing", packing[0]), ("opening", opening[0])):
            rate = size / 1e6 / statistics.median(run.wall_seconds for run in group)
            found.append(Row(case=f"{case}, {what}", metric="throughput", ours=rate, unit="MB/s"))
            found.append(peak(f"{case}, {what}", group))
    for path in (packed, reference, target, part):
        remove(path)
    return found


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the export")
    parser.add_argument("--runs", type=int, default=5, help="of each kind; the median counts")
    parser.add_argument("--only", choices=["pipeline", "container", "algorithms"])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="knowtation-bench-"))
    found: list[Row] = []
    try:
        source = folder / "export.json"
        write_export(source, arguments.megabytes * 1_000_000)
        if arguments.only in {None, "pipeline"}:
            found += measure_pipeline(folder, source, arguments.runs)
        if arguments.only in {None, "container"}:
            found += measure_container(arguments.megabytes, arguments.runs)
        if arguments.only in {None, "algorithms"}:
            found += measure_algorithms(folder, source, max(1, arguments.runs // 2))
    finally:
        shutil.rmtree(folder)
    publish("codecs", found)


if __name__ == "__main__":
    main()
