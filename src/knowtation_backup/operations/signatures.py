"""The signature file of an archive on a sink: written before the manifest, asked for after it."""

from __future__ import annotations

from collections.abc import Iterable

from ..codecs.signing import SigningKey, sign_manifest, signature_problem
from ..contracts import ArchiveSink
from ..model.blobs import BlobInfo
from ..model.manifest import SIGNATURE_NAME, manifest_key, side_key
from ..model.signatures import SignaturePolicy
from ..repository.signing import read_signatures

__all__ = ["put_signatures", "read_signatures", "require_signatures"]


def put_signatures(sink: ArchiveSink, archive_id: str, manifest_bytes: bytes, keys: Iterable[SigningKey]) -> BlobInfo:
    """
    Publish the signatures over a manifest.

    Args:
        sink: Where the archive is.
        archive_id: Of the archive.
        manifest_bytes: Exactly as they will be stored; store them next.
        keys: Who signs.

    Raises:
        BlobExistsError: The archive is signed already; signatures are never replaced.
        SinkError: Storing failed.
        ConfigurationError: There is no key.
    """
    return sink.put(side_key(archive_id, SIGNATURE_NAME), [sign_manifest(manifest_bytes, keys)])


def require_signatures(sink: ArchiveSink, archive_id: str, manifest_bytes: bytes, policy: SignaturePolicy) -> None:
    """
    Refuse an archive that the policy does not want opened.

    Args:
        sink: Where the archive is.
        archive_id: Of the archive.
        manifest_bytes: As they were read from there.
        policy: Whom to trust.

    Raises:
        SignatureError: Not signed (``unsigned``), by nobody trusted (``unknown_signer``), or the signature does not fit
            (``bad_signature``).
        UnsupportedFormatError: A newer release signed it.
        BlobNotFoundError: The archive is being removed.
        SinkUnavailableError: The store could not be reached.
    """
    if policy.is_open:
        return  # nothing would be refused but damage, which is for `verify` to find
    signatures = read_signatures(sink, archive_id)
    problem = signature_problem(manifest_bytes, signatures, policy)
    if problem is None or (problem.kind == "unsigned" and policy.for_unsigned == "report"):
        return
    if signatures is None:
        sink.stat(manifest_key(archive_id))  # who forgets an archive removes the manifest first
    problem.context.setdefault("archive_id", archive_id)
    raise problem
