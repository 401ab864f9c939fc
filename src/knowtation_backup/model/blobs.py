"""Stored bytes as a sink sees them: keys, sizes, digests, and what a sink can do."""

from __future__ import annotations

import datetime as dt
import re

import attrs

from ..errors import ConfigurationError

__all__ = ["BlobInfo", "BlobLock", "BlobRef", "SinkCapabilities", "check_key"]

_KEY = re.compile(r"[A-Za-z0-9_.@=+,-]+(/[A-Za-z0-9_.@=+,-]+)*")


def check_key(key: str) -> str:
    """
    Return *key* when it is a safe relative key.

    Keys are 1 to 900 characters, segments of ``[A-Za-z0-9_.@=+,-]`` joined by ``/``; no segment starts with a dot
    (hidden and temporary files, ``..``).

    Raises:
        ConfigurationError: The key could leave the sink or name a temporary file.
    """
    if len(key) > 900 or not _KEY.fullmatch(key) or any(part.startswith(".") for part in key.split("/")):
        message = f"{key!r} is not a valid blob key"
        raise ConfigurationError(message, kind="bad_key", hint="use letters, digits, '-', '_', '.' and '/'")
    return key


@attrs.frozen(kw_only=True)
class BlobInfo:
    """What a sink knows of one published blob without reading it."""

    key: str
    size_bytes: int
    modified_at: dt.datetime | None = None


@attrs.frozen(kw_only=True)
class BlobRef:
    """A blob as a manifest names it: enough to prove that stored bytes are the ones written."""

    key: str
    size_bytes: int
    sha256: str
    """Lower-case hexadecimal digest over the stored (sealed) bytes."""


@attrs.frozen(kw_only=True)
class BlobLock:
    """
    What a store says of how long it keeps a blob, whatever anybody asks of it.

    A sink with several targets has several answers: the first to end counts for what is relied on, the last for what is
    to be deleted.
    """

    until: dt.datetime | None = None
    """No copy can be removed before; `None` when one is not locked, or was at no time. May lie in the past."""
    last_until: dt.datetime | None = attrs.field(default=attrs.Factory(lambda self: self.until, takes_self=True))
    """Some copy cannot be removed before; the same unless there are several."""
    legal_hold: bool = False
    """Whether some copy cannot be removed until somebody lifts its hold."""
    versioned: bool = False
    """Whether deleting only hides some copy: an older version of it stays, and is paid for."""

    def holds(self, now: dt.datetime) -> bool:
        """Whether some copy cannot be removed at the moment *now*."""
        return self.legal_hold or (self.last_until is not None and self.last_until > now)


@attrs.frozen(kw_only=True)
class SinkCapabilities:
    """
    What a sink guarantees, as data instead of exceptions.

    ``create_only``: two writers of one key cannot both succeed, even from different hosts.
    ``durable``: a blob reported as written survives a power cut.
    ``deletable``: `delete` works at all.
    ``locks``: `lock_of` asks the store, and `retain_until` works where the store allows it.
    """

    create_only: bool
    durable: bool
    deletable: bool = True
    locks: bool = False
