"""The clock of a store: what time it gives to an object that is written now. Clocks of hosts may be wrong."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets

from ...contracts import ArchiveSink
from ...errors import BlobNotFoundError, PlanStaleError, SinkError, SinkPermissionError
from ...model.blobs import BlobInfo
from ...repository.layout import probe_key

__all__ = ["stored_at", "time_of_store"]

_PROBE = b"knowtation-backup looked here what time this store has. You may delete this.\n"


def time_of_store(sink: ArchiveSink) -> dt.datetime:
    """
    Return the store's own time: that of a small object, which is written for this and removed.

    Raises:
        SinkPermissionError: The sink does not delete.
        SinkError: The store gives objects no times, kind ``no_store_times``.
        PlanStaleError: The object was removed by somebody else.
    """
    if not sink.capabilities.deletable:
        raise SinkPermissionError(f"{sink.location} does not delete", hint="use credentials that may")
    key = probe_key(secrets.token_bytes(16))
    try:
        sink.put(key, (_PROBE,))
        return stored_at(sink, sink.stat(key))
    except BlobNotFoundError as error:
        # Another prune took it for what a dead one has left: this one has slept for a grace period.
        raise PlanStaleError(f"{key} is gone again", hint="try again", key=key) from error
    finally:
        # Whatever happened: when this fails too, a prune finds the object.
        with contextlib.suppress(BlobNotFoundError):
            sink.delete(key)


def stored_at(sink: ArchiveSink, info: BlobInfo) -> dt.datetime:
    """
    Return the time a store gave to an object.

    Raises:
        SinkError: It gave none, kind ``no_store_times``.
    """
    if info.modified_at is None:
        message = f"{sink.location} does not say when {info.key} was written"
        hint = "what is old enough to be deleted cannot be told there: use a sink that knows times"
        raise SinkError(message, kind="no_store_times", hint=hint, key=info.key)
    return info.modified_at
