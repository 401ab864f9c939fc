"""
Notices of erasures: that a key of a tenant is gone because somebody wanted it so.

A notice lies where the key lay, under the same name with another ending, and is written before the key is deleted.
Without it a missing key would look the same whether a tenant was erased or `tenants/` was lost. It is sealed with the
index key, so that whoever can merely write to the store cannot pass off a loss as an erasure.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Final

from ..contracts import ArchiveSink
from ..errors import BlobExistsError, BlobNotFoundError, ConfigurationError, DecryptionError, IntegrityError
from ..model.moments import iso_ms, parse_iso
from .frames import FileKind, open_file, seal_small
from .keys import ReadKeys, WriterKey
from .layout import erasure_key_at

__all__ = ["put_erasure", "read_erasure"]

_MAX_NOTICE_BYTES: Final = 64 << 10


def put_erasure(sink: ArchiveSink, keys: WriterKey, tenant_id: bytes, key_id: bytes, *, at: dt.datetime) -> None:
    """
    Write the notice that a key of a tenant is erased, unless there is one.

    Raises:
        SinkError: Storing failed, or is refused.
    """
    stored = seal_small(FileKind.ERASURE, keys, [tenant_id + key_id + iso_ms(at).encode()])
    with contextlib.suppress(BlobExistsError):
        sink.put(erasure_key_at(tenant_id, key_id), (stored,))


def read_erasure(sink: ArchiveSink, keys: ReadKeys | WriterKey, tenant_id: bytes, key_id: bytes) -> dt.datetime | None:
    """
    Return when a key of a tenant was erased; `None` when no notice says so, or one that nobody with our keys wrote.

    Raises:
        SinkUnavailableError: The store could not be reached; `SinkPermissionError`: reading is refused.
    """
    try:
        stored = b"".join(sink.read(erasure_key_at(tenant_id, key_id), size_bytes=_MAX_NOTICE_BYTES))
        content = b"".join(open_file(FileKind.ERASURE, stored, keys))
        name = tenant_id + key_id
        return parse_iso(content[len(name) :].decode()) if content.startswith(name) else None
    except (BlobNotFoundError, IntegrityError, DecryptionError, ConfigurationError, UnicodeDecodeError):
        return None
