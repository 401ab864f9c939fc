"""What the repository's benchmark found: tables of all tools, ours against each, and whether aims are met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs

from _harness import Row
from _repository_peers import Cost

MB = 1e6
NO_HISTORY = "tar|zstd|age"
OURS = ("ours", "ours, rootless")
"""The second one leaves out the content root of exports, which no peer computes; aims are judged by the first."""


@attrs.frozen(kw_only=True)
class Aim:
    """Something that was to be shown."""

    what: str
    value: float
    limit: float
    unit: str = "x"

    def __str__(self) -> str:
        verdict = "met    " if self.value <= self.limit else "NOT MET"
        return f"{verdict}  {self.value:8.3g}{self.unit} (at most {self.limit:g}{self.unit})  {self.what}"


@attrs.define
class Step:
    """One thing every tool did, several times."""

    name: str
    costs: dict[str, list[Cost]] = attrs.field(factory=dict)

    def add(self, tool: str, cost: Cost) -> None:
        """Note down one run."""
        self.costs.setdefault(tool, []).append(cost)

    def median(self, tool: str, field: str) -> float:
        """Return a median of all runs of a tool."""
        return statistics.median(self.values(tool, field))

    def values(self, tool: str, field: str) -> list[float]:
        """Return one figure of all runs; ours has an inner time where the others have one time."""
        return [float(getattr(cost, field)) for cost in self.costs[tool]]

    @property
    def peers(self) -> list[str]:
        """All but us."""
        return [tool for tool in self.costs if tool not in OURS]

    def best(self, field: str) -> tuple[str, float]:
        """Return the peer with the smallest median, of those that do not store everything every time."""
        peers = [tool for tool in self.peers if tool != NO_HISTORY]
        return min(((tool, self.median(tool, field)) for tool in peers), key=lambda pair: pair[1])

    @property
    def compared(self) -> bool:
        """Whether we and somebody else were measured."""
        return "ours" in self.costs and any(tool != NO_HISTORY for tool in self.peers)


def print_step(step: Step, missing: Mapping[str, str]) -> None:
    """Print one table; ratios are ours divided by theirs, medians of the same runs."""
    header = ("tool", "wall s", "(min-max)", "CPU s", "peak MB", "growth MB", "ours/it time", "growth")
    lines: list[Sequence[str]] = [header]
    for tool in step.costs:
        walls = step.values(tool, "wall_seconds")
        growth = step.median(tool, "growth_bytes")
        ratios = ("-", "-")
        if "ours" in step.costs and tool not in OURS:
            mine = step.median("ours", "growth_bytes")
            ratios = (
                f"{step.median('ours', 'wall_seconds') / step.median(tool, 'wall_seconds'):.3f}",
                f"{mine / growth:.3f}" if growth else "-",
            )
        lines.append((
            tool,
            f"{statistics.median(walls):.2f}",
            f"({min(walls):.2f}-{max(walls):.2f})",
            f"{step.median(tool, 'cpu_seconds'):.2f}",
            f"{max(step.values(tool, 'peak_bytes')) / MB:.0f}",
            f"{growth / MB:.2f}",
            *ratios,
        ))  # fmt: skip
        if step.costs[tool][0].inner_seconds is not None:
            inner = step.values(tool, "inner_seconds")
            span = f"({min(inner):.2f}-{max(inner):.2f})"
            lines.append((f"{tool}, the call", f"{statistics.median(inner):.2f}", span, "", "", "", "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{step.name}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for tool, what in missing.items():
        print(f"  {tool} is missing: no {what}")


def rows_of(step: Step) -> Iterator[Row]:
    """Yield ours against each peer: time and growth; processor time and memory against the fastest."""
    if not step.compared:
        return
    fastest = step.best("wall_seconds")[0]
    metrics: tuple[tuple[str, str, float, str, list[str]], ...] = (
        ("wall time", "wall_seconds", 1, "s", step.peers),
        ("processor time", "cpu_seconds", 1, "s", [fastest]),
        ("peak memory", "peak_bytes", MB, "MB", [fastest]),
        ("growth", "growth_bytes", MB, "MB", step.peers if step.median(fastest, "growth_bytes") else []),
    )
    for metric, field, divisor, unit, tools in metrics:
        for tool in tools:
            theirs, mine = step.median(tool, field) / divisor, step.median("ours", field) / divisor
            yield Row(case=step.name, metric=metric, ours=mine, unit=unit, reference=theirs, reference_name=tool)


def against(step: Step, field: str, limit: float, *, what: str, peer: str | None = None) -> Iterator[Aim]:
    """Yield the aim that ours is at most *limit* times a named peer, or the best; time also as the call alone."""
    if not step.compared or (peer is not None and peer not in step.costs):
        return
    name, best = (peer, step.median(peer, field)) if peer else step.best(field)
    if best <= 0:
        return
    yield Aim(what=f"{what}, against {name}", value=step.median("ours", field) / best, limit=limit)
    if field == "wall_seconds":
        value = step.median("ours", "inner_seconds") / best
        yield Aim(what=f"{what}, the call in a running program, against {name}", value=value, limit=limit)


def image_aims(steps: Mapping[str, Step]) -> Iterator[Aim]:
    """Yield aims 2, 3 and 5."""
    wanted: tuple[tuple[str, Callable[[Step], Iterable[Aim]]], ...] = (
        ("first", lambda s: against(s, "wall_seconds", 0.75, what="2: first backup, time", peer=NO_HISTORY)),
        ("first", lambda s: against(s, "growth_bytes", 1.03, what="2: first backup, size", peer=NO_HISTORY)),
        ("v2", lambda s: against(s, "growth_bytes", 0.8, what="3: v2, growth")),
        ("v2", lambda s: against(s, "wall_seconds", 0.35, what="3: v2, time")),
        ("v3", lambda s: against(s, "growth_bytes", 0.8, what="3: v3, growth")),
        ("v3", lambda s: against(s, "wall_seconds", 0.35, what="3: v3, time")),
        ("restore", lambda s: against(s, "wall_seconds", 1.0, what="5: restore of v3, time")),
        ("verify", lambda s: against(s, "wall_seconds", 1.0, what="5: verify after v3, time")),
    )
    for name, aims in wanted:
        if name in steps:
            yield from aims(steps[name])


def export_aims(days: Sequence[Step]) -> Iterator[Aim]:
    """Yield aim 4; *days* are the increments, each one run."""
    if not days or not days[0].compared:
        return
    peers = [tool for tool in days[0].peers if tool != NO_HISTORY]
    totals = {tool: sum(day.median(tool, "growth_bytes") for day in days) for tool in ("ours", *peers)}
    best = min(peers, key=totals.__getitem__)
    what = f"4: growth of {len(days)} exports after the first, against {best}"
    yield Aim(what=what, value=totals["ours"] / totals[best], limit=0.8)
    for field, which in (("wall_seconds", "slowest day"), ("inner_seconds", "slowest day, the call")):
        value = max(day.median("ours", field) / day.best("wall_seconds")[1] for day in days)
        yield Aim(what=f"4: {which} against the fastest peer of that day", value=value, limit=1.0)
