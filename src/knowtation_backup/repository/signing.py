"""
Signatures of archives: a file beside the manifest, written before it.

What is signed is the archive's id, which ends with the SHA-256 of the stored manifest: so a signature is checked before
the manifest is read, and nothing else fits it. The file is the same as beside archives that are files.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..codecs.signing import SigningKey, archive_id_problem, sign_archive_id
from ..contracts import ArchiveSink
from ..errors import BlobExistsError, BlobNotFoundError, ConfigurationError, SignatureError, UnsupportedFormatError
from ..model.manifest import SIGNATURE_NAME, side_key
from ..model.signatures import MAX_SIGNATURE_BYTES, SignaturePolicy
from .layout import archive_key

__all__ = [
    "archive_signature_problem",
    "put_archive_signature",
    "read_signatures",
    "require_signed",
    "signature_key",
]


def signature_key(archive_id: str) -> str:
    """Return where the signatures of an archive lie."""
    return side_key(archive_id, SIGNATURE_NAME)


def put_archive_signature(sink: ArchiveSink, archive_id: str, keys: Iterable[SigningKey]) -> None:
    """
    Sign an archive; store its manifest next.

    A store may have kept the file although its answer was lost: finding the same one there is success.

    Raises:
        BlobExistsError: It is signed already, by others; signatures are never replaced.
        ConfigurationError: There is no key.
        SinkError: Storing failed.
    """
    signatures = sign_archive_id(archive_id, keys)
    try:
        sink.put(signature_key(archive_id), (signatures,))
    except BlobExistsError:
        if read_signatures(sink, archive_id) != signatures:
            raise


def read_signatures(sink: ArchiveSink, archive_id: str) -> bytes | None:
    """
    Return the signature file of an archive, `None` when there is none.

    Raises:
        SignatureError: It is too large to be one.
        SinkUnavailableError: The store could not be reached.
        SinkPermissionError: Reading is refused.
    """
    key = signature_key(archive_id)
    try:
        return sink.read_all(key, limit_bytes=MAX_SIGNATURE_BYTES)
    except BlobNotFoundError:
        return None
    except ConfigurationError as error:
        if error.kind != "blob_too_large":
            raise
        message = f"the signature file {key} is larger than {MAX_SIGNATURE_BYTES} bytes"
        raise SignatureError(message, kind="bad_signature", archive_id=archive_id) from error


def archive_signature_problem(
    sink: ArchiveSink, archive_id: str, policy: SignaturePolicy
) -> SignatureError | UnsupportedFormatError | None:
    """
    Return what is wrong with the signatures of an archive under a policy, `None` when nothing is.

    Raises:
        SinkUnavailableError: The store could not be reached; `SinkPermissionError`: reading is refused.
    """
    try:
        problem = archive_id_problem(archive_id, read_signatures(sink, archive_id), policy)
    except SignatureError as error:
        problem = error
    if problem is not None:
        problem.context.setdefault("archive_id", archive_id)
    return problem


def require_signed(sink: ArchiveSink, archive_id: str, policy: SignaturePolicy | None) -> None:
    """
    Refuse an archive that the policy does not want opened.

    Args:
        sink: Where it is.
        archive_id: Of the archive.
        policy: Whom to trust; `None` does not look at signatures.

    Raises:
        SignatureError: Not signed (``unsigned``), by nobody trusted (``unknown_signer``), or the signature does not fit
            (``bad_signature``).
        UnsupportedFormatError: A newer release signed it.
        BlobNotFoundError: There is no such archive, or it is being removed.
        SinkUnavailableError: The store could not be reached.
    """
    if policy is None or policy.is_open:
        return  # nothing would be refused but damage, which is for `verify` to find
    problem = archive_signature_problem(sink, archive_id, policy)
    if problem is None or (problem.kind == "unsigned" and policy.for_unsigned == "report"):
        return
    if problem.kind == "unsigned":
        sink.stat(archive_key(archive_id))  # who forgets an archive removes the manifest first
    raise problem
