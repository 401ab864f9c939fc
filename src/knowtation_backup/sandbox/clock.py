"""The sandbox's time: follows the real clock at a distance that tests can change."""

from __future__ import annotations

import threading
import time

from ..errors import ConfigurationError

__all__ = ["SandboxClock"]


class SandboxClock:
    """
    Nanoseconds since the epoch, never going back, shifted from the real clock by `advance`.

    Unmodified clients refuse certificates that differ from their own clock by more than about four minutes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset_ns = 0
        self._last_ns = 0

    def now_ns(self) -> int:
        """Return the sandbox's time; strictly greater than every time returned before."""
        with self._lock:
            self._last_ns = max(time.time_ns() + self._offset_ns, self._last_ns + 1)
            return self._last_ns

    @property
    def offset_ns(self) -> int:
        """How far the sandbox's time is ahead of the real clock because of `advance`."""
        with self._lock:
            return self._offset_ns

    def advance(self, seconds: float) -> None:
        """Move the sandbox's time forward by *seconds*; fewer than 0 is a `ConfigurationError`."""
        if seconds < 0:
            message = f"the sandbox clock cannot go back (asked for {seconds} s)"
            raise ConfigurationError(message, kind="bad_option")
        with self._lock:
            self._offset_ns += round(seconds * 1e9)
