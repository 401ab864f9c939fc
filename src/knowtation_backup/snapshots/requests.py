"""What callers pass to snapshot operations, checked before anything is asked: canisters, confirmations, budgets."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, Final, TypeAlias

from ..errors import ConfigurationError
from ..model.ids import Principal, SnapshotId

__all__ = [
    "CanisterId",
    "CanisterIds",
    "ids_of",
    "replacement",
    "require_confirmed",
    "seconds_of",
    "terminating_signals",
]

CanisterId: TypeAlias = Principal | str
CanisterIds: TypeAlias = Principal | str | Sequence[Principal | str]
"""One canister, or several in order."""

OLDEST: Final = "oldest"


def ids_of(canister_ids: CanisterIds) -> tuple[Principal, ...]:
    """Return the canisters in order, each once; raises `ConfigurationError` for what is none."""
    given: Any = canister_ids
    several = [given] if isinstance(given, (str, bytes)) or not isinstance(given, Iterable) else given
    ids = tuple(dict.fromkeys(Principal.parse(item.strip() if isinstance(item, str) else item) for item in several))
    if not ids:
        raise ConfigurationError(
            "no canister is named", kind="bad_option", hint="name one or more", option="canister_ids"
        )
    return ids


def require_confirmed(ids: Sequence[Principal], confirm: CanisterIds) -> None:
    """Refuse unless *confirm* names exactly the canisters; nothing was asked of the network before."""
    try:
        confirmed = frozenset(ids_of(confirm))
    except ConfigurationError:
        confirmed = frozenset()
    if confirmed != frozenset(ids):
        message = "this was not confirmed: confirm= does not name exactly the canisters that the operation is for"
        hint = "confirm=" + repr([str(item) for item in ids])
        raise ConfigurationError(message, kind="not_confirmed", hint=hint)


def replacement(replace: SnapshotId | str | None) -> SnapshotId | str | None:
    """Return what a new snapshot takes the place of: an id, ``"oldest"`` or nothing."""
    return replace if replace is None or replace == OLDEST else SnapshotId.parse(replace)


def seconds_of(value: dt.timedelta | None) -> float | None:
    """Return a downtime budget in seconds."""
    if value is None:
        return None
    given: Any = value
    if not isinstance(given, dt.timedelta) or given <= dt.timedelta(0):
        message = f"max_downtime is {given!r:.80}"
        hint = "it must be a positive timedelta"
        raise ConfigurationError(message, kind="bad_option", hint=hint, option="max_downtime")
    return value.total_seconds()


@contextlib.contextmanager
def terminating_signals(signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> Iterator[None]:
    """
    Let signals that would kill the process end the block by an exception, so that canisters are started.

    In the main thread only, and only for the block: the library changes no signal handlers otherwise. `SystemExit`
    is raised with 128 plus the number of the signal, as shells count: at the end of the block at the latest, because
    Python drops what is raised while it destroys an object. Ctrl-C raises `KeyboardInterrupt` anyway.

    Args:
        signals: Which.

    Raises:
        ConfigurationError: This is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        message = "signals can be handled in the main thread only"
        raise ConfigurationError(message, kind="bad_option", hint="enter terminating_signals() in the main thread")

    received: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise SystemExit(128 + number)

    former: dict[signal.Signals, Any] = {}
    try:
        for item in signals:
            former[item] = signal.signal(item, end)
        yield
    finally:
        for item, handler in former.items():
            signal.signal(item, handler)
    if received:
        raise SystemExit(128 + received[0])
