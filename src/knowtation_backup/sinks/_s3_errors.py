"""What S3 stores and the client library raise, in our words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs
from botocore import exceptions as vendor

from .._engine.local_files import translate_os_error
from ..errors import (
    BackupError,
    BlobExistsError,
    BlobNotFoundError,
    ConfigurationError,
    SinkError,
    SinkFullError,
    SinkPermissionError,
    SinkUnavailableError,
)

__all__ = ["translate"]

_TEXT_CHARACTERS: Final = 300


@attrs.frozen(kw_only=True)
class Problem:
    """What a code of the store means."""

    error: type[BackupError]
    kind: str | None = None
    hint: str = ""


_MISSING: Final = Problem(error=BlobNotFoundError)
_TAKEN: Final = Problem(error=BlobExistsError, hint="published blobs are never overwritten")
_BUSY: Final = Problem(error=SinkUnavailableError, hint="the store is overloaded or being repaired; try again")
_DENIED: Final = Problem(
    error=SinkPermissionError,
    hint="the credentials lack a right: listing, reading and writing are needed, deleting only to prune",
)
_CREDENTIALS: Final = Problem(
    error=SinkPermissionError, kind="bad_credentials", hint="check access key, secret key and session token"
)
_SKEW: Final = Problem(
    error=SinkPermissionError, kind="clock_skew", hint="set the clock of this machine: the store refuses its signature"
)
_FULL: Final = Problem(error=SinkFullError, hint="free space, raise the quota, or use another bucket")
_DAMAGED: Final = Problem(
    error=SinkUnavailableError,
    kind="upload_damaged",
    hint="the store got other bytes than were sent and kept nothing; try again; if it persists, look at the network",
)
_REGION: Final = Problem(
    error=SinkError, kind="wrong_region", hint="name the bucket's region, or the endpoint it belongs to"
)
_UNSUPPORTED: Final = Problem(
    error=SinkError,
    kind="store_unsupported",
    hint="the store cannot do that: try S3Options(server_side_encryption=None), conditional=False, or checksum='md5'",
)

_CODES: Final[Mapping[str, Problem]] = {
    "NoSuchBucket": Problem(
        error=SinkError, kind="no_such_bucket", hint="make the bucket, or check its name, region and endpoint"
    ),
    **dict.fromkeys(("NoSuchKey", "NotFound", "404"), _MISSING),
    "NoSuchUpload": Problem(
        error=SinkError, kind="upload_gone", hint="somebody ended the upload; look for life cycle rules and prunes"
    ),
    **dict.fromkeys(("PreconditionFailed", "412"), _TAKEN),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403", "401"), _DENIED),
    **dict.fromkeys(
        ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"),
        _CREDENTIALS,
    ),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired"), _SKEW),
    **dict.fromkeys(
        ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"), _FULL
    ),
    "507": _FULL,
    "EntityTooLarge": Problem(
        error=SinkFullError, kind="file_too_large", hint="the store allows no object, or no part, of this size"
    ),
    **dict.fromkeys(("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"), _DAMAGED),
    **dict.fromkeys(("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"), _REGION),
    **dict.fromkeys(("NotImplemented", "MethodNotAllowed", "501", "405"), _UNSUPPORTED),
    "InvalidObjectState": Problem(
        error=SinkError, kind="blob_archived", hint="restore the object from its storage class first"
    ),
    **dict.fromkeys(
        (
            *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted"),
            *("Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "IncompleteBody"),
            *("ConditionalRequestConflict", "408", "409", "425", "429", "500", "502", "503", "504"),
        ),
        _BUSY,
    ),
}
"""By the code in the body, else by the HTTP status, which is all that answers to HEAD have."""

_OTHER: Final = Problem(error=SinkError)


def translate(  # noqa: PLR0911 - one per cause
    error: BaseException, doing: str, *, secrets: Iterable[str] = ()
) -> BackupError:
    """
    Return the `BackupError` for what a request raised; raise it ``from`` the original.

    Args:
        error: As raised by the client library.
        doing: What was attempted on what.
        secrets: Texts that must not appear in the message.
    """
    if isinstance(error, BackupError):
        return error
    cause = next((link for link in _chain(error) if isinstance(link, vendor.ClientError | vendor.BotoCoreError)), error)
    match cause:
        case vendor.ClientError():
            return _answered(cause, doing, secrets)
        case vendor.NoCredentialsError() | vendor.PartialCredentialsError() | vendor.CredentialRetrievalError():
            message = f"{doing} failed: there are no usable credentials"
            return SinkPermissionError(
                message, kind="no_credentials", hint="pass key and secret, or set up the usual AWS chain"
            )
        case vendor.ParamValidationError():
            # Its text repeats the values, which may be secret.
            message = f"{doing} failed: the client library refuses a parameter"
            return ConfigurationError(message, kind="bad_option", hint="check storage_options and S3Options")
        case vendor.SSLError():
            message = f"{doing} failed: no trusted connection: {_clean(str(cause), secrets)}"
            return SinkError(message, kind="tls", hint="check host name and certificate authorities")
        case (
            vendor.ProfileNotFound()
            | vendor.NoRegionError()
            | vendor.InvalidRegionError()
            | vendor.UnknownEndpointError()
        ):
            message = f"{doing} failed: {_clean(str(cause), secrets)}"
            return ConfigurationError(message, kind="configuration", hint="check profile, region and endpoint")
        case OSError() if cause.errno is not None:
            return translate_os_error(cause, doing)
        case _:
            message = f"{doing} failed: {type(cause).__name__}: {_clean(str(cause), secrets)}"
            return SinkUnavailableError(message, hint="try again; check endpoint and network")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _answered(error: vendor.ClientError, doing: str, secrets: Iterable[str]) -> BackupError:
    answer: Mapping[str, Any] = error.response
    facts = answer.get("Error", {})
    code = str(facts.get("Code", ""))
    meta = answer.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode") or 0)
    problem = _CODES.get(code) or _CODES.get(str(status)) or (_BUSY if status >= 500 else _OTHER)
    context: dict[str, Any] = {"code": code, "status": status}
    wait = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    if wait.isdigit():
        context["retry_after_seconds"] = float(wait)
    said = ": ".join(dict.fromkeys(part for part in (code, _clean(str(facts.get("Message", "")), secrets)) if part))
    return problem.error(f"{doing} failed: {said}", kind=problem.kind, hint=problem.hint, **context)


def _clean(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return text[:_TEXT_CHARACTERS]
