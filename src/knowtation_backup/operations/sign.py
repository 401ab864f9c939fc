"""Sign archives that were written before there was a key, or by a host that has none."""

from __future__ import annotations

from collections.abc import Iterable

from ..codecs.signing import SigningKey
from ..contracts import ArchiveSink
from ..model.blobs import BlobInfo
from .read import parse_manifest, read_manifest_bytes
from .signatures import put_signatures

__all__ = ["sign_archive"]


def sign_archive(sink: ArchiveSink, archive_id: str, keys: Iterable[SigningKey]) -> BlobInfo:
    """
    Sign a finished archive as it is stored; verify its content first, for the signature says that you vouch for it.

    Args:
        sink: Where the archive is; needs the rights to read and create.
        archive_id: As `list_archives` names it.
        keys: Who signs.

    Raises:
        BlobExistsError: The archive is signed already; signatures are never replaced.
        BlobNotFoundError: There is no such archive, or it was never finished.
        ManifestError: The manifest is damaged or belongs to another archive.
        ConfigurationError: There is no key.
    """
    data = read_manifest_bytes(sink, archive_id)
    parse_manifest(archive_id, data)
    return put_signatures(sink, archive_id, data, keys)
