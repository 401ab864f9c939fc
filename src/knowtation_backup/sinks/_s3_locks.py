"""Object Lock of S3: how long the store keeps the newest version of an object, and keeping it longer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..errors import BlobNotFoundError, SinkError, SinkPermissionError
from ..model.blobs import BlobLock
from ._s3_client import S3Client
from .s3_options import S3Options

__all__ = ["S3Locks"]

_NOT_LOCKED: Final = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"}
"""Of an object without a lock, in a bucket that has Object Lock; stores differ."""
_NO_OBJECT_LOCK: Final = {"InvalidRequest", "NotImplemented", "MethodNotAllowed"}
"""Of a bucket that has none, and of stores that know none."""
_MAY_READ: Final = "the credentials need s3:GetObjectRetention"
_MAY_LOCK: Final = "the credentials need s3:PutObjectRetention, in a bucket with Object Lock"

Facts = Mapping[str, Any]


class S3Locks:
    """
    Locks of the objects of a bucket.

    Args:
        client: Of the bucket.
        prefix: What the keys of its objects begin with.
        location: What messages call both.
        options: Say the mode of objects that were never locked, and the key that looking at them needs.
        head: Looks at an object by its key and returns the store's answer; refuses as `ArchiveSink.stat`.
    """

    def __init__(
        self, client: S3Client, prefix: str, location: str, options: S3Options, head: Callable[[str], Facts]
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._location = location
        self._options = options
        self._head = head
        self._shown = False
        """Whether answers to HEAD have shown a lock: these credentials see them there."""
        self._absent = False
        """Whether the bucket has no Object Lock."""

    def lock_of(self, key: str) -> BlobLock:
        """Return how an object is locked; one request, or two."""
        return self._look(key)[0]

    def retain_until(self, key: str, until: dt.datetime) -> BlobLock:
        """Lock an object until a moment, in the mode it is locked in already, and return how it is locked now."""
        if until.microsecond:
            until = until.replace(microsecond=0) + dt.timedelta(seconds=1)
        lock, mode = self._look(key)
        if lock.until is not None and lock.until >= until:
            return lock
        doing = f"locking {key} in {self._location}"
        if not mode:
            mode = (self._options.object_lock_mode or "governance").upper()
        retention = {"Mode": mode, "RetainUntilDate": until}
        try:
            self._client.call("put_object_retention", doing, Key=self._prefix + key, Retention=retention)
        except SinkPermissionError as error:
            # Perhaps somebody was faster and locked it longer: then this was asking for a shorter time.
            lock = self.lock_of(key)
            if lock.until is not None and lock.until >= until:
                return lock
            error.hint = _MAY_LOCK
            raise
        except SinkError as error:
            if error.context.get("code") in _NO_OBJECT_LOCK | _NOT_LOCKED:
                message = f"{doing} failed: the bucket has no Object Lock"
                hint = "make a bucket with Object Lock and replicate to it"
                raise SinkError(message, kind="no_object_lock", hint=hint, key=key) from error
            raise
        return BlobLock(until=until, legal_hold=lock.legal_hold, versioned=lock.versioned)

    def _look(self, key: str) -> tuple[BlobLock, str]:
        """Return lock and mode. HEAD says both, but to credentials without the right it says nothing instead."""
        facts = self._head(key)
        if "ObjectLockRetainUntilDate" in facts:
            self._shown = True
        elif not (self._shown or self._absent):
            facts = {**facts, **self._asked(key)}
        until = facts.get("ObjectLockRetainUntilDate")
        lock = BlobLock(
            until=None if until is None else until.astimezone(dt.UTC),
            legal_hold=facts.get("ObjectLockLegalHoldStatus") == "ON",
            versioned=facts.get("VersionId", "null") != "null",
        )
        return lock, str(facts.get("ObjectLockMode", ""))

    def _asked(self, key: str) -> Facts:
        doing = f"asking for the lock of {key} in {self._location}"
        try:
            answer = self._client.call("get_object_retention", doing, Key=self._prefix + key)
        except SinkPermissionError as error:
            error.hint = _MAY_READ
            raise
        except (BlobNotFoundError, SinkError) as error:
            code = error.context.get("code")
            if code in _NO_OBJECT_LOCK:
                self._absent = True
            elif code not in _NOT_LOCKED:
                raise
            return {}
        retention = answer.get("Retention", {})
        if "RetainUntilDate" not in retention:
            return {}
        return {
            "ObjectLockRetainUntilDate": retention["RetainUntilDate"],
            "ObjectLockMode": retention.get("Mode", ""),
        }
