"""Telling worker threads to stop: one flag per run, checked wherever a thread would wait."""

from __future__ import annotations

import threading

from ..errors import OperationCancelledError

__all__ = ["Cancellation"]


class Cancellation:
    """A flag that is raised once and never lowered; safe to share between threads."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Raise the flag; every waiting thread wakes up."""
        self._event.set()

    def check(self) -> None:
        """Raise `OperationCancelledError` when the flag is up."""
        if self._event.is_set():
            raise OperationCancelledError("the operation was cancelled")

    def sleep(self, seconds: float) -> None:
        """Wait, but raise `OperationCancelledError` as soon as the flag goes up."""
        if self._event.wait(max(0.0, seconds)):
            self.check()
