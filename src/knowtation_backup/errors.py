"""
The exception tree: everything that leaves this library is a `BackupError`.

Classes are grouped by what a handler would do; `kind` says precisely what happened and never changes once released.
Messages say what, where and what to try. `context` holds ids, offsets and counts, never a secret.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "BackupError",
    "BlobExistsError",
    "BlobNotFoundError",
    "CertificateError",
    "ConfigurationError",
    "DecryptionError",
    "DigestMismatchError",
    "ErasedTenantError",
    "ExportError",
    "IntegrityError",
    "InternalError",
    "ManifestError",
    "NoMatchingKeyError",
    "OperationCancelledError",
    "OutcomeUnknownError",
    "PlanStaleError",
    "RejectedError",
    "RepositoryError",
    "RepositoryExistsError",
    "RepositoryNotFoundError",
    "RestoreError",
    "RestoreMismatchError",
    "SignatureError",
    "SinkError",
    "SinkFullError",
    "SinkPermissionError",
    "SinkUnavailableError",
    "SourceError",
    "SourceUnavailableError",
    "TamperedError",
    "TargetNotReadyError",
    "TruncatedError",
    "UnsupportedFormatError",
]


class BackupError(Exception):
    """
    Base of every error this library raises on purpose.

    Args:
        message: What went wrong and where, in one sentence, without secrets.
        kind: Stable machine-readable name; defaults to the class's own.
        hint: What to try next, or ``""``.
        context: Ids, offsets, counts, HTTP statuses; values must be picklable and must not be secrets.
    """

    default_kind: ClassVar[str] = "backup_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, /, *, kind: str | None = None, hint: str = "", **context: Any) -> None:
        self.message = message
        self.kind: str = kind or self.default_kind
        self.hint = hint
        self.context = context
        super().__init__(message)

    def __str__(self) -> str:
        """Return the message, followed by the hint when there is one."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by constructor arguments, so that errors cross process boundaries with all their facts."""
        return (_rebuild, (type(self), self.message, self.kind, self.hint, self.context))


def _rebuild(cls: type[BackupError], message: str, kind: str, hint: str, context: dict[str, Any]) -> BackupError:
    return cls(message, kind=kind, hint=hint, **context)


class ConfigurationError(BackupError, ValueError):
    """A value is wrong; found before any input or output happened."""

    default_kind = "configuration"


class SourceError(BackupError):
    """Reading from a hub or canister failed."""

    default_kind = "source"


class SourceUnavailableError(SourceError):
    """The source could not be reached or was overloaded; the same request may work later."""

    default_kind = "source_unavailable"
    retryable = True


class RejectedError(SourceError):
    """
    The source understood the request and said no.

    ``context`` may hold ``certified`` (a subnet signed the refusal), ``reject_code``, ``status`` and ``code``.
    """

    default_kind = "rejected"

    @property
    def certified(self) -> bool:
        """Whether the refusal was signed by a subnet."""
        return bool(self.context.get("certified", False))

    @property
    def reject_code(self) -> int | None:
        """The Internet Computer reject code, 1 to 6, or `None` when the refusal came over plain HTTP."""
        code = self.context.get("reject_code")
        return code if isinstance(code, int) else None


class OutcomeUnknownError(SourceError):
    """A call may or may not have been executed; look at the world before repeating it."""

    default_kind = "outcome_unknown"


class ExportError(SourceError):
    """What the hub sent does not add up: pages, shapes, sizes or order."""

    default_kind = "export"


class SinkError(BackupError):
    """Reading or writing stored blobs failed."""

    default_kind = "sink"


class SinkUnavailableError(SinkError):
    """The store could not be reached; the same operation may work later."""

    default_kind = "sink_unavailable"
    retryable = True


class SinkFullError(SinkError):
    """The store has no space left; nothing was published."""

    default_kind = "no_space"


class BlobNotFoundError(SinkError, LookupError):
    """There is no blob under this key."""

    default_kind = "blob_not_found"


class BlobExistsError(SinkError, FileExistsError):
    """A blob with this key exists already; published blobs are never overwritten."""

    default_kind = "blob_exists"


class SinkPermissionError(SinkError, PermissionError):
    """The store refused access."""

    default_kind = "sink_permission"


class IntegrityError(BackupError):
    """Bytes are not what they claim to be. Never retried into silence."""

    default_kind = "integrity"


class DigestMismatchError(IntegrityError):
    """A digest over stored or received bytes differs from the recorded one."""

    default_kind = "digest_mismatch"


class TruncatedError(IntegrityError):
    """Fewer bytes than promised."""

    default_kind = "truncated"


class CertificateError(IntegrityError):
    """A certificate or signature of the Internet Computer does not verify."""

    default_kind = "certificate"


class SignatureError(IntegrityError):
    """A manifest is not signed by anybody trusted, or its signature does not match."""

    default_kind = "signature"


class ManifestError(IntegrityError):
    """A manifest cannot be read or contradicts itself."""

    default_kind = "manifest"


class DecryptionError(BackupError):
    """Sealed bytes could not be opened."""

    default_kind = "decryption"


class NoMatchingKeyError(DecryptionError):
    """None of the keys at hand is the one these bytes were sealed with."""

    default_kind = "no_matching_key"


class ErasedTenantError(DecryptionError):
    """
    The key of a tenant is gone, so that nobody can open its records any more.

    That is no damage where a notice says that it was destroyed on purpose; kind ``tenant_key_lost`` where none does.
    """

    default_kind = "tenant_erased"


class TamperedError(DecryptionError):
    """The authentication tag does not match: wrong key, or the sealed bytes were changed."""

    default_kind = "tampered"


class UnsupportedFormatError(BackupError):
    """The bytes are of a format or version this release does not read."""

    default_kind = "unsupported_format"


class RepositoryError(BackupError):
    """A place is not the repository it should be."""

    default_kind = "repository"


class RepositoryNotFoundError(RepositoryError, LookupError):
    """There is no repository in this place."""

    default_kind = "repository_not_found"


class RepositoryExistsError(RepositoryError, FileExistsError):
    """There is a repository in this place already."""

    default_kind = "repository_exists"


class RestoreError(BackupError):
    """Restoring failed; what was there before is as it was, unless the message says otherwise."""

    default_kind = "restore"


class TargetNotReadyError(RestoreError):
    """The place to restore to is not as it must be; nothing was written."""

    default_kind = "target_not_ready"


class RestoreMismatchError(RestoreError):
    """What was restored is not what was backed up."""

    default_kind = "restore_mismatch"


class PlanStaleError(BackupError):
    """The world changed since the plan was made; plan again."""

    default_kind = "plan_stale"


class OperationCancelledError(BackupError):
    """The caller cancelled the operation; nothing half-written was published."""

    default_kind = "cancelled"


class InternalError(BackupError):
    """A bug in this library; please report it with the context."""

    default_kind = "internal"
