"""
The repository against its peers, in the same run: time, processor time, memory and growth of what is stored.

``first``, ``incremental``, ``restore``, ``verify``
    A snapshot directory in three versions (`_repository_data`): first backup, backups of ``v2`` and ``v3``, restore of
    ``v3``, verification of everything. Peers: `_repository_peers`.
``exports``
    Thirty days of a hub's exports (`_repository_exports`).
``memory``
    Ours alone: peak memory for 0.5 GiB and for 8 GiB of stable memory.
``s3``
    Ours alone: first backup to a real server behind 20 ms of latency, against the local one and what ``rclone`` needs
    to carry the same bytes there.

Every tool has its turn in every round of every step, first in one round and last in another; sources were read just
before, so that they are in the page cache for all, and disks have come to rest. All encrypt, and all have the same
directory under the same name, files with new times. Sizes are those of all files of a repository. Restored bytes are
compared; of exports, which we store record by record, the content root. Wall time is that of a whole process; ours is
also given as the call in a program that runs already.

``nox -s bench -- repository [PART ...] [--runs N] [--scale N] [--days N] [--data FOLDER] [--peers-only]``
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from _harness import Row, publish, serve_in_child
from _repository_data import MIB, Shape, write_version, write_versions
from _repository_exports import Hub
from _repository_ours import Ours, Place, Rootless
from _repository_peers import PEERS, Cost, Tool, digest, stored_bytes
from _repository_tables import MB, NO_HISTORY, Aim, Step, export_aims, image_aims, print_step, rows_of

PARTS = ("first", "incremental", "restore", "verify", "exports", "memory", "s3")
EXPORT_NAME = "operator-full-export.json"
LIVE = "live"
"""The name under which every version is backed up."""


@attrs.define
class Bench:
    """One run of the benchmark."""

    work: Path
    data: Path
    runs: int
    scale: int
    days: int
    peers_only: bool
    rows: list[Row] = attrs.field(factory=list)
    aims: list[Aim] = attrs.field(factory=list)
    missing: dict[str, str] = attrs.field(factory=dict)
    peaks: dict[str, int] = attrs.field(factory=dict)
    """Largest memory of ours in any step."""

    @property
    def shape(self) -> Shape:
        """Sizes of the snapshot."""
        return Shape().divided(self.scale)

    def tools(self, *more: type[Tool]) -> dict[str, Tool]:
        """Make a repository with everything that is installed, and *more* of ours."""
        found: dict[str, Tool] = {}
        kinds: Sequence[type[Tool]] = PEERS if self.peers_only else (Ours, *more, *PEERS)
        for kind in kinds:
            if (lacking := kind.missing()) is not None:
                self.missing[kind.name] = lacking
                continue
            tool = kind(self.work / kind.name.replace("|", "-"))
            tool.create()
            found[tool.name] = tool
        return found

    def show(self, source: Path) -> Path:
        """Let a version be the live one: other files under the same name, already in the page cache."""
        live = self.work / "source" / LIVE
        shutil.rmtree(live, ignore_errors=True)
        live.mkdir(parents=True)
        if source.is_dir():
            for path in source.iterdir():
                _link(path, live / path.name)
        else:
            _link(source, live / EXPORT_NAME)
        for path in live.iterdir():
            digest(path)
        return live

    def round(  # noqa: PLR0913, PLR0917 - what, with whom, which time, and what is given on
        self,
        step: Step,
        tools: dict[str, Tool],
        number: int,
        call: Callable[[Tool, Path, int], Cost],
        live: Path,
        archive: int,
    ) -> None:
        """Let every tool do the same once."""
        order = collections.deque(tools.values())
        order.rotate(-number)
        print(f"{step.name}, round {number + 1}:", end="", flush=True)
        for tool in order:
            for path in live.iterdir():  # also after a tool that filled the cache with what it wrote
                digest(path)
            os.sync()
            cost = call(tool, live, archive)
            step.add(tool.name, cost)
            if tool.name == "ours":
                self.peaks[step.name] = max(self.peaks.get(step.name, 0), cost.peak_bytes)
            print(f"  {tool.name} {cost.wall_seconds:.2f}", end="", flush=True)
        print()

    def images(self, parts: Sequence[str]) -> None:
        """Measure a snapshot directory in three versions."""
        versions = write_versions(self.data, self.shape)
        steps = {name: Step(name) for name in ("first", "v2", "v3", "restore", "verify")}
        last = max(PARTS.index(part) for part in parts)
        for number in range(self.runs):
            tools = self.tools()
            try:
                live = self.show(versions[0])
                self.round(steps["first"], tools, number, Tool.backup, live, 0)
                if last >= PARTS.index("incremental"):
                    for version, name in ((1, "v2"), (2, "v3")):
                        live = self.show(versions[version])
                        self.round(steps[name], tools, number, Tool.backup, live, version)
                if "restore" in parts:
                    self.restore(steps["restore"], tools, number, live, 2)
                if "verify" in parts:
                    self.round(steps["verify"], tools, number, Tool.verify, live, 2)
            finally:
                for tool in tools.values():
                    tool.close()
        self.take({name: step for name, step in steps.items() if step.costs})

    def restore(self, step: Step, tools: dict[str, Tool], number: int, live: Path, archive: int) -> None:
        """Restore with every tool, and compare."""

        def once(tool: Tool, live: Path, archive: int) -> Cost:
            target = self.work / "restored"
            shutil.rmtree(target, ignore_errors=True)
            cost = tool.restore(archive, target)
            for path in live.iterdir():
                if not tool.gave_back(path, target / LIVE):
                    sys.exit(f"{tool.name} restored another {path.name}")
            shutil.rmtree(target)
            return cost

        self.round(step, tools, number, once, live, archive)

    def take(self, steps: dict[str, Step]) -> None:
        """Print and keep what was found."""
        for step in steps.values():
            print_step(step, self.missing)
            self.rows += rows_of(step)
        self.aims += image_aims(steps)

    def exports(self) -> None:
        """Measure a hub's exports, one a day; there is one history, and every day is a measurement."""
        hub = Hub(users=max(1, 2000 // self.scale))
        paths = [self.work / "day-even.json", self.work / "day-odd.json"]
        tools = self.tools(Rootless)
        first, days = Step("first export"), [Step(f"export of day {day}") for day in range(1, self.days + 1)]
        try:
            live = self.show(hub.write_first(paths[0]))
            self.round(first, tools, 0, Tool.backup, live, 0)
            for number, step in enumerate(days, 1):
                live = self.show(hub.write_next_day(paths[(number - 1) % 2], paths[number % 2]))
                self.round(step, tools, number, Tool.backup, live, number)
            restored = Step("restore of the last export")
            self.restore(restored, tools, 0, live, len(days))
        finally:
            for tool in tools.values():
                tool.close()
        every = Step(f"{len(days)} daily exports, medians of days")
        total = Step(f"{len(days)} daily exports together")
        for name in tools:
            every.costs[name] = [day.costs[name][0] for day in days]
            total.add(name, _sum(every.costs[name]))
        for step in (first, *days[:1], every, total, restored):
            if step.costs and days:
                print_step(step, self.missing)
                self.rows += rows_of(step)
        self.aims += export_aims(days)

    def memory(self) -> None:
        """Measure our peak memory for a small and a large image."""
        if self.peers_only or (lacking := Ours.missing()) is not None:
            print(f"\nmemory: ours is missing{'' if self.peers_only else f' {lacking}'}")
            return
        peaks: dict[str, list[int]] = {}
        for mebibytes in (512, 8192):
            shape = attrs.evolve(Shape(), stable_bytes=mebibytes * MIB).divided(self.scale)
            needed = 4 * shape.stable_bytes
            if shutil.disk_usage(self.work).free < needed:
                print(f"\nmemory: {mebibytes} MiB is left out, it needs {needed >> 30} GiB of disk")
                continue
            for step, peak in self.peaks_of(shape):
                peaks.setdefault(step, []).append(peak)
                print(f"  {mebibytes} MiB / {self.scale}, {step}: {peak / MB:.0f} MB", flush=True)
        for step, found in peaks.items():
            reference = {"reference": found[0] / MB, "reference_name": "0.5 GiB"} if len(found) > 1 else {}
            self.rows.append(Row(case=f"memory, {step}", metric="peak", ours=found[-1] / MB, unit="MB", **reference))  # type: ignore[arg-type]  # two fields
            if len(found) > 1:
                self.aims.append(
                    Aim(what=f"6: memory of {step}, 8 GiB against 0.5", value=found[1] / found[0], limit=1.1)
                )
            self.peaks[f"memory, {step}"] = max(found)

    def peaks_of(self, shape: Shape) -> Iterator[tuple[str, int]]:
        """Yield what each verb needed at most."""
        folder = self.work / "memory"
        ours = Ours(self.work / "ours-memory")
        try:
            ours.create()
            write_version(folder / "v1", shape, version=1)
            yield "first", ours.backup(folder / "v1", 0).peak_bytes
            write_version(folder / "v2", shape, version=2, base=folder / "v1")
            yield "v2", ours.backup(folder / "v2", 1).peak_bytes
            shutil.rmtree(folder / "v1")
            yield "restore", ours.restore(1, self.work / "restored").peak_bytes
            shutil.rmtree(self.work / "restored")
            yield "verify", ours.verify(folder / "v2", 1).peak_bytes
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            ours.close()

    def s3(self) -> None:
        """Measure the first backup to a server that is far away."""
        if self.peers_only or (lacking := Ours.missing()) is not None:
            print(f"\ns3: ours is missing{'' if self.peers_only else f' {lacking}'}")
            return
        from s3_bench import BUCKET, rclone, serve_proxy  # noqa: PLC0415 - only this part needs it, and it takes time

        live = self.show(write_versions(self.data, self.shape)[0])
        from s3_server import S3Server  # noqa: PLC0415 - the other import has made it findable

        found: dict[str, list[float]] = {"local": [], "transfer": [], "s3": []}
        with S3Server(self.work / "server") as server:
            server.make_bucket(BUCKET)
            url, stop = serve_in_child(serve_proxy, server.port)
            try:
                options = server.storage_options(endpoint_url=url)
                for number in range(self.runs):
                    local = Ours(self.work / "local")
                    remote = Ours(self.work / "remote", Place(url=f"s3://{BUCKET}/ours-{number}", options=options))
                    local.create()
                    remote.create()
                    os.sync()
                    found["local"].append(_inner(local.backup(live, 0)))
                    os.sync()
                    there = f":s3:{BUCKET}/carried-{number}"
                    found["transfer"].append(rclone(options, "copy", "--transfers=8", os.fspath(local.stored), there))
                    os.sync()
                    found["s3"].append(_inner(remote.backup(live, 0)))
                    print(f"s3, round {number + 1}: ", {name: round(each[-1], 2) for name, each in found.items()})
                    size = stored_bytes(local.stored)
                    local.close()
                    remote.close()
            finally:
                stop()
        local_seconds, transfer, seconds = (statistics.median(each) for each in found.values())
        print(f"\ns3: {size / MB:.0f} MB; {local_seconds:.2f} s local, {transfer:.2f} s rclone, {seconds:.2f} s ours")
        reference = {"reference": local_seconds + transfer, "reference_name": "local + rclone copy"}
        self.rows.append(Row(case="s3, 20 ms", metric="first backup", ours=seconds, unit="s", **reference))  # type: ignore[arg-type]  # two fields
        what = "7: first backup to S3, against local + transfer"
        self.aims.append(Aim(what=what, value=seconds / (local_seconds + transfer), limit=1.3))

    def finish(self) -> None:
        """Print all aims, and write the figures down."""
        if self.rows:
            publish("repository", self.rows)
        if self.peaks:
            step = max(self.peaks, key=self.peaks.__getitem__)
            self.aims.append(Aim(what=f"6: peak memory, in {step}", value=self.peaks[step] / MB, limit=250, unit=" MB"))
        print("\nAims (ours divided by theirs, medians of the same run):")
        for aim in self.aims:
            print(f"  {aim}")
        print(f"  {NO_HISTORY} keeps no history: the tables have it, aims of growth and of repeated backups do not")
        if not self.aims:
            print("  none can be judged: ours was not measured")


def _inner(cost: Cost) -> float:
    """Return the time of the call: what is compared here is ours as well."""
    return cost.wall_seconds if cost.inner_seconds is None else cost.inner_seconds


def _sum(costs: Sequence[Cost]) -> Cost:
    """Return what several runs took together; of memory, the most."""
    inner = [cost.inner_seconds for cost in costs if cost.inner_seconds is not None]
    return Cost(
        wall_seconds=sum(cost.wall_seconds for cost in costs),
        cpu_seconds=sum(cost.cpu_seconds for cost in costs),
        peak_bytes=max((cost.peak_bytes for cost in costs), default=0),
        growth_bytes=sum(cost.growth_bytes for cost in costs),
        inner_seconds=sum(inner) if inner else None,
    )


def _link(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it to another disk."""
    try:
        target.hardlink_to(path)
    except OSError:
        shutil.copy2(path, target)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them by default")
    parser.add_argument("--runs", type=int, default=5, help="of everything but the days; medians count")
    parser.add_argument("--scale", type=int, default=1, help="all data this many times smaller")
    parser.add_argument("--days", type=int, default=30, help="exports after the first one")
    parser.add_argument("--data", type=Path, help="folder with v1, v2, v3; made there if it has none, and kept")
    parser.add_argument("--peers-only", action="store_true", help="measure the others alone")
    arguments = parser.parse_args()
    parts = arguments.parts or [*PARTS]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {load:.2f} at {time.strftime('%H:%M')}, {arguments.runs} runs")
    work = Path(tempfile.mkdtemp(prefix="knowtation-bench-"))
    try:
        data = arguments.data or work / "data"
        bench = Bench(
            work=work,
            data=data,
            runs=arguments.runs,
            scale=arguments.scale,
            days=arguments.days,
            peers_only=arguments.peers_only,
        )
        try:
            if chain := [part for part in PARTS[:4] if part in parts]:
                bench.images(chain)
            for part, measure in (("exports", bench.exports), ("memory", bench.memory), ("s3", bench.s3)):
                if part in parts:
                    measure()
        finally:
            bench.finish()  # also of a run that failed later
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
