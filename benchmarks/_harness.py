"""What every benchmark shares: rows, a printed table, a JSON file, memory of a fresh process."""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

RESULTS = Path(__file__).parent / "results"


@attrs.frozen(kw_only=True)
class Row:
    """One figure of ours, with the reference measured in the same run where there is one."""

    case: str
    metric: str
    ours: float
    unit: str
    reference: float | None = None
    reference_name: str | None = None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the reference."""
        return self.ours / self.reference if self.reference else None


def publish(name: str, rows: list[Row]) -> None:
    """Print the table and write ``benchmarks/results/<name>.json``."""
    header = ("case", "metric", "ours", "reference", "ratio", "unit")
    table = [header, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    print()
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps([attrs.asdict(row) | {"ratio": row.ratio} for row in rows], indent=2) + "\n")
    print(f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def _cells(row: Row) -> tuple[str, ...]:
    reference = f"{_number(row.reference)} ({row.reference_name})" if row.reference is not None else "-"
    ratio = f"{row.ratio:.3g}" if row.ratio is not None else "-"
    return (row.case, row.metric, _number(row.ours), reference, ratio, row.unit)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def median_seconds(action: Callable[[], Any], *, runs: int = 5, warmup: int = 1) -> float:
    """Return the median wall time of *action* over *runs* runs after *warmup* uncounted ones."""
    for _ in range(warmup):
        action()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@attrs.frozen(kw_only=True)
class Measured:
    """What a function returned in a fresh process, and what that process needed."""

    value: Any
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Largest resident set of the whole process, interpreter and imports included."""


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Measured:
    """Run a module-level *function* in a new interpreter and measure it there."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, function, args))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        message = f"the measured process ended with exit code {process.exitcode} and no result"
        raise RuntimeError(message) from None
    process.join()
    if isinstance(outcome, BaseException):
        raise outcome
    measured: Measured = outcome
    return measured


def _child(sender: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    start = time.perf_counter()
    try:
        value = function(*args)
    except BaseException as error:  # noqa: BLE001 - handed to the parent, which raises it
        sender.send(error)
        return
    wall = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    sender.send(
        Measured(
            value=value,
            wall_seconds=wall,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_bytes=_high_water_bytes(),
        )
    )


def _high_water_bytes() -> int:
    """Return the peak of resident memory that is the process's own; ``ru_maxrss`` may be inherited from the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve_in_child(main: Callable[..., None], *args: Any) -> tuple[Any, Callable[[], None]]:
    """
    Run ``main(pipe, *args)`` in a new interpreter; return what it sends first, and a function that ends it.

    *main* must serve until its pipe closes.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=main, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    ready = ours.recv()

    def stop() -> None:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.terminate()
            process.join()

    return ready, stop
