"""Sign archives of a repository that were written before there was a key, or by a host that has none."""

from __future__ import annotations

from ...repository.repository import Repository
from ...repository.signing import put_archive_signature

__all__ = ["sign_archive"]


def sign_archive(repository: Repository, archive_id: str) -> None:
    """
    Sign a finished archive with the signing keys of the repository's handle; verify it first, for you vouch for it.

    Args:
        repository: With `Repository.signing_keys`; a writer key is enough. Needs the rights to read and create.
        archive_id: Which; its whole id. Of whom its present signatures are, and whether there are any, is not asked.

    Raises:
        BlobExistsError: It is signed already; signatures are never replaced.
        BlobNotFoundError: There is no such archive.
        IntegrityError: Its manifest is damaged.
        ConfigurationError: The handle has no signing key, kind ``no_signing_key``.
    """
    repository.trusting_anybody.manifest(archive_id)
    put_archive_signature(repository.sink, archive_id, repository.signing_keys)
