"""How blobs are written to S3: encryption, Object Lock, storage class, parts; and Knowtation's rules for names."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from .._checks import between, one_of, optional
from .._engine.retrying import RetryPolicy
from ..errors import ConfigurationError

__all__ = ["S3Options", "s3_prefix", "s3_region"]

DEFAULT_PREFIX = "knowtation-canister-backups/"
DEFAULT_REGION = "us-east-1"

_MIB = 1 << 20
_STORAGE_CLASS = re.compile(r"[A-Z][A-Z0-9_]{1,39}")


def _bad(name: str, message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(f"S3Options.{name} {message}", kind="bad_option", hint=hint, option=f"S3Options.{name}")


@attrs.frozen(kw_only=True)
class S3Options:
    """
    How blobs are written to S3 and read from it. The defaults suit AWS; a store that refuses a header says so.

    At most ``concurrency + 1`` parts of one blob are in memory while it is written, but at least
    ``multipart_from_bytes``; ``concurrency`` blocks of 8 MiB while it is read.
    """

    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = attrs.field(
        default="AES256", validator=optional(one_of("AES256", "aws:kms", "aws:kms:dsse"))
    )
    """What the store is asked to encrypt with; `None` sends no header, for stores that refuse it."""
    kms_key_id: str | None = None
    """Key of the store's key service; `None` takes the bucket's own. Needs ``aws:kms`` or ``aws:kms:dsse``."""
    sse_customer_key: bytes | None = attrs.field(default=None, repr=False)
    """32 bytes that the store encrypts with and forgets (SSE-C, https only); takes the place of the two above."""
    storage_class: str | None = None
    """Such as ``STANDARD_IA``; `None` is the bucket's default. What must be restored first cannot be read back."""
    object_lock_mode: Literal["governance", "compliance"] | None = attrs.field(
        default=None, validator=optional(one_of("governance", "compliance"))
    )
    """Lock every blob for ``object_lock_for``; nobody can shorten ``compliance``. The bucket must have Object Lock."""
    object_lock_for: dt.timedelta | None = None
    """How long, from the moment of writing."""
    legal_hold: bool = False
    """Lock every blob until somebody lifts the hold."""
    checksum: Literal["sha256", "crc32", "md5"] | None = attrs.field(
        default="sha256", validator=optional(one_of("sha256", "crc32", "md5"))
    )
    """
    What every request with bytes carries so that the store refuses damaged ones.

    ``md5`` (`Content-MD5`) is for stores that know no other; `None` relies on the connection alone.
    """
    conditional: bool | None = None
    """
    Whether blobs are created with ``If-None-Match: *``.

    `None` sends it, and claims ``create_only`` for AWS, elsewhere once `FsspecSink.probe` has proved it. `True` sends
    it and claims it: you vouch for the store. `False` does not send it: the key is looked at before writing, that is
    all.
    """
    multipart_from_bytes: int = attrs.field(default=64 * _MIB, validator=between(5 * _MIB, 1024 * _MIB))
    """Blobs of this size and above are written in parts, smaller ones in one request."""
    part_bytes: int = attrs.field(default=8 * _MIB, validator=between(5 * _MIB, 512 * _MIB))
    """Size of the first 5,000 parts; the other 5,000 are four times as large."""
    concurrency: int = attrs.field(default=8, validator=between(1, 64))
    """How many parts of one blob are under way at once, in either direction."""
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    """How often one request is repeated, and how long to wait."""

    def __attrs_post_init__(self) -> None:
        if self.kms_key_id is not None and not str(self.server_side_encryption).startswith("aws:kms"):
            raise _bad("kms_key_id", "needs a key service", "set server_side_encryption='aws:kms'")
        key = self.sse_customer_key
        if key is not None and len(key) != 32:
            raise _bad("sse_customer_key", "is not a key", "it must be 32 bytes")
        if self.storage_class is not None and not _STORAGE_CLASS.fullmatch(self.storage_class):
            raise _bad("storage_class", f"is {self.storage_class[:40]!r}", "it must be a name such as 'STANDARD_IA'")
        if (self.object_lock_mode is None) != (self.object_lock_for is None):
            raise _bad("object_lock_mode", "and object_lock_for belong together", "set both or none")
        if self.object_lock_for is not None and self.object_lock_for <= dt.timedelta(0):
            raise _bad("object_lock_for", "is not a length of time", "it must be above zero")

    def creation(self, now: dt.datetime, *, lock: bool = True) -> dict[str, Any]:
        """Return the parameters of requests that create an object at the moment *now*."""
        facts: dict[str, Any] = dict(self.customer_key)
        if self.sse_customer_key is None and self.server_side_encryption is not None:
            facts["ServerSideEncryption"] = self.server_side_encryption
            if self.kms_key_id is not None:
                facts["SSEKMSKeyId"] = self.kms_key_id
        if self.storage_class is not None:
            facts["StorageClass"] = self.storage_class
        if lock and self.object_lock_mode is not None and self.object_lock_for is not None:
            facts["ObjectLockMode"] = self.object_lock_mode.upper()
            facts["ObjectLockRetainUntilDate"] = now + self.object_lock_for
        if lock and self.legal_hold:
            facts["ObjectLockLegalHoldStatus"] = "ON"
        return facts

    @property
    def customer_key(self) -> Mapping[str, Any]:
        """Parameters that every request for bytes encrypted with ``sse_customer_key`` needs."""
        if self.sse_customer_key is None:
            return {}
        return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": self.sse_customer_key}


def s3_prefix(text: str | None) -> str:
    """
    Return the prefix of object keys as the Knowtation tools read it from a setting.

    Blanks around it go; nothing is ``knowtation-canister-backups/``; at its end is exactly one slash; leading slashes
    stay.
    """
    trimmed = (text or "").strip()
    return trimmed.rstrip("/") + "/" if trimmed else DEFAULT_PREFIX


def s3_region(explicit: str | None, environment: Mapping[str, str]) -> str:
    """Return the region as the Knowtation tools choose it: *explicit*, else ``AWS_REGION``, else ``us-east-1``."""
    named = ((explicit or "").strip(), environment.get("AWS_REGION", "").strip())
    return next((name for name in named if name), DEFAULT_REGION)
