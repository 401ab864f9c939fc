"""Digests computed in a thread: the same as ever, bounded, and no thread longer than its work."""

from __future__ import annotations

import hashlib
import threading
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowtation_backup._engine.digesting import BACKLOG_BYTES, BackgroundDigest

MIB = 1 << 20


def threads() -> int:
    return sum(thread.name == "digest" for thread in threading.enumerate())


@pytest.mark.parametrize("sizes", [[], [0], [1], [MIB], [MIB - 1, 1, 5], [4 * MIB] * 5, [1000] * 5000])
def test_it_is_sha256(sizes: list[int]) -> None:
    digest, plain = BackgroundDigest(), hashlib.sha256()
    for number, size in enumerate(sizes):
        chunk = bytes([number % 251]) * size
        digest.update(chunk)
        plain.update(chunk)
    assert digest.hexdigest() == plain.hexdigest()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=50)), st.integers(0, 50))
def test_it_may_be_asked_in_between(chunks: list[bytes], asked: int) -> None:
    digest, plain = BackgroundDigest(), hashlib.sha256()
    for number, chunk in enumerate(chunks):
        digest.update(chunk)
        plain.update(chunk)
        if number == asked:
            assert digest.hexdigest() == plain.hexdigest()
    assert digest.hexdigest() == plain.hexdigest()


def test_a_view_that_changes_later_is_hashed_as_it_was() -> None:
    buffer = bytearray(b"a" * (2 * MIB))
    digest = BackgroundDigest()
    digest.update(cast("bytes", memoryview(buffer)))
    buffer[:] = b"b" * len(buffer)
    assert digest.hexdigest() == hashlib.sha256(b"a" * (2 * MIB)).hexdigest()


def test_little_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    digest = BackgroundDigest()
    for _ in range(100):
        digest.update(b"x" * 1000)
    assert digest.hexdigest() == hashlib.sha256(b"x" * 100_000).hexdigest()


class Held:
    """A digest that waits until it may go on."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.size_bytes = 0

    def update(self, chunk: bytes) -> None:
        assert self.go.wait(10)
        self.size_bytes += len(chunk)

    def hexdigest(self) -> str:
        return str(self.size_bytes)


def test_the_backlog_is_bounded_and_the_thread_ends_with_its_work() -> None:
    digest = BackgroundDigest()
    held = Held()
    digest._digest = cast("Any", held)
    chunk = bytes(MIB)
    passed = 0

    def bring() -> None:
        nonlocal passed
        for _ in range(30):
            digest.update(chunk)
            passed += 1

    before = threads()
    bringer = threading.Thread(target=bring)
    bringer.start()
    bringer.join(0.3)
    assert bringer.is_alive()
    assert passed * MIB <= BACKLOG_BYTES + MIB
    held.go.set()
    bringer.join(10)
    assert digest.hexdigest() == str(30 * MIB)
    for thread in threading.enumerate():
        if thread.name == "digest":
            thread.join(10)
    assert threads() <= before
