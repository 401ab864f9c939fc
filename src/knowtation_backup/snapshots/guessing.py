"""
Asking for the first parts of a snapshot while its metadata is still on the way.

Sizes are in the metadata, and a call takes a round of consensus: whoever waits for the one before making the others
waits twice. So the first parts of both memories are asked for at once, as if they were there. What comes is checked,
kept and proven as every other part; where nothing is, the network refuses, and nobody minds. A refused call costs the
canister what receiving it costs, about two million cycles.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from .._engine.cancellation import Cancellation
from ..model.canisters import CHUNK_BYTES, SectionName, Slice

__all__ = ["Awaited", "guessed_parts"]

T = TypeVar("T")

_MOST_OF_HEAP: Final = 27
"""Twice as much of stable memory, which is what large snapshots consist of: a heap ends at a few GiB. Together that
keeps two processors busy until the answers to the next calls are there."""
_LOOK_SECONDS: Final = 0.1


def guessed_parts(calls: int) -> tuple[Slice, ...]:
    """Return what is asked for unseen when *calls* may be under way: the first parts of both memories."""
    heap = min(_MOST_OF_HEAP, calls // 4)
    return (*_first(SectionName.STABLE_MEMORY, 2 * heap), *_first(SectionName.WASM_MEMORY, heap))


def _first(section: SectionName, count: int) -> Iterator[Slice]:
    return (Slice(section, place * CHUNK_BYTES, CHUNK_BYTES) for place in range(count))


class Awaited(Generic[T]):
    """A value that one thread provides once, and others wait for."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._there = threading.Event()
        self._values: list[T] = []

    def provide(self, value: T) -> None:
        """Let all go on that wait."""
        self._values.append(value)
        self._there.set()

    def get(self) -> T:
        """Return the value when it is there; raises `OperationCancelledError` when it will never be."""
        while not self._there.wait(_LOOK_SECONDS):
            self._cancellation.check()
        return self._values[0]
