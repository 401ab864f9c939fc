"""Work that is done to its end, whatever interrupts whoever waits for it."""

from __future__ import annotations

import signal
import threading

import pytest

from knowtation_backup.errors import OutcomeUnknownError, RejectedError, SourceUnavailableError
from knowtation_backup.snapshots.downtime import uninterrupted
from knowtation_backup.snapshots.site import may_still_run


def test_an_interruption_reaches_whoever_waits_and_not_the_work() -> None:
    done: list[str] = []

    def work() -> None:
        assert threading.current_thread() is not threading.main_thread()
        for number in range(3):
            signal.raise_signal(signal.SIGINT)
            done.append(f"step {number}")

    interruption = uninterrupted(work)
    assert done == ["step 0", "step 1", "step 2"]
    assert isinstance(interruption, KeyboardInterrupt)


def test_what_the_work_raises_is_raised() -> None:
    def work() -> None:
        raise ValueError("planned")

    with pytest.raises(ValueError, match="planned"):
        uninterrupted(work)


def test_without_threads_it_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    done: list[int] = []
    assert uninterrupted(lambda: done.append(1)) is None
    assert done == [1]


def test_what_may_still_take_effect() -> None:
    assert not may_still_run(RejectedError("no", certified=True))
    assert may_still_run(RejectedError("no", certified=False))
    assert may_still_run(OutcomeUnknownError("unknown"))
    assert not may_still_run(SourceUnavailableError("never sent"))
    assert may_still_run(SourceUnavailableError("lost", may_have_run=True))
    assert may_still_run(KeyboardInterrupt())
