"""
The same verbs, awaitable: each runs in a thread of its own, so that an event loop goes on meanwhile.

In a coroutine::

    report = await aio.call(pipeline.backup)
    async for chunk in aio.iterate(pipeline.read, "latest"):
        ...

The core is synchronous; this door adds nothing to it but waiting. A task that is cancelled waits until the verb has
come to its end, so that nothing goes on unseen: what can be ended early takes a `Cancellation`, or an observer that
raises.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

__all__ = ["call", "iterate"]

P = ParamSpec("P")
T = TypeVar("T")

_END: Final = object()


async def call(verb: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run a verb in a thread and return its result.

    Raises:
        asyncio.CancelledError: The task was cancelled; the verb has ended by then.
        BaseException: What the verb raises.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="aio") as executor:
        return await _finished(executor, functools.partial(verb, *args, **kwargs))


async def iterate(verb: Callable[P, Iterator[T]], /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
    """
    Yield what a verb yields; its code runs in one thread, one step for each item asked for.

    Whoever stops early closes the generator (``contextlib.aclosing``): the verb is closed then, too.

    Raises:
        BaseException: What the verb raises.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="aio") as executor:
        items = await _finished(executor, functools.partial(_begun, verb, *args, **kwargs))
        try:
            while (item := await _finished(executor, functools.partial(next, items, _END))) is not _END:
                yield item
        finally:
            await _finished(executor, functools.partial(_close, items))


def _begun(verb: Callable[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
    return iter(verb(*args, **kwargs))


def _close(items: Iterator[object]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()


async def _finished(executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Wait for *work*, also when cancelled meanwhile."""
    future = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen: the cancellation is what is raised
        raise
