"""
Two writers, people who forget, and prunes, all at once, with crashes and wrong clocks: what is listed restores exactly.

Everything that works on the store is an actor that stops before each of its operations, so that any two overlap. The
store is a dictionary with a clock of its own; the model is what each archive must hold.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from repository_actors import Actor
from repository_stage import MOMENT, StagedSource, contents, limited, needed_keys, new_repository

from knowtation_backup.codecs.keys import KeyKind
from knowtation_backup.contracts import ArchiveSink
from knowtation_backup.errors import PlanStaleError
from knowtation_backup.operations.repository import marks
from knowtation_backup.operations.repository.backup import RepositoryBackupOptions, back_up
from knowtation_backup.operations.repository.catalog import list_archives, standings
from knowtation_backup.operations.repository.forgetting import apply_forget, plan_delete, plan_empty_trash
from knowtation_backup.operations.repository.pruning import apply_prune, plan_prune
from knowtation_backup.repository import content, folding, images, losses, packing, recordsets, soundness, tables
from knowtation_backup.repository.keys import ReadKeys
from knowtation_backup.repository.repository import Repository
from knowtation_backup.sinks.memory import MemorySink

PAGE = 4096
HOUR = dt.timedelta(hours=1)
GRACE = 10 * HOUR
KEYS = ReadKeys.generate(KeyKind.X25519)
SKEWS = {"one": dt.timedelta(hours=-7), "other": dt.timedelta(days=400), "janitor": dt.timedelta(days=-30)}
CANISTERS = ("aaaaa-aa", "bbbbb-bb")
SEGMENT = 64


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make images of a few pages cross segments, frames and packs."""
    for module in (content, folding, images, losses, soundness, tables):
        monkeypatch.setattr(module, "SEGMENT_PAGES", SEGMENT)
    monkeypatch.setattr(images, "FRAME_PAGES", 8)
    monkeypatch.setattr(recordsets, "_FRAME_RECORDS", 4)
    monkeypatch.setattr(recordsets, "_SEGMENT_RECORDS", 8)
    monkeypatch.setattr(packing, "PACK_BYTES", 30_000)


def page(number: int) -> bytes:
    """A page that no other number gives; of zeros for 0."""
    return b"%d." % number * (PAGE // 4) if number else bytes(PAGE)


@attrs.define
class Canister:
    """Memory as numbers of pages, records, and a module that both canisters may have."""

    source_id: str
    heap: list[int] = attrs.field(factory=lambda: [*range(1, 50), *[0] * 30])
    tail: int = 0
    records: dict[tuple[bytes, bytes], bytes] = attrs.field(factory=dict)
    module: int = 1

    def source(self, taken_at: dt.datetime) -> StagedSource:
        heap = b"".join(page(number)[:PAGE] for number in self.heap)
        return StagedSource(
            images={"heap.bin": heap + b"t" * self.tail},
            files={"wasm_module.bin": page(self.module) * 3},
            records={"notes": dict(self.records)},
            source_id=self.source_id,
            taken_at=taken_at,
        )


Change = Callable[[Canister, Iterator[int]], None]


def write_pages(pages: list[int], *, zeros: bool) -> Change:
    def change(canister: Canister, numbers: Iterator[int]) -> None:
        for at in pages if canister.heap else ():
            canister.heap[at % len(canister.heap)] = 0 if zeros else next(numbers)

    return change


def resize(size: int, tail: int) -> Change:
    def change(canister: Canister, numbers: Iterator[int]) -> None:
        new = [next(numbers) if place % 3 else 0 for place in range(size - len(canister.heap))]
        canister.heap = canister.heap[:size] + new
        canister.tail = tail

    return change


def write_records(names: list[int], *, gone: bool) -> Change:
    def change(canister: Canister, numbers: Iterator[int]) -> None:
        for name in names:
            key = (b"owner %d" % (name % 5), b"note %d" % name)
            if gone:
                canister.records.pop(key, None)
            else:
                canister.records[key] = b"value %d" % next(numbers)

    return change


def upgrade(module: int) -> Change:
    def change(canister: Canister, _numbers: Iterator[int]) -> None:
        canister.module = module

    return change


changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(write_pages, st.lists(st.integers(0, 200), max_size=6), zeros=st.booleans()),
    st.builds(resize, st.sampled_from([0, 1, 20, 63, 64, 65, 100, 128, 150]), st.sampled_from([0, 7])),
    st.builds(write_records, st.lists(st.integers(0, 40), max_size=8), gone=st.booleans()),
    st.builds(upgrade, st.integers(1, 3)),
)


stops = st.sampled_from(["", "list packs", "section", "put indexes", "put archives", "put archives"])
"""Where a writer stops first: when it looks, between sections, when its packs are stored, before it publishes."""


@attrs.frozen
class Chunked:
    """A source that stops where its sections begin, as one that takes long would."""

    source: StagedSource
    actor: list[Actor]

    def capture_sections(self, **_facts: Any) -> Any:
        return self

    def sections(self) -> Iterator[Any]:
        for section in self.source.sections():
            for actor in self.actor:
                actor.stop_before("section")
            yield section

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


class World(RuleBasedStateMachine):
    """A store, what works on it, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = MOMENT
        self.sink = MemorySink(clock=self.clock)
        new_repository(self.sink, keys=KEYS, max_chain=2, grace_seconds=GRACE.total_seconds())
        self.canisters = [Canister(source_id) for source_id in CANISTERS]
        self.numbers = itertools.count(100)
        self.sources: dict[dt.datetime, StagedSource] = {}
        """What was ever about to be backed up, by the moment of its content."""
        self.published: set[str] = set()
        self.doomed: set[str] = set()
        """What somebody has begun to remove from the trash."""
        self.actors: dict[str, Actor] = {}
        self.publishing: dict[str, dt.datetime] = {}
        """Since when the store has been asked for a manifest."""
        self.proven: dict[str, dict[str, bytes]] = {}

    def clock(self) -> dt.datetime:
        return self.now

    def host_clock(self, name: str) -> dt.datetime:
        return self.now + SKEWS[name]

    def seconds(self) -> float:
        return (self.now - MOMENT).total_seconds()

    def open(self, sink: ArchiveSink | None = None) -> Repository:
        return Repository.open_with(sink or self.sink, KEYS)

    # -- writers ----------------------------------------------------------------------------------------------------

    def begin(self, name: str, which: int, change: Change, *, full: bool) -> Actor:
        change(self.canisters[which], self.numbers)
        # Unique, and the order of moments is not that in which archives come into being.
        taken_at = self.host_clock(name) + dt.timedelta(milliseconds=next(self.numbers))
        source = self.sources[taken_at] = self.canisters[which].source(taken_at)
        stopping: list[Actor] = []

        def work(gate: ArchiveSink) -> None:
            report = back_up(
                self.open(gate),
                Chunked(source, stopping),
                options=RepositoryBackupOptions(full=full),
                clock=lambda: self.host_clock(name),
                monotonic=self.seconds,
            )
            self.published.add(report.archive_id)

        stopping.append(Actor(limited(self.sink), work))
        return stopping[0]

    @rule(which=st.integers(0, 1), change=changes, full=st.sampled_from([False] * 5 + [True]))
    def back_up(self, which: int, change: Change, *, full: bool) -> None:
        self.begin("one", which, change, full=full).finish()

    @rule(name=st.sampled_from(["one", "other"]), which=st.integers(0, 1), change=changes, until=stops)
    def begin_backup(self, name: str, which: int, change: Change, until: str) -> None:
        if name not in self.actors:
            self.actors[name] = self.begin(name, which, change, full=False)
        self.step_one(name, until=until)

    # -- time and people --------------------------------------------------------------------------------------------

    @rule(hours=st.sampled_from([1, 3, 6, 11]))
    def time_passes(self, hours: int) -> None:
        # What the format asks of stores: no request for a manifest takes half a grace period.
        for name, since in list(self.publishing.items()):
            if self.now + hours * HOUR - since > GRACE / 2:
                self.step_one(name)
        self.now += hours * HOUR

    @rule(number=st.integers(0, 20), count=st.integers(1, 2))
    def forget(self, number: int, count: int) -> None:
        alive = [info for info in list_archives(self.open()) if info.standing.trashed_at is None]
        if alive:
            ids = {alive[(number + each) % len(alive)].archive_id for each in range(count)}
            plan = plan_delete(self.open(), ids, now=self.host_clock("other"), last_too=True)
            apply_forget(self.open(), plan, clock=lambda: self.host_clock("janitor"))

    @rule(number=st.integers(0, 20))
    def undelete(self, number: int) -> None:
        resting = [one for one, noted in standings(self.open()).items() if noted.trashed_at is not None]
        there = sorted(set(resting) & set(self.open().archive_ids()) - self.doomed)
        if there:
            marks.undelete(self.open(), there[number % len(there)], clock=lambda: self.host_clock("janitor"))

    # -- janitors ---------------------------------------------------------------------------------------------------

    def empty(self, repository: Repository) -> None:
        now = self.now + dt.timedelta(days=365)  # whatever this host thinks
        plan = plan_empty_trash(repository, now=now, grace=dt.timedelta(0), last_too=True)
        self.doomed.update(info.archive_id for info in plan.forgotten)
        apply_forget(repository, plan)

    def prune(self, repository: Repository) -> None:
        apply_prune(repository, plan_prune(repository), clock=self.clock)

    @rule(empty=st.booleans(), prune=st.booleans(), hours=st.sampled_from([0, 0, 10]))
    def clean_up(self, *, empty: bool, prune: bool, hours: int) -> None:
        if hours:
            self.time_passes(hours)
        if empty:
            self.empty(self.open())
        if prune:
            self.prune(self.open())

    @rule()
    def rush(self) -> None:
        """Do away with the newest archive, as quickly as anybody can."""
        self.forget(0, 1)
        self.empty(self.open())
        self.prune(self.open())

    @rule(empty=st.booleans(), count=st.integers(0, 30))
    def begin_cleaning(self, *, empty: bool, count: int) -> None:
        if "janitor" not in self.actors:
            work = self.empty if empty else self.prune
            self.actors["janitor"] = Actor(self.sink, lambda gate: work(self.open(gate)))
        self.step_one("janitor", count)

    # -- all of them ------------------------------------------------------------------------------------------------

    def step_one(self, name: str, count: int = 1, until: str = "") -> None:
        actor = self.actors[name]
        try:
            actor.step(count)
            while until and not actor.done and not actor.waits_for.startswith(until):
                actor.step()
        except PlanStaleError:
            assert actor.done
        if actor.done:
            del self.actors[name]
        if not actor.done and actor.waits_for.startswith("put archives"):
            self.publishing.setdefault(name, self.now)
        else:
            self.publishing.pop(name, None)

    @precondition(lambda self: self.actors)
    @rule(number=st.integers(0, 2), count=st.sampled_from([1, 2, 3, 6, 10, 10_000, 10_000]))
    def step(self, number: int, count: int) -> None:
        self.step_one(sorted(self.actors)[number % len(self.actors)], count)

    @precondition(lambda self: self.actors)
    @rule(number=st.integers(0, 2))
    def crash(self, number: int) -> None:
        name = sorted(self.actors)[number % len(self.actors)]
        self.publishing.pop(name, None)
        self.actors.pop(name).kill()

    # -- what holds -------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_listed_restores(self) -> None:
        repository = self.open()
        blobs = self.sink.contents()
        listed = repository.archive_ids()
        for archive_id in listed:
            manifest = repository.manifest(archive_id)
            objects = {key: blobs.get(key, b"") for key, _ in manifest.objects()}
            if self.proven.get(archive_id) != objects:
                stored = contents(repository, archive_id)
                del stored["details.json"]
                assert stored == self.sources[manifest.taken_at].plain
                self.proven[archive_id] = objects
        assert self.published - self.doomed <= set(listed)

    def teardown(self) -> None:
        for actor in self.actors.values():
            actor.kill()
        for _ in range(2):
            self.now += GRACE
            apply_prune(self.open(), plan_prune(self.open()))
        assert self.sink.contents().keys() == needed_keys(self.open())
        self.what_is_listed_restores()


World.TestCase.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
TestRepository = World.TestCase
