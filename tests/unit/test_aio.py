"""The door for event loops: verbs run beside the loop, raise what they raise, and never go on unseen."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest
from repository_stage import StagedSource, contents, new_repository

from knowtation_backup import aio
from knowtation_backup.errors import ConfigurationError
from knowtation_backup.repository_pipeline import RepositoryPipeline
from knowtation_backup.sinks.memory import MemorySink


def test_a_verb_returns_its_report_while_the_loop_goes_on() -> None:
    repository = new_repository(MemorySink())
    pipeline = RepositoryPipeline(repository=repository, sources={"canister": StagedSource(files={"a": b"b"})})

    async def main() -> int:
        ticks = 0
        task = asyncio.create_task(aio.call(pipeline.backup))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0)
        report = (await task).members[0].report
        assert report is not None
        assert contents(repository, report.archive_id)["a"] == b"b"
        return ticks

    assert asyncio.run(main()) > 1


def test_what_a_verb_raises_is_raised() -> None:
    pipeline = RepositoryPipeline(repository=new_repository(MemorySink()))
    with pytest.raises(ConfigurationError):
        asyncio.run(aio.call(pipeline.plan_forget))


def test_a_cancelled_task_waits_for_the_verb() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def verb() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    async def main() -> None:
        task = asyncio.create_task(aio.call(verb))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_items_come_one_by_one_and_whoever_stops_closes() -> None:
    closed = threading.Event()

    def verb(count: int) -> Iterator[int]:
        try:
            yield from range(count)
        finally:
            closed.set()

    async def main() -> None:
        assert [item async for item in aio.iterate(verb, 3)] == [0, 1, 2]
        assert closed.is_set()
        closed.clear()
        async with contextlib.aclosing(aio.iterate(verb, 3)) as items:
            async for _ in items:
                break
        assert closed.is_set()

    asyncio.run(main())
