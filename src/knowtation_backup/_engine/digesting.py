"""A digest computed beside the thread that has the bytes, so that hashing costs a stream no time of its own."""

from __future__ import annotations

import hashlib
import threading
from typing import Final

__all__ = ["BACKLOG_BYTES", "BackgroundDigest"]

BACKLOG_BYTES: Final = 2 << 20
"""From so many waiting bytes on whoever brings more has to wait, too."""

_BATCH_BYTES: Final = 512 << 10


class BackgroundDigest:
    """
    SHA-256 of a stream, computed by a thread of its own when there is much of it.

    The thread lives only while there is work: nothing has to be closed, and nothing is left behind when a stream is
    abandoned. To be used by one thread at a time.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._changed = threading.Condition()
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._running = False

    def update(self, chunk: bytes) -> None:
        """Add bytes; returns before they are hashed."""
        if type(chunk) is not bytes:  # a view may change before its turn
            chunk = bytes(chunk)
        self._batch.append(chunk)
        self._batch_bytes += len(chunk)
        if self._batch_bytes >= _BATCH_BYTES:
            self._hand_over()

    def hexdigest(self) -> str:
        """Return the digest of everything added so far, in lower-case hexadecimal; waits for it."""
        with self._changed:
            while self._running:
                self._changed.wait()
        for chunk in self._batch:
            self._digest.update(chunk)
        self._batch, self._batch_bytes = [], 0
        return self._digest.hexdigest()

    def _hand_over(self) -> None:
        with self._changed:
            while self._queued_bytes >= BACKLOG_BYTES:
                self._changed.wait()
            self._queue += self._batch
            self._queued_bytes += self._batch_bytes
            self._batch, self._batch_bytes = [], 0
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="digest", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                batch, self._queue = self._queue, []
                if not batch:
                    self._running = False
                    self._changed.notify_all()
                    return
            for chunk in batch:
                self._digest.update(chunk)
            with self._changed:
                self._queued_bytes -= sum(map(len, batch))
                self._changed.notify_all()
