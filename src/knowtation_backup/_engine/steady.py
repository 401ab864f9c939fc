"""A clock for durations that must not seem shorter than they were."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["steady_seconds"]

# What `time.monotonic` reads stands still on Linux while the machine sleeps.
_BOOT_TIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def steady_seconds() -> float:
    """Return seconds since some moment, the time in which the machine slept included; never set, never going back."""
    return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)
