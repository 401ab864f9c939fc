"""
Verifying the signatures of several answers at once.

A pairing takes a millisecond in which the interpreter does nothing else, and a snapshot is thousands of answers that
one subnet has signed. Signatures under one key are checked together for the price of one and a third each
(`bls.verify_each`). Whoever comes with an answer while many calls are under way waits a moment for others; the first
one does the work for all. Nobody gets a verdict before it is certain, and each gets the one on its own signature.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

import attrs

from . import bls

__all__ = ["SignatureBatches"]

_MOST: Final = 6
"""In one batch: more save little, and each keeps an answer of two megabytes in memory."""
_CALLS_FOR_EACH: Final = 4
"""Calls under way for each signature that is waited for, or there would be nobody to come."""
_WAIT_SECONDS: Final = 0.02
"""A call takes a round of consensus, which is fifty times as much."""


@attrs.define(eq=False)
class _Batch:
    signed: list[tuple[bytes, bytes]] = attrs.field(factory=list)
    full: threading.Event = attrs.field(factory=threading.Event)
    done: threading.Event = attrs.field(factory=threading.Event)
    verdicts: list[bool] | None = None


class SignatureBatches:
    """The signatures that one agent verifies. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._gathering: dict[bytes, _Batch] = {}

    @contextlib.contextmanager
    def one_call(self) -> Iterator[None]:
        """Count a call as under way until the end of the block."""
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Say what `bls.verify` says, perhaps a moment later."""
        with self._lock:
            wanted = min(_MOST, self._under_way // _CALLS_FOR_EACH)
            if wanted < 2:
                batch = None
            else:
                batch = self._gathering.setdefault(public_key, _Batch())
                place = len(batch.signed)
                batch.signed.append((message, signature))
                if place + 1 >= wanted:
                    del self._gathering[public_key]
                    batch.full.set()
        if batch is None:
            return bls.verify(public_key, message, signature)
        if place == 0:
            self._lead(public_key, batch)
        else:
            batch.done.wait()
        if batch.verdicts is None:  # whoever led it was interrupted
            return bls.verify(public_key, message, signature)
        return batch.verdicts[place]

    def _lead(self, public_key: bytes, batch: _Batch) -> None:
        try:
            batch.full.wait(_WAIT_SECONDS)
        finally:
            with self._lock:
                if self._gathering.get(public_key) is batch:
                    del self._gathering[public_key]
            try:
                batch.verdicts = bls.verify_each(public_key, batch.signed)
            finally:
                batch.done.set()
